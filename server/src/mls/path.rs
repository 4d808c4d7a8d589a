//! The length of a commit's path (RFC 9420 §7.6): the committer's new leaf and, for each node above it, a key and one
//! ciphertext for each key in the resolution of the node's other child (§4.1.1). Nodes are blank until a member below
//! them has committed, and again when one below them goes: in a group whose members were all added at once a path is as
//! long as the group is large. Members of a group that is too large for the operator's limits could not commit at all.

use std::collections::BTreeMap;

use openmls::prelude::{Ciphersuite, HpkeKemType, LeafNode, LeafNodeIndex, PublicGroup};
use tls_codec::{Deserialize as _, Serialize as _, Size as _, TlsDeserialize, TlsSize, VLBytes};

use super::CorruptGroup;

/// Bytes of a commit but for its path and the proposals that it takes along, at most: framing, signature and tags, the
/// voucher and the secret of an external commit.
pub const FRAME: usize = 2048;
/// Nodes above a leaf, at most: a group has 5,000 members at most (`ds.settings`), who take the first free leaves.
const DEEPEST: usize = 13;
/// Bytes that a leaf gets longer by when its client commits: the hash of its parent (RFC 9420 §7.9), and its length.
const PARENT_HASH: usize = 33;

/// Lengths in bytes on the wire.
struct Lengths {
    /// A node's key.
    key: usize,
    /// One `HPKECiphertext`.
    ciphertext: usize,
}

impl Lengths {
    fn of(suite: Ciphersuite) -> Self {
        // The lengths of a key and of the secret that its KEM sends along.
        let (key, kem_output) = match suite.hpke_kem_algorithm() {
            HpkeKemType::DhKem25519 => (32, 32),
            // No supported ciphersuite has another one.
            _ => (1216, 1120),
        };
        // A path secret is a hash, and a ciphertext has a tag.
        let ciphertext = suite.hash_length() + suite.mac_length();
        Self { key: vector(key), ciphertext: vector(kem_output) + vector(ciphertext) }
    }

    /// Bytes of a node with so many ciphertexts.
    fn node(&self, ciphertexts: usize) -> usize {
        self.key + vector(ciphertexts * self.ciphertext)
    }
}

/// Bytes of a vector with its length before it (RFC 9420 §2.1.2).
fn vector(bytes: usize) -> usize {
    bytes
        + match bytes {
            0..64 => 1,
            64..16384 => 2,
            _ => 4,
        }
}

/// The most bytes that a commit of a group with so many members can have, whichever of its nodes are blank, but for the
/// proposals that it takes along by reference. One that removes a member is shorter than the ciphertext for that member. The
/// committer's leaf has `leaf` bytes at most.
pub fn largest_commit(suite: Ciphersuite, members: usize, leaf: usize) -> usize {
    FRAME + longest(suite, members, leaf)
}

/// The most bytes that a path can have in a group with so many members, whichever of its nodes are blank, with a leaf of `leaf`
/// bytes at most.
pub fn longest(suite: Ciphersuite, members: usize, leaf: usize) -> usize {
    let (lengths, ciphertexts) = (Lengths::of(suite), members.saturating_sub(1));
    let nodes = ciphertexts.min(DEEPEST);
    // The vector's length, and that of each node's vector.
    leaf + 4 + nodes * (lengths.key + 4) + ciphertexts * lengths.ciphertext
}

/// A tree with as much of it as paths depend on.
pub struct Tree {
    lengths: Lengths,
    /// Bytes of each leaf.
    leaves: BTreeMap<u32, usize>,
    /// The number of unmerged leaves of each node above them that is not blank, by level (from 1) and place.
    parents: BTreeMap<(u32, u32), usize>,
    /// The level of the root.
    depth: u32,
}

/// `ParentNode` (RFC 9420 §7.1).
#[derive(TlsDeserialize, TlsSize)]
struct ParentNode {
    _encryption_key: VLBytes,
    _parent_hash: VLBytes,
    unmerged_leaves: Vec<u32>,
}

