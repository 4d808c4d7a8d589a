//! The part of a profile for contacts and groups, under the key that they have.

use postern_protocol::{Payload, Transcript, encoding::Encoding, profile::ProfileKey};

use super::ForContacts;
use crate::{error::Result, sealed};

/// Seals the part for contacts, for the identity that it is of.
pub(super) fn seal(key: &ProfileKey, founding: &Transcript, content: &ForContacts) -> Result<Payload> {
    let content = Encoding::Cbor.encode(content);
    sealed::seal_for(key.as_bytes(), founding.as_bytes(), &content).map(Payload::new)
}

/// `None` for anything but what [`seal`] made under this key for this identity.
pub(super) fn open(key: &ProfileKey, founding: &Transcript, sealed: &Payload) -> Option<ForContacts> {
    let content = sealed::open_for(key.as_bytes(), founding.as_bytes(), sealed.as_bytes())?;
    Encoding::Cbor.decode(&content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_for_contacts_opens_under_its_key_and_for_its_identity_only() {
        let (key, other) = (ProfileKey::generate(), ProfileKey::generate());
        let (founding, another) = (Transcript::new([1; 32]), Transcript::new([2; 32]));
        let content = ForContacts { display_name: "Bob".into(), text: "at home".into() };
        let sealed = seal(&key, &founding, &content).unwrap();
        assert_eq!(open(&key, &founding, &sealed), Some(content));
        assert_eq!(open(&other, &founding, &sealed), None);
        assert_eq!(open(&key, &another, &sealed), None);
        let longer = ForContacts { display_name: "Bartholomew".into(), text: "away".into() };
        let longer = seal(&key, &founding, &longer).unwrap();
        assert_eq!(longer.as_bytes().len(), sealed.as_bytes().len(), "the length tells nothing of it");
    }
}
