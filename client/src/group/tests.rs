//! Clients without a server: what one sends is handed to the others by the test.

use openmls::prelude::{KeyPackage, Lifetime};
use openmls_traits::OpenMlsProvider as _;
use postern_protocol::{
    Address, MlsMessage, PublicKey, RatchetTree, Welcome,
    credential::ClientCredential,
    ds::{GroupId, GroupIdReserved, MessageAccepted, SubmitMessage},
    encoding::Encoding,
    key::SigningKey,
    mls::DeliveryAddress,
    name::UserName,
};
use tls_codec::Serialize as _;

use super::{
    Change, Content, GroupState, RosterEntry, introduce, join, members, outbox, pending_events, receive,
};
use crate::{
    account::Account,
    contact::FriendshipSecrets,
    error::{Error, Rejection, Result},
    event::{self, Event},
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
    store.write(|tx| account.save(tx)).unwrap();
    Person { store, user, _directory: directory }
}

fn delivery() -> DeliveryAddress {
    DeliveryAddress { domain: "example.org".parse().unwrap(), address: Address::generate().unwrap() }
}

impl Person {
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
        let accepted = MessageAccepted { epoch: 0, undelivered: 0 };
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
    fn join(&self, welcome: &Welcome, tree: Option<&RatchetTree>) -> Result<(), String> {
        self.store.write(|tx| Ok(told(tx.attempt(|| join(tx, welcome, tree))))).unwrap()
    }

    fn tree(&self, id: &GroupId) -> RatchetTree {
        let tree = self.store.read(|tx| Ok(GroupState::load(tx, id)?.mls.export_ratchet_tree())).unwrap();
        RatchetTree::new(tree.tls_serialize_detached().unwrap())
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
    let bobs = alice.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf_keys().nth(1))).unwrap().unwrap();
    let removal = alice.stage(&id, &Change::Remove(vec![bobs]));
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

    // Mallory's client signs Alice's leaf key: a link that claims Alice's leaf.
    let account = mallory.account();
    let alices = alice.store.read(|tx| Ok(GroupState::load(tx, &id)?.leaf.public_key())).unwrap();
    let link = crate::identity::IdentityLink::sign(
        &account.client_key(),
        account.credential().unwrap(),
        Some(&id),
        &alices,
    );
    mallory.push(
        &id,
        &Content::Introduction {
            title: "Mallory's".to_owned(),
            roster: vec![RosterEntry { leaf_key: alices, link }],
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

/// A KeyPackage that ends in a second.
fn ending_key_package(of: &Person) -> KeyPackage {
    let now = of.store.now();
    of.store
        .write(|tx| {
            let key = SigningKey::generate();
            let bundle = KeyPackage::builder()
                .key_package_lifetime(Lifetime::init(now - 10, now + 1))
                .leaf_node_capabilities(mls::capabilities())
                .leaf_node_extensions(leaf::extensions(tx, &delivery())?)
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
    std::thread::sleep(std::time::Duration::from_millis(2100));
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
