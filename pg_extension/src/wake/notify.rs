//! Notifications: the channel and the payloads that servers read.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use pgrx::{direct_function_call, prelude::*};
use postern_protocol::wake::{Heard, MAX_KEYS, Wake};

use super::{
    key::with_secret,
    memory::{self, Key},
};

/// The channel that servers LISTEN on.
const CHANNEL: &str = "postern_wake";

/// Notifies the waiters of these queues, or everyone, within the current transaction; returns the
/// number of notifications.
pub fn notify(keys: &[Key], everyone: bool) -> i64 {
    if everyone {
        send(&Wake::Everyone);
        return 1;
    }
    let payloads = keys.chunks(MAX_KEYS);
    let count = payloads.len() as i64;
    payloads.for_each(|keys| send(&Wake::Queues(keys.to_vec())));
    count
}

fn send(wake: &Wake) {
    let payload = match with_secret(|secret| secret.seal(memory::next_number(), wake)) {
        Ok(payload) => payload,
        Err(failure) => error!("cannot seal a notification: {failure}"),
    };
    // SAFETY: pg_notify(text, text), with texts.
    unsafe { direct_function_call::<()>(pg_sys::pg_notify, &[CHANNEL.into_datum(), payload.into_datum()]) };
}

/// The content of a notification's payload: the wake keys of queues, or `*` for everyone; nothing for one that this
/// database did not send. For looking into; servers open payloads by themselves.
#[pg_extern]
fn open_wakeup(payload: &str) -> Option<String> {
    Some(match with_secret(|secret| secret.open(&mut Heard::default(), payload))? {
        Wake::Everyone => "*".to_owned(),
        Wake::Queues(keys) => STANDARD_NO_PAD.encode(keys.as_flattened()),
    })
}
