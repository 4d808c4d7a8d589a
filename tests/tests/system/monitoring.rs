//! The dashboard and the alert rules (OPS-4), as Debian's Prometheus takes them: each expression is evaluated over what
//! servers under load show.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use postern_client::{Client, Event};
use postern_protocol::{ds::GroupId, key::SigningKey, name::Domain, problem::ProblemType};
use postern_tests_kit::{
    Ask, Call, DataDir, Neighbours, PATIENCE, Prometheus, Server, Way, befriend, challenge, eventually,
    in_tree, joined,
};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::metrics::Scrape;

const ALERTS: &str = "monitoring/alerts.yaml";
const TESTS: &str = "monitoring/alerts.test.yaml";
const DASHBOARD: &str = "monitoring/dashboard.json";
/// Metrics of the disk of a private cluster, which on this machine may be full.
const OF_DISK: &str = "postern_data_dir_";

/// The expressions of the dashboard, each with the title of its panel.
fn panels() -> Vec<(String, String)> {
    let text = fs::read_to_string(in_tree(DASHBOARD)).expect("it is there");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("there are panels");
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("each has a title");
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| {
            let expression = target["expr"].as_str().expect("each has an expression");
            (title.to_owned(), expression.replace("$__rate_interval", "30s"))
        })
    });
    targets.collect()
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_metric = |word: &&str| word.starts_with("postern_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}

/// The problems of requests that [`ask`] sends, each time.
const REFUSED: [ProblemType; 5] = [
    ProblemType::NotFound,
    ProblemType::MethodNotAllowed,
    ProblemType::TokenRequired,
    ProblemType::TokenSpent,
    ProblemType::InvalidTokenRequest,
];

/// Talks in groups, without a pause, and hears the others, for ever.
async fn talk(person: Client, groups: Vec<GroupId>) {
    loop {
        for group in &groups {
            // A message whose sending failed waits in the outbox, and is sent later.
            let _ = person.group_with_id(group).send("hello").await;
        }
        let _ = person.sync(Duration::from_secs(1)).await;
    }
}

/// Takes tokens for a user, and sends what is refused, without a pause, for ever. `paid` is a request that is good once.
async fn ask(way: Way, domain: Domain, issuer_key: Vec<u8>, user: SigningKey, paid: Call) {
    let refused = [Call::get("/nowhere"), Call::put("/ds/group-ids"), Call::post("/ds/group-ids"), paid];
    loop {
        for call in &refused {
            let _ = way.try_send(call).await;
        }
        // No batch has seven tokens.
        for number in [7, 10] {
            let batch = Ask::batch_for(&issuer_key, number, &challenge(&domain)).call(&user).at(&domain);
            let _ = way.try_send(&batch).await;
        }
    }
}

fn promtool(arguments: &[&str], file: &str) {
    let done = Command::new("/usr/bin/promtool").args(arguments).arg(in_tree(file)).output();
    let done = done.expect("promtool is installed: .ci/setup tests");
    let [said, errors] = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(done.status.success(), "{said}{errors}");
}

#[test]
fn promtool_has_no_objection_to_the_alert_rules() {
    promtool(&["check", "rules"], ALERTS);
}

#[test]
fn each_alert_fires_over_some_series_and_is_silent_over_others() {
    promtool(&["test", "rules"], TESTS);
    let [rules, tests] = [ALERTS, TESTS].map(|file| fs::read_to_string(in_tree(file)).expect("it is there"));
    let names = |text: &str, from: &str, to: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(from)?.strip_suffix(to));
        lines.map(str::to_owned).collect()
    };
    let alerts = names(&rules, "- alert: ", "");
    assert!(alerts.len() > 25, "{alerts:?}");
    assert_eq!(names(&tests, "- name: ", " fires"), alerts, "each fires");
    assert_eq!(names(&tests, "- name: ", " is silent"), alerts, "each is silent");
    let asked = |alert: &String, samples: &str| {
        let is_one = |part: &&str| part.contains(&format!("alertname=\"{alert}\"")) && part.contains(samples);
        tests.split("  - name: ").filter(is_one).count()
    };
    for alert in &alerts {
        assert_eq!(asked(alert, "exp_samples: [{labels: '{}', value: 1}]"), 1, "{alert}");
        assert_eq!(asked(alert, "exp_samples: []"), 1, "{alert}");
    }
}

