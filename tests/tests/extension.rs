//! The database's half of a mailbox against the owner's half in `protocol`: what
//! postern.deliver seals, only the owner opens (QS-5). The rest of the extension is
//! tested where it lives, by `pg_extension/tests/run`.

use std::{collections::HashSet, fs};

use postern_protocol::{
    Address, QueueId,
    chain::{ChainReceiver, HpkePrivateKey},
};
use postern_tests::Cluster;
use rand::RngCore;
use tokio_postgres::Client;

/// A group queue with one address, as its owner knows it.
struct Mailbox {
    id: QueueId,
    hpke: HpkePrivateKey,
    address: Address,
    chain: Option<ChainReceiver>,
    position: i64,
    chains_seen: HashSet<i64>,
}

const OWNER: [u8; 32] = [9; 32];

impl Mailbox {
    async fn create(database: &Client) -> Self {
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let hpke = HpkePrivateKey::generate().unwrap();
        let mailbox = Self {
            id: QueueId::new(id),
            hpke,
            address: Address::generate().unwrap(),
            chain: None,
            position: 0,
            chains_seen: HashSet::new(),
        };
        let public_key = mailbox.hpke.public_key().unwrap();
        let key = public_key.as_bytes().as_slice();
        let created = "SELECT outcome FROM qs.create_queue(1::smallint, '', $1, 'group', $2, $3)";
        let row = database.query_one(created, &[&id.as_slice(), &OWNER.as_slice(), &key]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "created");
        let address = mailbox.address.as_bytes().as_slice();
        let added = "SELECT outcome FROM qs.add_addresses(1::smallint, '', $1, $2, ARRAY[$3::bytea])";
        let row = database.query_one(added, &[&id.as_slice(), &OWNER.as_slice(), &address]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "added");
        mailbox
    }

    /// Acknowledges what was read before, and opens what is next.
    async fn read(&mut self, database: &Client) -> Vec<Vec<u8>> {
        let dequeue = "SELECT * FROM qs.dequeue(1::smallint, '', $1, $2, $3, 1000, 1000000000)";
        let row = database
            .query_one(dequeue, &[&self.id.as_bytes().as_slice(), &OWNER.as_slice(), &self.position])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>("outcome"), "ok");
        let seqs: Vec<i64> = row.get("seqs");
        let chains: Vec<i64> = row.get("chains");
        let indexes: Vec<i32> = row.get("chain_indexes");
        let headers: Vec<Option<Vec<u8>>> = row.get("chain_headers");
        let ciphertexts: Vec<Vec<u8>> = row.get("ciphertexts");
        let mut plaintexts = Vec::new();
        for i in 0..seqs.len() {
            assert_eq!(seqs[i], self.position + 1, "sequence numbers have no gaps");
            if let Some(header) = &headers[i] {
                assert!(self.chains_seen.insert(chains[i]), "chain {} comes twice", chains[i]);
                let number = u64::try_from(chains[i]).unwrap();
                self.chain = Some(ChainReceiver::open_header(self.id, number, header, &self.hpke).unwrap());
            }
            let chain = self.chain.as_mut().expect("the first message of a queue starts a chain");
            assert_eq!(i64::try_from(chain.state().number).unwrap(), chains[i]);
            let (index, seq) = (u32::try_from(indexes[i]).unwrap(), u64::try_from(seqs[i]).unwrap());
            plaintexts.push(chain.open(index, seq, &ciphertexts[i]).unwrap());
            self.position = seqs[i];
        }
        plaintexts
    }
}

async fn world() -> (Cluster, Client) {
    let cluster = Cluster::start().await;
    let database = cluster.admin().await;
    let free =
        "INSERT INTO aas.prices VALUES ('qs.create_queue', 0), ('qs.add_addresses', 0), ('qs.dequeue', 0)";
    database.batch_execute(free).await.unwrap();
    (cluster, database)
}

async fn deliver(database: &Client, mailboxes: &[&Mailbox], payload: &[u8]) {
    let addresses: Vec<&[u8]> = mailboxes.iter().map(|m| m.address.as_bytes().as_slice()).collect();
    let parts = vec![1_i16; addresses.len()];
    let undeliverable: Vec<Vec<u8>> = database
        .query_one(
            "SELECT postern.deliver('home.example', 'group', $1, $2, $3)",
            &[&addresses, &parts, &vec![payload]],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(undeliverable, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn owners_read_what_was_delivered_in_order_and_across_chains() {
    let (_cluster, database) = world().await;
    database.batch_execute("UPDATE qs.settings SET chain_messages = 3").await.unwrap();
    let (mut one, mut two) = (Mailbox::create(&database).await, Mailbox::create(&database).await);

    let payloads: Vec<Vec<u8>> = [0, 1, 15, 16, 1000, 10_000, 100_000].map(|len| vec![len as u8; len]).into();
    for payload in &payloads {
        deliver(&database, &[&one, &two], payload).await;
    }
    assert_eq!(one.read(&database).await, payloads);
    assert_eq!(two.read(&database).await, payloads);
    assert_eq!(one.chains_seen.len(), 3);
    assert_eq!(one.read(&database).await, Vec::<Vec<u8>>::new());

    deliver(&database, &[&one], b"goes on").await;
    assert_eq!(one.read(&database).await, [b"goes on"]);
}

#[tokio::test]
async fn after_a_crash_a_new_chain_starts_under_a_new_number() {
    let (mut cluster, database) = world().await;
    let mut mailbox = Mailbox::create(&database).await;
    deliver(&database, &[&mailbox], b"before").await;

    drop(database);
    cluster.kill_postgres();
    cluster.restart().await;
    let database = cluster.admin().await;
    deliver(&database, &[&mailbox], b"after").await;
    assert_eq!(mailbox.read(&database).await, [&b"before"[..], b"after"]);
    assert_eq!(mailbox.chains_seen, HashSet::from([1, 2]));
}

#[tokio::test]
async fn neither_dump_nor_wal_holds_chain_keys_addresses_or_payloads() {
    let (cluster, database) = world().await;
    let mailbox = Mailbox::create(&database).await;
    let payload = [0xa5; 64];
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for _ in 0..3 {
        deliver(&database, &[&mailbox], &payload).await;
        keys.push(database.query_one("SELECT chain_key FROM qs.chains", &[]).await.unwrap().get(0));
    }
    database.batch_execute("CHECKPOINT").await.unwrap();
    let ciphertext: Vec<u8> =
        database.query_one("SELECT ciphertext FROM qs.messages LIMIT 1", &[]).await.unwrap().get(0);

    let dump = cluster.dump().await;
    let wal: Vec<u8> = fs::read_dir(cluster.data_dir().join("cluster/pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .flat_map(|path| fs::read(path).unwrap())
        .collect();
    let seen =
        |bytes: &[u8]| (dump.contains(&hex::encode(bytes)), wal.windows(bytes.len()).any(|w| w == bytes));

    assert_eq!(seen(&ciphertext), (true, true), "this is how a leak would look");
    for secret in keys.iter().map(Vec::as_slice).chain([&payload[..], mailbox.address.as_bytes()]) {
        assert_eq!(seen(secret), (false, false));
    }
}
