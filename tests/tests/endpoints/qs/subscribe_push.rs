//! `PUT /qs/queues/{queue_id}/push-subscription` (QS-10), and the pushes that follow

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use postern_protocol::{
    Address, P256PublicKey, SealedSubscription,
    problem::ProblemType,
    push::{PushKey, Urgency},
    qs::{QueueKind, QueuingKeys},
};
use postern_tests_kit::{
    Call, Commit, Group, Mailbox, PushService, Server, UserAgent, World, depositing, dump, eventually,
};
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderValue},
};

use super::{add_addresses::other_queues, set_push_policy::policy};
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Group).await;
    let call = mailbox.subscribing(Some(SealedSubscription::new([7; 1052])));
    let stranger = Some(ProblemType::NotFound);
    let cut = vec![("subscription", ProblemType::MalformedBody)];
    let targets = other_queues("push-subscription");
    let optional = &["subscription"];
    Valid { stranger, cut, optional, targets, ..Valid::new(call, StatusCode::NO_CONTENT) }
}

/// Lets a queue's pushes go to a new user agent, and returns what its addresses are to carry.
pub async fn subscribe(
    world: &World,
    service: &PushService,
    mailbox: &Mailbox,
    path: &str,
) -> (UserAgent, PushKey) {
    let key = PushKey::generate().expect("there is randomness");
    let (subscription, agent) = service.subscribe(path, b"look into the first");
    let sealed = subscription.seal(&mailbox.id, &key).expect("it is short");
    world.pay(&mailbox.subscribing(Some(sealed))).await.assert_ok("subscribing");
    (agent, key)
}

/// A group of two whose second member is woken for messages of at least normal urgency.
async fn waking(world: &World, service: &PushService, path: &str) -> (Group, UserAgent) {
    let group = world.group(2).await;
    let member = &group.members[1];
    let (agent, key) = subscribe(world, service, &member.mailbox, path).await;
    let policy = policy(member.address, Urgency::Normal, &key);
    world.pay(&member.mailbox.setting_push_policy(vec![policy])).await.assert_ok("a policy");
    (group, agent)
}

/// The first member says something.
pub async fn say(world: &World, group: &mut Group, urgency: Urgency) {
    let message = group.party(0).say(b"hello");
    world.pay(&group.submit_urgent(0, &message, urgency)).await.assert_ok("a message");
}

async fn server_key(world: &World) -> P256PublicKey {
    let keys: QueuingKeys = world.send(&Call::get("/qs/keys").wire()).await.decode();
    keys.application_server_key.expect("the server sends pushes")
}

async fn subscriptions(world: &World) -> i64 {
    world.value("SELECT count(*) FROM qs.push_subscriptions").await
}

#[tokio::test]
async fn a_message_wakes_its_reader_and_the_push_says_what_the_reader_chose() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    let (mut group, agent) = waking(&world, &service, "/very-private-endpoint").await;
    // A commit is not urgent.
    let (_, commit) = group.make(0, Commit { update: true, ..Commit::default() });
    world.pay(&commit).await.assert_ok("a commit");
    group.party(0).merge();
    say(&world, &mut group, Urgency::Normal).await;
    let pushed = service.pushed().await;
    assert_eq!(agent.read(&pushed), b"look into the first");
    assert_eq!(pushed.path, "/very-private-endpoint");
    let headers = ["urgency", "content-encoding", "topic"].map(|name| pushed.header(name));
    assert_eq!(headers, ["normal", "aes128gcm", "messages"]);
    assert!(pushed.header("ttl").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    pushed.assert_sent_by(&server_key(&world).await, service.url());
    assert!(!service.has_more(), "one message, one push");

    let rows = dump::rows(&world.cluster.dump().await);
    let holds = |bytes: &[u8]| {
        rows.iter().any(|row| row.values.iter().any(|value| value.windows(bytes.len()).any(|it| it == bytes)))
    };
    assert!(!holds(b"very-private-endpoint") && !holds(b"look into the first"), "it is sealed at rest");
    assert!(holds(server_key(&world).await.as_bytes()), "a key that is in the dump is found");
    assert!(!world.server().log().contains("very-private-endpoint"));
    world.close();
}

