//! The price list (AAS-5), in each backend's memory: it is read at every request and changed once in
//! a while.

use std::{cell::RefCell, collections::HashMap};

use pgrx::{prelude::*, spi::SpiClient};

use crate::{
    plan::Plan,
    watch::{self, Watch},
};

thread_local! {
    static PRICES: RefCell<HashMap<String, i16>> = RefCell::default();
    static WATCH: Watch = const { Watch::new() };

    /// The operator is named with its schema, so that no operator of another schema opens the gate.
    static LOAD: Plan = const { Plan::new(
        "SELECT p.price, p.tableoid FROM aas.prices p WHERE p.endpoint OPERATOR(pg_catalog.=) $1",
    ) };
}

/// The price of an endpoint in tokens; none if it is not in the list.
pub fn price(client: &mut SpiClient, endpoint: &str) -> spi::Result<Option<i16>> {
    if WATCH.with(Watch::take_changed) {
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
    let table = row.get(2)?.unwrap_or(pg_sys::InvalidOid);
    WATCH.with(|watch| watch.set_table(table));
    if let Some(price) = price.filter(|_| watch::reads_the_latest()) {
        PRICES.with_borrow_mut(|prices| prices.insert(endpoint.to_owned(), price));
    }
    Ok(price)
}
