//! The places of one data directory, and its lock.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{
    postmaster::{Postmaster, SOCKET_NAME, pid_in},
    user::ClusterUser,
};

/// PostgreSQL's data directory, in ours.
pub const CLUSTER: &str = "cluster";
/// The file with PostgreSQL's major version, in its data directory.
pub const VERSION_FILE: &str = "PG_VERSION";
const LOG: &str = "postgres.log";

/// Looks whether there are commands, and the pause between two.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(2);

/// The length of a socket's address, without the final zero.
const SOCKET_PATH_MAX: usize = 107;

pub struct DataDir {
    path: PathBuf,
    socket_dir: PathBuf,
}

/// The locks of the last one that leaves a cluster. They end in this order: a command that waits for the second one finds the
/// first one free.
pub struct LastOne {
    _cluster: Flock<File>,
    _commands: Flock<File>,
}

impl DataDir {
    /// Makes the directory if there is none.
    pub fn prepare(path: &Path, user: &ClusterUser) -> anyhow::Result<Self> {
        // Others may pass through (the cluster's user must), not look around.
        make_dirs(path, if user.other().is_some() { 0o711 } else { 0o700 })
            .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let dir = Self::existing(path)?;
        user.make_dir_for_others(&dir.socket_dir)?;
        Ok(dir)
    }

