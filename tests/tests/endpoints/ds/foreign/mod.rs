//! Other people's MLS libraries through this DS (DS-2, DS-3): a group that `mls-rs` founds and openmls and `ts-mls`
//! join. Whatever one of them sends, the DS takes and all others understand: after each message every member is in
//! the same epoch of the same history, and knows the same members.
//!
//! `SelfRemove`, proposal type 0x000a, has no place in such a group: `mls-rs` 0.57 has it as 0xf003, and for
//! both foreign libraries a proposal of an unknown type has a body with a length, which this one has not. Here others
//! remove who wants to leave. `ts-mls` makes no Update proposals and reads no proposals of the server's; where else it
//! needed help, `tests/node/ts-mls/corrections.mjs` says.

mod mls_rs;
mod ts_mls;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use futures_util::future::join_all;
use openmls::prelude::{
    Extensions, GroupContext, KeyPackage, LeafNode, MlsMessageBodyIn, MlsMessageIn, ProtocolVersion,
};
use openmls_rust_crypto::RustCrypto;
use postern_protocol::{
    Address, MlsMessage, PublicKey, RatchetTree, Welcome,
    ds::{
        CreateGroup, CurrentGroup, FetchGroupInfo, FetchWelcomeTree, GroupId, MessageAccepted, SubmitMessage,
        WelcomeTree,
    },
    key::SigningKey,
    mls::{DeliveryAddress, GroupPolicy, Pseudonym, UserKey, to_join},
    qs::{QueueKind, QueuePayload},
};
use postern_tests_kit::{
    Call, Chance, Commit, Made, Mailbox, Party, World, home, leaf_extensions, policy_extensions,
};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use tls_codec::Deserialize as _;

/// Messages that are accepted, besides those that set the group up.
const OPERATIONS: usize = 200;
const MOST_MEMBERS: usize = 8;

/// The contents of a leaf, in any library.
#[derive(Clone)]
pub struct Leaf {
    key: SigningKey,
    user: SigningKey,
    pseudonym: Pseudonym,
    address: Address,
}

/// The changes of a commit, besides the proposals that wait; without any it renews the committer's leaf.
#[derive(Default)]
pub struct Change {
    /// KeyPackages.
    add: Vec<MlsMessage>,
    /// By leaf key.
    remove: Vec<PublicKey>,
    context: Option<Extensions<GroupContext>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposal {
    Update,
}

/// The state that all members have to agree on.
#[derive(Debug, PartialEq, Eq)]
pub struct View {
    /// RFC 9420 §8.7.
    epoch_authenticator: Vec<u8>,
    members: BTreeSet<PublicKey>,
}

/// A member's half of MLS.
pub trait Side {
    fn key_package(&mut self) -> MlsMessage;
    fn join(&mut self, welcome: &Welcome, tree: &RatchetTree);
    /// Joins with the voucher of its user as authenticated data, or comes back in the place of its own leaf.
    fn join_externally(&mut self, current: &CurrentGroup, voucher: Option<Vec<u8>>) -> Made;
    fn commit(&mut self, change: &Change) -> Made;
    /// The commit was accepted.
    fn merge(&mut self);
    /// `None` if the library does not make such proposals.
    fn propose(&mut self, proposal: Proposal) -> Option<MlsMessage>;
    fn say(&mut self, text: &[u8]) -> MlsMessage;
    /// Takes in what came through the queue; returns what an application message says.
    fn receive(&mut self, message: &MlsMessage) -> Option<Vec<u8>>;
    /// `None` after its removal.
    fn view(&mut self) -> Option<View>;
}

impl Leaf {
    fn delivery(&self) -> DeliveryAddress {
        DeliveryAddress { domain: home(), address: self.address }
    }

    fn user_key(&self) -> UserKey {
        UserKey { generation: 0, public_key: self.user.public_key() }
    }

    fn extensions(&self) -> Extensions<LeafNode> {
        leaf_extensions(&home(), self.address, Some(self.user_key()))
    }
}

/// openmls.
impl Side for Party {
    fn key_package(&mut self) -> MlsMessage {
        self.key_package_message()
    }

    fn join(&mut self, welcome: &Welcome, tree: &RatchetTree) {
        Party::join(self, welcome, tree);
    }

    fn join_externally(&mut self, current: &CurrentGroup, voucher: Option<Vec<u8>>) -> Made {
        let user = self.user.clone();
        Party::join_externally(self, current, voucher.map(|_| &user))
    }

    fn commit(&mut self, change: &Change) -> Made {
        let add = change.add.iter().map(key_package).collect();
        let (remove, context) = (change.remove.clone(), change.context.clone());
        Party::commit(self, Commit { add, remove, context, update: true, ..Default::default() })
    }

