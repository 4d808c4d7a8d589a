//! `POST /qs/deliveries` (QS-3, FED-4)

use std::cell::Cell;

use futures_util::future::join_all;
use postern_protocol::{
    Address, DeliveryId, LaneInstance, MlsMessage, Payload,
    encoding::Encoding,
    federation::{
        Deliveries, DeliveriesReceived, Delivery, DeliveryOutcome, DeliveryState, NumberedDelivery,
    },
    key::SigningKey,
    problem::{LastDelivery, ProblemType},
    qs::{Lost, QueueKind, QueuePayload},
};
use postern_tests_kit::{Call, Group, Mailbox, World, eventually, fresh_address};
use reqwest::StatusCode;

use crate::{every_route::Valid, qs::deposit::lost};

const DOMAIN: &str = "neighbour.example";

/// A homeserver that delivers in one lane.
struct Neighbour {
    key: SigningKey,
    lane: u16,
    instance: LaneInstance,
}

fn id(number: u64) -> DeliveryId {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    DeliveryId::new(id)
}

fn message(text: &str) -> QueuePayload {
    QueuePayload::Message(MlsMessage::new(text.as_bytes().to_vec()))
}

/// A delivery of the group with this number.
fn delivery(group: u8, to: &[Address], payload: &QueuePayload) -> Delivery {
    Delivery {
        group_id: [group; 16],
        addresses: to.to_vec(),
        parts: vec![1; to.len()],
        payloads: vec![Payload::new(Encoding::Cbor.encode(payload))],
        urgencies: vec![2],
    }
}

impl Neighbour {
    /// One that the operator trusts.
    async fn trusted(world: &World) -> Self {
        let key = SigningKey::generate();
        let sql = "SELECT operator.trust_homeserver_key($1, $2)";
        world.admin.execute(sql, &[&DOMAIN, &key.public_key().as_bytes().as_slice()]).await.unwrap();
        Self { key, lane: 3, instance: LaneInstance::new([1; 16]) }
    }

    /// The deliveries of these numbers, whose ids are by number.
    fn deliveries(&self, first: u64, deliveries: Vec<Delivery>) -> Deliveries {
        let numbered = |(number, delivery)| NumberedDelivery { id: id(number), delivery };
        Deliveries {
            lane: self.lane,
            instance: self.instance,
            first,
            before: (first > 1).then(|| id(first - 1)),
            deliveries: (first..).zip(deliveries).map(numbered).collect(),
        }
    }

    fn call(&self, deliveries: &Deliveries) -> Call {
        Call::post("/qs/deliveries").with(deliveries).signed_by(&self.key)
    }

    fn calling(&self, first: u64, deliveries: Vec<Delivery>) -> Call {
        self.call(&self.deliveries(first, deliveries))
    }

    async fn deliver(&self, world: &World, first: u64, deliveries: Vec<Delivery>) -> Vec<DeliveryOutcome> {
        world.pay(&self.calling(first, deliveries)).await.decode::<DeliveriesReceived>().outcomes
    }

    /// The deliveries are refused, change nothing, and are told what came last.
    async fn assert_gap(&self, world: &World, what: &str, deliveries: &Deliveries, last: u64) {
        let before = world.snapshot().await;
        let reply = world.pay(&self.call(deliveries)).await;
        let problem = reply.assert_problem(what, ProblemType::DeliveryGap);
        let id = (last > 0).then(|| id(last));
        assert_eq!(problem.last_delivery, Some(LastDelivery { number: last, id }), "{what}");
        world.snapshot().await.assert_same(&before, what);
    }
}

fn states(outcomes: &[DeliveryOutcome]) -> Vec<DeliveryState> {
    outcomes.iter().map(|outcome| outcome.state).collect()
}

fn delivered(undelivered: u32, gone: &[u16]) -> DeliveryOutcome {
    DeliveryOutcome { state: DeliveryState::Delivered, undelivered, gone: gone.to_vec() }
}

async fn member(world: &World) -> (Mailbox, Address) {
    let mailbox = world.mailbox(QueueKind::Group).await;
    let address = world.address(&mailbox).await;
    (mailbox, address)
}

