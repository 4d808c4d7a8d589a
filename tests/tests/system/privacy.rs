//! What a stolen dump tells (PRIV-1, PRIV-2): a dump taken in the middle of a conversation
//! is searched for names beside, or joinable with, groups, queues and tokens.

use std::collections::{BTreeMap, BTreeSet};

use postern_client::{Client, Event};
use postern_protocol::{Address, StateKey};
use postern_tests::{
    Cluster, PATIENCE, Server,
    dump::{Row, is_date, rows},
};

/// Shorter values (small numbers, dates) are equal by chance.
const TELLING: usize = 8;

fn contains(value: &[u8], part: &[u8]) -> bool {
    value.windows(part.len()).any(|window| window == part)
}

/// All 32 byte strings within a value: whatever it is made of, an address in it is found.
fn windows(value: &[u8]) -> impl Iterator<Item = Address> {
    value.windows(Address::LEN).filter_map(|window| Address::try_from(window).ok())
}

/// Alice and Bob in the middle of a conversation; messages wait in the queues.
struct Conversation {
    _directory: tempfile::TempDir,
    _server: Server,
    cluster: Cluster,
    dump: Vec<Row>,
}

const NAMES: [&str; 2] = ["alice", "bob"];
const SAID: &str = "meet me where the road bends";
const TITLE: &str = "the bend of the road";

async fn conversation() -> Conversation {
    let cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    let directory = tempfile::tempdir().unwrap();
    let [alice, bob] = NAMES.map(|name| directory.path().join(name));
    let alice = Client::register(&alice, server.url(), NAMES[0]).await.unwrap();
    let bob = Client::register(&bob, server.url(), NAMES[1]).await.unwrap();
    let group = alice.create_group(TITLE).await.unwrap().id().clone();
    alice.group_with_id(&group).invite(bob.user()).await.unwrap();
    bob.sync_until(PATIENCE, |event| matches!(event, Event::ContactRequested { .. })).await.unwrap();
    alice.sync_until(PATIENCE, |event| matches!(event, Event::Added { .. })).await.unwrap();
    bob.sync_until(PATIENCE, |event| matches!(event, Event::Joined { .. })).await.unwrap();
    bob.group_with_id(&group).send(SAID).await.unwrap();
    alice.group_with_id(&group).send(SAID).await.unwrap();
    let dump = rows(&cluster.dump().await);
    Conversation { _directory: directory, _server: server, cluster, dump }
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
    assert_eq!(tables, BTreeSet::from(["auth.clients", "auth.users"]));
}

#[tokio::test]
async fn a_dump_joins_no_user_to_a_group_a_queue_or_a_token() {
    let conversation = conversation().await;
    let (users, others): (Vec<&Row>, Vec<&Row>) =
        conversation.dump.iter().partition(|row| row.schema() == "auth");
    for table in ["aas.spent_1", "ds.groups", "qs.addresses", "qs.messages", "qs.queues"] {
        assert!(others.iter().any(|row| row.table == table), "{table} has rows to search");
    }

    // A value of one side within a value of the other would join them.
    for (one, other) in [(&users, &others), (&others, &users)] {
        let telling: BTreeMap<&[u8], &str> = one
            .iter()
            .flat_map(|row| row.values.iter().map(|value| (value.as_slice(), row.table.as_str())))
            .filter(|(value, table)| {
                value.len() >= TELLING && !is_date(value) && *table != "operator.home_domain"
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

    // Nor is a queue joined to an address, or either to a user's KeyPackages (QS-6).
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
            let telling = value.len() >= TELLING && !is_date(value) && value != b"contact";
            let joins = |row: &&&Row| telling && row.values.iter().any(|other| contains(other, value));
            let joined: Vec<_> = other.iter().filter(joins).map(|row| row.table.as_str()).collect();
            assert!(joined.is_empty(), "{joined:?} shares a value with a mailbox's or a stock's table");
        }
    }
    for row in others.iter().filter(|row| row.table == "qs.addresses") {
        let alike = |other: &&&Row| {
            other.table != "qs.messages"
                && !std::ptr::eq(**other, *row)
                && row.values.iter().any(|value| {
                    value.len() >= TELLING && other.values.iter().any(|other| contains(other, value))
                })
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

#[tokio::test]
async fn the_search_for_addresses_finds_one_that_is_there() {
    let cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    let directory = tempfile::tempdir().unwrap();
    let alice = Client::register(&directory.path().join("a"), server.url(), "alice").await.unwrap();
    let user = alice.look_up(alice.user()).await.unwrap();
    let contact = user.clients[0].contact.clone().unwrap();
    let beside_a_name = [b"alice".as_slice(), contact.address.as_bytes()].concat();
    let dump = rows(&cluster.dump().await);
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
    for part in ciphertexts.iter().flat_map(|ciphertext| ciphertext.chunks(16)) {
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
    let addresses = conversation.dump.iter().flat_map(|row| row.values.iter());
    let telling: Vec<String> = addresses
        .filter(|value| value.len() >= 16 && value.len() <= 64)
        .map(hex::encode)
        .chain(NAMES.map(|name| format!("{name}@")))
        .chain([SAID.to_owned()])
        .collect();
    for log in [conversation._server.log(), conversation.cluster.log()] {
        for secret in &telling {
            assert!(!log.contains(secret), "a log holds {secret}");
        }
    }
}
