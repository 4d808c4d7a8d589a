//! Clients without a server: what one sends is handed to the others by the test.

use std::time::Duration;

use openmls::prelude::{Extensions, GroupContext, KeyPackage, LeafNodeParameters, Lifetime};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    Address, GroupInfo, MlsMessage, PublicKey, RatchetTree, Welcome,
    credential::ClientCredential,
    ds::{CurrentGroup, GroupId, GroupIdReserved, MessageAccepted, SubmitMessage, WelcomeTree},
    encoding::Encoding,
    key::SigningKey,
    mls::{DeliveryAddress, Pseudonym, UserKey},
    name::UserName,
};
use tls_codec::Serialize as _;

use super::{
    Change, Content, Differences, GroupState, RosterEntry, accounts::MemberNews, devices_of, entry, handover,
    introduce, join, members, outbox, pending_events, receive, take_over,
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

    fn account(&self) -> Account {
        self.store.read(Account::load).unwrap()
    }

    fn create(&self) -> GroupId {
        let id = GroupId::new(rand::random(), "example.org".parse().unwrap());
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
        self.store.write(|tx| Ok(told(tx.attempt(|| receive(tx, message))))).unwrap()
    }

    /// With the tree, as the DS has it, that `inviter` has after the commit.
    fn join(&self, welcome: &Welcome, tree: Option<&WelcomeTree>) -> Result<(), String> {
        self.store.write(|tx| Ok(told(tx.attempt(|| join(tx, welcome, tree))))).unwrap()
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
        let address = Address::generate().unwrap();
        self.store.write(|tx| GroupState::load(tx, id)?.rejoin(tx, current, accepted, address))?;
        let message = self.outstanding(id).unwrap().message;
        self.confirm(id);
        Ok(message)
    }

    fn leaf(&self, id: &GroupId) -> PublicKey {
        self.store.read(|tx| Ok(GroupState::load(tx, id)?.leaf.public_key())).unwrap()
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
                let signer = LeafSigner(&group.leaf);
                let builder = group.mls.commit_builder().force_self_update(true);
                let mut builder = builder.leaf_node_parameters(free.leaf_node).propose_adds(free.added);
                if let Some(context) = free.context {
                    builder = builder.propose_group_context_extensions(context).unwrap();
                }
                let staged = builder.load_psks(tx.storage()).unwrap();
                let built = staged.build(tx.rand(), tx.crypto(), &signer, |_| true).unwrap();
                let (commit, ..) = built.stage_commit(tx).unwrap().into_messages();
                let message = MlsMessage::new(mls::message_bytes(&commit)?);
                group.mls.merge_pending_commit(tx).unwrap();
                Ok(message)
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
        let account = self.account();
        let friend = FriendshipSecrets::generate().unwrap().friend.clone();
        let make = |tx: &Tx<'_>| make_key_package(tx, &account, &friend, &delivery(), false);
        let own = self.store.write(make).unwrap();
        let client_key = account.client_key().public_key();
        inviter
            .store
            .write(|tx| {
                let opened = open_key_package(tx, &friend, &own.package).expect("it is for us");
                assert_eq!((&opened.client.user, opened.client.client_key), (&self.user, client_key));
                keep_key_package(tx, &opened)?;
                key_package_of(tx, &client_key)
            })
            .unwrap()
            .unwrap()
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

/// What a commit is to change, whether it may or not.
#[derive(Default)]
struct Free {
    leaf_node: LeafNodeParameters,
    added: Option<KeyPackage>,
    context: Option<Extensions<GroupContext>>,
}

/// A link by which somebody claims the leaf of another: its client signs the leaf's key, and its own leaf
/// the client's.
fn claim_to(thief: &Person, id: &GroupId, leaf_key: &PublicKey) -> IdentityLink {
    let account = thief.account();
    let own = thief.store.read(|tx| Ok(GroupState::load(tx, id)?.leaf)).unwrap();
    let link = IdentityLink::sign(&account.client_key(), account.credential().unwrap(), Some(id), &own);
    let signature = account.client_key().sign(&IdentityLink::client_signs(Some(id), leaf_key));
    IdentityLink { signature, ..link }
}

fn told(result: Result<(), Rejection>) -> Result<(), String> {
    result.map_err(|rejection| match rejection {
        Rejection::Invalid(reason) | Rejection::Stray { reason, .. } | Rejection::Doubt { reason, .. } => {
            reason
        }
        Rejection::Unread => "unread".to_owned(),
        Rejection::Fault(error) => panic!("{error}"),
    })
}

#[test]
fn members_read_each_other_once_and_know_who_speaks() {
    let issuer = SigningKey::generate();
    let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
    let id = alice.create();
    alice.add(&id, &[&bob]);
    alice.events();
    let message = bob.say(&id, "hello");
    alice.receive(&message).unwrap();
    alice.receive(&message).unwrap();
    let events = alice.events();
    let [Event::Message { sender, text, epoch: 1, .. }] = &events[..] else {
        panic!("one message, a repeat is ignored: {events:?}")
    };
    assert_eq!((sender.user.as_ref(), text.as_str()), (Some(&bob.user), "hello"));
    assert!(!sender.verified, "the AS was not asked");
}

#[test]
fn a_commit_whose_answer_was_lost_takes_effect_when_the_next_epoch_is_seen() {
    let issuer = SigningKey::generate();
    let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
    let id = alice.create();
    alice.add(&id, &[&bob]);
    let update = alice.stage(&id, &Change::Update);
    bob.receive(&update.message).unwrap();
    let message = bob.say(&id, "in the next epoch");
    assert_eq!(alice.epoch(&id), 1);
    alice.receive(&message).unwrap();
    assert_eq!(alice.epoch(&id), 2);
    assert_eq!(alice.texts(), ["in the next epoch"]);
    assert!(alice.outstanding(&id).is_none());
}

#[test]
fn a_commit_that_lost_gives_its_key_packages_back() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
    let [alice, bob, carol] = &people;
    let id = alice.create();
    alice.add(&id, &[bob]);
    let leaf_key = carol.offer_to(alice);
    alice.stage(&id, &Change::Add(vec![leaf_key]));
    let winner = bob.stage(&id, &Change::Update);
    alice.receive(&winner.message).unwrap();
    assert_eq!(alice.epoch(&id), 2);
    bob.confirm(&id);
    let again = alice.stage(&id, &Change::Add(vec![leaf_key]));
    alice.confirm(&id);
    bob.receive(&again.message).unwrap();
    carol.join(again.welcome.as_ref().unwrap(), Some(&alice.tree(&id))).unwrap();
    bob.receive(&carol.say(&id, "here")).unwrap();
    assert_eq!(bob.texts(), ["here"]);
}

#[test]
fn a_removed_member_reads_and_writes_no_more() {
    let issuer = SigningKey::generate();
    let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
    let id = alice.create();
    alice.add(&id, &[&bob]);
    let removal = alice.stage(&id, &Change::Remove(vec![bob.leaf(&id)]));
    alice.confirm(&id);
    let secret = alice.say(&id, "without bob");
    bob.receive(&removal.message).unwrap();
    assert!(matches!(bob.events().last(), Some(Event::Left { .. })));
    assert!(bob.receive(&secret).is_err());
    let load = bob.store.read(|tx| GroupState::load(tx, &id).map(drop));
    assert!(matches!(load, Err(Error::NotMember)));
    let kept: i64 = bob
        .store
        .read(|tx| Ok(tx.sql().query_row("SELECT count(*) FROM openmls_group_data", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(kept, 0, "no secret of the group is kept");
}

#[test]
fn only_admins_change_who_is_in() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
    let [alice, bob, carol] = &people;
    let id = alice.create();
    alice.add(&id, &[bob]);
    let leaf_key = carol.offer_to(bob);
    let addition = bob.stage(&id, &Change::Add(vec![leaf_key]));
    assert!(alice.receive(&addition.message).unwrap_err().contains("no admin"));
    assert_eq!(alice.epoch(&id), 1, "a refused commit leaves no trace");
}

#[test]
fn newcomers_learn_title_and_names() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "carol"].map(|name| person(name, &issuer));
    let [alice, bob, carol] = &people;
    let id = alice.create();
    alice.add(&id, &[bob]);
    let addition = alice.add(&id, &[carol]);
    bob.receive(&addition).unwrap();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    let introduction = alice.send(&id);
    for other in [bob, carol] {
        other.receive(&introduction).unwrap();
        let names = other
            .store
            .read(|tx| members(tx, &GroupState::load(tx, &id)?))
            .unwrap()
            .into_iter()
            .filter_map(|member| member.user)
            .collect::<Vec<_>>();
        assert_eq!(names, people.each_ref().map(|person| person.user.clone()));
        let titled = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "climbing");
        assert!(other.events().iter().any(titled));
    }
}

