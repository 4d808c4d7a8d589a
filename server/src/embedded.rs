//! A private PostgreSQL cluster in a data directory (`--embedded`): made at the first start, started and stopped
//! with the server, reached over a Unix socket only. It needs no root and writes nothing into system directories:
//! it runs from a private *installation* in the data directory, which is the system's PostgreSQL plus our extension.
//! PostgreSQL looks for its libraries and scripts relative to its own program file, so the few programs are copied
//! and everything else is linked. What the database contains is [`crate::migrate`]'s business.
//!
//! ```text
//! <data dir>/lock           held by the process that runs the cluster
//!            installation/  programs, links and the extension, laid out as in the system
//!            cluster/       PostgreSQL's data directory
//!            run/           the socket
//!            postgres.log
//! ```

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        signal::{Signal, kill},
        sysinfo::sysinfo,
    },
    unistd::{Pid, Uid, User},
};

use crate::config::ConnectionString;

const ADMIN: &str = "postern_admin";
const SERVER: &str = "postern_server";
const DATABASE: &str = "postern";
/// Whom the cluster runs as when we are root: PostgreSQL refuses to run as root.
const SYSTEM_USER: &str = "postgres";

/// Newest first.
const SUPPORTED_MAJORS: [u32; 4] = [18, 17, 16, 15];
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// What a socket's address can hold, without the final zero.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.5432";

/// Where a control group's limit stands: a number of bytes, or `max`.
const MEMORY_LIMIT: &str = "/sys/fs/cgroup/memory.max";
/// PostgreSQL's default, and what a larger machine may have for other things, too.
const SHARED_BUFFERS_MEGABYTES: (u64, u64) = (128, 8192);

const START_WITHIN_SECONDS: &str = "60";
const STOP_WITHIN: Duration = Duration::from_secs(60);
const LOG_KEEP_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    data_dir: PathBuf,
    extension_dir: PathBuf,
    /// None: as fits the machine.
    shared_buffers_megabytes: Option<u64>,
}

/// A running private cluster. Dropping it leaves the cluster running; the next start takes it over.
pub struct Embedded {
    layout: Layout,
    user: ClusterUser,
    /// None: another process runs the cluster, we only use it.
    _lock: Option<Flock<File>>,
}

/// The places of one data directory.
struct Layout {
    data_dir: PathBuf,
    cluster: PathBuf,
    installation: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
}

/// Who runs PostgreSQL: somebody else if we are root, else ourselves.
struct ClusterUser {
    name: String,
    uid: Uid,
    switch: Option<(u32, u32)>,
}

/// A PostgreSQL of this machine.
struct SystemPostgres {
    major: u32,
    bin: PathBuf,
    share: PathBuf,
    library: PathBuf,
}

impl EmbeddedOptions {
    /// `extension_dir` holds postern.control, postern--*.sql and `<PostgreSQL major>/postern.so`.
    pub fn new(data_dir: &Path, extension_dir: &Path) -> Self {
        let (data_dir, extension_dir) = (data_dir.to_owned(), extension_dir.to_owned());
        Self { data_dir, extension_dir, shared_buffers_megabytes: None }
    }

    /// For one of several clusters on a machine.
    pub fn with_shared_buffers(self, megabytes: u64) -> Self {
        Self { shared_buffers_megabytes: Some(megabytes), ..self }
    }

    /// Whether there is a cluster in the data directory; a start would make one.
    pub fn cluster_exists(&self) -> bool {
        self.data_dir.join("cluster").exists()
    }
}

impl Embedded {
    /// Starts the cluster, after making it if there is none. Takes over a cluster whose server was killed.
    pub fn start(options: &EmbeddedOptions) -> anyhow::Result<Self> {
        let user = ClusterUser::find()?;
        let layout = Layout::prepare(&options.data_dir, &user)?;
        let Some(lock) = layout.lock()? else {
            bail!(
                "another `postern` runs the private cluster in {}: stop it first, or choose another --data-dir",
                layout.data_dir.display()
            );
        };
        let cluster = Self { layout, user, _lock: Some(lock) };
        // What a killed server left running may have older programs and settings.
        cluster.stop_postmaster()?;
        let postgres = SystemPostgres::find(options, cluster.layout.cluster_major()?)?;
        cluster.install(&postgres, &options.extension_dir)?;
        cluster.make_cluster_if_missing(&postgres)?;
        cluster.write_settings(options)?;
        cluster.start_postmaster(&postgres)?;
        Ok(cluster)
    }

