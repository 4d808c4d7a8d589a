//! A dump in SQL, row by row, for tests that search one.

use std::collections::{BTreeSet, HashMap};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Bytes from which on two equal values are no chance: small numbers and dates are shorter.
pub const TELLING: usize = 8;

/// One row: its table, and its values as bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub table: String,
    pub values: Vec<Vec<u8>>,
}

impl Row {
    pub fn schema(&self) -> &str {
        self.table.split('.').next().unwrap_or_default()
    }
}

/// The rows of a dump ([`crate::Cluster::dump`]).
pub fn rows(dump: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lines = dump.lines();
    while let Some(line) = lines.next() {
        let Some(table) = line.strip_prefix("COPY ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        for row in lines.by_ref().take_while(|row| *row != "\\.") {
            let values = row.split('\t').map(|value| {
                let bytes = value.strip_prefix("\\\\x").and_then(|digits| hex::decode(digits).ok());
                bytes.unwrap_or_else(|| value.as_bytes().to_vec())
            });
            rows.push(Row { table: table.to_owned(), values: values.collect() });
        }
    }
    rows
}

/// Whether somebody who finds a value in two places joins them by it.
pub fn is_telling(value: &[u8]) -> bool {
    value.len() >= TELLING && !is_date(value)
}

/// The pairs of tables whose rows in `one` and `other` could be joined: a telling value of a row lies within a value of
/// a row of the other side.
pub fn joins<'a>(one: &[&'a Row], other: &[&'a Row]) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (row, value) in one.iter().flat_map(|row| row.values.iter().map(move |value| (row, value))) {
        let joined = other.iter().filter(|other| {
            let (holds, is_held) = (|it: &Vec<u8>| contains(it, value), |it: &Vec<u8>| contains(value, it));
            is_telling(value) && other.values.iter().any(holds)
                || other.values.iter().any(|it| is_telling(it) && is_held(it))
        });
        found.extend(joined.map(|other| (row.table.as_str(), other.table.as_str())));
    }
    found
}

/// The same pairs of tables, each once, among many rows: it looks at every place of every value once, and finds there the
/// values of the other side by their first bytes.
pub fn joined_tables<'a>(one: &[&'a Row], other: &[&'a Row]) -> BTreeSet<(&'a str, &'a str)> {
    let mut joined = BTreeSet::new();
    for (one, other, turned) in [(one, other, false), (other, one, true)] {
        let mut parts: HashMap<&[u8], BTreeSet<(&[u8], &str)>> = HashMap::new();
        for row in one {
            for value in row.values.iter().filter(|value| is_telling(value)) {
                parts.entry(&value[..TELLING]).or_default().insert((value, &row.table));
            }
        }
        for row in other {
            for value in &row.values {
                for place in 0..(value.len() + 1).saturating_sub(TELLING) {
                    let Some(found) = parts.get(&value[place..place + TELLING]) else { continue };
                    let held = found.iter().filter(|(part, _)| value[place..].starts_with(part));
                    joined.extend(held.map(|(_, table)| match turned {
                        false => (*table, row.table.as_str()),
                        true => (row.table.as_str(), *table),
                    }));
                }
            }
        }
    }
    joined
}

pub fn contains(value: &[u8], part: &[u8]) -> bool {
    value.windows(part.len()).any(|window| window == part)
}

/// The texts by which a value could stand in a log.
pub fn spellings(value: &[u8]) -> [String; 3] {
    [hex::encode(value), URL_SAFE_NO_PAD.encode(value), STANDARD_NO_PAD.encode(value)]
}

/// Whether a value is a date: those are equal by chance.
pub fn is_date(value: &[u8]) -> bool {
    value.len() == 10 && value[4] == b'-' && value[7] == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_joined_by_a_value_within_another_and_by_no_short_one_or_date() {
        let row = |table: &str, values: &[&[u8]]| Row {
            table: table.to_owned(),
            values: values.iter().map(|value| value.to_vec()).collect(),
        };
        let (user, queue) = (
            row("auth.users", &[b"a random id", b"short", b"2026-11-29"]),
            row("qs.queues", &[b"short", b"2026-11-29", b"something else"]),
        );
        assert!(joined_tables(&[&user], &[&queue]).is_empty());
        let holds = row("ds.groups", &[b"before a random id behind"]);
        assert_eq!(joined_tables(&[&user], &[&holds, &queue]), [("auth.users", "ds.groups")].into());
        assert_eq!(joined_tables(&[&holds], &[&user]), [("ds.groups", "auth.users")].into());
        assert_eq!(joins(&[&user], &[&holds]).len(), 1, "as the search that compares each with each");
    }
}
