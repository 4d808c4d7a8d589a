//! `postern master-key change`: seals everything that is sealed under the master key under another one, while servers
//! run. It goes in steps: from its begin to its end the database takes values under either key, each batch is one
//! transaction, and a run that was interrupted is taken up by the next.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use postern_cluster::PrivateCluster;
use tokio_postgres::{Client, NoTls};

use super::{migrate::admin_url, private_cluster};
use crate::{
    config::{Config, ConnectionString, Settings},
    database::{DatabaseError, SqlOutcome, outcome},
    keys::{MasterKey, master_keys::Sources},
    telemetry,
};

/// Rows that are looked at in one transaction.
const BATCH: i32 = 500;
/// Time within which running servers look for a new key, with a margin.
const TAKEN_OVER: Duration = Duration::from_secs(15);
/// Attempts at the end: servers may seal under the old key until they have looked for the new one.
const ATTEMPTS: usize = 20;

outcome! {
    pub BeginMasterKeyChangeOutcome: "operator.begin_master_key_change_outcome" {
        Begun = "begun",
        UnderWay = "under_way",
        Ended = "ended",
        Different = "different",
    }
}

outcome! {
    pub EndMasterKeyChangeOutcome: "operator.end_master_key_change_outcome" {
        Ended = "ended",
        Unfinished = "unfinished",
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Seal the database's secrets under the key in the next master key file, while servers run
    #[command(after_help = super::EXAMPLES)]
    Change(Settings),
}

pub async fn run(Command::Change(settings): Command) -> anyhow::Result<()> {
    let mut config = Config::load(&settings)?;
    telemetry::start_logging(&config.log)?;
    let cluster = private_cluster::start(&mut config, PrivateCluster::start_or_join).await?;
    let changed = change(&config).await;
    let stopped = private_cluster::stop(cluster).await;
    changed.and(stopped)
}

async fn change(config: &Config) -> anyhow::Result<()> {
    let sources = Sources::of(config);
    let old = sources.key()?;
    let file = sources.next_file.as_deref().context(
        "no file is named for the next master key: give --next-master-key-file FILE to this command and to all servers",
    )?;
    let new = match config.embedded && config.next_master_key_file.is_none() {
        true => MasterKey::from_file_or_new(file)?,
        false => MasterKey::from_file(file)?,
    };
    if old.id() == new.id() {
        bail!("the next master key is the present one: put another one into {}", file.display());
    }
    let client = connect(admin_url(config)?).await?;
    let row = client
        .query_one(
            "SELECT outcome FROM operator.begin_master_key_change($1, $2)",
            &[&old.id().as_bytes(), &new.id().as_bytes()],
        )
        .await
        .map_err(DatabaseError::from)?;
    let begun = Instant::now();
    match BeginMasterKeyChangeOutcome::of(&row)? {
        BeginMasterKeyChangeOutcome::Begun => println!("postern: the change of the master key begins"),
        BeginMasterKeyChangeOutcome::UnderWay => {
            println!("postern: the change of the master key goes on where it was interrupted");
        }
        BeginMasterKeyChangeOutcome::Ended => return done(config, &sources),
        BeginMasterKeyChangeOutcome::Different => bail!(
            "the database is sealed under another master key than the one configured, or another change is under way: run this with the keys of that change"
        ),
    }
    println!("postern: {} values are sealed anew", seal_all(&client, &old, &new).await?);
    println!("postern: waiting until running servers have the new key");
    tokio::time::sleep(TAKEN_OVER.saturating_sub(begun.elapsed())).await;
    for _ in 0..ATTEMPTS {
        seal_all(&client, &old, &new).await?;
        let row = client
            .query_one("SELECT outcome FROM operator.end_master_key_change()", &[])
            .await
            .map_err(DatabaseError::from)?;
        match EndMasterKeyChangeOutcome::of(&row)? {
            EndMasterKeyChangeOutcome::Ended => return done(config, &sources),
            EndMasterKeyChangeOutcome::Unfinished => tokio::time::sleep(TAKEN_OVER / 10).await,
        }
    }
    bail!(
        "servers go on sealing under the old key: give all of them the new one (--next-master-key-file), and run this again"
    )
}

/// Seals all values that are under the old key, and returns their number.
async fn seal_all(client: &Client, old: &MasterKey, new: &MasterKey) -> anyhow::Result<usize> {
    let columns = client
        .query("SELECT place::text, value_column, purpose FROM operator.sealed_columns()", &[])
        .await
        .map_err(DatabaseError::from)?;
    let mut number = 0;
    for column in columns {
        let (place, value_column, purpose): (&str, &str, &str) =
            (column.get(0), column.get(1), column.get(2));
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = client
                .query(
                    "SELECT identity, value FROM operator.sealed_values($1::text::regclass, $2, $3, $4)",
                    &[&place, &value_column, &after, &BATCH],
                )
                .await
                .map_err(DatabaseError::from)?;
            let Some(last) = rows.last() else { break };
            after = Some(last.get(0));
            let (mut identities, mut sealed, mut anew) = (Vec::new(), Vec::new(), Vec::new());
            for row in &rows {
                let (identity, value): (&[u8], Option<&[u8]>) = (row.get(0), row.get(1));
                let Some(value) = value else { continue };
                let opened = old.open(purpose, identity, value).with_context(|| {
                    format!("a value of {place}.{value_column} opens under neither of the two keys")
                })?;
                identities.push(identity);
                sealed.push(value);
                anew.push(new.seal(purpose, identity, &opened));
            }
            number += anew.len();
            if !anew.is_empty() {
                client
                    .query_one(
                        "SELECT operator.seal_anew($1::text::regclass, $2, $3, $4, $5)",
                        &[&place, &value_column, &identities, &sealed, &anew],
                    )
                    .await
                    .map_err(DatabaseError::from)?;
            }
        }
    }
    Ok(number)
}

/// Puts the new key into the old one's place, if that is in the data directory, or says what to do.
fn done(config: &Config, sources: &Sources) -> anyhow::Result<()> {
    println!("postern: the change of the master key is done");
    match (config.master_key_file(), sources.next_file.as_deref()) {
        (Some(file), Some(next)) if config.embedded && config.master_key_file.is_none() => {
            std::fs::rename(next, &file)
                .with_context(|| format!("cannot move {} to {}", next.display(), file.display()))?;
            println!("postern: the new key is in {}", file.display());
        }
        (Some(file), Some(next)) => println!(
            "postern: on every host, put the new key in its place: mv {} {}",
            next.display(),
            file.display()
        ),
        _ => println!("postern: start every server with the new key from now on"),
    }
    println!("postern: keep the old key as long as there are backups from before");
    Ok(())
}

async fn connect(admin_url: &ConnectionString) -> anyhow::Result<Client> {
    let mut config = tokio_postgres::Config::from_str(admin_url.as_str())
        .context("database.admin_url is not a valid connection string")?;
    config.application_name("postern master-key change");
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(DatabaseError::from)
        .context("cannot connect as a superuser (database.admin_url)")?;
    tokio::spawn(connection);
    client
        .batch_execute("SET search_path = pg_catalog, pg_temp; SET lock_timeout = '10s'")
        .await
        .map_err(DatabaseError::from)?;
    Ok(client)
}
