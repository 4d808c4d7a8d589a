//! A side's place in a rendezvous: what it leaves, until the server has it, and how far it has read. All of it is kept in
//! the store, so that a crash costs a repeat and nothing else.
//!
//! Once the two have a secret, a payload is an envelope (see [`postern_protocol::sealed`]) under the key of the side that
//! leaves it, with its place (u16, big endian) as associated data: so nothing comes twice, in another order, or back. Its
//! content is a part of a message: 1 for the last part, else 0, then the bytes. A message is a structure in CBOR.

use std::{collections::VecDeque, time::Duration};

use postern_api::Http;
use postern_protocol::{
    Payload,
    encoding::Encoding,
    key::SigningKey,
    name::Domain,
    problem::ProblemType,
    rendezvous::{RendezvousNumber, SideKeys},
    sealed::{OVERHEAD, SealingKey},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::ZeroizeOnDrop;

use super::agreement::Agreed;
use crate::error::{Error, LinkError, Result};

/// The most bytes of a message, which has no business to be larger.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// The longest wait to ask a server for: proxies cut connections that are silent for long.
const LONGEST_POLL: Duration = Duration::from_secs(50);

#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
pub(super) struct Channel {
    #[zeroize(skip)]
    pub number: RendezvousNumber,
    #[zeroize(skip)]
    domain: Domain,
    /// Seed of the key that signs this side's requests (Ed25519).
    seed: [u8; 32],
    /// Bytes of a payload that the server takes.
    #[zeroize(skip)]
    max_bytes: usize,
    /// The end of the rendezvous, in seconds since 1970, by this device's clock.
    #[zeroize(skip)]
    pub ends: u64,
    pub agreed: Option<Agreed>,
    /// Payloads that the server does not have yet, and the number of those before.
    #[zeroize(skip)]
    outgoing: VecDeque<Payload>,
    #[zeroize(skip)]
    left: u16,
    /// Payloads of the other side that were read.
    #[zeroize(skip)]
    read: u16,
    /// The parts of a message that is not whole yet.
    parts: Vec<u8>,
}

/// A payload that the server may have by now.
pub(super) struct Sent(u16);

impl Channel {
    pub(super) fn new(
        number: RendezvousNumber,
        domain: Domain,
        key: &SigningKey,
        max_bytes: usize,
        ends: u64,
    ) -> Self {
        Self {
            number,
            domain,
            seed: *key.seed(),
            max_bytes,
            ends,
            agreed: None,
            outgoing: VecDeque::new(),
            left: 0,
            read: 0,
            parts: Vec::new(),
        }
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_seed(self.seed)
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Leaves bytes as they are.
    pub(super) fn leave(&mut self, bytes: Vec<u8>) {
        self.outgoing.push_back(Payload::new(bytes));
    }

    /// Leaves a message, in as many parts as it takes.
    pub(super) fn leave_message<T: Serialize>(&mut self, message: &T) -> Result<()> {
        let content = Encoding::Cbor.encode(message);
        let key = sealing_key(&self.agreed()?.own())?;
        let part_bytes = self.max_bytes.saturating_sub(OVERHEAD + 1).max(1);
        let parts: Vec<&[u8]> = content.chunks(part_bytes).collect();
        for (place, part) in parts.iter().enumerate() {
            let is_last = place + 1 == parts.len();
            let content = [&[u8::from(is_last)], *part].concat();
            let place = usize::from(self.left) + self.outgoing.len();
            let place = u16::try_from(place).map_err(|_| LinkError::Over)?;
            let sealed = key.seal(&place.to_be_bytes(), &content).map_err(Error::mls("cannot seal"))?;
            self.leave(sealed);
        }
        Ok(())
    }

    /// Sends the next payload, if there is one. Afterwards, [`Self::sent`] takes note of it.
    ///
    /// # Errors
    /// [`LinkError::Over`] when the rendezvous is; passing ones.
    pub(super) async fn send(&self, http: &Http) -> Result<Option<Sent>> {
        let Some(payload) = self.outgoing.front() else { return Ok(None) };
        let sent =
            http.leave_payload(self.number, self.left, payload.clone(), &self.key(), &self.domain).await;
        sent.map_err(over)?;
        Ok(Some(Sent(self.left)))
    }

    pub(super) fn sent(&mut self, sent: &Sent) {
        if sent.0 == self.left {
            self.outgoing.pop_front();
            self.left += 1;
        }
    }

    /// Waits for payloads of the other side for some time. Afterwards, [`Self::received`] takes note of each that was
    /// read.
    ///
    /// # Errors
    /// [`LinkError::Over`] when the rendezvous is; passing ones.
    pub(super) async fn receive(&self, http: &Http, now: u64) -> Result<Vec<Payload>> {
        let wait = Duration::from_secs(self.ends.saturating_sub(now)).min(LONGEST_POLL);
        if wait.is_zero() {
            return Err(LinkError::Over.into());
        }
        let wait = u16::try_from(wait.as_secs()).unwrap_or(u16::MAX);
        http.receive_payloads(self.number, self.read, wait, &self.key(), &self.domain).await.map_err(over)
    }

    pub(super) fn received(&mut self) {
        self.read += 1;
    }

    /// Opens the next payload; the whole message if that is its last part.
    ///
    /// # Errors
    /// [`LinkError::Tampered`].
    pub(super) fn open<T: DeserializeOwned>(&mut self, payload: &Payload) -> Result<Option<T>> {
        let key = sealing_key(&self.agreed()?.theirs())?;
        let content = key.open(&self.read.to_be_bytes(), payload.as_bytes()).ok();
        self.received();
        let content = content.ok_or(LinkError::Tampered)?;
        let (is_last, part) = content.split_first().ok_or(LinkError::Tampered)?;
        self.parts.extend_from_slice(part);
        if self.parts.len() > MAX_MESSAGE {
            return Err(LinkError::Tampered.into());
        }
        if *is_last == 0 {
            return Ok(None);
        }
        let message = std::mem::take(&mut self.parts);
        Encoding::Cbor.decode(&message).map(Some).map_err(|_| LinkError::Tampered.into())
    }

    /// Ends the rendezvous. Whether the server hears of it or not: it is over within minutes.
    pub(super) async fn end(&self, http: &Http) {
        if let Err(error) = http.end_rendezvous(self.number, &self.key(), &self.domain).await {
            tracing::debug!(%error, "a rendezvous is not ended");
        }
    }

    fn agreed(&self) -> Result<&Agreed> {
        self.agreed.as_ref().ok_or(Error::Damaged("a link"))
    }
}

fn sealing_key(keys: &SideKeys) -> Result<SealingKey> {
    SealingKey::new(&keys.payloads).map_err(Error::mls("cannot use a key"))
}

/// A rendezvous that the server does not have any more, or does not let go on.
fn over(error: postern_api::Error) -> Error {
    match error.problem() {
        Some(ProblemType::NotFound | ProblemType::RendezvousClosed) => LinkError::Over.into(),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{agreement, code::Words},
        *,
    };
    use postern_protocol::rendezvous::Side;

    /// Two sides that agreed.
    fn channels(max_bytes: usize) -> (Channel, Channel) {
        let (number, domain): (RendezvousNumber, Domain) =
            ("305718".parse().unwrap(), "example.org".parse().unwrap());
        let words = Words::random();
        let (owner, from_owner) = agreement::begin(Side::Owner, number, &domain, words);
        let (guest, from_guest) = agreement::begin(Side::Guest, number, &domain, words);
        let agreed = [owner.finish(&from_guest), guest.finish(&from_owner)];
        let [owner, guest] = agreed.map(|agreed| {
            let mut channel = Channel::new(number, domain.clone(), &SigningKey::generate(), max_bytes, 0);
            channel.agreed = agreed;
            channel
        });
        (owner, guest)
    }

    impl Channel {
        /// Takes what it is about to leave, as the server would.
        fn hand_over(&mut self) -> Vec<Payload> {
            let payloads: Vec<Payload> = self.outgoing.drain(..).collect();
            self.left += u16::try_from(payloads.len()).unwrap();
            payloads
        }
    }

    #[test]
    fn a_message_arrives_in_as_many_parts_as_it_takes() {
        let (mut owner, mut guest) = channels(100);
        let message = "a message that is longer than one payload may be. ".repeat(10);
        for _ in 0..2 {
            owner.leave_message(&message).unwrap();
            let payloads = owner.hand_over();
            assert!(payloads.len() > 5 && payloads.iter().all(|payload| payload.as_bytes().len() <= 100));
            let (last, first) = payloads.split_last().unwrap();
            for payload in first {
                assert_eq!(guest.open::<String>(payload).unwrap(), None);
            }
            assert_eq!(guest.open::<String>(last).unwrap().as_ref(), Some(&message));
        }
    }

    #[test]
    fn a_payload_that_was_changed_moved_repeated_or_sent_back_does_not_open() {
        let (mut owner, mut guest) = channels(1000);
        for message in ["one", "two"] {
            owner.leave_message(&message).unwrap();
        }
        let payloads = owner.hand_over();
        let mut changed = payloads[0].clone().into_bytes();
        changed[20] ^= 1;
        for (what, payload) in [
            ("changed", Payload::new(changed)),
            ("out of order", payloads[1].clone()),
            ("cut", Payload::new(payloads[0].as_bytes()[..10].to_vec())),
            ("empty", Payload::default()),
        ] {
            let refused = guest.clone().open::<String>(&payload);
            assert!(matches!(refused, Err(Error::Link(LinkError::Tampered))), "{what}");
        }
        assert_eq!(guest.open::<String>(&payloads[0]).unwrap().unwrap(), "one");
        assert!(guest.clone().open::<String>(&payloads[0]).is_err(), "repeated");
        assert!(owner.open::<String>(&payloads[0]).is_err(), "sent back");
        assert_eq!(guest.open::<String>(&payloads[1]).unwrap().unwrap(), "two");
        assert!(guest.clone().open::<u64>(&payloads[1]).is_err(), "of another kind");
    }
}
