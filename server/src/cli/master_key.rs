//! `postern master-key`: makes another master key, and changes to it. `change` seals everything that is sealed under the
//! master key under another one, while servers run. It goes in steps: from its begin to its end the database takes values
//! under either key, each batch is one transaction, and a run that was interrupted is taken up by the next.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use nix::unistd::Uid;
use tokio_postgres::Client;

use super::{
    migrate::{admin_url, connect},
    private_cluster,
    user::load,
};
use crate::{
    config::{Config, Settings},
    database::{DatabaseError, SqlOutcome, outcome},
    files,
    keys::{MasterKey, master_keys::Sources},
    say::say,
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
    /// Make a key in the next master key file, which only the owner of the present one can read, unless there is one
    #[command(after_help = super::EXAMPLES)]
    New(Settings),
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let settings = match command {
        Command::Change(settings) => settings,
        Command::New(settings) => return make_next(&load(&settings)?),
    };
    let config = load(&settings)?;
    telemetry::start_logging(&config.log)?;
    private_cluster::during(config, change).await
}

/// The file of the next key.
fn next_file(sources: &Sources) -> anyhow::Result<&Path> {
    sources.next_file.as_deref().context(
        "no file is named for the next master key: give --next-master-key-file FILE to this command and to all servers",
    )
}

/// Makes the next key, if there is none.
fn make_next(config: &Config) -> anyhow::Result<()> {
    let sources = Sources::of(config);
    let file = next_file(&sources)?;
    let present = config.master_key_file().and_then(|present| fs::metadata(present).ok());
    let owner = present.map(|present| (present.uid(), present.gid()));
    let is_root = Uid::effective().is_root();
    let is_made_for_owner = is_root && !file.exists();
    // The server has to read it, whoever makes it: a server that finds one which it cannot read does not start.
    MasterKey::from_file_or_new_of(file, owner.filter(|_| is_root))?;
    let found = fs::metadata(file).ok().map(|found| (found.uid(), found.gid()));
    // One that was there may be another user's.
    if let Some((user, group)) = owner.filter(|_| !is_made_for_owner && found != owner) {
        files::give_to(file, user, group)
            .with_context(|| format!("cannot give {} to the owner of the present key", file.display()))?;
    }
    say(format_args!("the next master key is in {}", file.display()));
    Ok(())
}

/// Refuses a next key that servers cannot read: they would open nothing once the change is done.
fn expect_servers_to_read(config: &Config, next: &Path) -> anyhow::Result<()> {
    let owner = |file: &Path| fs::metadata(file).ok().map(|file| file.uid());
    let present = config.master_key_file().and_then(|present| owner(&present));
    ensure!(
        present.is_none() || owner(next) == present,
        "{} does not belong to the owner of the present master key, so that servers cannot read it: `chown` it, or let `postern master-key new` make it",
        next.display()
    );
    Ok(())
}

async fn change(config: &Config) -> anyhow::Result<()> {
    let sources = Sources::of(config);
    let old = sources.key()?;
    let file = next_file(&sources)?;
    let new = match config.embedded && config.next_master_key_file.is_none() {
        true => MasterKey::from_file_or_new(file)?,
        false => MasterKey::from_file(file)?,
    };
    if old.id() == new.id() {
        bail!("the next master key is the present one: put another one into {}", file.display());
    }
    expect_servers_to_read(config, file)?;
    let client = connect(admin_url(config)?, "master-key change").await?;
    let row = client
        .query_one(
            "SELECT outcome FROM operator.begin_master_key_change($1, $2)",
            &[&old.id().as_bytes(), &new.id().as_bytes()],
        )
        .await
        .map_err(DatabaseError::from)?;
    let begun = Instant::now();
    match BeginMasterKeyChangeOutcome::of(&row)? {
        BeginMasterKeyChangeOutcome::Begun => say("the change of the master key begins"),
        BeginMasterKeyChangeOutcome::UnderWay => {
            say("the change of the master key goes on where it was interrupted");
        }
        BeginMasterKeyChangeOutcome::Ended => return done(config, &sources, &old),
        BeginMasterKeyChangeOutcome::Different => bail!(
            "the database is sealed under another master key than the one configured, or another change is under way: run this with the keys of that change"
        ),
    }
    let sealed = seal_all(&client, &old, &new).await?;
    say(format_args!("{sealed} values are sealed anew"));
    say("waiting until running servers have the new key");
    tokio::time::sleep(TAKEN_OVER.saturating_sub(begun.elapsed())).await;
    for _ in 0..ATTEMPTS {
        seal_all(&client, &old, &new).await?;
        let row = client
            .query_one("SELECT outcome FROM operator.end_master_key_change()", &[])
            .await
            .map_err(DatabaseError::from)?;
        match EndMasterKeyChangeOutcome::of(&row)? {
            EndMasterKeyChangeOutcome::Ended => return done(config, &sources, &old),
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

/// Puts the new key into the old one's place, if that is in the data directory, or says what to do. The old one stays under
/// another name: backups of before open with nothing else, and perhaps nobody has a copy.
fn done(config: &Config, sources: &Sources, old: &MasterKey) -> anyhow::Result<()> {
    say("the change of the master key is done");
    let kept = |file: &Path| file.with_added_extension(hex::encode(old.id().as_bytes()));
    match (config.master_key_file(), sources.next_file.as_deref()) {
        (Some(file), Some(next)) if config.embedded && config.master_key_file.is_none() => {
            let kept = kept(&file);
            match fs::hard_link(&file, &kept) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error)
                        .with_context(|| format!("cannot keep the old key as {}", kept.display()));
                }
                _ => {}
            }
            fs::rename(next, &file)
                .with_context(|| format!("cannot move {} to {}", next.display(), file.display()))?;
            say(format_args!("the new key is in {}, the old one in {}", file.display(), kept.display()));
        }
        (Some(file), Some(next)) => say(format_args!(
            "on every host, keep the old key, and put the new one in its place: ln {0} {1} && mv {2} {0}",
            file.display(),
            kept(&file).display(),
            next.display(),
        )),
        _ => say("start every server with the new key from now on"),
    }
    say(
        "keep the old key as long as there are backups from before, and a copy of the new one in another place: later backups open with that only",
    );
    Ok(())
}
