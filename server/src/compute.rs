//! Work that keeps a core busy for milliseconds (MLS trees, batches of tokens): it runs apart from the threads that serve
//! connections, as much at a time as there are permits, and waits for one only so long.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::block_in_place,
    time::timeout,
};

pub struct Compute {
    permits: Semaphore,
    /// The number of permits.
    most: usize,
    wait: Duration,
    /// Times that there was no permit for as long as work waits.
    overloads: AtomicU64,
}

/// All permits were in use for as long as work waits for one. Nothing was done.
#[derive(Debug)]
pub struct Overloaded;

impl Compute {
    pub const fn new(permits: usize, wait: Duration) -> Self {
        let overloads = AtomicU64::new(0);
        Self { permits: Semaphore::const_new(permits), most: permits, wait, overloads }
    }

    /// Does the work once there is a permit; the runtime's other tasks go on meanwhile.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub async fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        let permit = timeout(self.wait, self.permits.acquire()).await.map_err(|_| {
            self.overloads.fetch_add(1, Ordering::Relaxed);
            Overloaded
        })?;
        let _permit = permit.expect("the semaphore is never closed");
        Ok(block_in_place(work))
    }

    /// Works that run at present.
    pub fn running(&self) -> usize {
        self.most.saturating_sub(self.permits.available_permits())
    }

    /// Times that work found no permit in time, since the start.
    pub fn overloads(&self) -> u64 {
        self.overloads.load(Ordering::Relaxed)
    }

    /// Does work that nobody waits for, if there is a permit.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub fn run_if_idle<T>(&self, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        let _permit = self.permits.try_acquire().map_err(|_| Overloaded)?;
        Ok(block_in_place(work))
    }
}

/// Turns at such work that anybody can ask for: one at a time of each source, and so many in all, so that nobody who asks
/// for much keeps others waiting.
pub struct FairTurns<S> {
    permits: Semaphore,
    wait: Duration,
    /// A permit for each source of which work waits or runs.
    sources: Mutex<HashMap<S, Arc<Semaphore>>>,
}

/// A turn of a source, until it is dropped.
pub struct FairTurn<'a, S: Eq + Hash> {
    _permit: SemaphorePermit<'a>,
    /// Before the turn, which looks whether somebody else holds it.
    _of_source: OwnedSemaphorePermit,
    _turn: Turn<'a, S>,
}

/// Such work, which has permits of its own.
pub struct FairCompute<S>(FairTurns<S>);

impl<S: Clone + Eq + Hash> FairTurns<S> {
    pub fn new(permits: usize, wait: Duration) -> Self {
        Self { permits: Semaphore::new(permits), wait, sources: Mutex::default() }
    }

    /// Waits until no other work of the source is before, and there is a permit.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub async fn take(&self, source: S) -> Result<FairTurn<'_, S>, Overloaded> {
        let turn = Turn::new(&self.sources, source);
        let of_source = timeout(self.wait, turn.of_source.clone().acquire_owned()).await;
        let of_source = of_source.map_err(|_| Overloaded)?.expect("the semaphore is never closed");
        let permit = timeout(self.wait, self.permits.acquire()).await.map_err(|_| Overloaded)?;
        let permit = permit.expect("the semaphore is never closed");
        Ok(FairTurn { _permit: permit, _of_source: of_source, _turn: turn })
    }
}

impl<S: Clone + Eq + Hash> FairCompute<S> {
    pub fn new(permits: usize, wait: Duration) -> Self {
        Self(FairTurns::new(permits, wait))
    }

    /// Does the work once there is a permit, and no other work of the source before it.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub async fn run<T>(&self, source: S, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        let _turn = self.0.take(source).await?;
        Ok(block_in_place(work))
    }
}

/// The place of a work among those of its source.
struct Turn<'a, S: Eq + Hash> {
    sources: &'a Mutex<HashMap<S, Arc<Semaphore>>>,
    source: S,
    of_source: Arc<Semaphore>,
}

impl<'a, S: Clone + Eq + Hash> Turn<'a, S> {
    fn new(sources: &'a Mutex<HashMap<S, Arc<Semaphore>>>, source: S) -> Self {
        let mut held = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = held.entry(source.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        Self { sources, source, of_source }
    }
}

impl<S: Eq + Hash> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        let mut held = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's, and this one.
        if Arc::strong_count(&self.of_source) == 2 {
            held.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures_util::{FutureExt as _, future::join_all};
    use tokio::task::unconstrained;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_more_work_runs_at_once_than_there_are_permits() {
        let compute = Arc::new(Compute::new(2, Duration::from_secs(60)));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..8).map(|_| {
            let (compute, running, most) = (compute.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let work = || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Each waits until a second one has come, for which there is a permit, and a moment longer for a third.
                    while most.load(Ordering::SeqCst) < 2 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                compute.run(work).await.expect("a minute is enough");
            })
        });
        join_all(work.collect::<Vec<_>>()).await;
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_that_finds_no_permit_in_time_is_not_done() {
        let compute = Arc::new(Compute::new(1, Duration::from_millis(50)));
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let long = tokio::spawn({
            let compute = compute.clone();
            async move {
                let work = move || {
                    begin.send(()).expect("the test waits for it");
                    ended.recv().expect("the test ends it");
                };
                compute.run(work).await
            }
        });
        begun.await.expect("it begins");
        assert!(compute.run(|| panic!("there is no permit")).await.is_err());
        assert!(compute.run_if_idle(|| panic!("there is no permit")).is_err());
        end.send(()).expect("it still runs");
        assert!(long.await.expect("it does not panic").is_ok());
        assert!(compute.run(|| ()).await.is_ok(), "the permit is there again");
        assert!(compute.run_if_idle(|| ()).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_source_that_asks_for_much_delays_only_itself() {
        let compute = Arc::new(FairCompute::new(1, Duration::from_secs(60)));
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let compute = compute.clone();
            async move {
                let work = move || {
                    begin.send(()).expect("the test waits for it");
                    ended.recv().expect("the test ends it");
                };
                compute.run("many", work).await.expect("a minute is enough");
            }
        });
        begun.await.expect("it begins");
        let done = AtomicUsize::new(0);
        let work = async |source| {
            let work = || done.fetch_add(1, Ordering::SeqCst);
            compute.run(source, work).await.expect("a minute is enough")
        };
        // All wait by now, the one last.
        let mut many = pin!(unconstrained(join_all((0..100).map(|_| work("many")))));
        let mut one = pin!(unconstrained(work("one")));
        assert!(many.as_mut().now_or_never().is_none() && one.as_mut().now_or_never().is_none());
        end.send(()).expect("it still runs");
        let (before, _) = tokio::join!(one, many);
        assert!(before < 10, "{before} of the others came first");
        first.await.expect("it does not panic");
        assert!(compute.0.sources.lock().unwrap().is_empty(), "nothing is kept of sources that are served");
    }

    #[tokio::test]
    async fn a_source_has_one_turn_at_a_time_and_all_have_so_many_together() {
        let turns = FairTurns::new(2, Duration::from_millis(20));
        let first = turns.take("many").await.expect("there are two");
        assert!(turns.take("many").await.is_err(), "it has one");
        let second = turns.take("few").await.expect("another one has the other");
        assert!(turns.take("third").await.is_err(), "there are two");
        drop(first);
        let third = turns.take("third").await.expect("one is free again");
        drop((second, third));
        assert!(turns.sources.lock().unwrap().is_empty(), "nothing is kept of sources that are served");
    }
}
