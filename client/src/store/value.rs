//! Values as columns hold them.

use postern_protocol::encoding::Encoding;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// A structure: CBOR.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    Encoding::Cbor.encode(value)
}

/// Reads a value of the store; `what` names it in an error.
///
/// # Errors
/// [`Error::Damaged`], which names `what` was to be read.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T> {
    Encoding::Cbor.decode(bytes).map_err(|_| Error::Damaged(what))
}

/// A column of a fixed number of bytes.
///
/// # Errors
/// [`Error::Damaged`], which names `what` was to be read.
pub(crate) fn fixed<T: for<'b> TryFrom<&'b [u8]>>(bytes: &[u8], what: &'static str) -> Result<T> {
    T::try_from(bytes).map_err(|_| Error::Damaged(what))
}

/// SQLite's integers are signed; sequence numbers and epochs never reach 2^63.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
