//! Looks at contacts that nobody asks for: so a reset or an end shows though no letter tells of it (AS-11). Each costs a
//! token, and the AS sees them: they come one by one, at times that do not tell whose contacts belong together. Owns the
//! tables `contact_turn` and `contact_looks`.

use postern_protocol::{name::UserName, problem::ProblemType};
use rand::Rng as _;
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Error, Result, goes_on},
    event::Event,
    identity,
    options::Options,
    server::Api,
    store::{Store, Tx, integer},
};

/// The most turns of an interval, however many contacts there are.
const MOST_TURNS: u64 = 96;
/// The most contacts that are looked up at a turn, if others were missed because the device was off.
const AT_ONCE: u64 = 2;

/// Looks contacts up if a turn has come. What is at hand of tokens when they are few is for what a person asks for.
pub(crate) async fn look_after_contacts(store: &Store, api: &Api, options: &Options) -> Result<()> {
    let every = options.look_up_contacts_every.as_secs();
    if store.read(|tx| Ok(next_turn(tx, every)? > tx.now()))? || api.wallet.is_low()? {
        return Ok(());
    }
    for user in store.write(|tx| take_turn(tx, every))? {
        goes_on(look(store, api, &user).await)?;
    }
    Ok(())
}

async fn look(store: &Store, api: &Api, user: &UserName) -> Result<()> {
    let found = identity::look_up(api, store, user).await;
    let missing = found.as_ref().is_err_and(|error| error.problem() == Some(ProblemType::NotFound));
    if missing || found.is_ok() {
        store.write(|tx| note(tx, user, missing))?;
    }
    if missing { Ok(()) } else { found.map(drop) }
}

/// The time of the next turn, in seconds since 1970; 0 before the first one, and for one that a clock which was ahead has put far
/// off.
fn next_turn(tx: &Tx<'_>, every: u64) -> Result<u64> {
    let due: Option<u64> =
        tx.sql().query_row("SELECT due FROM contact_turn", [], |row| row.get(0)).optional()?;
    let longest_pause = every.saturating_add(every / 2);
    let is_true = |due: &u64| *due <= tx.now() || !tx.has_come(*due, longest_pause);
    Ok(due.filter(is_true).unwrap_or_default())
}

