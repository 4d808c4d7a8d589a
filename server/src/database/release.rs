//! A release of this program, as far as the database and the processes of other releases see it: migrations, the files
//! of `sql/`, and the formats of sealed values. It is a value, so that tests make up a next one.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, sync::OnceLock};

use aws_lc_rs::digest::{self, SHA256};
use include_dir::{Dir, include_dir};
use refinery::Migration;

mod embedded {
    refinery::embed_migrations!("../migrations");
}

static SQL: Dir = include_dir!("$CARGO_MANIFEST_DIR/../sql");

/// Where the functions lie that only the release before this one has: its servers call them as long as they run (OPS-6).
const PREVIOUS: &str = "sql/previous/";
/// Where each release's functions are recorded, in a file that has its number.
const RECORDS: &str = "releases";

/// The formats of a group's sealed state (DS-9).
const GROUP_STATE: Formats = Formats { reads: &[1], writes: 1 };

static PROGRAM: OnceLock<Release> = OnceLock::new();

/// The number of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

/// The formats of a kind of sealed value, by the byte that it begins with. A release writes none that the release
/// before it does not read.
#[derive(Debug, Clone, Copy)]
pub struct Formats {
    pub reads: &'static [u8],
    pub writes: u8,
}

/// The migrations and functions of one version of this program.
#[derive(Clone)]
pub struct Release {
    version: Version,
    /// The release whose servers work on a database of this one.
    previous: Option<Version>,
    pub(super) migrations: Vec<Migration>,
    /// The files of `sql/`: text by path from the root of the tree.
    pub(super) files: BTreeMap<String, String>,
    group_state: Formats,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// The text is no three numbers with dots between them.
#[derive(Debug, thiserror::Error)]
#[error("the number of a release is three numbers with dots between them")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let numbers: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        numbers.ok().and_then(|numbers| numbers.try_into().ok()).map(Self).ok_or(InvalidVersion)
    }
}

impl Release {
    /// The release of this program.
    pub fn embedded() -> Self {
        let mut files = BTreeMap::new();
        collect(&SQL, &mut files);
        let version = env!("CARGO_PKG_VERSION").parse().expect("the workspace has such a version");
        Self {
            version,
            previous: recorded().into_iter().filter(|recorded| *recorded < version).max(),
            migrations: embedded::migrations::runner().get_migrations().clone(),
            files,
            group_state: GROUP_STATE,
        }
    }

    /// The release that this process is of: [`Release::embedded`], unless it was said to be another.
    pub fn of_this_process() -> &'static Self {
        PROGRAM.get_or_init(Self::embedded)
    }

    /// Makes it the release that this process is of.
    ///
    /// # Panics
    /// If the process has one already.
    pub fn rule_this_process(self) {
        assert!(PROGRAM.set(self).is_ok(), "a process is of one release");
    }

    /// The release after a given one.
    pub fn following(self, previous: Version, version: Version) -> Self {
        Self { version, previous: Some(previous), ..self }
    }

    /// A later release, which has one migration more; its name is as a file's in `migrations/`, without `.sql`.
    pub fn with_migration(mut self, name: &str, sql: &str) -> anyhow::Result<Self> {
        self.migrations.push(Migration::unapplied(name, sql)?);
        Ok(self)
    }

    /// A later release, in which one file of `sql/` is new or changed.
    pub fn with_file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    /// A later release, which lacks a file of `sql/`.
    pub fn without_file(mut self, path: &str) -> Self {
        self.files.remove(path);
        self
    }

    /// A later release, with other formats of a group's sealed state.
    pub fn with_group_state(self, group_state: Formats) -> Self {
        Self { group_state, ..self }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn previous(&self) -> Option<Version> {
        self.previous
    }

    /// The text of a file of `sql/`.
    pub fn file(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub fn group_state(&self) -> Formats {
        self.group_state
    }

    /// The files of `sql/` that define functions: those that only the release before has, and this one's.
    pub(super) fn functions(&self, of_previous: bool) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        files.filter(move |(path, _)| !is_grants(path) && path.starts_with(PREVIOUS) == of_previous)
    }

    /// The files that say which role may execute which function.
    pub(super) fn grants(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        files.filter(|(path, _)| is_grants(path))
    }

    /// The number of the release's last migration.
    pub fn newest_migration(&self) -> i32 {
        self.state().0
    }

    /// The number of the release's last migration, and the hash of its `sql/`.
    pub(super) fn state(&self) -> (i32, Vec<u8>) {
        let migration = self.migrations.iter().map(Migration::version).max();
        let mut hash = digest::Context::new(&SHA256);
        for part in self.files.iter().flat_map(|(path, text)| [path, text]) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        (migration.unwrap_or_default(), hash.finish().as_ref().to_vec())
    }
}

fn is_grants(path: &str) -> bool {
    path == "sql/grants.sql" || path.strip_prefix(PREVIOUS) == Some("grants.sql")
}

/// The path of a file of `sql/` as it is, or was, in the release that defines it: `schema/function.sql`.
pub(super) fn place(path: &str) -> &str {
    path.strip_prefix(PREVIOUS).or_else(|| path.strip_prefix("sql/")).unwrap_or(path)
}

/// The releases whose functions are recorded.
fn recorded() -> Vec<Version> {
    let files = SQL.get_dir(RECORDS).into_iter().flat_map(Dir::files);
    files.filter_map(|file| file.path().file_stem()?.to_str()?.parse().ok()).collect()
}

fn collect(dir: &Dir, files: &mut BTreeMap<String, String>) {
    for file in dir.files() {
        // An editor's backup of a file is none.
        let is_sql = file.path().extension().is_some_and(|extension| extension == "sql");
        if let Some(text) = file.contents_utf8().filter(|_| is_sql) {
            files.insert(Path::new("sql").join(file.path()).display().to_string(), text.to_owned());
        }
    }
    dir.dirs().for_each(|dir| collect(dir, files));
}

/// The texts of all migrations.
#[cfg(test)]
pub(crate) fn migrations() -> Vec<String> {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().filter_map(|migration| migration.sql().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let [old, new]: [Version; 2] = ["0.9.12", "0.10.2"].map(|text| text.parse().unwrap());
        assert!(old < new);
        assert_eq!(new.to_string(), "0.10.2");
        for text in ["0.1", "0.1.0.1", "0.1.x", ""] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_release_writes_it_reads() {
        let Formats { reads, writes } = Release::embedded().group_state();
        assert!(reads.contains(&writes));
    }
}
