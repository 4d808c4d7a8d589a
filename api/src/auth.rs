//! Calls to the Authentication Service: users, their evolving identities (EIDs), credentials and
//! contacts. Requests are signed with the client key.

use postern_protocol::{
    IssuedCredential, LookupSecret, Payload,
    admission::{InviteMade, MakeInvite, RegistrationTerms},
    auth::{
        AuthenticationKeys, CommitIdentity, CredentialIssued, IdentityCommitted, PublishContact,
        RegisterUser, SignCredential, SignedContact, UserRecord,
    },
    key::SigningKey,
    name::UserName,
    profile::{PutProfile, UserPicture},
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
/// The most bytes of an answer with a picture: the greatest that an operator may allow, and a rest.
const PICTURE_BYTES: usize = 600 * 1024;
/// Bytes of commits up to which the history of an identity is read. An AS keeps no more: `max_identity_history_bytes` is
/// 48 MiB at most, and beyond it only 255 commits are taken, of 64 KiB at most, that leave fewer clients.
const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

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
    /// `GET /as/users/{name}`: a user's EID as it is now, and the user's clients, without the EID's history. With the
    /// lookup secret, which contacts have, also of a user that others cannot look up.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn look_up_user(
        &self,
        name: &UserName,
        secret: Option<&LookupSecret>,
    ) -> Result<UserRecord, W::Error> {
        let request = Request::get(format!("/as/users/{}", name.path_segment())).answered_in(PAGE_BYTES);
        Ok(self.paid(request.showing(secret)).await?.decode()?)
    }

    /// `GET /as/users/{name}/picture`: the picture of a user's profile, under the same terms.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn fetch_picture(
        &self,
        name: &UserName,
        secret: Option<&LookupSecret>,
    ) -> Result<Payload, W::Error> {
        let path = format!("/as/users/{}/picture", name.path_segment());
        let request = Request::get(path).answered_in(PICTURE_BYTES).showing(secret);
        Ok(self.paid(request).await?.decode::<UserPicture>()?.picture)
    }

    /// `PUT /as/profile`: the next version of the profile of the client's user.
    ///
    /// # Errors
    /// `invalid-profile`, `profile-outdated`, `body-too-large`; and as [`Api::paid`].
    pub async fn put_profile(&self, profile: &PutProfile, client: &SigningKey) -> Result<(), W::Error> {
        let request = Request::put("/as/profile").cbor(profile).signed_by(client, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// The same with the commits of an incarnation since the epoch `after`: all pages of them, each for a
    /// token. Everything else in the answer is of the last page.
    ///
    /// # Errors
    /// As [`Api::look_up_user`]; [`Error::UnexpectedAnswer`] for a history that does not go on, or that
    /// has more than 64 MiB.
    pub async fn look_up_user_since(
        &self,
        name: &UserName,
        secret: Option<&LookupSecret>,
        incarnation: u32,
        after: u64,
    ) -> Result<UserRecord, W::Error> {
        let (mut commits, mut founding, mut bytes) = (Vec::new(), None, 0);
        loop {
            let epoch = after.saturating_add(commits.len() as u64);
            let name = name.path_segment();
            let path = format!("/as/users/{name}?incarnation={incarnation}&after={epoch}");
            let request = Request::get(path).answered_in(PAGE_BYTES).showing(secret);
            let mut page: UserRecord = self.paid(request).await?.decode()?;
            bytes += page.commits.iter().map(|commit| commit.as_bytes().len()).sum::<usize>();
            if bytes > MAX_HISTORY_BYTES || page.more && page.commits.is_empty() {
                return Err(Error::UnexpectedAnswer("the history of an identity".to_owned()).into());
            }
            commits.append(&mut page.commits);
            founding = founding.or(page.founding);
            if !page.more {
                return Ok(UserRecord { commits, founding, ..page });
            }
        }
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
