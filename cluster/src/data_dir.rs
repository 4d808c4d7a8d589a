//! The places of one data directory, its lock, and the processes that work in it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::user::ClusterUser;

/// PostgreSQL's data directory, in ours.
pub const CLUSTER: &str = "cluster";
const LOG: &str = "postgres.log";

/// The length of a socket's address, without the final zero.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.5432";

pub struct DataDir {
    path: PathBuf,
    socket_dir: PathBuf,
}

impl DataDir {
    /// Makes the directory if there is none.
    pub fn prepare(path: &Path, user: &ClusterUser) -> anyhow::Result<Self> {
        if !path.exists() {
            // Others may pass through (the cluster's user must), not look around.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(if user.other().is_some() { 0o711 } else { 0o700 })
                .create(path)
                .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        }
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        let socket_dir = socket_dir(&path);
        user.make_dir(&socket_dir)?;
        Ok(Self { path, socket_dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn cluster(&self) -> PathBuf {
        self.path.join(CLUSTER)
    }

    pub fn installation(&self) -> PathBuf {
        self.path.join("installation")
    }

    pub fn log(&self) -> PathBuf {
        log_file(&self.path)
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// None if another process holds it.
    pub fn lock(&self) -> anyhow::Result<Option<Flock<File>>> {
        let path = self.path.join("lock");
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

    /// The version of the cluster, if there is one.
    pub fn cluster_major(&self) -> anyhow::Result<Option<u32>> {
        let path = self.cluster().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().parse().with_context(|| path.display().to_string())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The running postmaster.
    pub fn postmaster(&self) -> Option<u32> {
        postmaster(&self.path)
    }

    /// PostgreSQL's processes.
    pub fn processes(&self) -> Vec<u32> {
        let cluster = self.cluster();
        let all = fs::read_dir("/proc").into_iter().flatten();
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_postgres_in(&cluster, *pid)).collect()
    }

    /// The files with a postmaster's number.
    pub fn lock_files(&self) -> [PathBuf; 2] {
        [postmaster_pid_file(&self.cluster()), self.socket_dir.join(format!("{SOCKET_NAME}.lock"))]
    }
}

/// PostgreSQL's log in a data directory.
pub fn log_file(data_dir: &Path) -> PathBuf {
    data_dir.join(LOG)
}

/// The process id of the postmaster that runs in a data directory. A process that got a dead postmaster's number
/// does not count.
pub fn postmaster(data_dir: &Path) -> Option<u32> {
    let cluster = data_dir.join(CLUSTER);
    let text = fs::read_to_string(postmaster_pid_file(&cluster)).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    is_postgres_in(&cluster, pid).then_some(pid)
}

fn postmaster_pid_file(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}

/// Whether a process is one of this cluster's: their working directory is PostgreSQL's data directory.
fn is_postgres_in(cluster: &Path, pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == cluster)
        // Not an administrator's shell.
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "postgres")
}

/// The socket's directory: in the data directory, unless that makes the socket's address too long; then in a short
/// place that depends on the data directory only.
fn socket_dir(data_dir: &Path) -> PathBuf {
    let dir = data_dir.join("run");
    if dir.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX {
        return dir;
    }
    let hash = digest(&SHA256, data_dir.as_os_str().as_encoded_bytes());
    let short = std::env::temp_dir().join(format!("postern-{}", hex::encode(&hash.as_ref()[..8])));
    tracing::info!(
        "the data directory's name is too long for a Unix socket in it ({SOCKET_PATH_MAX} bytes): the socket is in {}",
        short.display()
    );
    short
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
}
