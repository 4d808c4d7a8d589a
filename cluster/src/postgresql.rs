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
        let built: Vec<u32> = majors
            .iter()
            .copied()
            .filter(|major| extension_dir.join(major.to_string()).join("postern.so").exists())
            .collect();
        let wanted = || majors.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        ensure!(
            !built.is_empty(),
            "no extension for PostgreSQL {} in {}: build it (`make build`), or name its place with --extension-dir",
            wanted(),
            extension_dir.display()
        );
        let candidates = pg_configs();
        for major in &built {
            for candidate in &candidates {
                if let Some(found) = Self::ask(candidate).filter(|found| found.major == *major) {
                    return Ok(found);
                }
            }
        }
        let built = built.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
        bail!(
            "PostgreSQL {built} is not installed here{}: `apt-get install postgresql-{built}`, or name its pg_config in PG_CONFIG",
            cluster.map(|_| ", and the cluster in the data directory is of that version").unwrap_or_default(),
        )
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

/// The places where a pg_config may be: the one that was named, Debian's for each version, the one in PATH.
fn pg_configs() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("PG_CONFIG") {
        return vec![PathBuf::from(named)];
    }
    let debian =
        SUPPORTED_MAJORS.map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_config")));
    debian.into_iter().filter(|path| path.exists()).chain([PathBuf::from("pg_config")]).collect()
}
