//! The way to PostgreSQL that a connection string describes, with TLS as it asks for (OPS-8). The driver knows three of
//! libpq's values of `sslmode` and no certificates; the others are here and in `connection_string`, with libpq's meaning,
//! except that a server is known by the names in its certificate's subjectAltName only.

mod for_program;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio_postgres::{
    Client, Config, Connection, Error, Socket,
    config::{Host, LoadBalanceHosts, SslMode, SslNegotiation},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseError,
    connection_string::{KEEPALIVES_COUNT, Parameters, UNACKNOWLEDGED, split},
};
use crate::{
    config::ConnectionString,
    from_files::{Contents, FromFiles, Watched, Words},
    tls,
};

/// A connection to PostgreSQL, with TLS or without.
pub type PostgresConnection = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The protocol inside TLS, for `sslnegotiation=direct`.
const PROTOCOL: &[u8] = b"postgresql";
/// The value of `sslrootcert` that stands for the authorities that this system trusts.
const SYSTEM: &str = "system";
/// The idle time of a superuser's session after which the network is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// The file of authorities in the user's home directory, where the connection string names none.
const HOME_AUTHORITIES: &str = ".postgresql/root.crt";
/// The statements by which a superuser's session writes, and works and waits for as long as it takes, whatever the defaults of the
/// database or of all roles are. PostgreSQL has the last of these limits of time from 17 on.
const FREE: &str = "SET default_transaction_read_only = off;
     SELECT pg_catalog.set_config(s.name, '0', false)
       FROM pg_catalog.pg_settings s
      WHERE s.name IN ('statement_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout',
                       'transaction_timeout')";
/// The reason why a connection string is refused that the driver does not read. The driver's own quotes the name of a parameter,
/// which may be a part of a password.
const UNREADABLE: &str = "it does not parse, or has a parameter or a value that is not supported: operate/configure.md of the documentation has those that are, and says how spaces and special characters are written";
const WORDS: Words = Words {
    name: "take over other files of TLS to PostgreSQL: those before stay",
    renewed: "new sessions of PostgreSQL have other files of TLS from now on",
};

/// The way to one PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct Way {
    pub config: Config,
    tls: Arc<FromFiles<Tls>>,
    asked: Arc<Asked>,
}

/// TLS of new sessions, as the files of the connection string have it.
struct Tls {
    connector: MakeRustlsConnect,
    /// The certificate of ours, if there is one.
    certificate: Option<CertificateDer<'static>>,
}

/// TLS as a connection string asks for it.
struct Asked {
    mode: Mode,
    authorities: Authorities,
    /// The file of a certificate of ours, and that of its key.
    ours: Option<(PathBuf, PathBuf)>,
}

/// The authorities that vouch for a server.
enum Authorities {
    /// Any certificate will do.
    Nobody,
    System,
    Of(PathBuf),
}

/// How much of a server is verified, as libpq's `sslmode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Opens a session by the connection string for a superuser, of this name in PostgreSQL.
///
/// # Errors
/// A string that is none, a database that does not answer or lets nobody in by it.
pub async fn connect_as_superuser(admin_url: &ConnectionString, name: &str) -> anyhow::Result<Client> {
    let mut way = Way::of(admin_url).context("database.admin_url is not a valid connection string")?;
    // It may be idle for hours during a dump, and routers forget such connections.
    way.config.application_name(name).keepalives_idle(KEEPALIVE);
    // The first of several hosts that answers is taken, as by the programs that work beside this session.
    way.config.load_balance_hosts(LoadBalanceHosts::Disable);
    let (client, connection) =
        way.connect().await.map_err(DatabaseError::from).context("cannot connect with database.admin_url")?;
    tokio::spawn(connection);
    let free = client.batch_execute(FREE).await;
    free.map_err(DatabaseError::from).context("cannot begin a session with database.admin_url")?;
    Ok(client)
}