    fn merge(&mut self) {
        Party::merge(self);
    }

    fn propose(&mut self, proposal: Proposal) -> Option<MlsMessage> {
        Some(match proposal {
            Proposal::Update => self.propose_update(),
        })
    }

    fn say(&mut self, text: &[u8]) -> MlsMessage {
        Party::say(self, text)
    }

    fn receive(&mut self, message: &MlsMessage) -> Option<Vec<u8>> {
        Party::receive(self, message)
    }

    fn view(&mut self) -> Option<View> {
        self.is_active().then(|| View {
            epoch_authenticator: self.epoch_authenticator(),
            members: self.member_keys().into_iter().collect(),
        })
    }
}

fn key_package(message: &MlsMessage) -> KeyPackage {
    let message = MlsMessageIn::tls_deserialize_exact(message.as_bytes()).expect("it is an MLSMessage");
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else { panic!("it is a KeyPackage") };
    key_package.validate(&RustCrypto::default(), ProtocolVersion::Mls10).expect("it is valid")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Library {
    MlsRs,
    OpenMls,
    TsMls,
}

const LIBRARIES: [Library; 3] = [Library::MlsRs, Library::OpenMls, Library::TsMls];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Say,
    Commit,
    ProposeUpdate,
    AddUser,
    RemoveUser,
    JoinExternally,
    Resync,
}

const OPERATIONS_OF_EACH: [Operation; 9] = [
    Operation::Say,
    Operation::AddUser,
    Operation::ProposeUpdate,
    Operation::Commit,
    Operation::JoinExternally,
    Operation::Say,
    Operation::Commit,
    Operation::Resync,
    Operation::RemoveUser,
];

struct Member {
    side: Box<dyn Side>,
    library: Library,
    leaf: Leaf,
    mailbox: Mailbox,
    /// It is of one of the users who are there from the beginning, admins all of them, and stays.
    stays: bool,
    /// Its proposal in this epoch.
    proposed: Option<Proposal>,
}

struct Play {
    world: World,
    rng: StdRng,
    node: Rc<RefCell<ts_mls::Node>>,
    id: GroupId,
    policy: GroupPolicy,
    epoch: u64,
    members: Vec<Member>,
    done: BTreeMap<(Library, Operation), usize>,
}

impl Play {
    fn side(&self, library: Library, leaf: &Leaf) -> Box<dyn Side> {
        match library {
            Library::MlsRs => mls_rs::member(leaf),
            Library::OpenMls => {
                let mut party = Party::new(leaf.pseudonym.0);
                (party.key, party.user) = (leaf.key.clone(), leaf.user.clone());
                party.leaf = leaf.extensions();
                Box::new(party)
            }
            Library::TsMls => ts_mls::member(&self.node, leaf),
        }
    }

    /// A client of a user's, who may be a new one, in no group.
    async fn client(&self, library: Library, of: Option<&Leaf>) -> Member {
        let (leaf, mailbox) = leaf(&self.world, of).await;
        Member { side: self.side(library, &leaf), library, leaf, mailbox, stays: false, proposed: None }
    }

    /// A group of a member of each library, all of them admins, founded by `mls-rs`.
    async fn start(rng: StdRng) -> Self {
        let world = World::start().await;
        let node = ts_mls::Node::start();
        let (founder, mailbox) = leaf(&world, None).await;
        let mut policy = GroupPolicy::new(founder.pseudonym);
        let id = world.reserve().await;
        let context = policy_extensions(&home(), &policy, &world.server_key());
        let (side, group_info, ratchet_tree) = mls_rs::founder(&founder, &id, &context);
        let body = CreateGroup {
            group_id: id.clone(),
            state_key: policy.state_key(),
            group_info,
            ratchet_tree,
            attributes: Vec::new(),
        };
        let call = Call::post("/ds/groups").with(&body).signed_by(&founder.key);
        world.pay(&call).await.assert_ok("a group of mls-rs");
        let founder =
            Member { side, library: Library::MlsRs, leaf: founder, mailbox, stays: true, proposed: None };
        let members = vec![founder];
        let mut play =
            Self { world, rng, node, id, policy: policy.clone(), epoch: 0, members, done: BTreeMap::new() };

        let joiners =
            vec![play.client(Library::OpenMls, None).await, play.client(Library::TsMls, None).await];
        policy.admins.extend(joiners.iter().map(|joiner| joiner.leaf.pseudonym));
        play.add(0, joiners).await;
        let context = Some(policy_extensions(&home(), &policy, &play.world.server_key()));
        play.commit(0, &Change { context, ..Default::default() }).await;
        play.policy = policy;
        for member in &mut play.members {
            member.stays = true;
        }
        play
    }

