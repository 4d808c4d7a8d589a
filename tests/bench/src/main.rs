//! `make bench`: what a message costs, measured on this machine in one run, each figure
//! compared with the floor for the same rows: a plain multi-row INSERT through pgbench, without
//! encryption, order, tokens or notification. Rounds of the two are interleaved and
//! medians given, so that ratios hold on a noisy machine where absolute figures do not.
//!
//! Prints Markdown; `docs/benchmarks.md` is made from it.

mod against;
mod attack;
mod backups;
mod bad_neighbours;
mod costs;
mod floor;
mod gate;
mod group;
mod groups;
mod identities;
mod neighbours;
mod pipe;
mod queues;
mod scrape;
mod soak;
mod tokens;
mod waiters;

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use postern_client::{Client, Http, Token};
use postern_tests_kit::{Cluster, Server, lift_limits};

use costs::Costs;
use floor::Floor;
use group::BenchGroup;

/// Measures end-to-end sends, deliveries and wake-ups.
#[derive(Parser)]
struct Options {
    /// Members of the measured groups
    #[arg(long, value_delimiter = ',', default_values_t = [2, 10, 100])]
    members: Vec<usize>,
    /// Rounds of each measurement, interleaved with the floor's
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Senders, each with a group of its own and one request under way; as many connections has the floor
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Wake-ups to measure
    #[arg(long, default_value_t = 300)]
    wakeups: usize,
    /// Measure tokens instead: issuing, redeeming, the check for spent ones, and what all that takes of a send
    #[arg(long)]
    tokens: bool,
    /// Measure what commits and messages cost the DS instead, and where that goes, for groups of --members
    #[arg(long)]
    groups: bool,
    /// Measure messages to a group of another domain through relay and gateway instead, next to direct ones
    #[arg(long)]
    pipe: bool,
    /// Measure messages at home instead, next to neighbours that do not answer as they should, or flood this server
    #[arg(long)]
    bad_neighbours: bool,
    /// Measure delivery in the database instead, while others work with the same rows
    #[arg(long)]
    queues: bool,
    /// Measure few queues next to many instead
    #[arg(long, num_args = 2, value_names = ["FEW", "MANY"])]
    scale: Vec<i64>,
    /// Measure registrations, lookups and commits of identities instead
    #[arg(long)]
    identities: bool,
    /// Measure lookups among few users next to many instead
    #[arg(long, num_args = 2, value_names = ["FEW", "MANY"])]
    users: Vec<i64>,
    /// Measure what so many waiting long-polls cost instead
    #[arg(long, value_name = "N")]
    waiters: Option<usize>,
    /// Measure what metrics cost instead, with so many queues
    #[arg(long, value_name = "QUEUES")]
    scrape: Option<i64>,
    /// Measure an honest client instead, next to attacks
    #[arg(long)]
    attack: bool,
    /// Measure sends through this server and through another program in turns instead, such as a build of before
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Measure deliveries to a neighbour instead, next to those at home, and a backlog of so many after its return
    #[arg(long, value_name = "BACKLOG")]
    neighbours: Option<usize>,
    /// Back a database of so many MiB up instead, and restore it, next to pg_basebackup
    #[arg(long, value_name = "MIB")]
    backup: Option<i64>,
    /// Let two months of messages, rotations and upkeep pass in so many seconds instead; fails if anything grows or
    /// complains
    #[arg(long, value_name = "SECONDS")]
    soak: Option<u64>,
    /// Spent tokens of an issuer key at which to measure the check; three numbers at most, 0 for none at all
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 10_000_000])]
    spent: Vec<i64>,
    /// Bytes of each message's text
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let [few, many] = options.scale[..] {
        return queues::scale(&options, few, many).await;
    }
    if let [few, many] = options.users[..] {
        return identities::scale(&options, few, many).await;
    }
    if let Some(backlog) = options.neighbours {
        return neighbours::measure(&options, backlog).await;
    }
    if let Some(mebibytes) = options.backup {
        return backups::measure(mebibytes).await;
    }
    if options.bad_neighbours {
        return bad_neighbours::measure(&options).await;
    }
    if options.pipe {
        return pipe::measure(&options).await;
    }
    if let Some(seconds) = options.soak {
        return soak::soak(&options, seconds).await;
    }
    let mut cluster = Cluster::start().await;
    if options.groups {
        return groups::measure(&options, &mut cluster).await;
    }
    if options.queues {
        return queues::measure(&options, &cluster).await;
    }
    // All clients come from one source here.
    let mut sending = Server::builder(&cluster).env("POSTERN_MAX_CONNECTIONS_PER_SOURCE", "1000000");
    if options.scrape.is_some() {
        sending = sending.metrics().env("POSTERN_METRICS_COUNT_SECONDS", "1");
    }
    let sending = sending.start().await;
    let receiving = Server::start(&cluster).await;
    let admin = cluster.admin().await;
    lift_limits(&admin).await;
    admin.execute("SELECT operator.set_allowance(2000000000)", &[]).await?;
    for limit in ["'max_delivery_bytes', 2147483647", "'max_members', 5000"] {
        admin.execute(&format!("SELECT operator.set_group_limit({limit})"), &[]).await?;
    }
    let directory = tempfile::tempdir()?;
    let client = Client::register(&directory.path().join("bench"), sending.url(), "bench").await?;

    if let Some(waiters) = options.waiters {
        return waiters::measure(&options, waiters, &cluster, &sending, &client).await;
    }
    if let Some(queues) = options.scrape {
        return scrape::measure(&options, queues, &cluster, &sending, &client).await;
    }
    if options.identities {
        return identities::measure(&options, &cluster, &sending, &client).await;
    }
    if options.attack {
        return attack::measure(&options, &cluster, &sending, &client).await;
    }
    if let Some(program) = &options.against {
        return against::measure(&options, program, &cluster, &sending, &client).await;
    }
    if options.tokens {
        tokens::measure(&options, &cluster, &client).await?;
        return gate::measure(&options, &cluster, &sending, &client).await;
    }
    eprintln!("groups of {:?}, {} rounds of {} s", options.members, options.rounds, options.seconds);
    println!("{}\n", costs::machine());
    println!(
        "{} B of text, {} senders in as many groups, {} interleaved rounds of {} s, medians.\n",
        options.bytes, options.concurrency, options.rounds, options.seconds
    );
    println!(
        "| members | sends/s | deliveries/s | floor: rows/s | ratio | client CPU | server CPU | database CPU | WAL flushes | WAL |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let (mut tokens, mut groups) = (Vec::new(), Vec::new());
    let mut per_second = 400;
    for &members in &options.members {
        // One for each sender: deliveries to one queue wait for each other's commit.
        groups.clear();
        for _ in 0..options.concurrency {
            groups.push(BenchGroup::create(&client, members, options.bytes).await?);
        }
        let floor = Floor::prepare(&cluster, members - 1, options.bytes).await?;
        let mut rounds = Vec::new();
        for round in 0..=options.rounds {
            refill(&client, &mut tokens, per_second * 2 * options.seconds as usize).await?;
            admin.batch_execute(EMPTIED).await?;
            let sends = send_round(&options, client.http(), &groups, &mut tokens, &cluster, &sending).await?;
            per_second = (sends.per_second as usize).max(100);
            let floor_rows = floor.round(options.concurrency, options.seconds).await?;
            // The first round warms up plans, caches and connections.
            if round > 0 {
                rounds.push((sends, floor_rows));
            }
            eprintln!(
                "  {members} members, round {round}: {:.0} sends/s, floor {floor_rows:.0} rows/s",
                rounds.last().map_or(0.0, |(sends, _)| sends.per_second)
            );
        }
        print_row(members, &rounds);
    }
    // Each takes some 30 ms, and as long again at most under load.
    let seconds = options.wakeups / 15 + 1;
    refill(&client, &mut tokens, 4 * options.wakeups + 2 * per_second * seconds).await?;
    wakeups(&options, &client, tokens, &receiving, &groups).await
}

