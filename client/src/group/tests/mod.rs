//! Clients without a server: what one sends is handed to the others by the test.

mod coming_in;
mod devices;
mod former_leaves;
mod in_vain;
mod invited;
mod let_in;
mod messages;
mod names;
mod outcasts;
mod restored;
mod rights;
mod untold;

use std::{sync::Arc, time::Duration};

use openmls::prelude::{
    Extensions, GroupContext, KeyPackage, LeafNode, LeafNodeParameters, Lifetime, NewSignerBundle,
};
use openmls_traits::OpenMlsProvider as _;
use postern_api::Http;
use postern_protocol::{
    Address, GroupInfo, MlsMessage, PublicKey, RatchetTree, Welcome,
    credential::ClientCredential,
    ds::{CurrentGroup, GroupId, GroupIdReserved, MessageAccepted, SubmitMessage, WelcomeTree},
    encoding::Encoding,
    key::SigningKey,
    mls::{DeliveryAddress, Pseudonym, UserKey},
    name::UserName,
    qs::StockedKeyPackage,
};
use tls_codec::Serialize as _;

use super::{
    Change, Content, Differences, GroupState, RosterEntry, accounts::MemberNews, devices_of, entry, handover,
    introduce, join, keep_unfollowed, links, members, onlooker, outbox, pending_events, receive, rules,
    take_over,
};
use crate::{
    account::Account,
    contact::FriendshipSecrets,
    error::{Error, Rejection, Result},
    event::{self, Event, Member},
    identity::IdentityLink,
    key_packages::{keep_key_package, key_package_of, make_key_package, open_key_package},
    leaf,
    mls::{self, CIPHERSUITE, LeafSigner},
    options::Options,
    session::{self, Session},
    store::{Store, Tx},
};

struct Person {
    store: Store,
    user: UserName,
    _directory: tempfile::TempDir,
}

fn person(name: &str, issuer: &SigningKey) -> Person {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), &Options::default()).unwrap();
    let user: UserName = format!("{name}@example.org").parse().unwrap();
    let mut account = Account::new("http://127.0.0.1:1".to_owned(), user.clone()).unwrap();
    let credential = ClientCredential {
        user: user.clone(),
        client_key: account.client_key().public_key(),
        not_before: 0,
        not_after: u64::MAX,
        issuer_key: issuer.public_key(),
    };
    account.credential = Some(credential.issue(issuer));
    store
        .write(|tx| {
            keep_identity(tx, &user);
            account.save(tx)
        })
        .unwrap();
    Person { store, user, _directory: directory }
}

/// The identity of a user as lookups showed it.
fn keep_identity(tx: &Tx<'_>, user: &UserName) {
    tx.sql()
        .execute(
            "INSERT INTO eids (user, pending, founder, founding, incarnation, epoch, transcript,
                               public_group, seen, verified)
             VALUES (?1, 0, zeroblob(32), zeroblob(32), 0, 0, zeroblob(32), x'', 0, 0)",
            [user.to_string()],
        )
        .unwrap();
}

fn delivery() -> DeliveryAddress {
    DeliveryAddress { domain: "example.org".parse().unwrap(), address: Address::generate().unwrap() }
}

impl Person {
    /// The same person, who can do something else from here.
    fn copy(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(self.store.directory().join("client.sqlite")).unwrap();
        let copy = directory.path().join("client.sqlite");
        connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        let store = Store::open(directory.path(), &Options::default()).unwrap();
        Self { store, user: self.user.clone(), _directory: directory }
    }

    /// The session of this person's client, whose homeserver is nowhere.
    fn session(&self) -> Session {
        let (account, options) = (self.account(), Options::default());
        let store = Arc::new(Store::open(self.store.directory(), &options).unwrap());
        let direct = Http::new(&account.server).unwrap();
        Session { api: session::api(&store, direct.clone(), &account), store, direct, options, account }
    }

    fn account(&self) -> Account {
        self.store.read(Account::load).unwrap()
    }

    fn create(&self) -> GroupId {
        self.create_at("example.org")
    }

    /// Makes a group whose DS is at this domain.
    fn create_at(&self, domain: &str) -> GroupId {
        let id = GroupId::new(rand::random(), domain.parse().unwrap());
        let reserved =
            GroupIdReserved { group_id: id.clone(), server_key: SigningKey::generate().public_key() };
        self.store.write(|tx| GroupState::create(tx, &reserved, "climbing", &delivery()).map(drop)).unwrap();
        self.confirm(&id);
        id
    }

