//! The two encodings of bodies: JSON (RFC 8259) and CBOR (RFC 8949), chosen by `Content-Type` and
//! `Accept`. Binary fields are base64url text in JSON and byte strings in CBOR.

use serde::{Serialize, de::DeserializeOwned};

/// An encoding of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Cbor,
}

/// A body does not decode. The error tells where, and quotes nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("not the expected JSON (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("not the expected CBOR")]
    Cbor,
}

impl Encoding {
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }

    /// The encoding that a `Content-Type` names; parameters such as `charset` are ignored.
    pub fn from_media_type(value: &str) -> Option<Self> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        [Self::Json, Self::Cbor]
            .into_iter()
            .find(|encoding| essence.eq_ignore_ascii_case(encoding.media_type()))
    }

    /// The first of the two that an `Accept` lists; quality values are ignored.
    pub fn from_accept(accept: &str) -> Option<Self> {
        accept.split(',').find_map(Self::from_media_type)
    }

    /// Decodes exactly one value.
    ///
    /// # Errors
    /// [`DecodeError`], also for bytes after the value.
    pub fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Json => serde_json::from_slice(body)
                .map_err(|error| DecodeError::Json { line: error.line(), column: error.column() }),
            Self::Cbor => {
                let mut rest = body;
                let value = ciborium::from_reader(&mut rest).map_err(|_| DecodeError::Cbor)?;
                if rest.is_empty() { Ok(value) } else { Err(DecodeError::Cbor) }
            }
        }
    }

    /// Encodes a value.
    ///
    /// # Panics
    /// Never for the types of this crate: they hold no maps with keys that JSON lacks.
    pub fn encode<T: Serialize>(self, value: &T) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Json => serde_json::to_writer(&mut body, value).expect("encodable as JSON"),
            Self::Cbor => ciborium::into_writer(value, &mut body).expect("encodable as CBOR"),
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_compared_without_case_and_parameters() {
        assert_eq!(Encoding::from_media_type("Application/JSON; charset=utf-8"), Some(Encoding::Json));
        assert_eq!(Encoding::from_media_type("text/plain"), None);
        assert_eq!(Encoding::from_accept("text/html, application/cbor"), Some(Encoding::Cbor));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut body = Encoding::Cbor.encode(&1u8);
        body.push(0);
        assert!(Encoding::Cbor.decode::<u8>(&body).is_err());
        assert!(Encoding::Json.decode::<u8>(b"1 2").is_err());
    }
}
