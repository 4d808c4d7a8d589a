//! The client credential (AS-2), in which the AS states that a signature key belongs to a client of a
//! user, and the certificate, in which the root of a domain states that a key is one of its AS's. Both
//! are TLS structures (RFC 8446 §3), as MLS uses them:
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
//!     opaque certificate<V>;      /* an IssuerCertificate of issuer_key; empty without a root */
//! } ClientCredential;
//!
//! struct {
//!     uint16 version = 1;
//!     opaque root_key[32];        /* Ed25519 */
//!     opaque issuer_key[32];      /* Ed25519 */
//!     uint64 not_before;          /* seconds since 1970 */
//!     uint64 not_after;
//!     opaque domain<V>;
//! } IssuerCertificateTBS;
//!
//! struct {
//!     IssuerCertificateTBS tbs;
//!     opaque signature<V>;        /* over "Postern issuer certificate" || 0 || tbs */
//! } IssuerCertificate;
//! ```

use tls_codec::{Deserialize as _, Serialize as _, TlsDeserialize, TlsSerialize, TlsSize, VLBytes};

use crate::{
    IssuedCredential, IssuerCertificate, PublicKey, Signature,
    key::SigningKey,
    label::Label,
    name::{Domain, UserName},
};

const VERSION: u16 = 1;

/// A client credential or a certificate is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialError {
    #[error("the client credential or certificate is malformed")]
    Malformed,
    #[error("the client credential or certificate is not signed by this key")]
    WrongIssuer,
    #[error("the client credential or certificate is not valid at this time")]
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

/// The statement that a domain's root signs: the key is its AS's. Times are seconds since 1970, both inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerStatement {
    pub domain: Domain,
    pub issuer_key: PublicKey,
    pub root_key: PublicKey,
    pub not_before: u64,
    pub not_after: u64,
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
    certificate: VLBytes,
}

#[derive(TlsSize, TlsSerialize, TlsDeserialize)]
struct IssuerTbs {
    version: u16,
    root_key: [u8; 32],
    issuer_key: [u8; 32],
    not_before: u64,
    not_after: u64,
    domain: VLBytes,
}

#[derive(TlsSize, TlsSerialize, TlsDeserialize)]
struct SignedIssuer {
    tbs: IssuerTbs,
    signature: VLBytes,
}

impl ClientCredential {
    /// Signs with the AS's key, whose public half has to be `issuer_key`.
    pub fn issue(&self, issuer: &SigningKey) -> IssuedCredential {
        self.issue_certified(issuer, None)
    }

    /// Signs with the AS's key, whose public half has to be `issuer_key`, and adds the root's certificate of that key.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn issue_certified(
        &self,
        issuer: &SigningKey,
        certificate: Option<&IssuerCertificate>,
    ) -> IssuedCredential {
        let tbs = self.tbs();
        let signature = issuer.sign(&to_be_signed(Label::CLIENT_CREDENTIAL, &tbs)).into_bytes().into();
        let certificate = certificate.map(|certificate| certificate.as_bytes().to_vec());
        let signed = Signed { tbs, signature, certificate: certificate.unwrap_or_default().into() };
        IssuedCredential::new(signed.tls_serialize_detached().expect("a credential serialises"))
    }

    /// Parses without verifying, which tells the issuer key to ask for.
    ///
    /// # Errors
    /// [`CredentialError::Malformed`].
    pub fn parse(issued: &IssuedCredential) -> Result<Self, CredentialError> {
        parse(issued).map(|(credential, ..)| credential)
    }

    /// Verifies issuer, signature and validity at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn verify(issued: &IssuedCredential, issuer: PublicKey, now: u64) -> Result<Self, CredentialError> {
        let (credential, signature, _) = parse(issued)?;
        let signed = to_be_signed(Label::CLIENT_CREDENTIAL, &credential.tbs());
        if credential.issuer_key != issuer || issuer.verify(&signed, &signature).is_err() {
            return Err(CredentialError::WrongIssuer);
        }
        if now < credential.not_before || now > credential.not_after {
            return Err(CredentialError::NotValidNow);
        }
        Ok(credential)
    }

    /// Verifies that a domain's root certifies the key that issued a credential: for the domain of its user, and at
    /// `now` (seconds since 1970). The credential itself is verified by [`Self::verify`].
    ///
    /// # Errors
    /// [`CredentialError`], also for a credential without a certificate.
    pub fn verify_chain(issued: &IssuedCredential, root: PublicKey, now: u64) -> Result<(), CredentialError> {
        let (credential, _, certificate) = parse(issued)?;
        let statement = IssuerStatement::verify(&certificate, root, now)?;
        let names_issuer =
            statement.issuer_key == credential.issuer_key && statement.domain == *credential.user.domain();
        if names_issuer { Ok(()) } else { Err(CredentialError::WrongIssuer) }
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

impl IssuerStatement {
    /// Signs with the root, whose public half has to be `root_key`.
    ///
    /// # Panics
    /// Never: the structure has a bounded size.
    pub fn certify(&self, root: &SigningKey) -> IssuerCertificate {
        let tbs = self.tbs();
        let signature = root.sign(&to_be_signed(Label::ISSUER_CERTIFICATE, &tbs)).into_bytes().into();
        let signed = SignedIssuer { tbs, signature };
        IssuerCertificate::new(signed.tls_serialize_detached().expect("a certificate serialises"))
    }

    /// Verifies root, signature and validity at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn verify(
        certificate: &IssuerCertificate,
        root: PublicKey,
        now: u64,
    ) -> Result<Self, CredentialError> {
        let SignedIssuer { tbs, signature } = SignedIssuer::tls_deserialize_exact(certificate.as_bytes())
            .map_err(|_| CredentialError::Malformed)?;
        let domain = std::str::from_utf8(tbs.domain.as_slice())
            .ok()
            .and_then(|domain| domain.parse().ok())
            .filter(|_| tbs.version == VERSION)
            .ok_or(CredentialError::Malformed)?;
        let statement = Self {
            domain,
            issuer_key: PublicKey::new(tbs.issuer_key),
            root_key: PublicKey::new(tbs.root_key),
            not_before: tbs.not_before,
            not_after: tbs.not_after,
        };
        let signed = to_be_signed(Label::ISSUER_CERTIFICATE, &tbs);
        let signature = Signature::new(signature.into());
        if statement.root_key != root || root.verify(&signed, &signature).is_err() {
            return Err(CredentialError::WrongIssuer);
        }
        if now < statement.not_before || now > statement.not_after {
            return Err(CredentialError::NotValidNow);
        }
        Ok(statement)
    }

    fn tbs(&self) -> IssuerTbs {
        IssuerTbs {
            version: VERSION,
            root_key: *self.root_key.as_bytes(),
            issuer_key: *self.issuer_key.as_bytes(),
            not_before: self.not_before,
            not_after: self.not_after,
            domain: self.domain.as_str().as_bytes().to_vec().into(),
        }
    }
}

