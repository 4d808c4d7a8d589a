//! A token pays once (AAS-4), in whatever order servers die, connections break and clients insist.

use std::{sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postern_protocol::token::TokenType;
use postern_tests_kit::{Ask, Chance, Server, World, eventually};
use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};
use reqwest::{StatusCode, header::AUTHORIZATION};

const TOKENS: u16 = 100;
const PRESENTERS: usize = 3;

/// Presents a token until somebody says clearly what became of it: true when it paid.
async fn present(urls: &[String], http: &reqwest::Client, token: &[u8], mut chance: StdRng) -> bool {
    loop {
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..400))).await;
        let url = format!("{}/ds/group-ids", urls[chance.random_range(0..urls.len())]);
        let authorization = postern_protocol::token::authorization(token);
        match http.post(url).header(AUTHORIZATION, authorization).send().await {
            Ok(answer) if answer.status().is_success() => return true,
            Ok(answer) if answer.status().is_server_error() => {}
            Ok(answer) => {
                assert_eq!(answer.status(), 401);
                return false;
            }
            Err(_) => {}
        }
    }
}

/// A blow that can strike at any moment.
enum Blow {
    /// All of the servers' sessions are ended by PostgreSQL.
    Cut,
    /// kill -9 of a server, which comes back on its port.
    Server,
    /// kill -9 of one session's backend: PostgreSQL ends all others, too, and recovers.
    Backend,
}

impl Blow {
    async fn strike(self, gate: &mut World, chance: &mut StdRng) {
        match self {
            Self::Cut => {
                let cut =
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postern_server'";
                gate.admin.execute(cut, &[]).await.expect("connections can be cut");
            }
            Self::Server => {
                let server = gate.servers.remove(chance.random_range(0..gate.servers.len()));
                let address = server.address();
                server.kill().await;
                // The database may be recovering, and the port may not be free yet.
                let started = eventually("the server is back", async || {
                    Server::builder(&gate.cluster).listen(address).try_start().await.ok()
                });
                let started = started.await;
                gate.servers.push(started);
            }
            Self::Backend => {
                // Rather one that is at work.
                let busy = "SELECT pid FROM pg_stat_activity WHERE usename = 'postern_server'
                             ORDER BY state = 'active' DESC, random() LIMIT 1";
                let Some(row) = gate.admin.query_opt(busy, &[]).await.expect("it can be asked") else {
                    return;
                };
                // Its server may just have been killed, and ended the session.
                if !kill_backend(gate, row.get(0)).await {
                    return;
                }
                gate.reconnect().await;
            }
        }
    }
}

/// Returns once PostgreSQL has noticed, and has ended all other sessions; false if there is no such backend.
async fn kill_backend(gate: &World, pid: i32) -> bool {
    if kill(Pid::from_raw(pid), Signal::SIGKILL).is_err() {
        return false;
    }
    eventually("all sessions end", async || gate.admin.is_closed().then_some(())).await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_killed_between_spending_and_commit_burns_no_token() {
    let mut gate = World::builder().servers(2).start().await;
    let client = gate.client("alice").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let token = gate.tokens(0, &client, &Ask::batch(&key, 1)).await.remove(0);
    // The operation comes after its token is spent, and waits here.
    let holder = gate.cluster.admin().await;
    holder.batch_execute("BEGIN; LOCK TABLE ds.reservations IN SHARE MODE").await.expect("it can be locked");
    let (answer, ()) = tokio::join!(gate.spend(0, &token), async {
        let waiting = "SELECT pid FROM pg_stat_activity
                        WHERE usename = 'postern_server' AND wait_event = 'relation' AND query LIKE '%reserve_group_id%'";
        let pid = eventually("the operation waits", async || {
            gate.admin.query_opt(waiting, &[]).await.expect("it can be asked").map(|row| row.get(0))
        });
        assert!(kill_backend(&gate, pid.await).await);
    });
    assert_eq!(answer.slug(), "unavailable");
    gate.reconnect().await;
    assert_eq!(gate.value::<i64>("SELECT count(*) FROM aas.spent").await, 0);
    // The pools have to notice that their sessions are gone.
    let again = eventually("the other server answers", async || {
        let answer = gate.spend(1, &token).await;
        (!answer.status.is_server_error()).then_some(answer)
    });
    assert_eq!(again.await.status, StatusCode::CREATED);
    assert_eq!(gate.spend(1, &token).await.slug(), "token-spent");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_each_token_pays_for_exactly_one_operation() {
    let seed = Chance::new();
    let mut chance = seed.of(0);
    let mut gate = World::builder().servers(3).start().await;
    let client = gate.client("alice").await;
    let key = gate.issuer_key(TokenType::PrivateRistretto255).await;
    let tokens = gate.tokens(0, &client, &Ask::batch(&key, TOKENS)).await;

    let urls: Arc<[String]> = gate.servers.iter().map(|server| server.url().to_owned()).collect();
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    let presenting: Vec<_> = tokens
        .iter()
        .flat_map(|token| (0..PRESENTERS).map(move |_| token.clone()))
        .enumerate()
        .map(|(index, token)| {
            let (urls, http) = (urls.clone(), http.clone());
            let chance = seed.of(index as u64 + 1);
            tokio::spawn(async move { (token.clone(), present(&urls, &http, &token, chance).await) })
        })
        .collect();

    // Each at least once, in any order.
    let mut blows = [Blow::Cut, Blow::Server, Blow::Server, Blow::Server, Blow::Backend, Blow::Backend];
    blows.shuffle(&mut chance);
    for blow in blows {
        tokio::time::sleep(Duration::from_millis(chance.random_range(10..150))).await;
        blow.strike(&mut gate, &mut chance).await;
    }
    // The crash of the machine.
    gate.cluster.kill_postgres();
    gate.cluster.restart().await;
    gate.reconnect().await;

    let mut paid = std::collections::HashMap::<Vec<u8>, usize>::new();
    for presented in presenting {
        let (token, success) = presented.await.expect("nobody panics");
        *paid.entry(token).or_default() += usize::from(success);
    }
    assert!(paid.values().all(|successes| *successes <= 1), "a token was accepted twice");
    // Where no answer said success, the answer was lost, or it is still good.
    for token in &tokens {
        eventually("the server says what became of it", async || {
            (!gate.spend(0, token).await.status.is_server_error()).then_some(())
        })
        .await;
    }
    let operations: i64 = gate.value("SELECT count(*) FROM ds.reservations").await;
    let spent: i64 = gate.value("SELECT count(*) FROM aas.spent").await;
    assert_eq!(
        (operations, spent),
        (i64::from(TOKENS), i64::from(TOKENS)),
        "none paid twice, none was burnt"
    );
}
