//! PostgreSQL's processes in one of its data directories: started, looked at, ended.

use std::{
    error, fmt, fs, io,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        statvfs::statvfs,
    },
    unistd::Pid,
};

use crate::{messages, size_in_words, user::ClusterUser};

/// Time for PostgreSQL's start, in seconds. After a crash it first reads all that was written since its last checkpoint,
/// which takes minutes on a slow disk; it would only begin anew if it were ended meanwhile.
const START_WITHIN_SECONDS: &str = "3600";
/// Time for PostgreSQL's orderly end, which writes all that is in its memory.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Time in which sessions notice that their postmaster is gone, and in which a process follows a signal.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);
const LOG_KEEP_BYTES: u64 = 16 * 1024 * 1024;
/// The size of a WAL segment: with less room PostgreSQL may not even recover.
const ROOM_BYTES: u64 = 16 * 1024 * 1024;
pub const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// The line of `postmaster.pid` in which PostgreSQL says how far it is, counted from 0.
const STATUS_LINE: usize = 7;

/// The state of PostgreSQL, as its processes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It takes sessions.
    Ready,
    /// It runs, and takes none: it recovers or shuts down.
    Busy,
    /// No postmaster runs. Sessions may outlive it for a moment.
    Ended,
}

/// The error of a start that was told to end before PostgreSQL took sessions. It left none running that it started.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped before PostgreSQL took connections")
    }
}

impl error::Error for Interrupted {}

/// PostgreSQL in one of its data directories, whether it runs or not.
pub struct Postmaster {
    data: PathBuf,
    sockets: PathBuf,
}

impl Postmaster {
    pub fn new(data: PathBuf, sockets: PathBuf) -> Self {
        Self { data, sockets }
    }

    /// The process id of the postmaster that runs.
    pub fn pid(&self) -> Option<u32> {
        pid_in(&self.data)
    }

    pub fn condition(&self) -> Condition {
        let text = fs::read_to_string(pid_file(&self.data)).unwrap_or_default();
        match (self.pid(), text.lines().nth(STATUS_LINE).map(str::trim)) {
            (None, _) => Condition::Ended,
            (Some(_), Some("ready" | "standby")) => Condition::Ready,
            (Some(_), _) => Condition::Busy,
        }
    }