    /// Like [`Embedded::start`], but uses the cluster of another process if one runs it already.
    pub fn start_or_join(options: &EmbeddedOptions) -> anyhow::Result<Self> {
        let user = ClusterUser::find()?;
        let layout = Layout::prepare(&options.data_dir, &user)?;
        match layout.lock()? {
            None => Ok(Self { layout, user, _lock: None }),
            Some(lock) => {
                drop(lock);
                Self::start(options)
            }
        }
    }

    /// Connection string for the role that the server uses.
    pub fn server_url(&self) -> ConnectionString {
        self.url(SERVER)
    }

    /// Connection string for a superuser.
    pub fn admin_url(&self) -> ConnectionString {
        self.url(ADMIN)
    }

    fn url(&self, role: &str) -> ConnectionString {
        ConnectionString::new(format!(
            "host={} user={role} dbname={DATABASE}",
            quoted_for_conninfo(&self.layout.socket_dir.display().to_string())
        ))
    }

    /// Where the socket lies: what `psql -h` takes.
    pub fn socket_dir(&self) -> &Path {
        &self.layout.socket_dir
    }

    pub fn log_file(&self) -> &Path {
        &self.layout.log
    }

    /// The process id of the running postmaster.
    pub fn postmaster_pid(&self) -> anyhow::Result<u32> {
        self.layout.postmaster().context("the private cluster is not running")
    }

    /// Ends all sessions and stops the cluster; nothing committed is lost. Does nothing for a cluster that another
    /// process runs.
    pub fn stop(self) -> anyhow::Result<()> {
        match self._lock {
            Some(_) => self.stop_postmaster(),
            None => Ok(()),
        }
    }

    /// Copies or links the system's PostgreSQL and our extension, where they changed.
    fn install(&self, postgres: &SystemPostgres, extension_dir: &Path) -> anyhow::Result<()> {
        let root = &self.layout.installation;
        let bin = root.join_absolute(&postgres.bin);
        let library = root.join_absolute(&postgres.library);
        let share = root.join_absolute(&postgres.share);
        let extensions = share.join("extension");
        for dir in [&bin, &library, &extensions] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        for program in PROGRAMS {
            copy_if_changed(&postgres.bin.join(program), &bin.join(program))?;
        }
        link_entries(&postgres.library, &library)?;
        link_entries(&postgres.share, &share)?;
        link_entries(&postgres.share.join("extension"), &extensions)?;

        let module = extension_dir.join(postgres.major.to_string()).join("postern.so");
        copy_if_changed(&module, &library.join("postern.so"))?;
        for entry in fs::read_dir(extension_dir).with_context(|| extension_dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with("postern") && path.is_file() {
                copy_if_changed(&path, &extensions.join(name))?;
            }
        }
        self.expect_executable(&bin.join("postgres"))
    }

    /// The other user must be able to reach its programs; under /root, for one, it cannot.
    fn expect_executable(&self, program: &Path) -> anyhow::Result<()> {
        match self.user.command(program).arg("--version").output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => bail!("{} does not run: {}", program.display(), messages(&output)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let closed = program
                    .ancestors()
                    .skip(1)
                    .filter(|dir| fs::metadata(dir).is_ok_and(|dir| dir.mode() & 0o001 == 0))
                    .last()
                    .unwrap_or(program);
                bail!(
                    "user {}, who runs PostgreSQL, cannot enter {dir}: choose another --data-dir, or `chmod o+x {dir}`",
                    self.user.name,
                    dir = closed.display(),
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot run {}", program.display())),
        }
    }

    fn make_cluster_if_missing(&self, postgres: &SystemPostgres) -> anyhow::Result<()> {
        if self.layout.cluster.join("PG_VERSION").exists() {
            return Ok(());
        }
        // Made under another name, so that what an interruption leaves is never taken for a cluster.
        let new = self.layout.cluster.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        }
        self.user.make_dir(&new)?;
        let initdb = self
            .program(postgres, "initdb")
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
            .program(postgres, "postgres")
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
        writeln!(
            settings,
            "\ninclude 'postern.conf' # written anew at each start; ALTER SYSTEM overrides it"
        )?;
        settings.sync_all()?;
        fs::rename(&new, &self.layout.cluster)?;
        Ok(())
    }

