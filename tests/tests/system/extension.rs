//! The database's half of a mailbox against the owner's half in `protocol`: what
//! postern.deliver seals, only the owner opens (QS-5). The rest of the extension is
//! tested where it lives, by `pg_extension/tests/run`.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::Path,
};

use nix::sys::prctl::set_child_subreaper;
use postern_protocol::{
    Address, ChainHeader, Ciphertext, QueueId,
    chain::{ChainError, ChainReceiver, ChainState, HpkePrivateKey},
    key::SigningKey,
    qs::QueuedMessage,
};
use postern_tests_kit::{Cluster, Mailbox, in_tree};
use rand::RngCore;
use tokio_postgres::Client;

/// A group queue with one address, and its owner.
struct Inbox {
    mailbox: Mailbox,
    address: Address,
}

impl Inbox {
    async fn create(database: &Client) -> Self {
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let mailbox =
            Mailbox::new(QueueId::new(id), SigningKey::generate(), HpkePrivateKey::generate().unwrap());
        let address = Address::generate().unwrap();
        let public_key = mailbox.hpke.public_key().unwrap();
        let owner = mailbox.owner.public_key();
        let (key, owner) = (public_key.as_bytes().as_slice(), owner.as_bytes().as_slice());
        let created = "SELECT outcome::text FROM qs.create_queue(1::smallint, '', $1, 'group', $2, $3)";
        let row = database.query_one(created, &[&id.as_slice(), &owner, &key]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "created");
        let added = "SELECT outcome::text FROM qs.add_addresses(1::smallint, '', $1, $2, ARRAY[$3::bytea])";
        let addresses = address.as_bytes().as_slice();
        let row = database.query_one(added, &[&id.as_slice(), &owner, &addresses]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "added");
        Self { mailbox, address }
    }

    /// Acknowledges the messages read before, and opens the next ones.
    async fn read(&mut self, database: &Client) -> Vec<Vec<u8>> {
        let dequeue = "SELECT outcome::text, seqs, chains, chain_indexes, chain_headers, ciphertexts
                         FROM qs.dequeue(1::smallint, '', $1, $2, $3, 1000, 1000000000)";
        let (id, owner) = (self.mailbox.id, self.mailbox.owner.public_key());
        let position = i64::try_from(self.mailbox.position).unwrap();
        let row = database
            .query_one(dequeue, &[&id.as_bytes().as_slice(), &owner.as_bytes().as_slice(), &position])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>("outcome"), "ok");
        let seqs: Vec<i64> = row.get("seqs");
        let chains: Vec<i64> = row.get("chains");
        let indexes: Vec<i32> = row.get("chain_indexes");
        let headers: Vec<Option<Vec<u8>>> = row.get("chain_headers");
        let ciphertexts: Vec<Vec<u8>> = row.get("ciphertexts");
        let message = |i: usize| QueuedMessage {
            seq: seqs[i].try_into().unwrap(),
            chain: chains[i].try_into().unwrap(),
            chain_index: indexes[i].try_into().unwrap(),
            chain_header: headers[i].clone().map(ChainHeader::new),
            ciphertext: Ciphertext::new(ciphertexts[i].clone()),
        };
        (0..seqs.len()).map(|i| self.mailbox.open_message(&message(i))).collect()
    }
}

async fn world() -> (Cluster, Client) {
    let cluster = Cluster::start().await;
    let database = cluster.admin().await;
    let free = "UPDATE aas.prices SET price = 0
                 WHERE endpoint IN ('qs.create_queue', 'qs.add_addresses', 'qs.dequeue')";
    database.batch_execute(free).await.unwrap();
    (cluster, database)
}

