//! Keys that services sign with. A server process that finds one due makes it; keys are in the database, sealed under
//! the master key, and published with their validity before they sign. The clock decides which of them signs: a key that
//! ended, or has not begun, signs nothing, however long it has been in memory.

use std::sync::Arc;

use anyhow::Context;
use postern_protocol::{
    IssuerCertificate, PublicKey, Signature,
    federation::KeySignature,
    key::{PublishedKey, SigningKey},
    name::Domain,
};
use tokio_postgres::Row;

use super::{Held, MasterKeys};
use crate::{
    clock::now,
    database::{Database, SqlOutcome, outcome},
    home::PUBLISHED_MAX_AGE,
};

/// The purpose under which the master key seals signing keys.
const PURPOSE: &str = "signing key";

outcome! {
    pub AddSigningKeyOutcome: "auth.add_signing_key_outcome" {
        Added = "added",
        NotDue = "not_due",
    }
}

/// A service's keys in the memory of this process.
pub struct SigningKeys {
    service: SigningService,
    held: Held<Keys>,
}

/// A service's keys at one moment.
pub struct Keys {
    /// The keys that can sign, the newest first.
    signers: Vec<HeldKey>,
    published: Vec<PublishedKey>,
    /// The certificates that the operator brought; nobody has verified them.
    certificates: Vec<IssuerCertificate>,
    /// All of them, each with its endorsement by the one before if it has one; those that are revoked, too.
    chain: Vec<(PublishedKey, Option<KeySignature>)>,
    revoked: Vec<PublicKey>,
}

/// A key that can sign in its time.
pub struct HeldKey {
    pub key: SigningKey,
    pub validity: PublishedKey,
    /// The certificate that the operator brought for it; nobody has verified it.
    pub certificate: Option<IssuerCertificate>,
}

/// A service that has signing keys.
#[derive(Debug, Clone)]
pub enum SigningService {
    Authentication,
    Queuing,
    /// The homeserver of a domain itself, whose new keys the ones before endorse (FED-1).
    Homeserver(Domain),
}

impl SigningService {
    /// The service's name in the database.
    fn name(&self) -> &'static str {
        match self {
            Self::Authentication => "as",
            Self::Queuing => "qs",
            Self::Homeserver(_) => "federation",
        }
    }
}

impl SigningKeys {
    /// Loads a service's keys, after making one if it is due. Several processes can do this at once: the database
    /// accepts one new key.
    ///
    /// # Errors
    /// A database that does not answer, keys of another master key.
    pub async fn load(
        database: &Database,
        master_key: &MasterKeys,
        service: SigningService,
    ) -> anyhow::Result<Self> {
        let held = Held::new(Keys::load(database, master_key, &service).await?);
        Ok(Self { service, held })
    }

    /// Loads the keys again, after making one if it is due, and drops those that ended.
    ///
    /// # Errors
    /// As [`Self::load`]; the keys stay as they are.
    pub async fn renew(&self, database: &Database, master_key: &MasterKeys) -> anyhow::Result<()> {
        self.held.replace(Keys::load(database, master_key, &self.service).await?);
        database.query_one("SELECT auth.drop_signing_keys()", &[]).await?;
        Ok(())
    }

    /// The keys as they are now.
    pub fn now(&self) -> Arc<Keys> {
        self.held.now()
    }
}

impl Keys {
    async fn load(
        database: &Database,
        master_key: &MasterKeys,
        service: &SigningService,
    ) -> anyhow::Result<Self> {
        let due = "SELECT service FROM auth.due_signing_keys($1)";
        if !database.query(due, &[&[service.name()].as_slice()]).await?.is_empty() {
            add(database, master_key, service).await?;
        }
        Self::read(database, master_key, service.name()).await
    }

    async fn read(database: &Database, master_key: &MasterKeys, service: &str) -> anyhow::Result<Self> {
        let load =
            "SELECT public_key, sealed_seed, not_before, not_after, certificate, endorsed_by, endorsement
                      FROM auth.load_signing_keys($1)";
        let rows = database.query(load, &[&service]).await?;
        Self::open(&rows, master_key, service)
    }

