//! Facts about contacts: safety numbers, and that they took another name, began anew or ended (AS-11).

use std::time::Duration;

use postern_client::{Client, Error, Event, IdentityError, Options, RecoveryKey};
use postern_tests_kit::World;

use super::{answers, asks, contact, contacts_of_each_other, is_ignored, shy, shy_person, sync, until, with};

#[tokio::test]
async fn two_people_see_one_safety_number_and_what_they_verified_stays_so_while_devices_come_and_go() {
    let world = World::builder().start().await;
    let [alice, bob, carol] = [
        shy_person(&world, "alice").await,
        shy_person(&world, "bob").await,
        shy_person(&world, "carol").await,
    ];
    let ours = alice.safety_number(bob.user()).await.unwrap();
    let theirs = bob.safety_number(alice.user()).await.unwrap();
    assert_eq!(ours.digits(), theirs.digits());
    assert_ne!(ours.digits(), alice.safety_number(carol.user()).await.unwrap().digits());
    bob.confirm_safety_number(carol.user()).expect_err("nothing was shown");
    bob.confirm_safety_number(alice.user()).unwrap();
    alice.compare_safety_code(bob.user(), theirs.code()).await.unwrap();
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        assert!(one.known(other.user()).unwrap().unwrap().verified);
    }
    let other = carol.safety_number(alice.user()).await.unwrap();
    assert!(matches!(alice.compare_safety_code(bob.user(), other.code()).await, Err(Error::BadBlob(_))));

    // A device of Bob's comes and goes: the number is another one, the same for both, and he stays verified.
    let tablet = world.device(&bob, "tablet").await;
    assert!(tablet.known(alice.user()).unwrap().unwrap().verified, "the new device knows whom he verified");
    let more = alice.safety_number(bob.user()).await.unwrap();
    assert_ne!(more.digits(), ours.digits());
    assert_eq!(more.digits(), bob.safety_number(alice.user()).await.unwrap().digits());
    bob.remove_device(&tablet.client_key()).await.unwrap();
    assert_ne!(alice.safety_number(bob.user()).await.unwrap().digits(), more.digits());
    assert!(alice.known(bob.user()).unwrap().unwrap().verified);
    // A code of earlier is good as long as it is a part of what both saw since.
    alice.compare_safety_code(bob.user(), theirs.code()).await.unwrap();
    world.close();
}

#[tokio::test]
async fn contacts_hear_of_another_name_and_of_an_end_and_go_on_or_not() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    let number = alice.safety_number(bob.user()).await.unwrap();
    bob.compare_safety_code(alice.user(), number.code()).await.unwrap();

    let key = alice.recovery_key().unwrap().expect("it was not shown yet");
    let before = alice.user().clone();
    let alicia = alice.rename("alicia", &key).await.unwrap();
    sync(&alicia).await;
    let renamed = |event: &Event| matches!(event, Event::Renamed { from, to } if *from == before && to == alicia.user());
    let events = until(&bob, renamed).await;
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::IdentityReset { .. } | Event::IdentitySplit { .. }))
    );
    assert!(contact(&bob, &before).is_none());
    let known = contact(&bob, alicia.user()).expect("what was agreed goes on");
    assert!(known.may_be_added && known.verified, "{known:?}");
    let invited = bob.create_group("climbing").await.unwrap().invite(alicia.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0), "she need not be asked");

    alicia.delete_account(&key).await.unwrap();
    let deleted = |event: &Event| matches!(event, Event::ContactDeleted { user } if user == alicia.user());
    until(&bob, deleted).await;
    assert!(contact(&bob, alicia.user()).is_none());
    world.close();
}