pub async fn valid(world: &World) -> Valid {
    let neighbour = Neighbour::trusted(world).await;
    let (_, address) = member(world).await;
    let call = neighbour.calling(1, vec![delivery(1, &[address], &message("hello"))]);
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("instance", ProblemType::MalformedBody)],
        ..Valid::new(call, StatusCode::OK)
    }
}

#[tokio::test]
async fn deliveries_of_a_lane_are_taken_once_and_in_order_and_a_gap_changes_nothing() {
    let world = World::start().await;
    let mut neighbour = Neighbour::trusted(&world).await;
    let (mut mailbox, address) = member(&world).await;
    let say = |text: &str| delivery(1, &[address], &message(text));
    let early = neighbour.deliveries(2, vec![say("two")]);
    neighbour.assert_gap(&world, "the second comes first", &early, 0).await;
    let first = neighbour.deliver(&world, 1, vec![say("one"), say("two")]).await;
    assert_eq!(first, [delivered(0, &[]), delivered(0, &[])]);
    let again = neighbour.deliver(&world, 1, vec![say("one"), say("two")]).await;
    assert_eq!(states(&again), [DeliveryState::Repeated; 2]);
    let overlapping = neighbour.deliver(&world, 2, vec![say("two"), say("three"), say("four")]).await;
    assert_eq!(
        states(&overlapping),
        [DeliveryState::Repeated, DeliveryState::Delivered, DeliveryState::Delivered]
    );
    assert_eq!(world.read(&mut mailbox).await, ["one", "two", "three", "four"].map(message));

    let gap = neighbour.deliveries(6, vec![say("six")]);
    neighbour.assert_gap(&world, "a number is left out", &gap, 4).await;
    let mut twice = neighbour.deliveries(3, vec![say("another three"), say("another four"), say("five")]);
    twice.deliveries[1].id = id(99);
    neighbour.assert_gap(&world, "a number was given twice", &twice, 4).await;
    let mut fork = neighbour.deliveries(5, vec![say("five")]);
    fork.before = Some(id(99));
    neighbour.assert_gap(&world, "the one before is another", &fork, 4).await;
    let behind = neighbour.deliveries(1, vec![say("one")]);
    neighbour.assert_gap(&world, "it is behind, and does not know the last one", &behind, 4).await;

    // The sender was restored: it begins anew, and what comes late from before counts no more.
    let old = neighbour.instance;
    neighbour.instance = LaneInstance::new([2; 16]);
    let middle = neighbour.deliveries(3, vec![say("a")]);
    neighbour.assert_gap(&world, "a new numbering begins with 1", &middle, 0).await;
    assert_eq!(neighbour.deliver(&world, 1, vec![say("five")]).await, [delivered(0, &[])]);
    // And once more, and again.
    for (number, text) in [(3, "six"), (4, "seven")] {
        neighbour.instance = LaneInstance::new([number; 16]);
        let mut next = neighbour.deliveries(1, vec![say(text)]);
        next.deliveries[0].id = id(100 + u64::from(number));
        assert_eq!(world.pay(&neighbour.call(&next)).await.status, StatusCode::OK);
    }
    for replaced in [old, LaneInstance::new([2; 16]), LaneInstance::new([3; 16])] {
        let new = std::mem::replace(&mut neighbour.instance, replaced);
        let late = neighbour.deliveries(1, vec![say("late")]);
        neighbour.assert_gap(&world, "a numbering that was replaced", &late, 0).await;
        neighbour.instance = new;
    }
    // Lanes are apart.
    neighbour.lane = 4;
    assert_eq!(neighbour.deliver(&world, 1, vec![say("eight")]).await, [delivered(0, &[])]);
    assert_eq!(world.read(&mut mailbox).await, ["five", "six", "seven", "eight"].map(message));
    world.close();
}

