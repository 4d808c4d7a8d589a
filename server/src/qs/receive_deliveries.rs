//! `POST /qs/deliveries` (QS-3, FED-4): takes the messages of another domain's DS for queues here. They are the next ones of
//! a lane, each is taken once, and all of them in one transaction. Requests of a lane come one after the other: they wait
//! for each other here, and not in the database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;
use postern_protocol::{
    DeliveryId, Payload, PublicKey,
    encoding::Encoding,
    federation::{
        Deliveries, DeliveriesReceived, Delivery, DeliveryOutcome, DeliveryState, NumberedDelivery,
    },
    name::Domain,
    problem::{LastDelivery, Problem, ProblemType},
    push::Urgency,
    qs::QueuePayload,
};
use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_postgres::Row;

use super::{Qs, delivery_figures::Origin};
use crate::{
    database::outcome,
    federation::admission,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub ReceiveDeliveriesOutcome: "qs.receive_deliveries_outcome", paid {
        Received = "received",
        UnknownHomeserver = "unknown_homeserver",
        Blocked = "blocked",
        Gap = "gap",
        TooLarge = "too_large",
    }
}

/// Bytes that looking an address up counts for.
const ADDRESS_BYTES: u64 = 64;
/// Requests of a lane that wait for the one before, at most, and the time for which each does, and then for room.
const MOST_WAITING: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);
/// The share of the memory for bodies, one in so many, that deliveries on their way into queues may take. The others wait,
/// and give way to requests of people here. A family of domains gets as small a share of that.
const SHARES: u64 = 4;
/// Bytes up to which a request is small. Small ones have room of their own, so that large ones keep none of them waiting.
const SMALL: usize = 16 * 1024;
/// Requests of a family of domains that are on their way into queues at once, at most.
const AT_ONCE: usize = 8;
const KIB: u64 = 1024;
/// The longest time that a request waits when it comes sooner than the pace of its domain allows.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// The requests that are under way in this process.
pub struct Turns {
    /// The lanes of domains that have one.
    lanes: Mutex<HashMap<(Domain, i16), Arc<tokio::sync::Mutex<()>>>>,
    shares: Mutex<HashMap<String, Arc<Share>>>,
    /// Room for the bodies of those that are on their way into queues, in KiB.
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// KiB of all the room for large ones, and of what a family gets of that.
    size: u32,
    share: u32,
}

/// A family's part of all room and turns.
struct Share {
    requests: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A request's turn, until it is dropped.
pub struct Turn {
    _lane: OwnedMutexGuard<()>,
    _held: Vec<OwnedSemaphorePermit>,
    /// As long as the permits are held, it is the family's.
    _share: Arc<Share>,
}

impl Turns {
    /// `bodies_bytes`: the memory for the bodies of all requests.
    pub fn new(bodies_bytes: u64) -> Self {
        let largest = Deliveries::MOST_BYTES as u64 / KIB + 1;
        // As many as a semaphore can have.
        let number = |kib: u64| u32::try_from(kib).unwrap_or(u32::MAX).min(u32::MAX >> 3);
        let size = (bodies_bytes / KIB / SHARES).max(largest);
        let room = |kib: u64| Arc::new(Semaphore::new(number(kib) as usize));
        Self {
            lanes: Mutex::default(),
            shares: Mutex::default(),
            small: room(size / SHARES),
            large: room(size),
            size: number(size),
            share: number((size / SHARES).max(largest)),
        }
    }

    /// Waits for the requests of the lane before, and for room for a body of so many bytes.
    ///
    /// # Errors
    /// [`Failure::Overloaded`]: there are too many, or they take too long.
    async fn take(&self, sender: Domain, lane: i16, bytes: usize) -> Result<Turn, Failure> {
        let share = self.share(sender.family());
        let lane = self.take_lane(sender, lane).await?;
        let units = u32::try_from(bytes as u64 / KIB).unwrap_or(u32::MAX).saturating_add(1);
        // Its own share first: a request that waits for that keeps no others waiting.
        let rooms = match bytes <= SMALL {
            true => vec![(&share.requests, 1), (&self.small, units)],
            false => vec![
                (&share.requests, 1),
                (&share.large, units.min(self.share)),
                (&self.large, units.min(self.size)),
            ],
        };
        let held = async {
            let mut held = Vec::new();
            for (room, units) in rooms {
                held.push(room.clone().acquire_many_owned(units).await.expect("it is never closed"));
            }
            held
        };
        let held = timeout(PATIENCE, held).await;
        let held = held.map_err(|_| Failure::Overloaded("the deliveries under way take too much memory"))?;
        Ok(Turn { _lane: lane, _held: held, _share: share })
    }

