//! Places for requests under way to or from other homeservers (FED-6). A domain has a share of them, and so has a family of
//! names, and those that nobody here has to do with take no more than half: names are free, and so are requests at them. A
//! request that takes long gives its place up, and waits among other slow ones: so no domain keeps another one out by being
//! slow, and a long-poll through the relay (FED-7) keeps nobody out. The memory of answers of other homeservers that are not
//! whole yet is shared out here, too.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postern_protocol::{name::Domain, oblivious::ENVELOPE_BYTES};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    config::FederationConfig,
    database::{Database, DatabaseError},
    http::{
        Failure, SourceAddress,
        memory::{Budget, Memory},
    },
};

/// Time that a request waits for a place.
const QUEUE: Duration = Duration::from_millis(if cfg!(test) { 125 } else { 5000 });
/// Time after which a request counts as one that waits.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 500 });
/// Time for which a domain has the standing that the database gave it last.
const HOLDS: Duration = Duration::from_secs(10);
/// Domains whose standing is remembered.
const MAX_KNOWN: usize = 10_000;
/// The part of all places that strangers may have together, and a family of neighbours: one in so many.
const HALVES: usize = 2;
/// The part of all places that requests of one network to or from strangers may have: one in so many.
const NETWORKS: usize = 8;

pub struct Places {
    all: Arc<Room>,
    /// For those that are no neighbours, within all.
    strangers: Arc<Room>,
    of_domain: Bounds,
    of_family: Bounds,
    of_network: Bounds,
    rooms: Mutex<HashMap<Holder, Arc<Room>>>,
    answers: Budget<Domain>,
}

#[derive(Clone, Copy)]
struct Bounds {
    at_once: usize,
    waiting: usize,
}

/// Those that share a room.
#[derive(PartialEq, Eq, Hash)]
enum Holder {
    /// A neighbour.
    Domain(Domain),
    /// The neighbours of a family.
    Family(String),
    /// The strangers of a family.
    Strangers(String),
    /// The requests from a network to strangers, or of them.
    Network(String),
}

/// The room of one holder, or of all together.
struct Room {
    at_once: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The standing of a domain.
pub enum Standing {
    /// It took deliveries, or the operator allowed it.
    Neighbour,
    /// Anybody can name it. The request is from a network.
    Stranger { network: String },
}

/// The standings of domains, as the database had them a moment ago.
#[derive(Default)]
pub struct Standings(Mutex<HashMap<Domain, (bool, Instant)>>);

/// A place, until it is dropped.
pub struct Place {
    /// The rooms that it is in, the narrowest first.
    rooms: Vec<Arc<Room>>,
    held: Vec<OwnedSemaphorePermit>,
    domain: Domain,
    answers: Budget<Domain>,
}

/// The budget of memory for answers, and the domain that they are from.
pub struct AnswerMemory {
    answers: Budget<Domain>,
    domain: Domain,
}

impl Places {
    pub fn new(config: &FederationConfig) -> Self {
        let all = Bounds { at_once: config.at_once, waiting: config.waiting };
        let of_domain = Bounds { at_once: config.at_once_per_domain, waiting: config.waiting_per_domain };
        let largest = config.relayed_answer_bytes + ENVELOPE_BYTES;
        let answers = Budget::new(config.relayed_answers_bytes as u64, largest as u64);
        Self {
            all: Arc::new(Room::new(all)),
            strangers: Arc::new(Room::new(all.part(HALVES))),
            of_domain,
            // A domain by itself has its share.
            of_family: all.part(HALVES).max(of_domain),
            of_network: all.part(NETWORKS),
            rooms: Mutex::default(),
            answers,
        }
    }

    /// Waits for a place for a request to or from a domain.
    ///
    /// # Errors
    /// There are too many.
    pub async fn take(&self, domain: &Domain, standing: Standing) -> Result<Place, Failure> {
        let rooms = self.rooms(domain, standing);
        let held = async {
            let mut held = Vec::new();
            // The narrowest room first: a request that waits for it keeps nobody else out.
            for room in &rooms {
                held.push(room.at_once.clone().acquire_owned().await.expect("it is never closed"));
            }
            held
        };
        let held = timeout(QUEUE, held).await;
        let held = held.map_err(|_| Failure::Overloaded("too much is under way with other homeservers"))?;
        Ok(Place { rooms, held, domain: domain.clone(), answers: self.answers.clone() })
    }

