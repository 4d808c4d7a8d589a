//! Identities of users (AS-3): what readers make of a server that lies about them, and what the user's own devices do
//! with them. Real clients, a real server, and a line between them that changes answers, with a key of the AS's.

mod kept_back;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, group_info::VerifiableGroupInfo};
use postern_client::{Client, DeviceState, Error, Event, IdentityError, Options, Seen, VerifiedUser};
use postern_protocol::{
    GroupInfo, PublicKey, TreeHash,
    auth::{AuthenticationKeys, ClientRecord, CurrentIdentity, UserRecord},
    credential::ClientCredential,
    eid::{EidState, FreshnessTicket, SignedState},
    encoding::Encoding,
    key::{PublishedKey, SigningKey},
    name::UserName,
    problem::ProblemType,
};
use postern_tests_kit::{
    BadLine, Commit, PATIENCE, User, World, befriend, device_of, eventually, identity_commit, joined, now,
};
use tls_codec::Deserialize as _;

/// The end of keys and credentials that the liar makes.
const FAR: u64 = 4_000_000_000;
const DAY: u64 = 24 * 60 * 60;

/// A server that lies about users, and has a signing key of the AS's to do so.
struct Liar {
    line: BadLine,
    key: SigningKey,
}

impl Liar {
    async fn at(world: &World) -> Self {
        let line = BadLine::to(world.server().address()).await;
        let this = Self { line, key: SigningKey::generate() };
        this.publish();
        this
    }

    /// Shows its key among the AS's.
    fn publish(&self) {
        let key = PublishedKey { public_key: self.key.public_key(), not_before: 0, not_after: FAR };
        self.line.rewrite("GET /as/keys", move |body| {
            let mut keys: AuthenticationKeys = Encoding::Cbor.decode(&body).expect("they are keys");
            keys.keys.push(key);
            Encoding::Cbor.encode(&keys)
        });
    }

    /// Changes the records of all users.
    fn lie(&self, change: impl FnMut(&mut UserRecord) + Send + 'static) {
        let change = Mutex::new(change);
        self.line.rewrite("GET /as/users/", move |body| {
            let Ok(mut record) = Encoding::Cbor.decode::<UserRecord>(&body) else { return body };
            (change.lock().unwrap())(&mut record);
            Encoding::Cbor.encode(&record)
        });
    }

    fn be_honest(&self) {
        self.line.mend();
        self.publish();
    }

    fn ticket(&self, name: &UserName, current: &CurrentIdentity, time: u64) -> FreshnessTicket {
        let tree_hash = group_info(&current.group_info).group_context().tree_hash().to_vec();
        let tree_hash = TreeHash::try_from(tree_hash.as_slice()).unwrap();
        FreshnessTicket::issue(name.clone(), current.state.eid, tree_hash, time, &self.key)
    }

    fn credential(&self, user: &UserName, client_key: PublicKey, not_after: u64) -> ClientRecord {
        let credential = ClientCredential {
            user: user.clone(),
            client_key,
            not_before: 0,
            not_after,
            issuer_key: self.key.public_key(),
        };
        ClientRecord { credential: credential.issue(&self.key), contact: None }
    }

    /// A whole user whom it made up.
    fn record(&self, user: &User) -> UserRecord {
        let (group_info, ratchet_tree) = (user.device.group_info(), user.device.ratchet_tree());
        let founding = user.founding;
        let state = SignedState::sign(&user.name, &founding, user.eid, &group_info, &user.device.key);
        let current = CurrentIdentity {
            group_info,
            ratchet_tree,
            founding: founding.transcript,
            founder: founding.founder,
            state,
        };
        UserRecord {
            profile: None,
            name: user.name.clone(),
            incarnation: 0,
            founding: None,
            commits: Vec::new(),
            more: false,
            clients: vec![self.credential(&user.name, user.device.public_key(), FAR)],
            ticket: self.ticket(&user.name, &current, now()),
            begun: Vec::new(),
            ended: Vec::new(),
            current,
        }
    }

    /// Lets a client talk to it instead of the server.
    fn deceives(&self, client: Client) -> Client {
        let directory = client.directory().to_owned();
        drop(client);
        Client::builder(directory).server(self.line.url()).options(options()).open().unwrap()
    }
}

