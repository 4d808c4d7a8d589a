//! The private installation: the system's PostgreSQL plus our extension, below another root. PostgreSQL looks for
//! its libraries and scripts relative to its own program file, so the few programs are copied and everything else is
//! linked.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    data_dir::make_dirs,
    messages,
    postgresql::{PROGRAMS, SystemPostgres, extension},
    user::ClusterUser,
};

pub struct Installation {
    bin: PathBuf,
    library: PathBuf,
    share: PathBuf,
}

impl Installation {
    pub fn new(root: PathBuf, postgres: &SystemPostgres) -> Self {
        let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        Self { bin: below(&postgres.bin), library: below(&postgres.library), share: below(&postgres.share) }
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The directory of the programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Copies or links the system's PostgreSQL and our extension, where they changed.
    pub fn install(&self, postgres: &SystemPostgres, extension_dir: &Path) -> anyhow::Result<()> {
        self.install_postgres(postgres, &PROGRAMS)?;
        let extensions = self.share.join("extension");
        copy_if_changed(&extension(extension_dir, postgres.major), &self.library.join("postern.so"))?;
        for entry in fs::read_dir(extension_dir).with_context(|| extension_dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with("postern") && path.is_file() {
                copy_if_changed(&path, &extensions.join(name))?;
            }
        }
        Ok(())
    }

    /// Whether the copies are of the system's present PostgreSQL and of our present extension.
    pub fn is_current(&self, postgres: &SystemPostgres, extension_dir: &Path) -> bool {
        let library = is_copy(&extension(extension_dir, postgres.major), &self.library.join("postern.so"));
        let programs = PROGRAMS.iter().all(|name| is_copy(&postgres.bin.join(name), &self.program(name)));
        let scripts = fs::read_dir(extension_dir).into_iter().flatten().flatten().all(|entry| {
            let path = entry.path();
            let is_ours = entry.file_name().to_string_lossy().starts_with("postern") && path.is_file();
            !is_ours || is_copy(&path, &self.share.join("extension").join(entry.file_name()))
        });
        library && programs && scripts
    }

    /// Copies or links the system's PostgreSQL with these of its programs, where it changed.
    pub fn install_postgres(&self, postgres: &SystemPostgres, programs: &[&str]) -> anyhow::Result<()> {
        let extensions = self.share.join("extension");
        for dir in [&self.bin, &self.library, &extensions] {
            make_dirs(dir, 0o755).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        for program in programs {
            copy_if_changed(&postgres.bin.join(program), &self.program(program))?;
        }
        link_entries(&postgres.library, &self.library)?;
        link_entries(&postgres.share, &self.share)?;
        link_entries(&postgres.share.join("extension"), &extensions)
    }

    /// The other user must be able to reach its programs; under /root, for one, it cannot.
    pub fn expect_executable(&self, user: &ClusterUser) -> anyhow::Result<()> {
        let program = self.program("postgres");
        match user.command(&program).arg("--version").output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => bail!("{} does not run: {}", program.display(), messages(&output)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let closed = program
                    .ancestors()
                    .skip(1)
                    .filter(|dir| fs::metadata(dir).is_ok_and(|dir| dir.mode() & 0o001 == 0))
                    .last()
                    .unwrap_or(&program);
                bail!(
                    "user {}, who runs PostgreSQL, cannot enter {dir}: choose another --data-dir, or `chmod o+x {dir}`",
                    user.name(),
                    dir = closed.display(),
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot run {}", program.display())),
        }
    }
}

/// Whether a file is the copy of another one, as it is now.
fn is_copy(from: &Path, to: &Path) -> bool {
    let seen = |path: &Path| fs::metadata(path).and_then(|file| Ok((file.len(), file.modified()?))).ok();
    seen(from).is_some_and(|source| seen(to) == Some(source))
}

/// Copies to a new name and renames: overwriting a library in place crashes every session that maps it.
fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    let source = fs::metadata(from).with_context(context)?;
    let modified = source.modified().with_context(context)?;
    if is_copy(from, to) {
        return Ok(());
    }
    let new = to.with_added_extension("new");
    fs::copy(from, &new).with_context(context)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755)).with_context(context)?;
    File::options()
        .append(true)
        .open(&new)
        .and_then(|file| file.set_modified(modified))
        .with_context(context)?;
    fs::rename(&new, to).with_context(context)
}

/// Links every entry of one directory into another, which keeps its own entries of the same name.
fn link_entries(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        match symlink(entry.path(), to.join(entry.file_name())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make a link in {}", to.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_copied_under_a_new_inode() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to.so"));
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().ino();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().ino(), first);
        let still_open = File::open(&to).unwrap();
        fs::write(&from, "three").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_ne!(fs::metadata(&to).unwrap().ino(), still_open.metadata().unwrap().ino());
        assert_eq!(fs::read_to_string(&to).unwrap(), "three");
    }
}