    /// Settings and access rules that belong to this version of the program.
    fn write_settings(&self, options: &EmbeddedOptions) -> anyhow::Result<()> {
        let settings = format!(
            "listen_addresses = ''\n\
             unix_socket_directories = {sockets}\n\
             unix_socket_permissions = 0700\n\
             shared_preload_libraries = 'postern'\n\
             max_worker_processes = 32\n\
             # PostgreSQL's default is 128 MB, however large the machine.\n\
             shared_buffers = {shared_buffers}MB\n\
             # What was acknowledged is to be gone soon, and its room used again.\n\
             autovacuum_naptime = 10\n\
             timezone = 'UTC'\n\
             log_timezone = 'UTC'\n\
             # Every statement is one short function call.\n\
             jit = off\n\
             # PRIV-4: neither statements nor values go to the log.\n\
             log_statement = 'none'\n\
             log_min_error_statement = panic\n\
             log_min_duration_statement = -1\n\
             log_parameter_max_length = 0\n\
             log_parameter_max_length_on_error = 0\n\
             log_error_verbosity = terse\n\
             debug_print_plan = off\n",
            shared_buffers = options.shared_buffers_megabytes.map_or_else(shared_buffers_megabytes, Ok)?,
            // A list: the one entry in double quotes, the whole in single ones.
            sockets = quoted_for_settings(&format!(
                "\"{}\"",
                self.layout.socket_dir.display().to_string().replace('"', "\"\"")
            )),
        );
        let rules = format!(
            "# Written anew at each start.\n\
             local all {ADMIN} peer map=postern\n\
             local replication {ADMIN} peer map=postern\n\
             local {DATABASE} {SERVER} peer map=postern\n"
        );
        let mut names = vec![self.user.name.clone()];
        names.extend(
            User::from_uid(Uid::effective())?.map(|user| user.name).filter(|name| *name != self.user.name),
        );
        let map: String = names
            .iter()
            .flat_map(|name| [ADMIN, SERVER].map(|role| format!("postern \"{name}\" {role}\n")))
            .collect();
        for (name, text) in [("postern.conf", settings), ("pg_hba.conf", rules), ("pg_ident.conf", map)] {
            self.user.write(&self.layout.cluster.join(name), &text)?;
        }
        Ok(())
    }

    fn start_postmaster(&self, postgres: &SystemPostgres) -> anyhow::Result<()> {
        if fs::metadata(&self.layout.log).is_ok_and(|log| log.len() > LOG_KEEP_BYTES) {
            fs::rename(&self.layout.log, self.layout.log.with_extension("log.old"))?;
        }
        self.user.make_file(&self.layout.log)?;
        let output = self
            .program(postgres, "pg_ctl")
            .args(["start", "--wait", "--silent", "--timeout", START_WITHIN_SECONDS, "--pgdata"])
            .arg(&self.layout.cluster)
            .arg("--log")
            .arg(&self.layout.log)
            .output()
            .context("cannot run pg_ctl")?;
        ensure!(
            output.status.success(),
            "PostgreSQL does not start: {}\nthe end of {}:\n{}",
            messages(&output),
            self.layout.log.display(),
            last_lines(&self.layout.log, 5)
        );
        Ok(())
    }

