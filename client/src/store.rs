//! Where a client keeps everything: one SQLite database in its state directory, shared
//! with openmls, so that a message's effect, the queue's position and the chain's state
//! change in one transaction. It also holds the lock that orders the steps of several
//! processes on one directory. What the tables mean is the business of the modules that
//! own them.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::SqliteStorageProvider;
use openmls_traits::OpenMlsProvider;
use postern_protocol::encoding::Encoding;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    mls::Cbor,
    push,
};

const DATABASE: &str = "client.sqlite";
const LOCK: &str = "lock";
/// What brings [`SCHEMA`], which is version 1, to each further version.
const UPGRADES: [&str; 4] = [TOKEN_REQUESTS, FRIENDSHIPS, push::SCHEMA, GROUPS];
const SCHEMA_VERSION: usize = 1 + UPGRADES.len();
/// How long a step waits for the step of another process.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// How a client keeps its state.
#[derive(Debug, Clone)]
pub struct Options {
    /// Wait for the disk with every step. Only load generators, whose state nobody
    /// misses, turn this off.
    pub durable: bool,
    /// Answer contact requests of anyone.
    pub accept_contacts: bool,
    /// Where the server is now, if not where it was at registration.
    pub server: Option<String>,
    /// Keep every message each queue delivered, in order (for tests).
    pub record_deliveries: bool,
    /// After so long without a commit of this device's in a group, it renews its keys there. Less
    /// than a server's patience with those who never do (90 days, DS-10).
    pub update_every: Duration,
    /// What others proposed is committed within that time, by whose turn it is first: by each
    /// device after a part of it.
    pub commit_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durable: true,
            accept_contacts: true,
            server: None,
            record_deliveries: false,
            update_every: Duration::from_secs(30 * 24 * 60 * 60),
            commit_within: Duration::from_secs(60 * 60),
        }
    }
}

pub(crate) struct Store {
    directory: PathBuf,
    connection: Mutex<Connection>,
    crypto: RustCrypto,
    step: tokio::sync::Mutex<()>,
}

/// The right to take a step: held while a batch is processed or a message is sent, never
/// while waiting for messages. So `follow` and `send` of one user run side by side.
pub(crate) struct Step<'a> {
    _in_process: tokio::sync::MutexGuard<'a, ()>,
    _between_processes: File,
}

/// One transaction, and the openmls provider on it.
pub(crate) struct Tx<'a> {
    transaction: &'a Transaction<'a>,
    storage: SqliteStorageProvider<Cbor, &'a Connection>,
    crypto: &'a RustCrypto,
}

