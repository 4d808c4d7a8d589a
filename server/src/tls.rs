//! TLS 1.3 (OPS-8), with one provider of cryptography, and certificates from files. The listener, the way to PostgreSQL
//! and the way to other homeservers build on this.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use rustls::{
    CertificateError, Error, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier, verify_server_name},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use x509_cert::{Certificate, der::Decode};

/// The versions of TLS that are spoken.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A time by which every certificate has ended.
const FAR: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificates in a PEM text, in their order.
///
/// # Errors
/// A text that is no PEM, or has no certificate.
pub fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("it is no PEM")?;
    if found.is_empty() {
        bail!("it has no certificate in PEM");
    }
    Ok(found)
}

/// The end of a certificate, in seconds since 1970; none for one that cannot be read.
pub fn end(certificate: &CertificateDer) -> Option<u64> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

/// Looks whether a server's certificate is for the host by which clients know it, and valid now. Who vouches for it is
/// another question.
///
/// # Errors
/// [`Unacceptable`].
pub fn fits(leaf: &CertificateDer<'_>, host: &str) -> Result<(), Unacceptable> {
    let other = |error: &dyn std::fmt::Display| Unacceptable::Other(error.to_string());
    let server = ServerName::try_from(host).map_err(|error| other(&error))?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(|error| other(&error))?;
    verify_server_name(&parsed, &server).map_err(|_| Unacceptable::Name(host.to_owned()))?;
    left(leaf)?;
    Ok(())
}

/// The seconds for which a certificate is still valid, by its dates alone.
///
/// # Errors
/// [`Unacceptable`]: it is not valid yet, or not any more, or cannot be read.
pub fn left(certificate: &CertificateDer<'_>) -> Result<u64, Unacceptable> {
    let parsed =
        Certificate::from_der(certificate).map_err(|error| Unacceptable::Other(error.to_string()))?;
    let validity = parsed.tbs_certificate.validity;
    let (begin, end) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    match Duration::from_secs(UnixTime::now().as_secs()) {
        now if now < begin => Err(Unacceptable::NotYet),
        now if now > end => Err(Unacceptable::Ended((now - end).as_secs() / (24 * 60 * 60))),
        now => Ok((end - now).as_secs()),
    }
}

/// The host by which clients know a server, from its URL.
pub fn host(base_url: &str, domain: &str) -> String {
    let url = url::Url::parse(base_url).ok();
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| domain.to_owned())
}

/// The private key in a PEM text.
///
/// # Errors
/// A text without one.
pub fn private_key(pem: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).context("it has no private key in PEM")
}

/// A server's settings with the certificate and the key in two PEM texts.
///
/// # Errors
/// Texts without these, or a key that is another certificate's.
pub fn server_config(certificate: &[u8], key: &[u8]) -> anyhow::Result<ServerConfig> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .context("the key is not the certificate's")
}

/// The authorities in a file.
///
/// # Errors
/// A file that cannot be read, or has no certificates.
pub fn authorities(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let what = || format!("cannot use {}", file.display());
    certificates(&std::fs::read(file).with_context(what)?).with_context(what)
}

/// The authorities that this system trusts.
pub fn system_authorities() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

/// A store of authorities; those that nothing can be verified by are left out.
pub fn roots(authorities: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    roots
}

/// The reason why others do not accept a server's certificate.
#[derive(Debug, thiserror::Error)]
pub enum Unacceptable {
    #[error("it is not valid for {0}")]
    Name(String),
    #[error("it ended {0} days ago")]
    Ended(u64),
    #[error("it is not valid yet")]
    NotYet,
    #[error("no authority that this system trusts vouches for it")]
    Chain,
    #[error("{0}")]
    Other(String),
}

/// Looks at a server's certificate as its clients do, who trust `roots` and call it `name`; returns the seconds for which
/// it is still valid.
///
/// # Errors
/// [`Unacceptable`].
pub fn examine(
    chain: &[CertificateDer<'static>],
    name: &str,
    roots: RootCertStore,
) -> Result<u64, Unacceptable> {
    let other = |error: &dyn std::fmt::Display| Unacceptable::Other(error.to_string());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| other(&error))?;
    let server = ServerName::try_from(name.to_owned()).map_err(|error| other(&error))?;
    let (leaf, rest) = chain.split_first().ok_or_else(|| other(&"there is none"))?;
    let now = UnixTime::now();
    let verify = |time| verifier.verify_server_cert(leaf, rest, &server, &[], time);
    let days = |seconds: u64| seconds / (24 * 60 * 60);
    match verify(now) {
        Ok(_) => {}
        Err(Error::InvalidCertificate(error)) => {
            return Err(match error {
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Unacceptable::Name(name.to_owned())
                }
                CertificateError::ExpiredContext { time, not_after } => {
                    Unacceptable::Ended(days(time.as_secs().saturating_sub(not_after.as_secs())))
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Unacceptable::NotYet
                }
                // The library names no kind of its own for a certificate that vouches for itself.
                CertificateError::UnknownIssuer | CertificateError::Other(_) => Unacceptable::Chain,
                error => other(&error),
            });
        }
        Err(error) => return Err(other(&error)),
    }
    // The library tells the end of a certificate that has ended.
    match verify(UnixTime::since_unix_epoch(FAR)) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Ok(not_after.as_secs().saturating_sub(now.as_secs()))
        }
        _ => Ok(u64::MAX),
    }
}
