//! The costs of commits and application messages at the DS, and where they arise. Each commit is sent over HTTP; in
//! this process it goes through the code that the server runs, on the same state, and through openmls alone. PostgreSQL
//! itself (pg_stat_statements) says what its share is.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use openmls::prelude::ProcessedMessageContent;
use postern_client::Client;
use postern_protocol::ds::{CreateGroup, SubmitMessage};
use postern_server::{
    clock::{day, today},
    compute::Compute,
    ds::{
        external_sender_keys::ExternalSenderKeys,
        group::{DeliveryService, Group},
        handshake::{self, Submission},
        roster::Roster,
        rules::Rules,
        sealed::{self, BlobId, Kind},
    },
    mls::{crypto::PublicCrypto, parse_handshake, storage::GroupStorage},
};
use postern_tests_kit::{Cluster, Server};
use tokio_postgres::Client as Connection;

use crate::{
    Options, costs,
    group::{Founder, queue},
    median,
};

/// One commit adds so many at most, or its request would be larger than the server takes; fewer where it has a large
/// tree to carry as well.
const ADDED_AT_ONCE: usize = 1000;
const ADDED_TO_MANY: usize = 400;

/// A commit in a larger group is gigabytes of messages: three rounds are enough.
const LARGEST_OFTEN: usize = 1000;

/// Medians are of the rounds; times in seconds.
#[derive(Clone, Copy, Default)]
struct Commit {
    /// From the request to its answer.
    end_to_end: f64,
    parse: f64,
    /// Decryption and decoding of the group's state.
    load: f64,
    /// Validation as a member, policy, GroupInfo, next state.
    validate: f64,
    /// openmls alone on the same state and message: `process_message` and `merge_commit`.
    openmls: f64,
    /// Encoding and encryption of the next state.
    seal: f64,
    database: Database,
    /// Bytes of the request.
    bytes: f64,
}

#[derive(Clone, Copy, Default)]
struct Message {
    end_to_end: f64,
    /// Decryption and decoding of the roster.
    load: f64,
    database: Database,
}

/// PostgreSQL's share of one request.
#[derive(Clone, Copy, Default)]
struct Database {
    /// Seconds.
    read: f64,
    /// Seconds, with what follows.
    write: f64,
    /// Seconds of that in `postern.deliver`.
    deliver: f64,
    statements: f64,
    /// Bytes of WAL.
    wal: f64,
}

pub async fn measure(options: &Options, cluster: &mut Cluster) -> Result<()> {
    for setup in [
        "CREATE EXTENSION pg_stat_statements",
        "ALTER SYSTEM SET shared_preload_libraries = 'postern', 'pg_stat_statements'",
        "ALTER SYSTEM SET track_functions = 'all'",
        "SELECT operator.set_allowance(2000000000)",
        "SELECT operator.set_new_user_allowance(2000000000)",
        "SELECT operator.set_group_limit('max_commit_bytes', 1000000)",
        "SELECT operator.set_group_limit('max_delivery_bytes', 2147483647)",
        "SELECT operator.set_group_limit('max_members', 5000)",
    ] {
        cluster.admin().await.execute(setup, &[]).await?;
    }
    cluster.kill_postgres();
    cluster.restart().await;
    let admin = cluster.admin().await;
    // One connection: see `deliver_seconds`.
    let server = Server::builder(cluster).arg("--database-pool-size").arg("1").start().await;
    let directory = tempfile::tempdir()?;
    let client = Client::register(&directory.path().join("bench"), server.url(), "bench").await?;

    println!("{}\n", costs::machine());
    println!("{} B of text, {} interleaved rounds, medians.\n", options.bytes, options.rounds);
    let mut rows = Vec::new();
    for &members in &options.members {
        eprintln!("a group of {members}");
        rows.push((members, group(options, members, &client, &admin).await?));
    }
    print(&rows);
    println!("\nA commit's turn for computing takes {:.1} µs of it.", turn().await? * 1e6);
    Ok(())
}

/// Seconds of a turn for computing, with nothing to compute.
async fn turn() -> Result<f64> {
    const TURNS: u32 = 100_000;
    // In a task: the runtime's first thread is none of its workers, and gives nothing over.
    let turns = tokio::spawn(async {
        let compute = Compute::new(1, Duration::from_secs(1));
        let begun = Instant::now();
        for _ in 0..TURNS {
            compute.run(|| black_box(())).await.map_err(|_| anyhow!("somebody else computes"))?;
        }
        anyhow::Ok(begun.elapsed().as_secs_f64() / f64::from(TURNS))
    });
    turns.await?
}