    /// The keys of rows, the newest first. A key that does not open is published, too: another process signs with it.
    fn open(rows: &[Row], master_key: &MasterKeys, service: &str) -> anyhow::Result<Self> {
        let mut keys = Self {
            signers: Vec::new(),
            published: Vec::new(),
            certificates: Vec::new(),
            chain: Vec::new(),
            revoked: Vec::new(),
        };
        let mut closed = None;
        for row in rows {
            let public_key = PublicKey::try_from(row.get::<_, &[u8]>("public_key"))?;
            let time = |column| u64::try_from(row.get::<_, i64>(column));
            let validity =
                PublishedKey { public_key, not_before: time("not_before")?, not_after: time("not_after")? };
            let endorsed_by: Option<&[u8]> = row.get("endorsed_by");
            let endorsement = endorsed_by.map(|key| {
                let signature = Signature::new(row.get("endorsement"));
                key.try_into().map(|key| KeySignature { key, signature })
            });
            keys.chain.push((validity, endorsement.transpose()?));
            let Some(sealed) = row.get::<_, Option<&[u8]>>("sealed_seed") else {
                keys.revoked.push(public_key);
                continue;
            };
            let certificate: Option<&[u8]> = row.get("certificate");
            let certificate = certificate.map(|certificate| IssuerCertificate::new(certificate.to_vec()));
            keys.published.push(validity);
            keys.certificates.extend(certificate.clone());
            match master_key.open(PURPOSE, public_key.as_bytes(), sealed) {
                Ok(seed) => {
                    let key = SigningKey::from_seed(seed.as_slice().try_into()?);
                    keys.signers.push(HeldKey { key, validity, certificate });
                }
                Err(error) => closed = Some(error),
            }
        }
        match closed {
            Some(error) if keys.signers.is_empty() => {
                Err(error).with_context(|| format!("no signing key of service {service} opens"))
            }
            Some(error) => {
                tracing::warn!("a signing key of service {service} does not open: {error}");
                Ok(keys)
            }
            None => Ok(keys),
        }
    }

    /// The newest of the keys that are valid now and that `is_fit`.
    ///
    /// # Errors
    /// There is none.
    pub fn signer(&self, is_fit: impl Fn(&HeldKey) -> bool) -> anyhow::Result<&HeldKey> {
        self.signers().find(|signer| is_fit(signer)).context("no signing key is valid now")
    }

    pub fn published(&self) -> &[PublishedKey] {
        &self.published
    }

    /// Certificates of published keys.
    pub fn certificates(&self) -> &[IssuerCertificate] {
        &self.certificates
    }

    /// All keys, the newest first, those that are revoked, too; each with its endorsement by the one before.
    pub fn chain(&self) -> &[(PublishedKey, Option<KeySignature>)] {
        &self.chain
    }

    /// The keys that can sign now, the newest first.
    pub fn signers(&self) -> impl Iterator<Item = &HeldKey> {
        let now = now();
        self.signers.iter().filter(move |signer| signer.validity.is_valid_at(now))
    }

    /// Keys whose signatures count no more.
    pub fn revoked(&self) -> &[PublicKey] {
        &self.revoked
    }
}

async fn add(database: &Database, master_key: &MasterKeys, service: &SigningService) -> anyhow::Result<()> {
    let key = SigningKey::generate();
    let public = key.public_key();
    let endorsement = match service {
        SigningService::Authentication | SigningService::Queuing => None,
        SigningService::Homeserver(domain) => {
            let before = Keys::read(database, master_key, service.name()).await?;
            // Also one that has ended: others that were not there meanwhile know nothing newer.
            let before = before.signers.first();
            before.map(|before| KeySignature::endorse(domain, public, &before.key))
        }
    };
    let endorsed_by = endorsement.as_ref().map(|endorsement| endorsement.key.as_bytes().as_slice());
    let endorsement = endorsement.as_ref().map(|endorsement| endorsement.signature.as_bytes());
    let service = service.name();
    let sealed = master_key.seal(PURPOSE, public.as_bytes(), key.seed());
    let row = database
        .query_one(
            "SELECT outcome FROM auth.add_signing_key($1, $2, $3, $4, $5, $6)",
            &[
                &public.as_bytes().as_slice(),
                &sealed,
                &service,
                &i32::try_from(PUBLISHED_MAX_AGE)?,
                &endorsed_by,
                &endorsement,
            ],
        )
        .await?;
    match AddSigningKeyOutcome::of(&row)? {
        AddSigningKeyOutcome::Added => tracing::info!("made a new signing key for service {service}"),
        AddSigningKeyOutcome::NotDue => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(not_before: u64, not_after: u64) -> HeldKey {
        let key = SigningKey::generate();
        let validity = PublishedKey { public_key: key.public_key(), not_before, not_after };
        HeldKey { key, validity, certificate: None }
    }

    #[test]
    fn a_key_signs_in_its_time_only_and_the_newest_first() {
        let now = now();
        let (ended, old) = (signer(0, now - 1), signer(0, now + 100));
        let (new, to_come) = (signer(now - 1, now + 100), signer(now + 50, now + 200));
        let (expected, second) = (new.key.public_key(), old.key.public_key());
        let signers = vec![to_come, new, old, ended];
        let mut keys = Keys {
            signers,
            published: Vec::new(),
            certificates: Vec::new(),
            chain: Vec::new(),
            revoked: Vec::new(),
        };
        assert_eq!(keys.signer(|_| true).unwrap().key.public_key(), expected);
        let fit = |signer: &HeldKey| signer.key.public_key() != expected;
        assert_eq!(keys.signer(fit).unwrap().key.public_key(), second);
        keys.signers = vec![signer(now + 50, now + 200), signer(0, now - 1)];
        assert!(keys.signer(|_| true).is_err());
    }
}
