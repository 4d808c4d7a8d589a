//! A claim: a lane with its first deliveries, and what is sent of them in one attempt.

use anyhow::Context;
use postern_protocol::{
    DeliveryId, LaneInstance,
    federation::{Deliveries, Delivery, NumberedDelivery},
    name::Domain,
    problem::LastDelivery,
};
use tokio_postgres::Row;

use super::{attempt::AttemptError, sealed::PURPOSE};
use crate::keys::MasterKeys;

/// A lane with its first deliveries, for one attempt.
pub(super) struct Claim {
    pub(super) holder: [u8; 16],
    pub(super) domain: Domain,
    pub(super) lane: i16,
    pub(super) instance: LaneInstance,
    pub(super) first: u64,
    pub(super) before: Option<DeliveryId>,
    pub(super) ids: Vec<DeliveryId>,
    pub(super) sealed: Vec<Vec<u8>>,
    /// Whether the first one is set aside if it is refused once more, whatever for.
    pub(super) is_last_try: bool,
    /// Whether each request has a connection of its own: one broke under these deliveries, or under others on it.
    pub(super) is_apart: bool,
    /// Whether the first one is set aside if the connection breaks under it alone once more.
    pub(super) is_last_break: bool,
    /// Bytes that go on a connection which other requests are on, at most.
    pub(super) shared_bytes: usize,
    /// Whether the line may be slow, and have requests of other lanes on it at the same time.
    pub(super) shares_line: bool,
}

/// A delivery that is about to be sent.
pub(super) struct Content {
    pub(super) delivery: Delivery,
    /// The reason for which it is set aside, and an empty one sent in its place.
    pub(super) refused: Option<String>,
}

impl Content {
    /// The id under which the delivery with this id in the outbox is sent. An empty one has another id than the one in whose
    /// place it goes: so the other homeserver's word tells which of them it took, however an attempt ended.
    pub(super) fn id(&self, id: &DeliveryId) -> DeliveryId {
        if self.refused.is_some() { empty_id(id) } else { *id }
    }
}

/// The id of the empty delivery that goes in the place of another one: the same each time, so that it is a repeat.
fn empty_id(id: &DeliveryId) -> DeliveryId {
    DeliveryId::new(id.as_bytes().map(|byte| !byte))
}

/// Leaves out deliveries that the other homeserver does not take: half of them, or the content of a single one, which is
/// set aside for this reason. False: there is nothing left to leave out.
pub(super) fn halve(contents: &mut Vec<Content>, reason: &str) -> bool {
    match contents.as_mut_slice() {
        [one] if one.delivery.addresses.is_empty() => return false,
        [one] => *one = Content { delivery: Delivery::empty(), refused: Some(reason.to_owned()) },
        several => {
            let half = several.len() / 2;
            contents.truncate(half);
        }
    }
    true
}

impl Claim {
    pub(super) fn of(
        holder: [u8; 16],
        row: &Row,
        shared_bytes: usize,
        shares_line: bool,
    ) -> anyhow::Result<Self> {
        let id = |bytes: &[u8]| DeliveryId::try_from(bytes);
        Ok(Self {
            holder,
            domain: row.get::<_, &str>("domain").parse().context("a domain in the outbox is none")?,
            lane: row.get("lane"),
            instance: LaneInstance::try_from(row.get::<_, &[u8]>("instance"))?,
            first: u64::try_from(row.get::<_, i64>("first"))?,
            before: row.get::<_, Option<&[u8]>>("before").map(id).transpose()?,
            ids: row.get::<_, Vec<&[u8]>>("ids").into_iter().map(id).collect::<Result<_, _>>()?,
            sealed: row.get("sealed"),
            is_last_try: row.get("is_last_try"),
            is_apart: row.get("is_apart"),
            is_last_break: row.get("is_last_break"),
            shared_bytes,
            shares_line,
        })
    }

    /// Bytes of the deliveries, sealed: their requests have about as many.
    pub(super) fn bytes(&self) -> usize {
        self.sealed.iter().map(Vec::len).sum()
    }

    /// Whether each request goes on a connection of its own.
    pub(super) fn has_own_line(&self) -> bool {
        self.is_apart || self.bytes() > self.shared_bytes
    }

    pub(super) fn sql_first(&self) -> i64 {
        i64::try_from(self.first).expect("it came as one")
    }

    /// Whether the other homeserver took some of these deliveries, where this is the last one that it took: the answer was
    /// lost. An empty one in the place of the first is none of them.
    pub(super) fn has(&self, last: &LastDelivery) -> bool {
        last.number >= self.first && last.id != self.ids.first().map(empty_id)
    }

    /// Opens the deliveries. One that is damaged is set aside, and comes alone: the others are told apart from it only by what
    /// the other homeserver took last.
    ///
    /// # Errors
    /// This process does not have the master key, as one of the others does.
    pub(super) fn open(&self, master_key: &MasterKeys) -> Result<Vec<Content>, AttemptError> {
        let open = |(id, sealed): (&DeliveryId, &Vec<u8>)| {
            if !master_key.has_key_of(sealed) {
                return Err(AttemptError::MasterKey);
            }
            let bytes = master_key.open(PURPOSE, id.as_bytes(), sealed).ok();
            let delivery = bytes.and_then(|bytes| Some(postcard::take_from_bytes(&bytes).ok()?.0));
            Ok(match delivery {
                Some(delivery) => Content { delivery, refused: None },
                None => Content { delivery: Delivery::empty(), refused: Some("damaged".to_owned()) },
            })
        };
        let mut contents = self.ids.iter().zip(&self.sealed).map(open).collect::<Result<Vec<_>, _>>()?;
        if let Some(damaged) = contents.iter().position(|content| content.refused.is_some()) {
            contents.truncate(damaged.max(1));
        }
        Ok(contents)
    }

