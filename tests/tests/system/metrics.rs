//! Metrics (OPS-4): they tell what happened, agree with their page, cost the database little, and hold no id and no name
//! (PRIV-4).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use postern_client::Event;
use postern_protocol::{
    Address,
    problem::ProblemType,
    qs::{Dequeued, QueueKind},
};
use postern_tests_kit::{
    Authority, Call, Cluster, DataDir, HOME, Mailbox, Neighbours, PATIENCE, Server, World, befriend,
    depositing, eventually, in_tree, joined,
};
use reqwest::{Method, StatusCode};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// One scrape, by series: `name{labels}` as it is written.
#[derive(Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub async fn of(server: &Server) -> Self {
        Self::read(&server.metrics().await)
    }

    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        });
        Self(samples.collect())
    }

    pub fn value(&self, series: &str) -> f64 {
        self.known(series).unwrap_or_else(|| panic!("no {series} among {:?}", self.0.keys()))
    }

    /// The value of a series, if it is there: those of the database are missing where it was slow.
    pub fn known(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The values of all series of a metric that have these labels.
    pub fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        let of_metric = self.0.iter().filter(|(series, _)| series.split('{').next() == Some(metric));
        of_metric
            .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
            .map(|(_, it)| it)
            .sum()
    }
}

async fn metrics_world() -> World {
    World::builder().pushing().setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").tokens(100).start().await
}