    fn share(&self, family: &str) -> Arc<Share> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = || {
            let (requests, large) = (Semaphore::new(AT_ONCE), Semaphore::new(self.share as usize));
            Arc::new(Share { requests: Arc::new(requests), large: Arc::new(large) })
        };
        shares.entry(family.to_owned()).or_insert_with(share).clone()
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<(Domain, i16), Arc<tokio::sync::Mutex<()>>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the requests before.
    ///
    /// # Errors
    /// [`Failure::Overloaded`]: there are too many, or they take too long.
    async fn take_lane(&self, sender: Domain, lane: i16) -> Result<OwnedMutexGuard<()>, Failure> {
        let turn = {
            let mut turns = self.lanes();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry((sender, lane)).or_default().clone()
        };
        let overloaded = || Failure::Overloaded("too many deliveries of one lane are under way");
        // The map and the request under way have one each.
        if Arc::strong_count(&turn) > MOST_WAITING + 2 {
            return Err(overloaded());
        }
        timeout(PATIENCE, turn.lock_owned()).await.map_err(|_| overloaded())
    }
}

/// The result of `postern.deliver` for an address that takes nothing any more.
const GONE: i16 = 1;

/// Lets a homeserver send its deliveries.
///
/// # Errors
/// Those of [`admission::admit`].
pub async fn admit(qs: Qs, signer: PublicKey) -> Result<(), Failure> {
    admission::admit(&qs.home, &qs.pace, signer).await
}

pub async fn receive_deliveries(qs: Qs, mut request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<Deliveries>()?;
    let (lane, first) = check_place(&body)?;
    let addresses: usize = body.deliveries.iter().map(|it| it.delivery.addresses.len()).sum();
    let most = Deliveries::MOST_ADDRESSES;
    if addresses > most {
        let detail = format_args!("deliveries can have at most {most} addresses together");
        return Err(Problem::with_detail(ProblemType::BodyTooLarge, detail).into());
    }
    let delay = qs.pace.delay(&signer, None, Instant::now(), LONGEST_DELAY);
    let delay = delay.ok_or(Failure::Overloaded("a homeserver delivers too often"))?;
    let bytes = request.body_length();
    // It was remembered when it was admitted. Many others may have taken its place since.
    let sender = qs.pace.domain(&signer).ok_or(Failure::Overloaded("too many homeservers deliver"))?;
    let turn = async {
        sleep(delay).await;
        qs.incoming.take(sender, lane, bytes).await
    };
    let _turn = request.while_waiting(turn).await?;
    let letters = Letters::of(&body.deliveries);
    let ids: Vec<&[u8]> = body.deliveries.iter().map(|it| it.id.as_bytes().as_slice()).collect();
    let before = body.before.as_ref().map(|before| before.as_bytes().as_slice());
    let (outcome, row) = payment
        .call(
            &qs.home.database.for_bytes(letters.bytes),
            "SELECT outcome, sender, repeated, results, pushes, last, last_id
               FROM qs.receive_deliveries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            &[
                &signer.as_bytes().as_slice(),
                &lane,
                &body.instance.as_bytes().as_slice(),
                &first,
                &before,
                &ids,
                &letters.group_ids,
                &letters.deliveries,
                &letters.addresses,
                &letters.parts,
                &letters.payloads,
                &letters.urgencies,
            ],
        )
        .await?;
    match outcome {
        ReceiveDeliveriesOutcome::Received => {
            let sender = row.get::<_, &str>("sender").parse().map_err(Failure::fault)?;
            qs.pace.admitted(signer, &sender, Instant::now());
            qs.pusher.send_due(&row);
            let outcomes = letters.outcomes(&row).map_err(Failure::fault)?;
            count(&qs, &body.deliveries, &outcomes);
            request.answer(StatusCode::OK, &DeliveriesReceived { outcomes })
        }
        ReceiveDeliveriesOutcome::UnknownHomeserver => Err(ProblemType::NotAllowed.into()),
        ReceiveDeliveriesOutcome::Blocked => Err(ProblemType::HomeserverBlocked.into()),
        ReceiveDeliveriesOutcome::Gap => {
            let id: Option<&[u8]> = row.get("last_id");
            let id = id.map(DeliveryId::try_from).transpose().map_err(Failure::fault)?;
            let number = u64::try_from(row.get::<_, i64>("last")).map_err(Failure::fault)?;
            Err(Problem::delivery_gap(LastDelivery { number, id }).into())
        }
        ReceiveDeliveriesOutcome::TooLarge => {
            let detail = "the deliveries take more bytes in all queues together than the operator allows";
            Err(Problem::with_detail(ProblemType::BodyTooLarge, detail).into())
        }
    }
}

/// Counts what came into queues, and what could not.
fn count(qs: &Qs, deliveries: &[NumberedDelivery], outcomes: &[DeliveryOutcome]) {
    let new = deliveries.iter().zip(outcomes).filter(|(_, it)| it.state == DeliveryState::Delivered);
    let (mut letters, mut undelivered) = (0, 0);
    for (numbered, outcome) in new {
        letters += numbered.delivery.addresses.len();
        undelivered += outcome.undelivered as usize;
    }
    qs.deliveries.count(Origin::Neighbour, letters.saturating_sub(undelivered), undelivered);
}

/// The lane, and the number of the first delivery.
fn check_place(body: &Deliveries) -> Result<(i16, i64), Problem> {
    let malformed = |what| Problem::with_detail(ProblemType::MalformedBody, what);
    if !(1..=Deliveries::MOST).contains(&body.deliveries.len()) {
        return Err(malformed("a request has 1 to 64 deliveries"));
    }
    if body.lane >= Deliveries::LANES {
        return Err(malformed("lanes are 0 to 15"));
    }
    let most = Deliveries::MOST as i64;
    let first = i64::try_from(body.first).ok().filter(|first| (1..i64::MAX - most).contains(first));
    let first = first.ok_or_else(|| malformed("numbers begin with 1"))?;
    Ok((i16::try_from(body.lane).expect("a lane is less than 16"), first))
}

/// The deliveries that are well-formed, as `postern.deliver_groups` takes them.
#[derive(Default)]
struct Letters<'a> {
    /// The group of each delivery; none for one that is refused.
    group_ids: Vec<Option<&'a [u8]>>,
    /// For each address the number of its delivery, and that of its payload, from 1.
    deliveries: Vec<i16>,
    addresses: Vec<&'a [u8]>,
    parts: Vec<i16>,
    payloads: Vec<&'a [u8]>,
    urgencies: Vec<i16>,
    /// Bytes that the queues take.
    bytes: u64,
}

