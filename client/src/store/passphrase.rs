//! The encryption of a client's state at rest, where a user wants it: SQLCipher encrypts every page of the database and
//! of its write-ahead log (AES-256, HMAC-SHA-512) under a key from a passphrase (PBKDF2, 256,000 rounds).

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rusqlite::{Connection, ErrorCode, params};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{DATABASE, InUse, connect};
use crate::{
    error::{Error, Result},
    options::Options,
};

/// The first bytes of a database that is not encrypted.
const PLAIN: &[u8; 16] = b"SQLite format 3\0";
/// The file that is to take the place of the database.
const COPY: &str = "client.sqlite.new";
const BLOCK: usize = 1024 * 1024;

/// A passphrase, under which a client's state is encrypted.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// `None` for an empty text, which protects nothing.
    pub fn new(text: String) -> Option<Self> {
        (!text.is_empty()).then_some(Self(text))
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// Shows nothing of it.
impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Whether a directory holds state that is encrypted; `None` if it holds none.
pub(crate) fn is_encrypted(directory: &Path) -> Result<Option<bool>> {
    header(&directory.join(DATABASE))
}

fn header(path: &Path) -> Result<Option<bool>> {
    let mut header = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(PLAIN.len() as u64).read_to_end(&mut header)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok((!header.is_empty()).then(|| header != PLAIN))
}

/// Opens what a passphrase locks, before anything else is done with the connection.
///
/// # Errors
/// [`Error::PassphraseNeeded`], [`Error::WrongPassphrase`], [`Error::NotEncrypted`].
pub(super) fn unlock(connection: &Connection, path: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
    match (header(path)?, passphrase) {
        (Some(true), None) => return Err(Error::PassphraseNeeded),
        (Some(false), Some(_)) => return Err(Error::NotEncrypted),
        (_, None) => return Ok(()),
        (_, Some(passphrase)) => connection.pragma_update(None, "key", passphrase.as_str())?,
    }
    match connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            Err(Error::WrongPassphrase)
        }
        looked => Ok(looked?),
    }
}

/// Encrypts the state of a directory under another passphrase, or leaves it unencrypted.
///
/// The whole of it is written anew, and takes the old file's place in one step: a crash leaves the one or the other.
/// The old file is then overwritten. Where a disk or file system keeps former blocks, that is for them to forget.
///
/// # Errors
/// [`Error::NoClient`], [`Error::InUse`] while anybody has it open, and as [`unlock`].
pub(crate) fn reencrypt(directory: &Path, options: &Options, passphrase: Option<&Passphrase>) -> Result<()> {
    let (path, copy) = (directory.join(DATABASE), directory.join(COPY));
    if !path.exists() {
        return Err(Error::NoClient(directory.to_owned()));
    }
    let _alone = InUse::alone(directory)?;
    let connection = connect(&path, options)?;
    // Puts what is in the log into the database, and does away with the log.
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    remove(&copy)?;
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(&copy)?;
    let written = write_copy(&connection, &copy, passphrase);
    connection.close().map_err(|(_, error)| error)?;
    if let Err(error) = written {
        remove(&copy)?;
        return Err(error);
    }
    let mut old = OpenOptions::new().write(true).open(&path)?;
    File::open(&copy)?.sync_all()?;
    fs::rename(&copy, &path)?;
    File::open(directory)?.sync_all()?;
    overwrite(&mut old)?;
    Ok(())
}

