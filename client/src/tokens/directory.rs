//! The keys that tokens are issued under.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_api::Http;
use postern_protocol::{aas::IssuerDirectory, token::TOKEN_TYPE};

use super::pins;
use crate::{error::Result, store::Store, strangers};

/// Asks for the issuer directory. One with keys that are not known is compared with what strangers see, and so is any
/// once a day (AAS-7).
///
/// # Errors
/// [`Error::Issuer`](crate::Error::Issuer) when strangers see other keys, or there are too many.
pub(super) async fn trusted(store: &Store, http: &Http) -> Result<IssuerDirectory> {
    let shown = http.issuer_directory().await?;
    pins::check_number(&shown)?;
    if store.read(|tx| pins::is_known(tx, &shown))? {
        return Ok(shown);
    }
    let shown = strangers::compare(store, http, shown).await?;
    pins::check_number(&shown)?;
    store.write(|tx| pins::keep(tx, &shown))?;
    Ok(shown)
}

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
