//! The connections that are open, and which of them may go when there are too many: the one that has waited longest
//! without a request, else one whose requests are still arriving, of the source with most connections. So connections
//! that are silent or slow keep nobody out, however many there are. Answers that nobody reads take memory: when they take
//! too much, the connection goes that leaves most of them unread.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    activity::{Activity, Underway},
    source::SourceAddress,
};

/// All open connections. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    most: usize,
    most_of_source: usize,
    /// Bytes that the answers of all connections may take.
    most_unread: usize,
    /// Bytes that they take.
    unread: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Place>,
    of_source: HashMap<SourceAddress, usize>,
}

/// An open connection. Its source is known once it is certain that it is not shared.
struct Place {
    source: Option<SourceAddress>,
    activity: Arc<Activity>,
}

/// A connection's place among those that are open; given up when dropped.
pub struct Connection {
    connections: Connections,
    number: u64,
    activity: Arc<Activity>,
}

/// An answer that is not read yet.
pub struct Reading {
    connections: Connections,
    underway: Underway,
    bytes: usize,
}

impl Connections {
    pub fn new(most: usize, most_of_source: usize, most_unread: usize) -> Self {
        let unread = AtomicUsize::new(0);
        Self(Arc::new(Shared { most, most_of_source, most_unread, unread, open: Mutex::default() }))
    }

    /// Connections that are open.
    pub fn number(&self) -> usize {
        self.open().connections.len()
    }

    /// Most connections at a time.
    pub fn most(&self) -> usize {
        self.0.most
    }

    /// Bytes of answers that are not read yet.
    pub fn unread(&self) -> usize {
        self.0.unread.load(Ordering::Relaxed)
    }

