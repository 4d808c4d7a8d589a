//! Users that are blocked (QS-7), as all devices of this user know it: what each device decided is kept with its
//! edition, and the later decision about a user counts. So lists of two devices, old ones too, merge into the same, and
//! what a device decided that was removed since can be decided anew.

use std::collections::BTreeMap;

use postern_protocol::{PublicKey, eid::EidState, name::UserName};
use serde::{Deserialize, Serialize};

use super::{
    contacts,
    friendship::{Edition, Friendship, FriendshipSecrets},
    letters,
    news::{self, News},
    requests, rotation,
};
use crate::{
    account::Account,
    error::{Error, Result},
    identity,
    store::{Tx, encode},
};

/// Bytes of the decisions that are kept, in CBOR: they travel in letters, to each device with each decision. With more, the
/// earliest go: first those to block no longer.
const MAX_BYTES: usize = 128 * 1024;

/// Decisions about users, the latest of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks(BTreeMap<UserName, Block>);

/// A decision to block a user, or to do so no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Block {
    decided: Edition,
    /// The decision to block counts, of two of one edition.
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
    fn decide(
        &mut self,
        user: &UserName,
        blocked: bool,
        founder: Option<PublicKey>,
        eid: &EidState,
        now: u64,
    ) {
        let before = self.0.get(user).copied();
        let decided = before.map(|before| before.decided).unwrap_or_default().decided(eid, now);
        let founder = founder.or_else(|| before.and_then(|before| before.founder));
        self.0.insert(user.clone(), Block { decided, blocked, founder });
        self.bound();
    }

    /// Takes over the later decisions of another list, which was written at a time (seconds since 1970). Those of a time to
    /// come are none.
    pub(super) fn merge(&mut self, others: &Self, written: u64) {
        for (user, block) in others.0.iter().filter(|(_, block)| block.decided.is_timely(written)) {
            if self.0.get(user).is_none_or(|own| block > own) {
                self.0.insert(user.clone(), *block);
            }
        }
        self.bound();
    }

    /// Whether there are decisions here that another list has not got.
    pub(super) fn has_later_than(&self, others: &Self) -> bool {
        self.0.iter().any(|(user, block)| others.0.get(user).is_none_or(|theirs| block > theirs))
    }

    /// Whether all decisions were made by this point in the life of the user's identity.
    pub(super) fn are_by(&self, eid: &EidState) -> bool {
        self.0.values().all(|block| block.decided.is_by(eid))
    }

    fn bound(&mut self) {
        while encode(self).len() > MAX_BYTES {
            let earliest = self.0.iter().min_by_key(|(user, block)| (block.blocked, block.decided, *user));
            let Some(user) = earliest.map(|(user, _)| user.clone()) else { return };
            self.0.remove(&user);
        }
    }
}

/// Blocks a user: takes another friendship token, and tells everyone but that user. Nothing that the user was given
/// or asks for is left.
///
/// # Errors
/// [`Error::TooLong`] if that would unblock another user.
pub(crate) fn block(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let mut secrets = Friendship::load(tx)?.secrets.clone();
    if secrets.is_blocked(user) {
        return Ok(());
    }
    let founder = identity::known(tx, user)?.map(|known| known.founder);
    let before = secrets.blocks.clone();
    secrets.blocks.decide(user, true, founder, &identity::own_state(tx)?, tx.now());
    if before.users().any(|user| !secrets.is_blocked(user)) {
        return Err(Error::TooLong("the list of blocked users"));
    }
    forget_blocked(tx, user)?;
    rotation::take_another_token(tx, &secrets)
}

/// Blocks a user no longer. That gives nothing back: the user may ask again.
pub(crate) fn unblock(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let mut friendship = Friendship::load(tx)?;
    if !friendship.secrets.is_blocked(user) {
        return Ok(());
    }
    friendship.secrets.blocks.decide(user, false, None, &identity::own_state(tx)?, tx.now());
    friendship.save(tx)?;
    news::tell(tx, &Account::load(tx)?.user, &News::Secrets)
}

