//! The gate in front of paid endpoints (AAS-1), as the router sees it. The AAS is behind it.

use futures_util::future::BoxFuture;
use http::HeaderValue;
use postern_protocol::token::Token;

use crate::database::DatabaseError;

/// A verified token, as the database takes it to spend it.
#[derive(Clone)]
pub struct RedeemedToken {
    /// The number that the database gave to the token's issuer key.
    pub issuer_key: i16,
    pub nonce: [u8; 32],
}

pub trait Gate: Send + Sync {
    /// Verifies a token: issued by this home, for its challenge. Whether it was spent before, the database says
    /// later. None for any other token.
    fn redeem(&self, token: Token) -> BoxFuture<'_, Result<Option<RedeemedToken>, DatabaseError>>;

    /// The challenge of a refusal, `WWW-Authenticate` (RFC 9577 §2.1).
    fn challenge(&self) -> HeaderValue;

    /// Counts a request that was paid for, by the name of its endpoint (AAS-5).
    fn count(&self, endpoint: &'static str);
}
