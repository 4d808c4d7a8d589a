//! The background worker that runs `qs.keep_up` by the clock (QS-8). It is another process than the
//! notifier's, because a batch must not hold up wake-ups. Servers ask for it every few minutes; it
//! works in short transactions with pauses between them, and ends when nothing is left to do, so
//! that it does not occupy a process for good or keep a database from being dropped. If it ends
//! early, the next request continues its work.

use std::time::{Duration, Instant};

use pgrx::{bgworkers::BackgroundWorker, pg_sys::panic::CaughtError, prelude::*};

use crate::worker;

/// The least pause between two batches; a pause is at least as long as the batch took.
const PAUSE: Duration = Duration::from_millis(10);
/// The pause after a batch that failed, most likely because it would have had to wait for a lock.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Number of failures in a row after which it leaves the rest to its successor.
const PATIENCE: u32 = 5;

/// Starts the worker in this database; false if no background worker is free. A second one ends at
/// once.
#[pg_extern]
fn start_upkeep() -> bool {
    // SAFETY: PostgreSQL sets it once, before any function of ours can run.
    let database = unsafe { pg_sys::MyDatabaseId };
    worker::launch("postern upkeep", "postern_upkeep_main", database)
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn postern_upkeep_main(database: pg_sys::Datum) {
    worker::begin(database);
    // The lock is released with the session, however it ends.
    if ask("SELECT pg_try_advisory_lock('qs.sweep'::regclass::integer, 0)::text").as_deref() == Ok("true") {
        run();
    }
}

fn run() {
    let mut failures = 0;
    while !worker::stop_requested() {
        let begun = Instant::now();
        match ask("SELECT outcome::text FROM qs.keep_up()") {
            Ok(outcome) if outcome == "more" => {
                failures = 0;
                worker::wait(begun.elapsed().max(PAUSE));
            }
            Ok(_) => return,
            Err(code) => {
                failures += 1;
                // Only the code is logged: messages may quote values (PRIV-4).
                warning!(
                    "postern upkeep: a batch failed ({code:?}), failure {failures} of {PATIENCE} in a row"
                );
                if failures == PATIENCE {
                    return;
                }
                worker::wait(PAUSE_AFTER_FAILURE);
            }
        }
    }
}

/// Runs a query for one text in a transaction of its own.
///
/// # Errors
/// The SQLSTATE of the failure.
fn ask(sql: &str) -> Result<String, PgSqlErrorCode> {
    PgTryBuilder::new(|| {
        BackgroundWorker::transaction(|| {
            let text = Spi::get_one::<String>(sql);
            text.map(Option::unwrap_or_default).map_err(|_| PgSqlErrorCode::ERRCODE_INTERNAL_ERROR)
        })
    })
    .catch_others(|error| {
        // SAFETY: the error was caught, and this process is in the transaction that it broke.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.sql_error_code(),
            CaughtError::RustPanic { ereport, .. } => ereport.sql_error_code(),
        })
    })
    .execute()
}