    /// The request that waits for its answer.
    fn outstanding(&self, id: &GroupId) -> Option<SubmitMessage> {
        let outstanding = self.store.read(|tx| GroupState::outstanding(tx, id)).unwrap();
        outstanding.map(|request| Encoding::Cbor.decode(&request.body).unwrap())
    }

    fn stage(&self, id: &GroupId, change: &Change) -> SubmitMessage {
        self.store.write(|tx| GroupState::load(tx, id)?.stage_commit(tx, change)).unwrap();
        self.outstanding(id).unwrap()
    }

    fn say(&self, id: &GroupId, text: &str) -> MlsMessage {
        self.push(id, &Content::Text(text.to_owned()));
        self.send(id)
    }

    fn push(&self, id: &GroupId, content: &Content) {
        self.store.write(|tx| outbox::push(tx, id, content)).unwrap();
    }

    /// The next message of the outbox, which is accepted.
    fn send(&self, id: &GroupId) -> MlsMessage {
        self.store.write(|tx| GroupState::load(tx, id)?.stage_message(tx)).unwrap();
        let message = self.outstanding(id).unwrap().message;
        self.confirm(id);
        message
    }

    /// The DS accepts what is outstanding.
    fn confirm(&self, id: &GroupId) {
        let accepted = MessageAccepted::in_epoch(0);
        self.store
            .write(|tx| match GroupState::outstanding(tx, id)? {
                Some(request) => GroupState::load(tx, id)?.confirm(tx, request.kind, &accepted),
                None => Ok(()),
            })
            .unwrap();
    }

    fn receive(&self, message: &MlsMessage) -> Result<(), String> {
        let options = Options { return_after: Duration::ZERO, ..Options::default() };
        self.store
            .write(|tx| {
                let received = tx.attempt(|| receive(tx, message, &options));
                if received.is_err() {
                    keep_unfollowed(tx, message)?;
                }
                Ok(told(received))
            })
            .unwrap()
    }

    /// With the tree, as the DS has it, that `inviter` has after the commit.
    fn join(&self, welcome: &Welcome, tree: Option<&WelcomeTree>) -> Result<(), String> {
        self.store.write(|tx| Ok(told(tx.attempt(|| join(tx, welcome, tree)).map(drop)))).unwrap()
    }

    fn tree(&self, id: &GroupId) -> WelcomeTree {
        WelcomeTree { ratchet_tree: self.shown(id).ratchet_tree, attributes: Vec::new() }
    }

    /// The group as a DS would show it that is where this person is.
    fn shown(&self, id: &GroupId) -> CurrentGroup {
        self.store
            .read(|tx| {
                let group = GroupState::load(tx, id)?;
                let signer = LeafSigner(&group.leaf);
                let info = group.mls.export_group_info(tx.crypto(), &signer, false).unwrap();
                let tree = group.mls.export_ratchet_tree().tls_serialize_detached().unwrap();
                Ok(CurrentGroup {
                    group_info: GroupInfo::new(mls::message_bytes(&info)?),
                    ratchet_tree: RatchetTree::new(tree),
                    proposals: Vec::new(),
                    attributes: group.cards_for_commit(tx, &[])?,
                })
            })
            .unwrap()
    }

    /// Comes back from what the DS shows; the commit, which the DS accepts.
    fn rejoin(&self, id: &GroupId, current: &CurrentGroup, accepted: &Differences) -> Result<MlsMessage> {
        let delivery = delivery();
        let known = GroupState::epoch_of(current)?;
        self.store.write(|tx| GroupState::load(tx, id)?.rejoin(tx, known, current, accepted, &delivery))?;
        let message = self.outstanding(id).unwrap().message;
        self.confirm(id);
        Ok(message)
    }

    fn leaf(&self, id: &GroupId) -> PublicKey {
        self.store.read(|tx| Ok(GroupState::load(tx, id)?.leaf.public_key())).unwrap()
    }

