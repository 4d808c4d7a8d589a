//! A device was removed, and the AS keeps that back from those who do not ask for it by hand: whatever it answers to the lookups
//! of their clients, they are told of a lie, or of the removal in the end.

use std::time::Duration;

use postern_client::{Client, Event, Options};
use postern_protocol::{
    PublicKey, auth::UserRecord, ds::GroupId, eid::FreshnessTicket, name::UserName, problem::ProblemType,
};
use postern_tests_kit::{BadLine, World, befriend, joined, now};

use super::{CredentialKey as _, Liar, events, keys, options, splits};

const HOUR: u64 = 60 * 60;

/// Alice with a phone and a laptop, in a group with readers who know both. Each reader has a liar of its own.
struct Scene {
    world: World,
    alice: Client,
    laptop: PublicKey,
    group: GroupId,
    readers: Vec<(Liar, Client)>,
    /// The record that the AS showed before there was a laptop.
    early: UserRecord,
    /// The record that it shows while there is one.
    old: UserRecord,
}

impl Scene {
    async fn with(names: &[&str]) -> Self {
        let world = World::builder().tokens(20).start().await;
        let alice = world.person("alice").await;
        let group = alice.create_group("quarry").await.unwrap().id().clone();
        let mut readers = Vec::new();
        for name in names {
            let liar = Liar::at(&world).await;
            let reader = liar.deceives(world.person(name).await);
            befriend(&alice, &reader, &group).await;
            joined(&reader, 1).await;
            readers.push((liar, reader));
        }
        let early = world.look_up(alice.user()).await;
        let laptop = world.device(&alice, "laptop").await.client_key();
        let old = world.look_up(alice.user()).await;
        for (_, reader) in &readers {
            assert_eq!(keys(&reader.look_up(alice.user()).await.unwrap()).len(), 2);
        }
        Self { world, alice, laptop, group, readers, early, old }
    }

    /// Alice removes the laptop, and her phone says something.
    async fn goes_on(&self) {
        self.alice.remove_device(&self.laptop).await.unwrap();
        self.alice.group_with_id(&self.group).send("hello").await.unwrap();
    }

    fn removal(&self) -> Event {
        Event::DeviceRemoved { user: self.alice.user().clone(), device: self.laptop }
    }
}

impl Liar {
    /// Changes the records of one user.
    fn lie_about(&self, user: &UserName, change: impl Fn(&mut UserRecord) + Send + 'static) {
        let user = user.clone();
        self.lie(move |record| {
            if record.name == user {
                change(record);
            }
        });
    }

    /// Answers all lookups of a user with this problem.
    fn refuse(&self, user: &UserName, kind: ProblemType) {
        self.line.answer(
            &format!("GET /as/users/{}", user.path_segment()),
            usize::MAX,
            &BadLine::refusal(kind),
        );
    }

    /// Shows the present record of a user with a ticket of two hours ago.
    fn show_old_ticket(&self, user: &UserName) {
        let key = self.key.clone();
        self.lie_about(user, move |record| {
            let (ticket, time) = (&record.ticket, now() - 2 * HOUR);
            record.ticket =
                FreshnessTicket::issue(record.name.clone(), ticket.eid, ticket.tree_hash, time, &key);
        });
    }

    /// Shows a record of before, with a ticket of now, and without the credential of one of the user's devices.
    fn show_without(&self, device: PublicKey, old: &UserRecord) {
        let (key, old) = (self.key.clone(), old.clone());
        self.lie_about(&old.name.clone(), move |record| {
            *record = old.clone();
            record.clients.retain(|client| client.credential_key() != device);
            let ticket = &record.ticket;
            record.ticket =
                FreshnessTicket::issue(record.name.clone(), ticket.eid, ticket.tree_hash, now(), &key);
        });
    }
}

fn hidden(events: &[Event], user: &UserName) -> usize {
    let hidden = Event::IdentityHidden { user: user.clone() };
    events.iter().filter(|event| **event == hidden).count()
}

#[tokio::test]
async fn an_answer_that_does_not_hold_does_not_rid_the_as_of_what_a_device_said() {
    let scene = Scene::with(&["bob", "carol", "dave"]).await;
    let user = scene.alice.user();
    let [(nobody, _), (older, _), (late, _)] = scene.readers.as_slice() else { panic!("there are three") };
    nobody.refuse(user, ProblemType::NotFound);
    let early = scene.early.clone();
    older.lie_about(user, move |record| *record = early.clone());
    late.show_old_ticket(user);
    scene.goes_on().await;
    for (liar, reader) in &scene.readers {
        let mut told = Vec::new();
        for _ in 0..3 {
            told.extend(events(reader).await);
        }
        assert!(told.iter().any(|event| matches!(event, Event::Message { .. })), "{told:?}");
        assert!(!told.contains(&scene.removal()) && splits(&told) == 0, "{told:?}");
        liar.be_honest();
        reader.pass_time_for_hidden_identities(HOUR).unwrap();
        let told = events(reader).await;
        assert!(told.contains(&scene.removal()), "{}: {told:?}", reader.user());
        assert_eq!((splits(&told), hidden(&told, user)), (0, 0), "{told:?}");
    }
    scene.world.close();
}