/// Takes back what a user was given, and forgets what the user asked for, because another device of this user blocked
/// the user or this one does. Letters of the user that wait go, too, as those do that come from now on: else the AS would be
/// asked about them.
pub(super) fn forget_blocked(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    contacts::decide(tx, user, false)?;
    news::forget(tx, user)?;
    letters::forget_all(tx, user)?;
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

/// A list of so many blocked users.
#[cfg(test)]
pub(super) fn blocked(users: usize) -> Blocks {
    let block = |number: usize| {
        let decided = Edition { incarnation: 0, epoch: 0, number: 1 };
        let user = format!("user-{number}@example.org").parse().expect("it is a name");
        (user, Block { decided, blocked: true, founder: Some(PublicKey::new([7; 32])) })
    };
    Blocks((0..users).map(block).collect())
}

#[cfg(test)]
mod tests {
    use postern_protocol::Transcript;

    use super::*;
    use crate::{contact::numbers::MAX_AHEAD, options::Options, store::Store};

    fn user(name: &str) -> UserName {
        format!("{name}@example.org").parse().unwrap()
    }

    fn at(epoch: u64) -> EidState {
        EidState { incarnation: 0, epoch, transcript: Transcript::new([1; 32]) }
    }

    #[test]
    fn decisions_of_two_devices_merge_into_the_same_and_an_old_list_undoes_nothing() {
        let (alice, bob) = (user("alice"), user("bob"));
        let mut old = Blocks::default();
        old.decide(&alice, true, None, &at(1), 10);
        let (mut phone, mut laptop) = (old.clone(), old.clone());
        phone.decide(&alice, false, None, &at(1), 20);
        laptop.decide(&bob, true, None, &at(1), 15);
        assert!(phone.has_later_than(&laptop) && laptop.has_later_than(&phone));
        phone.merge(&laptop, 30);
        laptop.merge(&phone, 30);
        assert_eq!(phone, laptop);
        assert_eq!(phone.users().collect::<Vec<_>>(), [&bob]);
        assert!(!old.has_later_than(&phone), "nothing in it is news");
        phone.merge(&old, 30);
        assert!(!phone.contains(&alice) && phone.contains(&bob));
    }

    #[test]
    fn no_letter_of_a_blocked_user_waits() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let sql = "INSERT INTO letters (client_key, subject, user, number, time, stamp, body, stranger, due)
                   VALUES (x'01', 'request', 'alice@example.org', 1, 1, x'', x'', 1, 0),
                          (x'01', 'account', 'alice@example.org', 2, 1, x'', x'', 1, 0),
                          (x'02', 'account', 'bob@example.org', 1, 1, x'', x'', 1, 0)";
        store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        store.write(|tx| forget_blocked(tx, &user("alice"))).unwrap();
        assert_eq!(store.read(letters::senders).unwrap(), [user("bob")]);
    }

    #[test]
    fn the_last_decision_counts_though_a_clock_went_back() {
        let (alice, founder) = (user("alice"), PublicKey::new([7; 32]));
        let mut blocks = Blocks::default();
        blocks.decide(&alice, true, Some(founder), &at(1), 100);
        assert!(blocks.contains_founder(&founder));
        let before = blocks.clone();
        blocks.decide(&alice, false, None, &at(1), 50);
        assert!(!blocks.contains_founder(&founder) && !before.has_later_than(&blocks));
        blocks.merge(&before, 100);
        assert!(!blocks.contains(&alice));
    }

    #[test]
    fn a_decision_of_a_time_to_come_binds_nobody_and_one_of_a_removed_device_can_be_undone() {
        let alice = user("alice");
        let made_up = |epoch, number| {
            let decided = Edition { incarnation: 0, epoch, number };
            Blocks([(alice.clone(), Block { decided, blocked: true, founder: None })].into())
        };
        let now = 1_000_000;
        let (mut phone, mut laptop) = (Blocks::default(), Blocks::default());
        phone.merge(&made_up(1, u64::MAX), now);
        assert!(!phone.contains(&alice));
        assert!(!made_up(u64::MAX, now).are_by(&at(1)) && made_up(1, now).are_by(&at(1)));
        // The highest that is taken, just before the device is removed.
        for blocks in [&mut phone, &mut laptop] {
            blocks.merge(&made_up(1, now + MAX_AHEAD), now);
            assert!(blocks.contains(&alice));
        }
        phone.decide(&alice, false, None, &at(2), now + 1);
        laptop.merge(&phone, now + 1);
        laptop.merge(&made_up(1, now + MAX_AHEAD), now + 1);
        assert_eq!(phone, laptop);
        assert!(!phone.contains(&alice));
        // A device whose clock was wrong decides anew, and is heard.
        let mut wrong = made_up(2, u64::MAX);
        wrong.decide(&alice, true, None, &at(2), now + 2);
        laptop.merge(&wrong, now + 2);
        assert!(laptop.contains(&alice));
    }

    #[test]
    fn a_list_is_bounded_and_keeps_the_latest_blocks() {
        let mut blocks = Blocks::default();
        let all = 700;
        for number in 0..all {
            let founder = Some(PublicKey::new([7; 32]));
            blocks.decide(&far_user(number), number != all - 2, founder, &at(1), number);
        }
        let kept = blocks.0.len() as u64;
        assert!((80..all).contains(&kept) && encode(&blocks).len() <= MAX_BYTES, "{kept}");
        assert!(blocks.contains(&far_user(all - 1)) && !blocks.contains(&far_user(0)));
        assert!(!blocks.0.contains_key(&far_user(all - 2)), "nobody is unblocked for it");
        assert_eq!(blocks.users().count() as u64, kept);
    }

    /// A user with a name as long as there are.
    fn far_user(number: u64) -> UserName {
        format!("user-{number}@{}.example", vec!["a".repeat(60); 3].join(".")).parse().unwrap()
    }
}
