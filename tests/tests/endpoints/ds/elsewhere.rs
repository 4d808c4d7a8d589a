//! Groups with members of other homeservers (DS-5, DS-10, FED-2, FED-4): what waits for those in the outbox, and who may be
//! in a group. Of the other homeservers there is [`Elsewhere`] only.

use std::collections::BTreeMap;

use openmls::prelude::{Extensions, LeafNode};
use postern_protocol::{
    Address, MlsMessage, Payload,
    ds::MessageAccepted,
    encoding::Encoding,
    federation::Delivery,
    mls::{GroupPolicy, Pseudonym},
    name::Domain,
    problem::ProblemType,
    push::Urgency,
    qs::QueuePayload,
};
use postern_server::keys::{MasterKey, master_key::DigestKey};
use postern_tests_kit::{
    Commit, Group, HOME, Made, Member, Party, World, creation, eventually, fresh_address, home,
    policy_extensions,
};
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
    lane: i16,
    number: i64,
    sealed: Vec<u8>,
    pub delivery: Delivery,
}

fn bytes(addresses: &[Address]) -> Vec<&[u8]> {
    addresses.iter().map(|address| address.as_bytes().as_slice()).collect()
}

fn of(member: &Member) -> (Domain, Address) {
    (member.domain.clone(), member.address)
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
    async fn file(&self, world: &World, group_id: &[u8; 16], domain: &Domain, address: &Address) {
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

fn domain(name: &str) -> Domain {
    format!("{name}.example").parse().unwrap()
}

async fn submit(world: &World, group: &Group, by: usize, message: &MlsMessage) -> MessageAccepted {
    world.pay(&group.submit(by, message, None)).await.decode()
}

async fn operate(world: &World, what: &str) {
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute(&format!("SELECT {what}"), &[]).await.expect("the operator may");
}

/// The recipients of each payload of what waits.
fn recipients(waiting: &[Waiting], group: &Group) -> BTreeMap<Vec<u8>, Vec<(Domain, Address)>> {
    let mut all: BTreeMap<Vec<u8>, Vec<_>> = BTreeMap::new();
    for Waiting { domain, delivery, .. } in waiting {
        assert_eq!(delivery.group_id, *group.id.id());
        assert_eq!(delivery.addresses.len(), delivery.parts.len());
        for (address, part) in delivery.addresses.iter().zip(&delivery.parts) {
            let payload = delivery.payloads[usize::from(*part) - 1].as_bytes().to_vec();
            all.entry(payload).or_default().push((domain.clone(), *address));
        }
    }
    all.values_mut().for_each(|recipients| recipients.sort_by_key(|(_, address)| *address.as_bytes()));
    all
}

/// The same of one payload.
fn expected<const N: usize>(
    payload: &QueuePayload,
    group: &Group,
    members: [usize; N],
) -> (Vec<u8>, Vec<(Domain, Address)>) {
    let mut recipients = members.map(|member| of(&group.members[member])).to_vec();
    recipients.sort_by_key(|(_, address)| *address.as_bytes());
    (Encoding::Cbor.encode(payload), recipients)
}

fn domains(waiting: &[Waiting]) -> Vec<&str> {
    waiting.iter().map(|waiting| waiting.domain.as_str()).collect()
}

#[tokio::test]
async fn what_members_elsewhere_are_to_get_waits_sealed_once_for_each_domain_and_in_order() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let (b, c) = (domain("b"), domain("c"));
    let mut local = world.group(3).await;
    let spoken = local.party(1).say(b"among us");
    submit(&world, &local, 1, &spoken).await;
    assert!(elsewhere.waiting(&world).await.is_empty(), "nobody of that group is elsewhere");

    let mut group = elsewhere.group(&world, &[home(), home(), b.clone(), c.clone(), b.clone()]).await;
    let said = group.party(1).say(b"one");
    assert_eq!(submit(&world, &group, 1, &said).await, MessageAccepted::in_epoch(1));
    let urgent = group.party(2).say(b"two");
    let call = group.submit_urgent(2, &urgent, Urgency::High);
    assert_eq!(world.pay(&call).await.decode::<MessageAccepted>(), MessageAccepted::in_epoch(1));
    let waiting = elsewhere.waiting(&world).await;
    assert_eq!(domains(&waiting), ["b.example", "b.example", "c.example", "c.example"]);
    for pair in waiting.chunks(2) {
        assert_eq!((pair[0].lane, pair[0].number + 1), (pair[1].lane, pair[1].number), "one after the other");
    }
    let (one, two) = (QueuePayload::Message(said), QueuePayload::Message(urgent));
    assert_eq!(
        recipients(&waiting, &group),
        BTreeMap::from([expected(&one, &group, [2, 3, 4]), expected(&two, &group, [3, 4])]),
        "all but who says it"
    );
    let urgencies: Vec<_> = waiting.iter().map(|waiting| waiting.delivery.urgencies.as_slice()).collect();
    assert_eq!(urgencies, [[2], [3], [2], [3]], "the sender's word for how soon others want to know");
    let size = waiting[0].sealed.len();
    for Waiting { sealed, delivery, .. } in &waiting {
        assert_eq!(sealed.len(), size, "a size tells nothing of so few recipients");
        for address in &delivery.addresses {
            assert!(!sealed.windows(32).any(|bytes| bytes == address.as_bytes()), "it is sealed");
        }
    }
    elsewhere.deliver(&world).await;
    assert!(elsewhere.waiting(&world).await.is_empty());
    let texts = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    for member in [0, 3, 4] {
        let read = world.receive(&mut group.members[member]).await;
        assert_eq!(read, texts(&[b"one", b"two"]), "member {member}");
    }
    assert_eq!(world.receive(&mut group.members[1]).await, texts(&[b"two"]));
    assert_eq!(world.receive(&mut group.members[2]).await, texts(&[b"one"]));

    // A commit goes to those who are there, and its Welcome to who comes.
    let joiner = world.candidate_at(&c).await;
    let (made, call) = group.make(0, Commit { add: vec![joiner.party.key_package()], ..Commit::default() });
    world.pay(&call).await.assert_ok("adding");
    group.party(0).merge();
    group.members.push(joiner);
    let waiting = elsewhere.deliver(&world).await;
    assert_eq!(domains(&waiting), ["b.example", "c.example"], "a delivery for each");
    let Made { commit, welcome, .. } = made;
    let commit = expected(&QueuePayload::Message(commit), &group, [2, 3, 4]);
    let welcome = expected(&QueuePayload::Welcome(welcome.unwrap()), &group, [5]);
    assert_eq!(recipients(&waiting, &group), BTreeMap::from([commit, welcome]));
    assert_eq!(waiting[0].delivery.payloads.len(), 1, "no Welcome where nobody joins");
    let mut joiner = group.members.pop().unwrap();
    world.join(&group, 2, &mut joiner).await;
    group.members.push(joiner);
    for member in 0..6 {
        world.receive(&mut group.members[member]).await;
        let agreed = group.party(0).epoch_authenticator();
        assert_eq!(group.party(member).epoch_authenticator(), agreed, "member {member}");
    }
    world.close();
}

#[tokio::test]
async fn a_member_elsewhere_founds_commits_comes_back_lets_a_client_in_and_leaves() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let b = domain("b");
    // All members are elsewhere: the group's server has no queue of any.
    let mut group = elsewhere.group(&world, &[b.clone(), domain("c"), b.clone()]).await;
    let (_, call) = group.make(1, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("a commit");
    group.party(1).merge();
    elsewhere.deliver(&world).await;
    world.receive(&mut group.members[0]).await;
    world.receive(&mut group.members[2]).await;

    let mut client = world.further_client(&group.members[1]).await;
    let user = client.party.user.clone();
    let current = world.group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    world.pay(&group.submit_commit(&client.party.key, &made)).await.assert_ok("joining");
    client.party.merge();
    group.members.push(client);
    let delivered = elsewhere.deliver(&world).await;
    let commit = expected(&QueuePayload::Message(made.commit), &group, [0, 1, 2]);
    assert_eq!(recipients(&delivered, &group), BTreeMap::from([commit]), "who joins has it");

    // To another address, and its place of before gets nothing.
    let address = world.address(&group.members[2].mailbox).await;
    group.members[2].address = address;
    let leaf = group.members[2].party.leaf_at(&b, address);
    group.party(2).leaf = leaf;
    let key = group.members[2].party.key.clone();
    let current = world.group_info(&group, &key).await;
    let made = group.party(2).join_externally(&current, None);
    world.pay(&group.submit_commit(&key, &made)).await.assert_ok("coming back");
    group.party(2).merge();
    world.read(&mut group.members[2].mailbox).await;
    let delivered = elsewhere.deliver(&world).await;
    let commit = expected(&QueuePayload::Message(made.commit), &group, [0, 1, 3]);
    assert_eq!(recipients(&delivered, &group), BTreeMap::from([commit]));

    let leaving = group.party(2).self_remove();
    submit(&world, &group, 2, &leaving).await;
    elsewhere.deliver(&world).await;
    for member in [0, 1, 3] {
        world.receive(&mut group.members[member]).await;
    }
    let (_, call) = group.make(0, Commit::default());
    world.pay(&call).await.assert_ok("committing that");
    group.party(0).merge();
    elsewhere.deliver(&world).await;
    for member in [1, 2, 3] {
        world.receive(&mut group.members[member]).await;
    }
    assert!(!group.party(2).is_active());
    let agreed = group.party(0).epoch_authenticator();
    assert_eq!(group.party(3).epoch_authenticator(), agreed);
    assert_eq!(group.party(1).epoch_authenticator(), agreed);
    world.close();
}

#[tokio::test]
async fn an_address_at_a_homeserver_is_one_members_and_naming_it_at_another_takes_it_from_nobody() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), home(), domain("b")]).await;
    for (what, of) in [("another's here", 1), ("another's elsewhere", 2)] {
        let (its_own, address) = (group.members[of].domain.clone(), group.members[of].address);
        for at in [home(), domain("b"), domain("c")] {
            let mut party = Party::newcomer();
            party.leaf = party.leaf_at(&at, address);
            let (_, call) = group.make(0, Commit { add: vec![party.key_package()], ..Commit::default() });
            let what = format!("{what}, said to be at {at}");
            if at == its_own {
                world.assert_refuses(&what, &call, ProblemType::PolicyViolation).await;
                group.party(0).forget();
            } else {
                world.pay(&call).await.assert_ok(&what);
                group.party(0).merge();
            }
        }
    }
    world.close();
}

