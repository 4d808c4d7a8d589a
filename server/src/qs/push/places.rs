//! Places, one for each push that waits for a host which is not known to answer. Deliveries share them, since the sender of a
//! message chooses whom it wakes: a group of a thousand queues names as many hosts as it likes. When no place is left, the oldest
//! push of the delivery with the most gives way, unless that is the newcomer's own; one whose request is under way stays, for it
//! tells whether its host answers. So many places cost many deliveries, each of which is paid for. What another homeserver sends
//! in one request counts as one delivery.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

pub struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    number: usize,
    /// The pushes of each delivery, the oldest first. A later delivery has a greater number.
    pushes: BTreeMap<u64, VecDeque<Arc<Occupant>>>,
}

/// A push that has a place.
#[derive(Default)]
pub struct Occupant {
    gives_way: Notify,
    is_asking: AtomicBool,
}

/// A request of a push, which is under way until this is dropped.
pub struct Asking<'a>(&'a AtomicBool);

/// A place, which its push has until it drops this or gives way.
pub struct Place<'a> {
    places: &'a Places,
    delivery: u64,
    occupant: Arc<Occupant>,
}

impl Occupant {
    /// Waits until it loses its place.
    pub async fn gives_way(&self) {
        self.gives_way.notified().await;
    }

    /// Begins a request, during which it gives way to nobody.
    pub fn ask(&self) -> Asking<'_> {
        self.is_asking.store(true, Ordering::Relaxed);
        Asking(&self.is_asking)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Places {
    pub fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// Takes a place for a push of this delivery, if there is one or another delivery has more.
    pub fn take(&self, delivery: u64, occupant: &Arc<Occupant>) -> Option<Place<'_>> {
        let mut taken = self.taken();
        if taken.number >= self.most && !taken.make_room(delivery) {
            return None;
        }
        taken.number += 1;
        taken.pushes.entry(delivery).or_default().push_back(Arc::clone(occupant));
        Some(Place { places: self, delivery, occupant: Arc::clone(occupant) })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Has the oldest push that only waits, of the delivery with the most, give way. Returns false if there is none of a delivery
    /// with more than this one.
    fn make_room(&mut self, delivery: u64) -> bool {
        let own = self.pushes.get(&delivery).map_or(0, VecDeque::len);
        let waits = |push: &Arc<Occupant>| !push.is_asking.load(Ordering::Relaxed);
        let larger = self.pushes.iter().filter(|(_, pushes)| pushes.len() > own);
        let oldest = larger.filter_map(|(delivery, pushes)| {
            let position = pushes.iter().position(waits)?;
            Some((pushes.len(), Reverse(*delivery), position))
        });
        let Some((_, Reverse(largest), position)) = oldest.max() else { return false };
        let Some(oldest) = self.remove(largest, position) else { return false };
        oldest.gives_way.notify_one();
        true
    }

    /// Removes the push of a delivery that is at this position.
    fn remove(&mut self, delivery: u64, position: usize) -> Option<Arc<Occupant>> {
        let pushes = self.pushes.get_mut(&delivery)?;
        let removed = pushes.remove(position)?;
        if pushes.is_empty() {
            self.pushes.remove(&delivery);
        }
        self.number -= 1;
        Some(removed)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let of_delivery = taken.pushes.get(&self.delivery);
        let is_own = |push: &Arc<Occupant>| Arc::ptr_eq(push, &self.occupant);
        if let Some(position) = of_delivery.and_then(|pushes| pushes.iter().position(is_own)) {
            taken.remove(self.delivery, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pushes<const N: usize>() -> [Arc<Occupant>; N] {
        std::array::from_fn(|_| Arc::default())
    }

    /// Whether a push was told that it gives way.
    async fn gives_way(push: &Occupant) -> bool {
        tokio::time::timeout(Duration::from_millis(1), push.gives_way()).await.is_ok()
    }

    #[tokio::test]
    async fn a_delivery_that_wakes_many_gives_way_to_others_until_they_have_as_many_and_never_to_itself() {
        let (places, of_many, of_other) = (Places::new(4), pushes::<6>(), pushes::<3>());
        let taken: Vec<_> = of_many.iter().map(|push| places.take(1, push)).collect();
        assert_eq!(taken.iter().flatten().count(), 4);
        let others: Vec<_> = of_other.iter().map(|push| places.take(2, push)).collect();
        assert_eq!(others.iter().flatten().count(), 2);
        let mut told = Vec::new();
        for push in &of_many {
            told.push(gives_way(push).await);
        }
        assert_eq!(told, [true, true, false, false, false, false], "the oldest give way");
        assert!(!gives_way(&of_other[0]).await && !gives_way(&of_other[1]).await);
    }

    #[tokio::test]
    async fn of_deliveries_with_as_many_the_oldest_gives_way() {
        let (places, earlier, [next]) = (Places::new(3), pushes::<3>(), pushes::<1>());
        let taken: Vec<_> = (1..).zip(&earlier).map(|(delivery, push)| places.take(delivery, push)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(places.take(4, &next).is_some());
        assert!(gives_way(&earlier[0]).await);
        assert!(!gives_way(&earlier[1]).await && !gives_way(&earlier[2]).await);
    }

    #[tokio::test]
    async fn a_push_whose_request_is_under_way_keeps_its_place() {
        let (places, of_many, [next, later, last]) = (Places::new(2), pushes::<2>(), pushes::<3>());
        let _taken: Vec<_> = of_many.iter().map(|push| places.take(1, push)).collect();
        let asking = of_many[0].ask();
        let _next = places.take(2, &next).expect("the other one of the first delivery only waits");
        assert!(gives_way(&of_many[1]).await && !gives_way(&of_many[0]).await);
        let _next_asking = next.ask();
        assert!(places.take(3, &later).is_none(), "all are under way");
        drop(asking);
        assert!(places.take(3, &last).is_some());
        assert!(gives_way(&of_many[0]).await && !gives_way(&next).await);
    }

    #[test]
    fn a_place_is_free_once_its_push_is_done_and_one_that_was_lost_frees_none() {
        let (places, [first, second, third]) = (Places::new(1), pushes::<3>());
        let lost = places.take(1, &first).unwrap();
        let place = places.take(2, &second).unwrap();
        drop(lost);
        assert!(places.take(2, &third).is_none());
        drop(place);
        assert!(places.take(2, &third).is_some());
        assert_eq!(places.taken().number, 0);
        assert!(places.taken().pushes.is_empty());
    }
}
