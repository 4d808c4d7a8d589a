//! The keys of the DS as external sender (RFC 9420 §12.1.8, DS-10): every group carries one from its creation, and
//! proposals of the DS are signed with it. A key lasts as long as the groups that carry it; the database keeps it sealed
//! under the master key.

use anyhow::Context;
use openmls::prelude::{BasicCredential, Credential, ExternalSender};
use postern_protocol::{MlsMessage, PublicKey, key::SigningKey, name::Domain};
use tls_codec::{Serialize as _, TlsSerialize, TlsSize, VLBytes};

use crate::home::Home;

const PURPOSE: &str = "DS external sender key";

/// All keys that groups of this server carry, the newest first.
pub struct ExternalSenderKeys {
    keys: Vec<SigningKey>,
    extensions: Vec<ExternalSender>,
}

impl ExternalSenderKeys {
    /// Loads the keys, after making one if there is none. Several processes can do this at once:
    /// the database accepts one first key.
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        let load = "SELECT public_key, sealed_seed FROM ds.load_sender_keys()";
        let mut rows = home.database.query(load, &[]).await?;
        if rows.is_empty() {
            let key = SigningKey::generate();
            let public = key.public_key();
            let sealed = home.master_key.seal(PURPOSE, public.as_bytes(), key.seed());
            home.database
                .query_one("SELECT ds.add_sender_key($1, $2)", &[&public.as_bytes().as_slice(), &sealed])
                .await?;
            rows = home.database.query(load, &[]).await?;
        }
        let mut keys = Vec::new();
        for row in &rows {
            let seed = home
                .master_key
                .open(PURPOSE, row.get("public_key"), row.get("sealed_seed"))
                .context("the DS's external sender key does not open under this master key")?;
            keys.push(SigningKey::from_seed(seed.as_slice().try_into()?));
        }
        anyhow::ensure!(!keys.is_empty(), "the DS has no external sender key although one was added");
        let extensions = keys.iter().map(|key| extension(key.public_key(), &home.domain)).collect();
        Ok(Self { keys, extensions })
    }

    /// The key that new groups carry.
    pub fn current(&self) -> PublicKey {
        self.keys[0].public_key()
    }

    /// The external senders, one for each key, as groups carry them in their context.
    pub fn extensions(&self) -> &[ExternalSender] {
        &self.extensions
    }

    /// The proposal to remove a leaf, signed with the key that the group carries; none if the DS
    /// does not have that key.
    pub fn propose_removal(
        &self,
        carried: &ExternalSender,
        group_id: &[u8],
        epoch: u64,
        leaf: u32,
    ) -> Option<MlsMessage> {
        let place = self.extensions.iter().position(|extension| extension == carried)?;
        Some(propose_removal(&self.keys[place], group_id, epoch, leaf))
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
