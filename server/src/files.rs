//! Files that are replaced so that each is there whole or not at all, also after a crash: what their writers share.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
};

use nix::fcntl::OFlag;

/// The directory that a path is in: the working directory for a name alone.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until the names in a directory are on disk.
///
/// # Errors
/// It cannot be opened or written.
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a file in the place of the one that may be there, whose name it gets once it is on disk.
///
/// # Errors
/// It cannot be written: then the one that was there stays.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_shared(path, bytes, 0o666, |_| Ok(()))
}

/// The same for a file that is made with this mode, and is `shared` with others before anything can be found under its name.
///
/// # Errors
/// It cannot be written or shared: then the one that was there stays.
pub fn replace_shared(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    shared: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let write = || {
        // A process that was killed leaves one, perhaps as another user.
        remove_if_there(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        shared(&file)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_directory(directory_of(path))
    };
    let written = write();
    if written.is_err() {
        remove_if_there(&new)?;
    }
    written
}

/// Gives a file to a user and group. In a directory of somebody else's its name may lead to any other file, which stays whose
/// it is.
///
/// # Errors
/// It is a link, no file, or has another name; it is not this process's to give.
pub fn give_to(path: &Path, user: u32, group: u32) -> io::Result<()> {
    // A pipe is not waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() > 1 {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no file, or has another name"));
    }
    fchown(&file, Some(user), Some(group))
}

/// Removes a file that need not be there.
///
/// # Errors
/// It is there, and cannot be removed.
pub fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_its_owners_until_it_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let found = || (fs::read_to_string(&file).unwrap(), file.metadata().unwrap().mode() & 0o777);
        fs::write(file.with_added_extension("new"), "of a process that was killed").unwrap();
        replace(&file, b"one").unwrap();
        assert_eq!(found().0, "one");
        let share = |file: &File| {
            assert_eq!(file.metadata()?.mode() & 0o777, 0o600);
            file.set_permissions(Permissions::from_mode(0o640))
        };
        replace_shared(&file, b"two", 0o600, share).unwrap();
        assert_eq!(found(), ("two".to_owned(), 0o640));
        replace_shared(&file, b"three", 0o600, |_| Err(ErrorKind::Other.into())).unwrap_err();
        assert_eq!(found(), ("two".to_owned(), 0o640), "it stays");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_is_given_away_by_its_one_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        let ours = at("file").metadata().unwrap();
        let give = |name: &str| give_to(&at(name), ours.uid(), ours.gid());
        give("file").unwrap();
        symlink(at("file"), at("link")).unwrap();
        assert!(give("link").is_err());
        fs::hard_link(at("file"), at("other")).unwrap();
        assert!(give("other").is_err() && give("file").is_err());
        assert!(give("").is_err(), "a directory is no file");
    }

    #[test]
    fn a_name_alone_is_in_the_working_directory() {
        assert_eq!(directory_of(Path::new("/var/lib/master.key")), Path::new("/var/lib"));
        assert_eq!(directory_of(Path::new("master.key")), Path::new("."));
    }

    #[test]
    fn a_file_that_is_not_there_is_removed_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        remove_if_there(&file).unwrap();
        remove_if_there(&file).unwrap();
        assert!(!file.exists());
        assert!(remove_if_there(dir.path()).is_err(), "a directory is no file");
    }
}