#[test]
fn a_member_that_is_no_admin_changes_neither_title_nor_names_nor_keys_of_others() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "mallory"].map(|name| person(name, &issuer));
    let [alice, bob, mallory] = &people;
    let id = alice.create();
    let addition = alice.add(&id, &[bob]);
    drop(addition);
    let addition = alice.add(&id, &[mallory]);
    bob.receive(&addition).unwrap();
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    let introduction = alice.send(&id);
    for other in [bob, mallory] {
        other.receive(&introduction).unwrap();
    }
    bob.receive(&alice.say(&id, "hello")).unwrap();
    bob.events();
    let key_of = |person: &Person| person.store.read(|tx| record_key(tx, &id)).unwrap();
    let key_before = key_of(bob);
    assert!(key_before.is_some());

    let (alices, link) = (alice.leaf(&id), claim_to(mallory, &id, &alice.leaf(&id)));
    mallory.push(
        &id,
        &Content::Introduction {
            title: "Mallory's".to_owned(),
            titled: 9,
            roster: vec![RosterEntry { leaf_key: alices, link, profile_key: None }],
            attributes_key: Some([6; 32]),
        },
    );
    bob.receive(&mallory.send(&id)).unwrap();
    let events = bob.events();
    let [Event::TitleProposed { by, title, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((by.user.as_ref(), title.as_str()), (Some(&mallory.user), "Mallory's"));
    let title = bob.store.read(|tx| super::title(tx, &id)).unwrap();
    assert_eq!(title, "climbing");
    assert_eq!(key_of(bob), key_before);
    bob.receive(&alice.say(&id, "still me")).unwrap();
    let events = bob.events();
    let [Event::Message { sender, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(sender.user.as_ref(), Some(&alice.user));
}

#[test]
fn a_newcomer_takes_title_and_key_from_admins_only() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "mallory"].map(|name| person(name, &issuer));
    let [alice, bob, mallory] = &people;
    let id = alice.create();
    alice.add(&id, &[mallory]);
    let addition = alice.add(&id, &[bob]);
    mallory.receive(&addition).unwrap();
    mallory.push(
        &id,
        &Content::Introduction {
            title: "Mallory's".to_owned(),
            titled: 9,
            roster: Vec::new(),
            attributes_key: Some([6; 32]),
        },
    );
    bob.receive(&mallory.send(&id)).unwrap();
    assert_eq!(bob.store.read(|tx| super::title(tx, &id)).unwrap(), "");
    assert_eq!(bob.store.read(|tx| record_key(tx, &id)).unwrap(), None);
    alice.store.write(|tx| introduce(tx, &GroupState::load(tx, &id)?)).unwrap();
    bob.receive(&alice.send(&id)).unwrap();
    assert_eq!(bob.store.read(|tx| super::title(tx, &id)).unwrap(), "climbing");
    assert!(bob.store.read(|tx| record_key(tx, &id)).unwrap().is_some_and(|key| key != [6; 32]));
}

fn record_key(tx: &Tx<'_>, id: &GroupId) -> Result<Option<[u8; 32]>> {
    super::record::attributes_key(tx, id)
}

#[test]
fn what_is_said_is_sent_in_order_under_one_number_each_and_kept_up_to_a_bound() {
    let issuer = SigningKey::generate();
    let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
    let id = alice.create();
    alice.add(&id, &[&bob]);
    alice.events();
    let options = Options { unsent_messages: 3, unsent_bytes: 100, ..Options::default() };
    let say =
        |text: &str| bob.store.write(|tx| GroupState::load(tx, &id)?.say(tx, text.to_owned(), &options));
    assert_eq!(say("one").unwrap(), 1);
    assert!(matches!(say(&"x".repeat(200)), Err(Error::OutboxFull { messages: 1 })));
    assert_eq!(say("two").unwrap(), 2);
    assert_eq!(say("three").unwrap(), 3);
    assert!(matches!(say("four"), Err(Error::OutboxFull { messages: 3 })));
    // The answer to the first is lost, and it is encrypted anew in a later epoch.
    bob.store.write(|tx| GroupState::load(tx, &id)?.stage_message(tx)).unwrap();
    alice.receive(&bob.outstanding(&id).unwrap().message).unwrap();
    let update = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    bob.receive(&update.message).unwrap();
    bob.store.write(|tx| GroupState::load(tx, &id)?.too_late(tx, super::Kind::Message)).unwrap();
    for _ in 0..3 {
        alice.receive(&bob.send(&id)).unwrap();
    }
    assert_eq!(alice.texts(), ["one", "two", "three"]);
    assert!(!bob.store.write(|tx| GroupState::load(tx, &id)?.stage_message(tx)).unwrap());
}

/// A KeyPackage that ends in five seconds.
fn ending_key_package(of: &Person) -> KeyPackage {
    let now = of.store.now();
    of.store
        .write(|tx| {
            let key = SigningKey::generate();
            let bundle = KeyPackage::builder()
                .key_package_lifetime(Lifetime::init(now - 10, now + 5))
                .leaf_node_capabilities(mls::capabilities())
                .leaf_node_extensions(leaf::extensions(&delivery(), &leaf::new_user_key(tx, 0)?)?)
                .build(CIPHERSUITE, tx, &LeafSigner(&key), mls::credential(vec![7; 16], key.public_key()))
                .unwrap();
            Ok(bundle.key_package().clone())
        })
        .unwrap()
}

#[test]
fn who_reads_too_late_that_somebody_was_added_cannot_follow_and_does_not_blame_the_server() {
    let issuer = SigningKey::generate();
    let people = ["alice", "bob", "carol", "dave"].map(|name| person(name, &issuer));
    let [alice, bob, carol, dave] = &people;
    let id = alice.create();
    alice.add(&id, &[bob]);
    bob.receive(&alice.add(&id, &[carol])).unwrap();
    let commit = alice
        .store
        .write(|tx| {
            let mut group = GroupState::load(tx, &id)?;
            let signer = LeafSigner(&group.leaf);
            let builder = group.mls.commit_builder().propose_adds([ending_key_package(dave)]);
            let staged = builder.load_psks(tx.storage()).unwrap();
            let built = staged.build(tx.rand(), tx.crypto(), &signer, |_| true).unwrap();
            let (commit, ..) = built.stage_commit(tx).unwrap().into_messages();
            Ok(MlsMessage::new(mls::message_bytes(&commit)?))
        })
        .unwrap();
    bob.receive(&commit).unwrap();
    assert_eq!(bob.epoch(&id), 3, "in time");
    std::thread::sleep(Duration::from_millis(6100));
    let late = carol.store.write(|tx| Ok(tx.attempt(|| receive(tx, &commit)))).unwrap();
    assert!(matches!(late, Err(Rejection::Stray { by_hand: false, members: 3, .. })), "{late:?}");
    assert_eq!(carol.epoch(&id), 2);
}

#[test]
fn bytes_from_nobody_have_no_effect() {
    let issuer = SigningKey::generate();
    let alice = person("alice", &issuer);
    let id = alice.create();
    for bytes in [vec![], vec![0; 64], b"\x00\x01\x00\x02garbage".to_vec()] {
        assert!(alice.receive(&MlsMessage::new(bytes.clone())).is_err());
        assert!(alice.join(&Welcome::new(bytes), None).is_err());
    }
    let stranger = person("eve", &issuer);
    let elsewhere = stranger.create();
    let foreign = stranger.say(&elsewhere, "hi");
    assert!(alice.receive(&foreign).is_err());
    assert_eq!(alice.epoch(&id), 0);
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

#[test]
fn a_member_takes_no_other_members_name_and_is_removed_alone() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    // Carol's leaf is not known to anybody yet: nothing is there to be overwritten.
    let carol = person("carol", &issuer);
    let addition = alice.add(&id, &[&carol]);
    for other in [&bob, &mallory] {
        other.receive(&addition).unwrap();
    }
    let taken = [alice.leaf(&id), carol.leaf(&id)];
    let entry =
        |leaf_key| RosterEntry { leaf_key, link: claim_to(&mallory, &id, &leaf_key), profile_key: None };
    let roster = taken.map(entry).to_vec();
    mallory
        .push(&id, &Content::Introduction { title: String::new(), titled: 0, roster, attributes_key: None });
    bob.receive(&mallory.send(&id)).unwrap();
    let shown = bob.members(&id);
    let of = |leaf_key| shown.iter().find(|member| member.leaf_key == leaf_key).unwrap().user.as_ref();
    assert_eq!((of(taken[0]), of(taken[1])), (Some(&alice.user), None));
    assert_eq!(bob.named(&id, &mallory.user), [mallory.leaf(&id)], "whom a removal of hers would remove");
}

#[test]
fn a_name_that_was_not_confirmed_names_nobody_to_be_removed() {
    let issuer = SigningKey::generate();
    let (alice, bob) = (person("alice", &issuer), person("bob", &issuer));
    let id = alice.create();
    alice.add(&id, &[&bob]);
    assert!(alice.members(&id).iter().any(|member| member.user.as_ref() == Some(&bob.user)));
    assert_eq!(alice.named(&id, &bob.user), []);
    alice.knows(&[&bob]);
    assert_eq!(alice.named(&id, &bob.user), [bob.leaf(&id)]);
}

fn own_leaf(group: &GroupState) -> super::rules::Leaf {
    group.own_leaf().unwrap()
}

#[test]
fn no_member_takes_another_pseudonym_address_or_user_key() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let alices = alice.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?))).unwrap();
    let with = |leaf: PublicKey, pseudonym: Pseudonym| {
        LeafNodeParameters::builder()
            .with_credential_with_key(mls::credential(pseudonym.0.to_vec(), leaf))
            .build()
    };
    let extensions = |address: Address, key: UserKey| {
        let delivery = DeliveryAddress { domain: "example.org".parse().unwrap(), address };
        LeafNodeParameters::builder().with_extensions(leaf::extensions(&delivery, &key).unwrap()).build()
    };
    let attacks: [(&str, Box<dyn Fn(&Tx<'_>, &GroupState) -> LeafNodeParameters>); 3] = [
        ("pseudonym", Box::new(|_, group| with(group.leaf.public_key(), alices.pseudonym))),
        (
            "address",
            Box::new(|_, group| extensions(alices.address.unwrap(), own_leaf(group).user_key.unwrap())),
        ),
        (
            "key",
            Box::new(|_, group| {
                let key = UserKey { generation: 0, public_key: SigningKey::generate().public_key() };
                extensions(own_leaf(group).address.unwrap(), key)
            }),
        ),
    ];
    for (what, attack) in attacks {
        let before = mallory.store.read(|tx| Ok(GroupState::load(tx, &id)?.epoch())).unwrap();
        let copy = mallory.copy();
        let commit =
            copy.commit_freely(&id, |tx, group| Free { leaf_node: attack(tx, group), ..Free::default() });
        let refused = bob.receive(&commit).unwrap_err();
        assert!(refused.contains(what), "{what}: {refused}");
        assert_eq!(bob.epoch(&id), before);
    }
}

#[test]
fn proposals_that_the_server_should_not_have_let_pass_are_neither_kept_nor_committed() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let ghost = person("ghost", &issuer);
    let leaf_key = ghost.offer_to(&mallory);
    let propose = |make: &dyn Fn(&Tx<'_>, &mut GroupState) -> MlsMessage| {
        mallory.copy().store.write(|tx| Ok(make(tx, &mut GroupState::load(tx, &id)?))).unwrap()
    };
    let bytes = |message| MlsMessage::new(mls::message_bytes(&message).unwrap());
    let addition = propose(&|tx, group| {
        let package = crate::key_packages::reserve_key_package(tx, &id, &leaf_key).unwrap();
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_add_member(tx, &signer, &package).unwrap().0)
    });
    let removal = propose(&|tx, group| {
        let alices = group.member(&alice.leaf(&id)).unwrap().index;
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_remove_member(tx, &signer, alices).unwrap().0)
    });
    let promotion = propose(&|tx, group| {
        let own = own_leaf(group).pseudonym;
        let context = group.context_with(&[own]).unwrap();
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_group_context_extensions(tx, context, &signer).unwrap().0)
    });
    for proposal in [&addition, &removal, &promotion] {
        for other in [&alice, &bob] {
            assert!(other.receive(proposal).is_err());
        }
    }
    let commit = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    bob.receive(&commit.message).unwrap();
    assert_eq!(alice.members(&id).len(), 3);
    let admins = bob.store.read(|tx| GroupState::load(tx, &id)?.admins()).unwrap();
    assert_eq!(admins, [alice.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).pseudonym)).unwrap()]);
}

