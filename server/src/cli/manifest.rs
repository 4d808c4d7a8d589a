//! A backup on disk: a directory with PostgreSQL's own dump of the database, and a manifest with its roles, its private cluster's
//! settings and the checksum of each file, which is written last. [`super::backup`] makes one, [`super::restore`] reads it. A
//! restore executes the dump as a superuser, so that the manifest is authenticated under the master key.
//!
//! It is a dump and not a copy of the cluster's files, because a dump survives an upgrade of PostgreSQL, needs no more than
//! a connection, and holds neither what was deleted nor where rows lay (PRIV-3, PRIV-5). What is in unlogged tables is left
//! out: it is not to outlive a crash.
//!
//! ```text
//! <dir>/database/        pg_dump's directory format
//!       manifest.json
//!       manifest.mac     HMAC-SHA256 of manifest.json under a subkey of the master key, in hex
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::{own_settings::OwnSettings, roles::Roles};
use crate::{
    database::{DatabaseError, release::Release},
    files,
    keys::MasterKey,
};

pub const DATABASE: &str = "database";
pub const MANIFEST: &str = "manifest.json";
const MAC: &str = "manifest.mac";
/// Purpose of the subkey of the master key.
const AUTHENTIC: &str = "backup manifest";
/// The version of this layout.
const FORMAT: u32 = 1;

/// The description of a backup. It holds no secret: the master key is named by its id only.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Its place in the order in which the backups beside it were made; a clock may be set back.
    pub number: u64,
    /// Version of Postern that took it.
    pub postern: String,
    /// Time at which it was begun, in seconds since 1970.
    pub taken: u64,
    pub database: State,
    /// Superusers that own something in the database. Others may be in their place where it is restored.
    pub superusers: Vec<String>,
    pub roles: Roles,
    /// The operator's settings of a private cluster; none of a PostgreSQL of one's own, nor in backups of before.
    #[serde(default)]
    pub settings: Option<OwnSettings>,
    /// All other files, by their paths below the directory.
    files: BTreeMap<String, Sum>,
    /// The bytes that it was read from: what vouches for it vouches for these, whatever the file says by then.
    #[serde(skip)]
    text: Vec<u8>,
}

/// The state of a database, which must not change while it is dumped.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The home domain; none before the first server started.
    pub domain: Option<String>,
    /// Major version of PostgreSQL.
    pub postgresql: u32,
    /// Version of the extension.
    pub extension: String,
    /// Number of the last migration.
    pub migration: i32,
    pub generation: i64,
    /// Id of the master key, in hex; none before the first server started.
    pub master_key: Option<String>,
    /// Id of the key that it replaces, while a change is under way.
    pub previous_master_key: Option<String>,
}

/// Size and checksum of a file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    /// In hex.
    sha256: String,
}

impl State {
    /// Reads it as `postern_backup`, or a superuser.
    pub async fn of(client: &Client) -> anyhow::Result<Self> {
        let row = client
            .query_opt(
                "SELECT operator.current_home_domain(), current_setting('server_version_num')::int / 10000,
                        (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'postern'),
                        s.migration, g.generation, encode(k.key_id, 'hex'), encode(k.previous_id, 'hex')
                   FROM operator.current_schema_state() s, operator.current_generation() g,
                        operator.current_master_key() k",
                &[],
            )
            .await
            .map_err(DatabaseError::from)
            .context("this is no database of Postern's, or one of another version (`postern migrate`)")?;
        let row = row
            .context("the database is not whole: `postern migrate`, or a restore, did not come to its end")?;
        Ok(Self {
            domain: row.get(0),
            postgresql: u32::try_from(row.get::<_, i32>(1))?,
            extension: row
                .get::<_, Option<String>>(2)
                .context("the extension postern is not in this database")?,
            migration: row.get(3),
            generation: row.get(4),
            master_key: row.get(5),
            previous_master_key: row.get(6),
        })
    }
}

impl Manifest {
    /// Makes the manifest of what is in the directory.
    pub fn of(
        dir: &Path,
        number: u64,
        taken: u64,
        database: State,
        superusers: Vec<String>,
        roles: Roles,
        settings: Option<OwnSettings>,
    ) -> anyhow::Result<Self> {
        let files = sums(dir)?;
        let postern = Release::of_this_process().version().to_string();
        Ok(Self {
            format: FORMAT,
            number,
            postern,
            taken,
            database,
            superusers,
            roles,
            settings,
            files,
            text: Vec::new(),
        })
    }

