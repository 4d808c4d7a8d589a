//! Paying for requests with Privacy Pass tokens (RFC 9577): one token for each request, and
//! another one when the server says that the first is worth nothing.

use std::future::Future;

use postern_protocol::{name::Domain, problem::ProblemType};

use crate::{
    error::{Error, Result},
    http::Http,
    request::{Request, Response},
};

/// How many tokens one request may cost when they turn out to be worth nothing.
const TOKENS_PER_REQUEST: usize = 3;

/// A token that was taken to be spent: the bytes of RFC 9577 §2.2.
///
/// It goes with one request only, repeats of that request included: two different requests with
/// one token would be linked.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl Token {
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hands out tokens.
pub trait Wallet: Send + Sync {
    /// Errors of the wallet, which pass through the calls that it pays for.
    type Error: From<Error> + Send;

    /// Takes a token that the services of `origin` accept (RFC 9577 §2.1). The wallet forgets it
    /// before this returns: no crash spends a token twice.
    fn take(&self, origin: &Domain) -> impl Future<Output = Result<Token, Self::Error>> + Send;

    /// Told when `origin` says that a token does not verify: drops what that holds for, too.
    fn drop_stale(&self, origin: &Domain) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// A server's endpoints, and a wallet that pays for them. The calls are methods, each named as
/// the route it calls; the endpoints that nothing pays for are methods of [`Http`].
#[derive(Debug, Clone)]
pub struct Api<W> {
    pub http: Http,
    /// The issuer of the tokens that the server accepts: its home domain.
    pub origin: Domain,
    pub wallet: W,
}

impl<W: Wallet> Api<W> {
    pub const fn new(http: Http, origin: Domain, wallet: W) -> Self {
        Self { http, origin, wallet }
    }

    /// Sends with a token, and with another when that one turns out to be worth nothing: it was
    /// spent before, or its issuer key is gone. Three tokens at most.
    ///
    /// # Errors
    /// Refusals of the server, and errors of the network ([`Http::send`]) and of the wallet.
    pub async fn paid(&self, request: Request) -> Result<Response, W::Error> {
        self.pay(request, true).await.map_err(|error| match error {
            PayError::Request(error) => error.into(),
            PayError::Wallet(error) => error,
        })
    }

    /// As [`Self::paid`]; after a passing fault it sends again only if it may. It may not what leads on to another
    /// homeserver: if that one has a fault the token is spent all the same, and would be found so.
    pub(crate) async fn pay(&self, request: Request, again: bool) -> Result<Response, PayError<W::Error>> {
        let mut attempt = 1;
        loop {
            let token = self.wallet.take(&self.origin).await.map_err(PayError::Wallet)?;
            let request = request.clone().paid_with(token);
            let answer =
                if again { self.http.send(&request).await } else { self.http.send_once(&request).await };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match error.problem() {
                Some(ProblemType::TokenSpent) => {}
                Some(ProblemType::TokenRequired) => {
                    self.wallet.drop_stale(&self.origin).await.map_err(PayError::Wallet)?;
                }
                _ => return Err(PayError::Request(error)),
            }
            if attempt == TOKENS_PER_REQUEST {
                return Err(PayError::Request(error));
            }
            attempt += 1;
        }
    }
}

/// The reason why a request that is paid for has no answer.
pub(crate) enum PayError<E> {
    Request(Error),
    Wallet(E),
}
