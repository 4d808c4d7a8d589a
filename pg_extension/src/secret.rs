//! Secrets in memory: those that live as long as PostgreSQL runs, and those that must not.

use std::hint::black_box;

use pgrx::prelude::*;

/// Bytes of the stack that the work with keys uses at most.
const STACK: usize = 32 * 1024;

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

/// Overwrites the stack below the caller, which calls that have returned used: a value that was moved leaves
/// a copy behind, which nobody else erases.
#[inline(never)]
pub fn scrub_stack() {
    let mut stack = [0u8; STACK];
    black_box(&mut stack);
}
