//! Deliveries from a DS to queues of other domains (FED-4): each once and in order, whoever drains the outbox.

use std::time::Duration;

use nix::sys::signal::Signal;
use postern_protocol::{ds::MessageAccepted, qs::QueuePayload};
use postern_tests_kit::{Chance, Commit, Group, Neighbours, Weather, World, dump, eventually};
use rand::Rng;

use crate::{
    groups::{drained, group, operate, texts},
    outbox::{attempts_ended, put_in},
};

/// Deliveries that wait in the outbox.
async fn waiting(world: &World) -> i64 {
    world.count("federation.outbox").await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_drain_one_outbox_without_a_double_or_a_gap() {
    const MESSAGES: usize = 200;
    let chance = Chance::new();
    let mut rng = chance.of(0);
    let mut neighbours = Neighbours::builder()
        .processes(2)
        .setting("POSTERN_LOG_FILTER", "info,postern_server::federation::outbox=debug")
        .tokens(MESSAGES + 300)
        .start()
        .await;
    for world in &neighbours.worlds {
        // A process that dies while it asks for tokens leaves the others without any for a minute.
        operate(world, "set_federation_limit('retry_seconds', 5)").await;
    }
    let mut group = group(&neighbours, &[1, 1]).await;
    for number in 0..MESSAGES {
        let message = group.party(0).say(format!("message {number}").as_bytes());
        let call = neighbours[0].paid(group.submit(0, &message, None));
        let server = rng.random_range(0..2);
        neighbours[0].send_to(&neighbours[0].servers[server], &call.wire()).await.assert_ok("a message");
        // The process that has a lane dies with it.
        if number % 50 == 25 {
            let (domain, server) = (rng.random_range(0..2), rng.random_range(0..2));
            neighbours[domain].replace(server, Signal::SIGKILL).await;
        }
    }
    let expected: Vec<String> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    for member in &mut group.members[1..] {
        let texts = texts(&neighbours, member, MESSAGES).await;
        assert_eq!(texts, expected);
    }
    drained(&neighbours[0]).await;
    for member in &mut group.members[1..] {
        assert!(neighbours[1].read(&mut member.mailbox).await.is_empty(), "a message came twice");
    }
    // Both of them deliver: neither leaves it to the other.
    for (number, server) in neighbours[0].servers.iter().enumerate() {
        let delivers = || server.log().contains("deliveries were taken");
        for _ in 0..100 {
            if delivers() {
                break;
            }
            let message = group.party(0).say(b"one more");
            let call = neighbours[0].paid(group.submit(0, &message, None));
            neighbours[0].send_to(server, &call.wire()).await.assert_ok("a message");
            drained(&neighbours[0]).await;
        }
        assert!(delivers(), "process {number} delivers nothing");
    }
    neighbours.close();
}

/// The size classes of what is sealed, without its seal.
const SIZE_CLASSES: [usize; 5] = [1, 4, 16, 64, 256];

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_shows_domains_numbers_sizes_and_days() {
    const MESSAGES: usize = 20;
    let neighbours = Neighbours::builder().domains(3).bad_lines().tokens(200).start().await;
    let mut group = group(&neighbours, &[1, 1, 2]).await;
    drained(&neighbours[0]).await;
    for to in 1..3 {
        neighbours.line(0, to).set(Weather::Cut);
    }
    let mut private: Vec<Vec<u8>> = Vec::new();
    for number in 0..MESSAGES {
        let message = group.party(0).say(format!("message {number}").repeat(1 + number * 50).as_bytes());
        neighbours[0].pay(&group.submit(0, &message, None)).await.assert_ok("a message");
        private.push(message.as_bytes()[..32.min(message.as_bytes().len())].to_vec());
    }
    private.push(group.id.id().to_vec());
    private.extend(group.members.iter().map(|member| member.address.as_bytes().to_vec()));
    private.extend(group.members.iter().map(|member| member.address.lookup().to_vec()));
    assert_eq!(waiting(&neighbours[0]).await, 2 * MESSAGES as i64, "a row for each message and domain");

    let rows = dump::rows(&neighbours[0].cluster.dump().await);
    let outbox: Vec<_> = rows.iter().filter(|row| row.table == "federation.outbox").collect();
    assert_eq!(outbox.len(), 2 * MESSAGES);
    for row in &outbox {
        let mut kinds = row.values.iter().map(|value| kind(value)).collect::<Vec<_>>();
        kinds.sort_unstable();
        // Its lane, its place there, and how often it was tried again; and why it was set aside before.
        let expected = ["day", "domain", "id", "nothing", "number", "number", "number", "sealed"];
        assert_eq!(kinds, expected, "{}", row.table);
    }
    // Nothing of it is in another table, but domains, numbers and days.
    let joined = dump::joined_tables(
        &outbox,
        &rows.iter().filter(|row| row.table != "federation.outbox").collect::<Vec<_>>(),
    );
    // All seals name the master key.
    let of_all = |(_, table): &(&str, &str)| {
        table.starts_with("federation.") || table.starts_with("aas.") || *table == "operator.master_key"
    };
    assert!(joined.iter().all(of_all), "{joined:?}");
    for row in rows.iter().filter(|row| row.schema() == "federation" || row.schema() == "ds") {
        for (value, private) in
            row.values.iter().flat_map(|value| private.iter().map(move |one| (value, one)))
        {
            // Group ids are what a DS has groups by.
            let is_own = row.schema() == "ds" && *private == group.id.id().to_vec();
            assert!(is_own || !dump::contains(value, private), "{} shows what it delivers", row.table);
        }
    }
    for (to, domain) in [(1, "b.example"), (2, "c.example")] {
        neighbours.line(0, to).calm();
        operate(&neighbours[0], &format!("retry_now('{domain}')")).await;
    }
    drained(&neighbours[0]).await;
    neighbours.close();
}

/// Moments are in tables that are in no backup, but in a dump of the running database.
#[tokio::test(flavor = "multi_thread")]
async fn moments_are_those_of_attempts_and_looks_and_none_is_a_messages() {
    let world = World::start().await;
    let moments: Vec<String> = world
        .value(
            "SELECT array_agg(m.place || ' ' || m.persistence ORDER BY m.place)
               FROM (SELECT c.relname || '.' || a.attname AS place,
                            CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'logged' END AS persistence
                       FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                      WHERE c.relnamespace = 'federation'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
                        AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'timetz'::regtype, 'time'::regtype))
                    m",
        )
        .await;
    let expected = [
        // The moments of the next attempt at a domain, and of that at a lane: before the first one, the second in which something
        // came.
        "attempts.next_try unlogged",
        // The moment at which a connection broke first under a delivery that was alone on it.
        "due.broken_since unlogged",
        "due.due unlogged",
        // The moment of a look at its description.
        "looks.looked unlogged",
        // The minute of an answer to deliveries.
        "prompt_homeservers.noted unlogged",
        // The moment of a request for tokens.
        "refills.asked unlogged",
    ];
    assert_eq!(moments, expected, "another one has to be no message's");

    world.admin.batch_execute("BEGIN").await.expect("it can begin");
    assert_eq!(put_in(&world, "'made-up.example'", 1, 1).await, 1);
    world
        .admin
        .execute("SELECT federation.note_prompt('made-up.example')", &[])
        .await
        .expect("it can be noted");
    let is_coarse =
        "SELECT bool_and(d.due = date_trunc('second', d.due) AND p.noted = date_trunc('minute', p.noted)
                                     AND d.due BETWEEN now() - interval '1 second' AND now())
                       FROM federation.due d
                       JOIN federation.prompt_homeservers p ON p.domain = d.domain";
    assert!(world.value::<bool>(is_coarse).await);
    world.admin.batch_execute("ROLLBACK").await.expect("it can end");
    world.close();
}

