//! PostgreSQL clusters for tests: each test gets its own, copied from a template that the first comer makes, and
//! can crash and restart it.

use std::{
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::ErrorKind,
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
    unistd::Uid,
};
use postern_cluster::{ADMIN, ClusterOptions, PrivateCluster, SERVER, log_file, postmaster};
use rand::RngCore;
use tokio::task::spawn_blocking;
use tokio_postgres::{Client, NoTls};

use super::{
    Authority, Certificate, SmallDisk, binary, early_in_the_hour, eventually, extension_dir, logs, postern,
    process,
};
use crate::HOME;

/// In megabytes, as PostgreSQL has it by default: several clusters run at a time, and one test reads all their memory.
const SHARED_BUFFERS: u64 = 128;
/// The file of the authority of clients, in PostgreSQL's data directory.
const CLIENTS: &str = "clients.crt";
/// The copy of PostgreSQL's data directory that [`Cluster::keep`] makes, beside it.
const KEPT: &str = "kept";

/// A data directory, as `--data-dir` takes it. Dropping it stops what runs in it, hard, and deletes it.
pub struct DataDir {
    path: PathBuf,
    logs: PathBuf,
    disk: Option<SmallDisk>,
}

/// A running cluster of one test, migrated. Dropping it stops it hard and deletes it.
pub struct Cluster {
    // The directory goes last.
    running: Option<PrivateCluster>,
    dir: DataDir,
    master_key: String,
    environment: Vec<(&'static str, String)>,
    /// Lines of postgresql.conf.
    settings: Vec<String>,
}

impl DataDir {
    /// A name for one: it does not exist yet.
    pub fn fresh() -> Self {
        let path = fresh_dir();
        // A killed test process that had this one's id may have left one.
        remove(&path);
        Self { path, logs: logs::dir(), disk: None }
    }

    /// One with a migrated cluster, stopped, on a disk of its own of so many megabytes. Only root can make a disk. No hour ends
    /// soon after it is made.
    pub async fn on_a_disk_of(megabytes: u64) -> Self {
        template().await;
        early_in_the_hour().await;
        let mut dir = Self::fresh();
        dir.disk = Some(SmallDisk::mount(&dir.path, megabytes));
        let (template, path) = (template().await.join("."), dir.path.clone());
        spawn_blocking(move || copy(&template, &path)).await.expect("copying does not panic");
        dir
    }

    /// The disk of [`DataDir::on_a_disk_of`].
    pub fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("it was made with one")
    }

