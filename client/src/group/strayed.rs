//! Groups that this device cannot follow, and when it tries to come back into each (DS-13): once,
//! after a pause that is random and grows from one time to the next, so that the members of a group do not
//! all come back at one moment, and a member that breaks groups does not keep the others busy. Owns the
//! table `strayed`.

use std::time::Duration;

use postern_protocol::{ds::GroupId, name::Domain};
use rand::Rng as _;
use rusqlite::{OptionalExtension as _, params};

use super::record;
use crate::{
    error::{Error, Result},
    event::Event,
    options::Options,
    store::{Tx, integer},
};

const DAY: u64 = 24 * 60 * 60;
/// The shortest pause, in seconds, before a group is looked at for a message that anybody in it may have made up: each look
/// costs the DS the whole tree. It doubles up to a day while the looks find nothing.
const SUSPICION: u64 = 60 * 60;
/// Seconds after which looks that found nothing make no pause longer any more, if no such message came meanwhile.
const FORGIVEN: u64 = 2 * DAY;
/// The pause before the second attempt, in units of [`Options::return_after`]; each further one is
/// four times as long.
const SECOND: u64 = 30;
/// The shortest and the longest pause, in seconds, before the DS is asked again whether a group is ahead of what came here.
const FIRST_LOOK: u64 = 10;
const LAST_LOOK: u64 = 300;
/// The greatest number of members by which the first pause grows.
const MOST_MEMBERS: u64 = 1000;
/// The longest time, in seconds, for which a group waits: a suspicion does for a day and the first pause.
const LONGEST_PAUSE: u64 = 2 * DAY;

/// How far this device can follow a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Follows,
    /// Something of the group may have been lost: the DS knows its epoch.
    Doubtful,
    /// The next epoch cannot be reached from this one.
    Strayed,
    /// The same, and the server is not to be trusted with the way back: somebody has to decide.
    ByHand,
    /// Changes of the group are on their way from another homeserver.
    Behind,
    /// This device was told that something was lost, perhaps of the group: what is missing need not be on its way.
    Lost,
}

struct Row {
    state: State,
    since: u64,
    attempts: u32,
    due: u64,
}

impl Row {
    /// Whether a doubt is one of [`suspect`] that is put off: it begins later.
    fn is_suspicion(&self, now: u64) -> bool {
        self.state == State::Doubtful && self.since > now
    }
}

/// Notes that this device cannot follow a group.
pub(crate) fn note(
    tx: &Tx<'_>,
    id: &GroupId,
    (state, members): (State, usize),
    reason: &str,
    options: &Options,
) -> Result<()> {
    let row = find(tx, id)?;
    if row.as_ref().is_some_and(|row| matches!(row.state, State::Strayed | State::ByHand)) {
        return Ok(());
    }
    let attempts = recent_attempts(tx, row.as_ref());
    let due = tx.now().saturating_add(pause(attempts, members, options.return_after));
    put(tx, id, &Row { state, since: tx.now(), attempts, due })?;
    let reason = reason.to_owned();
    Event::CannotFollow { group: id.clone(), by_hand: state == State::ByHand, reason }.record(tx)
}

/// Leaves it to a person whether this device takes a group as the server has it.
pub(crate) fn leave_to_person(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let attempts = find(tx, id)?.map_or(0, |row| row.attempts);
    put(tx, id, &Row { state: State::ByHand, since: tx.now(), attempts, due: tx.now() })
}

/// Notes that something of a group may have been lost.
pub(crate) fn doubt(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let row = find(tx, id)?;
    // A suspicion that is put off is looked at now.
    let is_open =
        |row: &Row| matches!(row.state, State::Follows | State::Behind) || row.is_suspicion(tx.now());
    if row.as_ref().is_some_and(|row| !is_open(row)) {
        return Ok(());
    }
    let attempts = recent_attempts(tx, row.as_ref());
    put(tx, id, &Row { state: State::Doubtful, since: tx.now(), attempts, due: tx.now() })
}

/// Notes that something was lost, perhaps of a group: what is missing is not waited for.
pub(crate) fn lost(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let row = find(tx, id)?;
    if row.as_ref().is_some_and(|row| matches!(row.state, State::Strayed | State::ByHand | State::Lost)) {
        return Ok(());
    }
    let attempts = recent_attempts(tx, row.as_ref());
    put(tx, id, &Row { state: State::Lost, since: tx.now(), attempts, due: tx.now() })
}