    /// Starts it, and returns when it takes sessions, or once `go_on` says no: it is stopped then, by force if it does not follow,
    /// for a recovery has nothing to lose. `options` are for `postgres`.
    ///
    /// # Errors
    /// It does not start: the error has the end of its log. [`Interrupted`], if `go_on` said no.
    pub fn start(
        &self,
        user: &ClusterUser,
        pg_ctl: &Path,
        environment: &[(String, String)],
        log: &Path,
        options: &str,
        go_on: &dyn Fn() -> bool,
    ) -> anyhow::Result<()> {
        if !go_on() {
            return Err(Interrupted.into());
        }
        if fs::metadata(log).is_ok_and(|log| log.len() > LOG_KEEP_BYTES) {
            fs::rename(log, log.with_extension("log.old"))?;
        }
        user.make_file(log)?;
        let mut starting = user
            .command(pg_ctl)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(["start", "--wait", "--silent", "--timeout", START_WITHIN_SECONDS, "--pgdata"])
            .arg(&self.data)
            .arg("--log")
            .arg(log)
            .arg("--options")
            .arg(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run pg_ctl")?;
        let mut told: Option<Instant> = None;
        while starting.try_wait()?.is_none() {
            if told.is_none() && !go_on() {
                tracing::info!(
                    "PostgreSQL takes no connections yet, and is stopped: if it recovers, its next start begins anew"
                );
                told = Some(Instant::now());
            }
            if let Some(since) = told
                && let Some(pid) = self.pid()
            {
                // PostgreSQL's "fast" shutdown. Steps of a recovery that take minutes do not end for it.
                signal(pid, Signal::SIGINT)?;
                if since.elapsed() > STOP_WITHIN {
                    tracing::warn!(
                        "PostgreSQL has not stopped within {} seconds: ending it",
                        STOP_WITHIN.as_secs()
                    );
                    self.kill()?;
                }
            }
            sleep(PAUSE);
        }
        let output = starting.wait_with_output()?;
        // Ctrl-C in a terminal reaches pg_ctl, too, which hands it on to PostgreSQL and ends.
        if told.is_some() || !go_on() || output.status.signal() == Some(Signal::SIGINT as i32) {
            if let Err(error) = self.stop() {
                tracing::warn!("{error}: ending it");
                self.kill()?;
            }
            return Err(Interrupted.into());
        }
        ensure!(
            output.status.success(),
            "PostgreSQL does not start{}: {}\nthe end of {}:\n{}",
            self.want_of_room(),
            messages(&output),
            log.display(),
            last_lines(log, 5)
        );
        Ok(())
    }

    /// A remark, if there is no room for PostgreSQL to work in.
    fn want_of_room(&self) -> String {
        match free_bytes(&self.data) {
            Some(free) if free < ROOM_BYTES => {
                format!(
                    ", since the disk of {} is full ({} are free): make room",
                    self.data.display(),
                    size_in_words(free)
                )
            }
            _ => String::new(),
        }
    }

    /// Ends all sessions and stops it in order; nothing committed is lost.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(&self) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            // PostgreSQL's "fast" shutdown.
            signal(pid, Signal::SIGINT)?;
            if !self.is_gone_within(STOP_WITHIN) {
                bail!("PostgreSQL (process {pid}) does not stop");
            }
        }
        self.clear()
    }

    /// Ends a postmaster that does not answer, and all of its sessions; what was committed is recovered at its next start.
    ///
    /// # Errors
    /// A process stays.
    pub fn kill(&self) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            // PostgreSQL's "immediate" shutdown.
            signal(pid, Signal::SIGQUIT)?;
            if !self.is_gone_within(END_WITHIN) {
                signal(pid, Signal::SIGKILL)?;
                let deadline = Instant::now() + END_WITHIN;
                while self.pid() == Some(pid) && Instant::now() < deadline {
                    sleep(PAUSE);
                }
            }
        }
        self.clear()
    }

    /// Clears away what a crash left. A postmaster that started while its predecessor's sessions work would destroy the
    /// cluster, so those end first.
    ///
    /// # Errors
    /// A session stays, or a postmaster runs.
    pub fn clear(&self) -> anyhow::Result<()> {
        self.expect_no_postmaster()?;
        // By themselves; then in order; then by force, which a dead postmaster's sessions can take: there is nothing
        // left that they share with others.
        for last in [None, Some(Signal::SIGQUIT), Some(Signal::SIGKILL)] {
            if let Some(last) = last {
                for pid in self.processes() {
                    signal(pid, last)?;
                }
            }
            if self.is_gone_within(END_WITHIN) {
                break;
            }
        }
        if let Some(pid) = self.processes().first() {
            bail!("a process of PostgreSQL ({pid}) does not end");
        }
        self.expect_no_postmaster()?;
        // PostgreSQL would refuse to start if another process has the number in them by now.
        for stale in [pid_file(&self.data), self.sockets.join(format!("{SOCKET_NAME}.lock"))] {
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

    /// An administrator may have started one meanwhile.
    fn expect_no_postmaster(&self) -> anyhow::Result<()> {
        match self.pid() {
            Some(pid) => bail!("PostgreSQL (process {pid}) runs"),
            None => Ok(()),
        }
    }

    fn is_gone_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            if self.processes().is_empty() {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            sleep(PAUSE);
        }
    }

    /// The postmaster and its sessions, or those that it left.
    fn processes(&self) -> Vec<u32> {
        let all = fs::read_dir("/proc").into_iter().flatten();
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_postgres_in(&self.data, *pid)).collect()
    }
}

/// The process id of the postmaster that runs in PostgreSQL's data directory. A process that got a dead postmaster's
/// number does not count.
pub fn pid_in(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(pid_file(data)).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    is_postgres_in(data, pid).then_some(pid)
}

fn pid_file(data: &Path) -> PathBuf {
    data.join("postmaster.pid")
}

/// Whether a process works in this data directory: that is what its working directory is. The directories are compared, and
/// not their names: in a unit with mounts of its own a process sees the same directory at another place.
fn is_postgres_in(data: &Path, pid: u32) -> bool {
    let place = |path: &Path| fs::metadata(path).map(|dir| (dir.dev(), dir.ino())).ok();
    let works_in = place(Path::new(&format!("/proc/{pid}/cwd")));
    works_in.is_some()
        && works_in == place(data)
        // Not an administrator's shell.
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "postgres")
}

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    match kill(Pid::from_raw(pid as i32), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("cannot end PostgreSQL (process {pid}): {error}"),
    }
}

/// Bytes that are free on the disk of a directory.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = statvfs(dir).ok()?;
    Some(disk.blocks_available() * disk.fragment_size())
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
