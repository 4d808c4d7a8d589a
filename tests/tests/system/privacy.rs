//! A stolen dump tells little (PRIV-1, PRIV-2): one taken in the middle of a conversation
//! is searched for names next to, or joinable with, groups, queues and tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::stream::{self, StreamExt as _};
use postern_client::{Client, Error};
use postern_protocol::{Address, StateKey};
use postern_tests_kit::{
    Cluster, World,
    dump::{Row, contains, is_telling, joined_tables, rows, spellings},
};

/// All 32 byte strings within a value: whatever it is made of, an address in it is found.
fn windows(value: &[u8]) -> impl Iterator<Item = Address> {
    value.windows(Address::LEN).filter_map(|window| Address::try_from(window).ok())
}

/// Two people in the middle of a conversation; messages wait in the queues.
struct Conversation {
    _people: [Client; 2],
    world: World,
    dump: Vec<Row>,
}

/// Tables that know to which user tokens were issued.
const ISSUED: [&str; 4] = ["aas.takers", "aas.issued", "aas.requests", "aas.allowances"];
/// Keys of services, which are nobody's: all users have credentials by them, and endpoints the names of services.
const KEYS: &str = "auth.signing_keys";

/// Too long to be in a ciphertext by chance.
const NAMES: [&str; 2] = ["alexandrina", "bartholomew"];
const SAID: &str = "meet me where the road bends";
const TITLE: &str = "the bend of the road";

async fn conversation() -> Conversation {
    // All that an operator can make it say.
    let world = World::builder().setting("POSTERN_LOG_FILTER", "postern_server=trace,info").start().await;
    let (alice, bob, group) = world.friends(NAMES, TITLE).await;
    bob.group_with_id(&group).send(SAID).await.unwrap();
    alice.group_with_id(&group).send(SAID).await.unwrap();
    let dump = rows(&world.cluster.dump().await);
    Conversation { _people: [alice, bob], world, dump }
}

#[tokio::test]
async fn a_dump_names_users_at_the_authentication_service_only() {
    let conversation = conversation().await;
    let tables: BTreeSet<_> = conversation
        .dump
        .iter()
        .filter(|row| {
            NAMES.iter().any(|name| row.values.iter().any(|value| contains(value, name.as_bytes())))
        })
        .map(|row| row.table.as_str())
        .collect();
    assert_eq!(tables, BTreeSet::from(["auth.clients", "auth.incarnations", "auth.users"]));
}

#[tokio::test]
async fn a_dump_joins_no_user_to_a_group_a_queue_or_a_token() {
    let conversation = conversation().await;
    // Tokens are issued to users under their names: both know the user's id.
    let (users, others): (Vec<&Row>, Vec<&Row>) =
        conversation.dump.iter().filter(|row| row.table != KEYS).partition(|row| is_of_users(row));
    for table in ["aas.spent_1", "ds.groups", "qs.addresses", "qs.messages", "qs.queues"] {
        assert!(others.iter().any(|row| row.table == table), "{table} has rows to search");
    }

    // A value of one side within a value of the other would join them.
    for (one, other) in [(&users, &others), (&others, &users)] {
        let telling: BTreeMap<&[u8], &str> = one
            .iter()
            .flat_map(|row| row.values.iter().map(|value| (value.as_slice(), row.table.as_str())))
            // Settings are nobody's, and the id of the master key is everyone's.
            .filter(|(value, table)| {
                is_telling(value) && !table.ends_with("settings") && *table != "operator.master_key"
            })
            .collect();
        for row in other.iter().filter(|row| row.schema() != "operator") {
            for value in &row.values {
                for (part, table) in &telling {
                    assert!(!contains(value, part), "{table} is joined to {}", row.table);
                }
            }
        }
    }

    // Nothing joins a queue with an address, or either with a user's KeyPackages (QS-6).
    let mailboxes: Vec<&Row> = others
        .iter()
        .filter(|row| ["qs.queues", "qs.addresses", "qs.messages"].contains(&row.table.as_str()))
        .copied()
        .collect();
    let stocks: Vec<&Row> = others
        .iter()
        .filter(|row| ["qs.friendships", "qs.stocks", "qs.key_packages"].contains(&row.table.as_str()))
        .copied()
        .collect();
    assert!(stocks.len() > 2 * 21, "both have KeyPackages in stock");
    for (one, other) in [(&mailboxes, &stocks), (&stocks, &mailboxes)] {
        for value in one.iter().flat_map(|row| &row.values) {
            let telling = is_telling(value) && value != b"contact";
            let joins = |row: &&&Row| telling && row.values.iter().any(|other| contains(other, value));
            let joined: Vec<_> = other.iter().filter(joins).map(|row| row.table.as_str()).collect();
            assert!(joined.is_empty(), "{joined:?} shares a value with a mailbox's or a stock's table");
        }
    }
    for row in others.iter().filter(|row| row.table == "qs.addresses") {
        let alike = |other: &&&Row| {
            other.table != "qs.messages"
                && !std::ptr::eq(**other, *row)
                && row
                    .values
                    .iter()
                    .any(|value| is_telling(value) && other.values.iter().any(|other| contains(other, value)))
        };
        assert!(!mailboxes.iter().any(|other| alike(&other)), "an address is joined to a queue or another");
    }

    // An address at the AS would lead to its queue by its hash.
    let lookups: BTreeSet<Vec<u8>> =
        others.iter().filter(|row| row.table == "qs.addresses").map(|row| row.values[0].clone()).collect();
    let leads_to_queue = |address: Address| lookups.contains(address.lookup().as_slice());
    for row in users.iter().chain(&stocks) {
        for value in &row.values {
            assert!(!windows(value).any(leads_to_queue), "{} holds an address", row.table);
        }
    }
}

