//! The delivery of one request: its payloads and their recipients, whose queues are here or at other homeservers. The
//! database puts the payloads into the queues that are here, and keeps one sealed delivery in the outbox for each other
//! homeserver (FED-4).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use postern_protocol::{
    Address, Payload,
    ds::GroupId,
    encoding::Encoding,
    federation::Delivery as DeliveryElsewhere,
    name::Domain,
    problem::{Problem, ProblemType},
    push::Urgency,
    qs::QueuePayload,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::roster::Recipient;
use crate::{
    compute::Overloaded,
    federation::outbox::{self, SealedDelivery},
    home::Home,
};

/// Unit of [`Memory`], in bytes. A message whose sealed deliveries have less takes nothing of it, and waits for none.
const UNIT: usize = 1024 * 1024;
const UNITS: usize = 256;
/// Time that a message waits for memory that others hold.
const WAIT: Duration = Duration::from_secs(2);

/// The memory for what is sealed for other homeservers and not in the database yet: a large message to members of many
/// domains takes some for each of them. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    /// Takes so many bytes, which are free again once what this returns is dropped.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub async fn take(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Overloaded> {
        let units = (bytes / UNIT).min(UNITS);
        if units == 0 {
            return Ok(None);
        }
        let units = u32::try_from(units).expect("it is at most UNITS");
        let taken = timeout(WAIT, self.0.clone().acquire_many_owned(units)).await.map_err(|_| Overloaded)?;
        Ok(Some(taken.expect("the semaphore is never closed")))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNITS)))
    }
}

#[derive(Default)]
pub struct Delivery {
    payloads: Vec<Vec<u8>>,
    /// The urgency of each payload.
    urgencies: Vec<i16>,
    here: Letters,
    elsewhere: BTreeMap<Domain, Letters>,
}

/// The recipients at one homeserver.
#[derive(Default)]
struct Letters {
    addresses: Vec<Address>,
    /// The number of each address's payload, from 1.
    parts: Vec<i16>,
}

/// The part of a delivery that goes to other homeservers, as `federation.enqueue` takes it.
#[derive(Default)]
pub struct Outgoing {
    parts: Vec<OutgoingPart>,
}

/// The part for one homeserver.
struct OutgoingPart {
    domain: Domain,
    /// The group's lane there.
    lane: i16,
    /// The number of letters.
    letters: u32,
    sealed: SealedDelivery,
}

/// Letters that the outbox did not take.
#[derive(Default)]
pub struct NotTaken {
    /// The number of letters.
    pub letters: u32,
    /// Domains that the operator does not let this server deal with.
    pub refused: HashSet<Domain>,
}

impl Delivery {
    /// Adds a payload for these recipients. Each recipient gets its payloads in the order in which they were added.
    pub fn add(&mut self, payload: &QueuePayload, urgency: Urgency, to: impl IntoIterator<Item = Recipient>) {
        self.payloads.push(Encoding::Cbor.encode(payload));
        self.urgencies.push(urgency as i16);
        let part = i16::try_from(self.payloads.len()).expect("a request has a few payloads");
        for Recipient { domain, address } in to {
            let letters = match domain {
                None => &mut self.here,
                Some(domain) => self.elsewhere.entry(domain).or_default(),
            };
            letters.addresses.push(address);
            letters.parts.push(part);
        }
    }

