//! Safety numbers: what two people compare, by reading it to each other or with a camera, to know that no server stands
//! between them. A number is made of both users' identities as this device knows them: how each began, and a digest of
//! all that happened to it since. If a server shows the two people two histories of one of them, they see two numbers,
//! though everything else looks right to both. Owns the table `safety_numbers`.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use openmls_traits::{OpenMlsProvider as _, crypto::OpenMlsCrypto as _, types::HashType};
use postern_protocol::{
    PublicKey, Transcript, eid::EidState, encoding::Encoding, label::Label, name::UserName,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    error::{Error, IdentityError, Result},
    identity::{self, Known, Seen},
    store::{Tx, decode, encode},
};

/// Rounds of hashing for a number, which make it costly to look for keys whose number is like another's.
const ROUNDS: usize = 5200;
/// Groups of five digits for each user.
const GROUPS: usize = 6;
/// The beginning of a code. All of a code is of the 45 characters that QR codes have short forms of: a picture of bytes would
/// not fit into a terminal.
const CODE: &str = "POSTERN-SAFETY-NUMBER.";

/// The digits and bytes that this user and another compare.
#[derive(Clone, PartialEq, Eq)]
pub struct SafetyNumber {
    digits: String,
    code: String,
}

/// An identity as it was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shown {
    user: UserName,
    founder: PublicKey,
    founding: Transcript,
    eid: EidState,
}

/// An identity as a code carries it: user, founder, founding transcript; incarnation, epoch and transcript of its state. Names
/// of fields would make the picture larger.
type Carried = (UserName, PublicKey, Transcript, u32, u64, Transcript);

impl SafetyNumber {
    /// 60 digits in twelve groups of five, the same for both users.
    pub fn digits(&self) -> &str {
        &self.digits
    }

    /// Text for a QR code, by which the other user's client compares more than people can: also states of the
    /// identities that one of the two has not seen yet.
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl fmt::Debug for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SafetyNumber").field(&self.digits).finish()
    }
}

impl Shown {
    fn of(user: &UserName, known: &Known) -> Self {
        Self { user: user.clone(), founder: known.founder, founding: known.founding, eid: known.eid }
    }

    fn carried(&self) -> Carried {
        let EidState { incarnation, epoch, transcript } = self.eid;
        (self.user.clone(), self.founder, self.founding, incarnation, epoch, transcript)
    }

    fn of_carried((user, founder, founding, incarnation, epoch, transcript): Carried) -> Self {
        Self { user, founder, founding, eid: EidState { incarnation, epoch, transcript } }
    }

    /// `"Postern safety number" || 0 || len(name) as u16 || name || founder || founding transcript || state`
    fn to_bytes(&self) -> Vec<u8> {
        let name = self.user.to_string();
        let length = u16::try_from(name.len()).expect("a name has less than 64 KiB");
        Label::SAFETY_NUMBER.followed_by(&[
            &length.to_be_bytes(),
            name.as_bytes(),
            self.founder.as_bytes(),
            self.founding.as_bytes(),
            &self.eid.to_bytes(),
        ])
    }

    /// Half of a number: SHA-512 of the bytes, then of the hash and the bytes again and again; of the last hash, each
    /// five bytes give five digits.
    fn half(&self, tx: &Tx<'_>) -> Result<String> {
        let bytes = self.to_bytes();
        let mut hash = Vec::new();
        for _ in 0..ROUNDS {
            let input = [hash.as_slice(), &bytes].concat();
            hash = tx.crypto().hash(HashType::Sha2_512, &input).map_err(Error::mls("cannot hash"))?;
        }
        let groups: Vec<_> = hash
            .chunks_exact(5)
            .take(GROUPS)
            .map(|chunk| {
                let number = chunk.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
                format!("{:05}", number % 100_000)
            })
            .collect();
        Ok(groups.join(" "))
    }
}

/// The number of this user and another, as both are known after a lookup, which is remembered as shown.
///
/// # Errors
/// [`IdentityError::Unknown`] before a lookup, [`IdentityError::Reset`] while a reset waits for a person.
pub(crate) fn show(tx: &Tx<'_>, user: &UserName) -> Result<SafetyNumber> {
    let (own, theirs) = both(tx, user)?;
    tx.sql().execute(
        "INSERT OR REPLACE INTO safety_numbers (user, shown) VALUES (?1, ?2)",
        params![user.to_string(), encode(&theirs)],
    )?;
    number(tx, &own, &theirs)
}

fn number(tx: &Tx<'_>, own: &Shown, theirs: &Shown) -> Result<SafetyNumber> {
    let mut halves = [own.half(tx)?, theirs.half(tx)?];
    halves.sort_unstable();
    let code = BASE32_NOPAD.encode(&Encoding::Cbor.encode(&(own.carried(), theirs.carried())));
    Ok(SafetyNumber { digits: halves.join(" "), code: format!("{CODE}{code}") })
}

