//! Secrets that live in shared memory, as long as PostgreSQL runs.

use pgrx::prelude::*;

/// A fresh secret of 32 bytes, from PostgreSQL's source of randomness: the postmaster makes it, whose
/// children must not inherit the state of a generator.
pub fn fresh() -> [u8; 32] {
    let mut secret = [0; 32];
    // SAFETY: the buffer has the length given.
    if !unsafe { pg_sys::pg_strong_random(secret.as_mut_ptr().cast(), secret.len()) } {
        error!("cannot make a secret: the operating system has no randomness");
    }
    secret
}
