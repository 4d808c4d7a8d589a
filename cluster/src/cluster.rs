//! The cluster's life: made, started, joined, started again, stopped.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::fcntl::Flock;

use crate::{
    ADMIN, Condition, DATABASE, SERVER,
    data_dir::{CLUSTER, DataDir, VERSION_FILE},
    installation::Installation,
    messages,
    postgresql::SystemPostgres,
    postmaster::{Interrupted, SOCKET_NAME},
    settings::{self, Settings},
    upgrade::{self, ALONE, OWN_SETTINGS},
    user::ClusterUser,
};

/// The name of a cluster that is not whole yet.
pub(crate) const NEW: &str = "new";
/// Time in which a command leaves a PostgreSQL that takes sessions to others: a server has it for longer.
const HANDED_OVER: Duration = Duration::from_secs(5);
/// Pause between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(20);
/// Looks in a row that find the lock taken, and no command, until it is a server's.
const LOOKS: u32 = 25;
/// The file in a data directory that says that a restore makes its cluster. Until that has succeeded, nobody else starts the
/// cluster or makes another one: an empty homeserver of the same domain would be open to strangers.
const RESTORING: &str = "restoring";
/// The operator's settings of a backup lie here, next to the file of those that are in effect, until the restore has ended. Those
/// with which PostgreSQL does not start stay, for the operator.
const WAITING: &str = "postgresql.auto.conf.restored";

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) extension_dir: PathBuf,
    pub(crate) settings: Settings,
    environment: Vec<(String, String)>,
    /// Whether a start makes a cluster where there is none.
    make: bool,
}

/// A running private cluster. Dropping it leaves the cluster running; the next start takes it over.
pub struct PrivateCluster {
    dir: DataDir,
    user: ClusterUser,
    /// None: another process runs the cluster, or any command that uses it; we only use it.
    own: Option<Own>,
    /// The lock of a command, which uses the cluster. Without it, and with no cluster of our own, we only look.
    command: Option<Flock<File>>,
}

/// A private cluster, as files and processes show it.
pub enum Look {
    /// The data directory holds no cluster.
    Missing,
    Stopped(Stopped),
    /// PostgreSQL runs, or is about to.
    Running(PrivateCluster),
}

/// A private cluster that does not run.
#[derive(Debug)]
pub struct Stopped {
    /// PostgreSQL's major version.
    pub major: u32,
    /// The reason why it would not start, as far as files show it.
    pub obstacle: Option<anyhow::Error>,
}

/// The outcome for the operator's settings (`ALTER SYSTEM`) of a backup, when a restore into a private cluster ends. `names` is
/// the list of them.
pub enum TakenOver {
    /// There were none.
    Nothing,
    All {
        names: String,
    },
    /// PostgreSQL does not start with them.
    Refused {
        names: String,
        /// The file that has them now.
        file: PathBuf,
        error: anyhow::Error,
    },
}

/// A cluster that this process runs.
struct Own {
    _lock: Flock<File>,
    pg_ctl: PathBuf,
    environment: Vec<(String, String)>,
}