#[tokio::test]
async fn requests_that_are_not_a_trusted_neighbours_are_refused_and_change_nothing() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let (_, address) = member(&world).await;
    let good = || neighbour.deliveries(1, vec![delivery(1, &[address], &message("hello"))]);
    let stranger = Neighbour { key: SigningKey::generate(), ..Neighbour::trusted(&world).await };
    world.assert_refuses("a stranger's", &stranger.call(&good()), ProblemType::NotAllowed).await;
    let malformed: [(&str, fn(&mut Deliveries)); 4] = [
        ("no such lane", |it| it.lane = 16),
        ("no number", |it| it.first = 0),
        ("no number that there can be", |it| it.first = u64::MAX),
        ("no deliveries", |it| it.deliveries.clear()),
    ];
    for (what, change) in malformed {
        let mut changed = good();
        change(&mut changed);
        world.assert_refuses(what, &neighbour.call(&changed), ProblemType::MalformedBody).await;
    }
    let many = neighbour.deliveries(1, vec![Delivery::empty(); Deliveries::MOST + 1]);
    world.assert_refuses("too many", &neighbour.call(&many), ProblemType::MalformedBody).await;
    let sql = "SELECT operator.block_domain($1)";
    world.admin.execute(sql, &[&DOMAIN]).await.unwrap();
    world
        .assert_refuses("a blocked domain's", &neighbour.call(&good()), ProblemType::HomeserverBlocked)
        .await;
    world.admin.execute("SELECT operator.drop_domain_rule($1)", &[&DOMAIN]).await.unwrap();
    let sql = "SELECT operator.distrust_homeserver_key($1, $2)";
    world.admin.execute(sql, &[&DOMAIN, &neighbour.key.public_key().as_bytes().as_slice()]).await.unwrap();
    world
        .assert_refuses("with a key that is distrusted", &neighbour.call(&good()), ProblemType::NotAllowed)
        .await;
    let neighbour = Neighbour::trusted(&world).await;
    let good = || neighbour.deliveries(1, vec![delivery(1, &[address], &message("hello"))]);
    let end = "UPDATE federation.homeserver_keys SET not_before = 1, not_after = extract(epoch FROM now())::bigint - $1
                WHERE public_key = $2";
    let key = neighbour.key.public_key();
    world.admin.execute(end, &[&1000_i64, &key.as_bytes().as_slice()]).await.unwrap();
    world
        .assert_refuses("with a key that has ended", &neighbour.call(&good()), ProblemType::NotAllowed)
        .await;
    world.admin.execute(end, &[&-1000_i64, &key.as_bytes().as_slice()]).await.unwrap();
    world.admin.execute("SELECT operator.set_federation_policy('allow_list')", &[]).await.unwrap();
    let what = "of a domain that is not on the list";
    world.assert_refuses(what, &neighbour.call(&good()), ProblemType::HomeserverBlocked).await;
    world.admin.execute("SELECT operator.allow_domain($1)", &[&DOMAIN]).await.unwrap();
    assert_eq!(world.pay(&neighbour.call(&good())).await.status, StatusCode::OK, "of one that is");
    // More bytes than queues may take of a request.
    let neighbour = Neighbour { lane: 5, ..Neighbour::trusted(&world).await };
    let large = message(&"x".repeat(200_000));
    let many = vec![fresh_address(); 3000];
    let call = neighbour.calling(1, vec![delivery(1, &many, &large)]);
    world.assert_refuses("too many bytes", &call, ProblemType::BodyTooLarge).await;
    world.close();
}

#[tokio::test]
async fn an_address_takes_the_messages_of_its_one_group_of_its_one_domain() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let mut group: Group = world.group(2).await;
    let local = group.members[1].address;
    let (mut mailbox, address) = member(&world).await;
    let (mut other, of_other) = member(&world).await;
    let hello = message("hello");
    // One request has deliveries of several groups, to queues in any order.
    let outcomes = neighbour
        .deliver(
            &world,
            1,
            vec![
                delivery(1, &[address, fresh_address(), local], &hello),
                delivery(2, &[of_other, address], &hello),
                delivery(1, &[of_other, address], &message("again")),
            ],
        )
        .await;
    assert_eq!(outcomes, [delivered(2, &[1, 2]), delivered(1, &[1]), delivered(1, &[0])]);
    assert_eq!(world.read(&mut mailbox).await, [hello.clone(), message("again")]);
    assert_eq!(world.read(&mut other).await, [hello]);
    assert!(world.read(&mut group.members[1].mailbox).await.is_empty(), "it is a local group's");
    world.close();
}

