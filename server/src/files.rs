//! Files that are replaced so that each is there whole or not at all, also after a crash: what their writers share.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::Path,
};

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
    use super::*;

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
