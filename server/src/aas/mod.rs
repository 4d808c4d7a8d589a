//! Anonymous Authentication Service: issues tokens to clients it knows and redeems tokens
//! from whoever holds them, with nothing that joins the two (AAS-6).

pub mod issue_tokens;
pub mod issuer;
pub mod issuer_directory;
