//! The DS against a plain model of a group (DS-3, DS-6): random members do random things, rightly and in every
//! wrong way. The DS accepts what the model accepts and nothing else, everyone follows, and in the end the public
//! group is the one its members see.

use std::collections::BTreeSet;

use openmls::prelude::Lifetime;
use postern_protocol::{GroupInfo, MlsMessage, key::SigningKey, mls::Pseudonym, problem::ProblemType};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::world::{Call, Commit, Group, Made, World, home};

/// POSTERN_TEST_STEPS makes it longer, POSTERN_TEST_SEED another one.
const STEPS: usize = 250;
const MOST_MEMBERS: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Leaves,
    Updates,
}

/// What the group is. People are indexes of `Group::members`, users any numbers.
struct Model {
    epoch: u64,
    user: Vec<usize>,
    present: Vec<bool>,
    admins: BTreeSet<usize>,
    waiting: Vec<(usize, Waiting)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Say,
    Update,
    UpdateAlone,
    AddUser,
    AddClient,
    AddClientOfAnother,
    AddUnlimited,
    RemoveUser,
    RemovePartOfUser,
    RemoveClient,
    RemoveClientAndKeepKey,
    Promote,
    Demote,
    Leave,
    ProposeUpdate,
    Join,
    JoinUnvouched,
    Resync,
    Late,
    Forged,
    SentByAnother,
    WithoutInfo,
    WithOldInfo,
}

const OPS: [Op; 23] = [
    Op::Say,
    Op::Update,
    Op::UpdateAlone,
    Op::AddUser,
    Op::AddClient,
    Op::AddClientOfAnother,
    Op::AddUnlimited,
    Op::RemoveUser,
    Op::RemovePartOfUser,
    Op::RemoveClient,
    Op::RemoveClientAndKeepKey,
    Op::Promote,
    Op::Demote,
    Op::Leave,
    Op::ProposeUpdate,
    Op::Join,
    Op::JoinUnvouched,
    Op::Resync,
    Op::Late,
    Op::Forged,
    Op::SentByAnother,
    Op::WithoutInfo,
    Op::WithOldInfo,
];

/// `None`: it is to be accepted.
type Expected = Option<ProblemType>;
const VIOLATION: Expected = Some(ProblemType::PolicyViolation);
const INVALID: Expected = Some(ProblemType::InvalidMls);

impl Model {
    fn members(&self) -> Vec<usize> {
        (0..self.present.len()).filter(|member| self.present[*member]).collect()
    }

    fn clients(&self, user: usize) -> Vec<usize> {
        self.members().into_iter().filter(|member| self.user[*member] == user).collect()
    }

    fn is_admin(&self, member: usize) -> bool {
        self.admins.contains(&self.user[member])
    }

    fn waits(&self, member: usize, what: Waiting) -> bool {
        self.waiting.contains(&(member, what))
    }

    fn leaves(&self, member: usize) -> bool {
        self.waits(member, Waiting::Leaves)
    }

    /// Whether an admin is left once those who leave, and these, have gone.
    fn has_admin(&self, admins: &BTreeSet<usize>, without: &[usize]) -> bool {
        let stays = |member: &usize| !self.leaves(*member) && !without.contains(member);
        self.members().into_iter().filter(stays).any(|member| admins.contains(&self.user[member]))
    }

    /// What stands in the way of any commit of this member.
    fn commit(&self, by: usize) -> Expected {
        if self.leaves(by) { VIOLATION } else { None }
    }

    fn allowed(&self, by: usize, right: bool) -> Expected {
        if right { self.commit(by) } else { VIOLATION }
    }

    fn committed(&mut self, removed: &[usize]) {
        let leavers: Vec<_> = self.members().into_iter().filter(|member| self.leaves(*member)).collect();
        for member in leavers.iter().chain(removed) {
            self.present[*member] = false;
        }
        self.waiting.clear();
        self.epoch += 1;
    }

    fn add(&mut self, user: usize) {
        self.user.push(user);
        self.present.push(true);
    }
}

