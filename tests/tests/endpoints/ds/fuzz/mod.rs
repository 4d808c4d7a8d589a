//! Messages that are damaged by somebody who knows what they are made of, and who has a member's keys: whatever is
//! submitted, it is refused or accepted, never a fault, never a panic; and a refusal changes nothing (DS-3, DS-5).
//!
//! Damage is signed anew in most cases, all the way up: leaf, KeyPackage, message, GroupInfo. What only members can
//! tell (path secrets, confirmation and membership tags, ciphertexts) the DS has to accept in any state; by their clients'
//! rules they would follow what it accepts.

pub mod tls;

use std::collections::BTreeMap;

use postern_protocol::{GroupInfo, MlsMessage, Welcome, ds::MessageAccepted, key::SigningKey};
use rand::{Rng as _, seq::IndexedRandom as _};

use postern_tests_kit::{Chance, Commit, Group, Made, Onlooker, World, number};
use tls::{Kind, Node, labelled, sign, with_length};

/// POSTERN_TEST_INPUTS makes it longer, POSTERN_TEST_SEED another one.
const INPUTS: usize = 4_000;

/// A message that would be accepted.
struct Base {
    name: &'static str,
    message: Node,
    group_info: Option<Node>,
    welcome: Option<Node>,
    keys: Keys,
}

/// The keys by which its parts are signed.
#[derive(Clone)]
struct Keys {
    sender: SigningKey,
    /// The key of the leaf that it adds.
    newcomer: SigningKey,
    group_id: Vec<u8>,
    /// The group context, as in the group that it is sent to.
    context: Vec<u8>,
    /// The sender's.
    leaf: u32,
}

impl Base {
    fn new(name: &'static str, made: &Made, mut keys: Keys) -> Self {
        let parse = |bytes: &[u8]| {
            let node = tls::message(bytes).unwrap_or_else(|| panic!("{name} is taken apart"));
            assert_eq!(node.encode(), bytes, "{name} is put together again");
            node
        };
        let mut message = parse(made.commit.as_bytes());
        // The leaf's place is signed with it, and nothing else says which it is.
        let sender = keys.sender.public_key();
        message.each(Kind::LeafNode, &mut |fields| {
            let Some((Node::Opaque(signature), _)) = fields.split_last() else { return };
            let signature = postern_protocol::Signature::new(signature.clone());
            let found = (0..16).find(|leaf| {
                let content = labelled("LeafNodeTBS", &Keys { leaf: *leaf, ..keys.clone() }.leaf(fields));
                sender.verify(&content, &signature).is_ok()
            });
            keys.leaf = found.unwrap_or(keys.leaf);
        });
        let group_info = made.group_info.as_ref().map(|info| parse(info.as_bytes()));
        let welcome = made.welcome.as_ref().map(|welcome| parse(welcome.as_bytes()));
        let base = Self { name, message, group_info, welcome, keys };
        let mut again = base.message.clone();
        base.keys.sign(&mut again);
        assert_eq!(again, base.message, "Ed25519 is deterministic: {name} is signed as it was");
        base
    }
}

impl Keys {
    /// `LeafNodeTBS` (RFC 9420 §7.2) of a leaf that has a signature.
    fn leaf(&self, fields: &[Node]) -> Vec<u8> {
        let mut content: Vec<u8> = fields[..fields.len() - 1].iter().flat_map(Node::encode).collect();
        // A leaf of a KeyPackage is in no place yet.
        if fields.get(4) != Some(&Node::Fixed(vec![1])) {
            content.extend(with_length(&self.group_id));
            content.extend(self.leaf.to_be_bytes());
        }
        content
    }

