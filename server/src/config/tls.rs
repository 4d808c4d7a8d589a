//! TLS of the listener.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde::{Deserialize, Serialize};

/// TLS of the listener (OPS-8). Without files it speaks plain HTTP, for this machine or for a proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The file with the certificate and those that lead from it to an authority, in PEM.
    pub certificate: Option<PathBuf>,
    /// The file with the certificate's private key, in PEM.
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.certificate.is_some() != self.key.is_some() {
            bail!("tls.certificate and tls.key go together: set both, or neither");
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "TLS")]
pub struct TlsSettings {
    /// File with the server's certificate and those that lead from it to an authority, in PEM; read again when it
    /// changes [default: none, and the server speaks plain HTTP]
    #[arg(long = "tls-certificate", value_name = "FILE", env = "POSTERN_TLS_CERTIFICATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,

    /// File with the certificate's private key, in PEM; read again when it changes [default: none]
    #[arg(long = "tls-key", value_name = "FILE", env = "POSTERN_TLS_KEY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{of, refusal};

    #[test]
    fn a_certificate_and_its_key_go_together() {
        of("[tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'").unwrap();
        for alone in ["certificate", "key"] {
            let error = refusal(&format!("[tls]\n{alone} = 'file.pem'"));
            assert_eq!(error, "tls.certificate and tls.key go together: set both, or neither");
        }
    }
}
