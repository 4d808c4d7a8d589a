//! What was said and done in groups, kept on this device to be read again: as many messages and events of each group as
//! [`Options::history`](crate::Options::history) says, until the user has them forgotten. Owns the tables `history` and
//! `history_off`.

use postern_protocol::ds::GroupId;
use rusqlite::params;

use crate::{
    error::Result,
    store::{Tx, integer},
};

/// A kept event.
pub(crate) struct Kept {
    /// Seconds since 1970, by this device's clock.
    pub time: u64,
    /// The same in this computer's time zone.
    pub local_time: String,
    /// In JSON.
    pub event: String,
}

/// Keeps an event of a group, in JSON. The oldest ones make room.
pub(crate) fn keep(tx: &Tx<'_>, group: &GroupId, event: &str) -> Result<()> {
    let (group, room) = (group.to_mls(), tx.history());
    let insert = "INSERT INTO history (group_id, number, time, event)
                  SELECT ?1, (SELECT coalesce(max(number), 0) + 1 FROM history WHERE group_id = ?1), ?2, ?3
                   WHERE ?4 > 0 AND NOT EXISTS (SELECT 1 FROM history_off WHERE group_id = ?1)";
    let kept =
        tx.sql().prepare_cached(insert)?.execute(params![group, integer(tx.now()), event, integer(room)])?;
    if kept > 0 {
        let make_room = "DELETE FROM history
                          WHERE group_id = ?1
                            AND number <= (SELECT max(number) FROM history WHERE group_id = ?1) - ?2";
        tx.sql().prepare_cached(make_room)?.execute(params![group, integer(room)])?;
    }
    Ok(())
}

/// The last events that are kept of a group, so many, oldest first.
pub(crate) fn last(tx: &Tx<'_>, group: &GroupId, number: u64) -> Result<Vec<Kept>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT time, strftime('%Y-%m-%d %H:%M', time, 'unixepoch', 'localtime'), event
           FROM (SELECT number, time, event FROM history WHERE group_id = ?1 ORDER BY number DESC LIMIT ?2)
          ORDER BY number",
    )?;
    let rows = statement.query_map(params![group.to_mls(), integer(number)], |row| {
        Ok(Kept { time: row.get(0)?, local_time: row.get(1)?, event: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets all that is kept of a group.
pub(crate) fn forget(tx: &Tx<'_>, group: &GroupId) -> Result<()> {
    tx.sql().execute("DELETE FROM history WHERE group_id = ?1", [group.to_mls()])?;
    Ok(())
}

/// Sets whether anything is kept of a group from now on.
pub(crate) fn set_kept(tx: &Tx<'_>, group: &GroupId, kept: bool) -> Result<()> {
    let sql = match kept {
        true => "DELETE FROM history_off WHERE group_id = ?1",
        false => "INSERT OR IGNORE INTO history_off (group_id) VALUES (?1)",
    };
    tx.sql().execute(sql, [group.to_mls()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, store::Store};

    fn store(history: u64) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options { history, ..Options::default() }).unwrap();
        (directory, store)
    }

    fn group(number: u8) -> GroupId {
        GroupId::new([number; 16], "example.org".parse().unwrap())
    }

    fn texts(store: &Store, group: &GroupId, number: u64) -> Vec<String> {
        let kept = store.read(|tx| last(tx, group, number)).unwrap();
        assert!(kept.iter().all(|kept| kept.time > 1_700_000_000 && kept.local_time.len() == 16));
        kept.into_iter().map(|kept| kept.event).collect()
    }

    fn keep_all(store: &Store, group: &GroupId, events: &[&str]) {
        store.write(|tx| events.iter().try_for_each(|event| keep(tx, group, event))).unwrap();
    }

    #[test]
    fn the_last_ones_of_each_group_are_kept_in_order() {
        let (_directory, store) = store(3);
        let (one, other) = (group(1), group(2));
        keep_all(&store, &one, &["1", "2", "3", "4", "5"]);
        keep_all(&store, &other, &["a"]);
        assert_eq!(texts(&store, &one, 100), ["3", "4", "5"]);
        assert_eq!(texts(&store, &one, 2), ["4", "5"]);
        assert_eq!(texts(&store, &other, 100), ["a"]);
    }

    #[test]
    fn nothing_is_kept_of_a_group_that_is_not_to_be_kept_and_of_none_if_so_wanted() {
        let (_directory, kept) = store(3);
        let (one, other) = (group(1), group(2));
        kept.write(|tx| set_kept(tx, &one, false)).unwrap();
        keep_all(&kept, &one, &["1"]);
        keep_all(&kept, &other, &["a"]);
        kept.write(|tx| set_kept(tx, &one, true)).unwrap();
        keep_all(&kept, &one, &["2"]);
        assert_eq!(texts(&kept, &one, 100), ["2"]);
        assert_eq!(texts(&kept, &other, 100), ["a"]);
        let (_directory, none) = store(0);
        keep_all(&none, &one, &["1"]);
        assert!(texts(&none, &one, 100).is_empty());
    }

    #[test]
    fn what_was_forgotten_is_in_no_file() {
        let (directory, store) = store(1000);
        let is_found = |text: &str| {
            let files = std::fs::read_dir(directory.path()).unwrap();
            files
                .map(|file| std::fs::read(file.unwrap().path()).unwrap())
                .any(|content| content.windows(text.len()).any(|part| part == text.as_bytes()))
        };
        let (one, other) = (group(1), group(2));
        for number in 0..500 {
            keep_all(&store, &one, &[&format!("the surprise party {number}")]);
            keep_all(&store, &other, &[&format!("the weather {number}")]);
        }
        assert!(is_found("the surprise party") && is_found("the weather"));
        store.write(|tx| forget(tx, &one)).unwrap();
        store.scrub().unwrap();
        assert!(!is_found("the surprise party"));
        assert!(is_found("the weather"));
        assert!(texts(&store, &one, 100).is_empty());
        assert_eq!(texts(&store, &other, 1000).len(), 500);
    }
}
