//! The system user that runs PostgreSQL: another one if we are root, else ourselves.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use nix::{
    libc,
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Uid, User},
};

/// The cluster's user when we are root: PostgreSQL refuses to run as root.
const SYSTEM_USER: &str = "postgres";

pub struct ClusterUser {
    name: String,
    uid: Uid,
    /// User and group to become.
    switch: Option<(u32, u32)>,
}

impl ClusterUser {
    pub fn find() -> anyhow::Result<Self> {
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

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's name, if it is not ours.
    pub fn other(&self) -> Option<&str> {
        self.switch.map(|_| self.name.as_str())
    }

    /// A program run as this user, with nothing of our environment that could lead PostgreSQL elsewhere, and with none
    /// of the privileges that a service manager gave us, such as that for port 443. It ends if we are killed, for our
    /// next attempt would meet it at its work; PostgreSQL that `pg_ctl` has started goes on.
    pub fn command(&self, program: &Path) -> Command {
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
        let none: libc::c_ulong = 0;
        // SAFETY: between fork and exec it makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                // A kernel that refuses has no such privileges.
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
                    none,
                    none,
                    none,
                );
                Ok(set_pdeathsig(Signal::SIGKILL)?)
            });
        }
        command
    }

    /// A directory that only this user can enter.
    pub fn make_dir(&self, path: &Path) -> anyhow::Result<()> {
        self.make_dir_without(path, 0o077, "enter")
    }

    /// A directory that only this user can enter until its owner lets others in, of whom none may replace what lies there.
    pub fn make_dir_for_others(&self, path: &Path) -> anyhow::Result<()> {
        self.make_dir_without(path, 0o022, "write to")
    }

    /// A directory of this user's with mode 700. One that is there may have another mode, with none of the bits `never`, by which
    /// others could do what the word says.
    fn make_dir_without(&self, path: &Path, never: u32, word: &str) -> anyhow::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.own(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // It may lie in a directory that everyone can write to.
                let dir = fs::symlink_metadata(path)?;
                ensure!(
                    dir.is_dir() && dir.uid() == self.uid.as_raw() && dir.mode() & never == 0,
                    "{} should be a directory of user {} that nobody else may {word}: remove it or mend it",
                    path.display(),
                    self.name
                );
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot make the directory {}", path.display())),
        }
    }

    pub fn make_file(&self, path: &Path) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", path.display());
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).with_context(context)?;
        self.own(path)
    }

    /// The text of a file in a directory of this user's. Root follows no link there and waits for no pipe: this user could
    /// have planted one, to learn what only root can read.
    pub fn read(path: &Path) -> anyhow::Result<String> {
        let read = || {
            let mut file =
                OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            // A log may have a name in another encoding.
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().with_context(|| format!("cannot read {}", path.display()))
    }

    /// A file with this text, in place of one that is there.
    pub fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
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
            // After a crash of the machine it is the old one or the new one, and not empty.
            file.sync_all()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt, symlink},
    };

    #[test]
    fn a_directory_may_be_opened_to_others_and_not_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("run");
        let user = ClusterUser { name: "ourselves".to_owned(), uid: Uid::effective(), switch: None };
        let mode = || fs::metadata(&place).unwrap().mode() & 0o777;
        user.make_dir_for_others(&place).unwrap();
        assert_eq!(mode(), 0o700);
        for (given, is_taken) in
            [(0o710, true), (0o711, true), (0o770, false), (0o720, false), (0o703, false)]
        {
            fs::set_permissions(&place, Permissions::from_mode(given)).unwrap();
            assert_eq!(user.make_dir_for_others(&place).is_ok(), is_taken, "{given:o}");
            assert!(user.make_dir(&place).is_err(), "{given:o}");
            assert_eq!(mode(), given, "it stays as it is");
        }
    }

    #[test]
    fn a_link_or_a_pipe_in_the_cluster_is_not_read_as_root() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, link) = (dir.path().join("shadow"), dir.path().join("postgresql.auto.conf"));
        fs::write(&secret, "root's").unwrap();
        assert_eq!(ClusterUser::read(&secret).unwrap(), "root's");
        symlink(&secret, &link).unwrap();
        assert!(ClusterUser::read(&link).is_err());
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(ClusterUser::read(&pipe).is_err());
        assert!(ClusterUser::read(dir.path()).is_err());
    }
}
