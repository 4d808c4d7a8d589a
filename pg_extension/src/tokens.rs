//! The spent-token check (AAS-4): a nonce is written once per issuer key, in the
//! transaction that the token pays for, so both happen or neither does. Which token was
//! valid, and what it costs, is for the server and `aas.spend_token` to say.

use pgrx::prelude::*;

use crate::plan::Plan;

thread_local! {
    /// A nonce that another transaction is just writing makes this one wait for its
    /// outcome, which is what serialises two servers that were handed the same token.
    static SPEND: Plan = const { Plan::new(
        "INSERT INTO aas.spent (issuer_key, nonce) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    ) };
}

/// True when the token was unspent, and is spent from now on.
#[pg_extern]
fn spend_token(issuer_key: i16, nonce: &[u8]) -> spi::Result<bool> {
    Spi::connect_mut(|client| {
        SPEND.with(|plan| {
            let inserted = plan.run(client, &[issuer_key.into(), nonce.into()])?;
            Ok(inserted.len() == 1)
        })
    })
}
