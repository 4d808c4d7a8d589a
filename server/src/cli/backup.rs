//! `postern backup`: backs the database up into a new directory (OPS-5), and verifies it. Servers go on meanwhile. The
//! directory has its name once it is whole; what fails or is interrupted leaves nothing, or, after a kill, a `.partial`
//! that the next backup removes.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use postern_cluster::{dump_programs, size_in_words};
use tokio_postgres::Client;

use super::{
    dump::{Program, Progress, connect_to_read},
    interruption::unless_interrupted,
    manifest::{DATABASE, MANIFEST, Manifest, State},
    migrate::admin_url,
    own_settings::OwnSettings,
    private_cluster,
    roles::Roles,
    user::load,
};
use crate::{
    clock,
    config::{Config, Settings},
    database::DatabaseError,
    files::{self, directory_of},
    keys::{MasterKey, master_keys::Sources},
    say::{complain, say},
    telemetry,
};

/// The name of its sessions, by which `operator.health` knows them.
const PURPOSE: &str = "postern backup";
/// The end of the name of a backup that is not whole.
const PARTIAL: &str = ".partial";
/// Time in which `pg_dump` has to have its locks: a table that is locked for long is an error, and no wait without an end.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// The exit status where the backup is whole, and something after it failed: another one would mend nothing.
const WHOLE_BUT: u8 = 3;

pub const EXAMPLES: &str = "\
Examples:
  postern backup /var/backups/postern/$(date +%F) --config /etc/postern/postern.toml
                                                         backs the database up, into a new directory, and verifies that
  postern backup --keep 14 /var/backups/postern/$(date +%F)
                                                         then removes the oldest beside it, so that fourteen stay
  postern backup --verify /var/backups/postern/2026-11-29
                                                         reads a backup again, without a database
  postern restore /var/backups/postern/2026-11-29 --config /etc/postern/postern.toml
                                                         makes a database of it, in a place where there is none

The master key is not in a backup: keep it in another place. operate/back-up.md of the documentation says what a restore
loses.";

#[derive(Args)]
pub struct Backup {
    /// Directory for the backup, which must not exist; with --verify one with a backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Verify a backup that is there, and do nothing else
    #[arg(long)]
    verify: bool,
    /// Backups of this domain that stay in DIR's directory, with the new one; the oldest go once that is whole
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "verify")]
    keep: Option<u16>,
    /// Succeed also if the master key is not at hand, so that nothing vouches for the backup, and a restore refuses it
    #[arg(long, conflicts_with = "verify")]
    unauthenticated: bool,
    /// Tables that are written at once [default: one for each core, 4 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    #[command(flatten)]
    settings: Settings,
}