    fn path(&self, of: &str) -> String {
        format!("/ds/groups/{}/{of}", self.id.to_base64url())
    }

    /// Sends a message that the server must accept.
    async fn send(&mut self, signer: &SigningKey, made: Made) {
        let body = SubmitMessage {
            state_key: self.policy.state_key(),
            message: made.commit,
            group_info: made.group_info,
            welcome: made.welcome,
            urgency: None,
            attributes: Vec::new(),
        };
        let reply = self.world.pay(&Call::post(self.path("messages")).with(&body).signed_by(signer)).await;
        let accepted: MessageAccepted = reply.decode();
        assert_eq!(accepted.undelivered, 0);
        self.epoch = accepted.epoch;
    }

    async fn send_message(&mut self, by: usize, message: MlsMessage) {
        let made = Made { commit: message, group_info: None, welcome: None };
        self.send(&self.members[by].leaf.key.clone(), made).await;
    }

    /// Everybody but the sender takes in the one message that was accepted; who was removed goes.
    async fn receive(&mut self, but: Option<usize>, said: Option<&[u8]>) {
        let others = self.members.iter_mut().enumerate().filter(|(number, _)| Some(*number) != but);
        let reading = others.map(async |(_, member)| {
            let received = self.world.read(&mut member.mailbox).await;
            let [QueuePayload::Message(message)] = received.as_slice() else {
                panic!("{:?} in epoch {}: {received:?}", member.library, self.epoch)
            };
            let text = member.side.receive(message);
            assert_eq!(text.as_deref(), said, "{:?} in epoch {}", member.library, self.epoch);
        });
        join_all(reading).await;
        self.members.retain_mut(|member| member.side.view().is_some());
    }

    fn agree(&mut self) {
        let members: BTreeSet<_> = self.members.iter().map(|member| member.leaf.key.public_key()).collect();
        let mut agreed = None;
        for member in &mut self.members {
            let view = member.side.view().expect("who was removed is none");
            assert_eq!(view.members, members, "{:?} in epoch {}", member.library, self.epoch);
            let agreed = agreed.get_or_insert_with(|| view.epoch_authenticator.clone());
            assert_eq!(view.epoch_authenticator, *agreed, "{:?} in epoch {}", member.library, self.epoch);
        }
    }

    async fn commit(&mut self, by: usize, change: &Change) {
        let made = self.members[by].side.commit(change);
        self.committed(by, made).await;
        self.agree();
    }

    /// A commit of a member's, who goes on in the epoch that it begins, as all others do.
    async fn committed(&mut self, by: usize, made: Made) {
        self.send(&self.members[by].leaf.key.clone(), made).await;
        self.members[by].side.merge();
        self.receive(Some(by), None).await;
        for member in &mut self.members {
            member.proposed = None;
        }
    }

    /// Adds members, who join by the Welcome in their queues.
    async fn add(&mut self, by: usize, mut joiners: Vec<Member>) {
        let add = joiners.iter_mut().map(|joiner| joiner.side.key_package()).collect();
        let made = self.members[by].side.commit(&Change { add, ..Default::default() });
        self.committed(by, made).await;
        let body = FetchWelcomeTree { state_key: self.policy.state_key(), epoch: self.epoch };
        for mut joiner in joiners {
            let received = self.world.read(&mut joiner.mailbox).await;
            let [QueuePayload::Welcome(welcome)] = received.as_slice() else { panic!("{received:?}") };
            let call = Call::post(self.path("welcome-tree")).with(&body).signed_by(&joiner.leaf.key);
            let tree = self.world.pay(&call).await.decode::<WelcomeTree>().ratchet_tree;
            joiner.side.join(welcome, &tree);
            self.members.push(joiner);
        }
        self.agree();
    }

    async fn group_info(&self, signer: &SigningKey) -> CurrentGroup {
        let body = FetchGroupInfo { state_key: self.policy.state_key() };
        self.world.pay(&Call::post(self.path("group-info")).with(&body).signed_by(signer)).await.decode()
    }

    fn pick(&mut self, of: impl Fn(&Member) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.members.len()).filter(|member| of(&self.members[*member])).collect();
        found.choose(&mut self.rng).copied()
    }

