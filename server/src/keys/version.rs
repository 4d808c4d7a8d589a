//! The version of the keys that this process keeps in memory, compared with the database's every few seconds. A change
//! is heard sooner where it is notified; this finds it where no notification arrives. Keys have days, and another day by
//! the database's clock, which may leap without this process's, is as good as a change.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::database::Database;

/// Cheap to clone.
#[derive(Clone)]
pub struct KeyVersion(Arc<Shared>);

struct Shared {
    database: Database,
    /// Version and day of the last comparison.
    seen: Mutex<Option<(i64, i64)>>,
    /// Notified when the keys changed.
    changed: Mutex<Vec<Arc<Notify>>>,
}

impl KeyVersion {
    pub fn new(database: &Database) -> Self {
        let shared = Shared { database: database.clone(), seen: Mutex::default(), changed: Mutex::default() };
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
        let sql = "SELECT operator.current_key_version(), floor(extract(epoch FROM now()) / 86400)::bigint";
        let row = self.0.database.query_one(sql, &[]).await?;
        let found = Some((row.get(0), row.get(1)));
        // The keys were loaded before the first comparison, perhaps before a change.
        let seen = std::mem::replace(&mut *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner), found);
        if seen != found {
            let changed = self.0.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.iter().for_each(|changed| changed.notify_one());
        }
        Ok(())
    }
}
