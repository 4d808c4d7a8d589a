//! Letters between clients, as bytes: signed by their sender, sealed to their receiver.
//!
//! A deposit is a [`Letter`] in CBOR, sealed with HPKE (see [`postern_protocol::hpke`]) to the key in
//! the receiver's contact, with info `"Postern contact seal" || 0` and the receiver's address as associated
//! data.

use postern_protocol::{
    Address, HpkePublicKey, IssuedCredential, LookupSecret, Payload, PublicKey, Signature,
    auth::SignedContact, chain::HpkePrivateKey, credential::ClientCredential, ds::GroupId, eid::EidState,
    encoding::Encoding, key::SigningKey, label::Label, name::UserName,
};
use serde::{Deserialize, Serialize};

use super::{
    contacts::SharedContact,
    friendship::{Friend, FriendshipSecrets},
    parts::SecretsPart,
};
use crate::error::{Error, Result};

/// From one client to another, signed by its sender for this receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Letter {
    /// The sender's, as the AS issued it.
    pub credential: IssuedCredential,
    pub stamp: Stamp,
    /// Secret by which the receiver can look the sender's user up, if not everybody can (AS-5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<LookupSecret>,
    /// Key of the sender's homeserver (FED-1), for a receiver at another one: who was shown another is lied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_key: Option<PublicKey>,
    /// Where the receiver is to write to the sender from now on: an address that strangers do not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// A [`LetterBody`] in CBOR.
    pub body: Payload,
    /// By the sender's client key, over [`Letter::to_be_signed`].
    pub signature: Signature,
}

/// When a letter was written: what keeps an old one from being taken for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Seconds since 1970, by the sender's clock.
    pub time: u64,
    /// Greater than that of every earlier letter of this sender.
    pub number: u64,
    /// The sender's user's identity, as far as the sender knows it.
    pub eid: EidState,
}

/// The content of a letter.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterBody {
    /// "I would like to add you to groups."
    Request(ContactRequest),
    /// "You may."
    Answer(ContactAnswer),
    /// "You may not."
    Decline(RequestId),
    /// "This is our friendship now", to contacts that had it before.
    Renewal(Friend),
    /// "I was called this before": the credential has the new name.
    Moved(UserName),
    /// "My account ends."
    Gone,
    /// "My profile is of this version now": the AS has it.
    Profile(u64),
    /// "This is our friendship now, with the users that we block", to a device of the sender's own user.
    Secrets(FriendshipSecrets),
    /// The same where it does not fit into one letter, a part of it.
    SecretsPart(SecretsPart),
    /// "This is what we agreed with a contact", to a device of the sender's own user.
    Contact(SharedContact),
    /// "Letters did not reach me: what do our user's devices share?", to a device of the sender's own user.
    Missed,
    /// "These are our contacts", some of them, to a device of the sender's own user that missed letters.
    Contacts { part: u32, contacts: Vec<SharedContact> },
    /// A group that a device of the sender's own user is to come into: what [`crate::group`] hands over,
    /// in CBOR.
    Group { group_id: GroupId, handover: Payload },
    /// "I log out: remove me", to a device of the sender's own user. It names nobody: no device says this of another.
    Leaving,
}

/// "I would like to add you to groups."
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContactRequest {
    /// Chosen by the sender.
    pub request_id: RequestId,
    /// Where the answer goes.
    pub contact: SignedContact,
}

/// "With this, fetch KeyPackages of all my user's devices, whenever you like."
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContactAnswer {
    /// The request's.
    pub request_id: RequestId,
    pub friend: Friend,
}

/// 16 random bytes, which tie an answer to its request.
pub type RequestId = postern_protocol::QueueId;

/// The facts that a letter tells of its sender, as far as it does: see [`Letter`].
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub lookup: Option<LookupSecret>,
    pub home_key: Option<PublicKey>,
    pub address: Option<Address>,
}

/// A letter whose sender's signature was checked. Whether the AS vouches for the sender was not.
#[derive(Debug, Clone)]
pub(super) struct OpenedLetter {
    pub credential: IssuedCredential,
    /// As the credential says.
    pub sender: ClientCredential,
    pub stamp: Stamp,
    pub told: Told,
    pub body: LetterBody,
}

