//! The background worker that sends wake-ups: one per database (NOTIFY is per database),
//! started by the first delivery that finds none. It is never restarted by itself: a
//! dead one is replaced by the next delivery, and begins with `*`.

use std::time::{Duration, Instant};

use pgrx::{
    bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags},
    prelude::*,
};

use crate::wake;

/// Two sends are at least this far apart. After a pause a wake-up goes out at once; under
/// load they gather, so that NOTIFY's cluster-wide lock is taken 200 times a second at
/// most, however many deliveries there are.
const LINGER: Duration = Duration::from_millis(5);

/// Asks the postmaster for a notifier. Not in a commit callback: it may fail.
pub fn launch(database: pg_sys::Oid) -> bool {
    BackgroundWorkerBuilder::new("postern notifier")
        .set_library("postern")
        .set_function("postern_notifier_main")
        .set_argument(database.into_datum())
        .enable_spi_access()
        .set_restart_time(None)
        .load_dynamic()
        .is_ok()
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn postern_notifier_main(database: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGTERM);
    // SAFETY: the argument given in launch().
    let database = unsafe { pg_sys::Oid::from_datum(database, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    // SAFETY: connected, and not in a transaction. What is sent needs no durability:
    // after a crash everyone reconnects and looks again.
    unsafe {
        pg_sys::SetConfigOption(
            c"synchronous_commit".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
        pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0));
    }
    if wake::attach() {
        run();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: i32, _arg: pg_sys::Datum) {
    wake::detach();
}

fn run() {
    let mut batch = wake::Batch::new();
    let mut last_send: Option<Instant> = None;
    while !stop_requested() {
        if !wake::pending_or_asleep() {
            wait_until_woken();
            continue;
        }
        let linger = last_send.map_or(Duration::ZERO, |at| LINGER.saturating_sub(at.elapsed()));
        if linger.is_zero() {
            wake::take(&mut batch);
            send(&mut batch);
            last_send = Some(Instant::now());
        } else {
            wait(linger);
        }
    }
}

fn send(batch: &mut wake::Batch) {
    batch.keys.sort_unstable();
    batch.keys.dedup();
    let batch = &*batch;
    let sent = BackgroundWorker::transaction(|| wake::notify(&batch.keys, batch.everyone));
    wake::count_sent(sent);
}

fn stop_requested() -> bool {
    // SAFETY: a flag that a signal handler of this process sets.
    unsafe { (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0 }
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
    // Other processes may wait for us to react to a barrier, such as DROP DATABASE's.
    pgrx::check_for_interrupts!();
}

/// Sleeps without looking at the latch: it is set all the time under load.
fn wait(time: Duration) {
    // SAFETY: no latch to wait on.
    unsafe {
        pg_sys::WaitLatch(
            std::ptr::null_mut(),
            (pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            time.as_millis().max(1) as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
    }
    pgrx::check_for_interrupts!();
}
