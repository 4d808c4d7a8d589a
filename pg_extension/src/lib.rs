//! The PostgreSQL extension `postern`: the work that must run next to the rows. It checks spent
//! tokens, delivers messages into sealed queues and wakes the clients that wait for them.
//! `migrations/` makes the tables, `sql/` the API functions, and the hand-written
//! `postern--X.Y.Z.sql` declares this library's functions by their `<function>_wrapper` symbols.

mod addresses;
mod bytea;
mod chains;
mod checks;
mod deliver;
mod gucs;
mod hints;
mod names;
mod plan;
mod prices;
mod push;
mod queues;
mod room;
mod scrub;
mod secret;
mod table;
mod tokens;
mod upkeep;
mod wake;
mod watch;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

/// PostgreSQL calls it when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    gucs::define();
    // PostgreSQL gives shared memory only while the postmaster starts.
    // SAFETY: a flag of this process.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        gucs::define_at_start();
        wake::init();
        chains::init();
        hints::init();
    }
}
