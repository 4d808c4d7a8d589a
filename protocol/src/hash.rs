//! SHA-256 and HMAC-SHA-256 over parts of one message, such as a label and the bytes it is for.

use aws_lc_rs::{digest, hmac};

/// SHA-256 of the parts, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    array(context.finish().as_ref())
}

/// A key for [`hmac_sha256`], whose making is half of the work.
pub(crate) fn hmac_key(bytes: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

/// HMAC-SHA-256 of the parts, one after the other.
pub(crate) fn hmac_sha256(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    array(context.sign().as_ref())
}

fn array(output: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(output);
    array
}
