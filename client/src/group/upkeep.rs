//! When it is this device's turn to commit in a group that nobody else keeps up (DS-10); and what is forgotten of groups that
//! ended.

use postern_protocol::{PublicKey, ds::GroupId};

use super::{outcasts, places, record, state::GroupState};
use crate::{clock::is_recent, error::Result, options::Options, store::Tx};

/// The groups in which it is this device's turn to commit: its own keys are old, or something
/// waits that others proposed. In each, each device's turn comes at another time, by its leaf
/// key, so that not all try at once. A device that loses nevertheless looks again.
pub(crate) fn due(tx: &Tx<'_>, options: &Options) -> Result<Vec<GroupId>> {
    let now = tx.now();
    let is_due = |leaf_key: &PublicKey, committed: u64, proposed: Option<u64>| {
        is_turn(options, leaf_key, committed, proposed, now)
    };
    let turns = record::turns(tx)?.into_iter();
    Ok(turns
        .filter(|turn| is_due(&turn.leaf_key, turn.committed, turn.proposed))
        .map(|turn| turn.id)
        .collect())
}

/// Nothing waits, and this device's own keys count as new.
pub(crate) fn committed(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    record::committed(tx, id)
}

/// Forgets who was in groups that ended long ago, and which devices were removed there.
pub(crate) fn forget_ended(tx: &Tx<'_>) -> Result<()> {
    places::forget_ended(tx)?;
    outcasts::forget_ended(tx)
}

impl GroupState {
    /// Whether it is this device's turn to commit, unless it is about to leave.
    pub(crate) fn is_due(&self, tx: &Tx<'_>, options: &Options) -> Result<bool> {
        Ok(due(tx, options)?.contains(&self.id) && !self.is_leaving())
    }
}

/// All times are in seconds since 1970.
fn is_turn(options: &Options, leaf_key: &PublicKey, committed: u64, proposed: Option<u64>, now: u64) -> bool {
    let leaf_key = leaf_key.as_bytes();
    let (update_every, commit_within) = (options.update_every.as_secs(), options.commit_within.as_secs());
    // From a 256th of a time to all of it.
    let share = |seconds: u64, byte: u8| seconds / 256 * (u64::from(byte) + 1);
    let update = update_every - share(update_every, leaf_key[0]) / 4;
    let proposal = share(commit_within, leaf_key[1]);
    !is_recent(committed, update, now) || proposed.is_some_and(|proposed| !is_recent(proposed, proposal, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_one_after_the_other_within_their_times() {
        const DAY: u64 = 24 * 60 * 60;
        let options = Options::default();
        let turn = |byte, committed, proposed, now| {
            is_turn(&options, &PublicKey::new([byte; 32]), committed, proposed, now)
        };
        for byte in [0, 1, 128, 255] {
            assert!(!turn(byte, 0, None, 22 * DAY), "own keys are new for 22 days");
            assert!(turn(byte, 0, None, 30 * DAY));
            assert!(!turn(byte, 100, Some(100), 100));
            assert!(turn(byte, 100, Some(100), 100 + 3600));
            assert!(turn(byte, DAY, None, 0) && turn(byte, 0, Some(DAY), 0), "a clock was ahead");
        }
        assert!(turn(0, 100, Some(100), 100 + 20) && !turn(255, 100, Some(100), 100 + 3500));
    }
}
