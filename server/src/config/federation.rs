//! The way to homeservers of other domains.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

/// The way to homeservers of other domains (FED-1). Whom this server talks to is decided in SQL (FED-2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FederationConfig {
    /// Addresses of hosts, which come before what DNS says and need not be public: each for the domain that is its name, or
    /// above it, and for those that the operator allowed by name.
    pub hosts: Vec<HostAddress>,
    /// The file with certificates of authorities that are trusted besides the system's, in PEM; read again when it changes.
    pub trusted_roots: Option<PathBuf>,
    /// Requests that the relay, and as many that the gateway works on at once.
    pub at_once: usize,
    /// Those of them that are for, or of, one domain.
    pub at_once_per_domain: usize,
    /// Requests of the relay, and as many of the gateway, that may wait for longer than half a second.
    pub waiting: usize,
    /// Those of them that are for, or of, one domain.
    pub waiting_per_domain: usize,
    /// Time for the answer to a request that the relay hands on, in seconds.
    pub relay_seconds: u64,
    /// Largest answer that the relay takes from another homeserver, in bytes.
    pub relayed_answer_bytes: usize,
    /// Memory for answers of other homeservers that are not whole yet, in bytes.
    pub relayed_answers_bytes: usize,
    /// Requests of one domain that the gateway opens in a second, and as many for tokens.
    pub gateway_per_second: u32,
    /// Requests with deliveries of one domain that are taken in a second.
    pub received_per_second: u32,
    /// Requests with deliveries at once to other homeservers that are prompt, and half as many to others of each kind.
    pub deliveries_at_once: usize,
}

/// The address of a host: `chat.example.org=192.0.2.1`, with `:` and a port if it is another one than 443.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostAddress {
    /// The host's name, in lower case.
    pub name: String,
    /// Its address. Port 0: the port of the URL, which is 443 (`outgoing::NamedHosts`).
    pub address: SocketAddr,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            trusted_roots: None,
            at_once: 64,
            at_once_per_domain: 16,
            waiting: 1024,
            waiting_per_domain: 256,
            // A long-poll of a client that hides its address from its own homeserver (FED-7), and a rest.
            relay_seconds: 90,
            // The largest groups and identities have some 30 MB.
            relayed_answer_bytes: 32 * 1024 * 1024,
            relayed_answers_bytes: 128 * 1024 * 1024,
            gateway_per_second: 200,
            received_per_second: 200,
            deliveries_at_once: 64,
        }
    }
}

impl FederationConfig {
    pub fn relay_time(&self) -> Duration {
        Duration::from_secs(self.relay_seconds)
    }

    /// The values that must not be 0, by their names in the file.
    pub(super) fn positive(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("federation.at_once", self.at_once as u64),
            ("federation.at_once_per_domain", self.at_once_per_domain as u64),
            ("federation.waiting", self.waiting as u64),
            ("federation.waiting_per_domain", self.waiting_per_domain as u64),
            ("federation.relay_seconds", self.relay_seconds),
            ("federation.relayed_answer_bytes", self.relayed_answer_bytes as u64),
            ("federation.gateway_per_second", self.gateway_per_second.into()),
            ("federation.received_per_second", self.received_per_second.into()),
            ("federation.deliveries_at_once", self.deliveries_at_once as u64),
        ]
    }

    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.relayed_answers_bytes / 4 < self.relayed_answer_bytes {
            bail!(
                "federation.relayed_answers_bytes must be at least four times federation.relayed_answer_bytes: one domain gets a quarter"
            );
        }
        Ok(())
    }
}

impl FromStr for HostAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, address) =
            text.split_once('=').context("it has the form NAME=ADDRESS or NAME=ADDRESS:PORT")?;
        let address = match address.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, 0),
            Err(_) => address.parse().context("the part after = is no IP address")?,
        };
        Ok(Self { name: name.trim().to_ascii_lowercase(), address })
    }
}

