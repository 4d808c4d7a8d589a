//! A memory of what came last: it forgets the oldest, so that it stays small whatever comes.

use std::{collections::HashSet, hash::Hash};

/// The last items that were added, between half and all of the capacity.
pub struct Recent<T> {
    half: usize,
    newer: HashSet<T>,
    older: HashSet<T>,
}

impl<T: Hash + Eq> Recent<T> {
    pub fn new(capacity: usize) -> Self {
        Self { half: capacity / 2, newer: HashSet::new(), older: HashSet::new() }
    }

    pub fn contains(&self, item: &T) -> bool {
        self.newer.contains(item) || self.older.contains(item)
    }

    pub fn insert(&mut self, item: T) {
        if self.half == 0 {
            return;
        }
        if self.newer.len() >= self.half {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_no_more_than_there_is_room_for() {
        let mut recent = Recent::new(10);
        (0..100).for_each(|number| recent.insert(number));
        assert!((95..100).all(|number| recent.contains(&number)));
        let kept = (0..100).filter(|number| recent.contains(number)).count();
        assert!((5..=10).contains(&kept), "{kept}");
        let mut nothing = Recent::new(0);
        nothing.insert(7);
        assert!(!nothing.contains(&7));
    }
}