    /// One with a migrated cluster, stopped. No hour ends soon after it is made.
    pub async fn migrated() -> Self {
        // The first caller makes the template, and the others wait for it: an hour may be about to end by then.
        template().await;
        early_in_the_hour().await;
        let dir = Self::fresh();
        let (template, path) = (template().await, dir.path.clone());
        spawn_blocking(move || copy(&template, &path)).await.expect("copying does not panic");
        dir
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// PostgreSQL's data directory in it.
    pub fn cluster(&self) -> PathBuf {
        self.path.join("cluster")
    }

    /// The process id of the postmaster that runs in it.
    pub fn postmaster(&self) -> Option<u32> {
        postmaster(&self.path)
    }

    /// A superuser's connection.
    pub async fn admin(&self) -> Client {
        eventually("PostgreSQL takes sessions", async || self.try_admin().await).await
    }

    /// The same, unless PostgreSQL takes none just now.
    pub async fn try_admin(&self) -> Option<Client> {
        let url = format!("host={} user={ADMIN} dbname=postern", self.path.join("run").display());
        connect_to(&url).await.ok()
    }

    /// Crashes as a machine does, short of losing what was not flushed: all of PostgreSQL's processes end at
    /// once. Returns when they are gone.
    pub fn kill_postgres(&self) {
        let Some(postmaster) = self.postmaster() else {
            return;
        };
        // It must have no more children than those found: one that outlived it would keep the next start waiting.
        process::stop(postmaster);
        let mut all = vec![postmaster];
        all.extend(process::children(postmaster));
        process::signal(&all, Signal::SIGKILL);
        process::wait_until_gone(&all);
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::copy(log_file(&self.path), logs::numbered(&self.logs, "postgres"));
        remove(&self.path);
    }
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// One whose PostgreSQL has these environment variables.
    pub async fn start_with(environment: Vec<(&'static str, String)>) -> Self {
        let dir = DataDir::migrated().await;
        let (master_key, settings) = (random_key(), Vec::new());
        let mut cluster = Self { running: None, dir, master_key, environment, settings };
        cluster.restart().await;
        cluster
    }

    /// One in which nobody has heard of Postern, as a PostgreSQL of one's own: an empty database, and no role of its.
    pub async fn fresh() -> Self {
        early_in_the_hour().await;
        let (master_key, environment, settings) = (random_key(), Vec::new(), Vec::new());
        let mut cluster = Self { running: None, dir: DataDir::fresh(), master_key, environment, settings };
        cluster.restart().await;
        cluster
    }

    /// One whose PostgreSQL takes connections over TCP, with TLS only, by this certificate; returns its address, at port
    /// 5432.
    pub async fn start_with_tls(files: &Certificate) -> (Self, Ipv4Addr) {
        Self::start_over_tcp(files, None).await
    }

    /// The same, which over TCP lets in those alone who show a certificate of their role's by this authority.
    pub async fn start_with_certificates(files: &Certificate, clients: &Authority) -> (Self, Ipv4Addr) {
        Self::start_over_tcp(files, Some(clients)).await
    }

    async fn start_over_tcp(files: &Certificate, clients: Option<&Authority>) -> (Self, Ipv4Addr) {
        let mut cluster = Self::start().await;
        cluster.put_certificate(files);
        // Each cluster has an address of its own, and all have one port.
        let [first, second, third] = rand::random::<[u8; 3]>().map(|part| part % 254 + 1);
        let address = Ipv4Addr::new(127, first, second, third);
        cluster.settings = vec![format!("listen_addresses = '{address}'"), "ssl = on".to_owned()];
        let method = match clients {
            Some(authority) => {
                cluster.put(&authority.file(), CLIENTS);
                cluster.settings.push(format!("ssl_ca_file = '{CLIENTS}'"));
                "cert"
            }
            None => "trust",
        };
        cluster.restart().await;
        let rules = cluster.dir.cluster().join("pg_hba.conf");
        let text =
            fs::read_to_string(&rules).expect("it can be read") + "hostssl all all all " + method + "\n";
        fs::write(&rules, text).expect("it can be written");
        cluster.reload().await;
        (cluster, address)
    }

    /// Gives PostgreSQL another certificate, and its clients another authority, of [`Cluster::start_with_certificates`].
    pub async fn replace_certificates(&self, files: &Certificate, clients: &Authority) {
        self.put_certificate(files);
        self.put(&clients.file(), CLIENTS);
        self.reload().await;
    }

    fn put_certificate(&self, files: &Certificate) {
        self.put(&files.certificate, "server.crt");
        self.put(&files.key, "server.key");
    }

    /// Copies a file into PostgreSQL's data directory, as its own.
    fn put(&self, from: &Path, name: &str) {
        let owner = fs::metadata(self.dir.cluster()).expect("it is there");
        let to = self.dir.cluster().join(name);
        fs::copy(from, &to).expect("it can be copied");
        chown(&to, Some(owner.uid()), Some(owner.gid())).expect("we may");
    }

    /// Starts PostgreSQL again, after [`Cluster::kill_postgres`] or while it runs.
    pub async fn restart(&mut self) {
        // Gives up the lock on the data directory first.
        self.running = None;
        let options =
            ClusterOptions::new(self.dir.path(), &extension_dir()).with_shared_buffers(SHARED_BUFFERS);
        let options = self
            .environment
            .iter()
            .fold(options, |options, (name, value)| options.with_variable(name, value));
        let options = self.settings.iter().fold(options, ClusterOptions::with_setting);
        let started =
            spawn_blocking(move || PrivateCluster::start(&options)).await.expect("starting does not panic");
        self.running = Some(started.unwrap_or_else(|error| panic!("the cluster does not start: {error:#}")));
    }

    /// Stops PostgreSQL in order, as an administrator does: all sessions end. [`Cluster::restart`] starts it again.
    pub async fn stop(&mut self) {
        let running = self.running.take().expect("the cluster was started");
        let stopped = spawn_blocking(move || running.stop()).await.expect("stopping does not panic");
        stopped.unwrap_or_else(|error| panic!("the cluster does not stop: {error:#}"));
    }

    /// Keeps a stopped cluster's data as they are, as a snapshot of its disk does.
    pub async fn keep(&self) {
        let (from, to) = (self.dir.cluster(), self.dir.path().join(KEPT));
        spawn_blocking(move || copy(&from, &to)).await.expect("copying does not panic");
    }

    /// Puts a stopped cluster's data back to [`Cluster::keep`].
    pub async fn put_back(&self) {
        let (from, to) = (self.dir.path().join(KEPT), self.dir.cluster());
        let put_back = move || {
            fs::remove_dir_all(&to).expect("it can be deleted");
            fs::rename(&from, &to).expect("it was kept");
        };
        spawn_blocking(put_back).await.expect("renaming does not panic");
    }

    /// Lets PostgreSQL read its configuration again. Returns once its postmaster does, which takes no connection meanwhile.
    pub async fn reload(&self) {
        const SAID: &str = "reloading configuration files";
        let times = || self.log().matches(SAID).count();
        let before = times();
        self.admin().await.execute("SELECT pg_reload_conf()", &[]).await.expect("a superuser may");
        eventually("PostgreSQL reads its configuration", async || (times() > before).then_some(())).await;
    }

    /// All of PostgreSQL's processes end at once ([`DataDir::kill_postgres`]).
    pub fn kill_postgres(&self) {
        self.dir.kill_postgres();
    }

    /// The process id of the postmaster.
    pub fn postmaster(&self) -> Option<u32> {
        self.dir.postmaster()
    }

    /// Connects as a role: a login role directly, any other by a superuser who becomes it.
    pub async fn connect_as(&self, role: &str) -> Client {
        self.try_connect_as(role).await.unwrap_or_else(|error| panic!("cannot connect as {role}: {error}"))
    }

    /// The same while the cluster may be down.
    pub async fn try_connect_as(&self, role: &str) -> Result<Client, tokio_postgres::Error> {
        let login = role == SERVER;
        let url = if login { self.server_url() } else { self.admin_url() };
        let client = connect_to(&url).await?;
        if !login {
            client.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).await?;
        }
        Ok(client)
    }

    /// A superuser's connection.
    pub async fn admin(&self) -> Client {
        self.connect_as(ADMIN).await
    }

    /// The same, unless PostgreSQL takes none just now.
    pub async fn try_admin(&self) -> Option<Client> {
        connect_to(&self.admin_url()).await.ok()
    }

    /// Makes an empty database beside the homeserver's; returns the connection string by which a superuser comes into it.
    pub async fn another_database(&self, name: &str) -> String {
        self.admin().await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a superuser may");
        self.admin_url().replace("dbname=postern", &format!("dbname={name}"))
    }

    /// Gives all sessions from now on each limit of time that this PostgreSQL has, of so many seconds, as operators do for people
    /// and applications.
    pub async fn limit_everybody(&self, seconds: u32) {
        let admin = self.admin().await;
        let limits = "SELECT s.name FROM pg_settings s
                       WHERE s.name IN ('statement_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout',
                                        'transaction_timeout')";
        for row in admin.query(limits, &[]).await.expect("they can be read") {
            let set = format!("ALTER ROLE ALL SET {} = '{seconds}s'", row.get::<_, &str>(0));
            admin.batch_execute(&set).await.expect("a superuser may");
        }
    }

    pub fn server_url(&self) -> String {
        self.running().server_url()
    }

    pub fn admin_url(&self) -> String {
        self.running().admin_url()
    }

    /// Where the cluster's socket lies.
    pub fn socket_dir(&self) -> &Path {
        self.running().socket_dir()
    }

    /// The data directory, as `--data-dir` takes it.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The master key, in hex, of all servers on this cluster.
    pub fn master_key(&self) -> &str {
        &self.master_key
    }

    /// The text of a dump of everything.
    pub async fn dump(&self) -> String {
        let socket_dir = self.socket_dir().to_owned();
        let output = tokio::process::Command::new(program("pg_dump"))
            .args(["--username=postern_admin", "--dbname=postern", "--host"])
            .arg(socket_dir)
            .output()
            .await
            .expect("pg_dump runs");
        assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a dump is text")
    }

    /// Takes a base backup with the WAL that it needs, into a new directory `to`.
    pub async fn base_backup(&self, to: &Path) {
        let output = tokio::process::Command::new(program("pg_basebackup"))
            .args(["--username=postern_admin", "--checkpoint=fast", "--wal-method=stream", "--host"])
            .arg(self.socket_dir())
            .arg("--pgdata")
            .arg(to)
            .output()
            .await
            .expect("pg_basebackup runs");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes PostgreSQL offer the next version of the extension, which has one function more, `postern.greeting()`;
    /// returns its number.
    pub async fn offer_next_extension(&self) -> String {
        let sql = "SELECT (SELECT setting FROM pg_config WHERE name = 'SHAREDIR'), extversion
                     FROM pg_extension WHERE extname = 'postern'";
        let row = self.admin().await.query_one(sql, &[]).await.expect("the extension is there");
        let (directory, present): (String, String) = (row.get(0), row.get(1));
        let (directory, next) = (Path::new(&directory).join("extension"), format!("{present}.1"));
        let script = "CREATE FUNCTION @extschema@.greeting() RETURNS text LANGUAGE sql STABLE
                          AS $$ SELECT 'from the next version' $$;
                      REVOKE ALL ON FUNCTION @extschema@.greeting() FROM PUBLIC";
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).expect("it is ours");
        write(&format!("postern--{present}--{next}.sql"), script);
        let control = fs::read_to_string(directory.join("postern.control")).expect("it is there");
        let version = |number: &str| format!("default_version = '{number}'");
        let offered = control.replace(&version(&present), &version(&next));
        assert_ne!(offered, control);
        write("postern.control", &offered);
        next
    }

    /// PostgreSQL's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(log_file(self.dir.path())).unwrap_or_default()
    }