    /// The rooms of a request, the narrowest first.
    fn rooms(&self, domain: &Domain, standing: Standing) -> Vec<Arc<Room>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, room| Arc::strong_count(room) > 1);
        let mut room = |holder: Holder, bounds: Bounds| {
            rooms.entry(holder).or_insert_with(|| Arc::new(Room::new(bounds))).clone()
        };
        let family = domain.family().to_owned();
        match standing {
            Standing::Neighbour => vec![
                room(Holder::Domain(domain.clone()), self.of_domain),
                room(Holder::Family(family), self.of_family),
                self.all.clone(),
            ],
            Standing::Stranger { network } => vec![
                room(Holder::Network(network), self.of_network),
                room(Holder::Strangers(family), self.of_domain),
                self.strangers.clone(),
                self.all.clone(),
            ],
        }
    }
}

impl Bounds {
    fn part(self, parts: usize) -> Self {
        Self { at_once: (self.at_once / parts).max(1), waiting: (self.waiting / parts).max(1) }
    }

    fn max(self, other: Self) -> Self {
        Self { at_once: self.at_once.max(other.at_once), waiting: self.waiting.max(other.waiting) }
    }
}

impl Room {
    fn new(bounds: Bounds) -> Self {
        let semaphore = |number: usize| Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)));
        Self { at_once: semaphore(bounds.at_once), waiting: semaphore(bounds.waiting) }
    }
}

impl Standings {
    /// The standing of a domain to or from which a request of a source goes.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn of(
        &self,
        domain: &Domain,
        source: SourceAddress,
        database: &Database,
    ) -> Result<Standing, DatabaseError> {
        let known = self.known().get(domain).copied().filter(|(_, at)| at.elapsed() < HOLDS);
        let is_proven = match known {
            Some((is_proven, _)) => is_proven,
            None => {
                let row = database.query_one("SELECT federation.is_proven($1)", &[&domain.as_str()]).await?;
                let is_proven: bool = row.get(0);
                self.note(domain, is_proven);
                is_proven
            }
        };
        Ok(if is_proven { Standing::Neighbour } else { Standing::Stranger { network: source.network() } })
    }

    fn note(&self, domain: &Domain, is_proven: bool) {
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (is_proven, at)| *is_proven && at.elapsed() < HOLDS);
        }
        known.insert(domain.clone(), (is_proven, Instant::now()));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Domain, (bool, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Does the request's work. If it takes long, the place is given up for one among those that wait.
    ///
    /// # Errors
    /// Too many wait.
    pub async fn keep<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut work = pin!(work);
        if let Ok(done) = timeout(PATIENCE, &mut work).await {
            return Ok(done);
        }
        let waiting = self.rooms.iter().map(|room| room.waiting.clone().try_acquire_owned());
        let waiting = waiting.collect::<Result<_, _>>();
        self.held = waiting.map_err(|_| Failure::Overloaded("too much waits for other homeservers"))?;
        Ok(work.await)
    }

    /// The memory for the answer to the request.
    pub fn answer_memory(&self) -> AnswerMemory {
        AnswerMemory { answers: self.answers.clone(), domain: self.domain.clone() }
    }
}