#[test]
fn who_leaves_the_group_without_an_admin_is_not_helped() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    alice.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    assert!(bob.receive(&alice.outstanding(&id).unwrap().message).is_err());
}

/// What a server shows that has Mallory's word that a ghost was added, or is an admin.
fn haunted(mallory: &Person, id: &GroupId, ghost: Option<&Person>, admin: bool) -> CurrentGroup {
    let copy = mallory.copy();
    let package = ghost.map(|ghost| ghost.offer_to(&copy));
    copy.commit_freely(id, |tx, group| Free {
        added: package.map(|leaf_key| crate::key_packages::reserve_key_package(tx, id, &leaf_key).unwrap()),
        context: admin.then(|| group.context_with(&[own_leaf(group).pseudonym]).unwrap()),
        ..Free::default()
    });
    copy.shown(id)
}

#[test]
fn who_comes_back_accepts_no_stranger_and_no_new_admin_without_a_persons_consent() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let ghost = person("ghost", &issuer);
    for (current, strangers, admins) in
        [(haunted(&mallory, &id, Some(&ghost), false), 1, 0), (haunted(&mallory, &id, None, true), 0, 1)]
    {
        let bob = bob.copy();
        let refused = bob.rejoin(&id, &current, &Differences::default()).unwrap_err();
        let Error::Strangers(differences) = refused else { panic!("{refused}") };
        assert_eq!((differences.strangers.len(), differences.admins.len()), (strangers, admins));
        assert_eq!(bob.members(&id).len(), 3, "nothing was changed");
        bob.rejoin(&id, &current, &differences).unwrap();
        let told = |event: &Event| {
            matches!(event, Event::Changed { added, .. } if added.len() == strangers)
                || matches!(event, Event::AdminsFound { admins: found, .. } if found.len() == admins)
        };
        assert!(bob.events().iter().any(told));
    }
    // Nothing was changed but keys.
    let update = mallory.stage(&id, &Change::Update);
    mallory.confirm(&id);
    alice.receive(&update.message).unwrap();
    let back = bob.rejoin(&id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&back).unwrap();
    assert_eq!(bob.members(&id).len(), 3);
}