impl<'a> Letters<'a> {
    fn of(deliveries: &'a [NumberedDelivery]) -> Self {
        let mut letters = Self::default();
        for NumberedDelivery { delivery, .. } in deliveries {
            letters.group_ids.push(is_well_formed(delivery).then_some(delivery.group_id.as_slice()));
            if letters.group_ids.last().is_some_and(Option::is_some) {
                letters.add(delivery);
            }
        }
        letters
    }

    /// Adds a delivery that is well-formed, the last one of `group_ids`.
    fn add(&mut self, delivery: &'a Delivery) {
        let number = |count: usize| i16::try_from(count).expect("a request has some hundreds of payloads");
        let (number_of_delivery, before) = (number(self.group_ids.len()), number(self.payloads.len()));
        for (address, part) in delivery.addresses.iter().zip(&delivery.parts) {
            let part = number(usize::from(*part));
            self.deliveries.push(number_of_delivery);
            self.addresses.push(address.as_bytes());
            self.parts.push(before + part);
            let payload = &delivery.payloads[usize::from(part.unsigned_abs()) - 1];
            self.bytes += ADDRESS_BYTES + payload.as_bytes().len() as u64;
        }
        self.payloads.extend(delivery.payloads.iter().map(Payload::as_bytes));
        self.urgencies.extend(delivery.urgencies.iter().copied().map(i16::from));
    }

    /// The outcome of each delivery.
    fn outcomes(&self, row: &Row) -> anyhow::Result<Vec<DeliveryOutcome>> {
        let repeated = usize::try_from(row.get::<_, i32>("repeated"))?;
        let results: Vec<i16> = row.get("results");
        Ok(self.outcomes_of(repeated, &results))
    }

