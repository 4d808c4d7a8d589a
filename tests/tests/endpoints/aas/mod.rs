//! The Anonymous Authentication Service. How tokens are redeemed is in `every_route/payment.rs`.

pub mod issue_tokens;
pub mod issuer_directory;
