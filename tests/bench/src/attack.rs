//! Resources under attack: the latency of an honest client, and the memory and CPU of server and database, next to what
//! a stranger or a member can do at little cost. The honest client sends to a group of its own, at a steady pace and
//! each time on a connection of its own.

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use postern_client::{Client, Http, Request, Token};
use postern_protocol::RatchetTree;
use postern_tests_kit::{Cluster, Commit, Party, Server, home, registration_of};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

use crate::{
    Options,
    costs::Costs,
    group::{BenchGroup, Founder},
    refill,
    waiters::resident_bytes,
};

const SILENT_CONNECTIONS: usize = 1000;
const HALF_SENT_BODIES: usize = 200;
/// Bytes that a half-sent body has sent, of those that it announced: as many as a registration may have.
const HALF_SENT: (usize, usize) = (15_000, 16_000);
const LARGE_BODIES: usize = 16;
/// Bytes of the tree in each: a little less than any body may have.
const LARGE_BYTES: usize = 1_000_000;
/// Tokens of each of their senders.
const LARGE_TOKENS: usize = 200;
const REGISTRATIONS: usize = 40;
/// Leaves of the EID that a registration shows: some 300 kB of tree.
const LEAVES: usize = 900;
const LOOPS_WITH_A_SPENT_TOKEN: usize = 16;
const HEAVY_DELIVERIES: usize = 8;
const HEAVY_MEMBERS: usize = 1000;
const HEAVY_BYTES: usize = 60 * 1024;
/// Tokens of each of the senders.
const HEAVY_TOKENS: usize = 200;
/// Pause of the honest client between two sends.
const PACE: Duration = Duration::from_millis(50);
/// Time after which the honest client gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time that an attack has before the honest client is measured.
const HEAD_START: Duration = Duration::from_secs(1);

/// The honest client's view, and what it cost.
struct Seen {
    latencies: Vec<Duration>,
    failed: usize,
    memory: f64,
    costs: Costs,
    seconds: f64,
}

/// The honest client, and where it and the attackers are.
struct Scene<'a> {
    options: &'a Options,
    cluster: &'a Cluster,
    server: &'a Server,
    tokens: Mutex<Vec<Token>>,
    group: BenchGroup,
}

pub async fn measure(options: &Options, cluster: &Cluster, server: &Server, client: &Client) -> Result<()> {
    let group = BenchGroup::create(client, 11, options.bytes).await?;
    let mut tokens = Vec::new();
    let attackers = HEAVY_DELIVERIES * HEAVY_TOKENS + LARGE_BODIES * LARGE_TOKENS;
    refill(client, &mut tokens, attackers + 500 * options.seconds as usize).await?;
    let scene = Scene { options, cluster, server, tokens: Mutex::new(tokens), group };
    let (tokens, address) = (&scene.tokens, server.address());

    println!(
        "| next to | send p50 | p99 | failed | server's memory | server CPU | database CPU |\n|---|--:|--:|--:|--:|--:|--:|"
    );
    print("nothing", &scene.honestly().await?);
    scene.next_to("1,000 silent connections", silent_connections(address)).await?;
    scene.next_to("200 half-sent registrations of 16 kB", half_sent_bodies(address)).await?;
    let large = large_bodies(client, tokens).await?;
    scene.next_to("16 loops that send whole bodies of 1 MB, each with a token", large).await?;
    scene.next_to("40 registrations with 900 leaves each", registrations(server)?).await?;
    let spent = spent_token(client, tokens).await?;
    scene.next_to("16 loops that create a group of 900 with a spent token", spent).await?;
    let heavy = heavy_deliveries(client, tokens).await?;
    scene.next_to("8 deliveries of 60 kB to 999 queues at a time", heavy).await
}

/// The attack goes on until it is dropped.
type Attack = JoinSet<()>;

impl Scene<'_> {
    /// Measures next to an attack, ends it, and clears up.
    async fn next_to(&self, name: &str, mut attack: Attack) -> Result<()> {
        tokio::time::sleep(HEAD_START).await;
        print(name, &self.honestly().await?);
        attack.shutdown().await;
        // The rest of the attack in the database ends before the next begins.
        tokio::time::sleep(HEAD_START).await;
        let clear = "TRUNCATE qs.messages; UPDATE qs.queues SET acked_seq = next_seq - 1; CHECKPOINT";
        Ok(self.cluster.admin().await.batch_execute(clear).await?)
    }

    async fn honestly(&self) -> Result<Seen> {
        let before = Costs::read(self.cluster, self.server).await?;
        let started = Instant::now();
        let mut sends: Vec<JoinHandle<Option<Duration>>> = Vec::new();
        while started.elapsed() < Duration::from_secs(2 * self.options.seconds) {
            let token = self.tokens.lock().expect("nobody panics here").pop().context("out of tokens")?;
            let (http, message) =
                (Http::new(self.server.url())?, self.group.message.clone().paid_with(token));
            sends.push(tokio::spawn(async move {
                let sent = Instant::now();
                let answer = tokio::time::timeout(PATIENCE, http.send_once(&message)).await;
                matches!(answer, Ok(Ok(_))).then(|| sent.elapsed())
            }));
            tokio::time::sleep(PACE).await;
        }
        let number = sends.len();
        let latencies: Vec<_> =
            join_all(sends).await.into_iter().filter_map(|sent| sent.ok().flatten()).collect();
        Ok(Seen {
            failed: number - latencies.len(),
            latencies,
            memory: resident_bytes(self.server)?,
            seconds: started.elapsed().as_secs_f64(),
            costs: Costs::read(self.cluster, self.server).await?.since(&before),
        })
    }
}