#[test]
fn an_admin_names_another_and_then_may_go() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let load = |person: &Person| person.store.read(|tx| GroupState::load(tx, &id)?.is_last_admin()).unwrap();
    assert!(load(&alice));
    let admins: Vec<_> = [&alice, &bob]
        .map(|it| it.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).pseudonym)).unwrap())
        .to_vec();
    let naming = alice.stage(&id, &Change::Admins(admins.clone()));
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&naming.message).unwrap();
        assert!(other.events().iter().any(|event| matches!(event, Event::AdminsChanged { .. })));
        assert_eq!(other.store.read(|tx| GroupState::load(tx, &id)?.admins()).unwrap(), admins);
    }
    assert!(!load(&alice) && !load(&bob));
    // Bob has the rights now, Mallory has not.
    let naming = mallory.copy().stage(&id, &Change::Admins(admins));
    assert!(alice.receive(&naming.message).is_err());
    let removal = bob.stage(&id, &Change::Remove(vec![mallory.leaf(&id)]));
    alice.receive(&removal.message).unwrap();
    mallory.receive(&removal.message).unwrap();
    assert_eq!(alice.members(&id).len(), 2);
}

#[test]
fn two_admins_that_rename_at_once_end_with_one_title_everywhere() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let of = |it: &Person| it.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).pseudonym)).unwrap();
    let naming = alice.stage(&id, &Change::Admins(vec![of(&alice), of(&bob)]));
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&naming.message).unwrap();
    }
    let call = |it: &Person, title: &str| {
        it.store.write(|tx| GroupState::load(tx, &id)?.call(tx, title)).unwrap();
        it.send(&id)
    };
    let (one, two) = (call(&alice, "huts"), call(&bob, "peaks"));
    alice.receive(&two).unwrap();
    bob.receive(&one).unwrap();
    for renaming in [&two, &one] {
        mallory.receive(renaming).unwrap();
    }
    let titles = [&alice, &bob, &mallory].map(|it| it.store.read(|tx| super::title(tx, &id)).unwrap());
    assert_eq!(titles, ["peaks"; 3]);
    let refused = mallory.store.write(|tx| GroupState::load(tx, &id)?.call(tx, "mine"));
    assert!(matches!(refused, Err(Error::NotAdmin)));
}

