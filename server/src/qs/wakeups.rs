//! Wake-ups (QS-9): one LISTEN connection per server process hears which queues got messages,
//! through any process, and wakes the long-polls that wait for them in this one. Notifications
//! are sealed (see [`postern_protocol::wake`]); the secret is the database's, read again on every new
//! connection.
//!
//! A wake-up may be lost: it costs latency, never a message. A long-poll registers before it looks, and a sweep asks
//! the database for all waiters of this process at once, so that thousands of them are a handful of queries.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use postern_protocol::{
    QueueId,
    wake::{Heard, Wake, WakeKey, WakeSecret},
};
use tokio::{sync::Notify, time::timeout};
use tokio_postgres::Client;

use crate::database::{Database, DatabaseError, listener::Subscriber};

/// Time between two sweeps, and so the most latency that a lost wake-up costs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(20);
/// Waiters that one query asks for.
const SWEEP_BATCH: usize = 1000;

#[derive(Clone, Default)]
pub struct Wakeups(Arc<Shared>);

#[derive(Default)]
struct Shared {
    room: Mutex<Room>,
    /// Something may have been missed: ask the database for everyone.
    sweep: Notify,
    /// Whether notifications are heard at present.
    listening: AtomicBool,
    /// Notifications that were heard.
    heard: AtomicU64,
    /// Times that a notification woke a long-poll.
    woken: AtomicU64,
    /// Times that a sweep found messages for a long-poll that waited.
    found: AtomicU64,
}

/// The state of the waiting room, and what happened in it since the start.
#[derive(Debug, Clone, Copy)]
pub struct WakeupFigures {
    /// Whether notifications are heard.
    pub listening: bool,
    /// Long-polls that wait.
    pub waiting: usize,
    /// Notifications that were heard.
    pub heard: u64,
    /// Times that a notification woke a long-poll.
    pub woken: u64,
    /// Times that a sweep found what a long-poll waited for.
    pub found: u64,
}

struct Room {
    secret: WakeSecret,
    heard: Heard,
    waiting: HashMap<WakeKey, Vec<Arc<Seat>>>,
}

struct Seat {
    queue_id: QueueId,
    after: i64,
    notify: Notify,
}

/// One long-poll's place in the waiting room; given up when dropped.
pub struct Waiter {
    wakeups: Wakeups,
    seat: Arc<Seat>,
}

impl Default for Room {
    fn default() -> Self {
        let secret = WakeSecret::new(&[0; 32]).expect("zeros are a key");
        Self { secret, heard: Heard::default(), waiting: HashMap::new() }
    }
}

impl Room {
    fn seats(&self) -> impl Iterator<Item = &Arc<Seat>> {
        self.waiting.values().flatten()
    }

    /// Takes over the database's secret, also for waiters that are registered already.
    fn rekey(&mut self, secret: WakeSecret) {
        self.secret = secret;
        self.heard = Heard::default();
        for seat in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.waiting.entry(self.secret.key(&seat.queue_id)).or_default().push(seat);
        }
    }
}

impl Wakeups {
    /// Registers a waiter for messages after the sequence number `after`. Every message that is
    /// committed from now on wakes it.
    pub fn wait_for(&self, queue_id: QueueId, after: i64) -> Waiter {
        let seat = Arc::new(Seat { queue_id, after, notify: Notify::new() });
        let mut room = self.room();
        let key = room.secret.key(&queue_id);
        room.waiting.entry(key).or_default().push(seat.clone());
        Waiter { wakeups: self.clone(), seat }
    }

    pub fn figures(&self) -> WakeupFigures {
        let Shared { room, listening, heard, woken, found, sweep: _ } = &*self.0;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        WakeupFigures {
            listening: listening.load(Ordering::Relaxed),
            waiting: room.lock().unwrap_or_else(PoisonError::into_inner).seats().count(),
            heard: count(heard),
            woken: count(woken),
            found: count(found),
        }
    }

    /// Sweeps for ever: regularly, and when something may have been missed.
    pub async fn sweep(&self, database: &Database) {
        loop {
            // A sweep that was asked for is as good as a regular one.
            let _ = timeout(SWEEP_INTERVAL, self.0.sweep.notified()).await;
            if let Err(error) = self.sweep_once(database).await {
                tracing::warn!("cannot look for missed messages: {error}; trying again later");
            }
        }
    }

    /// Wakes the waiters for which the database has messages.
    async fn sweep_once(&self, database: &Database) -> Result<(), DatabaseError> {
        let seats: Vec<Arc<Seat>> = self.room().seats().cloned().collect();
        for seats in seats.chunks(SWEEP_BATCH) {
            let queue_ids: Vec<&[u8]> =
                seats.iter().map(|seat| seat.queue_id.as_bytes().as_slice()).collect();
            let afters: Vec<i64> = seats.iter().map(|seat| seat.after).collect();
            let sql = "SELECT qs.queues_with_messages($1, $2)";
            let places: Vec<i32> = database.query_one(sql, &[&queue_ids, &afters]).await?.get(0);
            let found = places.into_iter().filter_map(|place| seats.get(usize::try_from(place).ok()? - 1));
            found.for_each(|seat| {
                self.0.found.fetch_add(1, Ordering::Relaxed);
                seat.notify.notify_one();
            });
        }
        Ok(())
    }

    /// Wakes those that a notification is for. One that the database did not send, or not now, is nobody's.
    fn wake(&self, payload: &str) {
        let mut room = self.room();
        let Room { secret, heard, waiting } = &mut *room;
        let wake = secret.open(heard, payload);
        if wake.is_some() {
            self.0.heard.fetch_add(1, Ordering::Relaxed);
        }
        match wake {
            Some(Wake::Everyone) => self.0.sweep.notify_one(),
            Some(Wake::Queues(keys)) => {
                let woken = keys.iter().filter_map(|key| waiting.get(key)).flatten();
                woken.for_each(|seat| {
                    self.0.woken.fetch_add(1, Ordering::Relaxed);
                    seat.notify.notify_one();
                });
            }
            None => tracing::debug!("a notification is not the database's"),
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Wakeups {
    fn channel(&self) -> &'static str {
        "postern_wake"
    }

    fn connected<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), DatabaseError>> {
        Box::pin(async move {
            let row = client.query_one("SELECT postern.wake_secret()", &[]).await?;
            let secret =
                row.get::<_, &[u8]>(0).try_into().ok().and_then(|secret| WakeSecret::new(secret).ok());
            let secret =
                secret.ok_or_else(|| DatabaseError::Connection("its wake secret is none".to_owned()))?;
            self.room().rekey(secret);
            self.0.listening.store(true, Ordering::Relaxed);
            self.0.sweep.notify_one();
            Ok(())
        })
    }

    fn notified(&self, payload: &str) {
        self.wake(payload);
    }

    fn disconnected(&self) {
        self.0.listening.store(false, Ordering::Relaxed);
        // Messages that come before LISTEN is back are found by looking.
        self.0.sweep.notify_one();
    }
}

impl Waiter {
    /// Returns once something came after [`Wakeups::wait_for`], even before this call.
    pub async fn woken(&self) {
        self.seat.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut room = self.wakeups.room();
        let key = room.secret.key(&self.seat.queue_id);
        if let Entry::Occupied(mut seats) = room.waiting.entry(key) {
            seats.get_mut().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
            if seats.get().is_empty() {
                seats.remove();
            }
        }
    }
}
