//! Keys of the gateway (RFC 9458): clients of other domains seal their requests for them. They are in the database, sealed
//! under the master key, and rotate with overlap.

use std::sync::Arc;

use anyhow::{Context, bail};
use ohttp::{
    KeyConfig, Server, ServerResponse, SymmetricSuite,
    hpke::{Aead, Kdf, Kem},
};
use postern_protocol::problem::ProblemType;
use zeroize::Zeroizing;

use crate::{
    database::{SqlOutcome, outcome},
    home::Home,
    http::Failure,
    keys::Held,
};

/// The purpose under which the master key seals the seeds.
const PURPOSE: &str = "gateway key";
/// Suites that clients may choose from.
const SUITES: [SymmetricSuite; 2] = [
    SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm),
    SymmetricSuite::new(Kdf::HkdfSha256, Aead::ChaCha20Poly1305),
];
/// Place of the X25519 public key in the encoding of a key configuration (RFC 9458 §3.1).
const PUBLIC_KEY: std::ops::Range<usize> = 3..35;
/// Attempts at a key with a number that no other has.
const ATTEMPTS: usize = 20;

outcome! {
    pub AddGatewayKeyOutcome: "federation.add_gateway_key_outcome" {
        Added = "added",
        NotDue = "not_due",
        Collides = "collides",
    }
}

/// The keys in the memory of this process.
pub struct GatewayKeys(Held<Keys>);

struct Keys {
    /// The key configurations in the encoding in which they are published.
    published: Vec<u8>,
    /// Each key by its number.
    servers: Vec<(u8, Arc<Server>)>,
}

impl GatewayKeys {
    /// Loads the keys, after making one if it is due. Several processes can do this at once: the database accepts one new
    /// key.
    ///
    /// # Errors
    /// A database that does not answer, keys of another master key.
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(Held::new(load(home).await?)))
    }

    /// Loads the keys again, after making one if it is due.
    ///
    /// # Errors
    /// As [`Self::load`]; the keys stay as they are.
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.0.replace(load(home).await?);
        Ok(())
    }

    /// The key configurations, the one to use first (`application/ohttp-keys`).
    pub fn published(&self) -> Vec<u8> {
        self.0.now().published.clone()
    }

    /// Opens a sealed request: its bytes, and what seals its answer.
    ///
    /// # Errors
    /// `gateway-key-unknown`, also for what does not open: a key that is gone may have had the number of one that is here.
    /// A database that does not answer.
    pub async fn open(&self, home: &Home, sealed: &[u8]) -> Result<(Vec<u8>, ServerResponse), Failure> {
        let find = |keys: &Keys| {
            let id = sealed.first()?;
            keys.servers.iter().find(|(key_id, _)| key_id == id).map(|(_, server)| server.clone())
        };
        let server = self.0.find(find, self.renew(home)).await?;
        let opened = server.and_then(|server| server.decapsulate(sealed).ok());
        opened.ok_or_else(|| ProblemType::GatewayKeyUnknown.into())
    }
}

async fn load(home: &Home) -> anyhow::Result<Keys> {
    if home.database.query_one("SELECT federation.due_gateway_key()", &[]).await?.get(0) {
        add(home).await?;
    }
    let sql = "SELECT public_key, key_id, sealed_seed FROM federation.load_gateway_keys()";
    let rows = home.database.query(sql, &[]).await?;
    let open = |row: &tokio_postgres::Row| -> anyhow::Result<(u8, KeyConfig)> {
        let public: &[u8] = row.get("public_key");
        let seed = home
            .master_key
            .open(PURPOSE, public, row.get("sealed_seed"))
            .context("a gateway key does not open under this master key")?;
        let key_id = u8::try_from(row.get::<_, i16>("key_id"))?;
        Ok((key_id, config(key_id, &seed)?))
    };
    let (ids, configs): (Vec<u8>, Vec<KeyConfig>) =
        rows.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
    let published = KeyConfig::encode_list(&configs).context("cannot encode the gateway's keys")?;
    let servers = ids.into_iter().zip(configs).map(|(id, config)| Ok((id, Arc::new(Server::new(config)?))));
    Ok(Keys { published, servers: servers.collect::<Result<_, ohttp::Error>>()? })
}

async fn add(home: &Home) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *seed).context("cannot get random bytes for a gateway key")?;
        let key_id: u8 = rand::random();
        let encoded = config(key_id, &*seed)?.encode().context("cannot encode a gateway key")?;
        let public = encoded.get(PUBLIC_KEY).context("a key configuration is too short")?;
        let sealed = home.master_key.seal(PURPOSE, public, &*seed);
        let sql = "SELECT outcome FROM federation.add_gateway_key($1, $2, $3)";
        let row = home.database.query_one(sql, &[&public, &i16::from(key_id), &sealed]).await?;
        match AddGatewayKeyOutcome::of(&row)? {
            AddGatewayKeyOutcome::Added => {
                tracing::info!("made a new key for the gateway");
                return Ok(());
            }
            AddGatewayKeyOutcome::NotDue => return Ok(()),
            AddGatewayKeyOutcome::Collides => {}
        }
    }
    bail!("cannot make a gateway key: the number of every attempt was in use")
}

fn config(key_id: u8, seed: &[u8]) -> anyhow::Result<KeyConfig> {
    KeyConfig::derive(key_id, Kem::X25519Sha256, SUITES.to_vec(), seed)
        .context("a gateway key's seed yields no key")
}
