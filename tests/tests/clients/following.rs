//! Clients that cannot follow a group come back by themselves, and a group that nobody can follow is founded anew
//! (DS-13). Real clients, a real server.

use std::{collections::BTreeSet, time::Duration};

use postern_client::{Change, Client, Error, Event, Options, Submission};
use postern_protocol::{
    MlsMessage,
    ds::{GroupId, SubmitMessage},
    encoding::Encoding,
    mls::DeliveryAddress,
    problem::ProblemType,
};
use postern_tests_kit::{BadLine, Commit, Group, PATIENCE, World, WorldBuilder, befriend, joined, with};

fn options() -> Options {
    Options { accept_contacts: true, durable: false, return_after: Duration::ZERO, ..Options::default() }
}

async fn sync(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.unwrap()
}

/// Alice's group with the others, who have seen each other.
async fn group_of(world: &World, names: &[&str]) -> (Vec<Client>, GroupId) {
    let mut people = Vec::new();
    for name in names {
        people.push(with(world.person(name).await, options()));
    }
    let group = people[0].create_group("climbing").await.unwrap().id().clone();
    for friend in &people[1..] {
        befriend(&people[0], friend, &group).await;
        joined(friend, 1).await;
    }
    for _ in 0..2 {
        for client in &people {
            sync(client).await;
        }
    }
    (people, group)
}

/// Deletes what waits for somebody, who is told how much that was.
async fn purge(world: &World) {
    let sql = "SELECT count(operator.purge_queue(queue_id)) FROM qs.queues";
    world.admin.query_one(sql, &[]).await.unwrap();
}

/// A message whose membership tag is wrong: the DS cannot check it, and members cannot accept it.
fn with_a_wrong_tag(mut submission: Submission) -> Submission {
    let mut body: SubmitMessage = Encoding::Cbor.decode(submission.request.content()).unwrap();
    let mut message = body.message.into_bytes();
    *message.last_mut().unwrap() ^= 1;
    body.message = MlsMessage::new(message);
    submission.request = submission.request.body("application/cbor", Encoding::Cbor.encode(&body));
    submission
}

/// Everyone says something, and everyone else reads it.
async fn all_hear_each_other(people: &[&Client], group: &GroupId) {
    for _ in 0..3 {
        for client in people {
            sync(client).await;
        }
    }
    for speaker in people {
        let text = format!("{} speaks", speaker.user());
        speaker.group_with_id(group).send(&text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        for listener in people.iter().filter(|listener| listener.user() != speaker.user()) {
            let heard = |event: &Event| matches!(event, Event::Message { text: said, .. } if *said == text);
            let events = listener.sync_until(PATIENCE, heard).await.unwrap();
            assert!(events.iter().any(heard), "{} hears that {text}: {events:?}", listener.user());
        }
    }
}

fn count(events: &[Event], is: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| is(event)).count()
}

#[tokio::test]
async fn who_missed_a_change_comes_back_once_and_says_so() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob"]).await;
    let [alice, bob] = &people[..] else { panic!() };
    alice.group_with_id(&group).update().await.unwrap();
    alice.group_with_id(&group).send("nobody reads this").await.unwrap();
    purge(&world).await;

    let mut events = sync(bob).await;
    events.extend(sync(bob).await);
    assert_eq!(count(&events, |event| matches!(event, Event::Expired { .. })), 1, "{events:?}");
    assert_eq!(count(&events, |event| matches!(event, Event::CannotFollow { by_hand: false, .. })), 1);
    assert_eq!(count(&events, |event| matches!(event, Event::Returned { .. })), 1, "{events:?}");
    let epoch = bob.group_with_id(&group).epoch().unwrap();
    assert_eq!(epoch, 3, "one external commit");
    all_hear_each_other(&[alice, bob], &group).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch);
}

#[tokio::test]
async fn who_lost_nothing_but_words_stays_where_it_is() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob"]).await;
    let [alice, bob] = &people[..] else { panic!() };
    alice.group_with_id(&group).send("nobody reads this").await.unwrap();
    purge(&world).await;
    let epoch = bob.group_with_id(&group).epoch().unwrap();
    let mut events = sync(bob).await;
    events.extend(sync(bob).await);
    assert_eq!(count(&events, |event| matches!(event, Event::CannotFollow { .. })), 0, "{events:?}");
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch);
    assert!(!bob.has_errands().unwrap());
    all_hear_each_other(&[alice, bob], &group).await;
}

