//! The promises are tried on one database with two servers, by things that happen at the same instant.

use std::sync::{Arc, Mutex};

use postern_client::Http;
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Answer, Call, Reply, Server, Way, World, eventually};
use tokio::sync::Barrier;

/// Two servers on one database. On a machine that stands still now and then no request is given up that waits for a lock.
pub async fn two_servers() -> World {
    World::builder().servers(2).patient().start().await
}

/// The same, with tokens at hand for requests made by hand.
pub async fn two_servers_and_tokens() -> World {
    World::builder().servers(2).tokens(200).patient().start().await
}

/// A way to each server for what the client library has prepared. It leads there again after a restart.
pub fn client_ways(world: &World) -> [Http; 2] {
    [client_way(&world.servers[0]), client_way(&world.servers[1])]
}

pub fn client_way(server: &Server) -> Http {
    Http::new(server.url()).expect("a server's address is one")
}

/// Runs all of them at the same instant, as far as a machine can.
pub async fn at_once<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let futures: Vec<F> = futures.into_iter().collect();
    let start = Arc::new(Barrier::new(futures.len()));
    let tasks: Vec<_> = futures
        .into_iter()
        .map(|future| {
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                start.wait().await;
                future.await
            })
        })
        .collect();
    let mut outputs = Vec::new();
    for task in tasks {
        outputs.push(task.await.expect("what runs at once does not panic"));
    }
    outputs
}

/// Sends each of the requests, each on its way, at the same instant.
pub async fn send_at_once(calls: impl IntoIterator<Item = (Way, Call)>) -> Vec<Answer> {
    at_once(calls.into_iter().map(|(way, call)| async move { way.try_send(&call).await })).await
}

/// Repeats a request that fails while a server or the database is away, and pays again for one whose answer was lost.
pub async fn insist_paid(world: &World, way: &Way, call: Call) -> Reply {
    let token = Mutex::new(world.token());
    eventually("it is answered", async || {
        let paid = call.clone().paid_with(token.lock().expect("no panic holds it").clone());
        match way.try_send(&paid).await {
            Ok(reply) => return Some(reply),
            Err(failure) if failure.problem() == Some(ProblemType::TokenSpent) => {
                *token.lock().expect("no panic holds it") = world.token();
            }
            Err(failure) => assert!(failure.is_passing(), "{}: {failure:?}", call.target),
        }
        None
    })
    .await
}

/// Repeats what fails in the client library while a server or the database is away.
pub async fn insist<T, E, F, Fut>(what: &str, mut attempt: F) -> T
where
    F: FnMut() -> Fut,
    E: Into<postern_client::Error>,
    Fut: Future<Output = Result<T, E>>,
{
    eventually(what, || {
        let attempt = attempt();
        async {
            match attempt.await.map_err(Into::into) {
                Ok(value) => Some(value),
                Err(error) if error.is_passing() => None,
                Err(error) => panic!("{what}: {error}"),
            }
        }
    })
    .await
}