    /// `results` has those of the addresses of deliveries that are no repeats; none: all took theirs.
    fn outcomes_of(&self, repeated: usize, results: &[i16]) -> Vec<DeliveryOutcome> {
        // A malformed one was so before: its sender may not have got that answer.
        let state = |(index, group_id): (usize, &Option<&[u8]>)| match group_id {
            None => DeliveryState::Malformed,
            Some(_) if index < repeated => DeliveryState::Repeated,
            Some(_) => DeliveryState::Delivered,
        };
        let outcome = |state| DeliveryOutcome { state, undelivered: 0, gone: Vec::new() };
        let mut outcomes: Vec<_> = self.group_ids.iter().enumerate().map(state).map(outcome).collect();
        let deliveries = self.deliveries.iter().map(|number| usize::from(number.unsigned_abs()) - 1);
        let mut place = (usize::MAX, 0);
        for (delivery, result) in deliveries.filter(|delivery| *delivery >= repeated).zip(results) {
            place = if place.0 == delivery { (delivery, place.1 + 1) } else { (delivery, 0) };
            let outcome = &mut outcomes[delivery];
            outcome.undelivered += u32::from(*result != 0);
            if *result == GONE {
                outcome.gone.extend(u16::try_from(place.1));
            }
        }
        outcomes
    }
}

