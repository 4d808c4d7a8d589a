//! The rest of this domain's allowance of tokens at other homeservers (AAS-2), which this server's people and its
//! deliveries share. The last part is for the deliveries: else a few people could use it up, and everybody's messages
//! would wait until the next day. Before that, in its second half, no network takes more than a share while others take
//! something, too: a token does not tell whose it is, so people of other domains could use the allowance up with theirs.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use postern_api::RateLimit;
use postern_protocol::name::Domain;

/// The part of an allowance that is for deliveries: one in so many.
const PARTS: u64 = 5;
/// The part of an allowance beyond which one network gets nothing in its second half: one in so many.
const SHARES: u64 = 20;
/// Networks that are remembered, each homeserver's apart.
const MAX_NETWORKS: usize = 10_000;
/// Homeservers that are remembered. Another one takes the place of the one that people on the fewest networks asked.
const MAX_HOMESERVERS: usize = 1000;
/// Time for which an allowance is remembered, at most, whatever its homeserver says: they are for a day.
const SECONDS: u64 = 24 * 60 * 60;

/// The allowances at other homeservers as far as they are used. Each process finds out for itself.
#[derive(Default)]
pub struct Allowances(Mutex<HashMap<Domain, Allowance>>);

/// The allowance at one homeserver.
struct Allowance {
    tokens: u64,
    remaining: u64,
    /// The time at which it is whole again.
    until: Instant,
    /// Tokens that people on each network took since it was whole.
    taken: HashMap<String, u64>,
}

/// The reason why somebody gets nothing of an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Spared {
    #[error("what is left of this domain's allowance there is for the messages to it")]
    ForDeliveries,
    #[error("others on the same network took their share of this domain's allowance there")]
    ForOthers,
}

impl Allowances {
    /// Notes how much is left as another homeserver says in its answer to a request for tokens: of people on a network,
    /// or for deliveries.
    pub fn note(&self, domain: &Domain, limit: RateLimit, taken: Option<(String, u64)>, now: Instant) {
        let mut allowances = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.retain(|_, allowance| allowance.until > now);
        let until = now + limit.resets_in.min(Duration::from_secs(SECONDS));
        if allowances.len() >= MAX_HOMESERVERS && !allowances.contains_key(domain) {
            let least = allowances.iter().min_by_key(|(_, allowance)| allowance.taken.len());
            if let Some(least) = least.map(|(domain, _)| domain.clone()) {
                allowances.remove(&least);
            }
        }
        let allowance = allowances.entry(domain.clone()).or_insert_with(|| Allowance {
            tokens: 0,
            remaining: 0,
            until,
            taken: HashMap::new(),
        });
        (allowance.tokens, allowance.remaining, allowance.until) = (limit.allowance, limit.remaining, until);
        if let Some((network, tokens)) = taken {
            if allowance.taken.len() >= MAX_NETWORKS {
                allowance.taken.clear();
            }
            *allowance.taken.entry(network).or_default() += tokens;
        }
    }

    /// Whether people on a network get tokens.
    ///
    /// # Errors
    /// The reason why they get none.
    pub fn spares(&self, domain: &Domain, network: &str, now: Instant) -> Result<(), Spared> {
        let allowances = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(allowance) = allowances.get(domain).filter(|allowance| allowance.until > now) else {
            return Ok(());
        };
        let taken = allowance.taken.get(network).copied().unwrap_or_default();
        let is_greedy = taken >= (allowance.tokens / SHARES).max(1) && allowance.taken.len() > 1;
        if allowance.remaining < allowance.tokens / PARTS {
            Err(Spared::ForDeliveries)
        } else if allowance.remaining < allowance.tokens / 2 && is_greedy {
            Err(Spared::ForOthers)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(remaining: u64) -> RateLimit {
        RateLimit { allowance: 100, remaining, resets_in: Duration::from_secs(60) }
    }

    #[test]
    fn the_last_fifth_of_an_allowance_is_not_for_people_until_it_is_whole_again() {
        let (allowances, start) = (Allowances::default(), Instant::now());
        let (domain, other) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        let spares = |domain: &Domain, now| allowances.spares(domain, "192.0.2.0", now);
        allowances.note(&domain, limit(20), None, start);
        assert_eq!(spares(&domain, start), Ok(()));
        allowances.note(&domain, limit(19), None, start);
        assert_eq!(spares(&domain, start + Duration::from_secs(59)), Err(Spared::ForDeliveries));
        assert_eq!(spares(&domain, start + Duration::from_secs(60)), Ok(()));
        assert_eq!(spares(&other, start), Ok(()));
        // Its operator allows more.
        allowances.note(&domain, limit(100), None, start);
        assert_eq!(spares(&domain, start), Ok(()));
    }

    #[test]
    fn many_names_have_no_neighbours_allowance_forgotten_and_none_is_remembered_for_more_than_a_day() {
        let (allowances, start) = (Allowances::default(), Instant::now());
        let neighbour = "b.example".parse().unwrap();
        let note = |domain: &Domain, network: &str| {
            let month = RateLimit { resets_in: Duration::from_secs(31 * SECONDS), ..limit(10) };
            allowances.note(domain, month, Some((network.to_owned(), 1)), start);
        };
        note(&neighbour, "192.0.2.0");
        note(&neighbour, "198.51.100.0");
        for number in 0..2 * MAX_HOMESERVERS {
            note(&format!("x{number}.evil.example").parse().unwrap(), "203.0.113.0");
        }
        assert_eq!(allowances.0.lock().unwrap().len(), MAX_HOMESERVERS);
        let spares =
            |seconds| allowances.spares(&neighbour, "192.0.2.0", start + Duration::from_secs(seconds));
        assert_eq!(spares(SECONDS - 1), Err(Spared::ForDeliveries));
        assert_eq!(spares(SECONDS), Ok(()));
    }

    #[test]
    fn in_the_second_half_of_an_allowance_a_network_that_took_its_share_leaves_the_rest_to_others() {
        let (allowances, start) = (Allowances::default(), Instant::now());
        let domain = "a.example".parse().unwrap();
        let take = |network: &str, tokens, remaining, now| {
            allowances.note(&domain, limit(remaining), Some((network.to_owned(), tokens)), now);
        };
        let spares = |network: &str, now| allowances.spares(&domain, network, now);
        take("greedy", 51, 49, start);
        assert_eq!(spares("greedy", start), Ok(()), "nobody else takes anything");
        for number in 0..5 {
            assert_eq!(spares("modest", start), Ok(()), "{number}");
            take("modest", 1, 48 - number, start);
            assert_eq!(spares("greedy", start), Err(Spared::ForOthers));
        }
        assert_eq!(spares("modest", start), Err(Spared::ForOthers), "a twentieth");
        assert_eq!(spares("another", start), Ok(()));
        take("another", 1, 50, start);
        assert_eq!(spares("greedy", start), Ok(()), "there is enough for all: its operator allows more");
        let later = start + Duration::from_secs(61);
        for network in ["another", "modest"] {
            take(network, 1, 40, later);
        }
        assert_eq!(spares("greedy", later), Ok(()), "it is whole again");
    }
}
