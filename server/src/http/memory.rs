//! Budgets of memory for bodies, of which one source gets a part: one budget is for the bodies of all requests, another for
//! the answers of other homeservers, whose sources are domains. When nothing is left, the source that holds most gives up
//! a body: the oldest of those that are not whole yet or wait for something. Whoever has one source may have thousands of
//! them next to it, so each counts for a part of what its network, or its family of names, holds. So no number of half-sent
//! or waiting bodies keeps others out (OPS-9, FED-6).

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use postern_protocol::name::Domain;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{answer::Failure, source::SourceAddress};

/// Time that a body waits for memory that others hold.
const WAIT: Duration = Duration::from_secs(2);
/// Unit of the budget, in bytes.
const UNIT: usize = 1024;
/// Units of a body that count as small, and by which it grows beyond them. Both kinds have bounds of their own, so that
/// small bodies get through where large ones of the same source took its share.
const STEP: usize = 16;
/// Part of the budget that one source can hold.
const SHARES: usize = 4;
/// Part of what the sources of a group hold together, one in so many, for which each of them counts at least.
const OF_GROUP: usize = 4;

/// The name of a source.
pub trait Name: Clone + Eq + Hash {
    /// The name of the group that a source is in, all of which may be somebody's.
    type Group: Clone + Eq + Hash;

    fn group(&self) -> Self::Group;
}

impl Name for SourceAddress {
    type Group = IpAddr;

    fn group(&self) -> IpAddr {
        self.widest()
    }
}

impl Name for Domain {
    type Group = String;

    fn group(&self) -> String {
        self.family().to_owned()
    }
}

/// The budget. Cheap to clone.
pub struct Budget<S: Name = SourceAddress>(Arc<Shared<S>>);

struct Shared<S: Name> {
    /// Units of each kind that a source may hold.
    share: usize,
    state: Mutex<State<S>>,
    /// Notified when units become free, and when a body begins to give way.
    freed: Notify,
}

struct State<S: Name> {
    free: usize,
    next: u64,
    sources: HashMap<S, Source<S::Group>>,
    /// Units that the sources of each group hold together.
    groups: HashMap<S::Group, usize>,
}

struct Source<G> {
    group: G,
    units: Units,
    /// The bodies that are not whole yet or wait for something, the oldest first: they give way.
    arriving: BTreeMap<u64, Arriving>,
}

struct Arriving {
    units: Units,
    /// Notified when the body is given up.
    evicted: Arc<Notify>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Units {
    small: usize,
    large: usize,
}

/// The part of the budget that one body holds, until it is dropped.
pub struct Memory<S: Name = SourceAddress> {
    budget: Budget<S>,
    source: S,
    number: u64,
    place: Place,
    evicted: Arc<Notify>,
}

/// The place in which a body's units are counted.
enum Place {
    /// None: it has no units yet, or was evicted.
    Nowhere,
    Arriving,
    Whole(Units),
}

impl<S: Name> Clone for Budget<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Name> Budget<S> {
    /// A budget of so many bytes, in which the largest body has to fit.
    pub fn new(bytes: u64, largest: u64) -> Self {
        let units = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT);
        let free = units(bytes);
        let largest = Units::of_number(units(largest));
        let share = (free / SHARES).max(largest.small).max(largest.large).min(free);
        let state = Mutex::new(State { free, next: 0, sources: HashMap::new(), groups: HashMap::new() });
        Self(Arc::new(Shared { share, state, freed: Notify::new() }))
    }