#[tokio::test]
async fn a_delivery_that_is_none_is_refused_alone_and_takes_its_number() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let (mut mailbox, address) = member(&world).await;
    let say = |text: &str| delivery(1, &[address], &message(text));
    let lie = delivery(1, &[address], &QueuePayload::Lost(Lost { address: Some(address) }));
    let mut unpaired = say("unpaired");
    unpaired.parts.clear();
    let outcomes =
        neighbour.deliver(&world, 1, vec![say("one"), lie, unpaired, Delivery::empty(), say("two")]).await;
    let (delivered, malformed) = (DeliveryState::Delivered, DeliveryState::Malformed);
    assert_eq!(states(&outcomes), [delivered, malformed, malformed, delivered, delivered]);
    assert_eq!(world.read(&mut mailbox).await, ["one", "two"].map(message));
    // Its sender did not get that answer.
    let mut unpaired = say("unpaired");
    unpaired.parts.clear();
    let lie = delivery(1, &[address], &QueuePayload::Lost(Lost { address: Some(address) }));
    let again =
        neighbour.deliver(&world, 1, vec![say("one"), lie, unpaired, Delivery::empty(), say("two")]).await;
    let repeated = DeliveryState::Repeated;
    assert_eq!(states(&again), [repeated, malformed, malformed, repeated, repeated]);
    assert_eq!(neighbour.deliver(&world, 6, vec![say("three")]).await.len(), 1);
    world.close();
}

