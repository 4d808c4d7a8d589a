//! Members' accounts: groups hear of another name, a reset and an end (AS-11).

use std::time::Duration;

use postern_client::{Client, Error, Event, IdentityError, Options, ProfileChange};
use postern_protocol::{
    account::EndIdentity,
    key::SigningKey,
    second_proof::{Operation, SecondProof},
};
use postern_tests_kit::{PATIENCE, World, now};

use super::{group_of_three, patient, receive, with};

const DAY: u64 = 24 * 60 * 60;

#[tokio::test]
async fn members_hear_in_their_groups_of_another_name_of_a_reset_and_of_an_end() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    // Nobody tells of a reset: she looks.
    let alice = with(alice, Options { look_up_every: Duration::ZERO, ..patient() });
    let of_group = |event: &Event| event.group() == Some(&group);
    // Somebody that she does not find is not gone: he hides for a while.
    for discoverable in [Some(false), Some(true)] {
        bob.change_profile(&ProfileChange { discoverable, ..ProfileChange::default() }).await.unwrap();
        let events = alice.sync(Duration::ZERO).await.unwrap();
        assert!(!events.iter().any(|event| matches!(event, Event::MemberGone { .. })), "{events:?}");
    }
    let key = bob.recovery_key().unwrap().expect("it was not shown yet");
    let before = bob.user().clone();
    let robert = bob.rename("robert", &key).await.unwrap();
    receive(&robert).await;
    let renamed = |event: &Event| {
        of_group(event)
            && matches!(event, Event::MemberRenamed { user, name, .. } if *user == before && name == robert.user())
    };
    for client in [&alice, &carol] {
        let events = client.sync_until(PATIENCE, renamed).await.unwrap();
        assert_eq!(events.iter().filter(|event| renamed(event)).count(), 1, "{}: {events:?}", client.user());
    }

    robert.delete_account(&key).await.unwrap();
    let gone = |event: &Event| {
        of_group(event) && matches!(event, Event::MemberGone { user, .. } if user == robert.user())
    };
    for client in [&alice, &carol] {
        for _ in 0..2 {
            let events = client.sync(Duration::ZERO).await.unwrap();
            assert!(!events.iter().any(gone), "he may begin anew: {events:?}");
        }
        client.pass_time_for_gone_members(2 * DAY).unwrap();
        let events = client.sync_until(PATIENCE, gone).await.unwrap();
        assert_eq!(events.iter().filter(|event| gone(event)).count(), 1, "{}: {events:?}", client.user());
    }

    let key = carol.recovery_key().unwrap().unwrap();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url());
    anew.options(patient()).reset("carol", &key).await.unwrap();
    let reset = |event: &Event| {
        of_group(event) && matches!(event, Event::MemberReset { user, .. } if user == carol.user())
    };
    let events = alice.sync_until(PATIENCE, reset).await.unwrap();
    assert_eq!(events.iter().filter(|event| reset(event)).count(), 1, "{events:?}");
}

/// The AS knows nobody of the name for a while, and no member takes that for the end of the account (AS-8, AS-11).
#[tokio::test]
async fn an_end_that_a_reset_follows_is_told_as_a_reset_and_as_nothing_else() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, _carol], group) = group_of_three(&world).await;
    let alice = with(alice, Options { look_up_every: Duration::ZERO, ..patient() });
    let key = bob.recovery_key().unwrap().expect("it was not shown yet");
    let (next, time) = (SigningKey::generate(), now());
    let operation = Operation::EndIdentity { client: next.public_key(), time };
    let proof = SecondProof::recovery(&key, bob.user(), &operation);
    let end = EndIdentity { name: bob.user().clone(), time, proof };
    alice.http().end_identity(&end, &next).await.unwrap();

    let is_end = |event: &Event| matches!(event, Event::MemberGone { .. } | Event::MemberMissing { .. });
    for _ in 0..3 {
        let events = alice.sync(Duration::ZERO).await.unwrap();
        assert!(!events.iter().any(is_end), "{events:?}");
        alice.pass_time_for_gone_members(3 * DAY).unwrap();
    }
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url());
    anew.options(patient()).reset("bob", &key).await.unwrap();
    let reset = |event: &Event| {
        matches!(event, Event::MemberReset { user, .. } if user == bob.user())
            && event.group() == Some(&group)
    };
    let events = alice.sync_until(PATIENCE, reset).await.unwrap();
    assert_eq!(events.iter().filter(|event| reset(event)).count(), 1, "{events:?}");
    alice.pass_time_for_gone_members(60 * DAY).unwrap();
    let later = alice.sync(Duration::ZERO).await.unwrap();
    assert!(!events.iter().chain(&later).any(is_end), "{events:?}, {later:?}");
}

