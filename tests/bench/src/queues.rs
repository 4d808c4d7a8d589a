//! The costs of delivery in the database: the SQL function with everything on, compared with the floor
//! (the rows and nothing else) and with the ways of others for the same rows. Also whether
//! many queues are slower than few.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::future::try_join_all;
use postern_tests_kit::Cluster;
use tempfile::NamedTempFile;
use tokio_postgres::Client;

use crate::{
    Options,
    floor::{AS_THE_SERVER, WARM_UP, pgbench},
    median,
};

const FAN_OUTS: [i32; 4] = [1, 10, 100, 1000];
const SENDERS: [usize; 2] = [1, 16];
/// Bytes that sealing adds to the payload, which the rows of the others have, too.
const TAG_LEN: usize = 16;
/// At this fan-out the nearest relative's way is measured: it takes some 800 round trips.
const RELATIVE_AT: i32 = 100;
/// Up to this fan-out the ordinary way is measured in statements, too.
const STATEMENTS_TO: i32 = 10;

/// One way of putting the same rows into the database.
struct Way {
    name: &'static str,
    script: NamedTempFile,
    without_wakeups: bool,
    /// Deliveries per second of each round.
    rates: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, script: &str) -> Result<Self> {
        let mut file = NamedTempFile::new()?;
        writeln!(file, "{script}")?;
        Ok(Self { name, script: file, without_wakeups: false, rates: Vec::new() })
    }
}

pub async fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin().await;
    admin.batch_execute(include_str!("queues.sql")).await?;
    let largest = FAN_OUTS.iter().max().copied().unwrap_or_default();
    let queues = i64::from(largest) * SENDERS.into_iter().max().unwrap_or_default() as i64;
    make_queues(&admin, 1, queues).await?;
    let senders = SENDERS.into_iter().max().unwrap_or_default() as i32;
    admin.execute("SELECT bench.make_groups($1, $2)", &[&senders, &FAN_OUTS.as_slice()]).await?;
    admin.batch_execute("INSERT INTO bench.queues SELECT queue_id FROM qs.queues").await?;
    admin.batch_execute("VACUUM ANALYZE bench.queues").await?;

    println!(
        "postern.deliver, {} B, {} interleaved rounds of {} s, medians of deliveries/s. Ratios: ours to theirs.\n",
        options.bytes, options.rounds, options.seconds
    );
    println!(
        "| senders | fan-out | ours | (a) floor | ratio | (b) notify each | ratio | (b) in statements | ratio | (c) notify once | ratio | (d) round trips | ratio | ours, no wake-ups | ratio |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for senders in SENDERS {
        for fan_out in FAN_OUTS {
            let mut ways = ways(options, fan_out)?;
            for round in 0..=options.rounds {
                for way in &mut ways {
                    admin.batch_execute("TRUNCATE qs.messages, bench.messages").await?;
                    admin
                        .batch_execute(
                            "UPDATE qs.queues SET acked_seq = next_seq - 1 WHERE acked_seq < next_seq - 1",
                        )
                        .await?;
                    admin.batch_execute("CHECKPOINT").await?;
                    let times = (WARM_UP, options.seconds);
                    let rate = run(cluster, way, senders, times).await? * f64::from(fan_out);
                    // The first round warms up.
                    if round > 0 {
                        way.rates.push(rate);
                    }
                }
            }
            print(senders, fan_out, &ways);
        }
    }
    Ok(())
}

async fn make_queues(admin: &Client, first: i64, last: i64) -> Result<()> {
    admin.execute("SELECT bench.make_queues($1, $2, sha256('owner'))", &[&first, &last]).await?;
    admin.batch_execute("VACUUM ANALYZE qs.queues, qs.addresses").await?;
    Ok(())
}

