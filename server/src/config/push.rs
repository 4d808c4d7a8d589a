//! Web Push.

use anyhow::bail;
use clap::{Args, builder::BoolishValueParser};
use serde::{Deserialize, Serialize};

/// The longest pause that can be set, in seconds: the pushes that wait for it hold places.
const MOST_PAUSE_SECONDS: u64 = 24 * 60 * 60;

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
    /// Queues for which a push is under way or waits, at most.
    pub waiting: usize,
    /// Failures in a row after which a host is left alone.
    pub failures: u32,
    /// Time for which a host is left alone at first, in seconds; each time after that it is twice as long.
    pub pause_seconds: u64,
    /// Longest time for which a host is left alone, in seconds.
    pub longest_pause_seconds: u64,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            contact: None,
            local_endpoints: false,
            at_once: 64,
            at_once_per_host: 32,
            // Some kilobytes each.
            waiting: 10_000,
            failures: 3,
            pause_seconds: 30,
            longest_pause_seconds: 60 * 60,
        }
    }
}

impl PushConfig {
    /// The values that must not be 0, by their names in the file.
    pub(super) fn positive(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("push.at_once", self.at_once as u64),
            ("push.at_once_per_host", self.at_once_per_host as u64),
            ("push.waiting", self.waiting as u64),
            ("push.failures", self.failures.into()),
            ("push.pause_seconds", self.pause_seconds),
        ]
    }

    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(contact) = &self.contact
            && !(contact.starts_with("mailto:") || contact.starts_with("https:"))
        {
            bail!("push.contact must be a mailto: or https: URI");
        }
        if !(self.pause_seconds..=MOST_PAUSE_SECONDS).contains(&self.longest_pause_seconds) {
            bail!(
                "push.longest_pause_seconds must be at least push.pause_seconds, which is {}, and at most {MOST_PAUSE_SECONDS}",
                self.pause_seconds,
            );
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

    /// Queues for which a push is under way or waits, at most: a quarter with hosts that were not tried yet, and a quarter with
    /// hosts that do not answer; further pushes are dropped [default: 10000]
    #[arg(id = "push_waiting", long = "push-waiting", value_name = "N", env = "POSTERN_PUSH_WAITING")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,

    /// Failures in a row after which a host is left alone [default: 3]
    #[arg(long = "push-failures", value_name = "N", env = "POSTERN_PUSH_FAILURES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,

    /// Time for which a host is left alone at first, in seconds; each time after that it is twice as long [default: 30]
    #[arg(long = "push-pause-seconds", value_name = "SECONDS", env = "POSTERN_PUSH_PAUSE_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_seconds: Option<u64>,

    /// Longest time for which a host is left alone, in seconds, 86400 at most [default: 3600]
    #[arg(
        long = "push-longest-pause-seconds",
        value_name = "SECONDS",
        env = "POSTERN_PUSH_LONGEST_PAUSE_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_pause_seconds: Option<u64>,
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

    #[test]
    fn bounds_of_pushes_are_one_at_least_and_no_pause_is_longer_than_a_day() {
        for name in ["waiting", "failures", "pause_seconds"] {
            let error = refusal(&format!("[push]\n{name} = 0"));
            assert_eq!(error, format!("push.{name} is 0: it must be at least 1"));
        }
        for (first, longest, holds) in [
            (1, 1, true),
            (3600, 86_400, true),
            (2, 1, false),
            (3600, 86_401, false),
            (86_401, 86_401, false),
        ] {
            let text = format!("[push]\npause_seconds = {first}\nlongest_pause_seconds = {longest}");
            if holds {
                let push = of(&text).unwrap().push;
                assert_eq!((push.pause_seconds, push.longest_pause_seconds), (first, longest));
            } else {
                let error = refusal(&text);
                let expected = format!(
                    "push.longest_pause_seconds must be at least push.pause_seconds, which is {first}, and at most 86400"
                );
                assert_eq!(error, expected);
            }
        }
    }
}