/// A person compared the number that was shown last: the user is verified, unless the identity is another by now.
///
/// # Errors
/// [`Error::NothingCompared`] if no number was shown, or the identity of then does not go on to the one of now.
pub(crate) fn confirm(tx: &Tx<'_>, user: &UserName) -> Result<()> {
    let (_, theirs) = both(tx, user)?;
    let sql = "SELECT shown FROM safety_numbers WHERE user = ?1";
    let shown: Option<Vec<u8>> = tx.sql().query_row(sql, [user.to_string()], |row| row.get(0)).optional()?;
    let shown: Shown = match shown {
        Some(shown) => decode(&shown, "a safety number")?,
        None => return Err(Error::NothingCompared(user.clone())),
    };
    let goes_on = (shown.founder, shown.founding) == (theirs.founder, theirs.founding)
        && identity::compare(tx, user, &shown.eid)? == Seen::Same;
    if !goes_on {
        return Err(Error::NothingCompared(user.clone()));
    }
    identity::set_verified(tx, user, true)
}

/// Compares the code that another user's client shows with what this device knows, after a lookup of both users. If
/// all of it agrees, the user is verified.
///
/// # Errors
/// [`Error::BadBlob`] for anything but a code of the two, [`Error::DifferentIdentity`] if the other user sees another
/// identity or another history of either.
pub(crate) fn compare_code(tx: &Tx<'_>, user: &UserName, code: &str) -> Result<()> {
    let bad = || Error::BadBlob("safety code");
    let code = code.trim().strip_prefix(CODE).ok_or_else(bad)?;
    let code = BASE32_NOPAD.decode(code.as_bytes()).map_err(|_| bad())?;
    let (of_them, of_us): (Carried, Carried) = Encoding::Cbor.decode(&code).map_err(|_| bad())?;
    let (of_them, of_us) = (Shown::of_carried(of_them), Shown::of_carried(of_us));
    let (own, theirs) = both(tx, user)?;
    if of_them.user != theirs.user || of_us.user != own.user {
        return Err(bad());
    }
    for (shown, known) in [(of_them, theirs), (of_us, own)] {
        if (shown.founder, shown.founding) != (known.founder, known.founding) {
            return Err(Error::DifferentIdentity(user.clone()));
        }
        match identity::compare(tx, &known.user, &shown.eid)? {
            Seen::Same => {}
            // It is older than all that this device saw: of that it cannot tell what is true.
            Seen::Unknown => return Err(bad()),
            Seen::Newer | Seen::Split => return Err(Error::DifferentIdentity(user.clone())),
        }
    }
    identity::set_verified(tx, user, true)
}

/// This user's identity and another's.
fn both(tx: &Tx<'_>, user: &UserName) -> Result<(Shown, Shown)> {
    let known = |user: &UserName| match identity::known(tx, user)? {
        Some(known) if known.reset_pending => Err(Error::from(IdentityError::Reset)),
        Some(known) => Ok(Shown::of(user, &known)),
        None => Err(IdentityError::Unknown.into()),
    };
    Ok((known(&Account::load(tx)?.user)?, known(user)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{options::Options, store::Store};

    fn identity(name: &str, byte: u8) -> Shown {
        let founding = Transcript::new([byte; 32]);
        Shown {
            user: format!("{name}@example.org").parse().unwrap(),
            founder: PublicKey::new([byte; 32]),
            founding,
            eid: EidState::founded(0, founding).followed_by(b"commit"),
        }
    }

    #[test]
    fn both_users_see_the_same_sixty_digits_and_anything_else_gives_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let digits =
            |one: &Shown, other: &Shown| store.read(|tx| number(tx, one, other)).unwrap().digits().to_owned();
        let (alice, bob) = (identity("alice", 1), identity("bob", 2));
        let number = digits(&alice, &bob);
        assert_eq!(number, digits(&bob, &alice));
        assert_eq!(number.split(' ').count(), 12);
        assert!(number.split(' ').all(|group| group.len() == 5 && group.bytes().all(|b| b.is_ascii_digit())));
        for other in [
            Shown { founder: PublicKey::new([3; 32]), ..bob.clone() },
            Shown { founding: Transcript::new([3; 32]), ..bob.clone() },
            Shown { eid: EidState::founded(0, bob.founding).followed_by(b"another"), ..bob.clone() },
            Shown { eid: EidState { incarnation: 1, ..bob.eid }, ..bob.clone() },
            identity("bob2", 2),
        ] {
            assert_ne!(digits(&alice, &other), number, "{other:?}");
        }
    }

    #[test]
    fn a_code_has_all_of_both_identities_in_characters_that_qr_codes_have_short_forms_of() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        // The names have 130 bytes together, and the numbers are as long as they can be.
        let old = |letter: &str, byte: u8| {
            let shown = identity(&letter.repeat(53), byte);
            Shown { eid: EidState { incarnation: u32::MAX, epoch: u64::MAX, ..shown.eid }, ..shown }
        };
        let (one, other) = (old("a", 1), old("b", 2));
        let number = store.read(|tx| number(tx, &one, &other)).unwrap();
        let code = number.code();
        let is_short = |c: char| c.is_ascii_digit() || c.is_ascii_uppercase() || " $%*+-./:".contains(c);
        assert!(code.chars().all(is_short), "{code}");
        // A QR code of version 13 has so many at level L, and with its frame 77 columns and 39 lines in a terminal.
        assert!(code.len() <= 619, "{} characters", code.len());
        let carried = BASE32_NOPAD.decode(code.strip_prefix(CODE).unwrap().as_bytes()).unwrap();
        let (first, second): (Carried, Carried) = Encoding::Cbor.decode(&carried).unwrap();
        assert_eq!((Shown::of_carried(first), Shown::of_carried(second)), (one, other));
    }
}