/// Returns success, or [`WHOLE_BUT`].
///
/// # Errors
/// There is no backup.
pub async fn run(backup: Backup) -> anyhow::Result<ExitCode> {
    if backup.verify {
        let (dir, manifest) = verify(backup.dir).await?;
        say(format_args!("the backup in {} is whole: {}", dir.display(), describe(&manifest)));
        expect_to_open(&dir, &manifest, &backup.settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = load(&backup.settings)?;
    telemetry::start_logging(&config.log)?;
    let jobs = jobs(backup.jobs);
    let cluster = private_cluster::start(&mut config, private_cluster::start_or_join).await?;
    let work = async {
        let mut place = Place::new(&backup.dir, backup.keep.is_some())?;
        let manifest = back_up(&config, &mut place, jobs, backup.unauthenticated).await?;
        place.take_its_name()?;
        anyhow::Ok(manifest)
    };
    let done = unless_interrupted(work).await;
    // It is told while the database is there still.
    let noted = match &done {
        Ok(_) => note(&config).await,
        Err(_) => Ok(()),
    };
    let stopped = private_cluster::stop(cluster).await;
    let manifest = done?;
    say(format_args!("backed up into {}: {}, verified", backup.dir.display(), describe(&manifest)));
    if let Some(id) = &manifest.database.master_key {
        let place = config.master_key_file().map_or("the key".to_owned(), |file| file.display().to_string());
        say(format_args!(
            "the master key is not in it: keep {place} (id {id}) in another place, or the backup opens for nobody"
        ));
    }
    let dropped = backup.keep.map_or(Ok(()), |keep| drop_oldest(&backup.dir, &manifest, keep.into()));
    let noted = noted.context("the database could not be told: operator.health will miss it");
    let mut status = ExitCode::SUCCESS;
    for error in [dropped, noted, stopped].into_iter().filter_map(Result::err) {
        complain(format_args!("the backup is whole, but: {error:#}"));
        status = ExitCode::from(WHOLE_BUT);
    }
    Ok(status)
}

/// Tells which key a backup needs, and whether somebody with that vouches for it.
///
/// # Errors
/// The configuration has keys, and none of them does.
fn expect_to_open(dir: &Path, manifest: &Manifest, settings: &Settings) -> anyhow::Result<()> {
    if let Some(id) = &manifest.database.master_key {
        say(format_args!("it opens with the master key with the id {id}"));
    }
    if !Manifest::is_vouched_for(dir) {
        say("nobody vouches for it: a restore will want --unauthenticated");
        return Ok(());
    }
    // It needs no configuration.
    let Ok(config) = load(settings) else { return Ok(()) };
    let keys = Sources::of(&config).at_hand()?;
    if keys.is_empty() {
        say("the key that vouches for it is not at hand");
        return Ok(());
    }
    manifest.expect_authentic(dir, &keys)?;
    say("the master key at hand vouches for it");
    Ok(())
}

/// The tables that are worked on at once.
pub fn jobs(wanted: Option<u16>) -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    wanted.unwrap_or_else(|| u16::try_from(cores.min(4)).unwrap_or(4))
}

/// A backup in few words, for people.
pub fn describe(manifest: &Manifest) -> String {
    let State { domain, postgresql, .. } = &manifest.database;
    format!(
        "{} in {} files, {}, PostgreSQL {postgresql}, {} ago",
        size_in_words(manifest.bytes()),
        manifest.files(),
        domain.as_deref().unwrap_or("no domain yet"),
        clock::span(clock::now().saturating_sub(manifest.taken) as f64),
    )
}

/// Verifies a backup on disk.
pub async fn verify(dir: PathBuf) -> anyhow::Result<(PathBuf, Manifest)> {
    tokio::task::spawn_blocking(move || {
        let manifest = Manifest::read(&dir)?;
        manifest.verify(&dir)?;
        Ok((dir, manifest))
    })
    .await?
}

/// The place of a backup while it is made. Dropped without its name, it is removed.
struct Place {
    dir: PathBuf,
    partial: PathBuf,
    /// No other backup takes it for an interrupted one's. The programs that write into it have it as well: it lasts as long as
    /// one of them does, also if we are killed.
    _lock: Flock<File>,
    number: u64,
    is_whole: bool,
}

impl Place {
    /// Makes the place, which nobody else can read. `tidy`: the remains of interrupted backups beside it go as well.
    fn new(dir: &Path, tidy: bool) -> anyhow::Result<Self> {
        if dir.exists() {
            let is_whole = Manifest::read(dir).is_ok();
            let what = if is_whole { ", a backup that is whole" } else { "" };
            bail!("{} exists already{what}: a backup goes into a new directory", dir.display());
        }
        let partial = partial(dir);
        for remains in partials(directory_of(dir))? {
            let is_ours = remains.file_name() == partial.file_name();
            let is_gone = (is_ours || tidy) && remove_if_nobodys(&remains)?;
            ensure!(
                is_gone || !is_ours,
                "{} is in use by another backup, or by the pg_dump of one that was killed: wait for its end",
                partial.display()
            );
        }
        let others = backups(directory_of(dir))?;
        let last = others.iter().max_by_key(|(_, manifest)| manifest.number);
        if let Some((_, last)) = last {
            expect_room(directory_of(dir), last.bytes())?;
        }
        let number = last.map_or(1, |(_, last)| last.number.saturating_add(1));
        let cannot = || format!("cannot make the directory {}", partial.display());
        DirBuilder::new().mode(0o700).create(&partial).with_context(cannot)?;
        let lock = lock(&partial)?.with_context(|| format!("another backup uses {}", partial.display()))?;
        fcntl(&*lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Self { dir: dir.to_owned(), partial, _lock: lock, number, is_whole: false })
    }

    /// Gives it its name, for good.
    fn take_its_name(&mut self) -> anyhow::Result<()> {
        let rename = || -> std::io::Result<()> {
            fs::rename(&self.partial, &self.dir)?;
            files::sync_directory(directory_of(&self.dir))
        };
        rename()
            .with_context(|| format!("cannot rename {} to {}", self.partial.display(), self.dir.display()))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_whole {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.partial) {
            complain(format_args!("cannot remove {}: {error}", self.partial.display()));
        }
    }
}

fn partial(dir: &Path) -> PathBuf {
    // Without a slash at the end.
    let mut name: OsString = dir.components().collect::<PathBuf>().into_os_string();
    name.push(PARTIAL);
    name.into()
}

/// None if another process holds it.
fn lock(dir: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let file = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// The directories in one, apart from links.
fn directories(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(place.join(entry.file_name()));
        }
    }
    Ok(found)
}

