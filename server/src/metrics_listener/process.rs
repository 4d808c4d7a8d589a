//! Figures of the process itself, under the names that Prometheus's own libraries give them.

use std::{fs, sync::OnceLock, time::SystemTime};

use nix::{
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage},
        statvfs::statvfs,
        time::TimeValLike,
    },
    unistd::{SysconfVar, sysconf},
};
use tokio::runtime::Handle;

use crate::{
    config::Config,
    database::release::Release,
    metrics::{Metric, Samples},
};

pub static BUILD: Metric = Metric::gauge("postern_build_info", &["version"], "The program; always 1");
static CPU: Metric =
    Metric::counter("process_cpu_seconds", &[], "CPU time of the server process; PostgreSQL's is its own");
static MEMORY: Metric =
    Metric::gauge("process_resident_memory_bytes", &[], "Memory of the server process that is in RAM");
static START: Metric =
    Metric::gauge("process_start_time_seconds", &[], "Start of the server process, in seconds since 1970");
static FILES: Metric = Metric::gauge("process_open_fds", &[], "File descriptors that are open");
static MOST_FILES: Metric = Metric::gauge("process_max_fds", &[], "File descriptors that may be open");
static TASKS: Metric = Metric::gauge("postern_tasks", &[], "Tasks of the server that are not done");
static FREE: Metric = Metric::gauge(
    "postern_data_dir_free_bytes",
    &[],
    "Room that is left where the private cluster is; without --embedded there is no such figure",
);
static ROOM: Metric =
    Metric::gauge("postern_data_dir_size_bytes", &[], "Room in all where the private cluster is");

/// The facts about the process that never change.
pub struct Process {
    started: SystemTime,
    config: Config,
}

impl Process {
    pub fn new(config: &Config) -> Self {
        Self { started: SystemTime::now(), config: config.clone() }
    }

    pub fn add_to(&self, samples: &mut Samples) {
        samples.add(&BUILD, [version().into()], 1.0);
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            samples.add(&CPU, [], microseconds as f64 / 1e6);
        }
        if let Some(bytes) = resident_bytes() {
            samples.add(&MEMORY, [], bytes);
        }
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        samples.add(&START, [], started.as_secs_f64());
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            samples.count(&FILES, [], files.count());
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            samples.add(&MOST_FILES, [], soft as f64);
        }
        samples.count(&TASKS, [], Handle::current().metrics().num_alive_tasks());
        if self.config.embedded
            && let Ok(room) = statvfs(&self.config.data_dir)
        {
            let bytes = |blocks: u64| blocks as f64 * room.fragment_size() as f64;
            samples.add(&FREE, [], bytes(room.blocks_available()));
            samples.add(&ROOM, [], bytes(room.blocks()));
        }
    }
}

/// The version of the release that this process is of.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| Release::of_this_process().version().to_string())
}

fn resident_bytes() -> Option<f64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * sysconf(SysconfVar::PAGE_SIZE).ok()?? as f64)
}
