//! Anonymous Authentication Service: the issuer directory (RFC 9578 §4). Token requests and responses
//! are binary formats of the standards, see [`crate::token`].

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::token::TOKEN_TYPE;

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

impl IssuerDirectory {
    /// The keys of [`TOKEN_TYPE`] that can be read, each with the time from which on it is used (seconds since 1970).
    pub fn own_type_keys(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let of_type = self.token_keys.iter().filter(|key| key.token_type == TOKEN_TYPE);
        of_type.filter_map(|key| {
            Some((key.not_before.unwrap_or_default(), URL_SAFE.decode(&key.token_key).ok()?))
        })
    }

    /// The newest of these keys that is in use at `now`, in seconds since 1970 (RFC 9578 §4).
    pub fn current_key(&self, now: u64) -> Option<Vec<u8>> {
        self.own_type_keys()
            .filter(|(not_before, _)| *not_before <= now)
            .max_by_key(|(not_before, _)| *not_before)
            .map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_key_already_in_use_is_taken() {
        const NOW: u64 = 1_000_000;
        let key = |bytes: &[u8], token_type, not_before| TokenKey {
            token_type,
            token_key: URL_SAFE.encode(bytes),
            not_before,
        };
        let mut directory = IssuerDirectory {
            issuer_request_uri: "/aas/token-request".to_owned(),
            token_keys: vec![
                key(b"old", TOKEN_TYPE, None),
                key(b"now", TOKEN_TYPE, Some(NOW - 10)),
                key(b"next", TOKEN_TYPE, Some(NOW + 1000)),
                key(b"other", 2, Some(NOW - 1)),
            ],
        };
        assert_eq!(directory.current_key(NOW), Some(b"now".to_vec()));
        let unreadable = TokenKey { token_key: "?".to_owned(), ..key(b"", TOKEN_TYPE, Some(NOW - 1)) };
        directory.token_keys.push(unreadable);
        assert_eq!(directory.current_key(NOW), Some(b"now".to_vec()), "what cannot be read is no key");
    }
}
