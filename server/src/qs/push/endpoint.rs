//! The URLs that pushes may go to. A queue's owner names the URL, and the server calls it:
//! unchecked, anyone could reach hosts that only the server can. So a push service must be on the
//! public Internet, unless the operator says otherwise.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Whether a push may be sent to a URL: only by HTTPS and to a public address; with `local`, also
/// by HTTP and to any. [`PublicAddresses`] checks the addresses of a name.
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

/// Resolves names to public addresses only.
pub struct PublicAddresses;

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
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
    fn a_push_service_is_called_by_https_at_a_public_address() {
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
        let resolved = PublicAddresses.resolve("localhost".parse().unwrap()).await;
        assert!(resolved.is_err());
    }
}
