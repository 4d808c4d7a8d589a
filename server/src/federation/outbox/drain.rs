//! The drain: each server process looks for lanes that are due, and makes attempts at them, so many at once.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use postern_protocol::federation::Deliveries;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until},
};

use super::{
    PATIENCE,
    attempt::{PROBE_TIME, TIME},
    claim::Claim,
};
use crate::{
    database::{SqlOutcome, outcome},
    federation::Federation,
};

/// Time between two looks for lanes that are due, which nobody rang for.
const SWEEP: Duration = Duration::from_secs(1);
/// Time for which an attempt has its lane, in seconds, and the time after which it takes it for longer: the lanes of a
/// process that ended are free within seconds.
const LEASE: i32 = 10;
const EXTEND: Duration = Duration::from_secs(3);
/// Time between two looks for lanes that nobody knows of.
const FIND: Duration = Duration::from_secs(10);
/// Part of the places, one in so many, for homeservers that were not tried lately, as many for slow ones, and as many for
/// those that fail.
const OTHERS: usize = 2;
/// Part of the places, one in so many, for homeservers that never took a delivery.
const STRANGERS: usize = 8;
/// Part of the places of a standing, one in so many, that a family of names has at most.
const OF_FAMILY: usize = 4;
/// Bytes of deliveries in a request, sealed. A single one may have more.
const BATCH_BYTES: i64 = 768 * 1024;
/// The same where the homeserver takes long, failed before, or never took anything: a line that was too slow for more carries
/// these, and those of several lanes at once; a host that does not answer has hardly more time for them than for one.
const PROBE_BYTES: i64 = 96 * 1024;
/// Bytes of deliveries, sealed, that go on a connection which other requests are on, at most, where the line may be slow: what
/// is behind more of them, such as a sign of life, may come so late that the connection counts as dead.
const SHARED_BYTES: usize = 128 * 1024;
/// The same where attempts at several lanes are made at once.
const SHARED_BY_LANES: usize = Deliveries::FRAME;

outcome! {
    pub ClaimLaneOutcome: "federation.claim_lane_outcome" {
        Claimed = "claimed",
        None = "none",
    }
}

/// The standing of other homeservers. Those of each kind have attempts of their own.
#[derive(Clone, Copy)]
enum Standing {
    /// It took its last ones within minutes, and took no time.
    Prompt,
    /// It takes deliveries.
    Good,
    /// It does, and takes long.
    Slow,
    Failing,
    /// It never took a delivery: anybody can name some.
    Stranger,
}

impl Standing {
    /// The name in the database.
    fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Good => "good",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Stranger => "stranger",
        }
    }

    /// The time for an attempt at deliveries of so many bytes.
    fn time(self, bytes: usize) -> Duration {
        match self {
            Self::Prompt | Self::Good => TIME + Deliveries::carriage(bytes),
            Self::Slow => TIME + Deliveries::carriage_beside(bytes),
            Self::Failing | Self::Stranger => PROBE_TIME + Deliveries::carriage(bytes),
        }
    }

    /// Whether its line may be slow, and several lanes are tried at once all the same.
    fn shares_line(self) -> bool {
        matches!(self, Self::Slow)
    }

    /// Bytes of deliveries in a request, sealed.
    fn batch_bytes(self) -> i64 {
        match self {
            Self::Prompt | Self::Good => BATCH_BYTES,
            Self::Slow | Self::Failing | Self::Stranger => PROBE_BYTES,
        }
    }

    /// Bytes of deliveries, sealed, that go on a connection which other requests are on, at most.
    fn shared_bytes(self) -> usize {
        match self {
            Self::Prompt | Self::Good => usize::MAX,
            Self::Slow => SHARED_BY_LANES,
            Self::Failing | Self::Stranger => SHARED_BYTES,
        }
    }
}

/// Attempts under way in each family of names. None takes the places of all the others.
#[derive(Clone)]
struct Families {
    most: usize,
    under_way: Arc<Mutex<HashMap<String, usize>>>,
}

