//! The master keys of a process: one that seals, and, while the operator changes it, another that opens. Where the
//! database is sealed under a key that the process does not have, it reads the configured files again: so running
//! servers go on through a change ([`crate::cli`], `postern master-key change`).

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use super::master_key::{DigestKey, MasterKey, MasterKeyError, MasterKeyId, OpenError};
use crate::{
    config::Config,
    database::{Database, DatabaseError, SqlOutcome, outcome},
};

/// The purpose under which a master key seals the digest key.
const DIGEST_KEY: &str = "digest key";
/// Least time between two readings of the files.
const INTERVAL: Duration = Duration::from_millis(500);

outcome! {
    pub ClaimMasterKeyOutcome: "operator.claim_master_key_outcome" {
        Claimed = "claimed",
        Same = "same",
        Different = "different",
    }
}

/// The places of the master keys.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The file with the key; none: the environment has it.
    pub file: Option<PathBuf>,
    /// The file with the key that is to take its place, which need not exist.
    pub next_file: Option<PathBuf>,
}

/// The master keys of this process. Cheap to clone.
#[derive(Clone)]
pub struct MasterKeys(Arc<Shared>);

struct Shared {
    sources: Sources,
    held: RwLock<HeldMasterKeys>,
    digest_key: DigestKey,
}

struct HeldMasterKeys {
    keys: Vec<MasterKey>,
    /// The key that seals.
    current: MasterKeyId,
    /// The key that the database was sealed under when it was looked at last.
    wanted: MasterKeyId,
    read: Instant,
}

impl Sources {
    /// The places that a configuration names.
    pub fn of(config: &Config) -> Self {
        Self { file: config.master_key_file(), next_file: config.next_master_key_file() }
    }

    /// The key, from its place.
    ///
    /// # Errors
    /// [`MasterKeyError`].
    pub fn key(&self) -> Result<MasterKey, MasterKeyError> {
        MasterKey::load(self.file.as_deref())
    }

    /// The key that is to take its place, if there is a file with one.
    ///
    /// # Errors
    /// [`MasterKeyError`].
    pub fn next_key(&self) -> Result<Option<MasterKey>, MasterKeyError> {
        let file = self.next_file.as_deref().filter(|file| file.exists());
        file.map(MasterKey::from_file).transpose()
    }

    /// The keys that are at hand: both of [`Self::key`] and [`Self::next_key`], one of them, or none.
    ///
    /// # Errors
    /// [`MasterKeyError`] for a next key that is there and cannot be read.
    pub fn at_hand(&self) -> Result<Vec<MasterKey>, MasterKeyError> {
        Ok([self.key().ok(), self.next_key()?].into_iter().flatten().collect())
    }

    fn read(&self) -> Result<Vec<MasterKey>, MasterKeyError> {
        Ok([self.key()?].into_iter().chain(self.next_key()?).collect())
    }
}

