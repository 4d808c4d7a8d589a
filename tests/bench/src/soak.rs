//! `--soak`: two months pass in minutes. Messages are sent, paid for and acknowledged steadily by whole groups, people talk
//! with the client library, keys rotate, what is over is removed, and tables are vacuumed. What comes and goes must not
//! make anything grow (QS-8, OPS-10): tables, WAL, the memory of server and database. And no log complains.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use postern_client::{Client, Request, Response};
use postern_protocol::qs::Dequeued;
use postern_tests_kit::{MovedClock, World, befriend, joined};
use tokio::{
    sync::RwLock,
    time::{interval, sleep},
};

use crate::{
    Options, costs,
    group::{BenchGroup, BenchMember},
};

/// The calendar's days that pass. Issuer keys rotate each week of them, and their spent tokens go after eleven days.
const DAYS: i64 = 60;
const LEAPS_A_DAY: i64 = 4;
const DAYS_A_ROW: i64 = 4;
/// Pause of each reader that finds nothing, and between two steps of a person.
const PAUSE: Duration = Duration::from_millis(500);
/// Members of each group.
const MEMBERS: usize = 10;
/// People who talk, half of them to the other half.
const PEOPLE: usize = 4;
/// Share of the second third by which the last may be larger.
const GROWTH: f64 = 1.2;
/// The figures, each with the megabytes that are noise: a few pages of a small table, segments of WAL, what an allocator
/// keeps. They are small beside the figures themselves (docs/benchmarks.md), so that each can fail.
const MEASURED: [Measured; 7] = [
    Measured { name: "messages", noise: 4.0, is_of_load: true },
    Measured { name: "queues", noise: 0.25, is_of_load: false },
    Measured { name: "spent tokens", noise: 0.5, is_of_load: true },
    Measured { name: "other tables", noise: 1.0, is_of_load: false },
    Measured { name: "WAL", noise: 48.0, is_of_load: true },
    Measured { name: "server memory", noise: 3.0, is_of_load: false },
    Measured { name: "PostgreSQL memory", noise: 16.0, is_of_load: false },
];

/// A figure that is measured.
struct Measured {
    name: &'static str,
    /// Megabytes that are noise.
    noise: f64,
    /// Whether it is larger with more deliveries on the way: on a machine that did other work before, more come later.
    is_of_load: bool,
}

/// One measurement.
#[derive(Clone, Copy)]
struct Row {
    /// The deliveries until then.
    delivered: u64,
    megabytes: [f64; MEASURED.len()],
}

/// The load, and its way through the calendar.
struct Soak<'a> {
    world: &'a World,
    clock: &'a MovedClock,
    /// It pays for the groups.
    payer: Client,
    /// Held for reading during a request: the calendar leaps between requests, or their signatures would be stale.
    calendar: RwLock<()>,
    deadline: Instant,
    delivered: AtomicU64,
    said: AtomicU64,
}

