//! An attempt at a lane: its first deliveries are sent, and one that the other homeserver does not take is found by
//! halving.

use std::time::Duration;

use postern_api::{Error, Request};
use postern_protocol::{
    DeliveryId,
    federation::{Deliveries, Delivery, NumberedDelivery},
    problem::LastDelivery,
};
use tokio::time::{Instant, timeout};

use super::{
    PATIENCE, UnderWay,
    claim::{Claim, halve},
    reception::{OVERSIZED, Reception},
};
use crate::{
    database::{DatabaseError, UnknownOutcome},
    federation::{
        Federation,
        discovery::{DiscoveryError, Found},
        neighbour::{Neighbour, is_broken},
        wallet::NoToken,
    },
};

/// Time for an attempt, beyond that in which a slow line carries its deliveries. A request has half a minute beyond that, and
/// some are made again.
pub(super) const TIME: Duration = Duration::from_secs(120);
/// The same for an attempt at a homeserver that failed before, or never took anything: one request has it all.
pub(super) const PROBE_TIME: Duration = Duration::from_secs(35);
/// Requests of an attempt: deliveries that are too many for the other homeserver are halved, and tokens may be spent.
const REQUESTS: usize = 16;
/// Tokens of an attempt that the other homeserver says were spent before, at most.
const SPENT: usize = 2;
/// The reason for which a delivery is set aside that breaks its connections, as federation.is_retried has it.
const BROKEN: &str = "breaks the connection";

/// Seconds within which a lane is tried again that found no place here, or whose domain was blocked meanwhile.
const NO_PLACE: i32 = 2;
/// Seconds within which a lane is tried again that this server's own database let down.
const NO_DATABASE: i32 = 10;
/// Seconds within which a lane is tried again whose deliveries this process cannot open.
const NO_KEY: i32 = 60;