#[tokio::test]
async fn a_deposit_wakes_too() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let (agent, key) = subscribe(&world, &service, &mailbox, "/contact").await;
    let policy = policy(address, Urgency::Normal, &key);
    world.pay(&mailbox.setting_push_policy(vec![policy])).await.assert_ok("a policy");
    world.pay(&depositing(address, b"let us talk")).await.assert_ok("a deposit");
    assert_eq!(agent.read(&service.pushed().await), b"look into the first");
    world.close();
}

#[tokio::test]
async fn what_a_push_service_cannot_take_now_is_sent_again() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    let (mut group, agent) = waking(&world, &service, "/").await;
    let wait = HeaderMap::from_iter([("retry-after".parse().unwrap(), HeaderValue::from_static("1"))]);
    service.answer(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
    service.answer(StatusCode::TOO_MANY_REQUESTS, wait);
    say(&world, &mut group, Urgency::Normal).await;
    for attempt in 1..=3 {
        assert_eq!(agent.read(&service.pushed().await), b"look into the first", "attempt {attempt}");
    }
    say(&world, &mut group, Urgency::Normal).await;
    service.pushed().await;
    assert!(!service.has_more(), "what was taken is not sent again");
    assert_eq!(subscriptions(&world).await, 1);
    world.close();
}

#[tokio::test]
async fn a_subscription_that_is_over_is_dropped() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    for status in [StatusCode::GONE, StatusCode::NOT_FOUND, StatusCode::FORBIDDEN] {
        let (mut group, _) = waking(&world, &service, "/").await;
        service.answer(status, HeaderMap::new());
        say(&world, &mut group, Urgency::Normal).await;
        service.pushed().await;
        eventually("the subscription is dropped", async || (subscriptions(&world).await == 0).then_some(()))
            .await;
        say(&world, &mut group, Urgency::Normal).await;
    }
    // It does not stay, either, if nothing can be sent to it.
    let (mut group, _) = waking(&world, &service, "/").await;
    let mailbox = &group.members[1].mailbox;
    world.pay(&mailbox.subscribing(Some(SealedSubscription::new([7; 1052])))).await.assert_ok("noise");
    say(&world, &mut group, Urgency::Normal).await;
    eventually("the noise is dropped", async || (subscriptions(&world).await == 0).then_some(())).await;
    assert!(!service.has_more());

    // It stays if a push service refuses for another reason.
    let (mut group, _) = waking(&world, &service, "/").await;
    service.answer(StatusCode::PAYLOAD_TOO_LARGE, HeaderMap::new());
    for _ in 0..2 {
        say(&world, &mut group, Urgency::Normal).await;
        service.pushed().await;
    }
    assert_eq!(subscriptions(&world).await, 1);
    world.close();
}

#[tokio::test]
async fn what_becomes_due_while_a_push_is_under_way_goes_as_one() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    let (mut group, _) = waking(&world, &service, "/").await;
    // A host that is known to answer is waited for longer.
    say(&world, &mut group, Urgency::Normal).await;
    service.pushed().await;
    service.hold();
    say(&world, &mut group, Urgency::Normal).await;
    service.pushed().await;
    for urgency in [Urgency::Normal, Urgency::High, Urgency::Normal] {
        say(&world, &mut group, urgency).await;
    }
    assert!(!service.has_more());
    service.go_on();
    assert_eq!(service.pushed().await.header("urgency"), "high", "as urgent as the most urgent");
    say(&world, &mut group, Urgency::Normal).await;
    assert_eq!(service.pushed().await.header("urgency"), "normal");
    assert!(!service.has_more());
    world.close();
}

#[tokio::test]
async fn a_delivery_that_is_undone_pushes_nothing() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    let (mut group, _) = waking(&world, &service, "/").await;
    world
        .admin
        .batch_execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON qs.messages DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        )
        .await
        .unwrap();
    let message = group.party(0).say(b"hello");
    let call = group.submit(0, &message, None);
    world.pay(&call).await.assert_problem("a message", ProblemType::Fault);
    world.admin.batch_execute("DROP TRIGGER refuse ON qs.messages").await.unwrap();
    say(&world, &mut group, Urgency::High).await;
    assert_eq!(service.pushed().await.header("urgency"), "high", "and not the first one");
    assert!(!service.has_more());
}

