//! Restores of other homeservers to an earlier state (QS-12). A device learns by its queues that its own homeserver was restored;
//! that another one was, the description tells by the number of the generation: also to a device that only listens, and to one
//! that the restored homeserver does not know any more.

use std::collections::BTreeSet;

use postern_protocol::name::Domain;
use rusqlite::{OptionalExtension as _, params};

use super::descriptions::{DAY, description};
use crate::{
    error::{Error, Result, goes_on},
    server::Api,
    store::{Store, Tx, integer},
};

/// Seconds after which a look that failed is made again.
const RETRY: u64 = 60 * 60;

/// Looks at those of the homeservers of some domains that were not looked at for a day. One that is out of reach keeps no other
/// from being asked for, and is asked for again an hour later: each look may cost a token.
pub(crate) async fn look_for_restores(store: &Store, api: &Api, domains: BTreeSet<Domain>) -> Result<()> {
    for domain in domains {
        if !store.read(|tx| is_due(tx, &domain))? {
            continue;
        }
        store.write(|tx| put_off(tx, &domain, RETRY))?;
        let looked = description(api, &domain, false).await;
        if looked.is_ok() {
            store.write(|tx| put_off(tx, &domain, DAY))?;
        }
        goes_on(looked)?;
    }
    Ok(())
}

/// The domains whose homeservers are known to have been restored, and where something may be lost.
pub(crate) fn restored(tx: &Tx<'_>) -> Result<Vec<Domain>> {
    let mut statement = tx.sql().prepare_cached("SELECT domain FROM homeservers WHERE restored = 1")?;
    let domains = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    domains.iter().map(|domain| domain.parse().map_err(|_| Error::Damaged("a domain"))).collect()
}

/// Forgets that homeservers were restored, which is noted of all that is there.
pub(crate) fn forget_restores(tx: &Tx<'_>) -> Result<()> {
    tx.sql().execute("UPDATE homeservers SET restored = 0 WHERE restored = 1", [])?;
    Ok(())
}

/// Whether it is time to look at a homeserver, which is known.
fn is_due(tx: &Tx<'_>, domain: &Domain) -> Result<bool> {
    let mut statement = tx.sql().prepare_cached("SELECT due FROM homeservers WHERE domain = ?1")?;
    let due: Option<u64> = statement.query_row([domain.as_str()], |row| row.get(0)).optional()?;
    Ok(due.is_some_and(|due| tx.has_come(due, DAY)))
}

fn put_off(tx: &Tx<'_>, domain: &Domain, seconds: u64) -> Result<()> {
    let due = integer(tx.now().saturating_add(seconds));
    tx.sql().execute("UPDATE homeservers SET due = ?2 WHERE domain = ?1", params![domain.as_str(), due])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use postern_protocol::{
        Payload, encoding::Encoding, federation::HomeserverShown, key::SigningKey, problem::ProblemType,
    };

    use super::{
        super::{
            descriptions::take,
            tests::{described, described_with, domain},
        },
        *,
    };
    use crate::{clock::Clock, server::tests::Home};

    /// Tokens of the own homeserver, so many that no others are fetched.
    const TOKENS: &str = "WITH RECURSIVE numbers (number) AS
                              (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 100)
                          INSERT INTO tokens (token, domain, issuer_key)
                          SELECT CAST(number AS BLOB), 'home.example', x'00' FROM numbers";
    const YESTERDAY: &str = "UPDATE homeservers SET day = day - 1";

    fn write(home: &Home, sql: &str) {
        home.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
    }

    async fn look(home: &Home) {
        look_for_restores(&home.store, &home.api, [domain()].into()).await.expect("the other errands go on");
    }

    #[tokio::test]
    async fn a_homeserver_is_looked_at_once_a_day_and_shows_by_another_generation_that_it_was_restored() {
        let (signer, generation) = (Arc::new(SigningKey::generate()), Arc::new(AtomicU64::new(0)));
        let (key, number) = (signer.clone(), generation.clone());
        let home = Home::answering(move |_| {
            let number = number.load(Ordering::SeqCst);
            let now = Clock::default().now();
            let description = described_with(&[&*key], now, 0, |it| it.generation = number);
            let shown = HomeserverShown { description: Payload::new(description) };
            let body = Encoding::Cbor.encode(&shown);
            Ok(http::Response::builder().header("content-type", Encoding::Cbor.media_type()).body(body)?)
        });
        write(&home, TOKENS);
        let restored = || home.store.read(restored).unwrap();
        look(&home).await;
        assert_eq!(home.asked(), 0, "nothing is known of it");

        let first = described(&[&*signer], home.store.now(), 0);
        home.store.write(|tx| take(tx, &domain(), &first)).unwrap().unwrap();
        look(&home).await;
        assert_eq!(home.asked(), 0, "it is known what it says today");
        write(&home, YESTERDAY);
        look(&home).await;
        assert_eq!(home.asked(), 0, "it was looked at within a day");
        for due in ["0", "due + 1000 * 86400"] {
            write(&home, YESTERDAY);
            write(&home, &format!("UPDATE homeservers SET due = {due}"));
            let before = home.asked();
            look(&home).await;
            assert_eq!(home.asked(), before + 1, "{due}");
            look(&home).await;
            assert_eq!(home.asked(), before + 1, "{due}: once a day");
            assert!(restored().is_empty(), "{due}: nobody restored it");
        }
        generation.store(7, Ordering::SeqCst);
        write(&home, YESTERDAY);
        write(&home, "UPDATE homeservers SET due = 0");
        look(&home).await;
        assert_eq!(restored(), [domain()]);
        home.store.write(forget_restores).unwrap();
        write(&home, YESTERDAY);
        write(&home, "UPDATE homeservers SET due = 0");
        look(&home).await;
        assert!(restored().is_empty(), "that is known");
    }

    #[tokio::test]
    async fn a_homeserver_that_cannot_be_looked_at_is_not_asked_for_all_the_time() {
        let home = Home::of_problem(ProblemType::HomeserverUnknown);
        write(&home, TOKENS);
        let first = described(&[&SigningKey::generate()], home.store.now(), 0);
        home.store.write(|tx| take(tx, &domain(), &first)).unwrap().unwrap();
        write(&home, YESTERDAY);
        look(&home).await;
        let asked = home.asked();
        assert!(asked > 0);
        look(&home).await;
        assert_eq!(home.asked(), asked);
        write(&home, "UPDATE homeservers SET due = due - 3601");
        look(&home).await;
        assert!(home.asked() > asked, "an hour later it is");
    }
}