    /// Signs everything in a message anew, from the inside out.
    fn sign(&self, message: &mut Node) {
        let last = |fields: &mut Vec<Node>, signature: Vec<u8>| {
            if let Some(last) = fields.last_mut() {
                *last = Node::Opaque(signature);
            }
        };
        message.each(Kind::LeafNode, &mut |fields| {
            if !fields.is_empty() {
                let is_new = fields.get(4) == Some(&Node::Fixed(vec![1]));
                let key = if is_new { &self.newcomer } else { &self.sender };
                let signature = sign(key, "LeafNodeTBS", &self.leaf(fields));
                last(fields, signature);
            }
        });
        message.each(Kind::KeyPackage, &mut |fields| {
            if !fields.is_empty() {
                let content: Vec<u8> = fields[..fields.len() - 1].iter().flat_map(Node::encode).collect();
                last(fields, sign(&self.newcomer, "KeyPackageTBS", &content));
            }
        });
        message.each(Kind::GroupInfo, &mut |fields| {
            if fields.len() > 3 {
                let content: Vec<u8> = fields[2..fields.len() - 1].iter().flat_map(Node::encode).collect();
                last(fields, sign(&self.sender, "GroupInfoTBS", &content));
            }
        });
        message.each(Kind::Public, &mut |fields| {
            if fields.len() > 3 {
                let mut content: Vec<u8> = fields[..3].iter().flat_map(Node::encode).collect();
                content.extend(&self.context);
                fields[3] = Node::Opaque(sign(&self.sender, "FramedContentTBS", &content));
            }
        });
    }
}

/// One of everything that is submitted, all in the same epoch of the group.
async fn bases(world: &World, group: &mut Group) -> Vec<Base> {
    let context = group.members[0].party.context();
    let keys = |group: &Group, by: usize, newcomer: &SigningKey| Keys {
        sender: group.members[by].party.key.clone(),
        newcomer: newcomer.clone(),
        group_id: group.id.to_mls(),
        context: context.clone(),
        leaf: 0,
    };
    let mut bases = Vec::new();
    let alone = |commit: MlsMessage| Made { commit, group_info: None, welcome: None };
    let said = group.party(1).say(b"hello");
    bases.push(Base::new("words", &alone(said), keys(group, 1, &SigningKey::generate())));

    let newcomer = world.candidate().await.party;
    let add = vec![newcomer.key_package()];
    let remove = vec![group.key(2)];
    let policy = group.policy_with(vec![group.pseudonym(0), group.pseudonym(1)]);
    let context = Some(group.context(&policy));
    for (name, by, commit) in [
        ("an addition", 0, Commit { add, update: true, ..Default::default() }),
        ("a removal", 0, Commit { remove, ..Default::default() }),
        ("a promotion", 0, Commit { context, ..Default::default() }),
        ("a renewal", 1, Commit { update: true, ..Default::default() }),
    ] {
        let made = group.party(by).commit(commit);
        group.party(by).drop_commit();
        bases.push(Base::new(name, &made, keys(group, by, &newcomer.key)));
    }
    let signer = group.members[1].party.key.clone();
    let current = world.group_info(group, &signer).await;
    let mut client = world.further_client(&group.members[0]).await.party;
    let user = client.user.clone();
    let made = client.join_externally(&current, Some(&user));
    let joins = Keys { sender: client.key.clone(), ..keys(group, 0, &newcomer.key) };
    bases.push(Base::new("a join", &made, joins));
    let update = group.party(1).propose_update();
    let self_remove = group.party(1).self_remove();
    bases.push(Base::new("an update", &alone(update), keys(group, 1, &newcomer.key)));
    bases.push(Base::new("a self-remove", &alone(self_remove), keys(group, 1, &newcomer.key)));
    let made = group.party(1).join_externally(&current, None);
    bases.push(Base::new("a return", &made, keys(group, 1, &newcomer.key)));
    bases
}

/// The rows that a refusal leaves as they are.
async fn state(world: &World) -> String {
    world
        .value(
            "SELECT concat((SELECT md5(string_agg(g::text, '' ORDER BY g::text)) FROM ds.groups g),
                           (SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM ds.welcome_trees t),
                           (SELECT count(*) FROM qs.messages), (SELECT sum(next_seq) FROM qs.queues))",
        )
        .await
}

