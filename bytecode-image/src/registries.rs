//! `registries.toml`: where a registry's name leads, and which hosts an administrator has named.
//!
//! ```toml
//! parallel = 3                         # blobs that one pull fetches at the same time
//! [[registry]]
//! name = "registry"                    # as references write it: HOST or HOST:PORT
//! endpoint = "127.0.0.1:5000"          # where it is; if left out, where it is without an entry
//! http = true                          # without TLS; never guessed
//! ca = "/etc/bpfd/ca.pem"              # a private certificate authority, for this endpoint beside the system's
//! mirrors = [{ endpoint = "mirror.example:5000", http = false }]      # asked first, in this order
//! token_realms = ["auth.example:443"]  # token servers elsewhere that may be given the credentials
//! redirects = ["10.0.0.7:9000"]        # hosts that blobs may come from though their addresses are private
//! [proxy]
//! https = "http://proxy.example:3128"  # for hosts over TLS; `http` for the others
//! no_proxy = ["registry.example", "10.0.0.0/8"]      # hosts and all below them, and networks, that are reached directly
//! ```
//! An unknown key is an error with file, line and column. Must never open a connection or resolve a name.

mod certificates;
mod endpoint;
mod proxy;

use std::{collections::BTreeSet, path::PathBuf};

use bpfd_policy::position;
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use self::certificates::{CertificateError, plain_file};
pub use self::endpoint::{Authorities, Authority, Endpoint, Scheme};
use self::proxy::RawProxies;
pub use self::proxy::{Proxies, VARIABLES};
use crate::{
    limits,
    reference::{Reference, Registry},
};

/// Docker's registry answers at another name than the one in references, and its tokens come from a third
/// (docs.docker.com, "Docker Registry token authentication").
const DOCKER: (&str, &str, &str) = ("docker.io", "registry-1.docker.io", "auth.docker.io:443");

/// All that `registries.toml` says. The default knows no registry but those that references name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registries {
    parallel: Option<usize>,
    entries: Vec<Entry>,
    proxies: Proxies,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    name: Registry,
    endpoint: Endpoint,
    mirrors: Vec<Endpoint>,
    token_realms: Vec<Authority>,
    redirects: Vec<Authority>,
}

/// Who wrote a reference: whether the host in it may be on a private network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Author {
    /// Whoever may write `registries.toml` too: root, or the user of a command that runs as that user.
    Trusted,
    /// Anybody else.
    #[default]
    Other,
}

/// What is wrong in `registries.toml`, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {what}")]
pub struct RegistriesError {
    /// The file's name as the caller gave it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    parallel: Option<Spanned<usize>>,
    #[serde(default)]
    registry: Vec<RawEntry>,
    #[serde(default)]
    proxy: RawProxies,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: Spanned<String>,
    endpoint: Option<Spanned<String>>,
    #[serde(default)]
    http: bool,
    ca: Option<Spanned<PathBuf>>,
    #[serde(default)]
    mirrors: Vec<RawMirror>,
    #[serde(default)]
    token_realms: Vec<Spanned<String>>,
    #[serde(default)]
    redirects: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    endpoint: Spanned<String>,
    #[serde(default)]
    http: bool,
    ca: Option<Spanned<PathBuf>>,
}

impl Registries {
    /// Reads the text of `registries.toml`; `file` is its name, for errors.
    ///
    /// # Errors
    /// [`RegistriesError`].
    pub fn parse(text: &str, file: &str) -> Result<Self, RegistriesError> {
        let at = |offset: usize, what: String| {
            let (line, column) = position(text, offset);
            RegistriesError { file: file.to_owned(), line, column, what }
        };
        let raw: RawFile = toml::from_str(text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        let mut entries: Vec<Entry> = Vec::new();
        for entry in raw.registry {
            let start = entry.name.span().start;
            let entry = Entry::of(entry).map_err(|(offset, what)| at(offset, what))?;
            if entries.iter().any(|known| known.name == entry.name) {
                return Err(at(start, format!("registry `{}` has two entries", entry.name)));
            }
            entries.push(entry);
        }
        let proxies = Proxies::of(raw.proxy).map_err(|(offset, what)| at(offset, what))?;
        let most = limits::TOGETHER_AT_MOST;
        if let Some(wrong) = raw.parallel.as_ref().filter(|number| !(1..=most).contains(number.get_ref())) {
            return Err(at(wrong.span().start, format!("`parallel` is {}: it is from 1 to {most}", wrong.get_ref())));
        }
        Ok(Self { parallel: raw.parallel.map(Spanned::into_inner), entries, proxies })
    }

    /// How many blobs one pull fetches at the same time.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.parallel.unwrap_or(limits::TOGETHER)
    }

