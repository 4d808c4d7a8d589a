//! The devices in a group and its admins, as a device hands them over with the group to another one of its user. Whoever comes in
//! takes the group as the server shows it; by the roster it finds a device that the server made up, or a member with it.

use std::collections::HashMap;

use postern_protocol::{MessageDigest, Payload, PublicKey, label::Label, mls::Pseudonym};
use serde::{Deserialize, Serialize};

use super::{
    places::{self, UsersLeaf},
    rules::{self, Leaf},
    state::GroupState,
};
use crate::error::Result;

/// Bytes of a hash. Nobody who does not know the salt can look for another device that has the same one.
const SHORT: usize = 8;
/// The most hashes of a roster, so that it fits into a letter of 16 KiB. A group has up to 1,000 devices, unless its operator
/// lets it grow further.
const MOST: usize = 1400;

/// Short hashes of the devices in a group, each in its user's place, and of the admins.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Roster {
    salt: [u8; 32],
    devices: Payload,
    admins: Payload,
}

impl Roster {
    pub(super) fn of(group: &GroupState) -> Result<Self> {
        let own = group.own_leaf()?.pseudonym;
        let mut leaves = places::leaves(&rules::leaves(&group.mls));
        // Where there are too many, the user's own are told.
        leaves.sort_by_key(|(_, user)| *user != own);
        Ok(Self::made(rand::random(), &leaves, &group.admins()?))
    }

    pub(super) fn made(salt: [u8; 32], leaves: &[UsersLeaf], admins: &[Pseudonym]) -> Self {
        let mut roster = Self { salt, devices: Payload::default(), admins: Payload::default() };
        let admins: Vec<_> = admins.iter().take(MOST).map(|user| roster.admin(*user)).collect();
        let left = MOST - admins.len();
        let devices: Vec<_> =
            leaves.iter().take(left).map(|(leaf_key, user)| roster.device(leaf_key, *user)).collect();
        roster.devices = Payload::new(devices.concat());
        roster.admins = Payload::new(admins.concat());
        roster
    }

    /// Those of the leaves that are in it.
    pub(super) fn devices_among(&self, leaves: &HashMap<u32, Leaf>) -> HashMap<u32, Leaf> {
        let is_known = |leaf: &Leaf| contains(&self.devices, self.device(&leaf.leaf_key, leaf.pseudonym));
        let known = leaves.iter().filter(|(_, leaf)| is_known(leaf));
        known.map(|(index, leaf)| (*index, leaf.clone())).collect()
    }

    /// Those of the users that are admins in it.
    pub(super) fn admins_among(&self, users: &[Pseudonym]) -> Vec<Pseudonym> {
        users.iter().copied().filter(|user| contains(&self.admins, self.admin(*user))).collect()
    }

    /// Whether it has no room left: then devices may be missing in it, and which ones is chance.
    pub(super) fn is_full(&self) -> bool {
        self.devices.as_bytes().len() + self.admins.as_bytes().len() >= MOST * SHORT
    }

    fn device(&self, leaf_key: &PublicKey, user: Pseudonym) -> [u8; SHORT] {
        short(&Label::HANDOVER_ROSTER.followed_by(&[&self.salt, leaf_key.as_bytes(), &user.0]))
    }

    fn admin(&self, user: Pseudonym) -> [u8; SHORT] {
        short(&Label::HANDOVER_ROSTER.followed_by(&[&self.salt, &user.0]))
    }
}

fn short(input: &[u8]) -> [u8; SHORT] {
    let mut short = [0; SHORT];
    short.copy_from_slice(&MessageDigest::of(input).as_bytes()[..SHORT]);
    short
}

fn contains(hashes: &Payload, hash: [u8; SHORT]) -> bool {
    hashes.as_bytes().chunks_exact(SHORT).any(|known| known == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(leaf_key: u8, user: u8) -> Leaf {
        Leaf {
            leaf_key: PublicKey::new([leaf_key; 32]),
            pseudonym: Pseudonym([user; 16]),
            delivery: None,
            user_key: None,
        }
    }

    #[test]
    fn a_roster_knows_a_device_in_its_users_place_alone_and_no_member_for_an_admin() {
        let users = [1, 2].map(|user| Pseudonym([user; 16]));
        let here = HashMap::from([(0, leaf(10, 1)), (3, leaf(20, 2))]);
        let roster = Roster::made([7; 32], &places::leaves(&here), &users[..1]);
        let shown = HashMap::from([(0, leaf(10, 1)), (1, leaf(20, 1)), (2, leaf(30, 2)), (3, leaf(20, 2))]);
        assert_eq!(roster.devices_among(&shown), here);
        assert_eq!(roster.admins_among(&users), users[..1]);
    }

    #[test]
    fn a_roster_has_room_for_so_many_devices_and_admins_together() {
        let (device, admin) = ((PublicKey::new([1; 32]), Pseudonym([1; 16])), Pseudonym([1; 16]));
        for (devices, admins, is_full) in
            [(0, 0, false), (1398, 1, false), (1399, 1, true), (5000, 0, true), (0, 5000, true)]
        {
            let roster = Roster::made([7; 32], &vec![device; devices], &vec![admin; admins]);
            assert_eq!(roster.is_full(), is_full, "{devices} devices and {admins} admins");
        }
    }

    #[test]
    fn a_roster_of_the_largest_group_fits_into_a_letter() {
        let leaves: Vec<_> = (0..5000_u32)
            .map(|number| {
                let mut leaf_key = [0; 32];
                leaf_key[..4].copy_from_slice(&number.to_be_bytes());
                (PublicKey::new(leaf_key), Pseudonym([7; 16]))
            })
            .collect();
        let admins: Vec<_> = leaves.iter().map(|(_, user)| *user).collect();
        for admins in [&admins[..], &admins[..1], &[]] {
            let bytes = crate::store::encode(&Roster::made([7; 32], &leaves, admins)).len();
            assert!(bytes <= 12 * 1024, "{bytes} bytes");
        }
    }
}