/// The rounds of a group.
async fn group(
    options: &Options,
    members: usize,
    client: &Client,
    admin: &Connection,
) -> Result<Vec<(Commit, Message)>> {
    let mut founder = Founder::new(client).await?;
    let creation = founder.found(client).await?;
    let rules = admin
        .query_one(
            "SELECT s.*, o.message_days, f.outbox_days, o.ciphersuites
               FROM ds.settings s, operator.settings o, federation.settings f",
            &[],
        )
        .await?;
    let rules =
        Rules::of(&rules, u64::MAX).map_err(|_| anyhow::anyhow!("the settings are what they were"))?;
    let mut mirror = Mirror::new(&founder, &creation, rules)?;
    let mut others = members - 1;
    while others > 0 {
        let added = others.min(if members > LARGEST_OFTEN { ADDED_TO_MANY } else { ADDED_AT_ONCE });
        let (_, add) = founder.add(client, added).await?;
        founder.submit(client, &add).await?;
        mirror.commit(&founder, &add)?;
        founder.merge();
        others -= added;
    }
    let mut rounds = Vec::new();
    let number = if members > LARGEST_OFTEN { options.rounds.min(3) } else { options.rounds };
    for round in 0..=number {
        let commit = founder.commit(Vec::new());
        let (end_to_end, database) = send(client, admin, &founder, &commit).await?;
        let bytes = founder.request(&commit).content().len() as f64;
        let commit = Commit { end_to_end, database, bytes, ..mirror.commit(&founder, &commit)? };
        founder.merge();
        let message = founder.message(options.bytes);
        let (end_to_end, database) = send(client, admin, &founder, &message).await?;
        let message = Message { end_to_end, database, load: mirror.load_roster(&founder)? };
        // The first round warms up plans, caches and connections.
        if round > 0 {
            rounds.push((commit, message));
        }
    }
    Ok(rounds)
}

/// Sends a message; how long it took, and what of that is PostgreSQL's.
async fn send(
    client: &Client,
    admin: &Connection,
    founder: &Founder,
    submission: &SubmitMessage,
) -> Result<(f64, Database)> {
    let request = founder.request(submission).paid_with(client.wallet().take().await?);
    let deliver_before = deliver_seconds(client, admin).await?;
    admin.execute("SELECT pg_stat_statements_reset()", &[]).await?;
    let wal = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    let before: f64 = admin.query_one(wal, &[]).await?.get(0);
    let start = Instant::now();
    client.http().send_once(&request).await?;
    let end_to_end = start.elapsed().as_secs_f64();
    let after: f64 = admin.query_one(wal, &[]).await?.get(0);
    let row = admin
        .query_one(
            "SELECT coalesce(sum(total_exec_time) FILTER (WHERE query LIKE '%ds.load_group(%'), 0),
                    coalesce(sum(total_exec_time) FILTER (WHERE query LIKE '%ds.submit_message(%'), 0),
                    sum(calls)::float8
               FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
              WHERE r.rolname = 'postern_server'",
            &[],
        )
        .await?;
    let (read, write) = (row.get::<_, f64>(0) / 1e3, row.get::<_, f64>(1) / 1e3);
    anyhow::ensure!(read > 0.0 && write > 0.0, "the statements are called what they were");
    let deliver = deliver_seconds(client, admin).await? - deliver_before;
    Ok((end_to_end, Database { read, write, deliver, statements: row.get(2), wal: after - before }))
}

/// Seconds in `postern.deliver` since the cluster began. A backend reports its numbers at the end of a transaction,
/// once a second at most: of the server's only backend, this request's.
async fn deliver_seconds(client: &Client, admin: &Connection) -> Result<f64> {
    tokio::time::sleep(Duration::from_millis(1050)).await;
    queue(client).await?;
    let total = "SELECT coalesce(sum(total_time), 0) / 1e3
                   FROM pg_stat_user_functions
                  WHERE schemaname = 'postern' AND funcname = 'deliver'";
    Ok(admin.query_one(total, &[]).await?.get(0))
}

/// The server's view of a group, in this process.
struct Mirror {
    rules: Rules,
    senders: ExternalSenderKeys,
    domain: postern_protocol::name::Domain,
    epoch: u64,
    roster: Vec<u8>,
    tree: Vec<u8>,
}

impl Mirror {
    fn new(founder: &Founder, creation: &CreateGroup, rules: Rules) -> Result<Self> {
        let domain = founder.id.domain().clone();
        let senders = ExternalSenderKeys::of(founder.server_key, &domain);
        let mut mirror = Self { rules, senders, domain, epoch: 0, roster: Vec::new(), tree: Vec::new() };
        let group = Group::create(&creation.group_info, &creation.ratchet_tree, mirror.ds())?;
        mirror.keep(founder, &group);
        Ok(mirror)
    }