    /// Somebody with this library does this, if that is possible now. Whether it was done.
    async fn step(&mut self, operation: Operation, library: Library) -> bool {
        let waits = self.members.iter().any(|member| member.proposed.is_some());
        let room = self.members.len() < MOST_MEMBERS;
        match operation {
            // Nobody says anything while proposals wait (RFC 9420 §12.4), and an external commit takes none along.
            Operation::Say | Operation::JoinExternally | Operation::Resync if waits => return false,
            Operation::Say => {
                let Some(by) = self.pick(|member| member.library == library) else { return false };
                let text = self.rng.random::<[u8; 16]>();
                let said = self.members[by].side.say(&text);
                self.send_message(by, said).await;
                self.receive(Some(by), Some(&text)).await;
            }
            Operation::Commit => {
                let Some(by) = self.pick(|member| member.library == library) else { return false };
                self.commit(by, &Change::default()).await;
            }
            Operation::ProposeUpdate => {
                let may = |member: &Member| member.library == library && member.proposed.is_none();
                let Some(by) = self.pick(may) else { return false };
                let Some(proposed) = self.members[by].side.propose(Proposal::Update) else { return false };
                self.send_message(by, proposed).await;
                self.members[by].proposed = Some(Proposal::Update);
                self.receive(Some(by), None).await;
            }
            // A place is left for somebody who joins by external commit.
            Operation::AddUser if self.members.len() + 1 < MOST_MEMBERS => {
                let Some(by) = self.pick(|member| member.library == library && member.stays) else {
                    return false;
                };
                let of = *LIBRARIES.choose(&mut self.rng).expect("there are some");
                let joiner = self.client(of, None).await;
                self.add(by, vec![joiner]).await;
            }
            Operation::RemoveUser => {
                let Some(by) = self.pick(|member| member.library == library && member.stays) else {
                    return false;
                };
                let Some(whom) = self.pick(|member| !member.stays) else { return false };
                let user = self.members[whom].leaf.pseudonym;
                let clients = self.members.iter().filter(|member| member.leaf.pseudonym == user);
                // Not every library commits a removal together with a proposal of the removed one.
                if clients.clone().any(|client| client.proposed.is_some()) {
                    return false;
                }
                let remove = clients.map(|client| client.leaf.key.public_key()).collect();
                self.commit(by, &Change { remove, ..Default::default() }).await;
            }
            Operation::JoinExternally if room => {
                // The client is of a user who can be removed with all clients: else the group fills up with those that
                // cannot.
                let Some(of) = self.pick(|member| !member.stays) else { return false };
                let of = self.members[of].leaf.clone();
                let mut client = self.client(library, Some(&of)).await;
                let current = self.group_info(&of.user).await;
                let signed = to_join(&self.id, self.epoch, &client.leaf.key.public_key());
                let voucher = Some(of.user.sign(&signed).into_bytes());
                let made = client.side.join_externally(&current, voucher);
                self.send(&client.leaf.key, made).await;
                client.side.merge();
                self.receive(None, None).await;
                self.members.push(client);
            }
            Operation::Resync => {
                let Some(by) = self.pick(|member| member.library == library) else { return false };
                let current = self.group_info(&self.members[by].leaf.key).await;
                let made = self.members[by].side.join_externally(&current, None);
                self.committed(by, made).await;
            }
            Operation::AddUser | Operation::JoinExternally => return false,
        }
        self.agree();
        *self.done.entry((library, operation)).or_default() += 1;
        true
    }

    /// The operations that a library can do and did not do yet.
    fn missing(&self) -> Vec<(Library, Operation)> {
        LIBRARIES
            .into_iter()
            .flat_map(|library| OPERATIONS_OF_EACH.map(|operation| (library, operation)))
            .filter(|of| *of != (Library::TsMls, Operation::ProposeUpdate) && !self.done.contains_key(of))
            .collect()
    }
}

/// A leaf of a user's, who may be a new one, and the mailbox where it receives.
async fn leaf(world: &World, of: Option<&Leaf>) -> (Leaf, Mailbox) {
    let mailbox = world.mailbox(QueueKind::Group).await;
    let address = world.address(&mailbox).await;
    let user = of.map_or_else(SigningKey::generate, |of| of.user.clone());
    let pseudonym = of.map_or_else(Pseudonym::random, |of| of.pseudonym);
    (Leaf { key: SigningKey::generate(), user, pseudonym, address }, mailbox)
}

#[tokio::test]
async fn a_group_of_mls_rs_openmls_and_ts_mls_lives_through_this_ds() {
    let mut play = Play::start(Chance::new().of(0)).await;
    let mut done = 0;
    for (round, library) in (0..).zip(LIBRARIES.iter().cycle()) {
        for operation in OPERATIONS_OF_EACH {
            // An operation takes no more.
            play.world.restock(40).await;
            done += usize::from(play.step(operation, *library).await);
        }
        if done >= OPERATIONS && play.missing().is_empty() {
            break;
        }
        assert!(round < OPERATIONS, "{done} operations, but none of these: {:?}", play.missing());
    }
    println!("{done} operations, {} members at the end: {:?}", play.members.len(), play.done);
    assert!(!play.done.contains_key(&(Library::TsMls, Operation::ProposeUpdate)), "ts-mls has no such call");
    play.world.close();
}
