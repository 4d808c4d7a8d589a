//! The homeserver that a setup brings up: its data directory, its master key, and its database with the policy of
//! registration.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::Path,
};

use anyhow::{Context, ensure};
use nix::unistd::{Uid, User};
use postern_cluster::{ClusterOptions, PrivateCluster, make_dirs};

use super::dialogue::at;
use crate::{
    cli::{check, private_cluster, registration::Registration, sources::Sources},
    config::{Config, ConnectionString, Settings},
    database::{self, Database},
    files::{self, directory_of},
    keys::{MasterKey, MasterKeys},
    say::{print, say},
};

/// The file in a data directory that says that the setup of its cluster has not come to its end, although the configuration
/// tells of one.
const UNDONE: &str = "setup";

/// Refuses to set a homeserver up where the file says that there is one, and its private cluster is missing.
pub fn expect_cluster(config: &Config, before: &toml::Table, new_cluster: bool) -> anyhow::Result<()> {
    let was_made = at(before, "create_cluster").and_then(toml::Value::as_bool) == Some(false);
    let is_there = || ClusterOptions::new(&config.data_dir, &config.extension_dir).cluster_exists();
    ensure!(
        !config.embedded || !was_made || new_cluster || is_there() || config.data_dir.join(UNDONE).exists(),
        "the file tells of a private cluster in {}, and there is none: is its disk mounted? If it is not to come back, --new-cluster makes an empty one",
        config.data_dir.display()
    );
    Ok(())
}

/// Refuses to serve or to migrate a private cluster before the setup that makes it has come to its end: both would leave a
/// database that everybody may register at, whatever setup was told.
///
/// # Errors
/// There is such a cluster, or is to be one.
pub fn expect_done(config: &Config) -> anyhow::Result<()> {
    let mark = config.data_dir.join(UNDONE);
    ensure!(
        !config.embedded || !mark.exists(),
        "`postern setup` did not come to its end in {}: run it again, with the same answers. For a homeserver without it, remove {}",
        config.data_dir.display(),
        mark.display()
    );
    Ok(())
}

/// Takes the mark of a setup away that does not go on: its cluster is there, and whole.
///
/// # Errors
/// It cannot be removed.
pub fn end(data_dir: &Path) -> anyhow::Result<()> {
    let mark = data_dir.join(UNDONE);
    files::remove_if_there(&mark).with_context(|| format!("cannot remove {}", mark.display()))
}

/// Makes the place of the private cluster, for the user that runs the server. It says that its cluster is yet to be set up
/// before the configuration tells of one: so the same command goes on after a setup that was killed.
pub fn prepare(config: &Config, user: Option<&User>) -> anyhow::Result<()> {
    let data_dir = &config.data_dir;
    if let Some(user) = user {
        make_for(data_dir, user)?;
    }
    if ClusterOptions::new(data_dir, &config.extension_dir).cluster_exists() {
        return Ok(());
    }
    if user.is_none() {
        PrivateCluster::prepare(data_dir)?;
    }
    let mark = data_dir.join(UNDONE);
    // It goes through no link: the directory may be another user's.
    let write = || match OpenOptions::new().write(true).create_new(true).open(&mark) {
        Ok(file) => file.sync_all().and_then(|()| files::sync_directory(data_dir)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    write().with_context(|| format!("cannot write {}", mark.display()))
}

/// Makes the data directory for another user.
fn make_for(data_dir: &Path, user: &User) -> anyhow::Result<()> {
    let cannot = || format!("cannot make the data directory {}", data_dir.display());
    match fs::metadata(data_dir) {
        Ok(present) if present.uid() == user.uid.as_raw() => return Ok(()),
        Ok(_) => ensure!(
            is_left_by_setup(data_dir),
            "{} belongs to another user than {}: name its owner with --user, or choose another --data-dir",
            data_dir.display(),
            user.name
        ),
        Err(_) => {
            // The user has to come through these.
            make_dirs(directory_of(data_dir), 0o755).with_context(cannot)?;
            fs::DirBuilder::new().mode(0o711).create(data_dir).with_context(cannot)?;
        }
    }
    // Operators have to pass through, to the socket, whatever the umask is; nobody else looks around.
    fs::set_permissions(data_dir, Permissions::from_mode(0o711)).with_context(cannot)?;
    chown(data_dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).with_context(cannot)
}

/// Whether a directory is as a setup leaves it that is killed before it gives it to another user: this one's, empty, and
/// one that others can at most pass through.
fn is_left_by_setup(dir: &Path) -> bool {
    let is_ours = fs::symlink_metadata(dir)
        .is_ok_and(|dir| dir.is_dir() && dir.uid() == Uid::effective().as_raw() && dir.mode() & 0o066 == 0);
    is_ours && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Makes the master key where there is none, and lets the server's user have it.
pub fn make_master_key(file: &Path, user: Option<&User>) -> anyhow::Result<()> {
    let is_new = !file.exists();
    if is_new {
        MasterKey::from_file_or_new_of(file, user.map(|user| (user.uid.as_raw(), user.gid.as_raw())))?;
    }
    // One that is there, and that only root can read, is of no use to the server.
    let is_roots = fs::metadata(file).is_ok_and(|file| file.uid() == 0 && file.mode() & 0o077 == 0);
    if let Some(user) = user.filter(|_| is_roots) {
        chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| format!("cannot give {} to user {}", file.display(), user.name))?;
    }
    if is_new {
        print(format_args!("wrote    {}: the master key", file.display()));
    }
    Ok(())
}

/// The homeserver as it was brought up.
pub struct Brought {
    /// Whether no check found a problem.
    pub well: bool,
    pub registration: Admits,
}

/// The policy of registration after a setup.
#[derive(Clone, Copy)]
pub enum Admits {
    /// It is this one, which setup has set.
    Set(Registration),
    /// It is the one that the database had.
    Kept,
    /// It is to be this one: without a superuser's connection the operator migrates, and sets it so.
    Wanted(Registration),
}

/// Brings the database to what this program and the answers ask for, and checks everything.
pub async fn bring_up(
    mut config: Config,
    admin_url: Option<ConnectionString>,
    path: &Path,
    registration: Option<Registration>,
) -> anyhow::Result<Brought> {
    // For all later starts the file rules that out.
    config.create_cluster = true;
    private_cluster::during(config, async |config| {
        // As the questions propose: strangers find a homeserver sooner than its operator closes it.
        let wanted = registration.unwrap_or(Registration::Invite);
        let registration = match admin_url.as_ref().or(config.database.admin_url.as_ref()) {
            Some(url) => {
                let choice = if registration.is_some() { wanted.for_any() } else { wanted.for_new() };
                let report = database::migrate::run(url, Some(choice)).await?;
                say(&report);
                if report.has_set_registration() { Admits::Set(wanted) } else { Admits::Kept }
            }
            None => Admits::Wanted(wanted),
        };
        if config.embedded
            && let Some(key) = config.master_key_file()
            && let Some(url) = &config.database.url
            && !MasterKeys::database_has_one(&Database::new(url, &config.database)?).await?
        {
            make_master_key(&key, None)?;
        }
        if config.embedded {
            end(&config.data_dir)?;
        }
        // The cluster runs, and is joined.
        let settings = Settings { config: Some(path.to_owned()), ..Settings::default() };
        let well = check::run(&settings, false, &Sources::of_file(path)).await;
        anyhow::Ok(Brought { well, registration })
    })
    .await
}
