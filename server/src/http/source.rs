//! The source of a request: the address that limits count it for. Behind a proxy it is what the proxy says, by the PROXY
//! protocol or in one header; anybody else's word counts for nothing. No log names a source (PRIV-4).

use std::{
    fmt, io, iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::config::{ProxyConfig, ProxySource};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Bytes of a PROXY protocol header (version 2) up to and with the length of the rest.
const PROXY_HEADER_START: usize = 16;
/// Bits of the networks that are counted along with the sources in them: attackers seldom rent a wider one, and providers
/// give one of those of IPv6 to a customer (RFC 6177).
const IPV4_NETWORKS: &[u32] = &[24];
const IPV6_NETWORKS: &[u32] = &[56, 48];

/// The address that a request came from, as limits count it: an IPv4 address, or the /64 network of an IPv6 address,
/// which is the least that one customer gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceAddress(IpAddr);

impl SourceAddress {
    /// The source that an address belongs to. An IPv4 address within IPv6 is that IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }

    /// The address, or the first one of its network.
    pub fn address(self) -> IpAddr {
        self.0
    }

    /// Keyed digests of the source and of the networks that it is in, the narrowest first, as attempts of strangers are
    /// counted: what one customer or one site gets may be wider than a source. `digest` is another for each purpose.
    pub fn digests(self, digest: impl Fn(&[u8]) -> [u8; 32]) -> Vec<Vec<u8>> {
        let networks = self.networks().map(|network| digest(network.as_bytes()).to_vec());
        iter::once(digest(self.0.to_string().as_bytes()).to_vec()).chain(networks).collect()
    }

    /// The widest network that is counted.
    pub fn network(self) -> String {
        self.networks().last().unwrap_or_default()
    }

    /// The first address of the widest network that is counted.
    pub fn widest(self) -> IpAddr {
        self.lengths().last().map_or(self.0, |length| self.first_within(*length))
    }

    /// The wider networks, the narrowest first.
    fn networks(self) -> impl Iterator<Item = String> {
        self.lengths().iter().map(move |length| format!("{}/{length}", self.first_within(*length)))
    }

    /// Bits of the networks that are counted along with the source.
    fn lengths(self) -> &'static [u32] {
        if self.0.is_ipv4() { IPV4_NETWORKS } else { IPV6_NETWORKS }
    }

    /// The first address of the network of so many bits that the source is in.
    fn first_within(self, length: u32) -> IpAddr {
        match self.0 {
            IpAddr::V4(address) => {
                Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - length))).into()
            }
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - length))).into()
            }
        }
    }
}

impl fmt::Debug for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceAddress(…)")
    }
}

/// The other end of a connection: a client, or a proxy that names the client of each request.
#[derive(Clone, Copy)]
pub struct Peer {
    address: IpAddr,
    /// The header in which a proxy names the client of a request.
    header: Option<ProxySource>,
}

impl Peer {
    /// The peer of a new connection. From a proxy that speaks the PROXY protocol, this reads its header.
    ///
    /// # Errors
    /// A connection that fails, or a proxy whose header is missing or malformed.
    pub async fn of(stream: &mut TcpStream, address: SocketAddr, proxies: &ProxyConfig) -> io::Result<Self> {
        let address = address.ip().to_canonical();
        match proxies.source {
            Some(ProxySource::ProxyProtocol) if proxies.trusts(address) => {
                let client = read_proxy_header(stream).await?;
                Ok(Self { address: client.unwrap_or(address), header: None })
            }
            source => Ok(Self { address, header: source.filter(|_| proxies.trusts(address)) }),
        }
    }

    /// True if requests of many sources come from this peer.
    pub fn is_shared(&self) -> bool {
        self.header.is_some()
    }

    /// The source of everything that comes from this peer, unless it is shared.
    pub fn address(&self) -> SourceAddress {
        SourceAddress::of(self.address)
    }

    /// The source of a request with these headers.
    pub fn source(&self, headers: &HeaderMap, proxies: &ProxyConfig) -> SourceAddress {
        let (name, read): (_, fn(&str) -> Option<IpAddr>) = match self.header {
            Some(ProxySource::Forwarded) => (FORWARDED, forwarded),
            Some(ProxySource::XForwardedFor) => (X_FORWARDED_FOR, node),
            Some(ProxySource::ProxyProtocol) | None => return self.address(),
        };
        // Each proxy appends the address that it saw, so only the end of the list is to be trusted: up to the first
        // address that is no proxy's.
        let hops: Vec<&str> = headers
            .get_all(name)
            .iter()
            .flat_map(|value| value.to_str().unwrap_or_default().split(','))
            .collect();
        let mut source = self.address;
        for hop in hops.into_iter().rev() {
            let Some(address) = read(hop.trim()) else { break };
            source = address;
            if !proxies.trusts(address) {
                break;
            }
        }
        SourceAddress::of(source)
    }
}

