//! Lost answers on the way to another homeserver: the own one has acted, and the client does not know. What it asks through
//! the pipe is sent once with each token (FED-3), so one lost answer may be an error; the next attempt goes on.

use std::time::Duration;

use postern_client::{Error, Options};
use postern_tests_kit::{BadLine, Neighbours, with};

/// The client's own attempts at one request.
const ALL_ATTEMPTS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_the_way_to_another_homeserver_may_lose_its_answer() {
    let neighbours = Neighbours::builder().start().await;
    let (home, away) = (&neighbours[0], &neighbours[1]);
    let bob = away.person("bob").await;
    let url = home.url_of(home.server());
    let line = BadLine::to(url.trim_start_matches("http://").parse().expect("it is an address")).await;
    let steps = [
        "GET /homeservers/b.example",
        "POST /relay/b.example/token-request",
        "POST /relay/b.example ",
        // Once a day, by who has to do with another domain.
        "GET /.well-known/postern",
    ];
    for (place, named) in steps.into_iter().enumerate() {
        for times in [1, ALL_ATTEMPTS] {
            // Somebody that knows nothing of the other domain yet.
            let alice = home.person(&format!("alice-{place}-{times}")).await;
            let options = Options { server: Some(line.url()), durable: false, ..Options::default() };
            let alice = with(alice, options);
            let work = async || {
                let found = alice.look_up(bob.user()).await?;
                alice.receive(Duration::ZERO).await?;
                Ok::<_, Error>(found)
            };
            line.cut(named, times, 0);
            let mut found = work().await;
            assert!(line.mend() > 0, "{named} was asked for, and its answer lost");
            if let Err(error) = found {
                assert!(error.is_passing(), "{named}, lost {times} times: {error}");
                found = work().await;
            }
            let found = found.unwrap_or_else(|error| panic!("{named}, after {times} lost answers: {error}"));
            assert_eq!(found.clients[0].client_key, bob.client_key());
        }
    }
    neighbours.close();
}
