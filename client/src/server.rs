//! The server as this client calls it: its endpoints, and the wallet that pays.

use std::time::Duration;

use postern_api::Http;

use crate::tokens::Wallet;

pub(crate) type Api = postern_api::Api<Wallet>;

/// Time within which the own homeserver says that it is there, after another answer did not come.
const PROBE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Asks the own homeserver for a sign of life.
///
/// # Errors
/// [`postern_api::Error::Unreachable`] if it gives none, and another one if it is there and cannot serve.
pub(crate) async fn sign_of_life(own: &Http) -> postern_api::Result<()> {
    own.ready_within(PROBE).await
}