impl Store {
    pub(crate) fn create(directory: &Path, options: &Options) -> Result<Self> {
        if let Some(parent) = directory.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let path = directory.join(DATABASE);
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let mut connection = connect(&path, options)?;
        SqliteStorageProvider::<Cbor, _>::new(&mut connection)
            .run_migrations()
            .map_err(|_| Error::Damaged("the schema of the MLS state"))?;
        if version(&connection)? == 0 {
            let upgrades = UPGRADES.concat();
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {SCHEMA} {upgrades} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            ))?;
        }
        Self::new(directory, connection)
    }

    pub(crate) fn open(directory: &Path, options: &Options) -> Result<Self> {
        let path = directory.join(DATABASE);
        if !path.exists() {
            return Err(Error::NoClient(directory.to_owned()));
        }
        let connection = connect(&path, options)?;
        let missing = version(&connection)?
            .checked_sub(1)
            .and_then(|upgraded| UPGRADES.get(upgraded..))
            .ok_or(Error::Damaged("the version of the state"))?
            .concat();
        if !missing.is_empty() {
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            ))?;
        }
        Self::new(directory, connection)
    }

    fn new(directory: &Path, connection: Connection) -> Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            connection: Mutex::new(connection),
            crypto: RustCrypto::default(),
            step: tokio::sync::Mutex::new(()),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits for the right to take a step.
    ///
    /// # Errors
    /// [`Error::Busy`] when another process keeps it.
    pub(crate) async fn step(&self) -> Result<Step<'_>> {
        let in_process = self.step.lock().await;
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(self.directory.join(LOCK))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Step { _in_process: in_process, _between_processes: file });
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_PATIENCE => {
                    return Err(Error::Busy {
                        directory: self.directory.clone(),
                        seconds: LOCK_PATIENCE.as_secs(),
                    });
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_INTERVAL).await,
            }
        }
    }

    /// Runs `work` in one transaction: all of it happens, or none.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = self.connection();
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        let result = work(&Tx {
            storage: SqliteStorageProvider::new(&transaction),
            crypto: &self.crypto,
            transaction: &transaction,
        })?;
        transaction.commit()?;
        Ok(result)
    }

    /// Runs `work` on one consistent view.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = self.connection();
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Deferred)?;
        work(&Tx {
            storage: SqliteStorageProvider::new(&transaction),
            crypto: &self.crypto,
            transaction: &transaction,
        })
    }

    /// Runs `work` on a view it may change: nothing of that stays.
    pub(crate) fn trial<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = self.connection();
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        work(&Tx {
            storage: SqliteStorageProvider::new(&transaction),
            crypto: &self.crypto,
            transaction: &transaction,
        })
    }

    /// A panic in another task leaves the connection usable: its transaction rolled back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Tx<'a> {
    pub(crate) fn sql(&self) -> &'a Connection {
        self.transaction
    }

    /// Runs `work` so that its changes are undone when it fails, and the transaction
    /// goes on.
    pub(crate) fn attempt<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction.execute_batch("SAVEPOINT attempt")?;
        let result = work();
        if result.is_err() {
            self.transaction.execute_batch("ROLLBACK TO attempt")?;
        }
        self.transaction.execute_batch("RELEASE attempt")?;
        result
    }
}

impl<'a> OpenMlsProvider for Tx<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = SqliteStorageProvider<Cbor, &'a Connection>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }
    fn crypto(&self) -> &RustCrypto {
        self.crypto
    }
    fn rand(&self) -> &RustCrypto {
        self.crypto
    }
}

/// Of the schema; 0 before there is one.
fn version(connection: &Connection) -> Result<usize> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// Values inside a column are CBOR.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    Encoding::Cbor.encode(value)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T> {
    Encoding::Cbor.decode(bytes).map_err(|_| Error::Damaged(what))
}

/// A column of a fixed number of bytes.
pub(crate) fn fixed<T: for<'b> TryFrom<&'b [u8]>>(bytes: &[u8], what: &'static str) -> Result<T> {
    T::try_from(bytes).map_err(|_| Error::Damaged(what))
}

/// SQLite's integers are signed; sequence numbers and epochs never reach 2^63.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn connect(path: &Path, options: &Options) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", if options.durable { "FULL" } else { "OFF" })?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

