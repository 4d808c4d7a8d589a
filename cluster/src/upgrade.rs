//! The change of the private cluster to a newer major version of PostgreSQL (OPS-7), by PostgreSQL's own `pg_upgrade`. The
//! old cluster is copied and stays as it is: until the new one has shown that it works, nothing changes place.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};

use crate::{
    ADMIN, ClusterOptions, Condition, DATABASE,
    cluster::{NEW, delete, execute, init, locked},
    data_dir::{CLUSTER, DataDir, VERSION_FILE, major_of},
    installation::Installation,
    messages,
    postgresql::SystemPostgres,
    postmaster::{Postmaster, free_bytes},
    settings, size_in_words,
    user::ClusterUser,
};

/// The programs by which `pg_upgrade` reads the old cluster.
const OLD_PROGRAMS: [&str; 4] = ["postgres", "pg_ctl", "pg_controldata", "pg_resetwal"];
/// It, and the programs by which it fills the new one.
const NEW_PROGRAMS: [&str; 8] = [
    "pg_upgrade",
    "pg_controldata",
    "pg_resetwal",
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "psql",
    "vacuumdb",
];
/// The name of a new cluster that is whole, and waits for the old one's place.
const WHOLE: &str = "upgraded";
/// Nobody follows a cluster that changes its version, and its archive is another one's: what waits for a standby would wait for
/// ever. And no operator logs in: what is changed in the one cluster may be missing in the other.
pub(crate) const ALONE: &str =
    "-c synchronous_standby_names= -c archive_mode=off -c unix_socket_permissions=0700";
/// The old cluster is only read: it does without our extension, which may be gone.
const WITHOUT_EXTENSION: &str = "-c shared_preload_libraries= -c synchronous_standby_names= \
                                 -c archive_mode=off -c unix_socket_permissions=0700";
/// Room for the new cluster beyond what is copied, in bytes.
const ROOM_BYTES: u64 = 128 * 1024 * 1024;
/// The operator's settings (`ALTER SYSTEM`).
pub(crate) const OWN_SETTINGS: &str = "postgresql.auto.conf";

/// The result of an upgrade.
#[derive(Debug)]
pub enum Upgraded {
    /// It was PostgreSQL's newest major version already, of those that are here with our extension.
    Current(u32),
    Done {
        from: u32,
        to: u32,
        /// The old cluster.
        kept: PathBuf,
        /// The operator's settings that the new version refuses, in a file.
        refused: Option<PathBuf>,
        /// False: the database was put back before the upgrade, and no server starts on it until somebody said what became of
        /// it (QS-12).
        is_decided: bool,
    },
}

/// Changes the cluster to the newest PostgreSQL that is here with our extension. `tell` hears of each step.
///
/// # Errors
/// Another process runs the cluster; PostgreSQL of the old or the new version is missing; there is no room for a copy;
/// `pg_upgrade` fails. The cluster is then as it was.
pub fn upgrade(options: &ClusterOptions, tell: &dyn Fn(&str)) -> anyhow::Result<Upgraded> {
    let (user, dir, _lock) = locked(&options.data_dir, &|| true)?;
    options.expect_restored()?;
    // Commands that begin meanwhile wait: PostgreSQL on the socket is now the old one, now the new one.
    let _commands = dir.without_commands()?.with_context(|| {
        let dir = dir.path().display();
        format!("a command, such as `postern backup`, uses the private cluster in {dir}: wait for its end")
    })?;
    dir.postmaster().stop()?;
    finish(&dir)?;
    let from = dir
        .cluster_major()?
        .with_context(|| format!("there is no private cluster in {} yet", dir.path().display()))?;
    let Some(newer) = SystemPostgres::newer(&options.extension_dir, from) else {
        return Ok(Upgraded::Current(from));
    };
    let to = newer.major;
    let kept = dir.beside_cluster(&from.to_string());
    ensure!(
        !kept.exists(),
        "{} is what an earlier upgrade kept: `postern upgrade-cluster --drop-old` deletes it",
        kept.display()
    );
    let older = SystemPostgres::of(from).with_context(|| {
        format!("the upgrade needs PostgreSQL {from}, too, which is not installed here: `apt-get install postgresql-{from}`")
    })?;
    expect_room(&dir)?;

    let old = Installation::new(dir.installation(), &older);
    old.install_postgres(&older, &OLD_PROGRAMS)?;
    let new = Installation::new(dir.installation(), &newer);
    new.install(&newer, &options.extension_dir)?;
    new.install_postgres(&newer, &NEW_PROGRAMS)?;
    new.expect_executable(&user)?;

    tell(&format!("copying the cluster of PostgreSQL {from} into one of PostgreSQL {to}"));
    let fresh = dir.beside_cluster(NEW);
    init(&dir, &fresh, &user, &new, checksums(&user, &old, &dir.cluster(), to)?)?;
    settings::write(&options.settings, &fresh, dir.socket_dir(), &user)?;
    settings::include(&fresh)?;
    let is_decided = prepare(&dir, &user, &old, &new, &fresh)?;
    pg_upgrade(&dir, &user, &old, &new, &fresh)?;
    let refused = take_settings_over(&dir, &user, &new, &fresh, from)?;

    tell("counting rows for the planner");
    let postmaster = dir.postmaster_in(&fresh);
    postmaster.start(&user, &new.program("pg_ctl"), &[], &dir.log(), ALONE, &|| true)?;
    let counted = run(user
        .command(&new.program("vacuumdb"))
        .env("PGOPTIONS", without_limits(to))
        .args(["--all", "--analyze-only", "--quiet", "--username", ADMIN, "--host"])
        .arg(dir.socket_dir()));
    postmaster.stop()?;
    counted?;
    if is_decided {
        // It is another cluster, and lost nothing (QS-12). The operator decided nothing by that: a server that finds the
        // database put back still does.
        execute(&fresh, &user, &new, DATABASE, "UPDATE operator.generation SET origin = operator.origin()")
            .context("cannot keep the database's generation")?;
    }

    let refused = refused.map(|file| dir.cluster().join(file));
    rename(&fresh, &dir.beside_cluster(WHOLE))?;
    rename(&dir.cluster(), &kept)?;
    finish(&dir)?;
    Ok(Upgraded::Done { from, to, kept, refused, is_decided })
}

