//! The private cluster of a command (`--embedded`), started before the command's work and stopped after it, and watched
//! over as long as a server runs on it.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use postern_cluster::{
    ClusterOptions, Condition, Interrupted, Look, PrivateCluster, SOCKET_NAME, Stopped, installed_version,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    select,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use crate::config::{self, Config, ConnectionString};

/// Pause between two looks at PostgreSQL's process.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two questions to PostgreSQL, and for an answer.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer after which PostgreSQL is ended. It answers each from a process of its own, also while it
/// recovers and when all sessions are taken; a busy machine gets half a minute.
const UNANSWERED: u32 = 6;
/// Time for which PostgreSQL has to run before its next end counts as a first one.
const STABLE: Duration = Duration::from_secs(60);
/// Time in which a command waits for another process that starts PostgreSQL, or stops it.
const OTHERS_TURN: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Pauses between attempts to start PostgreSQL; each is up to twice as long, at random.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(SHORTEST_PAUSE)
    .with_max_delay(LONGEST_PAUSE)
    .with_jitter()
    .without_max_times();
/// The question whether PostgreSQL speaks TLS (SSLRequest): the shortest one that it answers before anybody logs in.
const QUESTION: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Starts the private cluster, if one is wanted, and points the configuration at it.
pub async fn start(
    config: &mut Config,
    start: impl FnOnce(&ClusterOptions) -> anyhow::Result<PrivateCluster> + Send + 'static,
) -> anyhow::Result<Option<PrivateCluster>> {
    if !config.embedded {
        return Ok(None);
    }
    let options = options(config);
    let cluster = spawn_blocking(move || start(&options)).await??;
    lead_to(config, &cluster);
    Ok(Some(cluster))
}

/// Starts the private cluster for a command, or joins the one that another process runs. That process has the cluster before
/// PostgreSQL takes sessions, and until it has ended: the command waits for the one and the other.
pub fn start_or_join(options: &ClusterOptions) -> anyhow::Result<PrivateCluster> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let cluster = PrivateCluster::start_or_join(options)?;
        if takes_sessions(&cluster) || begun.elapsed() > OTHERS_TURN {
            return Ok(cluster);
        }
        // It is nobody's reason to leave PostgreSQL alone.
        drop(cluster);
        if !is_told {
            tracing::info!("another process starts or stops PostgreSQL: waiting for it");
            is_told = true;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Whether PostgreSQL takes sessions, also where this user cannot look at its process.
fn takes_sessions(cluster: &PrivateCluster) -> bool {
    let socket = cluster.socket_dir().join(SOCKET_NAME);
    match cluster.condition() {
        Condition::Ready => true,
        Condition::Busy => false,
        Condition::Ended => std::os::unix::net::UnixStream::connect(socket).is_ok(),
    }
}

/// Does a command's work on the private cluster, if one is wanted, which is stopped after it unless it ran before.
pub async fn during<T>(
    mut config: Config,
    work: impl AsyncFnOnce(&Config) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let cluster = start(&mut config, start_or_join).await?;
    let done = work(&config).await;
    let stopped = stop(cluster).await;
    done.and_then(|done| stopped.map(|()| done))
}

/// Does what [`start`] does, for a restore, which goes on where another one was interrupted. Returns whether it has made the
/// cluster, too.
pub async fn start_restore(config: &mut Config) -> anyhow::Result<Option<(PrivateCluster, bool)>> {
    if !config.embedded {
        return Ok(None);
    }
    let options = options(config).with_making(true);
    let started = spawn_blocking(move || PrivateCluster::start_restore(&options)).await??;
    lead_to(config, &started.0);
    Ok(Some(started))
}

/// Refuses the place of a restore where a private cluster is.
pub fn expect_place_for_restore(config: &Config) -> anyhow::Result<()> {
    match config.embedded {
        true => options(config).expect_place_for_restore(),
        false => Ok(()),
    }
}

/// The database, as it is found by a command that only looks.
pub enum Found {
    /// The configuration leads to it. It is in a private cluster that runs, or the operator's own.
    There(Option<PrivateCluster>),
    /// There is no private cluster.
    Missing,
    /// It is in a private cluster that is stopped.
    Stopped(Stopped),
}

/// Looks for the private cluster, if one is wanted, and points the configuration at it if it runs. Nothing changes,
/// unless a stopped one is to be started for the look.
pub async fn look(config: &mut Config, start: bool) -> anyhow::Result<Found> {
    if !config.embedded {
        return Ok(Found::There(None));
    }
    let options = options(config);
    let work = move || match PrivateCluster::look(&options)? {
        Look::Stopped(_) if start => start_or_join(&options).map(Look::Running),
        found => Ok(found),
    };
    Ok(match spawn_blocking(work).await?? {
        Look::Missing => Found::Missing,
        Look::Stopped(stopped) => Found::Stopped(stopped),
        Look::Running(cluster) => {
            lead_to(config, &cluster);
            Found::There(Some(cluster))
        }
    })
}

fn options(config: &Config) -> ClusterOptions {
    ClusterOptions::new(&config.data_dir, &config.extension_dir).with_making(config.create_cluster)
}

fn lead_to(config: &mut Config, cluster: &PrivateCluster) {
    config.database.url = Some(ConnectionString::new(cluster.server_url()));
    config.database.admin_url = Some(ConnectionString::new(cluster.admin_url()));
}

/// The way to start the server here.
pub fn how_to_start() -> &'static str {
    // There is such a directory where systemd runs the machine.
    match config::installed_file().is_some() && Path::new("/run/systemd/system").exists() {
        true => "start the server: `systemctl start postern`",
        false => "start the server: `postern serve` with the same settings, or what runs it here",
    }
}

