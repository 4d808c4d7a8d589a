//! The description by which a homeserver is known to others (FED-1): where it is, which versions of this protocol it
//! speaks, and its keys. It is signed by a server key, and each server key is endorsed by the one before: who knows one
//! of them knows the next ones.
//!
//! A signature is over the label `Postern server description`, a zero byte, and the fields as a TLS structure (RFC 8446
//! §3), an endorsement over the label `Postern server key`, a zero byte, the domain and the new key:
//!
//! ```text
//! struct { opaque domain<V>; opaque key[32]; } Endorsed;
//!
//! struct { opaque key[32]; opaque signature<V>; } Endorsement;
//!
//! struct { opaque public_key[32]; uint64 not_before; uint64 not_after; optional<Endorsement> endorsement; } ServerKey;
//!
//! struct { uint16 token_type; opaque token_key<V>; optional<uint64> not_before; } TokenKey;
//!
//! struct {
//!     opaque domain<V>;
//!     uint16 versions<V>;
//!     opaque base_url<V>;
//!     ServerKey keys<V>;
//!     opaque revoked[32]<V>;
//!     opaque gateway_keys<V>;          /* application/ohttp-keys (RFC 9458 §3.2) */
//!     opaque issuer_request_uri<V>;
//!     TokenKey token_keys<V>;
//!     uint8 relays_for_others;         /* 0 or 1 */
//!     uint64 generation;
//!     uint64 issued;                   /* seconds since 1970 */
//!     uint64 expires;
//! } Description;
//! ```

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use tls_codec::{TlsSerialize, TlsSize, VLBytes};

use crate::{
    Payload, PublicKey, Signature,
    aas::{IssuerDirectory, TokenKey},
    hash::sha256,
    key::SigningKey,
    label::Label,
    name::Domain,
};

/// The version of the protocol between homeservers that this crate speaks.
pub const VERSION: u16 = 1;
/// The path of a domain's description.
pub const DESCRIPTION_PATH: &str = "/.well-known/postern";
/// Bytes that a description may have.
pub const MAX_DESCRIPTION_BYTES: usize = 256 * 1024;
/// Keys that a description may have, and keys that it may revoke.
pub const MAX_KEYS: usize = 256;

/// Seconds that another homeserver's clock may be ahead.
const MAX_CLOCK_SKEW: u64 = 5 * 60;
/// Seconds for which a description holds at most, whatever it says: a key that signed it may be nobody's any more.
const MAX_LIFETIME: u64 = 7 * 24 * 60 * 60;

/// The answer to `GET /.well-known/postern` (200); no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub domain: Domain,
    /// The versions of the protocol between homeservers.
    pub versions: Vec<u16>,
    /// The URL of the homeserver, without a path. Its host need not be the domain.
    pub base_url: String,
    /// The keys by which the homeserver signs, the newest first, with those before them.
    pub keys: Vec<ServerKey>,
    /// Keys whose signatures count no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<PublicKey>,
    /// The key configurations of the gateway (RFC 9458 §3.2), the one to use first.
    pub gateway_keys: Payload,
    /// The issuer directory (RFC 9578 §4).
    pub issuer: IssuerDirectory,
    /// Whether people of other domains may have it relay what they ask their own homeserver (FED-7).
    pub relays_for_others: bool,
    /// Number of the database's generation, which changes when the homeserver was restored to an earlier state (QS-12); 0: it never
    /// was.
    #[serde(default)]
    pub generation: u64,
    /// Time of the description, in seconds since 1970.
    pub issued: u64,
    /// Time until which it holds.
    pub expires: u64,
    pub signatures: Vec<KeySignature>,
}

/// A key by which a homeserver signs. Times are seconds since 1970, both inclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKey {
    pub public_key: PublicKey,
    pub not_before: u64,
    pub not_after: u64,
    /// By the key before it; the first key has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<KeySignature>,
}

/// A signature, and the key that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySignature {
    pub key: PublicKey,
    pub signature: Signature,
}

/// The keys of a homeserver that its reader knows already.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    pub trusted: Vec<PublicKey>,
    pub distrusted: Vec<PublicKey>,
}

/// The reason why a description is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    #[error("it is no description")]
    Malformed,
    #[error("it is of another domain")]
    OtherDomain,
    #[error("it speaks no version of the protocol that this server does")]
    Version,
    #[error("it is not valid at this time")]
    NotValidNow,
    #[error("no key that is known, or endorsed by one that is, signed it")]
    UnknownKey,
    #[error("its signature does not verify")]
    WrongSignature,
}

