//! Group state at rest (DS-9): blobs that are padded and sealed under the key that members send with every request and
//! the server forgets. Each group has two, the roster (enough for an application message) and the tree (enough for a
//! commit), and for a while one tree for the joiners of each epoch that began with an Add.
//!
//! `format (1) || envelope of length (4, LE) || content || zeros` (see [`sealed`]), with the group's id, its epoch, its
//! revision and the blob's kind as associated data. The format is the one of this layout and of the contents that
//! [`super::group`] and [`super::roster`] write; [`Release`] says which ones there are.

use aws_lc_rs::hmac;
use postern_protocol::{
    PublicKey, StateKey,
    label::Label,
    sealed::{self, NONCE_LEN, SealingKey},
};
use zeroize::Zeroizing;

use crate::database::release::Release;

const LENGTH: usize = 4;
const TAG: usize = 16;

/// The reason why a blob does not open.
#[derive(Debug, PartialEq, Eq)]
pub enum Closed {
    /// The client sent another key than the one it is sealed under.
    WrongKey,
    /// A later release wrote it, in a format that this one does not read. Nobody's key is at fault.
    UnknownFormat(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Roster,
    Tree,
    /// The ratchet tree of an epoch that began with an Add.
    WelcomeTree,
}

/// The identity of a blob: which state of which group it holds.
#[derive(Debug, Clone, Copy)]
pub struct BlobId<'a> {
    pub group_id: &'a [u8; 16],
    pub epoch: u64,
    /// Counts changes within the epoch (proposals).
    pub revision: i32,
    pub kind: Kind,
}

impl BlobId<'_> {
    fn associated_data(self) -> Vec<u8> {
        let kind: u8 = match self.kind {
            Kind::Roster => 1,
            Kind::Tree => 2,
            Kind::WelcomeTree => 3,
        };
        let mut data = Label::GROUP_BLOB.as_bytes().to_vec();
        data.push(kind);
        data.extend_from_slice(self.group_id);
        data.extend_from_slice(&self.epoch.to_be_bytes());
        data.extend_from_slice(&self.revision.to_be_bytes());
        data
    }
}

/// # Panics
/// Never: the content is bounded by the body limit, far below what AES-GCM seals.
pub fn seal(key: &StateKey, id: BlobId<'_>, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("group state is smaller than 4 GB");
    let size = padded(LENGTH + content.len());
    let mut blob = Vec::with_capacity(1 + size + sealed::OVERHEAD);
    blob.push(Release::of_this_process().group_state().writes);
    blob.extend_from_slice(&[0; NONCE_LEN]);
    blob.extend_from_slice(&length.to_le_bytes());
    blob.extend_from_slice(content);
    blob.resize(1 + NONCE_LEN + size, 0);
    sealing_key(key)
        .seal_in_place(&id.associated_data(), &mut blob, 1)
        .expect("the operating system provides randomness");
    blob
}

/// Opens a blob.
///
/// # Errors
/// [`Closed::WrongKey`], also for a blob with another id: the two cannot be told apart.
pub fn open(key: &StateKey, id: BlobId<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let (format, envelope) = blob.split_first().ok_or(Closed::WrongKey)?;
    if !Release::of_this_process().group_state().reads.contains(format) {
        return Err(Closed::UnknownFormat(*format));
    }
    let content = sealing_key(key).open(&id.associated_data(), envelope).map_err(|_| Closed::WrongKey)?;
    let mut content = Zeroizing::new(content);
    let length = content.first_chunk::<LENGTH>().ok_or(Closed::WrongKey)?;
    let end = LENGTH + u32::from_le_bytes(*length) as usize;
    content.truncate(end);
    content.drain(..LENGTH);
    Ok(content)
}

/// Tag under which the database finds the tree kept for a joiner: HMAC-SHA256(state key, "Postern joiner" || 0 ||
/// epoch || leaf key), cut to 16 bytes. It reveals nothing without the group's key.
pub fn joiner_tag(key: &StateKey, epoch: u64, leaf_key: &PublicKey) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut message = Label::JOINER.as_bytes().to_vec();
    message.extend_from_slice(&epoch.to_be_bytes());
    message.extend_from_slice(leaf_key.as_bytes());
    hmac::sign(&key, &message).as_ref()[..TAG].to_vec()
}

fn sealing_key(key: &StateKey) -> SealingKey {
    SealingKey::new(key.as_bytes()).expect("any 32 bytes are a key")
}

/// A length padded by Padmé: at most 12 % more, and only the order of magnitude of the size remains visible.
fn padded(length: usize) -> usize {
    const SMALLEST: usize = 512;
    let length = length.max(SMALLEST);
    let exponent = length.ilog2();
    let low_bits = exponent - (exponent.ilog2() + 1);
    length.next_multiple_of(1 << low_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [4; 16];
    const BLOB: BlobId<'static> = BlobId { group_id: &ID, epoch: 3, revision: 0, kind: Kind::Roster };

    #[test]
    fn state_opens_with_its_key_and_as_itself_only() {
        let key = StateKey::new([1; 32]);
        let blob = seal(&key, BLOB, b"content");
        assert_eq!(open(&key, BLOB, &blob).unwrap().as_slice(), b"content");
        assert_eq!(open(&StateKey::new([2; 32]), BLOB, &blob), Err(Closed::WrongKey));
        for other in [
            BlobId { epoch: 4, ..BLOB },
            BlobId { revision: 1, ..BLOB },
            BlobId { kind: Kind::Tree, ..BLOB },
            BlobId { kind: Kind::WelcomeTree, ..BLOB },
            BlobId { group_id: &[5; 16], ..BLOB },
        ] {
            assert_eq!(open(&key, other, &blob), Err(Closed::WrongKey));
        }
        assert_eq!(open(&key, BLOB, &blob[..20]), Err(Closed::WrongKey));
    }

    #[test]
    fn a_format_of_a_later_release_is_no_wrong_key() {
        let key = StateKey::new([1; 32]);
        let mut blob = seal(&key, BLOB, b"content");
        blob[0] = 200;
        assert_eq!(open(&key, BLOB, &blob), Err(Closed::UnknownFormat(200)));
    }

    #[test]
    fn sizes_fall_into_classes() {
        assert_eq!(padded(1), padded(200));
        for length in [513, 1_000, 29_000, 290_000] {
            let padded = padded(length);
            assert!(padded >= length && padded - length <= length * 12 / 100, "{length}");
        }
        let classes: std::collections::BTreeSet<_> = (20_000..40_000).map(padded).collect();
        assert!(classes.len() < 40, "{}", classes.len());
    }
}
