//! Homeservers that were restored to an earlier state (QS-12), and the groups that people of one domain have at another: whoever
//! lost something learns of it, also if they say nothing, and loses nothing more.

use std::time::{Duration, Instant};

use postern_client::{Client, Error, Event, Options};
use postern_protocol::{
    ds::{GroupId, MAX_PAST_EPOCHS},
    qs::QueueKind,
};
use postern_tests_kit::{Neighbours, PATIENCE, befriend, eventually, joined, with};

use crate::{
    groups::operate,
    people_in_groups::{hears, say, until},
};

/// The same person, who comes back into groups without a pause.
fn quick(client: Client) -> Client {
    with(
        client,
        Options { accept_contacts: true, durable: false, return_after: Duration::ZERO, ..Options::default() },
    )
}

/// Alice of a.example, and others of b.example in a group of hers, who all know each other and have nothing left to do.
async fn people(neighbours: &Neighbours, others: &[&str]) -> (Vec<Client>, GroupId) {
    let mut people = vec![quick(neighbours[0].person("alice").await)];
    let group = people[0].create_group("across").await.expect("a group can be made").id().clone();
    for name in others {
        let other = quick(neighbours[1].person(name).await);
        befriend(&people[0], &other, &group).await;
        joined(&other, 1).await;
        people.push(other);
    }
    let all: Vec<_> = people.iter().collect();
    until("all introductions are made", &all, || {
        all.iter().all(|client| {
            let members = client.group_with_id(&group).members().expect("a member");
            let is_told = members.len() == all.len() && members.iter().all(|member| member.verified);
            is_told && !client.has_errands().expect("it can be read") && client.group("across").is_ok()
        })
    })
    .await;
    for client in &people {
        told("what was before", client, |_| true).await;
    }
    (people, group)
}

/// Receives until somebody has been told enough; returns all of it.
async fn told(what: &str, client: &Client, is_enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let (deadline, mut told) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        match client.sync(Duration::from_millis(50)).await {
            Ok(events) => told.extend(events),
            Err(error) => assert!(error.is_passing(), "{what}: {}: {error}", client.user()),
        }
        if is_enough(&told) {
            return told;
        }
        assert!(Instant::now() < deadline, "{what}: {}: {told:?}", client.user());
    }
}

/// Whether somebody is back in a group.
fn is_back(group: &GroupId) -> impl Fn(&[Event]) -> bool {
    let is_back = |event: &Event, id: &GroupId| matches!(event, Event::Returned { group, .. } if group == id);
    move |events: &[Event]| events.iter().any(|event| is_back(event, group))
}

/// Asserts that somebody was told once that they could not follow a group, and once that they are back.
fn assert_came_back_once(events: &[Event], id: &GroupId) {
    let strayed =
        |event: &&Event| matches!(event, Event::CannotFollow { group, by_hand: false, .. } if group == id);
    let back = |event: &&Event| matches!(event, Event::Returned { group, .. } if group == id);
    assert_eq!(events.iter().filter(strayed).count(), 1, "{events:?}");
    assert_eq!(events.iter().filter(back).count(), 1, "{events:?}");
}

fn is_restored(event: &Event, queue: QueueKind) -> bool {
    matches!(event, Event::Restored { kind } if *kind == queue)
}

/// A domain's database is put back. The other domain looks at its homeserver again, which it does once a minute.
async fn put_back(neighbours: &mut Neighbours, number: usize) {
    neighbours[number].put_back().await;
    let domain = neighbours[number].domain().to_string();
    operate(&neighbours[1 - number], &format!("retry_now('{domain}')")).await;
}

/// Waits until nothing is on its way from a domain to the other one.
async fn delivered(neighbours: &Neighbours, from: usize) {
    eventually("it came", async || (neighbours[from].count("federation.outbox").await == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_that_only_listens_learns_that_the_homeserver_of_a_group_was_restored() {
    let mut neighbours = Neighbours::builder().start().await;
    let (people, group) = people(&neighbours, &["bob"]).await;
    let [alice, bob] = [&people[0], &people[1]];
    let epoch = |client: &Client| client.group_with_id(&group).epoch().expect("a member");
    neighbours[0].keep_database().await;

    // All of this is forgotten: commits that Bob sees, and a group that he comes into.
    for _ in 0..2 {
        alice.group_with_id(&group).update().await.expect("a member can commit");
    }
    until("Bob follows", &[bob], || epoch(bob) == epoch(alice)).await;
    let attic = alice.create_group("attic").await.expect("a group can be made").id().clone();
    alice.group_with_id(&attic).invite(bob.user()).await.expect("he can be invited");
    until("Bob is in", &[alice, bob], || bob.group_with_id(&attic).epoch().is_ok()).await;
    let before = told("what was before", bob, |_| true).await;
    assert!(!is_back(&group)(&before), "nothing happened yet: {before:?}");
    delivered(&neighbours, 0).await;
    assert_eq!(neighbours[0].description().await.generation, 0, "nothing was restored yet");
    put_back(&mut neighbours, 0).await;
    assert!(neighbours[0].description().await.generation > 0, "everybody can see it");

    let events = told("her own queue tells Alice", alice, is_back(&group)).await;
    assert!(events.iter().any(|event| is_restored(event, QueueKind::Group)), "{events:?}");
    assert_came_back_once(&events, &group);
    // Bob says nothing, and his queue tells nothing of it.
    let is_gone = |event: &Event| matches!(event, Event::Broken { group, .. } if *group == attic);
    let events = told("Bob is back, and told of the group that is gone", bob, |events| {
        is_back(&group)(events) && events.iter().any(is_gone)
    })
    .await;
    assert_came_back_once(&events, &group);
    assert!(!events.iter().any(|event| matches!(event, Event::Restored { .. })), "{events:?}");
    say(alice, &group, "after the restore").await;
    hears(bob, "after the restore").await;
    say(bob, &group, "and back").await;
    hears(alice, "and back").await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_own_homeserver_lost_changes_of_a_group_elsewhere_wait_for_none_of_them() {
    let mut neighbours = Neighbours::builder().start().await;
    let (people, group) = people(&neighbours, &["bob", "carol"]).await;
    let [alice, bob, carol] = [&people[0], &people[1], &people[2]];
    neighbours[1].keep_database().await;

    // So many that nothing is accepted any more of what somebody says who knows none of them.
    for _ in 0..=MAX_PAST_EPOCHS {
        alice.group_with_id(&group).update().await.expect("a member can commit");
    }
    delivered(&neighbours, 0).await;
    put_back(&mut neighbours, 1).await;

    // Bob speaks before he has read anything, and Carol only listens.
    let his = bob.group_with_id(&group);
    his.keep("at once").expect("a member can speak");
    eventually("he is heard", async || {
        let error = match his.deliver().await {
            Ok(()) => return Some(()),
            Err(error) => error,
        };
        assert!(error.is_passing() && !matches!(error, Error::Behind), "{error}");
        None
    })
    .await;
    hears(alice, "at once").await;
    for client in [bob, carol] {
        let events = told("those who lost something are back", client, is_back(&group)).await;
        assert!(events.iter().any(|event| is_restored(event, QueueKind::Group)), "{events:?}");
        assert_came_back_once(&events, &group);
    }
    say(alice, &group, "to all").await;
    for client in [bob, carol] {
        hears(client, "to all").await;
    }
    neighbours.close();
}