/// The kind of a value in the outbox, as somebody sees it who has a dump of it.
fn kind(value: &[u8]) -> &'static str {
    let text = std::str::from_utf8(value).unwrap_or_default();
    if ["b.example", "c.example"].contains(&text) {
        "domain"
    } else if text == "\\N" {
        "nothing"
    } else if dump::is_date(value) {
        "day"
    } else if text.parse::<u64>().is_ok() {
        "number"
    } else if value.len() == 16 {
        "id"
    } else if is_of_a_size_class(value.len()) {
        "sealed"
    } else {
        "something else"
    }
}

/// The seal adds less than a hundred bytes, and the same to all.
fn is_of_a_size_class(bytes: usize) -> bool {
    let classes = SIZE_CLASSES.iter().map(|kib| kib * 1024).chain((1..32).map(|mib| mib * 1024 * 1024));
    classes.into_iter().any(|class| (class..class + 100).contains(&bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_domain_is_refused_both_ways_at_once_and_its_queue_is_shown() {
    let neighbours = Neighbours::builder().processes(2).bad_lines().tokens(200).start().await;
    let operator = neighbours[0].cluster.connect_as("postern_operator").await;
    let [here, there] = [&neighbours[0], &neighbours[1]];
    let mut group = group(&neighbours, &[1]).await;
    drained(&neighbours[0]).await;
    neighbours.line(0, 1).set(Weather::Cut);
    let message = group.party(0).say(b"before");
    neighbours[0].pay(&group.submit(0, &message, None)).await.assert_ok("a message");
    operate(here, "block_domain('b.example')").await;
    // Attempts that began before the block end.
    attempts_ended(here).await;
    neighbours.line(0, 1).calm();

    let row = operator.query_one("SELECT * FROM operator.neighbours()", &[]).await.expect("it may");
    assert_eq!(row.get::<_, &str>("domain"), "b.example");
    assert_eq!(row.get::<_, &str>("state"), "blocked");
    assert_eq!(row.get::<_, i64>("queued"), 1);
    let connections = neighbours.line(0, 1).connections();
    operate(here, "retry_now('b.example')").await;
    // Longer than any process needs to find what is due.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(waiting(&neighbours[0]).await, 1, "nothing leaves");
    assert_eq!(neighbours.line(0, 1).connections(), connections, "nobody calls");
    assert!(neighbours[1].read(&mut group.members[1].mailbox).await.is_empty());

    // A group at the other domain, with a member of this one.
    let founder = neighbours[1].candidate().await;
    let mut elsewhere = neighbours[1].group_by(founder).await;
    let mut joiner = neighbours[0].candidate().await;
    let (_, call) = elsewhere.make(0, Commit { add: vec![joiner.party.key_package()], ..Default::default() });
    neighbours[1].pay(&call).await.assert_ok("the other side lets it in");
    eventually("it is refused", async || (there.count("federation.attempts").await == 1).then_some(())).await;
    assert_eq!(waiting(&neighbours[1]).await, 1, "and cannot deliver");
    assert!(neighbours[0].read(&mut joiner.mailbox).await.is_empty());

    operate(here, "drop_domain_rule('b.example')").await;
    operate(here, "retry_now('b.example')").await;
    operate(there, "retry_now('a.example')").await;
    assert_eq!(texts(&neighbours, &mut group.members[1], 1).await, ["before"]);
    let welcomed = neighbours.await_payloads(0, &mut joiner).await;
    assert!(matches!(welcomed[0], QueuePayload::Welcome(_)), "{welcomed:?}");
    for world in &neighbours.worlds {
        drained(world).await;
    }
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_that_never_took_anything_have_one_room_together() {
    let neighbours = Neighbours::builder().tokens(200).start().await;
    let here = &neighbours[0];
    let mut group = group(&neighbours, &[1]).await;
    drained(here).await;
    operate(here, "set_federation_limit('outbox_mib', 1)").await;
    // Leaves that somebody made up.
    let mut made_up = Vec::new();
    for number in 0..5 {
        let domain = format!("made-up-{number}.example").parse().expect("it is a domain");
        made_up.push(here.candidate_at(&domain).await.party.key_package());
    }
    let (_, call) = group.make(0, Commit { add: made_up, ..Default::default() });
    here.pay(&call).await.assert_ok("they are added");
    group.party(0).merge();
    let mut undelivered = 0;
    for _ in 0..10 {
        let message = group.party(0).say(&vec![b'x'; 60_000]);
        let accepted: MessageAccepted = here.pay(&group.submit(0, &message, None)).await.decode();
        undelivered += accepted.undelivered;
    }
    let strangers =
        "SELECT sum(octet_length(sealed))::bigint FROM federation.outbox WHERE domain LIKE 'made-up%'";
    let waiting: i64 = here.value(strangers).await;
    assert!(waiting <= 1024 * 1024, "{waiting} bytes wait for domains that nobody knows");
    assert!(undelivered > 30, "the sender is told: {undelivered}");
    eventually("the neighbour gets all of its own", async || {
        let sql = "SELECT count(*) FROM federation.outbox WHERE domain = 'b.example'";
        (here.value::<i64>(sql).await == 0).then_some(())
    })
    .await;
    assert_eq!(texts(&neighbours, &mut group.members[1], 10).await.len(), 10);
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_remote_queue_answers_as_a_local_one() {
    const DEPTH: i32 = 5;
    let neighbours = Neighbours::builder().tokens(200).start().await;
    // The first is here, the second at the neighbour.
    let mut group = group(&neighbours, &[0, 1]).await;
    for world in &neighbours.worlds {
        operate(world, &format!("set_queue_limit('group_queue_depth', {DEPTH})")).await;
    }
    let say = async |group: &mut Group, text: String| {
        let message = group.party(0).say(text.as_bytes());
        let accepted: MessageAccepted = neighbours[0].pay(&group.submit(0, &message, None)).await.decode();
        drained(&neighbours[0]).await;
        accepted.undelivered
    };
    let mut undelivered = 0;
    for number in 0..DEPTH + 3 {
        undelivered += say(&mut group, format!("message {number}")).await;
    }
    assert!(undelivered > 0, "the sender is told of the local queue");
    let mut read = Vec::new();
    for member in &mut group.members[1..] {
        let world = neighbours.of(&member.domain);
        let mut kinds = Vec::new();
        loop {
            let received = world.read(&mut member.mailbox).await;
            if received.is_empty() {
                break;
            }
            kinds.extend(received.iter().map(|payload| match payload {
                QueuePayload::Message(_) => "message",
                QueuePayload::Lost(lost) if lost.address == Some(member.address) => "lost",
                _ => "something else",
            }));
        }
        read.push(kinds);
    }
    assert_eq!(read[0], read[1], "here, and at the neighbour");
    assert!(read[0].contains(&"lost"), "the owner is told: {read:?}");
    assert_eq!(
        neighbours[0].count("federation.set_aside").await,
        0,
        "nothing is wrong with what had no room"
    );
    // There is room again, and nobody was removed.
    assert_eq!(say(&mut group, "after that".to_owned()).await, 0);
    for member in &mut group.members[1..] {
        let received = neighbours.of(&member.domain).read(&mut member.mailbox).await;
        assert!(matches!(received[..], [QueuePayload::Message(_)]), "{received:?}");
    }
    neighbours.close();
}
