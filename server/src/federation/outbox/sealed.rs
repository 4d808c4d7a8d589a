//! Deliveries as they are put into the outbox: their lanes, their seals, and the digests of what is gone.

use postern_protocol::{
    Address,
    ds::GroupId,
    federation::{Deliveries, Delivery},
    name::Domain,
};

use crate::home::Home;

/// The purpose under which the master key seals deliveries.
pub(super) const PURPOSE: &str = "outbox";
const KIB: usize = 1024;
/// Sizes to which deliveries are padded; larger ones to a whole number of the last.
const SIZE_CLASSES: [usize; 6] = [KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB];

/// A delivery as `federation.enqueue` takes it.
pub struct SealedDelivery {
    /// Random.
    pub id: [u8; 16],
    /// Padded, and sealed under the master key.
    pub content: Vec<u8>,
}

/// The lane of a group's deliveries to a homeserver: another one for each, so that lanes do not tell which homeservers have
/// members of the same groups.
pub fn lane(home: &Home, group_id: &GroupId, domain: &Domain) -> i16 {
    let [first, ..] =
        home.master_key.digest("outbox lane", &[group_id.id(), domain.as_str().as_bytes()].concat());
    i16::from(first) % i16::try_from(Deliveries::LANES).expect("there are few lanes")
}

/// Seals a delivery for the outbox.
pub fn seal(home: &Home, delivery: &Delivery) -> SealedDelivery {
    let id = rand::random();
    SealedDelivery { id, content: home.master_key.seal(PURPOSE, &id, &padded(delivery)) }
}

/// The digest by which the database knows a group that has addresses which are gone.
pub fn group_digest(home: &Home, group_id: &GroupId) -> [u8; 32] {
    digest_of_group(home, group_id.id())
}

pub(super) fn digest_of_group(home: &Home, group_id: &[u8; 16]) -> [u8; 32] {
    home.master_key.digest("gone group", group_id)
}

/// The digest by which the database knows an address of a domain that is gone: a domain says nothing of another one's.
pub fn address_digest(home: &Home, domain: &Domain, address: &Address) -> [u8; 32] {
    let of_domain = [address.as_bytes().as_slice(), domain.as_str().as_bytes()].concat();
    home.master_key.digest("gone address", &of_domain)
}

/// The bytes of a delivery, with zeros up to its size class.
fn padded(delivery: &Delivery) -> Vec<u8> {
    let mut bytes = postcard::to_stdvec(delivery).expect("a delivery can be encoded");
    bytes.resize(size_class(bytes.len()), 0);
    bytes
}

fn size_class(bytes: usize) -> usize {
    let [.., largest] = SIZE_CLASSES;
    let class = SIZE_CLASSES.into_iter().find(|class| bytes <= *class);
    class.unwrap_or_else(|| bytes.next_multiple_of(largest))
}

/// The size class of a delivery with so many addresses and these payloads, or a larger one.
pub fn padded_size(addresses: usize, payloads: impl Iterator<Item = usize>) -> usize {
    // As postcard writes them: numbers have 1 to 5 bytes, the group id has 16, and addresses have 32.
    let payloads: usize = payloads.map(|bytes| bytes + 5 + 1).sum();
    size_class(16 + 4 * 5 + addresses * (32 + 3) + payloads)
}

/// Whether a delivery with so many addresses and these payloads fits into a request of its own, as every homeserver
/// takes it.
pub fn fits(addresses: usize, payloads: impl Iterator<Item = usize>) -> bool {
    /// Bytes of all else that is in a request.
    const REST: usize = 1024;
    // As CBOR has them: a payload has a head and an urgency, an address a head and a part.
    let payloads: usize = payloads.map(|bytes| bytes + 5 + 1).sum();
    addresses <= Deliveries::MOST_ADDRESSES
        && REST + addresses * (2 + 32 + 3) + payloads <= Deliveries::MOST_BYTES
}

#[cfg(test)]
mod tests {
    use postern_protocol::{
        DeliveryId, LaneInstance, Payload, encoding::Encoding, federation::NumberedDelivery,
    };

    use super::{super::tests::delivery, *};

    #[test]
    fn deliveries_have_a_few_sizes_and_are_read_again() {
        for (bytes, class) in [
            (0, KIB),
            (800, KIB),
            (1000, 4 * KIB),
            (60 * KIB, 64 * KIB),
            (300 * KIB, 1024 * KIB),
            (1100 * KIB, 2048 * KIB),
        ] {
            let delivery = delivery(bytes);
            let padded = padded(&delivery);
            assert_eq!(padded.len(), class, "{bytes}");
            assert_eq!(padded_size(delivery.addresses.len(), [bytes].into_iter()), class, "{bytes}");
            let (read, _) = postcard::take_from_bytes::<Delivery>(&padded).unwrap();
            assert_eq!(read, delivery);
        }
    }

    #[test]
    fn what_fits_into_a_request_is_not_larger_than_one_may_be() {
        let request = |addresses: usize, bytes: usize| {
            let delivery = Delivery {
                addresses: vec![Address::new([0xff; 32]); addresses],
                parts: vec![2; addresses],
                payloads: vec![Payload::new(vec![0xff; bytes]); 2],
                urgencies: vec![3; 2],
                ..delivery(0)
            };
            let id = DeliveryId::new([0xff; 16]);
            let encoded = Encoding::Cbor.encode(&Deliveries {
                lane: 15,
                instance: LaneInstance::new([0xff; 16]),
                first: u64::MAX,
                before: Some(id),
                deliveries: vec![NumberedDelivery { id, delivery }],
            });
            (fits(addresses, [bytes; 2].into_iter()), encoded.len() <= Deliveries::MOST_BYTES)
        };
        assert_eq!(request(1, 1000), (true, true));
        // A commit and a Welcome that fill a body, for the largest groups.
        assert_eq!(request(5000, 512 * KIB), (true, true));
        assert_eq!(request(Deliveries::MOST_ADDRESSES, 640 * KIB), (true, true));
        assert_eq!(request(100, 1024 * KIB), (false, false));
        assert!(!fits(Deliveries::MOST_ADDRESSES + 1, [0].into_iter()));
    }
}
