//! Calls to the Authentication Service: users, their evolving identities (EIDs), credentials and
//! contacts. Requests are signed with the client key.

use postern_protocol::{
    IssuedCredential,
    admission::{InviteMade, MakeInvite, RegistrationTerms},
    auth::{
        AuthenticationKeys, CommitIdentity, CredentialIssued, IdentityCommitted, PublishContact,
        RegisterUser, SignCredential, SignedContact, UserRecord,
    },
    key::SigningKey,
    name::UserName,
};

use crate::{
    error::{Error, Result},
    http::Http,
    payment::{Api, Wallet},
    request::Request,
};

/// The most bytes of a page of a user's record: the greatest page that an operator may set, and the
/// commit that ends it.
const PAGE_BYTES: usize = 20 * 1024 * 1024;
/// Bytes of commits up to which the history of an identity is read.
const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// The bytes of a page's commits.
fn size(page: &UserRecord) -> usize {
    page.commits.iter().map(|commit| commit.as_bytes().len()).sum()
}

impl Http {
    /// `GET /as/keys`: the home domain, and the keys that credentials are signed with.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn authentication_keys(&self) -> Result<AuthenticationKeys> {
        self.send(&Request::get("/as/keys")).await?.decode()
    }

    /// `GET /as/registration`: what a registration needs.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn registration_terms(&self) -> Result<RegistrationTerms> {
        self.send(&Request::get("/as/registration")).await?.decode()
    }

    /// `POST /as/users`: a new user with a first client, and the client's credential. Nothing can
    /// pay for it yet. The same request again, after an answer was lost, gets the same credential.
    ///
    /// # Errors
    /// `name-taken`, `not-admitted`, `account-exists`, `too-many-registrations`; `not-allowed` if the key is a client's and this is not
    /// the request that made it one; and as [`Http::send`].
    pub async fn register_user(&self, user: &RegisterUser, client: &SigningKey) -> Result<IssuedCredential> {
        let answer =
            self.send(&Request::post("/as/users").cbor(user).signed_by(client, user.name.domain())).await?;
        Ok(answer.decode::<CredentialIssued>()?.credential)
    }
}

impl<W: Wallet> Api<W> {
    /// A user's EID with its whole history, and the user's clients: all pages of it, each for a token.
    ///
    /// # Errors
    /// As [`Api::look_up_user_after`]; [`Error::UnexpectedAnswer`] for a history that does not go on,
    /// that changes in between, or that has more than 64 MiB.
    pub async fn look_up_user(&self, name: &UserName) -> Result<UserRecord, W::Error> {
        let mut record = self.look_up_user_after(name, 0).await?;
        let mut bytes = size(&record);
        while record.more {
            let page = self.look_up_user_after(name, record.commits.len() as u64).await?;
            bytes += size(&page);
            let goes_on = !page.commits.is_empty() || !page.more;
            if !goes_on || page.group_info != record.group_info || bytes > MAX_HISTORY_BYTES {
                return Err(Error::UnexpectedAnswer("the history of an identity".to_owned()).into());
            }
            record.commits.extend(page.commits);
            (record.more, record.clients) = (page.more, page.clients);
        }
        Ok(record)
    }

    /// `GET /as/users/{name}?after={epoch}`: a user's EID with a page of its history, which begins with
    /// the commit that ended this epoch, and the user's clients.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn look_up_user_after(&self, name: &UserName, epoch: u64) -> Result<UserRecord, W::Error> {
        let path = format!("/as/users/{}?after={epoch}", name.path_segment());
        let request = Request::get(path).answered_in(PAGE_BYTES);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /as/credentials`: a new credential for a client of a user's EID.
    ///
    /// # Errors
    /// As [`Api::paid`].
    pub async fn sign_credential(&self, client: &SigningKey) -> Result<IssuedCredential, W::Error> {
        let request =
            Request::post("/as/credentials").cbor(&SignCredential {}).signed_by(client, &self.origin);
        Ok(self.paid(request).await?.decode::<CredentialIssued>()?.credential)
    }

    /// `POST /as/eid/commits`: the next commit of the EID of the client's user.
    ///
    /// # Errors
    /// `wrong-epoch`; and as [`Api::paid`].
    pub async fn commit_identity(
        &self,
        commit: &CommitIdentity,
        client: &SigningKey,
    ) -> Result<IdentityCommitted, W::Error> {
        let request = Request::post("/as/eid/commits").cbor(commit).signed_by(client, &self.origin);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /as/invites`: lets somebody register by the code of this digest (AS-1). The same request again makes no
    /// second invite.
    ///
    /// # Errors
    /// `too-many-invites`, `account-suspended`; and as [`Api::paid`].
    pub async fn make_invite(
        &self,
        invite: &MakeInvite,
        client: &SigningKey,
    ) -> Result<InviteMade, W::Error> {
        let request = Request::post("/as/invites").cbor(invite).signed_by(client, &self.origin);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `PUT /as/contact`: where others reach the client for the first time.
    ///
    /// # Errors
    /// As [`Api::paid`].
    pub async fn publish_contact(&self, contact: SignedContact, client: &SigningKey) -> Result<(), W::Error> {
        let request =
            Request::put("/as/contact").cbor(&PublishContact { contact }).signed_by(client, &self.origin);
        self.paid(request).await.map(drop)
    }
}
