//! The listener's certificate (OPS-8): it comes from files, and when they change new connections get the new one. Files
//! that are of no use, such as a certificate whose key is not there yet, change nothing, and neither does a certificate that
//! is worse than the one that is served: for another host, or not valid now.
//!
//! Connections are not resumed: by a session of TLS a server would know two connections for one client's (PRIV-7).

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use rustls::{ServerConfig, pki_types::CertificateDer, server::NoServerSessionStorage};

use crate::{
    config::TlsConfig,
    from_files::{Contents, FromFiles, Watched, Words},
    tls,
};

/// Protocols inside TLS, the preferred one first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
const WORDS: Words = Words {
    name: "take over another certificate: the one before stays",
    renewed: "the server's certificate is another one from now on",
};

pub struct ServerCertificate(Arc<FromFiles<Served>>);

struct Served {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
    /// The end of the certificate, in seconds since 1970, if it can be read.
    end: Option<u64>,
}

impl ServerCertificate {
    /// Reads the files that the configuration names; none if it names none. `host` is the name by which clients know this
    /// server.
    ///
    /// # Errors
    /// Files that cannot be read, or are no certificate and its key.
    pub fn load(config: &TlsConfig, host: String) -> anyhow::Result<Option<Arc<Self>>> {
        let (Some(certificate), Some(key)) = (config.certificate.clone(), config.key.clone()) else {
            return Ok(None);
        };
        let files = vec![certificate.clone(), key.clone()];
        let served = FromFiles::load(files, WORDS, move |contents, present: Option<&Served>| {
            let served = Served::of(contents, &certificate, &key)?;
            if let Some(present) = present
                && let Err(error) = tls::fits(&served.leaf, &host)
                && tls::fits(&present.leaf, &host).is_ok()
            {
                bail!("{}: {error}", certificate.display());
            }
            Ok(served)
        })?;
        Ok(Some(Arc::new(Self(Arc::new(served)))))
    }

    /// The files, which somebody has to look at.
    pub fn files(&self) -> Arc<dyn Watched> {
        self.0.clone()
    }

    /// The end of the certificate that is served, in seconds since 1970.
    pub fn end(&self) -> Option<u64> {
        self.0.now().end
    }

    /// Whether the files hold what is served; else they are of no use, and that will not be renewed.
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }

    /// The settings of a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.now().config.clone()
    }
}

impl Served {
    fn of(contents: &Contents, certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let pem = contents.of(certificate);
        let mut config = tls::server_config(pem, contents.of(key))
            .with_context(|| format!("{} and the file of its key are of no use", certificate.display()))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let leaf = tls::certificates(pem)?.swap_remove(0);
        let end = tls::end(&leaf);
        Ok(Self { config: Arc::new(config), leaf, end })
    }
}