    /// Where a reference's registry is asked: its mirrors in order, then itself.
    #[must_use]
    pub fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let registry = reference.registry();
        match self.entry(registry) {
            Some(entry) => entry.mirrors.iter().chain([&entry.endpoint]).cloned().collect(),
            None => vec![Endpoint { authority: usual(registry, Scheme::Https), scheme: Scheme::Https, ca: None }],
        }
    }

    /// The names under which an auth file may have the credentials for a reference at one of its endpoints: the name in the reference at
    /// the registry itself, then the endpoint's own.
    #[must_use]
    pub fn auth_names(&self, reference: &Reference, at: &Endpoint) -> Vec<String> {
        let own = (self.endpoints(reference).last() == Some(at)).then(|| reference.registry().to_string());
        own.into_iter().chain(at.names()).collect()
    }

    /// Whether this file, or a reference of somebody who could write it, names a host and port: only then may it have a private address.
    #[must_use]
    pub fn names(&self, reference: &Reference, author: Author, authority: &Authority) -> bool {
        let written = match author {
            Author::Trusted => Authority::of(reference.registry(), Scheme::Https) == *authority,
            Author::Other => false,
        };
        written || self.lists(authority)
    }

    /// Whether this file names a host and port.
    #[must_use]
    pub fn lists(&self, authority: &Authority) -> bool {
        self.entries.iter().any(|entry| {
            entry.endpoints().any(|endpoint| endpoint.authority == *authority)
                || entry.token_realms.contains(authority)
                || entry.redirects.contains(authority)
        })
    }

    /// The endpoint that this file describes at a host and port: its scheme and its certificates hold for redirects too.
    #[must_use]
    pub fn endpoint_at(&self, authority: &Authority) -> Option<&Endpoint> {
        self.entries.iter().flat_map(Entry::endpoints).find(|endpoint| endpoint.authority == *authority)
    }

    /// Through which proxies hosts are reached.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The token servers beside a registry's own origin that may be given its credentials.
    #[must_use]
    pub fn token_realms(&self, registry: &Registry) -> BTreeSet<Authority> {
        let (name, _endpoint, realm) = DOCKER;
        let docker = (registry.to_string() == name).then(|| authority(realm)).flatten();
        let mine = self.entry(registry).map(|entry| entry.token_realms.as_slice()).unwrap_or_default();
        mine.iter().cloned().chain(docker).collect()
    }

    fn entry(&self, registry: &Registry) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == *registry)
    }
}

/// An offset in the text, and what is wrong there.
type Wrong = (usize, String);

impl Entry {
    fn of(raw: RawEntry) -> Result<Self, Wrong> {
        let RawEntry { name, endpoint, http, ca, mirrors, token_realms, redirects } = raw;
        let registry = registry(&name)?;
        let endpoint = match &endpoint {
            Some(endpoint) => Endpoint::of(endpoint, http, ca)?,
            None => {
                let Endpoint { authority: _, scheme, ca } = Endpoint::of(&name, http, ca)?;
                Endpoint { authority: usual(&registry, scheme), scheme, ca }
            }
        };
        let mirrors = mirrors.into_iter().map(|RawMirror { endpoint, http, ca }| Endpoint::of(&endpoint, http, ca));
        Ok(Self {
            name: registry,
            endpoint,
            mirrors: mirrors.collect::<Result<_, _>>()?,
            token_realms: token_realms.iter().map(named).collect::<Result<_, _>>()?,
            redirects: redirects.iter().map(named).collect::<Result<_, _>>()?,
        })
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.mirrors.iter().chain([&self.endpoint])
    }
}

impl Endpoint {
    fn of(text: &Spanned<String>, http: bool, ca: Option<Spanned<PathBuf>>) -> Result<Self, Wrong> {
        let scheme = if http { Scheme::Http } else { Scheme::Https };
        let ca = match ca {
            Some(path) if http => return Err((path.span().start, "`ca` is of no use with `http = true`".to_owned())),
            Some(path) if path.get_ref().is_absolute() => Some(Authorities { path: path.into_inner(), pem: None }),
            Some(path) => return Err((path.span().start, "`ca` is not an absolute path".to_owned())),
            None => None,
        };
        Ok(Self { authority: Authority::of(&registry(text)?, scheme), scheme, ca })
    }
}

/// Where a registry is if nobody says it: at its name, but for one.
fn usual(registry: &Registry, scheme: Scheme) -> Authority {
    let (name, endpoint, _realm) = DOCKER;
    let docker = (registry.to_string() == name).then(|| endpoint.parse().ok()).flatten();
    Authority::of(docker.as_ref().unwrap_or(registry), scheme)
}

fn registry(text: &Spanned<String>) -> Result<Registry, Wrong> {
    text.get_ref().parse().map_err(|error| (text.span().start, format!("{error}")))
}

fn authority(text: &str) -> Option<Authority> {
    let registry: Registry = text.parse().ok()?;
    Some(Authority { host: registry.host().to_owned(), port: registry.port()? })
}

fn named(text: &Spanned<String>) -> Result<Authority, Wrong> {
    with_port(text.span().start, text.get_ref())
}

