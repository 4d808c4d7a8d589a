//! Rendezvous: mailboxes of a few minutes, in which a user's old and new device meet (AS-7). The server sees ciphertext
//! only.

use std::{fmt, str::FromStr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    Payload,
    hash::{hmac_key, hmac_sha256},
    label::Label,
    name::Domain,
};

/// The number of a rendezvous: six digits, the first of which is not 0. It is random, and free again when the
/// rendezvous is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct RendezvousNumber(u32);

/// A number or text that is no [`RendezvousNumber`].
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the number of a rendezvous has six digits, of which the first is not 0")]
pub struct MalformedNumber;

impl RendezvousNumber {
    pub const FIRST: u32 = 100_000;
    pub const LAST: u32 = 999_999;

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for RendezvousNumber {
    type Error = MalformedNumber;
    fn try_from(number: u32) -> Result<Self, MalformedNumber> {
        (Self::FIRST..=Self::LAST).contains(&number).then_some(Self(number)).ok_or(MalformedNumber)
    }
}

impl From<RendezvousNumber> for u32 {
    fn from(number: RendezvousNumber) -> Self {
        number.0
    }
}

impl FromStr for RendezvousNumber {
    type Err = MalformedNumber;
    fn from_str(text: &str) -> Result<Self, MalformedNumber> {
        let digits = text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: u32 = text.parse().map_err(|_| MalformedNumber)?;
        Self::try_from(number).and_then(|number| digits.then_some(number).ok_or(MalformedNumber))
    }
}

impl fmt::Display for RendezvousNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `POST /rendezvous`, signed by a fresh key, which becomes the owner's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRendezvous {}

/// The answer to `POST /rendezvous` (201).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RendezvousCreated {
    pub number: RendezvousNumber,
    /// Minutes that it lives at least, and that it lives again once the guest has come.
    pub minutes: u32,
    /// Bytes of a payload, at most.
    pub max_payload_bytes: u32,
}

/// `POST /rendezvous/{number}/join`, signed by a fresh key, which becomes the guest's: the first that comes, and no
/// other. 204. The same key may join again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRendezvous {}

/// `POST /rendezvous/{number}/payloads`, signed by one of the two sides: leaves a payload for the other one. 204. The
/// same again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeavePayload {
    /// Number of payloads that this side left before.
    pub place: u16,
    /// Bytes that are opaque to the server.
    pub payload: Payload,
}

/// `POST /rendezvous/{number}/receive`, signed by one of the two sides: asks for what the other one left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceivePayloads {
    /// Number of payloads that this side has already.
    pub after: u16,
    /// Seconds to wait for one when there is none; the server has a maximum of its own.
    pub wait: u16,
}

/// The answer to [`ReceivePayloads`] (200): the next payloads in order; none when the wait ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadsReceived {
    pub payloads: Vec<Payload>,
}

/// A side of a rendezvous: the old device makes it, the new one comes as its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Owner,
    Guest,
}

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::Owner => Self::Guest,
            Self::Guest => Self::Owner,
        }
    }

    /// The side's identity in SPAKE2 (RFC 9382 §3.3), which ties an agreement to one rendezvous of one server:
    /// `"Postern rendezvous side" || 0 || side (0: owner, 1: guest) || number (u32, big endian) || domain`
    pub fn identity(self, number: RendezvousNumber, domain: &Domain) -> Vec<u8> {
        let number = number.get().to_be_bytes();
        Label::RENDEZVOUS_SIDE.followed_by(&[&[self.byte()], &number, domain.as_str().as_bytes()])
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Owner => 0,
            Self::Guest => 1,
        }
    }
}

/// The keys of one side, which both derive from the secret that they agreed on.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SideKeys {
    /// Proof that the side has the secret: HMAC-SHA256(secret, `"Postern rendezvous confirmation" || 0 || side`).
    confirmation: [u8; 32],
    /// Key that the side's payloads are sealed under (AES-256):
    /// HMAC-SHA256(secret, `"Postern rendezvous payload" || 0 || side`).
    pub payloads: [u8; 32],
}

impl SideKeys {
    pub fn derive(secret: &[u8; 32], side: Side) -> Self {
        let secret = hmac_key(secret);
        let derive = |label: Label| hmac_sha256(&secret, &[label.as_bytes(), &[side.byte()]]);
        let (confirmation, payloads) =
            (derive(Label::RENDEZVOUS_CONFIRMATION), derive(Label::RENDEZVOUS_PAYLOAD));
        Self { confirmation, payloads }
    }

    pub const fn confirmation(&self) -> &[u8; 32] {
        &self.confirmation
    }

    /// Whether somebody has the secret. Takes as long for every answer.
    pub fn is_confirmed_by(&self, confirmation: &[u8]) -> bool {
        verify_slices_are_equal(&self.confirmation, confirmation).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_six_digits() {
        let number: RendezvousNumber = "305718".parse().unwrap();
        assert_eq!((number.get(), number.to_string().as_str()), (305_718, "305718"));
        for text in ["", "0", "099999", "99999", "1000000", "+30571", "30571 ", "３０５７１８", "0305718"]
        {
            assert_eq!(text.parse::<RendezvousNumber>(), Err(MalformedNumber), "{text}");
        }
        assert!(serde_json::from_str::<RendezvousNumber>("99999").is_err());
        assert_eq!(serde_json::from_str::<RendezvousNumber>("305718").unwrap(), number);
    }
}