#[derive(Debug, TlsSize, TlsSerialize)]
struct EndorsedTls {
    domain: VLBytes,
    key: [u8; 32],
}

#[derive(Debug, TlsSize, TlsSerialize)]
struct EndorsementTls {
    key: [u8; 32],
    signature: VLBytes,
}

#[derive(Debug, TlsSize, TlsSerialize)]
struct ServerKeyTls {
    public_key: [u8; 32],
    not_before: u64,
    not_after: u64,
    endorsement: Option<EndorsementTls>,
}

#[derive(Debug, TlsSize, TlsSerialize)]
struct TokenKeyTls {
    token_type: u16,
    token_key: VLBytes,
    not_before: Option<u64>,
}

#[derive(Debug, TlsSize, TlsSerialize)]
struct DescriptionTls {
    domain: VLBytes,
    versions: Vec<u16>,
    base_url: VLBytes,
    keys: Vec<ServerKeyTls>,
    revoked: Vec<[u8; 32]>,
    gateway_keys: VLBytes,
    issuer_request_uri: VLBytes,
    token_keys: Vec<TokenKeyTls>,
    relays_for_others: u8,
    generation: u64,
    issued: u64,
    expires: u64,
}

impl KeySignature {
    /// Endorses a new server key of a domain with the one before it.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn endorse(domain: &Domain, new: PublicKey, before: &SigningKey) -> Self {
        let signature = before.sign(&endorsed(domain, new));
        Self { key: before.public_key(), signature }
    }
}

fn endorsed(domain: &Domain, key: PublicKey) -> Vec<u8> {
    let endorsed = EndorsedTls { domain: bytes(domain.as_str()), key: *key.as_bytes() };
    labelled(Label::SERVER_KEY, &endorsed)
}

fn labelled(label: Label, content: &impl tls_codec::Serialize) -> Vec<u8> {
    label.followed_by(&[&content.tls_serialize_detached().expect("its size is bounded")])
}

fn bytes(text: &str) -> VLBytes {
    text.as_bytes().to_vec().into()
}

impl ServerKey {
    /// The key that endorsed this one for a domain.
    fn endorser(&self, domain: &Domain) -> Option<PublicKey> {
        let KeySignature { key, signature } = self.endorsement.as_ref()?;
        key.verify(&endorsed(domain, self.public_key), signature).ok()?;
        Some(*key)
    }
}

