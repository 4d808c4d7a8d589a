//! The system user that a command works as. A command of root goes on as the server's user, so that it leaves nothing
//! behind that the server cannot read or replace, and sees what the server sees.

use std::{ffi::CString, fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, bail};
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

use crate::config::{self, Config, Settings};

/// The system user that a package makes for the server.
pub const PACKAGE_USER: &str = "postern";

/// The configuration of a command. With a private cluster, root goes on as the user whose data directory it is: so every
/// command begins with this.
///
/// # Errors
/// The configuration has a mistake; the data directory belongs to nobody, or to root where a package's server runs as
/// another user.
pub fn load(settings: &Settings) -> anyhow::Result<Config> {
    let config = Config::load(settings)?;
    if config.embedded && Uid::effective().is_root() {
        go_on_as_owner_of(&config.data_dir)?;
    }
    Ok(config)
}

/// The configuration of a command that only looks. With a PostgreSQL of the operator's own, root goes on as the package's user: the
/// database knows that one, and what that one cannot read is not what the server needs.
///
/// # Errors
/// As [`load`].
pub fn load_to_look(settings: &Settings) -> anyhow::Result<Config> {
    let config = load(settings)?;
    if !config.embedded
        && Uid::effective().is_root()
        && config::installed_file().is_some()
        && let Some(user) = User::from_name(PACKAGE_USER)?
    {
        go_on_as(&user)?;
    }
    Ok(config)
}

fn go_on_as_owner_of(dir: &Path) -> anyhow::Result<()> {
    let owner = fs::metadata(dir).ok().map(|dir| dir.uid());
    let packaged = config::installed_file().map(|_| User::from_name(PACKAGE_USER)).transpose()?.flatten();
    let owner = match (owner, packaged) {
        // The package's server could not start on root's.
        (Some(0), Some(user)) => bail!(
            "{dir} belongs to root, and the server runs as {user}: `chown -R {user}: {dir}`",
            dir = dir.display(),
            user = user.name
        ),
        (None, Some(user)) => return go_on_as(&user),
        // A directory that is not there yet will be root's.
        (None | Some(0), None) => return Ok(()),
        (Some(owner), _) => owner,
    };
    let owner = User::from_uid(Uid::from_raw(owner))?.with_context(|| {
        format!("{} belongs to no user of this system: `chown` it to the server's", dir.display())
    })?;
    go_on_as(&owner)
}

/// Goes on as another user, for good, on all threads.
pub fn go_on_as(user: &User) -> anyhow::Result<()> {
    let change = || {
        initgroups(&CString::new(user.name.as_str())?, user.gid)?;
        setgid(user.gid)?;
        anyhow::Ok(setuid(user.uid)?)
    };
    change().with_context(|| format!("cannot go on as user {}", user.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_configuration_from_here() {
        let mut places = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")];
        while let Some(path) = places.pop() {
            if path.is_dir() {
                let files = fs::read_dir(&path).expect("the sources are here");
                places.extend(files.map(|file| file.expect("it can be read").path()));
                continue;
            }
            let text = fs::read_to_string(&path).expect("it is text");
            assert!(path.ends_with("user.rs") || !text.contains("Config::load("), "{}", path.display());
        }
    }
}
