//! The cluster's life: made, started, joined, stopped.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    errno::Errno,
    fcntl::Flock,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    ADMIN, DATABASE, SERVER,
    data_dir::DataDir,
    installation::Installation,
    messages,
    postgresql::SystemPostgres,
    settings::{self, Settings},
    user::ClusterUser,
};

const START_WITHIN_SECONDS: &str = "60";
const STOP_WITHIN: Duration = Duration::from_secs(60);
const LOG_KEEP_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    data_dir: PathBuf,
    extension_dir: PathBuf,
    settings: Settings,
    environment: Vec<(String, String)>,
}

/// A running private cluster. Dropping it leaves the cluster running; the next start takes it over.
pub struct PrivateCluster {
    dir: DataDir,
    user: ClusterUser,
    /// None: another process runs the cluster, we only use it.
    lock: Option<Flock<File>>,
}

impl ClusterOptions {
    /// `extension_dir` holds postern.control, postern--*.sql and `<PostgreSQL major>/postern.so`.
    pub fn new(data_dir: &Path, extension_dir: &Path) -> Self {
        let (data_dir, extension_dir) = (data_dir.to_owned(), extension_dir.to_owned());
        Self { data_dir, extension_dir, settings: Settings::default(), environment: Vec::new() }
    }

    /// Takes so much shared memory, in megabytes, instead of what fits the machine: for one of several clusters.
    pub fn with_shared_buffers(mut self, megabytes: u64) -> Self {
        self.settings.shared_buffers_megabytes = Some(megabytes);
        self
    }

    /// Adds a line of postgresql.conf, which wins over ours.
    pub fn with_setting(mut self, line: impl Into<String>) -> Self {
        self.settings.further.push(line.into());
        self
    }

    /// Gives PostgreSQL an environment variable. It gets none of ours.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whether there is a cluster in the data directory; a start would make one.
    pub fn cluster_exists(&self) -> bool {
        self.data_dir.join(crate::data_dir::CLUSTER).exists()
    }
}

impl PrivateCluster {
    /// Starts the cluster, after making it if there is none. Takes over a cluster whose server was killed.
    ///
    /// # Errors
    /// Another process runs the cluster; PostgreSQL or the extension is missing, or does not start.
    pub fn start(options: &ClusterOptions) -> anyhow::Result<Self> {
        let cluster = Self::locked(&options.data_dir)?;
        // A postmaster that a killed server left may have older programs and settings.
        cluster.stop_postmaster()?;
        let postgres = SystemPostgres::find(&options.extension_dir, cluster.dir.cluster_major()?)?;
        let installation = Installation::new(cluster.dir.installation(), &postgres);
        installation.install(&postgres, &options.extension_dir)?;
        installation.expect_executable(&cluster.user)?;
        cluster.make_cluster_if_missing(&installation)?;
        settings::write(&options.settings, &cluster.dir, &cluster.user)?;
        cluster.start_postmaster(&installation, &options.environment)?;
        Ok(cluster)
    }

    /// Like [`PrivateCluster::start`], but uses the cluster of another process if one runs it already.
    ///
    /// # Errors
    /// As for [`PrivateCluster::start`].
    pub fn start_or_join(options: &ClusterOptions) -> anyhow::Result<Self> {
        let user = ClusterUser::find()?;
        let dir = DataDir::prepare(&options.data_dir, &user)?;
        match dir.lock()? {
            None => Ok(Self { dir, user, lock: None }),
            Some(lock) => {
                drop(lock);
                Self::start(options)
            }
        }
    }

    /// Stops the cluster that a process left running in this data directory.
    ///
    /// # Errors
    /// Another process runs the cluster, or PostgreSQL does not stop.
    pub fn stop_in(data_dir: &Path) -> anyhow::Result<()> {
        Self::locked(data_dir)?.stop()
    }

    fn locked(data_dir: &Path) -> anyhow::Result<Self> {
        let user = ClusterUser::find()?;
        let dir = DataDir::prepare(data_dir, &user)?;
        let Some(lock) = dir.lock()? else {
            bail!(
                "another `postern` runs the private cluster in {}: stop it first, or choose another --data-dir",
                dir.path().display()
            );
        };
        Ok(Self { dir, user, lock: Some(lock) })
    }

    /// Connection string, as a key=value list, for the role that the server uses.
    pub fn server_url(&self) -> String {
        self.url(SERVER)
    }

    /// Connection string, as a key=value list, for a superuser.
    pub fn admin_url(&self) -> String {
        self.url(ADMIN)
    }

    fn url(&self, role: &str) -> String {
        format!(
            "host={} user={role} dbname={DATABASE}",
            quoted_for_conninfo(&self.dir.socket_dir().display().to_string())
        )
    }