/// The first scrape with counts.
async fn counted(server: &Server) -> String {
    eventually("it has counted", async || {
        let text = server.metrics().await;
        text.contains("\npostern_users ").then_some(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    let world = metrics_world().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "climbing").await;
    // It listens and is ready soon after its start, and its database may be slow for a moment.
    let before = eventually("it is well, and has counted", async || {
        let scrape = Scrape::read(&counted(world.server()).await);
        let is_well =
            ["postern_ready", "postern_listening"].iter().all(|series| scrape.known(series) == Some(1.0));
        is_well.then_some(scrape)
    })
    .await;
    alice.group_with_id(&group).send("hello").await.expect("a member can speak");
    let heard = |event: &Event| matches!(event, Event::Message { .. });
    bob.sync_until(PATIENCE, heard).await.expect("he hears it");
    // From now on nobody else asks for anything.
    let quiet = Scrape::of(world.server()).await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    world.send(&Call::get("/nowhere").wire()).await.assert_problem("a path", ProblemType::NotFound);
    let token = world.token();
    for status in [StatusCode::CREATED, StatusCode::UNAUTHORIZED] {
        let call = Call::post("/ds/group-ids").paid_with(token.clone());
        assert_eq!(world.send(&call.wire()).await.status, status);
    }

    let after = Scrape::read(&counted(world.server()).await);
    let since =
        |then: &Scrape, metric: &str, labels: &[&str]| after.sum(metric, labels) - then.sum(metric, labels);
    let grew = |metric: &str, labels: &[&str]| since(&before, metric, labels);
    let grew_at_last = |metric: &str, labels: &[&str]| since(&quiet, metric, labels);
    let message = ["route=\"/ds/groups/{group_id}/messages\"", "method=\"POST\"", "outcome=\"ok\""];
    assert!(grew("postern_requests_total", &message) >= 1.0);
    assert!(grew("postern_request_seconds_count", &message[..2]) >= 1.0);
    let nowhere = ["route=\"none\"", "outcome=\"not-found\""];
    assert_eq!(grew_at_last("postern_requests_total", &nowhere), 1.0);
    let reserved = ["route=\"/ds/group-ids\"", "outcome=\"token-spent\""];
    assert_eq!(grew_at_last("postern_requests_total", &reserved), 1.0);
    assert!(grew("postern_deliveries_total", &["from=\"group\"", "outcome=\"delivered\""]) >= 1.0);
    let deposits = ["from=\"deposit\"", "outcome=\"delivered\""];
    assert_eq!(grew_at_last("postern_deliveries_total", &deposits), 1.0);
    assert!(grew("postern_tokens_shown_total", &["fate=\"accepted\"", "type=\"5\""]) > 2.0);
    assert_eq!(grew_at_last("postern_tokens_shown_total", &["fate=\"spent_before\""]), 1.0);
    assert!(after.sum("postern_tokens_issued_total", &["outcome=\"issued\""]) >= 100.0);
    assert!(grew("postern_database_calls_total", &["lane=\"light\"", "outcome=\"ok\""]) > 2.0);
    for (series, expected) in [
        ("postern_ready", 1.0),
        ("postern_listening", 1.0),
        ("postern_database_up", 1.0),
        ("postern_notifier_preloaded", 1.0),
        ("postern_build_info{version=\"0.1.0\"}", 1.0),
        ("postern_users", 3.0),
        ("postern_active_users{day=\"today\"}", 3.0),
        ("postern_groups{which=\"active\"}", 1.0),
        ("postern_health{item=\"issuer keys\"}", 0.0),
    ] {
        assert_eq!(before.value(series), expected, "{series}");
    }
    // Counts hold for minutes, so the mailbox that was made since the first scrape is not among them.
    assert_eq!(after.value("postern_queues{kind=\"contact\"}"), 2.0);
    world.close();
}

/// Has a long-poll wait for a deposit, until it has it; returns the figures while it waited, and those after it.
async fn wait_for_a_deposit(world: &World, mailbox: &mut Mailbox, address: Address) -> [Scrape; 2] {
    let spent = world.count("aas.spent").await;
    let (waiting, way) = (world.paid(mailbox.waiting(60)), world.way(0));
    let waiting = tokio::spawn(async move { way.send(&waiting.wire()).await });
    // It has its seat before it looks for messages for the first time, which its token pays.
    eventually("it waits", async || {
        let is_paid = world.count("aas.spent").await > spent;
        (is_paid && Scrape::of(world.server()).await.value("postern_waiters") == 1.0).then_some(())
    })
    .await;
    let before = Scrape::of(world.server()).await;
    assert!(before.value("postern_requests_under_way") >= 1.0);
    world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    let dequeued: Dequeued = waiting.await.unwrap().decode();
    assert_eq!(mailbox.open(&dequeued).len(), 1, "it was woken");
    let after = eventually("nobody waits", async || {
        let after = Scrape::of(world.server()).await;
        (after.value("postern_waiters") == 0.0).then_some(after)
    })
    .await;
    [before, after]
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polls_and_wake_ups_are_counted() {
    let world = metrics_world().await;
    eventually("it listens", async || {
        (Scrape::of(world.server()).await.value("postern_listening") == 1.0).then_some(())
    })
    .await;
    // The notifier starts with the first delivery, and has everybody look then.
    let somebodys = world.mailbox(QueueKind::Contact).await;
    let somebodys = world.address(&somebodys).await;
    world.pay(&depositing(somebodys, b"the first")).await.assert_ok("a deposit");
    eventually("the notifier runs", async || {
        (Scrape::of(world.server()).await.value("postern_wakeups_heard_total") >= 1.0).then_some(())
    })
    .await;
    let mut mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    loop {
        let [before, after] = wait_for_a_deposit(&world, &mut mailbox, address).await;
        let grew = |counter: &str| after.value(counter) > before.value(counter);
        if ["postern_wakeups_heard_total", "postern_wakeups_woken_total"].into_iter().all(grew) {
            break;
        }
        // The look for missed messages, which comes by the clock, came before the notification.
        assert!(grew("postern_wakeups_missed_total"), "{before:?} {after:?}");
    }
    world.close();
}

/// A name, an id or a key as it may be written: the column, and how its values become texts.
const IDENTIFIERS: [&str; 17] = [
    "SELECT name FROM auth.users",
    "SELECT user_id::text FROM auth.users",
    "SELECT encode(recovery_key, 'hex') FROM auth.users",
    "SELECT encode(client_key, 'hex') FROM auth.clients",
    "SELECT taker::text FROM aas.takers",
    "SELECT encode(nonce, 'hex') FROM aas.spent",
    "SELECT encode(public_key, 'hex') FROM aas.issuer_keys",
    "SELECT encode(queue_id, 'hex') FROM qs.queues",
    "SELECT encode(owner_key, 'hex') FROM qs.queues",
    "SELECT encode(hpke_key, 'hex') FROM qs.queues",
    "SELECT encode(lookup, 'hex') FROM qs.addresses",
    "SELECT encode(friendship_id, 'hex') FROM qs.friendships",
    "SELECT encode(stock_id, 'hex') FROM qs.stocks",
    "SELECT encode(group_id, 'hex') FROM ds.groups",
    "SELECT encode(last_commit, 'hex') FROM ds.groups",
    "SELECT encode(public_key, 'hex') FROM auth.signing_keys",
    "SELECT encode(instance, 'hex') FROM federation.outgoing_lanes",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_metric_holds_an_id_or_a_name_of_those_who_used_the_server() {
    let neighbours = Neighbours::builder().setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let (alice, bob) =
        (neighbours[0].person("alice-who-talks").await, neighbours[1].person("bob-who-hears").await);
    let group = alice.create_group("a title that nobody sees").await.expect("a group").id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    alice.group_with_id(&group).send("hello").await.expect("a member can speak");
    let heard = |event: &Event| matches!(event, Event::Message { .. });
    bob.sync_until(PATIENCE, heard).await.expect("he hears it");
    bob.group_with_id(&group).send("hello yourself").await.expect("a member can speak");
    alice.sync_until(PATIENCE, heard).await.expect("she hears it");

    for (world, neighbour) in [(&neighbours[0], "b.example"), (&neighbours[1], "a.example")] {
        let text = eventually("the neighbour's figures are told", async || {
            let text = world.server().metrics().await;
            // Only the first has sent deliveries for sure: its group is there.
            let is_told = neighbour != "b.example" || text.contains("{domain=\"b.example\"}");
            is_told.then_some(text)
        })
        .await;
        let mut searched = 0;
        for sql in IDENTIFIERS {
            for row in world.admin.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
                for form in forms(row.get(0)) {
                    assert!(!text.contains(&form), "{form} of {sql} is in\n{text}");
                    searched += 1;
                }
            }
        }
        assert!(searched > 100, "{searched} texts");
        for private in neighbours.private().lock().unwrap().iter() {
            assert!(!text.contains(private.as_str()), "{private} is in\n{text}");
        }
        for word in ["alice", "bob", "title", "hello", "@"] {
            assert!(!text.contains(word), "{word} is in\n{text}");
        }
        // The one text that is not of the program: the domain of a neighbour, which took deliveries.
        if neighbour == "b.example" {
            assert!(text.contains("postern_outbox_deliveries{domain=\"b.example\"}"), "{text}");
        }
        let quoted: BTreeSet<&str> =
            text.split('"').skip(1).step_by(2).filter(|it| it.contains(".example")).collect();
        assert!(quoted.into_iter().all(|it| it == neighbour), "{text}");
    }
    neighbours.close();
}

/// A text from the database as it may be written: as it is; if it is hexadecimal, in base64 of both alphabets, too.
fn forms(text: String) -> Vec<String> {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    };
    let bytes = hex::decode(&text).ok().filter(|bytes| bytes.len() >= 16);
    let encoded = bytes.map(|bytes| vec![STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)]);
    [vec![text], encoded.unwrap_or_default()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_domains_of_strangers_and_of_too_many_neighbours_are_told_together() {
    let neighbours = Neighbours::builder()
        .setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0")
        .setting("POSTERN_METRICS_NEIGHBOURS", "2")
        .start()
        .await;
    let world = &neighbours[0];
    let sql = "SELECT operator.allow_domain('allowed.example');
               INSERT INTO federation.outgoing_lanes (domain, lane, instance, is_stranger, last_used)
               VALUES ('friend.example', 0, decode(repeat('01', 16), 'hex'), false, current_date),
                      ('stranger.example', 0, decode(repeat('02', 16), 'hex'), true, current_date);
               INSERT INTO federation.neighbours (domain, first_success, last_success)
               VALUES ('friend.example', current_date, current_date);
               INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day)
               SELECT decode(md5(domain || number), 'hex'), domain, 0, number, m.key_id, 'damaged', current_date
                 FROM operator.master_key m,
                      (VALUES ('friend.example', 7), ('stranger.example', 5), ('other-stranger.example', 1)) AS d (domain, most),
                      generate_series(1, most) AS number";
    world.admin.batch_execute(sql).await.unwrap();
    let scrape = eventually("the figures are told", async || {
        let scrape = Scrape::of(world.server()).await;
        (scrape.sum("postern_set_aside", &[]) == 13.0).then_some(scrape)
    })
    .await;
    assert_eq!(scrape.value("postern_set_aside{domain=\"friend.example\"}"), 7.0);
    assert_eq!(scrape.value("postern_set_aside{domain=\"allowed.example\"}"), 0.0);
    assert_eq!(scrape.value("postern_set_aside{domain=\"other\"}"), 6.0);
    assert!(!scrape.0.keys().any(|series| series.contains("stranger")));
    // However many have a label.
    let labels = "SELECT array_agg(label ORDER BY label COLLATE \"C\")
                    FROM operator.figures(100) WHERE figure = 'outbox'";
    assert_eq!(world.value::<Vec<String>>(labels).await, ["allowed.example", "friend.example", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_new_names_do_not_take_an_old_neighbours_label() {
    let world = metrics_world().await;
    let sql = "SELECT operator.allow_domain('allowed.example');
               INSERT INTO federation.neighbours (domain, first_success, last_success)
               SELECT domain, day, day
                 FROM (SELECT 'x' || number || '.evil.example', current_date - 2 FROM generate_series(1, 150) AS number
                        UNION ALL VALUES ('zealous.example', current_date - 1), ('new.example', current_date))
                      AS d (domain, day)";
    world.admin.batch_execute(sql).await.unwrap();
    let labels = async |most: i32| -> Vec<String> {
        let sql =
            "SELECT label FROM operator.figures($1) WHERE figure = 'outbox' ORDER BY label COLLATE \"C\"";
        let rows = world.admin.query(sql, &[&most]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(labels(1).await, ["allowed.example", "other"]);
    let told = ["allowed.example", "new.example", "other", "x1.evil.example", "zealous.example"];
    assert_eq!(labels(4).await, told);
    // Whatever the day on which one took something last.
    world.admin.batch_execute("UPDATE federation.neighbours SET last_success = current_date").await.unwrap();
    assert_eq!(labels(4).await, told);
    assert_eq!(labels(100).await.len(), 101);
    world.close();
}

/// A metric as the page tells of it: its type and labels.
type Metric = (String, String);

/// The metrics of a scrape.
fn exported(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        let sample = text.lines().find(|line| {
            let series = line.split(['{', ' ']).next().unwrap_or_default();
            !line.starts_with('#') && [name, &format!("{name}_bucket")].contains(&series)
        });
        let sample = sample.unwrap_or_else(|| panic!("{name} has no sample"));
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        let names = labels.split("\",").filter_map(|label| label.split_once('=').map(|(name, _)| name));
        let names: Vec<_> = names.filter(|name| *name != "le").collect();
        let before = metrics.insert(name.to_owned(), (kind.to_owned(), names.join(", ")));
        assert!(before.is_none(), "{name} is there twice");
    }
    metrics
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_the_page_are_those_that_a_server_shows() {
    // With a private cluster and a certificate it shows all of them.
    let (dir, authority) = (DataDir::migrated().await, Authority::new());
    let server = Server::embedded(&dir).tls(&authority.certify(&[HOME])).metrics().start().await;
    let exported = exported(&counted(&server).await);
    let page = std::fs::read_to_string(in_tree("docs/operate/monitor.md")).unwrap();
    let mut documented = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `postern_") || line.starts_with("| `process_"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, _] = cells[..] else { panic!("{line}") };
        let metric = (kind.to_owned(), labels.replace('`', ""));
        assert!(documented.insert(name.replace('`', ""), metric).is_none(), "{name} is there twice");
    }
    let names: BTreeSet<_> = documented.keys().chain(exported.keys()).collect();
    let differences: Vec<_> = names
        .into_iter()
        .filter(|name| documented.get(*name) != exported.get(*name))
        .map(|name| (name, ("documented", documented.get(name)), ("shown", exported.get(name))))
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(exported.len() > 70, "{}", exported.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_of_the_database_and_every_item_of_its_health_is_shown() {
    let world = metrics_world().await;
    let text = counted(world.server()).await;
    let labels = "SELECT label FROM operator.figures() WHERE label IS NOT NULL
                   UNION SELECT label FROM operator.counts() WHERE label IS NOT NULL
                   UNION SELECT item FROM operator.health()";
    let labels = world.cluster.connect_as("postern_monitor").await.query(labels, &[]).await.unwrap();
    assert!(labels.len() > 50, "{}", labels.len());
    for row in labels {
        let label: &str = row.get(0);
        assert!(text.contains(&format!("=\"{label}\"}}")), "no {label} in\n{text}");
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_scrapes_ask_the_database_no_more_than_one() {
    let world = metrics_world().await;
    let calls =
        async || Scrape::of(world.server()).await.sum("postern_database_calls_total", &["lane=\"light\""]);
    eventually("the chores of the start are done", async || {
        let scrape = Scrape::of(world.server()).await;
        let is_one =
            |series: &str| series.starts_with("postern_chores_total{") && series.contains("=\"done\"");
        // This one's first turn comes after a minute.
        let is_later = |series: &str| series.contains("=\"record the use of tokens\"");
        let turns = scrape.0.iter().filter(|(series, _)| is_one(series) && !is_later(series));
        let turns: Vec<f64> = turns.map(|(_, turns)| *turns).collect();
        (turns.len() > 10 && turns.iter().all(|turns| *turns >= 1.0)).then_some(())
    })
    .await;
    // Scrapes that took long say nothing: the server asks by the clock, too.
    let (asked, scraped) = eventually("sixty scrapes within ten seconds", async || {
        let (before, begun) = (calls().await, Instant::now());
        for _ in 0..6 {
            join_all((0..10).map(|_| world.server().metrics())).await;
        }
        let (asked, scraped) = (calls().await - before, begun.elapsed());
        (scraped < Duration::from_secs(10)).then_some((asked, scraped))
    })
    .await;
    // Figures hold for five seconds and readiness for one; the server looks for deliveries and changed keys meanwhile. It
    // would be some hundreds if each scrape asked.
    let most = 30.0 + 6.0 * scraped.as_secs_f64();
    assert!(asked < most, "{asked} calls for 60 scrapes in {scraped:?}");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_of_metrics_answers_what_it_has_and_nothing_else() {
    let mut world = metrics_world().await;
    let url = world.server().metrics_url().await;
    let base = url.strip_suffix("/metrics").unwrap().to_owned();
    // Each request has a connection of its own: one that was idle may end under it.
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("there is TLS");
    let ask = async |method: Method, path: &str| {
        let answer = http.request(method, format!("{base}{path}")).send().await.expect("it answers");
        (answer.status(), answer.text().await.unwrap())
    };
    let (status, text) = ask(Method::GET, "/health").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "alive\n"));
    eventually("it is ready", async || {
        let (status, text) = ask(Method::GET, "/ready").await;
        ((status, text.as_str()) == (StatusCode::OK, "ready\n")).then_some(())
    })
    .await;
    assert_eq!(ask(Method::HEAD, "/metrics").await, (StatusCode::OK, String::new()));
    assert_eq!(ask(Method::POST, "/metrics").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Method::GET, "/as/keys").await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.send(&Call::get("/metrics").wire()).await.status, StatusCode::NOT_FOUND);

    // Without its database the server says what is wrong, and shows what it knows itself.
    world.cluster.kill_postgres();
    // At first it may say that the database was slow.
    eventually("it is not ready, and says why", async || {
        let (status, text) = ask(Method::GET, "/ready").await;
        let is_told = text.starts_with("not ready: the database does not answer: ");
        (status == StatusCode::SERVICE_UNAVAILABLE && is_told).then_some(())
    })
    .await;
    assert_eq!(ask(Method::GET, "/health").await.0, StatusCode::OK);
    let scrape = eventually("figures of the database are missing", async || {
        let scrape = Scrape::of(world.server()).await;
        (scrape.value("postern_database_up") == 0.0).then_some(scrape)
    })
    .await;
    assert_eq!(scrape.value("postern_ready"), 0.0);
    assert!(!scrape.0.contains_key("postern_users"));
    world.cluster.restart().await;
    eventually("it is ready again", async || {
        (Scrape::of(world.server()).await.value("postern_ready") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_waits_for_its_last_requests_is_not_ready() {
    let cluster = Cluster::start().await;
    let mut server = Server::builder(&cluster).metrics().start().await;
    let ready = server.metrics_url().await.replace("/metrics", "/ready");
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    let half = b"POST /as/users HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
    connection.write_all(half).await.unwrap();
    eventually("the request is under way", async || {
        (Scrape::of(&server).await.value("postern_requests_under_way") == 1.0).then_some(())
    })
    .await;
    server.signal(Signal::SIGTERM);
    let reason = eventually("it is not ready", async || {
        let answer = reqwest::get(&ready).await.expect("it answers to its end");
        if answer.status().is_success() { None } else { answer.text().await.ok() }
    })
    .await;
    assert_eq!(reason, "not ready: the server is stopping\n");
    drop(connection);
    assert_eq!(server.ended().await.code(), Some(0));
}
