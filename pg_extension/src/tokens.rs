//! The gate in the database (AAS-4, AAS-5): a nonce is written once per issuer key, in the
//! transaction that the token pays for, so that both happen or neither does. An endpoint that the
//! price list calls free needs no token; there the signature of the request, if it has one, is written
//! instead, so that it is good once. The server has checked by then that token and signature are valid.

use pgrx::prelude::*;

use crate::{plan::Plan, prices::price};

thread_local! {
    /// Spends a nonce: one row if it was unspent, none if not. A nonce that another transaction is
    /// just writing makes this one wait for that one's outcome, which serialises two servers that
    /// got the same token.
    static SPEND: Plan = const { Plan::new(
        "INSERT INTO aas.spent (issuer_key, nonce) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    ) };

    /// The same for a signed request: a signature that was used when no token was spent (after a fault of
    /// ours, or while the endpoint was free) spends none later.
    static SPEND_SIGNED: Plan = const { Plan::new(
        "INSERT INTO aas.spent (issuer_key, nonce)
         SELECT $1, $2
          WHERE NOT EXISTS (SELECT FROM aas.used_signatures u WHERE u.digest OPERATOR(pg_catalog.=) $3)
         ON CONFLICT DO NOTHING",
    ) };

    /// Uses a signature up: one row if it was not used before.
    static USE_SIGNATURE: Plan = const { Plan::new(
        "INSERT INTO aas.used_signatures (digest) VALUES ($1) ON CONFLICT DO NOTHING",
    ) };
}

/// Bytes of a token's nonce (RFC 9577 §2.2); a signed request has the digest of its signature behind it.
const NONCE_LEN: usize = 32;

/// Spends a token; false if it was spent before, or the signature used. At an endpoint that is free it
/// stays unspent, and the result is true unless the signature was used before.
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
        let written = match (price, nonce.split_at_checked(NONCE_LEN)) {
            (0, None | Some((_, []))) => return Ok(true),
            (0, Some((_, signature))) => USE_SIGNATURE.with(|plan| plan.run(client, &[signature.into()])),
            (_, None | Some((_, []))) => {
                SPEND.with(|plan| plan.run(client, &[issuer_key.into(), nonce.into()]))
            }
            (_, Some((nonce, signature))) => SPEND_SIGNED
                .with(|plan| plan.run(client, &[issuer_key.into(), nonce.into(), signature.into()])),
        }?;
        Ok(written.len() == 1)
    })
}
