//! The gate's share of a send: the CPU of a send, in all processes, and of what the gate does for
//! it: verifying a token on one core, since a server cannot be asked not to, and spending it in a
//! transaction that is there already. For comparison it sends at price 0, where the token is
//! verified and left unspent.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use postern_client::Client;
use postern_protocol::token::{self, TokenType};
use postern_server::aas::issuer_key::IssuerKey;
use postern_tests_kit::{Cluster, HOME, Server};
use privacypass::{
    amortized_tokens::{AmortizedBatchTokenRequest, AmortizedBatchTokenResponse},
    common::private::deserialize_public_key,
};
use tls_codec::Serialize as _;
use voprf::Ristretto255;

use crate::{
    EMPTIED, Options, Sends, costs::cluster_cpu_seconds, group::BenchGroup, median, refill, send_round,
};

pub async fn measure(options: &Options, cluster: &Cluster, server: &Server, client: &Client) -> Result<()> {
    let members = options.members.first().copied().context("a group has members")?;
    let admin = cluster.admin().await;
    let mut groups = Vec::new();
    for _ in 0..options.concurrency {
        groups.push(BenchGroup::create(client, members, options.bytes).await?);
    }
    let (mut free, mut paid, mut verified, mut spent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut tokens = Vec::new();
    let mut per_second = 1000;
    for round in 0..=options.rounds {
        verified.push(verifying()?);
        spent.push(spending(cluster, &admin).await?);
        for price in [0, 1] {
            refill(client, &mut tokens, per_second * 3 / 2 * options.seconds as usize).await?;
            admin.execute("SELECT operator.set_price('ds.submit_message', $1)", &[&price]).await?;
            admin.batch_execute(EMPTIED).await?;
            // At price 0 they come back.
            let held = tokens.clone();
            let sends = send_round(options, client.http(), &groups, &mut tokens, cluster, server).await?;
            per_second = (sends.per_second as usize).max(500);
            if price == 0 {
                tokens = held;
            }
            if round > 0 {
                (if price == 0 { &mut free } else { &mut paid }).push(sends);
            }
        }
    }
    let verifying = median(verified.into_iter());
    let spending = median(spent.into_iter());
    let rates = |sends: &[Sends]| median(sends.iter().map(|sends| sends.per_second));
    let whole = median(paid.iter().map(cpu));
    let of_servers = median(paid.iter().map(|sends| sends.costs.server + sends.costs.database));
    let gate = verifying + spending;
    println!("\n| a send in a group of {members} | sends/s | CPU |\n|---|--:|--:|");
    println!(
        "| price 0: a token is verified | {:.0} | {:.0} µs |",
        rates(&free),
        median(free.iter().map(cpu)) * 1e6
    );
    println!("| price 1: and spent | {:.0} | {:.0} µs |", rates(&paid), whole * 1e6);
    println!(
        "\n| the gate's share | CPU | of client, server and database | of server and database |\n|---|--:|--:|--:|"
    );
    for (what, cost) in [("verifying", verifying), ("spending", spending), ("both", gate)] {
        println!("| {what} | {:.0} µs | {:.2} | {:.2} |", cost * 1e6, cost / whole, cost / of_servers);
    }
    Ok(())
}

/// CPU seconds of a send, in all processes.
fn cpu(sends: &Sends) -> f64 {
    sends.costs.client + sends.costs.server + sends.costs.database
}

/// CPU seconds of spending a token in a transaction that is there already.
async fn spending(cluster: &Cluster, admin: &tokio_postgres::Client) -> Result<f64> {
    const CALLS: f64 = 20_000.0;
    let of = async |what: &str| -> Result<f64> {
        let nonces =
            "SELECT sha256((random()::text || n)::bytea) AS nonce FROM generate_series(1, $1::float8::int) n";
        let before = cluster_cpu_seconds(cluster)?;
        admin.execute(&format!("SELECT count({what}) FROM ({nonces}) AS nonces"), &[&CALLS]).await?;
        Ok((cluster_cpu_seconds(cluster)? - before) / CALLS)
    };
    Ok(of("aas.spend_token('ds.submit_message', 1::smallint, nonce)").await? - of("nonce").await?)
}

/// CPU seconds of reading a token from its header and verifying it.
fn verifying() -> Result<f64> {
    let failed = |_| anyhow!("a token cannot be asked for");
    let key = IssuerKey::generate(TokenType::PrivateRistretto255)?.0;
    let public = deserialize_public_key::<Ristretto255>(key.public()).map_err(failed)?;
    let challenge = token::challenge(&HOME.parse()?);
    let (request, state) = AmortizedBatchTokenRequest::<Ristretto255>::new(public, &challenge, 100)?;
    let response = key.issue_batch(&request.tls_serialize_detached()?)?;
    let response = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&response)?;
    let headers: Vec<_> = response
        .issue_tokens(&state)?
        .iter()
        .map(|token| token::authorization(&token::to_bytes(token)))
        .collect();
    let (start, mut verified) = (Instant::now(), 0.0);
    while start.elapsed() < Duration::from_millis(500) {
        for header in &headers {
            let token = token::parse_authorization(black_box(header))?;
            assert!(key.verify(&token), "it was issued just now");
            verified += 1.0;
        }
    }
    Ok(start.elapsed().as_secs_f64() / verified)
}