/// The remark, and how to mend it, that the private cluster runs another minor version than the installed one: it runs
/// a copy, made when the server started. `running` is PostgreSQL's `server_version`.
pub fn older_than_installed(running: &str) -> Option<(String, &'static str)> {
    let running = running.split_whitespace().next()?;
    let installed = installed_version(running.split('.').next()?.parse().ok()?)?;
    let says = format!("{running} runs, and {installed} is installed");
    (installed != running).then_some((says, "restart the server: what an upgrade mends is not mended before"))
}

/// Stops the private cluster of a command that had one.
pub async fn stop(cluster: Option<PrivateCluster>) -> anyhow::Result<()> {
    match cluster {
        Some(cluster) => spawn_blocking(move || cluster.stop()).await?,
        None => Ok(()),
    }
}

/// Watches over a private cluster: PostgreSQL that ended or does not answer is started again, however often that takes.
/// Meanwhile the server answers that it is unavailable, as for any database that is away.
pub struct Supervisor {
    cluster: Arc<PrivateCluster>,
    stopping: watch::Sender<bool>,
    watching: JoinHandle<()>,
}

impl Supervisor {
    pub fn start(cluster: PrivateCluster) -> Self {
        let cluster = Arc::new(cluster);
        let (stopping, stop) = watch::channel(false);
        let watching = tokio::spawn(watch_over(Arc::clone(&cluster), stop));
        Self { cluster, stopping, watching }
    }

    /// Stops watching, then the cluster.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stopping.send_replace(true);
        self.watching.await?;
        let cluster = Arc::into_inner(self.cluster).context("the private cluster is still watched")?;
        stop(Some(cluster)).await
    }
}

async fn watch_over(cluster: Arc<PrivateCluster>, mut stop: watch::Receiver<bool>) {
    let mut pauses = PAUSES.build();
    let (mut attempts, mut running_since, mut asked, mut unanswered) = (0, Instant::now(), Instant::now(), 0);
    while wait(&mut stop, LOOK_INTERVAL).await {
        match cluster.condition() {
            Condition::Ended => {}
            Condition::Ready | Condition::Busy => {
                if running_since.elapsed() > STABLE {
                    (pauses, attempts) = (PAUSES.build(), 0);
                }
                if asked.elapsed() < ASK_INTERVAL {
                    continue;
                }
                asked = Instant::now();
                unanswered = if answers(&cluster).await { 0 } else { unanswered + 1 };
                if unanswered < UNANSWERED {
                    continue;
                }
                tracing::error!(
                    "PostgreSQL has not answered for {} seconds: ending it",
                    (UNANSWERED * ASK_INTERVAL).as_secs()
                );
                let killing = Arc::clone(&cluster);
                if let Err(error) = in_thread(move || killing.kill()).await {
                    tracing::error!("{}", in_one_line(&error));
                    continue;
                }
            }
        }
        tracing::error!("PostgreSQL ended: starting it again");
        let ended = Instant::now();
        // One that ended soon after its start has a pause, as one that does not start.
        if attempts > 0 && !pause(&mut pauses, &mut stop).await {
            return;
        }
        loop {
            attempts += 1;
            let (starting, stop_asked) = (Arc::clone(&cluster), stop.clone());
            match in_thread(move || starting.start_again(&|| !*stop_asked.borrow())).await {
                Ok(()) => break,
                Err(_) if *stop.borrow() => return,
                // Ctrl-C in a terminal reached PostgreSQL first.
                Err(error) if error.is::<Interrupted>() => {}
                Err(error) => tracing::error!("attempt {attempts}: {}", in_one_line(&error)),
            }
            if !pause(&mut pauses, &mut stop).await {
                return;
            }
        }
        tracing::info!("PostgreSQL runs again, after {:.1} seconds", ended.elapsed().as_secs_f64());
        (running_since, asked, unanswered) = (Instant::now(), Instant::now(), 0);
    }
}

/// Waits before the next attempt; returns false if the server is to stop.
async fn pause(pauses: &mut impl Iterator<Item = Duration>, stop: &mut watch::Receiver<bool>) -> bool {
    let pause = pauses.next().unwrap_or(STABLE);
    tracing::info!("the next attempt to start PostgreSQL is in {:.1} seconds", pause.as_secs_f64());
    wait(stop, pause).await
}

/// Returns false if the server is to stop.
async fn wait(stop: &mut watch::Receiver<bool>, time: Duration) -> bool {
    select! {
        () = sleep(time) => true,
        _ = stop.wait_for(|stop| *stop) => false,
    }
}

async fn in_thread(work: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    spawn_blocking(work).await?
}

/// Whether the postmaster takes a connection and starts a process that answers on it.
async fn answers(cluster: &PrivateCluster) -> bool {
    let socket = cluster.socket_dir().join(SOCKET_NAME);
    let ask = async {
        let mut connection = UnixStream::connect(&socket).await?;
        connection.write_all(&QUESTION).await?;
        connection.read_u8().await
    };
    matches!(timeout(ASK_INTERVAL, ask).await, Ok(Ok(_)))
}

/// An error in one line of the log, in which PostgreSQL's own words have several.
fn in_one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().collect::<Vec<_>>().join(" | ")
}