/// The contacts whose turn it is are those that were seen longest ago. None is among them whose name is another by now, with a
/// reset that waits for a person. The next turn is set before they are looked up: a server that is away is not asked over and over.
fn take_turn(tx: &Tx<'_>, every: u64) -> Result<Vec<UserName>> {
    let (now, due) = (tx.now(), next_turn(tx, every)?);
    let contacts: u64 = tx.sql().query_row(
        "SELECT count(*) FROM contacts WHERE given = 1 OR friend IS NOT NULL",
        [],
        |row| row.get(0),
    )?;
    let pause = pause(every, contacts);
    let missed = if due == 0 { 0 } else { (now - due).checked_div(pause).unwrap_or_default() };
    let turns = missed.saturating_add(1).min(AT_ONCE);
    let next = now.saturating_add(rand::rng().random_range(pause / 2..=pause + pause / 2));
    tx.sql().execute("INSERT OR REPLACE INTO contact_turn (one, due) VALUES (1, ?1)", [integer(next)])?;
    let mut statement = tx.sql().prepare_cached(
        "SELECT c.user, max(coalesce(e.seen, 0), coalesce(l.looked, 0)) AS seen
           FROM contacts c
           LEFT JOIN eids e ON e.user = c.user AND e.pending = 0
           LEFT JOIN contact_looks l ON l.user = c.user
          WHERE (c.given = 1 OR c.friend IS NOT NULL) AND coalesce(e.founding, c.founding) = c.founding
            AND NOT EXISTS (SELECT 1 FROM eids p
                             WHERE p.user = c.user AND p.pending = 1 AND p.called IS NOT NULL)
            AND max(coalesce(e.seen, 0), coalesce(l.looked, 0)) <= ?1
          ORDER BY seen, c.user LIMIT ?2",
    )?;
    let long_ago = integer(now.saturating_sub(every / 2));
    let rows = statement
        .query_map(params![long_ago, integer(turns)], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    for user in &rows {
        tx.sql().execute(
            "INSERT INTO contact_looks (user, looked, missing) VALUES (?1, ?2, 0)
             ON CONFLICT (user) DO UPDATE SET looked = excluded.looked",
            params![user, integer(now)],
        )?;
    }
    rows.iter().map(|user| user.parse().map_err(|_| Error::Damaged("a user name"))).collect()
}

/// The usual pause between two turns, in seconds: in an interval every contact has one.
fn pause(every: u64, contacts: u64) -> u64 {
    (every / (contacts + 1)).max(every / MOST_TURNS)
}

/// Notes whether the AS knows a contact. That it does not is told once.
fn note(tx: &Tx<'_>, user: &UserName, missing: bool) -> Result<()> {
    let sql = "UPDATE contact_looks SET missing = ?2 WHERE user = ?1 AND missing <> ?2";
    let news = tx.sql().execute(sql, params![user.to_string(), missing])? > 0;
    if news && missing { Event::ContactMissing { user: user.clone() }.record(tx) } else { Ok(()) }
}

/// Forgets when a user was looked up.
pub(super) fn forget(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM contact_looks WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::collections::BTreeMap;

    const DAY: u64 = 24 * 60 * 60;

    fn user(number: usize) -> UserName {
        format!("user{number}@example.org").parse().unwrap()
    }

    fn store_with(contacts: usize, directory: &std::path::Path, ahead: u64) -> Store {
        let clock = Clock::ahead_by(i64::try_from(ahead).unwrap());
        let store = Store::create(directory, &Options { clock, ..Options::default() }).unwrap();
        store
            .write(|tx| {
                for number in 0..contacts {
                    tx.sql().execute(
                        "INSERT OR IGNORE INTO contacts (user, founding, friend, given, decided)
                         VALUES (?1, x'01', NULL, 1, NULL)",
                        [user(number).to_string()],
                    )?;
                }
                Ok(())
            })
            .unwrap();
        store
    }

    #[test]
    fn in_a_day_each_contact_has_a_turn_one_after_the_other_and_no_turn_is_foreseen() {
        const CONTACTS: usize = 10;
        let directory = tempfile::tempdir().unwrap();
        let (mut turns, mut looks) = (Vec::new(), BTreeMap::<_, u64>::new());
        for turn in 0..2 * DAY / 600 {
            let store = store_with(CONTACTS, directory.path(), 600 * turn);
            let due = store.read(|tx| Ok(next_turn(tx, DAY)? <= tx.now())).unwrap();
            if !due {
                continue;
            }
            let users = store.write(|tx| take_turn(tx, DAY)).unwrap();
            assert!(users.len() <= 1, "a device that is on looks one up at a time");
            turns.push(turn);
            users.into_iter().for_each(|user| *looks.entry(user).or_default() += 1);
        }
        assert_eq!(looks.len(), CONTACTS);
        assert!(looks.values().all(|looks| (1..=4).contains(looks)), "{looks:?}");
        let pauses: std::collections::BTreeSet<_> = turns.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.len() > 3, "{pauses:?}");
    }

    #[test]
    fn a_device_that_was_off_looks_few_up_at_once_and_many_contacts_take_longer() {
        let directory = tempfile::tempdir().unwrap();
        let take = |ahead| store_with(50, directory.path(), ahead).write(|tx| take_turn(tx, DAY)).unwrap();
        assert_eq!(take(0), [user(0)]);
        let after = take(30 * DAY);
        assert_eq!(after.len(), usize::try_from(AT_ONCE).unwrap());
        let store = store_with(50, directory.path(), 30 * DAY);
        assert!(
            store.read(|tx| Ok(next_turn(tx, DAY)? > tx.now())).unwrap(),
            "no others before the next turn"
        );
        assert_eq!((pause(DAY, 10_000), pause(DAY, 0), pause(0, 5)), (DAY / MOST_TURNS, DAY, 0));
        // The clock was set back by a month: turns do not wait for it.
        let store = store_with(50, directory.path(), 0);
        assert_eq!(store.read(|tx| next_turn(tx, DAY)).unwrap(), 0);
    }

    #[test]
    fn that_the_server_knows_a_contact_no_more_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(1, directory.path(), 0);
        store.write(|tx| take_turn(tx, DAY)).unwrap();
        for missing in [true, true, false, true] {
            store.write(|tx| note(tx, &user(0), missing)).unwrap();
        }
        let events = store.read(crate::event::pending).unwrap();
        let told = events.iter().filter(|(_, event)| matches!(event, Event::ContactMissing { .. })).count();
        assert_eq!(told, 2, "once each time");
    }
}