#[tokio::test]
async fn members_that_cannot_accept_a_commit_all_come_back() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob", "carol", "mallory"]).await;
    let [alice, bob, carol, mallory] = &people[..] else { panic!() };
    let commit = mallory.group_with_id(&group).prepare(&Change::Update).await.unwrap();
    mallory.submit(&with_a_wrong_tag(commit)).await.unwrap();
    mallory.group_with_id(&group).abandon().await.unwrap();
    // A text that is said meanwhile is kept, and sent once its sender is back: those that are back by then read it.
    bob.group_with_id(&group).keep("I was here").unwrap();
    let mut told = Vec::new();
    for _ in 0..4 {
        for client in [alice, bob, carol, mallory] {
            told.push((client.user().to_string(), sync(client).await));
        }
    }
    for name in ["alice", "bob", "carol"] {
        let of = |is: fn(&Event) -> bool| -> usize {
            let events = told.iter().filter(|(user, _)| user.starts_with(name));
            events.map(|(_, events)| count(events, is)).sum()
        };
        assert_eq!(of(|event| matches!(event, Event::CannotFollow { .. })), 1, "{name}");
        assert_eq!(of(|event| matches!(event, Event::Returned { .. })), 1, "{name}");
        assert_eq!(of(|event| matches!(event, Event::Broken { .. })), 0, "{name}");
    }
    let texts: usize = told
        .iter()
        .map(|(_, events)| {
            count(events, |event| matches!(event, Event::Message { text, .. } if text == "I was here"))
        })
        .sum();
    assert!((1..=3).contains(&texts), "nobody read it twice: {texts}");
    assert_eq!(bob.group_with_id(&group).unsent().unwrap(), 0);
    all_hear_each_other(&[alice, bob, carol, mallory], &group).await;
}

#[tokio::test]
async fn no_member_puts_others_out_by_a_leaf_that_their_clients_refuse() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob", "mallory"]).await;
    let [alice, bob, mallory] = &people[..] else { panic!() };
    let victims = mallory.group_with_id(&group).addresses_of_others().unwrap();
    assert_eq!(victims.len(), 2);
    for victim in victims {
        let elsewhere = "elsewhere.example".parse().unwrap();
        for domain in [victim.domain.clone(), elsewhere] {
            let moves = Change::Address(DeliveryAddress { domain, address: victim.address });
            let commit = mallory.group_with_id(&group).prepare(&moves).await.unwrap();
            let refused = mallory.submit(&commit).await.unwrap_err();
            assert_eq!(refused.problem(), Some(ProblemType::PolicyViolation), "{refused}");
            mallory.group_with_id(&group).abandon().await.unwrap();
        }
    }
    for client in [alice, bob] {
        let events = sync(client).await;
        assert_eq!(count(&events, |event| matches!(event, Event::CannotFollow { .. })), 0, "{events:?}");
    }
    all_hear_each_other(&[alice, bob, mallory], &group).await;
}

#[tokio::test]
async fn a_proposal_that_members_cannot_accept_keeps_nobody_from_committing() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let (mut people, group) = group_of(&world, &["alice", "bob", "carol", "mallory"]).await;
    let options = Options { server: Some(line.url()), ..options() };
    let mallory = with(people.pop().unwrap(), options);
    let [alice, bob, carol] = &people[..] else { panic!() };
    // Her proposal to leave is made, and does not reach the server as it is.
    line.answer("/messages", 4, b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    mallory.group_with_id(&group).leave().await.unwrap_err();
    line.mend();
    let leave = mallory.group_with_id(&group).outstanding().unwrap().unwrap();
    mallory.submit(&with_a_wrong_tag(leave)).await.unwrap();
    mallory.group_with_id(&group).abandon().await.unwrap();

    let epoch = alice.group_with_id(&group).epoch().unwrap();
    bob.group_with_id(&group).update().await.unwrap();
    all_hear_each_other(&[alice, bob, carol, &mallory], &group).await;
    alice.group_with_id(&group).remove(mallory.user()).await.unwrap();
    assert_eq!(alice.group_with_id(&group).epoch().unwrap(), epoch + 3, "somebody came back, once");
}

