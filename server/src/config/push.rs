//! Web Push.

use anyhow::bail;
use clap::{Args, builder::BoolishValueParser};
use serde::{Deserialize, Serialize};

/// Web Push (QS-10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// The contact for push services, a `mailto:` or `https:` URI (RFC 8292 §2.1). Without it the server sends no
    /// pushes.
    pub contact: Option<String>,
    /// Whether pushes may go to addresses that are not public, and by HTTP without TLS.
    pub local_endpoints: bool,
    /// Pushes under way at once to hosts that answered promptly the last time, as many to hosts that were not tried yet, and as
    /// many to hosts that failed.
    pub at_once: usize,
    /// Pushes under way at once to one host.
    pub at_once_per_host: usize,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self { contact: None, local_endpoints: false, at_once: 64, at_once_per_host: 32 }
    }
}

impl PushConfig {
    /// The values that must not be 0, by their names in the file.
    pub(super) fn positive(&self) -> Vec<(&'static str, u64)> {
        vec![("push.at_once", self.at_once as u64), ("push.at_once_per_host", self.at_once_per_host as u64)]
    }

    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(contact) = &self.contact
            && !(contact.starts_with("mailto:") || contact.starts_with("https:"))
        {
            bail!("push.contact must be a mailto: or https: URI");
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Web Push")]
pub struct PushSettings {
    /// Contact for push services, a mailto: or https: URI such as mailto:postmaster@example.org [default: none, and the
    /// server sends no pushes]
    #[arg(long = "push-contact", value_name = "URI", env = "POSTERN_PUSH_CONTACT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,

    /// Send pushes also to addresses that are not public, and without TLS: for a push service of your own [default:
    /// false]
    #[arg(long = "push-local-endpoints", env = "POSTERN_PUSH_LOCAL_ENDPOINTS", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "true|false", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_endpoints: Option<bool>,

    /// Pushes under way at once to hosts that answered promptly the last time, as many to hosts that were not tried yet, and
    /// as many to hosts that failed [default: 64]
    #[arg(id = "push_at_once", long = "push-at-once", value_name = "N", env = "POSTERN_PUSH_AT_ONCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,

    /// Pushes under way at once to one host [default: 32]
    #[arg(long = "push-at-once-per-host", value_name = "N", env = "POSTERN_PUSH_AT_ONCE_PER_HOST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once_per_host: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{of, refusal};

    #[test]
    fn the_contact_is_one_that_push_services_can_write_to() {
        for contact in ["mailto:postmaster@example.org", "https://example.org/contact"] {
            of(&format!("[push]\ncontact = '{contact}'")).unwrap();
        }
        let error = refusal("[push]\ncontact = 'postmaster@example.org'");
        assert_eq!(error, "push.contact must be a mailto: or https: URI");
        assert_eq!(refusal("[push]\nat_once = 0"), "push.at_once is 0: it must be at least 1");
    }
}
