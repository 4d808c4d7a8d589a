//! Nothing accepted is lost and nothing refused appears, whatever dies when (DS-5, AAS-4).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern_client::{Event, Http, Request, Submission, Token};
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Chance, PostgresRelay, Server, World, eventually};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    cast::{Answer, Cast, hand_in},
    ledger::Fate,
    load::Load,
    world::{client_way, client_ways, two_servers},
};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(12);
/// Attempts between two crashes, at most: some crashes come while the last is being dealt with.
const CALM: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_dies_with_the_server_is_delivered_once_and_its_repeat_is_answered() {
    let world = two_servers().await;
    let cast = Cast::assemble(&world, 4, &[&[0, 1, 2, 3]]).await;
    let group = &cast.groups[0].id;
    let [_, alive] = client_ways(&world);

    for round in 0..3 {
        let relay = PostgresRelay::start(&world.cluster);
        let doomed = Server::builder(&world.cluster).through(&relay).start().await;
        let sender = round % 4;
        let commit = cast.prepare_commit(sender, group).await;
        let token = cast.token(sender).await;
        let (epoch, seqs) = state(&world).await;

        relay.pause_at("ds.submit_message");
        let answer = tokio::spawn({
            let (way, commit, token) = (client_way(&doomed), commit.clone(), token.clone());
            async move { hand_in(&way, &commit, token).await }
        });
        relay.paused().await;
        let accepted = eventually("the database accepts", async || {
            let now = state(&world).await;
            (now.0 == epoch + 1).then_some(now)
        })
        .await;
        assert!(!answer.is_finished(), "the server cannot know yet");
        doomed.kill().await;
        assert_eq!(answer.await.expect("no panic"), Answer::Lost);
        assert_eq!(accepted.1, seqs + 3, "one message for each other member");

        let repeat = |token| hand_in(&alive, &commit, token);
        assert_eq!(repeat(token).await, Answer::TokenSpent, "it went with the commit");
        assert_eq!(repeat(cast.token(sender).await).await, Answer::Accepted(commit.epoch + 1));
        assert_eq!(repeat(cast.token(sender).await).await, Answer::Accepted(commit.epoch + 1));
        assert_eq!(state(&world).await, accepted, "a repeat changes nothing");
        cast.close(sender, &commit, Fate::Accepted).await;
        cast.catch_up().await;
    }
    cast.check(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_whose_answer_dies_with_the_server_is_delivered_once() {
    let world = two_servers().await;
    let cast = Cast::assemble(&world, 3, &[&[0, 1, 2]]).await;
    let group = &cast.groups[0].id;
    let [_, alive] = client_ways(&world);
    let relay = PostgresRelay::start(&world.cluster);
    let doomed = Server::builder(&world.cluster).through(&relay).start().await;
    let text = cast.prepare_text(0, group, "hello").await;
    let token = cast.token(0).await;
    let (_, seqs) = state(&world).await;

    relay.pause_at("ds.submit_message");
    let answer = tokio::spawn({
        let (way, text, token) = (client_way(&doomed), text.clone(), token.clone());
        async move { hand_in(&way, &text, token).await }
    });
    relay.paused().await;
    eventually("the database accepts", async || (state(&world).await.1 == seqs + 2).then_some(())).await;
    doomed.kill().await;
    assert_eq!(answer.await.expect("no panic"), Answer::Lost);

    assert_eq!(
        hand_in(&alive, &text, token).await,
        Answer::TokenSpent,
        "the same token never pays for a second one"
    );
    cast.close(0, &text, Fate::Accepted).await;
    cast.catch_up().await;
    cast.check(&world).await;
}

/// The commit that was accepted without an answer is followed by somebody else's before its sender comes back.
#[tokio::test(flavor = "multi_thread")]
async fn whose_accepted_commit_was_overtaken_finds_its_way_back() {
    let world = two_servers().await;
    let cast = Cast::assemble(&world, 3, &[&[0, 1, 2]]).await;
    let group = &cast.groups[0].id;
    let ways = client_ways(&world);
    let commit = cast.prepare_commit(0, group).await;
    // Accepted, but its sender never hears of it.
    assert_eq!(hand_in(&ways[0], &commit, cast.token(0).await).await, Answer::Accepted(commit.epoch + 1));
    cast.ledger.close(&commit, Fate::Accepted);
    cast.receive(1).await;
    let next = cast.prepare_commit(1, group).await;
    assert_eq!(hand_in(&ways[1], &next, cast.token(1).await).await, Answer::Accepted(commit.epoch + 2));
    cast.close(1, &next, Fate::Accepted).await;

    // As the client does it by itself.
    cast.people[0].group_with_id(group).settle().await.expect("the DS answers");
    cast.people[0].group_with_id(group).send("here I am").await.expect("it is still a member");
    cast.people[2].receive(Duration::ZERO).await.expect("it can be read");
    for person in &cast.people {
        assert_eq!(person.group_with_id(group).epoch().expect("a member"), commit.epoch + 2);
    }
    let told = cast.people[2].pending_events().expect("events can be read");
    let here = |event: &Event| matches!(event, Event::Message { text, .. } if text == "here I am");
    assert!(told.iter().any(|(_, event)| here(event)), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_killed_under_load_lose_nothing_that_was_accepted() {
    under_load(async |world, rng| {
        let server = rng.random_range(0..2);
        world.replace(server, Signal::SIGKILL).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_under_load_loses_nothing_that_was_accepted() {
    under_load(async |world, rng| {
        if rng.random_ratio(2, 3) {
            world.cluster.kill_postgres();
            world.cluster.restart().await;
        } else {
            kill_a_session(world, rng).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_told_to_end_under_load_lose_nothing_that_was_accepted() {
    let cast = under_load(async |world, rng| {
        let server = rng.random_range(0..2);
        assert!(
            world.replace(server, Signal::SIGTERM).await.success(),
            "a server that is told to end ends well"
        );
    })
    .await;
    // A text whose fate stays unknown is one that arrived and was not answered.
    let entries = cast.ledger.entries();
    let unanswered =
        entries.values().filter(|entry| entry.text.is_some() && entry.fate == Fate::Unknown).count();
    assert_eq!(unanswered, 0, "what arrived was answered before the end");
}

/// Eight members of one group do nothing but commit, through two servers that are killed again and again: one
/// history, no epoch lost, nobody left behind (DS-4).
#[tokio::test(flavor = "multi_thread")]
async fn eight_who_commit_at_once_keep_one_history_while_servers_are_killed() {
    let chance = Chance::new();
    let mut world = two_servers().await;
    let cast = Arc::new(Cast::assemble(&world, 8, &[&[0, 1, 2, 3, 4, 5, 6, 7]]).await);
    let mut rng = chance.of(0);
    let begun = cast.people[0].group_with_id(&cast.groups[0].id).epoch().expect("a member");
    let load = Load::commits(&cast, client_ways(&world), &chance);
    for _ in 0..4 {
        load.attempts(rng.random_range(CALM / 2..CALM)).await;
        let server = rng.random_range(0..2);
        world.replace(server, Signal::SIGKILL).await;
    }
    load.accepted(&cast, 20).await;
    load.stop().await;
    cast.tell("eight who commit");
    let epochs = cast.people[0].group_with_id(&cast.groups[0].id).epoch().expect("a member") - begun;
    let (accepted, unknown) =
        (cast.ledger.count(Fate::Accepted) as u64, cast.ledger.count(Fate::Unknown) as u64);
    assert!((accepted..=accepted + unknown).contains(&epochs), "each accepted commit is an epoch: {epochs}");
    cast.check(&world).await;
}

/// Sixteen senders through two servers, and anything may be killed with -9.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_senders_to_overlapping_groups_lose_nothing_whatever_is_killed() {
    let groups: [&[usize]; 5] = [
        &[0, 1, 2, 3, 4, 5, 6, 7],
        &[4, 5, 6, 7, 8, 9, 10, 11],
        &[11, 10, 9, 8, 15, 14, 13, 12],
        &[12, 13, 14, 15, 0, 1, 2, 3],
        &[15, 10, 5, 0],
    ];
    let mut kinds = 0;
    people_under_load(16, &groups, async |world, rng| {
        // Each kind in turn, so that none is left out.
        kinds += 1;
        match kinds % 4 {
            0 => {
                let server = rng.random_range(0..2);
                world.replace(server, Signal::SIGKILL).await;
            }
            1 => {
                world.cluster.kill_postgres();
                world.cluster.restart().await;
            }
            2 => kill_a_session(world, rng).await,
            _ => kill_the_notifier(world, rng).await,
        }
    })
    .await;
}

/// Six people in three groups that overlap.
async fn under_load(trouble: impl AsyncFnMut(&mut World, &mut StdRng)) -> Arc<Cast> {
    let groups: [&[usize]; 3] = [&[0, 1, 2, 3, 4, 5], &[1, 3, 5], &[4, 2, 0, 1]];
    people_under_load(6, &groups, trouble).await
}

/// All of them talk while something goes wrong again and again.
async fn people_under_load(
    people: usize,
    groups: &[&[usize]],
    mut trouble: impl AsyncFnMut(&mut World, &mut StdRng),
) -> Arc<Cast> {
    let chance = Chance::new();
    let mut world = two_servers().await;
    let cast = Arc::new(Cast::assemble(&world, people, groups).await);
    let mut rng = chance.of(0);
    let load = Load::start(&cast, client_ways(&world), &chance);
    let start = Instant::now();
    let mut times = 0;
    while start.elapsed() < TROUBLE || times < 4 {
        load.attempts(rng.random_range(1..CALM)).await;
        // Not only when an attempt begins.
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..8000))).await;
        trouble(&mut world, &mut rng).await;
        times += 1;
    }
    load.accepted(&cast, CALM).await;
    let (lost, spent) = (load.lost(), load.spent_tokens());
    load.stop().await;
    cast.tell(&format!("{times} times trouble, {lost} lost answers"));
    cast.check(&world).await;
    assert!(!world.cluster.log().contains("deadlock detected"), "two sessions waited for each other");

    let ways = client_ways(&world);
    for token in spent.choose_multiple(&mut rng, 50) {
        let request = Request::post("/ds/group-ids").paid_with(token.clone());
        let way = &ways[rng.random_range(0..2)];
        // A server may not have noticed yet that a session of its pool is gone.
        let refusal = eventually("a server answers", async || match way.send_once(&request).await {
            Err(error) if error.is_passing() => None,
            answer => Some(answer.err().and_then(|error| error.problem())),
        })
        .await;
        assert_eq!(refusal, Some(ProblemType::TokenSpent), "a token opened again");
    }
    cast
}

/// One of the servers' database sessions dies without a word: PostgreSQL ends all others and recovers, as after a
/// crash of its own.
async fn kill_a_session(world: &World, rng: &mut StdRng) {
    kill_one_of(world, rng, "usename = 'postern_server'").await;
}

/// So it does when the process that sends wake-ups dies.
async fn kill_the_notifier(world: &World, rng: &mut StdRng) {
    kill_one_of(world, rng, "backend_type = 'postern notifier'").await;
}

async fn kill_one_of(world: &World, rng: &mut StdRng, sessions: &str) {
    let sessions = format!("SELECT pid FROM pg_stat_activity WHERE {sessions} ORDER BY backend_start");
    // PostgreSQL may be recovering from the last time.
    let sessions = eventually("an admin can look", async || {
        world.cluster.try_admin().await?.query(&sessions, &[]).await.ok()
    })
    .await;
    let sessions: Vec<i32> = sessions.iter().map(|row| row.get(0)).collect();
    let Some(session) = sessions.choose(rng) else { return };
    // Gone by itself, perhaps.
    let _ = kill(Pid::from_raw(*session), Signal::SIGKILL);
}

/// The one group's epoch, and the sum of all group queues' last sequence numbers.
async fn state(world: &World) -> (i64, i64) {
    let state = "SELECT (SELECT epoch FROM ds.groups),
                        (SELECT sum(next_seq - 1)::bigint FROM qs.queues WHERE kind = 'group')";
    let row = world.cluster.admin().await.query_one(state, &[]).await.expect("an admin can look");
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_every_queue_goes_on_with_a_new_chain() {
    let mut world = two_servers().await;
    let cast = Cast::assemble(&world, 3, &[&[0, 1, 2]]).await;
    let group = &cast.groups[0].id;
    for crash in 0..3 {
        // Lies in the queues when the crash comes, under the old chain.
        let early = cast.prepare_text(0, group, &format!("before crash {crash}")).await;
        let answer = answer_to(&client_ways(&world)[0], &early, cast.token(0).await).await;
        assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
        cast.close(0, &early, Fate::Accepted).await;
        let before = chain_numbers(&world).await;
        let token = cast.token(1).await;

        world.cluster.kill_postgres();
        world.cluster.restart().await;
        let late = cast.prepare_text(1, group, &format!("after crash {crash}")).await;
        let answer = answer_to(&client_ways(&world)[1], &late, token).await;
        assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
        cast.close(1, &late, Fate::Accepted).await;
        cast.catch_up().await;
        let after = chain_numbers(&world).await;
        let renewed = before.iter().zip(&after).filter(|(before, after)| after > before).count();
        // Two members' group queues got the second text.
        assert_eq!(renewed, 2, "{before:?} {after:?}");
    }
    cast.check(&world).await;
}

/// The first answer to a message that is about it.
async fn answer_to(way: &Http, submission: &Submission, token: Token) -> Answer {
    eventually("the server finds its database again", async || {
        match hand_in(way, submission, token.clone()).await {
            Answer::Lost => None,
            answer => Some(answer),
        }
    })
    .await
}

async fn chain_numbers(world: &World) -> Vec<i64> {
    let chains = "SELECT last_chain FROM qs.queues ORDER BY queue_id";
    let rows = world.cluster.admin().await.query(chains, &[]).await.expect("an admin can look");
    rows.iter().map(|row| row.get(0)).collect()
}
