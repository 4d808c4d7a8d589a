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
use postern_protocol::name::Domain;
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

/// The HTTP clients for other homeservers: over TLS 1.3, at public addresses, without redirects. Their user sets the time
/// and the size of each call.
#[derive(Clone)]
pub struct Clients {
    /// Requests to one homeserver share a connection: when it breaks, all that are under way have no answer.
    pub shared: reqwest::Client,
    /// Each request has a connection of its own, which nobody asks for a sign of life: behind a large body on a slow line one
    /// would come too late.
    pub apart: reqwest::Client,
}

impl Clients {
    /// Builds both from the same settings.
    fn build(builder: impl Fn() -> anyhow::Result<reqwest::ClientBuilder>) -> anyhow::Result<Self> {
        let shared = builder()?.build()?;
        // Without a pool no connection is used again, of HTTP/2 neither.
        let apart =
            builder()?.pool_max_idle_per_host(0).http2_keep_alive_interval(None::<Duration>).build()?;
        Ok(Self { shared, apart })
    }
}

/// The HTTP clients for other homeservers, which are made anew when the file of authorities changes; connections of those
/// before end with their requests. None: there are no authorities by which one could be verified.
pub type HomeserverClient = FromFiles<Option<Clients>>;

/// Makes the clients.
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
    let made = FromFiles::load(files, WORDS, move |contents, present: Option<&Option<Clients>>| {
        let authorities = match &roots {
            Some(file) => tls::certificates(contents.of(file))
                .with_context(|| format!("cannot use {}", file.display()))?,
            None => Vec::new(),
        };
        let clients = Clients::build(|| builder(&authorities, &hosts));
        if let Err(error) = &clients {
            // The authorities before are of use, while a server that begins is of use without other homeservers.
            if let Some(Some(_)) = present {
                bail!("no HTTPS by these: {error:#}");
            }
            tracing::warn!("other homeservers are out of reach: no HTTPS: {error:#}");
        }
        Ok(clients.ok())
    });
    made.context("federation.trusted_roots")
}

fn builder(
    authorities: &[CertificateDer<'_>],
    hosts: &[HostAddress],
) -> anyhow::Result<reqwest::ClientBuilder> {
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
    Ok(client)
}

/// The hosts to which the operator gave addresses, which need not be public (`federation.hosts`).
#[derive(Debug, Clone, Default)]
pub struct NamedHosts(Arc<HashMap<String, SocketAddr>>);

/// A base URL, as the description of a domain's homeserver has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseUrl {
    /// It may be called.
    Good,
    /// Its host has an address by the operator, and neither is the domain nor lies below it: it is somebody else's, unless
    /// the operator allowed the domain by name.
    OfAnother,
    /// It may not be called for anybody.
    Bad,
}

impl NamedHosts {
    pub fn of(hosts: &[HostAddress]) -> Self {
        Self(Arc::new(hosts.iter().map(|host| (host.name.clone(), host.address)).collect()))
    }

    fn address(&self, name: &str) -> Option<SocketAddr> {
        self.0.get(&name.to_ascii_lowercase()).copied()
    }

    /// Judges the base URL of a domain's homeserver: it has nothing but scheme, host and port. Anybody can describe a
    /// homeserver, so a host that the operator named is reached for whom it was named, and at no other port.
    pub fn judge(&self, text: &str, domain: &Domain) -> BaseUrl {
        let Ok(url) = Url::parse(text) else { return BaseUrl::Bad };
        let is_origin = url.origin().ascii_serialization() == text.trim_end_matches('/');
        let Some(host) = url.host_str().filter(|_| is_origin && is_allowed(&url, false)) else {
            return BaseUrl::Bad;
        };
        let Some(address) = self.address(host) else { return BaseUrl::Good };
        // The port of a URL comes before that of the address. None is 443.
        if url.port().is_some_and(|port| port != address.port()) {
            return BaseUrl::Bad;
        }
        let below = host.strip_suffix(domain.as_str());
        match below.is_some_and(|labels| labels.is_empty() || labels.ends_with('.')) {
            true => BaseUrl::Good,
            false => BaseUrl::OfAnother,
        }
    }
}

/// Resolves names to public addresses only, and those that the operator named to what the operator said.
#[derive(Default)]
pub struct PublicAddresses(NamedHosts);

impl PublicAddresses {
    pub fn and(hosts: &[HostAddress]) -> Self {
        Self(NamedHosts::of(hosts))
    }
}

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let named = self.0.address(name.as_str());
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

