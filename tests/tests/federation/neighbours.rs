//! The kit's neighbours: they find each other over TLS, and people talk at home as anywhere.

use nix::sys::signal::Signal;
use postern_client::{Error, Event, HomeserverError};
use postern_protocol::{
    federation::{Description, HomeserverShown, KnownKeys},
    problem::ProblemType,
};
use postern_tests_kit::{Call, Capsule, Neighbours, PATIENCE, Weather, befriend, eventually, joined, now};

use crate::{
    groups::operate,
    people_in_groups::{hears, say},
};

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_find_each_other_over_tls_and_serve_people_of_their_own() {
    let neighbours = Neighbours::builder().domains(3).processes(2).tokens(20).start().await;
    for seeker in &neighbours.worlds {
        for sought in &neighbours.worlds {
            let call = Call::get(format!("/homeservers/{}", sought.domain()));
            let reply = seeker.send_to(&seeker.servers[1], &seeker.paid(call).wire()).await;
            if seeker.domain() == sought.domain() {
                reply.assert_problem("itself", ProblemType::NotFound);
                continue;
            }
            let shown: HomeserverShown = reply.decode();
            let found = Description::from_json(shown.description.as_bytes()).expect("it is a description");
            let keys = found.verify(sought.domain(), &KnownKeys::default(), now());
            assert_eq!(keys.expect("it verifies").len(), 1);
        }
    }
    let (alice, bob, group) = neighbours[1].friends(["alice", "bob"], "at home").await;
    assert_eq!(alice.user().to_string(), "alice@b.example");
    alice.group_with_id(&group).send("hello").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "hello");
    let events = bob.sync_until(PATIENCE, said).await.unwrap();
    assert!(events.iter().any(said), "{events:?}");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn homeservers_on_other_hosts_than_their_domains_are_described_there_and_reached_where_they_are() {
    let neighbours = Neighbours::builder().on_other_hosts().start().await;
    let [alice, bob] = [neighbours[0].person("alice").await, neighbours[1].person("bob").await];
    // A relayed request. Nobody knows a.example there yet: it introduces itself, and is looked at.
    alice.look_up(bob.user()).await.expect("she finds him");
    for (here, there) in [(0, 1), (1, 0)] {
        let domain = neighbours[there].domain();
        let sql = format!("SELECT base_url FROM federation.homeservers WHERE domain = '{domain}'");
        let base_url: String = neighbours[here].value(&sql).await;
        assert_eq!(base_url, format!("https://chat.{domain}"));
    }
    // Deliveries to b.example, and what its people ask the DS of a.example by the pipe.
    let group = alice.create_group("across").await.expect("a group can be made").id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    for (speaker, listener) in [(&alice, &bob), (&bob, &alice)] {
        let text = format!("{} says", speaker.user());
        say(speaker, &group, &text).await;
        hears(listener, &text).await;
    }
    assert!(
        neighbours[1].count("federation.incoming_lanes").await > 0,
        "deliveries came from the other domain"
    );
    // Nothing else was asked at the domains, which would answer nothing else.
    for domain in 0..2 {
        let asked = neighbours.signpost(domain).asked();
        let is_description = |line: &String| line.starts_with("GET /.well-known/postern ");
        assert!(!asked.is_empty() && asked.iter().all(is_description), "{asked:?}");
    }
    neighbours.close();
}