fn write_copy(connection: &Connection, copy: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
    let copy = copy.to_str().ok_or_else(|| io::Error::other("its path is no UTF-8"))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let passphrase = passphrase.map_or("", Passphrase::as_str);
    connection.execute("ATTACH DATABASE ?1 AS copy KEY ?2", params![copy, passphrase])?;
    connection.query_row("SELECT sqlcipher_export('copy')", [], |_| Ok(()))?;
    connection.pragma_update(Some("copy"), "user_version", version)?;
    connection.execute_batch("DETACH DATABASE copy")?;
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Overwrites a file that has no name any more.
fn overwrite(file: &mut File) -> io::Result<()> {
    let zeros = vec![0; BLOCK];
    let mut left = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    while left > 0 {
        let bytes = left.min(BLOCK);
        file.write_all(&zeros[..bytes])?;
        left -= bytes;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{super::Store, *};

    const SECRET: &str = "the surprise party for Bob is on Sunday";

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned()).unwrap()
    }

    fn under(text: &str) -> Options {
        Options { passphrase: Some(passphrase(text)), ..Options::default() }
    }

    /// Keeps a text that must not be found.
    fn keep(store: &Store) {
        let insert = "INSERT INTO events (event) VALUES (?1)";
        store
            .write(|tx| {
                for number in 0..200 {
                    tx.sql().execute(insert, [format!("{SECRET} {number}")])?;
                }
                Ok(())
            })
            .unwrap();
    }

    fn kept(store: &Store) -> i64 {
        store.read(|tx| Ok(tx.sql().query_row("SELECT count(*) FROM events", [], |row| row.get(0))?)).unwrap()
    }

    /// The files of a directory in which a text is found.
    fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
        let has = |path: &PathBuf| {
            let content = fs::read(path).unwrap();
            content.windows(text.len()).any(|part| part == text.as_bytes())
        };
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        files.filter(has).collect()
    }

    #[test]
    fn nothing_is_readable_without_the_passphrase_in_the_database_or_its_log() {
        let plain = tempfile::tempdir().unwrap();
        let store = Store::create(plain.path(), &Options::default()).unwrap();
        keep(&store);
        assert!(!files_with(plain.path(), SECRET).is_empty(), "the search finds what is there");
        assert!(!files_with(plain.path(), "CREATE TABLE").is_empty());

        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &under("correct horse")).unwrap();
        keep(&store);
        let log = directory.path().join("client.sqlite-wal");
        assert!(fs::metadata(&log).unwrap().len() > 10_000, "it is in the log");
        for text in [SECRET, "CREATE TABLE", "SQLite format"] {
            assert_eq!(files_with(directory.path(), text), Vec::<PathBuf>::new(), "{text}");
        }
        drop(store);
        for text in [SECRET, "CREATE TABLE", "SQLite format"] {
            assert_eq!(files_with(directory.path(), text), Vec::<PathBuf>::new(), "{text}");
        }
        assert_eq!(kept(&Store::open(directory.path(), &under("correct horse")).unwrap()), 200);
    }

    #[test]
    fn a_wrong_a_missing_and_a_needless_passphrase_are_told_apart() {
        let (plain, encrypted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(is_encrypted(encrypted.path()).unwrap(), None);
        drop(Store::create(plain.path(), &Options::default()).unwrap());
        drop(Store::create(encrypted.path(), &under("one")).unwrap());
        assert_eq!(is_encrypted(plain.path()).unwrap(), Some(false));
        assert_eq!(is_encrypted(encrypted.path()).unwrap(), Some(true));
        for open in [Store::open, Store::create] {
            let wrong = open(encrypted.path(), &under("another")).err();
            assert!(matches!(wrong, Some(Error::WrongPassphrase)), "{wrong:?}");
            let missing = open(encrypted.path(), &Options::default()).err();
            assert!(matches!(missing, Some(Error::PassphraseNeeded)), "{missing:?}");
            let needless = open(plain.path(), &under("one")).err();
            assert!(matches!(needless, Some(Error::NotEncrypted)), "{needless:?}");
        }
        assert!(Passphrase::new(String::new()).is_none());
        assert_eq!(format!("{:?}", passphrase("one")), "Passphrase(…)");
        // Whatever is in it.
        let odd = tempfile::tempdir().unwrap();
        drop(Store::create(odd.path(), &under("it's \"ödd\"; --")).unwrap());
        Store::open(odd.path(), &under("it's \"ödd\"; --")).unwrap();
    }

    #[test]
    fn a_passphrase_is_set_changed_and_removed_and_everything_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let store = Store::create(path, &Options::default()).unwrap();
        keep(&store);
        drop(store);
        let plain = || Options::default();
        for (from, to) in [(None, Some("one")), (Some("one"), Some("two")), (Some("two"), None)] {
            let options = from.map_or_else(plain, under);
            let wrong = reencrypt(path, &under("wrong"), to.map(passphrase).as_ref());
            assert!(matches!(wrong, Err(Error::WrongPassphrase | Error::NotEncrypted)), "{wrong:?}");
            reencrypt(path, &options, to.map(passphrase).as_ref()).unwrap();
            if from.is_some() {
                assert!(Store::open(path, &options).is_err(), "the old one opens nothing");
            }
            let store = Store::open(path, &to.map_or_else(plain, under)).unwrap();
            assert_eq!(kept(&store), 200);
            // The numbers of events go on.
            keep(&store);
            let sql = "DELETE FROM events WHERE id > 200";
            store.write(|tx| Ok(assert_eq!(tx.sql().execute(sql, [])?, 200))).unwrap();
            drop(store);
            assert_eq!(files_with(path, SECRET).is_empty(), to.is_some());
            assert!(!path.join(COPY).exists());
        }
    }

    #[test]
    fn state_that_is_in_use_is_not_encrypted_anew() {
        let directory = tempfile::tempdir().unwrap();
        let one = Store::create(directory.path(), &Options::default()).unwrap();
        let two = Store::open(directory.path(), &Options::default()).unwrap();
        for store in [one, two] {
            let busy = reencrypt(directory.path(), &Options::default(), Some(&passphrase("one")));
            assert!(matches!(busy, Err(Error::InUse(_))), "{busy:?}");
            drop(store);
        }
        reencrypt(directory.path(), &Options::default(), Some(&passphrase("one"))).unwrap();
    }
}
