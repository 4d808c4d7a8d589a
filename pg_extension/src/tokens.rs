//! The gate in the database (AAS-4, AAS-5): a nonce is written once per issuer key, in the
//! transaction that the token pays for, so both happen or neither does; unless the price list
//! says that the endpoint is free. Which token was valid is for the server to say.

use std::{cell::RefCell, collections::HashMap};

use pgrx::prelude::*;

use crate::plan::Plan;

thread_local! {
    /// Of each issuer key, into its own partition: to find that through `aas.spent` would be a
    /// tenth of the work.
    static SPEND: RefCell<HashMap<i16, Plan>> = RefCell::default();

    /// Why nothing was written: the endpoint is free, or the token was spent.
    static EXPLAIN: Plan = const { Plan::new(
        "SELECT p.price OPERATOR(pg_catalog.=) 0,
                EXISTS (SELECT FROM aas.spent s
                         WHERE s.issuer_key OPERATOR(pg_catalog.=) $2 AND s.nonce OPERATOR(pg_catalog.=) $3)
           FROM aas.prices p
          WHERE p.endpoint OPERATOR(pg_catalog.=) $1",
    ) };
}

/// The price list and the spent tokens in one statement, whose result is its number of
/// rows. A nonce that another transaction is just writing makes this one wait for its
/// outcome, which is what serialises two servers that were handed the same token.
/// Operators are named with their schema: what opens the gate is found in no other.
fn spend(issuer_key: i16) -> Plan {
    let sql = format!(
        "INSERT INTO aas.spent_{issuer_key} (issuer_key, nonce)
         SELECT $2, $3
           FROM aas.prices p
          WHERE p.endpoint OPERATOR(pg_catalog.=) $1 AND p.price OPERATOR(pg_catalog.=) 1
             ON CONFLICT DO NOTHING"
    );
    // Kept as long as its plan.
    Plan::new(sql.leak())
}

/// True when the token was unspent, and is spent from now on; or when the endpoint is free.
#[pg_extern]
fn spend_token(endpoint: Option<&str>, issuer_key: Option<i16>, nonce: Option<&[u8]>) -> spi::Result<bool> {
    // Not STRICT: null is not true, but it is not false either, and would open the gate.
    let (Some(endpoint), Some(issuer_key), Some(nonce)) = (endpoint, issuer_key, nonce) else {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "a token to spend is not null");
    };
    let arguments = [endpoint.into(), issuer_key.into(), nonce.into()];
    Spi::connect_mut(|client| {
        loop {
            let spent = SPEND.with_borrow_mut(|plans| {
                plans.entry(issuer_key).or_insert_with(|| spend(issuer_key)).run(client, &arguments)
            })?;
            if spent.len() == 1 {
                return Ok(true);
            }
            let why = EXPLAIN.with(|plan| plan.run(client, &arguments))?;
            if why.is_empty() {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                    format!("{endpoint} is not in the price list")
                );
            }
            let why = why.first();
            if why.get(1)?.unwrap_or(false) {
                return Ok(true);
            }
            if why.get(2)?.unwrap_or(true) {
                return Ok(false);
            }
            // Its price was raised between the two statements.
        }
    })
}
