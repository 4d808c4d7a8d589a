//! What people do with their account as a whole (AS-8, AS-9). Real clients, a real server.

use std::{fs, path::Path, time::Duration};

use postern_client::{
    Client, Error, Event, ForContacts, IdentityError, Member, ProfileChange, RecoveryKey, recovery_key_of,
    recovery_words,
};
use postern_protocol::{name::UserName, problem::ProblemType};
use postern_tests_kit::{User, World, befriend, eventually};

/// The recovery key as its owner wrote it down.
fn written_down(client: &Client) -> RecoveryKey {
    let words = recovery_words(&client.recovery_key().unwrap().expect("it was not shown yet"));
    client.forget_recovery_key().unwrap();
    recovery_key_of(&words).unwrap()
}

async fn reset(world: &World, name: &str, home: &str, key: &RecoveryKey) -> Result<Client, Error> {
    Client::builder(world.homes.path().join(home)).server(world.server().url()).reset(name, key).await
}

/// The reason why there is no client.
fn refused(client: Result<Client, Error>) -> Error {
    match client {
        Ok(_) => panic!("there is one"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_recovery_key_is_shown_until_it_is_written_down_and_no_longer() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let first = alice.recovery_key().unwrap().expect("made at registration");
    assert_eq!(
        Client::open(alice.directory()).unwrap().recovery_key().unwrap(),
        Some(first),
        "after a crash, too"
    );
    let key = written_down(&alice);
    assert_eq!(alice.recovery_key().unwrap(), None);
    let new = alice.replace_recovery_key(&key).await.unwrap();
    assert_ne!(new, key);
    let refused = alice.replace_recovery_key(&key).await.unwrap();
    assert_eq!(refused, new, "an answer that was lost: the new one is the AS's, and stays");
    assert_eq!(written_down(&alice), new);
    let error = alice.replace_recovery_key(&key).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::WrongProof), "the old one is worth nothing");
}

#[tokio::test]
async fn a_contact_sees_a_reset_as_a_reset_and_the_lost_device_is_nothing_any_more() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let key = written_down(&bob);
    let before = alice.look_up(bob.user()).await.unwrap();
    let wrong = refused(reset(&world, "bob", "wrong", &RecoveryKey::generate()).await);
    assert_eq!(wrong.problem(), Some(ProblemType::WrongProof));
    let again = reset(&world, "bob", "new-phone", &key).await.unwrap();
    assert_eq!(again.user(), bob.user());
    assert_ne!(again.client_key(), bob.client_key());

    let error = alice.look_up(bob.user()).await.unwrap_err();
    assert!(matches!(error, Error::Identity(IdentityError::Reset)), "{error}");
    let events = alice.sync(Duration::ZERO).await.unwrap();
    let resets =
        events.iter().filter(|event| matches!(event, Event::IdentityReset { user } if user == bob.user()));
    assert_eq!(resets.count(), 1, "{events:?}");
    let known = alice.known(bob.user()).unwrap().unwrap();
    assert!(known.reset_pending && !known.verified);
    let shown = alice.pending_reset(bob.user()).unwrap().unwrap();
    assert_eq!((shown.founder, shown.eid.incarnation), (again.client_key(), 1));
    assert_eq!(known.eid, before.eid, "the known one stays until a person says so");
    assert!(alice.accept_reset(bob.user()).unwrap());
    let after = alice.look_up(bob.user()).await.unwrap();
    assert_eq!(after.clients.len(), 1);
    assert_eq!(after.clients[0].client_key, again.client_key());

    // Somebody who never knew him sees him as he is. The lost device cannot go on.
    let carol = world.person("carol").await;
    assert_eq!(carol.look_up(bob.user()).await.unwrap().clients.len(), 1);
    let lost = bob.devices().await.unwrap_err();
    assert!(matches!(lost, Error::Identity(_)), "{lost}");
    assert_eq!(again.devices().await.unwrap().len(), 1);
    // Once a month.
    let error = refused(reset(&world, "bob", "another", &key).await);
    assert_eq!(error.problem(), Some(ProblemType::TooManyChanges));
}