    /// Writes it, after everything else is on disk: with that the backup is whole. A key makes it one that a restore trusts.
    pub fn write(&self, dir: &Path, key: Option<&MasterKey>) -> anyhow::Result<()> {
        let path = dir.join(MANIFEST);
        let write = || -> std::io::Result<()> {
            // Its files were written for good by PostgreSQL's program.
            files::sync_directory(&dir.join(DATABASE))?;
            let text = serde_json::to_vec_pretty(self)?;
            if let Some(key) = key {
                write_for_good(&dir.join(MAC), hex::encode(key.mac(AUTHENTIC, &text)).as_bytes())?;
            }
            files::replace(&path, &text)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Refuses a manifest that nobody with one of these master keys wrote.
    ///
    /// # Errors
    /// It has no such mark, or another's.
    pub fn expect_authentic(&self, dir: &Path, keys: &[MasterKey]) -> anyhow::Result<()> {
        let mac = dir.join(MAC);
        ensure!(
            mac.exists(),
            "nobody vouches for the backup in {}, for it was taken without the master key at hand: a restore executes what is in it as a superuser; --unauthenticated restores it all the same",
            dir.display()
        );
        let unreadable = || format!("cannot read {}", mac.display());
        let mac = hex::decode(fs::read_to_string(&mac).with_context(unreadable)?.trim());
        let mac = mac.unwrap_or_default();
        ensure!(
            keys.iter().any(|key| key.mac_is_valid(AUTHENTIC, &self.text, &mac)),
            "the backup in {} was changed by somebody without the master key, or is of another one: nothing in it is to be trusted",
            dir.display()
        );
        Ok(())
    }

    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// There is none, since the backup did not come to its end; or it is of a later version.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(MANIFEST);
        ensure!(dir.is_dir(), "there is no backup in {}", dir.display());
        ensure!(
            path.exists(),
            "the backup in {} is not whole: it did not come to its end, for it has no {MANIFEST}",
            dir.display()
        );
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let broken = || format!("the backup in {} is broken: {MANIFEST} is damaged", dir.display());
        let format =
            serde_json::from_slice::<serde_json::Value>(&text).with_context(broken)?["format"].as_u64();
        ensure!(
            format == Some(FORMAT.into()),
            "the backup in {} is of another version of Postern: use a later one to restore it",
            dir.display()
        );
        let manifest: Self = serde_json::from_slice(&text).with_context(broken)?;
        Ok(Self { text, ..manifest })
    }

    /// Whether somebody with the master key vouches for the backup in a directory, as far as can be seen without it.
    pub fn is_vouched_for(dir: &Path) -> bool {
        dir.join(MAC).exists()
    }

    /// The id that tells a backup that was read from every other one.
    pub fn id(&self) -> String {
        hex::encode(digest::digest(&SHA256, &self.text))
    }

    /// Reads every file, and compares it with its checksum.
    ///
    /// # Errors
    /// A file is missing, damaged, or not the backup's.
    pub fn verify(&self, dir: &Path) -> anyhow::Result<()> {
        let broken = |what: String| anyhow::anyhow!("the backup in {} is broken: {what}", dir.display());
        for (name, expected) in &self.files {
            let path = dir.join(name);
            let size = fs::symlink_metadata(&path).map_err(|error| broken(format!("{name}: {error}")))?.len();
            if size != expected.bytes {
                return Err(broken(format!("{name} has {size} bytes instead of {}", expected.bytes)));
            }
            if sum(&path)? != *expected {
                return Err(broken(format!("{name} was changed")));
            }
        }
        match names(dir)?.into_iter().find(|name| !self.files.contains_key(name)) {
            Some(name) => Err(broken(format!("{name} does not belong to it"))),
            None => Ok(()),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.files.values().map(|sum| sum.bytes).sum()
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }
}

/// The sums of all files of a backup but its manifest.
fn sums(dir: &Path) -> anyhow::Result<BTreeMap<String, Sum>> {
    names(dir)?.into_iter().map(|name| Ok((name.clone(), sum(&dir.join(name))?))).collect()
}

/// The paths of all files below a directory but the manifest and what vouches for it.
///
/// # Errors
/// Something cannot be read, or is neither a file nor a directory: a link leads out of the backup, or round in it.
fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let (mut names, mut places) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            if kind.is_dir() {
                places.push(path);
            } else {
                ensure!(kind.is_file(), "{} is no file: a backup has files and directories", path.display());
                if name != MANIFEST && name != MAC {
                    names.push(name);
                }
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Writes a file, and waits until it is on disk.
fn write_for_good(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sum(path: &Path) -> anyhow::Result<Sum> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(unreadable)?;
    let (mut hash, mut bytes) = (digest::Context::new(&SHA256), 0);
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut buffer).with_context(unreadable)? {
            0 => return Ok(Sum { bytes, sha256: hex::encode(hash.finish()) }),
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            domain: Some("example.org".to_owned()),
            postgresql: 15,
            extension: "0.1.0".to_owned(),
            migration: 7,
            generation: 0,
            master_key: Some("0011223344556677".to_owned()),
            previous_master_key: None,
        }
    }

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_bytes([byte; 32])
    }

