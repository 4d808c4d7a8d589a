//! The identity of this server at push services (RFC 8292, VAPID): P-256 keys for all server processes, in the database,
//! sealed under the master key. A subscription is made for one of them, and does not tell which: so the newest is
//! published, and a push that its service does not take for one key is tried with the next.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use postern_protocol::P256PublicKey;
use serde::Serialize;
use url::Url;

use crate::{
    database::{SqlOutcome, outcome},
    home::Home,
    keys::{Held, MasterKeys},
};

/// The purpose under which the master key seals these keys.
const PURPOSE: &str = "QS application server key";
/// Validity of an authorization: the standard allows 24 hours (RFC 8292 §2), but push services' clocks differ.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

outcome! {
    pub AddApplicationServerKeyOutcome: "qs.add_application_server_key_outcome" {
        Added = "added",
        NotDue = "not_due",
    }
}

/// The keys in the memory of this process, the newest first.
pub struct ApplicationServerKeys {
    keys: Held<Vec<Arc<ApplicationServerKey>>>,
    contact: String,
}

pub struct ApplicationServerKey {
    public_key: P256PublicKey,
    private_key: EncodingKey,
}

/// The claims of a VAPID token (RFC 8292 §2).
#[derive(Serialize)]
struct Claims<'a> {
    aud: String,
    exp: u64,
    sub: &'a str,
}

impl ApplicationServerKeys {
    /// Loads the keys, after making one if it is due. Several processes can do this at once: the database accepts one
    /// new key.
    ///
    /// # Errors
    /// A database that does not answer, keys of another master key.
    pub async fn load(contact: &str, home: &Home) -> anyhow::Result<Self> {
        Ok(Self { keys: Held::new(load(home).await?), contact: contact.to_owned() })
    }

    /// Loads the keys again, after making one if it is due.
    ///
    /// # Errors
    /// As [`Self::load`]; the keys stay as they are.
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.keys.replace(load(home).await?);
        Ok(())
    }

    /// All keys, the newest first.
    pub fn now(&self) -> Vec<Arc<ApplicationServerKey>> {
        self.keys.now().to_vec()
    }

    /// The key that subscriptions are made for.
    pub fn published(&self) -> Option<P256PublicKey> {
        self.keys.now().first().map(|key| key.public_key)
    }

    /// The `Authorization` header of a push to this URL (RFC 8292 §3).
    ///
    /// # Errors
    /// A system clock before 1970, or a key that does not sign.
    pub fn authorization(&self, key: &ApplicationServerKey, endpoint: &Url) -> anyhow::Result<HeaderValue> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFETIME;
        let claims = Claims {
            aud: endpoint.origin().ascii_serialization(),
            exp: expires.as_secs(),
            sub: &self.contact,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key.private_key)?;
        let value = format!("vapid t={token}, k={}", key.public_key.to_base64url());
        Ok(HeaderValue::try_from(value)?)
    }
}

async fn load(home: &Home) -> anyhow::Result<Vec<Arc<ApplicationServerKey>>> {
    let load = "SELECT public_key, sealed_private_key, replaced FROM qs.load_application_server_keys()";
    let mut rows = home.database.query(load, &[]).await?;
    if rows.iter().all(|row| row.get("replaced")) {
        let (public, sealed) = generate(&home.master_key)?;
        let add = "SELECT outcome FROM qs.add_application_server_key($1, $2)";
        let row = home.database.query_one(add, &[&public.as_bytes().as_slice(), &sealed]).await?;
        if AddApplicationServerKeyOutcome::of(&row)? == AddApplicationServerKeyOutcome::Added {
            tracing::info!("made a new key for push services");
        }
        rows = home.database.query(load, &[]).await?;
    }
    rows.iter()
        .map(|row| {
            let public: &[u8] = row.get("public_key");
            let private_key = home
                .master_key
                .open(PURPOSE, public, row.get("sealed_private_key"))
                .with_context(|| format!("the {PURPOSE} does not open under this master key"))?;
            let private_key = EncodingKey::from_ec_der(&private_key);
            Ok(Arc::new(ApplicationServerKey { public_key: public.try_into()?, private_key }))
        })
        .collect()
}

/// A fresh key: its public half, and its private half in PKCS #8, sealed.
fn generate(master_key: &MasterKeys) -> anyhow::Result<(P256PublicKey, Vec<u8>)> {
    let failed = |_| anyhow!("cannot make a {PURPOSE}");
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(failed)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
        .map_err(|_| anyhow!("cannot read the {PURPOSE} that was made"))?;
    let public = P256PublicKey::try_from(pair.public_key().as_ref())?;
    let sealed = master_key.seal(PURPOSE, public.as_bytes(), document.as_ref());
    Ok((public, sealed))
}