#[tokio::test]
async fn a_contact_that_began_anew_is_no_contact_until_a_person_accepts() {
    let world = World::builder().start().await;
    let [alice, bob] = [shy_person(&world, "alice").await, shy_person(&world, "bob").await];
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        one.ask_contact(other.user()).await.unwrap();
        until(other, asks(one.user())).await;
        other.accept_contact(one.user()).await.unwrap();
        until(one, answers(other.user())).await;
    }
    let number = alice.safety_number(bob.user()).await.unwrap();
    bob.compare_safety_code(alice.user(), number.code()).await.unwrap();
    let key = alice.recovery_key().unwrap().unwrap();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url()).options(shy());
    let anew = anew.reset("alice", &key).await.unwrap();
    assert!(anew.contacts().unwrap().is_empty());
    anew.ask_contact(bob.user()).await.unwrap();

    let reset = |event: &Event| matches!(event, Event::IdentityReset { user, .. } if user == alice.user());
    let events = until(&bob, reset).await;
    assert!(!events.iter().any(asks(alice.user())), "it is not known who asks: {events:?}");
    let known = contact(&bob, alice.user()).unwrap();
    assert!(known.reset && !known.may_add && !known.may_be_added && !known.verified, "{known:?}");
    assert!(matches!(bob.accept_contact(alice.user()).await, Err(Error::Identity(_))));
    assert!(matches!(bob.safety_number(alice.user()).await, Err(Error::Identity(_))));

    assert_eq!(bob.accept_reset(alice.user()).unwrap().as_ref(), Some(alice.user()));
    until(&bob, asks(alice.user())).await;
    assert!(contact(&bob, alice.user()).is_none(), "nothing of before holds");
    bob.accept_contact(alice.user()).await.unwrap();
    until(&anew, answers(bob.user())).await;
    let known = contact(&bob, alice.user()).unwrap();
    assert!(known.may_add && !known.may_be_added && !known.verified, "{known:?}");
    world.close();
}

/// A client that begins a user anew after all others were lost.
async fn begun_anew(world: &World, name: &str, key: &RecoveryKey) -> Client {
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url()).options(shy());
    anew.reset(name, key).await.unwrap()
}

#[tokio::test]
async fn a_contact_that_took_another_name_and_then_began_anew_is_told_as_both() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    let key = alice.recovery_key().unwrap().expect("it was not shown yet");
    let before = alice.user().clone();
    let alicia = alice.rename("alicia", &key).await.unwrap();
    sync(&alicia).await;
    let anew = begun_anew(&world, "alicia", &key).await;

    // He reads what her device wrote of her name when that is lost.
    let reset =
        |event: &Event| matches!(event, Event::IdentityReset { user, name: None } if user == anew.user());
    let events = until(&bob, reset).await;
    let renamed = Event::Renamed { from: before.clone(), to: anew.user().clone() };
    let place = |what: &dyn Fn(&Event) -> bool| events.iter().position(what);
    assert!(place(&|event| *event == renamed) < place(&reset), "{events:?}");
    assert!(events.contains(&renamed), "{events:?}");
    assert!(!is_ignored(&events, "does not confirm"), "it took effect: {events:?}");
    assert!(contact(&bob, &before).is_none());
    let known = contact(&bob, anew.user()).unwrap();
    assert!(known.reset && !known.may_be_added && !known.verified, "{known:?}");
    let refused = bob.look_up(anew.user()).await.unwrap_err();
    assert!(matches!(refused, Error::Identity(IdentityError::Reset)), "{refused}");

    assert_eq!(bob.accept_reset(anew.user()).unwrap().as_ref(), Some(anew.user()));
    let ours = bob.safety_number(anew.user()).await.unwrap();
    let theirs = anew.safety_number(bob.user()).await.unwrap();
    assert_eq!(ours.digits(), theirs.digits());
    world.close();
}