#[tokio::test]
async fn no_damage_to_the_structure_of_a_message_is_a_fault_or_changes_anything_unless_accepted() {
    let chance = Chance::new();
    let inputs = number("POSTERN_TEST_INPUTS").map_or(INPUTS, |inputs| inputs as usize);
    let (mut rng, seed) = (chance.of(0), chance.seed());
    let world = World::start().await;
    let mut group = world.group(3).await;
    let current = world.group_info(&group, &group.members[0].party.key).await;
    let onlooker = Onlooker::of(&current.group_info, &current.ratchet_tree);
    let bases = bases(&world, &mut group).await;
    let parts = |base: &Base| -> Vec<Node> {
        [Some(&base.message), base.group_info.as_ref(), base.welcome.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(Node::all)
            .collect()
    };
    let pool: Vec<Node> = bases.iter().flat_map(parts).collect();
    // An accepted message is undone, so that all inputs meet the group that they were made for.
    world.admin.batch_execute("CREATE TEMP TABLE before AS SELECT * FROM ds.groups").await.unwrap();
    let mut before = state(&world).await;
    let (mut accepted, mut refused) = (BTreeMap::<_, usize>::new(), BTreeMap::<_, usize>::new());
    for input in 0..inputs {
        world.restock(10).await;
        let base = bases.choose(&mut rng).expect("there are some");
        // Undamaged ones show that it would have been accepted.
        let damages = if rng.random_bool(0.05) { 0 } else { rng.random_range(1..=3) };
        let signed = rng.random_bool(0.8);
        let mut made = [Some(base.message.clone()), base.group_info.clone(), base.welcome.clone()];
        for _ in 0..damages {
            let part = if rng.random_bool(0.75) { 0 } else { rng.random_range(0..3) };
            if let Some(part) = &mut made[part] {
                part.damage(&pool, &mut rng);
            }
        }
        if signed {
            made.iter_mut().flatten().for_each(|part| base.keys.sign(part));
        }
        let [message, group_info, welcome] = made.map(|part| part.map(|part| part.encode()));
        let made = Made {
            commit: MlsMessage::new(message.expect("there always is one")),
            group_info: group_info.map(GroupInfo::new),
            welcome: welcome.map(Welcome::new),
        };
        let reply = world.pay(&group.submit_commit(&base.keys.sender, &made)).await;
        let what = format!("{} damaged, number {input} of seed {seed}", base.name);
        let after = state(&world).await;
        if reply.status.is_success() {
            let MessageAccepted { epoch, .. } = reply.decode();
            assert!(epoch == 1 || epoch == 2, "{what}: epoch {epoch}");
            let judged = onlooker.judge(&made.commit);
            let bytes = hex::encode(made.commit.as_bytes());
            assert_eq!(judged, Ok(()), "{what}: members' clients refuse what was accepted: {bytes}");
            *accepted.entry((base.name, damages > 0)).or_default() += 1;
            let undo = "DELETE FROM ds.groups; INSERT INTO ds.groups TABLE before";
            world.admin.batch_execute(undo).await.expect("a superuser may");
            before = state(&world).await;
            continue;
        }
        assert!(
            reply.status.is_client_error(),
            "{what}: {reply:?}, {made:?}",
            made = hex::encode(made.commit.as_bytes())
        );
        let problem = reply.problem(&what);
        assert_eq!(after, before, "{what} changed something: {problem}");
        let detail = problem.detail.unwrap_or_default();
        *refused.entry(format!("{:?}: {detail}", problem.kind)).or_default() += 1;
    }
    println!("{inputs} inputs; accepted (damaged: true): {accepted:?}\nrefused: {refused:#?}");
    if inputs >= INPUTS {
        let undamaged = accepted.keys().filter(|(_, damaged)| !damaged).count();
        assert_eq!(undamaged, bases.len(), "undamaged, all of them are accepted");
        let deep = refused.keys().filter(|why| why.starts_with("PolicyViolation")).count();
        assert!(refused.len() > 30 && deep > 2, "the damage gets to all depths");
    }
    world.close();
}