/// Notes the same of all groups of a domain, whose homeserver was restored to an earlier state (QS-12).
pub(crate) fn lost_at(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    record::active(tx)?.iter().filter(|id| id.domain() == domain).try_for_each(|id| lost(tx, id))
}

/// Notes that a message does not fit to a group as this device knows it: the DS was restored (QS-12), or a member or a server
/// made the message up. The group is looked at, but not again and again for such messages, nor by all members at one moment.
pub(crate) fn suspect(tx: &Tx<'_>, id: &GroupId, members: usize, options: &Options) -> Result<()> {
    let row = find(tx, id)?;
    // One that is behind is looked at from time to time.
    if row.as_ref().is_some_and(|row| row.state != State::Follows) {
        return Ok(());
    }
    let attempts = recent_attempts(tx, row.as_ref());
    // A clock that was ahead once does not put it off.
    let last = row.map(|row| row.since).filter(|since| *since <= tx.now());
    let in_vain = match last {
        Some(last) if tx.now() < last.saturating_add(FORGIVEN) => looks_in_vain(tx, id)?,
        _ => 0,
    };
    let wait = SUSPICION.saturating_mul(2u64.saturating_pow(in_vain.saturating_sub(1))).min(DAY);
    let due = last.map_or(tx.now(), |last| tx.now().max(last.saturating_add(wait)));
    let due = due.saturating_add(pause(0, members, options.return_after));
    put(tx, id, &Row { state: State::Doubtful, since: due, attempts, due })?;
    let sql = "UPDATE strayed SET in_vain = ?2 WHERE group_id = ?1";
    tx.sql().execute(sql, params![id.to_mls(), in_vain.saturating_add(1)])?;
    Ok(())
}

/// Notes that changes of a group are on their way here. Returns false once none came for a day, and where this device was told
/// of a loss: then they are taken for lost.
pub(crate) fn wait(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let row = find(tx, id)?;
    if row.as_ref().is_some_and(|row| row.state == State::Lost) {
        return Ok(false);
    }
    let attempts = recent_attempts(tx, row.as_ref());
    let is_known = |row: &Row| row.state == State::Behind && row.since <= tx.now();
    let since = row.filter(is_known).map_or(tx.now(), |row| row.since);
    let waited = tx.now().saturating_sub(since);
    if waited >= DAY {
        return Ok(false);
    }
    let due = tx.now().saturating_add(waited.clamp(FIRST_LOOK, LAST_LOOK));
    put(tx, id, &Row { state: State::Behind, since, attempts, due })?;
    Ok(true)
}

/// A change of a group came: those that are still missing are on their way, too.
pub(super) fn moved(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "UPDATE strayed SET since = ?2 WHERE group_id = ?1 AND state = 4";
    tx.sql().prepare_cached(sql)?.execute(params![id.to_mls(), integer(tx.now())])?;
    Ok(())
}

/// An attempt failed for good. The first time, the user is told.
pub(crate) fn failed(
    tx: &Tx<'_>,
    id: &GroupId,
    members: usize,
    error: &Error,
    options: &Options,
) -> Result<()> {
    let Some(row) = find(tx, id)? else { return Ok(()) };
    let attempts = row.attempts.saturating_add(1);
    let due = tx.now().saturating_add(pause(attempts, members, options.return_after));
    put(tx, id, &Row { attempts, due, ..row })?;
    let told = "UPDATE strayed SET broken = 1 WHERE group_id = ?1 AND broken = 0";
    if tx.sql().execute(told, [id.to_mls()])? == 1 {
        Event::Broken { group: id.clone(), reason: error.to_string() }.record(tx)?;
    }
    Ok(())
}

