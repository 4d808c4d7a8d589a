//! The Anonymous Authentication Service. How tokens are redeemed is in `road/payment.rs`.

pub mod issue_tokens;
pub mod issuer_directory;
