//! The configuration file that a setup writes.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use nix::unistd::User;
use postern_cluster::make_dirs;

use crate::{
    config::{self, Settings, file},
    files::{self, directory_of},
    say::print,
};

/// The file to write: the one that is named, else the one of this installation, else `./postern.toml`.
pub fn place(settings: &Settings) -> anyhow::Result<PathBuf> {
    let named = settings.config.clone().or_else(config::installed_file);
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| PathBuf::from(config::FILE_NAME));
    if !is_named && path.exists() {
        config::expect_own(&path)?;
    }
    std::path::absolute(&path).with_context(|| path.display().to_string())
}

/// Refuses to replace a file that says something else, unless it is to be.
pub fn expect_replaceable(
    path: &Path,
    before: &toml::Table,
    values: &toml::Table,
    force: bool,
) -> anyhow::Result<()> {
    // One without a domain is no server's yet, as a package brings it.
    ensure!(
        force || before == values || !before.contains_key("domain"),
        "{} is there, and says something else: change it by hand, or replace it with --force",
        path.display()
    );
    Ok(())
}

/// Writes the file, unless it says the same already. It may hold a password: root and the server's user can read it.
pub fn write(
    path: &Path,
    before: &toml::Table,
    values: &toml::Table,
    user: Option<&User>,
) -> anyhow::Result<()> {
    let unwritable = || format!("cannot write {}", path.display());
    let exists = path.exists();
    if exists && before == values {
        print(format_args!("kept     {}: it says so already", path.display()));
        return Ok(());
    }
    let is_by_hand = || fs::read_to_string(path).is_ok_and(|present| present != file::text(before));
    if exists && (before.contains_key("domain") || is_by_hand()) {
        let old = keep(path).with_context(unwritable)?;
        print(format_args!("kept     {}: the file that was there before", old.display()));
    }
    let place = directory_of(path);
    let make_place = match user {
        // It has to come through.
        Some(_) => make_dirs(place, 0o755),
        None => fs::DirBuilder::new().recursive(true).mode(0o755).create(place),
    };
    make_place.with_context(unwritable)?;
    files::replace_shared(path, file::text(values).as_bytes(), 0o600, |file| match user {
        Some(user) => {
            fchown(file, None, Some(user.gid.as_raw()))?;
            file.set_permissions(Permissions::from_mode(0o640))
        }
        None => Ok(()),
    })
    .with_context(unwritable)?;
    match user {
        Some(user) => print(format_args!("wrote    {}: root and {} can read it", path.display(), user.name)),
        None => print(format_args!("wrote    {}: only its owner can read it", path.display())),
    }
    Ok(())
}

/// Gives the file another name, `.old` or the first of `.old2`, `.old3`, … that is free, and returns that. It keeps its own,
/// until another file takes it: there is a configuration at any time.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let old = path.with_added_extension(match number {
            1 => "old".to_owned(),
            number => format!("old{number}"),
        });
        match fs::hard_link(path, &old) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            linked => return linked.map(|()| old),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setup::dialogue::without_empty_sections;

    #[test]
    fn a_file_that_says_something_else_is_not_replaced_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postern.toml");
        let table = |text| toml::from_str::<toml::Table>(text).unwrap();
        let (one, other) = (table("domain = 'a.example'"), table("domain = 'b.example'"));
        let packaged = table("embedded = true\ndata_dir = '/var/lib/postern'");
        let write = |path: &Path, before, values, force| {
            expect_replaceable(path, before, values, force)?;
            write(path, before, values, None)
        };
        fs::write(&path, file::text(&packaged)).unwrap();
        write(&path, &packaged, &one, false).expect("nobody has set anything in it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let written = fs::read_to_string(&path).unwrap();
        write(&path, &one, &one, false).expect("it is the same");
        let error = write(&path, &one, &other, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
        write(&path, &one, &other, true).unwrap();
        assert_eq!(without_empty_sections(config::read_file(&path).unwrap()), other);
        assert_eq!(fs::read_to_string(path.with_added_extension("old")).unwrap(), written);
        // A comment by hand is worth as much as a value.
        let by_hand = format!("{}# mine\n", file::text(&packaged));
        fs::write(&path, &by_hand).unwrap();
        write(&path, &packaged, &one, false).expect("it is no server's yet");
        assert_eq!(fs::read_to_string(path.with_added_extension("old2")).unwrap(), by_hand);
        assert_eq!(
            fs::read_to_string(path.with_added_extension("old")).unwrap(),
            written,
            "the first one stays"
        );
    }
}