    fn running(&self) -> &PrivateCluster {
        self.running.as_ref().expect("the cluster was started")
    }
}

/// A session of PostgreSQL by this connection string, without TLS. It ends when the client is dropped.
pub async fn connect_to(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Stops what runs in a data directory, hard, and deletes it.
fn remove(dir: &Path) {
    if let Some(postmaster) = postmaster(dir) {
        // PostgreSQL's "immediate" shutdown: no checkpoint, but shared memory is given back, unlike with SIGKILL.
        process::signal(&[postmaster], Signal::SIGQUIT);
        process::wait_until_gone(&[postmaster]);
    }
    SmallDisk::unmount(dir);
    let _ = fs::remove_dir_all(dir);
}

/// Short, because sockets' names are; and where PostgreSQL's user can go.
fn world() -> PathBuf {
    let dir = PathBuf::from(format!("/tmp/postern-tests-{}", Uid::effective()));
    match fs::DirBuilder::new().mode(0o711).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            panic!("cannot make {}: {error}", dir.display())
        }
        _ => {}
    }
    let owner = fs::symlink_metadata(&dir).expect("it is there").uid();
    assert_eq!(owner, Uid::effective().as_raw(), "{} is somebody else's", dir.display());
    dir
}

/// `<process>-<number>`, not made yet.
fn fresh_dir() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    world().join(format!("{}-{number}", std::process::id()))
}

