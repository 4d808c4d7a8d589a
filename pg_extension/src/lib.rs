//! The PostgreSQL extension `postern`: what must run next to the rows. It checks spent
//! tokens, delivers messages into sealed queues and wakes who waits for them. Tables are
//! made by `migrations/`, API functions by `sql/`, and the SQL face of what is here by
//! the hand-written `postern--X.Y.Z.sql`, which binds the `<function>_wrapper` symbols.

mod addresses;
mod bytea;
mod chains;
mod checks;
mod deliver;
mod hints;
mod notifier;
mod plan;
mod prices;
mod push;
mod queues;
mod scrub;
mod table;
mod tokens;
mod upkeep;
mod wake;
mod watch;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    wake::define_settings();
    // Shared memory can be had only while the postmaster starts.
    // SAFETY: a flag of this process.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        wake::init();
        chains::init();
        hints::init();
    }
}