    fn stop_postmaster(&self) -> anyhow::Result<()> {
        if let Some(pid) = self.layout.postmaster() {
            // PostgreSQL's "fast" shutdown.
            match kill(Pid::from_raw(pid as i32), Signal::SIGINT) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("cannot stop PostgreSQL (process {pid}): {error}"),
            }
        }
        // Also after a crash: sessions outlive their postmaster for a moment, and a new one beside them would
        // destroy the cluster.
        let deadline = Instant::now() + STOP_WITHIN;
        while let Some(pid) = self.layout.processes().first() {
            ensure!(Instant::now() < deadline, "PostgreSQL (process {pid}) does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        // What a crash left: PostgreSQL would refuse to start if another process has the number in it by now.
        let socket_lock = self.layout.socket_dir.join(format!("{SOCKET_NAME}.lock"));
        for stale in [self.layout.postmaster_pid_file(), socket_lock] {
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

    fn program(&self, postgres: &SystemPostgres, name: &str) -> Command {
        self.user.command(&self.layout.installation.join_absolute(&postgres.bin).join(name))
    }
}

impl Layout {
    fn prepare(data_dir: &Path, user: &ClusterUser) -> anyhow::Result<Self> {
        if !data_dir.exists() {
            // Others may pass through (the cluster's user must), not look around.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(if user.switch.is_some() { 0o711 } else { 0o700 })
                .create(data_dir)
                .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        }
        let data_dir = data_dir.canonicalize().with_context(|| data_dir.display().to_string())?;
        let socket_dir = socket_dir(&data_dir);
        user.make_dir(&socket_dir)?;
        Ok(Self {
            cluster: data_dir.join("cluster"),
            installation: data_dir.join("installation"),
            log: data_dir.join("postgres.log"),
            socket_dir,
            data_dir,
        })
    }

    /// None if another process holds it.
    fn lock(&self) -> anyhow::Result<Option<Flock<File>>> {
        let path = self.data_dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    fn cluster_major(&self) -> anyhow::Result<Option<u32>> {
        let path = self.cluster.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().parse().with_context(|| path.display().to_string())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn postmaster_pid_file(&self) -> PathBuf {
        self.cluster.join("postmaster.pid")
    }

    /// The running postmaster. A process that got a dead postmaster's number does not count.
    fn postmaster(&self) -> Option<u32> {
        let text = fs::read_to_string(self.postmaster_pid_file()).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        self.processes().contains(&pid).then_some(pid)
    }

    /// PostgreSQL's processes: their working directory is the data directory.
    fn processes(&self) -> Vec<u32> {
        let works_here = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == self.cluster)
                // Not an administrator's shell.
                && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "postgres")
        };
        let all = fs::read_dir("/proc").into_iter().flatten();
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(works_here).collect()
    }
}

/// In the data directory, unless that makes the socket's address too long: then in a short place that depends on
/// the data directory only.
fn socket_dir(data_dir: &Path) -> PathBuf {
    let dir = data_dir.join("run");
    if dir.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX {
        return dir;
    }
    let hash = digest(&SHA256, data_dir.as_os_str().as_encoded_bytes());
    let name: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let short = std::env::temp_dir().join(format!("postern-{name}"));
    tracing::info!(
        "the data directory's name is too long for a Unix socket in it ({SOCKET_PATH_MAX} bytes): the socket is in {}",
        short.display()
    );
    short
}

/// A quarter of the memory, as PostgreSQL's manual advises.
fn shared_buffers_megabytes() -> anyhow::Result<u64> {
    let installed = sysinfo()?.ram_total();
    let limit = fs::read_to_string(MEMORY_LIMIT).ok().and_then(|limit| limit.trim().parse().ok());
    let quarter = installed.min(limit.unwrap_or(u64::MAX)) / 4 / (1024 * 1024);
    let (least, most) = SHARED_BUFFERS_MEGABYTES;
    Ok(quarter.clamp(least, most))
}

impl ClusterUser {
    fn find() -> anyhow::Result<Self> {
        let uid = Uid::effective();
        if !uid.is_root() {
            let user = User::from_uid(uid)?.with_context(|| {
                format!("user id {uid} has no name on this system, and PostgreSQL needs one: add it to /etc/passwd")
            })?;
            return Ok(Self { name: user.name, uid, switch: None });
        }
        let user = User::from_name(SYSTEM_USER)?.with_context(|| {
            format!("PostgreSQL refuses to run as root, and there is no user {SYSTEM_USER} to run it: `useradd --system {SYSTEM_USER}`")
        })?;
        Ok(Self { name: user.name, uid: user.uid, switch: Some((user.uid.as_raw(), user.gid.as_raw())) })
    }

    /// A program run as this user, with nothing of our environment that could lead PostgreSQL elsewhere.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some((uid, gid)) = self.switch {
            // Setting the user also drops root's supplementary groups.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A directory that only this user can enter.
    fn make_dir(&self, path: &Path) -> anyhow::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.own(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // It may lie in a directory that everyone can write to.
                let dir = fs::symlink_metadata(path)?;
                ensure!(
                    dir.is_dir() && dir.uid() == self.uid.as_raw() && dir.mode() & 0o077 == 0,
                    "{} should be a directory of user {} with mode 700: remove it or mend it",
                    path.display(),
                    self.name
                );
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot make the directory {}", path.display())),
        }
    }

    fn make_file(&self, path: &Path) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", path.display());
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).with_context(context)?;
        self.own(path)
    }

    fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        let write = || {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // The directory is the other user's: root must not follow a link that it planted.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            if let Some((uid, gid)) = self.switch {
                fchown(&file, Some(uid), Some(gid))?;
            }
            fs::rename(&new, path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    fn own(&self, path: &Path) -> anyhow::Result<()> {
        match self.switch {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to user {}", path.display(), self.name)),
            None => Ok(()),
        }
    }
}