#[tokio::test]
async fn requests_are_as_large_as_the_protocol_says_whatever_clients_may_send() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let (mut mailbox, address) = member(&world).await;
    let large = message(&"x".repeat(Deliveries::MOST_BYTES - 1024));
    let taken = neighbour.deliver(&world, 1, vec![delivery(1, &[address], &large)]).await;
    assert_eq!(taken, [delivered(0, &[])]);
    assert_eq!(world.read(&mut mailbox).await, std::slice::from_ref(&large));
    let larger = message(&"x".repeat(Deliveries::MOST_BYTES));
    let call = neighbour.calling(2, vec![delivery(1, &[address], &larger)]);
    world.assert_refuses("more than that", &call, ProblemType::BodyTooLarge).await;
    let many = vec![fresh_address(); Deliveries::MOST_ADDRESSES + 1];
    let call = neighbour.calling(2, vec![delivery(1, &many, &message("to many"))]);
    world.assert_refuses("more addresses", &call, ProblemType::BodyTooLarge).await;
    // A delivery that was taken is a repeat, whatever the operator's limit is by now.
    let lowered = "UPDATE ds.settings SET max_members = 2, max_delivery_bytes = 65536";
    world.admin.execute(lowered, &[]).await.unwrap();
    let again = neighbour.deliver(&world, 1, vec![delivery(1, &[address], &large)]).await;
    assert_eq!(states(&again), [DeliveryState::Repeated]);
    let call = neighbour.calling(2, vec![delivery(1, &[address], &large)]);
    world.assert_refuses("another one", &call, ProblemType::BodyTooLarge).await;
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_delivers_too_often_waits_and_at_last_is_told_so() {
    const REQUESTS: usize = 100;
    const PER_SECOND: usize = 5;
    let world = World::builder()
        .setting("POSTERN_FEDERATION_RECEIVED_PER_SECOND", &PER_SECOND.to_string())
        .tokens(200)
        .start()
        .await;
    let mut neighbour = Neighbour::trusted(&world).await;
    let (_, address) = member(&world).await;
    let mut calls = Vec::new();
    for number in 0..REQUESTS {
        neighbour.lane = u16::try_from(number).unwrap() % Deliveries::LANES;
        calls.push(neighbour.calling(1, vec![delivery(1, &[address], &message("hello"))]));
    }
    // The first one makes its domain known.
    world.pay(&calls[0]).await.assert_ok("deliveries");
    let begun = std::time::Instant::now();
    let replies = join_all(calls.iter().map(|call| world.pay(call))).await;
    let seconds = begun.elapsed().as_secs_f64();
    let taken = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    let refused = replies.iter().filter(|reply| reply.is_problem("unavailable")).count();
    assert_eq!(taken + refused, REQUESTS);
    // The requests of a second are taken at once, and those of the two seconds that one waits; more only as time passes,
    // which a busy machine takes to send them.
    let most = PER_SECOND + (seconds * PER_SECOND as f64).ceil() as usize;
    assert!(taken >= 2 * PER_SECOND && taken <= most, "{taken} of {REQUESTS} in {seconds} s, at most {most}");
    assert!(seconds >= 1.5, "some waited for their turns: {seconds} s");
    assert!(
        refused > 0 || most >= REQUESTS,
        "others waited in vain, unless there was time for all: {seconds} s"
    );
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_wait_for_a_queue_hold_nobody_up_who_delivers_to_their_domain() {
    let world = World::builder().tokens(200).patient().start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let (mut mailbox, address) = member(&world).await;
    let fail = "INSERT INTO federation.attempts (domain, state, reason, failures, next_try)
                VALUES ($1::text, 'failing', 'no answer', 3, now() + interval '2 minutes')";
    world.admin.execute(fail, &[&DOMAIN]).await.unwrap();
    let blocker = world.cluster.admin().await;
    blocker.batch_execute("BEGIN; SELECT FROM qs.queues FOR UPDATE").await.unwrap();
    let delivered = neighbour.deliver(&world, 1, vec![delivery(1, &[address], &message("hello"))]);
    let settled = async {
        world.caught("receive_deliveries").await;
        let settle = "SELECT FROM federation.attempts FOR UPDATE NOWAIT";
        world.admin.execute(settle, &[]).await.expect("nobody has the row");
        blocker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (outcomes, ()) = tokio::join!(delivered, settled);
    assert_eq!(states(&outcomes), [DeliveryState::Delivered]);
    assert_eq!(world.read(&mut mailbox).await, [message("hello")]);
    let due = "SELECT next_try <= clock_timestamp() FROM federation.attempts";
    assert!(world.value::<bool>(due).await, "it is heard all the same");
    world.close();
}

#[tokio::test]
async fn a_full_remote_queue_answers_as_a_local_one() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    world
        .admin
        .batch_execute("UPDATE qs.settings SET group_queue_depth = 3, address_share_percent = 100")
        .await
        .unwrap();
    let (mut full, address) = member(&world).await;
    let (mut empty, with_room) = member(&world).await;
    let say = |text: &str| delivery(1, &[address], &message(text));
    neighbour.deliver(&world, 1, vec![say("1"), say("2"), say("3")]).await;
    let both = delivery(1, &[with_room, address], &message("4"));
    assert_eq!(neighbour.deliver(&world, 4, vec![both]).await, [delivered(1, &[])]);
    assert_eq!(world.read(&mut empty).await, [message("4")], "others are served");
    let expected: Vec<_> = ["1", "2", "3"].map(message).into_iter().chain([lost(address)]).collect();
    assert_eq!(world.read(&mut full).await, expected, "the owner is told");
    world.close();
}

#[tokio::test]
async fn bodies_are_as_the_protocol_says_in_json_too() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let (mut mailbox, address) = member(&world).await;
    let call = neighbour.calling(1, vec![delivery(1, &[address], &message("hello"))]);
    let received: DeliveriesReceived = world.pay(&call.in_json()).await.decode();
    assert_eq!(received.outcomes, [delivered(0, &[])]);
    assert_eq!(world.read(&mut mailbox).await, [message("hello")]);
    world.close();
}