/// The events that tell of members' names and resets.
fn of_names(events: &[Event]) -> Vec<&Event> {
    let is_of_names =
        |event: &&Event| matches!(event, Event::MemberRenamed { .. } | Event::MemberReset { .. });
    events.iter().filter(is_of_names).collect()
}

#[tokio::test]
async fn members_hear_of_another_name_and_then_of_the_reset_that_came_before_they_looked() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let key = bob.recovery_key().unwrap().expect("it was not shown yet");
    let before = bob.user().clone();
    let robert = bob.rename("robert", &key).await.unwrap();
    receive(&robert).await;
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url());
    anew.options(patient()).reset("robert", &key).await.unwrap();

    let name = robert.user().clone();
    let renamed = Event::MemberRenamed { group: group.clone(), user: before, name: name.clone() };
    let reset = Event::MemberReset { group, user: name, name: None };
    for client in [&alice, &carol] {
        let events = client.sync_until(PATIENCE, |event| *event == reset).await.unwrap();
        assert_eq!(of_names(&events), [&renamed, &reset], "{}", client.user());
    }
}

#[tokio::test]
async fn members_hear_of_a_reset_and_of_the_name_that_was_taken_after_it_once_they_look_at_that() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let key = bob.recovery_key().unwrap().expect("it was not shown yet");
    let before = bob.user().clone();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url());
    let anew = anew.options(patient()).reset("bob", &key).await.unwrap();
    let robert = anew.rename("robert", &key).await.unwrap();

    let name = robert.user().clone();
    let reset = Event::MemberReset { group: group.clone(), user: before.clone(), name: Some(name.clone()) };
    let renamed = Event::MemberRenamed { group, user: before.clone(), name: name.clone() };
    for client in [alice, carol] {
        // Members are looked up whenever that is possible.
        let client = with(client, Options { look_up_every: Duration::ZERO, ..patient() });
        // No device of his is in the group that could say what he is called now: somebody else told.
        let refused = client.look_up(&name).await.unwrap_err();
        assert!(matches!(refused, Error::Identity(IdentityError::Reset)), "{refused}");
        let mut events = client.sync(Duration::ZERO).await.unwrap();
        for _ in 0..2 {
            client.pass_time_for_gone_members(31 * DAY).unwrap();
            events.extend(client.sync(Duration::ZERO).await.unwrap());
        }
        assert_eq!(of_names(&events), [&reset], "{}", client.user());
        let is_end = |event: &Event| matches!(event, Event::MemberGone { .. } | Event::MemberMissing { .. });
        assert!(!events.iter().any(is_end), "{events:?}");

        assert_eq!(client.accept_reset(&before).unwrap(), Some(name.clone()));
        let events = client.sync(Duration::ZERO).await.unwrap();
        assert_eq!(of_names(&events), [&renamed], "{}", client.user());
        assert_eq!(client.look_up(&name).await.unwrap().clients.len(), 1);
    }
}

#[tokio::test]
async fn members_hear_after_a_month_of_an_account_that_the_operator_ended() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, _carol], group) = group_of_three(&world).await;
    let alice = with(alice, Options { look_up_every: Duration::ZERO, ..patient() });
    world.admin.query("SELECT operator.delete_user('bob')", &[]).await.unwrap();
    let missing = |event: &Event| {
        matches!(event, Event::MemberMissing { user, .. } if user == bob.user())
            && event.group() == Some(&group)
    };
    for days in [29, 0] {
        let events = alice.sync(Duration::ZERO).await.unwrap();
        assert!(!events.iter().any(missing), "he may hide: {events:?}");
        alice.pass_time_for_gone_members(days * DAY).unwrap();
    }
    alice.pass_time_for_gone_members(2 * DAY).unwrap();
    let mut events = alice.sync_until(PATIENCE, missing).await.unwrap();
    events.extend(alice.sync(Duration::ZERO).await.unwrap());
    assert_eq!(events.iter().filter(|event| missing(event)).count(), 1, "{events:?}");
}