    /// One that is there, and stays as it is.
    pub fn existing(path: &Path) -> anyhow::Result<Self> {
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        let socket_dir = socket_dir(&path);
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

    /// The lock of the process that runs the cluster. None if another process holds it.
    pub fn lock(&self) -> anyhow::Result<Option<Flock<File>>> {
        self.lock_of("lock", FlockArg::LockExclusiveNonblock)
    }

    /// The lock of a command that uses the cluster, with or without a server on it.
    pub fn share(&self) -> anyhow::Result<Flock<File>> {
        self.lock_of("lock.commands", FlockArg::LockShared)?.context("the lock of commands was refused")
    }

    /// The lock against commands that use the cluster. None if there are any.
    pub fn without_commands(&self) -> anyhow::Result<Option<Flock<File>>> {
        for _ in 1..LOOKS {
            let lock = self.lock_of("lock.commands", FlockArg::LockExclusiveNonblock)?;
            if lock.is_some() {
                return Ok(lock);
            }
            // Another process may just be looking, too.
            sleep(PAUSE);
        }
        self.lock_of("lock.commands", FlockArg::LockExclusiveNonblock)
    }

    /// Takes the locks for a command that has given up its own, if it is the last one that leaves: no server runs the cluster,
    /// and no other command uses it.
    pub fn lock_as_last(&self) -> anyhow::Result<Option<LastOne>> {
        let locks = lock_as_last(|| self.lock(), || self.without_commands())?;
        Ok(locks.map(|(cluster, commands)| LastOne { _cluster: cluster, _commands: commands }))
    }

    fn lock_of(&self, name: &str, kind: FlockArg) -> anyhow::Result<Option<Flock<File>>> {
        let path = self.path.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, kind) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// PostgreSQL's major version of the cluster, if there is one.
    pub fn cluster_major(&self) -> anyhow::Result<Option<u32>> {
        major_of(&self.cluster())
    }

    /// Whether PostgreSQL runs, also where its process is another user's, or has privileges that this one has not and
    /// cannot be looked at: then it takes connections.
    pub fn is_in_use(&self) -> bool {
        self.postmaster().pid().is_some() || UnixStream::connect(self.socket_dir.join(SOCKET_NAME)).is_ok()
    }

    /// PostgreSQL in the cluster.
    pub fn postmaster(&self) -> Postmaster {
        self.postmaster_in(&self.cluster())
    }

    /// PostgreSQL in a data directory of another name ([`DataDir::beside_cluster`]).
    pub fn postmaster_in(&self, data: &Path) -> Postmaster {
        Postmaster::new(data.to_owned(), self.socket_dir.clone())
    }

    /// PostgreSQL's data directory under another name, in ours: one that is made, or one that an upgrade kept.
    pub fn beside_cluster(&self, name: &str) -> PathBuf {
        self.path.join(format!("{CLUSTER}.{name}"))
    }
}

/// Takes both locks by these looks at them. Of several that leave at once, the last one that looks has them.
fn lock_as_last<L, C>(
    mut cluster: impl FnMut() -> anyhow::Result<Option<L>>,
    mut commands: impl FnMut() -> anyhow::Result<Option<C>>,
) -> anyhow::Result<Option<(L, C)>> {
    loop {
        let Some(lock) = cluster()? else { return Ok(None) };
        if let Some(commands) = commands()? {
            return Ok(Some((lock, commands)));
        }
        drop(lock);
        // One that left meanwhile found the lock taken, and stopped nothing.
        if commands()?.is_none() {
            return Ok(None);
        }
    }
}

/// Makes a directory, and those above it that are missing, with this mode, of which the umask of a shell takes nothing away. One
/// that is there stays as it is.
///
/// # Errors
/// One of them cannot be made, or is no directory.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent, mode)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        // Somebody else was faster.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// PostgreSQL's major version of one of its data directories, if that is one.
pub fn major_of(cluster: &Path) -> anyhow::Result<Option<u32>> {
    let path = cluster.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().parse().with_context(|| path.display().to_string())?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// PostgreSQL's log in a data directory.
pub fn log_file(data_dir: &Path) -> PathBuf {
    data_dir.join(LOG)
}

/// The process id of the postmaster that runs in a data directory.
pub fn postmaster(data_dir: &Path) -> Option<u32> {
    pid_in(&data_dir.join(CLUSTER))
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
    use nix::sys::stat::{Mode, umask};
    use std::slice::Iter;

    #[test]
    fn directories_that_others_pass_through_are_open_to_them_whatever_the_umask_is() {
        let place = tempfile::tempdir().unwrap();
        let (above, dir) = (place.path().join("srv"), place.path().join("srv/postern"));
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
        let made = make_dirs(&dir, 0o711);
        umask(before);
        made.unwrap();
        let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&above), mode(&dir)), (0o711, 0o711));
        make_dirs(&dir, 0o755).unwrap();
        assert_eq!(mode(&dir), 0o711, "it stays as it is");
        fs::write(dir.join("file"), "").unwrap();
        assert!(make_dirs(&dir.join("file"), 0o711).is_err());
    }

    /// Each look finds a lock that is free, or one that somebody has.
    #[test]
    fn a_command_that_leaves_while_another_one_does_looks_again() {
        const FREE: bool = true;
        const TAKEN: bool = false;
        let cases: [(&[bool], &[bool], bool); 6] = [
            (&[FREE], &[FREE], true),
            // A server runs the cluster, or another one that leaves has it.
            (&[TAKEN], &[], false),
            // Another command uses it.
            (&[FREE], &[TAKEN, TAKEN], false),
            // That one has left since the first look, found the lock of the cluster taken, and is gone.
            (&[FREE, FREE], &[TAKEN, FREE, FREE], true),
            (&[FREE, FREE], &[TAKEN, FREE, TAKEN, TAKEN], false),
            // One that came after it has the lock of the cluster.
            (&[FREE, TAKEN], &[TAKEN, FREE], false),
        ];
        for (cluster, commands, is_last) in cases {
            let (mut of_cluster, mut of_commands) = (cluster.iter(), commands.iter());
            let look = |looks: &mut Iter<bool>| Ok(looks.next().expect("it looks no more").then_some(()));
            let locks = lock_as_last(|| look(&mut of_cluster), || look(&mut of_commands)).unwrap();
            assert_eq!(locks.is_some(), is_last, "{cluster:?} and {commands:?}");
            assert_eq!([of_cluster.len(), of_commands.len()], [0, 0], "{cluster:?} and {commands:?}");
        }
    }

    #[test]
    fn the_last_one_has_both_locks_until_it_has_done_its_work() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::existing(place.path()).unwrap();
        let command = dir.share().unwrap();
        assert!(dir.lock_as_last().unwrap().is_none());
        drop(command);
        let last = dir.lock_as_last().unwrap();
        assert!(last.is_some());
        assert!(dir.lock().unwrap().is_none() && dir.without_commands().unwrap().is_none());
        drop(last);
        assert!(dir.lock().unwrap().is_some() && dir.without_commands().unwrap().is_some());
    }

    #[test]
    fn a_socket_fits_its_address_however_long_the_data_directory() {
        assert_eq!(socket_dir(Path::new("/var/lib/postern")), Path::new("/var/lib/postern/run"));
        let long = socket_dir(&Path::new("/").join("x".repeat(90)));
        assert!(long.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX, "{}", long.display());
        assert_eq!(long, socket_dir(&Path::new("/").join("x".repeat(90))));
    }
}
