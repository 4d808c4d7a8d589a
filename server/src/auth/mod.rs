//! Authentication Service: users under their real names, their evolving identities (EID) and client credentials. The
//! only service that knows a name.

pub mod commit_identity;
pub mod delete_account;
pub mod end_identity;
pub mod fetch_picture;
mod identity;
pub mod look_up_user;
mod lost_account;
pub mod make_invite;
mod oidc;
mod owner;
pub mod publish_contact;
pub mod published_keys;
pub mod put_profile;
pub mod register_user;
pub mod registration_terms;
pub mod rename_user;
pub mod replace_recovery_key;
pub mod reset_account;
pub mod sign_credential;
mod signer;

use std::sync::Arc;

use crate::{clock::now, config::OidcConfig, home::Home};
pub use oidc::{Oidc, OidcError, Subject};
use signer::Signer;

/// The state of the AS.
#[derive(Clone)]
pub struct As {
    home: Home,
    /// Signs client credentials (AS-2).
    signer: Arc<Signer>,
    /// The operator's identity provider, if there is one (AS-1).
    oidc: Option<Arc<Oidc>>,
}

impl As {
    /// Loads the signing keys, after making one if it is due, and the root.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(home: &Home, oidc: &OidcConfig) -> anyhow::Result<Self> {
        let oidc = Oidc::new(oidc, home)?.map(Arc::new);
        Ok(Self { home: home.clone(), signer: Arc::new(Signer::load(home).await?), oidc })
    }

    /// Makes a signing key if one is due, and loads those in the database, and the root.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn renew_signing_keys(&self) -> anyhow::Result<()> {
        self.signer.renew(&self.home).await
    }

    /// Forgets what was counted in times that are over and the invites that have expired, and frees names that were
    /// given up long ago. The ID tokens that were used go once they ended by this process's clock and the database's.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn forget_counts(&self) -> anyhow::Result<()> {
        let clock = i64::try_from(now())?;
        self.home.database.query_one("SELECT auth.clean_up($1)", &[&clock]).await?;
        Ok(())
    }

    /// Takes credentials and contacts from clients that were silent for long, and erases accounts that all were (AS-9).
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn expire(&self) -> anyhow::Result<()> {
        while self.home.database.query_one("SELECT auth.expire()", &[]).await?.get(0) {}
        Ok(())
    }
}

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<commit_identity::CommitIdentityOutcome>(),
        declared::<delete_account::DeleteAccountOutcome>(),
        declared::<end_identity::EndIdentityOutcome>(),
        declared::<fetch_picture::FetchPictureOutcome>(),
        declared::<look_up_user::LookUpUserOutcome>(),
        declared::<lost_account::CountWrongResetOutcome>(),
        declared::<make_invite::MakeInviteOutcome>(),
        declared::<publish_contact::PublishContactOutcome>(),
        declared::<put_profile::PutProfileOutcome>(),
        declared::<register_user::AdmitRegistrationOutcome>(),
        declared::<register_user::RegisterUserOutcome>(),
        declared::<rename_user::RenameUserOutcome>(),
        declared::<replace_recovery_key::ReplaceRecoveryKeyOutcome>(),
        declared::<reset_account::ResetAccountOutcome>(),
        declared::<sign_credential::StoreCredentialOutcome>(),
        declared::<crate::keys::signing_keys::AddSigningKeyOutcome>(),
    ]
}