impl Way {
    /// The way that a connection string describes.
    ///
    /// # Errors
    /// A connection string that does not parse, or asks for what there is not; certificates that cannot be read.
    pub fn of(url: &ConnectionString) -> Result<Self, DatabaseError> {
        let refused = |error: anyhow::Error| DatabaseError::Settings(format!("{error:#}"));
        let (text, parameters) = split(url.as_str()).map_err(refused)?;
        let mut config: Config = text.parse().map_err(|_| refused(anyhow!(UNREADABLE)))?;
        if let Some(count) = parameters.number(KEEPALIVES_COUNT).map_err(refused)? {
            config.keepalives_retries(count);
        }
        if let Some(milliseconds) = parameters.number(UNACKNOWLEDGED).map_err(refused)? {
            config.tcp_user_timeout(Duration::from_millis(milliseconds.into()));
        }
        // As for libpq, an address is the server's name where there is no other.
        if config.get_hosts().is_empty() {
            for address in config.get_hostaddrs().to_vec() {
                config.host(address.to_string());
            }
        }
        let is_nothing = |host: &Host| matches!(host, Host::Tcp(name) if name.is_empty());
        if config.get_hosts().is_empty() || config.get_hosts().iter().any(is_nothing) {
            return Err(refused(anyhow!(
                "it names no host: give one, or the directory of a socket, as in host=/run/postgresql"
            )));
        }
        let hosts = config.get_hosts().len();
        let is_list = |host: &Host| matches!(host, Host::Tcp(name) if name.contains(','));
        let fits = |number: usize| number < 2 || number == hosts;
        if config.get_hosts().iter().any(is_list)
            || !fits(config.get_ports().len())
            || ![0, hosts].contains(&config.get_hostaddrs().len())
        {
            return Err(refused(anyhow!(
                "it has not as many ports or addresses as hosts; in a URL several hosts stand before its path, each with its port"
            )));
        }
        let mode = parameters.verified().map_err(refused)?;
        let sockets = config.get_hosts().iter().filter(|host| matches!(host, Host::Unix(_))).count();
        let is_local = sockets == hosts;
        let asks_for_tls = !matches!(mode, Mode::Disable | Mode::Prefer);
        // The driver and libpq would go different ways, one of them perhaps without TLS.
        if sockets > 0 && (!config.get_hostaddrs().is_empty() || !is_local && asks_for_tls) {
            return Err(refused(anyhow!(
                "a directory of a socket is among its hosts, which goes neither with hostaddr nor, beside other hosts, with an sslmode that asks for TLS"
            )));
        }
        if config.get_ssl_negotiation() == SslNegotiation::Direct && !asks_for_tls {
            return Err(refused(anyhow!(
                "sslnegotiation=direct needs an sslmode that asks for TLS: require, verify-ca or verify-full"
            )));
        }
        config.ssl_mode(match mode {
            _ if is_local => SslMode::Disable,
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let asked = Arc::new(parameters.asked(mode).map_err(refused)?);
        let tls = load(asked.clone()).map_err(refused)?;
        Ok(Self { config, tls: Arc::new(tls), asked })
    }

    /// The password, if the connection string has one.
    pub fn password(&self) -> Option<&OsStr> {
        self.config.get_password().map(OsStr::from_bytes)
    }

    /// The files of TLS, which somebody has to look at while new sessions are opened; none if there are none.
    pub fn tls_files(&self) -> Option<Arc<dyn Watched>> {
        let is_used = self.config.get_ssl_mode() != SslMode::Disable && self.tls.has_files();
        is_used.then(|| -> Arc<dyn Watched> { self.tls.clone() })
    }

    /// The certificate that new sessions show to PostgreSQL, if it asks for one and there is one.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.tls.now().certificate.clone().filter(|_| self.config.get_ssl_mode() != SslMode::Disable)
    }

    /// The caller polls the connection.
    ///
    /// # Errors
    /// A database that is not there, or refuses.
    pub async fn connect(&self) -> Result<(Client, PostgresConnection), Error> {
        self.config.connect(self.tls.now().connector.clone()).await
    }
}

impl Parameters {
    /// How much of a server is verified.
    fn verified(&self) -> anyhow::Result<Mode> {
        let is_system = self.get("sslrootcert") == Some(SYSTEM);
        let mode = match self.get("sslmode") {
            None if is_system => Mode::VerifyFull,
            None | Some("prefer") => Mode::Prefer,
            Some("disable") => Mode::Disable,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            Some("allow") => bail!("sslmode=allow is not supported: use prefer"),
            Some(_) => bail!("sslmode is one of disable, prefer, require, verify-ca and verify-full"),
        };
        if is_system && mode != Mode::VerifyFull {
            bail!(
                "sslrootcert=system needs sslmode=verify-full: anybody can have a certificate of an authority"
            );
        }
        Ok(mode)
    }

