//! Proxies in front of the server.

use std::{
    net::{AddrParseError, IpAddr},
    str::FromStr,
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Proxies in front of the server, and how they name the source of a request. Nobody else is believed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// The networks that the proxies connect from.
    pub addresses: Vec<Network>,
    /// The way in which all of them name a request's source.
    pub source: Option<ProxySource>,
}

/// The way in which a proxy names the source of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ProxySource {
    /// The PROXY protocol, version 2, ahead of each connection
    ProxyProtocol,
    /// The header Forwarded (RFC 7239)
    Forwarded,
    /// The header X-Forwarded-For
    XForwardedFor,
}

/// A network in CIDR notation, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

impl ProxyConfig {
    /// Whether a proxy has this address.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|Network(network)| network.contains(&address))
    }

    /// Checks the values with each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.addresses.is_empty() != self.source.is_none() {
            bail!("proxy.addresses and proxy.source go together: set both, or neither");
        }
        Ok(())
    }
}

impl FromStr for Network {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(network) => Ok(Self(network)),
            Err(_) => text.parse::<IpAddr>().map(|address| Self(address.into())),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(Network(network): Network) -> Self {
        network.to_string()
    }
}

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Proxies")]
pub struct ProxySettings {
    /// Addresses or networks of the proxies in front of this server, with commas between them. They are believed about
    /// where a request comes from, which limits count [default: none]
    #[arg(
        long = "proxy-addresses",
        value_name = "NETWORKS",
        env = "POSTERN_PROXY_ADDRESSES",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Network>>,

    /// How the proxies say where a request comes from [default: none]
    #[arg(long = "proxy-source", value_enum, env = "POSTERN_PROXY_SOURCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ProxySource>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{of, refusal};

    #[test]
    fn proxies_are_known_by_networks_or_addresses_and_by_the_way_in_which_they_name_sources() {
        let proxies = "[proxy]\naddresses = ['10.0.0.0/8', '::1']\nsource = 'forwarded'";
        let proxy = of(proxies).unwrap().proxy;
        for (address, is_one) in [("10.1.2.3", true), ("::1", true), ("11.0.0.1", false), ("::2", false)] {
            assert_eq!(proxy.trusts(address.parse().unwrap()), is_one, "{address}");
        }
        for alone in ["addresses = ['::1']", "source = 'forwarded'"] {
            let error = refusal(&format!("[proxy]\n{alone}"));
            assert_eq!(error, "proxy.addresses and proxy.source go together: set both, or neither");
        }
        assert!(refusal("[proxy]\naddresses = ['here']\nsource = 'forwarded'").contains("proxy.addresses"));
    }
}