/// An attempt in the count of its family.
struct Share {
    families: Families,
    family: String,
}

impl Families {
    fn new(at_once: usize) -> Self {
        Self { most: at_once.div_ceil(OF_FAMILY), under_way: Arc::default() }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, family: &str) -> Share {
        *self.under_way().entry(family.to_owned()).or_default() += 1;
        Share { families: self.clone(), family: family.to_owned() }
    }

    /// Those that have their share of the places.
    fn busy(&self) -> Vec<String> {
        let under_way = self.under_way();
        let busy = under_way.iter().filter(|(_, attempts)| **attempts >= self.most);
        busy.map(|(family, _)| family.clone()).collect()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut under_way = self.families.under_way();
        if let Some(attempts) = under_way.get_mut(&self.family) {
            *attempts -= 1;
            if *attempts == 0 {
                under_way.remove(&self.family);
            }
        }
    }
}

impl Federation {
    /// Drains the outbox for ever. Homeservers of each standing have their own places, so that those that do not answer, or
    /// take long, do not take those of the others.
    pub async fn drain(&self) {
        tokio::join!(
            self.drain_lanes(Standing::Prompt),
            self.drain_lanes(Standing::Good),
            self.drain_lanes(Standing::Slow),
            self.drain_lanes(Standing::Failing),
            self.drain_lanes(Standing::Stranger),
            self.keep_leases(),
            self.find_due(),
        );
    }