impl ClusterOptions {
    /// `extension_dir` holds postern.control, postern--*.sql and `<PostgreSQL major>/postern.so`.
    pub fn new(data_dir: &Path, extension_dir: &Path) -> Self {
        let (data_dir, extension_dir) = (data_dir.to_owned(), extension_dir.to_owned());
        Self { data_dir, extension_dir, settings: Settings::default(), environment: Vec::new(), make: true }
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

    /// Says whether a start makes a cluster where there is none, which it does without being told. Where there was one
    /// before, its disk may not be mounted, and an empty cluster in its place would be another homeserver of the same
    /// domain.
    pub fn with_making(mut self, make: bool) -> Self {
        self.make = make;
        self
    }

    /// Whether there is a cluster in the data directory, or what an upgrade left of one. Where there is none, a start
    /// makes one, unless that is ruled out.
    pub fn cluster_exists(&self) -> bool {
        upgrade::is_cluster_in(&self.data_dir)
            || !upgrade::kept(&self.data_dir).is_ok_and(|kept| kept.is_empty())
    }

    /// Refuses a data directory with a cluster, unless a restore that did not succeed left it.
    ///
    /// # Errors
    /// Its name.
    pub fn expect_place_for_restore(&self) -> anyhow::Result<()> {
        if !self.cluster_exists() || self.data_dir.join(RESTORING).exists() {
            return Ok(());
        }
        let names = upgrade::clusters(&self.data_dir)?;
        bail!(
            "there is a cluster in {} already ({}), and a restore overwrites nothing: choose another --data-dir, or move that one away",
            self.data_dir.display(),
            names.join(", ")
        )
    }

    /// Refuses a place into which a restore did not succeed yet.
    pub(crate) fn expect_restored(&self) -> anyhow::Result<()> {
        let mark = self.data_dir.join(RESTORING);
        ensure!(
            !mark.exists(),
            "a restore into {} did not come to its end: run it again. For a homeserver without it, remove {}, and {CLUSTER} beside it",
            self.data_dir.display(),
            mark.display()
        );
        Ok(())
    }

    /// Refuses a data directory that this user cannot look into: a cluster there would be taken for none.
    fn expect_readable(&self) -> anyhow::Result<()> {
        let version = fs::metadata(self.data_dir.join(CLUSTER).join(VERSION_FILE));
        ensure!(
            version.err().is_none_or(|error| error.kind() != io::ErrorKind::PermissionDenied),
            "this user cannot look into {}: do it as root, or as the user that runs the server",
            self.data_dir.display()
        );
        Ok(())
    }

    /// Refuses to make a cluster where one is missing. Nothing was made by then, not even the data directory.
    fn expect_cluster(&self) -> anyhow::Result<()> {
        self.expect_restored()?;
        if upgrade::is_cluster_in(&self.data_dir) {
            return Ok(());
        }
        let dir = self.data_dir.display();
        if let Some(kept) = upgrade::kept(&self.data_dir)?.last() {
            bail!(
                "there is no cluster in {dir}, but {}, which an upgrade kept: if nothing newer is elsewhere, rename that to {CLUSTER}",
                kept.display()
            );
        }
        ensure!(
            self.make,
            "there is no private cluster in {dir}, where one was before (create_cluster = false): is its disk mounted? `postern restore` makes one of a backup, `postern setup --new-cluster` an empty one"
        );
        Ok(())
    }
}

impl PrivateCluster {
    /// Starts the cluster, after making it if there is none. Takes over a cluster whose server was killed.
    ///
    /// # Errors
    /// There is no cluster and none is to be made; another process runs the cluster; PostgreSQL or the extension is
    /// missing, or does not start.
    pub fn start(options: &ClusterOptions) -> anyhow::Result<Self> {
        Self::start_while(options, &|| true)
    }

    /// Does what [`PrivateCluster::start`] does, and gives up once `go_on` says no: a PostgreSQL that takes no sessions yet, since
    /// it recovers for long, is stopped.
    ///
    /// # Errors
    /// As for [`PrivateCluster::start`]; [`Interrupted`], if `go_on` said no.
    pub fn start_while(options: &ClusterOptions, go_on: &dyn Fn() -> bool) -> anyhow::Result<Self> {
        options.expect_cluster()?;
        let (user, dir, lock) = locked(&options.data_dir, go_on)?;
        // A restore may have begun and ended meanwhile.
        options.expect_restored()?;
        let is_used = dir.without_commands()?.is_none();
        Self::start_locked(options, user, dir, lock, is_used, go_on).map_err(|error| {
            // Ctrl-C in a terminal reaches initdb, too, which fails by it.
            if go_on() || error.is::<Interrupted>() {
                return error;
            }
            tracing::warn!("{error:#}");
            Interrupted.into()
        })
    }

