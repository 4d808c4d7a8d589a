//! The profile of a user (AS-6): a part for everybody, and a part sealed under a key that contacts and groups have. A
//! client of the user signs the whole, for the user's identity and with a version that never goes back, so that the AS
//! changes and replays nothing of it.

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    LookupSecret, MessageDigest, Payload, PublicKey, Signature, Transcript, WrongLength,
    hash::{hmac_key, hmac_sha256, sha256},
    key::{BadSignature, SigningKey},
    label::Label,
    random::random,
};

/// The greatest display name, text and sealed part, in bytes, that a signed profile can have. Operators allow less.
pub const MAX_PART: usize = 65_535;

/// The header in which a lookup shows [`LookupSecret::header_value`] (AS-5). A URL would be in logs and in `Referer`.
pub const LOOKUP_SECRET: HeaderName = HeaderName::from_static("lookup-secret");

/// The key of the part for contacts, which the user's clients, contacts and groups have (AES-256).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ProfileKey([u8; 32]);

/// A profile as everybody sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Incarnation of the user's identity.
    pub incarnation: u32,
    /// Grows with each change within an incarnation, from 1.
    pub version: u64,
    /// Whether anybody can look the user up; else only those that show the lookup secret.
    pub discoverable: bool,
    /// The name to show, in UTF-8; may be empty.
    pub display_name: String,
    pub text: String,
    pub picture: Option<PictureLink>,
    /// The part for contacts, opaque to the AS; may be empty.
    pub sealed: Payload,
}

/// A picture, which is fetched on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureLink {
    pub format: PictureFormat,
    pub bytes: u32,
    /// SHA-256 of its bytes.
    pub digest: MessageDigest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureFormat {
    Png = 1,
    Jpeg = 2,
    Webp = 3,
}

/// A profile, and the signature of a client over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedProfile {
    pub profile: Profile,
    /// The client that signed.
    pub client: PublicKey,
    /// By its key, over [`SignedProfile::to_be_signed`].
    pub signature: Signature,
}

/// `PUT /as/profile`, signed by the client that signed the profile (AS-6). 204.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutProfile {
    pub profile: SignedProfile,
    /// The picture, unless the AS has it.
    pub picture: Option<Payload>,
    /// [`LookupSecret::digest`] of a user that is not discoverable.
    pub lookup: Option<MessageDigest>,
}

impl PutProfile {
    /// Bytes of the largest request: the greatest parts that an operator can allow
    /// (`auth.settings`), and a rest.
    pub const MAX_BYTES: usize = 600 * 1024;
}

/// The answer to `GET /as/users/{name}/picture` (200).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserPicture {
    pub picture: Payload,
}

impl ProfileKey {
    /// # Panics
    /// If the operating system has no randomness.
    pub fn generate() -> Self {
        Self(random().expect("the operating system provides randomness"))
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret by which those who have the key look up a user that others cannot:
    /// `HMAC-SHA256(key, "Postern lookup secret" || 0)`.
    pub fn lookup_secret(&self) -> LookupSecret {
        LookupSecret::new(hmac_sha256(&hmac_key(&self.0), &[Label::LOOKUP_SECRET.as_bytes()]))
    }
}

impl TryFrom<&[u8]> for ProfileKey {
    type Error = WrongLength;
    fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
        bytes.try_into().map(Self).map_err(|_| WrongLength { expected: 32, found: bytes.len() })
    }
}

impl LookupSecret {
    /// The AS's form of it: `SHA-256("Postern lookup digest" || 0 || secret)`.
    pub fn digest(&self) -> MessageDigest {
        MessageDigest::new(sha256(&[Label::LOOKUP_DIGEST.as_bytes(), self.as_bytes()]))
    }

    /// The value of [`LOOKUP_SECRET`]: unpadded base64url, which no HTTP/2 compression keeps.
    ///
    /// # Panics
    /// Never: base64url is a field value.
    pub fn header_value(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(self.to_base64url()).expect("base64url is a field value");
        value.set_sensitive(true);
        value
    }
}