#[tokio::test]
async fn a_reset_that_was_interrupted_goes_on_with_the_same_client() {
    let world = World::builder().start().await;
    let bob = world.person("bob").await;
    let key = written_down(&bob);
    // The hour's attempts are used up in the middle.
    let close = "SELECT operator.set_user_limit('reset_attempts_per_hour', $1)";
    world.admin.execute(close, &[&1]).await.unwrap();
    world.admin.execute("DELETE FROM auth.registration_attempts", &[]).await.unwrap();
    let error = refused(reset(&world, "bob", "new-phone", &key).await);
    assert_eq!(error.problem(), Some(ProblemType::TooManyChanges));
    assert_eq!(world.count("auth.clients").await, 0, "ended, and not begun anew");
    world.admin.execute(close, &[&1_000_000]).await.unwrap();
    let again = reset(&world, "bob", "new-phone", &key).await.unwrap();
    assert_eq!(world.count("auth.incarnations").await, 2);
    assert_eq!(again.devices().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_user_who_takes_another_name_is_the_same_to_contacts_and_own_devices() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let key = written_down(&bob);
    let tablet = world.device(&bob, "tablet").await;
    let before = alice.look_up(bob.user()).await.unwrap();
    let old = bob.user().clone();
    let error = refused(bob.rename("alice", &key).await);
    assert_eq!(error.problem(), Some(ProblemType::NameTaken));
    let error = refused(bob.rename("robert", &RecoveryKey::generate()).await);
    assert_eq!(error.problem(), Some(ProblemType::WrongProof));
    let bob = bob.rename("robert", &key).await.unwrap();
    let robert: UserName = "robert@home.example".parse().unwrap();
    assert_eq!(bob.user(), &robert);

    // A contact who hears of the new name knows who it is.
    let after = alice.look_up(&robert).await.unwrap();
    assert_eq!(after.clients.len(), before.clients.len());
    let events = alice.sync(Duration::ZERO).await.unwrap();
    let renamed = Event::Renamed { from: old.clone(), to: robert.clone() };
    assert!(events.contains(&renamed), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::IdentityReset { .. })), "{events:?}");
    assert_eq!(alice.known(&old).unwrap(), None);
    assert_eq!(alice.known(&robert).unwrap().unwrap().founder, bob.client_key());
    let error = alice.look_up(&old).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::NotFound));

    // The user's other device finds out by itself, with the daily look at its own identity.
    tablet.forget_the_upkeep().unwrap();
    tablet.receive(Duration::ZERO).await.unwrap();
    let tablet = Client::open(tablet.directory()).unwrap();
    assert_eq!(tablet.user(), &robert);
    let laptop = world.device(&tablet, "laptop").await;
    assert_eq!(laptop.user(), &robert);
    assert_eq!(alice.look_up(&robert).await.unwrap().clients.len(), 3);
}

