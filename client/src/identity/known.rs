//! Users' identities as lookups showed them: how far each was seen, which clients are whose, and
//! what waits for a person to accept it. Owns the tables `identities`, `eids` and `eid_epochs`.

use postern_protocol::{
    PublicKey, Transcript,
    eid::{EidState, Founding},
    name::{Domain, UserName},
};
use rusqlite::{OptionalExtension as _, Row, params};

use super::public_eid::PublicEid;
use crate::{
    account::Account,
    error::{Error, IdentityError, Result},
    group, profile,
    store::{Tx, decode, encode, fixed, integer},
};

/// The tables with a row, or more, for each of a user's two identities.
const TABLES: [&str; 3] = ["eids", "eid_epochs", "identities"];

/// How many of the last epochs of an identity this device remembers. By default an AS takes as many commits.
pub(super) const EPOCHS_KEPT: i64 = 10_000;

/// Seconds for which a user stays known that this one has nothing to do with: a quarter of a year.
const STRANGERS_KEPT: u64 = 91 * 24 * 60 * 60;

/// A user's identity as the last lookup showed it that a person need not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The key of the client that began it (Ed25519).
    pub founder: PublicKey,
    /// The transcript of its epoch 0.
    pub founding: Transcript,
    pub eid: EidState,
    /// Whether a person compared it with the user, and it was not replaced since.
    pub verified: bool,
    /// Whether the AS shows another identity by now, which a person has to accept.
    pub reset_pending: bool,
}

/// A state of an identity that somebody told, compared with those that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was seen.
    Same,
    /// Its epoch was not seen: the user is unknown, or was known only later.
    Unknown,
    /// It is newer than what was seen.
    Newer,
    /// The AS showed another history in this epoch.
    Split,
}

/// An identity as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub founding: Founding,
    pub eid: EidState,
    /// A [`PublicEid`].
    pub public_group: Vec<u8>,
    /// Names that the user had when this device saw it, as far as a leaf still has one.
    pub former: Vec<UserName>,
    /// The name that an identity which waits for a person has by now, if it is another one. Its own clients gave it, so the
    /// user goes by it once the person accepted them.
    pub called: Option<UserName>,
    /// The time of the newest ticket, in seconds since 1970; 0 before the first.
    pub seen: u64,
    pub verified: bool,
}

/// Which of a user's two identities: the accepted one, or the one that waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Accepted = 0,
    Pending = 1,
}

/// A user's identity; `None` if the user was never looked up.
pub(crate) fn known(tx: &Tx<'_>, name: &UserName) -> Result<Option<Known>> {
    let Some(kept) = find(tx, name, Which::Accepted)? else { return Ok(None) };
    let reset_pending = find(tx, name, Which::Pending)?.is_some();
    Ok(Some(Known {
        founder: kept.founding.founder,
        founding: kept.founding.transcript,
        eid: kept.eid,
        verified: kept.verified && !reset_pending,
        reset_pending,
    }))
}

/// The identity that the AS shows instead of the known one, for a person to accept. The user is named as [`waiting_as`] takes it.
pub(crate) fn pending_reset(tx: &Tx<'_>, name: &UserName) -> Result<Option<Known>> {
    let Some(user) = waiting_as(tx, name)? else { return Ok(None) };
    let kept = find(tx, &user, Which::Pending)?;
    Ok(kept.map(|kept| Known {
        founder: kept.founding.founder,
        founding: kept.founding.transcript,
        eid: kept.eid,
        verified: false,
        reset_pending: true,
    }))
}

