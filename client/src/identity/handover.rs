//! Knowledge that this device has of others' identities, for a new device of this user (AS-7): it need not believe the
//! AS anew, about contacts or about members of groups.

use std::collections::BTreeSet;

use postern_protocol::{
    Payload,
    eid::{EidState, Founding},
    name::UserName,
};
use serde::{Deserialize, Serialize};

use super::known::{self, Kept, Which};
use crate::{
    error::{Error, Result},
    store::{Tx, encode},
};

/// The most members whose identities are handed over, besides contacts and users that a person verified.
const MOST_MEMBERS: usize = 200;
/// The bytes of a member's identity that is handed over, at most. One of very many devices takes nobody's place.
const LARGEST: usize = 32 * 1024;
/// The bytes of all identities in a handover to which those of members are added, so that it fits into a rendezvous. This device
/// is not told how many payloads its homeserver takes, and a new device that does not come in is worse than one that believes the
/// AS about a member.
const ROOM: usize = 256 * 1024;

/// A user's identity as it is handed over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pin {
    user: UserName,
    founding: Founding,
    eid: EidState,
    public_group: Payload,
    former: Vec<UserName>,
    seen: u64,
    verified: bool,
}

impl Pin {
    fn of(tx: &Tx<'_>, user: &UserName) -> Result<Option<Self>> {
        let kept = known::find(tx, user, Which::Accepted)?;
        Ok(kept.map(|Kept { founding, eid, public_group, former, called: _, seen, verified }| {
            let public_group = Payload::new(public_group);
            Self { user: user.clone(), founding, eid, public_group, former, seen, verified }
        }))
    }

    /// Its bytes as it is handed over.
    fn size(&self) -> usize {
        encode(self).len()
    }
}

/// The identities of some users, and of those that a person verified; then those of members of groups, in their order, as far as
/// there is room.
pub(crate) fn pins(tx: &Tx<'_>, users: Vec<UserName>, members: &[UserName]) -> Result<Vec<Pin>> {
    let mut statement = tx.sql().prepare("SELECT user FROM eids WHERE pending = 0 AND verified = 1")?;
    let verified = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut users: BTreeSet<UserName> = users.into_iter().collect();
    for user in verified {
        users.insert(user.parse().map_err(|_| Error::Damaged("a user name"))?);
    }
    let mut pins: Vec<Pin> = Vec::new();
    for user in &users {
        pins.extend(Pin::of(tx, user)?);
    }
    let mut room = ROOM.saturating_sub(pins.iter().map(Pin::size).sum());
    let most = pins.len() + MOST_MEMBERS;
    for user in members.iter().filter(|user| !users.contains(*user)) {
        if pins.len() == most {
            break;
        }
        if let Some(pin) = Pin::of(tx, user)?.filter(|pin| pin.size() <= room.min(LARGEST)) {
            room -= pin.size();
            pins.push(pin);
        }
    }
    Ok(pins)
}

/// Takes over what another device of this user knows, of users that this one does not know yet.
pub(crate) fn take_over_pins(tx: &Tx<'_>, pins: Vec<Pin>) -> Result<()> {
    for Pin { user, founding, eid, public_group, former, seen, verified } in pins {
        if known::find(tx, &user, Which::Accepted)?.is_none() {
            let public_group = public_group.into_bytes();
            let kept = Kept { founding, eid, public_group, former, called: None, seen, verified };
            known::replace(tx, &user, Which::Accepted, &kept)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::{options::Options, store::Store};

    fn user(name: impl std::fmt::Display) -> UserName {
        format!("{name}@example.org").parse().unwrap()
    }

    fn users(kind: &str, number: usize) -> Vec<UserName> {
        (0..number).map(|place| user(format!("{kind}{place:03}"))).collect()
    }

    /// Keeps an identity of so many bytes of each user, as lookups showed it.
    fn see(store: &Store, users: &[UserName], bytes: usize, verified: bool) {
        let keep = |tx: &Tx<'_>| {
            for user in users {
                tx.sql().execute(
                    "INSERT OR REPLACE INTO eids (user, pending, founder, founding, incarnation, epoch, transcript,
                                                  public_group, seen, verified)
                     VALUES (?1, 0, zeroblob(32), zeroblob(32), 0, 0, zeroblob(32), zeroblob(?2), 0, ?3)",
                    params![user.to_string(), bytes, verified],
                )?;
            }
            Ok(())
        };
        store.write(keep).unwrap();
    }

    /// The users whose identities are handed over, and the bytes of these.
    fn handed_over(store: &Store, users: &[UserName], members: &[UserName]) -> (Vec<UserName>, usize) {
        let pins = store.read(|tx| pins(tx, users.to_vec(), members)).unwrap();
        let bytes = pins.iter().map(Pin::size).sum();
        (pins.into_iter().map(|pin| pin.user).collect(), bytes)
    }

    #[test]
    fn contacts_and_verified_users_are_handed_over_and_as_many_members_as_there_is_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), &Options::default()).unwrap();
        let members = users("member", MOST_MEMBERS + 1);
        let [bob, carol] = ["bob", "carol"].map(user);
        see(&store, &members, 700, false);
        see(&store, std::slice::from_ref(&bob), 700, false);
        see(&store, std::slice::from_ref(&carol), 700, true);
        let (handed, _) = handed_over(&store, std::slice::from_ref(&bob), &members);
        assert_eq!(handed[..2], [bob, carol.clone()]);
        assert_eq!(handed[2..], members[..MOST_MEMBERS], "those of most use");
        // A member who is a contact, too, is there once.
        let (handed, _) = handed_over(&store, &members[..2], &members);
        assert_eq!(handed.len(), MOST_MEMBERS + 2);
        // One with an identity without end takes nobody's place.
        see(&store, &members[..1], LARGEST, false);
        let (handed, _) = handed_over(&store, &[], &members);
        assert_eq!(handed[1..], members[1..]);
        // Contacts take the room of members, and members nobody's.
        let contacts = users("contact", 40);
        see(&store, &contacts, 7000, false);
        let (handed, bytes) = handed_over(&store, &contacts[..20], &members);
        assert!((22..MOST_MEMBERS).contains(&handed.len()) && bytes <= ROOM, "{} {bytes}", handed.len());
        let (handed, bytes) = handed_over(&store, &contacts, &members);
        assert_eq!((&handed[..1], &handed[1..]), (&[carol][..], &contacts[..]));
        assert!(bytes > ROOM);
    }
}