    fn pseudonym(&self, id: &GroupId) -> Pseudonym {
        self.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, id)?).pseudonym)).unwrap()
    }

    /// The lookups that this person made confirmed whose clients these are.
    fn knows(&self, others: &[&Person]) {
        self.store
            .write(|tx| {
                others.iter().try_for_each(|other| {
                    let client_key = other.account().client_key().public_key();
                    tx.sql().execute(
                        "INSERT OR REPLACE INTO identities (client_key, user) VALUES (?1, ?2)",
                        rusqlite::params![client_key.as_bytes(), other.user.to_string()],
                    )?;
                    Ok(())
                })
            })
            .unwrap();
    }

    fn members(&self, id: &GroupId) -> Vec<Member> {
        self.store.read(|tx| members(tx, &GroupState::load(tx, id)?)).unwrap()
    }

    fn named(&self, id: &GroupId, user: &UserName) -> Vec<PublicKey> {
        let found = self.store.read(|tx| devices_of(tx, &GroupState::load(tx, id)?, user)).unwrap();
        found.into_iter().map(|member| member.leaf_key).collect()
    }

    /// A commit that openmls makes and no rule of ours has a say in; its maker applies it.
    fn commit_freely(&self, id: &GroupId, free: impl Fn(&Tx<'_>, &GroupState) -> Free) -> MlsMessage {
        self.store
            .write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                let free = free(tx, &group);
                let pseudonym = own_leaf(&group).pseudonym;
                let signer = LeafSigner(&group.leaf);
                let builder = group.mls.commit_builder().force_self_update(true);
                let mut builder = builder.leaf_node_parameters(free.leaf_node).propose_adds(free.added);
                if let Some(context) = free.context {
                    builder = builder.propose_group_context_extensions(context).unwrap();
                }
                let staged = builder.load_psks(tx.storage()).unwrap();
                let built = match &free.key {
                    Some(key) => {
                        let credential_with_key = mls::credential(pseudonym.0.to_vec(), key.public_key());
                        let new = NewSignerBundle { signer: &LeafSigner(key), credential_with_key };
                        staged.build_with_new_signer(tx.rand(), tx.crypto(), &signer, new, |_| true)
                    }
                    None => staged.build(tx.rand(), tx.crypto(), &signer, |_| true),
                };
                let built = built.unwrap();
                let (commit, ..) = built.stage_commit(tx).unwrap().into_messages();
                let message = MlsMessage::new(mls::message_bytes(&commit)?);
                group.mls.merge_pending_commit(tx).unwrap();
                Ok(message)
            })
            .unwrap()
    }

    /// Adds the owner of a KeyPackage by a commit in which no rule of ours has a say; its maker applies it. The Welcome.
    fn add_freely(&self, id: &GroupId, leaf_key: &PublicKey) -> Welcome {
        self.store
            .write(|tx| {
                let mut group = GroupState::load(tx, id)?;
                let signer = LeafSigner(&group.leaf);
                let added = crate::key_packages::reserve_key_package(tx, id, leaf_key)?;
                let builder = group.mls.commit_builder().propose_adds([added]);
                let staged = builder.load_psks(tx.storage()).unwrap().use_ratchet_tree_extension(false);
                let built = staged.build(tx.rand(), tx.crypto(), &signer, |_| true).unwrap();
                let (_, welcome, _) = built.stage_commit(tx).unwrap().into_messages();
                group.mls.merge_pending_commit(tx).unwrap();
                Ok(Welcome::new(mls::message_bytes(&welcome.unwrap())?))
            })
            .unwrap()
    }

    fn events(&self) -> Vec<Event> {
        self.store
            .write(|tx| {
                let events = pending_events(tx)?;
                if let Some((last, _)) = events.last() {
                    event::forget(tx, *last)?;
                }
                Ok(events.into_iter().map(|(_, event)| event).collect())
            })
            .unwrap()
    }

    fn texts(&self) -> Vec<String> {
        let text = |event| match event {
            Event::Message { text, .. } => Some(text),
            _ => None,
        };
        self.events().into_iter().filter_map(text).collect()
    }

    fn epoch(&self, id: &GroupId) -> u64 {
        self.store.read(|tx| Ok(GroupState::load(tx, id)?.epoch())).unwrap()
    }

    /// Offers `inviter` a KeyPackage; its leaf key.
    fn offer_to(&self, inviter: &Person) -> PublicKey {
        self.offer_as(Pseudonym::random(), inviter)
    }

    /// The same, with this pseudonym.
    fn offer_as(&self, pseudonym: Pseudonym, inviter: &Person) -> PublicKey {
        self.offer_changed(pseudonym, inviter, |_, key_package| key_package)
    }

    /// The same, changed by who has the key of its leaf.
    fn offer_changed(
        &self,
        pseudonym: Pseudonym,
        inviter: &Person,
        change: impl FnOnce(&SigningKey, MlsMessage) -> MlsMessage,
    ) -> PublicKey {
        let account = self.account();
        let friend = FriendshipSecrets::generate().unwrap().friend.clone();
        let (package, leaf_key) = self
            .store
            .write(|tx| {
                let own = make_key_package(tx, &account, &friend, &delivery(), pseudonym, false)?;
                let key = leaf::key(tx, &own.leaf_key)?.expect("it was kept");
                let key_package = change(&key, own.package.key_package);
                let attachment = own.package.attachment;
                Ok((StockedKeyPackage { key_package, attachment }, own.leaf_key))
            })
            .unwrap();
        let client_key = account.client_key().public_key();
        inviter
            .store
            .write(|tx| {
                let opened = open_key_package(tx, &friend, &package).expect("it is for us");
                assert_eq!((&opened.client.user, opened.client.client_key), (&self.user, client_key));
                keep_key_package(tx, &opened)
            })
            .unwrap();
        leaf_key
    }

    /// Adds the others; the commit, for members that follow.
    fn add(&self, id: &GroupId, others: &[&Person]) -> MlsMessage {
        let leaf_keys = others.iter().map(|other| other.offer_to(self)).collect();
        let submission = self.stage(id, &Change::Add(leaf_keys));
        self.confirm(id);
        for other in others {
            other.join(submission.welcome.as_ref().unwrap(), Some(&self.tree(id))).unwrap();
        }
        submission.message
    }
}

