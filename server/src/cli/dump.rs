//! PostgreSQL's own programs that dump a database and restore one, and the connections beside them: for [`super::backup`] and
//! [`super::restore`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    libc,
    sys::{prctl::set_pdeathsig, signal::Signal},
};
use postern_cluster::size_in_words;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};
use tokio_postgres::Client;

use crate::{
    config::ConnectionString,
    database::{DatabaseError, Way, connect_as_superuser},
    say::say,
};

/// Time between two lines about progress.
const PACE: Duration = Duration::from_secs(5);
/// Time that a program has for a connection. What a connection string says of these bounds prevails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a word after which a program asks PostgreSQL for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a program gives up a PostgreSQL that acknowledges nothing. It is long, because one that takes no more bytes,
/// as while its disk is slow, is given up as well.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5 * 60);
/// The priority by which `pg_dump` stands behind servers.
const NICENESS: i32 = 10;
/// Most lines of a failed program that are shown.
const SHOWN_LINES: usize = 20;

/// Bytes below a directory, as far as they can be read: others write to it meanwhile.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum()
}

/// One of PostgreSQL's programs, on a database.
pub struct Program {
    command: Command,
    name: &'static str,
    input: Option<String>,
}

impl Program {
    /// `purpose` is how PostgreSQL knows its connection.
    pub fn new(bin: &Path, name: &'static str, purpose: &str) -> Self {
        let mut command = Command::new(bin.join(name));
        // Nothing of our environment leads it elsewhere.
        command
            .env_clear()
            .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("PGAPPNAME", purpose)
            .env("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT.as_secs().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let niceness = if name == "pg_dump" { NICENESS } else { 0 };
        // SAFETY: between fork and exec it makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                // It compresses, beside servers. A kernel that refuses lets it be as it is.
                libc::nice(niceness);
                // If we are killed: its work is of no use, and in the way of the next attempt.
                Ok(set_pdeathsig(Signal::SIGKILL)?)
            });
        }
        Self { command, name, input: None }
    }

    /// Connects to this database, with these options of the session. A password is not among the arguments, which everybody on
    /// this machine can see.
    pub fn database(mut self, url: &ConnectionString, options: &str) -> anyhow::Result<Self> {
        let way = Way::of(url)?;
        let bounds = [
            ("keepalives_idle", KEEPALIVE.as_secs()),
            ("keepalives_interval", KEEPALIVE_INTERVAL.as_secs()),
            ("tcp_user_timeout", UNACKNOWLEDGED.as_secs() * 1000),
        ];
        self.command.arg("--no-password").arg(format!("--dbname={}", way.for_program(&bounds, options)?));
        if let Some(password) = way.password() {
            self.command.env("PGPASSWORD", password);
        }
        Ok(self)
    }

    pub fn args<A: AsRef<std::ffi::OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Gives the program this to read. It reads it before all else.
    pub fn input(mut self, text: String) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(text);
        self
    }

    /// Runs the program to its end. Each line that it says is given to `watch`.
    ///
    /// # Errors
    /// It is not there, or fails: with what it said last.
    pub async fn run(mut self, mut watch: impl FnMut(&str)) -> anyhow::Result<()> {
        let mut child = self.command.spawn().with_context(|| format!("cannot run {}", self.name))?;
        let mut said = Vec::new();
        if let (Some(text), Some(mut input)) = (self.input.take(), child.stdin.take()) {
            // One that ended already says why.
            let _ended = input.write_all(text.as_bytes()).await;
        }
        if let Some(errors) = child.stderr.take() {
            let mut lines = BufReader::new(errors).lines();
            while let Some(line) = lines.next_line().await? {
                watch(&line);
                if ["error", "warning", "hint"].iter().any(|kind| line.contains(&format!("{kind}: "))) {
                    said.push(line);
                }
            }
        }
        let status = child.wait().await?;
        said.drain(..said.len().saturating_sub(SHOWN_LINES));
        match status.success() {
            true => Ok(()),
            false => bail!("{} failed: {}", self.name, said.join("\n")),
        }
    }
}

/// Tells from time to time how far a work is.
pub struct Progress {
    /// Words that the program says once for each part of the work.
    signs: &'static [&'static str],
    what: &'static str,
    total: usize,
    done: usize,
    /// The directory that grows meanwhile.
    grows: Option<PathBuf>,
    told: Instant,
}

impl Progress {
    pub fn new(what: &'static str, signs: &'static [&'static str], total: usize) -> Self {
        Self { signs, what, total, done: 0, grows: None, told: Instant::now() }
    }

    /// Tells how large this directory is, too.
    pub fn of_directory(mut self, dir: &Path) -> Self {
        self.grows = Some(dir.to_owned());
        self
    }

    pub fn watch(&mut self, line: &str) {
        if self.signs.iter().any(|sign| line.contains(sign)) {
            self.done += 1;
        }
        if self.told.elapsed() >= PACE {
            self.told = Instant::now();
            let size = self.grows.as_ref().map(|dir| format!(", {}", size_in_words(size(dir))));
            let size = size.unwrap_or_default();
            say(format!("{}: {} of {}{size}", self.what, self.done.min(self.total), self.total));
        }
    }
}

/// Connects as a superuser, for `purpose`.
pub async fn connect(url: &ConnectionString, purpose: &str) -> anyhow::Result<Client> {
    let client = open(url, purpose).await?;
    let superuser: bool = client
        .query_one("SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user", &[])
        .await
        .map_err(DatabaseError::from)?
        .get(0);
    ensure!(superuser, "{purpose} needs a superuser in database.admin_url");
    Ok(client)
}

/// Connects as a role that may read everything: `postern_backup`, or a superuser.
pub async fn connect_to_read(url: &ConnectionString, purpose: &str) -> anyhow::Result<Client> {
    let client = open(url, purpose).await?;
    let may: bool = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_roles r
                             WHERE r.rolname = 'postern_backup' AND pg_has_role(current_user, r.oid, 'USAGE'))",
            &[],
        )
        .await
        .map_err(DatabaseError::from)?
        .get(0);
    ensure!(
        may,
        "{purpose} needs a role in database.admin_url that is a member of postern_backup, or a superuser"
    );
    Ok(client)
}

/// The options of the sessions in which a program writes, some of them idle for hours until others are done: none, unless new
/// sessions would be read-only, or end while they are idle. (PostgreSQL's programs free themselves from all other limits of time; and
/// there are poolers that refuse options.)
pub async fn options_to_write(url: &ConnectionString, purpose: &str) -> anyhow::Result<String> {
    let client = connect(url, purpose).await?;
    let row = client.query_one(OPTIONS_TO_WRITE, &[]).await.map_err(DatabaseError::from)?;
    Ok(row.get(0))
}

/// A new session's defaults are what its own settings would be reset to.
const OPTIONS_TO_WRITE: &str = "
    SELECT coalesce(string_agg(format('-c %s=%s', s.name, f.free), ' ' ORDER BY s.name), '')
      FROM pg_settings s
      JOIN (VALUES ('default_transaction_read_only', 'off'), ('idle_session_timeout', '0')) AS f (name, free) ON f.name = s.name
     WHERE s.reset_val <> f.free";

async fn open(url: &ConnectionString, purpose: &str) -> anyhow::Result<Client> {
    let client = connect_as_superuser(url, purpose).await?;
    client
        .batch_execute(
            "SET search_path = pg_catalog, pg_temp; SET client_min_messages = warning; SET lock_timeout = '60s'",
        )
        .await
        .map_err(DatabaseError::from)?;
    Ok(client)
}