fn ways(options: &Options, fan_out: i32) -> Result<Vec<Way>> {
    let (bytes, sealed) = (options.bytes, options.bytes + TAG_LEN);
    let ours = format!("SELECT bench.deliver(:client_id, {fan_out}, {bytes});");
    let mut ways = vec![
        Way::new("ours", &ours)?,
        Way::new("floor", &format!("SELECT bench.insert(:client_id, {fan_out}, {sealed});"))?,
        Way::new("notify each", &format!("SELECT bench.ordinary(:client_id, {fan_out}, {sealed}, true);"))?,
        Way::new("notify once", &format!("SELECT bench.ordinary(:client_id, {fan_out}, {sealed}, false);"))?,
        Way { without_wakeups: true, ..Way::new("no wake-ups", &ours)? },
    ];
    if fan_out <= STATEMENTS_TO {
        ways.push(Way::new("statements", &statements(fan_out, sealed))?);
    }
    if fan_out == RELATIVE_AT {
        ways.push(Way::new("round trips", &relative(fan_out, sealed))?);
    }
    Ok(ways)
}

/// (b) as an ordinary server does it: each statement a round trip.
fn statements(fan_out: i32, bytes: usize) -> String {
    let mut script = "BEGIN;\n".to_owned();
    for n in 1..=fan_out {
        let queue = format!("bench.queue(:client_id * {} + {n})", FAN_OUTS[3]);
        let _ = write!(
            script,
            "UPDATE bench.queues SET next_seq = next_seq + 1 WHERE queue_id = {queue} RETURNING next_seq - 1 AS seq \\gset
             INSERT INTO bench.messages (queue_id, seq, chain, chain_index, ciphertext)
             VALUES ({queue}, :seq, 1, 1, bench.payload({bytes}));
             SELECT pg_notify('bench', encode({queue}, 'hex'));
             "
        );
    }
    script.push_str("COMMIT;\n");
    script
}

/// (d): per recipient two look-ups, and a transaction of four statements, each a round trip.
fn relative(fan_out: i32, bytes: usize) -> String {
    let mut script = String::new();
    for n in 1..=fan_out {
        let queue = format!("bench.queue(:client_id * {} + {n})", FAN_OUTS[3]);
        let _ = write!(
            script,
            "SELECT queue_id FROM bench.queues WHERE queue_id = {queue};
             SELECT next_seq FROM bench.queues WHERE queue_id = {queue};
             BEGIN;
             SELECT next_seq AS seq FROM bench.queues WHERE queue_id = {queue} FOR UPDATE \\gset
             INSERT INTO bench.messages (queue_id, seq, chain, chain_index, ciphertext)
             VALUES ({queue}, :seq, 1, 1, bench.payload({bytes}));
             SELECT pg_notify('bench', encode({queue}, 'hex'));
             UPDATE bench.queues SET next_seq = :seq + 1 WHERE queue_id = {queue};
             COMMIT;
             "
        );
    }
    script
}

/// Transactions per second.
async fn run(cluster: &Cluster, way: &Way, senders: usize, times: (u64, u64)) -> Result<f64> {
    let setting = if way.without_wakeups { "off" } else { "on" };
    let options = format!("{AS_THE_SERVER} -c postern.wakeups={setting}");
    pgbench(cluster.socket_dir(), way.script.path(), senders, times, &options).await
}

fn print(senders: usize, fan_out: i32, ways: &[Way]) {
    let rate = |name: &str| {
        let way = ways.iter().find(|way| way.name == name)?;
        Some(median(way.rates.iter().copied()))
    };
    let ours = rate("ours").unwrap_or_default();
    let mut row = format!("| {senders} | {fan_out} | {ours:.0} |");
    for name in ["floor", "notify each", "statements", "notify once", "round trips", "no wake-ups"] {
        let _ = match rate(name) {
            Some(rate) => write!(row, " {rate:.0} | {:.2} |", ours / rate),
            None => write!(row, " | |"),
        };
    }
    println!("{row}");
}

