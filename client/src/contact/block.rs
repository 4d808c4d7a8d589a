//! Users that are blocked (QS-7), as all devices of this user know it: what each device decided is kept with its
//! time, and the later decision about a user counts. So lists of two devices, old ones too, merge into the same.

use std::collections::BTreeMap;

use postern_protocol::{PublicKey, name::UserName};
use serde::{Deserialize, Serialize};

use super::{
    contacts,
    friendship::{Friendship, FriendshipSecrets},
    news::{self, News},
    requests, rotation,
};
use crate::{account::Account, error::Result, identity, store::Tx};

/// Decisions about users, the latest of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks(BTreeMap<UserName, Block>);

/// A decision to block a user, or to do so no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Block {
    /// Seconds since 1970.
    time: u64,
    /// Of two decisions at one time, the one to block counts.
    blocked: bool,
    /// First client of the user's identity, if it was known: it stays when the user takes another name.
    founder: Option<PublicKey>,
}

impl Blocks {
    pub(super) fn contains(&self, user: &UserName) -> bool {
        self.0.get(user).is_some_and(|block| block.blocked)
    }

    /// Whether a blocked user has this identity, under whatever name.
    fn contains_founder(&self, founder: &PublicKey) -> bool {
        self.0.values().any(|block| block.blocked && block.founder.as_ref() == Some(founder))
    }

    pub(super) fn users(&self) -> impl Iterator<Item = &UserName> {
        self.0.iter().filter(|(_, block)| block.blocked).map(|(user, _)| user)
    }

    /// Decides about a user, after everything that was decided before.
    fn decide(&mut self, user: &UserName, blocked: bool, founder: Option<PublicKey>, now: u64) {
        let before = self.0.get(user).copied();
        let time = before.map_or(now, |before| now.max(before.time.saturating_add(1)));
        let founder = founder.or_else(|| before.and_then(|before| before.founder));
        self.0.insert(user.clone(), Block { time, blocked, founder });
    }

    /// Takes over the later decisions of another list. Returns whether there were any.
    pub(super) fn merge(&mut self, others: &Self) -> bool {
        let mut changed = false;
        for (user, block) in &others.0 {
            if self.0.get(user).is_none_or(|own| block > own) {
                self.0.insert(user.clone(), *block);
                changed = true;
            }
        }
        changed
    }
}

/// Blocks a user: takes another friendship token, and tells everyone but that user. Nothing that the user was given
/// or asks for is left.
pub(crate) fn block(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let mut secrets = Friendship::load(tx)?.secrets.clone();
    if secrets.is_blocked(user) {
        return Ok(());
    }
    let founder = identity::known(tx, user)?.map(|known| known.founder);
    secrets.blocks.decide(user, true, founder, tx.now());
    forget_blocked(tx, user)?;
    rotation::take_another_token(tx, &secrets)
}

/// Blocks a user no longer. That gives nothing back: the user may ask again.
pub(crate) fn unblock(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let mut friendship = Friendship::load(tx)?;
    if !friendship.secrets.is_blocked(user) {
        return Ok(());
    }
    friendship.secrets.blocks.decide(user, false, None, tx.now());
    friendship.save(tx)?;
    news::tell(tx, &Account::load(tx)?.user, &News::Secrets)
}

/// Takes back what a user was given, and forgets what the user asked for, because another device of this user blocked
/// the user or this one does.
pub(super) fn forget_blocked(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    contacts::decide(tx, user, false)?;
    news::forget(tx, user)?;
    requests::forget_received(tx, user)
}

/// Whether a user is blocked, also by another name that it had.
pub(super) fn is_blocked(tx: &Tx<'_>, secrets: &FriendshipSecrets, user: &UserName) -> Result<bool> {
    if secrets.is_blocked(user) {
        return Ok(true);
    }
    let known = identity::known(tx, user)?;
    Ok(known.is_some_and(|known| secrets.blocks.contains_founder(&known.founder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        format!("{name}@example.org").parse().unwrap()
    }

    #[test]
    fn decisions_of_two_devices_merge_into_the_same_and_an_old_list_undoes_nothing() {
        let (alice, bob) = (user("alice"), user("bob"));
        let mut old = Blocks::default();
        old.decide(&alice, true, None, 10);
        let (mut phone, mut laptop) = (old.clone(), old.clone());
        phone.decide(&alice, false, None, 20);
        laptop.decide(&bob, true, None, 15);
        assert!(phone.merge(&laptop) && laptop.merge(&phone));
        assert_eq!(phone, laptop);
        assert_eq!(phone.users().collect::<Vec<_>>(), [&bob]);
        assert!(!phone.merge(&old), "nothing in it is news");
        assert!(!phone.contains(&alice) && phone.contains(&bob));
    }

    #[test]
    fn the_last_decision_counts_though_a_clock_went_back() {
        let (alice, founder) = (user("alice"), PublicKey::new([7; 32]));
        let mut blocks = Blocks::default();
        blocks.decide(&alice, true, Some(founder), 100);
        assert!(blocks.contains_founder(&founder));
        let before = blocks.clone();
        blocks.decide(&alice, false, None, 50);
        assert!(!blocks.contains_founder(&founder));
        assert!(!blocks.merge(&before));
        assert!(!blocks.contains(&alice));
    }
}