#[tokio::test]
async fn only_where_the_operator_wants_it_and_only_to_the_public_internet() {
    let world = World::start().await;
    let silent = Server::start(&world.cluster).await;
    let keys: QueuingKeys = world.send_to(&silent, &Call::get("/qs/keys").wire()).await.decode();
    assert_eq!(keys.application_server_key, None);
    let mailbox = world.mailbox(QueueKind::Group).await;
    let paid = |call: Call| call.paid_with(world.token()).wire();
    let subscribing = mailbox.subscribing(Some(SealedSubscription::new([7; 1052])));
    let reply = world.send_to(&silent, &paid(subscribing)).await;
    reply.assert_problem("subscribing", ProblemType::NoPush);
    world.send_to(&silent, &paid(mailbox.subscribing(None))).await.assert_ok("unsubscribing");

    // Another server's push leads nowhere near this machine: the subscription is none.
    let careful = Server::builder(&world.cluster).env("POSTERN_PUSH_CONTACT", "https://home.example/contact");
    let careful = careful.start().await;
    let keys: QueuingKeys = world.send_to(&careful, &Call::get("/qs/keys").wire()).await.decode();
    assert_eq!(keys.application_server_key, Some(server_key(&world).await), "all servers have one key");
    let service = PushService::start().await;
    let (mut group, _) = waking(&world, &service, "/").await;
    let message = group.party(0).say(b"hello");
    let call = group.submit(0, &message, None);
    world.send_to(&careful, &paid(call)).await.assert_ok("a message");
    eventually("the subscription is dropped", async || (subscriptions(&world).await == 0).then_some(()))
        .await;
    assert!(!service.has_more());
    world.close();
}

#[tokio::test]
async fn a_contact_that_is_none_is_told_at_the_start() {
    let world = World::start().await;
    let server = Server::builder(&world.cluster).env("POSTERN_PUSH_CONTACT", "postmaster").try_start().await;
    let said = server.err().expect("it does not start");
    assert!(said.contains("push.contact must be a mailto: or https: URI"), "{said}");
}

/// A contact queue whose pushes go to this endpoint, and its address.
async fn contact(world: &World, service: &PushService, endpoint: Option<String>) -> Address {
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    wake_at(world, service, (&mailbox, address), endpoint).await;
    address
}

/// Lets the pushes of an address go to this endpoint, or to one that answers.
async fn wake_at(
    world: &World,
    service: &PushService,
    (mailbox, address): (&Mailbox, Address),
    endpoint: Option<String>,
) {
    let key = PushKey::generate().expect("there is randomness");
    let (mut subscription, _) = service.subscribe("/answers", b"");
    subscription.endpoint = endpoint.unwrap_or(subscription.endpoint);
    let sealed = subscription.seal(&mailbox.id, &key).expect("it is short");
    world.pay(&mailbox.subscribing(Some(sealed))).await.assert_ok("subscribing");
    let policy = policy(address, Urgency::Normal, &key);
    world.pay(&mailbox.setting_push_policy(vec![policy])).await.assert_ok("a policy");
}

/// Takes connections, says nothing, and counts them: its address, the count, and its task.
async fn silent(address: &str) -> (SocketAddr, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let tries = Arc::clone(&tries);
        async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                tries.fetch_add(1, Ordering::Relaxed);
                held.push(connection);
            }
        }
    });
    (address, tries, counting)
}

#[tokio::test]
async fn a_host_that_never_answers_is_left_alone_after_a_few_tries() {
    let world = World::start().await;
    let service = PushService::start().await;
    let (address, tries, counting) = silent("127.0.0.2:0").await;
    let endpoint = format!("http://{address}/never");
    let mut deposits = Vec::new();
    for _ in 0..4 {
        let address = contact(&world, &service, Some(endpoint.clone())).await;
        deposits.push(world.paid(depositing(address, b"hello")).wire());
    }
    for reply in join_all(deposits.iter().map(|wire| world.send(wire))).await {
        reply.assert_ok("a deposit");
    }
    eventually("it is tried", async || (tries.load(Ordering::Relaxed) >= 3).then_some(())).await;
    // One finds out in five seconds. The three others go then, and it goes again. The third failure closes the host, five
    // seconds later.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let tries = tries.load(Ordering::Relaxed);
    assert!((3..=6).contains(&tries), "it is left alone: {tries}");
    counting.abort();
    world.close();
}

/// Closes each connection once something came, and counts them: the endpoint, and the count.
async fn closing() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/closes", listener.local_addr().unwrap());
    let tries = Arc::new(AtomicUsize::new(0));
    tokio::spawn({
        let tries = Arc::clone(&tries);
        async move {
            while let Ok((connection, _)) = listener.accept().await {
                tries.fetch_add(1, Ordering::SeqCst);
                let _ = connection.readable().await;
            }
        }
    });
    (endpoint, tries)
}

