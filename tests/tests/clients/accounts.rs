//! Accounts as a whole, and what people do with them (AS-8, AS-9). Real clients, a real server.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use postern_client::{
    Client, Error, Event, IdentityError, Member, RecoveryKey, StillIn, recovery_key_of, recovery_words,
};
use postern_protocol::{admission::Admission, name::UserName, problem::ProblemType};
use postern_tests_kit::{IdentityProvider, PATIENCE, User, World, befriend, eventually, joined};

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
    let resets = events
        .iter()
        .filter(|event| matches!(event, Event::IdentityReset { user, .. } if user == bob.user()));
    assert_eq!(resets.count(), 1, "{events:?}");
    let known = alice.known(bob.user()).unwrap().unwrap();
    assert!(known.reset_pending && !known.verified);
    let shown = alice.pending_reset(bob.user()).unwrap().unwrap();
    assert_eq!((shown.founder, shown.eid.incarnation), (again.client_key(), 1));
    assert_eq!(known.eid, before.eid, "the known one stays until a person says so");
    assert_eq!(alice.accept_reset(bob.user()).unwrap().as_ref(), Some(bob.user()));
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
    // A suspended user's identity can be ended, and the next one not be begun.
    world.admin.execute("SELECT operator.suspend_user('bob')", &[]).await.unwrap();
    let error = refused(reset(&world, "bob", "new-phone", &key).await);
    assert_eq!(error.problem(), Some(ProblemType::AccountSuspended));
    assert_eq!(world.count("auth.clients").await, 0, "ended, and not begun anew");
    world.admin.execute("SELECT operator.unsuspend_user('bob')", &[]).await.unwrap();
    let again = reset(&world, "bob", "new-phone", &key).await.unwrap();
    assert_eq!(world.count("auth.incarnations").await, 2);
    assert_eq!(again.devices().await.unwrap().len(), 1);
}

/// Somebody who registers by a login of the same name.
async fn logged_in(world: &World, provider: &mut IdentityProvider, name: &str) -> Client {
    let builder = Client::builder(world.homes.path().join(name)).server(world.server().url());
    let nonce = builder.registration_nonce(name).await.unwrap();
    let token = provider.log_in(name, &nonce);
    builder.admission(Admission::IdToken(token)).register(name).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_what_the_recovery_key_does_where_logins_let_people_in() {
    let mut provider = IdentityProvider::start();
    let world = World::builder().logins_at(&provider).start().await;
    world.admin.execute("SELECT operator.set_registration_policy('oidc')", &[]).await.unwrap();
    let bob = logged_in(&world, &mut provider, "bob").await;
    let wrong = |error: &Error| error.problem() == Some(ProblemType::WrongProof);

    let first = bob.recovery_key().unwrap();
    let nonce = bob.recovery_key_nonce().unwrap();
    assert_eq!(bob.recovery_key_nonce().unwrap(), nonce, "the key is kept that it is made of");
    let error = bob.replace_recovery_key(&provider.log_in_anew("mallory", &nonce)).await.unwrap_err();
    assert!(wrong(&error), "{error}");
    assert_eq!(bob.recovery_key().unwrap(), first, "what is shown is the key that holds");
    let token = provider.log_in_anew("bob", &nonce);
    let new = bob.replace_recovery_key(&token).await.unwrap();
    assert_eq!(bob.recovery_key().unwrap(), Some(new.clone()));
    assert_ne!(bob.recovery_key_nonce().unwrap(), nonce);

    let token = provider.log_in_anew("bob", &bob.rename_nonce("robert").unwrap());
    let error = refused(bob.rename("bert", &token).await);
    assert!(wrong(&error), "{error}");
    let bob = bob.rename("robert", &token).await.unwrap();
    assert_eq!(bob.user().to_string(), "robert@home.example");

    // A reset that was interrupted for longer than a login is good goes on with another one.
    let builder = Client::builder(world.homes.path().join("new-phone")).server(world.server().url());
    let nonce = builder.reset_nonce("robert").await.unwrap();
    world.admin.execute("SELECT operator.suspend_user('robert')", &[]).await.unwrap();
    let token = provider.log_in_anew("bob", &nonce);
    let error = refused(builder.reset("robert", &token).await);
    assert_eq!(error.problem(), Some(ProblemType::AccountSuspended));
    world.admin.execute("SELECT operator.unsuspend_user('robert')", &[]).await.unwrap();
    let error = refused(builder.reset("robert", &provider.log_in_anew("mallory", &nonce)).await);
    assert!(wrong(&error), "{error}");
    let bob = builder.reset("robert", &provider.log_in_anew("bob", &nonce)).await.unwrap();
    assert_eq!(bob.devices().await.unwrap().len(), 1);

    let group = bob.create_group("one").await.unwrap().id().clone();
    let nonce = bob.deletion_nonce().unwrap();
    let error = bob.delete_account(&provider.log_in_anew("mallory", &nonce)).await.unwrap_err();
    assert!(wrong(&error), "{error}");
    assert!(bob.group_with_id(&group).members().is_ok(), "nothing is given up");
    assert!(bob.groups().unwrap()[0].active, "nothing is given up");
    bob.delete_account(&provider.log_in_anew("bob", &nonce)).await.unwrap();
    assert_eq!(world.count("auth.users").await, 0);
    world.close();
}

#[tokio::test]
async fn a_wrong_recovery_key_leaves_the_one_that_is_shown_as_it_is() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let key = written_down(&alice);
    let error = alice.replace_recovery_key(&RecoveryKey::generate()).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::WrongProof));
    assert_eq!(alice.recovery_key().unwrap(), None, "no key is shown that is not the account's");
    let new = alice.replace_recovery_key(&key).await.unwrap();
    assert_eq!(written_down(&alice), new);
    world.close();
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

