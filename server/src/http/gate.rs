//! The gate in front of paid endpoints (AAS-1), as the router sees it. The AAS implements it.

use futures_util::future::BoxFuture;
use http::HeaderValue;
use postern_protocol::token::Token;

use super::{answer::Failure, source::SourceAddress};

/// A verified token, in the form in which the database spends it.
#[derive(Clone)]
pub struct RedeemedToken {
    /// The number of the token's issuer key in the database.
    pub issuer_key: i16,
    pub nonce: [u8; 32],
}

pub trait Gate: Send + Sync {
    /// Verifies that a token, which came from a source, was issued by this home, for its challenge; `None` for any other
    /// token. The database finds out later whether it was spent before.
    fn redeem(
        &self,
        token: Token,
        source: SourceAddress,
    ) -> BoxFuture<'_, Result<Option<RedeemedToken>, Failure>>;

    /// The challenge of a refusal, `WWW-Authenticate` (RFC 9577 §2.1).
    fn challenge(&self) -> HeaderValue;

    /// Counts a request that was paid for, by the name of its endpoint (AAS-5).
    fn count(&self, endpoint: &'static str);
}
