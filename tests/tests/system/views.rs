//! The views that an operator has of a bad day (OPS-4, OPS-9): the text of `postern status`, and the figures by which alerts
//! go.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use postern_tests_kit::{DataDir, HOME, PATIENCE, Server, postern};
use tokio::time::sleep;

use crate::metrics::Scrape;

/// Series of the database that each scrape has as long as it answers, and none has otherwise.
const OF_DATABASE: [&str; 4] = [
    "postern_database_bytes",
    "postern_sessions_all",
    "postern_clock_offset_seconds",
    "postern_health{item=\"durability\"}",
];
/// Part of the room for the private cluster from which on little is left (`PosternDiskFills`).
const LITTLE_ROOM: f64 = 0.1;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The ways to see how a server and its database are. They stay when these are gone.
pub struct Views {
    is_embedded: bool,
    /// Settings and other variables of the commands that look.
    environment: Vec<(String, OsString)>,
    /// The address of the listener of metrics.
    metrics: String,
}

/// The state of a server and its database as somebody sees it at a moment.
#[derive(Debug)]
pub struct View {
    /// The exit code of `postern status`.
    pub code: Option<i32>,
    /// The text of `postern status`.
    pub status: String,
    /// The metrics; none: nobody answers at their address.
    pub scrape: Option<Scrape>,
}

impl Views {
    /// The views of a server with metrics, and of the database with this connection string.
    pub async fn of(server: &Server, database: &str) -> Self {
        Self::at(server, false).await.with("POSTERN_DATABASE_URL", database)
    }

    /// The views of a server with metrics that runs the cluster in a data directory itself.
    pub async fn of_embedded(server: &Server, dir: &DataDir) -> Self {
        Self::at(server, true).await.with("POSTERN_DATA_DIR", dir.path())
    }

    async fn at(server: &Server, is_embedded: bool) -> Self {
        let url = server.metrics_url().await;
        let metrics = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/metrics"));
        let metrics = metrics.expect("it is a URL of metrics").to_owned();
        let views = Self { is_embedded, environment: Vec::new(), metrics: metrics.clone() };
        views
            .with("POSTERN_DOMAIN", HOME)
            .with("POSTERN_LISTEN", server.address().to_string())
            .with("POSTERN_METRICS_LISTEN", metrics)
    }

    /// The same with a setting, or another variable, of the commands that look.
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The address of the listener of metrics.
    pub fn metrics(&self) -> &str {
        &self.metrics
    }

    /// The exit code and the text of a command that looks, `status` or `check`.
    pub async fn said(&self, command: &str) -> (Option<i32>, String) {
        let mut program = postern();
        program.arg(command);
        if self.is_embedded {
            program.arg("--embedded");
        }
        for (name, value) in &self.environment {
            program.env(name, value);
        }
        let output = program.output().await.expect("postern runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Looks once. Metrics have all figures of the database, or say that they have none.
    pub async fn look(&self) -> View {
        let ((code, status), scrape) = tokio::join!(self.said("status"), self.scrape());
        if let Some(scrape) = &scrape {
            let is_up = scrape.value("postern_database_up") == 1.0;
            for series in OF_DATABASE {
                let is_there = scrape.known(series).is_some();
                assert_eq!(is_there, is_up, "{series} is there, and the database is up");
            }
        }
        View { code, status, scrape }
    }

    async fn scrape(&self) -> Option<Scrape> {
        let answer = reqwest::get(format!("http://{}/metrics", self.metrics)).await.ok()?;
        Some(Scrape::read(&answer.text().await.ok()?))
    }

    /// Looks until there is something to see, and returns the view of it.
    ///
    /// # Panics
    /// When nothing came within [`PATIENCE`], with the last view.
    pub async fn until(&self, what: &str, is_seen: impl Fn(&View) -> bool) -> View {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.look().await;
            if is_seen(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "nobody sees it: {what}\n{}\n{:?}", view.status, view.scrape);
            sleep(PAUSE).await;
        }
    }
}

impl View {
    /// The value of a series.
    pub fn figure(&self, series: &str) -> Option<f64> {
        self.scrape.as_ref()?.known(series)
    }

    fn has(&self, figures: &[(&str, f64)]) -> bool {
        figures.iter().all(|(series, value)| self.figure(series) == Some(*value))
    }

    /// Nothing is wrong, though there may be a warning.
    pub fn is_well(&self) -> bool {
        let words = ["ok       server: it is ready", "\n  database   PostgreSQL ", "\n  users "];
        let figures = [("postern_ready", 1.0), ("postern_database_up", 1.0), ("postern_listening", 1.0)];
        matches!(self.code, Some(0 | 1))
            && words.iter().all(|word| self.status.contains(word))
            && self.has(&figures)
            && self.figure("postern_users").is_some()
    }

    /// The server runs, and its database does not answer: `PosternNotReady`, `PosternDatabaseSilent` and `PosternDeaf`. No
    /// figure of the database is from before.
    pub fn is_without_database(&self) -> bool {
        let words = ["problem  server: not ready: the database", "problem  database: "];
        let figures = [("postern_ready", 0.0), ("postern_database_up", 0.0), ("postern_listening", 0.0)];
        self.code == Some(2)
            && words.iter().all(|word| self.status.contains(word))
            && self.has(&figures)
            && self.figure("postern_users").is_none()
    }

    /// The server is gone, and its listener of metrics with it: `PosternDown`.
    pub fn is_without_server(&self) -> bool {
        let words = ["problem  server: its metrics at ", " do not answer, and nothing listens at "];
        self.code == Some(2) && words.iter().all(|word| self.status.contains(word)) && self.scrape.is_none()
    }

    /// Little room is left for the private cluster: `PosternDiskFills`.
    pub fn has_little_room(&self) -> bool {
        let [free, size] =
            ["postern_data_dir_free_bytes", "postern_data_dir_size_bytes"].map(|series| self.figure(series));
        let is_little = free.zip(size).is_some_and(|(free, size)| free / size < LITTLE_ROOM);
        is_little && self.status.contains("warning  room: ")
    }
}