    fn asked(&self, mode: Mode) -> anyhow::Result<Asked> {
        let authorities = match (self.get("sslrootcert"), mode) {
            (_, Mode::Disable) | (None, Mode::Prefer | Mode::Require) => Authorities::Nobody,
            (Some(file), _) if file == SYSTEM => Authorities::System,
            (Some(file), _) => Authorities::Of(file.into()),
            (None, Mode::VerifyCa | Mode::VerifyFull) => {
                let file = std::env::home_dir().unwrap_or_default().join(HOME_AUTHORITIES);
                ensure!(
                    file.exists(),
                    "sslmode=verify-ca and verify-full need authorities: give sslrootcert=FILE, or sslrootcert=system"
                );
                Authorities::Of(file)
            }
        };
        let ours = match (self.get("sslcert"), self.get("sslkey")) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            _ => bail!("sslcert and sslkey go together: give both, or neither"),
        };
        Ok(Asked { mode, authorities, ours })
    }
}

/// Reads the files of TLS that are asked for.
fn load(asked: Arc<Asked>) -> anyhow::Result<FromFiles<Tls>> {
    let mut files = Vec::new();
    if let Authorities::Of(file) = &asked.authorities {
        files.push(file.clone());
    }
    if let Some((certificate, key)) = &asked.ours {
        files.extend([certificate.clone(), key.clone()]);
    }
    FromFiles::load(files, WORDS, move |contents, present: Option<&Tls>| {
        let made = asked.tls(contents)?;
        if let Some((file, _)) = &asked.ours {
            refuse_worse(file, &made, present)?;
        }
        Ok(made)
    })
}