/// Deliveries to 10 of `few` queues and to 10 of `many`, in turns, each in a cluster of its
/// own with room for all their chains.
pub async fn scale(options: &Options, few: i64, many: i64) -> Result<()> {
    const SENDERS: usize = 16;
    // Until each session has mapped the pages of a million queues.
    const WARM_UP: u64 = 30;
    let mut sides = Vec::new();
    for queues in [few, many] {
        let cluster = cluster_of(queues, many).await?;
        let sessions = sessions(&cluster, SENDERS).await?;
        let side = Side { queues, cluster, sessions, rates: Vec::new() };
        side.deliver(options.bytes, WARM_UP).await?;
        sides.push(side);
    }
    for _ in 0..options.rounds {
        for side in &mut sides {
            let rate = side.deliver(options.bytes, options.seconds).await?;
            side.rates.push(rate);
        }
    }
    println!("\nHuge pages: {}.", huge_pages()?);
    println!("\n| queues | deliveries/s to 10 of them, {SENDERS} senders | ratio |\n|--:|--:|--:|");
    let of_few = median(sides[0].rates.iter().copied());
    for Side { queues, rates, .. } in &sides {
        let rate = median(rates.iter().copied());
        println!("| {queues} | {rate:.0} | {:.2} |", rate / of_few);
    }
    Ok(())
}

struct Side {
    queues: i64,
    cluster: Cluster,
    /// They stay, as a server's do.
    sessions: Vec<Client>,
    /// Deliveries per second of each round.
    rates: Vec<f64>,
}

impl Side {
    async fn deliver(&self, bytes: usize, seconds: u64) -> Result<f64> {
        const FAN_OUT: i32 = 10;
        self.cluster.admin().await.batch_execute("TRUNCATE qs.messages").await?;
        let begin = Instant::now();
        let end = begin + Duration::from_secs(seconds);
        let one = async |session: &Client| {
            let statement = session.prepare("SELECT bench.deliver_anywhere($1, $2, $3)").await?;
            let mut calls = 0;
            while Instant::now() < end {
                session.query_one(&statement, &[&self.queues, &FAN_OUT, &(bytes as i32)]).await?;
                calls += 1;
            }
            anyhow::Ok(calls)
        };
        let calls = try_join_all(self.sessions.iter().map(one)).await?;
        let deliveries = calls.into_iter().sum::<i32>() * FAN_OUT;
        Ok(f64::from(deliveries) / begin.elapsed().as_secs_f64())
    }
}

async fn sessions(cluster: &Cluster, number: usize) -> Result<Vec<Client>> {
    let settings = AS_THE_SERVER.replace("-c", ";SET");
    let mut sessions = Vec::new();
    for _ in 0..number {
        let session = cluster.admin().await;
        session.batch_execute(&settings).await?;
        sessions.push(session);
    }
    Ok(sessions)
}

/// Each of the queues has its first message, which starts its chain and binds its address.
async fn cluster_of(queues: i64, room: i64) -> Result<Cluster> {
    let mut cluster = Cluster::start().await;
    // Room for all chains and all pages, and checkpoints minutes apart, as a server of that many has: a page that is
    // written for the first time after a checkpoint goes into the WAL whole.
    let settings = [
        format!("postern.max_chains = {}", 2 * room),
        "shared_buffers = '2GB'".to_owned(),
        "max_wal_size = '16GB'".to_owned(),
    ];
    for setting in settings {
        cluster.admin().await.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    cluster.kill_postgres();
    cluster.restart().await;
    let admin = cluster.admin().await;
    admin.batch_execute(include_str!("queues.sql")).await?;
    for first in (1..=queues).step_by(100_000) {
        make_queues(&admin, first, queues.min(first + 99_999)).await?;
        eprintln!("  {} of {queues} queues", queues.min(first + 99_999));
    }
    let first = "SELECT postern.deliver('example.org', 'bench', array_agg(bench.address(n)),
                                        array_agg(1::smallint), ARRAY['first'::bytea], '{2}')
                   FROM generate_series($1::bigint, $1 + 999) n";
    // A core each.
    let second = cluster.admin().await;
    let all = async |session: &Client, from: i64| {
        for start in (from..=queues).step_by(2000) {
            session.query_one(first, &[&start]).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(all(&admin, 1), all(&second, 1001))?;
    eprintln!("  {queues} chains");
    admin.batch_execute("VACUUM ANALYZE").await?;
    admin.batch_execute("CHECKPOINT").await?;
    Ok(cluster)
}

/// How many this machine has set apart (`vm.nr_hugepages`); PostgreSQL takes them by itself.
fn huge_pages() -> Result<String> {
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|line| line.strip_prefix("HugePages_Total:"));
    Ok(line.unwrap_or("none").trim().to_owned())
}
