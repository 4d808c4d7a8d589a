//! A certificate authority, and certificates of it for servers on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        DEFAULT_VERSIONS, ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// An authority that only tests trust. Dropping it deletes all files of its.
pub struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Authority {
    pub fn new() -> Self {
        // PostgreSQL's user reads here, too.
        let dir = tempfile::Builder::new().prefix("postern-authority-").tempdir_in("/tmp");
        let dir = dir.expect("/tmp is writable");
        set_mode(dir.path(), 0o755);
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, format!("Authority {}", rand::random::<u64>()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("there is randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it can sign");
        fs::write(dir.path().join("root.crt"), issuer.pem()).expect("it can be written");
        Self { dir, issuer }
    }

    /// The file with the authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("root.crt")
    }

    /// The authority's own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names and addresses, for a year.
    pub fn certify(&self, names: &[&str]) -> Certificate {
        self.certify_for_days(names, 365)
    }

    /// The same for so many days from now on; a certificate for fewer than none has ended.
    pub fn certify_for_days(&self, names: &[&str], days: i64) -> Certificate {
        self.sign(params(names), days)
    }

    /// A certificate for a role of PostgreSQL, whose name is its common name, for so many days from now on.
    pub fn certify_role(&self, role: &str, days: i64) -> Certificate {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, role);
        self.sign(params, days)
    }

    fn sign(&self, mut params: CertificateParams, days: i64) -> Certificate {
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(-30);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(days);
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can sign");
        self.write(&certificate.pem(), &key)
    }

    /// A certificate that vouches for itself, as `openssl req -x509` makes one.
    pub fn self_signed(&self, names: &[&str]) -> Certificate {
        let mut params = params(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("there is randomness");
        self.write(&params.self_signed(&key).expect("it can sign").pem(), &key)
    }

    fn write(&self, certificate: &str, key: &KeyPair) -> Certificate {
        let name = format!("{:016x}", rand::random::<u64>());
        let path = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        let files = Certificate { certificate: path("crt"), key: path("key") };
        fs::write(&files.certificate, certificate).expect("it can be written");
        fs::write(&files.key, key.serialize_pem()).expect("it can be written");
        set_mode(&files.key, 0o600);
        files
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificate {
    /// Puts this certificate and its key into the place of another's.
    pub fn replace(&self, other: &Self) {
        for (from, to) in [(&self.key, &other.key), (&self.certificate, &other.certificate)] {
            // At once, as programs that renew certificates do it.
            let new = to.with_extension("new");
            fs::copy(from, &new).expect("it can be copied");
            fs::rename(&new, to).expect("it can be renamed");
        }
    }

    /// TLS as a server with this certificate speaks it.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor_of(DEFAULT_VERSIONS)
    }

    /// The same in these versions only.
    pub(super) fn acceptor_of(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsAcceptor {
        let read = |file| fs::read(file).expect("it can be read");
        let chain = CertificateDer::pem_slice_iter(&read(&self.certificate)).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)).expect("it is a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("there are some")
            .with_no_client_auth()
            .with_single_cert(chain.expect("it is a certificate"), key)
            .expect("the key is the certificate's");
        TlsAcceptor::from(Arc::new(config))
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("they are names")
}

/// The time from 1970 until so many days from now on.
fn since_1970(days: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let days_of = DAY * u32::try_from(days.unsigned_abs()).expect("there are fewer days");
    if days < 0 { now - days_of } else { now + days_of }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}
