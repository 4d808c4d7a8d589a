//! Rules for the leaves that a commit leads to (DS-6, DS-14). The DS and every member judge by this code: a commit that the
//! DS accepted and members' clients refused would put all of them out of the group.

use std::collections::{HashMap, HashSet};

use crate::{
    Address, PublicKey,
    mls::{Pseudonym, UserKey},
};

/// A leaf, as far as these rules depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLeaf {
    pub leaf_key: PublicKey,
    pub pseudonym: Pseudonym,
    /// The address without its domain, which anybody can name: addresses are random, so that nobody has another's by
    /// chance, at whatever homeserver.
    pub address: Address,
    pub user_key: Option<UserKey>,
}

/// The rule that leaves break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenRule {
    AddressShared,
    /// A user has two keys of one generation.
    TwoUserKeys,
    /// A user's key is gone though leaves that had it stay, or is replaced by one that is not newer.
    UserKeyTakenBack,
    /// The generation of a user's new key is too far ahead of the epoch.
    UserKeyAhead,
}

/// Checks the leaves after a commit, given those before it: those that stay in their places, as they were, and those that
/// the commit removes. The key of a removed leaf counts no longer, unless its client comes back with the same leaf key.
///
/// # Errors
/// The first rule that is broken.
pub fn check_leaves(
    staying: &[GroupLeaf],
    removed: &[GroupLeaf],
    after: &[GroupLeaf],
) -> Result<(), BrokenRule> {
    let mut addresses = HashSet::new();
    if !after.iter().all(|leaf| addresses.insert(leaf.address)) {
        return Err(BrokenRule::AddressShared);
    }
    let mut keys = HashMap::new();
    for leaf in after {
        if let Some(key) = leaf.user_key
            && *keys.entry((leaf.pseudonym, key.generation)).or_insert(key.public_key) != key.public_key
        {
            return Err(BrokenRule::TwoUserKeys);
        }
    }
    let there: HashSet<_> = after.iter().map(|leaf| (leaf.pseudonym, leaf.leaf_key)).collect();
    let comes_back = |leaf: &&GroupLeaf| there.contains(&(leaf.pseudonym, leaf.leaf_key));
    let new = user_keys(after.iter());
    for (user, old) in user_keys(staying.iter().chain(removed.iter().filter(comes_back))) {
        if !new.get(&user).is_some_and(|new| new.generation > old.generation || *new == old) {
            return Err(BrokenRule::UserKeyTakenBack);
        }
    }
    Ok(())
}

/// Checks the generations of the users' keys that come with an epoch, given the keys that leaves have before and after: a
/// client that took the last number that there is could be removed by nobody of its user any more. A user's key that is
/// there already stays, whatever its generation.
///
/// # Errors
/// [`BrokenRule::UserKeyAhead`].
pub fn check_generations(
    before: &[(Pseudonym, UserKey)],
    after: &[(Pseudonym, UserKey)],
    epoch: u64,
) -> Result<(), BrokenRule> {
    let latest = UserKey::latest_generation(epoch);
    let mut ahead = after.iter().filter(|(_, key)| key.generation > latest);
    if ahead.all(|key| before.contains(key)) { Ok(()) } else { Err(BrokenRule::UserKeyAhead) }
}