    fn ds(&self) -> DeliveryService<'_> {
        DeliveryService { home: &self.domain, external_sender_keys: &self.senders, today: day(today()) }
    }

    fn blob<'a>(&self, founder: &'a Founder, kind: Kind) -> BlobId<'a> {
        BlobId { group_id: founder.id.id(), epoch: self.epoch, revision: 0, kind }
    }

    fn keep(&mut self, founder: &Founder, group: &Group) {
        let key = founder.policy.state_key();
        self.epoch = group.mls.epoch();
        self.roster = sealed::seal(&key, self.blob(founder, Kind::Roster), &group.roster.encode());
        self.tree = sealed::seal(&key, self.blob(founder, Kind::Tree), &group.encode());
    }

    /// A commit that the server accepted: the parts of what it took.
    fn commit(&mut self, founder: &Founder, submission: &SubmitMessage) -> Result<Commit> {
        let (parse, message) = timed(|| parse_handshake(&submission.message));
        let (load, group) = timed(|| {
            let state = sealed::open(&founder.policy.state_key(), self.blob(founder, Kind::Tree), &self.tree);
            state.ok().map(|state| Group::decode(&state, self.ds()))
        });
        let group = group.context("the state opens")??;
        let storage = GroupStorage::decode(&group.mls.encode())?;
        let mut alone = storage.load().context("the state is one")?;
        let message = message?;
        let of_alone = message.clone();
        let openmls = || {
            let processed = alone.process_message(&PublicCrypto::VERIFYING, of_alone)?;
            let ProcessedMessageContent::StagedCommitMessage(commit) = processed.into_content() else {
                anyhow::bail!("it is a commit");
            };
            Ok(alone.merge_commit(&storage, *commit)?)
        };
        let handle = || {
            let submission = Submission {
                group_id: &founder.id,
                rules: &self.rules,
                message: &submission.message,
                group_info: submission.group_info.as_ref(),
                welcome: submission.welcome.as_ref(),
                attributes: &submission.attributes,
                signer: founder.key().public_key(),
            };
            handshake::handle(group, message, submission, self.ds())
        };
        // In turns: the second one finds the caches warm.
        let (openmls, validate, next) = if self.epoch.is_multiple_of(2) {
            let (openmls, done) = timed(openmls);
            done?;
            let (validate, next) = timed(handle);
            (openmls, validate, next)
        } else {
            let (validate, next) = timed(handle);
            let (openmls, done) = timed(openmls);
            done?;
            (openmls, validate, next)
        };
        let next = next.map_err(|_| anyhow::anyhow!("the server accepted it"))?;
        let (seal, ()) = timed(|| self.keep(founder, &next.group));
        Ok(Commit { parse, load, validate, openmls, seal, ..Commit::default() })
    }

    fn load_roster(&self, founder: &Founder) -> Result<f64> {
        let key = founder.policy.state_key();
        let (load, roster) = timed(|| {
            let roster = sealed::open(&key, self.blob(founder, Kind::Roster), &self.roster);
            roster.ok().map(|roster| Roster::decode(&roster))
        });
        roster.context("the roster opens")??;
        Ok(load)
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let done = work();
    (start.elapsed().as_secs_f64(), done)
}

fn print(rows: &[(usize, Vec<(Commit, Message)>)]) {
    let ms = |seconds: f64| format!("{:.2} ms", Duration::from_secs_f64(seconds).as_secs_f64() * 1e3);
    println!(
        "| members | commit | parse | load | validate | openmls alone | ratio | seal | SQL: read | write | of it deliver | statements | request | WAL |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (members, rounds) in rows {
        let of = |value: &dyn Fn(&Commit) -> f64| median(rounds.iter().map(|(commit, _)| value(commit)));
        println!(
            "| {members} | {} | {} | {} | {} | {} | {:.2} | {} | {} | {} | {} | {:.0} | {:.1} kB | {:.1} kB |",
            ms(of(&|commit| commit.end_to_end)),
            ms(of(&|commit| commit.parse)),
            ms(of(&|commit| commit.load)),
            ms(of(&|commit| commit.validate)),
            ms(of(&|commit| commit.openmls)),
            of(&|commit| commit.validate / commit.openmls),
            ms(of(&|commit| commit.seal)),
            ms(of(&|commit| commit.database.read)),
            ms(of(&|commit| commit.database.write)),
            ms(of(&|commit| commit.database.deliver)),
            of(&|commit| commit.database.statements),
            of(&|commit| commit.bytes / 1e3),
            of(&|commit| commit.database.wal / 1e3),
        );
    }
    println!(
        "\n| members | application message | load | SQL: read | write | of it deliver | deliver's share | statements | WAL |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (members, rounds) in rows {
        let of = |value: &dyn Fn(&Message) -> f64| median(rounds.iter().map(|(_, message)| value(message)));
        println!(
            "| {members} | {} | {} | {} | {} | {} | {:.2} | {:.0} | {:.1} kB |",
            ms(of(&|message| message.end_to_end)),
            ms(of(&|message| message.load)),
            ms(of(&|message| message.database.read)),
            ms(of(&|message| message.database.write)),
            ms(of(&|message| message.database.deliver)),
            of(&|message| message.database.deliver / message.end_to_end),
            of(&|message| message.database.statements),
            of(&|message| message.database.wal / 1e3),
        );
    }
}
