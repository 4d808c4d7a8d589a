//! Batches of KeyPackages (QS-6): the QS signs which packages it gave out together, and when.

use postern_protocol::{
    key::PublishedKey,
    name::Domain,
    qs::{KeyPackageBatch, StockedKeyPackage},
};

use crate::{
    clock::now,
    home::Home,
    http::Failure,
    keys::{SigningKeys, SigningService},
};

pub struct BatchSigner(SigningKeys);

impl BatchSigner {
    /// Loads the keys, after making one if it is due.
    ///
    /// # Errors
    /// As [`SigningKeys::load`].
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(SigningKeys::load(&home.database, &home.master_key, SigningService::Queuing).await?))
    }

    /// Loads them again, after making one if it is due.
    ///
    /// # Errors
    /// As [`SigningKeys::renew`].
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.0.renew(&home.database, &home.master_key).await
    }

    pub fn published(&self) -> Vec<PublishedKey> {
        self.0.now().published().to_vec()
    }

    /// Signs a batch of KeyPackages.
    ///
    /// # Errors
    /// A fault: no key is valid now.
    pub fn sign(
        &self,
        domain: &Domain,
        key_packages: Vec<StockedKeyPackage>,
    ) -> Result<KeyPackageBatch, Failure> {
        let keys = self.0.now();
        let signer = keys.signer(|_| true).map_err(Failure::fault)?;
        Ok(KeyPackageBatch::sign(domain, now(), key_packages, &signer.key))
    }
}