impl SignedProfile {
    /// Signs a profile of the identity with this founding transcript.
    ///
    /// # Panics
    /// For a display name or text of more than [`MAX_PART`] bytes.
    pub fn sign(founding: &Transcript, profile: Profile, client: &SigningKey) -> Self {
        let signature = client.sign(&Self::to_be_signed(founding, &profile).expect("its parts are bounded"));
        Self { profile, client: client.public_key(), signature }
    }

    /// Verifies that the client it names signed it for this identity. Whose client that is, is another question.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, founding: &Transcript) -> Result<(), BadSignature> {
        let message = Self::to_be_signed(founding, &self.profile).ok_or(BadSignature)?;
        self.client.verify(&message, &self.signature)
    }

    /// `"Postern profile" || 0 || founding transcript || incarnation as u32 || version as u64 || discoverable as u8 ||
    /// len(display name) as u16 || display name || len(text) as u16 || text || picture || sealed`, where the picture is a
    /// zero byte without one, else `format as u8 || bytes as u32 || digest`. `None` for parts that are too long.
    pub fn to_be_signed(founding: &Transcript, profile: &Profile) -> Option<Vec<u8>> {
        let length = |text: &str| u16::try_from(text.len()).ok().map(u16::to_be_bytes);
        let picture = profile.picture.map_or_else(
            || vec![0],
            |picture| {
                [&[picture.format as u8], picture.bytes.to_be_bytes().as_slice(), picture.digest.as_bytes()]
                    .concat()
            },
        );
        Some(Label::PROFILE.followed_by(&[
            founding.as_bytes(),
            &profile.incarnation.to_be_bytes(),
            &profile.version.to_be_bytes(),
            &[u8::from(profile.discoverable)],
            &length(&profile.display_name)?,
            profile.display_name.as_bytes(),
            &length(&profile.text)?,
            profile.text.as_bytes(),
            &picture,
            profile.sealed.as_bytes(),
        ]))
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for ProfileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProfileKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            incarnation: 0,
            version: 1,
            discoverable: true,
            display_name: "Alice".into(),
            text: "climbs".into(),
            picture: Some(PictureLink {
                format: PictureFormat::Png,
                bytes: 3,
                digest: MessageDigest::of(b"png"),
            }),
            sealed: Payload::new(b"sealed".into()),
        }
    }

    #[test]
    fn no_part_of_a_signed_profile_can_change_and_none_serves_another_identity() {
        let (client, other) = (SigningKey::generate(), SigningKey::generate());
        let (founding, another) = (Transcript::new([1; 32]), Transcript::new([2; 32]));
        let signed = SignedProfile::sign(&founding, profile(), &client);
        assert_eq!(signed.verify(&founding), Ok(()));
        assert!(signed.verify(&another).is_err());
        assert!(SignedProfile { client: other.public_key(), ..signed.clone() }.verify(&founding).is_err());
        let jpeg = profile().picture.map(|picture| PictureLink { format: PictureFormat::Jpeg, ..picture });
        for forged in [
            Profile { incarnation: 1, ..profile() },
            Profile { version: 2, ..profile() },
            Profile { discoverable: false, ..profile() },
            Profile { display_name: "Alic".into(), text: "eclimbs".into(), ..profile() },
            Profile { text: "climb".into(), sealed: Payload::new(b"ssealed".into()), ..profile() },
            Profile { picture: None, ..profile() },
            Profile { picture: jpeg, ..profile() },
            Profile { sealed: Payload::default(), ..profile() },
        ] {
            assert!(SignedProfile { profile: forged, ..signed.clone() }.verify(&founding).is_err());
        }
    }

    #[test]
    fn a_lookup_secret_tells_nothing_of_its_key_and_its_digest_nothing_of_it() {
        let key = ProfileKey::generate();
        assert_eq!(key.lookup_secret(), key.clone().lookup_secret());
        assert_ne!(key.lookup_secret().as_bytes(), key.as_bytes());
        assert_ne!(key.lookup_secret().digest().as_bytes(), key.lookup_secret().as_bytes());
    }
}
