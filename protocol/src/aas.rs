//! Anonymous Authentication Service: the issuer directory (RFC 9578 §4). Token requests and responses
//! are binary formats of the standards, see [`crate::token`].

use serde::{Deserialize, Serialize};

/// The answer to `GET /.well-known/private-token-issuer-directory` (200); no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IssuerDirectory {
    pub issuer_request_uri: String,
    pub token_keys: Vec<TokenKey>,
}

/// A public key of the issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TokenKey {
    pub token_type: u16,
    /// The public key in padded base64url (RFC 9578 §4).
    pub token_key: String,
    /// Time from which on clients use the key, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
}