/// A commit by which a leaf gets these extensions.
fn moving(leaf: Extensions<LeafNode>) -> Commit {
    Commit { leaf: Some(leaf), ..Commit::default() }
}

#[tokio::test]
async fn nobody_comes_to_a_blocked_domain_and_those_who_are_there_get_nothing_and_are_to_go() {
    let world = World::start().await;
    world.stock(300).await;
    let elsewhere = Elsewhere::of(&world).await;
    let (b, c) = (domain("b"), domain("c"));
    let mut group = elsewhere.group(&world, &[home(), home(), b.clone(), c.clone(), b.clone()]).await;
    let client = world.further_client(&group.members[2]).await;
    // It moves while it may, and this waits.
    let mut moves = elsewhere.group(&world, &[home(), c.clone()]).await;
    let leaf = moves.members[1].party.leaf_at(&b, moves.members[1].address);
    let proposed = moves.party(1).propose_leaf(Some(leaf), None, None);
    submit(&world, &moves, 1, &proposed).await;
    elsewhere.deliver(&world).await;
    operate(&world, "operator.block_domain('b.example')").await;

    let blocked = ProblemType::HomeserverBlocked;
    let newcomer = world.candidate_at(&b).await;
    let (_, call) = group.make(0, Commit { add: vec![newcomer.party.key_package()], ..Commit::default() });
    world.assert_refuses("an Add", &call, blocked).await;
    group.party(0).forget();
    let (_, call) = group.make(2, Commit { add: vec![client.party.key_package()], ..Commit::default() });
    world.assert_refuses("an Add of an own client", &call, blocked).await;
    group.party(2).forget();
    let leaf = group.members[1].party.leaf_at(&b, fresh_address());
    let (_, call) = group.make(1, moving(leaf.clone()));
    world.assert_refuses("a commit by which a leaf moves there", &call, blocked).await;
    group.party(1).forget();
    let proposed = group.party(1).propose_leaf(Some(leaf), None, None);
    world.assert_refuses("an Update", &group.submit(1, &proposed, None), blocked).await;
    group.party(1).forget();
    let (mut client, user) = (client, group.members[2].party.user.clone());
    let current = world.group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    world.assert_refuses("joining", &group.submit_commit(&client.party.key, &made), blocked).await;
    let member = &group.members[4].party;
    let mut double = Party::new(member.identity.clone());
    (double.key, double.user) = (member.key.clone(), member.user.clone());
    double.leaf = double.leaf_at(&b, fresh_address());
    let made = double.join_externally(&current, None);
    world.assert_refuses("coming back", &group.submit_commit(&double.key, &made), blocked).await;
    let mut founder = Party::newcomer();
    founder.leaf = founder.leaf_at(&b, fresh_address());
    let policy = GroupPolicy::new(Pseudonym(founder.identity.as_slice().try_into().unwrap()));
    let id = world.reserve().await;
    founder.found(&id.to_mls(), policy_extensions(world.domain(), &policy, &world.server_key()));
    let call = creation(&id, policy.state_key(), &founder);
    world.assert_refuses("founding a group", &call, blocked).await;
    assert!(elsewhere.waiting(&world).await.is_empty());

    // A move that was proposed before does not stand in the group's way.
    world.receive(&mut moves.members[0]).await;
    let (_, call) = moves.make(0, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("a commit of what waited");

    let said = group.party(1).say(b"who is there?");
    assert_eq!(submit(&world, &group, 1, &said).await.undelivered, 2);
    while group.party(0).evictions < 2 {
        world.await_message(&mut group.members[0]).await;
    }
    let delivered = elsewhere.deliver(&world).await;
    assert!(delivered.iter().all(|delivery| delivery.domain == c), "{:?}", domains(&delivered));
    world.receive(&mut group.members[3]).await;
    assert_eq!(group.party(3).evictions, 2);
    let (_, call) = group.make(0, Commit { update: true, ..Commit::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    assert_eq!(accepted.undelivered, 2, "they do not even hear of their removal");
    group.party(0).merge();
    elsewhere.deliver(&world).await;
    for member in [1, 3] {
        world.receive(&mut group.members[member]).await;
        let agreed = group.party(0).epoch_authenticator();
        assert_eq!(group.party(member).epoch_authenticator(), agreed);
    }
    assert_eq!(group.party(0).member_keys().len(), 3);

    operate(&world, "operator.drop_domain_rule('b.example')").await;
    let newcomer = world.candidate_at(&b).await;
    elsewhere.add(&world, &mut group, vec![newcomer]).await;
    world.close();
}

#[tokio::test]
async fn who_takes_no_messages_elsewhere_any_more_is_removed_by_the_next_commit() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let b = domain("b");
    operate(&world, "operator.set_federation_limit('gone_after_days', 0)").await;
    let mut group = elsewhere.group(&world, &[home(), b.clone(), b.clone(), domain("c")]).await;
    let mut other = elsewhere.group(&world, &[home(), b.clone()]).await;
    let filed = async || world.count("federation.gone").await;

    // As its owner would by revoking it, there.
    let revoked = vec![group.members[2].address];
    world.pay(&group.members[2].mailbox.revoking(revoked)).await.assert_ok("revoking");
    let one = group.party(1).say(b"is everybody there?");
    assert_eq!(submit(&world, &group, 1, &one).await.undelivered, 0, "nobody knows yet");
    elsewhere.deliver(&world).await;
    assert_eq!(filed().await, 1);
    // Addresses that nobody has there, and one of another group.
    elsewhere.file(&world, group.id.id(), &b, &fresh_address()).await;
    elsewhere.file(&world, group.id.id(), &b, &group.members[0].address).await;
    elsewhere.file(&world, other.id.id(), &b, &fresh_address()).await;

    let two = group.party(1).say(b"really?");
    assert_eq!(submit(&world, &group, 1, &two).await.undelivered, 0);
    while group.party(0).evictions == 0 {
        world.await_message(&mut group.members[0]).await;
    }
    eventually("what is proposed, or nobody's, is forgotten", async || (filed().await == 1).then_some(()))
        .await;
    elsewhere.deliver(&world).await;
    assert_eq!(filed().await, 2, "it does not take the proposal either");
    world.receive(&mut group.members[3]).await;
    assert_eq!(group.party(3).evictions, 1);
    let alone = Commit { alone: true, update: true, ..Commit::default() };
    let (_, call) = group.make(0, alone);
    world.assert_refuses("a commit that leaves the removal out", &call, ProblemType::PolicyViolation).await;
    group.party(0).forget();
    world.receive(&mut group.members[1]).await;
    let (_, call) = group.make(1, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("a commit");
    group.party(1).merge();
    eventually("it is filed no more", async || (filed().await == 1).then_some(())).await;
    elsewhere.deliver(&world).await;
    let gone = group.key(2);
    assert!(!group.party(1).member_keys().contains(&gone));

    let three = group.party(1).say(b"now");
    submit(&world, &group, 1, &three).await;
    eventually("nothing of the group is filed", async || (filed().await == 1).then_some(())).await;
    elsewhere.deliver(&world).await;
    assert_eq!(world.receive(&mut group.members[3]).await, [b"now".to_vec()]);
    assert_eq!(group.party(3).evictions, 1, "once");

    let said = other.party(0).say(b"we are all there");
    submit(&world, &other, 0, &said).await;
    eventually("each group forgets its own", async || (filed().await == 0).then_some(())).await;
    world.close();
}

#[tokio::test]
async fn what_a_homeserver_says_of_an_address_on_one_day_removes_nobody() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("b")]).await;
    let pass = async |days: i32| {
        let sql = "UPDATE federation.gone SET day = day - $1::integer, last_day = last_day - $1::integer";
        world.admin.execute(sql, &[&days]).await.expect("it is another day");
    };
    let (id, address) = (group.id.clone(), group.members[2].address);
    let report = async || elsewhere.file(&world, id.id(), &domain("b"), &address).await;
    let due = async || -> i64 {
        let sql = "SELECT sum(cardinality(federation.gone_addresses(g.group_digest))) FROM federation.gone g";
        world.value(sql).await
    };

    report().await;
    report().await;
    assert_eq!(due().await, 0, "twice on one day");
    pass(1).await;
    assert_eq!(due().await, 0, "and the next day says nothing");
    pass(7).await;
    report().await;
    assert_eq!(due().await, 0, "that was too long ago");
    let said = group.party(1).say(b"is everybody there?");
    submit(&world, &group, 1, &said).await;
    pass(1).await;
    report().await;
    assert_eq!(due().await, 1);
    let said = group.party(1).say(b"really?");
    submit(&world, &group, 1, &said).await;
    while group.party(0).evictions == 0 {
        world.await_message(&mut group.members[0]).await;
    }
    let proposals = elsewhere.waiting(&world).await.len();
    assert_eq!(proposals, 3, "two messages, and one proposal");
    world.close();
}

