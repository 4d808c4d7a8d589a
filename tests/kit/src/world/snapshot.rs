//! The contents of the database, table by table: so "nothing changed" can be said and, where it is wrong, which table
//! did.

use std::collections::BTreeMap;

use crate::World;

/// A digest for each table of the services but those that move by themselves: aas.spent and aas.used_signatures, where
/// the door keeps what was shown; aas.signature_span, aas.token_use and qs.sweep, which move by the clock;
/// auth.wrong_proofs, which counts what is refused, too; and those with the attempts at other homeservers, which are
/// unlogged.
#[derive(PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

const TABLES: &str = "
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('auth', 'aas', 'ds', 'qs', 'rendezvous', 'federation') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND c.oid NOT IN ('aas.spent'::regclass, 'aas.used_signatures'::regclass, 'aas.signature_span'::regclass,
                          'aas.token_use'::regclass, 'qs.sweep'::regclass, 'auth.wrong_proofs'::regclass)
        AND NOT (n.nspname = 'federation' AND c.relpersistence = 'u')
     ORDER BY 1";

impl World {
    pub async fn snapshot(&self) -> Snapshot {
        let tables = self.admin.query(TABLES, &[]).await.expect("the catalog can be read");
        let digest = |name: String| {
            format!(
                "SELECT '{name}', md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {name} t"
            )
        };
        let digests: Vec<_> = tables.iter().map(|row| digest(row.get(0))).collect();
        let rows = self
            .admin
            .simple_query(&digests.join(" UNION ALL "))
            .await
            .expect("a superuser reads everything");
        let entry = |row: &tokio_postgres::SimpleQueryMessage| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((row.get(0)?.to_owned(), row.get(1)?.to_owned()))
            }
            _ => None,
        };
        let digests: BTreeMap<_, _> = rows.iter().filter_map(entry).collect();
        assert!(digests.contains_key("qs.messages"), "the tables are where they were");
        Snapshot(digests)
    }
}

impl World {
    /// The number of rows of each table of the services.
    pub async fn row_counts(&self) -> BTreeMap<String, i64> {
        let tables = self.admin.query(TABLES, &[]).await.expect("the catalog can be read");
        let mut counts = BTreeMap::new();
        for row in tables {
            let name: String = row.get(0);
            let count = self.count(&name).await;
            counts.insert(name, count);
        }
        counts
    }
}

impl Snapshot {
    pub fn assert_same(&self, before: &Self, what: &str) {
        let changed: Vec<_> =
            self.0.iter().filter(|(name, digest)| before.0.get(*name) != Some(digest)).collect();
        assert!(changed.is_empty(), "{what} changed {changed:?}");
    }
}