fn options() -> Options {
    Options { accept_contacts: true, durable: false, ..Options::default() }
}

fn group_info(bytes: &GroupInfo) -> VerifiableGroupInfo {
    match MlsMessageIn::tls_deserialize_exact(bytes.as_bytes()).unwrap().extract() {
        MlsMessageBodyIn::GroupInfo(info) => info,
        _ => panic!("it is a GroupInfo"),
    }
}

fn refusal(found: Result<VerifiedUser, Error>) -> IdentityError {
    match found {
        Err(Error::Identity(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn events(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.unwrap()
}

fn splits(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::IdentitySplit { .. })).count()
}

fn keys(user: &VerifiedUser) -> Vec<PublicKey> {
    let mut keys: Vec<_> = user.clients.iter().map(|client| client.client_key).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_server_that_swaps_a_users_devices_under_the_same_group_id_is_found_out() {
    let world = World::builder().tokens(5).start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let bob = liar.deceives(world.person("bob").await);
    let honest = bob.look_up(alice.user()).await.unwrap();
    assert_eq!(keys(&honest), [alice.client_key()]);

    // The group id is free to choose.
    let record = world.look_up(alice.user()).await;
    let mut device = device_of(alice.user());
    device.found(group_info(&record.current.group_info).group_id().as_slice(), Default::default());
    let forged = liar.record(&User::with(alice.user().clone(), device));
    liar.lie(move |record| *record = forged.clone());
    assert_eq!(refusal(bob.look_up(alice.user()).await), IdentityError::Split);
    let told = events(&bob).await;
    assert_eq!(splits(&told), 1, "{told:?}");
    let group = bob.create_group("quarry").await.unwrap();
    let invited = group.invite(alice.user()).await;
    assert!(matches!(invited, Err(Error::Identity(IdentityError::Reset))), "{invited:?}");
    assert!(bob.known(alice.user()).unwrap().unwrap().reset_pending);

    liar.be_honest();
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()), [alice.client_key()]);
    assert!(!bob.known(alice.user()).unwrap().unwrap().reset_pending);
}

#[tokio::test]
async fn a_device_that_is_not_in_the_identity_is_not_taken_for_the_users() {
    let world = World::builder().tokens(5).start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let bob = liar.deceives(world.person("bob").await);
    let ghost = liar.credential(alice.user(), SigningKey::generate().public_key(), FAR);
    liar.lie(move |record| record.clients.push(ghost.clone()));
    assert_eq!(refusal(bob.look_up(alice.user()).await), IdentityError::NotADevice);
    liar.be_honest();

    // By a commit of its own, which takes nothing but a GroupInfo, and which OpenMLS accepts.
    let user = world.user("carol").await;
    bob.look_up(&user.name).await.unwrap();
    let mut ghost = user.further_device();
    let commit = ghost.external_commit(&user.device);
    ghost.merge();
    let eid = user.eid.followed_by(commit.as_bytes());
    let group_info = ghost.group_info();
    let state = SignedState::sign(&user.name, &user.founding, eid, &group_info, &ghost.key);
    let mut forged = liar.record(&user);
    forged.current.ratchet_tree = ghost.ratchet_tree();
    forged.current.group_info = group_info;
    forged.current.state = state;
    forged.commits = vec![commit];
    forged.clients.push(liar.credential(&user.name, ghost.public_key(), FAR));
    forged.ticket = liar.ticket(&user.name, &forged.current, now());
    liar.lie(move |record| *record = forged.clone());
    assert_eq!(refusal(bob.look_up(&user.name).await), IdentityError::Split);
}

#[tokio::test]
async fn commits_that_the_server_hides_reorders_or_takes_back_are_missed() {
    let world = World::builder().start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let laptop = world.device(&alice, "laptop").await;
    let readers = ["bob", "carol", "dave"].map(|name| world.person(name));
    let [bob, carol, dave] = readers;
    let readers = [bob.await, carol.await, dave.await].map(|reader| liar.deceives(reader));
    let old: Arc<Mutex<Option<UserRecord>>> = Arc::default();
    let kept = old.clone();
    liar.lie(move |record| *kept.lock().unwrap() = Some(record.clone()));
    for reader in &readers {
        assert_eq!(keys(&reader.look_up(alice.user()).await.unwrap()).len(), 2);
    }
    let tablet = world.device(&alice, "tablet").await;
    let lies: [fn(&mut UserRecord); 3] = [
        |record| drop(record.commits.pop()),
        |record| record.commits.reverse(),
        |record| record.commits.insert(0, record.commits[0].clone()),
    ];
    for (reader, lie) in readers.iter().zip(lies) {
        liar.lie(move |record| {
            if !record.commits.is_empty() {
                lie(record);
            }
        });
        assert_eq!(refusal(reader.look_up(alice.user()).await), IdentityError::Split);
        liar.be_honest();
        let mut expected = [&alice, &laptop, &tablet].map(Client::client_key);
        expected.sort();
        assert_eq!(keys(&reader.look_up(alice.user()).await.unwrap()), expected);
    }

    let old = old.lock().unwrap().take().unwrap();
    liar.lie(move |record| *record = old.clone());
    for reader in &readers {
        assert_eq!(refusal(reader.look_up(alice.user()).await), IdentityError::RolledBack);
    }
}

#[tokio::test]
async fn an_old_ticket_is_refused() {
    let world = World::builder().start().await;
    let liar = Arc::new(Liar::at(&world).await);
    let alice = world.person("alice").await;
    let bob = liar.deceives(world.person("bob").await);
    for (time, is_refused) in [(now() - 3600, true), (now() - 200, false), (now() + 3600, true)] {
        let key = liar.key.clone();
        liar.lie(move |record| {
            let ticket = &record.ticket;
            record.ticket =
                FreshnessTicket::issue(record.name.clone(), ticket.eid, ticket.tree_hash, time, &key);
        });
        let found = bob.look_up(alice.user()).await;
        assert_eq!(matches!(found, Err(Error::Identity(IdentityError::Ticket(_)))), is_refused, "{found:?}");
    }
    liar.be_honest();
    bob.look_up(alice.user()).await.unwrap();
    let key = liar.key.clone();
    liar.lie(move |record| {
        let ticket = &record.ticket;
        record.ticket =
            FreshnessTicket::issue(record.name.clone(), ticket.eid, ticket.tree_hash, now() - 200, &key);
    });
    let error = refusal(bob.look_up(alice.user()).await);
    assert_eq!(error, IdentityError::Ticket("it is older than one that was seen"));
}

#[tokio::test]
async fn two_readers_that_were_shown_two_histories_find_out_when_they_compare() {
    let world = World::builder().tokens(20).start().await;
    let liar = Liar::at(&world).await;
    let mut alice = world.user("alice").await;
    let bob = world.person("bob").await;
    let carol = liar.deceives(world.person("carol").await);
    for reader in [&bob, &carol] {
        reader.look_up(&alice.name).await.unwrap();
    }
    // Two commits of one epoch: the AS shows Bob the one, and Carol the other.
    let second = alice.device.commit(Commit { update: true, ..Commit::default() });
    let second_info = second.group_info.clone().unwrap();
    let eid = alice.eid.followed_by(second.commit.as_bytes());
    let state = SignedState::sign(&alice.name, &alice.founding, eid, &second_info, &alice.device.key);
    alice.device.drop_commit();
    world.commit_identity(&mut alice, Commit { update: true, ..Commit::default() }).await;
    let mut forged = liar.record(&alice);
    forged.current.group_info = second_info;
    forged.current.state = state;
    forged.commits = vec![second.commit];
    forged.ticket = liar.ticket(&alice.name, &forged.current, now());
    liar.lie(move |record| *record = forged.clone());

    let shown = |found: VerifiedUser| found.eid;
    let (bobs, carols) =
        (shown(bob.look_up(&alice.name).await.unwrap()), shown(carol.look_up(&alice.name).await.unwrap()));
    assert_eq!((bobs.epoch, carols.epoch), (1, 1));
    assert_eq!(bob.compare(&alice.name, &carols).unwrap(), Seen::Split);
    assert_eq!(carol.compare(&alice.name, &bobs).unwrap(), Seen::Split);
    assert_eq!(carol.compare(&alice.name, &carols).unwrap(), Seen::Same);
    let begun = EidState::founded(0, alice.founding.transcript);
    assert_eq!(bob.compare(&alice.name, &begun).unwrap(), Seen::Same, "it split after this");
}

#[tokio::test]
async fn a_change_that_the_server_keeps_back_is_missed_when_the_user_says_something() {
    let world = World::builder().tokens(5).start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let carol = liar.deceives(world.person("carol").await);
    let group = alice.create_group("quarry").await.unwrap().id().clone();
    befriend(&alice, &carol, &group).await;
    joined(&carol, 1).await;
    carol.look_up(alice.user()).await.unwrap();

    let mut old = world.look_up(alice.user()).await;
    let key = liar.key.clone();
    let name = alice.user().clone();
    liar.lie(move |record| {
        if record.name == name {
            let ticket = &mut old.ticket;
            *ticket = FreshnessTicket::issue(name.clone(), ticket.eid, ticket.tree_hash, now(), &key);
            *record = old.clone();
        }
    });
    world.device(&alice, "laptop").await;
    assert_eq!(keys(&carol.look_up(alice.user()).await.unwrap()), [alice.client_key()], "nothing shows it");
    alice.group_with_id(&group).send("hello").await.unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        told.extend(events(&carol).await);
    }
    assert_eq!(splits(&told), 1, "{told:?}");
    assert!(told.iter().any(|event| matches!(event, Event::Message { .. })));
}