/// Deletes the worlds of tests that were killed before they could, and templates of what was tested before.
fn sweep() {
    let entries = fs::read_dir(world()).expect("it is there");
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let abandoned = match name.split_once('-') {
            // Not yet, if another run may be copying it.
            Some(("template", _)) => age(&path) > Duration::from_secs(3600),
            Some((pid, _)) => pid.parse().is_ok_and(|pid| !process::is_alive(pid)),
            None => false,
        };
        if abandoned {
            remove(&path);
        }
    }
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|file| file.modified());
    modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
}

/// A migrated and stopped data directory, made by the program under test. The first test process that needs it makes
/// it, while the others wait.
async fn template() -> PathBuf {
    let path = world().join(format!("template-{:016x}", stamp(&[binary("postern"), extension_dir()])));
    let lock = world().join("template.lock");
    let lock = spawn_blocking(move || {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(lock).expect("/tmp is writable");
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("it can be locked")
    });
    let _lock: Flock<File> = lock.await.expect("locking does not panic");
    if !path.exists() {
        let new = path.with_extension("new");
        remove(&new);
        sweep();
        let mut migrate = postern();
        migrate.args(["migrate", "--embedded", "--domain", HOME, "--data-dir"]).arg(&new);
        let output = migrate.output().await.expect("postern runs");
        assert!(output.status.success(), "no template: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&new, &path).expect("it can be renamed");
    }
    path
}

/// Differs when a file there does, or which PostgreSQL is asked for, and on another day: a database knows on which one it
/// was made.
fn stamp(places: &[PathBuf]) -> u64 {
    let mut hash = DefaultHasher::new();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (seconds / (24 * 60 * 60)).hash(&mut hash);
    std::env::var_os("PG_CONFIG").hash(&mut hash);
    let mut places = places.to_vec();
    while let Some(place) = places.pop() {
        let file =
            fs::metadata(&place).unwrap_or_else(|error| panic!("{}: {error}: `make build`", place.display()));
        if file.is_dir() {
            let entries =
                fs::read_dir(&place).expect("it can be read").filter_map(|entry| Some(entry.ok()?.path()));
            let mut entries: Vec<PathBuf> = entries.collect();
            entries.sort();
            places.extend(entries);
        } else {
            (place, file.len(), file.mtime(), file.mtime_nsec()).hash(&mut hash);
        }
    }
    hash.finish()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

fn random_key() -> String {
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    hex::encode(key)
}

/// One of PostgreSQL's programs.
pub fn program(name: &str) -> PathBuf {
    let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let output = Command::new(pg_config).arg("--bindir").output().expect("pg_config runs");
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).join(name)
}