#[tokio::test]
async fn who_breaks_a_group_again_and_again_keeps_the_others_less_and_less_busy() {
    let world = World::builder().pushing().start().await;
    let (mut people, group) = group_of(&world, &["alice", "mallory"]).await;
    let mallory = people.pop().unwrap();
    // The first pause is two minutes at most, the second fifteen at least.
    let alice = with(people.pop().unwrap(), Options { return_after: Duration::from_secs(60), ..options() });
    let returned = |event: &Event| matches!(event, Event::Returned { .. });
    let attack = async || {
        sync(&mallory).await;
        mallory.group_with_id(&group).rejoin().await.unwrap();
        sync(&alice).await;
        let commit = mallory.group_with_id(&group).prepare(&Change::Update).await.unwrap();
        mallory.submit(&with_a_wrong_tag(commit)).await.unwrap();
        mallory.group_with_id(&group).abandon().await.unwrap();
        sync(&alice).await
    };
    let mut events = attack().await;
    // She wants to say something: the first time she need not wait.
    alice.group_with_id(&group).send("what was that?").await.unwrap();
    events.extend(sync(&alice).await);
    assert_eq!(count(&events, returned), 1);
    let events = attack().await;
    assert_eq!(count(&events, |event| matches!(event, Event::CannotFollow { .. })), 1, "{events:?}");
    let waits = alice.group_with_id(&group).send("again?").await.unwrap_err();
    assert!(matches!(waits, Error::CannotFollow), "{waits}");
    assert_eq!(alice.group_with_id(&group).unsent().unwrap(), 1);
    let alice = with(alice, Options { return_after: Duration::from_secs(60), ..options() });
    assert_eq!(count(&sync(&alice).await, returned), 0, "the pause is kept over a restart");

    // Most of a day later.
    let clock = postern_client::Clock::ahead_by(24 * 60 * 60 - 60);
    let alice = with(alice, Options { clock, ..options() });
    let mut events = sync(&alice).await;
    events.extend(sync(&alice).await);
    assert_eq!(count(&events, returned), 1, "{events:?}");
    assert_eq!(alice.group_with_id(&group).unsent().unwrap(), 0);
}

/// The proposal comes with the refusal of the commit that shuts the device out, and this device may not come back yet.
#[tokio::test]
async fn a_removed_device_is_shut_out_though_a_proposal_that_nobody_can_accept_waits() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let (mut people, group) = group_of(&world, &["alice", "mallory"]).await;
    let mallory = with(people.pop().unwrap(), Options { server: Some(line.url()), ..options() });
    // The first pause is three minutes at most, the second fifteen at least.
    let alice = with(people.pop().unwrap(), Options { return_after: Duration::from_secs(60), ..options() });
    let tablet = world.device(&alice, "tablet").await;
    sync(&alice).await;
    joined(&tablet, 1).await;
    for client in [&alice, &mallory] {
        sync(client).await;
    }
    // She comes back, and may not for a while.
    let commit = mallory.group_with_id(&group).prepare(&Change::Update).await.unwrap();
    mallory.submit(&with_a_wrong_tag(commit)).await.unwrap();
    mallory.group_with_id(&group).abandon().await.unwrap();
    sync(&alice).await;
    alice.group_with_id(&group).send("what was that?").await.unwrap();
    sync(&mallory).await;
    mallory.group_with_id(&group).rejoin().await.unwrap();
    sync(&alice).await;
    line.answer("/messages", 4, b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    mallory.group_with_id(&group).leave().await.unwrap_err();
    line.mend();
    let leave = mallory.group_with_id(&group).outstanding().unwrap().unwrap();
    mallory.submit(&with_a_wrong_tag(leave)).await.unwrap();

    alice.remove_device(&tablet.client_key()).await.unwrap();
    let events = sync(&alice).await;
    assert_eq!(count(&events, |event| matches!(event, Event::CannotFollow { .. })), 1, "{events:?}");
    assert_eq!(alice.group_with_id(&group).members().unwrap().len(), 3);
    let clock = postern_client::Clock::ahead_by(60 * 60);
    let alice = with(alice, Options { clock, ..options() });
    let mut later = sync(&alice).await;
    later.extend(sync(&alice).await);
    assert_eq!(count(&later, |event| matches!(event, Event::Returned { .. })), 1, "{later:?}");
    let told = |event: &Event| matches!(event, Event::NotShutOut { .. });
    assert_eq!(count(&events, told) + count(&later, told), 0, "nobody refused it");
    let left = alice.group_with_id(&group).members().unwrap();
    assert!(left.iter().all(|member| member.client_key != Some(tablet.client_key())), "{left:?}");
    assert_eq!(left.len(), 2);
}

