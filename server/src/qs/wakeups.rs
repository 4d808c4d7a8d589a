//! Wake-ups (QS-9): one LISTEN connection per server process hears which queues got
//! messages, on whichever process, and wakes the long-polls that wait for them here.
//! Notifications carry keyed hashes of queue ids; the key is the database's, asked for
//! anew with every connection. As a process listens on one connection only, it also hears
//! there, and passes on, that issuer keys changed (AAS-5).

use std::{
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use postern_protocol::QueueId;
use tokio::{sync::Notify, time::sleep};
use tokio_postgres::AsyncMessage;

use crate::database::{Database, DatabaseError};

const CHANNEL: &str = "postern_wake";
const KEYS_CHANNEL: &str = "postern_issuer_keys";
/// "Look again, everyone."
const EVERYONE: &str = "*";
const KEY_LEN: usize = 16;

type WakeKey = [u8; KEY_LEN];

#[derive(Clone)]
pub struct Wakeups(Arc<Mutex<Waiters>>);

struct Waiters {
    secret: hmac::Key,
    waiting: HashMap<WakeKey, Vec<Arc<Notify>>>,
}

/// One long-poll's place in the waiting room; given up when dropped.
pub struct Waiter {
    wakeups: Wakeups,
    key: WakeKey,
    notify: Arc<Notify>,
}

impl Default for Wakeups {
    fn default() -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &[]);
        Self(Arc::new(Mutex::new(Waiters { secret, waiting: HashMap::new() })))
    }
}

impl Wakeups {
    /// Registers a waiter. Everything committed from now on wakes it.
    pub fn wait_for(&self, queue_id: &QueueId) -> Waiter {
        let mut room = self.room();
        let tag = hmac::sign(&room.secret, queue_id.as_bytes());
        let mut key = [0; KEY_LEN];
        key.copy_from_slice(&tag.as_ref()[..KEY_LEN]);
        let notify = Arc::new(Notify::new());
        room.waiting.entry(key).or_default().push(notify.clone());
        Waiter { wakeups: self.clone(), key, notify }
    }

    /// Listens for ever, on a new connection whenever one is lost.
    pub async fn listen(&self, database: &Database, keys_changed: &Notify) {
        loop {
            if let Err(error) = self.listen_once(database, keys_changed).await {
                tracing::warn!("wake-ups: {error}; listening again");
            }
            // Nothing is heard meanwhile: whoever waits looks again, now and when LISTEN is back.
            self.wake_everyone();
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn listen_once(&self, database: &Database, keys_changed: &Notify) -> Result<(), DatabaseError> {
        let (client, mut connection) = database.listener().await?;
        let mut setup = Box::pin(async {
            client.batch_execute(&format!("LISTEN {CHANNEL}; LISTEN {KEYS_CHANNEL}")).await?;
            client.query_one("SELECT postern.wake_secret()", &[]).await
        });
        let mut ready = false;
        loop {
            tokio::select! {
                row = &mut setup, if !ready => {
                    self.room().secret = hmac::Key::new(hmac::HMAC_SHA256, row?.get(0));
                    ready = true;
                    self.wake_everyone();
                    // What changed while nobody listened was not heard.
                    keys_changed.notify_one();
                }
                message = poll_fn(|context| connection.poll_message(context)) => match message {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        if notification.channel() == KEYS_CHANNEL {
                            keys_changed.notify_one();
                            continue;
                        }
                        self.wake(notification.payload());
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(DatabaseError::Connection("it was closed".to_owned())),
                }
            }
        }
    }

    fn wake(&self, payload: &str) {
        let Ok(keys) = STANDARD_NO_PAD.decode(payload) else {
            debug_assert_eq!(payload, EVERYONE);
            return self.wake_everyone();
        };
        let room = self.room();
        for key in keys.chunks_exact(KEY_LEN) {
            room.waiting.get(key).into_iter().flatten().for_each(|notify| notify.notify_one());
        }
    }

    fn wake_everyone(&self) {
        self.room().waiting.values().flatten().for_each(|notify| notify.notify_one());
    }

    fn room(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Returns once something came since [`Wakeups::wait_for`], also when that was before
    /// this call.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut room = self.wakeups.room();
        if let Entry::Occupied(mut waiters) = room.waiting.entry(self.key) {
            waiters.get_mut().retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if waiters.get().is_empty() {
                waiters.remove();
            }
        }
    }
}