/// Another device of somebody's: the same user, with a client key of its own.
fn device_of(of: &Person, issuer: &SigningKey) -> Person {
    let name = of.user.local().to_string();
    person(&name, issuer)
}

/// Brings a device into what another one handed over; the commit.
fn bring_in(device: &Person, by: &Person, id: &GroupId, shown: &CurrentGroup) -> MlsMessage {
    let groups = by.store.read(handover).unwrap();
    device.store.write(|tx| take_over(tx, &groups)).unwrap();
    device
        .store
        .write(|tx| {
            let entry = entry(tx, id)?.expect("it is to come in");
            GroupState::enter(tx, &entry, shown)
        })
        .unwrap();
    let message = device.outstanding(id).unwrap().message;
    device.confirm(id);
    message
}

#[test]
fn another_device_of_a_plain_member_comes_in_by_itself_as_the_same_user() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let entry = bring_in(&tablet, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
        assert_eq!(other.members(&id).len(), 4);
    }
    assert!(tablet.events().iter().any(|event| matches!(event, Event::Joined { .. })));
    let pseudonym =
        |it: &Person| it.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).pseudonym)).unwrap();
    assert_eq!(pseudonym(&tablet), pseudonym(&bob));
    assert_eq!(tablet.store.read(|tx| super::title(tx, &id)).unwrap(), "climbing");
    // It says who it is, and is known by that.
    let present = tablet.send(&id);
    alice.receive(&present).unwrap();
    alice.knows(&[&tablet]);
    let mut both = vec![bob.leaf(&id), tablet.leaf(&id)];
    let mut named = alice.named(&id, &bob.user);
    both.sort();
    named.sort();
    assert_eq!(named, both, "both are removed together");
    for device in [&bob, &tablet] {
        alice.receive(&device.say(&id, "from here")).unwrap();
    }
}

