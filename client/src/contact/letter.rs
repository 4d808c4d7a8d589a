//! Letters between clients, as bytes: signed by their sender, sealed to their receiver.
//!
//! A deposit is a [`Letter`] in CBOR, sealed with HPKE (see [`postern_protocol::hpke`]) to the key in
//! the receiver's contact, with info `"Postern contact seal" || 0` and the receiver's address as associated
//! data.

use postern_protocol::{
    Address, HpkePublicKey, IssuedCredential, Payload, PublicKey, Signature, auth::SignedContact,
    chain::HpkePrivateKey, credential::ClientCredential, encoding::Encoding, key::SigningKey, label::Label,
};
use serde::{Deserialize, Serialize};

use super::friendship::{Friend, FriendshipSecrets};
use crate::error::{Error, Result};

/// From one client to another, signed by its sender for this receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Letter {
    /// The sender's, as the AS issued it.
    pub credential: IssuedCredential,
    /// A [`LetterBody`] in CBOR.
    pub body: Payload,
    /// By the sender's client key, over
    /// `"Postern contact letter" || 0 || receiver's address || body`.
    pub signature: Signature,
}

/// The content of a letter.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterBody {
    /// "I would like to add you to groups."
    Request(ContactRequest),
    /// "You may."
    Answer(ContactAnswer),
    /// "This is our friendship now", to contacts that had it before.
    Renewal(Friend),
    /// The same, to a device of the sender's own user.
    Secrets(FriendshipSecrets),
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

/// A letter whose sender's signature was checked. Whether the AS vouches for the sender was not.
#[derive(Debug, Clone)]
pub(super) struct OpenedLetter {
    pub sender: ClientCredential,
    pub body: LetterBody,
}

/// Signs and seals a letter to a contact.
pub(super) fn seal(
    to: &SignedContact,
    client: &SigningKey,
    credential: IssuedCredential,
    body: &LetterBody,
) -> Result<Payload> {
    let body = Payload::new(Encoding::Cbor.encode(body));
    let signature = client.sign(&to_be_signed(&to.address, &body));
    let letter = Encoding::Cbor.encode(&Letter { credential, body, signature });
    Ok(Payload::new(seal_to(&to.hpke_key, Label::CONTACT_SEAL.as_bytes(), to.address.as_bytes(), &letter)?))
}

/// Opens a deposit made to `address`; `None` for anything but a letter signed by its sender.
pub(super) fn open(payload: &Payload, address: &Address, private: &HpkePrivateKey) -> Option<OpenedLetter> {
    let letter = private.open(Label::CONTACT_SEAL.as_bytes(), address.as_bytes(), payload.as_bytes()).ok()?;
    let letter: Letter = Encoding::Cbor.decode(&letter).ok()?;
    let sender = ClientCredential::parse(&letter.credential).ok()?;
    sender.client_key.verify(&to_be_signed(address, &letter.body), &letter.signature).ok()?;
    let body: LetterBody = Encoding::Cbor.decode(letter.body.as_bytes()).ok()?;
    let answerable = match &body {
        LetterBody::Request(request) => is_of(&request.contact, sender.client_key),
        _ => true,
    };
    answerable.then_some(OpenedLetter { sender, body })
}

fn seal_to(key: &HpkePublicKey, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    key.seal(info, aad, plaintext).map_err(|_| Error::BadBlob("contact"))
}

fn is_of(contact: &SignedContact, client: PublicKey) -> bool {
    contact.verify(client).is_ok()
}

fn to_be_signed(receiver: &Address, body: &Payload) -> Vec<u8> {
    Label::CONTACT_LETTER.followed_by(&[receiver.as_bytes(), body.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_protocol::name::Domain;

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

    #[test]
    fn only_the_receiver_reads_a_letter_and_knows_who_wrote_it() {
        let (alice, bob, eve) = (person("alice"), person("bob"), person("eve"));
        let sealed = seal(&bob.contact, &alice.client, alice.credential.clone(), &request(&alice)).unwrap();
        let letter = open(&sealed, &bob.contact.address, &bob.hpke).unwrap();
        assert_eq!(letter.sender.client_key, alice.client.public_key());
        assert!(open(&sealed, &bob.contact.address, &eve.hpke).is_none());
        assert!(open(&sealed, &eve.contact.address, &bob.hpke).is_none());
        let mut damaged = sealed.into_bytes();
        damaged.truncate(31);
        assert!(open(&Payload::new(damaged), &bob.contact.address, &bob.hpke).is_none());
    }

    #[test]
    fn a_letter_cannot_be_passed_on_or_taken_over() {
        let (alice, bob, eve) = (person("alice"), person("bob"), person("eve"));
        let in_alices_name =
            seal(&bob.contact, &eve.client, alice.credential.clone(), &request(&alice)).unwrap();
        assert!(open(&in_alices_name, &bob.contact.address, &bob.hpke).is_none());
        let with_alices_contact =
            seal(&bob.contact, &eve.client, eve.credential.clone(), &request(&alice)).unwrap();
        assert!(open(&with_alices_contact, &bob.contact.address, &bob.hpke).is_none());
    }
}