    async fn drain_lanes(&self, standing: Standing) {
        let at_once = match standing {
            Standing::Prompt => self.deliveries_at_once,
            Standing::Good | Standing::Slow | Standing::Failing => self.deliveries_at_once.div_ceil(OTHERS),
            Standing::Stranger => self.deliveries_at_once.div_ceil(STRANGERS),
        };
        let places = Arc::new(Semaphore::new(at_once));
        // Attempts at those that were not slow yet, and take long, wait among each other.
        let late = Arc::new(Semaphore::new(at_once));
        let families = Families::new(at_once);
        // The family whose turn was the last one.
        let mut turn = String::new();
        let mut rung = self.outbox.bell.0.subscribe();
        let mut attempts = JoinSet::new();
        let mut is_told = false;
        loop {
            let sweep = Instant::now() + SWEEP;
            loop {
                let place = places.clone().acquire_owned().await.expect("it is never closed");
                let claim = match self.claim(standing, &mut turn, &families.busy()).await {
                    Ok(Some(claim)) => claim,
                    Ok(None) => {
                        is_told = false;
                        break;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_told, true) {
                            tracing::warn!("cannot look for deliveries to other homeservers: {error:#}");
                        }
                        break;
                    }
                };
                let share = families.enter(&turn);
                let (federation, late) = (self.clone(), late.clone());
                attempts.spawn(async move {
                    let crowded = async {
                        let _place = match standing {
                            Standing::Prompt | Standing::Good => {
                                sleep(PATIENCE).await;
                                // The place is free for a prompt one.
                                drop(place);
                                match late.try_acquire_owned() {
                                    Ok(late) => late,
                                    Err(_) => return,
                                }
                            }
                            // Nobody else waits for these.
                            Standing::Slow | Standing::Failing | Standing::Stranger => place,
                        };
                        pending::<()>().await;
                    };
                    federation.attempt(&claim, standing.time(claim.bytes()), crowded).await;
                    drop(share);
                    // The lane may have more.
                    federation.outbox.bell.ring();
                });
                while attempts.try_join_next().is_some() {}
            }
            tokio::select! {
                _ = rung.changed() => {}
                () = sleep_until(sweep) => {}
            }
        }
    }

    /// Keeps the lanes of attempts under way.
    async fn keep_leases(&self) {
        let mut turns = interval(EXTEND);
        loop {
            turns.tick().await;
            let holders: Vec<[u8; 16]> = self.outbox.under_way().iter().copied().collect();
            if holders.is_empty() {
                continue;
            }
            let holders: Vec<&[u8]> = holders.iter().map(<[u8; 16]>::as_slice).collect();
            let sql = "SELECT federation.extend_leases($1, $2)";
            if let Err(error) = self.home.database.query_one(sql, &[&holders, &LEASE]).await {
                tracing::debug!("the lanes of attempts are not kept: {error}");
            }
        }
    }

    /// Finds lanes that nobody knows of, as after a crash of the database.
    async fn find_due(&self) {
        let mut turns = interval(FIND);
        loop {
            turns.tick().await;
            match self.home.database.query_one("SELECT federation.find_due()", &[]).await {
                Ok(_) => self.outbox.bell.ring(),
                Err(error) => tracing::debug!("cannot find what waits for other homeservers: {error}"),
            }
        }
    }

    /// Claims a lane that is due, of the family of names after the one whose `turn` was the last, but for those that are
    /// `busy`.
    async fn claim(
        &self,
        standing: Standing,
        turn: &mut String,
        busy: &[String],
    ) -> anyhow::Result<Option<Claim>> {
        let holder: [u8; 16] = rand::random();
        let (most, most_bytes) = (i32::try_from(Deliveries::MOST)?, standing.batch_bytes());
        let row = self
            .home
            .database
            .query_one(
                "SELECT outcome, family, domain, lane, instance, first, before, ids, sealed, is_last_try, is_apart,
                        is_last_break
                   FROM federation.claim_lane($1, $2, $3, $4, $5, $6, $7)",
                &[&standing.name(), &holder.as_slice(), &LEASE, &most, &most_bytes, &*turn, &busy],
            )
            .await?;
        *turn = row.get("family");
        match ClaimLaneOutcome::of(&row)? {
            ClaimLaneOutcome::None => Ok(None),
            ClaimLaneOutcome::Claimed => {
                Claim::of(holder, &row, standing.shared_bytes(), standing.shares_line()).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_time_for_each_request_on_the_slowest_line() {
        let largest = Deliveries::MOST_BYTES;
        for standing in
            [Standing::Prompt, Standing::Good, Standing::Slow, Standing::Failing, Standing::Stranger]
        {
            let name = standing.name();
            let request = Deliveries::ANSWER + Deliveries::carriage(largest);
            assert!(standing.time(largest) > request, "{name}");
            let batch = usize::try_from(standing.batch_bytes()).unwrap();
            assert!(batch < largest, "{name}");
        }
        for bytes in [0, Deliveries::MOST_BESIDE, largest] {
            let request = Deliveries::ANSWER + Deliveries::carriage_beside(bytes);
            assert!(Standing::Slow.time(bytes) > request, "{bytes} bytes");
        }
        // One that does not answer keeps its place for not much longer than if nothing was sent.
        let batch = usize::try_from(PROBE_BYTES).unwrap();
        assert!(Standing::Stranger.time(batch) < PROBE_TIME * 3 / 2);
    }

    #[test]
    fn lanes_that_share_a_slow_line_have_room_on_it() {
        let batch = usize::try_from(Standing::Slow.batch_bytes()).unwrap();
        assert!(Standing::Slow.shares_line() && batch <= Deliveries::MOST_BESIDE);
        assert!(Deliveries::LANES_AT_ONCE * Standing::Slow.shared_bytes() <= SHARED_BYTES);
    }

    /// A place is held for as long as the request may take, whose homeserver may never answer.
    #[test]
    fn a_small_request_to_a_slow_homeserver_has_hardly_more_time_than_another_one() {
        let small = Deliveries::carriage_beside(1024);
        assert!(small <= Deliveries::ANSWER / 2, "{small:?}");
    }

    #[test]
    fn a_family_of_names_has_a_part_of_the_places() {
        let families = Families::new(8);
        let one = families.enter("evil.example");
        assert!(families.busy().is_empty());
        let another = families.enter("evil.example");
        let _good = families.enter("good.example");
        assert_eq!(families.busy(), ["evil.example"]);
        drop(one);
        assert!(families.busy().is_empty());
        drop(another);
        assert_eq!(families.under_way().len(), 1, "those without attempts are forgotten");
    }
}