#[test]
fn nobody_comes_in_as_another_users_device() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let mut groups = mallory.store.read(handover).unwrap();
    let bobs = bob.store.read(handover).unwrap();
    groups[0].pseudonym = bobs[0].pseudonym;
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &groups)).unwrap();
    ghost
        .store
        .write(|tx| {
            let entry = entry(tx, &id)?.unwrap();
            GroupState::enter(tx, &entry, &mallory.shown(&id))
        })
        .unwrap();
    let commit = ghost.outstanding(&id).unwrap().message;
    assert!(alice.receive(&commit).unwrap_err().contains("vouched"));
}

#[test]
fn a_removed_device_of_ones_own_goes_with_the_key_that_it_knows() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let tablet = device_of(&bob, &issuer);
    let entry = bring_in(&tablet, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
    let known = tablet.store.read(handover).unwrap();
    let client_key = tablet.account().client_key().public_key();
    bob.store.write(|tx| super::remove_own_device(tx, &client_key)).unwrap();
    let change = bob.store.read(|tx| super::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let removal = bob.stage(&id, &change.expect("it is in the group"));
    bob.confirm(&id);
    for other in [&alice, &mallory, &tablet] {
        other.receive(&removal.message).unwrap();
    }
    assert!(tablet.events().iter().any(|event| matches!(event, Event::Left { .. })));
    assert_eq!(alice.members(&id).len(), 3);
    let change = bob.store.read(|tx| super::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    assert!(change.is_none(), "once");
    // What the device knows lets nobody in any more.
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &known)).unwrap();
    ghost
        .store
        .write(|tx| {
            let entry = super::entry(tx, &id)?.unwrap();
            GroupState::enter(tx, &entry, &alice.shown(&id))
        })
        .unwrap();
    assert!(alice.receive(&ghost.outstanding(&id).unwrap().message).unwrap_err().contains("vouched"));
    // And what Bob's other devices are told does.
    let phone = device_of(&bob, &issuer);
    let entry = bring_in(&phone, &bob, &id, &alice.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
}

#[test]
fn what_a_removed_device_was_told_lets_nobody_in_though_it_never_came() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let known = bob.store.read(handover).unwrap();
    let tablet = device_of(&bob, &issuer).account().client_key().public_key();
    bob.store.write(|tx| super::remove_own_device(tx, &tablet)).unwrap();
    let evict = || bob.store.read(|tx| super::evict(tx, &GroupState::load(tx, &id)?)).unwrap();
    let change = evict().expect("it may know the key");
    assert!(matches!(change, Change::UserKey), "{change:?}");
    let commit = bob.stage(&id, &change);
    bob.confirm(&id);
    assert!(evict().is_none(), "once");
    for other in [&alice, &mallory] {
        other.receive(&commit.message).unwrap();
    }
    let ghost = device_of(&bob, &issuer);
    ghost.store.write(|tx| take_over(tx, &known)).unwrap();
    ghost.store.write(|tx| GroupState::enter(tx, &entry(tx, &id)?.unwrap(), &alice.shown(&id))).unwrap();
    assert!(alice.receive(&ghost.outstanding(&id).unwrap().message).unwrap_err().contains("vouched"));
}