#[tokio::test]
async fn a_host_that_failed_is_left_alone_for_as_long_as_the_operator_says() {
    let world = World::start().await;
    let service = PushService::start().await;
    let server = async |seconds: &str| {
        Server::builder(&world.cluster)
            .pushing()
            .env("POSTERN_PUSH_FAILURES", "1")
            .env("POSTERN_PUSH_PAUSE_SECONDS", seconds)
            .env("POSTERN_PUSH_LONGEST_PAUSE_SECONDS", seconds)
            .start()
            .await
    };
    let (patient, impatient) = (server("3600").await, server("1").await);
    let push = async |by: &Server| {
        let (endpoint, tries) = closing().await;
        let paid = world.paid(depositing(contact(&world, &service, Some(endpoint)).await, b"hello")).wire();
        world.send_to(by, &paid).await.assert_ok("a deposit");
        tries
    };
    let once = push(&patient).await;
    eventually("a first try", async || (once.load(Ordering::SeqCst) > 0).then_some(())).await;
    // By default, and on the other server, the second try comes seconds later: the third one of the other server is later than
    // that.
    let often = push(&impatient).await;
    eventually("a third try", async || (often.load(Ordering::SeqCst) >= 3).then_some(())).await;
    assert_eq!(once.load(Ordering::SeqCst), 1, "one failure was enough, and an hour is not over");
    world.close();
}

#[tokio::test]
async fn as_many_pushes_wait_as_the_operator_allows() {
    let world = World::start().await;
    let service = PushService::start().await;
    let server = Server::builder(&world.cluster).pushing().env("POSTERN_PUSH_WAITING", "1").start().await;
    let (address, tries, counting) = silent("127.0.0.1:0").await;
    let endpoint = format!("http://{address}/never");
    let deposit = async || {
        let to = contact(&world, &service, Some(endpoint.clone())).await;
        let paid = world.paid(depositing(to, b"hello")).wire();
        world.send_to(&server, &paid).await.assert_ok("a deposit");
    };
    let dropped = || server.log().contains("too many pushes wait: one is dropped");
    deposit().await;
    eventually("it is tried", async || (tries.load(Ordering::Relaxed) > 0).then_some(())).await;
    assert!(!dropped());
    // The first one waits for its host, again and again, for half an hour.
    deposit().await;
    eventually("the second one is dropped", async || dropped().then_some(())).await;
    counting.abort();
    world.close();
}