    /// The memory for a body of a source, which holds nothing yet.
    pub fn for_body(&self, source: S) -> Memory<S> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        Memory { budget: self.clone(), source, number, place: Place::Nowhere, evicted: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Name> Memory<S> {
    /// Takes as much more of the budget as so many bytes need.
    ///
    /// # Errors
    /// A lack of memory, or a body that gave way to others.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), Failure> {
        let units = Units::of_number(bytes.div_ceil(UNIT));
        let end = Instant::now() + WAIT;
        let budget = self.budget.clone();
        loop {
            let freed = budget.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.try_grow_to(units)? {
                return Ok(());
            }
            if timeout_at(end, freed).await.is_err() {
                return Err(Failure::Overloaded("the bodies of all requests take too much memory"));
            }
        }
    }

    /// Returns false if there is no room now.
    fn try_grow_to(&mut self, units: Units) -> Result<bool, Failure> {
        let mut state = self.budget.state();
        let (held, of_source) = state.held(&self.source, self.number);
        if matches!(self.place, Place::Arriving) && held.is_none() {
            return Err(evicted());
        }
        let held = held.unwrap_or_default();
        let all = of_source.plus(units).less(held);
        let share = self.budget.0.share;
        if (all.large > share && units.large > held.large) || (all.small > share && units.small > held.small)
        {
            return Err(Failure::Overloaded("the bodies of one source take too much memory"));
        }
        let more = units.less(held).number();
        if state.free < more {
            state.evict(more, &self.source, all.number());
        }
        if state.free < more {
            return Ok(false);
        }
        state.free -= more;
        let source = state.hold(&self.source, more);
        source.units = all;
        source.arriving.insert(self.number, Arriving { units, evicted: self.evicted.clone() });
        self.place = Place::Arriving;
        Ok(true)
    }

    /// Notes that the body is whole: it is not given up any more.
    ///
    /// # Errors
    /// A body that gave way to others.
    pub fn complete(&mut self) -> Result<(), Failure> {
        if matches!(self.place, Place::Arriving) {
            let mut state = self.budget.state();
            let source = state.sources.get_mut(&self.source);
            let arriving = source.and_then(|source| source.arriving.remove(&self.number));
            drop(state);
            let Some(arriving) = arriving else {
                self.place = Place::Nowhere;
                return Err(evicted());
            };
            self.place = Place::Whole(arriving.units);
        }
        Ok(())
    }

    /// Gives back what a whole body of so many bytes does not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        let needed = Units::of_number(bytes.div_ceil(UNIT));
        if let Place::Whole(units) = &mut self.place {
            let rest = units.less(needed);
            *units = units.less(rest);
            self.budget.state().give_back(&self.source, rest);
            self.budget.0.freed.notify_waiters();
        }
    }

    /// Lets a whole body give way to those of others again, while it waits for something: until [`Self::complete`]. One that
    /// holds nothing has nothing to give. Those that wait for memory already look again.
    pub fn wait(&mut self) {
        if let Place::Whole(units) = self.place
            && units != Units::default()
        {
            let mut state = self.budget.state();
            let source = state.hold(&self.source, 0);
            source.arriving.insert(self.number, Arriving { units, evicted: self.evicted.clone() });
            drop(state);
            self.place = Place::Arriving;
            self.budget.0.freed.notify_waiters();
        }
    }

    /// Returns when the body has to give way to others.
    pub async fn evicted(&self) -> Failure {
        self.evicted.notified().await;
        evicted()
    }
}

fn evicted() -> Failure {
    Failure::Overloaded("the body gave way to those of others")
}

impl<S: Name> Drop for Memory<S> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        let units = match self.place {
            Place::Nowhere => return,
            Place::Arriving => {
                let source = state.sources.get_mut(&self.source);
                let Some(arriving) = source.and_then(|source| source.arriving.remove(&self.number)) else {
                    return;
                };
                arriving.units
            }
            Place::Whole(units) => units,
        };
        state.give_back(&self.source, units);
        drop(state);
        self.budget.0.freed.notify_waiters();
    }
}

impl<S: Name> State<S> {
    /// The units of a body that is arriving, and of its source in all.
    fn held(&self, source: &S, number: u64) -> (Option<Units>, Units) {
        let Some(source) = self.sources.get(source) else { return (None, Units::default()) };
        (source.arriving.get(&number).map(|arriving| arriving.units), source.units)
    }

