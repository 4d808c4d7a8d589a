//! Tools of programs that test or measure a server: single requests, and messages whose
//! sending and fate they decide themselves.

use postern_api::{Http, Request};
use postern_protocol::{
    ds::{CurrentGroup, MessageAccepted},
    encoding::Encoding,
    mls::{DeliveryAddress, Pseudonym},
    qs::{QueueKind, QueuePayload},
};

use crate::{
    client::{Client, Group},
    error::{Error, Result},
    group::{self, Change, GroupState, Kind, StolenPlace},
    identity, key_packages, link,
    mailbox::{self, deliveries},
    missed,
    store::Tx,
    submit::Submission,
};

impl Client {
    /// The connection to the server, for requests made by hand.
    pub fn http(&self) -> &Http {
        &self.session.api.http
    }

    /// Sends a message with a fresh token and changes nothing here.
    ///
    /// # Errors
    /// [`Error::Server`].
    pub async fn submit(&self, submission: &Submission) -> Result<MessageAccepted> {
        self.session.ds(&submission.group)?.submit_request(submission.request.clone()).await
    }

    /// All that a queue delivered so far, in order, by sequence number. Kept with
    /// [`Options::record_deliveries`](crate::Options::record_deliveries).
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn deliveries(&self, kind: QueueKind) -> Result<Vec<(u64, QueuePayload)>> {
        self.session.store.read(|tx| deliveries::all(tx, kind))
    }

    /// Makes it time to ask how many KeyPackages are left, as if a day had passed.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_the_count(&self) -> Result<()> {
        self.session.store.write(key_packages::forget_count)
    }

    /// Makes it time to renew the addresses of both queues, as if two months had passed.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_the_renewals(&self) -> Result<()> {
        self.session.store.write(mailbox::forget_renewals)
    }

    /// Makes it time to look after the user's devices, as if a day had passed.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_the_upkeep(&self) -> Result<()> {
        self.session.store.write(identity::look_after_devices)
    }

    /// Makes it time to look at the keys that credentials are signed with, as if an hour had passed.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_the_look(&self) -> Result<()> {
        self.session.store.write(identity::forget_look)
    }

    /// Lets so many seconds pass since keys of the server could not be compared. The clock stays, since what the server shows
    /// is of the present.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pass_time_for_hidden_keys(&self, seconds: u64) -> Result<()> {
        self.session.store.write(|tx| missed::pass_time(tx, seconds))
    }

    /// Lets so many seconds pass since the AS showed nothing that holds of users, and since it was asked about what their devices
    /// told. The clock stays, since what the AS shows is of the present.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pass_time_for_hidden_identities(&self, seconds: u64) -> Result<()> {
        self.session.store.write(|tx| {
            identity::pass_time_for_claims(tx, seconds)?;
            identity::pass_time_for_hidden(tx, seconds)
        })
    }

    /// Brings the end of the time that added devices have to show up nearer by so many seconds, as if they had
    /// passed. The clock stays, since the AS's answers are of the present.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pass_time_for_added_devices(&self, seconds: u64) -> Result<()> {
        self.session.store.write(|tx| link::pass_time(tx, seconds))
    }

    /// Lets all that this device saw of the user's other devices be so many seconds longer ago, as if they had passed.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pass_time_for_silent_devices(&self, seconds: u64) -> Result<()> {
        self.session.store.write(|tx| identity::pass_time(tx, seconds))
    }

    /// Lets so many seconds pass for members whose account the AS does not know any more.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn pass_time_for_gone_members(&self, seconds: u64) -> Result<()> {
        self.session.store.write(|tx| group::pass_time(tx, seconds))
    }
}

impl Group {
    /// Makes a commit without sending it. It stays outstanding until [`Self::settle`],
    /// [`Self::confirm`] or [`Self::abandon`].
    ///
    /// # Errors
    /// When another message of the group is outstanding.
    pub async fn prepare(&self, change: &Change) -> Result<Submission> {
        let _step = self.session.store.step().await?;
        self.session.store.write(|tx| GroupState::load(tx, &self.id)?.stage_commit(tx, change))?;
        self.outstanding()?.ok_or(Error::NotReady)
    }