/// Puts the new cluster into the old one's place, if an upgrade came so far that the old one is out of it. An interruption
/// between the two must not look like a data directory without a cluster. One that came less far is deleted: beside the
/// old one, which serves, it is older by the hour, and must not take its place once that is moved away.
///
/// # Errors
/// It cannot be renamed or deleted.
pub fn finish(dir: &DataDir) -> anyhow::Result<()> {
    let whole = dir.beside_cluster(WHOLE);
    if !whole.exists() {
        return Ok(());
    }
    if dir.cluster().exists() {
        return delete(&whole, &dir.beside_cluster(NEW));
    }
    rename(&whole, &dir.cluster())?;
    // The names last, too.
    File::open(dir.path()).and_then(|dir| dir.sync_all()).context("cannot write the data directory")
}

/// PostgreSQL's major version of the cluster that the next start runs, if there is one.
pub fn major_in(dir: &DataDir) -> anyhow::Result<Option<u32>> {
    match dir.cluster_major()? {
        None => major_of(&dir.beside_cluster(WHOLE)),
        found => Ok(found),
    }
}

/// Deletes what upgrades kept, and returns what that was. A server may run on the new cluster meanwhile: nobody uses the old
/// ones.
///
/// # Errors
/// Another process makes or changes the cluster, there is none, or something cannot be deleted.
pub fn drop_kept(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let dir = DataDir::prepare(data_dir, &ClusterUser::find()?)?;
    let lock = dir.lock()?;
    match lock {
        Some(_) => finish(&dir)?,
        None => ensure!(
            dir.postmaster().condition() == Condition::Ready,
            "another `postern` is at work on the private cluster in {}: wait for its end",
            dir.path().display()
        ),
    }
    ensure!(
        dir.cluster_major()?.is_some(),
        "there is no cluster in {}: what an upgrade kept is all that there is, and stays",
        dir.path().display()
    );
    let kept = kept(dir.path())?;
    kept.iter().try_for_each(|old| remove_if_there(old))?;
    Ok(kept)
}

/// Whether PostgreSQL's data directory is in its place, or waits for it after an upgrade that was interrupted.
pub fn is_cluster_in(data_dir: &Path) -> bool {
    let upgraded = format!("{CLUSTER}.{WHOLE}");
    [CLUSTER, &upgraded].iter().any(|name| data_dir.join(name).join(VERSION_FILE).exists())
}

/// The names of all clusters in a data directory: the present one, one that waits for its place, and those that upgrades
/// kept.
pub fn clusters(data_dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = vec![CLUSTER.to_owned(), format!("{CLUSTER}.{WHOLE}")];
    names.retain(|name| data_dir.join(name).join(VERSION_FILE).exists());
    let kept = kept(data_dir)?;
    names.extend(kept.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())));
    Ok(names)
}