impl Asked {
    fn tls(&self, contents: &Contents) -> anyhow::Result<Tls> {
        let authorities = match &self.authorities {
            Authorities::Nobody => None,
            Authorities::System => Some(tls::system_authorities()),
            Authorities::Of(file) => {
                let what = || format!("sslrootcert: cannot use {}", file.display());
                Some(tls::certificates(contents.of(file)).with_context(what)?)
            }
        };
        let provider = tls::provider();
        let verifier = Verifier {
            roots: authorities.clone().map(tls::roots),
            authorities: authorities.unwrap_or_default(),
            by_name: self.mode == Mode::VerifyFull,
            provider: provider.clone(),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(tls::VERSIONS)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let (mut config, certificate) = match &self.ours {
            None => (config.with_no_client_auth(), None),
            Some((certificate, key)) => {
                let what = |name: &str, file: &Path| format!("{name}: cannot use {}", file.display());
                let chain = tls::certificates(contents.of(certificate))
                    .with_context(|| what("sslcert", certificate))?;
                let private = tls::private_key(contents.of(key)).with_context(|| what("sslkey", key))?;
                let leaf = chain.first().cloned();
                let config = config
                    .with_client_auth_cert(chain, private)
                    .context("sslcert and sslkey: the key is not the certificate's")?;
                (config, leaf)
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Tls { connector: MakeRustlsConnect::new(config), certificate })
    }
}

/// Refuses a certificate of ours that is not valid now in the place of one that is.
fn refuse_worse(file: &Path, made: &Tls, present: Option<&Tls>) -> anyhow::Result<()> {
    let present = present.and_then(|present| present.certificate.as_ref());
    if let (Some(new), Some(present)) = (&made.certificate, present)
        && let Err(error) = tls::left(new)
        && tls::left(present).is_ok()
    {
        bail!("sslcert: {}: {error}", file.display());
    }
    Ok(())
}

/// Verifies a server as far as its connection string asks.
#[derive(Debug)]
struct Verifier {
    /// None: any certificate will do.
    roots: Option<RootCertStore>,
    authorities: Vec<CertificateDer<'static>>,
    by_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms) {
            // A certificate that vouches for itself, in the file itself, is no end of a chain to the library. It has
            // looked at its time by then.
            Err(TlsError::InvalidCertificate(
                CertificateError::Other(_) | CertificateError::UnknownIssuer,
            )) if self.authorities.contains(leaf) => {}
            verified => verified?,
        }
        if self.by_name {
            verify_server_name(&certificate, server)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(url: &str) -> Result<Way, DatabaseError> {
        Way::of(&ConnectionString::new(url))
    }

    #[test]
    fn a_mode_means_what_it_means_to_libpq() {
        let mode = |url: &str| way(url).unwrap().config.get_ssl_mode();
        assert_eq!(mode("host=db user=x"), SslMode::Prefer);
        assert_eq!(mode("host=db sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgresql://db/x?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("host=/run/postgresql sslmode=require"), SslMode::Disable, "a socket has no TLS");
        assert_eq!(mode("host=db sslrootcert=system"), SslMode::Require, "verify-full");
        for refused in [
            "host=db sslmode=allow",
            "host=db sslmode=verify",
            "host=db sslmode=verify-full sslrootcert=/nowhere/root.crt",
            "host=db sslmode=require sslrootcert=system",
            "host=db sslmode=require sslcert=/nowhere/client.crt",
            "host=/run/postgresql hostaddr=127.0.0.1 sslmode=require",
            "host=/run/postgresql,db sslmode=require",
            "host=db sslnegotiation=direct",
        ] {
            assert!(matches!(way(refused), Err(DatabaseError::Settings(_))), "{refused}");
        }
    }

    #[test]
    fn libpqs_numbers_are_put_into_the_drivers() {
        let config = way("host=db tcp_user_timeout=15000 keepalives_count=3").unwrap().config;
        assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(15)));
        assert_eq!(config.get_keepalives_retries(), Some(3));
        let config = way("host=db tcp_user_timeout=0 keepalives_count=-1").unwrap().config;
        assert_eq!((config.get_tcp_user_timeout(), config.get_keepalives_retries()), (None, None));
    }

    #[test]
    fn what_the_driver_cannot_do_is_refused_without_a_word_of_a_password() {
        let unreadable = "operate/configure.md of the documentation";
        for (text, expected) in [
            ("host=db sslpassword=secret", unreadable),
            ("service=secret", unreadable),
            ("postgresql://db?require_auth=secret", unreadable),
            ("host=db sslcrl=/secret", unreadable),
            ("host=db gssencmode=require", unreadable),
            ("host=db target_session_attrs=primary", unreadable),
            ("host=db connect_timeout=secret", unreadable),
            ("host=db password=two secret=1", unreadable),
            ("host=db password='secret", unreadable),
            ("host=db password=two =secret channel_binding=require", "a `=` without a name"),
            ("secret", unreadable),
            ("postgresql://me:secret@db?sslmode", unreadable),
            ("postgresql://[secret", unreadable),
            ("host=db tcp_user_timeout=secret", "tcp_user_timeout is no number"),
            ("host=db sslmode=secret", "sslmode is one of"),
            ("user=secret", "it names no host"),
            ("postgresql:///secret", "it names no host"),
            ("host=db,,secret", "it names no host"),
            ("postgresql://secret/postern?port=5433", "it has port twice"),
            ("postgresql:///postern?host=secret,db", "not as many ports or addresses as hosts"),
            ("host=db,secret port=1,2,3", "not as many ports or addresses as hosts"),
            (
                "host=db hostaddr=127.0.0.1,127.0.0.2 password=secret",
                "not as many ports or addresses as hosts",
            ),
        ] {
            let refused = way(text).err().unwrap_or_else(|| panic!("{text} is taken")).to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
            assert!(!refused.contains("secret"), "{text}: {refused}");
        }
    }
}
