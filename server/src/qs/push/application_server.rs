//! The identity of this server at push services (RFC 8292, VAPID): one P-256 key for all server processes, in the
//! database, sealed under the master key. Subscriptions are made for it, so it never changes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

use crate::{home::Home, keys::MasterKey};

const PURPOSE: &str = "QS application server key";
/// Validity of an authorization: the standard allows 24 hours (RFC 8292 §2), but push services' clocks differ.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

pub struct ApplicationServer {
    public_key: P256PublicKey,
    private_key: EncodingKey,
    contact: String,
}

/// The claims of a VAPID token (RFC 8292 §2).
#[derive(Serialize)]
struct Claims<'a> {
    aud: String,
    exp: u64,
    sub: &'a str,
}

impl ApplicationServer {
    /// Loads the key, after making it if there is none. Several processes can do this at once: the
    /// database accepts one key.
    ///
    /// # Errors
    /// A database that does not answer, a key of another master key.
    pub async fn load(contact: &str, home: &Home) -> anyhow::Result<Self> {
        let load = "SELECT public_key, sealed_private_key FROM qs.load_application_server_key()";
        let row = match home.database.query_opt(load, &[]).await? {
            Some(row) => row,
            None => {
                let (public, sealed) = generate(&home.master_key)?;
                let add = "SELECT outcome FROM qs.add_application_server_key($1, $2)";
                home.database.query_one(add, &[&public.as_bytes().as_slice(), &sealed]).await?;
                home.database.query_one(load, &[]).await?
            }
        };
        let public: &[u8] = row.get("public_key");
        let private_key = home
            .master_key
            .open(PURPOSE, public, row.get("sealed_private_key"))
            .with_context(|| format!("the {PURPOSE} does not open under this master key"))?;
        Ok(Self {
            public_key: public.try_into()?,
            private_key: EncodingKey::from_ec_der(&private_key),
            contact: contact.to_owned(),
        })
    }

    pub fn public_key(&self) -> P256PublicKey {
        self.public_key
    }

    /// The `Authorization` header of a push to this URL (RFC 8292 §3).
    ///
    /// # Errors
    /// A system clock before 1970, or a key that does not sign.
    pub fn authorization(&self, endpoint: &Url) -> anyhow::Result<HeaderValue> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFETIME;
        let claims = Claims {
            aud: endpoint.origin().ascii_serialization(),
            exp: expires.as_secs(),
            sub: &self.contact,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.private_key)?;
        let value = format!("vapid t={token}, k={}", self.public_key.to_base64url());
        Ok(HeaderValue::try_from(value)?)
    }
}

/// A fresh key: its public half, and its private half in PKCS #8, sealed.
fn generate(master_key: &MasterKey) -> anyhow::Result<(P256PublicKey, Vec<u8>)> {
    let failed = |_| anyhow!("cannot make a {PURPOSE}");
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(failed)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
        .map_err(|_| anyhow!("cannot read the {PURPOSE} that was made"))?;
    let public = P256PublicKey::try_from(pair.public_key().as_ref())?;
    let sealed = master_key.seal(PURPOSE, public.as_bytes(), document.as_ref());
    Ok((public, sealed))
}
