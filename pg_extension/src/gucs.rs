//! The extension's settings (PostgreSQL calls them GUCs): `postern.*` in `postgresql.conf`.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// `postern.max_chains`. A chain takes 72 bytes, and a tenth more, since queues do not spread evenly
/// over the buckets of [`crate::chains`]; the hints for its rows take the rest.
static MAX_CHAINS: GucSetting<i32> = GucSetting::<i32>::new(262_144);
/// `postern.wakeups`.
static WAKEUPS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Defines the settings that a session may have. To be called when the library is loaded.
pub fn define() {
    GucRegistry::define_bool_guc(
        c"postern.wakeups",
        c"Whether deliveries wake the clients that wait for messages.",
        c"Only measurements turn it off: waiting clients then look for messages every few seconds.",
        &WAKEUPS,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// Defines the settings that are fixed when the cluster starts. To be called while the library is
/// preloaded: PostgreSQL refuses them later.
pub fn define_at_start() {
    GucRegistry::define_int_guc(
        c"postern.max_chains",
        c"Number of queues whose message keys are kept in shared memory.",
        c"Each takes 110 bytes, places of rows included. A queue beyond that number starts a new chain with its next message, which costs a tenth of a millisecond.",
        &MAX_CHAINS,
        1024,
        64 * 1024 * 1024,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// Number of queues whose chains are kept.
pub fn max_chains() -> usize {
    usize::try_from(MAX_CHAINS.get()).unwrap_or_default()
}

/// Whether deliveries wake the clients that wait.
pub fn wakeups() -> bool {
    WAKEUPS.get()
}