/// A device that is told of a group comes in by itself, and what it is refused then is no refusal of what it says.
#[tokio::test]
async fn what_is_said_on_the_way_into_a_group_is_kept_though_the_way_in_is_refused() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let (people, group) = group_of(&world, &["alice", "bob"]).await;
    let [alice, bob] = &people[..] else { panic!() };
    let tablet = world.device(bob, "tablet").await;
    let tablet = with(tablet, Options { server: Some(line.url()), ..options() });
    let path = format!("POST /ds/groups/{}", group.to_base64url());
    // Its commit does not get there, and somebody else's comes first.
    let unavailable = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    line.answer(&format!("{path}/messages"), usize::MAX, unavailable);
    tablet.sync(Duration::ZERO).await.ok();
    assert!(tablet.group_with_id(&group).is_unsettled().unwrap());
    assert!(line.mend() > 0);
    let update = alice.group_with_id(&group).prepare(&Change::Update).await.unwrap();
    alice.submit(&update).await.unwrap();
    alice.group_with_id(&group).confirm().await.unwrap();

    line.answer(&format!("{path}/group-info"), usize::MAX, &BadLine::refusal(ProblemType::NotAllowed));
    let waits = tablet.group_with_id(&group).send("from the tablet").await.unwrap_err();
    assert!(matches!(waits, Error::CannotFollow), "{waits}");
    assert_eq!(tablet.group_with_id(&group).unsent().unwrap(), 1);
    assert!(line.mend() > 0);
    joined(&tablet, 1).await;
    // It is sent as soon as the device is in.
    sync(&tablet).await;
    let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == "from the tablet");
    let events = alice.sync_until(PATIENCE, heard).await.unwrap();
    assert!(events.iter().any(heard), "{events:?}");
}

#[tokio::test]
async fn a_group_is_founded_anew_with_its_title_and_members() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob", "carol"]).await;
    let [alice, bob, carol] = &people[..] else { panic!() };
    // Nobody can come back: the DS lost the group.
    world.admin.batch_execute("DELETE FROM ds.groups").await.unwrap();
    let lost = alice.group_with_id(&group).send("is anybody there?").await.unwrap_err();
    assert_eq!(lost.problem(), Some(ProblemType::NotFound));

    let founded = bob.group_with_id(&group).refound().await.unwrap();
    assert_eq!(founded.unknown, 0);
    assert_eq!(founded.missing, []);
    assert_eq!(BTreeSet::from_iter(&founded.invited), BTreeSet::from([alice.user(), carol.user()]));
    assert_ne!(founded.group.id(), &group);
    let new = founded.group.id().clone();
    // Bob has no friendship with Carol: she is asked, and answers.
    for _ in 0..3 {
        for client in [alice, carol, bob] {
            sync(client).await;
        }
    }
    assert_eq!(founded.group.members().unwrap().len(), 3);
    all_hear_each_other(&[alice, bob, carol], &new).await;
    for client in [alice, carol] {
        let title = client.groups().unwrap().into_iter().find(|found| found.id == new).unwrap().title;
        assert_eq!(title, "climbing");
    }
    assert_eq!(bob.group("climbing").unwrap().id(), &new, "he is in the old one no more");
    assert!(matches!(bob.group_with_id(&group).members(), Err(Error::NotMember)));
}

#[tokio::test]
async fn founding_anew_goes_on_with_the_same_group_after_lost_answers() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let alice = Client::builder(world.homes.path().join("alice"))
        .server(line.url())
        .options(options())
        .register("alice")
        .await
        .unwrap();
    let bob = world.person("bob").await;
    let group = alice.create_group("climbing").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    sync(&alice).await;
    for named in ["POST /ds/groups ", "GET /as/users/"] {
        line.cut(named, 4, 0);
        let error = alice.group_with_id(&group).refound().await.unwrap_err();
        assert!(error.is_passing(), "{error}");
        line.mend();
    }
    let founded = alice.group_with_id(&group).refound().await.unwrap();
    joined(&bob, 1).await;
    assert_eq!(founded.group.members().unwrap().len(), 2);
    assert_eq!(world.count("ds.groups").await, 2, "the old and the new one");
}

