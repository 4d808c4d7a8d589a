//! The background worker that sends wake-ups: one per database (NOTIFY is per database), started by
//! the first delivery that finds none. It is never restarted by itself: the next delivery replaces
//! one that died, and the new one begins with `*`.

use std::time::{Duration, Instant};

use pgrx::{bgworkers::BackgroundWorker, prelude::*};

use super::{
    inbox::{self, Batch},
    notify::notify,
};
use crate::worker;

/// The least time between two sends. After a pause a wake-up goes out at once; under load they
/// gather, so that NOTIFY's cluster-wide lock is taken 200 times a second at most, however many
/// deliveries there are.
const LINGER: Duration = Duration::from_millis(5);

/// Asks the postmaster for a notifier.
pub fn launch(database: pg_sys::Oid) -> bool {
    worker::launch("postern notifier", "postern_notifier_main", database)
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn postern_notifier_main(database: pg_sys::Datum) {
    // Notifications need no durability: after a crash everyone reconnects and looks again.
    worker::begin(database);
    // SAFETY: a function of this library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
    if inbox::attach() {
        run();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: i32, _arg: pg_sys::Datum) {
    inbox::detach();
}

fn run() {
    let mut batch = Batch::new();
    let mut last_send: Option<Instant> = None;
    while !worker::stop_requested() {
        if !inbox::pending_or_asleep() {
            wait_until_woken();
            continue;
        }
        let linger = last_send.map_or(Duration::ZERO, |at| LINGER.saturating_sub(at.elapsed()));
        if linger.is_zero() {
            inbox::take(&mut batch);
            send(&mut batch);
            last_send = Some(Instant::now());
        } else {
            worker::wait(linger);
        }
    }
}

fn send(batch: &mut Batch) {
    batch.keys.sort_unstable();
    batch.keys.dedup();
    let batch = &*batch;
    let sent = BackgroundWorker::transaction(|| notify(&batch.keys, batch.everyone));
    inbox::count_sent(sent);
}

fn wait_until_woken() {
    // SAFETY: this process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            -1,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    // Other processes may wait for us to react to a barrier, such as that of DROP DATABASE.
    pgrx::check_for_interrupts!();
}
