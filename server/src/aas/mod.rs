//! Anonymous Authentication Service: issues tokens to clients it knows and redeems tokens
//! from whoever holds them, with nothing that joins the two (AAS-6).

pub mod housekeeping;
pub mod issue_tokens;
pub mod issuer;
pub mod issuer_directory;
pub mod issuer_key;
pub mod key_ring;
pub mod token_request;
pub mod uses;
