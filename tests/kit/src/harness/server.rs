//! `postern serve` processes under test.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpSocket,
    process::{Child, Command},
    time::timeout,
};

use super::{Certificate, Cluster, DataDir, PATIENCE, PostgresRelay, binary, eventually, logs};
use crate::HOME;

/// The contact of push services.
pub const PUSH_CONTACT: &str = "mailto:postmaster@home.example";

/// A running server process. Dropping it kills it.
pub struct Server {
    child: Child,
    url: String,
    log: PathBuf,
}

/// A server that is about to start.
pub struct ServerBuilder {
    command: Command,
    /// Keeps the port of [`ServerBuilder::listen`] from all others until the server has it.
    _port: Option<TcpSocket>,
}

impl Server {
    /// A server on this cluster, on a port of its own, as others may be.
    pub async fn start(cluster: &Cluster) -> Self {
        Self::builder(cluster).start().await
    }

    /// The same, for more settings.
    pub fn builder(cluster: &Cluster) -> ServerBuilder {
        Self::of("postern", cluster)
    }

    /// A server that another program is.
    pub fn of(program: &str, cluster: &Cluster) -> ServerBuilder {
        let mut command = command(program);
        command
            .arg("serve")
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_LISTEN", "127.0.0.1:0")
            .env("POSTERN_DATABASE_URL", cluster.server_url())
            .env("POSTERN_MASTER_KEY", cluster.master_key());
        ServerBuilder { command, _port: None }
    }

    /// A server that runs the cluster in a data directory itself.
    pub fn embedded(dir: &DataDir) -> ServerBuilder {
        let mut command = postern();
        command
            .args(["serve", "--embedded"])
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_LISTEN", "127.0.0.1:0")
            .env("POSTERN_DATA_DIR", dir.path());
        ServerBuilder { command, _port: None }
    }

    /// `http://127.0.0.1:<port>`, `https:` with a certificate
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn address(&self) -> SocketAddr {
        self.url.split_once("://").expect("it is a URL").1.parse().expect("the server printed an address")
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// The URL of its metrics, of [`ServerBuilder::metrics`].
    pub async fn metrics_url(&self) -> String {
        eventually("the server says where its metrics are", async || {
            let log = self.log();
            let (url, _) = log.split_once(" metrics at ")?.1.split_once('\n')?;
            Some(url.to_owned())
        })
        .await
    }

    /// Its metrics, as Prometheus gets them.
    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(self.metrics_url().await).await.expect("the listener answers");
        answer.text().await.expect("it is text")
    }

    /// The value of a series of its metrics: `name{labels}` as it is written.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL. Returns when the process is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// SIGTERM. Returns how the process ended.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits for the end of a server that was told to end, and returns how it did.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the server ends").expect("it can be waited for")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the server can be signalled");
    }
}

impl ServerBuilder {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sends pushes, to a [`super::PushService`] on this machine too.
    pub fn pushing(self) -> Self {
        self.env("POSTERN_PUSH_CONTACT", PUSH_CONTACT).env("POSTERN_PUSH_LOCAL_ENDPOINTS", "true")
    }

    /// Shows metrics.
    pub fn metrics(self) -> Self {
        self.env("POSTERN_METRICS_LISTEN", "127.0.0.1:0")
    }

    /// Speaks TLS with this certificate.
    pub fn tls(self, files: &Certificate) -> Self {
        self.env("POSTERN_TLS_CERTIFICATE", &files.certificate.display().to_string())
            .env("POSTERN_TLS_KEY", &files.key.display().to_string())
    }

    /// Listens where a server did before. If none does now, the port is this one's from now on, and not one that another
    /// test's connection gets by chance.
    pub fn listen(self, address: SocketAddr) -> Self {
        Self { _port: bound(address), ..self.env("POSTERN_LISTEN", &address.to_string()) }
    }

    /// Reaches PostgreSQL through the relay.
    pub fn through(self, relay: &PostgresRelay) -> Self {
        self.database(&relay.server_url())
    }

    /// Reaches PostgreSQL by this connection string.
    pub fn database(self, url: &str) -> Self {
        self.env("POSTERN_DATABASE_URL", url)
    }

    /// Lets the process open so many files at most.
    pub fn open_files(mut self, most: u64) -> Self {
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe {
            self.command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?));
        }
        self
    }

    /// Returns when the server is ready. One to which PostgreSQL did not answer in time, since the machine stood still for
    /// seconds, is started again, as systemd does it.
    pub async fn start(mut self) -> Server {
        let mut started = self.launch().await;
        for _ in 0..2 {
            if started.as_ref().is_err_and(|output| output.contains("PostgreSQL did not answer within")) {
                started = self.launch().await;
            }
        }
        started.unwrap_or_else(|output| panic!("the server does not start: {output}"))
    }

    /// Returns what the server printed, if it ended instead of becoming ready.
    pub async fn try_start(mut self) -> Result<Server, String> {
        self.launch().await
    }

    async fn launch(&mut self) -> Result<Server, String> {
        let log = logs::numbered(&logs::dir(), "server");
        let mut file = File::create(&log).expect("logs are writable");
        let stderr = file.try_clone().expect("a file can be shared");
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .expect("postern runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let url = loop {
            let line = timeout(PATIENCE, lines.next_line())
                .await
                .expect("the server says something")
                .expect("it is text");
            let Some(line) = line else {
                let _ = child.wait().await;
                return Err(std::fs::read_to_string(&log).unwrap_or_default());
            };
            note(&mut file, &line);
            if let Some((_, url)) = line.split_once(" at http") {
                break format!("http{url}");
            }
        };
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                note(&mut file, &line);
            }
        });
        Ok(Server { child, url, log })
    }
}

/// Writes a line at once: the server's own log goes into the same file, and nothing of it may come between a line and its end.
fn note(file: &mut File, line: &str) {
    let _ = file.write_all(format!("{line}\n").as_bytes());
}

/// A socket that has an address and does not listen: a server can listen there all the same, and nobody else is given the port.
/// There is none while somebody listens there.
fn bound(address: SocketAddr) -> Option<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.bind(address).ok()?;
    Some(socket)
}

/// The program under test, with no setting from this process's environment but which PostgreSQL it is to use.
pub fn postern() -> Command {
    command("postern")
}

/// The same for another program.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(binary(program));
    let postgresql = std::env::var_os("PG_CONFIG").map(|path| ("PG_CONFIG", path));
    // Not the working directory: a postern.toml may lie there.
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(postgresql).current_dir("/");
    command
}