/// The keys of the users that have one: those of the highest generations.
fn user_keys<'a>(leaves: impl Iterator<Item = &'a GroupLeaf>) -> HashMap<Pseudonym, UserKey> {
    let mut keys: HashMap<Pseudonym, UserKey> = HashMap::new();
    for leaf in leaves {
        let Some(key) = leaf.user_key else { continue };
        if keys.get(&leaf.pseudonym).is_none_or(|found| found.generation < key.generation) {
            keys.insert(leaf.pseudonym, key);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: Pseudonym = Pseudonym([1; 16]);
    const CAROL: Pseudonym = Pseudonym([2; 16]);

    fn key(generation: u32, which: u8) -> Option<UserKey> {
        Some(UserKey { generation, public_key: PublicKey::new([which; 32]) })
    }

    /// A leaf whose key and address are of this number.
    fn leaf(number: u8, pseudonym: Pseudonym, user_key: Option<UserKey>) -> GroupLeaf {
        let (leaf_key, address) = (PublicKey::new([number; 32]), Address::new([number; 32]));
        GroupLeaf { leaf_key, pseudonym, address, user_key }
    }

    #[test]
    fn an_address_is_one_leafs() {
        let (bob, carol) = (leaf(1, BOB, None), leaf(2, CAROL, None));
        assert_eq!(check_leaves(&[bob], &[], &[bob, carol]), Ok(()));
        let taken = GroupLeaf { address: bob.address, ..carol };
        assert_eq!(check_leaves(&[bob], &[], &[bob, taken]), Err(BrokenRule::AddressShared));
        assert_eq!(check_leaves(&[], &[bob], &[taken]), Ok(()), "one that goes leaves it free");
    }

    #[test]
    fn a_users_key_is_one_in_each_generation_and_only_a_newer_one_replaces_it() {
        let stays = |new| check_leaves(&[leaf(1, BOB, key(1, 7))], &[], &[leaf(1, BOB, new)]);
        assert_eq!([stays(key(1, 7)), stays(key(2, 8))], [Ok(()); 2]);
        for worse in [None, key(0, 6), key(1, 8)] {
            assert_eq!(stays(worse), Err(BrokenRule::UserKeyTakenBack), "{worse:?}");
        }
        let two = [leaf(1, BOB, key(1, 7)), leaf(2, BOB, key(1, 8))];
        assert_eq!(check_leaves(&[], &[], &two), Err(BrokenRule::TwoUserKeys));
        let of_two_users = [two[0], GroupLeaf { pseudonym: CAROL, ..two[1] }];
        assert_eq!(check_leaves(&[], &[], &of_two_users), Ok(()));
    }

    #[test]
    fn the_key_of_a_leaf_that_goes_counts_no_longer_and_that_of_one_that_comes_back_does() {
        let (gone, stays) = (leaf(1, BOB, key(5, 7)), leaf(2, BOB, key(0, 6)));
        assert_eq!(check_leaves(&[stays], &[gone], &[stays]), Ok(()));
        assert_eq!(check_leaves(&[], &[gone], &[gone]), Ok(()));
        let newer = GroupLeaf { user_key: key(6, 8), ..gone };
        assert_eq!(check_leaves(&[], &[gone], &[newer]), Ok(()));
        for worse in [None, key(0, 6), key(4, 8), key(5, 8)] {
            let back = GroupLeaf { user_key: worse, ..gone };
            assert_eq!(check_leaves(&[stays], &[gone], &[stays, back]), Err(BrokenRule::UserKeyTakenBack));
        }
        // Another user with the key of a leaf that goes is nobody who comes back.
        let heir = GroupLeaf { pseudonym: CAROL, user_key: None, ..gone };
        assert_eq!(check_leaves(&[], &[gone], &[heir]), Ok(()));
    }

    #[test]
    fn a_new_user_key_is_not_far_ahead_of_the_epoch_that_it_comes_with() {
        let bobs = |generation| (BOB, key(generation, 7).unwrap());
        let carols = (CAROL, key(7, 8).unwrap());
        let check = |generation, epoch| check_generations(&[carols], &[carols, bobs(generation)], epoch);
        for epoch in [1, 2, 100_000] {
            let latest = UserKey::latest_generation(epoch);
            assert_eq!(check(latest, epoch), Ok(()));
            assert_eq!(check(latest + 1, epoch), Err(BrokenRule::UserKeyAhead));
            assert_eq!(check(latest + 1, epoch + 1), Ok(()), "whatever came before, there is a later one");
            assert_eq!(check(u32::MAX, epoch), Err(BrokenRule::UserKeyAhead));
        }
        // A key that is there already freezes nothing, but is nobody else's.
        let last = bobs(u32::MAX);
        for after in [[last, carols], [last, last]] {
            assert_eq!(check_generations(&[last], &after, 3), Ok(()));
        }
        let taken = (CAROL, last.1);
        assert_eq!(check_generations(&[last], &[last, taken], 3), Err(BrokenRule::UserKeyAhead));
    }
}
