//! The DS against a plain model of a group (DS-3, DS-6): random members do random things, rightly and in every
//! wrong way. The DS accepts what the model accepts and nothing else, everyone follows, and in the end the public
//! group is the one its members see.

use std::collections::BTreeSet;

use ciborium::Value;
use futures_util::future::join_all;
use openmls::prelude::{Extensions, Lifetime};
use postern_protocol::{
    GroupInfo, MlsMessage, StateKey, Welcome,
    ds::CurrentGroup,
    key::SigningKey,
    mls::{GroupPolicy, Pseudonym},
    name::Domain,
    problem::ProblemType,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::world::{Call, Commit, Group, Made, Member, Party, World, fresh_address, home};

/// Messages that are sent. POSTERN_TEST_STEPS makes it longer, POSTERN_TEST_SEED another one.
const STEPS: usize = 3_000;
/// Side by side, each with its share of the messages.
const GROUPS: usize = 6;
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    // The sender's right to it, and what waits, decide.
    Say,
    Update,
    UpdateAlone,
    AddUser,
    AddClient,
    RemoveUser,
    RemoveClient,
    Promote,
    Demote,
    Leave,
    ProposeUpdate,
    Join,
    Resync,
    Repeat,
    // The wrong epoch.
    Late,
    LateWords,
    LateJoin,
    TooEarly,
    FromAnotherHistory,
    // The wrong sender, or the wrong key.
    Forged,
    SentByAnother,
    SentByStranger,
    WrongStateKey,
    ForgedProposal,
    JoinUnvouched,
    JoinVouchedByAnother,
    // The wrong GroupInfo or Welcome.
    WithoutInfo,
    WithOldInfo,
    WithForeignInfo,
    WithTreeInInfo,
    WithoutWelcome,
    WithOldWelcome,
    WordsWithWelcome,
    ProposalWithInfo,
    // The wrong KeyPackage or leaf.
    AddClientOfAnother,
    AddUnlimited,
    AddElsewhere,
    AddNamed,
    MoveElsewhere,
    LoseAddress,
    TakeKey,
    ProposeToTakeKey,
    TakePseudonym,
    ChangePseudonym,
    // Something nobody may.
    RemovePartOfUser,
    RemoveClientAndKeepKey,
    ProposeToAdd,
    ProposeToRemove,
    ChangeStateSecret,
    DropPolicy,
    Delete,
}

