//! The floor: what PostgreSQL does with the same rows when nobody asks for anything but to
//! keep them. One INSERT of as many rows as a message has recipients, through pgbench.

use std::{io::Write as _, path::Path};

use anyhow::{Context, Result, ensure};
use postern_tests_kit::Cluster;
use tempfile::NamedTempFile;
use tokio::process::Command;

/// Bytes that sealing and framing add to a text: MLS, the payload's CBOR, the chain's tag.
const OVERHEAD: usize = 230;

pub struct Floor {
    fan_out: usize,
    socket_dir: std::path::PathBuf,
    script: NamedTempFile,
}

impl Floor {
    pub async fn prepare(cluster: &Cluster, fan_out: usize, text_bytes: usize) -> Result<Self> {
        cluster
            .admin()
            .await
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS floor;
                 CREATE TABLE IF NOT EXISTS floor.messages (LIKE qs.messages INCLUDING ALL);
                 CREATE SEQUENCE IF NOT EXISTS floor.seq CACHE 1000;
                 CREATE OR REPLACE FUNCTION floor.payload(bytes integer) RETURNS bytea
                 LANGUAGE sql IMMUTABLE AS 'SELECT decode(repeat(''ab'', bytes), ''hex'')';",
            )
            .await?;
        let mut script = NamedTempFile::new()?;
        writeln!(
            script,
            "INSERT INTO floor.messages (queue_id, seq, chain, chain_index, ciphertext) \
             SELECT decode(lpad(to_hex(r), 32, '0'), 'hex'), nextval('floor.seq'), 1, r, \
             floor.payload({}) FROM generate_series(1, {fan_out}) AS r;",
            text_bytes + OVERHEAD
        )?;
        Ok(Self { fan_out, socket_dir: cluster.socket_dir().to_owned(), script })
    }

    /// Rows per second.
    pub async fn round(&self, connections: usize, seconds: u64) -> Result<f64> {
        let truncate = Command::new("psql")
            .args([
                "--username=postern_admin",
                "--quiet",
                "--command=TRUNCATE floor.messages",
                "--command=CHECKPOINT",
                "--host",
            ])
            .arg(&self.socket_dir)
            .arg("postern")
            .output()
            .await?;
        ensure!(truncate.status.success(), "{}", String::from_utf8_lossy(&truncate.stderr));
        let transactions =
            pgbench(&self.socket_dir, self.script.path(), connections, (WARM_UP, seconds), "").await?;
        Ok(transactions * self.fan_out as f64)
    }
}

/// How the statements of the server's role are planned (migrations/V1__foundation.sql).
pub const AS_THE_SERVER: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
     -c enable_mergejoin=off";

/// How long sessions work before they are counted: a new one reads the catalog, plans, and maps every page of shared
/// memory that it touches for the first time, none of which a server's sessions do, which stay.
pub const WARM_UP: u64 = 1;

/// Runs a script over and over, in sessions with these options (as in `PGOPTIONS`); returns its
/// transactions per second once they are warm.
pub async fn pgbench(
    socket_dir: &Path,
    script: &Path,
    connections: usize,
    (warm_up, seconds): (u64, u64),
    options: &str,
) -> Result<f64> {
    let output = Command::new("pgbench")
        .env("PGOPTIONS", options)
        .args(["--username=postern_admin", "--no-vacuum", "--protocol=prepared", "--jobs=2", "--progress=1"])
        .args([
            format!("--client={connections}"),
            format!("--time={}", warm_up + seconds),
            format!("--file={}", script.display()),
        ])
        .arg("--host")
        .arg(socket_dir)
        .arg("postern")
        .output()
        .await
        .context("pgbench comes with PostgreSQL's server package")?;
    let progress = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench: {progress}");
    // progress: 2.0 s, 4321.0 tps, lat …
    let rates = progress
        .lines()
        .filter_map(|line| line.strip_prefix("progress: ")?.split(", ").nth(1)?.strip_suffix(" tps"));
    let rates: Vec<f64> = rates.map(str::parse).collect::<Result<_, _>>().context("a rate is a number")?;
    let warm =
        rates.get(warm_up as usize..).filter(|warm| !warm.is_empty()).context("pgbench reports its rates")?;
    Ok(warm.iter().sum::<f64>() / warm.len() as f64)
}