/// This device follows the group again, by coming back.
pub(super) fn back(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let attempts = find(tx, id)?.map_or(0, |row| row.attempts).saturating_add(1);
    put(tx, id, &Row { state: State::Follows, since: tx.now(), attempts, due: 0 })?;
    tx.sql().execute("UPDATE strayed SET broken = 0, in_vain = 0 WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

/// Nothing of the group was lost that this device needs.
pub(crate) fn clear(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let sql = "UPDATE strayed SET state = 0 WHERE group_id = ?1 AND state IN (1, 4, 5)";
    tx.sql().execute(sql, [id.to_mls()])?;
    Ok(())
}

pub(super) fn forget(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM strayed WHERE group_id = ?1", [id.to_mls()])?;
    Ok(())
}

pub(crate) fn state(tx: &Tx<'_>, id: &GroupId) -> Result<State> {
    Ok(find(tx, id)?.map_or(State::Follows, |row| row.state))
}

/// Whether this device may try to come back now because its user asks for something: when its time
/// has come, or when it did not try lately.
pub(crate) fn may_try(tx: &Tx<'_>, id: &GroupId) -> Result<bool> {
    let may =
        |row: Row| row.state != State::ByHand && (row.attempts == 0 || tx.has_come(row.due, LONGEST_PAUSE));
    Ok(find(tx, id)?.is_none_or(may))
}

/// The groups in which it is time to look, or to come back.
pub(crate) fn due(tx: &Tx<'_>) -> Result<Vec<GroupId>> {
    let sql = "SELECT group_id FROM strayed WHERE state IN (1, 2, 4, 5) AND due NOT BETWEEN ?1 AND ?2";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let ids = statement.query_map(tx.to_come(LONGEST_PAUSE), |row| row.get(0))?;
    let ids = ids.collect::<Result<Vec<Vec<u8>>, _>>()?;
    ids.iter().map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id"))).collect()
}

/// How long it is until the next time comes, of those that did not come before a time (seconds since 1970).
pub(crate) fn next_due(tx: &Tx<'_>, since: u64) -> Result<Option<Duration>> {
    let sql = "SELECT min(due) FROM strayed WHERE state IN (1, 2, 4, 5) AND due >= ?1";
    let due: Option<u64> = tx.sql().query_row(sql, [integer(since)], |row| row.get(0))?;
    Ok(due.map(|due| Duration::from_secs(due.saturating_sub(tx.now()))))
}

/// How often this device came back lately; having come back long ago does not make it later.
fn recent_attempts(tx: &Tx<'_>, row: Option<&Row>) -> u32 {
    row.filter(|row| tx.now() < row.since.saturating_add(DAY)).map_or(0, |row| row.attempts)
}

/// How many looks there were for messages that anybody may have made up, since this device came back last.
fn looks_in_vain(tx: &Tx<'_>, id: &GroupId) -> Result<u32> {
    let sql = "SELECT in_vain FROM strayed WHERE group_id = ?1";
    let looks: Option<u32> = tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0)).optional()?;
    Ok(looks.unwrap_or_default())
}

/// Seconds before the next attempt. The first one comes within a unit for each member, and within a day.
fn pause(attempts: u32, members: usize, unit: Duration) -> u64 {
    let unit = unit.as_secs();
    if attempts == 0 {
        let members = u64::try_from(members).unwrap_or(u64::MAX).min(MOST_MEMBERS);
        return rand::rng().random_range(0..=unit.saturating_mul(members).min(DAY));
    }
    let usual = unit.saturating_mul(SECOND).saturating_mul(4u64.saturating_pow(attempts - 1)).min(DAY);
    rand::rng().random_range(usual / 2..=usual + usual / 2)
}

fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Row>> {
    let row: Option<(i64, u64, u32, u64)> = tx
        .sql()
        .prepare_cached("SELECT state, since, attempts, due FROM strayed WHERE group_id = ?1")?
        .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    row.map(|(state, since, attempts, due)| {
        let state =
            [State::Follows, State::Doubtful, State::Strayed, State::ByHand, State::Behind, State::Lost]
                .into_iter()
                .find(|found| *found as i64 == state)
                .ok_or(Error::Damaged("how far a group can be followed"))?;
        Ok(Row { state, since, attempts, due })
    })
    .transpose()
}

