//! Public keys that members encrypt to: of leaves, of the nodes above them, of KeyPackages and of a group as a whole
//! (`external_pub`). openmls takes any bytes for one. But a committer encrypts to all keys in the tree: where that
//! fails, nobody can commit until the key is gone, and some libraries panic. And no two nodes of a tree may have one key:
//! where two have, nobody can come in until one of them is gone.

use std::collections::BTreeSet;

use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};
use openmls::prelude::{
    Ciphersuite, ContentType, HpkeKemType, KeyPackage, LeafNode, Proposal, PublicGroup, PublicMessageIn,
    Sender, UpdateProposalIn,
};
use tls_codec::{Deserialize as _, Error, Serialize as _, TlsDeserialize, TlsSize, VLBytes};

use super::InvalidMls;

/// Length in bytes of the ML-KEM-768 key that an X-Wing key begins with; the X25519 key follows
/// (draft-connolly-cfrg-xwing-kem §5.2).
const ML_KEM: usize = 1184;

/// The u-coordinates of the points of small order, without the ignored top bit, also as they are spelt beyond the prime
/// 2^255 - 19: DHKEM refuses the secret that they yield, zero (RFC 9180 §7.1.4, RFC 7748 §6.1).
const SMALL_ORDER: [[u8; 32]; 7] = [
    low(0, 0, 0),
    low(1, 0, 0),
    // Two points of order 8.
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    // The prime less one, itself, and one more.
    low(0xec, 0xff, 0x7f),
    low(0xed, 0xff, 0x7f),
    low(0xee, 0xff, 0x7f),
];

const fn low(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut point = [between; 32];
    (point[0], point[31]) = (first, last);
    point
}

/// Checks that members can encrypt to a key.
///
/// # Errors
/// [`InvalidMls`] unless it is a public key of the ciphersuite's KEM that can be encrypted to.
pub fn check(suite: Ciphersuite, key: &[u8]) -> Result<(), InvalidMls> {
    let usable = match suite.hpke_kem_algorithm() {
        HpkeKemType::DhKem25519 => is_x25519(key),
        HpkeKemType::XWingKemDraft6 => key
            .split_at_checked(ML_KEM)
            .is_some_and(|(ml_kem, x25519)| is_ml_kem(ml_kem) && is_x25519(x25519)),
        // No supported ciphersuite has another KEM.
        _ => false,
    };
    if usable {
        Ok(())
    } else {
        Err(InvalidMls::Refused("one of the encryption keys is not a usable public key of the ciphersuite"))
    }
}

/// Checks the key of a leaf.
///
/// # Errors
/// [`InvalidMls`], as of [`check`].
pub fn check_leaf(suite: Ciphersuite, leaf: &LeafNode) -> Result<(), InvalidMls> {
    check(suite, of_leaf(leaf)?.as_slice())
}

/// Checks the keys of a KeyPackage.
///
/// # Errors
/// [`InvalidMls`], as of [`check`].
pub fn check_key_package(key_package: &KeyPackage) -> Result<(), InvalidMls> {
    check(key_package.ciphersuite(), key_package.hpke_init_key().as_slice())?;
    check_leaf(key_package.ciphersuite(), key_package.leaf_node())
}

/// Checks that no node above the leaves has one of the keys that a message brings. openmls compares new keys with each other
/// and with those of leaves; whoever joins compares the keys of all nodes (RFC 9420 §7.3, §12.4.3.1). A key of a node that
/// the same commit replaces is refused, too: a committer's new keys are new to the tree (§12.4.2).
///
/// # Errors
/// [`InvalidMls`] if a node has one of them.
pub fn check_new(group: &PublicGroup, keys: &[VLBytes]) -> Result<(), InvalidMls> {
    if keys.is_empty() {
        return Ok(());
    }
    let new: BTreeSet<&[u8]> = keys.iter().map(VLBytes::as_slice).collect();
    let mut node = Vec::new();
    for (_, parent) in group.treesync().full_parents() {
        node.clear();
        // A node begins with its key (RFC 9420 §7.1), which openmls does not expose.
        let written = parent.tls_serialize(&mut node);
        let key = written.and_then(|_| VLBytes::tls_deserialize(&mut node.as_slice()));
        let key = key.map_err(|_| InvalidMls::Malformed("ratchet tree"))?;
        if new.contains(key.as_slice()) {
            return Err(InvalidMls::Refused(
                "one of the encryption keys is that of another node of the tree",
            ));
        }
    }
    Ok(())
}

/// The key that a proposal gives a leaf of the tree.
///
/// # Errors
/// [`InvalidMls`], as of [`of_leaf`].
pub fn of_proposal(proposal: &Proposal) -> Result<Option<VLBytes>, InvalidMls> {
    match proposal {
        Proposal::Add(add) => of_leaf(add.key_package().leaf_node()).map(Some),
        Proposal::Update(update) => of_leaf(update.leaf_node()).map(Some),
        _ => Ok(None),
    }
}

/// The key of a leaf, whose bytes openmls shows in no other way.
///
/// # Errors
/// [`InvalidMls`] if it does not serialise.
pub fn of_leaf(leaf: &LeafNode) -> Result<VLBytes, InvalidMls> {
    let key = leaf.encryption_key().tls_serialize_detached();
    let key = key.and_then(|key| VLBytes::tls_deserialize_exact(&key));
    key.map_err(|_| InvalidMls::Malformed("leaf"))
}

