//! The AS's signing keys (AS-2): made by whichever server process finds none that lasts,
//! kept in the database sealed under the master key, published with their validity.

use anyhow::Context;
use postern_protocol::{
    IssuedCredential, PublicKey, auth::AuthenticationKey, credential::ClientCredential, key::SigningKey,
    name::UserName,
};
use tokio_postgres::Row;

use crate::{
    database::Database,
    date::{DAY, today},
    master_key::MasterKey,
};

const KEY_LIFETIME: u64 = 365 * DAY;
/// A new key is made when the newest has less than this left: the overlap in which every
/// credential signed by the old one runs out.
const OVERLAP: u64 = CREDENTIAL_LIFETIME;
const CREDENTIAL_LIFETIME: u64 = 90 * DAY;
const PURPOSE: &str = "AS signing key";

pub struct Signer {
    current: SigningKey,
    published: Vec<AuthenticationKey>,
}

impl Signer {
    /// Loads the keys, after making one if none lasts. Safe in several processes at once:
    /// the database takes one new key.
    pub async fn load(database: &Database, master_key: &MasterKey) -> anyhow::Result<Self> {
        let mut rows = load_rows(database).await?;
        if !rows.first().is_some_and(|row| validity(row).1 >= today() + OVERLAP) {
            let key = SigningKey::generate();
            let public = key.public_key();
            let sealed = master_key.seal(PURPOSE, public.as_bytes(), key.seed());
            database
                .query_one(
                    "SELECT auth.add_signing_key($1, $2, $3)",
                    &[&public.as_bytes().as_slice(), &sealed, &i32::try_from(KEY_LIFETIME / DAY)?],
                )
                .await?;
            rows = load_rows(database).await?;
        }
        let newest = rows.first().context("the AS has no signing key although one was added")?;
        let public: &[u8] = newest.get("public_key");
        let seed = master_key
            .open(PURPOSE, public, newest.get("sealed_seed"))
            .context("the AS's signing key does not open under this master key")?;
        let current = SigningKey::from_seed(seed.as_slice().try_into()?);
        let published = rows
            .iter()
            .map(|row| {
                let (not_before, not_after) = validity(row);
                let public_key = PublicKey::try_from(row.get::<_, &[u8]>("public_key"))?;
                Ok(AuthenticationKey { public_key, not_before, not_after })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { current, published })
    }

    pub fn published(&self) -> &[AuthenticationKey] {
        &self.published
    }

    pub fn issue(&self, user: UserName, client_key: PublicKey) -> IssuedCredential {
        let credential = ClientCredential {
            user,
            client_key,
            not_before: today(),
            not_after: today() + CREDENTIAL_LIFETIME,
            issuer_key: self.current.public_key(),
        };
        credential.issue(&self.current)
    }
}

async fn load_rows(database: &Database) -> anyhow::Result<Vec<Row>> {
    let sql = "SELECT public_key, sealed_seed, not_before, not_after FROM auth.load_signing_keys()";
    Ok(database.query(sql, &[]).await?)
}

/// Not before and not after, in seconds since 1970.
fn validity(row: &Row) -> (u64, u64) {
    let seconds = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
    (seconds("not_before"), seconds("not_after"))
}
