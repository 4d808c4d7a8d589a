//! Time of a backup and a restore of a database of a given size, next to `pg_basebackup` alone, which copies files as they
//! are (OPS-5).

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use postern_tests_kit::{Cluster, DataDir, HOME, postern};
use rand::RngCore as _;

/// Bytes of a message in a queue, and how many different ones there are: more than a compressor remembers.
const MESSAGE: usize = 1024;
const DIFFERENT: usize = 4096;
/// Messages in a queue, and rows that one statement writes.
const PER_QUEUE: i64 = 1000;
const AT_ONCE: i64 = 1_000_000;

pub async fn measure(mebibytes: i64) -> Result<()> {
    let cluster = Cluster::start().await;
    fill(&cluster, mebibytes).await?;
    let size: i64 =
        cluster.admin().await.query_one("SELECT pg_database_size(current_database())", &[]).await?.get(0);
    let places = tempfile::tempdir()?;
    let (base, dump) = (places.path().join("base"), places.path().join("dump"));
    let mut rows = Vec::new();
    let mut timed = |what: &str, begun: Instant, bytes: u64| {
        rows.push(format!(
            "| {what} | {:.1} | {:.0} |",
            begun.elapsed().as_secs_f64(),
            bytes as f64 / 1048576.0
        ));
    };

    let begun = Instant::now();
    cluster.base_backup(&base).await;
    timed("`pg_basebackup`", begun, tree_bytes(&base)?);
    fs::remove_dir_all(&base)?;

    let begun = Instant::now();
    run(&cluster, &["backup"], &dump, None).await?;
    timed("`postern backup`, verification included", begun, tree_bytes(&dump)?);
    let begun = Instant::now();
    run(&cluster, &["backup", "--verify"], &dump, None).await?;
    timed("`postern backup --verify`", begun, tree_bytes(&dump)?);

    let elsewhere = DataDir::fresh();
    let begun = Instant::now();
    run(&cluster, &["restore", "--embedded"], &dump, Some(elsewhere.path())).await?;
    timed("`postern restore`, into a new cluster", begun, tree_bytes(&elsewhere.cluster())?);

    println!("A database of {:.0} MiB:\n\n| | seconds | MiB |\n|---|--:|--:|", size as f64 / 1048576.0);
    rows.iter().for_each(|row| println!("{row}"));
    Ok(())
}

/// Messages that wait in queues, as sealed ones do: bytes that do not compress.
async fn fill(cluster: &Cluster, mebibytes: i64) -> Result<()> {
    let admin = cluster.admin().await;
    admin.batch_execute("CREATE TEMP TABLE payloads (number integer PRIMARY KEY, bytes bytea)").await?;
    let payloads: Vec<Vec<u8>> = (0..DIFFERENT)
        .map(|_| {
            let mut bytes = vec![0; MESSAGE];
            rand::rng().fill_bytes(&mut bytes);
            bytes
        })
        .collect();
    let sql = "INSERT INTO payloads SELECT p.number - 1, p.bytes FROM unnest($1::bytea[]) WITH ORDINALITY p (bytes, number)";
    admin.execute(sql, &[&payloads]).await?;
    let messages = mebibytes * 1024 * 1024 / MESSAGE as i64;
    admin
        .execute(
            "INSERT INTO qs.queues (queue_id, kind, owner_key, hpke_key, next_seq, last_active)
             SELECT substr(sha256(int8send(q)), 1, 16), 'group', sha256(int8send(q)), sha256(int8send(q)), $2::bigint + 1, current_date
               FROM generate_series(0, ($1::bigint - 1) / $2::bigint) q",
            &[&messages, &PER_QUEUE],
        )
        .await?;
    let mut first = 0;
    while first < messages {
        admin
            .execute(
                "INSERT INTO qs.messages (queue_id, seq, chain, chain_index, ciphertext)
                 SELECT substr(sha256(int8send(m / $3::bigint)), 1, 16), m % $3 + 1, 1, m % $3, p.bytes
                   FROM generate_series($1::bigint, $2::bigint - 1) m
                   JOIN payloads p ON p.number = m % $4::bigint",
                &[&first, &messages.min(first + AT_ONCE), &PER_QUEUE, &(DIFFERENT as i64)],
            )
            .await?;
        first += AT_ONCE;
    }
    admin.batch_execute("VACUUM ANALYZE").await?;
    admin.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// A command of `postern` on the cluster, or into a private one.
async fn run(cluster: &Cluster, arguments: &[&str], dir: &Path, data_dir: Option<&Path>) -> Result<()> {
    let mut command = postern();
    command
        .args(arguments)
        .arg(dir)
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_MASTER_KEY", cluster.master_key());
    match data_dir {
        Some(data_dir) => command.env("POSTERN_DATA_DIR", data_dir),
        None => command.env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url()),
    };
    let output = command.output().await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn tree_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        bytes += if path.is_dir() { tree_bytes(&path)? } else { fs::symlink_metadata(&path)?.len() };
    }
    Ok(bytes)
}