const SCHEMA: &str = "
    -- Who this client is, and how far its setting up has come.
    CREATE TABLE account (one INTEGER PRIMARY KEY CHECK (one = 1), state BLOB NOT NULL) STRICT;

    -- Unspent tokens. One is deleted before it is sent: no crash spends it twice.
    CREATE TABLE tokens (token BLOB PRIMARY KEY, issuer_key BLOB NOT NULL) STRICT;

    -- The two mailboxes: the last processed message, and the chain that opens the next.
    CREATE TABLE queues (
        kind TEXT PRIMARY KEY, queue_id BLOB NOT NULL, owner_seed BLOB NOT NULL,
        hpke_key BLOB NOT NULL, position INTEGER NOT NULL, chain INTEGER NOT NULL,
        chain_index INTEGER NOT NULL, chain_key BLOB
    ) STRICT;
    CREATE TABLE deliveries (
        kind TEXT NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (kind, seq)
    ) STRICT;

    -- Groups, and the key this client acts under in each.
    CREATE TABLE leaf_keys (public_key BLOB PRIMARY KEY, seed BLOB NOT NULL) STRICT;
    CREATE TABLE groups (
        group_id BLOB PRIMARY KEY, title TEXT NOT NULL, leaf_key BLOB NOT NULL,
        active INTEGER NOT NULL, introduce INTEGER NOT NULL, next_number INTEGER NOT NULL
    ) STRICT;
    -- Submitted to the DS, answer outstanding. The bytes are kept: a repeat is identical.
    -- One commit and one application message (with content) of a group at most.
    CREATE TABLE submissions (
        group_id BLOB NOT NULL, is_commit INTEGER NOT NULL, epoch INTEGER NOT NULL,
        body BLOB NOT NULL, content BLOB, PRIMARY KEY (group_id, is_commit)
    ) STRICT;
    -- Who members said they are, and the number of their last message.
    CREATE TABLE links (
        group_id BLOB NOT NULL, leaf_key BLOB NOT NULL, client_key BLOB, link BLOB,
        last_number INTEGER NOT NULL, PRIMARY KEY (group_id, leaf_key)
    ) STRICT;

    -- What the AS and the users' EIDs confirmed, and how far each EID was seen.
    CREATE TABLE identities (client_key BLOB PRIMARY KEY, user TEXT NOT NULL) STRICT;
    CREATE TABLE eids (
        user TEXT PRIMARY KEY, group_id BLOB NOT NULL, epoch INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE grants (client_key BLOB PRIMARY KEY, welcome BLOB NOT NULL) STRICT;

    -- First contact: requests of ours and of others, KeyPackages of others that we fetched,
    -- clients that groups wait for, deposits on their way (own_addresses: of an earlier version).
    CREATE TABLE requests (
        request_id BLOB PRIMARY KEY, client_key BLOB NOT NULL, user TEXT NOT NULL
    ) STRICT;
    CREATE TABLE received_requests (request_id BLOB PRIMARY KEY, request BLOB NOT NULL) STRICT;
    CREATE TABLE key_packages (
        leaf_key BLOB PRIMARY KEY, client_key BLOB NOT NULL, user TEXT NOT NULL,
        key_package BLOB NOT NULL, link BLOB NOT NULL, reserved_for BLOB
    ) STRICT;
    CREATE TABLE invitations (
        group_id BLOB NOT NULL, client_key BLOB NOT NULL, user TEXT NOT NULL,
        PRIMARY KEY (group_id, client_key)
    ) STRICT;
    CREATE TABLE deposits (
        id INTEGER PRIMARY KEY, user TEXT NOT NULL, address BLOB NOT NULL,
        payload BLOB NOT NULL, own_addresses BLOB
    ) STRICT;

    -- What happened and was not told yet.
    CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL) STRICT;
";

/// Since version 2: a token request whose answer is outstanding, one at a time.
const TOKEN_REQUESTS: &str = "
    CREATE TABLE IF NOT EXISTS token_requests (
        one INTEGER PRIMARY KEY CHECK (one = 1), issuer_key BLOB NOT NULL, secrets BLOB NOT NULL
    ) STRICT;
";

