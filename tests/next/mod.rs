//! Releases that are made up, so that tests upgrade to them (OPS-6). The next one has other columns in all hot tables, another
//! version of the extension, an outcome more, other signatures of functions that every message needs, and another name of
//! one; it reads a format of groups that this one does not know. The one after it writes that format, and keeps nothing of
//! this one.

use postern_server::database::release::{Formats, Release, Version};

/// The environment variable that chooses the release, and its value for the one after the next.
pub const WHICH: &str = "POSTERN_MADE_UP";
pub const LATER: &str = "later";

/// The format that is new, and the one that is in use today.
pub const NEW_FORMAT: u8 = 200;
const FORMATS: [u8; 2] = [1, NEW_FORMAT];

/// The migrations of the next release. For hot tables they are as CONTRIBUTING.md wants them: one table in each, so that no
/// transaction holds the lock of one while it waits for another's; defaults that are not volatile; constraints that are
/// validated in another migration; no index.
pub const MIGRATIONS: [(&str, &str); 10] = [
    ("V1000__count_reads", "ALTER TABLE qs.queues ADD COLUMN reads bigint NOT NULL DEFAULT 0"),
    ("V1001__greet", "ALTER TABLE ds.groups ADD COLUMN greeting text NOT NULL DEFAULT postern.greeting()"),
    ("V1002__fall_asleep", "ALTER TYPE ds.submit_message_outcome ADD VALUE 'asleep'"),
    ("V1003__weigh", "ALTER TABLE qs.messages ADD COLUMN weight integer NOT NULL DEFAULT 1"),
    (
        "V1004__bound_weights",
        "ALTER TABLE qs.messages ADD CONSTRAINT weight_is_positive CHECK (weight > 0) NOT VALID",
    ),
    ("V1005__check_weights", "ALTER TABLE qs.messages VALIDATE CONSTRAINT weight_is_positive"),
    // The partitioned table and its partitions are locked in the order in which writers lock them.
    ("V1006__rate", "ALTER TABLE aas.spent ADD COLUMN rate smallint NOT NULL DEFAULT 1"),
    ("V1007__have_languages", "ALTER TABLE auth.users ADD COLUMN language text NOT NULL DEFAULT 'en'"),
    (
        "V1008__bound_languages",
        "ALTER TABLE auth.users ADD CONSTRAINT language_is_short CHECK (length(language) < 36) NOT VALID",
    ),
    ("V1009__check_languages", "ALTER TABLE auth.users VALIDATE CONSTRAINT language_is_short"),
];

const GRANTS: &str = "sql/grants.sql";
const DEQUEUE: &str = "qs/dequeue.sql";
const SUBMIT: &str = "ds/submit_message.sql";
const LOAD_KEYS: &str = "aas/load_issuer_keys.sql";

/// The release after this one.
pub fn next() -> Release {
    let this = Release::embedded();
    let kept = |path: &str| this.file(&format!("sql/{path}")).expect("it is there").to_owned();
    let mut next = changed();
    for path in [DEQUEUE, SUBMIT, LOAD_KEYS] {
        next = next.with_file(&format!("sql/previous/{path}"), &kept(path));
    }
    next.with_file(
        "sql/previous/grants.sql",
        "GRANT EXECUTE ON FUNCTION aas.load_issuer_keys TO postern_server;",
    )
    .with_group_state(Formats { reads: &FORMATS, writes: FORMATS[0] })
    .following(this.version(), version("1000.0.0"))
}

/// The release after the next.
pub fn later() -> Release {
    changed()
        .with_group_state(Formats { reads: &FORMATS, writes: NEW_FORMAT })
        .following(version("1000.0.0"), version("1000.1.0"))
}

/// A statement of this release's server, as the next one makes it.
pub fn translate(statement: &str) -> String {
    ["qs.dequeue(", "ds.submit_message("]
        .iter()
        .fold(statement.replace("aas.load_issuer_keys(", "aas.issuing_keys("), |statement, call| {
            with_argument(&statement, call)
        })
}

/// The statement with one argument more in a call, if there is one.
fn with_argument(statement: &str, call: &str) -> String {
    let Some((before, rest)) = statement.split_once(call) else { return statement.to_owned() };
    let (arguments, after) = rest.split_once(')').expect("a call ends");
    format!("{before}{call}{arguments}, true){after}")
}

/// The tables and functions that are different.
fn changed() -> Release {
    let this = Release::embedded();
    let file = |path: &str| this.file(path).expect("it is there").to_owned();
    let dequeue = with_parameter(&file(&format!("sql/{DEQUEUE}")), "counts");
    let dequeue = replaced(&dequeue, ")\nLANGUAGE", ", OUT greeting text)\nLANGUAGE");
    let dequeue = replaced(&dequeue, "BEGIN\n", "BEGIN\n    greeting := postern.greeting();\n");
    let dequeue = replaced(&dequeue, "SET acked_seq =", "SET reads = q.reads + counts::integer, acked_seq =");
    let submit = with_parameter(&file(&format!("sql/{SUBMIT}")), "greets");
    let submit = replaced(
        &submit,
        "SET epoch =",
        "SET greeting = CASE WHEN greets THEN 'again ' ELSE '' END || postern.greeting(), epoch =",
    );
    let keys = file(&format!("sql/{LOAD_KEYS}")).replace("load_issuer_keys", "issuing_keys");
    let grants = replaced(&file(GRANTS), "aas.load_issuer_keys", "aas.issuing_keys");
    let with_migrations = MIGRATIONS.into_iter().fold(this.clone(), |release, (name, sql)| {
        release.with_migration(name, sql).expect("it is named as migrations are")
    });
    with_migrations
        .with_file(&format!("sql/{DEQUEUE}"), &dequeue)
        .with_file(&format!("sql/{SUBMIT}"), &submit)
        .without_file(&format!("sql/{LOAD_KEYS}"))
        .with_file("sql/aas/issuing_keys.sql", &keys)
        .with_file(GRANTS, &grants)
}

fn version(text: &str) -> Version {
    text.parse().expect("it is a version")
}

/// The definition of a function with one parameter more, the last one.
fn with_parameter(text: &str, name: &str) -> String {
    replaced(text, ",\n    OUT outcome", &format!(", {name} boolean,\n    OUT outcome"))
}

/// # Panics
/// When the text has changed, and there is nothing to replace.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?} in: {}", text.lines().next().unwrap_or_default());
    text.replacen(from, to, 1)
}
