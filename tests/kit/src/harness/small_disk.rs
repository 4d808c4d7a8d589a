//! A disk of a few megabytes, which a test can fill: a file system in memory, mounted in a directory. Only root can.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::statvfs,
};

const BALLAST: &str = "ballast";

/// A mounted disk.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one in a new directory.
    ///
    /// # Panics
    /// When it may not be mounted, with what is missing.
    pub fn mount(path: &Path, megabytes: u64) -> Self {
        fs::create_dir(path).expect("it is new");
        let options = format!("size={megabytes}m,mode=711");
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status();
        assert!(
            status.expect("mount runs").success(),
            "this test mounts a disk: root needs the capability CAP_SYS_ADMIN (`docker run --cap-add=SYS_ADMIN`)"
        );
        Self { path: path.to_owned() }
    }

    /// Unmounts what is mounted in a directory, if anything is.
    pub fn unmount(dir: &Path) {
        let device = |dir: &Path| fs::symlink_metadata(dir).map(|dir| dir.dev()).ok();
        let (own, outer) = (device(dir), dir.parent().and_then(device));
        if own.is_some() && own != outer {
            let _ = Command::new("umount").arg("--lazy").arg(dir).status();
        }
    }

    /// Takes all that is free but so many bytes.
    pub fn fill(&self, but: u64) {
        let ballast = File::options().create(true).append(true).open(self.path.join(BALLAST));
        let ballast = ballast.expect("a name needs no room");
        loop {
            let disk = statvfs(&self.path).expect("it is mounted");
            let free = disk.blocks_available() * disk.fragment_size();
            let length = ballast.metadata().expect("it is open").len();
            let more = free.saturating_sub(but);
            if more == 0 {
                return;
            }
            match fallocate(&ballast, FallocateFlags::empty(), length as i64, more as i64) {
                Ok(()) => return,
                // Somebody wrote meanwhile, and less is free.
                Err(Errno::ENOSPC) => {}
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    /// Gives back what was taken.
    pub fn make_room(&self) {
        fs::remove_file(self.path.join(BALLAST)).expect("it was filled");
    }
}
