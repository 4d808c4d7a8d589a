//! SQL statements that a backend plans once and keeps. Migrations set for the server's role how they
//! are planned (generic plans, index scans).

use std::cell::OnceCell;

use pgrx::{
    datum::DatumWithOid,
    pg_sys::PgOid,
    spi::{OwnedPreparedStatement, Result, SpiClient, SpiTupleTable},
};

/// A statement and its plan, which the backend keeps; lives in a thread-local.
pub struct Plan {
    sql: &'static str,
    prepared: OnceCell<&'static OwnedPreparedStatement>,
}

impl Plan {
    pub const fn new(sql: &'static str) -> Self {
        Self { sql, prepared: OnceCell::new() }
    }

    /// Runs the statement with a snapshot of its own, so that under READ COMMITTED it sees
    /// everything committed before it, also while an earlier statement waited.
    pub fn run<'conn>(
        &self,
        client: &mut SpiClient<'conn>,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<SpiTupleTable<'conn>> {
        let prepared = match self.prepared.get() {
            Some(prepared) => prepared,
            None => {
                let types: Vec<_> = arguments.iter().map(|a| PgOid::from(a.oid())).collect();
                let plan = client.prepare_mut(self.sql, &types)?.keep();
                // Leaked, because a destructor would run while the backend exits, when PostgreSQL
                // is taking its plan cache down.
                self.prepared.get_or_init(|| Box::leak(Box::new(plan)))
            }
        };
        client.update(*prepared, None, arguments)
    }
}