#[tokio::test]
async fn a_change_that_the_server_keeps_back_from_a_newcomer_is_missed_though_the_user_says_nothing() {
    let world = World::builder().tokens(5).start().await;
    let liar = Liar::at(&world).await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let group = alice.create_group("quarry").await.unwrap();
    befriend(&alice, &bob, group.id()).await;
    joined(&bob, 1).await;
    events(&alice).await;
    group.name_admin(bob.user()).await.unwrap();
    let mut old = world.look_up(alice.user()).await;
    world.device(&alice, "laptop").await;
    events(&alice).await;
    // It brings her card.
    group.update().await.unwrap();
    events(&bob).await;

    let carol = liar.deceives(world.person("carol").await);
    let (key, name) = (liar.key.clone(), alice.user().clone());
    liar.lie(move |record| {
        if record.name == name {
            let ticket = &mut old.ticket;
            *ticket = FreshnessTicket::issue(name.clone(), ticket.eid, ticket.tree_hash, now(), &key);
            *record = old.clone();
        }
    });
    befriend(&bob, &carol, group.id()).await;
    joined(&carol, 1).await;
    let until = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while splits(&told) == 0 {
        assert!(Instant::now() < until, "{told:?}");
        bob.receive(Duration::ZERO).await.unwrap();
        told.extend(events(&carol).await);
    }
    let is_of_alice = |event: &Event| matches!(event, Event::IdentitySplit { user } if user == alice.user());
    assert!(told.iter().any(is_of_alice), "{told:?}");
}

