//! Backup and restore by `postern`, and the clients of a server that was restored: they go on, also where they are ahead of
//! it (OPS-5, QS-12).

mod backups;
mod clients;
mod generations;
mod restores;
mod rights;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use postern_client::{Client, Event, Options};
use postern_tests_kit::{Cluster, DataDir, HOME, PATIENCE, Server, eventually, postern};
use tempfile::TempDir;
use tokio::process::Command;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub async fn succeeds(command: &mut Command) -> String {
    let output = command.output().await.expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

pub async fn fails(command: &mut Command, expected: &str) {
    let output = command.output().await.expect("it runs");
    let said = said(&output);
    assert!(!output.status.success() && said.contains(expected), "{expected:?} in:\n{said}");
}

/// `postern backup` or `restore`, of a directory, on the cluster.
pub fn on(cluster: &Cluster, command: &str, dir: &Path) -> Command {
    let mut postern = postern();
    postern
        .arg(command)
        .arg(dir)
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url())
        .env("POSTERN_MASTER_KEY", cluster.master_key());
    postern
}

/// `postern restore` of a cluster's backup into an empty database, by this connection string.
pub fn into_database(cluster: &Cluster, dir: &Path, admin_url: &str) -> Command {
    let mut restore = on(cluster, "restore", dir);
    restore.env("POSTERN_DATABASE_ADMIN_URL", admin_url);
    restore
}

/// `postern restore` into a private cluster that it makes.
pub fn into(data_dir: &DataDir, dir: &Path, master_key: &str) -> Command {
    let mut postern = postern();
    postern
        .arg("restore")
        .arg(dir)
        .args(["--embedded", "--domain", HOME, "--data-dir"])
        .arg(data_dir.path())
        .env("POSTERN_MASTER_KEY", master_key);
    postern
}

/// A homeserver with a backup, and an empty database beside its own, whose name is `elsewhere`.
pub struct BackedUp {
    /// A superuser's connection to the homeserver's database.
    pub admin: tokio_postgres::Client,
    pub cluster: Cluster,
    /// A place for backups.
    pub places: TempDir,
    /// The backup, there.
    pub dir: PathBuf,
    /// The connection string by which a superuser comes into the empty database.
    pub elsewhere: String,
}

impl BackedUp {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts one whose operator executed this SQL before the backup.
    pub async fn start_with(sql: &str) -> Self {
        let cluster = Cluster::start().await;
        // A session of a server that is killed may be at work yet.
        assert!(Server::start(&cluster).await.terminate().await.success());
        let admin = cluster.admin().await;
        admin.batch_execute(sql).await.unwrap();
        let places = tempfile::tempdir().unwrap();
        let dir = places.path().join("good");
        succeeds(&mut on(&cluster, "backup", &dir)).await;
        let elsewhere = cluster.another_database("elsewhere").await;
        Self { admin, cluster, places, dir, elsewhere }
    }
}

/// Lets this machine's users into all databases of a cluster, as any role.
async fn let_everybody_in(cluster: &Cluster) {
    let rules = cluster.data_dir().join("cluster/pg_hba.conf");
    // The first rule that fits counts.
    let text = "local all all trust\n".to_owned() + &fs::read_to_string(&rules).unwrap();
    fs::write(&rules, text).unwrap();
    cluster.reload().await;
}

fn patient() -> Options {
    Options { accept_contacts: true, durable: false, return_after: Duration::ZERO, ..Options::default() }
}

async fn sync(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.unwrap()
}

async fn hears(client: &Client, words: &str) -> Vec<Event> {
    let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == words);
    let events = client.sync_until(PATIENCE, heard).await.unwrap();
    assert!(events.iter().any(heard), "{} hears {words:?}: {events:?}", client.user());
    events
}

/// Ends a session, and waits until the server has ended it, too: a restore finds nobody there.
pub async fn end(admin: &tokio_postgres::Client, client: tokio_postgres::Client) {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    drop(client);
    eventually("the session is over", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        (admin.query_one(sql, &[&pid]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

/// Time after which a backup or a restore that goes on tells how far it is.
const A_LINE: Duration = Duration::from_secs(6);

/// Asserts that there is a line such as "postern: tables: 3 of 66".
fn assert_tells_progress(said: &str, what: &str) {
    let progress = said.lines().filter_map(|line| line.strip_prefix(&format!("postern: {what}: ")));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_progress = |line: &str| {
        let (done, all) = line.split_once(" of ").unwrap_or_default();
        is_number(done) && is_number(all.split(',').next().unwrap_or_default())
    };
    assert!(progress.into_iter().any(is_progress), "{what} in:\n{said}");
}