#[tokio::test]
async fn endpoints_that_never_answer_delay_nobody_elses_pushes() {
    const PLACES: usize = 4;
    let world = World::start().await;
    let places = PLACES.to_string();
    let server = Server::builder(&world.cluster).pushing().env("POSTERN_PUSH_AT_ONCE", &places).start().await;
    let mut service = PushService::start().await;
    // It takes connections to all addresses of this machine, and says nothing.
    let silent = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let (came, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let holding = tokio::spawn({
        let (came, ended) = (Arc::clone(&came), Arc::clone(&ended));
        async move {
            while let Ok((mut connection, _)) = silent.accept().await {
                came.fetch_add(1, Ordering::SeqCst);
                let ended = Arc::clone(&ended);
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut connection, &mut tokio::io::sink()).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        }
    });
    let deposit = async |to: Address| {
        let paid = world.paid(depositing(to, b"hello")).wire();
        world.send_to(&server, &paid).await.assert_ok("a deposit");
    };
    let answering = [contact(&world, &service, None).await, contact(&world, &service, None).await];
    deposit(answering[0]).await;
    assert_eq!(service.pushed().await.path, "/answers");

    // Many queues at one host, and many hosts.
    let mut never = Vec::new();
    for number in 0..16 {
        let host = if number < 8 { 2 } else { number };
        let endpoint = format!("http://127.0.0.{host}:{port}/never");
        never.push(contact(&world, &service, Some(endpoint)).await);
    }
    join_all(never.iter().map(|address| deposit(*address))).await;
    // They hold their places for five seconds. Two pushes come meanwhile: one alone might have got the place of one that has just
    // given up. On a slow machine some may give up at any time, and the next two show it.
    let mut tries = 0;
    loop {
        tries += 1;
        assert!(tries <= 40, "no pushes came while all others held their places");
        let before = eventually("the others hold their places", async || {
            let ended = ended.load(Ordering::SeqCst);
            (came.load(Ordering::SeqCst) == ended + PLACES).then_some(ended)
        })
        .await;
        for address in answering {
            deposit(address).await;
            assert_eq!(service.pushed().await.path, "/answers");
        }
        if ended.load(Ordering::SeqCst) == before {
            break;
        }
    }
    holding.abort();
    world.close();
}

/// After a restart no host is known to answer.
#[tokio::test]
async fn a_new_host_has_its_first_push_before_hundreds_of_silent_ones_had_theirs() {
    const PLACES: usize = 8;
    /// Silent hosts on one network, and on a network of their own each.
    const TOGETHER: usize = 224;
    const APART: usize = 16;
    let world = World::builder()
        .pushing()
        .setting("POSTERN_PUSH_AT_ONCE", &PLACES.to_string())
        .tokens(6 * (TOGETHER + APART) + 100)
        .start()
        .await;
    let mut service = PushService::start().await;
    let good = contact(&world, &service, None).await;
    let (address, tries, counting) = silent("0.0.0.0:0").await;
    let port = address.port();
    let together = (1..=TOGETHER).map(|number| format!("http://127.1.0.{number}:{port}/never"));
    let apart = (1..=APART).map(|number| format!("http://127.2.{number}.1:{port}/never"));
    let endpoints: Vec<String> = together.chain(apart).collect();
    let mut never = Vec::new();
    for some in endpoints.chunks(16) {
        let contacts = some.iter().map(|endpoint| contact(&world, &service, Some(endpoint.clone())));
        never.extend(join_all(contacts).await);
    }
    let deposit = async |to: Address| {
        world.pay(&depositing(to, b"hello")).await.assert_ok("a deposit");
    };
    for some in never.chunks(16) {
        join_all(some.iter().map(|address| deposit(*address))).await;
    }
    let taken = async || (tries.load(Ordering::Relaxed) >= PLACES).then_some(());
    eventually("silent hosts have all places", taken).await;

    deposit(good).await;
    assert_eq!(service.pushed().await.path, "/answers");
    // The hosts that had the places, and each network once more, each of them up to three times.
    let tries = tries.load(Ordering::Relaxed);
    assert!(tries < (TOGETHER + APART) / 2, "{tries} tries of silent hosts came first");
    counting.abort();
    world.close();
}

/// Pushes of a server that were dropped.
async fn dropped(server: &Server) -> f64 {
    server.metric("postern_pushes_total{outcome=\"dropped\"}").await
}

#[tokio::test]
async fn a_message_that_wakes_many_hosts_in_vain_leaves_a_place_to_the_push_of_another() {
    const MEMBERS: usize = 6;
    /// Places for pushes to hosts that were not tried yet.
    const PLACES: usize = 2;
    let world = World::start().await;
    let mut service = PushService::start().await;
    let (address, _, counting) = silent("0.0.0.0:0").await;
    let mut group = world.group(MEMBERS + 1).await;
    for (number, member) in group.members[1..].iter().enumerate() {
        let endpoint = format!("http://127.3.{}.1:{}/never", number + 1, address.port());
        wake_at(&world, &service, (&member.mailbox, member.address), Some(endpoint)).await;
    }
    let good = contact(&world, &service, None).await;
    let refused = (MEMBERS - PLACES) as f64;
    let mut tries = 0;
    loop {
        tries += 1;
        assert!(tries <= 20, "a place was free whenever another push came");
        // It has tried no host yet.
        let server = Server::builder(&world.cluster).pushing().metrics();
        // One of those that have a place asks its host, and keeps it; the other one waits.
        let server =
            server.env("POSTERN_PUSH_AT_ONCE", "1").env("POSTERN_PUSH_WAITING", &(4 * PLACES).to_string());
        let server = server.start().await;
        let message = group.party(0).say(b"hello");
        let paid = world.paid(group.submit(0, &message, None)).wire();
        world.send_to(&server, &paid).await.assert_ok("a message");
        let has_all = async || (dropped(&server).await >= refused).then_some(());
        eventually("the message has all places", has_all).await;
        let paid = world.paid(depositing(good, b"hello")).wire();
        world.send_to(&server, &paid).await.assert_ok("a deposit");
        assert_eq!(service.pushed().await.path, "/answers");
        // On a slow machine the hosts may have been given up by then, which leaves a place free.
        if dropped(&server).await > refused {
            break;
        }
    }
    counting.abort();
    world.close();
}