#[tokio::test]
async fn a_contact_that_began_anew_and_then_took_another_name_is_told_as_both_and_a_person_accepts_both() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    let key = alice.recovery_key().unwrap().expect("it was not shown yet");
    let before = alice.user().clone();
    let anew = begun_anew(&world, "alice", &key).await;
    let alicia = anew.rename("alicia", &key).await.unwrap();
    alicia.ask_contact(bob.user()).await.unwrap();

    let reset = |event: &Event| matches!(event, Event::IdentityReset { user, name: Some(name) } if *user == before && name == alicia.user());
    let renamed = Event::Renamed { from: before.clone(), to: alicia.user().clone() };
    let events = until(&bob, reset).await;
    assert!(!events.contains(&renamed), "none that he knows says so: {events:?}");
    assert!(!events.iter().any(asks(alicia.user())), "it is not known who asks: {events:?}");
    let known = contact(&bob, &before).unwrap();
    assert!(known.reset && !known.may_be_added && !known.verified, "{known:?}");
    for _ in 0..2 {
        let refused = bob.look_up(alicia.user()).await.unwrap_err();
        assert!(matches!(refused, Error::Identity(IdentityError::Reset)), "{refused}");
    }
    // A look at his contacts does not tell her as missing, whose name is another one by now.
    let bob = with(bob, watchful());
    let events = sync(&bob).await;
    let again = |event: &Event| reset(event) || matches!(event, Event::ContactMissing { .. });
    assert!(!events.iter().any(again), "told once: {events:?}");

    assert_eq!(bob.accept_reset(alicia.user()).unwrap().as_ref(), Some(alicia.user()));
    let events = until(&bob, asks(alicia.user())).await;
    assert!(events.contains(&renamed), "{events:?}");
    assert!(bob.known(&before).unwrap().is_none() && contact(&bob, &before).is_none());
    bob.accept_contact(alicia.user()).await.unwrap();
    until(&alicia, answers(bob.user())).await;
    let ours = bob.safety_number(alicia.user()).await.unwrap();
    let theirs = alicia.safety_number(bob.user()).await.unwrap();
    assert_eq!(ours.digits(), theirs.digits());
    world.close();
}

/// Looks contacts up whenever it can.
fn watchful() -> Options {
    Options { look_up_contacts_every: Duration::ZERO, ..shy() }
}

#[tokio::test]
async fn a_contacts_reset_and_end_show_within_a_day_though_nothing_tells_of_them() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;

    let key = alice.recovery_key().unwrap().unwrap();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url()).options(shy());
    anew.reset("alice", &key).await.unwrap();
    let spent = "SELECT count(*) FROM aas.spent";
    let before: i64 = world.value(spent).await;
    let events = sync(&bob).await;
    assert!(events.is_empty(), "her turn has not come: {events:?}");
    let usual = world.value::<i64>(spent).await - before;
    // A day later.
    let bob = with(bob, watchful());
    let before: i64 = world.value(spent).await;
    let events = sync(&bob).await;
    let reset = |event: &Event| matches!(event, Event::IdentityReset { user, .. } if user == alice.user());
    assert!(events.iter().any(reset), "{events:?}");
    assert_eq!(world.value::<i64>(spent).await - before, usual + 1, "a look costs a token");

    assert_eq!(bob.accept_reset(alice.user()).unwrap().as_ref(), Some(alice.user()));
    bob.ask_contact(alice.user()).await.unwrap();
    let missing = |event: &Event| matches!(event, Event::ContactMissing { user } if user == alice.user());
    world.admin.batch_execute("SELECT operator.delete_user('alice')").await.unwrap();
    assert!(!sync(&bob).await.iter().any(missing), "nothing was agreed with her new identity");
    world.close();
}

#[tokio::test]
async fn a_contact_that_the_server_knows_no_more_is_told_of_once() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    world.admin.batch_execute("SELECT operator.delete_user('alice')").await.unwrap();
    assert!(sync(&bob).await.is_empty());
    let bob = with(bob, watchful());
    let missing = |event: &Event| matches!(event, Event::ContactMissing { user } if user == alice.user());
    assert!(sync(&bob).await.iter().any(missing));
    assert!(!sync(&bob).await.iter().any(missing), "once");
    world.close();
}