    /// The request for these contents, which are the first ones of the claim.
    pub(super) fn deliveries(&self, contents: &[Content]) -> Deliveries {
        let numbered = |(id, content): (&DeliveryId, &Content)| NumberedDelivery {
            id: content.id(id),
            delivery: content.delivery.clone(),
        };
        Deliveries {
            lane: self.lane.unsigned_abs(),
            instance: self.instance,
            first: self.first,
            before: self.before,
            deliveries: self.ids.iter().zip(contents).map(numbered).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{content, delivery},
        *,
    };
    use crate::keys::MasterKey;

    fn claim_of(ids: Vec<DeliveryId>, sealed: Vec<Vec<u8>>) -> Claim {
        Claim {
            holder: [0; 16],
            domain: "b.example".parse().unwrap(),
            lane: 3,
            instance: LaneInstance::new([5; 16]),
            first: 7,
            before: None,
            ids,
            sealed,
            is_last_try: true,
            is_apart: false,
            is_last_break: false,
            shared_bytes: usize::MAX,
            shares_line: false,
        }
    }

    #[test]
    fn what_is_large_for_its_line_goes_on_a_connection_of_its_own() {
        for (shared_bytes, is_apart, expected) in
            [(9, false, true), (10, false, false), (usize::MAX, false, false), (usize::MAX, true, true)]
        {
            let sealed = vec![vec![0; 9], vec![0; 1]];
            let claim = Claim { shared_bytes, is_apart, ..claim_of(Vec::new(), sealed) };
            assert_eq!(claim.has_own_line(), expected, "10 bytes of {shared_bytes}");
        }
    }

    #[test]
    fn what_is_too_large_is_halved_and_at_last_left_out() {
        let mut contents: Vec<_> = (0..5).map(|_| content(delivery(10))).collect();
        let mut sizes = Vec::new();
        while halve(&mut contents, "too large") {
            sizes.push(contents.len());
        }
        assert_eq!(sizes, [2, 1, 1]);
        assert_eq!(contents[0].delivery, Delivery::empty());
        assert_eq!(contents[0].refused.as_deref(), Some("too large"));
    }

    #[test]
    fn an_empty_one_is_told_apart_from_the_delivery_in_whose_place_it_goes() {
        let [id, next] = [DeliveryId::new([1; 16]), DeliveryId::new([2; 16])];
        let claim = claim_of(vec![id, next], Vec::new());
        let mut contents = vec![content(delivery(10))];
        let sent = |contents: &[Content]| claim.deliveries(contents).deliveries[0].id;
        assert_eq!(sent(&contents), id);
        assert!(halve(&mut contents, "too large"));
        let empty = sent(&contents);
        assert_ne!(empty, id);
        assert_eq!(sent(&contents), empty, "it is known when it comes again");
        for (number, last, expected) in [
            (0, None, false),
            (6, Some(DeliveryId::new([6; 16])), false),
            (7, Some(id), true),
            (8, Some(next), true),
            (7, Some(empty), false),
        ] {
            assert_eq!(claim.has(&LastDelivery { number, id: last }), expected, "{number}");
        }
    }

    /// The other homeserver's word is about the last delivery alone of several that it took and whose answer was lost.
    #[test]
    fn a_damaged_delivery_comes_alone() {
        const WHOLE: Option<&str> = None;
        const DAMAGED: Option<&str> = Some("damaged");
        let master_key = MasterKeys::of_one(MasterKey::from_bytes([9; 32]));
        let ids = [1, 2, 3].map(|byte| DeliveryId::new([byte; 16]));
        let bytes = postcard::to_stdvec(&delivery(10)).unwrap();
        let opened = |damaged: &[usize]| -> Vec<Option<String>> {
            let mut sealed = ids.map(|id| master_key.seal(PURPOSE, id.as_bytes(), &bytes));
            for place in damaged {
                *sealed[*place].last_mut().unwrap() ^= 1;
            }
            let contents = claim_of(ids.to_vec(), Vec::from(sealed)).open(&master_key).unwrap();
            contents.into_iter().map(|content| content.refused).collect()
        };
        let cases: [(&[usize], &[Option<&str>]); 5] = [
            (&[], &[WHOLE; 3]),
            (&[0], &[DAMAGED]),
            (&[1], &[WHOLE]),
            (&[2], &[WHOLE; 2]),
            (&[0, 1, 2], &[DAMAGED]),
        ];
        for (damaged, expected) in cases {
            let opened = opened(damaged);
            let reasons: Vec<_> = opened.iter().map(Option::as_deref).collect();
            assert_eq!(reasons, expected, "{damaged:?} of three");
        }
    }
}
