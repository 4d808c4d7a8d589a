//! Batches of KeyPackages (QS-6): the QS signs which packages it gave out together, and when.

use std::time::{SystemTime, UNIX_EPOCH};

use postern_protocol::{
    key::PublishedKey,
    name::Domain,
    qs::{KeyPackageBatch, StockedKeyPackage},
};

use crate::{
    clock::DAY,
    home::Home,
    keys::{SigningKeys, signing_keys::Service},
};

/// A batch is used within minutes; the overlap is for servers that run on with the old key.
const QS: Service = Service { name: "qs", purpose: "QS signing key", overlap: 90 * DAY };

pub struct BatchSigner(SigningKeys);

impl BatchSigner {
    /// # Errors
    /// As [`SigningKeys::load`].
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(SigningKeys::load(&home.database, &home.master_key, QS).await?))
    }

    /// # Errors
    /// As [`SigningKeys::renew`].
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.0.renew(&home.database, &home.master_key).await
    }

    pub fn published(&self) -> Vec<PublishedKey> {
        self.0.now().published().to_vec()
    }

    pub fn sign(&self, domain: &Domain, key_packages: Vec<StockedKeyPackage>) -> KeyPackageBatch {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        KeyPackageBatch::sign(domain, now, key_packages, self.0.now().current())
    }
}
