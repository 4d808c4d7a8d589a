//! Anonymous Authentication Service: the issuer directory (RFC 9578 §4). Token requests
//! and responses are binary formats of the standards, not types of ours.

use serde::{Deserialize, Serialize};

/// `GET /.well-known/private-token-issuer-directory`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IssuerDirectory {
    pub issuer_request_uri: String,
    pub token_keys: Vec<TokenKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TokenKey {
    pub token_type: u16,
    /// The public key in padded base64url (RFC 9578 §4).
    pub token_key: String,
    /// Seconds since 1970 from which on to use the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
}
