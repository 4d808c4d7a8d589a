//! The hosts that pushes go to. A queue's owner names the host, and it need not answer: so each host has permits of its
//! own and a breaker, and those that answered promptly the last time share nothing with the others. Some hundred queues
//! at a host that never answers, or at as many hosts, delay nobody else's pushes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postern_protocol::name::family;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::PushConfig;

/// Hosts that are remembered, at most.
const MAX_HOSTS: usize = 4096;
/// Pushes under way at once to a host that is not proven.
const PROBES: usize = 4;
/// An answer within this time proves a host.
const PROMPT: Duration = Duration::from_secs(2);
/// Failures in a row after which a host is left alone.
const PATIENCE: u32 = 3;
/// Time for which a host is left alone at first; each time after that it is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

pub struct Hosts {
    known: Mutex<HashMap<String, Arc<Host>>>,
    at_once_per_host: usize,
    /// Pushes under way to proven hosts.
    proven: Semaphore,
    /// Pushes under way to all others.
    unproven: Semaphore,
}

pub struct Host {
    state: Mutex<State>,
    proven: Semaphore,
    unproven: Semaphore,
}

#[derive(Default)]
struct State {
    standing: Standing,
    /// Failures in a row.
    failures: u32,
    /// Times in a row that it was left alone.
    pauses: u32,
    /// Until then it is left alone.
    closed_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// It was never tried, or not since it was forgotten.
    #[default]
    Unknown,
    /// The last answer was prompt.
    Proven,
    /// The last answer was late, or none came.
    Failing,
}

/// A push may go now.
pub struct Permit<'a> {
    _of_host: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Hosts {
    pub fn new(config: &PushConfig) -> Self {
        Self {
            known: Mutex::default(),
            at_once_per_host: config.at_once_per_host,
            proven: Semaphore::new(config.at_once),
            unproven: Semaphore::new(config.at_once),
        }
    }

    /// The host with this name; none if there are too many with pushes under way.
    pub fn get(&self, name: &str) -> Option<Arc<Host>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(name) {
            return Some(host.clone());
        }
        if known.len() >= MAX_HOSTS {
            let in_use = |host: &Arc<Host>| Arc::strong_count(host) > 1;
            known.retain(|_, host| in_use(host) || host.standing() == Standing::Proven);
            if known.len() >= MAX_HOSTS {
                // Somebody has thousands of hosts: those of the largest domain are forgotten, proven or not.
                let mut of_domain: HashMap<&str, usize> = HashMap::new();
                for (name, _) in known.iter().filter(|(_, host)| !in_use(host)) {
                    *of_domain.entry(family(name)).or_default() += 1;
                }
                let largest = of_domain.into_iter().max_by_key(|(_, hosts)| *hosts);
                let largest = largest.map(|(name, _)| name.to_owned()).unwrap_or_default();
                known.retain(|name, host| in_use(host) || family(name) != largest);
            }
            if known.len() >= MAX_HOSTS {
                return None;
            }
        }
        let host = Arc::new(Host::new(self.at_once_per_host));
        known.insert(name.to_owned(), host.clone());
        Some(host)
    }

    /// Waits until a push may go to a host.
    ///
    /// # Errors
    /// The time for which the host is left alone.
    pub async fn permit<'a>(&'a self, host: &'a Host) -> Result<Permit<'a>, Duration> {
        const OPEN: &str = "it is never closed";
        let is_proven = || match host.pause(Instant::now()) {
            Some(pause) => Err(pause),
            None => Ok(host.standing() == Standing::Proven),
        };
        let of_host = if is_proven()? { &host.proven } else { &host.unproven };
        let of_host = of_host.acquire().await.expect(OPEN);
        // Others may have found out meanwhile.
        let of_all = if is_proven()? { &self.proven } else { &self.unproven };
        let of_all = of_all.acquire().await.expect(OPEN);
        is_proven()?;
        Ok(Permit { _of_host: of_host, _of_all: of_all })
    }
}

