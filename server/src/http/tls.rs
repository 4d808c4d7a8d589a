//! The listener's certificate (OPS-8): it comes from files, and when they change new connections get the new one. Files
//! that are of no use, such as a certificate whose key is not there yet, change nothing, and neither does a certificate that
//! is worse than the one that is served: for another host, or not valid now.
//!
//! Connections are not resumed: by a session of TLS a server would know two connections for one client's (PRIV-7).

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, bail};
use rustls::{ServerConfig, pki_types::CertificateDer, server::NoServerSessionStorage};

use crate::{config::TlsConfig, tls};

/// Protocols inside TLS, the preferred one first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

pub struct ServerCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// The name by which clients know this server.
    host: String,
    served: RwLock<Served>,
    /// Whether the files hold what is served.
    is_current: AtomicBool,
}

struct Served {
    config: Arc<ServerConfig>,
    files: Files,
    leaf: CertificateDer<'static>,
    /// The end of the certificate, in seconds since 1970, if it can be read.
    end: Option<u64>,
}

/// The content of both files.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
}

impl ServerCertificate {
    /// Reads the files that the configuration names; none if it names none.
    ///
    /// # Errors
    /// Files that cannot be read, or are no certificate and its key.
    pub async fn load(config: &TlsConfig, host: String) -> anyhow::Result<Option<Arc<Self>>> {
        let (Some(certificate), Some(key)) = (config.certificate.clone(), config.key.clone()) else {
            return Ok(None);
        };
        let files = read(&certificate, &key).await?;
        let served = RwLock::new(files.into_served(&certificate)?);
        let is_current = AtomicBool::new(true);
        Ok(Some(Arc::new(Self { certificate, key, host, served, is_current })))
    }

    /// Reads the files again, and serves what they hold if that changed.
    ///
    /// # Errors
    /// As [`Self::load`]; the certificate stays the one that it was.
    pub async fn renew(&self) -> anyhow::Result<()> {
        let renewed = self.take_over().await;
        self.is_current.store(renewed.is_ok(), Ordering::Relaxed);
        renewed
    }

    async fn take_over(&self) -> anyhow::Result<()> {
        let files = read(&self.certificate, &self.key).await?;
        if self.served.read().unwrap_or_else(PoisonError::into_inner).files == files {
            return Ok(());
        }
        let served = files.into_served(&self.certificate)?;
        if let Err(error) = tls::fits(&served.leaf, &self.host) {
            let present = self.served.read().unwrap_or_else(PoisonError::into_inner).leaf.clone();
            if tls::fits(&present, &self.host).is_ok() {
                bail!("{}: {error}", self.certificate.display());
            }
        }
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served;
        tracing::info!("the server's certificate is another one from now on");
        Ok(())
    }

    /// The end of the certificate that is served, in seconds since 1970.
    pub fn end(&self) -> Option<u64> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).end
    }

    /// Whether the files hold what is served; else they are of no use, and that will not be renewed.
    pub fn is_current(&self) -> bool {
        self.is_current.load(Ordering::Relaxed)
    }

    /// The settings of a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }
}

async fn read(certificate: &Path, key: &Path) -> anyhow::Result<Files> {
    let read = async |path: &Path| {
        tokio::fs::read(path).await.with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(Files { certificate: read(certificate).await?, key: read(key).await?.into() })
}

impl Files {
    fn into_served(self, certificate: &Path) -> anyhow::Result<Served> {
        let mut config = tls::server_config(&self.certificate, &self.key)
            .with_context(|| format!("{} and the file of its key are of no use", certificate.display()))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let leaf = tls::certificates(&self.certificate)?.swap_remove(0);
        let end = tls::end(&leaf);
        Ok(Served { config: Arc::new(config), files: self, leaf, end })
    }
}
