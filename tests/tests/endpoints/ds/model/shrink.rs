//! Fewer steps that fail as well.

use std::time::{Duration, Instant};

/// The time it may take: each try plays a history from its beginning.
const PATIENCE: Duration = Duration::from_secs(120);

/// Leaves out the steps that the failure does not need: halves, quarters, and at last single steps (A. Zeller's delta
/// debugging).
pub async fn shrink<T: Clone>(mut steps: Vec<T>, fails: impl AsyncFn(&[T]) -> bool) -> Vec<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let (mut at, before) = (0, steps.len());
        while at < steps.len() {
            if Instant::now() > deadline {
                return steps;
            }
            let mut fewer = steps.clone();
            fewer.drain(at..(at + part).min(steps.len()));
            match fails(&fewer).await {
                true => steps = fewer,
                false => at += part,
            }
        }
        if part > 1 || steps.len() == before {
            part /= 2;
        }
    }
    steps
}

#[tokio::test]
async fn what_is_needed_to_fail_stays_and_nothing_else() {
    let fails = async |steps: &[u32]| steps.contains(&7) && steps.contains(&93);
    assert_eq!(shrink((0..100).collect(), &fails).await, [7, 93]);
    assert_eq!(shrink(vec![7, 93], &fails).await, [7, 93]);
}
