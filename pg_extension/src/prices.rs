//! What endpoints cost (AAS-5), in each backend's memory: the price list is read at every
//! request and changed once in a while. A trigger of `aas.prices` sends the invalidation that
//! PostgreSQL sends when a table is altered; every backend has taken it by the time its next
//! transaction begins.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Once,
};

use pgrx::{prelude::*, spi::SpiClient};

use crate::plan::Plan;

thread_local! {
    static PRICES: RefCell<HashMap<String, i16>> = RefCell::default();
    /// The price list's relation.
    static RELATION: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static CHANGED: Cell<bool> = const { Cell::new(false) };

    /// Operators are named with their schema: what opens the gate is found in no other.
    static LOAD: Plan = const { Plan::new(
        "SELECT p.price, p.tableoid FROM aas.prices p WHERE p.endpoint OPERATOR(pg_catalog.=) $1",
    ) };
}

/// The price of an endpoint, in tokens; none if it is not in the list.
pub fn price(client: &mut SpiClient, endpoint: &str) -> spi::Result<Option<i16>> {
    // Before reading: what changes from now on is told.
    static TOLD: Once = Once::new();
    // SAFETY: once in a backend; the callback does not raise and lives as long as the library.
    TOLD.call_once(|| unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::null()) });
    if CHANGED.take() {
        PRICES.with_borrow_mut(HashMap::clear);
    }
    if let Some(price) = PRICES.with_borrow(|prices| prices.get(endpoint).copied()) {
        return Ok(Some(price));
    }
    let row = LOAD.with(|plan| plan.run(client, &[endpoint.into()]))?;
    if row.is_empty() {
        return Ok(None);
    }
    let row = row.first();
    let price = row.get::<i16>(1)?;
    RELATION.set(row.get(2)?.unwrap_or(pg_sys::InvalidOid));
    // What a transaction sees that reads an old snapshot may be over already.
    // SAFETY: a setting of this session.
    let current = unsafe { pg_sys::XactIsoLevel } < pg_sys::XACT_REPEATABLE_READ as i32;
    if let Some(price) = price.filter(|_| current) {
        PRICES.with_borrow_mut(|prices| prices.insert(endpoint.to_owned(), price));
    }
    Ok(price)
}

/// Called while PostgreSQL takes invalidations, at any time; `InvalidOid` stands for everything.
unsafe extern "C-unwind" fn changed(_: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation == RELATION.get() {
        CHANGED.set(true);
    }
}

/// Makes every backend read the price list anew once the transaction is committed.
#[pg_extern]
fn forget_prices(prices: pg_sys::Oid) {
    // SAFETY: of a relation that is there, as its trigger calls this.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(prices) };
}