    /// Starts the cluster of a restore, which is made if there is none, and returns whether it was. Nobody else starts it
    /// until [`PrivateCluster::end_restore`].
    ///
    /// # Errors
    /// There is a cluster that no restore made; another process runs it; PostgreSQL or the extension is missing, or does
    /// not start.
    pub fn start_restore(options: &ClusterOptions) -> anyhow::Result<(Self, bool)> {
        let (user, dir, lock) = locked(&options.data_dir, &|| true)?;
        options.expect_place_for_restore()?;
        let makes = !options.cluster_exists();
        let (mark, place) = (dir.path().join(RESTORING), dir.path().to_owned());
        let write = || File::create(&mark)?.sync_all().and_then(|()| File::open(&place)?.sync_all());
        write().with_context(|| format!("cannot write {}", mark.display()))?;
        let (cluster, going, postmaster) = (dir.cluster(), dir.beside_cluster(NEW), dir.postmaster());
        if cluster.join(WAITING).exists() {
            // The last one was killed while it tried them.
            user.write(&cluster.join(OWN_SETTINGS), "")?;
        }
        match Self::start_locked(options, user, dir, lock, false, &|| true) {
            Ok(started) => Ok((started, makes)),
            Err(error) if makes && cluster.exists() => {
                // Nothing of it was there before, and what does not start could not be looked at by the next restore.
                postmaster.stop()?;
                delete(&cluster, &going)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the operator's settings of a backup, each with its name and value, for [`PrivateCluster::take_settings_over`].
    ///
    /// # Errors
    /// A name is none of a setting, or they cannot be written.
    pub fn keep_settings<'a>(
        &self,
        settings: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> anyhow::Result<()> {
        let text = settings::lines(settings)?;
        match text.is_empty() {
            true => Ok(()),
            false => self.user.write(&self.dir.cluster().join(WAITING), &text),
        }
    }

    /// Stops PostgreSQL, and starts it with the operator's settings that were kept; it does without them if it does not start.
    /// Commits wait for nobody meanwhile, and no WAL is archived. The settings are kept until [`PrivateCluster::end_restore`], so
    /// that a restore that is killed before tries them once more.
    ///
    /// # Errors
    /// Another process runs the cluster, PostgreSQL does not stop, or a file cannot be written.
    pub fn take_settings_over(&self) -> anyhow::Result<TakenOver> {
        let Own { pg_ctl, environment, .. } = self.own()?;
        let (waiting, in_effect) = (self.dir.cluster().join(WAITING), self.dir.cluster().join(OWN_SETTINGS));
        if !waiting.exists() {
            return Ok(TakenOver::Nothing);
        }
        let text = ClusterUser::read(&waiting)?;
        let names = settings::names(&text);
        let postmaster = self.dir.postmaster();
        postmaster.stop()?;
        self.user.write(&in_effect, &text)?;
        let started = postmaster
            .start(&self.user, pg_ctl, environment, &self.dir.log(), ALONE, &|| true)
            .and_then(|()| self.expect_socket());
        let Err(error) = started else {
            return Ok(TakenOver::All { names });
        };
        postmaster.stop()?;
        self.user.write(&in_effect, "")?;
        Ok(TakenOver::Refused { names, file: waiting, error })
    }

    /// Refuses a PostgreSQL whose socket is elsewhere, by its settings: nobody would find it.
    fn expect_socket(&self) -> anyhow::Result<()> {
        let socket = self.dir.socket_dir().join(SOCKET_NAME);
        ensure!(socket.exists(), "PostgreSQL runs, but does not listen on {}", socket.display());
        Ok(())
    }

    /// Lets others start the cluster: the restore has succeeded, and the operator's settings were dealt with in this way.
    ///
    /// # Errors
    /// Its mark cannot be removed.
    pub fn end_restore(&self, taken: &TakenOver) -> anyhow::Result<()> {
        let mark = self.dir.path().join(RESTORING);
        let remove = || fs::remove_file(&mark).and_then(|()| File::open(self.dir.path())?.sync_all());
        remove().with_context(|| format!("cannot remove {}", mark.display()))?;
        let waiting = self.dir.cluster().join(WAITING);
        if let TakenOver::All { .. } = taken
            && let Err(error) = fs::remove_file(&waiting)
        {
            // The file is read beside the mark only.
            tracing::warn!("cannot remove {}: {error}", waiting.display());
        }
        Ok(())
    }

    /// Stops the cluster of a restore that failed, and deletes it, before anybody else can come in. The next restore begins
    /// anew.
    ///
    /// # Errors
    /// PostgreSQL does not stop, or something cannot be deleted.
    pub fn remove(self) -> anyhow::Result<()> {
        self.own()?;
        self.dir.postmaster().stop()?;
        delete(&self.dir.cluster(), &self.dir.beside_cluster(NEW))
    }

    /// `is_used`: a command uses the cluster, and began while no server ran. It goes on: all that it needs is PostgreSQL,
    /// which it started as we would.
    fn start_locked(
        options: &ClusterOptions,
        user: ClusterUser,
        dir: DataDir,
        lock: Flock<File>,
        is_used: bool,
        go_on: &dyn Fn() -> bool,
    ) -> anyhow::Result<Self> {
        if is_used
            && dir.postmaster().condition() == Condition::Ready
            && let Some(major) = dir.cluster_major()?
        {
            let postgres = SystemPostgres::find(&options.extension_dir, Some(major))?;
            let installation = Installation::new(dir.installation(), &postgres);
            // After an upgrade meanwhile the database needs the new one, and the command begins anew.
            if installation.is_current(&postgres, &options.extension_dir) {
                let pg_ctl = installation.program("pg_ctl");
                let own = Own { _lock: lock, pg_ctl, environment: options.environment.clone() };
                return Ok(Self { dir, user, own: Some(own), command: None });
            }
        }
        // A postmaster that a killed server left may have older programs and settings.
        dir.postmaster().stop()?;
        upgrade::finish(&dir)?;
        let major = dir.cluster_major()?;
        let postgres = SystemPostgres::find(&options.extension_dir, major)?;
        if let Some(major) = major
            && let Some(newer) = SystemPostgres::newer(&options.extension_dir, major)
        {
            tracing::info!(
                "the private cluster is PostgreSQL {major}'s, and PostgreSQL {} is here: `postern upgrade-cluster` changes to it",
                newer.major
            );
        }
        let installation = Installation::new(dir.installation(), &postgres);
        installation.install(&postgres, &options.extension_dir)?;
        installation.expect_executable(&user)?;
        make_if_missing(&dir, &user, &installation)?;
        settings::write(&options.settings, &dir.cluster(), dir.socket_dir(), &user)?;
        let own = Own {
            _lock: lock,
            pg_ctl: installation.program("pg_ctl"),
            environment: options.environment.clone(),
        };
        let cluster = Self { dir, user, own: Some(own), command: None };
        cluster.start_postmaster(go_on)?;
        Ok(cluster)
    }

    /// Like [`PrivateCluster::start`], but for a command: it uses the cluster of another process if one runs it already,
    /// and lets a server that starts meanwhile take over the one that it started. It stops that one if nobody uses it
    /// any more.
    ///
    /// # Errors
    /// As for [`PrivateCluster::start`].
    pub fn start_or_join(options: &ClusterOptions) -> anyhow::Result<Self> {
        options.expect_cluster()?;
        let user = ClusterUser::find()?;
        let dir = DataDir::prepare(&options.data_dir, &user)?;
        let is_used = dir.without_commands()?.is_none();
        let command = Some(dir.share()?);
        match dir.lock()? {
            None => Ok(Self { dir, user, own: None, command }),
            Some(lock) => {
                options.expect_restored()?;
                let started = Self::start_locked(options, user, dir, lock, is_used, &|| true)?;
                // A server may run it from here on.
                Ok(Self { own: None, command, ..started })
            }
        }
    }

    /// Looks at the cluster, and changes nothing: neither a file nor a lock, and no process. One that runs can be used as
    /// long as it does; [`PrivateCluster::stop`] leaves it alone.
    ///
    /// # Errors
    /// This user cannot look into the data directory, or there is only what an upgrade kept.
    pub fn look(options: &ClusterOptions) -> anyhow::Result<Look> {
        options.expect_readable()?;
        options.expect_restored()?;
        if !options.cluster_exists() {
            return Ok(Look::Missing);
        }
        options.expect_cluster()?;
        let dir = DataDir::existing(&options.data_dir)?;
        if dir.is_in_use() {
            return Ok(Look::Running(Self { dir, user: ClusterUser::find()?, own: None, command: None }));
        }
        let major = upgrade::major_in(&dir)?.context("the cluster went away meanwhile")?;
        let obstacle = SystemPostgres::find(&options.extension_dir, Some(major)).err();
        Ok(Look::Stopped(Stopped { major, obstacle }))
    }

    /// Makes the data directory if there is none, as the cluster's user needs it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(data_dir: &Path) -> anyhow::Result<()> {
        DataDir::prepare(data_dir, &ClusterUser::find()?).map(|_| ())
    }

    /// Stops the cluster that a process left running in this data directory.
    ///
    /// # Errors
    /// Another process runs the cluster, or PostgreSQL does not stop.
    pub fn stop_in(data_dir: &Path) -> anyhow::Result<()> {
        let (_, dir, _lock) = locked(data_dir, &|| true)?;
        dir.postmaster().stop()
    }

    /// The state of PostgreSQL now.
    pub fn condition(&self) -> Condition {
        self.dir.postmaster().condition()
    }

    /// Starts PostgreSQL again, after it ended by itself; does nothing if it runs. Returns when it takes sessions, or once
    /// `go_on` says no: it is stopped then.
    ///
    /// # Errors
    /// Another process runs the cluster; a session outlives its postmaster; PostgreSQL does not start. [`Interrupted`], if `go_on`
    /// said no.
    pub fn start_again(&self, go_on: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let postmaster = self.dir.postmaster();
        if postmaster.pid().is_some() {
            return Ok(());
        }
        postmaster.clear()?;
        self.start_postmaster(go_on)
    }

    /// Ends PostgreSQL without waiting for anything: for one that does not answer any more. What was committed is
    /// recovered at its next start.
    ///
    /// # Errors
    /// Another process runs the cluster, or a process of PostgreSQL stays.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.own()?;
        self.dir.postmaster().kill()
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
    /// process runs or uses, or that was only looked at.
    ///
    /// # Errors
    /// PostgreSQL does not stop.
    pub fn stop(self) -> anyhow::Result<()> {
        if self.own.is_some() {
            return self.dir.postmaster().stop();
        }
        let Some(command) = self.command else { return Ok(()) };
        drop(command);
        // The last one that leaves stops it.
        let Some(_last) = self.dir.lock_as_last()? else { return Ok(()) };
        self.dir.postmaster().stop()
    }

    fn own(&self) -> anyhow::Result<&Own> {
        self.own.as_ref().context("another process runs the private cluster")
    }

    fn start_postmaster(&self, go_on: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let Own { pg_ctl, environment, .. } = self.own()?;
        self.dir.postmaster().start(&self.user, pg_ctl, environment, &self.dir.log(), "", go_on)
    }
}

/// The data directory, for this process alone. A command has the lock while it starts or stops PostgreSQL, and is waited for, until
/// `go_on` says no.
pub(crate) fn locked(
    data_dir: &Path,
    go_on: &dyn Fn() -> bool,
) -> anyhow::Result<(ClusterUser, DataDir, Flock<File>)> {
    let user = ClusterUser::find()?;
    let dir = DataDir::prepare(data_dir, &user)?;
    let mut ready_since = None;
    let (mut looks, mut unused) = (0, 0);
    loop {
        if let Some(lock) = dir.lock()? {
            return Ok((user, dir, lock));
        }
        if !go_on() {
            return Err(Interrupted.into());
        }
        looks += 1;
        unused = if dir.without_commands()?.is_none() { 0 } else { unused + 1 };
        let is_handed_over = dir.postmaster().condition() == Condition::Ready
            && ready_since.get_or_insert_with(Instant::now).elapsed() >= HANDED_OVER;
        // A command at its end has this lock before the one of commands.
        ensure!(
            unused < LOOKS && !is_handed_over,
            "another `postern` runs the private cluster in {}: stop it first, or choose another --data-dir",
            dir.path().display()
        );
        if looks == LOOKS {
            tracing::info!(
                "another process starts or stops PostgreSQL in {}: waiting for it",
                dir.path().display()
            );
        }
        sleep(PAUSE);
    }
}

fn make_if_missing(dir: &DataDir, user: &ClusterUser, installation: &Installation) -> anyhow::Result<()> {
    let cluster = dir.cluster();
    if cluster.join(VERSION_FILE).exists() {
        return Ok(());
    }
    // Made under another name, so that the remains of an interruption are never taken for a cluster.
    let new = dir.beside_cluster(NEW);
    init(dir, &new, user, installation, &["--data-checksums"])?;
    execute(&new, user, installation, "postgres", &format!("CREATE DATABASE {DATABASE}"))
        .context("cannot create the database")?;
    settings::include(&new)?;
    fs::rename(&new, &cluster)?;
    Ok(())
}

/// Deletes one of PostgreSQL's data directories, under a name that no half of it is taken for a cluster by: what is left of it is
/// deleted when another one is made.
pub(crate) fn delete(cluster: &Path, going: &Path) -> anyhow::Result<()> {
    let delete = || {
        if going.exists() {
            fs::remove_dir_all(going)?;
        }
        fs::rename(cluster, going)?;
        fs::remove_dir_all(going)
    };
    delete().with_context(|| format!("cannot remove {}", cluster.display()))
}

/// Executes a statement in a database of a cluster that is stopped.
pub(crate) fn execute(
    data: &Path,
    user: &ClusterUser,
    installation: &Installation,
    database: &str,
    statement: &str,
) -> anyhow::Result<()> {
    let mut single = user
        .command(&installation.program("postgres"))
        .args(["--single", "-c", "exit_on_error=true", "-c", "shared_preload_libraries="])
        .args(["-c", "synchronous_standby_names=", "-c", "archive_mode=off", "-D"])
        .arg(data)
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run postgres")?;
    if let Some(mut input) = single.stdin.take() {
        writeln!(input, "{statement}")?;
    }
    let single = single.wait_with_output()?;
    ensure!(single.status.success(), "{}", messages(&single));
    Ok(())
}

/// Makes one of PostgreSQL's data directories, in place of one that is there, with no database of ours.
pub(crate) fn init(
    dir: &DataDir,
    data: &Path,
    user: &ClusterUser,
    installation: &Installation,
    more: &[&str],
) -> anyhow::Result<()> {
    if data.exists() {
        // A PostgreSQL that an interrupted attempt left may be at work in it.
        dir.postmaster_in(data).stop()?;
        fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    user.make_dir(data)?;
    let initdb = user
        .command(&installation.program("initdb"))
        .arg("--pgdata")
        .arg(data)
        .args(["--username", ADMIN, "--auth=peer", "--encoding=UTF8", "--no-instructions"])
        // Byte order: no index depends on the version of a locale library.
        .args(["--lc-collate=C", "--lc-ctype=C.UTF-8", "--lc-messages=C"])
        .args(["--lc-monetary=C", "--lc-numeric=C", "--lc-time=C"])
        .args(more)
        .output()
        .context("cannot run initdb")?;
    ensure!(initdb.status.success(), "initdb failed: {}", messages(&initdb));
    Ok(())
}

fn quoted_for_conninfo(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
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