    /// Makes room for a new connection. `None`: there is none, as the server works on a request of every connection.
    pub fn admit(&self) -> Option<Connection> {
        let mut open = self.open();
        if open.connections.len() >= self.0.most && !open.evict(|_| true) {
            return None;
        }
        let activity = Arc::new(Activity::new());
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Place { source: None, activity: Arc::clone(&activity) });
        Some(Connection { connections: self.clone(), number, activity })
    }

    /// Notes that a request has an answer of so many bytes, which counts until the result is dropped.
    pub fn answered(&self, underway: Underway, bytes: usize) -> Reading {
        underway.activity().leave_unread(bytes);
        if self.0.unread.fetch_add(bytes, Ordering::Relaxed) + bytes > self.0.most_unread {
            self.open().evict_readers(self.0.most_unread);
        }
        Reading { connections: self.clone(), underway, bytes }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Tells the connection to go that has been idle for longest, or else the oldest one whose requests are still
    /// arriving, of the source that has most connections. Returns false if there is neither.
    fn evict(&mut self, which: impl Fn(&Place) -> bool) -> bool {
        let places = || self.connections.iter().filter(|(_, place)| which(place));
        let idle = places().filter_map(|(number, place)| Some((place.activity.idle_since()?, *number)));
        let of_source = |place: &Place| place.source.and_then(|source| self.of_source.get(&source).copied());
        let arriving = || {
            let arriving = places().filter(|(_, place)| place.activity.is_arriving());
            arriving.map(|(number, place)| (Reverse(of_source(place)), *number)).min()
        };
        let number = idle.min().map(|(_, number)| number);
        let Some(number) = number.or_else(|| arriving().map(|(_, number)| number)) else { return false };
        // It is not open any more for those that count, although its task has yet to end.
        if let Some(place) = self.remove(number) {
            place.activity.evict();
        }
        true
    }

    /// Tells those connections to go that leave most unread, until the others leave no more than so many bytes.
    fn evict_readers(&mut self, most: usize) {
        let unread = |place: &Place| place.activity.unread_bytes();
        let mut left: usize = self.connections.values().map(unread).sum();
        while left > most {
            let places = self.connections.iter().map(|(number, place)| (unread(place), *number));
            let Some((bytes, number)) = places.max() else { return };
            left = left.saturating_sub(bytes);
            if let Some(place) = self.remove(number) {
                place.activity.evict();
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        let place = self.connections.remove(&number)?;
        if let Some(source) = place.source
            && let Some(left) = self.of_source.get_mut(&source)
        {
            *left -= 1;
            if *left == 0 {
                self.of_source.remove(&source);
            }
        }
        Some(place)
    }
}

impl Connection {
    /// Counts the connection for its source. Returns false if that has too many, each with a request that the server works
    /// on.
    pub fn belongs_to(&self, source: SourceAddress) -> bool {
        let mut open = self.connections.open();
        let number = open.of_source.get(&source).copied().unwrap_or_default();
        if number >= self.connections.0.most_of_source && !open.evict(|place| place.source == Some(source)) {
            return false;
        }
        let Some(place) = open.connections.get_mut(&self.number) else { return false };
        place.source = Some(source);
        *open.of_source.entry(source).or_default() += 1;
        true
    }

    /// All connections.
    pub fn all(&self) -> &Connections {
        &self.connections
    }

    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open().remove(self.number);
    }
}

impl Reading {
    /// Notes that the peer took so many bytes of the answer.
    pub fn taken(&self, bytes: usize) {
        self.underway.activity().take(bytes);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.connections.0.unread.fetch_sub(self.bytes, Ordering::Relaxed);
        self.underway.activity().read(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join;
    use tokio::time::{Instant, sleep_until};

    use super::{super::activity::Arrival, *};

    fn source(last: u8) -> SourceAddress {
        SourceAddress::of([192, 0, 2, last].into())
    }

    /// Whether the connection was told to go.
    fn is_evicted(connection: &Connection) -> bool {
        !connection.connections.open().connections.contains_key(&connection.number)
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room_and_one_with_a_request_does_not() {
        let connections = Connections::new(3, 3, 100);
        let open: Vec<_> = (0..3).map(|_| connections.admit().expect("there is room")).collect();
        let busy = open[0].activity().request();
        let fourth = connections.admit().expect("the second one is idle");
        open[1].activity().evicted().await;
        assert_eq!(open.iter().map(is_evicted).collect::<Vec<_>>(), [false, true, false]);
        let requests = [open[2].activity().request(), fourth.activity().request()];
        assert!(connections.admit().is_none(), "all have requests");
        drop(busy);
        connections.admit().expect("the first one is idle");
        assert!(is_evicted(&open[0]));
        drop(requests);
    }

    #[tokio::test]
    async fn a_source_with_too_many_connections_loses_one_of_its_own() {
        let connections = Connections::new(10, 2, 100);
        let admit = |from| {
            let connection = connections.admit().expect("there is room");
            (connection.belongs_to(source(from)), connection)
        };
        let (_, other) = admit(2);
        let (first, second) = (admit(1), admit(1));
        let third = admit(1);
        assert!(third.0 && is_evicted(&first.1) && !is_evicted(&second.1) && !is_evicted(&other));
        let _requests = [second.1.activity().request(), third.1.activity().request()];
        assert!(!admit(1).0, "both have requests");
        assert!(admit(2).0);
    }

    #[tokio::test]
    async fn a_connection_whose_requests_are_still_arriving_makes_room_of_the_source_that_has_most() {
        let connections = Connections::new(4, 4, 100);
        let open: Vec<_> = (0..4).map(|_| connections.admit().expect("there is room")).collect();
        for (connection, from) in open.iter().zip([1, 2, 2, 2]) {
            assert!(connection.belongs_to(source(from)));
        }
        let requests: Vec<_> = open.iter().map(|connection| connection.activity().request()).collect();
        let arrivals: Vec<_> =
            open.iter().map(|connection| connection.activity().arrival(source(1))).collect();
        arrivals[1].is_over();
        let evicted = || open.iter().map(is_evicted).collect::<Vec<_>>();
        let fifth =
            connections.admit().expect("the third one's request is arriving, and its source has most");
        assert_eq!(evicted(), [false, false, true, false]);
        let _busy = fifth.activity().request();
        arrivals.iter().for_each(Arrival::is_over);
        assert!(connections.admit().is_none(), "the server works on all");
        drop((requests, arrivals));
    }

    #[tokio::test]
    async fn a_connection_expires_without_a_request_and_not_during_one() {
        let (first, next) = (Duration::from_millis(50), Duration::from_millis(200));
        let connections = Connections::new(2, 2, 100);
        let silent = connections.admit().expect("there is room");
        assert!(!silent.activity().expired(first, next).await);

        let used = connections.admit().expect("there is room");
        let request = used.activity().request();
        let underway = tokio::time::timeout(3 * first, used.activity().expired(first, next)).await;
        assert!(underway.is_err(), "its request is under way");
        let answered = Instant::now();
        drop(request);
        assert!(used.activity().expired(first, next).await);
        assert!(answered.elapsed() >= next);
    }

    #[tokio::test]
    async fn the_connection_that_leaves_most_unread_makes_room_for_other_answers() {
        let connections = Connections::new(10, 10, 100);
        let open: Vec<_> = (0..3).map(|_| connections.admit().expect("there is room")).collect();
        let answer = |of: usize, bytes| connections.answered(open[of].activity().request(), bytes);
        let evicted = || open.iter().map(is_evicted).collect::<Vec<_>>();
        let small = answer(0, 30);
        drop(answer(0, 70));
        let large = [answer(1, 30), answer(1, 40)];
        assert_eq!(evicted(), [false; 3], "there are 100 bytes to read");
        let third = answer(2, 31);
        open[1].activity().evicted().await;
        assert_eq!(evicted(), [false, true, false]);
        let fourth = answer(0, 39);
        assert_eq!(evicted(), [false, true, false], "the answers of the second one are gone with it");
        drop((small, large, third, fourth));
        assert_eq!(connections.0.unread.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_peer_that_reads_too_slowly_has_stalled() {
        let connections = Connections::new(1, 1, 1000);
        let connection = connections.admit().expect("there is room");
        let activity = Arc::clone(connection.activity());
        let window = Duration::from_millis(200);
        let stalled = |of: u32| {
            let activity = Arc::clone(&activity);
            async move { tokio::time::timeout(of * window, activity.stalled(window, 100)).await.is_ok() }
        };
        assert!(!stalled(5).await, "there is nothing to read");
        let reading = connections.answered(activity.request(), 500);
        let pace = |bytes| {
            let reading = &reading;
            async move {
                for _ in 0..20 {
                    reading.taken(bytes);
                    sleep_until(Instant::now() + window / 4).await;
                }
            }
        };
        // In this order: after a pause of this machine, what was to be read by then is read before anybody looks.
        let ((), fast) = join(pace(100), stalled(5)).await;
        assert!(!fast);
        let ((), slow) = join(pace(2), stalled(5)).await;
        assert!(slow);
    }
}