/// Whether a file below a directory holds one of these, and which.
fn found(directory: &Path, parts: &[(&str, Vec<u8>)], into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found(&path, parts, into);
        } else if let Ok(bytes) = fs::read(&path) {
            for (what, part) in parts {
                if bytes.windows(part.len()).any(|window| window == part) {
                    into.push(format!("{what} in {}", path.display()));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_deleted_account_in_a_dump_or_in_the_tables_files() {
    let world = World::builder().start().await;
    let name = "bartholomew-the-forgotten";
    let alice = world.person("alice").await;
    let bob = world.person(name).await;
    let key = written_down(&bob);
    let tablet = world.device(&bob, "tablet").await;
    let group = alice.create_group("one").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    bob.receive(Duration::ZERO).await.unwrap();
    // Statistics quote values.
    world.admin.batch_execute("ANALYZE").await.unwrap();
    let user: Vec<u8> = world
        .admin
        .query_one("SELECT uuid_send(user_id) FROM auth.users WHERE name = $1", &[&name])
        .await
        .unwrap()
        .get(0);
    let id: String = world
        .admin
        .query_one("SELECT user_id::text FROM auth.users WHERE name = $1", &[&name])
        .await
        .unwrap()
        .get(0);
    let eid = bob.known(bob.user()).unwrap().unwrap();
    let parts = [
        ("the name", name.as_bytes().to_vec()),
        ("the id", user),
        ("the first client's key", bob.client_key().as_bytes().to_vec()),
        ("the second client's key", tablet.client_key().as_bytes().to_vec()),
        ("the recovery key", key.verifier().as_bytes().to_vec()),
        ("the transcript", eid.eid.transcript.as_bytes().to_vec()),
    ];
    let base = world.cluster.data_dir().join("cluster").join("base");
    let files = async || {
        world.admin.batch_execute("CHECKPOINT").await.unwrap();
        let mut places = Vec::new();
        found(&base, &parts, &mut places);
        places
    };
    let before = files().await;
    for (what, _) in &parts {
        assert!(
            before.iter().any(|place| place.starts_with(what)),
            "the search finds {what} where it is: {before:?}"
        );
    }

    let error = bob.delete_account(&RecoveryKey::generate()).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::WrongProof));
    assert!(bob.groups().unwrap()[0].active, "nothing is given up before the key is known to be right");
    bob.delete_account(&key).await.unwrap();
    assert!(Client::open(bob.directory()).is_err(), "it is no client any more");
    let gone = tablet.devices().await.unwrap_err();
    assert!(gone.problem().is_some(), "{gone}");
    // His other device is a member yet, whose turn to commit may come first: unless she says something, which has to
    // wait for the commit of what she has received.
    alice.receive(Duration::ZERO).await.unwrap();
    alice.group_with_id(&group).send("who is here?").await.unwrap();
    let events = alice.sync(Duration::ZERO).await.unwrap();
    let is_bob = |member: &Member| member.client_key == Some(bob.client_key());
    let left = |event: &Event| matches!(event, Event::Removed { members, .. } if members.iter().any(is_bob));
    assert!(events.iter().any(left), "{events:?}");
    let members = alice.group_with_id(&group).members().unwrap();
    assert!(!members.iter().any(is_bob), "he left: {members:?}");

    let dump = world.cluster.dump().await;
    for text in [
        name.to_owned(),
        id,
        hex::encode(bob.client_key().as_bytes()),
        hex::encode(tablet.client_key().as_bytes()),
    ] {
        assert!(!dump.contains(&text), "{text} is in the dump");
    }
    eventually("the daily upkeep has been there", async || {
        let vacuum = "VACUUM; UPDATE qs.sweep SET scrub_day = 'epoch'";
        for statement in vacuum.split("; ") {
            world.admin.batch_execute(statement).await.unwrap();
        }
        eventually("it is done", async || {
            let outcome = world.admin.query_one("SELECT outcome::text FROM qs.keep_up()", &[]).await.unwrap();
            (outcome.get::<_, &str>(0) == "done").then_some(())
        })
        .await;
        let places = files().await;
        println!("{places:?}");
        places.is_empty().then_some(())
    })
    .await;
    world.register(&User::new(name)).await;
}

#[tokio::test]
async fn a_profile_is_shown_to_everybody_its_inner_part_to_who_has_the_key_and_its_changes_are_told() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let for_contacts = ForContacts { display_name: "Bobby".into(), text: "at the crag".into() };
    let change = ProfileChange {
        display_name: Some("Bob".into()),
        for_contacts: Some(for_contacts.clone()),
        ..ProfileChange::default()
    };
    bob.change_profile(&change).await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    let seen = alice.profile(bob.user()).unwrap();
    assert_eq!((seen.display_name.as_str(), seen.for_contacts), ("Bob", None));
    assert_eq!(bob.profile(bob.user()).unwrap().for_contacts, Some(for_contacts));
    let named =
        |name: &str| ProfileChange { display_name: Some(name.to_owned()), ..ProfileChange::default() };
    bob.change_profile(&named("Robert")).await.unwrap();
    assert_eq!(alice.profile(bob.user()).unwrap().display_name, "Bob", "until the next lookup");
    alice.look_up(bob.user()).await.unwrap();
    let told = Event::DisplayName { user: bob.user().clone(), display_name: "Robert".into() };
    assert!(alice.sync(Duration::ZERO).await.unwrap().contains(&told));

    // An old profile that the server shows again, and one that it changed, are not taken.
    let keep = "CREATE TABLE old AS SELECT profile, version FROM auth.profiles";
    world.admin.batch_execute(keep).await.unwrap();
    bob.change_profile(&named("Rob")).await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    world.admin.batch_execute("UPDATE auth.profiles p SET profile = o.profile FROM old o").await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    assert_eq!(alice.profile(bob.user()).unwrap().display_name, "Rob", "no older one");

    // Another device of the user changes what the first one made.
    let tablet = world.device(&bob, "tablet").await;
    bob.change_profile(&named("Bert")).await.unwrap();
    let text = ProfileChange { text: Some("climbs".into()), ..ProfileChange::default() };
    tablet.change_profile(&text).await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    let seen = alice.profile(bob.user()).unwrap();
    assert_eq!((seen.display_name.as_str(), seen.text.as_str()), ("Bert", "climbs"));

    // He hides: a stranger finds nobody, and he finds himself.
    let hide = ProfileChange { discoverable: Some(false), ..ProfileChange::default() };
    bob.change_profile(&hide).await.unwrap();
    let carol = world.person("carol").await;
    let error = carol.look_up(bob.user()).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::NotFound));
    bob.look_up(bob.user()).await.unwrap();
}

