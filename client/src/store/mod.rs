//! Where a client keeps everything: one SQLite database in its state directory, shared
//! with openmls, so that a message's effect, the queue's position and the chain's state
//! change in one transaction. It also holds the lock that orders the steps of several
//! processes on one directory.
//!
//! `schema/` says what the tables mean. Each is written by one module, which it is named for or
//! which names it.

mod passphrase;
mod value;

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::SqliteStorageProvider;
use openmls_traits::OpenMlsProvider;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use rusqlite_migration::{M, MigrationDefinitionError, Migrations, SchemaVersion};

pub use self::passphrase::Passphrase;
pub(crate) use self::{
    passphrase::{is_encrypted, reencrypt},
    value::{decode, encode, fixed, integer},
};
use crate::{
    clock::{self, Clock, Deadline},
    error::{Error, Result},
    mls::Cbor,
    options::Options,
};

const DATABASE: &str = "client.sqlite";
const LOCK: &str = "lock";
const IN_USE: &str = "in-use";
/// How long a step waits for the step of another process.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Version 1 of the schema.
const BASELINE: &str = concat!(
    include_str!("schema/account.sql"),
    include_str!("schema/tokens.sql"),
    include_str!("schema/mailbox.sql"),
    include_str!("schema/identity.sql"),
    include_str!("schema/homeservers.sql"),
    include_str!("schema/contact.sql"),
    include_str!("schema/groups.sql"),
    include_str!("schema/key_packages.sql"),
    include_str!("schema/profile.sql"),
    include_str!("schema/push.sql"),
    include_str!("schema/events.sql"),
    include_str!("schema/history.sql"),
);
/// The steps from each version to the next. Once released, a step stays as it is, and a change of
/// the schema is a further step.
const STEPS: &[M<'_>] = &[M::up(BASELINE)];
const MIGRATIONS: Migrations<'_> = Migrations::from_slice(STEPS);

pub(crate) struct Store {
    directory: PathBuf,
    connection: Mutex<Connection>,
    crypto: RustCrypto,
    clock: Clock,
    /// How many events of each group are kept.
    history: u64,
    step: tokio::sync::Mutex<()>,
    _in_use: InUse,
}

/// The right to have the store open: shared by all that have, or of one that puts another file in its place.
pub(crate) struct InUse(#[expect(dead_code, reason = "it is locked as long as it is open")] File);

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
    clock: Clock,
    history: u64,
}

impl Store {
    /// Opens the store of a directory, and makes both where they are missing.
    ///
    /// # Errors
    /// As [`Self::open`], except for [`Error::NoClient`].
    pub(crate) fn create(directory: &Path, options: &Options) -> Result<Self> {
        if let Some(parent) = directory.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let path = directory.join(DATABASE);
        let in_use = InUse::shared(directory)?;
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let mut connection = connect(&path, options)?;
        SqliteStorageProvider::<Cbor, _>::new(&mut connection)
            .run_migrations()
            .map_err(|_| Error::Damaged("the schema of the MLS state"))?;
        migrate(&mut connection, &MIGRATIONS)?;
        Ok(Self::new(directory, connection, in_use, options))
    }

    /// Opens the store of a directory.
    ///
    /// # Errors
    /// [`Error::NoClient`], [`Error::NewerState`], [`Error::Damaged`], [`Error::Database`],
    /// [`Error::PassphraseNeeded`], [`Error::WrongPassphrase`], [`Error::NotEncrypted`].
    pub(crate) fn open(directory: &Path, options: &Options) -> Result<Self> {
        let path = directory.join(DATABASE);
        if !path.exists() {
            return Err(Error::NoClient(directory.to_owned()));
        }
        let in_use = InUse::shared(directory)?;
        let mut connection = connect(&path, options)?;
        if MIGRATIONS.current_version(&connection).map_err(unmigrated)? == SchemaVersion::NoneSet {
            return Err(Error::Damaged("the version of the state"));
        }
        migrate(&mut connection, &MIGRATIONS)?;
        Ok(Self::new(directory, connection, in_use, options))
    }

    fn new(directory: &Path, connection: Connection, in_use: InUse, options: &Options) -> Self {
        Self {
            directory: directory.to_owned(),
            connection: Mutex::new(connection),
            crypto: RustCrypto::default(),
            clock: options.clock(),
            history: options.history,
            step: tokio::sync::Mutex::new(()),
            _in_use: in_use,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Waits for the right to take a step.
    ///
    /// # Errors
    /// [`Error::Busy`] when another process keeps it.
    pub(crate) async fn step(&self) -> Result<Step<'_>> {
        let in_process = self.step.lock().await;
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(self.directory.join(LOCK))?;
        let deadline = Deadline::after(LOCK_PATIENCE);
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Step { _in_process: in_process, _between_processes: file });
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) if deadline.is_over() => {
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
        let result = work(&self.tx(&transaction))?;
        transaction.commit()?;
        Ok(result)
    }

    /// Runs `work` on one consistent view.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = self.connection();
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Deferred)?;
        work(&self.tx(&transaction))
    }

    /// Runs `work` on a view it may change: nothing of that stays.
    pub(crate) fn trial<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = self.connection();
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        work(&self.tx(&transaction))
    }

    /// Does away with what deleted rows left in the write-ahead log. In the database they are overwritten when they are
    /// deleted.
    pub(crate) fn scrub(&self) -> Result<()> {
        Ok(self.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    fn tx<'a>(&'a self, transaction: &'a Transaction<'a>) -> Tx<'a> {
        Tx {
            storage: SqliteStorageProvider::new(transaction),
            crypto: &self.crypto,
            clock: self.clock,
            history: self.history,
            transaction,
        }
    }

    /// A panic in another task leaves the connection usable: its transaction rolled back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    /// Waits until this process may use the database along with others.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody is putting another file in its place for long.
    fn shared(directory: &Path) -> Result<Self> {
        let file = Self::file(directory)?;
        let deadline = Deadline::after(LOCK_PATIENCE);
        while let Err(error) = file.try_lock_shared() {
            match error {
                TryLockError::Error(error) => return Err(error.into()),
                TryLockError::WouldBlock if deadline.is_over() => {
                    return Err(Error::Busy {
                        directory: directory.to_owned(),
                        seconds: LOCK_PATIENCE.as_secs(),
                    });
                }
                TryLockError::WouldBlock => std::thread::sleep(LOCK_INTERVAL),
            }
        }
        Ok(Self(file))
    }

    /// Takes the database for this process alone.
    ///
    /// # Errors
    /// [`Error::InUse`].
    fn alone(directory: &Path) -> Result<Self> {
        let file = Self::file(directory)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    fn file(directory: &Path) -> Result<File> {
        Ok(OpenOptions::new().create(true).append(true).mode(0o600).open(directory.join(IN_USE))?)
    }
}

