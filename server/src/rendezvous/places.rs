//! Places for the long-polls of rendezvous. A rendezvous is paid for once and its requests are not, so each side has few
//! places in a process. Where it asks for one more, the one that waits longest answers: its client may have hung up, and
//! no device that comes back from a bad line is kept out.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use postern_protocol::{PublicKey, rendezvous::RendezvousNumber};
use tokio::sync::Notify;

/// Long-polls of one side of a rendezvous that wait in a process at a time.
const OF_A_SIDE: usize = 2;

type Side = (RendezvousNumber, PublicKey);

#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<Side, VecDeque<Arc<Notify>>>>>);

/// The place of one long-poll, until it is dropped.
pub struct Place {
    places: Places,
    side: Side,
    taken: Arc<Notify>,
}

impl Places {
    /// Takes a place, if need be that of the side's long-poll that waits longest.
    pub fn take(&self, number: RendezvousNumber, key: PublicKey) -> Place {
        let (side, taken) = ((number, key), Arc::new(Notify::new()));
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_side = held.entry(side).or_default();
        if of_side.len() == OF_A_SIDE
            && let Some(longest) = of_side.pop_front()
        {
            longest.notify_one();
        }
        of_side.push_back(taken.clone());
        Place { places: self.clone(), side, taken }
    }
}

impl Place {
    /// Returns once another long-poll has taken the place.
    pub async fn taken(&self) {
        self.taken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_side) = held.get_mut(&self.side) {
            of_side.retain(|taken| !Arc::ptr_eq(taken, &self.taken));
            if of_side.is_empty() {
                held.remove(&self.side);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_side_has_two_places_and_the_longest_wait_gives_way() {
        let places = Places::default();
        let number = RendezvousNumber::try_from(123_456).unwrap();
        let take = |side: u8| places.take(number, PublicKey::new([side; 32]));
        let is_taken = |place: &Place| place.taken().now_or_never().is_some();
        let (first, second, others) = (take(1), take(1), take(2));
        assert!(!is_taken(&first));
        let third = take(1);
        assert!(is_taken(&first) && !is_taken(&second) && !is_taken(&third) && !is_taken(&others));
        drop((first, second));
        let fourth = take(1);
        assert!(!is_taken(&third), "there was room");
        drop((third, fourth, others));
        assert!(places.0.lock().unwrap().is_empty());
    }
}
