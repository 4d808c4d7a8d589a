//! Keys of one kind in the memory of a process. They are replaced as a whole when the database has others: by the clock,
//! when their version changed, and when a request names one that is not among them.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use crate::database::DatabaseError;

/// Least time between two loads for unknown keys: anyone can name one.
const INTERVAL: Duration = Duration::from_secs(1);

pub struct Held<K> {
    keys: RwLock<Arc<K>>,
    search: Mutex<Search>,
}

/// The last load for an unknown key: when it began, and whether it failed.
struct Search {
    begun: Instant,
    failed: bool,
}

impl<K> Held<K> {
    pub fn new(keys: K) -> Self {
        let search = Search { begun: Instant::now(), failed: false };
        Self { keys: RwLock::new(Arc::new(keys)), search: Mutex::new(search) }
    }

    /// The keys as they are now.
    pub fn now(&self) -> Arc<K> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, keys: K) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Looks something up among the keys, and if it is not there, once more after `load`, which replaces them.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn find<T>(
        &self,
        look_up: impl Fn(&K) -> Option<T>,
        load: impl Future<Output = anyhow::Result<()>>,
    ) -> Result<Option<T>, DatabaseError> {
        if let Some(found) = look_up(&self.now()) {
            return Ok(Some(found));
        }
        let asked = Instant::now();
        let mut search = self.search.lock().await;
        // One load is enough for all that waited for it.
        if search.begun < asked && search.begun.elapsed() >= INTERVAL {
            *search = Search { begun: Instant::now(), failed: true };
            match load.await.map_err(anyhow::Error::downcast::<DatabaseError>) {
                Ok(()) => {}
                Err(Ok(error)) => return Err(error),
                Err(Err(error)) => tracing::error!("cannot load keys: {error:#}"),
            }
            search.failed = false;
        }
        let found = look_up(&self.now());
        if found.is_none() && search.failed {
            return Err(DatabaseError::Pool("keys could not be loaded a moment ago"));
        }
        Ok(found)
    }
}
