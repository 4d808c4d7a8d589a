//! The keys of the DS as external sender (RFC 9420 §12.1.8, DS-10): every group carries one from its creation, until an
//! admin's client puts a newer one in its place, and proposals of the DS are signed with it. A key lasts as long as the
//! groups that carry it; the database keeps it sealed under the master key.

use std::sync::Arc;

use anyhow::Context;
use openmls::prelude::{BasicCredential, Credential, ExternalSender};
use postern_protocol::{MlsMessage, PublicKey, key::SigningKey, name::Domain};
use tls_codec::{Serialize as _, TlsSerialize, TlsSize, VLBytes};

use crate::{
    database::{DatabaseError, SqlOutcome, outcome},
    home::Home,
    keys::Held,
};

/// The purpose under which the master key seals these keys.
const PURPOSE: &str = "DS external sender key";

outcome! {
    pub AddSenderKeyOutcome: "ds.add_sender_key_outcome" {
        Added = "added",
        NotDue = "not_due",
    }
}

/// The keys in the memory of this process.
pub struct ExternalSenderKeys(Held<Keys>);

/// All keys that groups of this server may carry, at one moment.
pub struct Keys {
    /// The newest first.
    keys: Vec<SenderKey>,
}

struct SenderKey {
    public_key: PublicKey,
    /// None for a key that is revoked, or another process's.
    key: Option<SigningKey>,
    /// False for a key that is revoked.
    is_good: bool,
    extension: ExternalSender,
}

impl ExternalSenderKeys {
    /// Loads the keys, after making one if it is due. Several processes can do this at once: the database accepts one
    /// new key.
    ///
    /// # Errors
    /// A database that does not answer, keys of another master key.
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(Held::new(Keys::load(home).await?)))
    }

    /// The key of another process, which accepts it and signs nothing with it.
    pub fn of(public_key: PublicKey, home: &Domain) -> Self {
        let key = SenderKey { public_key, key: None, is_good: true, extension: extension(public_key, home) };
        Self(Held::new(Keys { keys: vec![key] }))
    }

    /// Loads the keys again, after making one if it is due.
    ///
    /// # Errors
    /// As [`Self::load`]; the keys stay as they are.
    pub async fn renew(&self, home: &Home) -> anyhow::Result<()> {
        self.0.replace(Keys::load(home).await?);
        Ok(())
    }

    /// The keys as they are now.
    pub fn now(&self) -> Arc<Keys> {
        self.0.now()
    }

    /// Looks for keys that another process made, and returns whether there is one; not more than once a second.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn look_again(&self, home: &Home) -> Result<bool, DatabaseError> {
        let known = self.now().current();
        let newer = |keys: &Keys| (keys.current() != known).then_some(());
        Ok(self.0.find(newer, self.renew(home)).await?.is_some())
    }
}

impl Keys {
    async fn load(home: &Home) -> anyhow::Result<Self> {
        let load = "SELECT public_key, sealed_seed, replaced FROM ds.load_sender_keys()";
        let mut rows = home.database.query(load, &[]).await?;
        if rows.iter().all(|row| row.get("replaced")) {
            let key = SigningKey::generate();
            let public = key.public_key();
            let sealed = home.master_key.seal(PURPOSE, public.as_bytes(), key.seed());
            let add = "SELECT outcome FROM ds.add_sender_key($1, $2)";
            let row = home.database.query_one(add, &[&public.as_bytes().as_slice(), &sealed]).await?;
            if AddSenderKeyOutcome::of(&row)? == AddSenderKeyOutcome::Added {
                tracing::info!("made a new external sender key");
            }
            rows = home.database.query(load, &[]).await?;
        }
        let mut keys = Vec::new();
        for row in &rows {
            let public: &[u8] = row.get("public_key");
            let open = |sealed: &[u8]| {
                let seed = home
                    .master_key
                    .open(PURPOSE, public, sealed)
                    .context("the DS's external sender key does not open under this master key")?;
                anyhow::Ok(SigningKey::from_seed(seed.as_slice().try_into()?))
            };
            let key = row.get::<_, Option<&[u8]>>("sealed_seed").map(open).transpose()?;
            let (public_key, is_good) = (PublicKey::try_from(public)?, key.is_some());
            keys.push(SenderKey { public_key, key, is_good, extension: extension(public_key, &home.domain) });
        }
        anyhow::ensure!(
            keys.first().is_some_and(|newest| newest.is_good),
            "the DS has no external sender key although one was added"
        );
        Ok(Self { keys })
    }

