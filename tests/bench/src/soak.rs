//! `--soak`: messages are sent and acknowledged steadily for minutes, and the tables of the
//! mailboxes are measured meanwhile. What comes and goes must not make them grow (QS-8).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use postern_client::{Client, Token};
use postern_protocol::qs::Dequeued;
use postern_tests_kit::Cluster;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    Options,
    group::{BenchGroup, BenchMember},
};

/// How often each reader comes.
const READING: Duration = Duration::from_millis(500);
/// How often the tables are measured.
const MEASURING: Duration = Duration::from_secs(10);
/// Members of each group.
const MEMBERS: usize = 10;

pub async fn soak(options: &Options, seconds: u64, cluster: &Cluster, client: &Client) -> Result<()> {
    let admin = cluster.admin().await;
    // At price 0 one token is shown again and again: this is not about tokens.
    admin
        .batch_execute(
            "SELECT operator.set_price('ds.submit_message', 0), operator.set_price('qs.dequeue', 0)",
        )
        .await?;
    let token = client.wallet().take().await?;
    let mut groups = Vec::new();
    for _ in 0..options.concurrency {
        groups.push(BenchGroup::create(client, MEMBERS, options.bytes).await?);
    }
    println!(
        "{} B of text, {} groups of {MEMBERS}, each with a sender; each member fetches and acknowledges every {} ms.\n",
        options.bytes,
        options.concurrency,
        READING.as_millis()
    );
    println!(
        "| seconds | deliveries | waiting | messages: table | TOAST | index | queues: table | index | HOT | dead rows | vacuums |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let delivered = AtomicU64::new(0);
    let senders = groups.iter().map(|group| send(client, group, &token, deadline, &delivered));
    let readers =
        groups.iter().flat_map(|group| &group.members).map(|member| read(client, member, &token, deadline));
    let (_, _, sizes) = tokio::try_join!(
        futures_util::future::try_join_all(senders),
        futures_util::future::try_join_all(readers),
        measure(&admin, deadline, &delivered),
    )?;
    // The first minute fills what vacuum then keeps using again.
    let settled = &sizes[sizes.len() / 3..];
    if let (Some(first), Some(last)) = (settled.first(), settled.last()) {
        println!("\nSize at the end against a third of the way: {:.2}.", *last as f64 / *first as f64);
    }
    Ok(())
}

async fn send(
    client: &Client,
    group: &BenchGroup,
    token: &Token,
    deadline: Instant,
    delivered: &AtomicU64,
) -> Result<()> {
    let message = group.message.clone().paid_with(token.clone());
    while Instant::now() < deadline {
        client.http().send_once(&message).await?;
        delivered.fetch_add(group.members.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Fetches until nothing is left, acknowledging what came before, then rests.
async fn read(client: &Client, member: &BenchMember, token: &Token, deadline: Instant) -> Result<()> {
    let mut after = 0;
    while Instant::now() < deadline {
        let request = member.fetch(after).paid_with(token.clone());
        let dequeued: Dequeued = client.http().send_once(&request).await?.decode()?;
        match dequeued.messages.last() {
            Some(last) => after = last.seq,
            None => sleep(READING).await,
        }
    }
    Ok(())
}

/// Prints a row every few seconds; returns the bytes of all tables and indexes in each.
async fn measure(
    admin: &tokio_postgres::Client,
    deadline: Instant,
    delivered: &AtomicU64,
) -> Result<Vec<i64>> {
    let started = Instant::now();
    let mut sizes = Vec::new();
    let mut ticks = interval(MEASURING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < deadline {
        ticks.tick().await;
        let row = admin
            .query_one(
                "SELECT pg_relation_size(m.oid), pg_total_relation_size(m.reltoastrelid), pg_indexes_size(m.oid),
                        pg_relation_size(q.oid), pg_indexes_size(q.oid),
                        sq.n_tup_hot_upd * 100.0::float8 / greatest(sq.n_tup_upd, 1),
                        sm.n_dead_tup + sq.n_dead_tup, sm.autovacuum_count + sq.autovacuum_count,
                        (SELECT sum(next_seq - 1 - acked_seq)::bigint FROM qs.queues)
                   FROM pg_class m, pg_class q, pg_stat_user_tables sm, pg_stat_user_tables sq
                  WHERE m.oid = 'qs.messages'::regclass AND sm.relid = m.oid
                    AND q.oid = 'qs.queues'::regclass AND sq.relid = q.oid",
                &[],
            )
            .await?;
        let bytes: [i64; 5] = std::array::from_fn(|column| row.get(column));
        let megabytes = bytes.map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} % | {} | {} |",
            started.elapsed().as_secs(),
            delivered.load(Ordering::Relaxed),
            row.get::<_, i64>(8),
            megabytes[0],
            megabytes[1],
            megabytes[2],
            megabytes[3],
            megabytes[4],
            row.get::<_, f64>(5),
            row.get::<_, i64>(6),
            row.get::<_, i64>(7),
        );
        sizes.push(bytes.iter().sum());
    }
    Ok(sizes)
}