#[tokio::test]
async fn a_state_that_no_device_of_the_user_signed_is_refused() {
    let world = World::builder().start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    world.device(&alice, "laptop").await;
    let bob = liar.deceives(world.person("bob").await);
    let lies: [fn(&mut UserRecord); 4] = [
        |record| record.current.founder = record.clients[0].credential_key(),
        |record| record.current.founding = record.current.state.eid.transcript,
        |record| record.current.state.eid.transcript = record.current.founding,
        |record| record.incarnation = 1,
    ];
    for (place, lie) in lies.into_iter().enumerate() {
        let other = alice.client_key();
        liar.lie(move |record| {
            lie(record);
            if record.current.founder == other {
                record.current.founder = PublicKey::new([7; 32]);
            }
        });
        assert_eq!(refusal(bob.look_up(alice.user()).await), IdentityError::State, "{place}");
    }
    liar.be_honest();
    bob.look_up(alice.user()).await.unwrap();
}

trait CredentialKey {
    fn credential_key(&self) -> PublicKey;
}

impl CredentialKey for ClientRecord {
    fn credential_key(&self) -> PublicKey {
        ClientCredential::parse(&self.credential).unwrap().client_key
    }
}

#[tokio::test]
async fn a_new_device_is_the_users_once_it_confirms_itself() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let bob = world.person("bob").await;
    bob.look_up(alice.user()).await.unwrap();
    let home = world.homes.path().join("laptop");
    let builder = Client::builder(&home).server(world.server().url()).options(options());
    let request = builder.request_link(alice.user()).unwrap();
    let grant = alice.approve_link(&request).await.unwrap();
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()), [alice.client_key()]);
    let states: Vec<_> = alice.devices().await.unwrap().iter().map(|device| device.state).collect();
    assert_eq!(states, [DeviceState::Confirmed, DeviceState::Pending]);

    let laptop = builder.complete_link(&grant).await.unwrap();
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()).len(), 2);
    let added = Event::DeviceAdded { user: alice.user().clone(), device: laptop.client_key() };
    assert!(events(&bob).await.contains(&added));
    alice.look_up(alice.user()).await.unwrap();
    assert!(events(&alice).await.contains(&added), "the user's other devices see it, too");
    let audit = bob.audit(alice.user()).await.unwrap();
    assert_eq!((audit.incarnations, audit.commits, audit.founder), (1, 2, alice.client_key()));
}

