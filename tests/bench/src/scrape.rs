//! The costs of metrics: a scrape, with figures that are held and with new ones, with few queues and with many; the sends
//! next to a scrape every second; and what counting adds to a request.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::Result;
use postern_client::Client;
use postern_protocol::key::SigningKey;
use postern_server::metrics::{Counters, Durations};
use postern_tests_kit::{Cluster, Server};

use crate::{Options, costs::Costs, group::BenchGroup, median, refill, send_round};

/// Longer than figures hold.
const STALE: Duration = Duration::from_secs(6);
/// Scrapes of figures that are held, in a round.
const SCRAPES: usize = 50;
const MEMBERS: usize = 11;
/// Requests that are counted to measure one.
const COUNTED: u32 = 1_000_000;

pub async fn measure(
    options: &Options,
    many: i64,
    cluster: &Cluster,
    server: &Server,
    client: &Client,
) -> Result<()> {
    let admin = cluster.admin().await;
    admin.batch_execute(include_str!("queues.sql")).await?;
    let key = SigningKey::generate().public_key();
    println!(
        "| queues | bytes | held: time | server CPU | database CPU | new: time | server CPU | database CPU |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut made = 0;
    for queues in [1000, many] {
        let make = "SELECT bench.make_queues($1, $2, $3)";
        admin.execute(make, &[&(made + 1), &queues, &key.as_bytes().as_slice()]).await?;
        admin.batch_execute("VACUUM ANALYZE").await?;
        made = queues;
        let (mut held, mut new, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..options.rounds {
            tokio::time::sleep(STALE).await;
            let before = Costs::read(cluster, server).await?;
            let begun = Instant::now();
            bytes = server.metrics().await.len();
            let time = begun.elapsed();
            // The count goes on, if it took longer than a scrape waits.
            tokio::time::sleep(Duration::from_secs(2)).await;
            new.push((time, Costs::read(cluster, server).await?.since(&before)));
            let before = Costs::read(cluster, server).await?;
            let begun = Instant::now();
            for _ in 0..SCRAPES {
                server.metrics().await;
            }
            let time = begun.elapsed() / u32::try_from(SCRAPES)?;
            held.push((time, Costs::read(cluster, server).await?.since(&before).per(SCRAPES)));
        }
        let of = |rounds: &[(Duration, Costs)], value: &dyn Fn(&(Duration, Costs)) -> f64| {
            median(rounds.iter().map(value))
        };
        let columns = |rounds: &[(Duration, Costs)]| {
            format!(
                "{:.1} ms | {:.2} ms | {:.1} ms",
                of(rounds, &|(time, _)| time.as_secs_f64() * 1e3),
                of(rounds, &|(_, costs)| costs.server * 1e3),
                of(rounds, &|(_, costs)| costs.database * 1e3),
            )
        };
        println!("| {queues} | {bytes} | {} | {} |", columns(&held), columns(&new));
    }

    let mut groups = Vec::new();
    for _ in 0..options.concurrency {
        groups.push(BenchGroup::create(client, MEMBERS, options.bytes).await?);
    }
    let (mut tokens, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        refill(client, &mut tokens, 12_000 * options.seconds as usize).await?;
        let alone =
            send_round(options, client.http(), &groups, &mut tokens, cluster, server).await?.per_second;
        let scraping = async {
            loop {
                black_box(server.metrics().await);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let beside = tokio::select! {
            sends = send_round(options, client.http(), &groups, &mut tokens, cluster, server) => sends?.per_second,
            () = scraping => unreachable!("it never ends"),
        };
        if round > 0 {
            without.push(alone);
            with.push(beside);
        }
    }
    let (without, with) = (median(without.into_iter()), median(with.into_iter()));
    println!("\n| scrapes | sends/s | ratio |\n|---|--:|--:|");
    println!("| none | {without:.0} | |\n| one every second | {with:.0} | {:.2} |", with / without);

    let (requests, durations) =
        (Counters::new(["method", "route", "via", "outcome"]), Durations::new(["method", "route"]));
    let begun = Instant::now();
    for _ in 0..COUNTED {
        let route = black_box("/ds/groups/{group_id}/messages");
        let request = Instant::now();
        requests.add(["POST".into(), route.into(), "connection".into(), "ok".into()], 1);
        durations.add_since(["POST".into(), route.into()], request);
    }
    let each = begun.elapsed().as_secs_f64() / f64::from(COUNTED) * 1e9;
    println!("\nCounting a request takes {each:.0} ns.");
    Ok(())
}
