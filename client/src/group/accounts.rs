//! The fate of members' accounts (AS-11): a reset, another name or display name, an end. A member's message is
//! a hint; the AS's record proves it, and each group that the user is in is told once. Owns the tables
//! `member_news` and `gone_members`.

use postern_protocol::{ds::GroupId, name::UserName};
use rusqlite::{OptionalExtension as _, params};

use super::{links::NAMES_USER, members, message::Content, outbox, record, state::GroupState};
use crate::{
    account::Account,
    clock::CLOCK_SKEW,
    error::{Error, Result},
    event::Event,
    identity,
    store::{Tx, integer},
};

/// Seconds between two looks for the end of an account that its device told of.
const LOOK_AGAIN: u64 = 60 * 60;
/// How often the AS is asked whether an account ended before the hint is dropped.
const PATIENCE: u32 = 48;
/// How often news of a user that the AS did not show make this device ask at once.
pub(super) const EAGER: u32 = 3;
/// How often an AS that answers is asked about a client that it does not show, and one that never answered about a name that
/// a device told, before that ends.
pub(super) const MOST_LOOKS: u32 = 20;
/// How often an AS that answered before is asked about a name that a device told while it is out of reach.
const MOST_UNREACHED: u32 = 14 * 24;
/// Seconds before an AS that was out of reach is asked again, the first time.
const REACH_AGAIN: u64 = 1;
/// Seconds before an AS that is out of reach is asked again, at most, if it ever answered.
const LONGEST_OUTAGE_PAUSE: u64 = 60 * 60;
/// Seconds before an AS is asked again, at most, that never answered: somebody may have made its domain up.
const LONGEST_UNHEARD_PAUSE: u64 = 24 * 60 * 60;
/// Seconds before an AS is asked again that did not show what a member said, the first time.
const SHOW_AGAIN: u64 = 60 * 60;
/// Seconds before an AS that answered is asked again, at most.
pub(super) const LONGEST_PAUSE: u64 = 30 * 24 * 60 * 60;
/// The longest time, in seconds, for which a hint waits. One that the AS did not show is dropped before its pauses get so long.
const LONGEST_HINT_PAUSE: u64 = LONGEST_UNHEARD_PAUSE;
/// Seconds for which the AS has to know nobody of that name, before the end that a device told of is believed.
const GONE_AFTER: u64 = 2 * 24 * 60 * 60;
/// Seconds between two looks meanwhile.
const ABSENT_AGAIN: u64 = 12 * 60 * 60;
/// Seconds for which the AS has to show nobody of that name, before that is told though no device said why.
const MISSING_AFTER: u64 = 30 * 24 * 60 * 60;
/// Seconds after which a user that was told as gone is looked up again.
const GONE_AGAIN: u64 = 30 * 24 * 60 * 60;
/// The most users that are looked up again in one go.
const AT_ONCE: usize = 5;

/// A hint of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberNews {
    /// The user as this device knows it.
    pub user: UserName,
    /// The name that it has now; `None` if its account ends.
    pub name: Option<UserName>,
}

/// Reason why a lookup did not show what a member said. Members name users and domains as they like: none is asked for
/// without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InVain {
    /// The AS did not answer.
    OutOfReach,
    /// It answered, and did not show it.
    NotShown,
}

impl InVain {
    /// The longest [`pause`](Self::pause).
    pub(crate) const LONGEST_PAUSE: u64 = LONGEST_PAUSE;

    /// Seconds before the next lookup, after so many that were in vain for this reason already. An AS that answered is asked
    /// again after `show_again` the first time. One that is out of reach, but was heard before, will be back; a domain that
    /// nobody ever heard of is asked a few times only before there is a day between two lookups.
    pub(crate) fn pause(self, before: u32, show_again: u64, is_heard: bool) -> u64 {
        let (first, factor, longest) = match (self, is_heard) {
            (Self::OutOfReach, true) => (REACH_AGAIN, 2u64, LONGEST_OUTAGE_PAUSE),
            (Self::OutOfReach, false) => (REACH_AGAIN, 4, LONGEST_UNHEARD_PAUSE),
            (Self::NotShown, _) => (show_again, 2, LONGEST_PAUSE),
        };
        first.saturating_mul(factor.saturating_pow(before)).min(longest)
    }
}

