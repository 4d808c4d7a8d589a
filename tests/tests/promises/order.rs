//! A group has one order, whichever servers its messages come through (DS-4, DS-5).

use postern_client::{Client, Event};
use postern_protocol::{ds::MessageAccepted, qs::QueuePayload};
use postern_tests_kit::{Chance, Commit, Member, Received, World};
use rand::seq::SliceRandom;

use crate::{
    cast::{Answer, Cast, any, hand_in},
    ledger::Fate,
    world::{at_once, client_ways, send_at_once, two_servers, two_servers_and_tokens},
};

const ROUNDS: usize = 20;

/// In each round two members of each group commit at the same instant through different servers, while others
/// talk. The groups overlap, so everyone's queue is part of several races at once.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_commits_at_once_one_is_accepted_and_every_queue_has_one_order() {
    let chance = Chance::new();
    let mut rng = chance.of(0);
    let world = two_servers().await;
    let groups: [&[usize]; 3] = [&[0, 1, 2, 3, 4], &[4, 3, 1], &[2, 0, 3, 4]];
    let cast = Cast::assemble(&world, 5, &groups).await;
    let ways = client_ways(&world);

    for round in 0..ROUNDS {
        let mut submissions = Vec::new();
        for group in &cast.groups {
            let mut members = group.members.clone();
            members.shuffle(&mut rng);
            for (place, member) in members.into_iter().enumerate() {
                let (submission, way) = if place < 2 {
                    (cast.prepare_commit(member, &group.id).await, &ways[place])
                } else {
                    let text = format!("round {round}, person {member}");
                    (cast.prepare_text(member, &group.id, &text).await, any(&ways, &mut rng))
                };
                submissions.push((member, submission, way.clone(), place < 2));
            }
        }
        let mut attempts = Vec::new();
        for (member, submission, way, _) in &submissions {
            let (token, submission, way) = (cast.token(*member).await, submission.clone(), way.clone());
            attempts.push(async move { hand_in(&way, &submission, token).await });
        }
        let answers = at_once(attempts).await;

        for group in &cast.groups {
            let commits: Vec<Answer> = submissions
                .iter()
                .zip(&answers)
                .filter(|((_, submission, _, is_commit), _)| submission.group == group.id && *is_commit)
                .map(|(_, answer)| *answer)
                .collect();
            let epoch = submissions.iter().find(|(_, submission, ..)| submission.group == group.id);
            let next = epoch.expect("there are some").1.epoch + 1;
            let expected = [Answer::Accepted(next), Answer::WrongEpoch(next)];
            assert!(commits.iter().all(|answer| expected.contains(answer)), "{commits:?}");
            assert_ne!(commits[0], commits[1]);
        }
        for ((member, submission, _, is_commit), answer) in submissions.iter().zip(&answers) {
            let fate = match answer {
                Answer::Accepted(epoch) => {
                    // A text may come after the commit.
                    let late = epoch - submission.epoch;
                    assert!(late == 1 || late == 0 && !is_commit, "{late}");
                    Fate::Accepted
                }
                Answer::WrongEpoch(current) => {
                    assert_eq!(*current, submission.epoch + 1);
                    Fate::Refused
                }
                other => panic!("nothing fails here: {other:?}"),
            };
            cast.close(*member, submission, fate).await;
        }
        cast.catch_up().await;
    }
    cast.tell(&format!("{ROUNDS} rounds"));
    assert!(
        cast.ledger.count(Fate::Refused) >= ROUNDS * groups.len(),
        "each round has a loser in each group"
    );
    cast.check(&world).await;
}

