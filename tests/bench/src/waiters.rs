//! The costs of waiting: the server's memory for each long-poll that waits, and whether many of
//! them slow down sending.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use postern_client::{Client, Request};
use postern_protocol::{QueueId, key::SigningKey, qs::Dequeue};
use postern_tests_kit::{Cluster, Server, home};

use crate::{Options, group::BenchGroup, median, refill, send_round};

/// Longer than a round takes.
const WAIT: u16 = 60;
const MEMBERS: usize = 11;

pub async fn measure(
    options: &Options,
    waiters: usize,
    cluster: &Cluster,
    server: &Server,
    client: &Client,
) -> Result<()> {
    let admin = cluster.admin().await;
    admin.batch_execute(include_str!("queues.sql")).await?;
    let owner = SigningKey::generate();
    let (last, key) = (i64::try_from(waiters)?, owner.public_key());
    let queues = admin
        .query("SELECT bench.queue(n) FROM generate_series(1, $1::bigint) n", &[&last])
        .await?
        .iter()
        .map(|row| Ok(QueueId::try_from(row.get::<_, &[u8]>(0))?))
        .collect::<Result<Vec<_>>>()?;
    admin.execute("SELECT bench.make_queues(1, $1, $2)", &[&last, &key.as_bytes().as_slice()]).await?;
    let mut groups = Vec::new();
    for _ in 0..options.concurrency {
        groups.push(BenchGroup::create(client, MEMBERS, options.bytes).await?);
    }

    let mut tokens = Vec::new();
    let (mut without, mut with, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        refill(client, &mut tokens, waiters + 12_000 * options.seconds as usize).await?;
        let alone =
            send_round(options, client.http(), &groups, &mut tokens, cluster, server).await?.per_second;
        let resident = resident_bytes(server)?;
        let polls = queues.iter().map(|queue| {
            let token = tokens.pop().context("out of tokens")?;
            let dequeue = Dequeue { after: 0, max_messages: None, wait: WAIT };
            let request = Request::post(format!("/qs/queues/{}/dequeue", queue.to_base64url()))
                .cbor(&dequeue)
                .signed_by(&owner, &home())
                .waiting(Duration::from_secs(WAIT.into()))
                .paid_with(token);
            let http = client.http().clone();
            Ok(tokio::spawn(async move { http.send_once(&request).await }))
        });
        let polls = polls.collect::<Result<Vec<_>>>()?;
        waiting(cluster, waiters).await?;
        let per_waiter = (resident_bytes(server)? - resident) / waiters as f64;
        let beside =
            send_round(options, client.http(), &groups, &mut tokens, cluster, server).await?.per_second;
        polls.iter().for_each(tokio::task::JoinHandle::abort);
        join_all(polls).await;
        // Freed memory is not given back to the system: only the first round shows the cost.
        memory.push(per_waiter);
        if round > 0 {
            without.push(alone);
            with.push(beside);
        }
    }
    let (without, with) = (median(without.into_iter()), median(with.into_iter()));
    println!("\n| long-polls waiting | server's memory for each | sends/s | ratio |\n|--:|--:|--:|--:|");
    println!("| 0 | | {without:.0} | |");
    println!("| {waiters} | {:.1} kB | {with:.0} | {:.2} |", memory[0] / 1e3, with / without);
    Ok(())
}

/// Returns when the database has been idle for half a second: all of them looked and found
/// nothing.
async fn waiting(cluster: &Cluster, number: usize) -> Result<()> {
    let admin = cluster.admin().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let asleep =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'postern_server' AND state = 'active'";
    let mut idle = 0;
    while idle < 10 && Instant::now() < deadline {
        let active: i64 = admin.query_one(asleep, &[]).await?.get(0);
        idle = if active == 0 { idle + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::ensure!(idle == 10, "{number} long-polls do not come to rest");
    Ok(())
}

/// The server's resident memory.
pub fn resident_bytes(server: &Server) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0)
}
