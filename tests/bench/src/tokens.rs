//! The costs of the gate: tokens issued and verified per second on one core, requests to an
//! endpoint at price 1 and at price 0, and the check for spent tokens compared with a plain INSERT
//! of the same rows, as they become many.

use std::{
    hint::black_box,
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use blind_rsa_signatures::DefaultRng;
use futures_util::future::try_join_all;
use p384::NistP384;
use postern_client::{Client, Request, Token};
use postern_protocol::token::{self, TokenType};
use postern_server::aas::issuer_key::IssuerKey;
use postern_tests_kit::{Cluster, HOME};
use privacypass::{
    amortized_tokens::AmortizedBatchTokenRequest, common::private::deserialize_public_key,
    generic_tokens::GenericTokenRequest, private_tokens, public_tokens,
};
use tempfile::NamedTempFile;
use tls_codec::Serialize as _;
use voprf::Ristretto255;

use crate::{
    Options,
    costs::cluster_cpu_seconds,
    floor::{AS_THE_SERVER, WARM_UP, pgbench},
    median, refill,
};

const BATCH: u16 = 100;
/// An endpoint that does little but ask for a token.
const ENDPOINT: &str = "/ds/group-ids";

pub async fn measure(options: &Options, cluster: &Cluster, client: &Client) -> Result<()> {
    issuing(options)?;
    redeeming(options, cluster, client).await?;
    spending(options, cluster).await
}

fn issuing(options: &Options) -> Result<()> {
    let domain = HOME.parse()?;
    let key = |kind| anyhow::Ok(IssuerKey::generate(kind)?.0);
    let challenge = |kind| token::challenge_of(kind, &domain);
    let failed = |_| anyhow!("a token cannot be asked for");

    let ristretto255 = key(TokenType::PrivateRistretto255)?;
    let public = deserialize_public_key::<Ristretto255>(ristretto255.public()).map_err(failed)?;
    let batch = AmortizedBatchTokenRequest::<Ristretto255>::new(
        public,
        &challenge(TokenType::PrivateRistretto255),
        BATCH,
    )?;
    let batch = batch.0.tls_serialize_detached()?;

    let p384 = key(TokenType::PrivateP384)?;
    let public = deserialize_public_key::<NistP384>(p384.public()).map_err(failed)?;
    let single = private_tokens::TokenRequest::<NistP384>::new(public, &challenge(TokenType::PrivateP384))?.0;
    let of_p384 = GenericTokenRequest::from(single);

    let rsa = key(TokenType::Public)?;
    let public = public_tokens::PublicKey::from_spki(rsa.public())?;
    let single = public_tokens::TokenRequest::new(&mut DefaultRng, public, &challenge(TokenType::Public))?.0;
    let of_rsa = GenericTokenRequest::from(single);

    let round = |tokens: u16, issue: &dyn Fn()| {
        let (start, mut issued) = (Instant::now(), 0.0);
        while start.elapsed() < Duration::from_secs(1) {
            issue();
            issued += f64::from(tokens);
        }
        issued / start.elapsed().as_secs_f64()
    };
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        rates[0].push(round(BATCH, &|| drop(black_box(ristretto255.issue_batch(&batch)))));
        rates[1].push(round(1, &|| drop(black_box(p384.issue(of_p384.clone())))));
        rates[2].push(round(1, &|| drop(black_box(rsa.issue(of_rsa.clone())))));
    }
    println!("| issuing, one core | tokens/s |\n|---|--:|");
    let names = ["0x0005 in batches of 100", "0x0001 one by one", "0x0002 one by one"];
    for (name, rates) in names.into_iter().zip(rates) {
        println!("| {name} | {:.0} |", median(rates.into_iter()));
    }
    Ok(())
}

async fn redeeming(options: &Options, cluster: &Cluster, client: &Client) -> Result<()> {
    let admin = cluster.admin().await;
    let (mut free, mut paid) = (Vec::new(), Vec::new());
    let mut tokens = Vec::new();
    let mut per_second = 2000.0;
    for round in 0..=options.rounds {
        for price in [0, 1] {
            refill(client, &mut tokens, (per_second * 1.5) as usize * options.seconds as usize).await?;
            admin.execute("SELECT operator.set_price('ds.reserve_group_id', $1)", &[&price]).await?;
            let rate = knocking(options, client, &mut tokens, price == 0).await?;
            if round > 0 {
                (if price == 0 { &mut free } else { &mut paid }).push(rate);
            }
            per_second = rate.max(500.0);
        }
    }
    let (free, paid) = (median(free.into_iter()), median(paid.into_iter()));
    println!("\n| `POST {ENDPOINT}` | requests/s | ratio |\n|---|--:|--:|");
    println!("| price 0 | {free:.0} | |\n| price 1 | {paid:.0} | {:.2} |", paid / free);
    Ok(())
}

