//! Admission of strangers (AS-1): the operator's policy says whether a registration needs an invite or an ID token, and
//! the request brings it.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{InviteDigest, PublicKey, hash::sha256, label::Label, name::Domain, random::random};

/// The most bytes of an ID token.
pub const MAX_ID_TOKEN_BYTES: usize = 8192;

/// The digits of a code: Crockford's base32, in which no letter is taken for a digit.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// The characters of a code, of 5 bits each.
const CODE_LEN: usize = 16;

/// The operator's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationPolicy {
    /// Anyone registers.
    Open,
    /// An invite is needed.
    Invite,
    /// An ID token of the server's identity provider is needed (OpenID Connect Core 1.0 §2).
    Oidc,
}

/// The answer to `GET /as/registration` (200): what a registration needs; no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationTerms {
    pub policy: RegistrationPolicy,
    /// The identity provider, if the server has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<IdentityProvider>,
}

/// An identity provider, and the name by which it knows the server's clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProvider {
    /// The issuer's URL, as OpenID Connect Discovery 1.0 needs it.
    pub issuer: String,
    /// The OAuth client id: a public client, without a secret. ID tokens are for this audience.
    pub client_id: String,
}

/// The right to register, as a registration brings it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    #[default]
    Open,
    Invite(InviteCode),
    IdToken(IdToken),
}

/// `POST /as/invites`, signed by a client of the user that invites (AS-1). The code stays with the client: the same
/// request again, after its answer was lost, makes no second invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeInvite {
    pub digest: InviteDigest,
}

/// The answer to `POST /as/invites` (201).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteMade {
    /// The end of the last day on which the invite is good, in seconds since 1970.
    pub not_after: u64,
}

/// The code of an invite: 80 random bits in 16 characters. Case, hyphens and spaces do not matter, O is 0, and I and L
/// are 1.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InviteCode([u8; CODE_LEN]);

/// An ID token (OpenID Connect Core 1.0 §2): a signed JWT in its compact form.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdToken(String);

/// Text that is no invite code or ID token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AdmissionError {
    #[error("an invite code has 16 letters and digits, such as 0123-4567-89ab-cdef")]
    Code,
    #[error("an ID token is a JWT in its compact form, of at most {MAX_ID_TOKEN_BYTES} bytes")]
    IdToken,
}

/// The `nonce` of an ID token for a registration by this client key: `SHA-256("Postern registration nonce" || 0 ||
/// client_key || domain)` in unpadded base64url. An ID token registers nobody but the client that it was asked for.
pub fn registration_nonce(domain: &Domain, client: &PublicKey) -> String {
    let label = Label::REGISTRATION_NONCE.as_bytes();
    URL_SAFE_NO_PAD.encode(sha256(&[label, client.as_bytes(), domain.as_str().as_bytes()]))
}

impl InviteCode {
    /// A fresh code.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    pub fn generate() -> Self {
        let random: [u8; CODE_LEN] = random().expect("the operating system provides randomness");
        Self(random.map(|byte| ALPHABET[usize::from(byte % 32)]))
    }

    /// `SHA-256("Postern invite" || 0 || code)`, with the code in 16 lower-case characters: all that a server keeps of
    /// it.
    pub fn digest(&self) -> InviteDigest {
        InviteDigest::new(sha256(&[Label::INVITE.as_bytes(), &self.0]))
    }
}

impl IdToken {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Header and claims, as they are signed (RFC 7515 §5.1).
    pub fn signed_part(&self) -> &str {
        self.0.rsplit_once('.').map_or(self.as_str(), |(signed, _)| signed)
    }
}

impl FromStr for InviteCode {
    type Err = AdmissionError;
    fn from_str(text: &str) -> Result<Self, AdmissionError> {
        let digit = |c: char| match c.to_ascii_lowercase() {
            'o' => Some(b'0'),
            'i' | 'l' => Some(b'1'),
            c => ALPHABET.iter().copied().find(|digit| char::from(*digit) == c),
        };
        // Nothing is made of a text that is much too long.
        let digits = text.chars().take(4 * CODE_LEN).filter(|c| *c != '-' && !c.is_whitespace()).map(digit);
        let code: Option<Vec<u8>> = digits.collect();
        code.and_then(|code| code.try_into().ok()).map(Self).ok_or(AdmissionError::Code)
    }
}