impl Host {
    fn new(at_once: usize) -> Self {
        Self {
            state: Mutex::default(),
            proven: Semaphore::new(at_once),
            unproven: Semaphore::new(PROBES.min(at_once)),
        }
    }

    pub fn standing(&self) -> Standing {
        self.state().standing
    }

    /// The time for which it is still left alone.
    fn pause(&self, now: Instant) -> Option<Duration> {
        self.state()
            .closed_until
            .map(|until| until.saturating_duration_since(now))
            .filter(|time| !time.is_zero())
    }

    /// Notes that it answered, whatever it said.
    pub fn answered(&self, after: Duration) {
        let standing = if after <= PROMPT { Standing::Proven } else { Standing::Failing };
        *self.state() = State { standing, ..State::default() };
    }

    /// Notes that no answer came. What fails while it is left alone began before that, and tells nothing new.
    pub fn failed(&self, now: Instant) {
        let mut state = self.state();
        if state.closed_until.is_some_and(|until| until > now) {
            return;
        }
        state.standing = Standing::Failing;
        state.failures += 1;
        if state.failures >= PATIENCE {
            let pause = FIRST_PAUSE.saturating_mul(1 << state.pauses.min(16)).min(LONGEST_PAUSE);
            state.closed_until = Some(now + pause);
            state.pauses += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(at_once: usize) -> Hosts {
        Hosts::new(&PushConfig { at_once, at_once_per_host: at_once, ..PushConfig::default() })
    }

    /// Whether a push may go at once.
    async fn goes<'a>(hosts: &'a Hosts, host: &'a Host) -> Option<Permit<'a>> {
        let permit = tokio::time::timeout(Duration::from_millis(20), hosts.permit(host)).await;
        permit.ok().and_then(Result::ok)
    }

    #[test]
    fn a_host_that_does_not_answer_is_left_alone_for_longer_and_longer() {
        let host = Host::new(8);
        let mut now = Instant::now();
        for _ in 1..PATIENCE {
            host.failed(now);
            assert_eq!(host.pause(now), None);
        }
        host.failed(now);
        for seconds in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            // Pushes that are under way at once fail at once, and count as one.
            host.failed(now);
            assert_eq!(host.pause(now), Some(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            assert_eq!(host.pause(now), None, "it is tried again");
            host.failed(now);
        }
        host.answered(Duration::from_secs(1));
        assert_eq!((host.pause(now), host.standing()), (None, Standing::Proven));
        host.failed(now);
        assert_eq!((host.pause(now), host.standing()), (None, Standing::Failing), "it begins anew");
    }

    #[tokio::test]
    async fn hosts_that_do_not_answer_take_nothing_from_one_that_does() {
        let hosts = hosts(4);
        let good = hosts.get("good").unwrap();
        good.answered(Duration::ZERO);
        let bad: Vec<_> = (0..20).map(|number| hosts.get(&format!("bad{number}")).unwrap()).collect();
        let mut under_way = Vec::new();
        for host in &bad {
            under_way.extend(goes(&hosts, host).await);
        }
        assert_eq!(under_way.len(), 4);
        let mut of_good = Vec::new();
        for _ in 0..5 {
            of_good.extend(goes(&hosts, &good).await);
        }
        assert_eq!(of_good.len(), 4);
        drop(of_good);
        good.answered(PROMPT * 2);
        assert!(goes(&hosts, &good).await.is_none(), "it is late, and waits with the others");
    }

    #[tokio::test]
    async fn one_host_does_not_take_all_that_others_could_have() {
        let hosts = hosts(64);
        let (slow, other) = (hosts.get("slow").unwrap(), hosts.get("other").unwrap());
        let mut under_way = Vec::new();
        for _ in 0..10 {
            under_way.extend(goes(&hosts, &slow).await);
        }
        assert_eq!(under_way.len(), PROBES);
        assert!(goes(&hosts, &other).await.is_some());
    }

    #[tokio::test]
    async fn a_host_that_is_left_alone_gets_no_push_and_then_a_few_until_it_answers() {
        let hosts = hosts(64);
        let host = hosts.get("host").unwrap();
        (0..PATIENCE).for_each(|_| host.failed(Instant::now()));
        let pause = hosts.permit(&host).await.err().expect("it is left alone");
        assert!(pause > FIRST_PAUSE / 2 && pause <= FIRST_PAUSE, "{pause:?}");
        // The pause is over: a few find out whether it answers, and the others wait for what they find.
        host.state().closed_until = Some(Instant::now());
        let mut probes = Vec::new();
        for _ in 0..10 {
            probes.extend(goes(&hosts, &host).await);
        }
        assert_eq!(probes.len(), PROBES);
        host.failed(Instant::now());
        let pause = hosts.permit(&host).await.err().expect("one failure is enough now");
        assert!(pause > FIRST_PAUSE && pause <= FIRST_PAUSE * 2, "{pause:?}");
        drop(probes);
        assert!(hosts.permit(&host).await.is_err(), "it is left alone though nothing is under way");
        host.state().closed_until = Some(Instant::now());
        let probe = goes(&hosts, &host).await.expect("it is tried again");
        drop(probe);
        host.answered(Duration::ZERO);
        let mut under_way = Vec::new();
        for _ in 0..10 {
            under_way.extend(goes(&hosts, &host).await);
        }
        assert_eq!(under_way.len(), 10, "it is as good as any");
    }

    #[tokio::test]
    async fn a_push_that_waits_while_others_find_out_that_its_host_fails_does_not_go() {
        // For a place at the host, and for one among all.
        for at_once in [64, 1] {
            let hosts = hosts(at_once);
            let (host, other) = (hosts.get("host").unwrap(), hosts.get("other").unwrap());
            let mut under_way = Vec::new();
            if at_once == 1 {
                under_way.extend(goes(&hosts, &other).await);
            } else {
                for _ in 0..PROBES {
                    under_way.extend(goes(&hosts, &host).await);
                }
            }
            assert!(!under_way.is_empty());
            let mut waiting = std::pin::pin!(hosts.permit(&host));
            let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
            assert!(early.is_err(), "it waits");
            (0..PATIENCE).for_each(|_| host.failed(Instant::now()));
            drop(under_way);
            assert!(waiting.await.is_err(), "it is left alone, too");
        }
    }

    #[test]
    fn a_domain_with_thousands_of_hosts_that_answer_has_none_of_others_forgotten() {
        let hosts = hosts(1);
        let names = ["push.example.com", "a.b.push.example.net", "localhost"];
        for name in names {
            hosts.get(name).unwrap().answered(Duration::ZERO);
        }
        for number in 0..2 * MAX_HOSTS {
            hosts.get(&format!("{number}.x{number}.wildcard.example")).unwrap().answered(Duration::ZERO);
        }
        assert!(hosts.known.lock().unwrap().len() <= MAX_HOSTS);
        for name in names {
            assert_eq!(hosts.get(name).unwrap().standing(), Standing::Proven, "{name}");
        }
    }

    #[test]
    fn so_many_hosts_are_remembered_and_the_proven_ones_longest() {
        let hosts = hosts(1);
        let good = hosts.get("good").unwrap();
        good.answered(Duration::ZERO);
        drop(good);
        for number in 0..2 * MAX_HOSTS {
            hosts.get(&number.to_string()).unwrap().failed(Instant::now());
        }
        assert!(hosts.known.lock().unwrap().len() <= MAX_HOSTS);
        assert_eq!(hosts.get("good").unwrap().standing(), Standing::Proven);
        let held: Vec<_> = (0..2 * MAX_HOSTS).map(|number| hosts.get(&format!("held{number}"))).collect();
        assert!(held.iter().flatten().count() <= MAX_HOSTS, "those under way are not forgotten");
        assert!(held.last().unwrap().is_none());
    }
}
