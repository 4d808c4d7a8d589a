//! Notifications: the channel and the payloads that servers read.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use pgrx::{direct_function_call, prelude::*};

use super::memory::Key;

/// The channel that servers LISTEN on.
const CHANNEL: &str = "postern_wake";
/// The payload that tells every waiter to look again.
const EVERYONE: &str = "*";
/// Number of keys whose base64 stays below NOTIFY's 8,000 bytes.
const KEYS_PER_PAYLOAD: usize = 360;

/// Notifies the waiters of these queues, or everyone, within the current transaction; returns the
/// number of notifications. A payload is the unpadded base64 of its keys, one after the other.
pub fn notify(keys: &[Key], everyone: bool) -> i64 {
    if everyone {
        send(EVERYONE);
        return 1;
    }
    let payloads = keys.chunks(KEYS_PER_PAYLOAD);
    let count = payloads.len() as i64;
    payloads.for_each(|keys| send(&STANDARD_NO_PAD.encode(keys.as_flattened())));
    count
}

fn send(payload: &str) {
    // SAFETY: pg_notify(text, text), with texts.
    unsafe { direct_function_call::<()>(pg_sys::pg_notify, &[CHANNEL.into_datum(), payload.into_datum()]) };
}