async fn deliver(database: &Client, inboxes: &[&Inbox], payload: &[u8]) {
    let addresses: Vec<&[u8]> = inboxes.iter().map(|inbox| inbox.address.as_bytes().as_slice()).collect();
    let parts = vec![1_i16; addresses.len()];
    let fates: Vec<i16> = database
        .query_one(
            "SELECT postern.deliver('home.example', 'group', $1, $2, $3, '{2}')",
            &[&addresses, &parts, &vec![payload]],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(fates, Vec::<i16>::new());
}

/// Until the first release there are no upgrade scripts: the tests of upgrades make a next version of their own.
#[test]
fn workspace_control_file_and_script_have_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let control = fs::read_to_string(in_tree("pg_extension/postern.control")).unwrap();
    assert!(control.contains(&format!("\ndefault_version = '{version}'\n")), "{control}");
    let files = fs::read_dir(in_tree("pg_extension")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let scripts: Vec<String> = names.filter(|name| name.starts_with("postern--")).collect();
    assert_eq!(scripts, [format!("postern--{version}.sql")]);
}

#[tokio::test]
async fn owners_read_what_was_delivered_in_order_and_across_chains() {
    let (_cluster, database) = world().await;
    database.batch_execute("UPDATE qs.settings SET chain_messages = 3").await.unwrap();
    let (mut one, mut two) = (Inbox::create(&database).await, Inbox::create(&database).await);

    let payloads: Vec<Vec<u8>> = [0, 1, 15, 16, 1000, 10_000, 100_000].map(|len| vec![len as u8; len]).into();
    for payload in &payloads {
        deliver(&database, &[&one, &two], payload).await;
    }
    assert_eq!(one.read(&database).await, payloads);
    assert_eq!(two.read(&database).await, payloads);
    assert_eq!(one.mailbox.chains.len(), 3);
    assert_eq!(one.read(&database).await, Vec::<Vec<u8>>::new());

    deliver(&database, &[&one], b"goes on").await;
    assert_eq!(one.read(&database).await, [b"goes on"]);
}

#[tokio::test]
async fn after_a_crash_a_new_chain_starts_under_a_new_number() {
    let (mut cluster, database) = world().await;
    let mut inbox = Inbox::create(&database).await;
    deliver(&database, &[&inbox], b"before").await;

    drop(database);
    cluster.kill_postgres();
    cluster.restart().await;
    let database = cluster.admin().await;
    deliver(&database, &[&inbox], b"after").await;
    assert_eq!(inbox.read(&database).await, [&b"before"[..], b"after"]);
    assert_eq!(inbox.mailbox.chains, HashSet::from([1, 2]));
}

/// The bytes of all files below a directory.
fn files(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut places = vec![dir.to_owned()];
    while let Some(place) = places.pop() {
        let Ok(kind) = fs::symlink_metadata(&place) else { continue };
        if kind.is_dir() {
            let entries = match fs::read_dir(place) {
                // The directory of a backup's replication slot goes, say.
                Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
                entries => entries.unwrap(),
            };
            places.extend(entries.map(|entry| entry.unwrap().path()));
        } else if kind.is_file() {
            bytes.extend(fs::read(place).unwrap_or_default());
        }
    }
    bytes
}

/// The `secrets` that are among the bytes.
fn found<'a>(bytes: &[u8], secrets: &'a [&'a [u8]]) -> Vec<&'a [u8]> {
    // Most places are ruled out by their first two bytes.
    let mut starts = vec![false; 1 << 16];
    for secret in secrets {
        starts[usize::from(u16::from_be_bytes([secret[0], secret[1]]))] = true;
    }
    let candidates = bytes
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| starts[usize::from(u16::from_be_bytes([pair[0], pair[1]]))])
        .map(|(place, _)| &bytes[place..]);
    let mut found: Vec<&[u8]> =
        candidates.flat_map(|rest| secrets.iter().copied().filter(|s| rest.starts_with(s))).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// No chain key, address or payload is in the WAL (and so in a replica), a base backup, a dump or
/// even a file of the cluster itself (QS-5).
#[tokio::test]
async fn what_is_on_disk_holds_no_chain_keys_addresses_or_payloads() {
    let (cluster, database) = world().await;
    let mut inbox = Inbox::create(&database).await;
    let payload = [0xa5; 64];
    for _ in 0..20 {
        deliver(&database, &[&inbox], &payload).await;
    }
    let backup = cluster.data_dir().join("backup");
    cluster.base_backup(&backup).await;
    for _ in 0..20 {
        deliver(&database, &[&inbox], &payload).await;
    }
    let ciphertext: Vec<u8> = database
        .query_one("SELECT ciphertext FROM qs.messages ORDER BY seq LIMIT 1", &[])
        .await
        .unwrap()
        .get(0);
    database.batch_execute("CHECKPOINT").await.unwrap();
    let dump = cluster.dump().await;
    assert_eq!(inbox.read(&database).await.len(), 40);
    // As an open chain, too: the next key.
    let next = inbox.mailbox.chain().key;
    inbox.mailbox.keys.push(next);

    let mut secrets: Vec<&[u8]> = inbox.mailbox.keys.iter().map(<[u8; 32]>::as_slice).collect();
    secrets.extend([&payload[..], inbox.address.as_bytes(), &ciphertext]);
    for (place, bytes) in
        [("cluster", files(&cluster.data_dir().join("cluster"))), ("backup", files(&backup))]
    {
        assert_eq!(found(&bytes, &secrets), [&ciphertext], "{place}: only ciphertext is on disk");
    }
    let in_hex: Vec<String> = secrets.iter().map(hex::encode).collect();
    let seen: Vec<_> = in_hex.iter().filter(|secret| dump.contains(*secret)).collect();
    assert_eq!(seen, [&hex::encode(&ciphertext)], "only ciphertext is in the dump");
}

/// QS-5, forward secrecy: with everything that the database holds, its memory included,
/// nothing decrypts that was enqueued before. And post-compromise security: once there is a
/// new chain, nothing decrypts that came later.
#[tokio::test]
async fn the_databases_memory_opens_nothing_before_now_and_nothing_after_the_next_chain() {
    // PostgreSQL's processes, which pg_ctl leaves behind, become our descendants: those we may trace.
    set_child_subreaper(true).expect("it can be asked for");
    let (cluster, database) = world().await;
    let mut inbox = Inbox::create(&database).await;
    for number in 0..10 {
        deliver(&database, &[&inbox], &[number; 1000]).await;
    }
    let backend: i32 = database.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let postmaster = cluster.postmaster().unwrap();
    let memory = [memory_of(u32::try_from(backend).unwrap()), memory_of(postmaster)];
    assert_eq!(inbox.read(&database).await.len(), 10);
    let stolen = inbox.mailbox.chain().clone();
    let used: Vec<&[u8]> = inbox.mailbox.keys.iter().map(<[u8; 32]>::as_slice).collect();
    for bytes in &memory {
        assert_eq!(found(bytes, &[&stolen.key]), [&stolen.key], "this is how a leak would look");
        assert_eq!(found(bytes, &used), Vec::<&[u8]>::new(), "keys of messages that were enqueued before");
    }

    database.batch_execute("UPDATE qs.settings SET chain_messages = 10").await.unwrap();
    deliver(&database, &[&inbox], b"after").await;
    let row = "SELECT chain_index, seq, ciphertext FROM qs.messages ORDER BY seq DESC LIMIT 1";
    let row = database.query_one(row, &[]).await.unwrap();
    let (seq, ciphertext) = (row.get::<_, i64>("seq") as u64, row.get::<_, Vec<u8>>("ciphertext"));
    for index in stolen.next_index..stolen.next_index + 100 {
        let state = ChainState { number: stolen.number + 1, next_index: stolen.next_index, key: stolen.key };
        let mut thief = ChainReceiver::resume(inbox.mailbox.id, state);
        assert_eq!(thief.open(index, seq, &ciphertext), Err(ChainError::BadCiphertext));
    }
    assert_eq!(inbox.read(&database).await, [b"after"]);
}

/// The writable memory of a process, shared and its own.
///
/// # Panics
/// When it may not be read, with what is missing.
fn memory_of(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"));
    let memory = File::open(format!("/proc/{pid}/mem"));
    let (Ok(maps), Ok(memory)) = (maps, memory) else {
        panic!(
            "this test reads the memory of PostgreSQL's processes, and this user may not: root needs the capability \
             CAP_SYS_PTRACE (`docker run --cap-add=SYS_PTRACE`), others kernel.yama.ptrace_scope below 2"
        )
    };
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else { continue };
        if !access.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range has two ends");
        let [start, end] = [start, end].map(|place| u64::from_str_radix(place, 16).expect("it is a place"));
        let mut region = vec![0; usize::try_from(end - start).expect("it fits")];
        if memory.read_exact_at(&mut region, start).is_ok() {
            bytes.extend(region);
        }
    }
    assert!(!bytes.is_empty(), "process {pid} has memory");
    bytes
}
