//! The gate in the database (AAS-4, AAS-5): a nonce is written once per issuer key, in the
//! transaction that the token pays for, so both happen or neither does; unless the price list
//! says that the endpoint is free. Which token was valid is for the server to say.

use pgrx::prelude::*;

use crate::{plan::Plan, prices::price};

thread_local! {
    /// Its result is its number of rows. A nonce that another transaction is just writing makes
    /// this one wait for its outcome, which is what serialises two servers that were handed the
    /// same token.
    static SPEND: Plan = const { Plan::new(
        "INSERT INTO aas.spent (issuer_key, nonce) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    ) };
}

/// True when the token was unspent, and is spent from now on; or when the endpoint is free.
#[pg_extern]
fn spend_token(endpoint: Option<&str>, issuer_key: Option<i16>, nonce: Option<&[u8]>) -> spi::Result<bool> {
    // Not STRICT: null is not true, but it is not false either, and would open the gate.
    let (Some(endpoint), Some(issuer_key), Some(nonce)) = (endpoint, issuer_key, nonce) else {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "a token to spend is not null");
    };
    Spi::connect_mut(|client| {
        let Some(price) = price(client, endpoint)? else {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("{endpoint} is not in the price list")
            );
        };
        if price == 0 {
            return Ok(true);
        }
        let spent = SPEND.with(|plan| plan.run(client, &[issuer_key.into(), nonce.into()]))?;
        Ok(spent.len() == 1)
    })
}