/// Says in all groups who this device is: its user has another name, say.
pub(crate) fn tell_groups(tx: &Tx<'_>) -> Result<()> {
    record::active(tx)?.iter().try_for_each(|id| outbox::push(tx, id, &Content::Present).map(drop))
}

/// Gives all groups the key to the profile of this device's user: members with a message, those that come later with the
/// card that a commit brings.
pub(crate) fn give_profile_key(tx: &Tx<'_>) -> Result<()> {
    tell_groups(tx)?;
    record::commit_everywhere(tx)
}

/// Says in all groups that this device's user ends its account.
pub(crate) fn tell_groups_of_end(tx: &Tx<'_>) -> Result<()> {
    record::active(tx)?.iter().try_for_each(|id| outbox::push(tx, id, &Content::Gone).map(drop))
}

/// Notes that a client of a user says that the user has another name, or ends. The AS is asked at once, but not as often as
/// the client likes.
pub(super) fn hint(tx: &Tx<'_>, user: &UserName, name: Option<&UserName>) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO member_news (user, name, tried, due) VALUES (?1, ?2, 0, 0)
         ON CONFLICT (user) DO UPDATE SET name = excluded.name, due = iif(tried + unreached < ?3, 0, due)",
        params![user.to_string(), name.map(ToString::to_string), EAGER],
    )?;
    Ok(())
}

/// Has the AS asked about a user, because there are news of the user: at once, also if it was asked in vain shortly before,
/// but not as often as a member likes.
pub(super) fn look_again(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO member_news (user, name, tried, due) VALUES (?1, ?1, 0, 0)
         ON CONFLICT (user) DO UPDATE SET due = iif(tried + unreached < ?2, 0, due)",
        params![user.to_string(), EAGER],
    )?;
    Ok(())
}