async fn hears(client: &Client, what: impl Fn(&Event) -> bool) {
    let events = client.sync_until(PATIENCE, &what).await.unwrap();
    assert!(events.iter().any(what), "{}: {events:?}", client.user());
}

#[tokio::test]
async fn two_contacts_who_take_other_names_at_the_same_time_hear_of_each_others() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let keys = [&alice, &bob].map(written_down);
    bob.ask_contact(alice.user()).await.unwrap();
    hears(&alice, |event| matches!(event, Event::ContactRequested { accepted: true, .. })).await;
    hears(&bob, |event| matches!(event, Event::ContactAnswered { .. })).await;

    let before = [&alice, &bob].map(|person| person.user().clone());
    let renamed = |from: &UserName, to: &UserName| {
        let renamed = Event::Renamed { from: from.clone(), to: to.clone() };
        move |event: &Event| *event == renamed
    };
    let robert = bob.rename("robert", &keys[1]).await.unwrap();
    robert.receive(Duration::ZERO).await.unwrap();
    // She has not heard of it yet, and what he is to be told waits under a name that nobody has any more.
    let alicia = alice.rename("alicia", &keys[0]).await.unwrap();
    hears(&alicia, renamed(&before[1], robert.user())).await;
    alicia.receive(Duration::ZERO).await.unwrap();
    hears(&robert, renamed(&before[0], alicia.user())).await;
    world.close();
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
    // Nobody but autovacuum takes dead rows off their pages, as on a server of a few people.
    for sql in ["ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"] {
        world.admin.batch_execute(sql).await.unwrap();
    }
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
    let still_in = bob.delete_account(&key).await.unwrap();
    assert!(Client::open(bob.directory()).is_err(), "it is no client any more");
    assert!(
        still_in.iter().all(|it| it.group == group),
        "his tablet, if he heard that it is there: {still_in:?}"
    );
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
    eventually("autovacuum and the daily upkeep have been there", async || {
        world.admin.batch_execute("UPDATE qs.sweep SET scrub_day = 'epoch'").await.unwrap();
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
async fn who_deletes_an_account_is_in_no_group_any_more_and_leaves_none_without_an_admin() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, carol) =
        (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let tablet = world.device(&bob, "tablet").await;
    let receive = async |client: &Client| client.receive(Duration::ZERO).await.unwrap();
    // A group of his own, and one with others.
    let alone = bob.create_group("alone").await.unwrap().id().clone();
    let his = bob.create_group("his").await.unwrap().id().clone();
    befriend(&bob, &carol, &his).await;
    joined(&carol, 1).await;
    befriend(&bob, &alice, &his).await;
    joined(&alice, 1).await;
    joined(&tablet, 2).await;
    for client in [&bob, &tablet, &alice, &carol, &bob] {
        receive(client).await;
    }
    assert_eq!(alice.group_with_id(&his).members().unwrap().len(), 4);

    tablet.wallet().fetch(100).await.unwrap();
    let still_in = bob.delete_account(&written_down(&bob)).await.unwrap();
    assert_eq!(still_in, []);
    assert_eq!(world.count("ds.groups").await, 1, "nobody else was in the other");
    for client in [&carol, &alice, &carol] {
        receive(client).await;
        client.group_with_id(&his).update().await.unwrap();
    }
    receive(&alice).await;
    let names = |members: Vec<Member>| members.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let his_group = alice.group_with_id(&his);
    let expected = ["alice", "carol"].map(|name| format!("{name}@home.example"));
    assert_eq!(names(his_group.members().unwrap()), BTreeSet::from(expected), "his tablet went with him");
    // She was there before Alice was.
    assert_eq!(names(his_group.admins().unwrap()), BTreeSet::from(["carol@home.example".to_owned()]));
    carol.group_with_id(&his).rename("hers").await.unwrap();
    // It is nobody's device, and its errands fail.
    tablet.receive(Duration::ZERO).await.ok();
    for group in [&alone, &his] {
        assert!(
            matches!(tablet.group_with_id(group).epoch(), Err(Error::NotMember)),
            "his tablet is in none"
        );
    }
}

#[tokio::test]
async fn devices_that_were_added_apart_go_with_the_account_where_it_may_and_are_told_of_where_not() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let _tablet = world.device(&bob, "tablet").await;
    let receive = async |client: &Client| client.receive(Duration::ZERO).await.unwrap();
    // Alice adds both, and the tablet is off: it does not come into his place.
    let led = alice.create_group("he is an admin").await.unwrap();
    befriend(&alice, &bob, led.id()).await;
    joined(&bob, 1).await;
    let other = alice.create_group("he is none").await.unwrap();
    other.invite(bob.user()).await.unwrap();
    joined(&bob, 1).await;
    for client in [&alice, &bob, &alice] {
        receive(client).await;
    }
    led.name_admin(bob.user()).await.unwrap();
    receive(&bob).await;
    for group in [&led, &other] {
        assert_eq!(group.members().unwrap().len(), 3);
        assert_eq!(
            bob.group_with_id(group.id()).removal(bob.user()).unwrap().members.len(),
            1,
            "he knows it"
        );
    }

    let still_in = bob.delete_account(&written_down(&bob)).await.unwrap();
    let [StillIn { group, title, reason }] = &still_in[..] else { panic!("{still_in:?}") };
    assert_eq!((group, title.as_str()), (other.id(), "he is none"));
    assert!(reason.ends_with(": 1"), "{reason}");
    receive(&alice).await;
    for (group, members) in [(&led, 1), (&other, 2)] {
        group.update().await.unwrap();
        assert_eq!(group.members().unwrap().len(), members);
    }
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