#[tokio::test]
async fn several_proposals_of_the_server_go_elsewhere_in_one_delivery() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), home(), home(), domain("b"), domain("b")]).await;
    for member in [1, 2] {
        let revoked = vec![group.members[member].address];
        world.pay(&group.members[member].mailbox.revoking(revoked)).await.assert_ok("revoking");
    }
    let said = group.party(3).say(b"is everybody there?");
    assert_eq!(submit(&world, &group, 3, &said).await.undelivered, 2);
    while group.party(0).evictions < 2 {
        world.await_message(&mut group.members[0]).await;
    }
    let waiting = elsewhere.deliver(&world).await;
    let numbers: Vec<_> =
        waiting.iter().map(|it| (it.delivery.payloads.len(), it.delivery.parts.len())).collect();
    assert_eq!(numbers, [(1, 1), (2, 4)], "what was said, and both proposals for both members");
    for member in [3, 4] {
        world.receive(&mut group.members[member]).await;
        assert_eq!(group.party(member).evictions, 2);
    }
    let (_, call) = group.make(3, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("both are committed");
    group.party(3).merge();
    elsewhere.deliver(&world).await;
    world.receive(&mut group.members[4]).await;
    assert_eq!(group.party(4).member_keys().len(), 3);
    world.close();
}