impl MasterKeys {
    /// Whether a database is sealed under a master key. No other one is to be made for it then: the file is missing, as
    /// on a disk that is not mounted.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn database_has_one(database: &Database) -> Result<bool, DatabaseError> {
        let sql = "SELECT EXISTS (SELECT FROM operator.current_master_key() AS m WHERE m.key_id IS NOT NULL)";
        Ok(database.query_one(sql, &[]).await?.get(0))
    }

    /// Reads the keys from their places, and compares them with the one that the database is sealed under; a database
    /// that has none yet takes the first.
    ///
    /// # Errors
    /// No key, a database that does not answer, or one that is sealed under another key.
    pub async fn load(database: &Database, sources: Sources) -> anyhow::Result<Self> {
        let keys = sources.read()?;
        let first = keys.first().context("there is no master key")?;
        let fresh = first.seal(DIGEST_KEY, &[], DigestKey::generate().as_bytes());
        let row = database
            .query_one(
                "SELECT outcome, current_id, previous_id FROM operator.claim_master_key($1, $2)",
                &[&first.id().as_bytes(), &fresh],
            )
            .await?;
        let current = MasterKeyId::of(row.get("current_id")).context("a master key's id is too short")?;
        let is_held = |id: MasterKeyId| keys.iter().any(|key| key.id() == id);
        if ClaimMasterKeyOutcome::of(&row)? == ClaimMasterKeyOutcome::Different && !is_held(current) {
            bail!(
                "the database is sealed under another master key: configure that one, or if it was changed, the new one"
            );
        }
        let previous = row.get::<_, Option<&[u8]>>("previous_id").and_then(MasterKeyId::of);
        if previous.is_some_and(|previous| !is_held(previous)) {
            tracing::warn!(
                "the master key is being changed, and this server does not have the old one: it cannot open all (`postern master-key change` ends the change)"
            );
        }
        let sealed: Vec<u8> = database.query_one("SELECT operator.load_digest_key()", &[]).await?.get(0);
        let held = HeldMasterKeys { keys, current, wanted: current, read: Instant::now() };
        let digest_key = held.open(DIGEST_KEY, &[], &sealed).context("the digest key does not open")?;
        let digest_key = DigestKey::try_from(digest_key.as_slice())?;
        Ok(Self(Arc::new(Shared { sources, held: RwLock::new(held), digest_key })))
    }

    /// Takes over the key that the database is sealed under now.
    ///
    /// # Errors
    /// A database that does not answer; a key that this process does not have: it goes on with the one before.
    pub async fn renew(&self, database: &Database) -> anyhow::Result<()> {
        let row = database.query_one("SELECT key_id FROM operator.current_master_key()", &[]).await?;
        let wanted = MasterKeyId::of(row.get("key_id")).context("a master key's id is too short")?;
        if self.want(wanted) {
            return Ok(());
        }
        self.read()?;
        if !self.has(wanted) {
            bail!(
                "the master key was changed, and this server does not have the new one: put it into the file of the master key, or the one of the next"
            );
        }
        Ok(())
    }

    /// Seals with this key from now on, or as soon as it is held; returns whether it is.
    fn want(&self, wanted: MasterKeyId) -> bool {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        held.wanted = wanted;
        held.take_over()
    }

    /// Seals with the current key: see [`MasterKey::seal`].
    pub fn seal(&self, purpose: &str, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        let current = held.keys.iter().find(|key| key.id() == held.current);
        current.expect("the current key is held").seal(purpose, aad, plaintext)
    }

    /// The inverse of [`Self::seal`], for a value of any key that this process has, or finds in its place.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, purpose: &str, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.look_for(MasterKeyId::of(sealed).ok_or(OpenError)?);
        self.0.held.read().unwrap_or_else(PoisonError::into_inner).open(purpose, aad, sealed)
    }

    /// Whether this process has the key that a value is sealed under, or finds it in its place. What does not open with it
    /// is damaged.
    pub fn has_key_of(&self, sealed: &[u8]) -> bool {
        let Some(id) = MasterKeyId::of(sealed) else { return true };
        self.look_for(id);
        self.has(id)
    }

    /// The keyed digest of `bytes` for `purpose` (a constant of the code), which the master key's change leaves as it
    /// is: see [`DigestKey::digest`].
    pub fn digest(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        self.0.digest_key.digest(purpose, bytes)
    }

    /// Reads the files again, now and then, for a key that is not held.
    fn look_for(&self, id: MasterKeyId) {
        let is_due = || {
            let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
            held.read.elapsed() >= INTERVAL
        };
        if !self.has(id)
            && is_due()
            && let Err(error) = self.read()
        {
            tracing::error!("cannot read the master key again: {error}");
        }
    }

    fn has(&self, id: MasterKeyId) -> bool {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        held.keys.iter().any(|key| key.id() == id)
    }

    /// Reads the files again, and keeps the keys in them along with those that are held.
    fn read(&self) -> Result<(), MasterKeyError> {
        let found = self.0.sources.read();
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        held.read = Instant::now();
        for key in found? {
            if held.keys.iter().all(|known| known.id() != key.id()) {
                held.keys.push(key);
            }
        }
        held.take_over();
        Ok(())
    }
}

#[cfg(test)]
impl MasterKeys {
    /// The keys of a process that has this one, and no file to look for others in.
    pub fn of_one(key: MasterKey) -> Self {
        let (id, sources) = (key.id(), Sources { file: None, next_file: None });
        let held = HeldMasterKeys { keys: vec![key], current: id, wanted: id, read: Instant::now() };
        Self(Arc::new(Shared { sources, held: RwLock::new(held), digest_key: DigestKey::generate() }))
    }
}

impl HeldMasterKeys {
    /// Seals with the wanted key, if it is held; returns whether it is.
    fn take_over(&mut self) -> bool {
        let is_held = self.keys.iter().any(|key| key.id() == self.wanted);
        if is_held && self.current != self.wanted {
            tracing::info!("the master key is another one from now on");
            self.current = self.wanted;
        }
        is_held
    }

    fn open(&self, purpose: &str, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let id = MasterKeyId::of(sealed).ok_or(OpenError)?;
        let key = self.keys.iter().find(|key| key.id() == id).ok_or(OpenError)?;
        key.open(purpose, aad, sealed)
    }
}
