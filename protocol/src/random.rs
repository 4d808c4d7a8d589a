//! Randomness of the operating system's generator.

use aws_lc_rs::{error::Unspecified, rand};

/// Random bytes for keys, addresses and ids.
///
/// # Errors
/// [`Unspecified`] if the operating system has no randomness.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}
