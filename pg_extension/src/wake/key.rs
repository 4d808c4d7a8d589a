//! Keys that stand for queues in notifications.

use std::cell::OnceCell;

use aws_lc_rs::hmac;
use pgrx::prelude::*;
use postern_protocol::QueueId;

use super::memory::{self, Key};

thread_local! {
    static SECRET: OnceCell<hmac::Key> = const { OnceCell::new() };
}

/// The wake key of a queue: the first half of HMAC-SHA256(wake secret, queue id).
pub fn key(queue_id: &QueueId) -> Key {
    SECRET.with(|secret_key| {
        let secret_key = secret_key.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, &memory::secret()));
        let mut key = Key::default();
        key.copy_from_slice(&hmac::sign(secret_key, queue_id.as_bytes()).as_ref()[..16]);
        key
    })
}

/// The secret that keys are made with, 32 bytes. Only roles that may know which queue is which are
/// granted it.
#[pg_extern]
fn wake_secret() -> Vec<u8> {
    memory::secret().to_vec()
}