/// Requests per second, each with a token of its own, which at price 0 comes back.
async fn knocking(options: &Options, client: &Client, tokens: &mut Vec<Token>, back: bool) -> Result<f64> {
    let start = Instant::now();
    let shares = tokens.len().div_ceil(options.concurrency);
    let hands: Vec<Vec<Token>> = tokens.chunks(shares).map(<[Token]>::to_vec).collect();
    let knock = |hand: Vec<Token>| async move {
        let mut used = 0;
        for token in &hand {
            if start.elapsed() >= Duration::from_secs(options.seconds) {
                break;
            }
            client.http().send_once(&Request::post(ENDPOINT).paid_with(token.clone())).await?;
            used += 1;
        }
        let left = if back { hand } else { hand[used..].to_vec() };
        anyhow::Ok((used, left))
    };
    let done = try_join_all(hands.into_iter().map(knock)).await?;
    let elapsed = start.elapsed().as_secs_f64();
    tokens.clear();
    let mut requests = 0;
    for (used, left) in done {
        requests += used;
        tokens.extend(left);
    }
    Ok(requests as f64 / elapsed)
}

/// The check for spent tokens and a plain INSERT of the same rows into a table of its own, for each number of rows
/// that are there already. Each number has an issuer key, so that all are measured in the same rounds.
async fn spending(options: &Options, cluster: &Cluster) -> Result<()> {
    const NONCE: &str = "sha256((random()::text || random()::text)::bytea)";
    let admin = cluster.admin().await;
    let keys: Vec<i16> = admin
        .query("SELECT issuer_key FROM aas.issuer_keys", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    admin.batch_execute("CREATE SCHEMA floor; TRUNCATE aas.spent").await?;
    let script = |sql: String| -> Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        writeln!(file, "{sql}")?;
        Ok(file)
    };
    let mut sizes = Vec::new();
    for (&spent, key) in options.spent.iter().filter(|spent| **spent > 0).zip(keys) {
        let start = Instant::now();
        let floor = format!("floor.spent_{key}");
        admin
            .batch_execute(&format!(
                "CREATE TABLE {floor} (issuer_key smallint, nonce bytea, PRIMARY KEY (issuer_key, nonce))"
            ))
            .await?;
        for table in [&format!("aas.spent_{key}"), &floor] {
            let fill = [
                "SET synchronous_commit = off".to_owned(),
                "SET work_mem = '256MB'".to_owned(),
                // In order, as ten million at random would take minutes.
                format!(
                    "INSERT INTO {table} SELECT {key}, nonce
                       FROM (SELECT sha256(n::text::bytea) AS nonce FROM generate_series(1, {spent}) n) s
                      ORDER BY nonce"
                ),
                "RESET ALL".to_owned(),
                format!("VACUUM ANALYZE {table}"),
            ];
            for statement in fill {
                admin.batch_execute(&statement).await?;
            }
        }
        eprintln!("{spent} spent tokens, twice, in {:.0} s", start.elapsed().as_secs_f64());
        let check = script(format!("SELECT aas.spend_token('qs.deposit', {key}::smallint, {NONCE});"))?;
        let insert = script(format!("INSERT INTO {floor} VALUES ({key}, {NONCE});"))?;
        sizes.push((spent, check, insert, Vec::new()));
    }
    admin.batch_execute("CHECKPOINT").await?;
    for round in 0..=options.rounds {
        for (_, check, insert, rates) in &mut sizes {
            let run = async |file: &NamedTempFile| {
                let before = cluster_cpu_seconds(cluster)?;
                let rate = pgbench(
                    cluster.socket_dir(),
                    file.path(),
                    options.concurrency,
                    (WARM_UP, options.seconds),
                    AS_THE_SERVER,
                )
                .await?;
                let cpu = cluster_cpu_seconds(cluster)? - before;
                anyhow::Ok((rate, cpu / (rate * (WARM_UP + options.seconds) as f64)))
            };
            let pair = (run(check).await?, run(insert).await?);
            if round > 0 {
                rates.push(pair);
            }
        }
    }
    println!(
        "\n| spent tokens | checks/s | floor: INSERTs/s | ratio | database CPU of a check | of an INSERT | ratio |\n\
         |--:|--:|--:|--:|--:|--:|--:|"
    );
    for (spent, _, _, rounds) in sizes {
        // Rate and CPU of a check, and of an INSERT.
        let of = |value: &dyn Fn(f64, f64, f64, f64) -> f64| {
            median(
                rounds.iter().map(|((rate, cpu), (floor, floor_cpu))| value(*rate, *cpu, *floor, *floor_cpu)),
            )
        };
        println!(
            "| {spent} | {:.0} | {:.0} | {:.2} | {:.0} µs | {:.0} µs | {:.2} |",
            of(&|rate, _, _, _| rate),
            of(&|_, _, floor, _| floor),
            of(&|rate, _, floor, _| rate / floor),
            of(&|_, cpu, _, _| cpu * 1e6),
            of(&|_, _, _, floor| floor * 1e6),
            of(&|_, cpu, _, floor| floor / cpu),
        );
    }
    admin.batch_execute("DROP SCHEMA floor CASCADE").await.context("the floor is swept")
}