#[test]
fn another_device_takes_the_users_new_key_into_its_leaf_soon() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let laptop = device_of(&bob, &issuer);
    let entry = bring_in(&laptop, &bob, &id, &bob.shown(&id));
    for other in [&alice, &bob, &mallory] {
        other.receive(&entry).unwrap();
    }
    let at_once = Options { commit_within: Duration::ZERO, ..Options::default() };
    let is_due = || laptop.store.read(|tx| Ok(super::due(tx, &at_once)?.contains(&id))).unwrap();
    let key = |of: &Person| of.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?).user_key)).unwrap();
    for told_before in [false, true] {
        let commit = bob.stage(&id, &Change::UserKey);
        bob.confirm(&id);
        assert_ne!(key(&laptop), key(&bob));
        let told = bob.store.read(handover).unwrap();
        if told_before {
            laptop.store.write(|tx| take_over(tx, &told)).unwrap();
        }
        assert!(!is_due(), "it does not know the key, or not of the commit");
        for other in [&alice, &mallory, &laptop] {
            other.receive(&commit.message).unwrap();
        }
        if !told_before {
            assert!(!is_due(), "it does not know the key");
            laptop.store.write(|tx| take_over(tx, &told)).unwrap();
        }
        assert!(is_due());
        let update = laptop.stage(&id, &Change::Update);
        laptop.confirm(&id);
        for other in [&alice, &bob, &mallory] {
            other.receive(&update.message).unwrap();
        }
        assert_eq!(key(&laptop), key(&bob));
        assert!(!is_due());
    }
}