/// The user whose client this is, if the user's last lookup showed it: a client that was removed, has
/// not confirmed itself or has no valid credential is nobody's, and so are all clients of a user whose
/// reset was not accepted.
pub(crate) fn confirmed(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<UserName>> {
    let name: Option<String> = tx
        .sql()
        .prepare_cached(
            "SELECT user FROM identities i
             WHERE client_key = ?1 AND pending = 0
               AND NOT EXISTS (SELECT 1 FROM eids e WHERE e.user = i.user AND e.pending = 1)",
        )?
        .query_row([client_key.as_bytes()], |row| row.get(0))
        .optional()?;
    parsed(name)
}

/// The user in whose accepted identity a client was shown last, also while a reset waits for a person.
pub(crate) fn shown_as(tx: &Tx<'_>, client_key: &PublicKey) -> Result<Option<UserName>> {
    let sql = "SELECT user FROM identities WHERE client_key = ?1 AND pending = 0";
    let name: Option<String> =
        tx.sql().prepare_cached(sql)?.query_row([client_key.as_bytes()], |row| row.get(0)).optional()?;
    parsed(name)
}

fn parsed(name: Option<String>) -> Result<Option<UserName>> {
    name.map(|name| name.parse().map_err(|_| Error::Damaged("a user name"))).transpose()
}

/// Whether a client is a device of some user, as far as lookups showed it whose identities are accepted. It may have been silent
/// for so long that its credential ended: then it says to be of a user of this `name`, which the user may have had before. And
/// while a reset waits for a person nothing is taken from anybody, since that is the AS's word alone.
pub(crate) fn is_device(tx: &Tx<'_>, name: &UserName, client_key: &PublicKey) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM identities WHERE client_key = ?1 AND pending = 0)";
    let is_shown: bool =
        tx.sql().prepare_cached(sql)?.query_row([client_key.as_bytes()], |row| row.get(0))?;
    if is_shown {
        return Ok(true);
    }
    for user in called(tx, name)? {
        let kept = find(tx, &user, Which::Accepted)?;
        if kept.map(|kept| kept.has(&user, client_key)).transpose()? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a client that was removed from a user is the user's again, as the last lookup showed it. The user may have another
/// name by now.
pub(crate) fn is_again(tx: &Tx<'_>, name: &UserName, client_key: &PublicKey) -> Result<bool> {
    let Some(user) = confirmed(tx, client_key)? else { return Ok(false) };
    Ok(user == *name || called(tx, name)?.contains(&user))
}

/// The users that have a name, or had it when a leaf of theirs was made, each by its present name. Their identities are accepted.
pub(super) fn called(tx: &Tx<'_>, name: &UserName) -> Result<Vec<UserName>> {
    // x'80' is an empty list, which most have. Members are asked about with each of their messages.
    let sql = "SELECT user, former FROM eids WHERE pending = 0 AND user = ?1
                UNION ALL
               SELECT user, former FROM eids
                WHERE pending = 0 AND former <> x'80' AND user <> ?1
                  AND substr(user, instr(user, '@') + 1) = ?2";
    let mut statement = tx.sql().prepare_cached(sql)?;
    let rows = statement
        .query_map([name.to_string().as_str(), name.domain().as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(String, Vec<u8>)>, _>>()?;
    let mut users = Vec::new();
    for (user, former) in rows {
        let user: UserName = user.parse().map_err(|_| Error::Damaged("a user name"))?;
        if user == *name || decode::<Vec<UserName>>(&former, "names")?.contains(name) {
            users.push(user);
        }
    }
    Ok(users)
}

/// Compares a state of a user's identity, which one of the user's clients or a contact told, with those
/// that the AS showed.
pub(crate) fn compare(tx: &Tx<'_>, name: &UserName, told: &EidState) -> Result<Seen> {
    let Some(kept) = find(tx, name, Which::Accepted)? else { return Ok(Seen::Unknown) };
    if told.incarnation != kept.eid.incarnation {
        let newer = told.incarnation > kept.eid.incarnation;
        return Ok(if newer { Seen::Newer } else { Seen::Unknown });
    }
    if told.epoch > kept.eid.epoch {
        return Ok(Seen::Newer);
    }
    let seen: Option<Vec<u8>> = tx
        .sql()
        .prepare_cached("SELECT transcript FROM eid_epochs WHERE user = ?1 AND pending = 0 AND epoch = ?2")?
        .query_row(params![name.to_string(), integer(told.epoch)], |row| row.get(0))
        .optional()?;
    Ok(match seen {
        None => Seen::Unknown,
        Some(seen) if seen == told.transcript.as_bytes() => Seen::Same,
        Some(_) => Seen::Split,
    })
}

/// The state of this user's own identity.
///
/// # Errors
/// [`Error::NotReady`] before this device is in it.
pub(crate) fn own_state(tx: &Tx<'_>) -> Result<EidState> {
    Ok(own(tx, &Account::load(tx)?.user)?.eid)
}

/// The identity of this device's own user.
///
/// # Errors
/// [`Error::NotReady`] before this device is in it.
pub(super) fn own(tx: &Tx<'_>, name: &UserName) -> Result<Kept> {
    find(tx, name, Which::Accepted)?.ok_or(Error::NotReady)
}

/// The user that an identity which waits for a person is kept as: by this name, or by one that it has by now.
pub(super) fn waiting_as(tx: &Tx<'_>, name: &UserName) -> Result<Option<UserName>> {
    let sql =
        "SELECT user FROM eids WHERE pending = 1 AND (user = ?1 OR called = ?1) ORDER BY user <> ?1 LIMIT 1";
    let user: Option<String> = tx.sql().query_row(sql, [name.to_string()], |row| row.get(0)).optional()?;
    parsed(user)
}

/// Takes the identity that waits for a person as the user's: the person said that it is still the same.
pub(super) fn accept_reset(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    for table in TABLES {
        let sql = format!("DELETE FROM {table} WHERE user = ?1 AND pending = 0");
        tx.sql().execute(&sql, [name.to_string()])?;
        // A client that became another user's meanwhile stays that one's.
        let sql = format!("UPDATE OR IGNORE {table} SET pending = 0 WHERE user = ?1");
        tx.sql().execute(&sql, [name.to_string()])?;
    }
    forget(tx, name, Which::Pending)?;
    tx.sql().execute("UPDATE eids SET called = NULL WHERE user = ?1", [name.to_string()])?;
    profile::forget(tx, name)
}

/// Remembers that a person compared a user's identity with the user, or takes that back.
///
/// # Errors
/// [`IdentityError::Reset`] while a reset waits for a person, [`IdentityError::Unknown`] before a lookup.
pub(crate) fn set_verified(tx: &Tx<'_>, name: &UserName, verified: bool) -> Result<()> {
    if verified && find(tx, name, Which::Pending)?.is_some() {
        return Err(IdentityError::Reset.into());
    }
    let changed = tx.sql().execute(
        "UPDATE eids SET verified = ?2, split = iif(?2, NULL, split) WHERE user = ?1 AND pending = 0",
        params![name.to_string(), verified],
    )?;
    if changed == 0 { Err(IdentityError::Unknown.into()) } else { Ok(()) }
}

/// Remembers the state of another history of a user's identity that somebody saw, and withdraws that the user is
/// verified. False if this state was the last one that was remembered.
pub(super) fn mark_split(tx: &Tx<'_>, name: &UserName, told: &EidState) -> Result<bool> {
    doubt(tx, name)?;
    let marked = tx.sql().execute(
        "UPDATE eids SET split = ?2 WHERE user = ?1 AND pending = 0 AND split IS NOT ?2",
        params![name.to_string(), told.to_bytes()],
    )?;
    Ok(marked > 0)
}

/// Withdraws that a user is verified.
pub(super) fn doubt(tx: &Tx<'_>, name: &UserName) -> Result<()> {
    tx.sql().execute("UPDATE eids SET verified = 0 WHERE user = ?1 AND pending = 0", [name.to_string()])?;
    Ok(())
}

pub(super) fn find(tx: &Tx<'_>, name: &UserName, which: Which) -> Result<Option<Kept>> {
    let found = tx
        .sql()
        .prepare_cached(
            "SELECT founder, founding, incarnation, epoch, transcript, public_group, former, called, seen, verified
             FROM eids WHERE user = ?1 AND pending = ?2",
        )?
        .query_row(params![name.to_string(), which as i64], |row| Ok(read(row)))
        .optional()?;
    found.transpose()
}

fn read(row: &Row<'_>) -> Result<Kept> {
    let bytes = |column| row.get::<_, Vec<u8>>(column);
    let called: Option<String> = row.get("called")?;
    Ok(Kept {
        founding: Founding {
            founder: fixed(&bytes("founder")?, "a key")?,
            transcript: fixed(&bytes("founding")?, "a transcript")?,
        },
        eid: EidState {
            incarnation: row.get("incarnation")?,
            epoch: row.get("epoch")?,
            transcript: fixed(&bytes("transcript")?, "a transcript")?,
        },
        public_group: bytes("public_group")?,
        former: decode(&bytes("former")?, "names")?,
        called: parsed(called)?,
        seen: row.get("seen")?,
        verified: row.get("verified")?,
    })
}

/// Keeps an identity in place of what was kept there.
pub(super) fn replace(tx: &Tx<'_>, name: &UserName, which: Which, kept: &Kept) -> Result<()> {
    forget(tx, name, which)?;
    extend(tx, name, which, kept, &[(kept.eid.epoch, kept.eid.transcript)])
}

/// Keeps an identity that goes on from what was kept, and the transcripts of its epochs since.
pub(super) fn extend(
    tx: &Tx<'_>,
    name: &UserName,
    which: Which,
    kept: &Kept,
    transcripts: &[(u64, Transcript)],
) -> Result<()> {
    tx.sql()
        .prepare_cached(
            "INSERT INTO eids
                 (user, pending, founder, founding, incarnation, epoch, transcript, public_group, former, called,
                  seen, verified)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (user, pending)
             DO UPDATE SET epoch = excluded.epoch, transcript = excluded.transcript,
                           public_group = excluded.public_group, former = excluded.former,
                           called = excluded.called, seen = excluded.seen",
        )?
        .execute(params![
            name.to_string(),
            which as i64,
            kept.founding.founder.as_bytes(),
            kept.founding.transcript.as_bytes(),
            kept.eid.incarnation,
            integer(kept.eid.epoch),
            kept.eid.transcript.as_bytes(),
            kept.public_group,
            encode(&kept.former),
            kept.called.as_ref().map(ToString::to_string),
            integer(kept.seen),
            kept.verified
        ])?;
    keep_transcripts(tx, name, which, transcripts)
}

/// Keeps transcripts of epochs. Those that are kept stay.
pub(super) fn keep_transcripts(
    tx: &Tx<'_>,
    name: &UserName,
    which: Which,
    transcripts: &[(u64, Transcript)],
) -> Result<()> {
    let mut statement = tx.sql().prepare_cached(
        "INSERT OR IGNORE INTO eid_epochs (user, pending, epoch, transcript) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (epoch, transcript) in transcripts {
        statement.execute(params![name.to_string(), which as i64, integer(*epoch), transcript.as_bytes()])?;
    }
    tx.sql()
        .prepare_cached(
            "DELETE FROM eid_epochs WHERE user = ?1 AND pending = ?2 AND epoch <= -?3 +
                 (SELECT max(epoch) FROM eid_epochs WHERE user = ?1 AND pending = ?2)",
        )?
        .execute(params![name.to_string(), which as i64, EPOCHS_KEPT])?;
    Ok(())
}

/// The transcripts of the epochs that were seen.
pub(super) fn transcripts(tx: &Tx<'_>, name: &UserName, which: Which) -> Result<Vec<(u64, Transcript)>> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT epoch, transcript FROM eid_epochs WHERE user = ?1 AND pending = ?2 ORDER BY epoch",
    )?;
    let rows = statement
        .query_map(params![name.to_string(), which as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(u64, Vec<u8>)>, _>>()?;
    rows.iter().map(|(epoch, transcript)| Ok((*epoch, fixed(transcript, "a transcript")?))).collect()
}

/// Forgets an identity.
pub(super) fn forget(tx: &Tx<'_>, name: &UserName, which: Which) -> Result<()> {
    for table in TABLES {
        let sql = format!("DELETE FROM {table} WHERE user = ?1 AND pending = ?2");
        tx.sql().execute(&sql, params![name.to_string(), which as i64])?;
    }
    Ok(())
}

/// The user that an identity was seen as.
pub(super) fn named(tx: &Tx<'_>, founding: &Founding) -> Result<Option<UserName>> {
    let name: Option<String> = tx
        .sql()
        .prepare_cached("SELECT user FROM eids WHERE founder = ?1 AND founding = ?2 AND pending = 0")?
        .query_row(params![founding.founder.as_bytes(), founding.transcript.as_bytes()], |row| row.get(0))
        .optional()?;
    parsed(name)
}

/// The user as which one of these incarnations was seen, each named by its first transcript: of several the last one.
pub(super) fn begun_as<'a>(
    tx: &Tx<'_>,
    foundings: impl IntoIterator<Item = &'a Transcript>,
) -> Result<Option<UserName>> {
    let mut statement =
        tx.sql().prepare_cached("SELECT user FROM eids WHERE founding = ?1 AND pending = 0 LIMIT 1")?;
    for founding in foundings {
        let name: Option<String> = statement.query_row([founding.as_bytes()], |row| row.get(0)).optional()?;
        if let Some(name) = name {
            return name.parse().map(Some).map_err(|_| Error::Damaged("a user name"));
        }
    }
    Ok(None)
}

/// Keeps under another name what was seen of a user, in place of anybody who had that one (AS-9).
pub(crate) fn rename(tx: &Tx<'_>, from: &UserName, to: &UserName) -> Result<()> {
    for table in ["eids", "eid_epochs", "identities", "eid_claims"] {
        tx.sql().execute(&format!("DELETE FROM {table} WHERE user = ?1"), [to.to_string()])?;
        let sql = format!("UPDATE {table} SET user = ?2 WHERE user = ?1");
        tx.sql().execute(&sql, [from.to_string(), to.to_string()])?;
    }
    if let Some(kept) = find(tx, to, Which::Accepted)? {
        let others = kept.former.iter().filter(|name| *name != from && *name != to);
        let former: Vec<_> = others.chain([from]).collect();
        let sql = "UPDATE eids SET former = ?2 WHERE user = ?1 AND pending = 0";
        tx.sql().execute(sql, params![to.to_string(), encode(&former)])?;
    }
    group::user_was_renamed(tx, from, to)?;
    profile::rename(tx, from, to)
}

/// Keeps these as the clients of one of a user's identities, and no others.
pub(super) fn keep_clients(tx: &Tx<'_>, name: &UserName, which: Which, clients: &[PublicKey]) -> Result<()> {
    tx.sql()
        .prepare_cached("DELETE FROM identities WHERE user = ?1 AND pending = ?2")?
        .execute(params![name.to_string(), which as i64])?;
    for client in clients {
        tx.sql()
            .prepare_cached("INSERT INTO identities (client_key, user, pending) VALUES (?1, ?2, ?3)")?
            .execute(params![client.as_bytes(), name.to_string(), which as i64])?;
    }
    Ok(())
}

/// Whether one of these clients is another user's, whose identity a person need not accept. Of two users with one client
/// the AS lies about the second, at least.
pub(super) fn has_client_of_another(
    tx: &Tx<'_>,
    name: &UserName,
    clients: impl IntoIterator<Item = PublicKey>,
) -> Result<bool> {
    let mut statement = tx.sql().prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM identities WHERE client_key = ?1 AND pending = 0 AND user <> ?2)",
    )?;
    for client in clients {
        if statement.query_row(params![client.as_bytes(), name.to_string()], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether lookups showed clients of a user. They showed none yet of one that another device of this user handed over.
pub(super) fn has_clients(tx: &Tx<'_>, name: &UserName) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM identities WHERE user = ?1 AND pending = 0)";
    Ok(tx.sql().prepare_cached(sql)?.query_row([name.to_string()], |row| row.get(0))?)
}

/// Forgets which clients are whose in a domain: the next lookup of each user tells again.
pub(super) fn doubt_all(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    let sql = "DELETE FROM identities WHERE substr(user, instr(user, '@') + 1) = ?1";
    tx.sql().execute(sql, [domain.as_str()])?;
    Ok(())
}

/// Whether a client is in a user's identity, confirmed or not, as the last lookup showed it; `None` of a user who is not
/// known, or whose reset was not accepted.
pub(crate) fn has_device(tx: &Tx<'_>, name: &UserName, client: &PublicKey) -> Result<Option<bool>> {
    if find(tx, name, Which::Pending)?.is_some() {
        return Ok(None);
    }
    let kept = find(tx, name, Which::Accepted)?;
    kept.map(|kept| kept.has(name, client)).transpose()
}

/// Forgets users that this one has nothing to do with any more: no contacts, nobody in a group, nobody who asks or was
/// asked, nobody that a person verified or whose reset waits; and that were not looked up for long.
pub(super) fn forget_strangers(tx: &Tx<'_>) -> Result<()> {
    let own = Account::load(tx)?.user.to_string();
    let sql = format!(
        "SELECT e.user FROM eids e
          WHERE e.pending = 0 AND e.verified = 0 AND e.user <> ?1 AND e.seen < ?2
            AND NOT EXISTS (SELECT 1 FROM eids p WHERE p.user = e.user AND p.pending = 1)
            AND NOT EXISTS (SELECT 1 FROM contacts c WHERE c.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM received_requests r WHERE r.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM letters l WHERE l.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM news n WHERE n.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM invitations i WHERE i.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM fetches f WHERE f.user = e.user)
            AND NOT EXISTS (SELECT 1 FROM identities i JOIN links l ON l.client_key = i.client_key
                             WHERE i.user = e.user)
            AND NOT {NAMES_USER}",
        NAMES_USER = group::NAMES_USER
    );
    let mut statement = tx.sql().prepare_cached(&sql)?;
    let long_ago = integer(tx.now().saturating_sub(STRANGERS_KEPT));
    let users = statement.query_map(params![own, long_ago], |row| row.get(0))?;
    for user in users.collect::<Result<Vec<String>, _>>()? {
        for table in
            ["eids", "eid_epochs", "identities", "eid_claims", "safety_numbers", "gone_members", "profiles"]
        {
            tx.sql().execute(&format!("DELETE FROM {table} WHERE user = ?1"), [&user])?;
        }
    }
    Ok(())
}

/// Takes a client from its user.
pub(super) fn forget_client(tx: &Tx<'_>, client: &PublicKey) -> Result<()> {
    tx.sql().execute("DELETE FROM identities WHERE client_key = ?1", [client.as_bytes()])?;
    Ok(())
}

impl Kept {
    pub(super) fn public_eid(&self) -> Result<PublicEid> {
        PublicEid::decode(&self.public_group).ok_or(Error::Damaged("an identity"))
    }

    /// Whether a client is in the identity of this user, confirmed or not.
    fn has(&self, name: &UserName, client: &PublicKey) -> Result<bool> {
        let leaves = self.public_eid()?.leaves(name)?;
        Ok(leaves.iter().any(|leaf| leaf.client_key == *client))
    }
}