#[tokio::test]
async fn a_group_has_members_of_as_many_other_domains_as_the_operator_allows() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let (b, d) = (domain("b"), domain("d"));
    let full = ProblemType::TooManyDomains;
    operate(&world, "operator.set_group_limit('max_domains', 2)").await;
    let mut group = elsewhere.group(&world, &[home(), home(), home(), b.clone(), domain("c")]).await;

    let newcomer = world.candidate_at(&d).await;
    let (_, call) = group.make(0, Commit { add: vec![newcomer.party.key_package()], ..Commit::default() });
    world.assert_refuses("an Add", &call, full).await;
    let detail = world.pay(&call).await.problem("an Add").detail.unwrap();
    assert_eq!(detail, "a group can have members of at most 2 other domains");
    group.party(0).forget();
    let leaf = group.members[1].party.leaf_at(&d, fresh_address());
    let (_, call) = group.make(1, moving(leaf.clone()));
    world.assert_refuses("a commit by which a leaf moves there", &call, full).await;
    group.party(1).forget();
    let proposed = group.party(1).propose_leaf(Some(leaf.clone()), None, None);
    world.assert_refuses("an Update", &group.submit(1, &proposed, None), full).await;
    group.party(1).forget();
    let mut client = world.further_client(&group.members[1]).await;
    client.party.leaf = client.party.leaf_at(&d, client.address);
    let user = group.members[1].party.user.clone();
    let current = world.group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    world.assert_refuses("joining", &group.submit_commit(&client.party.key, &made), full).await;
    let joiners = vec![world.candidate_at(&b).await, world.candidate().await];
    elsewhere.add(&world, &mut group, joiners).await;
    world.receive(&mut group.members[1]).await;
    world.receive(&mut group.members[2]).await;

    // Moves that wait count, as one commit takes all of them.
    operate(&world, "operator.set_group_limit('max_domains', 3)").await;
    let moves = group.party(1).propose_leaf(Some(leaf), None, None);
    submit(&world, &group, 1, &moves).await;
    world.receive(&mut group.members[2]).await;
    let leaf = group.members[2].party.leaf_at(&domain("e"), fresh_address());
    let proposed = group.party(2).propose_leaf(Some(leaf), None, None);
    world.assert_refuses("one domain more", &group.submit(2, &proposed, None), full).await;
    group.party(2).forget();
    let leaf = group.members[2].party.leaf_at(&d, fresh_address());
    let proposed = group.party(2).propose_leaf(Some(leaf), None, None);
    submit(&world, &group, 2, &proposed).await;

    // A group that has more by a new limit goes on, and so do those who are on their way.
    operate(&world, "operator.set_group_limit('max_domains', 1)").await;
    world.receive(&mut group.members[0]).await;
    let joiner = world.candidate_at(&b).await;
    elsewhere.add(&world, &mut group, vec![joiner]).await;
    let said = group.party(0).say(b"we are many");
    submit(&world, &group, 0, &said).await;
    let waiting = elsewhere.waiting(&world).await;
    assert_eq!(domains(&waiting), ["b.example", "c.example", "d.example"]);
    world.close();
}