impl Tree {
    /// The tree of a group.
    ///
    /// # Errors
    /// [`CorruptGroup`].
    pub fn of(group: &PublicGroup) -> Result<Self, CorruptGroup> {
        let tree = group.treesync();
        let leaves: BTreeMap<u32, usize> =
            tree.full_leaves().map(|(index, leaf)| (index.u32(), leaf.tls_serialized_len())).collect();
        let mut parents = BTreeMap::new();
        for (index, node) in tree.full_parents() {
            let bytes = node.tls_serialize_detached().map_err(|_| CorruptGroup)?;
            let node = ParentNode::tls_deserialize_exact(bytes).map_err(|_| CorruptGroup)?;
            // A node's number among all nodes ends with as many ones as its level says (RFC 9420 Appendix C).
            let number = index.u32() * 2 + 1;
            let level = number.trailing_ones();
            parents.insert((level, number >> (level + 1)), node.unmerged_leaves.len());
        }
        let width = leaves.last_key_value().map_or(1, |(last, _)| last + 1).next_power_of_two();
        let lengths = Lengths::of(group.ciphersuite());
        Ok(Self { lengths, leaves, parents, depth: width.ilog2() })
    }

    /// A leaf goes.
    pub fn remove(&mut self, leaf: LeafNodeIndex) {
        self.leaves.remove(&leaf.u32());
        self.blank_above(leaf);
    }

    /// A leaf is replaced by an Update.
    pub fn update(&mut self, leaf: LeafNodeIndex, by: &LeafNode) {
        self.leaves.insert(leaf.u32(), by.tls_serialized_len());
        self.blank_above(leaf);
    }

    fn blank_above(&mut self, leaf: LeafNodeIndex) {
        for level in 1..=self.depth {
            self.parents.remove(&(level, leaf.u32() >> level));
        }
    }

    /// The bytes of the path by which each leaf would commit.
    pub fn paths(&self) -> BTreeMap<LeafNodeIndex, usize> {
        let resolutions = self.resolutions();
        let path = |leaf: u32| {
            let beside = (0..self.depth).map(|level| {
                let place = (leaf >> level) ^ 1;
                resolutions.get(&(level, place)).copied().unwrap_or_default()
            });
            // A node is left out if there is nobody on its other side.
            beside.filter(|keys| *keys > 0).map(|keys| self.lengths.node(keys)).sum::<usize>()
        };
        let paths = self
            .leaves
            .iter()
            .map(|(leaf, bytes)| (LeafNodeIndex::new(*leaf), bytes + PARENT_HASH + vector(path(*leaf))));
        paths.collect()
    }

    /// The number of keys in the resolution of each node that has some, by level and place.
    fn resolutions(&self) -> BTreeMap<(u32, u32), usize> {
        let mut resolutions: BTreeMap<_, usize> = self.leaves.keys().map(|leaf| ((0, *leaf), 1)).collect();
        for level in 1..=self.depth {
            let below: Vec<_> =
                resolutions.range((level - 1, 0)..(level, 0)).map(|(at, keys)| (at.1, *keys)).collect();
            for (place, keys) in below {
                *resolutions.entry((level, place >> 1)).or_default() += keys;
            }
            for ((_, place), unmerged) in self.parents.range((level, 0)..(level + 1, 0)) {
                resolutions.insert((level, *place), 1 + unmerged);
            }
        }
        resolutions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_limits_hold_a_group_as_large_as_they_allow() {
        // As in the constraints of ds.settings.
        let suite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
        for leaf in [2048, 4096, 16_384] {
            for members in 2..=5000 {
                assert!(
                    largest_commit(suite, members, leaf) <= 83 * members + leaf + 4096,
                    "{members}, {leaf}"
                );
            }
        }
    }

    #[test]
    fn who_leaves_makes_the_commit_shorter_than_its_reference_makes_it_longer() {
        const REFERENCE: usize = 34;
        for suite in [
            Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
            Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
        ] {
            for members in 2..=5000 {
                let shorter = largest_commit(suite, members, 4096) - largest_commit(suite, members - 1, 4096);
                assert!(shorter > REFERENCE, "{members}");
            }
        }
    }
}
