//! The client credential (AS-2), in which the AS states that a signature key belongs to a client of a
//! user. A TLS structure (RFC 8446 §3), as MLS uses them:
//!
//! ```text
//! struct {
//!     uint16 version = 1;
//!     opaque user<V>;             /* name@domain, UTF-8 */
//!     opaque client_key[32];      /* Ed25519 */
//!     uint64 not_before;          /* seconds since 1970, a full day */
//!     uint64 not_after;
//!     opaque issuer_key[32];      /* Ed25519, one of the AS's published keys */
//! } ClientCredentialTBS;
//!
//! struct {
//!     ClientCredentialTBS tbs;
//!     opaque signature<V>;        /* over "Postern client credential" || 0 || tbs */
//! } ClientCredential;
//! ```

use tls_codec::{Deserialize as _, Serialize as _, TlsDeserialize, TlsSerialize, TlsSize, VLBytes};

use crate::{IssuedCredential, PublicKey, Signature, key::SigningKey, label::Label, name::UserName};

const VERSION: u16 = 1;

/// A client credential is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialError {
    #[error("the client credential is malformed")]
    Malformed,
    #[error("the client credential is not signed by this key of the AS")]
    WrongIssuer,
    #[error("the client credential is not valid at this time")]
    NotValidNow,
}

/// The statement that the AS signs. Times are seconds since 1970, both inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCredential {
    pub user: UserName,
    pub client_key: PublicKey,
    pub not_before: u64,
    pub not_after: u64,
    pub issuer_key: PublicKey,
}

#[derive(TlsSize, TlsSerialize, TlsDeserialize)]
struct Tbs {
    version: u16,
    user: VLBytes,
    client_key: [u8; 32],
    not_before: u64,
    not_after: u64,
    issuer_key: [u8; 32],
}

#[derive(TlsSize, TlsSerialize, TlsDeserialize)]
struct Signed {
    tbs: Tbs,
    signature: VLBytes,
}

impl ClientCredential {
    /// Signs with the AS's key, whose public half has to be `issuer_key`.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn issue(&self, issuer: &SigningKey) -> IssuedCredential {
        let tbs = self.tbs();
        let signature = issuer.sign(&to_be_signed(&tbs)).into_bytes().into();
        let signed = Signed { tbs, signature };
        IssuedCredential::new(signed.tls_serialize_detached().expect("a credential serialises"))
    }

    /// Parses without verifying, which tells the issuer key to ask for.
    ///
    /// # Errors
    /// [`CredentialError::Malformed`].
    pub fn parse(issued: &IssuedCredential) -> Result<Self, CredentialError> {
        parse(issued).map(|(credential, _)| credential)
    }

    /// Verifies issuer, signature and validity at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn verify(issued: &IssuedCredential, issuer: PublicKey, now: u64) -> Result<Self, CredentialError> {
        let (credential, signature) = parse(issued)?;
        if credential.issuer_key != issuer
            || issuer.verify(&to_be_signed(&credential.tbs()), &signature).is_err()
        {
            return Err(CredentialError::WrongIssuer);
        }
        if now < credential.not_before || now > credential.not_after {
            return Err(CredentialError::NotValidNow);
        }
        Ok(credential)
    }

    fn tbs(&self) -> Tbs {
        Tbs {
            version: VERSION,
            user: self.user.to_string().into_bytes().into(),
            client_key: *self.client_key.as_bytes(),
            not_before: self.not_before,
            not_after: self.not_after,
            issuer_key: *self.issuer_key.as_bytes(),
        }
    }
}

fn to_be_signed(tbs: &Tbs) -> Vec<u8> {
    let mut bytes = Label::CLIENT_CREDENTIAL.as_bytes().to_vec();
    tbs.tls_serialize(&mut bytes).expect("a credential serialises");
    bytes
}

fn parse(issued: &IssuedCredential) -> Result<(ClientCredential, Signature), CredentialError> {
    let Signed { tbs, signature } =
        Signed::tls_deserialize_exact(issued.as_bytes()).map_err(|_| CredentialError::Malformed)?;
    let user = std::str::from_utf8(tbs.user.as_slice())
        .ok()
        .and_then(|user| user.parse().ok())
        .filter(|_| tbs.version == VERSION)
        .ok_or(CredentialError::Malformed)?;
    let credential = ClientCredential {
        user,
        client_key: PublicKey::new(tbs.client_key),
        not_before: tbs.not_before,
        not_after: tbs.not_after,
        issuer_key: PublicKey::new(tbs.issuer_key),
    };
    Ok((credential, Signature::new(signature.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_valid_under_its_issuer_and_in_its_time_only() {
        let issuer = SigningKey::generate();
        let credential = ClientCredential {
            user: "alice@example.org".parse().unwrap(),
            client_key: SigningKey::generate().public_key(),
            not_before: 100,
            not_after: 200,
            issuer_key: issuer.public_key(),
        };
        let issued = credential.issue(&issuer);
        let verify = |now| ClientCredential::verify(&issued, issuer.public_key(), now);
        assert_eq!(verify(150), Ok(credential));
        assert_eq!(verify(201), Err(CredentialError::NotValidNow));
        let other = SigningKey::generate().public_key();
        assert_eq!(ClientCredential::verify(&issued, other, 150), Err(CredentialError::WrongIssuer));
        let mut forged = issued.into_bytes();
        forged[5] ^= 1;
        assert!(ClientCredential::verify(&IssuedCredential::new(forged), issuer.public_key(), 150).is_err());
    }
}
