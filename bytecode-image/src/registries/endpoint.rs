//! Places that serve a registry's content: host, port, scheme and certificates.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::reference::Registry;

/// A host and a port, as one connects to them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Authority {
    /// DNS name, IPv4 address, or IPv6 address in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One place that serves a registry's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is.
    pub authority: Authority,
    /// Whether it speaks plain HTTP.
    pub scheme: Scheme,
    /// Its own certificate authority.
    pub ca: Option<Authorities>,
}

/// How an endpoint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// TLS.
    Https,
    /// No TLS: only if `registries.toml` says so for this endpoint.
    Http,
}

/// A file of certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Authorities {
    /// The file.
    pub path: PathBuf,
    /// Its text, once [`Registries::read_certificates`](super::Registries::read_certificates) was called.
    pub pem: Option<String>,
}

impl Endpoint {
    /// `https://host:port`, without a slash at its end.
    #[must_use]
    pub fn origin(&self) -> String {
        let Authority { host, port } = &self.authority;
        match self.scheme {
            Scheme::Https => format!("https://{host}:{port}"),
            Scheme::Http => format!("http://{host}:{port}"),
        }
    }

    /// Its names in an auth file, the exact one first: the port that its scheme has anyway is often left out there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let Authority { host, port } = &self.authority;
        let short = (*port == self.scheme.port()).then(|| host.clone());
        [self.authority.to_string()].into_iter().chain(short).collect()
    }
}

impl Scheme {
    /// The port if none is written (RFC 9110, 4.2.1 and 4.2.2).
    fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

impl Authority {
    /// A registry's host, and its port or the scheme's.
    #[must_use]
    pub fn of(registry: &Registry, scheme: Scheme) -> Self {
        Self { host: registry.host().to_owned(), port: registry.port().unwrap_or(scheme.port()) }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
