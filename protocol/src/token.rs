//! Privacy Pass tokens as Postern uses them: three token types, one challenge for each (RFC 9577), and
//! their form on the wire. Our own clients use type 0x0005 (VOPRF over ristretto255,
//! draft-ietf-privacypass-batched-tokens), others may use 0x0001 and 0x0002 (RFC 9578). A challenge
//! has no redemption context: tokens are fetched ahead, and a challenge identifies no client (AAS-6).
//! The server issues and verifies.

use std::fmt::Write as _;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE},
};
use http::HeaderValue;
use p384::NistP384;
pub use privacypass::TokenType;
use privacypass::{
    amortized_tokens::AmortizedToken, auth::authenticate::TokenChallenge, private_tokens::PrivateToken,
    public_tokens::PublicToken,
};
use tls_codec::{Deserialize, Serialize};
use voprf::Ristretto255;

use crate::{hash::sha256, name::Domain};

/// The authentication scheme (RFC 9577 §2.2).
pub const SCHEME: &str = "PrivateToken";
/// Path of the issuer directory (RFC 9578 §4).
pub const DIRECTORY_PATH: &str = "/.well-known/private-token-issuer-directory";
pub const DIRECTORY_MEDIA_TYPE: &str = "application/private-token-issuer-directory";
/// Media types for one token (RFC 9578 §5, §6).
pub const REQUEST_MEDIA_TYPE: &str = "application/private-token-request";
pub const RESPONSE_MEDIA_TYPE: &str = "application/private-token-response";
/// Media types for tokens of one type and key, under one proof (batched-tokens draft §5).
pub const BATCH_REQUEST_MEDIA_TYPE: &str = "application/private-token-amortized-batch-request";
pub const BATCH_RESPONSE_MEDIA_TYPE: &str = "application/private-token-amortized-batch-response";
/// Media types for tokens of any types (batched-tokens draft §6).
pub const GENERIC_REQUEST_MEDIA_TYPE: &str = "application/private-token-generic-batch-request";
pub const GENERIC_RESPONSE_MEDIA_TYPE: &str = "application/private-token-generic-batch-response";
/// The token type that our own clients use: the cheapest to issue and to redeem.
pub const TOKEN_TYPE: u16 = TokenType::PrivateRistretto255 as u16;
/// The token types that are issued and redeemed, the preferred one first.
pub const TOKEN_TYPES: [TokenType; 3] =
    [TokenType::PrivateRistretto255, TokenType::PrivateP384, TokenType::Public];
/// Number of tokens in a batch: fixed classes, so that a size tells nothing of its client (AAS-6).
pub const BATCH_SIZES: [u16; 3] = [1, 10, 100];
/// Seconds for which a challenge may be kept (RFC 9577 §2.1). The challenge is always the same; after
/// this time a client looks whether the token key is still the preferred one.
pub const CHALLENGE_MAX_AGE: u32 = 24 * 60 * 60;

/// A token as it is redeemed: type (2 bytes), nonce, challenge digest and key id (32 each),
/// authenticator (48, 256 or 64 bytes by type; RFC 9577 §2.2).
#[derive(Clone, Debug)]
pub enum Token {
    PrivateP384(Box<PrivateToken<NistP384>>),
    Public(Box<PublicToken>),
    PrivateRistretto255(Box<AmortizedToken<Ristretto255>>),
}

/// Bytes or a header value that hold no token of [`TOKEN_TYPES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a token of a type in use here")]
pub struct MalformedToken;

