//! The PostgreSQL versions of this machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{bail, ensure};

/// Newest first.
const SUPPORTED_MAJORS: [u32; 4] = [18, 17, 16, 15];
pub const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// A PostgreSQL of this machine.
pub struct SystemPostgres {
    pub major: u32,
    pub bin: PathBuf,
    pub share: PathBuf,
    pub library: PathBuf,
}

impl SystemPostgres {
    /// The newest one that our extension was built for; of an existing cluster's version, if there is one.
    pub fn find(extension_dir: &Path, cluster: Option<u32>) -> anyhow::Result<Self> {
        let majors = cluster.map_or(SUPPORTED_MAJORS.to_vec(), |major| vec![major]);
        let built: Vec<u32> =
            majors.iter().copied().filter(|major| is_built_for(extension_dir, *major)).collect();
        let found = built.iter().find_map(|major| Self::of(*major));
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some(major) = cluster {
            ensure!(
                SUPPORTED_MAJORS.contains(&major),
                "the private cluster is PostgreSQL {major}'s, and this program knows 15 to 18"
            );
            if let Some(newer) = Self::newer(extension_dir, major) {
                bail!(
                    "the private cluster is PostgreSQL {major}'s, and {}: `postern upgrade-cluster`, with the same settings, makes it PostgreSQL {}'s",
                    match built.is_empty() {
                        true => format!(
                            "the extension for PostgreSQL {major} is not in {}",
                            extension_dir.display()
                        ),
                        false => format!("PostgreSQL {major} is not installed here"),
                    },
                    newer.major
                );
            }
        }
        let listed = |majors: &[u32], word| majors.iter().map(u32::to_string).collect::<Vec<_>>().join(word);
        ensure!(
            !built.is_empty(),
            "no extension for PostgreSQL {} in {}: build it (`make build`), or name its place with --extension-dir",
            listed(&majors, ", "),
            extension_dir.display()
        );
        let built = listed(&built, " or ");
        bail!(
            "PostgreSQL {built} is not installed here{}: `apt-get install postgresql-{built}`, or name its pg_config in PG_CONFIG",
            cluster.map(|_| ", and the cluster in the data directory is of that version").unwrap_or_default(),
        )
    }

    /// The newest one that our extension was built for, if it is newer than a cluster's.
    pub fn newer(extension_dir: &Path, cluster: u32) -> Option<Self> {
        let newer = SUPPORTED_MAJORS.into_iter().filter(|major| *major > cluster);
        newer.filter(|major| is_built_for(extension_dir, *major)).find_map(Self::of)
    }

    /// The one of this major version.
    pub fn of(major: u32) -> Option<Self> {
        pg_configs().iter().filter_map(|pg_config| Self::ask(pg_config)).find(|found| found.major == major)
    }

    fn ask(pg_config: &Path) -> Option<Self> {
        let output = Command::new(pg_config)
            .args(["--version", "--bindir", "--sharedir", "--pkglibdir"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("PostgreSQL ")?;
        let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
        let mut dir = || lines.next().map(PathBuf::from);
        let (bin, share, library) = (dir()?, dir()?, dir()?);
        let complete = PROGRAMS.iter().all(|program| bin.join(program).exists());
        complete.then_some(Self { major: digits.parse().ok()?, bin, share, library })
    }
}

fn is_built_for(extension_dir: &Path, major: u32) -> bool {
    extension(extension_dir, major).exists()
}

/// The extension's library for a major version.
pub fn extension(extension_dir: &Path, major: u32) -> PathBuf {
    extension_dir.join(major.to_string()).join("postern.so")
}

/// The directory with the programs of a version with which a database is dumped and restored: `pg_dump`, `pg_restore`.
///
/// # Errors
/// They are not installed here.
pub fn dump_programs(major: u32) -> anyhow::Result<PathBuf> {
    let of_pg_config = pg_configs().into_iter().filter_map(|pg_config| {
        let output = Command::new(pg_config).arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    });
    // Debian's client package has no pg_config.
    let debian = [PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = of_pg_config.chain(debian).chain(std::env::split_paths(&path)).find(|dir| {
        ["pg_dump", "pg_restore"].iter().all(|name| program_major(&dir.join(name)) == Some(major))
    });
    match found {
        Some(dir) => Ok(dir),
        None => bail!(
            "pg_dump and pg_restore of PostgreSQL {major} are not installed here: `apt-get install postgresql-client-{major}`, or name their pg_config in PG_CONFIG"
        ),
    }
}

/// The version, such as `15.20`, of this machine's PostgreSQL of a major version. A private cluster runs a copy of it,
/// which its next start makes anew.
pub fn installed_version(major: u32) -> Option<String> {
    program_version(&SystemPostgres::of(major)?.bin.join("postgres"))
}

/// The version of a program, as `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)` says.
fn program_version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_once("(PostgreSQL) ")?.1.split_whitespace().next().map(str::to_owned)
}

fn program_major(program: &Path) -> Option<u32> {
    program_version(program)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The places where a pg_config may be: those that were named, as in PATH with `:` between them; else Debian's for each
/// version, and the one in PATH.
fn pg_configs() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("PG_CONFIG") {
        return std::env::split_paths(&named).collect();
    }
    let debian =
        SUPPORTED_MAJORS.map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_config")));
    debian.into_iter().filter(|path| path.exists()).chain([PathBuf::from("pg_config")]).collect()
}