/// A KeyPackage of a device that nobody knows, made by hand: with this identity in its credential, and these extensions of its
/// leaf.
fn key_package(
    tx: &Tx<'_>,
    identity: &[u8],
    lifetime: Lifetime,
    extensions: Extensions<LeafNode>,
) -> KeyPackage {
    let key = SigningKey::generate();
    let bundle = KeyPackage::builder()
        .key_package_lifetime(lifetime)
        .leaf_node_capabilities(mls::capabilities())
        .leaf_node_extensions(extensions)
        .build(CIPHERSUITE, tx, &LeafSigner(&key), mls::credential(identity.to_vec(), key.public_key()))
        .unwrap();
    bundle.key_package().clone()
}

/// A change that a commit is to make, whether it may or not.
#[derive(Default)]
struct Free {
    leaf_node: LeafNodeParameters,
    added: Option<KeyPackage>,
    context: Option<Extensions<GroupContext>>,
    /// Another key of the own leaf.
    key: Option<SigningKey>,
}

fn told(result: Result<(), Rejection>) -> Result<(), String> {
    result.map_err(|rejection| match rejection {
        Rejection::Invalid(reason)
        | Rejection::Stray { reason, .. }
        | Rejection::Doubt { reason, .. }
        | Rejection::Unfit { reason, .. } => reason,
        Rejection::Strangers(_) => "strangers".to_owned(),
        Rejection::InAlready => "in already".to_owned(),
        Rejection::Unread => "unread".to_owned(),
        Rejection::Fault(error) => panic!("{error}"),
    })
}

/// Alice, Bob and Carol have a homeserver in common, and Alice made a group. A test takes of this what it needs.
struct Trio {
    /// The issuer of their credentials, for further people.
    issuer: SigningKey,
    alice: Person,
    bob: Person,
    carol: Person,
    /// The group that Alice made.
    id: GroupId,
}

impl Trio {
    /// Alice is alone in the group.
    fn alone() -> Self {
        let issuer = SigningKey::generate();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
        let id = alice.create();
        Self { issuer, alice, bob, carol, id }
    }

    /// Bob is in the group, too.
    fn with_bob() -> Self {
        let trio = Self::alone();
        trio.alice.add(&trio.id, &[&trio.bob]);
        trio
    }

    /// All three are in the group.
    fn with_all() -> Self {
        let trio = Self::with_bob();
        let addition = trio.alice.add(&trio.id, &[&trio.carol]);
        trio.bob.receive(&addition).unwrap();
        trio
    }
}

/// Alice's group with Bob and Mallory, who know each other's names and were all looked up.
fn three(issuer: &SigningKey) -> ([Person; 3], GroupId) {
    let people = ["alice", "bob", "mallory"].map(|name| person(name, issuer));
    let [alice, bob, mallory] = &people;
    let id = alice.create();
    alice.add(&id, &[bob]);
    bob.receive(&alice.add(&id, &[mallory])).unwrap();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    let introduction = alice.send(&id);
    for other in [bob, mallory] {
        other.receive(&introduction).unwrap();
    }
    for speaker in &people {
        let said = speaker.say(&id, "here");
        for listener in people.iter().filter(|listener| listener.user != speaker.user) {
            listener.knows(&[speaker]);
            listener.receive(&said).unwrap();
        }
    }
    people.iter().for_each(|person| drop(person.events()));
    (people, id)
}

fn own_leaf(group: &GroupState) -> rules::Leaf {
    group.own_leaf().unwrap()
}