macro_rules! of_any_type {
    ($token:expr, $inner:ident => $value:expr) => {
        match $token {
            Token::PrivateP384($inner) => $value,
            Token::Public($inner) => $value,
            Token::PrivateRistretto255($inner) => $value,
        }
    };
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// [`MalformedToken`] for another type or length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedToken> {
        fn exact<T: Deserialize>(bytes: &[u8]) -> Result<Box<T>, MalformedToken> {
            T::tls_deserialize_exact(bytes).map(Box::new).map_err(|_| MalformedToken)
        }
        match TokenType::tls_deserialize(&mut &bytes[..]).map_err(|_| MalformedToken)? {
            TokenType::PrivateP384 => exact(bytes).map(Self::PrivateP384),
            TokenType::Public => exact(bytes).map(Self::Public),
            TokenType::PrivateRistretto255 => exact(bytes).map(Self::PrivateRistretto255),
        }
    }

    pub fn token_type(&self) -> TokenType {
        of_any_type!(self, token => token.token_type())
    }
    pub fn nonce(&self) -> [u8; 32] {
        of_any_type!(self, token => token.nonce())
    }
    pub fn challenge_digest(&self) -> &[u8; 32] {
        of_any_type!(self, token => token.challenge_digest())
    }
    pub fn token_key_id(&self) -> &[u8; 32] {
        of_any_type!(self, token => token.token_key_id())
    }
}

/// The challenge of every endpoint of `domain` for our own clients' token type.
pub fn challenge(domain: &Domain) -> TokenChallenge {
    challenge_of(TokenType::PrivateRistretto255, domain)
}

/// The challenge of every endpoint of `domain` for a token type; issuer and origin are the domain.
pub fn challenge_of(token_type: TokenType, domain: &Domain) -> TokenChallenge {
    TokenChallenge::new(token_type, domain.as_str(), None, &[domain.to_string()])
}

/// The id of a token key: SHA-256 of the issuer's public key (RFC 9578 §6.5).
pub fn token_key_id(public_key: &[u8]) -> [u8; 32] {
    sha256(&[public_key])
}

/// The bytes of a token of any type, in which it is kept until it is spent.
///
/// # Panics
/// Never: a token has a fixed size.
pub fn to_bytes(token: &impl Serialize) -> Vec<u8> {
    token.tls_serialize_detached().expect("a token serialises")
}

/// The `Authorization` value that redeems a token: `PrivateToken token="…"` (RFC 9577 §2.2).
///
/// # Panics
/// Never: base64url is a valid field value.
pub fn authorization(token: &[u8]) -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("{SCHEME} token=\"{}\"", URL_SAFE.encode(token)))
        .expect("base64url is a field value");
    value.set_sensitive(true);
    value
}

/// Reads an `Authorization` value, with the token quoted or not, padded or not: RFC 9577 shows both,
/// deployed clients send both.
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
    Token::from_bytes(&LENIENT.decode(token).map_err(|_| MalformedToken)?)
}

/// The `WWW-Authenticate` value that offers a challenge for each of these token types and keys (RFC 9577
/// §2.1).
///
/// # Panics
/// Never: a challenge of a domain serialises.
pub fn www_authenticate(domain: &Domain, keys: &[(TokenType, &[u8])]) -> HeaderValue {
    let mut value = String::new();
    for (token_type, key) in keys {
        let challenge = challenge_of(*token_type, domain).serialize();
        let separator = if value.is_empty() { "" } else { ", " };
        write!(
            value,
            "{separator}{SCHEME} challenge=\"{}\", token-key=\"{}\", max-age={CHALLENGE_MAX_AGE}",
            URL_SAFE.encode(challenge.expect("a challenge serialises")),
            URL_SAFE.encode(key),
        )
        .expect("writing to a string succeeds");
    }
    HeaderValue::try_from(value).expect("base64url is a field value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_of(token_type: u8, authenticator: usize) -> Vec<u8> {
        let mut bytes = vec![0, token_type];
        bytes.extend(vec![7; 32 * 3 + authenticator]);
        bytes
    }

    fn sample() -> Vec<u8> {
        sample_of(5, 64)
    }

    #[test]
    fn tokens_of_all_types_are_read() {
        for (token_type, authenticator) in [(1, 48), (2, 256), (5, 64)] {
            let token = Token::from_bytes(&sample_of(token_type, authenticator)).unwrap();
            assert_eq!(token.token_type() as u16, u16::from(token_type));
            assert_eq!(token.nonce(), [7; 32]);
            assert!(Token::from_bytes(&sample_of(token_type, authenticator + 1)).is_err());
        }
    }

    #[test]
    fn quoted_and_unquoted_padded_and_unpadded_tokens_are_read() {
        let quoted = authorization(&sample());
        assert!(parse_authorization(&quoted).is_ok());
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