#[tokio::test]
async fn key_packages_are_renewed_long_before_a_slow_reader_would_refuse_them() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let sealed = async || -> Vec<u8> {
        let sql = "SELECT sealed FROM qs.key_packages WHERE last_resort";
        world.admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    let first = sealed().await;
    let days =
        |days: i64| Options { clock: postern_client::Clock::ahead_by(days * 24 * 60 * 60 + 60), ..options() };
    let alice = with(alice, days(20));
    sync(&alice).await;
    assert_eq!(sealed().await, first, "they have 64 days left");
    let alice = with(alice, days(21));
    sync(&alice).await;
    assert_ne!(sealed().await, first, "a message waits for 60 days at most, and they have 63");
}

fn unread(events: &[Event], group: &GroupId) -> usize {
    count(events, |event| matches!(event, Event::Lost { group: Some(found) } if found == group))
}

#[tokio::test]
async fn both_sides_are_told_of_messages_for_which_there_was_no_room() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob"]).await;
    let [alice, bob] = &people[..] else { panic!() };
    world.admin.batch_execute("UPDATE qs.settings SET group_queue_depth = 3").await.unwrap();
    for number in 1..=4 {
        alice.group_with_id(&group).send(&number.to_string()).await.unwrap();
    }
    world.admin.batch_execute("UPDATE qs.settings SET group_queue_depth = 10000").await.unwrap();
    alice.group_with_id(&group).send("5").await.unwrap();
    let undelivered = |event: &Event| matches!(event, Event::Undelivered { members: 1, .. });
    let told = count(&sync(alice).await, undelivered);
    assert!(told > 0);
    let events = sync(bob).await;
    let read: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Message { text, .. } => Some(text.as_str()),
            Event::Lost { .. } => Some("lost"),
            _ => None,
        })
        .collect();
    assert_eq!(read.len(), 5 - told + 1, "{read:?}");
    assert_eq!((read.last(), unread(&events, &group)), (Some(&"5"), 1), "{read:?}");
    assert_eq!(read[read.len() - 2], "lost", "in its place");
    // Words were lost, and nothing that keeps him from following.
    let epoch = bob.group_with_id(&group).epoch().unwrap();
    sync(bob).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch);
    all_hear_each_other(&[alice, bob], &group).await;
}