/// Since version 3.
const FRIENDSHIPS: &str = "
    -- What users gave us, whose KeyPackages are to be fetched, and whom we gave ours.
    CREATE TABLE IF NOT EXISTS friends (user TEXT PRIMARY KEY, friend BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS fetches (user TEXT PRIMARY KEY) STRICT;
    CREATE TABLE IF NOT EXISTS given (
        client_key BLOB PRIMARY KEY, user TEXT NOT NULL, contact BLOB NOT NULL
    ) STRICT;

    -- Our own KeyPackages as long as somebody may use them; current: of the last publication.
    CREATE TABLE IF NOT EXISTS stock (
        leaf_key BLOB PRIMARY KEY, address BLOB NOT NULL, reference BLOB NOT NULL,
        expires INTEGER NOT NULL, last_resort INTEGER NOT NULL, current INTEGER NOT NULL
    ) STRICT;
    -- On its way to the QS, and when one was last there and was counted.
    CREATE TABLE IF NOT EXISTS publications (
        one INTEGER PRIMARY KEY CHECK (one = 1), publication BLOB NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS stock_state (
        one INTEGER PRIMARY KEY CHECK (one = 1), published INTEGER NOT NULL, counted INTEGER NOT NULL
    ) STRICT;
    -- A friendship token on its way to replace another, and what other devices of ours told
    -- about one.
    CREATE TABLE IF NOT EXISTS rotations (
        one INTEGER PRIMARY KEY CHECK (one = 1), rotation BLOB NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS received_secrets (
        client_key BLOB PRIMARY KEY, secrets BLOB NOT NULL
    ) STRICT;
    -- Keys on their way to replace a mailbox's, and the one that what waits may be sealed to.
    CREATE TABLE IF NOT EXISTS key_rotations (
        kind TEXT PRIMARY KEY, owner_seed BLOB NOT NULL, hpke_key BLOB NOT NULL
    ) STRICT;
    ALTER TABLE queues ADD COLUMN previous_hpke_key BLOB;
    -- Addresses of ours that are to lead nowhere.
    CREATE TABLE IF NOT EXISTS revocations (address BLOB PRIMARY KEY) STRICT;
";

/// Since version 5: what opens the attributes of a group's leaves; when (seconds since 1970) we
/// came in or last committed, and since when something waits that others proposed.
const GROUPS: &str = "
    ALTER TABLE groups ADD COLUMN attributes_key BLOB;
    ALTER TABLE groups ADD COLUMN committed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE groups ADD COLUMN proposed INTEGER;
    UPDATE groups SET committed = unixepoch();
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn count(store: &Store) -> i64 {
        store.read(|tx| Ok(tx.sql().query_row("SELECT count(*) FROM events", [], |row| row.get(0))?)).unwrap()
    }

    fn insert(tx: &Tx<'_>) -> Result<()> {
        tx.sql().execute("INSERT INTO events (event) VALUES ('{}')", [])?;
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        store.write(insert).unwrap();
        let failed: Result<()> = store.write(|tx| {
            insert(tx)?;
            Err(Error::NotReady)
        });
        assert!(failed.is_err());
        assert_eq!(count(&store), 1);
    }

    #[test]
    fn a_failed_attempt_undoes_itself_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        store
            .write(|tx| {
                insert(tx)?;
                let failed: Result<()> = tx.attempt(|| {
                    insert(tx)?;
                    Err(Error::NotReady)
                });
                assert!(failed.is_err());
                insert(tx)
            })
            .unwrap();
        assert_eq!(count(&store), 2);
    }

    #[test]
    fn the_state_of_every_earlier_version_is_brought_up_to_date() {
        let columns = |store: &Store| -> Vec<String> {
            let sql =
                "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c ORDER BY 1";
            let all = |tx: &Tx<'_>| {
                let mut statement = tx.sql().prepare(sql)?;
                let names = statement.query_map([], |row| row.get(0))?;
                Ok(names.collect::<Result<Vec<String>, _>>()?)
            };
            store.read(all).unwrap()
        };
        let directory = tempfile::tempdir().unwrap();
        let newest = Store::create(&directory.path().join("newest"), &Options::default()).unwrap();
        for version in 1..=UPGRADES.len() {
            let old = directory.path().join(version.to_string());
            drop(Store::create(&old, &Options::default()).unwrap());
            std::fs::remove_file(old.join(DATABASE)).unwrap();
            let mut connection = connect(&old.join(DATABASE), &Options::default()).unwrap();
            SqliteStorageProvider::<Cbor, _>::new(&mut connection).run_migrations().unwrap();
            let schema =
                format!("{SCHEMA} {} PRAGMA user_version = {version};", UPGRADES[..version - 1].concat());
            connection.execute_batch(&schema).unwrap();
            drop(connection);
            let opened = Store::open(&old, &Options::default()).unwrap();
            assert_eq!(columns(&opened), columns(&newest), "version {version}");
        }
    }

    #[test]
    fn only_the_owner_may_look() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        Store::create(&directory, &Options::default()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(DATABASE)), 0o600);
    }

    #[tokio::test]
    async fn steps_of_two_processes_take_turns() {
        let directory = tempfile::tempdir().unwrap();
        let one = Store::create(directory.path(), &Options::default()).unwrap();
        let two = Store::open(directory.path(), &Options::default()).unwrap();
        let step = one.step().await.unwrap();
        let blocked = tokio::time::timeout(Duration::from_millis(100), two.step()).await;
        assert!(blocked.is_err(), "the second waits");
        drop(step);
        two.step().await.unwrap();
    }
}
