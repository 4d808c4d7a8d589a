//! The hosts that pushes go to. A queue's owner names the host, and it need not answer: so each host has permits of its
//! own and a breaker, and those that answered promptly the last time share nothing with the others. Some hundred queues
//! at a host that never answers, or at as many hosts, delay nobody else's pushes.
//!
//! A host that was not tried yet, as none was after a restart, is tried with one push. Such first tries have permits of their
//! own, which no host that failed shares, and families of hosts ([`family_of`]) take turns at them: of one family a quarter
//! are under way at once, and one waits. While others wait, a first try gets no more time than proves a host. So the first
//! push to a host of a family of its own waits for the hosts under way (5 s), and then for one host of each other family, as
//! many at once as there are permits, for 2 s each: with 64 permits, 15 s behind 300 silent families, and not at all behind
//! one, however many hosts that has. Behind silent hosts of its own family it waits for all of them, 16 at once.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postern_protocol::name::family;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::PushConfig;

/// Hosts that are remembered, at most, besides one for each push that can wait.
const MAX_HOSTS: usize = 4096;
/// Pushes under way at once to a host that failed.
const PROBES: usize = 4;
/// Part of the first tries under way at once that are to hosts of one family.
const FAMILY_PART: usize = 4;
/// An answer within this time proves a host.
const PROMPT: Duration = Duration::from_secs(2);
/// Time that a push to a host gets which is not known to answer.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Hosts {
    known: Mutex<Known>,
    /// Hosts that are remembered, at most.
    most: usize,
    at_once: usize,
    at_once_per_host: usize,
    breaker: Breaker,
    /// Pushes under way to proven hosts.
    proven: Semaphore,
    /// Pushes under way to hosts that were not tried yet.
    untried: Semaphore,
    /// Pushes under way to hosts that failed.
    failing: Semaphore,
}

#[derive(Default)]
struct Known {
    /// By their names, with ports.
    hosts: HashMap<String, Arc<Host>>,
    families: HashMap<String, Arc<Family>>,
}

/// The operator's rules for when a host is left alone, and for how long.
#[derive(Debug, Clone, Copy)]
struct Breaker {
    /// Failures in a row after which it is.
    failures: u32,
    /// The first time; each time after that is twice as long, up to the longest.
    first_pause: Duration,
    longest_pause: Duration,
}

impl Breaker {
    fn of(config: &PushConfig) -> Self {
        Self {
            failures: config.failures,
            first_pause: Duration::from_secs(config.pause_seconds),
            longest_pause: Duration::from_secs(config.longest_pause_seconds),
        }
    }

    /// The time for which a host is left alone that was left alone so many times in a row.
    fn pause(&self, pauses: u32) -> Duration {
        self.first_pause.saturating_mul(2u32.saturating_pow(pauses)).min(self.longest_pause)
    }
}

/// Hosts of which somebody who has one can have as many as they like.
struct Family {
    name: String,
    /// The place of the one host that waits for a permit among all that were not tried yet.
    turn: Semaphore,
    /// First tries under way.
    first: Semaphore,
}

pub struct Host {
    family: Arc<Family>,
    breaker: Breaker,
    state: Mutex<State>,
    /// The first try, if it is under way.
    first: Semaphore,
    proven: Semaphore,
    failing: Semaphore,
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
    /// Time for its answer, if it has less than to a proven host.
    pub time: Option<Duration>,
    _of_host: SemaphorePermit<'a>,
    _of_family: Option<SemaphorePermit<'a>>,
    _of_all: SemaphorePermit<'a>,
}

impl Hosts {
    pub fn new(config: &PushConfig) -> Self {
        Self {
            known: Mutex::default(),
            most: MAX_HOSTS.saturating_add(config.waiting),
            at_once: config.at_once,
            at_once_per_host: config.at_once_per_host,
            breaker: Breaker::of(config),
            proven: Semaphore::new(config.at_once),
            untried: Semaphore::new(config.at_once),
            failing: Semaphore::new(config.at_once),
        }
    }

