//! Other users: asking them, deciding on what they ask, and knowing that they are who they seem to be.

use postern_protocol::name::UserName;

use super::handle::Client;
use crate::{
    contact::{self, Contact, ReceivedRequest, SafetyNumber},
    error::{Error, Result},
    identity::{self, VerifiedUser},
};

impl Client {
    /// Looks a user up at the AS and verifies the answer (AS-3).
    ///
    /// # Errors
    /// `not-found`, [`Error::Identity`].
    pub async fn look_up(&self, user: &UserName) -> Result<VerifiedUser> {
        identity::look_up(&self.session.api, &self.session.store, user).await
    }

    /// Users that this one has to do with: by name.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn contacts(&self) -> Result<Vec<Contact>> {
        self.session.store.read(contact::list)
    }

    /// Users that ask to be allowed to add this one to groups (AS-12), and wait for a decision: by time.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn contact_requests(&self) -> Result<Vec<ReceivedRequest>> {
        self.session.store.read(contact::received)
    }

    /// Asks a user to be allowed to add the user's devices to groups. [`Group::invite`](crate::Group::invite) does so
    /// where it has to.
    ///
    /// # Errors
    /// [`Error::NoContact`], and as [`Self::look_up`].
    pub async fn ask_contact(&self, user: &UserName) -> Result<()> {
        let session = &self.session;
        let found = self.look_up(user).await?;
        let step = session.store.step().await?;
        let devices: Vec<_> = found
            .clients
            .iter()
            .filter_map(|client| Some((client.client_key, client.contact.as_ref()?)))
            .collect();
        if devices.is_empty() {
            return Err(Error::NoContact);
        }
        session.store.write(|tx| contact::ask(tx, user, &devices))?;
        session.errands(&step).await
    }

    /// Accepts a user's request (AS-12): the user may add this one's devices to groups from now on.
    ///
    /// # Errors
    /// [`Error::NoRequest`] unless the user asked, and it is verified who that is; and as [`Self::look_up`].
    pub async fn accept_contact(&self, user: &UserName) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| contact::read_again(tx, user))?;
        session.errands(&step).await?;
        let found = self.look_up(user).await?;
        session.store.write(|tx| contact::accept(tx, &found))?;
        session.errands(&step).await
    }

    /// Declines a user's request (AS-12). The user is told, unless `silently`. It may be accepted later all the same.
    ///
    /// # Errors
    /// [`Error::NoRequest`], [`Error::Server`].
    pub async fn decline_contact(&self, user: &UserName, silently: bool) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| contact::decline(tx, user, silently))?;
        session.errands(&step).await
    }

    /// Keeps a user from adding this one's devices to further groups (QS-7). All other contacts, and the user's own
    /// devices, are told another friendship token.
    ///
    /// # Errors
    /// [`Error::TooLong`] if so many are blocked that another one would be unblocked by it, [`Error::Server`].
    pub async fn block_user(&self, user: &UserName) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| contact::block(tx, user))?;
        session.errands(&step).await
    }

    /// Blocks a user no longer. It gives nothing back by itself: the user may ask again.
    ///
    /// # Errors
    /// [`Error::Server`].
    pub async fn unblock_user(&self, user: &UserName) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| contact::unblock(tx, user))?;
        session.errands(&step).await
    }

    /// Accepts that a user began anew ([`Event::IdentityReset`](crate::Event::IdentityReset)), after a person made sure
    /// that it is the same user. What was agreed before counts no more, and the user is not verified; letters that wait
    /// are read with the next step. Either name will do where the user has another one by now. Returns the present one; `None`
    /// if nothing waits for that.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn accept_reset(&self, user: &UserName) -> Result<Option<UserName>> {
        self.session.store.write(|tx| {
            let accepted = identity::accept_reset(tx, user)?;
            if let Some(name) = &accepted {
                contact::read_again(tx, name)?;
            }
            Ok(accepted)
        })
    }

    /// The number to compare with a user, to know that no server stands between: over the two users' identities as
    /// the AS shows them now. It changes when either of the two adds or removes a device.
    ///
    /// # Errors
    /// As [`Self::look_up`], for both.
    pub async fn safety_number(&self, user: &UserName) -> Result<SafetyNumber> {
        self.look_up(self.user()).await?;
        self.look_up(user).await?;
        self.session.store.write(|tx| contact::show(tx, user))
    }

    /// Remembers that a person compared the number that [`Self::safety_number`] gave last. The user is verified until
    /// the identity is replaced by another one.
    ///
    /// # Errors
    /// [`Error::NothingCompared`].
    pub fn confirm_safety_number(&self, user: &UserName) -> Result<()> {
        self.session.store.write(|tx| contact::confirm(tx, user))
    }

    /// Compares the code that the other user's client shows ([`SafetyNumber::code`]), and remembers it as compared.
    ///
    /// # Errors
    /// [`Error::BadBlob`], [`Error::DifferentIdentity`], and as [`Self::look_up`].
    pub async fn compare_safety_code(&self, user: &UserName, code: &str) -> Result<()> {
        self.look_up(self.user()).await?;
        self.look_up(user).await?;
        self.session.store.write(|tx| contact::compare_code(tx, user, code))
    }
}