    /// The directory of the socket: what `psql -h` takes.
    pub fn socket_dir(&self) -> &Path {
        self.dir.socket_dir()
    }

    /// PostgreSQL's data directory.
    pub fn cluster_dir(&self) -> PathBuf {
        self.dir.cluster()
    }

    /// Ends all sessions and stops the cluster; nothing committed is lost. Does nothing for a cluster that another
    /// process runs.
    ///
    /// # Errors
    /// PostgreSQL does not stop.
    pub fn stop(self) -> anyhow::Result<()> {
        match self.lock {
            Some(_) => self.stop_postmaster(),
            None => Ok(()),
        }
    }

    fn make_cluster_if_missing(&self, installation: &Installation) -> anyhow::Result<()> {
        let cluster = self.dir.cluster();
        if cluster.join("PG_VERSION").exists() {
            return Ok(());
        }
        // Made under another name, so that the remains of an interruption are never taken for a cluster.
        let new = cluster.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        }
        self.user.make_dir(&new)?;
        let initdb = self
            .program(installation, "initdb")
            .arg("--pgdata")
            .arg(&new)
            .args([
                "--username",
                ADMIN,
                "--auth=peer",
                "--encoding=UTF8",
                "--data-checksums",
                "--no-instructions",
            ])
            // Byte order: no index depends on the version of a locale library.
            .args(["--lc-collate=C", "--lc-ctype=C.UTF-8", "--lc-messages=C"])
            .args(["--lc-monetary=C", "--lc-numeric=C", "--lc-time=C"])
            .output()
            .context("cannot run initdb")?;
        ensure!(initdb.status.success(), "initdb failed: {}", messages(&initdb));

        let mut single = self
            .program(installation, "postgres")
            .args(["--single", "-c", "exit_on_error=true", "-D"])
            .arg(&new)
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run postgres")?;
        if let Some(mut input) = single.stdin.take() {
            writeln!(input, "CREATE DATABASE {DATABASE}")?;
        }
        let single = single.wait_with_output()?;
        ensure!(single.status.success(), "cannot create the database: {}", messages(&single));

        let mut settings = OpenOptions::new()
            .append(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(new.join("postgresql.conf"))?;
        writeln!(settings, "\n{}", settings::INCLUDE)?;
        settings.sync_all()?;
        fs::rename(&new, &cluster)?;
        Ok(())
    }

    fn start_postmaster(
        &self,
        installation: &Installation,
        environment: &[(String, String)],
    ) -> anyhow::Result<()> {
        let log = self.dir.log();
        if fs::metadata(&log).is_ok_and(|log| log.len() > LOG_KEEP_BYTES) {
            fs::rename(&log, log.with_extension("log.old"))?;
        }
        self.user.make_file(&log)?;
        let output = self
            .program(installation, "pg_ctl")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(["start", "--wait", "--silent", "--timeout", START_WITHIN_SECONDS, "--pgdata"])
            .arg(self.dir.cluster())
            .arg("--log")
            .arg(&log)
            .output()
            .context("cannot run pg_ctl")?;
        ensure!(
            output.status.success(),
            "PostgreSQL does not start: {}\nthe end of {}:\n{}",
            messages(&output),
            log.display(),
            last_lines(&log, 5)
        );
        Ok(())
    }

    fn stop_postmaster(&self) -> anyhow::Result<()> {
        if let Some(pid) = self.dir.postmaster() {
            // PostgreSQL's "fast" shutdown.
            match kill(Pid::from_raw(pid as i32), Signal::SIGINT) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("cannot stop PostgreSQL (process {pid}): {error}"),
            }
        }
        // Also after a crash: sessions outlive their postmaster for a moment, and a new one started meanwhile would
        // destroy the cluster.
        let deadline = Instant::now() + STOP_WITHIN;
        while let Some(pid) = self.dir.processes().first() {
            ensure!(Instant::now() < deadline, "PostgreSQL (process {pid}) does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A crash leaves these: PostgreSQL would refuse to start if another process has the number in them by now.
        for stale in self.dir.lock_files() {
            match fs::remove_file(&stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove the stale {}", stale.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn program(&self, installation: &Installation, name: &str) -> Command {
        self.user.command(&installation.program(name))
    }
}

fn quoted_for_conninfo(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_quotes_survive_connection_strings() {
        let parsed: tokio_postgres::Config =
            format!("host={}", quoted_for_conninfo(r"/tmp/it's a \path")).parse().unwrap();
        assert_eq!(parsed.get_hosts(), [tokio_postgres::config::Host::Unix(r"/tmp/it's a \path".into())]);
    }
}