pub async fn soak(options: &Options, seconds: u64) -> Result<()> {
    let Some(clock) = MovedClock::enter_program() else { return Ok(()) };
    let world =
        World::builder().by(&clock).setting("POSTERN_MAX_CONNECTIONS_PER_SOURCE", "1000000").start().await;
    let limits = "SELECT operator.set_allowance(2000000000), operator.set_key_rotation(10, 3, 1),
                         operator.rotate_issuer_keys()";
    world.admin.batch_execute(limits).await?;
    let payer = world.person("payer").await;
    let mut groups = Vec::new();
    for _ in 0..options.concurrency {
        groups.push(BenchGroup::create(&payer, MEMBERS, options.bytes).await?);
    }
    let mut pairs = Vec::new();
    for number in 0..PEOPLE / 2 {
        let (one, other) =
            (world.person(&format!("one-{number}")).await, world.person(&format!("other-{number}")).await);
        let group = one.create_group("soak").await?.id().clone();
        befriend(&one, &other, &group).await;
        joined(&other, 1).await;
        pairs.push((one, other, group));
    }
    println!("{}\n", costs::machine());
    println!(
        "{DAYS} days in {seconds} s. {} B of text, {} groups of {MEMBERS}, each with a sender; each member fetches and acknowledges every {} ms, and {PEOPLE} people talk. Each request is paid.\n",
        options.bytes,
        options.concurrency,
        PAUSE.as_millis()
    );
    println!("| day | deliveries | said | {} |", MEASURED.map(|measured| measured.name).join(" | "));
    println!("|--:|--:|--:|{}", "--:|".repeat(MEASURED.len()));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (delivered, said) = (AtomicU64::new(0), AtomicU64::new(0));
    let soak =
        Soak { world: &world, clock: &clock, payer, calendar: RwLock::new(()), deadline, delivered, said };
    let senders = groups.iter().map(|group| soak.send(group));
    let readers = groups.iter().flat_map(|group| &group.members).map(|member| soak.read(member));
    let talks = pairs.iter().map(|(one, other, group)| async {
        let (from, to) = (one.group_with_id(group), other.group_with_id(group));
        while soak.goes_on() {
            {
                let _between = soak.calendar.read().await;
                from.send("a question").await?;
                other.sync(Duration::ZERO).await?;
                to.send("an answer").await?;
                one.sync(Duration::ZERO).await?;
            }
            soak.said.fetch_add(2, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
        anyhow::Ok(())
    });
    let (_, _, _, rows) = tokio::try_join!(
        try_join_all(senders),
        try_join_all(readers),
        try_join_all(talks),
        soak.pass(seconds)
    )?;
    soak.judge(&rows)
}

impl Soak<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.deadline
    }

    async fn pay(&self, request: Request) -> Result<Response> {
        let _between = self.calendar.read().await;
        let token = self.payer.wallet().take().await?;
        Ok(self.payer.http().send_once(&request.paid_with(token)).await?)
    }

    async fn send(&self, group: &BenchGroup) -> Result<()> {
        while self.goes_on() {
            self.pay(group.message.clone()).await?;
            self.delivered.fetch_add(group.members.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Fetches until nothing is left, acknowledging what came before, then rests.
    async fn read(&self, member: &BenchMember) -> Result<()> {
        let mut after = 0;
        while self.goes_on() {
            let dequeued: Dequeued = self.pay(member.fetch(after)).await?.decode()?;
            match dequeued.messages.last() {
                Some(last) => after = last.seq,
                None => sleep(PAUSE).await,
            }
        }
        Ok(())
    }

    /// Lets the days pass, and prints a row every few of them; returns them.
    async fn pass(&self, seconds: u64) -> Result<Vec<Row>> {
        let leaps = DAYS * LEAPS_A_DAY;
        let mut ticks = interval(Duration::from_secs(seconds) / leaps as u32);
        let mut rows = Vec::new();
        for leap in 1..=leaps {
            ticks.tick().await;
            {
                let _alone = self.calendar.write().await;
                self.clock.move_to(leap * 24 * 60 * 60 / LEAPS_A_DAY);
            }
            if leap % (DAYS_A_ROW * LEAPS_A_DAY) == 0 {
                // PostgreSQL's own checkpoints come by a clock that does not leap.
                self.world.admin.batch_execute("CHECKPOINT").await?;
                let row = self.measure().await?;
                let figures = row.megabytes.map(|megabytes| format!("{megabytes:.1} MB"));
                println!(
                    "| {} | {} | {} | {} |",
                    leap / LEAPS_A_DAY,
                    row.delivered,
                    self.said.load(Ordering::Relaxed),
                    figures.join(" | ")
                );
                rows.push(row);
            }
        }
        Ok(rows)
    }

    async fn measure(&self) -> Result<Row> {
        let row = self
            .world
            .admin
            .query_one(
                "WITH sizes AS (
                     SELECT c.oid::regclass::text AS name, pg_total_relation_size(c.oid) AS bytes
                       FROM pg_class c WHERE c.relkind = 'r'
                 )
                 SELECT sum(bytes) FILTER (WHERE name = 'qs.messages'), sum(bytes) FILTER (WHERE name = 'qs.queues'),
                        coalesce(sum(bytes) FILTER (WHERE name LIKE 'aas.spent%'), 0),
                        sum(bytes) FILTER (WHERE name NOT IN ('qs.messages', 'qs.queues') AND name NOT LIKE 'aas.spent%'),
                        (SELECT sum(size)::float8 FROM pg_ls_waldir())
                   FROM (SELECT name, bytes::float8 FROM sizes) s",
                &[],
            )
            .await?;
        let postmaster = self.world.cluster.postmaster().context("PostgreSQL runs")?;
        let sessions: f64 =
            children(postmaster)?.iter().map(|pid| own_memory(*pid).unwrap_or_default()).sum();
        let server = own_memory(self.world.server().pid())?;
        let [messages, queues, spent, others, wal]: [f64; 5] = std::array::from_fn(|column| row.get(column));
        let bytes = [messages, queues, spent, others, wal, server, sessions];
        let delivered = self.delivered.load(Ordering::Relaxed);
        Ok(Row { delivered, megabytes: bytes.map(|bytes| bytes / 1e6) })
    }

    /// Fails if a figure is larger in the last third than in the second, or if a log complains.
    fn judge(&self, rows: &[Row]) -> Result<()> {
        println!();
        let growing = growing(rows);
        let server = self.world.server().log();
        let postgres = self.world.cluster.log();
        let complaints =
            server.lines().filter(|line| ["WARN", "ERROR"].iter().any(|word| line.contains(word)));
        let levels = ["WARNING:", "ERROR:", "FATAL:", "PANIC:"];
        let complaints = complaints
            .chain(postgres.lines().filter(|line| levels.iter().any(|level| line.contains(level))))
            .collect::<Vec<_>>();
        println!("Complaints in the logs: {}.", complaints.len());
        for complaint in complaints.iter().take(20) {
            println!("    {complaint}");
        }
        ensure!(growing.is_empty(), "these grow: {}", growing.join(", "));
        ensure!(complaints.is_empty(), "a log complains");
        Ok(())
    }
}

/// The figures that are larger in the last third than in the second, by more than noise, and than more load makes them.
fn growing(rows: &[Row]) -> Vec<&'static str> {
    let third = rows.len() / 3;
    let (second, last) = (&rows[third..2 * third], &rows[2 * third..]);
    let deliveries = |from: &Row, until: &Row| (until.delivered - from.delivered) as f64;
    let busier = deliveries(&rows[2 * third - 1], &rows[3 * third - 1])
        / deliveries(&rows[third - 1], &rows[2 * third - 1]).max(1.0);
    println!("Deliveries in the last third: {busier:.2} times those in the second.");
    let mut growing = Vec::new();
    for (figure, Measured { name, noise, is_of_load }) in MEASURED.into_iter().enumerate() {
        let largest = |rows: &[Row]| rows.iter().map(|row| row.megabytes[figure]).fold(0.0, f64::max);
        let (before, after) = (largest(second), largest(last));
        let load = if is_of_load { busier.max(1.0) } else { 1.0 };
        let most = before * GROWTH * load + noise;
        println!(
            "{name}: {after:.1} MB at most in the last third, {before:.1} MB in the second, {most:.1} MB allowed."
        );
        if after > most {
            growing.push(name);
        }
    }
    growing
}

/// The memory in bytes that a process shares with nobody.
fn own_memory(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("it has memory")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0)
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures as they were measured.
    const STEADY: [f64; MEASURED.len()] = [9.7, 0.1, 1.0, 14.9, 96.0, 13.7, 162.3];

    /// Rows with the deliveries that came in each, and with figures.
    fn rows(delivered: impl Fn(u64) -> u64, megabytes: impl Fn(u64) -> [f64; MEASURED.len()]) -> Vec<Row> {
        let mut sum = 0;
        let row = |number: u64| {
            sum += delivered(number);
            Row { delivered: sum, megabytes: megabytes(number) }
        };
        (0..u64::try_from(DAYS / DAYS_A_ROW).unwrap()).map(row).collect()
    }

    #[test]
    fn each_figure_fails_that_grows_and_none_that_stays() {
        assert!(growing(&rows(|_| 1000, |_| STEADY)).is_empty());
        for (figure, Measured { name, .. }) in MEASURED.into_iter().enumerate() {
            // As of what never goes: as much comes every day.
            let megabytes = |number: u64| {
                let mut megabytes = STEADY;
                megabytes[figure] *= (number + 1) as f64;
                megabytes
            };
            assert_eq!(growing(&rows(|_| 1000, megabytes)), [name]);
        }
    }

    #[test]
    fn what_messages_pass_through_may_hold_more_while_more_come() {
        let later = |number: u64| if number < 10 { 1 } else { 4 };
        let megabytes = |number: u64| STEADY.map(|megabytes| megabytes * later(number) as f64);
        let expected: Vec<_> =
            MEASURED.iter().filter(|measured| !measured.is_of_load).map(|measured| measured.name).collect();
        assert_eq!(growing(&rows(|number| 1000 * later(number), megabytes)), expected);
    }
}