#[tokio::test]
async fn while_a_message_waits_for_a_queue_here_other_groups_have_their_lanes() {
    let world = World::builder().pushing().tokens(200).patient().start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), home(), domain("b")]).await;
    let said = group.party(0).say(b"wait for me");
    let call = group.submit(0, &said, None);
    let blocker = world.cluster.admin().await;
    blocker.batch_execute("BEGIN; SELECT FROM qs.queues FOR UPDATE").await.unwrap();
    let looking = async {
        let waits = world.caught("submit_message").await;
        // The outbox may have it for a moment.
        eventually("nobody holds the lane", async || {
            let lanes = "SELECT FROM federation.outgoing_lanes FOR UPDATE SKIP LOCKED";
            (world.admin.query(lanes, &[]).await.expect("it can be read").len() == 1).then_some(())
        })
        .await;
        assert_eq!(world.caught("submit_message").await, waits, "the message waits for the queue");
        blocker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (reply, ()) = tokio::join!(world.pay(&call), looking);
    reply.assert_ok("a message");
    assert_eq!(domains(&elsewhere.waiting(&world).await), ["b.example"]);
    world.close();
}

#[tokio::test]
async fn lanes_do_not_tell_which_domains_have_members_of_the_same_groups() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut lanes = Vec::new();
    for _ in 0..6 {
        let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
        let mut of_group = Vec::new();
        for text in ["one", "two"] {
            let said = group.party(0).say(text.as_bytes());
            submit(&world, &group, 0, &said).await;
            let delivered = elsewhere.deliver(&world).await;
            of_group.push(delivered.iter().map(|waiting| waiting.lane).collect::<Vec<_>>());
        }
        assert_eq!(of_group[0], of_group[1], "a group has one lane at a homeserver");
        lanes.extend(of_group);
    }
    assert!(lanes.iter().any(|lanes| lanes[0] != lanes[1]), "and another one at another: {lanes:?}");
    world.close();
}

