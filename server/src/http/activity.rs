//! The activity on one connection: its requests, and its answers that are not read yet. By this
//! [`Connections`](super::connections::Connections) chooses which one goes when there are too many.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::source::SourceAddress;

/// The activity on a connection.
pub struct Activity {
    /// Requests whose answers are not read yet.
    requests: AtomicUsize,
    /// The ones whose bodies are not here yet.
    arriving: AtomicUsize,
    /// The moment since which there are none, and whether there were any before.
    idle: Mutex<(Instant, bool)>,
    unread: Mutex<Unread>,
    /// Bytes of answers that the peer took.
    taken: AtomicU64,
    /// Notified when there is an answer to read where there was none.
    answered: Notify,
    /// Notified when the connection has to go for another.
    evicted: Notify,
}

/// The answers that are not read yet.
#[derive(Default)]
struct Unread {
    bytes: usize,
    number: usize,
    /// The moment since which there are some.
    since: Option<Instant>,
}

/// A request whose answer is not read yet.
pub struct Underway(Arc<Activity>);

/// A request whose body is not here yet. Cheap to clone.
#[derive(Clone)]
pub struct Arrival(Arc<Arriving>);

struct Arriving {
    source: SourceAddress,
    activity: Arc<Activity>,
    is_over: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            requests: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            idle: Mutex::new((Instant::now(), false)),
            unread: Mutex::default(),
            taken: AtomicU64::new(0),
            answered: Notify::new(),
            evicted: Notify::new(),
        }
    }

    /// Notes that a request's header has come; until its answer was read the request is under way.
    pub fn request(self: &Arc<Self>) -> Underway {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Underway(Arc::clone(self))
    }

    /// Notes that the body of a request of a source is not here yet.
    pub fn arrival(self: &Arc<Self>, source: SourceAddress) -> Arrival {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        let (activity, is_over) = (Arc::clone(self), AtomicBool::new(false));
        Arrival(Arc::new(Arriving { source, activity, is_over }))
    }

    /// Whether there are requests, and none of them is here with its body.
    pub(super) fn is_arriving(&self) -> bool {
        let arriving = self.arriving.load(Ordering::Relaxed);
        arriving > 0 && arriving == self.requests.load(Ordering::Relaxed)
    }

    /// The moment since which there are no requests; `None` while there are some.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.requests.load(Ordering::Relaxed) == 0).then(|| self.idle().0)
    }

    fn idle(&self) -> MutexGuard<'_, (Instant, bool)> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there is an answer of so many bytes to read.
    pub(super) fn leave_unread(&self, bytes: usize) {
        let mut unread = self.unread();
        unread.bytes += bytes;
        unread.number += 1;
        if unread.since.is_none() {
            unread.since = Some(Instant::now());
            self.answered.notify_one();
        }
    }

    /// Bytes of answers that are not read yet.
    pub(super) fn unread_bytes(&self) -> usize {
        self.unread().bytes
    }

    /// Notes that the peer took so many bytes of an answer.
    pub(super) fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that an answer of so many bytes was read, or given up.
    pub(super) fn read(&self, bytes: usize) {
        let mut unread = self.unread();
        unread.bytes -= bytes;
        unread.number -= 1;
        if unread.number == 0 {
            unread.since = None;
        }
    }

    /// Tells the connection to go for another.
    pub(super) fn evict(&self) {
        self.evicted.notify_one();
    }

    /// Returns when the peer took less than `least` bytes of its answers in `window`, with some to read all the time.
    pub async fn stalled(&self, window: Duration, least: u64) {
        loop {
            let begun = Instant::now();
            let before = self.taken.load(Ordering::Relaxed);
            sleep_until(begun + window).await;
            let Some(since) = self.unread().since else {
                self.answered.notified().await;
                continue;
            };
            if since <= begun && self.taken.load(Ordering::Relaxed) - before < least {
                return;
            }
        }
    }

    /// Returns when the connection has to go for another.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Returns when the connection has waited for its first request for as long as `first`, or for another one for as
    /// long as `next`. The result tells whether there was a request.
    pub async fn expired(&self, first: Duration, next: Duration) -> bool {
        loop {
            let (since, had_requests) = *self.idle();
            let is_idle = self.requests.load(Ordering::Relaxed) == 0;
            let patience = if had_requests { next } else { first };
            let end = if is_idle { since } else { Instant::now() } + patience;
            if is_idle && end <= Instant::now() {
                return had_requests;
            }
            sleep_until(end).await;
        }
    }
}

impl Underway {
    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        *self.0.idle() = (Instant::now(), true);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrival {
    /// The source of the request.
    pub fn source(&self) -> SourceAddress {
        self.0.source
    }

    /// Notes that the body is here, or refused.
    pub fn is_over(&self) {
        self.0.end();
    }
}

impl Arriving {
    fn end(&self) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.activity.arriving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.end();
    }
}