/// Leaves nothing of the round before, so that each has as much to do.
const EMPTIED: &str =
    "TRUNCATE qs.messages, aas.spent; UPDATE qs.queues SET acked_seq = next_seq - 1; CHECKPOINT";

/// One round of sends.
struct Sends {
    per_second: f64,
    costs: Costs,
}

async fn send_round(
    options: &Options,
    http: &Http,
    groups: &[BenchGroup],
    tokens: &mut Vec<Token>,
    cluster: &Cluster,
    server: &Server,
) -> Result<Sends> {
    let before = Costs::read(cluster, server).await?;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(options.seconds);
    let sent = AtomicUsize::new(0);
    let (hand_out, take) = std::sync::mpsc::channel();
    tokens.drain(..).try_for_each(|token| hand_out.send(token))?;
    drop(hand_out);
    let take = Mutex::new(take);
    let sender = async |group: &BenchGroup| {
        while Instant::now() < deadline {
            // Without tokens the round ends early.
            let Ok(token) = take.lock().expect("nobody panics here").recv() else { break };
            http.send_once(&group.message.clone().paid_with(token)).await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let senders = groups.iter().map(sender);
    futures_util::future::try_join_all(senders).await?;
    let elapsed = started.elapsed().as_secs_f64();
    let sent = sent.into_inner();
    let costs = Costs::read(cluster, server).await?.since(&before).per(sent);
    tokens.extend(take.into_inner().expect("nobody panics here"));
    Ok(Sends { per_second: sent as f64 / elapsed, costs })
}

fn print_row(members: usize, rounds: &[(Sends, f64)]) {
    let fan_out = (members - 1) as f64;
    let of = |value: &dyn Fn(&(Sends, f64)) -> f64| median(rounds.iter().map(value));
    println!(
        "| {members} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} µs | {:.0} µs | {:.0} µs | {:.2} | {:.1} kB |",
        of(&|(sends, _)| sends.per_second),
        of(&|(sends, _)| sends.per_second * fan_out),
        of(&|(_, floor)| *floor),
        of(&|(sends, floor)| sends.per_second * fan_out / floor),
        of(&|(sends, _)| sends.costs.client * 1e6),
        of(&|(sends, _)| sends.costs.server * 1e6),
        of(&|(sends, _)| sends.costs.database * 1e6),
        of(&|(sends, _)| sends.costs.flushes),
        of(&|(sends, _)| sends.costs.wal / 1e3),
    );
}

/// Idle, and while others send as fast as they can.
async fn wakeups(
    options: &Options,
    client: &Client,
    tokens: Vec<Token>,
    receiving: &Server,
    others: &[BenchGroup],
) -> Result<()> {
    let group = BenchGroup::create(client, 2, options.bytes).await?;
    let tokens = Mutex::new(tokens);
    let idle = woken(options, client, &tokens, receiving, &group, 1).await?;
    let (done, sent, started) = (AtomicBool::new(false), AtomicUsize::new(0), Instant::now());
    let load = async |group: &BenchGroup| {
        while !done.load(Ordering::Relaxed) {
            client.http().send_once(&group.message.clone().paid_with(take(&tokens)?)).await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let measured = async {
        let measured = woken(options, client, &tokens, receiving, &group, 1 + options.wakeups as u64).await;
        done.store(true, Ordering::Relaxed);
        measured
    };
    let load = futures_util::future::try_join_all(others.iter().map(load));
    let (busy, _) = tokio::try_join!(measured, load)?;
    let per_second = sent.into_inner() as f64 / started.elapsed().as_secs_f64();

    println!("\n| wake-up across two processes | p50 | p99 |\n|---|--:|--:|");
    let busy_name = format!("while {} others send {per_second:.0}/s", others.len());
    for (when, times) in [("idle", idle), (&busy_name, busy)] {
        for (name, mut times) in
            [("from sending to receiving", times.0), ("from the sender's answer to receiving", times.1)]
        {
            times.sort_unstable();
            let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
            println!("| {when}: {name} | {:.2} ms | {:.2} ms |", at(50), at(99));
        }
    }
    Ok(())
}

/// A waiter on one process, a sender through the other, one message at a time, from the
/// queue's message `first` on: how long from sending, and from the sender's answer, to receiving.
async fn woken(
    options: &Options,
    client: &Client,
    tokens: &Mutex<Vec<Token>>,
    receiving: &Server,
    group: &BenchGroup,
    first: u64,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let member = group.members.first().context("a group of two has a member besides its creator")?;
    let there = Http::new(receiving.url())?;
    let mut after_accept = Vec::new();
    let mut end_to_end = Vec::new();
    // The first message in the member's queue is its Welcome.
    for seq in first..first + options.wakeups as u64 {
        let waiting = member.dequeue(seq).paid_with(take(tokens)?);
        let there = there.clone();
        let waiter = tokio::spawn(async move {
            there.send_once(&waiting).await?;
            anyhow::Ok(Instant::now())
        });
        // Long enough for the waiter to wait: its first looks find nothing.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let message = group.message.clone().paid_with(take(tokens)?);
        let sent = Instant::now();
        client.http().send_once(&message).await?;
        let accepted = Instant::now();
        let received = waiter.await??;
        after_accept.push(received.saturating_duration_since(accepted));
        end_to_end.push(received - sent);
    }
    Ok((end_to_end, after_accept))
}

fn take(tokens: &Mutex<Vec<Token>>) -> Result<Token> {
    tokens.lock().expect("nobody panics here").pop().context("out of tokens")
}

async fn refill(client: &Client, tokens: &mut Vec<Token>, number: usize) -> Result<()> {
    while tokens.len() < number {
        tokens.push(client.wallet().take().await?);
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