    /// Counts so many more units for the group of a source, which holds them from now on.
    fn hold(&mut self, source: &S, more: usize) -> &mut Source<S::Group> {
        let of_source = self.sources.entry(source.clone()).or_insert_with(|| Source {
            group: source.group(),
            units: Units::default(),
            arriving: BTreeMap::new(),
        });
        if more > 0 {
            *self.groups.entry(of_source.group.clone()).or_default() += more;
        }
        of_source
    }

    fn of_group(&self, group: &S::Group) -> usize {
        self.groups.get(group).copied().unwrap_or_default()
    }

    /// Frees as much as is needed, of sources that weigh more than the one that needs it, and will hold `own` units: of the
    /// one that weighs most, the body that has been arriving for longest. A source weighs what it holds, or a part of what
    /// its group does. In one group, what each of them holds decides.
    fn evict(&mut self, needed: usize, needer: &S, own: usize) {
        let group = needer.group();
        while self.free < needed {
            let weight = |source: &Source<S::Group>| {
                source.units.number().max(self.of_group(&source.group) / OF_GROUP)
            };
            let holders = self.sources.iter().filter(|(_, source)| !source.arriving.is_empty());
            let heaviest = holders.max_by_key(|(_, source)| (weight(source), source.units.number()));
            let Some((name, source)) = heaviest else { return };
            let gives_way = if source.group == group {
                source.units.number() > own
            } else {
                weight(source) > own.max((self.of_group(&group) + needed) / OF_GROUP)
            };
            if !gives_way {
                return;
            }
            let name = name.clone();
            let arriving = self.sources.get_mut(&name).and_then(|source| source.arriving.pop_first());
            let Some((_, arriving)) = arriving else { return };
            arriving.evicted.notify_one();
            self.give_back(&name, arriving.units);
        }
    }

    fn give_back(&mut self, source: &S, units: Units) {
        self.free += units.number();
        let Some(of_source) = self.sources.get_mut(source) else { return };
        of_source.units = of_source.units.less(units);
        if let Some(of_group) = self.groups.get_mut(&of_source.group) {
            *of_group = of_group.saturating_sub(units.number());
            if *of_group == 0 {
                self.groups.remove(&of_source.group);
            }
        }
        if of_source.units == Units::default() {
            self.sources.remove(source);
        }
    }
}

impl Units {
    fn of_number(units: usize) -> Self {
        Self { small: units.min(STEP), large: units.saturating_sub(STEP).next_multiple_of(STEP) }
    }

    fn number(self) -> usize {
        self.small + self.large
    }

    fn plus(self, other: Self) -> Self {
        Self { small: self.small + other.small, large: self.large + other.large }
    }