impl AnswerMemory {
    /// The memory of one answer, which has none yet.
    pub fn for_answer(&self) -> Memory<Domain> {
        self.answers.for_body(self.domain.clone())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    fn places() -> Places {
        Places::new(&FederationConfig {
            at_once: 3,
            at_once_per_domain: 2,
            waiting: 3,
            waiting_per_domain: 2,
            relayed_answer_bytes: 100_000,
            relayed_answers_bytes: 600_000,
            ..FederationConfig::default()
        })
    }

    fn domain(name: &str) -> Domain {
        format!("{name}.example").parse().unwrap()
    }

    async fn take(places: &Places, name: &str) -> Option<Place> {
        places.take(&domain(name), Standing::Neighbour).await.ok()
    }

    #[tokio::test]
    async fn a_domain_has_a_share_and_keeps_no_other_one_out() {
        let places = places();
        let one = (take(&places, "a").await.unwrap(), take(&places, "a").await.unwrap());
        assert!(take(&places, "a").await.is_none(), "its share is used");
        let other = take(&places, "b").await.expect("others have theirs");
        assert!(take(&places, "c").await.is_none(), "all are used");
        drop(one.0);
        let again = take(&places, "a").await.expect("it is free again");
        drop((one.1, other, again));
        take(&places, "c").await.expect("all are free again");
        assert_eq!(places.rooms.lock().unwrap().len(), 2, "those without requests are forgotten");
    }

    #[tokio::test]
    async fn strangers_leave_half_of_all_places_whatever_their_names_and_networks_are() {
        let places = Places::new(&FederationConfig {
            at_once: 32,
            at_once_per_domain: 8,
            waiting: 32,
            waiting_per_domain: 8,
            ..FederationConfig::default()
        });
        let take = async |name: &str, network: usize| {
            let stranger = Standing::Stranger { network: network.to_string() };
            places.take(&domain(name), stranger).await.ok()
        };
        let mut held = Vec::new();
        for number in 0..4 {
            held.push(take(&format!("made-up{number}"), 1).await.expect("a network has an eighth"));
        }
        assert!(take("made-up", 1).await.is_none(), "a network has no more, whatever it names");
        for number in 0..8 {
            held.push(take(&format!("x{number}.evil"), 2 + number / 4).await.expect("there is room"));
        }
        assert!(take("x.evil", 4).await.is_none(), "a family has as many as a domain");
        for number in 0..4 {
            held.push(take(&format!("other{number}"), 5).await.expect("there is room"));
        }
        assert!(take("another", 6).await.is_none(), "all of them have half of all places");
        // Neighbours of one family have as many, and others the rest.
        let mut neighbours = Vec::new();
        for number in 0..16 {
            let place = places.take(&domain(&format!("x{number}.a")), Standing::Neighbour).await;
            neighbours.push(place.expect("half of all places are theirs"));
        }
        drop(held);
        assert!(places.take(&domain("x.a"), Standing::Neighbour).await.is_err(), "a family has half");
        places.take(&domain("b"), Standing::Neighbour).await.expect("another one has room");
    }

    #[tokio::test]
    async fn a_request_that_takes_long_gives_its_place_up_and_waits_among_few() {
        let places = places();
        let end = watch::Sender::new(false);
        let slow = async |name: &str| {
            let mut place = take(&places, name).await.expect("there is a place");
            let mut ended = end.subscribe();
            place.keep(async move { ended.wait_for(|is_over| *is_over).await.is_ok() }).await.is_ok()
        };
        let until_waiting = async |number: usize| {
            while places.all.waiting.available_permits() != 3 - number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let quick = async {
            until_waiting(2).await;
            let of_domain = (take(&places, "a").await, take(&places, "a").await);
            assert!(of_domain.0.is_some() && of_domain.1.is_some(), "those that wait count no more");
            drop(of_domain);
            assert!(!slow("a").await, "two of a domain wait already");
            let ending = async {
                until_waiting(3).await;
                end.send_replace(true);
            };
            assert_eq!(tokio::join!(slow("b"), ending), (true, ()), "another one has room");
        };
        assert_eq!(tokio::join!(slow("a"), slow("a"), quick), (true, true, ()));
    }

    #[tokio::test]
    async fn answers_that_do_not_come_to_an_end_give_way_to_those_of_others() {
        let places = places();
        let mut stuck = Vec::new();
        for domain in ["a", "b", "c", "d", "e", "f"] {
            let place = take(&places, domain).await.unwrap();
            let mut memory = place.answer_memory().for_answer();
            memory.grow_to(95_000).await.expect("there is room, or another one makes it");
            stuck.push(memory);
        }
        let mut good = take(&places, "good").await.unwrap().answer_memory().for_answer();
        good.grow_to(20_000).await.expect("who holds less gets some");
        good.complete().expect("it is whole");
        let evicted = stuck.iter_mut().filter_map(|memory| memory.complete().err()).count();
        assert!(evicted > 0, "one of those that hold most gave way");
    }

    #[test]
    fn made_up_domains_take_bounded_memory() {
        let standings = Standings::default();
        for number in 0..2 * MAX_KNOWN {
            standings.note(&domain(&format!("x{number}")), false);
        }
        assert!(standings.known().len() <= MAX_KNOWN);
    }
}
