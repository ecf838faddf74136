//! Which addresses may be connected to.
//!
//! A host that the reference or `registries.toml` names may be anywhere; every other host (a redirect's, a token
//! server's) must have a public address, and the address that was checked is the one that is connected to: the check is
//! the resolver's, so a name that changes its address between two look-ups (DNS rebinding) gains nothing. Must never
//! decide by a name.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How far a connection may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The host and port were named by somebody who may: any address.
    Named,
    /// Only addresses of the public internet.
    Public,
}

/// A resolver that only knows public addresses.
#[derive(Debug)]
pub(super) struct PublicOnly;

/// A host that has no public address, and that nobody named.
#[derive(Debug)]
pub(super) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none of the host's addresses is public")
    }
}

impl std::error::Error for NotPublic {}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            let public: Addrs = Box::new(public.into_iter());
            Ok(public)
        })
    }
}

/// Whether an address belongs to the public internet (IANA special-purpose address registries, RFC 6890). The ranges for
/// documentation count as public: nothing is there.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64; // RFC 6598: carriers, and some clouds' metadata
    let protocol = a == 192 && b == 0 && c == 0; // RFC 6890
    let benchmark = a == 198 && b & 0xfe == 18; // RFC 2544
    !(a == 0
        || a >= 224 // multicast, reserved, broadcast
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || shared
        || protocol
        || benchmark)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low), // mapped: the kernel speaks IPv4
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64, RFC 6052
        [0x2002, high, low, ..] => embedded(high, low),            // 6to4, RFC 3056
        [0x2001, second, ..] if second < 0x200 => false,           // Teredo and protocol assignments
        [first, ..] => first & 0xe000 == 0x2000,                   // global unicast is 2000::/3, and nothing else
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "198.51.100.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:20::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_host_does_not_resolve() {
        let Err(error) = PublicOnly.resolve("localhost".parse().unwrap()).await else { panic!("resolved") };
        assert!(error.is::<NotPublic>(), "{error}");
    }
}