impl FromStr for IdToken {
    type Err = AdmissionError;
    fn from_str(text: &str) -> Result<Self, AdmissionError> {
        let is_jwt = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && text.bytes().filter(|b| *b == b'.').count() == 2;
        match is_jwt && text.len() <= MAX_ID_TOKEN_BYTES {
            true => Ok(Self(text.to_owned())),
            false => Err(AdmissionError::IdToken),
        }
    }
}

/// Four groups of four characters.
impl fmt::Display for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, digit) in self.0.iter().enumerate() {
            let separator = if place > 0 && place % 4 == 0 { "-" } else { "" };
            write!(f, "{separator}{}", char::from(*digit))?;
        }
        Ok(())
    }
}

/// Shows nothing of the code.
impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteCode(…)")
    }
}

/// Shows nothing of the token.
impl fmt::Debug for IdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdToken(…)")
    }
}

impl TryFrom<String> for InviteCode {
    type Error = AdmissionError;
    fn try_from(text: String) -> Result<Self, AdmissionError> {
        text.parse()
    }
}

impl From<InviteCode> for String {
    fn from(code: InviteCode) -> Self {
        code.to_string()
    }
}

impl TryFrom<String> for IdToken {
    type Error = AdmissionError;
    fn try_from(text: String) -> Result<Self, AdmissionError> {
        text.parse()
    }
}

impl From<IdToken> for String {
    fn from(token: IdToken) -> Self {
        token.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_a_person_types_it() {
        let code: InviteCode = "0123-4567-89ab-cdef".parse().unwrap();
        assert_eq!(code.to_string(), "0123-4567-89ab-cdef");
        for typed in ["0123456789abcdef", "OI23 4567 89AB CDEF", " ol2345678-9abcdef\n"] {
            assert_eq!(typed.parse().as_ref(), Ok(&code), "{typed}");
        }
        for bad in
            ["", "0123-4567-89ab-cde", "0123-4567-89ab-cdef0", "u123-4567-89ab-cdef", "0123-4567-89ab-cdeф"]
        {
            assert_eq!(bad.parse::<InviteCode>(), Err(AdmissionError::Code), "{bad}");
        }
        assert!("-".repeat(1000).parse::<InviteCode>().is_err());
        let [one, other] = [InviteCode::generate(), InviteCode::generate()];
        assert_ne!(one.digest(), other.digest());
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn the_digest_of_a_code_is_over_its_label_and_its_characters() {
        let code: InviteCode = "0123-4567-89ab-cdef".parse().unwrap();
        let expected = sha256(&[b"Postern invite\0", b"0123456789abcdef"]);
        assert_eq!(code.digest().as_bytes(), &expected);
    }

    #[test]
    fn a_nonce_is_of_one_client_at_one_server() {
        let domain = |name: &str| name.parse::<Domain>().unwrap();
        let one = registration_nonce(&domain("example.org"), &PublicKey::new([1; 32]));
        assert_eq!(one.len(), 43);
        assert_ne!(one, registration_nonce(&domain("example.org"), &PublicKey::new([2; 32])));
        assert_ne!(one, registration_nonce(&domain("example.net"), &PublicKey::new([1; 32])));
    }

    #[test]
    fn an_id_token_is_a_compact_jwt() {
        assert!("e30.e30.c2ln".parse::<IdToken>().is_ok());
        let long = format!("e30.{}.", "a".repeat(MAX_ID_TOKEN_BYTES));
        for bad in ["", "e30.e30", "e30.e30.a b", "a.b.c.d", "{}.{}.{}", long.as_str()] {
            assert_eq!(bad.parse::<IdToken>(), Err(AdmissionError::IdToken), "{bad}");
        }
    }
}
