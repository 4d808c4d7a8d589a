//! The costs of members at another homeserver (FED-4, FED-6): deliveries to the queues of a neighbour on the same machine,
//! next to deliveries to the own ones in the same run; the time to get there; a backlog after the neighbour's return, and
//! what it does to messages at home.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use postern_tests_kit::{Call, Commit, Group, Member, Neighbours, World, eventually};
use tokio::time::sleep;

use super::{Options, costs, median};

/// Groups that send at once, unless each has hundreds of members.
const SENDERS: usize = 8;
/// Messages whose time to the remote queue is measured, idle and under load.
const TIMES: usize = 100;

/// A group whose first member sends, with some members here and some at the neighbour's; nobody plays them.
pub struct Talk {
    /// The message, signed and ready but for its token: the server takes the same one any number of times.
    message: Call,
    there: Vec<Member>,
}

impl Talk {
    pub async fn start(neighbours: &Neighbours, here: usize, there: usize, bytes: usize) -> Self {
        let mut group: Group = neighbours[0].group(1).await;
        let mut members = Vec::new();
        for (domain, number) in [(0, here), (1, there)] {
            for _ in 0..number {
                members.push((domain, neighbours[domain].candidate().await));
            }
        }
        let add = members.iter().map(|(_, member)| member.party.key_package()).collect();
        let (_, call) = group.make(0, Commit { add, ..Commit::default() });
        neighbours[0].pay(&call).await.assert_ok("adding members");
        group.party(0).merge();
        let said = group.party(0).say(&vec![b'x'; bytes]);
        let message = group.submit(0, &said, None);
        let there =
            members.into_iter().filter(|(domain, _)| *domain == 1).map(|(_, member)| member).collect();
        Self { message, there }
    }

    pub async fn send(&self, world: &World) {
        world.pay(&self.message).await.assert_ok("a message");
    }
}

/// Waits until nothing waits for other domains.
async fn drained(world: &World) {
    loop {
        if world.count("federation.outbox").await == 0 {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

pub async fn measure(options: &Options, backlog: usize) -> Result<()> {
    let neighbours = Neighbours::builder()
        .tokens(1000)
        .setting("POSTERN_MAX_CONNECTIONS_PER_SOURCE", "1000000")
        .start()
        .await;
    for world in &neighbours.worlds {
        for what in [
            "set_allowance(2000000000)",
            "set_group_limit('max_delivery_bytes', 2147483647)",
            "set_group_limit('max_members', 5000)",
            "set_federation_limit('outbox_mib', 100000)",
        ] {
            world.admin.execute(&format!("SELECT operator.{what}"), &[]).await?;
        }
        world.restock(20_000).await;
    }
    println!("{}\n", costs::machine());
    deliveries(options, &neighbours).await?;
    times(options, &neighbours).await?;
    sizes(options, &neighbours).await?;
    after_return(options, &neighbours, backlog).await
}

/// Deliveries per second to queues here and at the neighbour's, in interleaved rounds.
async fn deliveries(options: &Options, neighbours: &Neighbours) -> Result<()> {
    println!(
        "| members, half of them remote | all local: sends/s | deliveries/s | half remote: sends/s | remote deliveries/s, until the last is there | ratio |"
    );
    println!("|--:|--:|--:|--:|--:|--:|");
    for &members in &options.members {
        let groups = (400 / members).clamp(1, SENDERS);
        let (mut local, mut half) = (Vec::new(), Vec::new());
        for _ in 0..groups {
            neighbours[0].restock(20_000 + 10 * members).await;
            neighbours[1].restock(10 * members).await;
            local.push(Talk::start(neighbours, members - 1, 0, options.bytes).await);
            half.push(Talk::start(neighbours, members - 1 - members / 2, members / 2, options.bytes).await);
        }
        drained(&neighbours[0]).await;
        let mut rounds = Vec::new();
        for round in 0..=options.rounds {
            neighbours[0].restock(20_000).await;
            let at_home = send_round(options, &neighbours[0], &local).await;
            let apart = send_round(options, &neighbours[0], &half).await;
            if round > 0 {
                rounds.push((at_home, apart));
            }
        }
        let of = |value: &dyn Fn(&(Sent, Sent)) -> f64| median(rounds.iter().map(value));
        let (fan_out, remote) = ((members - 1) as f64, (members / 2) as f64);
        println!(
            "| {members} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
            of(&|(local, _)| local.number / local.sending),
            of(&|(local, _)| local.number * fan_out / local.sending),
            of(&|(_, half)| half.number / half.sending),
            of(&|(_, half)| half.number * remote / half.draining),
            of(&|(local, half)| (half.number * remote / half.draining)
                / (local.number * fan_out / local.sending)),
        );
    }
    Ok(())
}

/// A round of sends.
struct Sent {
    number: f64,
    /// Seconds until the last was accepted, and until the last was where it goes.
    sending: f64,
    draining: f64,
}

async fn send_round(options: &Options, world: &World, talks: &[Talk]) -> Sent {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(options.seconds);
    let sender = async |talk: &Talk| {
        let mut sent = 0;
        while Instant::now() < deadline {
            talk.send(world).await;
            sent += 1;
        }
        sent
    };
    let sent: Vec<usize> = futures_util::future::join_all(talks.iter().map(sender)).await;
    let sending = started.elapsed().as_secs_f64();
    drained(world).await;
    let draining = started.elapsed().as_secs_f64();
    Sent { number: sent.iter().sum::<usize>() as f64, sending, draining }
}

/// The time from the sender's answer until the reader at the neighbour's has the message.
async fn times(options: &Options, neighbours: &Neighbours) -> Result<()> {
    let mut talk = Talk::start(neighbours, 0, 1, options.bytes).await;
    let mut others = Vec::new();
    for _ in 0..SENDERS {
        others.push(Talk::start(neighbours, 0, 1, options.bytes).await);
    }
    drained(&neighbours[0]).await;
    neighbours[0].restock(20_000).await;
    neighbours[1].restock(1000).await;
    let idle = arrivals(neighbours, &mut talk).await?;
    let busy = {
        let load = async {
            let send = async |other: &Talk| loop {
                other.send(&neighbours[0]).await;
            };
            futures_util::future::join_all(others.iter().map(send)).await;
        };
        tokio::select! {
            measured = arrivals(neighbours, &mut talk) => measured?,
            () = load => unreachable!("it sends for ever"),
        }
    };
    println!("\n| from the sender's answer to the reader at the neighbour's | p50 | p99 |\n|---|--:|--:|");
    for (when, mut times) in [("idle".to_owned(), idle), (format!("while {SENDERS} others send"), busy)] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        println!("| {when} | {:.1} ms | {:.1} ms |", at(50), at(99));
    }
    drained(&neighbours[0]).await;
    Ok(())
}

async fn arrivals(neighbours: &Neighbours, talk: &mut Talk) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let reader = talk.there.first_mut().context("there is a reader")?;
        // The first time, its Welcome is there.
        neighbours[1].read(&mut reader.mailbox).await;
        let waiting = neighbours[1].paid(reader.mailbox.waiting(30)).wire();
        let way = neighbours[1].way(0);
        let waiter = tokio::spawn(async move {
            way.send(&waiting).await.assert_ok("a long-poll");
            Instant::now()
        });
        sleep(Duration::from_millis(20)).await;
        talk.send(&neighbours[0]).await;
        let accepted = Instant::now();
        times.push(waiter.await?.saturating_duration_since(accepted));
    }
    Ok(times)
}