/// The clusters that upgrades kept in a data directory, which need not exist; the one of the newest major version last.
pub fn kept(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", data_dir.display())),
    };
    let mut kept = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let major = name.strip_prefix(CLUSTER).and_then(|rest| rest.strip_prefix('.'));
        if let Some(major) = major.and_then(|major| major.parse::<u32>().ok()) {
            kept.push((major, path));
        }
    }
    kept.sort();
    Ok(kept.into_iter().map(|(_, path)| path).collect())
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove_if_there(dir: &Path) -> anyhow::Result<()> {
    match dir.exists() {
        true => fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display())),
        false => Ok(()),
    }
}

fn expect_room(dir: &DataDir) -> anyhow::Result<()> {
    let need = size(&dir.cluster())? + ROOM_BYTES;
    let free = free_bytes(dir.path()).unwrap_or(u64::MAX);
    ensure!(
        need <= free,
        "the upgrade copies the cluster and needs {}; {} are free on the disk of {}",
        size_in_words(need),
        size_in_words(free),
        dir.path().display()
    );
    Ok(())
}

/// The bytes of all files below a directory.
fn size(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let mut places = vec![dir.to_owned()];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            match kind.is_dir() {
                true => places.push(path),
                false => bytes += kind.len(),
            }
        }
    }
    Ok(bytes)
}

/// The options of a session that has as long as it takes, whatever limits of time the operator has set for everybody.
fn without_limits(major: u32) -> String {
    let names = ["statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout"];
    // The last one came with PostgreSQL 17.
    let names = if major < 17 { &names[..3] } else { &names[..] };
    names.iter().map(|name| format!("-c {name}=0")).collect::<Vec<_>>().join(" ")
}

/// Prepares the old cluster for `pg_upgrade`. It has to recover and end in order, since its last end may have been a
/// crash. And rights on a function of PostgreSQL's own cannot be copied if the new version has it with other parameters:
/// those are given back. `postern migrate`, and so each start of a server, takes them away again in either cluster.
/// Returns whether the operator has nothing to decide about the database's generation; the old version may have no server
/// any more on which that could be done first.
fn prepare(
    dir: &DataDir,
    user: &ClusterUser,
    old: &Installation,
    new: &Installation,
    fresh: &Path,
) -> anyhow::Result<bool> {
    let psql = |database: &str, sql: &str| {
        run(user
            .command(&new.program("psql"))
            .args(["-XAtq", "--set=ON_ERROR_STOP=1", "--username", ADMIN, "--dbname", database, "--host"])
            .arg(dir.socket_dir())
            .args(["--command", sql]))
    };
    let during = |postmaster: &Postmaster,
                  installation: &Installation,
                  options,
                  work: &dyn Fn() -> anyhow::Result<String>| {
        postmaster.start(user, &installation.program("pg_ctl"), &[], &dir.log(), options, &|| true)?;
        let done = work();
        postmaster.stop()?;
        done
    };
    let names = "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace";
    let known = dir.postmaster_in(fresh);
    let known = during(&known, new, ALONE, &|| psql("postgres", names))?;
    let known: HashSet<&str> = known.lines().collect();
    let changed = "SELECT p.oid::regprocedure
                     FROM pg_proc p
                     LEFT JOIN pg_init_privs i
                       ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass AND i.objsubid = 0
                    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proacl IS DISTINCT FROM i.initprivs";
    let undecided = during(&dir.postmaster(), old, WITHOUT_EXTENSION, &|| {
        // The new cluster is said to have lost nothing only if this one is.
        let undecided = psql(DATABASE, "SELECT g.undecided FROM operator.current_generation() g")?;
        let changed = psql(DATABASE, changed)?;
        let gone = changed.lines().filter(|function| !known.contains(function));
        let give_back: Vec<_> = gone
            .map(|function| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO PUBLIC"))
            .collect();
        psql(DATABASE, &give_back.join("; "))?;
        Ok(undecided)
    })?;
    // Servers go on with the latter, too: its standby had everything.
    Ok(matches!(undecided.trim(), "no" | "timeline"))
}

/// The option of `initdb` for checksums as the old cluster has them, which both clusters must have or not.
fn checksums(
    user: &ClusterUser,
    old: &Installation,
    cluster: &Path,
    to: u32,
) -> anyhow::Result<&'static [&'static str]> {
    let control = run(user.command(&old.program("pg_controldata")).arg(cluster))?;
    let version = control.lines().find_map(|line| line.strip_prefix("Data page checksum version:"));
    let version = version.context("pg_controldata says nothing about checksums")?.trim();
    Ok(match version {
        // Without being told, PostgreSQL has them from version 18 on.
        "0" if to >= 18 => &["--no-data-checksums"],
        "0" => &[],
        _ => &["--data-checksums"],
    })
}