fn is_of_users(row: &Row) -> bool {
    row.schema() == "auth" && row.table != KEYS || ISSUED.contains(&row.table.as_str())
}

/// Many users, whose devices and groups would show by their numbers what two users hide.
#[tokio::test]
async fn a_dump_of_fifty_accounts_with_three_devices_and_forty_groups_joins_no_user_to_anything() {
    const USERS: usize = 50;
    const GROUPS: usize = 40;
    let world = World::builder().start().await;
    let people: Vec<[Client; 3]> = stream::iter(0..USERS)
        .map(async |number| {
            let first = world.person(&format!("somebody-{number}")).await;
            let second = world.device(&first, &format!("somebody-{number}-2")).await;
            let third = world.device(&first, &format!("somebody-{number}-3")).await;
            [first, second, third]
        })
        .buffered(8)
        .collect()
        .await;
    stream::iter(0..GROUPS)
        .for_each_concurrent(8, async |number| {
            let [host, ..] = &people[number];
            let [guest, ..] = &people[(number + 1 + number % 7) % USERS];
            let group = host.create_group(&format!("group {number}")).await.expect("a group can be made");
            group.invite(guest.user()).await.expect("somebody can be invited");
        })
        .await;
    // Each device takes its turn: requests, answers, Welcomes, and a word to wait in the queues.
    for _ in 0..4 {
        stream::iter(people.iter().flatten())
            .for_each_concurrent(8, async |device| {
                // One that a busy server sent away has another turn.
                let synced = device.sync(Duration::ZERO).await;
                assert!(synced.as_ref().err().is_none_or(Error::is_passing), "{synced:?}");
            })
            .await;
    }
    let mut heard = 0;
    for (number, [host, ..]) in people.iter().enumerate().take(GROUPS) {
        let group = host.group(&format!("group {number}")).expect("it is there");
        heard += usize::from(group.members().expect("it can be read").len() > 1);
        group.send(SAID).await.expect("it can be said");
    }
    assert!(heard > GROUPS / 2, "{heard} of {GROUPS} groups have members");

    let dump = rows(&world.cluster.dump().await);
    let count = |table: &str| dump.iter().filter(|row| row.table == table).count();
    assert!(count("auth.users") >= USERS && count("auth.clients") >= 3 * USERS);
    assert!(
        count("ds.groups") == GROUPS && count("qs.queues") >= 2 * 3 * USERS && count("qs.messages") > GROUPS
    );
    let of_services = ["qs", "ds", "aas"];
    let (users, others): (Vec<&Row>, Vec<&Row>) = dump
        .iter()
        .filter(|row| is_of_users(row) || of_services.contains(&row.schema()))
        .partition(|row| is_of_users(row));
    let joined = joined_tables(&users, &others);
    assert!(joined.is_empty(), "{joined:?}");
    // An address at the AS would lead to its queue by its hash.
    let lookups: BTreeSet<&[u8]> =
        others.iter().filter(|row| row.table == "qs.addresses").map(|row| row.values[0].as_slice()).collect();
    for value in users.iter().flat_map(|row| &row.values) {
        assert!(!windows(value).any(|address| lookups.contains(address.lookup().as_slice())));
    }
}

#[tokio::test]
async fn the_search_for_addresses_finds_one_that_is_there() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let user = alice.look_up(alice.user()).await.unwrap();
    let contact = user.clients[0].contact.clone().unwrap();
    let beside_a_name = [b"alice".as_slice(), contact.address.as_bytes()].concat();
    let dump = rows(&world.cluster.dump().await);
    let lookups: Vec<_> = dump.iter().filter(|row| row.table == "qs.addresses").collect();
    let found = windows(&beside_a_name)
        .any(|address| lookups.iter().any(|row| row.values[0] == address.lookup().as_slice()));
    assert!(found);
}

