//! The URLs that this server calls because somebody else names them: push services, which queues' owners name, and other
//! homeservers, which anybody does. Unchecked, anyone could reach hosts that only the server can. So they must be on the
//! public Internet, unless the operator says otherwise.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::CertificateDer;
use url::{Host, Url};

use crate::{
    config::{FederationConfig, HostAddress},
    from_files::{FromFiles, Words},
    tls,
};

/// Time within which another homeserver takes a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a word after which a connection to another homeserver is tried.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Whether a URL may be called: only by HTTPS and at a public address; with `local`, also by HTTP and at any.
/// [`PublicAddresses`] checks the addresses of a name.
pub fn is_allowed(url: &Url, local: bool) -> bool {
    if !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    if local {
        return matches!(url.scheme(), "http" | "https") && url.has_host();
    }
    url.scheme() == "https"
        && match url.host() {
            Some(Host::Domain(_)) => true,
            Some(Host::Ipv4(address)) => is_public_v4(address),
            Some(Host::Ipv6(address)) => is_public_v6(address),
            None => false,
        }
}

/// The HTTP client for other homeservers: over TLS 1.3, at public addresses, without redirects. Its user sets the time and
/// the size of each call. It is made anew when the file of authorities changes, and connections of the one before end with
/// their requests. None: there are no authorities by which one could be verified.
pub type HomeserverClient = FromFiles<Option<reqwest::Client>>;

/// Makes the client.
///
/// # Errors
/// A file of authorities that cannot be read.
pub fn homeserver_client(config: &FederationConfig) -> anyhow::Result<HomeserverClient> {
    const WORDS: Words = Words {
        name: "take over other authorities for homeservers: those before stay",
        renewed: "other homeservers are verified by other authorities from now on",
    };
    let (roots, hosts) = (config.trusted_roots.clone(), config.hosts.clone());
    let files = roots.iter().cloned().collect();
    let made = FromFiles::load(files, WORDS, move |contents, present: Option<&Option<reqwest::Client>>| {
        let authorities = match &roots {
            Some(file) => tls::certificates(contents.of(file))
                .with_context(|| format!("cannot use {}", file.display()))?,
            None => Vec::new(),
        };
        let client = build(&authorities, &hosts);
        if let Err(error) = &client {
            // Those before are of use, while a server that begins is of use without other homeservers.
            if let Some(Some(_)) = present {
                bail!("no HTTPS by these: {error:#}");
            }
            tracing::warn!("other homeservers are out of reach: no HTTPS: {error:#}");
        }
        Ok(client.ok())
    });
    made.context("federation.trusted_roots")
}

fn build(authorities: &[CertificateDer<'_>], hosts: &[HostAddress]) -> anyhow::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
        .https_only(true)
        .tls_version_min(reqwest::tls::Version::TLS_1_3)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(KEEPALIVE)
        .redirect(reqwest::redirect::Policy::none())
        // A proxy would resolve the names itself.
        .no_proxy()
        .dns_resolver(Arc::new(PublicAddresses::and(hosts)));
    if !authorities.is_empty() {
        let certificates = authorities.iter().map(|authority| reqwest::Certificate::from_der(authority));
        client = client.tls_certs_merge(certificates.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(client.build()?)
}

/// Resolves names to public addresses only, and those that the operator named to what the operator said.
#[derive(Default)]
pub struct PublicAddresses(HashMap<String, SocketAddr>);

impl PublicAddresses {
    pub fn and(hosts: &[HostAddress]) -> Self {
        Self(hosts.iter().map(|host| (host.name.clone(), host.address)).collect())
    }
}

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let named = self.0.get(&name.as_str().to_ascii_lowercase()).copied();
        Box::pin(async move {
            if let Some(address) = named {
                return Ok(Box::new(std::iter::once(address)) as Addrs);
            }
            // The HTTP client sets the port later.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(io::Error::other("the name has no public address").into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Whether an address is none of the special-purpose addresses of RFC 6890.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let this_network = first == 0;
    let shared = first == 100 && second & 0xc0 == 64;
    let protocols = (first, second, third) == (192, 0, 0);
    let benchmarks = first == 198 && second & 0xfe == 18;
    let reserved = first >= 240;
    !(this_network
        || shared
        || protocols
        || benchmarks
        || reserved
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

/// Whether an address is global unicast (RFC 4291 §2.4) and does not stand for an IPv4 address.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let global_unicast = first & 0xe000 == 0x2000;
    let six_to_four = first == 0x2002;
    // Protocol assignments, Teredo among them, and documentation.
    let special = first == 0x2001 && (second < 0x200 || second == 0xdb8);
    global_unicast && !six_to_four && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(url: &str, local: bool) -> bool {
        is_allowed(&url.parse().unwrap(), local)
    }

    #[test]
    fn others_are_called_by_https_at_a_public_address() {
        for url in [
            "https://push.example/a?b",
            "https://9.9.9.9/",
            "https://[2620:fe::fe]/",
            "https://push.example:8443/",
        ] {
            assert!(allowed(url, false), "{url}");
        }
        for url in [
            "http://push.example/",
            "ftp://push.example/",
            "file:///etc/passwd",
            "data:text/plain,x",
            "https://me@push.example/",
            "https://me:secret@push.example/",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0.0.0.0/",
            "https://10.1.2.3/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://169.254.169.254/",
            "https://100.64.0.1/",
            "https://192.0.0.8/",
            "https://198.18.0.1/",
            "https://203.0.113.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::]/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[ff02::1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:0:1::]/",
            "https://[2001:db8::1]/",
        ] {
            assert!(!allowed(url, false), "{url}");
        }
    }

    #[test]
    fn an_operators_own_push_service_may_be_anywhere() {
        assert!(allowed("http://127.0.0.1:8080/", true));
        assert!(allowed("http://push.lan/", true));
        assert!(!allowed("file:///etc/passwd", true));
        assert!(!allowed("http://me@push.lan/", true));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_does_not_resolve() {
        let resolved = PublicAddresses::default().resolve("localhost".parse().unwrap()).await;
        assert!(resolved.is_err());
    }

    #[tokio::test]
    async fn a_name_that_the_operator_gave_an_address_has_that_one() {
        let hosts = ["b.example=127.0.0.1:8443".parse().unwrap()];
        let resolved = PublicAddresses::and(&hosts).resolve("B.example".parse().unwrap()).await;
        let addresses: Vec<_> = resolved.unwrap_or_else(|error| panic!("{error}")).collect();
        assert_eq!(addresses, ["127.0.0.1:8443".parse().unwrap()]);
    }
}