struct Play {
    world: World,
    group: Group,
    model: Model,
    rng: StdRng,
    users: usize,
    /// A commit that was made and not sent, by whom, and in which epoch.
    late: Option<(usize, Made, u64)>,
    /// All users' keys there ever were.
    keys: Vec<SigningKey>,
    /// The GroupInfo of some earlier epoch.
    old_info: Option<GroupInfo>,
    accepted: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl Play {
    async fn start(seed: u64) -> Self {
        let world = World::start().await;
        let group = world.group(4).await;
        let model = Model {
            epoch: 1,
            user: vec![0, 1, 2, 3],
            present: vec![true; 4],
            admins: BTreeSet::from([0]),
            waiting: Vec::new(),
        };
        let rng = StdRng::seed_from_u64(seed);
        let keys = group.members.iter().map(|member| member.party.user.clone()).collect();
        let (accepted, refused) = Default::default();
        Self { world, group, model, rng, users: 4, late: None, keys, old_info: None, accepted, refused }
    }

    fn pick(&mut self, of: &[usize]) -> Option<usize> {
        of.choose(&mut self.rng).copied()
    }

    /// A commit as this member's client would make it; who leaves makes one of its own.
    fn make(&mut self, by: usize, commit: Commit) -> Made {
        let alone = commit.alone || self.model.leaves(by);
        self.group.party(by).commit(Commit { alone, ..commit })
    }

    fn call(&self, by: usize, made: &Made) -> Call {
        self.group.submit_commit(&self.group.members[by].party.key, made)
    }

    /// Sends what `by` made. True if it was to be accepted, and was.
    async fn send(&mut self, op: Op, call: &Call, expected: Expected) -> bool {
        let what = format!("{op:?} in epoch {}, {:?} waiting", self.model.epoch, self.model.waiting);
        let reply = self.world.pay(call).await;
        let Some(problem) = expected else {
            reply.assert_ok(&what);
            self.accepted.insert(format!("{op:?}"));
            return true;
        };
        reply.assert_problem(&what, problem);
        self.refused.insert(format!("{op:?}"));
        false
    }

    /// Everybody but the sender takes in what was accepted.
    async fn follow(&mut self, but: &[usize]) {
        for member in 0..self.group.members.len() {
            // Also who has just been removed.
            if self.group.party(member).is_active() && !but.contains(&member) {
                self.world.receive(&mut self.group.members[member]).await;
            }
        }
        let expected = self.model.members();
        let epoch = self.model.epoch;
        for member in 0..self.group.members.len() {
            let active = self.group.party(member).is_active();
            assert_eq!(active, expected.contains(&member), "member {member} in epoch {epoch}");
            assert!(!active || self.group.party(member).epoch() == epoch, "member {member} in epoch {epoch}");
        }
    }

    /// A commit of a member's: sends it, and lets it take effect on both sides.
    async fn commit(
        &mut self,
        op: Op,
        by: usize,
        made: &Made,
        expected: Expected,
        removed: &[usize],
    ) -> bool {
        let call = self.call(by, made);
        if !self.send(op, &call, expected).await {
            self.group.party(by).drop_commit();
            return false;
        }
        self.group.party(by).merge();
        self.model.committed(removed);
        true
    }

    async fn step(&mut self, op: Op) {
        let members = self.model.members();
        let Some(by) = self.pick(&members) else { return };
        let others: Vec<_> = members.iter().copied().filter(|member| *member != by).collect();
        let foreign: Vec<_> = members
            .iter()
            .copied()
            .filter(|member| self.model.user[*member] != self.model.user[by])
            .collect();
        let own: Vec<_> =
            self.model.clients(self.model.user[by]).into_iter().filter(|own| *own != by).collect();
        let update = || Commit { update: true, ..Default::default() };
        let has_room = members.len() < MOST_MEMBERS;
        match op {
            Op::Say => {
                // openmls says nothing while proposals wait (RFC 9420 §12.4).
                if !self.model.waiting.is_empty() {
                    return;
                }
                let said = self.group.party(by).say(b"something");
                let call = self.group.submit(by, &said, None);
                self.send(op, &call, None).await;
                self.follow(&[by]).await;
            }
            Op::Update | Op::UpdateAlone => {
                let alone = op == Op::UpdateAlone;
                let others_wait =
                    self.model.waiting.iter().any(|(who, what)| *who != by || *what == Waiting::Leaves);
                let expected = if alone && others_wait { VIOLATION } else { self.model.commit(by) };
                let made = self.make(by, Commit { alone, ..update() });
                if self.commit(op, by, &made, expected, &[]).await {
                    self.old_info = made.group_info;
                    self.follow(&[by]).await;
                }
            }
            Op::AddUser | Op::AddUnlimited if has_room => {
                let mut newcomer = self.world.candidate().await;
                if op == Op::AddUnlimited {
                    newcomer.party.lifetime = Lifetime::init(0, u64::MAX);
                }
                let add = vec![newcomer.party.key_package()];
                let made = self.make(by, Commit { add, ..Default::default() });
                let expected = match op {
                    Op::AddUnlimited => INVALID,
                    _ => self.model.allowed(by, self.model.is_admin(by)),
                };
                if self.commit(op, by, &made, expected, &[]).await {
                    self.keys.push(newcomer.party.user.clone());
                    self.users += 1;
                    self.joined(newcomer, self.users - 1, by).await;
                }
            }
            Op::AddClient | Op::AddClientOfAnother if has_room => {
                let of = if op == Op::AddClient { Some(by) } else { self.pick(&foreign) };
                let Some(of) = of else { return };
                let client = self.world.further_client(&self.group.members[of]).await;
                let add = vec![client.party.key_package()];
                let made = self.make(by, Commit { add, ..Default::default() });
                let expected = self.model.allowed(by, op == Op::AddClient);
                if self.commit(op, by, &made, expected, &[]).await {
                    self.joined(client, self.model.user[of], by).await;
                }
            }
            Op::RemoveUser | Op::RemovePartOfUser => {
                let Some(target) = self.pick(&foreign) else { return };
                let clients = self.model.clients(self.model.user[target]);
                let staying: Vec<_> =
                    clients.iter().copied().filter(|client| !self.model.leaves(*client)).collect();
                let part = op == Op::RemovePartOfUser;
                if part && staying.len() < 2 {
                    return;
                }
                let removed = if part { vec![staying[0]] } else { clients };
                let remove = removed.iter().map(|client| self.group.key(*client)).collect();
                // Who leaves is not removed: it is taken along.
                let by_value = removed.iter().any(|client| !self.model.leaves(*client));
                let right = self.model.is_admin(by) || !by_value && !self.model.leaves(by);
                let expected = if part { VIOLATION } else { self.model.allowed(by, right) };
                let made = self.make(by, Commit { remove, update: true, ..Default::default() });
                if self.commit(op, by, &made, expected, &removed).await {
                    self.follow(&[by]).await;
                }
            }
            Op::RemoveClient | Op::RemoveClientAndKeepKey => {
                let staying: Vec<_> = own.into_iter().filter(|client| !self.model.leaves(*client)).collect();
                let Some(target) = self.pick(&staying) else { return };
                let cycles = op == Op::RemoveClient;
                let address = self.group.members[by].address;
                let party = self.group.party(by);
                let old = (party.user.clone(), party.generation);
                if cycles {
                    party.user = SigningKey::generate();
                    party.generation += 1;
                }
                let leaf = Some(party.leaf_at(&home(), address));
                let new = (party.user.clone(), party.generation);
                self.keys.push(new.0.clone());
                let remove = vec![self.group.key(target)];
                let made = self.make(by, Commit { remove, leaf, ..Default::default() });
                let expected = self.model.allowed(by, cycles);
                let done = self.commit(op, by, &made, expected, &[target]).await;
                let key = if done { new } else { old };
                for client in self.model.clients(self.model.user[by]) {
                    let party = self.group.party(client);
                    (party.user, party.generation) = key.clone();
                    let address = self.group.members[client].address;
                    let party = self.group.party(client);
                    party.leaf = party.leaf_at(&home(), address);
                }
                if done {
                    self.follow(&[by]).await;
                }
            }
            Op::Promote | Op::Demote => {
                let Some(target) = self.pick(&members) else { return };
                let (user, mut admins) = (self.model.user[target], self.model.admins.clone());
                if op == Op::Promote {
                    admins.insert(user)
                } else {
                    admins.remove(&user)
                };
                if admins == self.model.admins {
                    return;
                }
                let pseudonym = self.group.pseudonym(target);
                let mut list: Vec<Pseudonym> = self.group.policy.admins.clone();
                list.retain(|admin| *admin != pseudonym);
                if op == Op::Promote {
                    list.push(pseudonym);
                }
                let policy = self.group.policy_with(list);
                let context = Some(self.group.context(&policy));
                let made = self.make(by, Commit { context, ..Default::default() });
                let right = self.model.is_admin(by) && self.model.has_admin(&admins, &[]);
                let expected = self.model.allowed(by, right);
                if self.commit(op, by, &made, expected, &[]).await {
                    self.model.admins = admins;
                    self.group.policy = policy;
                    self.follow(&[by]).await;
                }
            }
            Op::Leave | Op::ProposeUpdate => {
                let leaves = op == Op::Leave;
                let before = self.group.party(by).waiting();
                let party = self.group.party(by);
                let proposal = if leaves { party.self_remove() } else { party.propose_update() };
                let again = self.model.leaves(by) || !leaves && self.model.waits(by, Waiting::Updates);
                let last = leaves && !self.model.has_admin(&self.model.admins, &[by]);
                let call = self.group.submit(by, &proposal, None);
                let expected = if again || last { VIOLATION } else { None };
                if self.send(op, &call, expected).await {
                    self.model.waiting.push((by, if leaves { Waiting::Leaves } else { Waiting::Updates }));
                    self.follow(&[by]).await;
                } else {
                    self.group.party(by).withdraw(&before);
                }
            }
            Op::Join | Op::JoinUnvouched if has_room => {
                let mut client = self.world.further_client(&self.group.members[by]).await;
                // Who cycled the key may have left before others took it up.
                let key = self.group.party(by).users_key();
                let user = self.keys.iter().find(|user| user.public_key() == key.public_key);
                let user = user.expect("all keys were made here").clone();
                (client.party.user, client.party.generation) = (user.clone(), key.generation);
                client.party.leaf = client.party.leaf_at(&home(), client.address);
                let current = self.world.group_info(&self.group, &user).await;
                let voucher = (op == Op::Join).then_some(&user);
                let made = client.party.join_externally(&current, voucher);
                let call = self.group.submit_commit(&client.party.key, &made);
                let expected = if op == Op::Join { None } else { VIOLATION };
                if self.send(op, &call, expected).await {
                    client.party.merge();
                    self.model.committed(&[]);
                    self.model.add(self.model.user[by]);
                    self.group.members.push(client);
                    self.follow(&[self.group.members.len() - 1]).await;
                }
            }
            Op::Resync => {
                if self.model.leaves(by) {
                    return;
                }
                let current = self.world.group_info(&self.group, &self.group.members[by].party.key).await;
                let made = self.group.party(by).join_externally(&current, None);
                let call = self.call(by, &made);
                self.send(op, &call, None).await;
                self.group.party(by).merge();
                self.model.committed(&[]);
                // What waits in its queue is of before.
                self.world.read(&mut self.group.members[by].mailbox).await;
                self.follow(&[by]).await;
            }
            Op::Late => match self.late.take() {
                Some((who, made, epoch)) if epoch < self.model.epoch && self.model.present[who] => {
                    let call = self.call(who, &made);
                    self.send(op, &call, Some(ProblemType::WrongEpoch)).await;
                }
                _ => {
                    let made = self.make(by, update());
                    self.group.party(by).drop_commit();
                    self.late = Some((by, made, self.model.epoch));
                }
            },
            Op::Forged | Op::SentByAnother | Op::WithoutInfo | Op::WithOldInfo => {
                if self.model.leaves(by) {
                    return;
                }
                let made = self.make(by, update());
                let broken = match op {
                    Op::Forged => {
                        let mut bytes = made.commit.as_bytes().to_vec();
                        // Within the signature: behind it come the confirmation tag and the membership tag.
                        let place = bytes.len() - 33 - 33 - self.rng.random_range(1..64);
                        bytes[place] ^= 1 << self.rng.random_range(0..8);
                        Made { commit: MlsMessage::new(bytes), ..made }
                    }
                    Op::WithoutInfo => Made { group_info: None, ..made },
                    Op::WithOldInfo => {
                        let Some(info) = self.old_info.clone() else {
                            self.group.party(by).drop_commit();
                            return;
                        };
                        Made { group_info: Some(info), ..made }
                    }
                    _ => made,
                };
                let sender = if op == Op::SentByAnother { self.pick(&others).unwrap_or(by) } else { by };
                let call = self.call(sender, &broken);
                if sender != by || op != Op::SentByAnother {
                    self.send(op, &call, INVALID).await;
                }
                self.group.party(by).drop_commit();
            }
            _ => {}
        }
    }

    /// Somebody whom `by` added.
    async fn joined(&mut self, mut newcomer: crate::world::Member, user: usize, by: usize) {
        self.world.join(&self.group, self.model.epoch, &mut newcomer).await;
        self.group.members.push(newcomer);
        self.model.add(user);
        self.follow(&[by, self.group.members.len() - 1]).await;
    }
}

#[tokio::test]
async fn the_ds_accepts_what_a_plain_model_accepts_and_nothing_else() {
    let number =
        |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("it is a number"));
    let seed = number("POSTERN_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("POSTERN_TEST_SEED={seed}");
    let steps =
        number("POSTERN_TEST_STEPS").map_or(STEPS, |steps| usize::try_from(steps).expect("it is small"));
    let mut play = Play::start(seed).await;
    for step in 0..steps {
        // A step asks for a few dozen tokens at most.
        if step % 5 == 0 {
            play.world.stock(100).await;
        }
        let op = *OPS.choose(&mut play.rng).expect("there are some");
        play.step(op).await;
    }

    let members = play.model.members();
    let first = members[0];
    let agreed = play.group.party(first).epoch_authenticator();
    for member in &members {
        assert_eq!(play.group.party(*member).epoch_authenticator(), agreed, "member {member}");
    }
    let current = play.world.group_info(&play.group, &play.group.members[first].party.key).await;
    assert_eq!(
        current.ratchet_tree,
        play.group.party(first).ratchet_tree(),
        "the public group is the members'"
    );
    assert_eq!(current.proposals.len(), play.model.waiting.len());
    println!("accepted: {:?}\nrefused: {:?}", play.accepted, play.refused);
    if steps >= STEPS {
        assert!(play.accepted.len() > 8 && play.refused.len() > 8, "chance has tried most of it");
    }
    play.world.close();
}
