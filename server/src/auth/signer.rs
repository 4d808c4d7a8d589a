//! Statements that the AS signs: that a key belongs to one of a user's clients (AS-2), and that a state of an identity is
//! the latest (AS-10).

use postern_protocol::{
    IssuedCredential, PublicKey, TreeHash,
    credential::ClientCredential,
    eid::{EidState, FreshnessTicket},
    key::PublishedKey,
    name::UserName,
};

use crate::{
    clock::{DAY, now, today},
    home::Home,
    keys::{SigningKeys, signing_keys::Service},
};

const CREDENTIAL_LIFETIME: u64 = 90 * DAY;
const AS: Service = Service { name: "as", purpose: "AS signing key", overlap: CREDENTIAL_LIFETIME };

pub struct Signer(SigningKeys);

impl Signer {
    /// # Errors
    /// As [`SigningKeys::load`].
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(SigningKeys::load(&home.database, &home.master_key, AS).await?))
    }

    /// # Errors
    /// As [`SigningKeys::renew`].
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.0.renew(&home.database, &home.master_key).await
    }

    pub fn published(&self) -> Vec<PublishedKey> {
        self.0.now().published().to_vec()
    }

    pub fn issue(&self, user: UserName, client_key: PublicKey) -> IssuedCredential {
        let keys = self.0.now();
        let issuer = keys.current();
        let credential = ClientCredential {
            user,
            client_key,
            not_before: today(),
            not_after: today() + CREDENTIAL_LIFETIME,
            issuer_key: issuer.public_key(),
        };
        credential.issue(issuer)
    }

    /// The ticket that this state of the user's identity is the latest (AS-10).
    pub fn ticket(&self, user: UserName, eid: EidState, tree_hash: TreeHash) -> FreshnessTicket {
        FreshnessTicket::issue(user, eid, tree_hash, now(), self.0.now().current())
    }
}