    /// The bytes of each payload and the number of its recipients, wherever they are.
    pub fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        self.payloads.iter().zip(1..).map(|(payload, part)| {
            let elsewhere = self.elsewhere.values().map(|letters| letters.of(part)).sum::<usize>();
            (payload.len(), self.here.of(part) + elsewhere)
        })
    }

    /// The same, with deliveries to other homeservers as they wait here, padded, if that is more: one for each.
    pub fn padded_parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let here = self.payloads.iter().zip(1..).map(|(payload, part)| (payload.len(), self.here.of(part)));
        let elsewhere = self.elsewhere.values().map(|letters| {
            let unpadded =
                self.payloads.iter().zip(1..).map(|(payload, part)| payload.len() * letters.of(part));
            (self.padded(letters).max(unpadded.sum()), 1)
        });
        here.chain(elsewhere)
    }

    /// Bytes of the deliveries to other homeservers, padded.
    pub fn padded_bytes(&self) -> usize {
        self.elsewhere.values().map(|letters| self.padded(letters)).sum()
    }

    fn padded(&self, letters: &Letters) -> usize {
        outbox::padded_size(letters.addresses.len(), self.payloads_of(letters))
    }

    /// The bytes of each payload that somebody there gets.
    fn payloads_of(&self, letters: &Letters) -> impl Iterator<Item = usize> {
        let of_any = self.payloads.iter().zip(1..).filter(|(_, part)| letters.of(*part) > 0);
        of_any.map(|(payload, _)| payload.len())
    }

    /// Checks that each other homeserver would get no more at once than all of them take.
    ///
    /// # Errors
    /// A problem if one would get more: it would never be delivered.
    pub fn check_elsewhere(&self) -> Result<(), Problem> {
        let fits = |letters: &Letters| outbox::fits(letters.addresses.len(), self.payloads_of(letters));
        let detail = "the members at one other homeserver would get more at once than it takes";
        let all_fit = self.elsewhere.values().all(fits);
        all_fit.then_some(()).ok_or_else(|| Problem::with_detail(ProblemType::DeliveryTooLarge, detail))
    }

    /// Whether no recipient is elsewhere.
    pub fn is_here(&self) -> bool {
        self.elsewhere.is_empty()
    }

    /// Bytes that the queues here take.
    pub fn bytes(&self) -> usize {
        self.payloads.iter().zip(1..).map(|(payload, part)| payload.len() * self.here.of(part)).sum()
    }

    /// The arguments of `postern.deliver` for the queues here.
    pub fn here(&self) -> (Vec<&[u8]>, &[i16], Vec<&[u8]>, &[i16]) {
        let addresses = self.here.addresses.iter().map(|address| address.as_bytes().as_slice()).collect();
        let payloads = self.payloads.iter().map(Vec::as_slice).collect();
        (addresses, &self.here.parts, payloads, &self.urgencies)
    }

    /// Seals what goes to other homeservers.
    pub fn seal(&self, home: &Home, group_id: &GroupId) -> Outgoing {
        if self.elsewhere.is_empty() {
            return Outgoing::default();
        }
        let part = |(domain, letters): (&Domain, &Letters)| OutgoingPart {
            domain: domain.clone(),
            lane: outbox::lane(home, group_id, domain),
            letters: u32::try_from(letters.parts.len()).expect("a group has few members"),
            sealed: outbox::seal(home, &self.to(letters, group_id)),
        };
        Outgoing { parts: self.elsewhere.iter().map(part).collect() }
    }

    /// The delivery to one of the other homeservers, with the payloads that somebody there gets.
    fn to(&self, letters: &Letters, group_id: &GroupId) -> DeliveryElsewhere {
        let (mut payloads, mut urgencies, mut numbers) = (Vec::new(), Vec::new(), HashMap::new());
        for ((payload, urgency), part) in self.payloads.iter().zip(&self.urgencies).zip(1..) {
            if letters.of(part) > 0 {
                payloads.push(Payload::new(payload.clone()));
                urgencies.push(u8::try_from(*urgency).expect("there are four"));
                numbers.insert(part, u16::try_from(payloads.len()).expect("a request has a few payloads"));
            }
        }
        DeliveryElsewhere {
            group_id: *group_id.id(),
            addresses: letters.addresses.clone(),
            parts: letters.parts.iter().map(|part| numbers[part]).collect(),
            payloads,
            urgencies,
        }
    }
}

impl Letters {
    /// The number of letters with this payload.
    fn of(&self, part: i16) -> usize {
        self.parts.iter().filter(|of| **of == part).count()
    }
}

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The number of letters.
    pub fn letters(&self) -> u32 {
        self.parts.iter().map(|part| part.letters).sum()
    }

    /// Bytes that the outbox takes.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.sealed.content.len()).sum()
    }

    /// The arguments of `federation.enqueue`: lanes, domains, ids and sealed contents.
    pub fn columns(&self) -> (Vec<i16>, Vec<&str>, Vec<&[u8]>, Vec<&[u8]>) {
        let lanes = self.parts.iter().map(|part| part.lane).collect();
        let domains = self.parts.iter().map(|part| part.domain.as_str()).collect();
        let ids = self.parts.iter().map(|part| part.sealed.id.as_slice()).collect();
        (lanes, domains, ids, self.parts.iter().map(|part| part.sealed.content.as_slice()).collect())
    }

    /// The letters that the outbox did not take, by the results of `federation.enqueue`.
    pub fn not_taken(&self, results: &[i16]) -> NotTaken {
        const REFUSED: i16 = 1;
        let mut not_taken = NotTaken::default();
        for (part, result) in self.parts.iter().zip(results).filter(|(_, result)| **result != 0) {
            not_taken.letters += part.letters;
            if *result == REFUSED {
                not_taken.refused.insert(part.domain.clone());
            }
        }
        not_taken
    }
}

#[cfg(test)]
mod tests {
    use postern_protocol::MlsMessage;

    use super::*;

    fn recipient(domain: Option<&str>, number: u8) -> Recipient {
        Recipient { domain: domain.map(|it| it.parse().unwrap()), address: Address::new([number; 32]) }
    }

    fn payload(text: &[u8]) -> QueuePayload {
        QueuePayload::Message(MlsMessage::new(text.to_vec()))
    }

    fn bytes(payload: &QueuePayload) -> Vec<u8> {
        Encoding::Cbor.encode(payload)
    }

