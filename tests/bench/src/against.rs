//! Sends through this server and through another program, on one database and in turns: what a change costs, where both know
//! the same SQL functions.

use std::path::Path;

use anyhow::{Context, Result};
use postern_client::{Client, Http};
use postern_tests_kit::{Cluster, Server};

use crate::{EMPTIED, Options, Sends, group::BenchGroup, median, refill, send_round};

pub async fn measure(
    options: &Options,
    program: &Path,
    cluster: &Cluster,
    server: &Server,
    client: &Client,
) -> Result<()> {
    let program = program.canonicalize()?;
    let other = Server::of(program.to_str().context("its path is no text")?, cluster)
        .env("POSTERN_MAX_CONNECTIONS_PER_SOURCE", "1000000")
        .start()
        .await;
    let servers = [server, &other];
    let https = [Http::new(server.url())?, Http::new(other.url())?];
    let admin = cluster.admin().await;
    println!(
        "| members | this: sends/s | server CPU | the other: sends/s | server CPU | ratio of sends/s | of server CPU |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|");
    let (mut tokens, mut per_second) = (Vec::new(), 400);
    for &members in &options.members {
        let mut groups = Vec::new();
        for _ in 0..options.concurrency {
            groups.push(BenchGroup::create(client, members, options.bytes).await?);
        }
        let mut pairs = Vec::new();
        for round in 0..=options.rounds {
            let mut pair = [None, None];
            // Neither of the two always comes first.
            for number in [round % 2, (round + 1) % 2] {
                refill(client, &mut tokens, per_second * 2 * options.seconds as usize).await?;
                admin.batch_execute(EMPTIED).await?;
                let (http, server) = (&https[number], servers[number]);
                let sends = send_round(options, http, &groups, &mut tokens, cluster, server).await?;
                per_second = (sends.per_second as usize).max(100);
                pair[number] = Some(sends);
            }
            // The first pair warms up plans, caches and connections.
            if let [Some(this), Some(that)] = pair
                && round > 0
            {
                pairs.push((this, that));
            }
        }
        let of = |value: &dyn Fn(&(Sends, Sends)) -> f64| median(pairs.iter().map(value));
        println!(
            "| {members} | {:.0} | {:.0} µs | {:.0} | {:.0} µs | {:.2} | {:.2} |",
            of(&|(this, _)| this.per_second),
            of(&|(this, _)| this.costs.server * 1e6),
            of(&|(_, that)| that.per_second),
            of(&|(_, that)| that.costs.server * 1e6),
            of(&|(this, that)| this.per_second / that.per_second),
            of(&|(this, that)| this.costs.server / that.costs.server),
        );
    }
    Ok(())
}