#[tokio::test]
async fn a_dump_tells_neither_members_nor_messages() {
    let conversation = conversation().await;
    for row in &conversation.dump {
        for value in &row.values {
            for secret in [SAID, TITLE] {
                assert!(!contains(value, secret.as_bytes()), "{} holds what was said", row.table);
            }
        }
    }
    // Two members' queues hold messages of one group; nothing in them is alike.
    let ciphertexts: Vec<&[u8]> = conversation
        .dump
        .iter()
        .filter(|row| row.table == "qs.messages")
        .filter_map(|row| row.values.iter().max_by_key(|value| value.len()).map(Vec::as_slice))
        .collect();
    assert!(ciphertexts.len() >= 2, "messages wait in both queues");
    let mut parts = BTreeSet::new();
    // The end of a ciphertext may be a byte, which two have in common by chance.
    for part in ciphertexts.iter().flat_map(|ciphertext| ciphertext.chunks_exact(16)) {
        assert!(parts.insert(part), "two sealed messages share bytes");
    }
    // The state opens under the members' key, not under anything the dump holds.
    let group = conversation.dump.iter().find(|row| row.table == "ds.groups").unwrap();
    let keys: BTreeSet<&[u8]> = conversation
        .dump
        .iter()
        .flat_map(|row| row.values.iter())
        .filter(|value| value.len() == StateKey::LEN)
        .map(Vec::as_slice)
        .collect();
    for value in &group.values {
        assert!(keys.iter().all(|key| value == key || !contains(value, key)), "the state shows a key");
    }
}

#[tokio::test]
async fn nobody_logs_what_a_dump_hides() {
    let conversation = conversation().await;
    let values = conversation.dump.iter().flat_map(|row| row.values.iter());
    let telling: BTreeSet<String> = values
        .filter(|value| value.len() >= 16 && value.len() <= 64)
        .flat_map(|value| spellings(value))
        .chain(NAMES.map(str::to_owned))
        .chain([SAID, TITLE].map(str::to_owned))
        .collect();
    let (server, postgres) = (conversation.world.server().log(), conversation.world.cluster.log());
    assert!(!server.is_empty() && !postgres.is_empty(), "there is something to search");
    for secret in &telling {
        assert!(!server.contains(secret), "the server's log holds {secret}");
        assert!(!postgres.contains(secret), "PostgreSQL's log holds {secret}");
    }
}

/// Tables of prices and figures of all users together, which tell of nobody.
const OF_NOBODY: [&str; 5] =
    ["aas.issued_in_all", "aas.prices", "aas.token_use", "operator.days", "qs.removed"];

#[tokio::test]
async fn one_dead_row_brings_autovacuum_to_each_table_from_which_something_is_forgotten() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    // The functions say from which tables rows go; a table's foreign key says what goes with them.
    let sql = "WITH RECURSIVE forgetting (oid) AS (
                   SELECT DISTINCT to_regclass(d.part[1])::oid
                     FROM pg_proc p
                     JOIN pg_namespace n ON n.oid = p.pronamespace,
                          regexp_matches(p.prosrc, 'DELETE\\s+FROM\\s+([a-z]+\\.[a-z_]+)', 'g') AS d (part)
                    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
                   UNION
                   SELECT k.conrelid FROM pg_constraint k JOIN forgetting f ON k.confrelid = f.oid
                    WHERE k.contype = 'f' AND k.confdeltype = 'c'
               )
               SELECT c.oid::regclass::text, c.relnamespace = 'auth'::regnamespace,
                      coalesce(c.reloptions, '{}'), coalesce(t.reloptions, '{}')
                 FROM forgetting f
                 JOIN pg_class c USING (oid)
                 LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
                ORDER BY 1";
    let tables = admin.query(sql, &[]).await.unwrap();
    assert!(tables.len() > 30, "the functions were searched: {}", tables.len());
    let mut found = BTreeSet::new();
    for row in tables {
        let table: String = row.get(0);
        let of_accounts = row.get(1) && table != KEYS;
        let (options, large): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        let has = |options: &[String], option: &str| options.iter().any(|other| other == option);
        found.insert(table.clone());
        if OF_NOBODY.contains(&table.as_str()) {
            continue;
        }
        let at_once = "autovacuum_vacuum_threshold=0";
        assert!(has(&options, at_once), "{table}: {options:?}");
        // Without options of its own, it goes by the table's.
        assert!(large.is_empty() || has(&large, at_once), "the large values of {table}: {large:?}");
        // Most of these rows change once in months: a part of many might never be reached.
        if of_accounts || ISSUED.contains(&table.as_str()) {
            assert!(has(&options, "autovacuum_vacuum_scale_factor=0"), "{table}: {options:?}");
        }
        // Indexes have names and ids, too.
        if of_accounts || table == "aas.takers" {
            assert!(has(&options, "vacuum_index_cleanup=on"), "{table}: {options:?}");
        }
    }
    for table in ["auth.clients", "auth.incarnations", "auth.erasures", "aas.requests", "ds.welcome_trees"] {
        assert!(found.contains(table), "{table} is among those that were looked at: {found:?}");
    }
}
