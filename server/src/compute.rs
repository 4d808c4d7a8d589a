//! Work that keeps a core busy for milliseconds (MLS trees, batches of tokens): it runs apart from the threads that serve
//! connections, as much at a time as there are permits, and waits for one only so long.

use std::time::Duration;

use tokio::{sync::Semaphore, task::block_in_place, time::timeout};

pub struct Compute {
    permits: Semaphore,
    wait: Duration,
}

/// All permits were in use for as long as work waits for one. Nothing was done.
#[derive(Debug)]
pub struct Overloaded;

impl Compute {
    pub const fn new(permits: usize, wait: Duration) -> Self {
        Self { permits: Semaphore::const_new(permits), wait }
    }

    /// Does the work once there is a permit; the runtime's other tasks go on meanwhile.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub async fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, Overloaded> {
        let permit = timeout(self.wait, self.permits.acquire()).await.map_err(|_| Overloaded)?;
        let _permit = permit.expect("the semaphore is never closed");
        Ok(block_in_place(work))
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

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
                    std::thread::sleep(Duration::from_millis(20));
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                compute.run(work).await.expect("a minute is enough");
            })
        });
        futures_util::future::join_all(work.collect::<Vec<_>>()).await;
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
}
