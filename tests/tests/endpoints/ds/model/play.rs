//! A group of the DS with its model, and the people who act in it.

use std::{collections::BTreeSet, fmt};

use futures_util::future::join_all;
use openmls::ciphersuite::hash_ref::ProposalRef;
use postern_protocol::{
    Address, GroupInfo, MlsMessage, Welcome, ds::CurrentGroup, key::SigningKey, mls::GroupPolicy,
    name::Domain,
};
use postern_tests_kit::{Call, Commit, Group, HOME, Made, Member, Onlooker, Party, World};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    super::elsewhere::Elsewhere,
    Expected, GROUPS, Model, PAST_EPOCHS, Waiting,
    operations::{Needs, OPERATIONS},
};

/// Proposals that wait at a time.
const MOST_WAITING: usize = 4;
/// The domains of members.
const DOMAINS: [&str; 3] = [HOME, "b.example", "c.example"];
/// A domain that the operator blocked.
pub const BLOCKED: &str = "blocked.example";

/// One operation; `choice` decides by whom, and the rest that is open.
#[derive(Clone, Copy)]
pub struct Step {
    pub operation: usize,
    pub choice: u64,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x})", OPERATIONS[self.operation].name, self.choice)
    }
}

pub struct Play<'a> {
    pub world: &'a World,
    elsewhere: &'a Elsewhere,
    /// Distinguishes it in what a failure says.
    name: String,
    pub group: Group,
    pub model: Model,
    pub users: usize,
    /// A commit that was made and not sent, by whom, and in which epoch; the same of what an external commit starts from.
    pub late: Option<(usize, Made, u64)>,
    pub late_info: Option<(CurrentGroup, u64)>,
    /// Words of the last few epochs that were not sent, by whom, and in which epoch.
    pub late_words: Vec<(usize, MlsMessage, u64)>,
    /// The last epoch in which the group was found to be as whoever joins wants it.
    joinable: u64,
    /// The changes of Updates that wait, by whom.
    pub renewals: Vec<(usize, Renewal)>,
    /// The commit that began the epoch.
    pub last: Option<Call>,
    /// The last proposal that was accepted, by whom, and in which epoch.
    pub last_proposal: Option<(usize, Call, u64)>,
    /// All users' keys there ever were.
    pub keys: Vec<SigningKey>,
    /// The GroupInfo of some earlier epoch, and the Welcome to one.
    pub old_info: Option<GroupInfo>,
    pub old_welcome: Option<Welcome>,
    /// Members to be, whom nobody added.
    candidates: Vec<Member>,
    /// Somebody who is in no group of the DS, but in one of its own with this group's id.
    pub stranger: Party,
    pub sent: usize,
    pub accepted: BTreeSet<&'static str>,
    pub refused: BTreeSet<&'static str>,
}

/// The material of an operation.
pub struct Turn {
    pub by: usize,
    pub members: Vec<usize>,
    pub others: Vec<usize>,
    /// The members of other users.
    pub foreign: Vec<usize>,
    /// The other clients of the same user.
    pub own: Vec<usize>,
    pub rng: StdRng,
    /// Somebody with a mailbox who is in no group, for [`Needs::Newcomer`] and [`Needs::Join`].
    pub newcomer: Option<Member>,
    /// For [`Needs::Join`] and [`Needs::GroupInfo`].
    pub current: Option<CurrentGroup>,
    /// Another address of the member's, for [`Needs::Address`].
    pub address: Option<Address>,
}

/// A message, what the model says of it, and what it changes on this side.
pub struct Attempt {
    pub call: Call,
    pub expected: Expected,
    pub effect: Effect,
}

pub enum Effect {
    /// It is wrong, and leaves nothing behind.
    Nothing,
    /// An application message, and those that read it.
    Words {
        by: usize,
        readers: Vec<usize>,
    },
    Proposal {
        by: usize,
        before: Vec<ProposalRef>,
        waits: Waiting,
        /// The change that an Update brings besides the encryption key, once another member commits it.
        renewal: Option<Renewal>,
    },
    Commit {
        by: usize,
        removed: Vec<usize>,
        done: Done,
    },
    /// A further client of a member's user comes in by itself; what waits may lapse.
    Join {
        client: Member,
        of: usize,
        lapses: bool,
    },
    /// A member comes back by external commit; what waits may lapse.
    Return {
        by: usize,
        lapses: bool,
    },
    /// A request that was accepted before, again.
    Repeat,
}