fn print(name: &str, seen: &Seen) {
    let mut latencies = seen.latencies.clone();
    latencies.sort_unstable();
    let at = |share: usize| match latencies.len() {
        0 => "none".to_owned(),
        number => format!("{:.1} ms", latencies[(number - 1) * share / 100].as_secs_f64() * 1e3),
    };
    println!(
        "| {name} | {} | {} | {} of {} | {:.0} MB | {:.2} | {:.2} |",
        at(50),
        at(99),
        seen.failed,
        seen.failed + latencies.len(),
        seen.memory / 1e6,
        seen.costs.server / seen.seconds,
        seen.costs.database / seen.seconds,
    );
}

fn silent_connections(address: SocketAddr) -> Attack {
    let mut attack = JoinSet::new();
    for _ in 0..SILENT_CONNECTIONS {
        attack.spawn(async move {
            // A server that hangs up is called again.
            loop {
                if let Ok(stream) = TcpStream::connect(address).await {
                    let _ = stream.readable().await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    attack
}

fn half_sent_bodies(address: SocketAddr) -> Attack {
    let (sent, announced) = HALF_SENT;
    let mut attack = JoinSet::new();
    for _ in 0..HALF_SENT_BODIES {
        attack.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    let header = format!(
                        "POST /as/users HTTP/1.1\r\nHost: home\r\nContent-Type: application/cbor\r\nContent-Length: {announced}\r\n\r\n"
                    );
                    let _ = stream.write_all(header.as_bytes()).await;
                    let _ = stream.write_all(&vec![0; sent]).await;
                    // An answer may have come already: only the end of the connection is worth a new one.
                    let _ = tokio::time::timeout(Duration::from_secs(60), stream.readable()).await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    attack
}

/// Creations of a group whose tree is none: each is read to its end, since it is paid, and refused then.
async fn large_bodies(client: &Client, tokens: &Mutex<Vec<Token>>) -> Result<Attack> {
    let founder = Founder::new(client).await?;
    let mut creation = founder.creation();
    creation.ratchet_tree = RatchetTree::new(vec![0; LARGE_BYTES]);
    let request = Request::post("/ds/groups").cbor(&creation).signed_by(founder.key(), &home());
    let mut attack = JoinSet::new();
    for _ in 0..LARGE_BODIES {
        let own = take(tokens, LARGE_TOKENS);
        let (http, request) = (Http::new(client.http().server())?, request.clone());
        attack.spawn(async move {
            for token in own {
                let _ = http.send_once(&request.clone().paid_with(token)).await;
            }
        });
    }
    Ok(attack)
}

/// Takes so many tokens, or those that are left.
fn take(tokens: &Mutex<Vec<Token>>, number: usize) -> Vec<Token> {
    let mut tokens = tokens.lock().expect("nobody panics here");
    let at = tokens.len().saturating_sub(number);
    tokens.drain(at..).collect()
}

fn registrations(server: &Server) -> Result<Attack> {
    let name = "mallory@home.example";
    let mut device = Party::new(name);
    device.found(&[7; 16], openmls::prelude::Extensions::empty());
    let others = (1..LEAVES).map(|_| Party::new(name).key_package()).collect();
    device.commit(Commit { add: others, ..Commit::default() });
    device.merge();
    let body = registration_of(&name.parse()?, &device);
    let mut attack = JoinSet::new();
    for _ in 0..REGISTRATIONS {
        let http = Http::new(server.url())?;
        let (key, body) = (device.key.clone(), body.clone());
        attack.spawn(async move {
            loop {
                let _ =
                    http.send_once(&Request::post("/as/users").cbor(&body).signed_by(&key, &home())).await;
            }
        });
    }
    Ok(attack)
}

async fn spent_token(client: &Client, tokens: &Mutex<Vec<Token>>) -> Result<Attack> {
    let token = tokens.lock().expect("nobody panics here").pop().context("out of tokens")?;
    client.http().send(&Request::post("/ds/group-ids").paid_with(token.clone())).await?;
    let mut founder = Founder::new(client).await?;
    founder.grow(LEAVES - 1);
    let creation = founder.creation();
    let mut attack = JoinSet::new();
    for _ in 0..LOOPS_WITH_A_SPENT_TOKEN {
        let http = Http::new(client.http().server())?;
        let request = Request::post("/ds/groups").cbor(&creation).signed_by(founder.key(), &home());
        let request = request.paid_with(token.clone());
        attack.spawn(async move {
            loop {
                let _ = http.send_once(&request).await;
            }
        });
    }
    Ok(attack)
}

async fn heavy_deliveries(client: &Client, tokens: &Mutex<Vec<Token>>) -> Result<Attack> {
    let group = BenchGroup::create(client, HEAVY_MEMBERS, HEAVY_BYTES).await?;
    let mut attack = JoinSet::new();
    for _ in 0..HEAVY_DELIVERIES {
        let own = take(tokens, HEAVY_TOKENS);
        let (http, message) = (Http::new(client.http().server())?, group.message.clone());
        attack.spawn(async move {
            for token in own {
                let _ = http.send_once(&message.clone().paid_with(token)).await;
            }
        });
    }
    Ok(attack)
}