/// Reads the header of the PROXY protocol, version 2. `None`: the proxy speaks for itself.
async fn read_proxy_header(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
    let mut header = vec![0; PROXY_HEADER_START];
    stream.read_exact(&mut header).await?;
    // Before the length is believed.
    if matches!(ProxyHeader::parse(&header, config), Err(error) if error != proxy_header::Error::BufferTooShort)
    {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let rest = u16::from_be_bytes([header[14], header[15]]);
    header.resize(PROXY_HEADER_START + usize::from(rest), 0);
    stream.read_exact(&mut header[PROXY_HEADER_START..]).await?;
    let (header, _) = ProxyHeader::parse(&header, config).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(header.proxied_address().map(|addresses| addresses.source.ip().to_canonical()))
}

/// The address in an element of `Forwarded` (RFC 7239 §4): `for=192.0.2.43;proto=https`.
fn forwarded(element: &str) -> Option<IpAddr> {
    let (_, value) = element
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    node(value.trim().trim_matches('"'))
}

/// The address of a node, with or without a port: `192.0.2.43`, `192.0.2.43:4711`, `[2001:db8::17]:4711`.
fn node(text: &str) -> Option<IpAddr> {
    let address = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.ok().or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> SourceAddress {
        SourceAddress::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_address_counts_by_its_network_and_an_ipv4_address_by_itself() {
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(format!("{:?}", of("192.0.2.1")), "SourceAddress(…)");
    }

    #[test]
    fn attempts_count_for_the_source_and_for_the_networks_that_it_is_in() {
        let networks = |address| of(address).networks().collect::<Vec<_>>();
        assert_eq!(networks("192.0.2.77"), ["192.0.2.0/24"]);
        assert_eq!(networks("2001:db8:1:2ff:3::1"), ["2001:db8:1:200::/56", "2001:db8:1::/48"]);
        let widest = |address| of(address).widest().to_string();
        assert_eq!([widest("192.0.2.77"), widest("2001:db8:1:2ff:3::1")], ["192.0.2.0", "2001:db8:1::"]);
        let digests = of("192.0.2.77").digests(|network| [network.len() as u8; 32]);
        assert_eq!(digests, [vec![10; 32], vec![12; 32]]);
    }

    #[test]
    fn a_proxy_is_believed_up_to_the_last_address_that_is_no_proxys() {
        let proxies = |source| ProxyConfig {
            addresses: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:ff::1".parse().unwrap()],
            source: Some(source),
        };
        let source = |peer: &str, source: ProxySource, headers: &[(HeaderName, &str)]| {
            let proxies = proxies(source);
            let address = peer.parse().unwrap();
            let peer = Peer { address, header: Some(source).filter(|_| proxies.trusts(address)) };
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value.parse().unwrap());
            }
            peer.source(&map, &proxies)
        };
        let (standard, common) = (ProxySource::Forwarded, ProxySource::XForwardedFor);
        for (value, expected) in [
            ("for=192.0.2.43", "192.0.2.43"),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
            ("for=198.51.100.17, for=10.1.1.1", "198.51.100.17"),
            ("for=198.51.100.17, for=\"[2001:db8:ff::1]:80\"", "198.51.100.17"),
            ("proto=https; For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.43, for=unknown", "10.0.0.1"),
            ("for=192.0.2.43, for=_hidden, for=10.1.1.1", "10.1.1.1"),
            ("by=192.0.2.43", "10.0.0.1"),
        ] {
            assert_eq!(source("10.0.0.1", standard, &[(FORWARDED, value)]), of(expected), "{value}");
        }
        for (value, expected) in [
            ("192.0.2.43, 198.51.100.17", "198.51.100.17"),
            ("198.51.100.17:4711, 10.1.1.1", "198.51.100.17"),
            ("2001:db8:cafe::17", "2001:db8:cafe::17"),
            ("made up", "10.0.0.1"),
        ] {
            assert_eq!(source("10.0.0.1", common, &[(X_FORWARDED_FOR, value)]), of(expected), "{value}");
        }
        let lines = [(X_FORWARDED_FOR, "192.0.2.43"), (X_FORWARDED_FOR, "198.51.100.17")];
        assert_eq!(
            source("10.0.0.1", common, &lines),
            of("198.51.100.17"),
            "the last line is the last proxy's"
        );
        // The other header counts for nothing, and so does any header of a peer that is no proxy.
        assert_eq!(source("10.0.0.1", standard, &lines), of("10.0.0.1"));
        assert_eq!(source("192.0.2.1", common, &lines), of("192.0.2.1"));
    }
}