/// The backups that are whole in a directory.
fn backups(place: &Path) -> anyhow::Result<Vec<(PathBuf, Manifest)>> {
    let whole = |dir: PathBuf| Some((dir.clone(), Manifest::read(&dir).ok()?));
    let named = |dir: &PathBuf| !dir.as_os_str().to_string_lossy().ends_with(PARTIAL);
    Ok(directories(place)?.into_iter().filter(named).filter_map(whole).collect())
}

/// The remains of interrupted backups in a directory, and those that are being made. Nothing else has such contents.
fn partials(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let ours = |dir: &PathBuf| {
        let known = [DATABASE, MANIFEST, "manifest.mac", "manifest.json.new"];
        let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
        dir.as_os_str().to_string_lossy().ends_with(PARTIAL)
            && entries.all(|entry| known.iter().any(|name| entry.file_name() == **name))
    };
    Ok(directories(place)?.into_iter().filter(ours).collect())
}

/// Removes what an interrupted backup left, unless something still writes to it; returns whether it is gone.
fn remove_if_nobodys(partial: &Path) -> anyhow::Result<bool> {
    let Some(_lock) = lock(partial)? else { return Ok(false) };
    fs::remove_dir_all(partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    Ok(true)
}

fn expect_room(place: &Path, need: u64) -> anyhow::Result<()> {
    let Ok(found) = nix::sys::statvfs::statvfs(place) else { return Ok(()) };
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    ensure!(
        free > need,
        "the last backup has {}, and {} are free where {} is: make room, or keep fewer",
        size_in_words(need),
        size_in_words(free),
        place.display()
    );
    Ok(())
}

/// Removes the oldest backups of the same domain beside a new one, which stays whatever the clock says.
fn drop_oldest(dir: &Path, made: &Manifest, keep: usize) -> anyhow::Result<()> {
    let mut others = backups(directory_of(dir))?;
    others.retain(|(_, manifest)| {
        manifest.database.domain == made.database.domain && manifest.number < made.number
    });
    others.sort_by_key(|(_, manifest)| std::cmp::Reverse(manifest.number));
    for (old, _) in others.into_iter().skip(keep.saturating_sub(1)) {
        // It is no backup any more before its first file goes.
        let going = partial(&old);
        let remove = || fs::rename(&old, &going).and_then(|()| fs::remove_dir_all(&going));
        remove().with_context(|| format!("cannot remove the old backup {}", old.display()))?;
        say(format_args!("removed the old backup {}", old.display()));
    }
    Ok(())
}

/// Tells the database that it was backed up. A standby takes no word, and the primary is told by hand.
async fn note(config: &Config) -> anyhow::Result<()> {
    let client = connect_to_read(admin_url(config)?, PURPOSE).await?;
    let is_standby =
        client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(DatabaseError::from)?;
    if is_standby.get(0) {
        say("this is a standby: tell the primary, SELECT operator.note_backup()");
        return Ok(());
    }
    client.execute("SELECT operator.note_backup()", &[]).await.map_err(DatabaseError::from)?;
    Ok(())
}

/// The master key that the database is sealed under, if it is at hand.
fn key(config: &Config, state: &State) -> anyhow::Result<Option<MasterKey>> {
    Ok(Sources::of(config).at_hand()?.into_iter().find(|key| {
        state.master_key.as_ref().is_none_or(|wanted| *wanted == hex::encode(key.id().as_bytes()))
    }))
}

/// Makes a backup. `unauthenticated`: also if the master key is not at hand, so that it vouches for nothing.
async fn back_up(
    config: &Config,
    place: &mut Place,
    jobs: u16,
    unauthenticated: bool,
) -> anyhow::Result<Manifest> {
    let url = admin_url(config)?;
    let client = connect_to_read(url, PURPOSE).await?;
    let state = State::of(&client).await?;
    let key = key(config, &state)?;
    // A database that no server has used has none.
    ensure!(
        key.is_some() || state.master_key.is_none() || unauthenticated,
        "the master key is not at hand, so that nothing vouches for the backup, and a restore refuses it: name the key (master_key_file); or --unauthenticated, which a restore will want, too"
    );
    let bin = dump_programs(state.postgresql)?;
    let taken = clock::now();
    let (roles, superusers) = (Roles::of(&client, config.embedded).await?, superusers(&client).await?);
    let settings = match config.embedded {
        true => Some(OwnSettings::of(&client).await?),
        // They are not Postern's alone, and a role that may read only cannot read them.
        false => None,
    };

    let database = place.partial.join(DATABASE);
    let mut progress = Progress::new("tables", &["dumping contents of table"], tables(&client).await?);
    progress = progress.of_directory(&database);
    Program::new(&bin, "pg_dump", PURPOSE)
        .database(url, "")?
        // Sealed bytes are written in hex, which the least compression makes up for.
        .args(["--format=directory", "--compress=1", "--no-unlogged-table-data", "--verbose"])
        .args([format!("--lock-wait-timeout={}s", LOCK_WAIT.as_secs())])
        .args([format!("--jobs={jobs}"), format!("--file={}", database.display())])
        .run(|line| progress.watch(line))
        .await?;
    let after = State::of(&client).await?;
    ensure!(
        state == after,
        "the database was migrated, or its master key changed, while it was backed up: try again"
    );

    say("verifying");
    // The dump opens to its end.
    Program::new(&bin, "pg_restore", PURPOSE)
        .args(["--file=/dev/null"])
        .args([&database])
        .run(drop_line)
        .await?;
    let (whole, number) = (place.partial.clone(), place.number);
    tokio::task::spawn_blocking(move || {
        let manifest = Manifest::of(&whole, number, taken, state, superusers, roles, settings)?;
        manifest.write(&whole, key.as_ref())?;
        manifest.verify(&whole)?;
        Ok(manifest)
    })
    .await?
}

fn drop_line(_: &str) {}

/// The number of tables with contents that are dumped.
async fn tables(client: &Client) -> anyhow::Result<usize> {
    let sql = "SELECT count(*) FROM pg_class c
                WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384";
    let number: i64 = client.query_one(sql, &[]).await.map_err(DatabaseError::from)?.get(0);
    Ok(usize::try_from(number)?)
}

/// The superusers that may own something in the database.
async fn superusers(client: &Client) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT r.rolname::text FROM pg_roles r WHERE r.rolsuper ORDER BY 1";
    Ok(client.query(sql, &[]).await.map_err(DatabaseError::from)?.iter().map(|row| row.get(0)).collect())
}
