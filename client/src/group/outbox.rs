//! The outbox: everything that this device said in its groups, from then until the DS has accepted
//! it, in the order in which it was said. Each message has its number from the start, so that members
//! know a repeat whatever became of the first sending. Owns the table `outbox`.

use postern_protocol::{ds::GroupId, problem::Problem};
use rusqlite::{OptionalExtension as _, params};

use super::{message::Content, record};
use crate::{
    error::{Error, Result},
    event::Event,
    options::Options,
    store::{Tx, decode, encode, integer},
};

/// Keeps a message, and returns the number that members know it by.
pub(super) fn push(tx: &Tx<'_>, id: &GroupId, content: &Content) -> Result<u64> {
    let number = record::take_number(tx, id)?;
    tx.sql()
        .prepare_cached("INSERT INTO outbox (group_id, number, content) VALUES (?1, ?2, ?3)")?
        .execute(params![id.to_mls(), integer(number), encode(content)])?;
    Ok(number)
}

/// Checks that the outbox has room for another message.
///
/// # Errors
/// [`Error::OutboxFull`] when a message of so many bytes is more than the group's outbox may hold.
pub(super) fn check_room(tx: &Tx<'_>, id: &GroupId, bytes: usize, options: &Options) -> Result<()> {
    let sql = "SELECT count(*), coalesce(sum(length(content)), 0) FROM outbox WHERE group_id = ?1";
    let (messages, kept): (u64, u64) =
        tx.sql().query_row(sql, [id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let bytes = kept.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    if messages >= options.unsent_messages || bytes > options.unsent_bytes {
        return Err(Error::OutboxFull { messages });
    }
    Ok(())
}

/// The oldest message that was not refused, and its number.
pub(super) fn first(tx: &Tx<'_>, id: &GroupId) -> Result<Option<(u64, Content)>> {
    let sql = "SELECT number, content FROM outbox WHERE group_id = ?1 AND refusal IS NULL
               ORDER BY number LIMIT 1";
    let row: Option<(u64, Vec<u8>)> = tx
        .sql()
        .prepare_cached(sql)?
        .query_row([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(number, content)| Ok((number, decode(&content, "a message")?))).transpose()
}

/// How many messages wait to be accepted.
pub(super) fn count(tx: &Tx<'_>, id: &GroupId) -> Result<u64> {
    let sql = "SELECT count(*) FROM outbox WHERE group_id = ?1 AND refusal IS NULL";
    Ok(tx.sql().query_row(sql, [id.to_mls()], |row| row.get(0))?)
}

/// The DS accepted the message that was sent.
pub(super) fn sent(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let Some((number, _)) = first(tx, id)? else { return Ok(()) };
    remove(tx, id, number)
}

/// The DS refused the message that was sent, and why.
pub(super) fn refuse(tx: &Tx<'_>, id: &GroupId, problem: &Problem) -> Result<()> {
    let Some((number, _)) = first(tx, id)? else { return Ok(()) };
    let sql = "UPDATE outbox SET refusal = ?3 WHERE group_id = ?1 AND number = ?2";
    tx.sql().execute(sql, params![id.to_mls(), integer(number), problem.to_json()])?;
    Ok(())
}

/// Tells of the messages that were refused, and returns the refusal of the one that its sender
/// waits for.
pub(super) fn tell_refused(tx: &Tx<'_>, id: &GroupId, own: Option<u64>) -> Result<Option<Problem>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT number, content, refusal FROM outbox WHERE group_id = ?1 AND refusal IS NOT NULL
         ORDER BY number",
    )?;
    let rows = statement
        .query_map([id.to_mls()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<(u64, Vec<u8>, Vec<u8>)>, _>>()?;
    let mut refusal = None;
    for (number, content, problem) in rows {
        let problem = Problem::from_json(&problem).ok_or(Error::Damaged("a refusal"))?;
        remove(tx, id, number)?;
        if own == Some(number) {
            refusal = Some(problem);
        } else {
            tell_unsent(tx, id, &decode(&content, "a message")?, &problem.to_string())?;
        }
    }
    Ok(refusal)
}

/// Gives up all messages of a group that this device is in no more.
pub(super) fn give_up(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    tell_refused(tx, id, None)?;
    while let Some((number, content)) = first(tx, id)? {
        remove(tx, id, number)?;
        tell_unsent(tx, id, &content, "this device is not in the group any more")?;
    }
    Ok(())
}

fn remove(tx: &Tx<'_>, id: &GroupId, number: u64) -> Result<()> {
    tx.sql()
        .prepare_cached("DELETE FROM outbox WHERE group_id = ?1 AND number = ?2")?
        .execute(params![id.to_mls(), integer(number)])?;
    Ok(())
}

fn tell_unsent(tx: &Tx<'_>, id: &GroupId, content: &Content, reason: &str) -> Result<()> {
    // Nobody waits to hear that an introduction was made, or not.
    let Content::Text(text) = content else { return Ok(()) };
    Event::Unsent { group: id.clone(), text: text.clone(), reason: reason.to_owned() }.record(tx)
}
