//! Messages whose answers are lost: each arrives once, in order, or its sender is told.

use std::time::Duration;

use postern_client::{Error, Event, Options};
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{PATIENCE, joined, with};

use super::{ALL_ATTEMPTS, Scene, options, restart, texts};

#[tokio::test]
async fn all_that_is_said_while_the_server_is_away_arrives_once_and_in_order_in_each_group() {
    let Scene { world, line, mut alice, bob, group } = Scene::start().await;
    let other = alice.create_group("sailing").await.unwrap().id().clone();
    alice.group_with_id(&other).invite(bob.user()).await.unwrap();
    joined(&bob, 1).await;
    alice.sync(Duration::ZERO).await.unwrap();

    line.go_away();
    for text in ["1", "2"] {
        let away = alice.group_with_id(&group).send(text).await.unwrap_err();
        assert!(away.is_passing(), "{away}");
        alice.group_with_id(&other).keep(&format!("other {text}")).unwrap();
        alice = restart(alice);
    }
    for text in ["3", "4", "5"] {
        alice.group_with_id(&group).keep(text).unwrap();
    }
    assert_eq!(alice.group_with_id(&group).unsent().unwrap(), 5);
    assert!(alice.has_errands().unwrap());

    // The line is back, and loses answers.
    line.mend();
    line.cut("/messages", 3, 0);
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(line.mend(), 3);
    for id in [&group, &other] {
        assert_eq!(alice.group_with_id(id).unsent().unwrap(), 0);
        alice.group_with_id(id).send("that is all").await.unwrap();
    }
    let mut read: [Vec<String>; 2] = Default::default();
    while read.iter().any(|texts| texts.last().is_none_or(|text| text != "that is all")) {
        for event in bob.sync(PATIENCE).await.unwrap() {
            let Event::Message { group: of, text, .. } = event else { continue };
            let place = usize::from(bob.group_with_id(&of).id() != &group);
            read[place].push(text);
        }
    }
    assert_eq!(read[0], ["1", "2", "3", "4", "5", "that is all"]);
    assert_eq!(read[1], ["other 1", "other 2", "that is all"]);
    drop(world);
}

#[tokio::test]
async fn what_was_read_before_the_server_went_away_is_told() {
    let Scene { world: _world, line, alice, bob, group } = Scene::start().await;
    bob.group_with_id(&group).send("before").await.unwrap();
    // It goes once she has read that, and waits for something else.
    let something_else = |_: &Event| {
        line.go_away();
        false
    };
    let events = alice.sync_until(PATIENCE, something_else).await.unwrap();
    assert_eq!(texts(events), ["before"]);
    let away = alice.sync(Duration::ZERO).await.unwrap_err();
    assert!(away.is_passing(), "{away}");
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for_and_the_sender_is_told() {
    let Scene { world: _world, line, alice, bob: _, group } = Scene::start().await;
    let alice = with(alice, Options { unsent_messages: 2, ..options() });
    line.go_away();
    let group = alice.group_with_id(&group);
    for text in ["1", "2"] {
        group.keep(text).unwrap();
    }
    let full = group.keep("3").unwrap_err();
    assert!(matches!(full, Error::OutboxFull { messages: 2 }), "{full}");
    line.mend();
    group.deliver().await.unwrap();
    group.send("3").await.unwrap();
}

#[tokio::test]
async fn a_message_that_the_server_refuses_is_not_in_the_way_of_the_next() {
    let scene = Scene::start().await;
    let group = scene.alices();
    let too_long = "x".repeat(200_000);
    let refused = group.send(&too_long).await.unwrap_err();
    assert_eq!(refused.problem(), Some(ProblemType::MessageTooLarge));
    assert_eq!(group.unsent().unwrap(), 0);
    // The same, where nobody waits for the answer.
    group.keep(&too_long).unwrap();
    group.keep("after it").unwrap();
    group.deliver().await.unwrap();
    let events = scene.alice.sync(Duration::ZERO).await.unwrap();
    let unsent = |event: &&Event| matches!(event, Event::Unsent { text, .. } if *text == too_long);
    assert_eq!(events.iter().filter(unsent).count(), 1, "the other one was told at once");
    assert_eq!(scene.bob_reads().await, ["after it"]);
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_costs_a_repeat_and_nothing_else() {
    let scene = Scene::start().await;
    let (mut said, mut bytes, mut whole) = (Vec::new(), 0, 0);
    while bytes <= whole {
        let text = format!("cut after {bytes} bytes");
        scene.line.cut("/messages", 1, bytes);
        scene.alices().send(&text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(scene.line.mend(), 1);
        (_, whole) = scene.line.lengths();
        said.push(text);
        bytes += 1;
        if bytes % 50 == 0 {
            let read = scene.bob_reads().await;
            assert_eq!(read, std::mem::take(&mut said));
        }
    }
    assert_eq!(scene.bob_reads().await, said);
}

#[tokio::test]
async fn a_founding_may_be_cut_at_any_byte() {
    let scene = Scene::start().await;
    let before = scene.world.count("ds.groups").await;
    let (mut bytes, mut whole) = (0, 0);
    while bytes <= whole {
        scene.line.cut("POST /ds/groups ", 1, bytes);
        scene.alice.create_group(&format!("cut after {bytes}")).await.unwrap();
        assert_eq!(scene.line.mend(), 1);
        (_, whole) = scene.line.lengths();
        bytes += 1;
    }
    assert_eq!(scene.world.count("ds.groups").await, before + bytes as i64);
}

/// Within the messages one byte is like the next: only every 29th is tried there.
#[tokio::test]
async fn a_delivery_may_be_cut_at_any_byte_of_its_head_and_of_both_ends_of_its_body() {
    const END: usize = 24;
    let scene = Scene::start().await;
    // The queue of groups is asked after the queue of contacts.
    scene.line.take_requests();
    scene.alice.sync(Duration::ZERO).await.unwrap();
    let requests = scene.line.take_requests();
    let dequeue = requests.iter().rfind(|line| line.contains("/dequeue")).unwrap();
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    loop {
        let text = format!("cut after {bytes:04} bytes");
        scene.bob.group_with_id(&scene.group).send(&text).await.unwrap();
        scene.line.cut(dequeue, 1, bytes);
        heard.extend(texts(scene.alice.sync(Duration::ZERO).await.unwrap()));
        assert_eq!(scene.line.mend(), 1);
        said.push(text);
        let (head, whole) = scene.line.lengths();
        assert!(whole > head + 200, "{whole} bytes, {head} of them the head, have no message");
        if bytes >= whole {
            break;
        }
        let end = whole - END;
        let is_within = (head + END..end).contains(&bytes);
        bytes = if is_within { (bytes + 29).min(end) } else { bytes + 1 };
    }
    assert_eq!(heard, said);
}

#[tokio::test]
async fn a_message_whose_answer_was_lost_is_read_once_though_its_sender_came_back_meanwhile() {
    let scene = Scene::start().await;
    scene.line.cut("/messages", ALL_ATTEMPTS, 0);
    scene.alices().send("once").await.unwrap_err();
    scene.line.mend();
    scene.alices().rejoin().await.unwrap();
    assert_eq!(scene.alices().unsent().unwrap(), 1, "nobody knows whether it arrived");
    assert_eq!(scene.bob_reads().await, ["once"]);
}
