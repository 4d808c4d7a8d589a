//! Decisions of a test that are left to chance, and can be repeated.

use rand::{SeedableRng, rngs::StdRng};

/// The decisions of one run; POSTERN_TEST_SEED repeats those of an earlier one.
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let seed = number("POSTERN_TEST_SEED").unwrap_or_else(rand::random);
        // Shown for a test that failed.
        eprintln!("POSTERN_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn seed(&self) -> u64 {
        self.0
    }

    /// A stream of decisions of its own for each one who decides.
    pub fn of(&self, who: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

/// A number that the developer gives a test in an environment variable.
pub fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