fn to_be_signed(label: Label, tbs: &impl tls_codec::Serialize) -> Vec<u8> {
    let mut bytes = label.as_bytes().to_vec();
    tbs.tls_serialize(&mut bytes).expect("it serialises into memory");
    bytes
}

fn parse(
    issued: &IssuedCredential,
) -> Result<(ClientCredential, Signature, IssuerCertificate), CredentialError> {
    let Signed { tbs, signature, certificate } =
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
    Ok((credential, Signature::new(signature.into()), IssuerCertificate::new(certificate.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(issuer: &SigningKey) -> ClientCredential {
        ClientCredential {
            user: "alice@example.org".parse().unwrap(),
            client_key: SigningKey::generate().public_key(),
            not_before: 100,
            not_after: 200,
            issuer_key: issuer.public_key(),
        }
    }

    #[test]
    fn a_credential_is_valid_under_its_issuer_and_in_its_time_only() {
        let issuer = SigningKey::generate();
        let credential = credential(&issuer);
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

    #[test]
    fn a_root_vouches_for_the_key_the_domain_and_the_time_of_its_certificate_only() {
        let (root, issuer, other) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
        let statement = IssuerStatement {
            domain: "example.org".parse().unwrap(),
            issuer_key: issuer.public_key(),
            root_key: root.public_key(),
            not_before: 100,
            not_after: 180,
        };
        let chain = |statement: &IssuerStatement, signer: &SigningKey, now| {
            let certificate = statement.certify(signer);
            let issued = credential(&issuer).issue_certified(&issuer, Some(&certificate));
            assert!(ClientCredential::verify(&issued, issuer.public_key(), now).is_ok());
            ClientCredential::verify_chain(&issued, root.public_key(), now)
        };
        assert_eq!(chain(&statement, &root, 150), Ok(()));
        assert_eq!(chain(&statement, &root, 181), Err(CredentialError::NotValidNow));
        for (statement, signer) in [
            (statement.clone(), &other),
            (IssuerStatement { issuer_key: other.public_key(), ..statement.clone() }, &root),
            (IssuerStatement { root_key: other.public_key(), ..statement.clone() }, &other),
            (IssuerStatement { domain: "example.com".parse().unwrap(), ..statement.clone() }, &root),
        ] {
            assert_eq!(chain(&statement, signer, 150), Err(CredentialError::WrongIssuer));
        }
        let bare = credential(&issuer).issue(&issuer);
        let without = ClientCredential::verify_chain(&bare, root.public_key(), 150);
        assert_eq!(without, Err(CredentialError::Malformed));
    }
}
