//! The secret of notifications, and the keys that stand for queues in them.

use std::cell::OnceCell;

use pgrx::prelude::*;
use postern_protocol::{QueueId, wake::WakeSecret};

use super::memory::{self, Key};

thread_local! {
    static SECRET: OnceCell<WakeSecret> = const { OnceCell::new() };
}

/// The wake key of a queue.
pub fn key(queue_id: &QueueId) -> Key {
    with_secret(|secret| secret.key(queue_id))
}

pub(super) fn with_secret<T>(work: impl FnOnce(&WakeSecret) -> T) -> T {
    SECRET.with(|secret| {
        work(secret.get_or_init(|| match WakeSecret::new(&memory::secret()) {
            Ok(secret) => secret,
            Err(failure) => error!("cannot use the wake secret: {failure}"),
        }))
    })
}

/// The secret of notifications, 32 bytes. Only roles that may know which queue is which are granted it.
#[pg_extern]
fn wake_secret() -> Vec<u8> {
    memory::secret().to_vec()
}