/// The reason why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error("the other homeserver is not known: {0}")]
    Discovery(#[from] DiscoveryError),
    #[error("there is no token: {0}")]
    NoToken(#[from] NoToken),
    #[error("{0}")]
    Call(#[from] Error),
    #[error("a delivery does not open under the master keys of this process")]
    MasterKey,
    #[error("it takes no deliveries: {0}")]
    Refused(String),
    #[error("it takes others, and not the first one: {0}")]
    Delivery(String),
    #[error("the connection broke, under this request or another one")]
    Suspect,
    #[error("it takes others, and the connection breaks under the first one")]
    Broken,
    #[error("the answer is not what the protocol says")]
    Answer,
    #[error("the other homeserver counts otherwise")]
    Numbering,
    #[error("it took too long")]
    Time,
    #[error("too many others take long at this moment")]
    Crowded,
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Outcome(#[from] UnknownOutcome),
}

impl AttemptError {
    /// The seconds within which the lane is tried again, where the attempt says nothing of the other homeserver: this one
    /// lacked something, or its operator blocked the domain meanwhile, which the next claim finds.
    fn put_off(&self) -> Option<i32> {
        match self {
            Self::Crowded
            | Self::Discovery(DiscoveryError::Busy | DiscoveryError::Blocked)
            | Self::NoToken(NoToken::Busy | NoToken::Blocked) => Some(NO_PLACE),
            Self::Database(_)
            | Self::Discovery(DiscoveryError::Database(_))
            | Self::NoToken(NoToken::Database(_)) => Some(NO_DATABASE),
            Self::MasterKey => Some(NO_KEY),
            _ => None,
        }
    }
}

impl Federation {
    /// Makes an attempt within a time, and notes its outcome. It ends without an answer when `crowded` does: deliveries that
    /// the other homeserver took by then are repeats later.
    pub(super) async fn attempt(&self, claim: &Claim, time: Duration, crowded: impl Future<Output = ()>) {
        self.outbox.under_way().insert(claim.holder);
        let _under_way = UnderWay(&self.outbox, claim.holder);
        let attempted = tokio::select! {
            attempted = timeout(time, self.deliver(claim)) => attempted.unwrap_or(Err(AttemptError::Time)),
            () = crowded => Err(AttemptError::Crowded),
        };
        let error = match attempted {
            Ok(()) => return self.outbox.attempts.0.add(["done".into()], 1),
            // All lanes share that connection, and clients' requests do.
            Err(AttemptError::Call(error)) if !claim.has_own_line() && is_broken(&error) => {
                AttemptError::Suspect
            }
            Err(error) => error,
        };
        tracing::debug!("deliveries to another homeserver wait: {error}");
        let put_off = error.put_off();
        let state = match &error {
            _ if put_off.is_some() => "put_off",
            AttemptError::NoToken(no_token) if no_token.is_issuers_will() => "out_of_tokens",
            AttemptError::Delivery(_) => "refused",
            AttemptError::Suspect | AttemptError::Broken => "broken",
            _ => "failing",
        };
        self.outbox.attempts.0.add([state.into()], 1);
        let (domain, holder) = (claim.domain.as_str(), claim.holder.as_slice());
        let noted = match (error, put_off) {
            (AttemptError::Delivery(_), _) => {
                let sql = "SELECT federation.note_refusal($1, $2, $3)";
                self.home.database.query_one(sql, &[&domain, &claim.lane, &holder]).await
            }
            (error @ (AttemptError::Suspect | AttemptError::Broken), _) => {
                let sql = "SELECT federation.note_break($1, $2, $3, $4, $5)";
                let last = claim.ids.last().map(|id| id.as_bytes().as_slice());
                let is_alone = matches!(error, AttemptError::Broken);
                self.home.database.query_one(sql, &[&domain, &claim.lane, &holder, &last, &is_alone]).await
            }
            (error, Some(seconds)) => {
                let sql = "SELECT federation.put_off($1, $2, $3, $4, $5)";
                let is_slow = matches!(error, AttemptError::Crowded);
                self.home.database.query_one(sql, &[&domain, &claim.lane, &holder, &is_slow, &seconds]).await
            }
            (error, None) => {
                let sql = "SELECT federation.note_failed_attempt($1, $2, $3, $4)";
                let reason = error.to_string();
                self.home.database.query_one(sql, &[&domain, &holder, &state, &reason]).await
            }
        };
        if let Err(error) = noted {
            tracing::debug!("a failed attempt is not noted: {error}");
        }
    }

    /// Sends the deliveries of a lane, and settles those that the other homeserver took. One that it refuses while it takes
    /// others is found by halving, tried again from time to time, and set aside at last; one that is refused for its size,
    /// at once: a member of a group can send as many of those as they like, and no lane waits for them. One under which the
    /// connection breaks, as when a proxy likes its size or content so little that it does not even answer, is found in the
    /// same way, on connections that nothing else is on. What it took before, and whose answer was lost, is settled, whatever
    /// becomes of it now.
    async fn deliver(&self, claim: &Claim) -> Result<(), AttemptError> {
        let started = Instant::now();
        let mut contents = claim.open(&self.home.master_key)?;
        let mut neighbour = self.find_neighbour(claim, false).await?;
        let mut takes_others = false;
        let mut spent = 0;
        for _ in 0..REQUESTS {
            let token = self.take_token(&neighbour).await?;
            let request = Request::deliver(&claim.deliveries(&contents), claim.shares_line).paid_with(token);
            let reception = match self.exchange(&neighbour, request).await {
                Err(error) if claim.has_own_line() && is_broken(&error) => Reception::Broken,
                answer => Reception::of(&answer?, &contents),
            };
            match reception {
                Reception::Received(received) => {
                    return self.settle(claim, &contents, &received, started.elapsed() > PATIENCE).await;
                }
                Reception::Gap(last) => return self.compare(claim, last).await,
                Reception::TokenSpent => {
                    spent += 1;
                    if spent >= SPENT {
                        // All of them may be, as after a restore of this database; or it takes none.
                        let sql = "SELECT federation.drop_tokens($1, NULL)";
                        self.home.database.query_one(sql, &[&claim.domain.as_str()]).await?;
                        return Err(AttemptError::Refused("token-spent".to_owned()));
                    }
                }
                Reception::TokenStale => {
                    neighbour = self.find_neighbour(claim, true).await?;
                    self.drop_stale_tokens(&neighbour).await?;
                }
                Reception::TooLarge => {
                    if !halve(&mut contents, "too large for its homeserver") {
                        return Err(AttemptError::Refused("too large".to_owned()));
                    }
                }
                Reception::Closed(reason) => return Err(AttemptError::Refused(reason)),
                Reception::Refused(reason) => {
                    if !takes_others {
                        if let Some(last) = self.expect_to_take(&neighbour, claim).await? {
                            return self.compare(claim, last).await;
                        }
                        takes_others = true;
                    }
                    let is_tried_again = contents.len() == 1 && reason != OVERSIZED && !claim.is_last_try;
                    if is_tried_again || !halve(&mut contents, &format!("refused: {reason}")) {
                        return Err(AttemptError::Delivery(reason));
                    }
                }
                Reception::Broken => {
                    // It is asked each time: on a bad line, or while it is away, that breaks, too.
                    if let Some(last) = self.expect_to_take(&neighbour, claim).await? {
                        return self.compare(claim, last).await;
                    }
                    takes_others = true;
                    if contents.len() == 1 && !claim.is_last_break {
                        return Err(AttemptError::Broken);
                    }
                    if !halve(&mut contents, BROKEN) {
                        return Err(AttemptError::Refused(BROKEN.to_owned()));
                    }
                }
            }
        }
        Err(AttemptError::Answer)
    }

    /// Asks another homeserver that does not take these deliveries whether it takes any: one of their lane, with a number and
    /// ids that cannot be the next ones, nor a repeat, which changes nothing. Returns the last one that it took, if it has some
    /// of these.
    ///
    /// # Errors
    /// It takes none; those of an attempt.
    async fn expect_to_take(
        &self,
        neighbour: &Neighbour,
        claim: &Claim,
    ) -> Result<Option<LastDelivery>, AttemptError> {
        let id = DeliveryId::new(rand::random());
        let deliveries = Deliveries {
            lane: claim.lane.unsigned_abs(),
            instance: claim.instance,
            first: claim.first + 1,
            before: Some(DeliveryId::new(rand::random())),
            deliveries: vec![NumberedDelivery { id, delivery: Delivery::empty() }],
        };
        let token = self.take_token(neighbour).await?;
        let request = Request::deliver(&deliveries, claim.shares_line).paid_with(token);
        let answer = self.exchange(neighbour, request).await?;
        match Reception::of(&answer, &[]) {
            Reception::Gap(last) => Ok(claim.has(&last).then_some(last)),
            Reception::Refused(reason) | Reception::Closed(reason) => Err(AttemptError::Refused(reason)),
            _ => Err(AttemptError::Answer),
        }
    }

    async fn find_neighbour(&self, claim: &Claim, fresh: bool) -> Result<Neighbour, DiscoveryError> {
        let found = Found::find(&self.home, &claim.domain, fresh).await?;
        let neighbour = self.neighbour(&claim.domain, found, None).await?;
        if claim.has_own_line() { self.apart(neighbour) } else { Ok(neighbour) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_server_lacks_is_no_failure_of_the_other_homeserver() {
        for own in [
            AttemptError::Crowded,
            AttemptError::Discovery(DiscoveryError::Busy),
            AttemptError::NoToken(NoToken::Busy),
            AttemptError::NoToken(NoToken::Blocked),
            AttemptError::MasterKey,
            AttemptError::Database(DatabaseError::Pool("all are busy")),
            AttemptError::Discovery(DiscoveryError::Database(DatabaseError::Pool("all are busy"))),
            AttemptError::NoToken(NoToken::Database(DatabaseError::Pool("all are busy"))),
        ] {
            assert!(own.put_off().is_some(), "{own}");
        }
        for others in [
            AttemptError::Discovery(DiscoveryError::Unreachable),
            AttemptError::NoToken(NoToken::Empty),
            AttemptError::NoToken(NoToken::Time),
            AttemptError::Refused("closed".to_owned()),
            AttemptError::Delivery("malformed".to_owned()),
            AttemptError::Suspect,
            AttemptError::Broken,
            AttemptError::Time,
        ] {
            assert_eq!(others.put_off(), None, "{others}");
        }
    }
}
