//! The costs of identities: registrations, lookups and commits, and where the time goes; a lookup beside a plain SELECT of
//! the same bytes; lookups and wrong proofs for names that somebody has beside those that nobody has; an identity of ten
//! devices after a thousand commits, as a new reader and as one that comes back sees it; and a lookup among few users
//! beside one among many.

use std::{
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use postern_client::{Client, Request};
use postern_protocol::{
    account::EndIdentity,
    auth::UserRecord,
    key::SigningKey,
    name::UserName,
    second_proof::{Operation, RecoveryKey, SecondProof},
};
use postern_tests_kit::{
    Cluster, Commit, Party, Server, User, home, identity_commit_of, now, registration_of,
};
use rand::Rng;
use tempfile::NamedTempFile;

use crate::{
    Options, Sends, costs,
    costs::Costs,
    floor::{AS_THE_SERVER, WARM_UP, pgbench},
    median, refill,
};

/// A page of a history has no more.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
const DEVICES: usize = 10;
const COMMITS: u64 = 1000;
/// Readers of each kind of that identity.
const READERS: usize = 5;
/// Users that hide, and requests of each kind beside each other.
const HIDDEN: usize = 200;
const BESIDE: usize = 1000;
/// Rows of a plain table with what a lookup reads.
const FLOOR: &str = "CREATE SCHEMA floor;
    CREATE TABLE floor.records (name text COLLATE \"C\" PRIMARY KEY, record bytea NOT NULL);
    INSERT INTO floor.records
    SELECT u.name, coalesce(i.current_group_info, i.group_info) || coalesce(i.current_ratchet_tree, i.ratchet_tree)
                   || c.credential || i.state_signature || i.founding || i.transcript || i.founder || i.tree_hash
      FROM auth.users u JOIN auth.incarnations i USING (user_id) JOIN auth.clients c USING (user_id);
    ANALYZE";

pub async fn measure(options: &Options, cluster: &Cluster, server: &Server, client: &Client) -> Result<()> {
    let lift = "SELECT operator.set_user_limit('identity_commits_per_day', 1000000000)";
    cluster.admin().await.batch_execute(lift).await?;
    println!("{}\n", costs::machine());
    println!(
        "{} requests under way, {} rounds of {} s, medians.\n",
        options.concurrency, options.rounds, options.seconds
    );
    let (mut registrations, mut lookups, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    let mut users = Vec::new();
    let mut per_second = [500.0, 500.0, 300.0];
    for round in 0..=options.rounds {
        let number = |rate: f64| (rate * 1.5) as usize * options.seconds as usize + options.concurrency;
        let new: Vec<User> = (0..number(per_second[0]))
            .map(|_| User::new(&format!("user-{:016x}", rand::rng().random::<u64>())))
            .collect();
        let requests = new.iter().map(|user| {
            let body = registration_of(&user.name, &user.device);
            Request::post("/as/users").cbor(&body).signed_by(&user.device.key, &home())
        });
        let registered = together(options, cluster, server, client, requests.collect()).await?;
        per_second[0] = registered.rate.per_second;
        users.extend(new.into_iter().take(registered.sent));

        let mut tokens = Vec::new();
        refill(client, &mut tokens, number(per_second[1])).await?;
        let requests = tokens.into_iter().map(|token| {
            let user = &users[rand::rng().random_range(0..users.len())];
            Request::get(format!("/as/users/{}", user.name)).paid_with(token)
        });
        let looked_up = together(options, cluster, server, client, requests.collect()).await?;
        per_second[1] = looked_up.rate.per_second;

        let committed =
            committing(options, cluster, server, client, &mut users, number(per_second[2])).await?;
        per_second[2] = committed.per_second;
        if round > 0 {
            registrations.push(registered.rate);
            lookups.push(looked_up.rate);
            commits.push(committed);
        }
    }
    println!("| request | per second | client CPU | server CPU | database CPU | WAL flushes | WAL |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (name, rounds) in [("registration", &registrations), ("lookup", &lookups), ("commit", &commits)] {
        print(name, rounds);
    }
    beside_a_select(options, cluster, median(lookups.iter().map(|round| round.per_second))).await?;
    beside_nobody(cluster, client, &users).await?;
    long_history(cluster, server, client).await
}

struct Round {
    rate: Sends,
    /// They go in order.
    sent: usize,
}

/// Sends requests, so many at a time, until the round or the requests are over.
async fn together(
    options: &Options,
    cluster: &Cluster,
    server: &Server,
    client: &Client,
    requests: Vec<Request>,
) -> Result<Round> {
    let before = Costs::read(cluster, server).await?;
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let sender = async || {
        while started.elapsed() < Duration::from_secs(options.seconds) {
            let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            client.http().send_once(request).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..options.concurrency).map(|_| sender())).await?;
    let elapsed = started.elapsed().as_secs_f64();
    let sent = next.into_inner().min(requests.len());
    let costs = Costs::read(cluster, server).await?.since(&before).per(sent);
    Ok(Round { rate: Sends { per_second: sent as f64 / elapsed, costs }, sent })
}

/// Users who update their keys, one commit after the other; making them is the client's CPU.
async fn committing(
    options: &Options,
    cluster: &Cluster,
    server: &Server,
    client: &Client,
    users: &mut [User],
    number: usize,
) -> Result<Sends> {
    let mut tokens = Vec::new();
    refill(client, &mut tokens, number).await?;
    let tokens = Mutex::new(tokens);
    let before = Costs::read(cluster, server).await?;
    let started = Instant::now();
    let sent = AtomicUsize::new(0);
    let work = async |user: &mut User| {
        while started.elapsed() < Duration::from_secs(options.seconds) {
            let Some(token) = tokens.lock().expect("nobody panics here").pop() else { break };
            let request = commit_of_first(user, Commit { update: true, ..Commit::default() })?;
            client.http().send_once(&request.paid_with(token)).await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    try_join_all(users.iter_mut().take(options.concurrency).map(work)).await?;
    let elapsed = started.elapsed().as_secs_f64();
    let sent = sent.into_inner();
    let costs = Costs::read(cluster, server).await?.since(&before).per(sent);
    Ok(Sends { per_second: sent as f64 / elapsed, costs })
}

/// A commit of the user's first client, which counts as accepted.
fn commit_of_first(user: &mut User, commit: Commit) -> Result<Request> {
    let made = user.device.commit(commit);
    let group_info = made.group_info.as_ref().context("commits come with one")?;
    let body = identity_commit_of(user, &made.commit, group_info, &user.device);
    user.moved(&made.commit);
    user.device.merge();
    Ok(Request::post("/as/eid/commits").cbor(&body).signed_by(&user.device.key, &home()))
}

fn print(name: &str, rounds: &[Sends]) {
    let of = |value: &dyn Fn(&Sends) -> f64| median(rounds.iter().map(value));
    println!(
        "| {name} | {:.0} | {:.0} µs | {:.0} µs | {:.0} µs | {:.2} | {:.1} kB |",
        of(&|round| round.per_second),
        of(&|round| round.costs.client * 1e6),
        of(&|round| round.costs.server * 1e6),
        of(&|round| round.costs.database * 1e6),
        of(&|round| round.costs.flushes),
        of(&|round| round.costs.wal / 1e3),
    );
}

/// The lookup's function at price 0 and 1, and a SELECT of the same bytes from one table.
async fn beside_a_select(options: &Options, cluster: &Cluster, requests: f64) -> Result<()> {
    let admin = cluster.admin().await;
    admin.batch_execute(FLOOR).await?;
    admin
        .batch_execute(
            "CREATE TABLE floor.names AS SELECT row_number() OVER () AS number, name FROM auth.users;
             ALTER TABLE floor.names ADD PRIMARY KEY (number)",
        )
        .await?;
    let users: i64 = admin.query_one("SELECT count(*) FROM floor.names", &[]).await?.get(0);
    let script = |sql: &str| -> Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        writeln!(file, "\\set number random(1, {users})\n{sql};")?;
        Ok(file)
    };
    let name = "(SELECT name FROM floor.names WHERE number = :number)";
    let nonce = "sha256((random()::text || random()::text)::bytea)";
    let key: i16 =
        admin.query_one("SELECT issuer_key FROM aas.issuer_keys ORDER BY 1 LIMIT 1", &[]).await?.get(0);
    let select = script(&format!("SELECT record FROM floor.records WHERE name = {name}"))?;
    let look_up = script(&format!(
        "SELECT * FROM auth.look_up_user({key}::smallint, {nonce}, {name}, NULL, NULL, NULL)"
    ))?;
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (number, (file, price)) in [(&select, 1), (&look_up, 0), (&look_up, 1)].into_iter().enumerate() {
            admin.execute("SELECT operator.set_price('auth.look_up_user', $1)", &[&price]).await?;
            let time = (WARM_UP, options.seconds);
            let rate =
                pgbench(cluster.socket_dir(), file.path(), options.concurrency, time, AS_THE_SERVER).await?;
            rates[number].push(rate);
        }
    }
    let [select, free, paid] = rates.map(|rates| median(rates.into_iter()));
    println!("\n| a lookup | per second | of the SELECT |\n|---|--:|--:|");
    for (name, rate) in [
        ("plain SELECT of the same bytes, pgbench", select),
        ("`auth.look_up_user` at price 0, pgbench", free),
        ("`auth.look_up_user`, which spends a token, pgbench", paid),
        ("request", requests),
    ] {
        println!("| {name} | {rate:.0} | {:.2} |", rate / select);
    }
    admin.batch_execute("DROP SCHEMA floor CASCADE").await?;
    Ok(())
}

/// Requests for names that somebody has, that are hidden and that nobody has, one after the other in turns: a stranger who
/// measures learns nothing from the time of a refusal.
async fn beside_nobody(cluster: &Cluster, client: &Client, users: &[User]) -> Result<()> {
    let (hidden, shown) = users.split_at(HIDDEN.min(users.len() / 2));
    let admin = cluster.admin().await;
    let names: Vec<&str> = hidden.iter().map(|user| user.name.local()).collect();
    let hide = "UPDATE auth.users SET lookup = sha256(convert_to(name, 'UTF8')) WHERE name = ANY ($1)";
    admin.execute(hide, &[&names]).await?;
    admin.batch_execute("VACUUM auth.users").await?;
    let unknown = || format!("user-{:016x}@{}", rand::rng().random::<u64>(), home()).parse::<UserName>();
    let any = |users: &[User]| users[rand::rng().random_range(0..users.len())].name.clone();
    let mut tokens = Vec::new();
    refill(client, &mut tokens, 3 * BESIDE).await?;
    let (proof, key) = (RecoveryKey::generate(), SigningKey::generate());
    let mut times = [const { Vec::new() }; 6];
    for _ in 0..BESIDE {
        let names = [unknown()?, any(hidden), any(shown)];
        for (number, name) in names.into_iter().enumerate() {
            let token = tokens.pop().context("out of tokens")?;
            let look_up = Request::get(format!("/as/users/{name}")).paid_with(token);
            times[number].push(timed(client, &look_up).await?);
            let operation = Operation::EndIdentity { client: key.public_key(), time: now() };
            let proof = SecondProof::recovery(&proof, &name, &operation);
            let end = Request::post("/as/account/end")
                .cbor(&EndIdentity { name, time: now(), proof })
                .signed_by(&key, &home());
            times[3 + number].push(timed(client, &end).await?);
        }
    }
    println!("\n| one request at a time | a name that nobody has | of a hidden user | of another user |");
    println!("|---|--:|--:|--:|");
    for (what, times) in [("lookup", &times[..3]), ("wrong second proof", &times[3..])] {
        let medians = times.iter().map(|times| format!("{:.0} µs", median(times.iter().copied())));
        println!("| {what} | {} |", medians.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}

/// The microseconds until a request is answered or refused.
async fn timed(client: &Client, request: &Request) -> Result<f64> {
    let started = Instant::now();
    let answer = client.http().send_once(request).await;
    let time = started.elapsed().as_secs_f64() * 1e6;
    match answer {
        Err(error) if error.problem().is_none() => Err(error.into()),
        _ => Ok(time),
    }
}

/// One user with ten devices, and a thousand commits.
async fn long_history(cluster: &Cluster, server: &Server, client: &Client) -> Result<()> {
    let admin = cluster.admin().await;
    admin.execute("SELECT operator.set_price('auth.commit_identity', 0)", &[]).await?;
    let mut user = User::new("ancient");
    let body = registration_of(&user.name, &user.device);
    client
        .http()
        .send_once(&Request::post("/as/users").cbor(&body).signed_by(&user.device.key, &home()))
        .await?;
    let send = async |request: Request| {
        let mut tokens = Vec::new();
        refill(client, &mut tokens, 1).await?;
        anyhow::Ok(client.http().send_once(&request.paid_with(tokens.remove(0))).await?)
    };
    let mut others: Vec<Party> = Vec::new();
    for _ in 1..DEVICES {
        let mut device = user.further_device();
        let made =
            user.device.commit(Commit { add: vec![device.key_package()], update: true, ..Commit::default() });
        let info = made.group_info.as_ref().context("commits come with one")?;
        let body = identity_commit_of(&user, &made.commit, info, &user.device);
        send(Request::post("/as/eid/commits").cbor(&body).signed_by(&user.device.key, &home())).await?;
        user.moved(&made.commit);
        user.device.merge();
        for other in &mut others {
            other.receive(&made.commit);
        }
        device.join(&made.welcome.context("it adds somebody")?, &user.device.ratchet_tree());
        // It confirms itself, and asks for its credential.
        let made = device.commit(Commit { update: true, ..Commit::default() });
        let info = made.group_info.as_ref().context("commits come with one")?;
        let body = identity_commit_of(&user, &made.commit, info, &device);
        send(Request::post("/as/eid/commits").cbor(&body).signed_by(&device.key, &home())).await?;
        user.moved(&made.commit);
        device.merge();
        user.device.receive(&made.commit);
        for other in &mut others {
            other.receive(&made.commit);
        }
        let body = postern_protocol::auth::SignCredential {};
        send(Request::post("/as/credentials").cbor(&body).signed_by(&device.key, &home())).await?;
        others.push(device);
    }
    let readers = tempfile::tempdir()?;
    let some = async |kind: &str| {
        let mut some = Vec::new();
        for number in 0..READERS {
            let name = format!("{kind}-{number}");
            let reader = Client::register(&readers.path().join(&name), server.url(), &name).await?;
            // So that the first lookup waits for no tokens.
            reader.wallet().take().await?;
            some.push(reader);
        }
        anyhow::Ok(some)
    };
    let (early, late, new) = (some("early").await?, some("late").await?, some("new").await?);
    for reader in &early {
        reader.look_up(&user.name).await?;
    }
    let known = user.eid.epoch;
    while user.eid.epoch < COMMITS {
        let request = commit_of_first(&mut user, Commit { update: true, ..Commit::default() })?;
        send(request).await?;
    }
    for reader in &late {
        reader.look_up(&user.name).await?;
    }
    let request = commit_of_first(&mut user, Commit { update: true, ..Commit::default() })?;
    send(request).await?;

    let page = async |query: String| {
        let request = Request::get(format!("/as/users/{}{query}", user.name))
            .accepting("application/cbor")
            .answered_in(PAGE_BYTES);
        let page = send(request).await?;
        anyhow::Ok((page.body.len(), page.decode::<UserRecord>()?))
    };
    // A page after the other, from an epoch on.
    let history = async |mut epoch: u64| {
        let mut bytes = 0;
        loop {
            let (more_bytes, record) = page(format!("?after={epoch}")).await?;
            bytes += more_bytes;
            epoch += record.commits.len() as u64;
            if !record.more {
                return anyhow::Ok(bytes);
            }
        }
    };
    let timed = async |readers: &[Client], audits: bool| {
        let mut times = Vec::new();
        for reader in readers {
            let started = Instant::now();
            if audits {
                reader.audit(&user.name).await?;
            } else {
                reader.look_up(&user.name).await?;
            }
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        anyhow::Ok(median(times.into_iter()))
    };
    println!("\n| {DEVICES} devices, {COMMITS} commits: a reader | bytes | time |\n|---|--:|--:|");
    let last = user.eid.epoch - 1;
    for (name, bytes, readers, audits) in [
        ("for the first time", page(String::new()).await?.0, &new, false),
        ("that comes back after one commit", history(last).await?, &late, false),
        ("that comes back after all of them", history(known).await?, &early, false),
        ("that audits from the beginning", history(0).await?, &new, true),
    ] {
        println!("| {name} | {bytes} | {:.1} ms |", timed(readers, audits).await?);
    }
    Ok(())
}

/// Lookups among few users and among many, in interleaved rounds: a cluster for each.
pub async fn scale(options: &Options, few: i64, many: i64) -> Result<()> {
    let mut sides = Vec::new();
    for users in [few, many] {
        let started = Instant::now();
        let cluster = Cluster::start().await;
        let admin = cluster.admin().await;
        admin.execute("SELECT operator.set_price('auth.look_up_user', 0)", &[]).await?;
        for statement in fill(users) {
            admin.batch_execute(&statement).await?;
        }
        eprintln!("{users} users in {:.0} s", started.elapsed().as_secs_f64());
        let mut script = NamedTempFile::new()?;
        writeln!(
            script,
            "\\set number random(1, {users})\n\
             SELECT * FROM auth.look_up_user(1::smallint, '', 'user-' || :number, NULL, NULL, NULL);"
        )?;
        sides.push((users, cluster, script, Vec::new()));
    }
    for round in 0..=options.rounds {
        for (_, cluster, script, rates) in &mut sides {
            let time = (WARM_UP, options.seconds);
            let rate = pgbench(cluster.socket_dir(), script.path(), options.concurrency, time, AS_THE_SERVER)
                .await?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    println!("\n| users | lookups/s in the database | ratio |\n|--:|--:|--:|");
    let of_few = median(sides[0].3.iter().copied());
    for (users, _, _, rates) in &sides {
        let rate = median(rates.iter().copied());
        println!("| {users} | {rate:.0} | {:.2} |", rate / of_few);
    }
    Ok(())
}

/// Users with one client each, in rows of the usual size; 700 bytes of GroupInfo and tree.
fn fill(users: i64) -> Vec<String> {
    let bytes = |number: usize| format!("decode(repeat(md5(n::text), {number}), 'hex')");
    vec![
        "SET synchronous_commit = off".to_owned(),
        // They would take minutes, and these rows are true.
        "ALTER TABLE auth.users DISABLE TRIGGER USER;
         ALTER TABLE auth.incarnations DISABLE TRIGGER USER;
         ALTER TABLE auth.clients DISABLE TRIGGER USER"
            .to_owned(),
        format!(
            "INSERT INTO auth.users (name, recovery_key)
             SELECT 'user-' || n, sha256(n::text::bytea) FROM generate_series(1, {users}) n"
        ),
        format!(
            "INSERT INTO auth.incarnations
                 (user_id, incarnation, group_info, ratchet_tree, founder, epoch, transcript, tree_hash,
                  state_signature, eid)
             SELECT user_id, 0, {info}, {tree}, {key}, 0, auth.founding_transcript(NULL, {info}, {tree}), {key},
                    {signature}, {eid}
               FROM (SELECT user_id, substr(name, 6)::bigint AS n FROM auth.users) u",
            info = bytes(25),
            tree = bytes(19),
            key = bytes(2),
            signature = bytes(4),
            eid = bytes(60),
        ),
        format!(
            "INSERT INTO auth.clients (client_key, user_id, incarnation, confirmed, credential)
             SELECT founder, user_id, 0, true, {credential}
               FROM (SELECT user_id, founder, substr(name, 6)::bigint AS n
                       FROM auth.incarnations JOIN auth.users USING (user_id)) i",
            credential = bytes(13),
        ),
        "VACUUM ANALYZE auth.users, auth.incarnations, auth.clients".to_owned(),
        "CHECKPOINT".to_owned(),
    ]
}