impl<'a> Tx<'a> {
    pub(crate) fn sql(&self) -> &'a Connection {
        self.transaction
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Whether the time has come for which something was put off, by so many seconds at the longest ([`clock::to_come`]).
    pub(crate) fn has_come(&self, due: u64, longest: u64) -> bool {
        !clock::to_come(longest, self.now()).contains(&due)
    }

    /// The same for a condition in SQL: what is `NOT BETWEEN` these two times has come.
    pub(crate) fn to_come(&self, longest: u64) -> [i64; 2] {
        let times = clock::to_come(longest, self.now());
        [integer(*times.start()), integer(*times.end())]
    }

    /// How many events of each group are kept.
    pub(crate) fn history(&self) -> u64 {
        self.history
    }

    /// Runs `work` and undoes its changes, whatever comes of it.
    pub(crate) fn trial<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction.execute_batch("SAVEPOINT trial")?;
        let result = work();
        self.transaction.execute_batch("ROLLBACK TO trial; RELEASE trial")?;
        result
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

fn connect(path: &Path, options: &Options) -> Result<Connection> {
    let connection = Connection::open(path)?;
    passphrase::unlock(&connection, path, options.passphrase.as_ref())?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", if options.durable() { "FULL" } else { "OFF" })?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Brings the schema to the newest version, in one transaction.
fn migrate(connection: &mut Connection, migrations: &Migrations<'_>) -> Result<()> {
    migrations.to_latest(connection).map_err(unmigrated)
}

fn unmigrated(error: rusqlite_migration::Error) -> Error {
    match error {
        rusqlite_migration::Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => {
            Error::NewerState
        }
        rusqlite_migration::Error::RusqliteError { err, .. } => err.into(),
        _ => Error::Damaged("the version of the state"),
    }
}

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

    /// The schema of a version that does not exist yet.
    fn next_version() -> Migrations<'static> {
        Migrations::new(vec![
            M::up(BASELINE),
            M::up("ALTER TABLE events ADD COLUMN told INTEGER NOT NULL DEFAULT 0;"),
        ])
    }

    #[test]
    fn the_state_of_an_earlier_version_is_brought_up_to_date_and_keeps_what_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        store.write(insert).unwrap();
        drop(store);
        let mut connection = connect(&directory.path().join(DATABASE), &Options::default()).unwrap();
        migrate(&mut connection, &next_version()).unwrap();
        let kept: i64 =
            connection.query_row("SELECT count(*) FROM events WHERE told = 0", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 1);
        migrate(&mut connection, &next_version()).unwrap();
    }

    #[test]
    fn an_upgrade_that_fails_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::create(directory.path(), &Options::default()).unwrap());
        let mut connection = connect(&directory.path().join(DATABASE), &Options::default()).unwrap();
        let broken = Migrations::new(vec![
            M::up(BASELINE),
            M::up("DROP TABLE events; ALTER TABLE nothing ADD COLUMN anything;"),
        ]);
        migrate(&mut connection, &broken).unwrap_err();
        drop(connection);
        assert_eq!(count(&Store::open(directory.path(), &Options::default()).unwrap()), 0);
    }

    #[test]
    fn the_state_of_a_later_version_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::create(directory.path(), &Options::default()).unwrap());
        let path = directory.path().join(DATABASE);
        let mut connection = connect(&path, &Options::default()).unwrap();
        migrate(&mut connection, &next_version()).unwrap();
        for refused in [
            Store::open(directory.path(), &Options::default()),
            Store::create(directory.path(), &Options::default()),
        ] {
            assert!(matches!(refused, Err(Error::NewerState)));
        }
        migrate(&mut connection, &next_version()).unwrap();
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