/// Whether an address is none of IANA's special-purpose addresses (RFC 6890, with what was registered since), also of those
/// that are reached globally, since no host is there, and no multicast address.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let this_network = first == 0;
    let shared = first == 100 && second & 0xc0 == 64;
    let protocols = (first, second, third) == (192, 0, 0);
    let benchmarks = first == 198 && second & 0xfe == 18;
    // AS112 (RFC 7535, RFC 7534), AMT (RFC 7450), and the relays from 6to4 (RFC 7526).
    let anycast =
        [(192, 31, 196), (192, 52, 193), (192, 88, 99), (192, 175, 48)].contains(&(first, second, third));
    let reserved = first >= 240;
    !(this_network
        || anycast
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

/// Whether an address is global unicast (2000::/3, RFC 4291 §2.4), does not stand for an IPv4 address, and is none of IANA's
/// special-purpose addresses (RFC 6890, with what was registered since). Most of these are not in 2000::/3.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    let global_unicast = first & 0xe000 == 0x2000;
    let six_to_four = first == 0x2002;
    // All of 2001::/23, Teredo among it: no host is at the parts of it that are reached globally.
    let protocols = first == 0x2001 && second < 0x200;
    // 2001:db8::/32 (RFC 3849) and 3fff::/20 (RFC 9637).
    let documentation = (first, second) == (0x2001, 0xdb8) || first == 0x3fff && second < 0x1000;
    // AS112 (RFC 7534).
    let anycast = (first, second, third) == (0x2620, 0x4f, 0x8000);
    global_unicast && !six_to_four && !protocols && !documentation && !anycast
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
    };
    use tokio::net::TcpListener;

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
            // Next to what is special.
            "https://192.88.98.255/",
            "https://192.88.100.0/",
            "https://[2001:200::1]/",
            "https://[2001:db9::1]/",
            "https://[2620:4f:8001::1]/",
            "https://[3ffe:ffff::1]/",
            "https://[3fff:1000::1]/",
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
            "https://192.0.0.9/",
            "https://192.0.2.1/",
            "https://192.31.196.1/",
            "https://192.52.193.1/",
            "https://192.88.99.1/",
            "https://192.175.48.1/",
            "https://198.51.100.1/",
            "https://198.18.0.1/",
            "https://203.0.113.1/",
            "https://224.0.0.1/",
            "https://240.0.0.1/",
            "https://255.255.255.255/",
            "https://[::]/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[64:ff9b:1::7f00:1]/",
            "https://[100::1]/",
            "https://[100:0:0:1::1]/",
            "https://[5f00::1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[ff02::1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:0:1::]/",
            "https://[2001:1::1]/",
            "https://[2001:20::1]/",
            "https://[2001:1ff:ffff::1]/",
            "https://[2001:db8::1]/",
            "https://[2620:4f:8000::1]/",
            "https://[3fff::1]/",
            "https://[3fff:fff:ffff::1]/",
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

    #[test]
    fn the_base_url_of_a_homeserver_is_a_public_https_origin() {
        let (hosts, domain): (_, Domain) = (NamedHosts::default(), "example.org".parse().unwrap());
        for good in ["https://chat.example.org", "https://chat.example.org/", "https://chat.example.org:8443"]
        {
            assert_eq!(hosts.judge(good, &domain), BaseUrl::Good, "{good}");
        }
        for bad in [
            "",
            "http://chat.example.org",
            "https://chat.example.org/path",
            "https://chat.example.org?query",
            "https://me@chat.example.org",
            "https://127.0.0.1",
            "https://[::1]:8443",
            "https://169.254.169.254",
        ] {
            assert_eq!(hosts.judge(bad, &domain), BaseUrl::Bad, "{bad}");
        }
    }

    #[test]
    fn a_host_that_the_operator_named_is_reached_for_whom_it_was_named_at_its_port() {
        let named: [HostAddress; 2] =
            ["chat.lab.example=10.0.0.1:8443", "partner.example=10.0.0.2"].map(|host| host.parse().unwrap());
        let hosts = NamedHosts::of(&named);
        for (domain, url, expected) in [
            ("lab.example", "https://chat.lab.example", BaseUrl::Good),
            ("lab.example", "https://chat.lab.example:8443", BaseUrl::Good),
            ("chat.lab.example", "https://chat.lab.example", BaseUrl::Good),
            ("partner.example", "https://partner.example", BaseUrl::Good),
            ("partner.example", "https://partner.example:443", BaseUrl::Bad),
            ("partner.example", "https://partner.example:22", BaseUrl::Bad),
            ("lab.example", "https://chat.lab.example:22", BaseUrl::Bad),
            ("lab.example", "https://partner.example", BaseUrl::OfAnother),
            ("partner.example", "https://chat.lab.example:8443", BaseUrl::OfAnother),
            ("stranger.example", "https://chat.lab.example", BaseUrl::OfAnother),
            ("below.partner.example", "https://partner.example", BaseUrl::OfAnother),
            // It ends as the host does, and is another name.
            ("ab.example", "https://chat.lab.example", BaseUrl::OfAnother),
            ("stranger.example", "https://chat.lab.example:22", BaseUrl::Bad),
            // A host that is not named has whatever public address DNS says.
            ("stranger.example", "https://anywhere.example:22", BaseUrl::Good),
        ] {
            assert_eq!(hosts.judge(url, &domain.parse().unwrap()), expected, "{domain} at {url}");
        }
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

    /// Starts a server that answers all requests. Returns its URL, and the number of its connections.
    async fn answering() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = service_fn(|_: http::Request<Incoming>| async {
                    Ok::<_, Infallible>(http::Response::new(String::new()))
                });
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        (url, connections)
    }

    #[tokio::test]
    async fn requests_share_a_connection_or_have_one_each() {
        let http2 = || Ok(reqwest::Client::builder().no_proxy().http2_prior_knowledge());
        let clients = Clients::build(http2).unwrap();
        for (client, expected) in [(clients.shared, 1), (clients.apart, 3)] {
            let (url, connections) = answering().await;
            for _ in 0..3 {
                let answer = client.get(&url).send().await.unwrap();
                assert_eq!(answer.version(), http::Version::HTTP_2);
                answer.bytes().await.unwrap();
            }
            assert_eq!(connections.load(Ordering::SeqCst), expected);
        }
    }
}
