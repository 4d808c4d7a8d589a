//! What the promises are tried on: one database, two servers, and people who are registered at one of them.

use std::sync::Arc;

use nix::sys::signal::Signal;
use postern_client::{Client, Http, Options, Request, Response, api::Error};
use postern_protocol::problem::ProblemType;
use postern_tests::{Cluster, Server, eventually};
use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::sync::Barrier;

pub struct World {
    // In the order in which they have to go.
    pub servers: [Server; 2],
    pub cluster: Cluster,
    homes: TempDir,
}

impl World {
    pub async fn start() -> Self {
        let cluster = Cluster::start().await;
        let servers = [Server::start(&cluster).await, Server::start(&cluster).await];
        Self { servers, cluster, homes: tempfile::tempdir().expect("/tmp is writable") }
    }

    /// Somebody new, registered at one of the servers.
    pub async fn person(&self, name: &str, server: usize) -> Client {
        person(self.homes.path(), name, &self.servers[server]).await
    }

    /// A way to each server. It leads there again after a restart.
    pub fn ways(&self) -> [Http; 2] {
        self.servers.each_ref().map(way)
    }

    /// Ends a server and starts another in its place; returns what the first one's end was like.
    pub async fn replace(&mut self, server: usize, signal: Signal) -> std::process::ExitStatus {
        let server = &mut self.servers[server];
        let address = server.address();
        server.signal(signal);
        let status = server.ended().await;
        *server = eventually("the server's port is free again", async || {
            Server::builder(&self.cluster).listen(address).try_start().await.ok()
        })
        .await;
        status
    }
}

/// Somebody new, whose state need not survive the test's own crash.
pub async fn person(homes: &std::path::Path, name: &str, server: &Server) -> Client {
    let options = Options { durable: false, record_deliveries: true, ..Options::default() };
    let registered =
        Client::builder(homes.join(name)).server(server.url()).options(options).register(name).await;
    registered.unwrap_or_else(|error| panic!("{name} cannot register: {error}"))
}

pub fn way(server: &Server) -> Http {
    Http::new(server.url()).expect("a server's address is one")
}

/// The request with a token of the payer's.
pub async fn paid(payer: &Client, request: Request) -> Request {
    request.paid_with(payer.wallet().take().await.expect("there are tokens"))
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
pub async fn send_at_once(
    requests: impl IntoIterator<Item = (Http, Request)>,
) -> Vec<Result<Response, Error>> {
    at_once(requests.into_iter().map(|(way, request)| async move { way.send_once(&request).await })).await
}

/// What the server says, if it refuses.
pub fn problem(answer: &Result<Response, Error>) -> Option<ProblemType> {
    answer.as_ref().err().and_then(Error::problem)
}

/// Repeats what fails while a server or the database is away.
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

/// What a test decides by chance; POSTERN_TEST_SEED repeats the decisions of an earlier run.
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let chosen = std::env::var("POSTERN_TEST_SEED").ok();
        let seed =
            chosen.map_or_else(rand::random, |seed| seed.parse().expect("POSTERN_TEST_SEED is a number"));
        // Shown for a test that failed.
        eprintln!("POSTERN_TEST_SEED={seed}");
        Self(seed)
    }

    /// A stream of decisions of its own for each who decides.
    pub fn of(&self, who: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