#[tokio::test]
async fn what_waits_for_a_neighbour_that_is_heard_from_is_due() {
    let world = World::start().await;
    let neighbour = Neighbour::trusted(&world).await;
    let fail = "SELECT federation.note_failed_attempt($1, '\\x00', 'failing', 'no answer')";
    let limit = "SELECT operator.set_federation_limit('retry_seconds', 100)";
    world.admin.execute(limit, &[]).await.unwrap();
    let mut halves = [0; 2];
    // All draws fall into one half in one of 2^28 runs.
    for failures in 1..30 {
        // In one transaction, whose time is that of the failure.
        world.admin.batch_execute("BEGIN").await.unwrap();
        world.admin.execute(fail, &[&DOMAIN]).await.unwrap();
        let wait = "SELECT extract(epoch FROM next_try - now())::float8 FROM federation.attempts";
        let seconds: f64 = world.value(wait).await;
        world.admin.batch_execute("COMMIT").await.unwrap();
        let longest = f64::from(1u32 << failures).min(100.0);
        assert!((0.0..=longest).contains(&seconds), "{seconds} after {failures}");
        halves[usize::from(seconds > longest / 2.0)] += 1;
        let pass = "UPDATE federation.attempts SET next_try = now() - interval '1 ms'";
        world.admin.execute(pass, &[]).await.unwrap();
    }
    assert!(halves.iter().all(|draws| *draws > 0), "full jitter: {halves:?}");
    world
        .admin
        .execute("UPDATE federation.attempts SET next_try = now() + interval '2 min'", &[])
        .await
        .unwrap();
    let look = "INSERT INTO federation.looks (domain, looked, failures) VALUES ($1::text, now() - interval '1 min', 10)";
    world.admin.execute(look, &[&DOMAIN]).await.unwrap();
    let (_, address) = member(&world).await;
    neighbour.deliver(&world, 1, vec![delivery(1, &[address], &message("I am back"))]).await;
    assert_eq!(world.count("federation.looks").await, 0, "it is looked at again");
    let due = "SELECT bool_and(next_try <= clock_timestamp()) IS NOT FALSE FROM federation.attempts";
    assert!(world.value::<bool>(due).await);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_for_their_lane_give_way_to_those_of_others() {
    // Five of these bodies take all the memory for bodies.
    const BYTES: usize = 500 * 1024;
    const GAVE_WAY: &str = "the body gave way to those of others";
    let world = World::builder()
        .relay()
        .patient()
        .setting("POSTERN_DATABASE_HEAVY_STATEMENT_TIMEOUT_SECONDS", "60")
        .setting("POSTERN_BODIES_BYTES", "2621440")
        .setting("POSTERN_PROXY_ADDRESSES", "127.0.0.1")
        .setting("POSTERN_PROXY_SOURCE", "x-forwarded-for")
        .setting("POSTERN_LOG_FILTER", "info,postern_server::http=debug")
        .tokens(300)
        .start()
        .await;
    let neighbour = Neighbour::trusted(&world).await;
    let large = delivery(1, &[fresh_address()], &message(&"x".repeat(BYTES)));
    let large = neighbour.calling(1, vec![large]);
    let another = Call::post("/aas/token-request").with_bytes("text/plain", vec![7; BYTES / 10]);
    let send = async |call: Call, client: &str| {
        let mut wire = call.wire();
        wire.set("x-forwarded-for", client);
        world.send(&wire).await
    };
    let free = "SELECT operator.set_price('ds.reserve_group_id', 0)";
    world.admin.execute(free, &[]).await.unwrap();
    // They wait for some seconds only. After a long pause of this machine nobody is there to give way: then once more.
    let five_and_another = async || {
        // The server has seen their tokens: it asks whether they are spent once their bodies have come.
        let tokens: Vec<_> = (0..5).map(|_| world.token()).collect();
        for token in &tokens {
            assert_eq!(world.spend(0, token).await.status, StatusCode::CREATED);
        }
        let blocker = world.cluster.admin().await;
        let lock = "BEGIN; LOCK TABLE federation.incoming_lanes IN ACCESS EXCLUSIVE MODE";
        blocker.batch_execute(lock).await.unwrap();
        world.relay().take_statements();
        let clients = ["192.0.2.1", "192.0.2.2"].into_iter().cycle();
        let waiting = tokens.into_iter().zip(clients);
        let waiting = waiting.map(|(token, client)| send(large.clone().paid_with(token), client));
        let other = async {
            let come = Cell::new(0);
            eventually("all have come", async || {
                let statements = world.relay().take_statements();
                let asked = statements.iter().filter(|text| text.contains("is_token_spent")).count();
                come.set(come.get() + asked);
                // More, if one asks again that met a lock for a moment.
                (come.get() >= 5).then_some(())
            })
            .await;
            send(another.clone(), "192.0.2.3").await;
            blocker.batch_execute("ROLLBACK").await.unwrap();
        };
        tokio::join!(join_all(waiting), other);
        world.server().log().contains(GAVE_WAY).then_some(())
    };
    eventually("one gives way that waits for those of its lane before", five_and_another).await;
    world.close();
}