#[test]
fn what_members_say_of_their_accounts_counts_when_the_as_shows_it() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let hints = || alice.store.read(super::hints).unwrap();
    for (speaker, name) in [(&bob, "robert"), (&mallory, "alicia")] {
        let name: UserName = format!("{name}@example.org").parse().unwrap();
        let mut account = speaker.account();
        account.user = name.clone();
        let credential = ClientCredential {
            user: name.clone(),
            client_key: account.client_key().public_key(),
            not_before: 0,
            not_after: u64::MAX,
            issuer_key: issuer.public_key(),
        };
        account.credential = Some(credential.issue(&issuer));
        speaker
            .store
            .write(|tx| {
                keep_identity(tx, &name);
                account.save(tx)
            })
            .unwrap();
        let said = speaker.say(&id, "I am called something else");
        alice.receive(&said).unwrap();
        let hint = MemberNews { user: speaker.user.clone(), name: Some(name.clone()) };
        assert_eq!(hints(), [hint]);
        // The lookup of the new name shows the same identity.
        alice.store.write(|tx| super::was_renamed(tx, &speaker.user, &name)).unwrap();
        let told = alice.events().into_iter().any(
            |event| matches!(event, Event::MemberRenamed { user, name: new, .. } if user == speaker.user && new == name),
        );
        assert!(told, "{name}");
        assert!(hints().is_empty());
    }
}

#[test]
fn the_end_and_the_reset_of_a_members_account_are_told_once_when_the_as_shows_them() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    bob.store.write(super::tell_groups_of_end).unwrap();
    alice.receive(&bob.send(&id)).unwrap();
    assert!(alice.events().is_empty(), "the AS was not asked");
    let hint = MemberNews { user: bob.user.clone(), name: None };
    assert_eq!(alice.store.read(super::hints).unwrap(), [hint]);
    // Nobody has the name, but that may be between an end and a reset.
    let is_absent = || alice.store.write(|tx| super::absent(tx, &bob.user)).unwrap();
    let days_pass = || {
        let sql = "UPDATE member_news SET absent = absent - 3 * 24 * 60 * 60, due = 0";
        alice.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
    };
    is_absent();
    assert!(alice.store.read(super::hints).unwrap().is_empty(), "not at once again");
    days_pass();
    alice.store.write(|tx| super::reappeared(tx, &bob.user)).unwrap();
    is_absent();
    assert!(alice.events().is_empty(), "the user was there again");
    for _ in 0..2 {
        days_pass();
        is_absent();
    }
    alice.store.write(|tx| super::was_reset(tx, &mallory.user)).unwrap();
    let stranger = "carol@example.org".parse().unwrap();
    alice.store.write(|tx| super::was_reset(tx, &stranger)).unwrap();
    let events = alice.events();
    let [Event::MemberGone { user: gone, .. }, Event::MemberReset { user: reset, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((gone, reset), (&bob.user, &mallory.user));
}
