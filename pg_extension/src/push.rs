//! Pushes that a delivery makes due (QS-10), on their way from `postern.deliver` to the SQL function
//! that called it. The server gets them from there and sends them once the transaction is committed.

use std::cell::RefCell;

use pgrx::prelude::*;
use postern_protocol::push::Push;

thread_local! {
    /// The pushes of the session's last delivery, each in the form of [`Push::to_bytes`].
    static DUE: RefCell<Vec<Vec<u8>>> = RefCell::default();
}

/// Replaces the pushes that are due.
pub fn set(pushes: &[Push]) {
    DUE.set(pushes.iter().map(Push::to_bytes).collect());
}

/// Hands out the pushes of the session's last delivery, once; null if there are none.
#[pg_extern]
fn take_pushes() -> Option<Vec<Vec<u8>>> {
    Some(DUE.take()).filter(|pushes| !pushes.is_empty())
}
