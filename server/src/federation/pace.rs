//! The pace at which requests of another domain are taken (FED-6): so many in a second, with those of one second at
//! once. It is asked before the database is, which knows the domain of a key.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postern_protocol::{PublicKey, name::Domain};

/// Keys that are remembered at most. Only admitted ones are.
const MAX_KEYS: usize = if cfg!(test) { 4 } else { 10_000 };
/// Time for which a key that was admitted is known without another look in the database.
const HOLDS: Duration = Duration::from_secs(10);
/// Senders whose requests are counted at most, unless more of them sent some within a second.
const MAX_COUNTED: usize = 10_000;

pub struct Pace {
    per_second: f64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<PublicKey, Admitted>,
    left: HashMap<Sender, Left>,
}

/// A key that was admitted.
struct Admitted {
    domain: Domain,
    at: Instant,
    /// The moment at which it signed last.
    used: Instant,
}

/// The sender that a request counts for.
#[derive(PartialEq, Eq, Hash)]
enum Sender {
    Domain(Domain),
    /// The network of strangers.
    Network(String),
}

/// The requests that a sender has left, and when they were counted.
#[derive(Clone, Copy)]
struct Left {
    requests: f64,
    counted: Instant,
}

impl Left {
    fn at(self, now: Instant, per_second: f64) -> f64 {
        let more = now.duration_since(self.counted).as_secs_f64() * per_second;
        (self.requests + more).min(per_second)
    }
}

impl Pace {
    pub fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), known: Mutex::default() }
    }

    /// Takes one request of the domain that a key was admitted for. A key that is not known counts for the network of
    /// strangers that its request is from; without one, it has no pace. False: too many came.
    pub fn takes(&self, key: &PublicKey, network: Option<String>, now: Instant) -> bool {
        self.delay(key, network, now, Duration::ZERO).is_some()
    }

    /// Takes one request as [`Self::takes`] does, and returns the time that it has to wait for its turn; none if that is
    /// longer than `longest`: too many came.
    pub fn delay(
        &self,
        key: &PublicKey,
        network: Option<String>,
        now: Instant,
        longest: Duration,
    ) -> Option<Duration> {
        let mut known = self.known();
        let domain = known.keys.get_mut(key).map(|admitted| {
            admitted.used = now;
            admitted.domain.clone()
        });
        let sender = domain.map(Sender::Domain).or(network.map(Sender::Network));
        let Some(sender) = sender else { return Some(Duration::ZERO) };
        if known.left.len() >= MAX_COUNTED {
            // Nothing is lost with those that have as many left as at first.
            known.left.retain(|_, left| left.at(now, self.per_second) < self.per_second);
        }
        let left = known.left.entry(sender).or_insert(Left { requests: self.per_second, counted: now });
        *left = Left { requests: left.at(now, self.per_second), counted: now };
        let delay = Duration::from_secs_f64((1.0 - left.requests).max(0.0) / self.per_second);
        let takes = delay <= longest;
        if takes {
            left.requests -= 1.0;
        }
        takes.then_some(delay)
    }

    /// Remembers the domain of a key that was admitted, in place of the key that was not used for longest.
    pub fn admitted(&self, key: PublicKey, domain: &Domain, now: Instant) {
        let mut known = self.known();
        if known.keys.len() >= MAX_KEYS && !known.keys.contains_key(&key) {
            let oldest = known.keys.iter().min_by_key(|(_, admitted)| admitted.used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                known.keys.remove(&oldest);
            }
        }
        known.keys.insert(key, Admitted { domain: domain.clone(), at: now, used: now });
    }

    /// Whether a key was admitted a moment ago.
    pub fn is_known(&self, key: &PublicKey, now: Instant) -> bool {
        self.known().keys.get(key).is_some_and(|admitted| now.duration_since(admitted.at) < HOLDS)
    }

    /// The domain of a key, if it is known.
    pub fn domain(&self, key: &PublicKey) -> Option<Domain> {
        self.known().keys.get(key).map(|admitted| admitted.domain.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use postern_protocol::key::SigningKey;

    use super::*;

    #[test]
    fn a_domain_has_so_many_requests_in_a_second_whichever_key_signs_them() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let keys = [(); 3].map(|()| SigningKey::generate().public_key());
        assert!((0..100).all(|_| pace.takes(&keys[0], None, start)), "nothing is known of it");
        let (domain, other) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        pace.admitted(keys[0], &domain, start);
        pace.admitted(keys[1], &domain, start);
        pace.admitted(keys[2], &other, start);
        let taken = |key: &PublicKey, now| (0..100).filter(|_| pace.takes(key, None, now)).count();
        assert_eq!((taken(&keys[0], start), taken(&keys[1], start), taken(&keys[2], start)), (10, 0, 10));
        assert_eq!(taken(&keys[1], start + Duration::from_millis(500)), 5);
        assert_eq!(taken(&keys[0], start + Duration::from_secs(60)), 10);
    }

    #[test]
    fn a_request_that_comes_too_early_waits_for_its_turn_and_many_do_not() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let key = SigningKey::generate().public_key();
        pace.admitted(key, &"a.example".parse().unwrap(), start);
        let delay = || pace.delay(&key, None, start, Duration::from_secs(1)).map(|delay| delay.as_millis());
        let delays: Vec<_> = (0..25).map(|_| delay()).collect();
        assert_eq!(delays[..10], [Some(0); 10]);
        assert_eq!(delays[10..20], (1..=10).map(|turn| Some(turn * 100)).collect::<Vec<_>>());
        assert_eq!(delays[20..], [None; 5]);
        let later = start + Duration::from_millis(1200);
        assert_eq!(pace.delay(&key, None, later, Duration::ZERO), Some(Duration::ZERO));
    }

    #[test]
    fn keys_that_are_not_known_share_the_pace_of_their_network() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let takes =
            |network: &str| pace.takes(&SigningKey::generate().public_key(), Some(network.to_owned()), start);
        assert_eq!((0..100).filter(|_| takes("192.0.2.0/24")).count(), 10);
        assert!(takes("198.51.100.0/24"), "another one has its own");
        let key = SigningKey::generate().public_key();
        pace.admitted(key, &"a.example".parse().unwrap(), start);
        assert!(pace.takes(&key, Some("192.0.2.0/24".to_owned()), start), "it is no stranger");
    }

    #[test]
    fn many_keys_take_the_place_of_the_one_that_was_not_used_for_longest() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let (kept, idle) = (SigningKey::generate().public_key(), SigningKey::generate().public_key());
        let (domain, other) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        pace.admitted(idle, &other, after(0));
        pace.admitted(kept, &domain, after(1));
        for number in 2..100 {
            assert!(pace.takes(&kept, None, after(number)));
            pace.admitted(SigningKey::generate().public_key(), &other, after(number));
        }
        assert_eq!(pace.domain(&kept), Some(domain));
        assert_eq!(pace.domain(&idle), None);
        assert_eq!(pace.known().keys.len(), MAX_KEYS);
    }

    #[test]
    fn a_key_is_known_for_a_moment_after_it_was_admitted() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let (key, domain) = (SigningKey::generate().public_key(), "a.example".parse().unwrap());
        assert!(!pace.is_known(&key, start));
        pace.admitted(key, &domain, start);
        let end = start + HOLDS;
        assert!(pace.is_known(&key, start) && pace.is_known(&key, end - Duration::from_millis(1)));
        assert!(pace.takes(&key, None, end - Duration::from_millis(1)));
        assert!(!pace.is_known(&key, end), "that it signs shows nothing");
        pace.admitted(key, &domain, end);
        assert!(pace.is_known(&key, end));
    }
}
