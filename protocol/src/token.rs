//! Privacy Pass tokens as Postern uses them: type 0x0005 (VOPRF over ristretto255), issued
//! in amortized batches (draft-ietf-privacypass-batched-tokens), redeemed over HTTP (RFC
//! 9577). One challenge per home domain, without a redemption context: tokens are fetched
//! ahead, and a challenge singles nobody out (AAS-6).

use std::fmt;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE},
};
use http::HeaderValue;
use privacypass::{TokenType, amortized_tokens::AmortizedToken, auth::authenticate::TokenChallenge};
use tls_codec::{Deserialize as _, Serialize as _};
use voprf::Ristretto255;

use crate::name::Domain;

/// RFC 9577 §2.2: the authentication scheme.
pub const SCHEME: &str = "PrivateToken";
pub const DIRECTORY_PATH: &str = "/.well-known/private-token-issuer-directory";
pub const DIRECTORY_MEDIA_TYPE: &str = "application/private-token-issuer-directory";
pub const BATCH_REQUEST_MEDIA_TYPE: &str = "application/private-token-amortized-batch-request";
pub const BATCH_RESPONSE_MEDIA_TYPE: &str = "application/private-token-amortized-batch-response";
/// The token type of the amortized ristretto255 issuance.
pub const TOKEN_TYPE: u16 = 0x0005;
/// Batch sizes are fixed classes, so that a size tells nothing of its client (AAS-6).
pub const BATCH_SIZES: [u16; 3] = [1, 10, 100];

/// An unredeemed token: 164 bytes of type, nonce, challenge digest, key id, authenticator.
pub type Token = AmortizedToken<Ristretto255>;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a token of type 0x0005")]
pub struct MalformedToken;

/// The challenge every endpoint of `domain` poses: issuer and origin are the domain.
pub fn challenge(domain: &Domain) -> TokenChallenge {
    TokenChallenge::new(TokenType::PrivateRistretto255, domain.as_str(), None, &[domain.to_string()])
}

/// RFC 9578 §6.5: SHA-256 of the issuer's public key.
pub fn token_key_id(public_key: &[u8]) -> [u8; 32] {
    let mut id = [0; 32];
    id.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key).as_ref());
    id
}

/// The token's bytes, for keeping it until it is spent.
///
/// # Panics
/// Never: a token has a fixed size.
pub fn to_bytes(token: &Token) -> Vec<u8> {
    token.tls_serialize_detached().expect("a token serialises")
}

/// # Errors
/// [`MalformedToken`] when it is of another type or length.
pub fn from_bytes(bytes: &[u8]) -> Result<Token, MalformedToken> {
    let mut rest = bytes;
    let token = Token::tls_deserialize(&mut rest).map_err(|_| MalformedToken)?;
    if rest.is_empty() && token.token_type() == TokenType::PrivateRistretto255 {
        Ok(token)
    } else {
        Err(MalformedToken)
    }
}

/// `PrivateToken token="…"` (RFC 9577 §2.2).
///
/// # Panics
/// Never: base64url is a valid field value.
pub fn authorization(token: &[u8]) -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("{SCHEME} token=\"{}\"", URL_SAFE.encode(token)))
        .expect("base64url is a field value");
    value.set_sensitive(true);
    value
}

/// Reads an `Authorization` header, with the token quoted or not, padded or not: RFC 9577
/// shows both, deployed clients send both.
///
/// # Errors
/// [`MalformedToken`] for another scheme, parameter, encoding, type or length.
pub fn parse_authorization(value: &HeaderValue) -> Result<Token, MalformedToken> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = value.to_str().map_err(|_| MalformedToken)?;
    let (scheme, parameters) = text.split_once(' ').ok_or(MalformedToken)?;
    let (name, token) = parameters.split_once('=').ok_or(MalformedToken)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || !name.trim().eq_ignore_ascii_case("token") {
        return Err(MalformedToken);
    }
    let token = token.trim();
    let token = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(token);
    from_bytes(&LENIENT.decode(token).map_err(|_| MalformedToken)?)
}

/// The `WWW-Authenticate` value that offers a challenge (RFC 9577 §2.1).
///
/// # Panics
/// Never: a challenge of a domain serialises.
pub fn www_authenticate(domain: &Domain, token_key: &[u8]) -> HeaderValue {
    let challenge = challenge(domain).serialize().expect("a challenge serialises");
    let value = fmt::format(format_args!(
        "{SCHEME} challenge=\"{}\", token-key=\"{}\"",
        URL_SAFE.encode(challenge),
        URL_SAFE.encode(token_key)
    ));
    HeaderValue::try_from(value).expect("base64url is a field value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0, 5];
        bytes.extend([7; 32 * 3 + 64]);
        bytes
    }

    #[test]
    fn quoted_and_unquoted_padded_and_unpadded_tokens_are_read() {
        let quoted = authorization(&sample());
        assert_eq!(to_bytes(&parse_authorization(&quoted).unwrap()), sample());
        let bare = quoted.to_str().unwrap().replace(['"', '='], "").replacen("token", "token=", 1);
        let bare = HeaderValue::try_from(bare.replacen("Privatetoken=", "PrivateToken", 1)).unwrap();
        assert!(parse_authorization(&bare).is_ok(), "{bare:?}");
    }

    #[test]
    fn anything_else_is_refused() {
        let mut short = sample();
        short.pop();
        let mut other_type = sample();
        other_type[1] = 1;
        for bytes in [short, other_type, Vec::new()] {
            assert!(parse_authorization(&authorization(&bytes)).is_err());
        }
        for value in ["Bearer x", "PrivateToken", "PrivateToken other=AAAA", ""] {
            assert!(parse_authorization(&HeaderValue::from_static(value)).is_err());
        }
    }
}
