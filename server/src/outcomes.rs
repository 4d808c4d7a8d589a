//! The test that compares the outcomes of API functions in Rust with those in the database.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    aas, auth, cli,
    database::{generation, outcome::Declared, release},
    ds, federation, health, http, qs, rendezvous,
};

/// The labels of every outcome type, from `CREATE TYPE schema.function_outcome AS ENUM ('a', 'b')`
/// and the `ALTER TYPE`s of later migrations.
fn in_migrations() -> BTreeMap<String, BTreeSet<String>> {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for text in release::migrations() {
        for statement in text.split(';') {
            let Some((kind, rest)) = ["CREATE TYPE ", "ALTER TYPE "].iter().find_map(|start| {
                let at = statement.find(start)?;
                Some((*start, &statement[at + start.len()..]))
            }) else {
                continue;
            };
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let wanted = kind.starts_with("ALTER") || rest.trim_start().starts_with("AS ENUM");
            if name.ends_with("_outcome") && wanted {
                let labels = rest.split('\'').skip(1).step_by(2).map(str::to_owned);
                types.entry(name.to_owned()).or_default().extend(labels);
            }
        }
    }
    types
}

/// Outcomes that the server does not read: after these calls it does the same, whether the row was
/// dropped now or before.
const NOT_READ: [&str; 1] = ["qs.drop_push_subscription_outcome"];

#[test]
fn outcomes_are_the_same_in_rust_and_in_the_database() {
    let declared = [
        aas::outcomes(),
        auth::outcomes(),
        cli::outcomes(),
        ds::outcomes(),
        federation::outcomes(),
        generation::outcomes(),
        health::outcomes(),
        http::outcomes(),
        qs::outcomes(),
        rendezvous::outcomes(),
    ];
    let mut expected = in_migrations();
    for Declared { name, labels } in declared.into_iter().flatten() {
        let found = expected.remove(name).unwrap_or_else(|| panic!("there is no type {name}"));
        assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), labels, "{name}");
    }
    for name in NOT_READ {
        assert!(expected.remove(name).is_some(), "there is no type {name}");
    }
    assert!(expected.is_empty(), "no Rust enum has {:?}", expected.keys());
}