/// The change that an Update brings.
pub enum Renewal {
    Moves {
        domain: Domain,
        address: Address,
    },
    /// The next key of a user with one client.
    Rekeys(SigningKey),
}

/// The further changes of a commit, or their undoing when it is refused.
pub enum Done {
    Nothing,
    Renewed {
        group_info: Option<GroupInfo>,
    },
    Added {
        newcomer: Member,
        user: User,
        welcome: Option<Welcome>,
    },
    /// The user's key and its generation before and after.
    Rekeyed {
        old: (SigningKey, u32),
        new: (SigningKey, u32),
    },
    Governed {
        admins: BTreeSet<usize>,
        policy: GroupPolicy,
    },
    Moved {
        domain: Domain,
        address: Address,
    },
}

pub enum User {
    New,
    /// That of a member.
    Of(usize),
}

impl Turn {
    pub fn pick(&mut self, of: &[usize]) -> Option<usize> {
        of.choose(&mut self.rng).copied()
    }

    pub fn another(&mut self) -> Option<usize> {
        self.others.choose(&mut self.rng).copied()
    }

    pub fn foreigner(&mut self) -> Option<usize> {
        self.foreign.choose(&mut self.rng).copied()
    }

    pub fn newcomer(&mut self) -> Member {
        self.newcomer.take().expect("the operation needs one")
    }

    pub fn current(&mut self) -> CurrentGroup {
        self.current.take().expect("the operation needs it")
    }
}