impl Letter {
    /// `"Postern contact letter" || 0 || receiver's address || time as u64 || number as u64 || incarnation as u32 ||
    /// epoch as u64 || transcript || len(credential) as u32 || credential || len(lookup) as u8 || lookup ||
    /// len(home_key) as u8 || home_key || len(address) as u8 || address || body`, numbers big-endian.
    ///
    /// # Panics
    /// If the credential has more than 4 GiB.
    pub fn to_be_signed(
        receiver: &Address,
        credential: &IssuedCredential,
        stamp: &Stamp,
        lookup: Option<&LookupSecret>,
        home_key: Option<&PublicKey>,
        address: Option<&Address>,
        body: &Payload,
    ) -> Vec<u8> {
        let length = u32::try_from(credential.as_bytes().len()).expect("a credential has less than 4 GiB");
        let lookup = lookup.map(|secret| secret.as_bytes().as_slice()).unwrap_or_default();
        let home_key = home_key.map(|key| key.as_bytes().as_slice()).unwrap_or_default();
        let address = address.map(|address| address.as_bytes().as_slice()).unwrap_or_default();
        Label::CONTACT_LETTER.followed_by(&[
            receiver.as_bytes(),
            &stamp.time.to_be_bytes(),
            &stamp.number.to_be_bytes(),
            &stamp.eid.to_bytes(),
            &length.to_be_bytes(),
            credential.as_bytes(),
            if lookup.is_empty() { &[0] } else { &[32] },
            lookup,
            if home_key.is_empty() { &[0] } else { &[32] },
            home_key,
            if address.is_empty() { &[0] } else { &[32] },
            address,
            body.as_bytes(),
        ])
    }
}

impl LetterBody {
    /// Letters of one subject replace each other: the later one says all that counts.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Request(_) => "request".to_owned(),
            Self::Answer(_) | Self::Decline(_) => "answer".to_owned(),
            Self::Renewal(_) => "renewal".to_owned(),
            Self::Moved(_) | Self::Gone => "account".to_owned(),
            Self::Profile(_) => "profile".to_owned(),
            Self::Secrets(_) => "secrets".to_owned(),
            Self::SecretsPart(part) => format!("secrets {}", part.part),
            Self::Contact(contact) => format!("contact {}", contact.user),
            Self::Missed => "missed".to_owned(),
            Self::Contacts { part, .. } => format!("contacts {part}"),
            Self::Group { group_id, .. } => format!("group {}", group_id.to_base64url()),
            Self::Leaving => "leaving".to_owned(),
        }
    }
}

/// Signs a letter, and seals it for the address of a contact.
pub(super) fn seal(
    to: &SignedContact,
    client: &SigningKey,
    credential: IssuedCredential,
    stamp: Stamp,
    told: Told,
    body: &LetterBody,
) -> Result<Payload> {
    let body = Payload::new(Encoding::Cbor.encode(body));
    let Told { lookup, home_key, address } = told;
    let signed = Letter::to_be_signed(
        &to.address,
        &credential,
        &stamp,
        lookup.as_ref(),
        home_key.as_ref(),
        address.as_ref(),
        &body,
    );
    let signature = client.sign(&signed);
    let letter = Letter { credential, stamp, lookup, home_key, address, body, signature };
    let letter = Encoding::Cbor.encode(&letter);
    Ok(Payload::new(seal_to(&to.hpke_key, Label::CONTACT_SEAL.as_bytes(), to.address.as_bytes(), &letter)?))
}

/// Opens a deposit made to one of these addresses; `None` for anything but a letter signed by its sender.
pub(super) fn open(
    payload: &Payload,
    addresses: &[Address],
    private: &HpkePrivateKey,
) -> Option<OpenedLetter> {
    addresses.iter().find_map(|address| open_at(payload, address, private))
}

fn open_at(payload: &Payload, address: &Address, private: &HpkePrivateKey) -> Option<OpenedLetter> {
    let letter = private.open(Label::CONTACT_SEAL.as_bytes(), address.as_bytes(), payload.as_bytes()).ok()?;
    let letter: Letter = Encoding::Cbor.decode(&letter).ok()?;
    let sender = ClientCredential::parse(&letter.credential).ok()?;
    let told = Told { lookup: letter.lookup, home_key: letter.home_key, address: letter.address };
    let signed = Letter::to_be_signed(
        address,
        &letter.credential,
        &letter.stamp,
        told.lookup.as_ref(),
        told.home_key.as_ref(),
        told.address.as_ref(),
        &letter.body,
    );
    sender.client_key.verify(&signed, &letter.signature).ok()?;
    let body: LetterBody = Encoding::Cbor.decode(letter.body.as_bytes()).ok()?;
    let answerable = match &body {
        LetterBody::Request(request) => is_of(&request.contact, sender.client_key),
        _ => true,
    };
    let credential = letter.credential;
    answerable.then_some(OpenedLetter { credential, sender, stamp: letter.stamp, told, body })
}

fn seal_to(key: &HpkePublicKey, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    key.seal(info, aad, plaintext).map_err(|_| Error::BadBlob("contact"))
}