/// Notes that a lookup did not show what a hint says: the AS is asked again later, and in the end no more. What could not be
/// asked counts for itself: an outage ends no hint of an end, and of no user that is known.
pub(crate) fn asked_in_vain(tx: &Tx<'_>, user: &UserName, in_vain: InVain) -> Result<()> {
    let sql = "SELECT name, tried, unreached FROM member_news WHERE user = ?1";
    let kept: Option<(Option<String>, u32, u32)> = tx
        .sql()
        .query_row(sql, [user.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((name, tried, unreached)) = kept else { return Ok(()) };
    let name = name.as_deref().map(parse).transpose()?;
    let is_heard = identity::is_heard(tx, name.as_ref().unwrap_or(user).domain())?;
    let (before, most) = match in_vain {
        InVain::NotShown => (tried, EAGER),
        InVain::OutOfReach if name.as_ref().is_none_or(|name| name == user) => (unreached, u32::MAX),
        InVain::OutOfReach if is_heard => (unreached, MOST_UNREACHED),
        InVain::OutOfReach => (unreached, MOST_LOOKS),
    };
    if before >= most {
        return forget_hint(tx, user);
    }
    let pause = match in_vain {
        InVain::OutOfReach if name.is_none() => LOOK_AGAIN,
        _ => in_vain.pause(before, SHOW_AGAIN, is_heard),
    };
    let (tried, unreached) = match in_vain {
        InVain::OutOfReach => (tried, unreached.saturating_add(1)),
        InVain::NotShown => (tried.saturating_add(1), 0),
    };
    let due = integer(tx.now().saturating_add(pause));
    let sql = "UPDATE member_news SET tried = ?2, unreached = ?3, due = ?4 WHERE user = ?1";
    tx.sql().execute(sql, params![user.to_string(), tried, unreached, due])?;
    Ok(())
}

/// Notes that the AS of a member's user could not be reached, whom it is time to look up: from now on it is asked ever later.
pub(crate) fn out_of_reach(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    look_again(tx, user)?;
    asked_in_vain(tx, user, InVain::OutOfReach)
}

/// The hints that it is time to ask the AS about.
pub(crate) fn hints(tx: &Tx<'_>) -> Result<Vec<MemberNews>> {
    let sql = "SELECT user, name FROM member_news WHERE due NOT BETWEEN ?1 AND ?2";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map(tx.to_come(LONGEST_HINT_PAUSE), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(String, Option<String>)>, _>>()?;
    rows.into_iter()
        .map(|(user, name)| {
            Ok(MemberNews { user: parse(&user)?, name: name.as_deref().map(parse).transpose()? })
        })
        .collect()
}

/// Notes that the AS knows nobody of the name of a user, after a device said that the account ends. Once that was so for
/// days, it is told: the device may have been a thief's, and the user about to begin anew.
pub(crate) fn absent(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let now = tx.now();
    let sql =
        "UPDATE member_news SET absent = coalesce(absent, ?2), due = ?3 WHERE user = ?1 RETURNING absent";
    let due = integer(now.saturating_add(ABSENT_AGAIN));
    let key = params![user.to_string(), integer(now), due];
    let since: Option<u64> = tx.sql().query_row(sql, key, |row| row.get(0)).optional()?;
    match since {
        Some(since) if since.saturating_add(GONE_AFTER) <= now => gone(tx, user),
        _ => Ok(()),
    }
}

/// Lets all that the AS did not show for users whose end was told of be so many seconds longer ago.
#[cfg(feature = "lab")]
pub(crate) fn pass_time(tx: &Tx<'_>, seconds: u64) -> Result<()> {
    let sql = "UPDATE member_news SET absent = absent - ?1, due = max(due - ?1, 0) WHERE absent IS NOT NULL";
    tx.sql().execute(sql, [integer(seconds)])?;
    let sql = "UPDATE gone_members SET since = since - ?1, due = max(due - ?1, 0)";
    tx.sql().execute(sql, [integer(seconds)])?;
    Ok(())
}

/// A lookup showed a user, who is not gone then.
pub(crate) fn reappeared(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM gone_members WHERE user = ?1", [user.to_string()])?;
    tx.sql().execute("UPDATE member_news SET absent = NULL WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

fn gone(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    forget_hint(tx, user)?;
    let sql = "INSERT INTO gone_members (user, told, since, due) VALUES (?1, 1, ?3, ?2)
               ON CONFLICT (user) DO UPDATE SET told = 1, due = excluded.due WHERE told <> 1";
    let due = integer(tx.now().saturating_add(GONE_AGAIN));
    if tx.sql().execute(sql, params![user.to_string(), due, integer(tx.now())])? == 0 {
        return Ok(());
    }
    tell(tx, user, |group| Event::MemberGone { group, user: user.clone() })
}

/// Notes that the AS does not show a user of whom no device said that the account ended. It may have ended, be hidden
/// from strangers, or have another name that its devices are yet to tell. So it is looked for again at `due` (seconds
/// since 1970), and counts as gone after a month: an account that an operator ended, or that ended while it was silent,
/// has no device that says so.
pub(crate) fn not_shown(tx: &Tx<'_>, user: &UserName, due: u64) -> Result<()> {
    tx.sql().execute(
        "INSERT INTO gone_members (user, told, since, due) VALUES (?1, 0, ?3, ?2)
         ON CONFLICT (user) DO UPDATE SET due = excluded.due",
        params![user.to_string(), integer(due), integer(tx.now())],
    )?;
    let sql = "UPDATE gone_members SET told = 2 WHERE user = ?1 AND told = 0 AND since <= ?2";
    let long_ago = integer(tx.now().saturating_sub(MISSING_AFTER));
    if tx.sql().execute(sql, params![user.to_string(), long_ago])? == 0 {
        return Ok(());
    }
    tell(tx, user, |group| Event::MemberMissing { group, user: user.clone() })
}

/// The AS still knows a user that says that it ends.
pub(crate) fn still_there(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute(
        "UPDATE member_news SET tried = tried + 1, absent = NULL, due = ?2 WHERE user = ?1",
        params![user.to_string(), integer(tx.now().saturating_add(LOOK_AGAIN))],
    )?;
    tx.sql().execute(
        "DELETE FROM member_news WHERE user = ?1 AND tried > ?2",
        params![user.to_string(), PATIENCE],
    )?;
    Ok(())
}

/// A lookup showed the identity of a user under another name.
pub(crate) fn was_renamed(tx: &Tx<'_>, user: &UserName, name: &UserName) -> Result<()> {
    forget_hint(tx, user)?;
    let groups = with_member(tx, &[user, name])?;
    groups.into_iter().try_for_each(|group| {
        Event::MemberRenamed { group, user: user.clone(), name: name.clone() }.record(tx)
    })
}

/// The AS shows that a user's identity was begun anew, and those that did so call it something else by now, if there is a `name`.
pub(crate) fn was_reset(tx: &Tx<'_>, user: &UserName, name: Option<&UserName>) -> Result<()> {
    tell(tx, user, |group| Event::MemberReset { group, user: user.clone(), name: name.cloned() })
}

/// The AS shows another display name of a user, or its key came.
pub(crate) fn shows_name(tx: &Tx<'_>, user: &UserName, display_name: &str) -> Result<()> {
    tell(tx, user, |group| Event::MemberDisplayName {
        group,
        user: user.clone(),
        display_name: display_name.to_owned(),
    })
}

pub(crate) fn forget_hint(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    tx.sql().execute("DELETE FROM member_news WHERE user = ?1", [user.to_string()])?;
    Ok(())
}

/// Some of the members' users that the AS was not asked about since a time (seconds since 1970). What it said while clocks were
/// ahead is of no use. One whose name is another by now, with a reset that waits for a person, is looked up once the person has
/// accepted that; and one of whom the AS showed nothing that holds, after an hour: others have their turn meanwhile.
pub(crate) fn not_seen_since(tx: &Tx<'_>, time: u64) -> Result<Vec<UserName>> {
    let sql = format!(
        "SELECT e.user FROM eids e
          WHERE e.pending = 0 AND (e.seen < ?1 OR e.seen > ?4) AND {NAMES_USER}
            AND NOT EXISTS (SELECT 1 FROM gone_members m
                             WHERE m.user = e.user AND m.due BETWEEN ?6 AND ?7)
            AND NOT EXISTS (SELECT 1 FROM member_news n WHERE n.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM eids p
                             WHERE p.user = e.user AND p.pending = 1 AND p.called IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM hidden_identities h
                             WHERE h.user = e.user AND h.failed > ?5 AND h.failed <= ?3)
          ORDER BY e.seen LIMIT ?2"
    );
    let mut statement = tx.sql().prepare_cached(&sql)?;
    let (now, an_hour_ago) = (tx.now(), tx.now().saturating_sub(identity::HIDDEN_AGAIN));
    let ahead = now.saturating_add(CLOCK_SKEW);
    // A user who is not shown is looked for as often as others are looked up.
    let [first, last] = tx.to_come(GONE_AGAIN.max(now.saturating_sub(time)));
    let rows = statement
        .query_map(
            params![integer(time), AT_ONCE, integer(now), integer(ahead), integer(an_hour_ago), first, last],
            |row| row.get(0),
        )?
        .collect::<Result<Vec<String>, _>>()?;
    rows.iter().map(|user| parse(user)).collect()
}

/// The users of members of this device's groups whose identities are known, but its own: first those whose clients are in the most
/// groups, and of these the ones that the AS showed last.
pub(crate) fn users_of_members(tx: &Tx<'_>) -> Result<Vec<UserName>> {
    let sql = format!(
        "SELECT e.user FROM eids e
           LEFT JOIN (SELECT i.user AS user, count(DISTINCT l.group_id) AS shared FROM links l
                        JOIN groups g ON g.group_id = l.group_id AND g.active = 1
                        JOIN identities i ON i.client_key = l.client_key AND i.pending = 0
                       GROUP BY i.user) m ON m.user = e.user
          WHERE e.pending = 0 AND e.user <> ?1 AND {NAMES_USER}
          ORDER BY coalesce(m.shared, 0) DESC, e.seen DESC, e.user"
    );
    let own = Account::load(tx)?.user.to_string();
    let mut statement = tx.sql().prepare(&sql)?;
    let rows = statement.query_map([own], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    rows.iter().map(|user| parse(user)).collect()
}

fn tell(tx: &Tx<'_>, user: &UserName, event: impl Fn(GroupId) -> Event) -> Result<()> {
    with_member(tx, &[user])?.into_iter().try_for_each(|group| event(group).record(tx))
}

/// The groups that one of these users is in, as far as its devices showed themselves: by this name, or as devices that a lookup
/// showed to be the user's. Such a device may yet have to say what it is called now.
fn with_member(tx: &Tx<'_>, users: &[&UserName]) -> Result<Vec<GroupId>> {
    let mut groups = Vec::new();
    for id in record::active(tx)? {
        for (_, claim) in members::claims(tx, &GroupState::load(tx, &id)?)? {
            let shown_as = identity::shown_as(tx, &claim.client_key)?;
            if users.contains(&&claim.user) || shown_as.is_some_and(|user| users.contains(&&user)) {
                groups.push(id);
                break;
            }
        }
    }
    Ok(groups)
}

fn parse(user: &str) -> Result<UserName> {
    user.parse().map_err(|_| Error::Damaged("a user name"))
}