/// The size in the outbox of a message for 999 members at the neighbour's.
async fn sizes(options: &Options, neighbours: &Neighbours) -> Result<()> {
    neighbours[1].restock(5000).await;
    let talk = Talk::start(neighbours, 0, 999, options.bytes).await;
    drained(&neighbours[0]).await;
    neighbours[1].server().signal(Signal::SIGSTOP);
    talk.send(&neighbours[0]).await;
    let sql = "SELECT octet_length(sealed) FROM federation.outbox";
    let bytes: i32 = neighbours[0].value(sql).await;
    neighbours[1].server().signal(Signal::SIGCONT);
    neighbours[0].admin.execute("SELECT operator.retry_now('b.example')", &[]).await?;
    drained(&neighbours[0]).await;
    println!(
        "\nA message with {} B of text for 999 members at the neighbour's takes {:.1} kB in the outbox.",
        options.bytes,
        f64::from(bytes) / 1e3
    );
    Ok(())
}

/// A backlog, and messages at home while it goes.
async fn after_return(options: &Options, neighbours: &Neighbours, backlog: usize) -> Result<()> {
    let (here, there) = (&neighbours[0], &neighbours[1]);
    let home = Talk::start(neighbours, 9, 0, options.bytes).await;
    let mut talks = Vec::new();
    for _ in 0..SENDERS {
        talks.push(Talk::start(neighbours, 0, 1, options.bytes).await);
    }
    drained(here).await;
    here.restock(backlog + 20_000).await;
    there.server().signal(Signal::SIGSTOP);
    let send = async |talk: &Talk| {
        for _ in 0..backlog / SENDERS {
            talk.send(here).await;
        }
    };
    futures_util::future::join_all(talks.iter().map(send)).await;
    let waiting = here.count("federation.outbox").await;
    let before = latencies(here, &home, async || sleep(Duration::from_secs(5)).await).await;
    there.server().signal(Signal::SIGCONT);
    eventually("the neighbour answers", async || {
        there.way(0).send(&Call::get("/ready").wire()).await.status.is_success().then_some(())
    })
    .await;
    here.admin.execute("SELECT operator.retry_now('b.example')", &[]).await?;
    let returned = Instant::now();
    let meanwhile = latencies(here, &home, async || drained(here).await).await;
    let seconds = returned.elapsed().as_secs_f64();
    println!(
        "\nA backlog of {waiting} is gone {seconds:.1} s after the neighbour's return ({:.0}/s).",
        waiting as f64 / seconds
    );
    println!("\n| a message to 10 members at home | p50 | p99 |\n|---|--:|--:|");
    for (when, mut times) in [("while the neighbour is away", before), ("while the backlog goes", meanwhile)]
    {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        println!("| {when} | {:.1} ms | {:.1} ms |", at(50), at(99));
    }
    Ok(())
}

/// How long messages at home take, one after the other, until something is done.
async fn latencies(world: &World, talk: &Talk, until: impl AsyncFnOnce()) -> Vec<Duration> {
    let mut times = Vec::new();
    let send = async {
        loop {
            let started = Instant::now();
            talk.send(world).await;
            times.push(started.elapsed());
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = until() => {}
        () = send => unreachable!("it sends for ever"),
    }
    times
}