fn put(tx: &Tx<'_>, id: &GroupId, row: &Row) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO strayed (group_id, state, since, attempts, due, broken) VALUES (?1, ?2, ?3, ?4, ?5, 0)
         ON CONFLICT (group_id) DO UPDATE
         SET state = excluded.state, since = excluded.since, attempts = excluded.attempts, due = excluded.due",
        params![id.to_mls(), row.state as i64, integer(row.since), row.attempts, integer(row.due)],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, store::Store};

    #[test]
    fn changes_on_their_way_are_waited_for_until_none_came_for_a_day() {
        let home = tempfile::tempdir().unwrap();
        let id = GroupId::new([7; 16], "other.example".parse().unwrap());
        drop(Store::create(home.path(), &Options::default()).unwrap());
        let after = |hours: i64| {
            let clock = Clock::ahead_by(hours * 60 * 60);
            Store::open(home.path(), &Options { clock, ..Options::default() }).unwrap()
        };
        let waits = |hours| after(hours).write(|tx| wait(tx, &id)).unwrap();
        let is_due = |hours| !after(hours).read(due).unwrap().is_empty();
        assert!(waits(0) && waits(23));
        assert!(!is_due(23) && is_due(24), "the DS is asked from time to time");
        assert!(!waits(24));
        after(23).write(|tx| moved(tx, &id)).unwrap();
        assert!(waits(46) && !waits(47), "a change came");
        after(47).write(|tx| clear(tx, &id)).unwrap();
        assert_eq!(after(47).read(|tx| state(tx, &id)).unwrap(), State::Follows);
        assert!(waits(48) && waits(71), "the next wait is one of its own");
        after(71).write(|tx| doubt(tx, &id)).unwrap();
        assert_eq!(after(71).read(|tx| state(tx, &id)).unwrap(), State::Doubtful);
        after(71).write(|tx| moved(tx, &id)).unwrap();
        assert!(is_due(71), "something may be lost: that is looked at at once");
        after(71).write(|tx| lost(tx, &id)).unwrap();
        assert!(is_due(71) && !waits(71), "what was lost is not on its way");
        after(71).write(|tx| doubt(tx, &id)).unwrap();
        assert_eq!(after(71).read(|tx| state(tx, &id)).unwrap(), State::Lost, "that is known already");
    }

    #[test]
    fn a_group_is_looked_at_for_suspicious_messages_at_once_and_then_ever_more_seldom() {
        let home = tempfile::tempdir().unwrap();
        let id = GroupId::new([7; 16], "other.example".parse().unwrap());
        drop(Store::create(home.path(), &Options::default()).unwrap());
        let after = |minutes: i64| {
            let clock = Clock::ahead_by(minutes * 60);
            Store::open(home.path(), &Options { clock, ..Options::default() }).unwrap()
        };
        let is_due = |minutes| !after(minutes).read(due).unwrap().is_empty();
        let looks = |minutes| after(minutes).write(|tx| clear(tx, &id)).unwrap();
        let suspects = |minutes| after(minutes).write(|tx| suspect(tx, &id, 0, &Options::default())).unwrap();
        suspects(0);
        assert!(is_due(0));
        let mut last = 0;
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            looks(last);
            for minutes in [1, 30, 58] {
                suspects(last + minutes);
                assert!(!is_due(last + minutes), "however many come");
            }
            let next = last + hours * 60;
            assert!(!is_due(next - 1), "not within {hours} h");
            assert!(is_due(next + 1), "the last one is not forgotten");
            last = next;
        }
        looks(last);
        // After quiet days the pauses begin anew.
        let later = last + 3 * 24 * 60;
        for minutes in [later, later + 60, later + 3 * 60] {
            suspects(minutes - 1);
            assert!(is_due(minutes + 1));
            looks(minutes + 1);
        }
        // The next wait would be of four hours, and the look finds something.
        let found = later + 4 * 60;
        after(found).write(|tx| back(tx, &id)).unwrap();
        suspects(found + 1);
        assert!(!is_due(found + 59) && is_due(found + 61));
        looks(found + 61);
        let now = found + 62;
        suspects(now);
        assert!(!is_due(now));
        after(now).write(|tx| doubt(tx, &id)).unwrap();
        assert!(is_due(now), "a better reason is another matter");
        looks(now);
        suspects(now + 1);
        after(now + 1).write(|tx| lost(tx, &id)).unwrap();
        assert!(is_due(now + 1));
        looks(now + 1);
        // A clock that was ahead for a year.
        suspects(500_000);
        looks(500_000);
        suspects(now + 2);
        assert!(is_due(now + 2));
    }

    #[test]
    fn members_do_not_all_look_at_a_group_at_one_moment_for_a_message_that_came_to_all() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let before = store.now();
        for number in 0..100 {
            let id = GroupId::new([number; 16], "x.example".parse().unwrap());
            store.write(|tx| suspect(tx, &id, 1000, &Options::default())).unwrap();
        }
        let sql = "SELECT count(DISTINCT due), min(due), max(due) FROM strayed";
        let (times, first, last): (u64, u64, u64) = store
            .read(|tx| Ok(tx.sql().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?))
            .unwrap();
        assert!(times > 10 && first >= before && last <= store.now() + 1000, "{times} {first} {last}");
    }

    #[test]
    fn a_clock_that_was_ahead_puts_off_no_way_back() {
        let home = tempfile::tempdir().unwrap();
        let id = GroupId::new([7; 16], "other.example".parse().unwrap());
        drop(Store::create(home.path(), &Options::default()).unwrap());
        let options = Options { return_after: Duration::from_secs(1000), ..Options::default() };
        let store = |days: i64| {
            let clock = Clock::ahead_by(days * 24 * 60 * 60);
            Store::open(home.path(), &Options { clock, ..options.clone() }).unwrap()
        };
        let fails =
            |days| store(days).write(|tx| failed(tx, &id, 2, &Error::CannotFollow, &options)).unwrap();
        let is_due = || store(0).read(|tx| Ok((!due(tx)?.is_empty(), may_try(tx, &id)?))).unwrap();
        store(365).write(|tx| lost(tx, &id)).unwrap();
        fails(365);
        assert_eq!(is_due(), (true, true));
        fails(0);
        assert_eq!(is_due(), (false, false), "a pause is one");
    }

    #[test]
    fn a_homeserver_that_was_restored_may_have_lost_something_of_each_of_its_groups() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let [one, two, other] = [(1, "other.example"), (2, "other.example"), (3, "another.example")]
            .map(|(number, domain)| GroupId::new([number; 16], domain.parse().unwrap()));
        let leaf = postern_protocol::key::SigningKey::generate().public_key();
        let insert = |id: &GroupId| store.write(|tx| record::insert(tx, id, "", &leaf)).unwrap();
        [&one, &two, &other].into_iter().for_each(insert);
        store.write(|tx| note(tx, &two, (State::Strayed, 2), "a reason", &Options::default())).unwrap();
        store.write(|tx| lost_at(tx, &"other.example".parse().unwrap())).unwrap();
        let state = |id: &GroupId| store.read(|tx| state(tx, id)).unwrap();
        assert_eq!(state(&one), State::Lost);
        assert_eq!(state(&two), State::Strayed, "it comes back anyway");
        assert_eq!(state(&other), State::Follows);
    }

    #[test]
    fn what_was_due_before_errands_began_makes_no_poll_any_shorter() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(home.path(), &Options::default()).unwrap();
        let [early, late] = [1, 2].map(|number| GroupId::new([number; 16], "x.example".parse().unwrap()));
        let next = |since| store.read(|tx| next_due(tx, since)).unwrap();
        let (begun, later) = (store.now(), store.now() + 10_000);
        let is_due = |id: &GroupId, due: u64| {
            let row = Row { state: State::Strayed, since: begun, attempts: 1, due };
            store.write(|tx| put(tx, id, &row)).unwrap();
        };
        assert_eq!(next(begun), None);
        is_due(&early, begun - 1);
        assert_eq!(next(begun), None, "it was tried");
        assert_eq!(next(begun - 1), Some(Duration::ZERO));
        is_due(&late, later);
        let (until, passed) = (next(begun).expect("one is left"), store.now() - begun);
        assert!((10_000 - passed..=10_000).contains(&until.as_secs()), "{until:?}");
    }

    #[test]
    fn pauses_grow_differ_and_end_at_a_day() {
        let unit = Duration::from_secs(1);
        for _ in 0..100 {
            assert!(pause(0, 3, unit) <= 3);
            assert!(pause(0, usize::MAX, Duration::MAX) <= DAY);
            assert!((15..=45).contains(&pause(1, 3, unit)));
            assert!((60..=180).contains(&pause(2, 3, unit)));
            for attempts in [9, 40, u32::MAX] {
                assert!((DAY / 2..=DAY + DAY / 2).contains(&pause(attempts, 3, unit)));
            }
        }
        let some: std::collections::BTreeSet<_> = (0..100).map(|_| pause(3, 3, unit)).collect();
        assert!(some.len() > 10, "members do not all come back at one moment");
        assert_eq!(pause(5, 3, Duration::ZERO), 0);
    }
}