#[tokio::test]
async fn an_as_that_leaves_out_the_device_that_speaks_is_found_out() {
    let scene = Scene::with(&["bob", "carol"]).await;
    let phone = scene.alice.client_key();
    for (liar, _) in &scene.readers {
        liar.show_without(phone, &scene.old);
    }
    // Bob looks before the phone speaks, and Carol because it did.
    let (_, bob) = &scene.readers[0];
    assert_eq!(keys(&bob.look_up(scene.alice.user()).await.unwrap()), [scene.laptop]);
    scene.goes_on().await;
    for (liar, reader) in &scene.readers {
        let mut told = Vec::new();
        for _ in 0..3 {
            told.extend(events(reader).await);
        }
        assert_eq!(splits(&told), 1, "{}: {told:?}", reader.user());
        assert!(told.iter().any(|event| matches!(event, Event::Message { .. })), "{told:?}");
        liar.be_honest();
        let found = reader.look_up(scene.alice.user()).await.unwrap();
        assert_eq!(keys(&found), [phone]);
    }
    scene.world.close();
}

#[tokio::test]
async fn an_as_that_shows_members_nothing_that_holds_for_a_day_is_told_of_once() {
    let mut scene = Scene::with(&["bob", "carol", "dave"]).await;
    let user = scene.alice.user().clone();
    let reopened = |(liar, reader): (Liar, Client)| {
        let directory = reader.directory().to_owned();
        drop(reader);
        let options = Options { look_up_every: Duration::ZERO, ..options() };
        let reader = Client::builder(directory).server(liar.line.url()).options(options).open().unwrap();
        (liar, reader)
    };
    scene.readers = std::mem::take(&mut scene.readers).into_iter().map(reopened).collect();
    let [(older, _), (late, _), (deaf, _)] = scene.readers.as_slice() else { panic!("there are three") };
    let early = scene.early.clone();
    older.lie_about(&user, move |record| *record = early.clone());
    late.show_old_ticket(&user);
    // A refusal by another name is one, too.
    deaf.refuse(&user, ProblemType::AccountSuspended);
    scene.goes_on().await;
    for (liar, reader) in &scene.readers {
        for expected in [0, 0, 1, 0] {
            let told = events(reader).await;
            assert_eq!(hidden(&told, &user), expected, "{}: {told:?}", reader.user());
            reader.pass_time_for_hidden_identities(13 * HOUR).unwrap();
        }
        liar.be_honest();
        let told = events(reader).await;
        assert!(told.contains(&scene.removal()) && hidden(&told, &user) == 0, "{told:?}");
    }
    scene.world.close();
}

#[tokio::test]
async fn an_as_that_is_away_for_days_hides_nobody() {
    let scene = Scene::with(&["bob"]).await;
    let user = scene.alice.user();
    scene.goes_on().await;
    let (liar, bob) = &scene.readers[0];
    liar.refuse(user, ProblemType::Unavailable);
    for _ in 0..4 {
        let error = bob.sync(Duration::ZERO).await.expect_err("it is not available");
        assert!(error.is_passing(), "{error}");
        bob.pass_time_for_hidden_identities(13 * HOUR).unwrap();
    }
    liar.be_honest();
    let told = events(bob).await;
    assert!(told.contains(&scene.removal()) && hidden(&told, user) == 0, "{told:?}");
    scene.world.close();
}

#[tokio::test]
async fn an_owner_to_whom_the_as_shows_a_removed_device_again_or_nobody_at_all_is_told() {
    let world = World::builder().tokens(20).start().await;
    let liar = Liar::at(&world).await;
    let alice = world.person("alice").await;
    let laptop = world.device(&alice, "laptop").await.client_key();
    let old = world.look_up(alice.user()).await;
    let alice = liar.deceives(alice);
    alice.remove_device(&laptop).await.unwrap();
    let user = alice.user();
    for shows_nobody in [false, true] {
        if shows_nobody {
            liar.refuse(user, ProblemType::NotFound);
        } else {
            let old = old.clone();
            liar.lie_about(user, move |record| *record = old.clone());
        }
        alice.forget_the_upkeep().unwrap();
        for expected in [0, 0, 1, 0] {
            let told = events(&alice).await;
            assert_eq!(hidden(&told, user), expected, "{shows_nobody}: {told:?}");
            alice.pass_time_for_hidden_identities(13 * HOUR).unwrap();
        }
        liar.be_honest();
        let told = events(&alice).await;
        assert_eq!(hidden(&told, user), 0, "{told:?}");
    }
    let devices: Vec<_> = alice.devices().await.unwrap().iter().map(|device| device.client_key).collect();
    assert_eq!(devices, [alice.client_key()]);
    world.close();
}