fn is_of(contact: &SignedContact, client: PublicKey) -> bool {
    contact.verify(client).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::{Transcript, name::Domain};

    struct Person {
        client: SigningKey,
        hpke: HpkePrivateKey,
        contact: SignedContact,
        credential: IssuedCredential,
    }

    fn person(name: &str) -> Person {
        let (client, hpke) = (SigningKey::generate(), HpkePrivateKey::generate().unwrap());
        let domain: Domain = "example.org".parse().unwrap();
        let issuer = SigningKey::generate();
        let credential = ClientCredential {
            user: format!("{name}@{domain}").parse().unwrap(),
            client_key: client.public_key(),
            not_before: 0,
            not_after: 1,
            issuer_key: issuer.public_key(),
        };
        let address = Address::generate().unwrap();
        Person {
            contact: SignedContact::sign(domain, address, hpke.public_key().unwrap(), &client),
            credential: credential.issue(&issuer),
            client,
            hpke,
        }
    }

    fn request(from: &Person) -> LetterBody {
        LetterBody::Request(ContactRequest {
            request_id: RequestId::new([1; 16]),
            contact: from.contact.clone(),
        })
    }

    fn stamp() -> Stamp {
        Stamp { time: 1, number: 2, eid: EidState::founded(0, Transcript::new([3; 32])) }
    }

    fn secret() -> LookupSecret {
        LookupSecret::new([4; 32])
    }

    fn sealed(to: &Person, by: &Person, credential: &IssuedCredential, body: &LetterBody) -> Payload {
        let told = Told { lookup: Some(secret()), ..Told::default() };
        seal(&to.contact, &by.client, credential.clone(), stamp(), told, body).unwrap()
    }

    #[test]
    fn only_the_receiver_reads_a_letter_and_knows_who_wrote_it() {
        let (alice, bob, eve) = (person("alice"), person("bob"), person("eve"));
        let sealed = sealed(&bob, &alice, &alice.credential, &request(&alice));
        let (bobs, eves) = (bob.contact.address, eve.contact.address);
        for addresses in [&[bobs][..], &[eves, bobs]] {
            let letter = open(&sealed, addresses, &bob.hpke).unwrap();
            assert_eq!((letter.sender.client_key, letter.stamp), (alice.client.public_key(), stamp()));
        }
        assert!(open(&sealed, &[bobs], &eve.hpke).is_none());
        assert!(open(&sealed, &[eves], &bob.hpke).is_none());
        let mut damaged = sealed.into_bytes();
        damaged.truncate(31);
        assert!(open(&Payload::new(damaged), &[bobs], &bob.hpke).is_none());
    }

    #[test]
    fn a_letter_cannot_be_passed_on_or_taken_over() {
        let (alice, bob, eve) = (person("alice"), person("bob"), person("eve"));
        let in_alices_name = sealed(&bob, &eve, &alice.credential, &request(&alice));
        assert!(open(&in_alices_name, &[bob.contact.address], &bob.hpke).is_none());
        let with_alices_contact = sealed(&bob, &eve, &eve.credential, &request(&alice));
        assert!(open(&with_alices_contact, &[bob.contact.address], &bob.hpke).is_none());
    }

    #[test]
    fn no_part_of_a_letter_can_be_exchanged() {
        let (alice, bob, eve) = (person("alice"), person("bob"), person("eve"));
        let body = Payload::new(Encoding::Cbor.encode(&LetterBody::Gone));
        let to = bob.contact.address;
        let lookup = Some(secret());
        let home_key = Some(SigningKey::generate().public_key());
        let address = Some(Address::generate().unwrap());
        let signed = Letter::to_be_signed(
            &to,
            &alice.credential,
            &stamp(),
            lookup.as_ref(),
            home_key.as_ref(),
            address.as_ref(),
            &body,
        );
        let (credential, signature) = (alice.credential.clone(), alice.client.sign(&signed));
        let letter = Letter { credential, stamp: stamp(), lookup, home_key, address, body, signature };
        let opens = |letter: &Letter| {
            let letter = Encoding::Cbor.encode(letter);
            let info = Label::CONTACT_SEAL.as_bytes();
            let sealed = seal_to(&bob.contact.hpke_key, info, to.as_bytes(), &letter).unwrap();
            open(&Payload::new(sealed), &[to], &bob.hpke).is_some()
        };
        assert!(opens(&letter));
        let elsewhere = EidState::founded(1, Transcript::new([3; 32]));
        for stamp in [
            Stamp { time: 2, ..stamp() },
            Stamp { number: 3, ..stamp() },
            Stamp { eid: elsewhere, ..stamp() },
        ] {
            assert!(!opens(&Letter { stamp, ..letter.clone() }));
        }
        for lookup in [None, Some(LookupSecret::new([5; 32]))] {
            assert!(!opens(&Letter { lookup, ..letter.clone() }));
        }
        for home_key in [None, Some(eve.client.public_key())] {
            assert!(!opens(&Letter { home_key, ..letter.clone() }));
        }
        for address in [None, Some(to)] {
            assert!(!opens(&Letter { address, ..letter.clone() }));
        }
        let another = Payload::new(Encoding::Cbor.encode(&LetterBody::Decline(RequestId::new([1; 16]))));
        assert!(!opens(&Letter { body: another, ..letter.clone() }));
        assert!(!opens(&Letter { credential: eve.credential, ..letter }));
    }
}