    /// The key that new groups carry.
    pub fn current(&self) -> PublicKey {
        self.keys.first().expect("it was loaded with one").public_key
    }

    /// The key that a group is to have in place of the one that it carries; none if that is the current one, or made by
    /// another process since these keys were loaded.
    pub fn successor_of(&self, carried: &ExternalSender) -> Option<PublicKey> {
        let is_older = self.keys.iter().skip(1).any(|key| key.extension == *carried);
        is_older.then(|| self.current())
    }

    /// Whether a group may begin with this external sender, or take it: it has a key of the DS that is not revoked.
    pub fn accept(&self, sender: &ExternalSender) -> bool {
        self.keys.iter().any(|key| key.is_good && key.extension == *sender)
    }

    /// The proposal to remove a leaf, signed with the key that the group carries; none if the DS
    /// does not have that key, or has revoked it.
    pub fn propose_removal(
        &self,
        carried: &ExternalSender,
        group_id: &[u8],
        epoch: u64,
        leaf: u32,
    ) -> Option<MlsMessage> {
        let key = self.keys.iter().find(|key| key.extension == *carried)?.key.as_ref()?;
        Some(propose_removal(key, group_id, epoch, leaf))
    }
}

/// The external sender of a key: its credential is a basic one with the server's domain.
fn extension(key: PublicKey, home: &Domain) -> ExternalSender {
    let credential = Credential::from(BasicCredential::new(home.as_str().as_bytes().to_vec()));
    ExternalSender::new(key.as_bytes().as_slice().into(), credential)
}

/// The `PublicMessage` of an external sender, up to its signature (RFC 9420 §6). openmls makes one only with a whole
/// storage provider.
#[derive(TlsSize, TlsSerialize)]
struct ToBeSigned {
    version: u16,
    wire_format: u16,
    group_id: VLBytes,
    epoch: u64,
    sender_type: u8,
    sender_index: u32,
    authenticated_data: VLBytes,
    content_type: u8,
    proposal_type: u16,
    removed: u32,
}

/// `SignContent`, the bytes that a signature covers (RFC 9420 §5.1.2).
#[derive(TlsSize, TlsSerialize)]
struct SignContent {
    label: VLBytes,
    content: VLBytes,
}

fn propose_removal(key: &SigningKey, group_id: &[u8], epoch: u64, leaf: u32) -> MlsMessage {
    const MLS10: u16 = 1;
    const PUBLIC_MESSAGE: u16 = 1;
    const EXTERNAL: u8 = 2;
    const PROPOSAL: u8 = 2;
    const REMOVE: u16 = 3;
    let content = ToBeSigned {
        version: MLS10,
        wire_format: PUBLIC_MESSAGE,
        group_id: group_id.to_vec().into(),
        epoch,
        sender_type: EXTERNAL,
        sender_index: 0,
        authenticated_data: Vec::new().into(),
        content_type: PROPOSAL,
        proposal_type: REMOVE,
        removed: leaf,
    };
    let mut message = content.tls_serialize_detached().expect("it serialises into memory");
    let label = b"MLS 1.0 FramedContentTBS".to_vec().into();
    let signed = SignContent { label, content: message.clone().into() };
    let signature = key.sign(&signed.tls_serialize_detached().expect("it serialises into memory"));
    let signature = VLBytes::from(signature.as_bytes().to_vec());
    message.extend(signature.tls_serialize_detached().expect("it serialises into memory"));
    MlsMessage::new(message)
}