/// Lets months pass in which a device asked for no credential, and the AS does its chore.
async fn silent_for(world: &World, device: &Client, months: i32) {
    let sql = "UPDATE auth.clients SET heard = heard - $1 WHERE client_key = $2";
    let key = device.client_key();
    let silent = world.admin.execute(sql, &[&months, &key.as_bytes().as_slice()]).await.unwrap();
    assert_eq!(silent, 1);
    let more: bool = world.value("SELECT auth.expire()").await;
    assert!(!more);
}

#[tokio::test]
async fn a_silent_device_is_nobodys_until_it_is_back_and_nothing_is_left_to_an_account_whose_devices_all_were()
 {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let phone = world.device(&alice, "alices-phone").await;
    let shown = async || bob.look_up(alice.user()).await.unwrap().clients;
    let of_phone = async || shown().await.into_iter().find(|client| client.client_key == phone.client_key());
    let before = of_phone().await.expect("it is one of hers").contact.expect("it has one").address;
    silent_for(&world, &phone, 2).await;
    assert_eq!(shown().await.len(), 2, "not before its credential ends");

    silent_for(&world, &phone, 2).await;
    assert!(of_phone().await.is_none());
    assert_eq!(shown().await.len(), 1, "her other device is as it was");
    let kept = "SELECT count(*) FROM auth.clients WHERE num_nonnulls(credential, sealed_contact) = 2";
    assert_eq!(world.value::<i64>(kept).await, 2, "Alice's and Bob's");
    // It is back, and looks after itself.
    phone.forget_the_upkeep().unwrap();
    phone.sync(Duration::ZERO).await.unwrap();
    let after = of_phone().await.expect("it is one of hers again").contact.expect("it has one").address;
    assert_eq!(before, after, "its mailbox was there");

    // One of two devices is in use: the account stays, whatever the operator set.
    world.admin.batch_execute("SELECT operator.set_user_limit('account_expiry_days', 180)").await.unwrap();
    silent_for(&world, &phone, 8).await;
    assert_eq!(shown().await.len(), 1);
    silent_for(&world, &alice, 8).await;
    let refused = |error: Error| error.problem();
    assert_eq!(bob.look_up(alice.user()).await.map_err(refused).unwrap_err(), Some(ProblemType::NotFound));
    for device in [&alice, &phone] {
        let tokens = device.wallet().fetch(10).await.map_err(refused);
        assert_eq!(tokens.unwrap_err(), Some(ProblemType::NotAllowed), "no tokens");
        let invite = device.make_invite().await.map_err(refused);
        assert_eq!(
            invite.unwrap_err(),
            Some(ProblemType::NotAllowed),
            "no invite, with tokens that it has left"
        );
    }
    assert_eq!(world.count("auth.users").await, 1);
    assert!(!world.cluster.dump().await.contains("alice"), "nothing is left");
    world.person_at(world.server(), "al1ce").await;
    world.close();
}
