//! Keys that services sign with. A server process that finds no key that lasts makes one; keys are
//! in the database, sealed under the master key, and published with their validity. A process keeps them in memory, and
//! loads them again when they changed.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use postern_protocol::{
    PublicKey,
    key::{PublishedKey, SigningKey},
};
use tokio_postgres::Row;

use super::master_key::MasterKey;
use crate::{
    clock::{DAY, today},
    database::Database,
};

const KEY_LIFETIME: u64 = 365 * DAY;

/// A service that has signing keys.
pub struct Service {
    /// The service's name in the database.
    pub name: &'static str,
    /// The purpose under which the master key seals the keys.
    pub purpose: &'static str,
    /// Seconds. A new key is made when the newest has less than this left, so that everything that
    /// the old one signed expires before the old one does.
    pub overlap: u64,
}

/// A service's keys in the memory of this process.
pub struct SigningKeys {
    service: Service,
    keys: RwLock<Arc<Keys>>,
}

/// A service's keys at one moment.
pub struct Keys {
    current: SigningKey,
    published: Vec<PublishedKey>,
}

impl SigningKeys {
    /// Loads a service's keys, after making one if none lasts.
    ///
    /// # Errors
    /// A database that does not answer, keys of another master key.
    pub async fn load(database: &Database, master_key: &MasterKey, service: Service) -> anyhow::Result<Self> {
        let keys = RwLock::new(Arc::new(Keys::load(database, master_key, &service).await?));
        Ok(Self { service, keys })
    }

    /// Loads the keys again, after making one if none lasts.
    ///
    /// # Errors
    /// As [`Self::load`]; the keys stay as they are.
    pub async fn renew(&self, database: &Database, master_key: &MasterKey) -> anyhow::Result<()> {
        let keys = Arc::new(Keys::load(database, master_key, &self.service).await?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The keys as they are now.
    pub fn now(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Keys {
    /// Loads the keys, after making one if none lasts. Several processes can do this at once: the database accepts one
    /// new key.
    async fn load(database: &Database, master_key: &MasterKey, service: &Service) -> anyhow::Result<Self> {
        let mut rows = load_rows(database, service).await?;
        if rows.first().is_none_or(|row| validity(row).1 < today() + service.overlap) {
            let key = SigningKey::generate();
            let public = key.public_key();
            let sealed = master_key.seal(service.purpose, public.as_bytes(), key.seed());
            let days = i32::try_from(KEY_LIFETIME / DAY)?;
            database
                .query_one(
                    "SELECT auth.add_signing_key($1, $2, $3, $4)",
                    &[&public.as_bytes().as_slice(), &sealed, &days, &service.name],
                )
                .await?;
            rows = load_rows(database, service).await?;
        }
        let newest = rows.first().context("there is no signing key although one was added")?;
        let public: &[u8] = newest.get("public_key");
        let seed = master_key
            .open(service.purpose, public, newest.get("sealed_seed"))
            .with_context(|| format!("the {} does not open under this master key", service.purpose))?;
        let current = SigningKey::from_seed(seed.as_slice().try_into()?);
        let published = rows
            .iter()
            .map(|row| {
                let (not_before, not_after) = validity(row);
                let public_key = PublicKey::try_from(row.get::<_, &[u8]>("public_key"))?;
                Ok(PublishedKey { public_key, not_before, not_after })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { current, published })
    }

    /// The key that signs.
    pub fn current(&self) -> &SigningKey {
        &self.current
    }

    pub fn published(&self) -> &[PublishedKey] {
        &self.published
    }
}

async fn load_rows(database: &Database, service: &Service) -> anyhow::Result<Vec<Row>> {
    let sql = "SELECT public_key, sealed_seed, not_before, not_after FROM auth.load_signing_keys($1)";
    Ok(database.query(sql, &[&service.name]).await?)
}

/// Not before and not after, in seconds since 1970.
fn validity(row: &Row) -> (u64, u64) {
    let seconds = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
    (seconds("not_before"), seconds("not_after"))
}
