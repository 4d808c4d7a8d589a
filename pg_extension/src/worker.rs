//! The common part of this extension's background workers. Each is started for one database when a
//! session asks for it, and never restarted by itself, so that it does not come back to a database
//! that was dropped.

use std::time::Duration;

use pgrx::{
    bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags},
    prelude::*,
};

/// Asks the postmaster for a worker that runs `function` of this library with the database as its
/// argument; false if no background worker is free. Not for commit callbacks: it may raise an error.
pub fn launch(name: &str, function: &str, database: pg_sys::Oid) -> bool {
    BackgroundWorkerBuilder::new(name)
        .set_library("postern")
        .set_function(function)
        .set_argument(database.into_datum())
        .enable_spi_access()
        .set_restart_time(None)
        .load_dynamic()
        .is_ok()
}

/// Connects the worker to its database: the first step of such a function. These workers write,
/// whatever the default of all roles is. Their writes need no durability: they are done again after
/// a crash.
pub fn begin(database: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGTERM);
    // SAFETY: launch() gave this argument.
    let database = unsafe { pg_sys::Oid::from_datum(database, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    for setting in [c"synchronous_commit", c"default_transaction_read_only"] {
        // SAFETY: connected, and not in a transaction.
        unsafe {
            pg_sys::SetConfigOption(
                setting.as_ptr(),
                c"off".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Whether PostgreSQL asked this worker to end.
pub fn stop_requested() -> bool {
    // SAFETY: a flag that a signal handler of this process sets.
    unsafe { (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0 }
}

/// Sleeps without regard to the latch, which may be set all the time under load.
pub fn wait(time: Duration) {
    // SAFETY: there is no latch to wait on.
    unsafe {
        pg_sys::WaitLatch(
            std::ptr::null_mut(),
            (pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            time.as_millis().max(1) as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
    }
    // Other processes may wait for us to react to a barrier, such as that of DROP DATABASE.
    pgrx::check_for_interrupts!();
}