/// Without rounds: everyone sends as fast as they can, so that deliveries overlap in every way.
#[tokio::test(flavor = "multi_thread")]
async fn everyone_talking_at_once_has_one_order_in_every_queue() {
    let chance = Chance::new();
    let world = two_servers().await;
    let groups: [&[usize]; 4] = [&[0, 1, 2, 3, 4, 5], &[1, 2, 3], &[5, 4, 3, 2], &[0, 5, 1]];
    let cast = std::sync::Arc::new(Cast::assemble(&world, 6, &groups).await);
    let load = crate::load::Load::start(&cast, client_ways(&world), &chance);
    load.attempts(600).await;
    assert_eq!(load.lost(), 0, "nothing fails here");
    load.stop().await;
    cast.tell("all at once");
    assert_eq!(cast.ledger.count(Fate::Unknown), 0);
    cast.check(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_the_winner_gets_the_winners_answer_also_at_the_same_instant() {
    let world = two_servers().await;
    let cast = Cast::assemble(&world, 3, &[&[0, 1, 2]]).await;
    let group = &cast.groups[0].id;
    let ways = client_ways(&world);
    for round in 0..ROUNDS {
        let (winner, rival) = (round % 3, (round + 1) % 3);
        let commit = cast.prepare_commit(winner, group).await;
        let won = Answer::Accepted(commit.epoch + 1);
        let mut attempts = Vec::new();
        for way in ways.iter().cycle().take(4) {
            let (way, commit, token) = (way.clone(), commit.clone(), cast.token(winner).await);
            attempts.push(async move { hand_in(&way, &commit, token).await });
        }
        assert_eq!(at_once(attempts).await, [won; 4]);

        let late = cast.prepare_commit(rival, group).await;
        let lost = Answer::WrongEpoch(commit.epoch + 1);
        for way in &ways {
            assert_eq!(hand_in(way, &commit, cast.token(winner).await).await, won, "later, too");
            assert_eq!(hand_in(way, &late, cast.token(rival).await).await, lost, "and a loser stays one");
        }
        cast.close(winner, &commit, Fate::Accepted).await;
        cast.close(rival, &late, Fate::Refused).await;
        cast.catch_up().await;
    }
    cast.check(&world).await;
}

/// A message from before a commit opens in the epoch before it, also for the one who made the commit.
#[tokio::test(flavor = "multi_thread")]
async fn who_commits_still_reads_what_was_said_before() {
    let world = two_servers().await;
    let cast = Cast::assemble(&world, 2, &[&[0, 1]]).await;
    let group = &cast.groups[0].id;
    let [one, two] = &cast.people[..] else { panic!("there are two") };
    two.group_with_id(group).send("before").await.expect("it is accepted");
    one.group_with_id(group).update().await.expect("it is accepted");
    one.receive(std::time::Duration::ZERO).await.expect("the queue is there");
    let told = one.pending_events().expect("events can be read");
    let before = |event: &Event| matches!(event, Event::Message { text, .. } if text == "before");
    assert!(told.iter().any(|(_, event)| before(event)), "{told:?}");
}

/// A client that comes back by external commit is in the order again, with everyone (DS-7); one that leaves is out
/// of it with the next commit.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_reads_on_and_who_leaves_reads_no_more() {
    let world = two_servers().await;
    let cast = Cast::assemble(&world, 3, &[&[0, 1, 2]]).await;
    let group = &cast.groups[0].id;
    let [one, two, three] = &cast.people[..] else { panic!("there are three") };
    two.group_with_id(group).rejoin().await.expect("it is accepted");
    cast.catch_up().await;
    one.group_with_id(group).send("welcome back").await.expect("it is accepted");
    two.group_with_id(group).send("here I am").await.expect("it is accepted");
    cast.catch_up().await;
    let texts = |person: &Client| {
        let told = person.pending_events().expect("events can be read");
        let text = |event| match event {
            Event::Message { text, .. } => Some(text),
            _ => None,
        };
        told.into_iter().filter_map(|(_, event)| text(event)).collect::<Vec<_>>()
    };
    assert_eq!(texts(two), ["welcome back"]);
    assert_eq!(texts(three), ["welcome back", "here I am"]);

    assert!(one.group_with_id(group).leave().await.is_err(), "the last admin stays");
    one.group_with_id(group).send("I stay").await.expect("and goes on");
    cast.catch_up().await;
    three.group_with_id(group).leave().await.expect("it is accepted");
    cast.catch_up().await;
    two.group_with_id(group).send("among ourselves").await.expect("the leaver is taken along before");
    cast.catch_up().await;
    assert_eq!(one.group_with_id(group).members().expect("it is a member").len(), 2);
    assert!(three.group_with_id(group).members().is_err());
    assert_eq!(texts(three), ["welcome back", "here I am", "I stay"]);
    assert_eq!(texts(one), ["here I am", "among ourselves"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proposals_at_once_are_both_kept() {
    let world = two_servers_and_tokens().await;
    world.stock(200).await;
    let ways = world.ways();
    let mut group = world.group(3).await;
    for member in &mut group.members {
        read(&world, member).await;
    }

    for round in 0..ROUNDS {
        let mut calls = Vec::new();
        for (place, member) in [1, 2].into_iter().enumerate() {
            let proposal = group.party(member).propose_update();
            calls
                .push((ways[(place + round) % 2].clone(), world.paid(group.submit(member, &proposal, None))));
        }
        for answer in send_at_once(calls).await {
            let accepted: MessageAccepted = answer.expect("both are accepted").decode();
            assert_eq!(accepted.epoch, group.party(0).epoch());
        }

        // Everyone sees those of the others, and the commit refers to both: the DS has to know them.
        for (member, others) in [(0, 2), (1, 1), (2, 1)] {
            let seen = read(&world, &mut group.members[member]).await;
            assert_eq!(seen, vec![Received::Proposal; others]);
        }
        let (_, commit) = group.make(0, Commit::default());
        let accepted =
            ways[round % 2].try_send(&world.paid(commit)).await.expect("the DS kept both proposals");
        let accepted: MessageAccepted = accepted.decode();
        group.party(0).merge();
        for member in [1, 2] {
            let seen = read(&world, &mut group.members[member]).await;
            assert_eq!(seen, [Received::Commit { proposals: 2 }]);
        }
        assert!(group.members.iter().all(|member| member.party.epoch() == accepted.epoch));
    }
}

/// All that is in a member's mailbox now, taken in and acknowledged.
async fn read(world: &World, member: &mut Member) -> Vec<Received> {
    let mut received = Vec::new();
    loop {
        let payloads = world.read(&mut member.mailbox).await;
        if payloads.is_empty() {
            return received;
        }
        for payload in payloads {
            let QueuePayload::Message(message) = payload else { panic!("{payload:?}") };
            received.push(member.party.take_in(&message));
        }
    }
}