    #[test]
    fn a_delivery_takes_what_its_padding_takes_here_or_its_letters_do_there_if_that_is_more() {
        let size = |letters: u8, bytes| {
            let mut delivery = Delivery::default();
            let to = (0..letters).map(|number| recipient(Some("b.example"), number));
            delivery.add(&payload(&vec![0; bytes]), Urgency::Normal, to);
            let parts: Vec<_> = delivery.padded_parts().collect();
            let [(_, 0), (size, 1)] = parts.as_slice() else { panic!("{parts:?}") };
            (*size, delivery.parts().map(|(payload, letters)| payload * letters).sum::<usize>())
        };
        let (padded, unpadded) = size(1, 17_000);
        assert!(padded == 65_536 && unpadded < 18_000, "{unpadded}");
        let (padded, unpadded) = size(100, 17_000);
        assert!(padded == unpadded && unpadded > 1_700_000, "{unpadded}");
    }

    #[test]
    fn what_no_homeserver_takes_at_once_is_refused_wherever_it_goes() {
        const MIB: usize = 1024 * 1024;
        let fits = |of_b: usize, of_c: usize, addresses: u16| {
            let mut delivery = Delivery::default();
            delivery.add(&payload(&vec![0; 5 * MIB]), Urgency::Normal, [recipient(None, 1)]);
            let to = |domain| (0..addresses).map(move |_| recipient(Some(domain), 2));
            delivery.add(&payload(&vec![0; of_b]), Urgency::Normal, to("b.example"));
            delivery.add(&payload(&vec![0; of_c]), Urgency::Normal, to("c.example"));
            delivery.check_elsewhere().is_ok()
        };
        assert!(fits(MIB, MIB, 1), "each gets one");
        assert!(!fits(1, 2 * MIB, 1) && !fits(2 * MIB, 1, 1));
        assert!(fits(MIB, MIB, 20_000) && !fits(1, 1, 20_001));
    }

    #[tokio::test]
    async fn what_is_sealed_at_a_time_takes_so_much_memory() {
        let memory = Memory::default();
        let half = UNITS / 2 * UNIT;
        let one = memory.take(half).await.unwrap();
        let other = memory.take(half).await.unwrap();
        assert!(memory.take(UNIT).await.is_err());
        assert!(memory.take(UNIT - 1).await.unwrap().is_none(), "small ones do not wait");
        drop((one, other));
        assert!(memory.take(10 * UNITS * UNIT).await.unwrap().is_some());
    }

    #[test]
    fn each_homeserver_gets_its_own_members_letters_and_their_payloads_only() {
        let [b, c, d] = [Some("b.example"), Some("c.example"), Some("d.example")];
        let (commit, welcome) = (payload(b"commit"), payload(b"welcome to all"));
        let mut delivery = Delivery::default();
        let members = [recipient(None, 1), recipient(b, 2), recipient(c, 3), recipient(b, 4)];
        delivery.add(&commit, Urgency::VeryLow, members);
        delivery.add(&welcome, Urgency::Normal, [recipient(c, 5), recipient(None, 6), recipient(d, 7)]);

        let (addresses, parts, payloads, urgencies) = delivery.here();
        assert_eq!(addresses, [[1; 32], [6; 32]]);
        assert_eq!((parts, urgencies), ([1, 2].as_slice(), [0, 2].as_slice()));
        assert_eq!(payloads, [bytes(&commit), bytes(&welcome)]);
        let all: Vec<_> = delivery.parts().collect();
        assert_eq!(all, [(bytes(&commit).len(), 4), (bytes(&welcome).len(), 3)]);
        assert_eq!(delivery.bytes(), bytes(&commit).len() + bytes(&welcome).len());
        assert_eq!(delivery.padded_bytes(), 3 * 1024);
        let padded: Vec<_> = delivery.padded_parts().collect();
        let [one, other] = [&commit, &welcome].map(|payload| (bytes(payload).len(), 1));
        assert_eq!(padded, [one, other, (1024, 1), (1024, 1), (1024, 1)]);

        assert!(!delivery.is_here() && Delivery::default().is_here());

        let id = GroupId::new([9; 16], "home.example".parse().unwrap());
        let expected: [(&str, &[u8], &[u16], &[&QueuePayload], &[u8]); 3] = [
            ("b.example", &[2, 4], &[1, 1], &[&commit], &[0]),
            ("c.example", &[3, 5], &[1, 2], &[&commit, &welcome], &[0, 2]),
            ("d.example", &[7], &[1], &[&welcome], &[2]),
        ];
        assert_eq!(delivery.elsewhere.len(), expected.len());
        for ((domain, letters), (name, addresses, parts, payloads, urgencies)) in
            delivery.elsewhere.iter().zip(expected)
        {
            let to = delivery.to(letters, &id);
            assert_eq!((domain.as_str(), to.group_id), (name, [9; 16]));
            let numbers: Vec<u8> = to.addresses.iter().map(|address| address.as_bytes()[0]).collect();
            assert_eq!((numbers.as_slice(), to.parts.as_slice()), (addresses, parts), "{name}");
            let found: Vec<_> = to.payloads.iter().map(|payload| payload.as_bytes().to_vec()).collect();
            assert_eq!(found, payloads.iter().map(|payload| bytes(payload)).collect::<Vec<_>>(), "{name}");
            assert_eq!(to.urgencies, urgencies, "{name}");
        }
    }
}