/// Whether the parts of a delivery fit together, and its payloads are what groups deliver: the word of the QS itself, and
/// deposits, are not.
fn is_well_formed(delivery: &Delivery) -> bool {
    let Delivery { addresses, parts, payloads, urgencies, group_id: _ } = delivery;
    let is_payload = |payload: &[u8]| {
        let payload = Encoding::Cbor.decode::<QueuePayload>(payload);
        matches!(payload, Ok(QueuePayload::Message(_) | QueuePayload::Welcome(_)))
    };
    addresses.len() == parts.len()
        && u16::try_from(addresses.len()).is_ok()
        && payloads.len() == urgencies.len()
        && payloads.len() <= Delivery::MOST_PAYLOADS
        && parts.iter().all(|part| (1..=payloads.len()).contains(&usize::from(*part)))
        && urgencies.iter().all(|urgency| Urgency::try_from(i16::from(*urgency)).is_ok())
        && payloads.iter().all(|payload| is_payload(payload.as_bytes()))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use postern_protocol::{Address, MlsMessage, Welcome, qs::Lost};

    use super::*;

    fn delivery(payloads: &[QueuePayload], parts: &[u16]) -> Delivery {
        let encoded = payloads.iter().map(|payload| Payload::new(Encoding::Cbor.encode(payload)));
        Delivery {
            group_id: [1; 16],
            addresses: (0..parts.len()).map(|_| Address::new([2; 32])).collect(),
            parts: parts.to_vec(),
            payloads: encoded.collect(),
            urgencies: vec![2; payloads.len()],
        }
    }

    fn message() -> QueuePayload {
        QueuePayload::Message(MlsMessage::new(vec![0, 1, 0, 2]))
    }

    fn sender(name: &str) -> Domain {
        format!("{name}.example").parse().unwrap()
    }

    #[tokio::test]
    async fn requests_of_a_lane_take_turns_and_few_wait() {
        let turns = Turns::new(0);
        let first = turns.take(sender("a"), 0, 1).await.unwrap();
        turns.take(sender("a"), 1, 1).await.unwrap();
        turns.take(sender("b"), 0, 1).await.unwrap();
        let mut waiting: Vec<_> =
            (0..=MOST_WAITING).map(|_| Box::pin(turns.take(sender("a"), 0, 1))).collect();
        let ended: Vec<_> = waiting.iter_mut().filter_map(FutureExt::now_or_never).collect();
        assert!(ended.len() == 1 && ended[0].is_err(), "one too many");
        drop(first);
        waiting.remove(0).await.unwrap();
    }

    #[tokio::test]
    async fn large_requests_wait_for_room_whichever_lanes_they_are_of() {
        let largest = Deliveries::MOST_BYTES;
        let turns = Turns::new(8 * largest as u64);
        let first = turns.take(sender("a"), 0, largest - 1).await.unwrap();
        let second = turns.take(sender("b"), 0, largest - 1).await.unwrap();
        let mut third = Box::pin(turns.take(sender("c"), 1, largest - 1));
        assert!((&mut third).now_or_never().is_none(), "there is room for two");
        turns.take(sender("d"), 0, 1000).now_or_never().expect("small ones wait for no large one").unwrap();
        drop((first, second));
        third.await.unwrap();
        let other = Turns::new(0);
        other.take(sender("a"), 0, 2 * largest).await.expect("one that is alone has all the room");
    }

    #[tokio::test]
    async fn a_family_of_domains_leaves_room_to_others() {
        let largest = Deliveries::MOST_BYTES;
        // Room for eight, and so for two of a family.
        let turns = Turns::new(4 * 8 * largest as u64);
        let mut held = Vec::new();
        for number in 0..2 {
            held.push(turns.take(sender(&format!("x{number}.evil")), 0, largest - 1).await.unwrap());
        }
        let another = turns.take(sender("x.evil"), 0, largest - 1).now_or_never();
        assert!(another.is_none(), "a family has a quarter, whatever its names are");
        turns.take(sender("b"), 0, largest - 1).now_or_never().expect("others have room").unwrap();
        for lane in 2..AT_ONCE {
            let lane = i16::try_from(lane).unwrap();
            held.push(turns.take(sender("evil"), lane, 1).await.unwrap());
        }
        assert!(turns.take(sender("evil"), 0, 1).now_or_never().is_none(), "it has so many at once");
        turns.take(sender("b"), 0, 1).now_or_never().expect("others have room").unwrap();
    }

    #[test]
    fn only_what_groups_deliver_is_well_formed() {
        let welcome = QueuePayload::Welcome(Welcome::new(vec![1]));
        assert!(is_well_formed(&delivery(&[message(), welcome], &[1, 1, 2])));
        assert!(is_well_formed(&Delivery::empty()), "it takes its number");
        for payload in [QueuePayload::Lost(Lost::default()), QueuePayload::Deposit(Payload::new(vec![1]))] {
            assert!(!is_well_formed(&delivery(&[payload], &[1])));
        }
        let good = delivery(&[message()], &[1]);
        let bad: [fn(&mut Delivery); 6] = [
            |it| it.parts[0] = 0,
            |it| it.parts[0] = 2,
            |it| it.parts.clear(),
            |it| it.urgencies[0] = 4,
            |it| it.urgencies.clear(),
            |it| it.payloads[0] = Payload::new(b"no CBOR".to_vec()),
        ];
        for (place, change) in bad.iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(!is_well_formed(&changed), "{place}");
        }
    }

    #[test]
    fn each_delivery_has_the_outcome_of_its_own_addresses() {
        let numbered = |delivery| NumberedDelivery { id: DeliveryId::new([3; 16]), delivery };
        let refused = delivery(&[QueuePayload::Lost(Lost::default())], &[1]);
        let deliveries = [
            numbered(delivery(&[message()], &[1, 1])),
            numbered(refused),
            numbered(delivery(&[message(), message()], &[1, 2, 2])),
            numbered(delivery(&[message()], &[1])),
        ];
        let letters = Letters::of(&deliveries);
        assert_eq!(letters.deliveries, [1, 1, 3, 3, 3, 4]);
        assert_eq!(letters.parts, [1, 1, 2, 3, 3, 4]);
        assert_eq!(letters.payloads.len(), letters.urgencies.len());
        let outcome =
            |state, undelivered, gone: &[u16]| DeliveryOutcome { state, undelivered, gone: gone.to_vec() };
        let (delivered, malformed) = (DeliveryState::Delivered, DeliveryState::Malformed);
        let all = [
            outcome(delivered, 0, &[]),
            outcome(malformed, 0, &[]),
            outcome(delivered, 0, &[]),
            outcome(delivered, 0, &[]),
        ];
        assert_eq!(letters.outcomes_of(0, &[]), all);
        let some = [
            outcome(DeliveryState::Repeated, 0, &[]),
            outcome(malformed, 0, &[]),
            outcome(delivered, 2, &[2]),
            outcome(delivered, 1, &[0]),
        ];
        assert_eq!(letters.outcomes_of(1, &[0, 2, 1, 1]), some);
        let states: Vec<_> = letters.outcomes_of(4, &[]).into_iter().map(|outcome| outcome.state).collect();
        let repeated = DeliveryState::Repeated;
        assert_eq!(states, [repeated, malformed, repeated, repeated], "a repeat is not better than it was");
    }
}