/// The keys that a commit gives the nodes above its sender's leaf, which openmls does not expose. The message need not
/// be valid.
///
/// # Errors
/// [`InvalidMls`] if it is no commit after all.
pub fn of_path(message: &PublicMessageIn) -> Result<Vec<VLBytes>, InvalidMls> {
    if message.content_type() != ContentType::Commit {
        return Ok(Vec::new());
    }
    let path = message.tls_serialize_detached().and_then(|bytes| path(&bytes));
    let nodes = path.map_err(|_| InvalidMls::Malformed("commit"))?.map(|path| path.nodes);
    Ok(nodes.unwrap_or_default().into_iter().map(|node| node.encryption_key).collect())
}

/// The path of a `FramedContent` with a `Commit` (RFC 9420 §6, §12.4).
fn path(mut content: &[u8]) -> Result<Option<UpdatePath>, Error> {
    let content = &mut content;
    let _group_id = VLBytes::tls_deserialize(content)?;
    let _epoch = u64::tls_deserialize(content)?;
    let _sender = Sender::tls_deserialize(content)?;
    let _authenticated_data = VLBytes::tls_deserialize(content)?;
    let _content_type = u8::tls_deserialize(content)?;
    let _proposals = VLBytes::tls_deserialize(content)?;
    Option::tls_deserialize(content)
}

/// `UpdatePath` (RFC 9420 §7.6).
#[derive(TlsDeserialize, TlsSize)]
struct UpdatePath {
    /// An Update consists of a leaf node and nothing else.
    _leaf: UpdateProposalIn,
    nodes: Vec<UpdatePathNode>,
}

#[derive(TlsDeserialize, TlsSize)]
struct UpdatePathNode {
    encryption_key: VLBytes,
    _path_secrets: VLBytes,
}

fn is_x25519(key: &[u8]) -> bool {
    <[u8; 32]>::try_from(key).is_ok_and(|mut point| {
        point[31] &= 0x7f;
        !SMALL_ORDER.contains(&point)
    })
}

/// Whether this is an ML-KEM-768 key. Encrypting to it checks that all its numbers are below the modulus (FIPS 203
/// §7.2).
fn is_ml_kem(key: &[u8]) -> bool {
    EncapsulationKey::new(&ML_KEM_768, key).is_ok_and(|key| key.encapsulate().is_ok())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        agreement::{EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
        kem::DecapsulationKey,
        rand::SystemRandom,
    };

    use super::*;

    const DHKEM: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
    const XWING: Ciphersuite = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;

    fn x25519() -> Vec<u8> {
        let key = PrivateKey::generate(&X25519).unwrap();
        key.compute_public_key().unwrap().as_ref().to_vec()
    }

    fn ml_kem() -> Vec<u8> {
        let key = DecapsulationKey::generate(&ML_KEM_768).unwrap();
        key.encapsulation_key().unwrap().key_bytes().unwrap().as_ref().to_vec()
    }

    /// Whether a library gets another secret than zero.
    fn agrees(point: &[u8]) -> bool {
        let own = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        agree_ephemeral(own, UnparsedPublicKey::new(&X25519, point), (), |_| Ok(())).is_ok()
    }

    #[test]
    fn points_that_no_secret_can_be_agreed_on_with_are_refused_and_no_others() {
        for point in SMALL_ORDER {
            for top in [0, 0x80] {
                let mut point = point;
                point[31] |= top;
                assert!(!agrees(&point) && check(DHKEM, &point).is_err(), "{point:02x?}");
                // Their neighbours are of large order, but for those of the neighbouring entries.
                point[0] ^= 4;
                assert!(agrees(&point) && check(DHKEM, &point).is_ok(), "{point:02x?}");
            }
        }
        // All spellings beyond the prime.
        for first in 0xed..=0xff {
            let point = low(first, 0xff, 0x7f);
            assert_eq!(agrees(&point), check(DHKEM, &point).is_ok(), "{first:02x}");
        }
        for _ in 0..100 {
            check(DHKEM, &x25519()).unwrap();
        }
    }

    #[test]
    fn keys_have_the_length_and_the_numbers_of_their_kem() {
        let good = [ml_kem(), x25519()].concat();
        check(XWING, &good).unwrap();
        for bad in
            [&good[1..], &good[..ML_KEM], &[&good[..], &[0]].concat(), &[ml_kem(), vec![0; 32]].concat(), &[]]
        {
            assert!(check(XWING, bad).is_err(), "{}", bad.len());
        }
        let mut beyond = good.clone();
        // 3329, in twelve bits.
        (beyond[0], beyond[1]) = (0x01, beyond[1] & 0xf0 | 0x0d);
        assert!(check(XWING, &beyond).is_err());
        beyond[0] = 0;
        check(XWING, &beyond).unwrap();
        let key = x25519();
        for bad in [&key[1..], &[&key[..], &[0]].concat(), &good, &[]] {
            assert!(check(DHKEM, bad).is_err(), "{}", bad.len());
        }
    }
}
