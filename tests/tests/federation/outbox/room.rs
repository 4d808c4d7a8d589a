//! Room in the outbox, and the shares in it: what waits is bounded, and what is gone leaves nothing.

use std::time::{Duration, Instant};

use postern_protocol::name::Domain;
use postern_tests_kit::{Weather, World, eventually};

use super::{Talk, claimed, heard, make_due, put_in};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_domain_is_bounded_and_its_sender_is_told() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('outbox_mib', 1)").await;
    talk.line(Weather::Cut);
    let mut refused = 0;
    for _ in 0..20 {
        let (said, accepted) = talk.submit(&vec![b'x'; 60_000]).await;
        match accepted.undelivered {
            0 => talk.said.push(said),
            _ => refused += 1,
        }
    }
    assert_eq!((talk.said.len(), refused), (15, 5), "a MiB has room for 15 of 64 KiB and their seals");
    assert_eq!(talk.neighbour::<i64>("queued").await, 15);
    talk.reconnect().await;
    talk.assert_heard("those that were taken").await;
    assert_eq!(talk.neighbour::<i64>("queued_bytes").await, 0);
    // Deliveries that were set aside take room, too.
    talk.line(Weather::Cut);
    for _ in 0..15 {
        talk.submit(&vec![b'x'; 60_000]).await;
    }
    talk.sender().admin.execute("UPDATE federation.outbox SET day = day - 15", &[]).await.unwrap();
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(talk.neighbour::<i64>("set_aside").await, 15);
    assert_eq!(talk.submit(&vec![b'x'; 60_000]).await.1.undelivered, 1);
    talk.operate("drop_set_aside('b.example')").await;
    let (said, accepted) = talk.submit(&vec![b'x'; 60_000]).await;
    assert_eq!(accepted.undelivered, 0);
    talk.said.push(said);
    talk.reconnect().await;
    talk.assert_heard("there is room again").await;
    // Dropped on request.
    talk.line(Weather::Cut);
    talk.submit(b"dropped").await;
    talk.operate("drop_queued('b.example')").await;
    assert_eq!(talk.neighbour::<i64>("queued").await, 0);
    talk.say("after that").await;
    talk.reconnect().await;
    talk.assert_heard("what came after").await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_dropped_and_tried_again_in_batches() {
    let talk = Talk::start().await;
    talk.line(Weather::Cut);
    let made_up = "SELECT federation.enqueue(array_agg((n % 4)::smallint), array_agg('b.example'::text),
                          array_agg(uuid_send(gen_random_uuid())), array_agg(m.key_id || '\\x00'::bytea))
                     FROM generate_series(1, 2500) n, operator.master_key m";
    let count = async |what: &str| talk.sender().value::<i64>(&format!("SELECT operator.{what}")).await;
    let _: Vec<i16> = talk.sender().value(made_up).await;
    assert_eq!(talk.neighbour::<i64>("queued").await, 2500);
    let dropped = async || count("drop_queued('b.example')").await;
    assert_eq!([dropped().await, dropped().await, dropped().await, dropped().await], [1000, 1000, 500, 0]);
    let _: Vec<i16> = talk.sender().value(made_up).await;
    let old = "UPDATE federation.outbox SET day = day - 15";
    talk.sender().admin.execute(old, &[]).await.unwrap();
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(talk.neighbour::<i64>("set_aside").await, 2500);
    assert_eq!(count("retry_set_aside('b.example', 700)").await, 700);
    let dropped = async || count("drop_set_aside('b.example')").await;
    assert_eq!([dropped().await, dropped().await, dropped().await], [1000, 800, 0]);
    assert_eq!(talk.neighbour::<i64>("queued").await, 700);
    let in_order = "SELECT count(*) FROM (SELECT o.number - lag(o.number) OVER (PARTITION BY o.lane ORDER BY o.number) AS step
                                            FROM federation.outbox o) n WHERE n.step <> 1";
    assert_eq!(talk.sender().value::<i64>(in_order).await, 0, "numbers have no gaps");
    let counted = "SELECT (SELECT sum(bytes) FROM federation.outbox_bytes)
                        = (SELECT sum(octet_length(sealed)) FROM federation.outbox)";
    assert!(talk.sender().value::<bool>(counted).await, "bytes are counted however they leave");
    assert_eq!(count("drop_queued('b.example')").await, 700);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_costs_the_same_however_many_wait() {
    let mut world = World::start().await;
    let blocks = async |world: &mut World, lanes: i32, names: &str, busy: &str| -> i64 {
        let transaction = world.admin.transaction().await.unwrap();
        let waiting = format!(
            "INSERT INTO federation.outgoing_lanes (domain, lane, instance, next_number, waiting, is_stranger, last_used)
             SELECT d.domain, 0, uuid_send(gen_random_uuid()), 2, 1, false, current_date
               FROM (SELECT {names} FROM generate_series(1, {lanes}) n
                      UNION ALL SELECT 'y' || n || '.example' FROM generate_series(1, 10) n) AS d (domain);
             INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
             SELECT uuid_send(gen_random_uuid()), l.domain, 0, 1, m.key_id || '\\x00'::bytea, current_date
               FROM federation.outgoing_lanes l, operator.master_key m;
             INSERT INTO federation.due (domain, lane, family, standing, due)
             SELECT l.domain, 0, federation.share(l.domain), 'good', now() - interval '1 second'
               FROM federation.outgoing_lanes l;"
        );
        transaction.batch_execute(&waiting).await.unwrap();
        let claim = format!(
            "SELECT * FROM federation.claim_lane('good', uuid_send(gen_random_uuid()), 10, 64, 786432, '', '{busy}')"
        );
        // Plans are made once.
        for _ in 0..3 {
            let claimed = transaction.query_one(&claim, &[]).await.unwrap();
            assert!(claimed.get::<_, Option<&str>>("domain").is_some(), "one is claimed");
        }
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim}");
        let plan: serde_json::Value = transaction.query_one(&explain, &[]).await.unwrap().get(0);
        transaction.rollback().await.unwrap();
        let plan = &plan[0]["Plan"];
        ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|kind| plan[*kind].as_i64().unwrap()).sum()
    };
    for (names, busy) in [("'x' || n || '.example'", "{}"), ("'x' || n || '.evil.example'", "{evil.example}")]
    {
        let few = blocks(&mut world, 10, names, busy).await;
        let many = blocks(&mut world, 20_000, names, busy).await;
        assert!(many <= 3 * few, "{names}: {few} blocks for 10 lanes that wait, {many} for 20,000");
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_stays_while_something_of_it_is_set_aside() {
    let world = World::start().await;
    let old = "INSERT INTO federation.outgoing_lanes (domain, lane, instance, next_number, is_stranger, last_used)
               SELECT d.domain, 0, uuid_send(gen_random_uuid()), 2, true, current_date - 61
                 FROM unnest(ARRAY['aside.example', 'empty.example']) AS d (domain);
               INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day)
               SELECT uuid_send(gen_random_uuid()), 'aside.example', 0, 1, m.key_id || '\\x00'::bytea, 'damaged', current_date
                 FROM operator.master_key m";
    world.admin.batch_execute(old).await.unwrap();
    world.admin.execute("SELECT federation.clean_up()", &[]).await.unwrap();
    let left = "SELECT array_agg(domain::text) FROM federation.outgoing_lanes";
    assert_eq!(world.value::<Vec<String>>(left).await, ["aside.example"]);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_names_that_came_once() {
    let world = World::start().await;
    let come = "INSERT INTO federation.homeserver_keys (public_key, domain, pinned, not_after)
                SELECT sha256(d.domain::bytea), d.domain, current_date - 31, 1
                  FROM unnest(ARRAY['once.example', 'ruled.example', 'delivers.example', 'takes.example']) AS d (domain);
                INSERT INTO federation.homeserver_keys (public_key, domain, pinned, distrusted)
                VALUES (sha256('1'), 'once.example', current_date - 31, current_date - 31);
                INSERT INTO aas.takers (domain) SELECT DISTINCT k.domain FROM federation.homeserver_keys k;
                SELECT operator.allow_domain('ruled.example');
                INSERT INTO federation.incoming_lanes (domain, lane, instance, last_number, last_used)
                VALUES ('delivers.example', 0, uuid_send(gen_random_uuid()), 1, current_date);
                INSERT INTO federation.neighbours (domain, first_success, last_success)
                VALUES ('takes.example', current_date - 40, current_date - 40)";
    world.admin.batch_execute(come).await.unwrap();
    world.admin.execute("SELECT federation.clean_up()", &[]).await.unwrap();
    let kept = ["delivers.example", "ruled.example", "takes.example"];
    for rows in ["aas.takers WHERE domain IS NOT NULL", "federation.homeserver_keys WHERE distrusted IS NULL"]
    {
        let sql = format!("SELECT array_agg(domain::text ORDER BY domain) FROM {rows}");
        assert_eq!(world.value::<Vec<String>>(&sql).await, kept, "{rows}");
    }
    let distrusted = "federation.homeserver_keys WHERE distrusted IS NOT NULL";
    assert_eq!(world.count(distrusted).await, 1, "that is the operator's word");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_few_and_hold_up_nobody() {
    /// Time within which a neighbour takes what is said, however busy the machine is with strangers. Behind a thousand of
    /// them, a few at a time, it would wait for minutes.
    const SOON: Duration = Duration::from_secs(30);
    let mut talk = Talk::start().await;
    let family = put_in(talk.sender(), "'x' || n || '.made-up.example'", 1200, 1).await;
    assert_eq!(family, 125, "an eighth of max_strangers");
    let others = put_in(talk.sender(), "'x.made-up-' || n || '.example'", 1200, 1).await;
    assert_eq!(others, 875, "max_strangers");
    for text in ["one", "two", "three"] {
        let started = Instant::now();
        talk.say(text).await;
        let waiting = "federation.outbox WHERE domain = 'b.example'";
        eventually("it is taken", async || (talk.sender().count(waiting).await == 0).then_some(())).await;
        assert!(started.elapsed() < SOON, "{text} took {:?}", started.elapsed());
    }
    let heard = heard(&talk.neighbours[1], &mut talk.group.members[1].mailbox).await;
    assert_eq!(heard, talk.said);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_homeservers_leave_room_in_the_outbox_to_others() {
    let mut talk = Talk::start().await;
    talk.operate("set_federation_limit('outbox_total_mib', 4)").await;
    // Nobody delivers any of it meanwhile.
    talk.sender().admin.batch_execute("BEGIN").await.unwrap();
    let known = "INSERT INTO federation.neighbours (domain, first_success, last_success)
                 SELECT 'x' || n || '.evil.example', current_date, current_date
                   FROM generate_series(1, 10) n";
    talk.sender().admin.execute(known, &[]).await.unwrap();
    let fill = async |talk: &Talk| -> usize {
        let mut taken = 0;
        for _ in 0..10 {
            taken += put_in(talk.sender(), "'x' || n || '.evil.example'", 10, 61_440).await;
        }
        taken
    };
    // Nobody knows yet that they are silent.
    let at_first = fill(&talk).await;
    assert!((50..60).contains(&at_first), "ten homeservers share ten parts of twelve: {at_first}");
    let other = put_in(talk.sender(), "'b.example'", 1, 61_440).await;
    assert_eq!(other, 1, "each leaves as much as it has");
    let fail = "INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
                SELECT DISTINCT l.domain, 'failing', 'silent', 9, now() + interval '5 minutes'
                  FROM federation.outgoing_lanes l
                 WHERE l.domain LIKE '%.evil.example'";
    talk.sender().admin.execute(fail, &[]).await.unwrap();
    assert_eq!(fill(&talk).await, 0, "they have more than a family that is silent may");
    for number in 1..=10 {
        talk.operate(&format!("drop_queued('x{number}.evil.example')")).await;
    }
    let silent = fill(&talk).await;
    assert!((15..18).contains(&silent), "a third of what is no reserve: {silent}");
    talk.sender().admin.batch_execute("COMMIT").await.unwrap();
    let waiting = "federation.outbox WHERE domain = 'b.example'";
    talk.say("two").await;
    eventually("it is taken", async || (talk.sender().count(waiting).await == 0).then_some(())).await;
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_gives_way_when_room_is_short() {
    let talk = Talk::start().await;
    talk.line(Weather::Cut);
    talk.operate("set_federation_limit('outbox_total_mib', 1)").await;
    assert_eq!(put_in(talk.sender(), "'b.example'", 1, 300_000).await, 1);
    talk.sender().admin.execute("UPDATE federation.outbox SET day = day - 15", &[]).await.unwrap();
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(talk.neighbour::<i64>("set_aside").await, 1, "there is room");
    let fill = "UPDATE federation.outbox_bytes SET bytes = bytes + 400000";
    talk.sender().admin.execute(fill, &[]).await.unwrap();
    while talk.sender().value::<bool>("SELECT federation.expire_deliveries()").await {}
    assert_eq!(talk.neighbour::<i64>("set_aside").await, 0);
    talk.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn families_of_names_take_turns_however_many_names_they_have() {
    let world = World::start().await;
    // The server claims none of it.
    world.admin.batch_execute("BEGIN").await.unwrap();
    for standing in ["prompt", "good", "slow", "failing", "stranger"] {
        make_due(&world, &format!("'x' || n || '.evil-{standing}.example'"), 300, standing).await;
        make_due(&world, &format!("'b-{standing}.example'"), 1, standing).await;
        let mut turn = String::new();
        let mut domains = Vec::new();
        for _ in 0..2 {
            let (domain, family) = claimed(&world, standing, &turn).await;
            domains.extend(domain);
            turn = family;
        }
        let good = format!("b-{standing}.example");
        assert!(domains.contains(&good), "{standing}: {domains:?}");
        // One that the operator allowed is a family of its own.
        let allow = format!("SELECT operator.allow_domain('x300.evil-{standing}.example')");
        world.admin.execute(&allow, &[]).await.unwrap();
        let (_, first) = claimed(&world, standing, "").await;
        let (allowed, _) = claimed(&world, standing, &first).await;
        assert_eq!(allowed, Some(format!("x300.evil-{standing}.example")));
    }
    world.admin.batch_execute("ROLLBACK").await.unwrap();
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_and_the_server_know_the_same_families_of_names() {
    let world = World::start().await;
    let labels =
        ["ac", "co", "com", "edu", "gob", "go", "gov", "ne", "net", "or", "org", "gv", "xco", "example"];
    let mut names = vec!["a.xn--p1ai".to_owned(), "co.a.xn--p1ai".to_owned(), "b.a-co.uk".to_owned()];
    for label in labels {
        for top in ["uk", "de", "com", "xuk", "a1", "x"] {
            let below = ["", "a.", "b.a.", "c.b.a.", "com.", "a.com.", "b-a."];
            names.extend(below.iter().map(|below| format!("{below}{label}.{top}")));
        }
    }
    let sql = "SELECT array_agg(federation.family(n.name) ORDER BY n.place)
                 FROM unnest($1::text[]) WITH ORDINALITY AS n (name, place)";
    let families: Vec<String> = world.admin.query_one(sql, &[&names]).await.unwrap().get(0);
    assert_eq!(families.len(), names.len());
    for (name, family) in names.iter().zip(&families) {
        let domain: Domain = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(domain.family(), family.as_str(), "{name}");
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_are_tried_in_vain_make_room_for_others() {
    let world = World::start().await;
    let fail = async |domain: &str| {
        for _ in 0..3 {
            let sql = "SELECT federation.note_failed_attempt($1, '\\x00', 'failing', 'nobody is there')";
            world.admin.execute(sql, &[&domain]).await.unwrap();
            world.admin.execute("UPDATE federation.attempts SET next_try = now()", &[]).await.unwrap();
        }
    };
    world.admin.batch_execute("BEGIN").await.unwrap();
    make_due(&world, "'x.made-up-' || n || '.example'", 4, "stranger").await;
    make_due(&world, "'known.example'", 1, "good").await;
    fail("x.made-up-1.example").await;
    assert_eq!(world.count("federation.set_aside").await, 0, "there is room");
    world.admin.execute("SELECT operator.set_federation_limit('max_strangers', 5)", &[]).await.unwrap();
    fail("known.example").await;
    assert_eq!(world.count("federation.set_aside").await, 0, "that one was there before");
    fail("x.made-up-2.example").await;
    let aside = "SELECT array_agg(domain || ': ' || reason) FROM federation.set_aside";
    assert_eq!(world.value::<Vec<String>>(aside).await, ["x.made-up-2.example: no such homeserver"]);
    let waiting = "SELECT sum(waiting) FROM federation.outgoing_lanes WHERE domain = 'x.made-up-2.example'";
    assert_eq!(world.value::<i64>(waiting).await, 0);
    world.admin.batch_execute("ROLLBACK").await.unwrap();
    world.close();
}
