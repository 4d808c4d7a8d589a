//! The keys that tokens are issued under.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{aas::IssuerDirectory, token::TOKEN_TYPE};

/// The keys of our token type, with the time from which on they are used (seconds since 1970).
pub(super) fn token_keys(directory: &IssuerDirectory) -> impl Iterator<Item = (u64, Vec<u8>)> {
    directory
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
        .filter_map(|key| Some((key.not_before.unwrap_or_default(), URL_SAFE.decode(&key.token_key).ok()?)))
}

/// The newest key that is in use at `now` (RFC 9578 §4).
pub(super) fn current_key(directory: &IssuerDirectory, now: u64) -> Option<Vec<u8>> {
    token_keys(directory)
        .filter(|(not_before, _)| *not_before <= now)
        .max_by_key(|(not_before, _)| *not_before)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::aas::TokenKey;

    #[test]
    fn the_newest_key_already_in_use_is_taken() {
        const NOW: u64 = 1_000_000;
        let key = |bytes: &[u8], token_type, not_before| TokenKey {
            token_type,
            token_key: URL_SAFE.encode(bytes),
            not_before,
        };
        let directory = IssuerDirectory {
            issuer_request_uri: "/aas/token-request".to_owned(),
            token_keys: vec![
                key(b"old", TOKEN_TYPE, None),
                key(b"now", TOKEN_TYPE, Some(NOW - 10)),
                key(b"next", TOKEN_TYPE, Some(NOW + 1000)),
                key(b"other", 2, Some(NOW - 1)),
            ],
        };
        assert_eq!(current_key(&directory, NOW), Some(b"now".to_vec()));
    }
}