#[tokio::test]
async fn what_a_homeserver_says_of_an_address_is_nothing_of_another_ones() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    operate(&world, "operator.set_federation_limit('gone_after_days', 0)").await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
    let (id, address) = (group.id.clone(), group.members[1].address);
    elsewhere.file(&world, id.id(), &domain("c"), &address).await;
    for text in ["is everybody there?", "really?"] {
        let said = group.party(0).say(text.as_bytes());
        submit(&world, &group, 0, &said).await;
        elsewhere.deliver(&world).await;
    }
    eventually("nobody has that address there", async || {
        (world.count("federation.gone").await == 0).then_some(())
    })
    .await;
    world.receive(&mut group.members[1]).await;
    assert_eq!(group.party(1).evictions, 0);

    // A leaf that names another one's address does not keep that one out.
    let mut taken = world.candidate_at(&domain("d")).await;
    let other = world.candidate_at(&domain("b")).await;
    taken.party.leaf = taken.party.leaf_at(&domain("d"), other.address);
    for newcomer in [taken, other] {
        let add = vec![newcomer.party.key_package()];
        let (_, call) = group.make(0, Commit { add, ..Commit::default() });
        world.pay(&call).await.assert_ok("an Add");
        group.party(0).merge();
    }
    world.close();
}

#[tokio::test]
async fn what_waits_for_all_domains_together_is_bounded() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
    operate(&world, "operator.set_federation_limit('outbox_total_mib', 1)").await;
    let counted = "SELECT (SELECT sum(bytes) FROM federation.outbox_bytes)
                        = (SELECT coalesce(sum(octet_length(sealed)), 0) FROM federation.outbox)";
    // Each takes 64 KiB and a few bytes, for each domain.
    let text = vec![b'x'; 40_000];
    let mut undelivered = Vec::new();
    for _ in 0..5 {
        let said = group.party(0).say(&text);
        undelivered.push(submit(&world, &group, 0, &said).await.undelivered);
        assert!(world.value::<bool>(counted).await);
    }
    assert_eq!(undelivered, [0, 0, 0, 2, 2], "each has as much room as it leaves to the next one");
    assert_eq!(elsewhere.deliver(&world).await.len(), 6);
    assert!(world.value::<bool>(counted).await);
    let said = group.party(0).say(&text);
    assert_eq!(submit(&world, &group, 0, &said).await.undelivered, 0, "there is room again");
    world.close();
}