    /// The host with this name, which may have a port; none if there are too many with pushes under way.
    pub fn get(&self, name: &str) -> Option<Arc<Host>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.hosts.get(name) {
            return Some(host.clone());
        }
        if known.hosts.len() >= self.most {
            known.forget_some(self.most);
            if known.hosts.len() >= self.most {
                return None;
            }
        }
        let of = family_of(name);
        let family =
            known.families.entry(of.clone()).or_insert_with(|| Arc::new(Family::new(of, self.at_once)));
        let host = Arc::new(Host::new(family.clone(), self.at_once_per_host, self.breaker));
        known.hosts.insert(name.to_owned(), host.clone());
        Some(host)
    }

    /// Waits until a push may go to a host.
    ///
    /// # Errors
    /// The time for which the host is left alone.
    pub async fn permit<'a>(&'a self, host: &'a Host) -> Result<Permit<'a>, Duration> {
        loop {
            let standing = host.open_standing()?;
            let of_host = match standing {
                Standing::Unknown => &host.first,
                Standing::Proven => &host.proven,
                Standing::Failing => &host.failing,
            };
            let of_host = take(of_host).await;
            // Others may have found out meanwhile, here and below: then it waits with those where the host stands now.
            if host.open_standing()? != standing {
                continue;
            }
            let (of_family, of_all) = match standing {
                Standing::Unknown => {
                    let _turn = take(&host.family.turn).await;
                    let of_family = take(&host.family.first).await;
                    (Some(of_family), take(&self.untried).await)
                }
                Standing::Proven => (None, take(&self.proven).await),
                Standing::Failing => (None, take(&self.failing).await),
            };
            if host.open_standing()? == standing {
                let others_wait = of_family.is_some()
                    && (self.untried.available_permits() == 0 || host.family.first.available_permits() == 0);
                let time = match standing {
                    Standing::Proven => None,
                    _ if others_wait => Some(PROMPT),
                    _ => Some(UNPROVEN_TIMEOUT),
                };
                return Ok(Permit { time, _of_host: of_host, _of_family: of_family, _of_all: of_all });
            }
        }
    }
}

impl Known {
    /// Makes room for another host where `most` are remembered: those with a push under way stay, and those that are proven.
    fn forget_some(&mut self, most: usize) {
        let in_use = |host: &Arc<Host>| Arc::strong_count(host) > 1;
        self.hosts.retain(|_, host| in_use(host) || host.standing() == Standing::Proven);
        if self.hosts.len() >= most {
            // Somebody has thousands of hosts: those of the largest family are forgotten, proven or not.
            let mut of_family: HashMap<&str, usize> = HashMap::new();
            for host in self.hosts.values().filter(|host| !in_use(host)) {
                *of_family.entry(&host.family.name).or_default() += 1;
            }
            let largest = of_family.into_iter().max_by_key(|(_, hosts)| *hosts);
            let largest = largest.map(|(name, _)| name.to_owned()).unwrap_or_default();
            self.hosts.retain(|_, host| in_use(host) || host.family.name != largest);
        }
        self.families.retain(|_, family| Arc::strong_count(family) > 1);
    }
}

impl Family {
    fn new(name: String, at_once: usize) -> Self {
        Self { name, turn: Semaphore::new(1), first: Semaphore::new(at_once.div_ceil(FAMILY_PART)) }
    }
}

/// The family of a host: of a name, what it shares with all that its owner can have ([`family`]); of an address, its network
/// of 24 bits, or 48 of IPv6.
fn family_of(name: &str) -> String {
    let host = match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
        Err(_) => family(host).to_owned(),
    }
}

async fn take(permits: &Semaphore) -> SemaphorePermit<'_> {
    permits.acquire().await.expect("it is never closed")
}

impl Host {
    fn new(family: Arc<Family>, at_once: usize, breaker: Breaker) -> Self {
        Self {
            family,
            breaker,
            state: Mutex::default(),
            first: Semaphore::new(1),
            proven: Semaphore::new(at_once),
            failing: Semaphore::new(PROBES.min(at_once)),
        }
    }

    pub fn standing(&self) -> Standing {
        self.state().standing
    }

