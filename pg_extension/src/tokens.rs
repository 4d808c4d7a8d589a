//! The gate in the database (AAS-4, AAS-5): a nonce is written once per issuer key, in the
//! transaction that the token pays for, so that both happen or neither does. An endpoint that the
//! price list calls free needs no token. The server has checked by then that the token is valid.

use pgrx::prelude::*;

use crate::{plan::Plan, prices::price};

thread_local! {
    /// Spends a nonce: one row if it was unspent, none if not. A nonce that another transaction is
    /// just writing makes this one wait for that one's outcome, which serialises two servers that
    /// got the same token.
    static SPEND: Plan = const { Plan::new(
        "INSERT INTO aas.spent (issuer_key, nonce) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    ) };
}

/// Spends a token; false if it was spent before. At an endpoint that is free it stays unspent, and
/// the result is true.
#[pg_extern]
fn spend_token(endpoint: Option<&str>, issuer_key: Option<i16>, nonce: Option<&[u8]>) -> spi::Result<bool> {
    // The function is not STRICT: its result would be null, which is not false, and open the gate.
    let (Some(endpoint), Some(issuer_key), Some(nonce)) = (endpoint, issuer_key, nonce) else {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "endpoint, issuer key and nonce of a token must not be null"
        );
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
