//! Calls to the Authentication Service: users, their evolving identities (EIDs), credentials and
//! contacts. Requests are signed with the client key.

use postern_protocol::{
    IssuedCredential,
    auth::{
        AuthenticationKeys, CommitIdentity, CredentialIssued, IdentityCommitted, PublishContact,
        RegisterUser, SignCredential, SignedContact, UserRecord,
    },
    key::SigningKey,
    name::UserName,
};

use crate::{
    error::Result,
    http::Http,
    payment::{Api, Wallet},
    request::Request,
};

/// The most bytes of a user's record.
const RECORD_BYTES: usize = 16 * 1024 * 1024;

impl Http {
    /// `GET /as/keys`: the home domain, and the keys that credentials are signed with.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn authentication_keys(&self) -> Result<AuthenticationKeys> {
        self.send(&Request::get("/as/keys")).await?.decode()
    }

    /// `POST /as/users`: a new user with a first client, and the client's credential. Nothing can
    /// pay for it yet. The repeat of a request that was accepted gets its answer again.
    ///
    /// # Errors
    /// `name-taken`, `not-allowed`; and as [`Http::send`].
    pub async fn register_user(&self, user: &RegisterUser, client: &SigningKey) -> Result<IssuedCredential> {
        let answer = self.send(&Request::post("/as/users").cbor(user).signed_by(client)).await?;
        Ok(answer.decode::<CredentialIssued>()?.credential)
    }
}

impl<W: Wallet> Api<W> {
    /// `GET /as/users/{name}`: a user's EID with its whole history, and the user's clients.
    ///
    /// # Errors
    /// `not-found`; and as [`Api::paid`].
    pub async fn look_up_user(&self, name: &UserName) -> Result<UserRecord, W::Error> {
        let request = Request::get(format!("/as/users/{name}")).answered_in(RECORD_BYTES);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `POST /as/credentials`: a new credential for a client of a user's EID.
    ///
    /// # Errors
    /// As [`Api::paid`].
    pub async fn sign_credential(&self, client: &SigningKey) -> Result<IssuedCredential, W::Error> {
        let request = Request::post("/as/credentials").cbor(&SignCredential {}).signed_by(client);
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
        let request = Request::post("/as/eid/commits").cbor(commit).signed_by(client);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `PUT /as/contact`: where others reach the client for the first time.
    ///
    /// # Errors
    /// As [`Api::paid`].
    pub async fn publish_contact(&self, contact: SignedContact, client: &SigningKey) -> Result<(), W::Error> {
        let request = Request::put("/as/contact").cbor(&PublishContact { contact }).signed_by(client);
        self.paid(request).await.map(drop)
    }
}