fn pg_upgrade(
    dir: &DataDir,
    user: &ClusterUser,
    old: &Installation,
    new: &Installation,
    fresh: &Path,
) -> anyhow::Result<()> {
    // A script for deleting the old cluster is written into the working directory: we have a command for that.
    let work = dir.path().join("upgrade");
    remove_if_there(&work)?;
    user.make_dir(&work)?;
    let output = user
        .command(&new.program("pg_upgrade"))
        .current_dir(&work)
        .arg("--old-bindir")
        .arg(old.bin())
        .arg("--new-bindir")
        .arg(new.bin())
        .arg("--old-datadir")
        .arg(dir.cluster())
        .arg("--new-datadir")
        .arg(fresh)
        .arg("--socketdir")
        .arg(dir.socket_dir())
        .args(["--username", ADMIN, "--old-options", WITHOUT_EXTENSION])
        .output()
        .context("cannot run pg_upgrade")?;
    if !output.status.success() {
        let logs = fresh.join("pg_upgrade_output.d");
        let steps = messages(&output);
        let mut reasons: Vec<String> =
            steps.lines().filter(|step| !step.ends_with(" ok")).map(str::to_owned).collect();
        reasons.extend(errors(&logs)?);
        bail!(
            "pg_upgrade failed, and the cluster is as it was. It helps at times to install the newest minor version of both. The logs are in {}. {}",
            logs.display(),
            reasons.join("\n")
        );
    }
    remove_if_there(&work)
}

/// The lines about errors in all logs below a directory.
fn errors(logs: &Path) -> anyhow::Result<Vec<String>> {
    let mut errors = Vec::new();
    let mut places = vec![logs.to_owned()];
    while let Some(place) = places.pop() {
        // As for the texts, no link is followed.
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            let entries = fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
            places.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
            continue;
        }
        let text = ClusterUser::read(&place).unwrap_or_default();
        errors.extend(text.lines().filter(|line| line.contains(" error: ")).map(str::to_owned));
    }
    Ok(errors)
}

/// Takes the operator's settings over, if the new version knows them all; else into a file of another name, which is
/// returned.
fn take_settings_over(
    dir: &DataDir,
    user: &ClusterUser,
    new: &Installation,
    fresh: &Path,
    from: u32,
) -> anyhow::Result<Option<String>> {
    let path = dir.cluster().join(OWN_SETTINGS);
    let text = ClusterUser::read(&path)?;
    let theirs = fresh.join(OWN_SETTINGS);
    let empty = ClusterUser::read(&theirs)?;
    user.write(&theirs, &text)?;
    let read =
        user.command(&new.program("postgres")).args(["-C", "max_connections", "-D"]).arg(fresh).output();
    if read.context("cannot run postgres")?.status.success() {
        return Ok(None);
    }
    user.write(&theirs, &empty)?;
    let refused = format!("{OWN_SETTINGS}.{from}");
    user.write(&fresh.join(&refused), &text)?;
    Ok(Some(refused))
}

/// Runs a program to its end, and returns what it printed.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", messages(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upgrade_left_takes_the_place_of_no_cluster_and_of_a_missing_one_at_once_only() {
        let place = tempfile::tempdir().unwrap();
        let upgraded = place.path().join(format!("{CLUSTER}.{WHOLE}"));
        let make = |cluster: &Path| {
            fs::create_dir(cluster).unwrap();
            fs::write(cluster.join(VERSION_FILE), "15\n").unwrap();
        };
        let dir = DataDir::existing(place.path()).unwrap();
        [&dir.cluster(), &upgraded].into_iter().for_each(|cluster| make(cluster));
        assert_eq!(clusters(place.path()).unwrap(), [CLUSTER, "cluster.upgraded"]);
        // The old one has served since.
        finish(&dir).unwrap();
        assert_eq!(clusters(place.path()).unwrap(), [CLUSTER]);
        fs::remove_dir_all(dir.cluster()).unwrap();
        finish(&dir).unwrap();
        assert_eq!(
            clusters(place.path()).unwrap(),
            [] as [&str; 0],
            "it is moved away, and nothing old comes"
        );
        make(&upgraded);
        finish(&dir).unwrap();
        assert_eq!(clusters(place.path()).unwrap(), [CLUSTER], "the upgrade is done but for that");
    }
}