    fn less(self, other: Self) -> Self {
        Self { small: self.small.saturating_sub(other.small), large: self.large.saturating_sub(other.large) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use futures_util::future::join;

    use super::*;

    const KIB: usize = 1024;

    fn source(last: u8) -> SourceAddress {
        SourceAddress::of([192, 0, 2, last].into())
    }

    /// A body of a source that arrives, with so many bytes of it.
    async fn body(budget: &Budget, last: u8, bytes: usize) -> Result<Memory, String> {
        let mut memory = budget.for_body(source(last));
        memory.grow_to(bytes).await.map_err(|failure| failure.to_string())?;
        Ok(memory)
    }

    fn is_unused(budget: &Budget, bytes: usize) -> bool {
        let state = budget.state();
        state.sources.is_empty() && state.groups.is_empty() && state.free == bytes.div_ceil(UNIT)
    }

    #[tokio::test]
    async fn a_source_has_a_part_for_small_bodies_and_one_for_the_rest_of_large_ones() {
        let budget = Budget::new(1_000_000, 100_000);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(body(&budget, 1, 90_000).await.expect("there is room"));
        }
        assert!(body(&budget, 1, 90_000).await.is_err_and(|text| text.contains("of one source")));
        for _ in 0..10 {
            held.push(body(&budget, 1, 12_000).await.expect("small ones get through"));
        }
        held.push(body(&budget, 2, 90_000).await.expect("others get through"));
        held.clear();
        assert!(is_unused(&budget, 1_000_000));
    }

    #[tokio::test]
    async fn the_largest_holder_makes_room_with_its_oldest_body_for_who_holds_less() {
        let budget = Budget::new(100 * KIB as u64, 10 * KIB as u64);
        let mut flood = Vec::new();
        for last in 1..=4 {
            for _ in 0..25 {
                flood.push(body(&budget, last, 1).await.expect("there is room"));
            }
        }
        let honest = body(&budget, 5, 10 * KIB).await.expect("ten bodies give way");
        let told = flood.iter_mut().filter_map(|memory| memory.complete().err()).count();
        assert_eq!(told, 10);
        assert!(flood[0].complete().is_ok(), "it is not arriving any more");
        let flood_of_one: Vec<_> = flood.drain(90..).collect();
        assert!(body(&budget, 6, 20 * KIB).await.is_err(), "whole bodies do not give way");
        drop(flood);
        body(&budget, 6, 20 * KIB).await.expect("there is room");
        drop((honest, flood_of_one));
        assert!(is_unused(&budget, 100 * KIB));
    }

    #[tokio::test]
    async fn a_network_of_many_sources_gives_way_to_others_though_each_of_them_holds_little() {
        let budget: Budget = Budget::new(100 * KIB as u64, 10 * KIB as u64);
        let take = async |network: u16, place: u16| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, network, place, 0, 0, 0, 1);
            let mut memory = budget.for_body(SourceAddress::of(address.into()));
            memory.grow_to(10 * KIB).await.map(|()| memory)
        };
        let mut flood = Vec::new();
        for place in 0..10 {
            flood.push(take(1, place).await.expect("there is room"));
        }
        let mut others = Vec::new();
        // Until it holds no more than four times as much as each of them.
        for network in 2..8 {
            others.push(take(network, 0).await.expect("one of the flood gives way"));
        }
        assert!(take(1, 10).await.is_err(), "nobody gives way to another one of the flood");
        assert!(take(8, 0).await.is_err(), "all hold as much");
        assert_eq!(others.iter_mut().filter_map(|memory| memory.complete().err()).count(), 0);
        assert_eq!(flood.iter_mut().filter_map(|memory| memory.complete().err()).count(), 6);
        drop((flood, others));
        assert!(is_unused(&budget, 100 * KIB));
    }

    #[tokio::test]
    async fn a_whole_body_that_waits_for_something_gives_way() {
        let budget = Budget::new(40 * KIB as u64, 10 * KIB as u64);
        let mut flood = Vec::new();
        for last in 1..=4 {
            flood.push(body(&budget, last, 10 * KIB).await.expect("there is room"));
        }
        for memory in &mut flood {
            memory.complete().unwrap();
        }
        assert!(body(&budget, 5, KIB).await.is_err(), "none of them waits");
        flood[1].wait();
        let honest = body(&budget, 5, KIB).await.expect("the one that waits gives way");
        flood[1].evicted().await;
        assert!(flood[1].complete().is_err());
        flood[2].wait();
        flood[2].complete().expect("nobody needed it");
        drop((flood, honest));
        assert!(is_unused(&budget, 40 * KIB));
    }

    #[tokio::test]
    async fn a_body_that_holds_nothing_and_waits_is_not_given_up_for_others() {
        let budget = Budget::new(20 * KIB as u64, 10 * KIB as u64);
        let mut nothing = body(&budget, 1, 10 * KIB).await.expect("there is room");
        nothing.complete().unwrap();
        nothing.shrink_to(0);
        nothing.wait();
        let mut large = body(&budget, 1, 10 * KIB).await.expect("there is room");
        large.complete().unwrap();
        large.wait();
        let mut other = body(&budget, 2, 10 * KIB).await.expect("there is room");
        other.complete().unwrap();
        let third = body(&budget, 3, KIB).await.expect("the one that waits gives way");
        assert!(large.complete().is_err());
        nothing.complete().expect("nobody would have had anything of it");
        drop((nothing, large, other, third));
        assert!(is_unused(&budget, 20 * KIB));
    }

    #[tokio::test]
    async fn who_waits_for_memory_already_is_told_of_a_whole_body_that_begins_to_give_way() {
        let budget = Budget::new(20 * KIB as u64, 10 * KIB as u64);
        let mut first = body(&budget, 1, 10 * KIB).await.expect("there is room");
        let mut second = body(&budget, 2, 10 * KIB).await.expect("there is room");
        first.complete().unwrap();
        second.complete().unwrap();
        let give_way = async {
            tokio::time::sleep(WAIT / 2).await;
            first.wait();
        };
        // In this order: after a pause of this machine it gives way before the wait ends.
        let ((), third) = join(give_way, body(&budget, 3, KIB)).await;
        let third = third.expect("the first one gives way");
        assert!(first.complete().is_err());
        drop((first, second, third));
        assert!(is_unused(&budget, 20 * KIB));
    }

    #[tokio::test]
    async fn a_body_that_becomes_smaller_gives_the_rest_back() {
        let budget = Budget::new(100 * KIB as u64, 60 * KIB as u64);
        let mut memory = body(&budget, 1, 60 * KIB).await.expect("there is room");
        memory.complete().unwrap();
        memory.shrink_to(10);
        assert_eq!(budget.state().free, 99);
        memory.shrink_to(60 * KIB);
        assert_eq!(budget.state().free, 99, "it does not grow");
        let other = body(&budget, 2, 60 * KIB).await.expect("there is room again");
        memory.wait();
        memory.complete().expect("it is still counted");
        drop((memory, other));
        assert!(is_unused(&budget, 100 * KIB));
    }

    #[tokio::test]
    async fn a_body_waits_for_memory_that_becomes_free() {
        let budget = Budget::new(20 * KIB as u64, 10 * KIB as u64);
        let mut first = body(&budget, 1, 10 * KIB).await.expect("there is room");
        let mut second = body(&budget, 2, 10 * KIB).await.expect("there is room");
        first.complete().unwrap();
        second.complete().unwrap();
        let free = async {
            tokio::time::sleep(WAIT / 2).await;
            drop(first);
        };
        // In this order: after a pause of this machine there is room before the wait ends.
        let ((), third) = join(free, body(&budget, 3, 10 * KIB)).await;
        let third = third.expect("there is room again");
        assert!(body(&budget, 4, 10 * KIB).await.is_err_and(|text| text.contains("of all requests")));
        drop((second, third));
        assert!(is_unused(&budget, 20 * KIB));
    }

    #[tokio::test]
    async fn sources_that_hold_less_than_others_keep_what_they_have() {
        let budget = Budget::new(100 * KIB as u64, 10 * KIB as u64);
        let mut held = Vec::new();
        for (last, bodies) in [(1, 25), (2, 25), (3, 25), (4, 5), (5, 20)] {
            for _ in 0..bodies {
                held.push(body(&budget, last, 1).await.expect("there is room"));
            }
        }
        let another = body(&budget, 6, 3 * KIB).await.expect("three bodies give way");
        let gave_way: Vec<bool> = held.iter_mut().map(|memory| memory.complete().is_err()).collect();
        assert_eq!(gave_way[..75].iter().filter(|gave_way| **gave_way).count(), 3);
        assert!(!gave_way[75..].contains(&true), "those of who holds less");
        drop((held, another));
        assert!(is_unused(&budget, 100 * KIB));
    }
}