#[tokio::test]
async fn a_message_is_as_large_as_its_padded_deliveries_to_all_domains_together() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut one = elsewhere.group(&world, &[home(), domain("b"), domain("b")]).await;
    let mut two = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
    operate(&world, "operator.set_group_limit('max_members', 5)").await;
    operate(&world, "operator.set_group_limit('max_delivery_bytes', 65536)").await;
    // 64 KiB with its padding.
    let text = vec![b'x'; 17_000];
    let said = one.party(0).say(&text);
    assert_eq!(submit(&world, &one, 0, &said).await.undelivered, 0);
    let said = two.party(0).say(&text);
    let call = two.submit(0, &said, None);
    world.assert_refuses("for two domains", &call, ProblemType::DeliveryTooLarge).await;
    let said = two.party(0).say(b"in short");
    submit(&world, &two, 0, &said).await;
    assert_eq!(domains(&elsewhere.waiting(&world).await), ["b.example", "b.example", "c.example"]);
    world.close();
}

#[tokio::test]
async fn what_has_no_room_in_the_outbox_counts_as_undelivered_and_removes_nobody() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("b"), domain("c")]).await;
    operate(&world, "operator.set_federation_limit('outbox_mib', 1)").await;
    // It took deliveries before: one that never did has an eighth of that.
    let known = "INSERT INTO federation.neighbours (domain, first_success, last_success)
                 VALUES ('b.example', current_date, current_date)";
    assert!(world.admin.execute(known, &[]).await.expect("it can be so") > 0);
    // Each takes 64 KiB and a few bytes.
    let text = vec![b'x'; 40_000];
    let mut undelivered = Vec::new();
    for _ in 0..16 {
        let said = group.party(3).say(&text);
        undelivered.push(submit(&world, &group, 3, &said).await.undelivered);
    }
    assert_eq!(undelivered[..15], [0; 15]);
    assert_eq!(undelivered[15], 2, "both members of b miss it");
    let mut heard = Vec::new();
    while heard.len() < undelivered.len() {
        heard.extend(world.receive(&mut group.members[0]).await);
    }
    let said = group.party(0).say(b"still here");
    assert_eq!(
        submit(&world, &group, 0, &said).await.undelivered,
        0,
        "there is room for little, and for others"
    );
    assert_eq!(elsewhere.deliver(&world).await.len(), 15 + 2);
    let said = group.party(3).say(&text);
    assert_eq!(submit(&world, &group, 3, &said).await.undelivered, 0);
    assert_eq!(world.count("federation.gone").await, 0);
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).evictions, 0);
    world.close();
}