/// A port is never guessed where naming a host opens a private address.
fn with_port(at: usize, text: &str) -> Result<Authority, Wrong> {
    let registry: Registry = text.parse().map_err(|error| (at, format!("{error}")))?;
    match registry.port() {
        Some(port) => Ok(Authority { host: registry.host().to_owned(), port }),
        None => Err((at, format!("`{registry}` has no port: write `{registry}:443`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn origins(registries: &Registries, text: &str) -> Vec<String> {
        registries.endpoints(&reference(text)).iter().map(Endpoint::origin).collect()
    }

    fn error(text: &str) -> String {
        Registries::parse(text, "registries.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_name_leads_to_its_mirrors_and_then_to_its_endpoint() {
        let text = r#"
            [[registry]]
            name = "registry"
            endpoint = "127.0.0.1:5000"
            http = true
            mirrors = [{ endpoint = "m.example" }, { endpoint = "[::1]:5001", http = true }]
        "#;
        let registries = Registries::parse(text, "x").unwrap();
        let expected = ["https://m.example:443", "http://[::1]:5001", "http://127.0.0.1:5000"];
        assert_eq!(origins(&registries, "registry/foo:tag"), expected);
        assert_eq!(origins(&registries, "registry:5000/foo"), ["https://registry:5000"]);
    }

    #[test]
    fn without_an_entry_the_name_is_the_endpoint_over_tls() {
        let registries = Registries::default();
        assert_eq!(origins(&registries, "127.0.0.1:5000/a"), ["https://127.0.0.1:5000"]);
        assert_eq!(origins(&registries, "r.example/a"), ["https://r.example:443"]);
        assert_eq!(origins(&registries, "docker.io/library/a"), ["https://registry-1.docker.io:443"]);
    }

    #[test]
    fn an_entry_without_an_endpoint_leads_where_no_entry_would() {
        let text = "[[registry]]\nname = 'docker.io'\nmirrors = [{ endpoint = 'm.example' }]\n[[registry]]\nname = 'r.example'";
        let registries = Registries::parse(text, "x").unwrap();
        let expected = ["https://m.example:443", "https://registry-1.docker.io:443"];
        assert_eq!(origins(&registries, "docker.io/library/a"), expected);
        assert_eq!(origins(&registries, "r.example/a"), ["https://r.example:443"]);
    }

    #[test]
    fn a_host_is_named_with_its_port_or_not_at_all() {
        let text = r#"
            [[registry]]
            name = "r.example"
            token_realms = ["auth.example:8443"]
            redirects = ["10.0.0.7:9000"]
        "#;
        let registries = Registries::parse(text, "x").unwrap();
        let of =
            |author, text: &str| registries.names(&reference("127.0.0.1:5000/a"), author, &authority(text).unwrap());
        let names = |text: &str| [of(Author::Trusted, text), of(Author::Other, text)];
        for named in ["r.example:443", "auth.example:8443", "10.0.0.7:9000"] {
            assert_eq!(names(named), [true, true], "{named}");
        }
        assert_eq!(names("127.0.0.1:5000"), [true, false]);
        for other in ["r.example:80", "auth.example:443", "10.0.0.7:9001", "127.0.0.1:5001"] {
            assert_eq!(names(other), [false, false], "{other}");
        }
    }

    #[test]
    fn only_a_registrys_own_token_realms_are_its() {
        let text =
            "[[registry]]\nname = 'a.example'\ntoken_realms = ['auth.example:443']\n[[registry]]\nname = 'b.example'";
        let registries = Registries::parse(text, "x").unwrap();
        assert_eq!(registries.token_realms(&"a.example".parse().unwrap()).len(), 1);
        assert_eq!(registries.token_realms(&"b.example".parse().unwrap()).len(), 0);
        assert_eq!(registries.token_realms(&"docker.io".parse().unwrap()).len(), 1);
    }

    #[test]
    fn every_mistake_is_shown_at_its_place() {
        for (text, expected) in [
            (
                "[[registry]]\nname = 'a'\nhttps = true",
                "registries.toml:3:1: unknown field `https`, expected one of `name`, `endpoint`, `http`, `ca`, `mirrors`, `token_realms`, `redirects`",
            ),
            ("parallel = 0", "registries.toml:1:12: `parallel` is 0: it is from 1 to 16"),
            ("registry = 3", "registries.toml:1:12: invalid type: integer `3`, expected a sequence"),
            ("[[registry]]\nhttp = true", "registries.toml:1:1: missing field `name`"),
            (
                "[[registry]]\n  name = 'A.example'",
                "registries.toml:2:10: registry host `A.example` has upper-case letters: write `a.example`",
            ),
            ("[[registry]]\nname = 'a'\n[[registry]]\nname = 'a'", "registries.toml:4:8: registry `a` has two entries"),
            (
                "[[registry]]\nname = 'a'\nendpoint = 'http://b'",
                "registries.toml:3:12: `//b` is not a port from 1 to 65535",
            ),
            (
                "[[registry]]\nname = 'a'\nredirects = ['10.0.0.1']",
                "registries.toml:3:14: `10.0.0.1` has no port: write `10.0.0.1:443`",
            ),
            ("[[registry]]\nname = 'a'\nca = 'x.pem'", "registries.toml:3:6: `ca` is not an absolute path"),
            (
                "[[registry]]\nname = 'a'\nhttp = true\nca = '/x.pem'",
                "registries.toml:4:6: `ca` is of no use with `http = true`",
            ),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
    }
}
