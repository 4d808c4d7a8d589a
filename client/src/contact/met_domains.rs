//! Domains that strangers' letters name: when their AS may be asked, and when all that is known of them is forgotten. Owns
//! the table `met_domains`.

use std::collections::BTreeSet;

use postern_protocol::{Payload, name::Domain};
use rusqlite::params;

use super::{friendship::Friendship, letter};
use crate::{
    account::Account,
    elsewhere,
    error::{Error, Result},
    group, identity,
    store::{Tx, integer},
    tokens,
};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;
/// Domains that were never heard whose AS is asked within a day, since strangers say that they are from there.
const NEW_DOMAINS: u64 = 5;

/// The domains whose AS is asked for its keys before some deposits are received: one says that it is from a client whose
/// credential a key signed that was not seen yet. Strangers have so many domains asked as [`may_ask`] says.
pub(crate) fn with_new_issuers<'a>(
    tx: &Tx<'_>,
    deposits: impl Iterator<Item = &'a Payload>,
) -> Result<BTreeSet<Domain>> {
    let account = Account::load(tx)?;
    let (key, addresses) = (account.contact_key(), account.letter_addresses());
    let friendship = Friendship::load(tx)?;
    let mut domains = BTreeSet::new();
    for deposit in deposits {
        if let Some(letter) = letter::open(deposit, &addresses, &key) {
            let domain = letter.sender.user.domain();
            if !domains.contains(domain)
                && !friendship.secrets.is_blocked(&letter.sender.user)
                && !identity::was_seen(tx, domain, &letter.sender.issuer_key)?
                && (domain == account.user.domain() || may_ask(tx, domain)?)
            {
                domains.insert(domain.clone());
            }
        }
    }
    Ok(domains)
}

/// Whether the AS of another domain may be asked because somebody wrote from there, and that it is: each an hour apart, and
/// of those that were never heard a few a day. Each costs tokens, and tells somebody there when this device reads.
pub(super) fn may_ask(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    let now = tx.now();
    let sql = "SELECT EXISTS (SELECT 1 FROM met_domains WHERE domain = ?1 AND asked > ?2)";
    let hour_ago = integer(now.saturating_sub(HOUR));
    if tx.sql().query_row(sql, params![domain.as_str(), hour_ago], |row| row.get(0))? {
        return Ok(false);
    }
    let is_heard = identity::is_heard(tx, domain)?;
    if !is_heard {
        let sql = "SELECT count(*) FROM met_domains
                    WHERE domain <> ?1 AND asked >= ?2 AND domain NOT IN (SELECT domain FROM issuers)";
        let day_ago = integer(now.saturating_sub(DAY));
        let others: u64 = tx.sql().query_row(sql, params![domain.as_str(), day_ago], |row| row.get(0))?;
        if others >= NEW_DOMAINS {
            return Ok(false);
        }
    }
    let is_new = !is_heard && !elsewhere::is_known(tx, domain)?;
    let sql = "INSERT INTO met_domains (domain, asked, is_new) VALUES (?1, ?2, ?3)
               ON CONFLICT (domain) DO UPDATE SET asked = excluded.asked";
    tx.sql().execute(sql, params![domain.as_str(), integer(now), is_new])?;
    Ok(true)
}

/// Forgets domains that strangers named, a day after their AS was asked and once no letter from there waits: with all that
/// is known of them, if nobody of there is known. Else strangers could fill this device's store.
pub(crate) fn forget_met(tx: &Tx<'_>) -> Result<()> {
    let met: Vec<(String, bool)> = {
        let sql = "SELECT domain, is_new FROM met_domains
                    WHERE asked < ?1
                      AND domain NOT IN (SELECT substr(user, instr(user, '@') + 1) FROM letters)";
        let mut statement = tx.sql().prepare_cached(sql)?;
        let day_ago = integer(tx.now().saturating_sub(DAY));
        let rows = statement.query_map([day_ago], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (name, is_new) in met {
        let domain: Domain = name.parse().map_err(|_| Error::Damaged("a domain"))?;
        if is_new && !is_of_somebody(tx, &domain)? {
            elsewhere::forget(tx, &domain)?;
            identity::forget_as(tx, &domain)?;
            tokens::forget(tx, &domain)?;
        }
        tx.sql().execute("DELETE FROM met_domains WHERE domain = ?1", [name])?;
    }
    Ok(())
}

/// Whether this user has to do with somebody of a domain, or with a group there.
fn is_of_somebody(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    for table in ["eids", "contacts", "requests", "received_requests", "invitations", "news", "deposits"] {
        let sql =
            format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE substr(user, instr(user, '@') + 1) = ?1)");
        if tx.sql().query_row(&sql, [domain.as_str()], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(group::active(tx)?.iter().any(|group| group.domain() == domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{options::Options, store::Store};

    #[test]
    fn strangers_have_a_domain_asked_an_hour_apart_and_few_that_were_never_heard() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let asks = |domain: &str| store.write(|tx| may_ask(tx, &domain.parse().unwrap())).unwrap();
        let later = |seconds: u64| {
            let sql = "UPDATE met_domains SET asked = asked - ?1";
            store.write(|tx| Ok(tx.sql().execute(sql, [integer(seconds)])?)).unwrap();
        };
        assert!(asks("0.example"));
        assert!(!asks("0.example"), "it was asked just now");
        later(HOUR + 1);
        assert!(asks("0.example"));
        for number in 1..NEW_DOMAINS {
            assert!(asks(&format!("{number}.example")), "{number}");
        }
        assert!(!asks("one-more.example"), "strangers named so many within a day");
        later(DAY + 1);
        assert!(asks("one-more.example"));
    }

    #[test]
    fn a_domain_of_which_only_strangers_spoke_is_forgotten_with_their_letters() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let write = |sql: &str| store.write(|tx| Ok(tx.sql().execute_batch(sql)?)).unwrap();
        for domain in ["gone.example", "writing.example", "friend.example"] {
            assert!(store.write(|tx| may_ask(tx, &domain.parse().unwrap())).unwrap());
            write(&format!(
                "INSERT INTO homeservers (domain, description, day) VALUES ('{domain}', x'00', 1);
                 INSERT INTO homeserver_keys VALUES ('{domain}', x'00', 1);
                 INSERT INTO issuers VALUES ('{domain}', x'00', 0);
                 INSERT INTO tokens VALUES (CAST('{domain}' AS BLOB), '{domain}', x'00')"
            ));
        }
        write(
            "INSERT INTO letters (client_key, subject, user, number, time, stamp, body, stranger, due)
                  VALUES (x'00', '', 'eve@writing.example', 1, 1, x'', x'', 1, 0);
             INSERT INTO contacts (user, founding, given) VALUES ('bob@friend.example', x'', 1)",
        );
        let left = || {
            store.write(forget_met).unwrap();
            let of = |table: &str| {
                let sql = format!(
                    "SELECT group_concat(domain, ' ') FROM (SELECT domain FROM {table} ORDER BY domain)"
                );
                store.read(|tx| Ok(tx.sql().query_row(&sql, [], |row| row.get::<_, String>(0))?)).unwrap()
            };
            let left = of("homeservers");
            for table in ["homeserver_keys", "issuers", "tokens"] {
                assert_eq!(of(table), left, "{table}");
            }
            left
        };
        assert_eq!(left(), "friend.example gone.example writing.example", "it was today");
        write(&format!("UPDATE met_domains SET asked = asked - {}", DAY + 1));
        assert_eq!(left(), "friend.example writing.example");
        write("DELETE FROM letters");
        assert_eq!(left(), "friend.example");
    }
}