impl SystemPostgres {
    /// The newest one that our extension was built for; of an existing cluster's version, if there is one.
    fn find(options: &EmbeddedOptions, cluster: Option<u32>) -> anyhow::Result<Self> {
        let majors = cluster.map_or(SUPPORTED_MAJORS.to_vec(), |major| vec![major]);
        let built: Vec<u32> = majors
            .iter()
            .copied()
            .filter(|major| options.extension_dir.join(major.to_string()).join("postern.so").exists())
            .collect();
        let wanted = || majors.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        ensure!(
            !built.is_empty(),
            "no extension for PostgreSQL {} in {}: build it (`make build`), or name its place with --extension-dir",
            wanted(),
            options.extension_dir.display()
        );
        let candidates = pg_configs();
        for major in &built {
            for candidate in &candidates {
                if let Some(found) = Self::ask(candidate).filter(|found| found.major == *major) {
                    return Ok(found);
                }
            }
        }
        let built = built.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
        bail!(
            "PostgreSQL {built} is not installed here{}: `apt-get install postgresql-{built}`, or name its pg_config in PG_CONFIG",
            cluster.map(|_| ", and the cluster in the data directory is of that version").unwrap_or_default(),
        )
    }

    fn ask(pg_config: &Path) -> Option<Self> {
        let output = Command::new(pg_config)
            .args(["--version", "--bindir", "--sharedir", "--pkglibdir"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("PostgreSQL ")?;
        let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
        let mut dir = || lines.next().map(PathBuf::from);
        let (bin, share, library) = (dir()?, dir()?, dir()?);
        let complete = PROGRAMS.iter().all(|program| bin.join(program).exists());
        complete.then_some(Self { major: digits.parse().ok()?, bin, share, library })
    }
}

/// Where a pg_config may be: the one that was named, Debian's for each version, the one in PATH.
fn pg_configs() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("PG_CONFIG") {
        return vec![PathBuf::from(named)];
    }
    let debian =
        SUPPORTED_MAJORS.map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_config")));
    debian.into_iter().filter(|path| path.exists()).chain([PathBuf::from("pg_config")]).collect()
}

trait JoinAbsolute {
    fn join_absolute(&self, path: &Path) -> PathBuf;
}

impl JoinAbsolute for PathBuf {
    /// The same absolute path below another root.
    fn join_absolute(&self, path: &Path) -> PathBuf {
        self.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Copies to a new name and renames: overwriting a library in place crashes every session that maps it.
fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    let source = fs::metadata(from).with_context(context)?;
    let modified = source.modified().with_context(context)?;
    if fs::metadata(to)
        .is_ok_and(|copy| copy.len() == source.len() && copy.modified().is_ok_and(|m| m == modified))
    {
        return Ok(());
    }
    let new = to.with_added_extension("new");
    fs::copy(from, &new).with_context(context)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755)).with_context(context)?;
    File::options()
        .append(true)
        .open(&new)
        .and_then(|file| file.set_modified(modified))
        .with_context(context)?;
    fs::rename(&new, to).with_context(context)
}

/// Links every entry of one directory into another, which keeps what it has under the same name.
fn link_entries(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        match symlink(entry.path(), to.join(entry.file_name())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make a link in {}", to.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn quoted_for_conninfo(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

fn quoted_for_settings(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

fn messages(output: &Output) -> String {
    let text = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    text.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
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
    fn a_socket_fits_its_address_however_long_the_data_directory() {
        assert_eq!(socket_dir(Path::new("/var/lib/postern")), Path::new("/var/lib/postern/run"));
        let long = socket_dir(&Path::new("/").join("x".repeat(90)));
        assert!(long.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX, "{}", long.display());
        assert_eq!(long, socket_dir(&Path::new("/").join("x".repeat(90))));
    }

    #[test]
    fn names_with_quotes_survive_connection_strings_and_settings() {
        let parsed: tokio_postgres::Config =
            format!("host={}", quoted_for_conninfo(r"/tmp/it's a \path")).parse().unwrap();
        assert_eq!(parsed.get_hosts(), [tokio_postgres::config::Host::Unix(r"/tmp/it's a \path".into())]);
        assert_eq!(quoted_for_settings(r"a'\b"), r"'a''\\b'");
    }

    #[test]
    fn a_changed_file_is_copied_under_a_new_inode() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to.so"));
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().ino();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().ino(), first);
        let still_open = File::open(&to).unwrap();
        fs::write(&from, "three").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_ne!(fs::metadata(&to).unwrap().ino(), still_open.metadata().unwrap().ino());
        assert_eq!(fs::read_to_string(&to).unwrap(), "three");
    }
}