impl TryFrom<String> for HostAddress {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<HostAddress> for String {
    fn from(HostAddress { name, address }: HostAddress) -> Self {
        match address.port() {
            0 => format!("{name}={}", address.ip()),
            _ => format!("{name}={address}"),
        }
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Federation")]
pub struct FederationSettings {
    /// Addresses of other homeservers' hosts, NAME=ADDRESS or NAME=ADDRESS:PORT, with commas between them. They come
    /// before what DNS says, and need not be public [default: none]
    #[arg(
        long = "federation-hosts",
        value_name = "HOSTS",
        env = "POSTERN_FEDERATION_HOSTS",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostAddress>>,

    /// File with certificates of authorities, in PEM, that are trusted besides the system's for other homeservers;
    /// read again when it changes [default: none]
    #[arg(long = "federation-trusted-roots", value_name = "FILE", env = "POSTERN_FEDERATION_TRUSTED_ROOTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_roots: Option<PathBuf>,

    /// Requests for other homeservers that the relay hands on at once, and as many of theirs that the gateway answers at
    /// once [default: 64]
    #[arg(long = "federation-at-once", value_name = "N", env = "POSTERN_FEDERATION_AT_ONCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,

    /// Those of them that are for, or of, one domain [default: 16]
    #[arg(
        long = "federation-at-once-per-domain",
        value_name = "N",
        env = "POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once_per_domain: Option<usize>,

    /// Requests of the relay, and as many of the gateway, that take longer than half a second and do not count as under
    /// way any more [default: 1024]
    #[arg(long = "federation-waiting", value_name = "N", env = "POSTERN_FEDERATION_WAITING")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,

    /// Those of them that are for, or of, one domain [default: 256]
    #[arg(
        long = "federation-waiting-per-domain",
        value_name = "N",
        env = "POSTERN_FEDERATION_WAITING_PER_DOMAIN"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_per_domain: Option<usize>,

    /// Time for the answer to a request that the relay hands on, in seconds [default: 90]
    #[arg(
        long = "federation-relay-seconds",
        value_name = "SECONDS",
        env = "POSTERN_FEDERATION_RELAY_SECONDS"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_seconds: Option<u64>,

    /// Largest answer that the relay takes from another homeserver, in bytes [default: 33554432]
    #[arg(
        long = "federation-relayed-answer-bytes",
        value_name = "BYTES",
        env = "POSTERN_FEDERATION_RELAYED_ANSWER_BYTES"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relayed_answer_bytes: Option<usize>,

    /// Memory for answers of other homeservers that are not whole yet, of which one domain gets a quarter, in bytes
    /// [default: 134217728]
    #[arg(
        long = "federation-relayed-answers-bytes",
        value_name = "BYTES",
        env = "POSTERN_FEDERATION_RELAYED_ANSWERS_BYTES"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relayed_answers_bytes: Option<usize>,

    /// Requests of one domain that the gateway opens in a second, and as many for tokens [default: 200]
    #[arg(
        long = "federation-gateway-per-second",
        value_name = "N",
        env = "POSTERN_FEDERATION_GATEWAY_PER_SECOND"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_per_second: Option<u32>,

    /// Requests with deliveries of one domain that are taken in a second [default: 200]
    #[arg(
        long = "federation-received-per-second",
        value_name = "N",
        env = "POSTERN_FEDERATION_RECEIVED_PER_SECOND"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_per_second: Option<u32>,

    /// Requests with deliveries under way at once to other homeservers that are prompt, and half as many to others of each
    /// kind [default: 64]
    #[arg(
        long = "federation-deliveries-at-once",
        value_name = "N",
        env = "POSTERN_FEDERATION_DELIVERIES_AT_ONCE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries_at_once: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::{super::tests::refusal, *};

    #[test]
    fn hosts_are_written_as_they_are_read() {
        for (text, port) in [("chat.example.org=192.0.2.1", 0), ("chat.example.org=[2001:db8::1]:8443", 8443)]
        {
            let host: HostAddress = text.parse().unwrap();
            assert_eq!((host.name.as_str(), host.address.port()), ("chat.example.org", port));
            assert_eq!(String::from(host), text);
        }
        assert_eq!("CHAT.example =192.0.2.1".parse::<HostAddress>().unwrap().name, "chat.example");
        for text in ["chat.example.org", "chat.example.org=elsewhere", "=", ""] {
            assert!(text.parse::<HostAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_quarter_of_the_memory_holds_the_largest_answer() {
        let error = refusal("[federation]\nrelayed_answer_bytes = 26\nrelayed_answers_bytes = 103");
        assert!(error.contains("at least four times"), "{error}");
        let error = refusal("[federation]\nwaiting = 0");
        assert_eq!(error, "federation.waiting is 0: it must be at least 1");
    }
}
