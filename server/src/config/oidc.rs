//! The operator's identity provider.

use anyhow::bail;
use clap::Args;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The operator's identity provider (OpenID Connect, AS-1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcConfig {
    /// The URL of the issuer. Without it there is no identity provider.
    pub issuer: Option<String>,
    /// The client id that ID tokens are for: a public client of the provider's, without a secret.
    pub client_id: Option<String>,
    /// Age up to which ID tokens are taken, and, as an owner's proof, logins, in seconds.
    pub max_age_seconds: u64,
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self { issuer: None, client_id: None, max_age_seconds: 15 * 60 }
    }
}

impl OidcConfig {
    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.issuer.is_some() != self.client_id.is_some() {
            bail!("oidc.issuer and oidc.client_id go together: set both, or neither");
        }
        if self.issuer.as_deref().is_some_and(|issuer| !is_issuer(issuer)) {
            bail!("oidc.issuer must be an https: URL (http: on this machine only)");
        }
        Ok(())
    }
}

/// Whether a text is the URL of an issuer whose keys nobody on the way can replace.
fn is_issuer(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    })
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Identity provider")]
pub struct OidcSettings {
    /// Issuer of ID tokens (OpenID Connect) by which users log in to register: its URL, such as
    /// https://login.example.org [default: none]
    #[arg(long = "oidc-issuer", value_name = "URL", env = "POSTERN_OIDC_ISSUER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,

    /// Client id that the ID tokens are for: a public client, with the redirect URI http://127.0.0.1/ on any port
    /// [default: none]
    #[arg(long = "oidc-client-id", value_name = "ID", env = "POSTERN_OIDC_CLIENT_ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,

    /// Age up to which an ID token is taken, and, as an owner's proof, its login, in seconds [default: 900]
    #[arg(long = "oidc-max-age-seconds", value_name = "SECONDS", env = "POSTERN_OIDC_MAX_AGE_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::{super::tests::refusal, *};

    #[test]
    fn an_issuer_is_one_whose_keys_nobody_on_the_way_replaces() {
        for (issuer, is_one) in [
            ("https://login.example.org", true),
            ("http://localhost:8080/realm", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://login.example.org", false),
            ("http://192.0.2.1", false),
            ("login.example.org", false),
        ] {
            assert_eq!(is_issuer(issuer), is_one, "{issuer}");
        }
        let error = refusal("[oidc]\nissuer = 'https://login.example.org'");
        assert_eq!(error, "oidc.issuer and oidc.client_id go together: set both, or neither");
    }
}