impl<'a> Play<'a> {
    pub async fn start(world: &'a World, elsewhere: &'a Elsewhere, name: String) -> Self {
        const USERS: usize = 4;
        world.restock(GROUPS * 50).await;
        let domains: Vec<Domain> = (0..USERS).map(domain).collect();
        let group = elsewhere.group(world, &domains).await;
        let keys = group.members.iter().map(|member| member.party.user.clone()).collect();
        let mut stranger = Party::newcomer();
        stranger.found(&group.id.to_mls(), group.context(&group.policy));
        Self {
            world,
            elsewhere,
            name,
            group,
            model: Model::new(USERS),
            users: USERS,
            late: None,
            late_info: None,
            late_words: Vec::new(),
            joinable: 0,
            renewals: Vec::new(),
            last: None,
            last_proposal: None,
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

    /// One operation, if it is possible now.
    pub async fn step(&mut self, step: Step) {
        let operation = &OPERATIONS[step.operation];
        let mut rng = StdRng::seed_from_u64(step.choice);
        let members = self.model.members();
        let Some(by) = members.choose(&mut rng).copied() else { return };
        self.think(by);
        // A step asks for a few dozen tokens at most, in each group.
        self.world.restock(GROUPS * 50).await;
        let user = self.model.user[by];
        let mut turn = Turn {
            by,
            others: members.iter().copied().filter(|member| *member != by).collect(),
            foreign: members.iter().copied().filter(|member| self.model.user[*member] != user).collect(),
            own: self.model.clients(user).into_iter().filter(|own| *own != by).collect(),
            members,
            rng,
            newcomer: None,
            current: None,
            address: None,
        };
        match operation.needs {
            Needs::Newcomer | Needs::Join if !self.model.has_room() => return,
            Needs::Newcomer => turn.newcomer = Some(self.candidate().await),
            Needs::Join => {
                turn.newcomer = Some(self.candidate().await);
                let has_key = self.has_users_key(by);
                let user =
                    if has_key { self.users_key(by).0 } else { self.group.members[by].party.key.clone() };
                turn.current = Some(self.world.group_info(&self.group, &user).await);
            }
            Needs::GroupInfo => {
                let signer = self.group.members[by].party.key.clone();
                turn.current = Some(self.world.group_info(&self.group, &signer).await);
            }
            Needs::Address => {
                turn.address = Some(self.world.address(&self.group.members[by].mailbox).await);
            }
            Needs::Nothing => {}
        }
        let attempt = (operation.make)(self, &mut turn);
        self.candidates.extend(turn.newcomer);
        if let Some(attempt) = attempt {
            self.send(operation.name, attempt).await;
        }
        if self.model.waiting.len() > MOST_WAITING {
            self.commit_what_waits().await;
        }
    }

    /// Makes words that somebody may say later, in each epoch in which anything may be said.
    fn think(&mut self, by: usize) {
        const MOST: u64 = PAST_EPOCHS + 1;
        let epoch = self.model.epoch;
        self.late_words.retain(|(.., made)| made + MOST >= epoch);
        let is_new = self.late_words.iter().all(|(.., made)| *made < epoch);
        if is_new && self.model.waiting.is_empty() {
            let said = self.group.party(by).say(b"something");
            self.late_words.push((by, said, epoch));
        }
    }

    async fn send(&mut self, name: &'static str, Attempt { call, expected, effect }: Attempt) {
        let Model { epoch, waiting, .. } = &self.model;
        let what = format!("{name} in epoch {epoch} of {}, {waiting:?} waiting", self.name);
        self.sent += 1;
        if let Some(problem) = expected {
            let before = self.row().await;
            self.world.pay(&call).await.assert_problem(&what, problem);
            assert_eq!(self.row().await, before, "{what} changed something");
            self.refused.insert(name);
            self.undo(effect);
            return;
        }
        let row = if matches!(effect, Effect::Repeat) { Some(self.row().await) } else { None };
        self.world.pay(&call).await.assert_ok(&what);
        self.elsewhere.deliver(self.world).await;
        self.accepted.insert(name);
        match effect {
            Effect::Nothing => panic!("{what}: what the model accepts has an effect"),
            Effect::Words { by, readers } => {
                let mut read = self.follow(&[by]).await;
                read.retain(|(_, words)| *words > 0);
                let each_once: Vec<_> = readers.into_iter().map(|reader| (reader, 1)).collect();
                assert_eq!(read, each_once, "{what}: who reads it");
            }
            Effect::Proposal { by, waits, renewal, .. } => {
                self.model.waiting.push((by, waits));
                self.renewals.extend(renewal.map(|renewal| (by, renewal)));
                self.last_proposal = Some((by, call, self.model.epoch));
                self.follow(&[by]).await;
                self.assert_somebody_can_commit();
            }
            Effect::Commit { by, removed, done } => {
                self.group.party(by).merge();
                self.model.committed(&removed);
                self.renew(by);
                self.last = Some(call);
                self.committed(by, done).await;
            }
            Effect::Join { mut client, of, lapses } => {
                client.party.merge();
                self.renewals.clear();
                self.model.entered(lapses);
                self.model.add(self.model.user[of], true);
                self.group.members.push(client);
                self.last = Some(call);
                self.follow(&[self.group.members.len() - 1]).await;
            }
            Effect::Return { by, lapses } => {
                self.last = Some(call);
                self.group.party(by).merge();
                self.renewals.clear();
                self.model.entered(lapses);
                self.model.returned(by);
                // The messages in its queue are of before.
                self.world.read(&mut self.group.members[by].mailbox).await;
                self.follow(&[by]).await;
            }
            Effect::Repeat => {
                assert_eq!(Some(self.row().await), row, "the answer again, and nothing else (DS-4)");
            }
        }
    }

    /// A commit took effect.
    async fn committed(&mut self, by: usize, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Renewed { group_info } => self.old_info = group_info,
            Done::Added { mut newcomer, user, welcome } => {
                let user = match user {
                    User::Of(member) => self.model.user[member],
                    User::New => {
                        self.keys.push(newcomer.party.user.clone());
                        self.old_welcome = welcome;
                        self.users += 1;
                        self.users - 1
                    }
                };
                self.world.join(&self.group, self.model.epoch, &mut newcomer).await;
                self.group.members.push(newcomer);
                self.model.add(user, false);
                self.follow(&[by, self.group.members.len() - 1]).await;
                return;
            }
            Done::Rekeyed { new, .. } => self.rekey(by, &new),
            Done::Governed { admins, policy } => (self.model.admins, self.group.policy) = (admins, policy),
            Done::Moved { domain, address } => {
                let member = &mut self.group.members[by];
                (member.domain, member.address) = (domain, address);
                member.party.leaf = member.party.leaf_at(&member.domain, address);
            }
        }
        self.follow(&[by]).await;
    }

    /// A commit took along the Updates that waited, but for its maker's own and those of members that it removed.
    fn renew(&mut self, by: usize) {
        for (member, renewal) in std::mem::take(&mut self.renewals) {
            if member == by || !self.model.present[member] {
                continue;
            }
            let Member { party, address, domain, .. } = &mut self.group.members[member];
            match renewal {
                Renewal::Moves { domain: new, address: there } => (*domain, *address) = (new, there),
                Renewal::Rekeys(user) => {
                    self.keys.push(user.clone());
                    (party.user, party.generation) = (user, party.generation + 1);
                }
            }
            party.leaf = party.leaf_at(domain, *address);
        }
    }

    /// Some member can commit next, whatever was accepted, and another one follows (DS-13). Without effect: the server
    /// takes such a commit in [`Self::commit_what_waits`].
    fn assert_somebody_can_commit(&mut self) {
        let members = self.model.members();
        let mut staying = members.iter().copied().filter(|member| !self.model.leaves(*member));
        let by = staying.next().expect("an admin stays");
        let follower = members.iter().copied().find(|member| *member != by);
        let made = self.make_and_drop(by, Commit { update: true, ..Default::default() });
        if let Some(follower) = follower {
            self.group.party(follower).assert_follows(&made.commit);
        }
    }

    /// Whether an Update of the member's waits that changes more than its encryption key.
    pub fn is_to_change(&self, member: usize) -> bool {
        self.renewals.iter().any(|(whose, _)| *whose == member)
    }

    /// A message was refused, as it had to be.
    fn undo(&mut self, effect: Effect) {
        match effect {
            Effect::Proposal { by, before, .. } => self.group.party(by).withdraw(&before),
            Effect::Commit { by, done, .. } => {
                self.group.party(by).drop_commit();
                match done {
                    Done::Added { newcomer, .. } => self.candidates.push(newcomer),
                    Done::Rekeyed { old, .. } => self.rekey(by, &old),
                    Done::Nothing | Done::Renewed { .. } | Done::Governed { .. } | Done::Moved { .. } => {}
                }
            }
            Effect::Join { client, .. } => self.candidates.push(client),
            Effect::Nothing | Effect::Words { .. } | Effect::Return { .. } | Effect::Repeat => {}
        }
    }

    /// All clients of a member's user have this key.
    fn rekey(&mut self, by: usize, key: &(SigningKey, u32)) {
        for client in self.model.clients(self.model.user[by]) {
            let Member { party, address, domain, .. } = &mut self.group.members[client];
            (party.user, party.generation) = key.clone();
            party.leaf = party.leaf_at(domain, *address);
        }
    }

    /// Everybody but these takes in what was accepted. Returns the number of application messages that each of them read.
    async fn follow(&mut self, but: &[usize]) -> Vec<(usize, usize)> {
        // Also who has just been removed.
        let followers = self
            .group
            .members
            .iter_mut()
            .enumerate()
            .filter(|(number, member)| !but.contains(number) && member.party.is_active());
        let world = self.world;
        let read =
            followers.map(|(number, member)| async move { (number, world.receive(member).await.len()) });
        let read = join_all(read).await;
        let expected = self.model.members();
        let epoch = self.model.epoch;
        if self.model.waiting.is_empty() && self.joinable < epoch {
            let first = self.group.party(expected[0]);
            Onlooker::of(&first.group_info(), &first.ratchet_tree());
            self.joinable = epoch;
        }
        for member in 0..self.group.members.len() {
            let active = self.group.party(member).is_active();
            assert_eq!(active, expected.contains(&member), "member {member} in epoch {epoch}");
            assert!(!active || self.group.party(member).epoch() == epoch, "member {member} in epoch {epoch}");
        }
        read
    }

    /// Whatever was accepted, some member can commit next (DS-13).
    pub async fn commit_what_waits(&mut self) {
        self.world.restock(GROUPS * 50).await;
        let staying = self.model.members().into_iter().find(|member| !self.model.leaves(*member));
        let by = staying.expect("an admin stays");
        let made = self.make(by, Commit { update: true, ..Default::default() });
        let attempt = self.commit(by, &made, None, Vec::new(), Done::Nothing);
        self.send("commit what waits", attempt).await;
    }

    /// Every member sees the same group, and it is the DS's.
    pub async fn assert_agreed(&mut self) {
        let members = self.model.members();
        let first = members[0];
        let agreed = self.group.party(first).epoch_authenticator();
        for member in &members {
            let found = self.group.party(*member).epoch_authenticator();
            assert_eq!(found, agreed, "member {member} of {}", self.name);
        }
        let current = self.world.group_info(&self.group, &self.group.members[first].party.key).await;
        Onlooker::of(&current.group_info, &current.ratchet_tree);
        let tree = self.group.party(first).ratchet_tree();
        assert_eq!(current.ratchet_tree, tree, "the public group of {}", self.name);
        assert_eq!(current.proposals.len(), self.model.waiting.len(), "what waits in {}", self.name);
    }

    /// Somebody with a mailbox who is in no group, at any homeserver.
    async fn candidate(&mut self) -> Member {
        let Some(mut member) = self.candidates.pop() else {
            return self.world.candidate_at(&domain(self.group.members.len())).await;
        };
        member.party = Party::newcomer();
        member.party.leaf = member.party.leaf_at(&member.domain, member.address);
        member
    }

    /// The group's row and the number of trees kept for its joiners.
    async fn row(&self) -> String {
        let sql =
            "SELECT md5(concat(g, (SELECT count(*) FROM ds.welcome_trees t WHERE t.group_id = g.group_id)))
                     FROM ds.groups g WHERE g.group_id = $1";
        let row = self.world.admin.query_one(sql, &[&self.group.id.id().as_slice()]).await;
        row.expect("there is the group").get(0)
    }

    /// Makes a newcomer another client of a member's user.
    pub fn as_client_of(&self, mut client: Member, of: usize) -> Member {
        let (of, party) = (&self.group.members[of].party, &mut client.party);
        party.identity.clone_from(&of.identity);
        (party.user, party.generation) = (of.user.clone(), of.generation);
        party.leaf = party.leaf_at(&client.domain, client.address);
        client
    }

    /// Whether the newest key that a member's user had is there. The client that cycled it may have left before others
    /// took it up.
    pub fn has_users_key(&self, of: usize) -> bool {
        self.users_key(of).1 == self.group.members[of].party.generation
    }

    /// The newest key of a member's user in the group, and its generation.
    pub fn users_key(&self, of: usize) -> (SigningKey, u32) {
        let key = self.group.members[of].party.users_key();
        let user = self.keys.iter().find(|user| user.public_key() == key.public_key);
        (user.expect("all keys were made here").clone(), key.generation)
    }

    /// A commit as this member's client would make it; who leaves makes one of its own.
    pub fn make(&mut self, by: usize, commit: Commit) -> Made {
        let alone = commit.alone || self.model.leaves(by);
        self.group.party(by).commit(Commit { alone, ..commit })
    }

    /// The same without effect on the member.
    pub fn make_and_drop(&mut self, by: usize, commit: Commit) -> Made {
        let made = self.make(by, commit);
        self.group.party(by).drop_commit();
        made
    }

    pub fn call(&self, by: usize, made: &Made) -> Call {
        self.group.submit_commit(&self.group.members[by].party.key, made)
    }

    /// A commit of a member's.
    pub fn commit(
        &self,
        by: usize,
        made: &Made,
        expected: Expected,
        removed: Vec<usize>,
        done: Done,
    ) -> Attempt {
        Attempt { call: self.call(by, made), expected, effect: Effect::Commit { by, removed, done } }
    }

    /// A member's commit that is wrong, whichever member makes it.
    pub fn wrong_commit(&mut self, by: usize, commit: Commit, expected: Expected) -> Option<Attempt> {
        // A member that leaves cannot commit, which would be in the way before the GroupInfo is looked at.
        if self.model.leaves(by) {
            return None;
        }
        let made = self.make_and_drop(by, commit);
        Some(Attempt { call: self.call(by, &made), expected, effect: Effect::Nothing })
    }
}

/// One of the domains of members.
pub fn domain(number: usize) -> Domain {
    DOMAINS[number % DOMAINS.len()].parse().expect("it is a domain")
}