#[tokio::test]
async fn a_device_that_is_removed_is_nothing_from_then_on() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let laptop = world.device(&alice, "laptop").await;
    let bob = world.person("bob").await;
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()).len(), 2);
    alice.name_device(&laptop.client_key(), "work").unwrap();
    assert_eq!(alice.device("work").await.unwrap().client_key, laptop.client_key());
    assert!(matches!(alice.remove_device(&alice.client_key()).await, Err(Error::OwnDevice)));
    alice.remove_device(&laptop.client_key()).await.unwrap();
    alice.remove_device(&laptop.client_key()).await.unwrap();
    assert!(matches!(alice.device("work").await, Err(Error::UnknownDevice(_))));
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()), [alice.client_key()]);
    let removed = Event::DeviceRemoved { user: alice.user().clone(), device: laptop.client_key() };
    assert!(events(&bob).await.contains(&removed));
    let tokens = laptop.wallet().fetch(1).await;
    assert_eq!(tokens.unwrap_err().problem(), Some(ProblemType::NotAllowed));
    laptop.look_up(laptop.user()).await.unwrap();
    assert!(laptop.pending_events().unwrap().iter().any(|(_, event)| *event == removed));
    let removes = laptop.remove_device(&alice.client_key()).await;
    assert!(matches!(removes, Err(Error::RemovedDevice)), "{removes:?}");
}

#[tokio::test]
async fn a_device_that_was_silent_for_long_hides_nobody_else_and_is_removed_by_another() {
    let world = World::builder().start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let laptop = world.device(&alice, "laptop").await;
    let (alice, bob) = (liar.deceives(alice), liar.deceives(world.person("bob").await));
    let silent_since = |days: u64| {
        let old = liar.credential(alice.user(), laptop.client_key(), now() - days * 86_400);
        let key = laptop.client_key();
        liar.lie(move |record| {
            for client in record.clients.iter_mut().filter(|client| client.credential_key() == key) {
                *client = old.clone();
            }
        });
    };
    let look = async || {
        alice.forget_the_upkeep().unwrap();
        alice.receive(Duration::ZERO).await.unwrap();
        alice.devices().await.unwrap()
    };
    look().await;
    silent_since(200);
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()), [alice.client_key()]);
    let devices = look().await;
    assert_eq!(devices.len(), 2, "she saw a credential that has not ended");
    assert_eq!(devices.iter().filter(|device| device.state == DeviceState::Silent).count(), 1);
    alice.pass_time_for_silent_devices(170 * DAY).unwrap();
    assert_eq!(look().await.len(), 2, "it may come back");

    alice.pass_time_for_silent_devices(20 * DAY).unwrap();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(alice.devices().await.unwrap().len(), 2, "once a day is enough");
    assert_eq!(look().await.len(), 1);
    assert_eq!(keys(&bob.look_up(alice.user()).await.unwrap()), [alice.client_key()]);
}

