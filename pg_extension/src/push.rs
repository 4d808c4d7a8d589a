//! Pushes that a delivery makes due (QS-10): from `postern.deliver` to its caller, who hands
//! them on to the server, which sends them once the transaction is committed.

use std::cell::RefCell;

use pgrx::prelude::*;
use postern_protocol::push::Push;

thread_local! {
    /// Of the last delivery.
    static DUE: RefCell<Vec<Vec<u8>>> = RefCell::default();
}

/// What is due now, instead of what was before.
pub fn set(pushes: &[Push]) {
    DUE.set(pushes.iter().map(Push::to_bytes).collect());
}

/// What the session's last delivery is to push, once; nothing when there is nothing.
#[pg_extern]
fn take_pushes() -> Option<Vec<Vec<u8>>> {
    Some(DUE.take()).filter(|pushes| !pushes.is_empty())
}