    /// Where it stands, if it is not left alone.
    ///
    /// # Errors
    /// The time for which it still is.
    fn open_standing(&self) -> Result<Standing, Duration> {
        match self.pause(Instant::now()) {
            Some(pause) => Err(pause),
            None => Ok(self.standing()),
        }
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
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.breaker.failures {
            state.closed_until = Some(now + self.breaker.pause(state.pauses));
            state.pauses = state.pauses.saturating_add(1);
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
        let config = PushConfig { at_once, at_once_per_host: at_once, waiting: 1, ..PushConfig::default() };
        Hosts::new(&config)
    }

    /// Fails as often as a host has to before it is left alone.
    fn fail(host: &Host) {
        (0..PushConfig::default().failures).for_each(|_| host.failed(Instant::now()));
    }

    fn first_pause() -> Duration {
        Duration::from_secs(PushConfig::default().pause_seconds)
    }

    /// Whether a push may go at once.
    async fn goes<'a>(hosts: &'a Hosts, host: &'a Host) -> Option<Permit<'a>> {
        let permit = tokio::time::timeout(Duration::from_millis(20), hosts.permit(host)).await;
        permit.ok().and_then(Result::ok)
    }

    #[test]
    fn a_host_that_does_not_answer_is_left_alone_for_longer_and_longer() {
        let host = hosts(8).get("host").unwrap();
        let mut now = Instant::now();
        for _ in 1..PushConfig::default().failures {
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

    #[test]
    fn the_operator_says_after_how_many_failures_and_for_how_long_a_host_is_left_alone() {
        let config =
            PushConfig { failures: 1, pause_seconds: 5, longest_pause_seconds: 15, ..PushConfig::default() };
        let host = Hosts::new(&config).get("host").unwrap();
        let mut now = Instant::now();
        for seconds in [5, 10, 15, 15] {
            host.failed(now);
            assert_eq!(host.pause(now), Some(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert_eq!(Breaker::of(&config).pause(u32::MAX), Duration::from_secs(15));
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

        // Hosts that failed wait by themselves, with those that are late, and take nothing from hosts that are tried first.
        let mut of_failing = Vec::new();
        for host in &bad[4..] {
            host.failed(Instant::now());
            of_failing.extend(goes(&hosts, host).await);
        }
        assert_eq!(of_failing.len(), 4);
        good.answered(PROMPT * 2);
        assert!(goes(&hosts, &good).await.is_none(), "it is late, and waits with those that failed");
        drop(under_way);
        let new = hosts.get("new").unwrap();
        assert!(goes(&hosts, &new).await.is_some(), "its first try waits for no second one");
    }

    #[tokio::test]
    async fn families_take_turns_at_first_tries_and_none_has_more_than_a_quarter() {
        let hosts = hosts(8);
        let of_one: Vec<_> =
            (0..100).map(|number| hosts.get(&format!("a{number}.one.example:443")).unwrap()).collect();
        let mut waiting: Vec<_> = of_one.iter().map(|host| Box::pin(hosts.permit(host))).collect();
        let mut under_way = Vec::new();
        for permit in &mut waiting {
            under_way.extend(tokio::time::timeout(Duration::from_millis(5), permit).await.ok());
        }
        assert_eq!(under_way.len(), 2, "the others wait");
        let others: Vec<_> = (0..6).map(|number| hosts.get(&format!("other{number}")).unwrap()).collect();
        let mut of_others = Vec::new();
        for host in &others {
            of_others.extend(goes(&hosts, host).await);
        }
        assert_eq!(of_others.len(), 6, "whatever waits of another family");

        // All permits are taken. One of the next goes to the new host of another family, though many came before it.
        let good = hosts.get("good").unwrap();
        let mut of_good = Box::pin(hosts.permit(&good));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut of_good).await.is_err(), "it waits");
        under_way.clear();
        for permit in &mut waiting[2..] {
            under_way.extend(tokio::time::timeout(Duration::from_millis(5), permit).await.ok());
        }
        assert_eq!(under_way.len(), 1, "two are free, and one is kept for the other family");
        assert!(tokio::time::timeout(Duration::from_millis(20), of_good).await.is_ok(), "it goes");
    }

    #[tokio::test]
    async fn a_first_try_gets_no_more_time_than_proves_a_host_while_others_may_wait() {
        let hosts = hosts(8);
        let of_one: Vec<_> =
            (0..2).map(|number| hosts.get(&format!("a{number}.one.example")).unwrap()).collect();
        let first = goes(&hosts, &of_one[0]).await.unwrap();
        assert_eq!(first.time, Some(UNPROVEN_TIMEOUT));
        let second = goes(&hosts, &of_one[1]).await.unwrap();
        assert_eq!(second.time, Some(PROMPT), "no more of its family can go");
        drop((first, second));
        of_one[0].failed(Instant::now());
        of_one[1].answered(Duration::ZERO);
        assert_eq!(goes(&hosts, &of_one[0]).await.unwrap().time, Some(UNPROVEN_TIMEOUT));
        assert_eq!(goes(&hosts, &of_one[1]).await.unwrap().time, None);
    }

    #[test]
    fn a_family_is_a_name_with_all_below_it_or_a_network() {
        for (name, family) in [
            ("push.example.com:443", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("localhost:8080", "localhost"),
            ("192.0.2.7:8443", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.0/24"),
            ("[2001:db8:1:2::3]:443", "2001:db8:1::/48"),
            ("[2001:db8::1]", "2001:db8:0::/48"),
        ] {
            assert_eq!(family_of(name), family, "{name}");
        }
    }

    #[tokio::test]
    async fn one_host_does_not_take_all_that_others_could_have() {
        let hosts = hosts(64);
        let (slow, other) = (hosts.get("slow").unwrap(), hosts.get("other").unwrap());
        let mut under_way = Vec::new();
        for _ in 0..10 {
            under_way.extend(goes(&hosts, &slow).await);
        }
        assert_eq!(under_way.len(), 1, "one push finds out");
        slow.failed(Instant::now());
        for _ in 0..10 {
            under_way.extend(goes(&hosts, &slow).await);
        }
        assert_eq!(under_way.len(), 1 + PROBES);
        assert!(goes(&hosts, &other).await.is_some());
    }

    #[tokio::test]
    async fn a_host_that_is_left_alone_gets_no_push_and_then_a_few_until_it_answers() {
        let hosts = hosts(64);
        let host = hosts.get("host").unwrap();
        fail(&host);
        let pause = hosts.permit(&host).await.err().expect("it is left alone");
        assert!(pause > first_pause() / 2 && pause <= first_pause(), "{pause:?}");
        // The pause is over: a few find out whether it answers, and the others wait for what they find.
        host.state().closed_until = Some(Instant::now());
        let mut probes = Vec::new();
        for _ in 0..10 {
            probes.extend(goes(&hosts, &host).await);
        }
        assert_eq!(probes.len(), PROBES);
        host.failed(Instant::now());
        let pause = hosts.permit(&host).await.err().expect("one failure is enough now");
        assert!(pause > first_pause() && pause <= first_pause() * 2, "{pause:?}");
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
                under_way.extend(goes(&hosts, &host).await);
            }
            assert!(!under_way.is_empty());
            let mut waiting = std::pin::pin!(hosts.permit(&host));
            let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
            assert!(early.is_err(), "it waits");
            fail(&host);
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
        assert!(hosts.known.lock().unwrap().hosts.len() <= hosts.most);
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
        assert!(hosts.known.lock().unwrap().hosts.len() <= hosts.most);
        assert_eq!(hosts.get("good").unwrap().standing(), Standing::Proven);
        let held: Vec<_> = (0..2 * MAX_HOSTS).map(|number| hosts.get(&format!("held{number}"))).collect();
        assert!(held.iter().flatten().count() <= hosts.most, "those under way are not forgotten");
        assert!(held.last().unwrap().is_none());
    }

    #[test]
    fn as_many_hosts_as_pushes_can_wait_for_take_no_other_ones_place_in_memory() {
        let config = PushConfig { waiting: 2 * MAX_HOSTS, ..PushConfig::default() };
        let hosts = Hosts::new(&config);
        hosts.get("good").unwrap().answered(Duration::ZERO);
        let held: Vec<_> = (0..config.waiting).map(|number| hosts.get(&format!("held{number}"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(hosts.get("new").is_some());
        assert_eq!(hosts.get("good").unwrap().standing(), Standing::Proven);
    }
}