    /// Makes an application message without sending it, as [`Self::prepare`] does a commit.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn prepare_text(&self, text: &str) -> Result<Submission> {
        let _step = self.session.store.step().await?;
        self.session.store.write(|tx| {
            let mut group = GroupState::load(tx, &self.id)?;
            if GroupState::unsent(tx, &self.id)? > 0 {
                return Err(Error::NotReady);
            }
            group.say(tx, text.to_owned(), &self.session.options)?;
            group.stage_message(tx)
        })?;
        self.outstanding()?.ok_or(Error::NotReady)
    }

    /// The message of the group whose answer is outstanding: the bytes to send again.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn outstanding(&self) -> Result<Option<Submission>> {
        self.session.outstanding(&self.id)
    }

    /// The DS accepted the outstanding message. What was delivered before a commit is
    /// received first.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::Server`].
    pub async fn confirm(&self) -> Result<()> {
        let step = self.session.store.step().await?;
        match self.session.outstanding(&self.id)? {
            Some(submission) => {
                let accepted = MessageAccepted::in_epoch(submission.epoch);
                self.session.accepted(&step, &submission, &accepted).await
            }
            None => Ok(()),
        }
    }

    /// The DS refused the outstanding message.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub async fn abandon(&self) -> Result<()> {
        let _step = self.session.store.step().await?;
        self.session.store.write(|tx| match GroupState::outstanding(tx, &self.id)? {
            Some(outstanding) => GroupState::load(tx, &self.id)?.abandon(tx, outstanding.kind),
            None => Ok(()),
        })
    }

    /// The addresses of the other members, which a hostile client could put into its leaf.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn addresses_of_others(&self) -> Result<Vec<DeliveryAddress>> {
        self.session.store.read(|tx| Ok(GroupState::load(tx, &self.id)?.addresses_of_others()))
    }

    /// The group as a server could show it if it conspired with this member: with a device in it that
    /// nobody let in. Nothing changes here.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn with_ghost(&self) -> Result<CurrentGroup> {
        let identity = Pseudonym::random().0.to_vec();
        self.session.store.trial(|tx| GroupState::load(tx, &self.id)?.with_ghost(tx, identity))
    }

    /// The same with a device whose credential no client reads: it has no pseudonym.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn with_unread_ghost(&self) -> Result<CurrentGroup> {
        self.session.store.trial(|tx| GroupState::load(tx, &self.id)?.with_ghost(tx, vec![7; 15]))
    }

    /// The commit by which this device's leaf would take another signature key. Nothing changes here.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn with_another_key(&self) -> Result<Submission> {
        self.session.store.trial(|tx| {
            let group = GroupState::load(tx, &self.id)?;
            let (epoch, leaf) = (group.epoch(), group.leaf.clone());
            let body = Encoding::Cbor.encode(&group.with_another_key(tx)?);
            let request = Request::submit_message(&self.id, body, &leaf);
            Ok(Submission { group: self.id.clone(), epoch, is_commit: true, kind: Kind::Commit, request })
        })
    }

    /// Gives the group a title under the last number that one can have in this epoch, as an admin's stolen device may.
    ///
    /// # Errors
    /// As [`Group::send`].
    pub async fn take_last_title(&self, title: &str) -> Result<()> {
        let take = |tx: &Tx<'_>| GroupState::load(tx, &self.id)?.take_last_title(tx, title);
        let number = self.session.store.write(take)?;
        self.deliver_own(Some(number)).await
    }

    /// This device's place in the group, for whoever is to act there instead.
    ///
    /// # Errors
    /// [`Error::NotMember`].
    pub fn stolen_place(&self) -> Result<StolenPlace> {
        self.session.store.read(|tx| GroupState::load(tx, &self.id)?.stolen_place(tx))
    }

    /// Sends the outstanding message until its fate is known.
    ///
    /// # Errors
    /// As [`Group::send`].
    pub async fn settle(&self) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.settle(&step, &self.id).await?;
        self.session.deliver(&step, &self.id, None).await
    }
}