const OPS: [Op; 51] = [
    Op::Say,
    Op::Update,
    Op::UpdateAlone,
    Op::AddUser,
    Op::AddClient,
    Op::RemoveUser,
    Op::RemoveClient,
    Op::Promote,
    Op::Demote,
    Op::Leave,
    Op::ProposeUpdate,
    Op::Join,
    Op::Resync,
    Op::Repeat,
    Op::Late,
    Op::LateWords,
    Op::LateJoin,
    Op::TooEarly,
    Op::Forged,
    Op::SentByAnother,
    Op::SentByStranger,
    Op::FromAnotherHistory,
    Op::WrongStateKey,
    Op::ForgedProposal,
    Op::JoinUnvouched,
    Op::JoinVouchedByAnother,
    Op::WithoutInfo,
    Op::WithOldInfo,
    Op::WithForeignInfo,
    Op::WithTreeInInfo,
    Op::WithoutWelcome,
    Op::WithOldWelcome,
    Op::WordsWithWelcome,
    Op::ProposalWithInfo,
    Op::AddClientOfAnother,
    Op::AddUnlimited,
    Op::AddElsewhere,
    Op::AddNamed,
    Op::MoveElsewhere,
    Op::LoseAddress,
    Op::TakeKey,
    Op::ProposeToTakeKey,
    Op::TakePseudonym,
    Op::ChangePseudonym,
    Op::RemovePartOfUser,
    Op::RemoveClientAndKeepKey,
    Op::ProposeToAdd,
    Op::ProposeToRemove,
    Op::ChangeStateSecret,
    Op::DropPolicy,
    Op::Delete,
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

    /// What becomes of what was right in an epoch that is over.
    fn late(&self, by: usize) -> Expected {
        Some(if self.present[by] { ProblemType::WrongEpoch } else { ProblemType::NotAllowed })
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

struct Play<'a> {
    world: &'a World,
    /// Distinguishes it in what a failure says.
    name: String,
    group: Group,
    model: Model,
    rng: StdRng,
    users: usize,
    /// A commit that was made and not sent, by whom, and in which epoch; the same of an application message, and of
    /// what an external commit starts from.
    late: Option<(usize, Made, u64)>,
    late_words: Option<(usize, MlsMessage, u64)>,
    late_info: Option<(CurrentGroup, u64)>,
    /// The commit that began the epoch.
    last: Option<Call>,
    /// All users' keys there ever were.
    keys: Vec<SigningKey>,
    /// The GroupInfo of some earlier epoch, and the Welcome to one.
    old_info: Option<GroupInfo>,
    old_welcome: Option<Welcome>,
    /// Members to be, whom nobody added.
    candidates: Vec<Member>,
    /// Somebody who is in no group of the DS, but in one of its own with this group's id.
    stranger: Party,
    sent: usize,
    accepted: BTreeSet<Op>,
    refused: BTreeSet<Op>,
}

impl<'a> Play<'a> {
    async fn start(world: &'a World, seed: u64) -> Self {
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
        let mut stranger = Party::newcomer();
        stranger.found(&group.id.to_mls(), group.context(&group.policy));
        Self {
            world,
            name: format!("the group with seed {seed}"),
            group,
            model,
            rng,
            users: 4,
            late: None,
            late_words: None,
            late_info: None,
            last: None,
            keys,
            old_info: None,
            old_welcome: None,
            candidates: Vec::new(),
            stranger,
            sent: 0,
            accepted: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Somebody with a mailbox who is in no group.
    async fn candidate(&mut self) -> Member {
        let Some(mut member) = self.candidates.pop() else { return self.world.candidate().await };
        member.party = Party::newcomer();
        member.party.leaf = member.party.leaf_at(&home(), member.address);
        member
    }

    /// Another client of a member's user, in no group yet.
    async fn further_client(&mut self, of: usize) -> Member {
        let mut client = self.candidate().await;
        let (of, party) = (&self.group.members[of].party, &mut client.party);
        party.identity = of.identity.clone();
        (party.user, party.generation) = (of.user.clone(), of.generation);
        party.leaf = party.leaf_at(&home(), client.address);
        client
    }

    /// The group's row and what it has beside it.
    async fn row(&self) -> String {
        let sql =
            "SELECT md5(concat(g, (SELECT count(*) FROM ds.welcome_trees t WHERE t.group_id = g.group_id)))
                     FROM ds.groups g WHERE g.group_id = $1";
        let row = self.world.admin().query_one(sql, &[&self.group.id.id().as_slice()]).await;
        row.expect("there is the group").get(0)
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
        let Model { epoch, waiting, .. } = &self.model;
        let what = format!("{op:?} in epoch {epoch} of {}, {waiting:?} waiting", self.name);
        self.sent += 1;
        let Some(problem) = expected else {
            self.world.pay(call).await.assert_ok(&what);
            self.accepted.insert(op);
            return true;
        };
        let before = self.row().await;
        self.world.pay(call).await.assert_problem(&what, problem);
        assert_eq!(self.row().await, before, "{what} changed something");
        self.refused.insert(op);
        false
    }

    /// Everybody but the sender takes in what was accepted.
    async fn follow(&mut self, but: &[usize]) {
        // Also who has just been removed.
        let followers = self
            .group
            .members
            .iter_mut()
            .enumerate()
            .filter(|(number, member)| !but.contains(number) && member.party.is_active());
        join_all(followers.map(|(_, member)| self.world.receive(member))).await;
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
        self.last = Some(call);
        true
    }

    /// A commit of a member's that is wrong, whoever makes it.
    async fn wrong_commit(&mut self, op: Op, by: usize, commit: Commit, expected: Expected) {
        // Who leaves commits nothing, which would be in the way before the GroupInfo is looked at.
        if self.model.leaves(by) {
            return;
        }
        let made = self.make(by, commit);
        let call = self.call(by, &made);
        self.send(op, &call, expected).await;
        self.group.party(by).drop_commit();
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
                let mut newcomer = self.candidate().await;
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
                    self.old_welcome = made.welcome;
                    self.joined(newcomer, self.users - 1, by).await;
                } else {
                    self.candidates.push(newcomer);
                }
            }
            Op::AddClient | Op::AddClientOfAnother if has_room => {
                let of = if op == Op::AddClient { Some(by) } else { self.pick(&foreign) };
                let Some(of) = of else { return };
                let client = self.further_client(of).await;
                let add = vec![client.party.key_package()];
                let made = self.make(by, Commit { add, ..Default::default() });
                let expected = self.model.allowed(by, op == Op::AddClient);
                if self.commit(op, by, &made, expected, &[]).await {
                    self.joined(client, self.model.user[of], by).await;
                } else {
                    self.candidates.push(client);
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
                // Whoever brought the user's key into the group may be gone, and the key with it.
                let is_new = self.group.members[by].party.users_key().generation < new.1;
                let remove = vec![self.group.key(target)];
                let made = self.make(by, Commit { remove, leaf, ..Default::default() });
                let expected = self.model.allowed(by, is_new);
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
            Op::Join | Op::JoinUnvouched | Op::JoinVouchedByAnother if has_room => {
                let mut client = self.further_client(by).await;
                // Who cycled the key may have left before others took it up.
                let key = self.group.party(by).users_key();
                let user = self.keys.iter().find(|user| user.public_key() == key.public_key);
                let user = user.expect("all keys were made here").clone();
                (client.party.user, client.party.generation) = (user.clone(), key.generation);
                client.party.leaf = client.party.leaf_at(&home(), client.address);
                let current = self.world.group_info(&self.group, &user).await;
                let voucher = match op {
                    Op::Join => Some(user),
                    Op::JoinUnvouched => None,
                    _ => {
                        let Some(other) = self.pick(&foreign) else { return };
                        Some(self.group.members[other].party.user.clone())
                    }
                };
                let made = client.party.join_externally(&current, voucher.as_ref());
                let call = self.group.submit_commit(&client.party.key, &made);
                let expected = if op == Op::Join { None } else { VIOLATION };
                if self.send(op, &call, expected).await {
                    client.party.merge();
                    self.model.committed(&[]);
                    self.model.add(self.model.user[by]);
                    self.group.members.push(client);
                    self.last = Some(call);
                    self.follow(&[self.group.members.len() - 1]).await;
                } else {
                    self.candidates.push(client);
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
                self.last = Some(call);
                self.group.party(by).merge();
                self.model.committed(&[]);
                // What waits in its queue is of before.
                self.world.read(&mut self.group.members[by].mailbox).await;
                self.follow(&[by]).await;
            }
            Op::Repeat => {
                let Some(call) = self.last.clone() else { return };
                let before = self.row().await;
                self.send(op, &call, None).await;
                assert_eq!(self.row().await, before, "the answer again, and nothing else (DS-4)");
            }
            Op::Late => match self.late.take() {
                Some((who, made, epoch)) if epoch < self.model.epoch => {
                    let call = self.call(who, &made);
                    self.send(op, &call, self.model.late(who)).await;
                }
                _ => {
                    let made = self.make(by, update());
                    self.group.party(by).drop_commit();
                    self.late = Some((by, made, self.model.epoch));
                }
            },
            Op::LateWords => match self.late_words.take() {
                Some((who, said, epoch)) if epoch < self.model.epoch => {
                    let call = self.group.submit(who, &said, None);
                    self.send(op, &call, self.model.late(who)).await;
                }
                _ if self.model.waiting.is_empty() => {
                    let said = self.group.party(by).say(b"something");
                    self.late_words = Some((by, said, self.model.epoch));
                }
                _ => {}
            },
            Op::LateJoin => match self.late_info.take() {
                Some((current, epoch)) if epoch < self.model.epoch => {
                    let mut client = Party::newcomer();
                    client.identity = self.group.members[by].party.identity.clone();
                    let user = self.group.members[by].party.user.clone();
                    let made = client.join_externally(&current, Some(&user));
                    let call = self.group.submit_commit(&client.key, &made);
                    self.send(op, &call, Some(ProblemType::WrongEpoch)).await;
                }
                _ => {
                    let signer = self.group.members[by].party.key.clone();
                    let current = self.world.group_info(&self.group, &signer).await;
                    self.late_info = Some((current, self.model.epoch));
                }
            },
            Op::TooEarly => {
                let made = self.make(by, update());
                let mut bytes = made.commit.as_bytes().to_vec();
                // Version, wire format, group id with its length, epoch.
                let last = 4 + 1 + self.group.id.to_mls().len() + 7;
                bytes[last - 7..=last].copy_from_slice(&(self.model.epoch + 1).to_be_bytes());
                let call = self.call(by, &Made { commit: MlsMessage::new(bytes), ..made });
                self.send(op, &call, Some(ProblemType::WrongEpoch)).await;
                self.group.party(by).drop_commit();
            }
            Op::SentByStranger | Op::WrongStateKey => {
                let made = self.make(by, update());
                let mut call = self.call(by, &made);
                let expected = if op == Op::SentByStranger {
                    call = call.signed_by(&self.stranger.key);
                    ProblemType::NotAllowed
                } else {
                    let key = StateKey::new(self.rng.random());
                    call = call.with_field("state_key", Value::Bytes(key.as_bytes().to_vec()));
                    ProblemType::NotFound
                };
                self.send(op, &call, Some(expected)).await;
                self.group.party(by).drop_commit();
            }
            Op::FromAnotherHistory => {
                // The stranger's group has the same id, is in epoch 0, and has never been here.
                let made = self.stranger.commit(update());
                self.stranger.drop_commit();
                let call = self.call(by, &made);
                self.send(op, &call, Some(ProblemType::WrongEpoch)).await;
            }
            Op::ForgedProposal | Op::ProposalWithInfo | Op::ProposeToTakeKey => {
                if !self.model.waiting.is_empty() {
                    return;
                }
                let before = self.group.party(by).waiting();
                let proposal = match op {
                    Op::ProposeToTakeKey => {
                        let Some(other) = self.pick(&others) else { return };
                        let key = self.group.members[other].party.key.clone();
                        self.group.party(by).propose_update_to_key(&key)
                    }
                    Op::ForgedProposal => {
                        let mut bytes = self.group.party(by).propose_update().into_bytes();
                        // Within the signature: behind it comes the membership tag.
                        let place = bytes.len() - 33 - self.rng.random_range(1..64);
                        bytes[place] ^= 1 << self.rng.random_range(0..8);
                        MlsMessage::new(bytes)
                    }
                    _ => self.group.party(by).propose_update(),
                };
                let group_info = if op == Op::ProposalWithInfo { self.old_info.clone() } else { None };
                if op != Op::ProposalWithInfo || group_info.is_some() {
                    let call = self.call(by, &Made { commit: proposal, group_info, welcome: None });
                    self.send(op, &call, INVALID).await;
                }
                self.group.party(by).withdraw(&before);
            }
            Op::ProposeToAdd | Op::ProposeToRemove => {
                let before = self.group.party(by).waiting();
                let proposal = if op == Op::ProposeToAdd {
                    let key_package = Party::newcomer().key_package();
                    self.group.party(by).propose_add(&key_package)
                } else {
                    let Some(other) = self.pick(&others) else { return };
                    let key = self.group.key(other);
                    self.group.party(by).propose_removal(key)
                };
                let call = self.group.submit(by, &proposal, None);
                self.send(op, &call, VIOLATION).await;
                self.group.party(by).withdraw(&before);
            }
            Op::WordsWithWelcome => {
                let (true, Some(welcome)) = (self.model.waiting.is_empty(), self.old_welcome.clone()) else {
                    return;
                };
                let said = self.group.party(by).say(b"something");
                let call = self.group.submit(by, &said, Some(&welcome));
                self.send(op, &call, INVALID).await;
            }
            Op::AddElsewhere | Op::AddNamed => {
                let mut newcomer = Party::newcomer();
                if op == Op::AddNamed {
                    newcomer.identity = b"alice@home.example".to_vec();
                } else {
                    newcomer.leaf = newcomer.leaf_at(&elsewhere(), fresh_address());
                }
                let add = vec![newcomer.key_package()];
                self.wrong_commit(op, by, Commit { add, ..Default::default() }, INVALID).await;
            }
            Op::MoveElsewhere | Op::LoseAddress => {
                let leaf = match op {
                    Op::MoveElsewhere => self.group.party(by).leaf_at(&elsewhere(), fresh_address()),
                    _ => Extensions::empty(),
                };
                let commit = Commit { leaf: Some(leaf), ..Default::default() };
                self.wrong_commit(op, by, commit, INVALID).await;
            }
            Op::TakePseudonym | Op::ChangePseudonym => {
                let identity = match op {
                    Op::ChangePseudonym => Pseudonym::random(),
                    _ => {
                        let Some(other) = self.pick(&foreign) else { return };
                        self.group.pseudonym(other)
                    }
                };
                let commit = Commit { identity: Some(identity.0.to_vec()), ..Default::default() };
                self.wrong_commit(op, by, commit, VIOLATION).await;
            }
            Op::TakeKey => {
                let Some(other) = self.pick(&others) else { return };
                if self.model.leaves(by) || self.model.leaves(other) {
                    return;
                }
                let key = self.group.members[other].party.key.clone();
                let made = self.group.party(by).commit_to_key(&key);
                let call = self.call(by, &made);
                self.send(op, &call, INVALID).await;
                self.group.party(by).drop_commit();
            }
            Op::ChangeStateSecret | Op::DropPolicy => {
                let admins = self.group.policy.admins.clone();
                let policy = GroupPolicy { admins, ..GroupPolicy::new(Pseudonym::random()) };
                let (context, expected) = match op {
                    Op::DropPolicy => (Extensions::empty(), INVALID),
                    _ => (self.group.context(&policy), VIOLATION),
                };
                let commit = Commit { context: Some(context), ..Default::default() };
                self.wrong_commit(op, by, commit, expected).await;
            }
            Op::Delete => {
                let call = self.group.deletion(by);
                if !foreign.is_empty() {
                    self.send(op, &call, VIOLATION).await;
                }
            }
            Op::WithTreeInInfo => {
                let commit = Commit { tree_in_group_info: true, ..update() };
                self.wrong_commit(op, by, commit, INVALID).await;
            }
            Op::Forged
            | Op::SentByAnother
            | Op::WithoutInfo
            | Op::WithOldInfo
            | Op::WithForeignInfo
            | Op::WithoutWelcome
            | Op::WithOldWelcome => {
                if self.model.leaves(by) || op == Op::WithoutWelcome && !self.model.is_admin(by) {
                    return;
                }
                let mut commit = update();
                if op == Op::WithoutWelcome {
                    commit.add.push(Party::newcomer().key_package());
                }
                let made = self.make(by, commit);
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
                    Op::WithForeignInfo => Made { group_info: Some(self.stranger.group_info()), ..made },
                    Op::WithoutWelcome => Made { welcome: None, ..made },
                    Op::WithOldWelcome => {
                        let Some(welcome) = self.old_welcome.clone() else {
                            self.group.party(by).drop_commit();
                            return;
                        };
                        Made { welcome: Some(welcome), ..made }
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
    async fn joined(&mut self, mut newcomer: Member, user: usize, by: usize) {
        self.world.join(&self.group, self.model.epoch, &mut newcomer).await;
        self.group.members.push(newcomer);
        self.model.add(user);
        self.follow(&[by, self.group.members.len() - 1]).await;
    }
}

fn elsewhere() -> Domain {
    "elsewhere.example".parse().expect("it is a domain")
}

/// Every member sees the same group, and it is the DS's.
async fn assert_agreed(play: &mut Play<'_>) {
    let members = play.model.members();
    let first = members[0];
    let agreed = play.group.party(first).epoch_authenticator();
    for member in &members {
        let found = play.group.party(*member).epoch_authenticator();
        assert_eq!(found, agreed, "member {member} of {}", play.name);
    }
    let current = play.world.group_info(&play.group, &play.group.members[first].party.key).await;
    let tree = play.group.party(first).ratchet_tree();
    assert_eq!(current.ratchet_tree, tree, "the public group of {}", play.name);
    assert_eq!(current.proposals.len(), play.model.waiting.len(), "what waits in {}", play.name);
}

#[tokio::test]
async fn the_ds_accepts_what_a_plain_model_accepts_and_nothing_else() {
    let number =
        |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("it is a number"));
    let seed = number("POSTERN_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("POSTERN_TEST_SEED={seed}");
    let steps =
        number("POSTERN_TEST_STEPS").map_or(STEPS, |steps| usize::try_from(steps).expect("it is small"));
    let world = World::start().await;
    // Words of an earlier epoch are tested beside the endpoint; here each epoch is one of its own.
    world.admin().execute("SELECT operator.set_group_limit('past_epochs', 0)", &[]).await.unwrap();
    let plays = (0..GROUPS as u64).map(async |number| {
        world.restock(500).await;
        let mut play = Play::start(&world, seed.wrapping_add(number)).await;
        while play.sent < steps / GROUPS {
            // A step asks for a few dozen tokens at most, in each group.
            world.restock(GROUPS * 50).await;
            let op = *OPS.choose(&mut play.rng).expect("there are some");
            play.step(op).await;
        }
        assert_agreed(&mut play).await;
        (play.accepted, play.refused, play.model.epoch)
    });
    let (mut accepted, mut refused, mut epochs) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (of_group, refused_there, epoch) in join_all(plays).await {
        accepted.extend(of_group);
        refused.extend(refused_there);
        epochs += epoch;
    }
    println!("{epochs} epochs; accepted: {accepted:?}\nrefused: {refused:?}");
    if steps >= STEPS {
        let untried: Vec<_> =
            OPS.iter().filter(|op| !accepted.contains(op) && !refused.contains(op)).collect();
        assert!(untried.is_empty(), "chance has tried all but {untried:?}");
    }
    world.close();
}
