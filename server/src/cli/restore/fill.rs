//! `pg_restore` fills the database with what the dump of a backup has, while servers cannot come in.

use std::path::Path;

use anyhow::{Context, ensure};
use tokio_postgres::Client;

use super::{PURPOSE, roles};
use crate::{
    cli::{
        dump::{Program, Progress, options_to_write},
        manifest::{DATABASE, Manifest},
    },
    config::ConnectionString,
    database::DatabaseError,
    say::say,
};

/// The entry of a dump that makes a database whole: the row of its generation.
const WHOLE: &str = " TABLE DATA operator generation ";

/// Fills the database, and returns what had to be left out of the roles. Servers cannot come in.
pub(super) async fn fill(
    client: &Client,
    url: &ConnectionString,
    bin: &Path,
    dir: &Path,
    manifest: &Manifest,
    jobs: u16,
) -> anyhow::Result<Vec<String>> {
    let mut left_out = manifest.roles.make(client).await?;
    let run = async |what: &str, sql: &str| {
        client.batch_execute(sql).await.map_err(DatabaseError::from).context(what.to_owned())
    };
    run("cannot close the database to servers", CLOSE).await?;
    let absent = roles::make_absent(client, &manifest.superusers).await?;
    left_out.extend(manifest.roles.superusers_left_out(&absent));

    let database = dir.join(DATABASE);
    let signs = &["pg_restore: creating ", "pg_restore: processing data for table "];
    let entries = entries(bin, &database).await?;
    let (last, others): (Vec<&str>, Vec<&str>) = entries.lines().partition(|line| line.contains(WHOLE));
    ensure!(last.len() == 1, "the dump has {} rows of a generation, and not one", last.len());
    let mut progress = Progress::new("tables, functions and indexes", signs, others.len());
    let restored = restore_entries(bin, url, &database, jobs, &others, |line| progress.watch(line)).await;
    // Also after a failure: they are not to stay.
    roles::drop_absent(client, &absent).await?;
    restored?;

    say("gathering statistics");
    run("cannot gather statistics", "ANALYZE").await?;
    left_out.extend(manifest.roles.make_rights(client).await);
    // The database is whole with this, and of a generation of before until another begins.
    restore_entries(bin, url, &database, 1, &last, |_| {}).await?;
    Ok(left_out)
}

/// Restores these entries of a dump. `pg_restore` reads the list once, before it starts its jobs. A subscription has a way to
/// another server, which is not for each copy of a database; and while there is one, nothing that failed can be removed. Tablespaces
/// are the cluster's, and not here: everything goes into the database's own.
async fn restore_entries(
    bin: &Path,
    url: &ConnectionString,
    database: &Path,
    jobs: u16,
    entries: &[&str],
    watch: impl FnMut(&str),
) -> anyhow::Result<()> {
    Program::new(bin, "pg_restore", PURPOSE)
        // Settings of the database and of roles are there already.
        .database(url, &options_to_write(url, PURPOSE).await?)?
        .args(["--exit-on-error", "--verbose", "--no-subscriptions", "--no-tablespaces"])
        .args(["--use-list=/dev/stdin"])
        .args([format!("--jobs={jobs}")])
        .args([database])
        .input(entries.join("\n") + "\n")
        .run(watch)
        .await
}

/// The list of a dump's entries, one in each line, without rights on what is PostgreSQL's own: another major version has other
/// functions, and [`migrate`](crate::database::migrate) takes those rights away anew. Comments on subscriptions
/// are not in it either: some versions of `pg_restore` leave a subscription out, and not its comment.
async fn entries(bin: &Path, database: &Path) -> anyhow::Result<String> {
    let output = tokio::process::Command::new(bin.join("pg_restore"))
        .arg("--list")
        .arg(database)
        .env("LC_ALL", "C")
        .output()
        .await
        .context("cannot run pg_restore")?;
    ensure!(output.status.success(), "pg_restore cannot list the dump");
    let list = String::from_utf8(output.stdout).context("the dump's list is no text")?;
    let is_taken = |line: &&str| {
        !line.starts_with(';')
            && !line.trim().is_empty()
            && ![" ACL pg_catalog ", " COMMENT - SUBSCRIPTION "].iter().any(|entry| line.contains(entry))
    };
    let entries = list.lines().filter(is_taken);
    Ok(entries.collect::<Vec<_>>().join("\n"))
}

/// Lets nobody but superusers into the database, until `postern migrate` opens it.
const CLOSE: &str = "
    DO $$
    BEGIN
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC, postern_server, postern_operator, postern_monitor, postern_backup',
                       current_database());
    END
    $$";
