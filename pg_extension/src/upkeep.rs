//! The background worker that does by the clock what `qs.keep_up` says (QS-8). Not the
//! notifier: a batch must not hold up wake-ups. Servers ask for it every few minutes; it
//! works in short transactions with pauses between them, and ends when nothing is left to
//! do, so that it keeps no process, and no database from being dropped. Whatever ends it
//! early costs the time until somebody asks again.

use std::time::{Duration, Instant};

use pgrx::{bgworkers::BackgroundWorker, pg_sys::panic::CaughtError, prelude::*};

use crate::worker;

/// At least this long between two batches, and as long as the batch took.
const PAUSE: Duration = Duration::from_millis(10);
/// After a batch that failed, most likely because it would have had to wait for a lock.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// So many failures in a row, and it leaves the rest to its successor.
const PATIENCE: u32 = 5;

/// Starts the worker in this database. There may be one already: the second ends at once.
#[pg_extern]
fn start_upkeep() -> bool {
    // SAFETY: set once, before any function of ours can run.
    let database = unsafe { pg_sys::MyDatabaseId };
    worker::launch("postern upkeep", "postern_upkeep_main", database)
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn postern_upkeep_main(database: pg_sys::Datum) {
    worker::begin(database);
    // The lock goes with the session, however it ends.
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
                // The code only: messages may quote values (PRIV-4).
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

/// One text, asked for in a transaction of its own; when that fails, its SQLSTATE.
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
