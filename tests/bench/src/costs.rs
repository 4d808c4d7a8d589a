//! Where the time goes: CPU seconds of client, server and database, flushes and volume of
//! the WAL, read before and after a round.

use anyhow::{Context, Result};
use postern_tests_kit::{Cluster, Server, World};

#[derive(Clone, Copy)]
pub struct Costs {
    /// CPU seconds.
    pub client: f64,
    pub server: f64,
    pub database: f64,
    /// Times the WAL was flushed to disk.
    pub flushes: f64,
    /// Bytes.
    pub wal: f64,
}

impl Costs {
    pub async fn read(cluster: &Cluster, server: &Server) -> Result<Self> {
        let admin = cluster.admin().await;
        let major = "SELECT current_setting('server_version_num')::integer / 10000";
        let flushes = match admin.query_one(major, &[]).await?.get::<_, i32>(0) {
            ..18 => "wal_sync",
            _ => "(SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal')",
        };
        let row =
            admin.query_one(&format!("SELECT {flushes}, wal_bytes::float8 FROM pg_stat_wal"), &[]).await?;
        Ok(Self {
            client: cpu_seconds("self")?,
            server: cpu_seconds(&server.pid().to_string())?,
            database: cluster_cpu_seconds(cluster)?,
            flushes: row.get::<_, i64>(0) as f64,
            wal: row.get(1),
        })
    }

    pub fn since(self, before: &Self) -> Self {
        self.combine(before, |after, before| after - before)
    }

    pub fn per(self, operations: usize) -> Self {
        self.combine(&self, |value, _| value / operations as f64)
    }

    fn combine(self, other: &Self, with: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            client: with(self.client, other.client),
            server: with(self.server, other.server),
            database: with(self.database, other.database),
            flushes: with(self.flushes, other.flushes),
            wal: with(self.wal, other.wal),
        }
    }
}

/// CPU seconds of this process, and of the first servers and the databases of two homeservers.
#[derive(Clone, Copy)]
pub struct Cpu {
    pub here: f64,
    pub servers: [f64; 2],
    pub databases: [f64; 2],
}

impl Cpu {
    pub fn read(one: &World, other: &World) -> Result<Self> {
        let server = |world: &World| cpu_seconds(&world.server().pid().to_string());
        Ok(Self {
            here: cpu_seconds("self")?,
            servers: [server(one)?, server(other)?],
            databases: [cluster_cpu_seconds(&one.cluster)?, cluster_cpu_seconds(&other.cluster)?],
        })
    }

    pub fn since(self, before: Self) -> Self {
        let pair = |after: [f64; 2], before: [f64; 2]| [after[0] - before[0], after[1] - before[1]];
        Self {
            here: self.here - before.here,
            servers: pair(self.servers, before.servers),
            databases: pair(self.databases, before.databases),
        }
    }
}

/// CPU seconds of the postmaster and everything it ever started.
pub fn cluster_cpu_seconds(cluster: &Cluster) -> Result<f64> {
    let postmaster = cluster.postmaster().context("the cluster runs")?.to_string();
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
    let running = children.split_whitespace();
    // A backend may end between the two reads.
    let running: f64 = running.map(|process| cpu_seconds(process).unwrap_or_default()).sum();
    Ok(running + cpu_seconds(&postmaster)? + ended_children_cpu_seconds(&postmaster)?)
}

/// proc(5): utime and stime, the 14th and 15th field of `stat`.
pub fn cpu_seconds(process: &str) -> Result<f64> {
    stat_seconds(process, 14)
}

/// cutime and cstime, the 16th and 17th.
fn ended_children_cpu_seconds(process: &str) -> Result<f64> {
    stat_seconds(process, 16)
}

fn stat_seconds(process: &str, field: usize) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("stat names its process")?;
    // The fields after the name begin with the third.
    let ticks: u64 =
        fields.split_whitespace().skip(field - 3).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}

/// The machine, in a line.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores of {model}; client, servers and database share them; fsync on.")
}