/// The selectors of an expression: a metric, a label, and an expression for each value that it may have.
fn selectors(expression: &str) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once('{') {
        let metric =
            before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
        // Values have braces, too.
        let mut matchers = after;
        while let Some((label, value)) = matchers.split_once('"') {
            let (value, behind) = value.split_once('"').expect("a value ends");
            let name = label.trim_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let is_pattern = label.contains('~');
            let values: Vec<&str> = if is_pattern { value.split('|').collect() } else { vec![value] };
            let matching = if is_pattern { "=~" } else { "=" };
            all.extend(
                values.into_iter().map(|value| {
                    (metric.to_owned(), name.to_owned(), format!("{name}{matching}\"{value}\""))
                }),
            );
            matchers = behind;
            if !behind.starts_with(',') {
                break;
            }
        }
        rest = matchers;
    }
    all
}

#[test]
fn selectors_are_found_in_expressions() {
    let found = selectors("sum(rate(a_total{b=~\"c|d\",e!=\"{f}\"}[5m])) / rate(g[5m]) - h{i=\"j\"}");
    let found: Vec<_> = found.iter().map(|(metric, _, matcher)| format!("{metric} {matcher}")).collect();
    assert_eq!(found, ["a_total b=~\"c\"", "a_total b=~\"d\"", "a_total e=\"{f}\"", "h i=\"j\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_evaluates_every_expression_of_the_dashboard_and_of_the_alerts() {
    let neighbours =
        Neighbours::builder().setting("POSTERN_METRICS_LISTEN", "127.0.0.1:0").tokens(50).start().await;
    let mut urls = Vec::new();
    for world in &neighbours.worlds {
        urls.push(world.server().metrics_url().await);
    }
    // One with a private cluster.
    let dir = DataDir::migrated().await;
    let embedded = Server::embedded(&dir).metrics().start().await;
    urls.push(embedded.metrics_url().await);
    let prometheus = Prometheus::start(&urls, &in_tree(ALERTS)).await;

    // Two groups, one of them across; two people talk to each other in that one first.
    for world in &neighbours.worlds {
        world.lift_allowances().await;
    }
    let (alice, bob) = (neighbours[0].person("alice").await, neighbours[1].person("bob").await);
    let across = alice.create_group("across").await.expect("a group").id().clone();
    befriend(&alice, &bob, &across).await;
    joined(&bob, 1).await;
    let heard = |event: &Event| matches!(event, Event::Message { .. });
    alice.group_with_id(&across).send("hello").await.expect("a member can speak");
    let events = bob.sync_until(PATIENCE, heard).await.expect("he reads");
    assert!(events.iter().any(heard), "{events:?}");
    let (carol, dan) = (neighbours[0].person("carol").await, neighbours[0].person("dan").await);
    let here = alice.create_group("here").await.expect("a group").id().clone();
    for (friend, group) in [(&carol, &across), (&dan, &here)] {
        befriend(&alice, friend, group).await;
        joined(friend, 1).await;
    }
    let (world, asker) = (&neighbours[0], neighbours[0].user("asker").await);
    let mut load = JoinSet::new();
    for (person, groups) in [
        (alice, vec![across.clone(), here.clone()]),
        (bob, vec![across.clone()]),
        (carol, vec![across]),
        (dan, vec![here]),
    ] {
        load.spawn(talk(person, groups));
    }
    let (way, domain, issuer_key) = (world.way(0), world.domain().clone(), world.token_key().to_vec());
    let paid = world.paid(Call::post("/ds/group-ids"));
    load.spawn(ask(way, domain, issuer_key, asker.device.key.clone(), paid));

    let panels = panels();
    assert!(panels.len() > 70, "{}", panels.len());
    for (title, expression) in &panels {
        // A scrape may be lost on a busy machine.
        eventually(&format!("{title}: {expression} has data"), async || {
            let found = prometheus.query(expression).await.unwrap_or_else(|error| panic!("{title}: {error}"));
            (!found.is_empty()).then_some(())
        })
        .await;
    }

    // Calls of the database that fail show once some did.
    let failures = fs::read_to_string(in_tree("server/src/database/error.rs")).expect("it is there");
    let value_of = |matcher: &str| matcher.split_once('"').expect("it has a value").1.to_owned();
    let rules = prometheus.rules().await;
    assert!(rules.len() > 25, "{}", rules.len());
    for rule in &rules {
        let (name, expression) = (&rule["name"], rule["query"].as_str().expect("it has an expression"));
        assert!(
            ["page", "ticket"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()),
            "{rule}"
        );
        for annotation in ["summary", "mend"] {
            let text = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.len() > 10, "{name} has no {annotation}");
        }
        let is_page = rule["labels"]["severity"] == "page" && !expression.contains(OF_DISK);
        eventually(&format!("nobody is woken while all is well: {name}"), async || {
            let found = prometheus.query(expression).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            (!is_page || found.is_empty()).then_some(())
        })
        .await;
        assert!(rule["lastError"].is_null() || rule["lastError"] == "", "{rule}");
        // A metric that does not exist would never alert anybody. One whose last scrape was lost is missing until the next.
        let is_there = async |selector: String| {
            let counted = format!("count({selector})");
            eventually(&format!("{name}: there is {selector}"), async || {
                let found = prometheus.query(&counted).await.expect("it is an expression");
                (!found.is_empty()).then_some(())
            })
            .await;
        };
        for metric in metrics(expression) {
            is_there(metric).await;
        }
        // The same for a value of a label, but for a word of a server's that was not said yet.
        for (metric, label, matcher) in selectors(expression) {
            let is_problem = metric == "postern_requests_total"
                && ProblemType::ALL.iter().any(|kind| matcher == format!("{label}=\"{}\"", kind.slug()));
            let is_failure = metric == "postern_database_calls_total"
                && failures.contains(&format!("=> \"{}", value_of(&matcher)));
            if !is_problem && !is_failure {
                is_there(format!("{metric}{{{matcher}}}")).await;
            }
        }
    }

    // It was a load: messages came in, tokens went out, and what is refused was, many times each.
    let refused = REFUSED.map(|kind| format!("postern_requests_total{{outcome=\"{}\"}}", kind.slug()));
    let done = [
        "postern_requests_total{outcome=\"ok\"}",
        "postern_deliveries_total{outcome=\"delivered\"}",
        "postern_outgoing_total",
        "postern_tokens_issued_total{outcome=\"issued\"}",
        "postern_tokens_shown_total{fate=\"accepted\"}",
    ];
    for series in refused.iter().map(String::as_str).chain(done) {
        let many = format!("sum({series}) > 100");
        eventually(&many, async || {
            let found = prometheus.query(&many).await.expect("it is an expression");
            (!found.is_empty()).then_some(())
        })
        .await;
    }

    // Neither does a restore by itself wake anybody: numbers leap, keys are revoked, and people and neighbours go on.
    let generation: i64 = neighbours[0].value("SELECT operator.begin_generation()").await;
    assert!(generation > 0);
    eventually("other keys issue", async || {
        (neighbours[0].count("aas.issuer_keys WHERE retires > current_date").await > 0).then_some(())
    })
    .await;
    let mut shown = 0.0;
    for world in &neighbours.worlds {
        let accepted = ["fate=\"accepted\""];
        shown += Scrape::of(world.server()).await.sum("postern_tokens_shown_total", &accepted);
    }
    let more = format!("sum(postern_tokens_shown_total{{fate=\"accepted\"}}) > {shown}");
    eventually("they go on, and Prometheus sees it", async || {
        let found = prometheus.query(&more).await.expect("it is an expression");
        (!found.is_empty()).then_some(())
    })
    .await;
    let is_page = |rule: &&Value| {
        let is_of_disk = rule["query"].as_str().is_some_and(|query| query.contains(OF_DISK));
        rule["labels"]["severity"] == "page" && !is_of_disk
    };
    for rule in rules.iter().filter(is_page) {
        let (name, expression) = (&rule["name"], rule["query"].as_str().expect("it has an expression"));
        eventually(&format!("a restore wakes nobody: {name}"), async || {
            let found = prometheus.query(expression).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            found.is_empty().then_some(())
        })
        .await;
    }
    assert!(load.try_join_next().is_none(), "they talk and ask all the while");
    load.shutdown().await;

    // A fault is seen, and none that servers mend by themselves before anybody looks.
    let is_seen = async |name: &str| {
        let rule =
            rules.iter().find(|rule| rule["name"] == name).unwrap_or_else(|| panic!("no alert {name}"));
        let expression = rule["query"].as_str().unwrap();
        eventually(name, async || {
            let found = prometheus.query(expression).await.expect("it is an expression");
            (!found.is_empty()).then_some(())
        })
        .await;
    };
    for sql in ["ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"] {
        neighbours[1].admin.batch_execute(sql).await.expect("a superuser may");
    }
    is_seen("PosternHealthProblem").await;
    neighbours[0].cluster.kill_postgres();
    for alert in ["PosternNotReady", "PosternDatabaseSilent", "PosternDeaf"] {
        is_seen(alert).await;
    }
}
