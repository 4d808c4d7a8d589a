//! The server as this client calls it: its endpoints, and the wallet that pays.

use crate::tokens::Wallet;

pub(crate) type Api = postern_api::Api<Wallet>;
