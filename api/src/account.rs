//! Calls to the Authentication Service about an account as a whole, which ask for its owner's second proof (AS-8, AS-9).

use postern_protocol::{
    IssuedCredential, PublicKey,
    account::{DeleteAccount, EndIdentity, IdentityEnded, RenameUser, ReplaceRecoveryKey, ResetAccount},
    auth::{CredentialIssued, IdentityCommitted},
    key::SigningKey,
    second_proof::SecondProof,
};

use crate::{
    error::Result,
    http::Http,
    payment::{Api, Wallet},
    request::Request,
};

impl Http {
    /// `POST /as/account/end`: ends the identity of a user who lost all clients. Nothing can pay for it. The same
    /// request again is answered in the same way. `client` is the one that begins the next identity.
    ///
    /// # Errors
    /// `wrong-proof`, `too-many-changes`; and as [`Http::send`].
    pub async fn end_identity(&self, end: &EndIdentity, client: &SigningKey) -> Result<IdentityEnded> {
        let request = Request::post("/as/account/end").cbor(end).signed_by(client, end.name.domain());
        self.send(&request).await?.decode()
    }

    /// `POST /as/account/reset`: begins the next identity, and returns its first client's credential. The same request
    /// again, after an answer was lost, gets the same credential.
    ///
    /// # Errors
    /// `wrong-proof`, `too-many-changes`; `not-allowed` if an identity lives that this request did not begin; and as
    /// [`Http::send`].
    pub async fn reset_account(&self, reset: &ResetAccount, client: &SigningKey) -> Result<IssuedCredential> {
        let request = Request::post("/as/account/reset").cbor(reset).signed_by(client, reset.name.domain());
        Ok(self.send(&request).await?.decode::<CredentialIssued>()?.credential)
    }
}

impl<W: Wallet> Api<W> {
    /// `PUT /as/account/name`: another name for the client's user, with the next commit of the EID.
    ///
    /// # Errors
    /// `wrong-proof`, `name-taken`, `too-many-changes`, `wrong-epoch`; and as [`Api::paid`].
    pub async fn rename_user(
        &self,
        rename: &RenameUser,
        client: &SigningKey,
    ) -> Result<IdentityCommitted, W::Error> {
        let request = Request::put("/as/account/name").cbor(rename).signed_by(client, &self.origin);
        Ok(self.paid(request).await?.decode()?)
    }

    /// `PUT /as/account/recovery-key`: another recovery key, by the word of the old one or a login.
    ///
    /// # Errors
    /// `wrong-proof`; and as [`Api::paid`].
    pub async fn replace_recovery_key(
        &self,
        recovery_key: PublicKey,
        proof: SecondProof,
        client: &SigningKey,
    ) -> Result<(), W::Error> {
        let request = Request::put("/as/account/recovery-key")
            .cbor(&ReplaceRecoveryKey { recovery_key, proof })
            .signed_by(client, &self.origin);
        self.paid(request).await.map(drop)
    }

    /// `DELETE /as/account`: erases the account of the client's user, or has the proof verified only.
    ///
    /// # Errors
    /// `wrong-proof`; `not-allowed` if the key is no client's, as after an earlier request; and as [`Api::paid`].
    pub async fn delete_account(&self, delete: &DeleteAccount, client: &SigningKey) -> Result<(), W::Error> {
        let request = Request::delete("/as/account").cbor(delete).signed_by(client, &self.origin);
        self.paid(request).await.map(drop)
    }
}
