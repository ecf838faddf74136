//! `[proxy]` of `registries.toml`: which proxy a host is reached through.
//!
//! Must never read the environment or resolve a name.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Authority, Scheme, Wrong, with_port};
use crate::reference::Registry;

/// The variables in which other programs look for a proxy; bpfd reads none of them.
pub const VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// The proxies, and which hosts are reached without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxies {
    https: Option<Authority>,
    http: Option<Authority>,
    direct: Vec<Direct>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Direct {
    /// A host and all below it, at one port or at any.
    Host(String, Option<u16>),
    /// Addresses that agree in so many leading bits.
    Network(IpAddr, u32),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProxies {
    https: Option<Spanned<String>>,
    http: Option<Spanned<String>>,
    #[serde(default)]
    no_proxy: Vec<Spanned<String>>,
}

impl Proxies {
    pub(super) fn of(raw: RawProxies) -> Result<Self, Wrong> {
        let RawProxies { https, http, no_proxy } = raw;
        Ok(Self {
            https: https.as_ref().map(server).transpose()?,
            http: http.as_ref().map(server).transpose()?,
            direct: no_proxy.iter().map(Direct::of).collect::<Result<_, _>>()?,
        })
    }

    /// The proxy for a host, if it is not reached directly. This machine always is: another one's `localhost` is another.
    #[must_use]
    pub fn proxy_for(&self, scheme: Scheme, to: &Authority) -> Option<&Authority> {
        let proxy = match scheme {
            Scheme::Https => self.https.as_ref(),
            Scheme::Http => self.http.as_ref(),
        };
        let address: Option<IpAddr> = to.host.trim_matches(['[', ']']).parse().ok();
        let here = to.host == "localhost"
            || to.host.ends_with(".localhost")
            || address.is_some_and(|address| address.to_canonical().is_loopback());
        proxy.filter(|_| !here && !self.direct.iter().any(|direct| direct.covers(to, address)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.https.is_none() && self.http.is_none()
    }
}

impl Direct {
    fn of(text: &Spanned<String>) -> Result<Self, Wrong> {
        let wrong = |what: String| (text.span().start, what);
        let Some((address, bits)) = text.get_ref().split_once('/') else {
            let host = text.get_ref().trim_start_matches('.');
            let host: Registry = host.parse().map_err(|error| wrong(format!("{error}")))?;
            return Ok(Self::Host(host.host().to_owned(), host.port()));
        };
        let no_network = || wrong(format!("`{}` is not a network such as `10.0.0.0/8`", text.get_ref()));
        let address: IpAddr = address.parse().map_err(|_not| no_network())?;
        let bits: u32 = bits.parse().map_err(|_not| no_network())?;
        if bits > length(address) { Err(no_network()) } else { Ok(Self::Network(address, bits)) }
    }

    fn covers(&self, to: &Authority, address: Option<IpAddr>) -> bool {
        match self {
            Self::Host(host, port) => {
                let below = to.host.strip_suffix(host.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (to.host == *host || below) && port.is_none_or(|port| port == to.port)
            }
            Self::Network(network, bits) => address.is_some_and(|address| {
                let differ = length(*network).saturating_sub(*bits);
                length(address) == length(*network) && high(address, differ) == high(*network, differ)
            }),
        }
    }
}

/// `http://HOST:PORT`: everybody can read the file, so a password does not belong there.
fn server(text: &Spanned<String>) -> Result<Authority, Wrong> {
    let (at, url) = (text.span().start, text.get_ref());
    let form = || (at, format!("`{url}` is not a proxy: write `http://HOST:PORT`"));
    if url.contains('@') {
        return Err((at, "a proxy with a user or a password in its URL is not supported".to_owned()));
    }
    let bare = url.strip_prefix("http://").ok_or_else(form)?;
    with_port(at, bare.strip_suffix('/').unwrap_or(bare)).map_err(|_other| form())
}

/// The number of bits of addresses of this family.
fn length(address: IpAddr) -> u32 {
    if address.is_ipv4() { u32::BITS } else { u128::BITS }
}

/// An address without its last bits.
fn high(address: IpAddr, without: u32) -> u128 {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    bits.checked_shr(without).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registries::Registries;

    fn proxies(text: &str) -> Result<Proxies, String> {
        let registries = Registries::parse(&format!("[proxy]\n{text}"), "registries.toml");
        registries.map(|registries| registries.proxies().clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_host_is_reached_through_the_proxy_of_its_scheme_unless_it_is_excepted() {
        let text = "https = 'http://p.example:3128'\nhttp = 'http://10.0.0.1:80/'\n\
                    no_proxy = ['a.example', '.b.example', 'c.example:5000', '10.1.0.0/16', 'fd00::/8', '192.0.2.7']";
        let proxies = proxies(text).unwrap();
        let through = |scheme, host: &str, port| {
            let to = Authority { host: host.to_owned(), port };
            proxies.proxy_for(scheme, &to).map(ToString::to_string)
        };
        let https = |host| through(Scheme::Https, host, 443).is_some();
        assert_eq!(through(Scheme::Https, "r.example", 443).as_deref(), Some("p.example:3128"));
        assert_eq!(through(Scheme::Http, "r.example", 80).as_deref(), Some("10.0.0.1:80"));
        for direct in ["a.example", "x.a.example", "b.example", "x.b.example", "10.1.2.3", "[fd00::1]", "192.0.2.7"] {
            assert!(!https(direct), "{direct}");
        }
        for here in ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(!https(here), "{here}");
        }
        for proxied in ["xa.example", "a.example.org", "10.2.0.1", "[fe00::1]", "192.0.2.77", "c.example"] {
            assert!(https(proxied), "{proxied}");
        }
        assert_eq!(through(Scheme::Https, "c.example", 5000), None);
        assert_eq!(Proxies::default().proxy_for(Scheme::Https, &Authority { host: "r".into(), port: 443 }), None);
    }

    #[test]
    fn what_is_no_proxy_is_shown_at_its_place() {
        let form = |url: &str| format!("registries.toml:2:9: `{url}` is not a proxy: write `http://HOST:PORT`");
        for url in
            ["p.example:3128", "http://p.example", "https://p.example:3128", "http://p.example:3128/x", "http://:1"]
        {
            assert_eq!(proxies(&format!("https = '{url}'")), Err(form(url)));
        }
        let secret = proxies("http = 'http://u:s3cret@p.example:1'").unwrap_err();
        assert_eq!(secret, "registries.toml:2:8: a proxy with a user or a password in its URL is not supported");
        let network = "registries.toml:2:13: `10.0.0.0/33` is not a network such as `10.0.0.0/8`";
        assert_eq!(proxies("no_proxy = ['10.0.0.0/33']").unwrap_err(), network);
        assert!(
            proxies("no_proxy = ['*']").unwrap_err().starts_with("registries.toml:2:13: `*` is not a registry host")
        );
        assert!(proxies("ftp = 'x'").unwrap_err().starts_with("registries.toml:2:1: unknown field `ftp`"));
        assert!(proxies("no_proxy = ['0.0.0.0/0', '::/0']").is_ok());
    }
}
