//! The version of the keys that this process keeps in memory, compared with the database's every few seconds. A change
//! is heard sooner where it is notified; this finds it where no notification arrives.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use tokio::sync::Notify;

use crate::database::Database;

/// A version that the database never has.
const NONE: i64 = -1;

/// Cheap to clone.
#[derive(Clone)]
pub struct KeyVersion(Arc<Shared>);

struct Shared {
    database: Database,
    seen: AtomicI64,
    /// Notified when the keys changed.
    changed: Mutex<Vec<Arc<Notify>>>,
}

impl KeyVersion {
    pub fn new(database: &Database) -> Self {
        let shared =
            Shared { database: database.clone(), seen: AtomicI64::new(NONE), changed: Mutex::default() };
        Self(Arc::new(shared))
    }

    /// Notifies `changed` whenever the keys changed, and returns it.
    pub fn changed(&self, changed: Arc<Notify>) -> Arc<Notify> {
        self.0.changed.lock().unwrap_or_else(PoisonError::into_inner).push(changed.clone());
        changed
    }

    /// Compares the version with the last one.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn compare(&self) -> anyhow::Result<()> {
        let row = self.0.database.query_one("SELECT operator.current_key_version()", &[]).await?;
        let version = row.get(0);
        // The keys were loaded before the first comparison, perhaps before a change.
        if self.0.seen.swap(version, Ordering::Relaxed) != version {
            let changed = self.0.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.iter().for_each(|changed| changed.notify_one());
        }
        Ok(())
    }
}
