//! A server's endpoints, one typed call each. The crate knows how a request is signed (RFC
//! 9421), paid for (RFC 9577) and repeated, and nothing about what callers keep: no storage, no
//! MLS. The client library is built on it; so is anything else that talks to a server.
//!
//! - [`Http`] sends a [`Request`] to one server, and again after a passing fault. Its methods
//!   call the endpoints that nothing pays for.
//! - [`Api`] adds a [`Wallet`], which pays: its methods call all other endpoints.
//! - [`Transport`] carries a complete request to the server: directly ([`Direct`]), sealed
//!   through another server ([`Relayed`]), or in another way that a caller brings.
//!
//! ```no_run
//! # async fn example() -> postern_api::Result<()> {
//! use postern_api::{Http, Request};
//!
//! let server = Http::new("https://chat.example.org")?;
//! println!("users are called name@{}", server.authentication_keys().await?.domain);
//! // Any request can be made by hand, too.
//! let answer = server.send_once(&Request::get("/health")).await?;
//! assert!(answer.body.is_empty());
//! # Ok(())
//! # }
//! ```

mod aas;
mod account;
mod auth;
mod ds;
mod error;
mod federation;
mod health;
mod http;
mod payment;
mod qs;
mod rate_limit;
mod relayed;
mod rendezvous;
mod request;
mod transport;

pub use error::{BoxError, Error, Result, Side};
pub use http::Http;
pub use payment::{Api, Token, Wallet};
pub use rate_limit::RateLimit;
pub use relayed::{Gateway, Keys, Relayed};
pub use request::{Request, Response};
pub use transport::{Carried, Direct, Limits, TooLong, Transport};
