//! The key agreement of two devices by a short password (SPAKE2, RFC 9382 in spirit: the crate's group and hash). Who
//! does not know the words gets one guess for each rendezvous, and nothing to try others on afterwards.

use postern_protocol::{
    name::Domain,
    rendezvous::{RendezvousNumber, Side, SideKeys},
};
use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::code::Words;

/// An agreement whose other half is outstanding.
pub(super) struct Begun {
    side: Side,
    state: Spake2<Ed25519Group>,
}

/// The secret of the two sides, if both used the same words.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Agreed {
    #[zeroize(skip)]
    owner: bool,
    secret: [u8; 32],
}

/// Begins as one side; returns the half for the other one, too.
pub(super) fn begin(side: Side, number: RendezvousNumber, domain: &Domain, words: Words) -> (Begun, Vec<u8>) {
    let [owner, guest] = [Side::Owner, Side::Guest].map(|side| Identity::new(&side.identity(number, domain)));
    let password = Password::new(words.password());
    let (state, half) = match side {
        Side::Owner => Spake2::start_a(&password, &owner, &guest),
        Side::Guest => Spake2::start_b(&password, &owner, &guest),
    };
    (Begun { side, state }, half)
}

impl Begun {
    /// Finishes with the other side's half; `None` for what is none.
    pub(super) fn finish(self, half: &[u8]) -> Option<Agreed> {
        let secret = Zeroizing::new(self.state.finish(half).ok()?);
        let secret = secret.as_slice().try_into().ok()?;
        Some(Agreed { owner: self.side == Side::Owner, secret })
    }
}

impl Agreed {
    pub(super) fn own(&self) -> SideKeys {
        SideKeys::derive(&self.secret, self.side())
    }

    pub(super) fn theirs(&self) -> SideKeys {
        SideKeys::derive(&self.secret, self.side().other())
    }

    fn side(&self) -> Side {
        if self.owner { Side::Owner } else { Side::Guest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Setting {
        number: RendezvousNumber,
        domain: Domain,
        words: Words,
    }

    fn setting() -> Setting {
        Setting {
            number: "305718".parse().unwrap(),
            domain: "example.org".parse().unwrap(),
            words: Words::random(),
        }
    }

    fn begin_as(side: Side, setting: &Setting) -> (Begun, Vec<u8>) {
        begin(side, setting.number, &setting.domain, setting.words)
    }

    /// Whether the two sides believe each other.
    fn agree(owner: &Setting, guest: &Setting) -> bool {
        let (owners, from_owner) = begin_as(Side::Owner, owner);
        let (guests, from_guest) = begin_as(Side::Guest, guest);
        let (owner, guest) = (owners.finish(&from_guest).unwrap(), guests.finish(&from_owner).unwrap());
        let believes = owner.theirs().is_confirmed_by(guest.own().confirmation());
        assert_eq!(believes, guest.theirs().is_confirmed_by(owner.own().confirmation()));
        assert_eq!(believes, owner.own().payloads == guest.theirs().payloads);
        assert_ne!(owner.own().payloads, owner.theirs().payloads, "nothing is reflected");
        assert!(!owner.theirs().is_confirmed_by(owner.own().confirmation()));
        believes
    }

    #[test]
    fn two_sides_agree_with_the_same_words_at_the_same_rendezvous_only() {
        let one = setting();
        let other_words = loop {
            let words = Words::random();
            if words != one.words {
                break words;
            }
        };
        assert!(agree(&one, &Setting { domain: one.domain.clone(), ..one }));
        for other in [
            Setting { words: other_words, domain: one.domain.clone(), ..one },
            Setting { number: "305719".parse().unwrap(), domain: one.domain.clone(), ..one },
            Setting { domain: "elsewhere.example".parse().unwrap(), ..one },
        ] {
            assert!(!agree(&one, &other));
        }
    }

    #[test]
    fn halves_of_the_wrong_side_and_no_halves_are_nothing() {
        let one = setting();
        let (_, own) = begin_as(Side::Owner, &one);
        for half in [&own[..], &own[..32], &[], &[0x42; 1], &[0x42; 34]] {
            assert!(begin_as(Side::Owner, &one).0.finish(half).is_none());
        }
    }
}
