//! Groups have members of other homeservers, of which there is [`Elsewhere`] only. Tests of that are in `submit_message/`:
//! `outbox`, `other_domains` and `gone`.

use postern_protocol::{Address, Payload, ds::MessageAccepted, federation::Delivery, name::Domain};
use postern_server::keys::{MasterKey, master_key::DigestKey};
use postern_tests_kit::{Commit, Group, HOME, Member, World};
use tokio::sync::Mutex;

/// The homeservers of other domains, as far as a group here has to do with them. They take what waits for them out of the
/// outbox, and their members' mailboxes are in this database.
pub struct Elsewhere {
    key: MasterKey,
    digest: DigestKey,
    turn: Mutex<()>,
}

/// A delivery that waits.
pub struct Waiting {
    pub domain: Domain,
    pub lane: i16,
    pub number: i64,
    pub sealed: Vec<u8>,
    pub delivery: Delivery,
}

fn bytes(addresses: &[Address]) -> Vec<&[u8]> {
    addresses.iter().map(|address| address.as_bytes().as_slice()).collect()
}

impl Elsewhere {
    pub async fn of(world: &World) -> Self {
        let key: [u8; 32] = hex::decode(world.cluster.master_key()).unwrap().try_into().unwrap();
        let key = MasterKey::from_bytes(key);
        let sealed: Vec<u8> = world.value("SELECT sealed_key FROM operator.digest_key").await;
        let digest = key.open("digest key", &[], &sealed).expect("the cluster's key seals it");
        let digest = DigestKey::try_from(digest.as_slice()).expect("it is a key");
        Self { key, digest, turn: Mutex::default() }
    }

    /// The deliveries that wait, in the order of domains and lanes.
    pub async fn waiting(&self, world: &World) -> Vec<Waiting> {
        let sql = "SELECT id, domain::text, lane, number, sealed FROM federation.outbox ORDER BY domain, lane, number";
        let rows = world.admin.query(sql, &[]).await.expect("it can be read");
        let waiting = rows.iter().map(|row| {
            let sealed: Vec<u8> = row.get("sealed");
            let opened = self.key.open("outbox", row.get("id"), &sealed).expect("the server sealed it");
            let (delivery, padding) = postcard::take_from_bytes(&opened).expect("it is a delivery");
            assert!(padding.iter().all(|byte| *byte == 0), "it is padded");
            let domain: String = row.get("domain");
            let domain = domain.parse().expect("it is a domain");
            Waiting { domain, lane: row.get("lane"), number: row.get("number"), sealed, delivery }
        });
        waiting.collect()
    }

    /// Takes what waits, puts it into the queues that it is for, and says which addresses are gone.
    pub async fn deliver(&self, world: &World) -> Vec<Waiting> {
        let _turn = self.turn.lock().await;
        let waiting = self.waiting(world).await;
        for Waiting { domain, lane, number, delivery, .. } in &waiting {
            let Delivery { group_id, addresses, parts, payloads, urgencies } = delivery;
            let parts: Vec<i16> = parts.iter().map(|part| i16::try_from(*part).unwrap()).collect();
            let urgencies: Vec<i16> = urgencies.iter().map(|urgency| i16::from(*urgency)).collect();
            let payloads: Vec<&[u8]> = payloads.iter().map(Payload::as_bytes).collect();
            let sql = "SELECT postern.deliver($1, $2, $3, $4, $5, $6)";
            let (to, group) = (bytes(addresses), group_id.as_slice());
            let delivered =
                world.admin.query_one(sql, &[&HOME, &group, &to, &parts, &payloads, &urgencies]).await;
            let results: Vec<i16> = delivered.expect("it can be delivered").get(0);
            let sql = "SELECT federation.take_from_lane($1, $2, $3)";
            world.admin.execute(sql, &[&domain.as_str(), lane, number]).await.expect("it is the next");
            let gone = addresses.iter().zip(results).filter(|(_, result)| *result == 1);
            for (address, _) in gone {
                self.file(world, group_id, domain, address).await;
            }
        }
        waiting
    }

    /// Notes that an address of a group is gone, as its homeserver says.
    pub async fn file(&self, world: &World, group_id: &[u8; 16], domain: &Domain, address: &Address) {
        let group = self.digest.digest("gone group", group_id);
        let address = [address.as_bytes().as_slice(), domain.as_str().as_bytes()].concat();
        let address = self.digest.digest("gone address", &address);
        let sql = "SELECT federation.note_gone(ARRAY[$1::bytea], ARRAY[$2::bytea])";
        let filed = world.admin.execute(sql, &[&group.as_slice(), &address.as_slice()]).await;
        filed.expect("it can be filed");
    }

    /// The admin adds members, who join by the Welcome in their queues, wherever these are.
    pub async fn add(&self, world: &World, group: &mut Group, joiners: Vec<Member>) -> Vec<Waiting> {
        let add = joiners.iter().map(|joiner| joiner.party.key_package()).collect();
        let (_, call) = group.make(0, Commit { add, ..Commit::default() });
        let accepted: MessageAccepted = world.pay(&call).await.decode();
        assert_eq!(accepted.undelivered, 0);
        group.party(0).merge();
        let delivered = self.deliver(world).await;
        for mut joiner in joiners {
            world.join(group, accepted.epoch, &mut joiner).await;
            group.members.push(joiner);
        }
        delivered
    }

    /// A group with members of these domains, the first of whom founds it.
    pub async fn group(&self, world: &World, domains: &[Domain]) -> Group {
        let mut members = Vec::new();
        for domain in domains {
            members.push(world.candidate_at(domain).await);
        }
        let joiners = members.split_off(1);
        let mut group = world.group_by(members.remove(0)).await;
        self.add(world, &mut group, joiners).await;
        for member in 0..group.members.len() {
            world.receive(&mut group.members[member]).await;
        }
        group
    }
}

pub fn domain(name: &str) -> Domain {
    format!("{name}.example").parse().unwrap()
}

pub async fn operate(world: &World, what: &str) {
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute(&format!("SELECT {what}"), &[]).await.expect("the operator may");
}

pub fn domains(waiting: &[Waiting]) -> Vec<&str> {
    waiting.iter().map(|waiting| waiting.domain.as_str()).collect()
}