    fn backup() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(DATABASE)).unwrap();
        fs::write(dir.path().join(DATABASE).join("toc.dat"), "a table of contents").unwrap();
        let superusers = vec!["postgres".to_owned()];
        let manifest = Manifest::of(dir.path(), 1, 1, state(), superusers, Roles::default(), None).unwrap();
        manifest.write(dir.path(), Some(&key(1))).unwrap();
        dir
    }

    fn verified(dir: &Path) -> anyhow::Result<()> {
        Manifest::read(dir)?.verify(dir)
    }

    #[test]
    fn a_backup_is_what_its_manifest_says() {
        let dir = backup();
        verified(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap().database, state());
    }

    #[test]
    fn a_backup_that_is_not_whole_or_was_changed_is_refused() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("not whole", |dir| fs::remove_file(dir.join(MANIFEST)).unwrap()),
            ("damaged", |dir| fs::write(dir.join(MANIFEST), "{\"format\": 1, \"pos").unwrap()),
            ("another version", |dir| fs::write(dir.join(MANIFEST), "{\"format\": 2}").unwrap()),
            ("instead of", |dir| fs::write(dir.join(DATABASE).join("toc.dat"), "a table").unwrap()),
            ("was changed", |dir| {
                fs::write(dir.join(DATABASE).join("toc.dat"), "a table of content5").unwrap();
            }),
            ("does not belong", |dir| fs::write(dir.join(DATABASE).join("1.dat.gz"), "").unwrap()),
        ];
        for (expected, change) in changes {
            let dir = backup();
            change(dir.path());
            let error = format!("{:#}", verified(dir.path()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        let nowhere = verified(Path::new("/nowhere")).unwrap_err();
        assert!(nowhere.to_string().contains("there is no backup"), "{nowhere}");
    }

    #[test]
    fn a_manifest_that_nobody_with_the_key_wrote_is_refused() {
        let dir = backup();
        let authentic =
            |keys: &[MasterKey]| Manifest::read(dir.path()).unwrap().expect_authentic(dir.path(), keys);
        authentic(&[key(2), key(1)]).unwrap();
        let refused = |keys: &[MasterKey]| authentic(keys).unwrap_err().to_string();
        assert!(refused(&[key(2)]).contains("was changed"));
        let good = fs::read(dir.path().join(MANIFEST)).unwrap();
        // The checksums of a file that was changed are right again, and yet.
        fs::write(dir.path().join(DATABASE).join("toc.dat"), "a table of contents and a program").unwrap();
        let changed = Manifest::of(dir.path(), 1, 1, state(), Vec::new(), Roles::default(), None).unwrap();
        changed.write(dir.path(), None).unwrap();
        verified(dir.path()).unwrap();
        assert!(refused(&[key(1)]).contains("was changed"));
        // The good one is back by the time at which it is asked who vouches: what was read counts.
        let read = Manifest::read(dir.path()).unwrap();
        fs::write(dir.path().join(MANIFEST), good).unwrap();
        let error = read.expect_authentic(dir.path(), &[key(1)]).unwrap_err().to_string();
        assert!(error.contains("was changed"), "{error}");
        fs::remove_file(dir.path().join(MAC)).unwrap();
        assert!(refused(&[key(1)]).contains("--unauthenticated"));
    }

    #[test]
    fn a_link_in_a_backup_is_refused() {
        let dir = backup();
        std::os::unix::fs::symlink("..", dir.path().join(DATABASE).join("loop")).unwrap();
        let error = format!("{:#}", verified(dir.path()).unwrap_err());
        assert!(error.contains("is no file"), "{error}");
    }
}
