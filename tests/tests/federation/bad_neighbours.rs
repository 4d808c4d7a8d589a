//! Neighbours that accept and never answer, answer slowly, with errors, garbage or bodies without an end, or flood this
//! server: what people do at home is as fast as without them (FED-6).

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use postern_protocol::{ds::MessageAccepted, name::Domain};
use postern_tests_kit::{
    Capsules, Commit, Flood, Floods, Group, Neighbours, Party, Weather, World, asking_elsewhere, eventually,
    fresh_address,
};

use crate::groups::{drained, group, texts};

/// Sends that are measured in a round.
const SENDS: usize = 15;
/// Rounds of each kind, in turn.
const ROUNDS: usize = 6;
/// Times that as many are measured, at most, until the medians of all say enough: a machine is busy now and then, and a send
/// that waits for the neighbour always waits.
const TIMES: usize = 5;
/// Messages for the neighbour before each round.
const FOR_NEIGHBOUR: usize = 4;
/// A median may be so many times the other's: a send that waits for the neighbour takes a hundred times as long, but other
/// tests run on the same machine. `postern-bench --bad-neighbours` measures what such a neighbour costs.
const BOUND: f64 = 5.0;

/// Submits a message of a group, and returns how long that takes.
async fn send(world: &World, group: &mut Group) -> Duration {
    let message = group.party(0).say(b"as fast as ever");
    let call = group.submit(0, &message, None);
    let wire = world.paid(call).wire();
    let begun = Instant::now();
    world.send(&wire).await.assert_ok("a message");
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Adds the times of a local group's sends, without and with something bad that `begin` brings about and `end` ends.
async fn measure(
    world: &World,
    (local, remote): (&mut Group, &mut Group),
    begin: &mut impl AsyncFnMut(),
    end: &mut impl AsyncFnMut(),
    times: &mut [Vec<Duration>; 2],
) {
    for round in 0..2 * ROUNDS {
        let is_bad = round % 2 == 1;
        if is_bad {
            begin().await;
        }
        world.restock(FOR_NEIGHBOUR + SENDS).await;
        for _ in 0..FOR_NEIGHBOUR {
            send(world, remote).await;
        }
        for _ in 0..SENDS {
            times[usize::from(is_bad)].push(send(world, local).await);
        }
        if is_bad {
            end().await;
        }
    }
}

/// Fails if local sends wait for something bad.
async fn assert_as_fast(
    what: &str,
    world: &World,
    (local, remote): (&mut Group, &mut Group),
    mut begin: impl AsyncFnMut(),
    mut end: impl AsyncFnMut(),
) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TIMES {
        measure(world, (&mut *local, &mut *remote), &mut begin, &mut end, &mut times).await;
        let [good, bad] = times.clone().map(median);
        eprintln!("{what}: {:.2} ms, {:.2} ms without", bad * 1000.0, good * 1000.0);
        if bad <= good * BOUND {
            return;
        }
    }
    let [good, bad] = times.map(median);
    panic!("{what} holds local sends up: {:.1} times as long", bad / good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_neighbour_does_not_hold_up_local_sends() {
    let neighbours = Neighbours::builder().bad_lines().tokens(1000).start().await;
    let world = &neighbours[0];
    let mut local = world.group(2).await;
    let mut remote = group(&neighbours, &[1]).await;
    let line = neighbours.line(0, 1);
    let mut asked = asking_elsewhere(world, &neighbours[1]).await;
    for weather in [
        Weather::Silent,
        Weather::Slow(Duration::from_millis(500)),
        Weather::Failing,
        Weather::Garbage,
        Weather::Endless,
    ] {
        let groups = (&mut local, &mut remote);
        let end = async || {
            line.calm();
        };
        assert_as_fast(&format!("{weather:?}"), world, groups, async || line.set(weather), end).await;
    }
    asked.shutdown().await;
    world.admin.execute("SELECT operator.retry_now('b.example')", &[]).await.expect("the operator may");
    drained(world).await;
    neighbours.close();
}

/// Measures local sends while a flood comes here, and while one of the same kind goes to the neighbour. Returns the floods,
/// which go on.
async fn assert_withstands(
    what: &str,
    neighbours: &Neighbours,
    groups: (&mut Group, &mut Group),
    floods: [Flood; 2],
) -> Floods {
    let floods = Floods::start(floods.into());
    let begin = async || floods.turn_to(0);
    let end = async || floods.turn_to(1);
    floods.turn_to(1);
    assert_as_fast(what, &neighbours[0], groups, begin, end).await;
    floods
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_the_gateway_does_not_hold_up_local_sends() {
    // A neighbour gets a tenth of what comes; the rest is refused before anything is done for it.
    let neighbours = Neighbours::builder()
        .setting("POSTERN_FEDERATION_GATEWAY_PER_SECOND", "20")
        .tokens(1000)
        .start()
        .await;
    let mut local = neighbours[0].group(2).await;
    let mut remote = group(&neighbours, &[1]).await;
    for capsules in [Capsules::OfStrangers, Capsules::Spoilt, Capsules::Sound] {
        let floods = [
            Flood::of_capsules(&neighbours[0], capsules).await,
            Flood::of_capsules(&neighbours[1], capsules).await,
        ];
        let what = format!("capsules: {capsules:?}");
        assert_withstands(&what, &neighbours, (&mut local, &mut remote), floods).await;
    }
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_deliveries_does_not_hold_up_local_sends() {
    let neighbours = Neighbours::builder().tokens(1000).start().await;
    let mut local = neighbours[0].group(2).await;
    let mut remote = group(&neighbours, &[1]).await;
    let floods = [Flood::of_deliveries(&neighbours[0]).await, Flood::of_deliveries(&neighbours[1]).await];
    let groups = (&mut local, &mut remote);
    assert_withstands("deliveries to nobody", &neighbours, groups, floods).await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_deliveries_does_not_hold_up_local_sends() {
    let neighbours = Neighbours::builder().tokens(1000).start().await;
    let mut local = neighbours[0].group(2).await;
    let mut remote = group(&neighbours, &[1]).await;
    let floods =
        [Flood::of_large_deliveries(&neighbours[0]).await, Flood::of_large_deliveries(&neighbours[1]).await];
    let groups = (&mut local, &mut remote);
    let floods = assert_withstands("deliveries as large as they may be", &neighbours, groups, floods).await;
    for (number, world) in neighbours.worlds.iter().enumerate() {
        floods.turn_to(number);
        let taken = "federation.incoming_lanes WHERE domain = 'flood.example'";
        let some = async || (world.count(taken).await > 0).then_some(());
        eventually("such deliveries are taken", some).await;
    }
    drop(floods);
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_domains_keep_no_prompt_one_waiting() {
    /// As many as a group has, which are many times the places.
    const SLOW: usize = 50;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = silent.local_addr().expect("it has an address");
    let slow: Vec<Domain> =
        (0..SLOW).map(|number| format!("slow{number}.example").parse().expect("it is a domain")).collect();
    let builder = Neighbours::builder().tokens(200).setting("POSTERN_FEDERATION_DELIVERIES_AT_ONCE", "4");
    let builder = slow.iter().fold(builder, |builder, domain| builder.host(domain.as_str(), address));
    let neighbours = builder.start().await;
    let world = &neighbours[0];
    let mut good = group(&neighbours, &[1]).await;
    drained(world).await;

    let mut of_all = world.group(1).await;
    let newcomer = |domain| {
        let mut party = Party::newcomer();
        party.leaf = party.leaf_at(domain, fresh_address());
        party.key_package()
    };
    let (_, call) = of_all.make(0, Commit { add: slow.iter().map(newcomer).collect(), ..Commit::default() });
    let accepted: MessageAccepted = world.pay(&call).await.decode();
    assert_eq!(accepted.undelivered, 0, "something waits for each");
    // Each took deliveries until today, and has its turn before whatever is said from now on.
    let trusted = "UPDATE federation.outgoing_lanes SET is_stranger = false WHERE domain LIKE 'slow%';
                   INSERT INTO federation.neighbours (domain, first_success, last_success)
                   SELECT DISTINCT l.domain, current_date, current_date
                     FROM federation.outgoing_lanes l
                    WHERE l.domain LIKE 'slow%';
                   DELETE FROM federation.attempts WHERE domain LIKE 'slow%';
                   UPDATE federation.due SET standing = 'good', due = now(), holder = NULL WHERE domain LIKE 'slow%'";
    world.admin.batch_execute(trusted).await.expect("it can be so");
    let in_good_standing = "federation.outgoing_lanes WHERE domain LIKE 'slow%' AND NOT is_stranger";
    assert_eq!(world.count(in_good_standing).await, SLOW as i64);
    send(world, &mut good).await;
    assert_eq!(texts(&neighbours, &mut good.members[1], 1).await.len(), 1);
    let untried = "federation.due WHERE domain LIKE 'slow%' AND standing = 'good' AND holder IS NULL";
    assert!(world.count(untried).await > 0, "it did not wait until each slow one had been tried");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_neighbour_keeps_no_other_one_waiting() {
    /// Groups with a member at the bad neighbour: they are in most of the lanes.
    const GROUPS: usize = 24;
    /// Time within which what another one gets is there: what waits for the bad one waits for half a minute at least.
    const SOON: Duration = Duration::from_secs(15);
    let neighbours = Neighbours::builder().domains(3).bad_lines().tokens(600).start().await;
    let world = &neighbours[0];
    let mut bad = Vec::new();
    for _ in 0..GROUPS {
        bad.push(group(&neighbours, &[1]).await);
    }
    let mut good = group(&neighbours, &[2]).await;
    drained(world).await;
    for weather in
        [Weather::Slow(Duration::from_secs(20)), Weather::Silent, Weather::Failing, Weather::Endless]
    {
        neighbours.line(0, 1).set(weather);
        for group in &mut bad {
            send(world, group).await;
        }
        // Until all that can be under way is.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..3 {
            send(world, &mut good).await;
            let begun = Instant::now();
            assert_eq!(texts(&neighbours, &mut good.members[1], 1).await.len(), 1);
            assert!(begun.elapsed() < SOON, "{weather:?}: it came after {:?}", begun.elapsed());
        }
        neighbours.line(0, 1).calm();
        world.admin.execute("SELECT operator.retry_now('b.example')", &[]).await.expect("the operator may");
    }
    drained(world).await;
    neighbours.close();
}