/// The other homeserver refuses it before its body is sent, and takes it once it was introduced.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_of_a_homeserver_that_nobody_knows_yet_may_be_a_large_one() {
    let neighbours = Neighbours::builder().tokens(20).start().await;
    let [here, there] = [&neighbours[0], &neighbours[1]];
    assert_eq!(here.count("federation.homeserver_keys").await, 0, "nobody is known here");
    let asked = Call::get("/qs/keys").at(here.domain()).wire();
    let capsule = Capsule::followed(&here.gateway_keys().await, &asked, &vec![0; 1024 * 1024]);
    let reply = there.pay(&capsule.call(format!("/relay/{}", here.domain()))).await;
    capsule.open(&reply).assert_ok("a large request");
    assert!(here.count("federation.homeserver_keys").await > 0, "it was introduced");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_between_two_neighbours_is_as_bad_as_its_weather() {
    let neighbours = Neighbours::builder().bad_lines().tokens(100).start().await;
    let [seeker, sought] = [&neighbours[0], &neighbours[1]];
    let line = neighbours.line(0, 1);
    let ask = async || {
        seeker.admin.execute("DELETE FROM federation.looks", &[]).await.expect("it can be forgotten");
        seeker.pay(&Call::get(format!("/homeservers/{}", sought.domain()))).await
    };
    for weather in [Weather::Cut, Weather::Failing, Weather::Garbage] {
        line.set(weather);
        // The end of a connection may be noticed late: a look that meets it is struck by no weather, and the next one is.
        eventually(&format!("{weather:?} strikes"), async || {
            ask().await.assert_problem(&format!("{weather:?}"), ProblemType::HomeserverUnknown);
            (line.struck() > 0).then_some(())
        })
        .await;
        line.calm();
    }
    for weather in [Weather::Slow(std::time::Duration::from_millis(50)), Weather::Fair] {
        line.set(weather);
        let passes = async || ask().await.status.is_success().then_some(());
        eventually(&format!("{weather:?} lets a look through"), passes).await;
    }
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_is_heard_from_after_days_is_looked_at_at_once() {
    let neighbours = Neighbours::builder().tokens(50).start().await;
    let [here, there] = [&neighbours[0], &neighbours[1]];
    let look = async || here.pay(&Call::get(format!("/homeservers/{}", there.domain()))).await;
    look().await.assert_ok("it is there");
    let away = "UPDATE federation.homeservers SET expires = 1;
                UPDATE federation.looks SET failures = 10, looked = now() - interval '1 minute'";
    here.admin.batch_execute(away).await.expect("it can be away");
    let problem = look().await.assert_problem("it was away for long", ProblemType::HomeserverUnknown);
    assert!(problem.detail.is_some_and(|why| why.contains("the next one is not due yet")));
    // Somebody there asks something here.
    let asked = Call::get("/qs/keys").at(here.domain()).wire();
    let capsule = Capsule::seal(&here.gateway_keys().await, &asked);
    there.pay(&capsule.call(format!("/relay/{}", here.domain()))).await.assert_ok("a request from there");
    look().await.assert_ok("it is back");
    neighbours.close();
}

/// Nothing is to be delivered to it, and it asks for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_was_down_for_a_day_is_looked_at_within_minutes_when_people_ask_for_it() {
    let neighbours = Neighbours::builder().tokens(50).start().await;
    let [here, there] = [&neighbours[0], &neighbours[1]];
    let domain = there.domain();
    let look = async || here.pay(&Call::get(format!("/homeservers/{domain}"))).await;
    look().await.assert_ok("it is there");
    let away = async |minutes: i32| {
        let sql = format!(
            "UPDATE federation.homeservers SET expires = 1;
             UPDATE federation.looks SET failures = 10, looked = now() - interval '{minutes} minutes'"
        );
        here.admin.batch_execute(&sql).await.expect("it can be away");
    };
    away(6).await;
    look().await.assert_problem("a stranger has an hour", ProblemType::HomeserverUnknown);
    let took = format!(
        "INSERT INTO federation.neighbours (domain, first_success, last_success)
         VALUES ('{domain}', current_date - 1, current_date - 1)"
    );
    here.admin.batch_execute(&took).await.expect("it can be a neighbour");
    // retry_seconds is five minutes.
    away(3).await;
    look().await.assert_problem("not every time", ProblemType::HomeserverUnknown);
    away(6).await;
    look().await.assert_ok("it is back");
    assert_eq!(here.count("federation.outbox").await, 0, "nothing waited for it");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_lost_its_keys_is_dealt_with_again_once_operator_and_person_accept_it() {
    let mut neighbours = Neighbours::builder().start().await;
    let alice = neighbours[0].person("alice").await;
    let bob = neighbours[1].person("bob").await;
    alice.look_up(bob.user()).await.expect("she finds him");
    // It was set up anew, with what else there was.
    let lose = "DELETE FROM auth.signing_keys WHERE service = 'federation'";
    neighbours[1].admin.execute(lose, &[]).await.expect("they can be lost");
    neighbours[1].replace(0, Signal::SIGTERM).await;
    operate(&neighbours[1], "rotate_gateway_keys(revoke => true)").await;
    let expire = "UPDATE federation.homeservers SET expires = 1; DELETE FROM federation.looks";
    neighbours[0].admin.batch_execute(expire).await.expect("a day can pass");
    let refused = alice.look_up(bob.user()).await.expect_err("nobody knows it");
    assert!(refused.to_string().contains("no key that is known"), "{refused}");

    operate(&neighbours[0], "accept_homeserver_keys('b.example')").await;
    let refused =
        eventually("her homeserver deals with it", async || match alice.look_up(bob.user()).await {
            Err(Error::Homeserver(error)) => Some(error),
            Err(_) => None,
            Ok(_) => panic!("she does not notice"),
        })
        .await;
    assert!(matches!(refused, HomeserverError::KeysDiffer(_)), "{refused}");
    alice.accept_homeserver(neighbours[1].domain()).expect("she accepts it");
    eventually("she finds him again", async || alice.look_up(bob.user()).await.ok()).await;
    neighbours.close();
}