#[tokio::test]
async fn a_credential_that_a_server_made_up_removes_no_device() {
    let world = World::builder().start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let laptop = world.device(&alice, "laptop").await;
    let alice = liar.deceives(alice);
    let look = async || {
        alice.forget_the_upkeep().unwrap();
        drop(alice.receive(Duration::ZERO).await);
    };
    look().await;
    let forger = SigningKey::generate();
    let ended = ClientCredential {
        user: alice.user().clone(),
        client_key: laptop.client_key(),
        not_before: 0,
        not_after: 1,
        issuer_key: liar.key.public_key(),
    };
    let unsigned = ClientRecord { credential: ended.issue(&forger), contact: None };
    let signed = liar.credential(alice.user(), laptop.client_key(), 1);
    for forged in [unsigned, signed] {
        for beside in [true, false] {
            let forged = forged.clone();
            liar.lie(move |record| {
                let key = forged.credential_key();
                record.clients.retain(|client| beside || client.credential_key() != key);
                record.clients.push(forged.clone());
            });
            look().await;
        }
    }
    liar.be_honest();
    assert_eq!(alice.devices().await.unwrap().len(), 2);
    assert_eq!(keys(&alice.look_up(alice.user()).await.unwrap()).len(), 2);
    world.close();
}

#[tokio::test]
async fn a_removed_device_is_out_of_groups_where_it_was_a_user_of_its_own() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let laptop = world.device(&alice, "laptop").await;
    let group = bob.create_group("climbing").await.unwrap().id().clone();
    // The laptop is off: it is added as a user of its own, and does not move.
    befriend(&bob, &alice, &group).await;
    joined(&alice, 1).await;
    let devices = || {
        let members = bob.group_with_id(&group).members().unwrap();
        members.into_iter().filter_map(|member| member.client_key).collect::<Vec<_>>()
    };
    assert!(devices().contains(&laptop.client_key()));
    alice.remove_device(&laptop.client_key()).await.unwrap();
    alice.receive(Duration::ZERO).await.unwrap();
    bob.receive(Duration::ZERO).await.unwrap();
    let left = devices();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!left.contains(&laptop.client_key()));
    eventually("nothing is left to do", async || {
        bob.receive(Duration::ZERO).await.unwrap();
        (!bob.has_errands().unwrap()).then_some(())
    })
    .await;
    world.close();
}

#[tokio::test]
async fn devices_that_change_an_identity_at_once_both_have_their_way() {
    let world = World::builder().start().await;
    let phone = world.person("alice").await;
    let laptop = world.device(&phone, "laptop").await;
    let old = world.device(&phone, "old").await;
    let home = world.homes.path().join("tablet");
    let tablet = Client::builder(&home).server(world.server().url()).options(options());
    let request = tablet.request_link(phone.user()).unwrap();
    let old_key = old.client_key();
    let (removed, granted) = tokio::join!(phone.remove_device(&old_key), laptop.approve_link(&request));
    removed.unwrap();
    let tablet = tablet.complete_link(&granted.unwrap()).await.unwrap();
    let mut expected = [&phone, &laptop, &tablet].map(Client::client_key);
    expected.sort();
    for device in [&phone, &laptop, &tablet] {
        assert_eq!(keys(&device.look_up(phone.user()).await.unwrap()), expected);
    }
    let states = [&phone, &laptop, &tablet].map(|device| device.known(phone.user()).unwrap().unwrap().eid);
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
}

#[tokio::test]
async fn a_registration_by_hand_is_a_user_like_any_other() {
    let world = World::builder().tokens(20).start().await;
    let mut alice = world.user("alice").await;
    let bob = world.person("bob").await;
    let found = bob.look_up(&alice.name).await.unwrap();
    assert_eq!(found.eid, alice.eid);
    let made = alice.device.commit(Commit { update: true, ..Commit::default() });
    world.pay(&identity_commit(&alice, &made, &alice.device)).await.assert_ok("an update");
    alice.device.merge();
    alice.moved(&made.commit);
    assert_eq!(bob.look_up(&alice.name).await.unwrap().eid, alice.eid);
}