#[tokio::test]
async fn who_lost_changes_for_which_there_was_no_room_comes_back_into_that_group() {
    let world = World::builder().pushing().start().await;
    let (people, group) = group_of(&world, &["alice", "bob"]).await;
    let [alice, bob] = &people[..] else { panic!() };
    let quiet = alice.create_group("quiet").await.unwrap().id().clone();
    alice.group_with_id(&quiet).invite(bob.user()).await.unwrap();
    joined(bob, 1).await;
    sync(bob).await;
    world.admin.batch_execute("UPDATE qs.settings SET group_queue_depth = 4").await.unwrap();
    for _ in 0..8 {
        alice.group_with_id(&group).update().await.unwrap();
    }
    world.admin.batch_execute("UPDATE qs.settings SET group_queue_depth = 10000").await.unwrap();
    let mut events = sync(bob).await;
    events.extend(sync(bob).await);
    assert_eq!(unread(&events, &group), 1, "{events:?}");
    assert_eq!(unread(&events, &quiet), 0);
    assert_eq!(count(&events, |event| matches!(event, Event::CannotFollow { .. })), 1, "{events:?}");
    let returned = |event: &Event| matches!(event, Event::Returned { group: found, .. } if *found == group);
    assert_eq!(count(&events, returned), 1, "{events:?}");
    all_hear_each_other(&[alice, bob], &group).await;
    all_hear_each_other(&[alice, bob], &quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_a_restored_server_lacks_lead_to_their_queues_again_once_their_owners_came() {
    let world = World::builder().start().await;
    let (people, group) = group_of(&world, &["alice", "bob"]).await;
    // As a restore to a state in which none of them was made.
    let restore = "DELETE FROM qs.addresses; SELECT operator.begin_generation()";
    world.admin.batch_execute(restore).await.unwrap();
    let mut events = Vec::new();
    for _ in 0..2 {
        for client in &people {
            events.extend(sync(client).await);
        }
    }
    let restored = |event: &&Event| matches!(event, Event::Restored { .. });
    assert_eq!(events.iter().filter(restored).count(), 4, "both queues of both: {events:?}");
    for (from, to) in [(0, 1), (1, 0)] {
        let said = format!("{from} to an address of before");
        people[from].group_with_id(&group).send(&said).await.unwrap();
        let heard = |event: &Event| matches!(event, Event::Message { text, .. } if *text == said);
        let events = people[to].sync_until(PATIENCE, heard).await.unwrap();
        assert!(events.iter().any(heard), "{said}: {events:?}");
    }
}

/// All take turns, until whoever could not follow had time to come back; what each was told.
async fn in_turns(people: &[&Client]) -> Vec<Vec<Event>> {
    let mut told = vec![Vec::new(); people.len()];
    for _ in 0..4 {
        for (client, told) in people.iter().zip(&mut told) {
            told.extend(sync(client).await);
        }
    }
    told
}

/// How often somebody could not follow, how often it came back, and how often that failed or was left to a person.
fn fates(events: &[Event]) -> [usize; 3] {
    let failed = |event: &Event| {
        matches!(
            event,
            Event::CannotFollow { by_hand: true, .. } | Event::Strangers { .. } | Event::Broken { .. }
        )
    };
    [
        count(events, |event| matches!(event, Event::CannotFollow { .. })),
        count(events, |event| matches!(event, Event::Returned { .. })),
        count(events, failed),
    ]
}

const FOLLOWED: [usize; 3] = [0, 0, 0];
const CAME_BACK_ONCE: [usize; 3] = [1, 1, 0];

/// Why somebody could not follow.
fn reasons(events: &[Event]) -> String {
    let reason = |event: &Event| match event {
        Event::CannotFollow { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

/// Alice's group with the others; and what is in Mallory's place there, whose device does nothing any more. The honest ones
/// saw it come back.
async fn with_mallory(world: &World) -> (Vec<Client>, GroupId, Group) {
    let (people, group) = group_of(world, &["alice", "bob", "carol", "mallory"]).await;
    let hostile = world.in_place_of(&people[3], &group).await;
    for honest in &people[..3] {
        sync(honest).await;
        assert_eq!(honest.group_with_id(&group).epoch().unwrap(), hostile.members[0].party.epoch());
    }
    (people, group, hostile)
}

fn update() -> Commit {
    Commit { update: true, ..Commit::default() }
}

/// Sends a commit of Mallory's, which the server takes, and ends her lie.
async fn commits(world: &World, hostile: &mut Group, commit: Commit) {
    let (_, call) = hostile.make(0, commit);
    hostile.party(0).repent();
    world.pay(&call).await.assert_ok("the server cannot see what is wrong");
    hostile.party(0).merge();
}

fn hostile_world() -> WorldBuilder {
    World::builder().pushing().tokens(200)
}

#[tokio::test]
async fn members_come_back_from_a_commit_with_a_wrong_confirmation_tag() {
    let world = hostile_world().start().await;
    let (people, group, mut hostile) = with_mallory(&world).await;
    let [alice, bob, carol, mallory] = &people[..] else { panic!() };
    let honest = [alice, bob, carol];
    hostile.party(0).lie_about_the_tag();
    commits(&world, &mut hostile, update()).await;
    for (client, events) in honest.iter().zip(in_turns(&honest).await) {
        assert_eq!(fates(&events), CAME_BACK_ONCE, "{}: {events:?}", client.user());
        let reasons = reasons(&events);
        assert!(reasons.contains("confirmation tag"), "{}: {reasons}", client.user());
    }
    all_hear_each_other(&honest, &group).await;
    alice.group_with_id(&group).remove(mallory.user()).await.unwrap();
    all_hear_each_other(&honest, &group).await;
}

#[tokio::test]
async fn who_alone_was_given_wrong_secrets_comes_back_and_the_others_follow() {
    let world = hostile_world().start().await;
    let (people, group, mut hostile) = with_mallory(&world).await;
    let [alice, bob, carol, _] = &people[..] else { panic!() };
    let honest = [alice, bob, carol];
    // Carol's leaf is the one next to Mallory's.
    let leaf = carol.group_with_id(&group).stolen_place().unwrap().leaf.public_key();
    hostile.party(0).lie_to(&leaf);
    commits(&world, &mut hostile, update()).await;
    let told = in_turns(&honest).await;
    for (number, expected) in [FOLLOWED, FOLLOWED, CAME_BACK_ONCE].into_iter().enumerate() {
        assert_eq!(fates(&told[number]), expected, "{}: {:?}", honest[number].user(), told[number]);
    }
    all_hear_each_other(&honest, &group).await;
}

#[tokio::test]
async fn members_come_back_from_one_who_came_in_by_a_key_that_is_not_the_groups() {
    let world = hostile_world().start().await;
    let (people, group, mut hostile) = with_mallory(&world).await;
    let [alice, bob, carol, _] = &people[..] else { panic!() };
    let honest = [alice, bob, carol];
    let another = |mut key: Vec<u8>| {
        key[0] ^= 1;
        key
    };
    // The last key that a commit makes is the GroupInfo's external_pub.
    hostile.party(0).lie_usably(usize::MAX, another);
    let _not_sent = hostile.make(0, update());
    let keys = hostile.party(0).repent();
    hostile.party(0).forget();
    hostile.party(0).lie_usably(keys - 1, another);
    commits(&world, &mut hostile, update()).await;
    for (client, events) in honest.iter().zip(in_turns(&honest).await) {
        assert_eq!(fates(&events), FOLLOWED, "members need no GroupInfo: {}: {events:?}", client.user());
    }
    carol.group_with_id(&group).rejoin().await.unwrap();
    let told = in_turns(&honest).await;
    for (number, expected) in [CAME_BACK_ONCE, CAME_BACK_ONCE, [0, 1, 0]].into_iter().enumerate() {
        assert_eq!(fates(&told[number]), expected, "{}: {:?}", honest[number].user(), told[number]);
    }
    all_hear_each_other(&honest, &group).await;
}

#[tokio::test]
async fn a_members_further_device_that_came_by_what_nobody_could_follow_keeps_nobody_out() {
    let world = hostile_world().start().await;
    let (people, group, mut hostile) = with_mallory(&world).await;
    let [alice, bob, carol, mallory] = &people[..] else { panic!() };
    let honest = [alice, bob, carol];
    let further = world.further_client(&hostile.members[0]).await;
    hostile.party(0).lie_about_the_tag();
    commits(&world, &mut hostile, update()).await;
    // The device has no card, and introduces itself to nobody.
    let addition = Commit { add: vec![further.party.key_package()], ..Commit::default() };
    commits(&world, &mut hostile, addition).await;
    for (client, events) in honest.iter().zip(in_turns(&honest).await) {
        assert_eq!(fates(&events), CAME_BACK_ONCE, "{}: {events:?}", client.user());
        let came: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Changed { added, removed, .. } => Some((added.as_slice(), removed.as_slice())),
                _ => None,
            })
            .collect();
        let [([device], [])] = &came[..] else { panic!("{}: {came:?}", client.user()) };
        assert_eq!((device.leaf_key, &device.user), (further.party.public_key(), &None));
        assert_eq!(client.group_with_id(&group).members().unwrap().len(), 5);
    }
    all_hear_each_other(&honest, &group).await;
    alice.group_with_id(&group).remove(mallory.user()).await.unwrap();
    all_hear_each_other(&honest, &group).await;
    assert_eq!(bob.group_with_id(&group).members().unwrap().len(), 3, "with her further device");
}

#[tokio::test]
async fn who_does_not_want_to_wait_in_a_group_that_nobody_follows_founds_it_anew_by_one_command() {
    let world = hostile_world().start().await;
    let (people, group) = group_of(&world, &["alice", "bob", "carol", "mallory"]).await;
    let options = Options { return_after: Duration::from_secs(60 * 60), ..options() };
    let mut people = people.into_iter();
    let honest: Vec<_> = people.by_ref().take(3).map(|client| with(client, options.clone())).collect();
    let mallory = people.next().unwrap();
    let [alice, bob, carol] = &honest[..] else { panic!() };
    // A member that came back today waits for half a day at least before the next time.
    for client in [alice, bob, carol] {
        client.group_with_id(&group).rejoin().await.unwrap();
        in_turns(&[alice, bob, carol]).await;
    }
    let mut hostile = world.in_place_of(&mallory, &group).await;
    in_turns(&[alice, bob, carol]).await;
    hostile.party(0).lie_about_the_tag();
    commits(&world, &mut hostile, update()).await;
    for client in [alice, bob, carol] {
        let events = sync(client).await;
        assert_eq!(fates(&events), [1, 0, 0], "{}: {events:?}", client.user());
    }
    let founded = bob.group_with_id(&group).refound().await.unwrap();
    let new = founded.group.id().clone();
    // Bob has no friendship with Carol: she is asked, and answers.
    in_turns(&[alice, carol, bob]).await;
    all_hear_each_other(&[alice, bob, carol], &new).await;
}