impl Description {
    /// Reads a description, of a bounded size: with [`MAX_KEYS`] keys, each once, and a signature by each of them at most.
    /// So a reader verifies a few hundred signatures, whatever it is given.
    ///
    /// # Errors
    /// [`DescriptionError::Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, DescriptionError> {
        if json.len() > MAX_DESCRIPTION_BYTES {
            return Err(DescriptionError::Malformed);
        }
        let description: Self = serde_json::from_slice(json).map_err(|_| DescriptionError::Malformed)?;
        let keys: HashSet<_> = description.keys.iter().map(|key| key.public_key).collect();
        let signers: HashSet<_> = description.signatures.iter().map(|signature| signature.key).collect();
        let is_bounded = description.keys.len() <= MAX_KEYS
            && description.revoked.len() <= MAX_KEYS
            && keys.len() == description.keys.len()
            && signers.len() == description.signatures.len()
            && signers.is_subset(&keys);
        is_bounded.then_some(description).ok_or(DescriptionError::Malformed)
    }

    /// A digest of what the description says, without its times: two that agree in it tell the same.
    pub fn content_digest(&self) -> [u8; 32] {
        sha256(&[&Self { issued: 0, expires: 0, ..self.clone() }.signed()])
    }

    /// Adds the signature of a key.
    pub fn sign(&mut self, key: &SigningKey) {
        let signature = key.sign(&self.signed());
        self.signatures.push(KeySignature { key: key.public_key(), signature });
    }

    /// Verifies that this is the description of a domain, that it holds at `now` (seconds since 1970), and that a key
    /// signed it which the reader knows, or to which endorsements lead from one. For a reader that trusts none, any of its
    /// own keys will do that is not distrusted. Returns the keys that the reader knows from now on: those that have signed
    /// for this domain, or else somebody could claim another homeserver's key.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub fn verify(
        &self,
        domain: &Domain,
        known: &KnownKeys,
        now: u64,
    ) -> Result<Vec<PublicKey>, DescriptionError> {
        if self.domain != *domain {
            return Err(DescriptionError::OtherDomain);
        }
        if !self.versions.contains(&VERSION) {
            return Err(DescriptionError::Version);
        }
        if self.is_of_the_future(now) || self.held_until() < now {
            return Err(DescriptionError::NotValidNow);
        }
        let trusted = self.trusted(known);
        let signers = self.keys.iter().filter(|key| {
            let is_valid = (key.not_before..=key.not_after).contains(&now);
            is_valid && trusted.contains(&key.public_key) && !self.revoked.contains(&key.public_key)
        });
        let mut error = DescriptionError::UnknownKey;
        let signed = self.signed();
        for signer in signers {
            let signatures = self.signatures.iter().filter(|signature| signature.key == signer.public_key);
            for KeySignature { key, signature } in signatures {
                if key.verify(&signed, signature).is_ok() {
                    let is_good = |key: &PublicKey| trusted.contains(key) && !self.revoked.contains(key);
                    let listed = self.keys.iter().map(|key| key.public_key);
                    return Ok(listed.filter(|key| is_good(key) && self.is_used(key, &signed)).collect());
                }
                error = DescriptionError::WrongSignature;
            }
        }
        Err(error)
    }

    /// The time until which the description holds.
    pub fn held_until(&self) -> u64 {
        self.expires.min(self.issued.saturating_add(MAX_LIFETIME))
    }

    /// Whether the description is of a time to come at `now` (seconds since 1970). A reader that has one took it while its own
    /// clock was ahead, too: it counts as none, or else nothing would be newer before that time.
    pub fn is_of_the_future(&self, now: u64) -> bool {
        self.issued > now.saturating_add(MAX_CLOCK_SKEW)
    }

    /// Whether the holder of a key uses it for this domain: it signed the description, or endorsed a key.
    fn is_used(&self, key: &PublicKey, signed: &[u8]) -> bool {
        let mut signatures = self.signatures.iter().filter(|signature| signature.key == *key);
        signatures.any(|KeySignature { signature, .. }| key.verify(signed, signature).is_ok())
            || self.keys.iter().any(|new| new.endorser(&self.domain) == Some(*key))
    }

    /// The keys that are known, and those to which endorsements lead from them.
    fn trusted(&self, known: &KnownKeys) -> Vec<PublicKey> {
        let is_distrusted = |key: &PublicKey| known.distrusted.contains(key);
        if known.trusted.is_empty() {
            return self.keys.iter().map(|key| key.public_key).filter(|key| !is_distrusted(key)).collect();
        }
        let mut trusted: Vec<_> = known.trusted.iter().copied().filter(|key| !is_distrusted(key)).collect();
        let mut links: Vec<_> = self
            .keys
            .iter()
            .filter(|key| !is_distrusted(&key.public_key))
            .filter_map(|key| Some((key.endorser(&self.domain)?, key.public_key)))
            .collect();
        loop {
            let (found, rest): (Vec<_>, _) =
                links.into_iter().partition(|(endorser, _)| trusted.contains(endorser));
            if found.is_empty() {
                return trusted;
            }
            trusted.extend(found.into_iter().map(|(_, key)| key));
            links = rest;
        }
    }

    /// The bytes that signatures are over.
    fn signed(&self) -> Vec<u8> {
        let endorsement = |KeySignature { key, signature }: &KeySignature| EndorsementTls {
            key: *key.as_bytes(),
            signature: signature.as_bytes().to_vec().into(),
        };
        let key = |key: &ServerKey| ServerKeyTls {
            public_key: *key.public_key.as_bytes(),
            not_before: key.not_before,
            not_after: key.not_after,
            endorsement: key.endorsement.as_ref().map(endorsement),
        };
        let token_key = |key: &TokenKey| TokenKeyTls {
            token_type: key.token_type,
            token_key: bytes(&key.token_key),
            not_before: key.not_before,
        };
        labelled(
            Label::SERVER_DESCRIPTION,
            &DescriptionTls {
                domain: bytes(self.domain.as_str()),
                versions: self.versions.clone(),
                base_url: bytes(&self.base_url),
                keys: self.keys.iter().map(key).collect(),
                revoked: self.revoked.iter().map(|key| *key.as_bytes()).collect(),
                gateway_keys: self.gateway_keys.as_bytes().to_vec().into(),
                issuer_request_uri: bytes(&self.issuer.issuer_request_uri),
                token_keys: self.issuer.token_keys.iter().map(token_key).collect(),
                relays_for_others: self.relays_for_others.into(),
                generation: self.generation,
                issued: self.issued,
                expires: self.expires,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn domain() -> Domain {
        "a.example".parse().unwrap()
    }

    fn server_key(key: &SigningKey, before: Option<&SigningKey>) -> ServerKey {
        let endorsement = before.map(|before| KeySignature::endorse(&domain(), key.public_key(), before));
        ServerKey { public_key: key.public_key(), not_before: NOW - 10, not_after: NOW + 10, endorsement }
    }

    /// A description with these keys, the newest last, each endorsed by the one before, signed by the last.
    fn description(keys: &[SigningKey]) -> Description {
        let before = |place: usize| place.checked_sub(1).map(|before| &keys[before]);
        let own = keys.iter().enumerate().map(|(place, key)| server_key(key, before(place)));
        let mut description = Description {
            domain: domain(),
            versions: vec![VERSION],
            base_url: "https://chat.a.example".to_owned(),
            keys: own.rev().collect(),
            revoked: Vec::new(),
            gateway_keys: Payload::new(vec![1, 2, 3]),
            issuer: IssuerDirectory { issuer_request_uri: "/x".to_owned(), token_keys: Vec::new() },
            relays_for_others: true,
            generation: 0,
            issued: NOW,
            expires: NOW + 100,
            signatures: Vec::new(),
        };
        description.sign(keys.last().unwrap());
        description
    }

    fn keys(number: usize) -> Vec<SigningKey> {
        (0..number).map(|_| SigningKey::generate()).collect()
    }

    fn knowing(trusted: &[&SigningKey]) -> KnownKeys {
        let trusted = trusted.iter().map(|key| key.public_key()).collect();
        KnownKeys { trusted, ..KnownKeys::default() }
    }

    #[test]
    fn a_reader_follows_endorsements_from_a_key_that_it_knows_and_from_no_other() {
        let keys = keys(3);
        let description = description(&keys);
        let all: Vec<_> = keys.iter().rev().map(SigningKey::public_key).collect();
        let verify = |known: &KnownKeys| description.verify(&domain(), known, NOW);
        assert_eq!(verify(&KnownKeys::default()).unwrap(), all, "a first look");
        assert_eq!(verify(&knowing(&[&keys[0]])).unwrap(), all);
        assert_eq!(verify(&knowing(&[&keys[2]])).unwrap(), all[..1]);
        let stranger = SigningKey::generate();
        assert_eq!(verify(&knowing(&[&stranger])).unwrap_err(), DescriptionError::UnknownKey);
        let distrusted = vec![keys[0].public_key()];
        let known = KnownKeys { distrusted, ..KnownKeys::default() };
        assert_eq!(verify(&known).unwrap(), all[..2], "a first look, too");
        let distrusted = vec![keys[2].public_key()];
        let known = KnownKeys { distrusted, ..KnownKeys::default() };
        assert_eq!(verify(&known).unwrap_err(), DescriptionError::UnknownKey, "the signer is distrusted");
        let distrusted = vec![keys[1].public_key()];
        let known = KnownKeys { distrusted, ..knowing(&[&keys[0]]) };
        assert_eq!(verify(&known).unwrap_err(), DescriptionError::UnknownKey, "the chain leads through it");
    }

    #[test]
    fn a_description_is_good_for_its_domain_time_and_version_only() {
        let keys = keys(1);
        let (good, known) = (description(&keys), knowing(&[&keys[0]]));
        let other: Domain = "b.example".parse().unwrap();
        assert_eq!(good.verify(&other, &known, NOW), Err(DescriptionError::OtherDomain));
        assert_eq!(good.verify(&domain(), &known, NOW + 101), Err(DescriptionError::NotValidNow));
        assert_eq!(good.verify(&domain(), &known, NOW - 301), Err(DescriptionError::NotValidNow));
        assert!(good.is_of_the_future(NOW - 301) && !good.is_of_the_future(NOW - 300), "clocks differ");
        let mut newer = good.clone();
        newer.versions = vec![VERSION + 1];
        assert_eq!(newer.verify(&domain(), &known, NOW), Err(DescriptionError::Version));
        // The signature is of a key that has ended.
        let mut old = good;
        old.keys[0].not_after = NOW - 1;
        old.signatures.clear();
        old.sign(&keys[0]);
        assert_eq!(old.verify(&domain(), &known, NOW), Err(DescriptionError::UnknownKey));
    }

    #[test]
    fn every_field_is_signed_and_a_revoked_key_signs_nothing() {
        let keys = keys(2);
        let (good, known) = (description(&keys), knowing(&[&keys[0]]));
        let changes: [fn(&mut Description); 11] = [
            |it| it.base_url.push('x'),
            |it| it.versions.push(7),
            |it| it.keys[1].not_after += 1,
            |it| it.keys[1].endorsement = it.keys[0].endorsement.clone(),
            |it| it.revoked.push(PublicKey::new([7; 32])),
            |it| it.gateway_keys = Payload::new(vec![9]),
            |it| it.issuer.issuer_request_uri.push('x'),
            |it| it.relays_for_others = false,
            |it| it.generation += 1,
            |it| it.issued -= 1,
            |it| it.expires += 1,
        ];
        for (place, change) in changes.iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            let verified = changed.verify(&domain(), &known, NOW);
            assert_eq!(verified, Err(DescriptionError::WrongSignature), "{place}");
        }
        let mut revoked = good;
        revoked.revoked.push(keys[0].public_key());
        revoked.signatures.clear();
        revoked.sign(&keys[0]);
        assert_eq!(revoked.verify(&domain(), &known, NOW), Err(DescriptionError::UnknownKey));
        revoked.sign(&keys[1]);
        // The old key is good for one thing: to know the next.
        assert_eq!(revoked.verify(&domain(), &known, NOW).unwrap(), [keys[1].public_key()]);
    }

    #[test]
    fn a_key_that_did_not_sign_for_the_domain_is_not_claimed_by_listing_it() {
        let (own, other) = (keys(2), SigningKey::generate());
        let mut claiming = description(&own);
        // A key of another homeserver: once without an endorsement, once with that of the one that claims it.
        for before in [None, Some(&own[1])] {
            claiming.keys.insert(0, server_key(&other, before));
            claiming.signatures.clear();
            claiming.sign(&own[1]);
            for known in [KnownKeys::default(), knowing(&[&own[0]])] {
                let known = claiming.verify(&domain(), &known, NOW).unwrap();
                assert_eq!(known, [own[1].public_key(), own[0].public_key()]);
            }
            claiming.keys.remove(0);
        }
    }

    #[test]
    fn a_description_holds_for_a_week_whatever_it_says() {
        let keys = keys(1);
        let mut lasting = description(&keys);
        lasting.expires = u64::MAX;
        lasting.keys[0].not_after = u64::MAX;
        lasting.signatures.clear();
        lasting.sign(&keys[0]);
        let verify = |now| lasting.verify(&domain(), &KnownKeys::default(), now);
        assert!(verify(NOW + MAX_LIFETIME).is_ok());
        assert_eq!(verify(NOW + MAX_LIFETIME + 1), Err(DescriptionError::NotValidNow));
    }

    #[test]
    fn descriptions_that_differ_in_their_times_only_tell_the_same() {
        let keys = keys(2);
        let good = description(&keys);
        let mut later = Description { issued: NOW + 60, expires: NOW + 160, ..good.clone() };
        later.signatures.clear();
        later.sign(&keys[1]);
        assert_eq!(later.content_digest(), good.content_digest());
        later.gateway_keys = Payload::new(vec![9]);
        assert_ne!(later.content_digest(), good.content_digest());
    }

    #[test]
    fn a_description_survives_json_if_its_keys_are_few_and_each_is_there_once() {
        let good = description(&keys(2));
        let read =
            |description: &Description| Description::from_json(&serde_json::to_vec(description).unwrap());
        assert_eq!(read(&good).unwrap(), good);
        assert_eq!(Description::from_json(b"{}"), Err(DescriptionError::Malformed));
        let changes: [fn(&mut Description); 5] = [
            |it| it.keys.push(it.keys[0].clone()),
            |it| it.signatures.push(it.signatures[0].clone()),
            |it| it.sign(&SigningKey::generate()),
            |it| it.keys.extend(keys(MAX_KEYS).iter().map(|key| server_key(key, None))),
            |it| it.revoked = vec![PublicKey::new([7; 32]); MAX_KEYS + 1],
        ];
        for (place, change) in changes.iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(read(&bad), Err(DescriptionError::Malformed), "{place}");
        }
    }
}
