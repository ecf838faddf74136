//! What can go wrong with a registry, in words that tell "it said no" from "it could not be asked".
//!
//! Must never quote a query, a header or a body at length: redirects carry signatures in queries, and bodies are the
//! registry's words, shown short and without control characters.

use std::{fmt, io, time::Duration};

use reqwest::StatusCode;

use super::challenge::ChallengeError;
use crate::{auth::HelperFault, digest::Digest, document::DocumentError, registries::Authority};

/// Why a registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no such thing: the only error that means absence.
    #[error("`{host}` has no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Who says so.
        host: Authority,
    },
    /// No connection, or it broke before an answer.
    #[error("cannot reach `{host}`")]
    Unreachable {
        /// The registry, or where it sent us.
        host: Authority,
        /// Why.
        source: reqwest::Error,
    },
    /// The same, through a proxy.
    #[error("cannot reach `{host}` through the proxy `{proxy}`")]
    Proxy {
        /// The registry, or where it sent us.
        host: Authority,
        /// The proxy.
        proxy: Authority,
        /// Why.
        source: reqwest::Error,
    },
    /// Answers, but not now: 429 or 5xx to every try.
    #[error("`{host}` cannot answer now: status {status}{said}")]
    Unavailable {
        /// The registry.
        host: Authority,
        /// The last status.
        status: StatusCode,
        /// Its words.
        said: Said,
    },
    /// All of it took too long.
    #[error("`{host}` did not finish within {} s", .limit.as_secs_f64().ceil())]
    Deadline {
        /// The registry.
        host: Authority,
        /// How long was allowed.
        limit: Duration,
    },
    /// 401 or 403.
    #[error("`{host}` denies access{said}")]
    Denied {
        /// The registry.
        host: Authority,
        /// Its words.
        said: Said,
    },
    /// It requires credentials, and there are none for it.
    #[error("`{host}` requires credentials, and the auth file has none for it")]
    NoCredentials {
        /// The registry.
        host: Authority,
        /// What there is in their place.
        source: Option<Lacking>,
    },
    /// A status that says nothing we know.
    #[error("`{host}` answered with status {status}{said}")]
    Status {
        /// The registry.
        host: Authority,
        /// The status.
        status: StatusCode,
        /// Its words.
        said: Said,
    },
    /// More bytes than are ever taken.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was being read.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A blob of another length than its descriptor says.
    #[error("{what} has {got} bytes, but its descriptor says {wanted}")]
    WrongLength {
        /// Which blob.
        what: String,
        /// Bytes by the descriptor.
        wanted: u64,
        /// Bytes announced or received; the first one too many ends the transfer.
        got: u64,
    },
    /// Other bytes than were asked for.
    #[error("{what} has the digest `{got}`, not `{wanted}`")]
    WrongDigest {
        /// Which blob or manifest.
        what: String,
        /// The digest asked for.
        wanted: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// The registry's header and its bytes disagree.
    #[error("`{host}` announces `{announced}` but sends a manifest with the digest `{got}`")]
    Announced {
        /// The registry.
        host: Authority,
        /// `Docker-Content-Digest`.
        announced: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// A body that stopped, again and again.
    #[error("{what} ended early after {got} bytes")]
    BrokenOff {
        /// Which blob or document.
        what: String,
        /// Bytes received.
        got: u64,
        /// Why the last time.
        source: reqwest::Error,
    },
    /// What came is no manifest.
    #[error("the registry's manifest is refused")]
    Document(#[from] DocumentError),
    /// No end of redirects.
    #[error("`{0}` redirects more than {limit} times", limit = crate::limits::REDIRECTS)]
    Redirects(Authority),
    /// A redirect that leads nowhere.
    #[error("`{0}` redirects without a usable `Location`")]
    Location(Authority),
    /// Plain HTTP that nobody allowed.
    #[error("`{host}` refers to `{to}`, which is not https and which registries.toml does not list with `http = true`")]
    Insecure {
        /// Who led there.
        host: Authority,
        /// Where to.
        to: String,
    },
    /// A private, loopback or link-local address that nobody named.
    #[error("`{host}` refers to `{to}`, a private address that neither the reference nor registries.toml names")]
    PrivateAddress {
        /// Who led there.
        host: Authority,
        /// Where to, as host and port.
        to: Authority,
    },
    /// The same of the registry itself, in a reference of somebody who may not name it.
    #[error("`{0}` has a private address, and registries.toml does not name it")]
    PrivateHost(Authority),
    /// A host that nobody named, by a registry's redirect or realm: whatever is wrong there, it is told the same way.
    #[error("`{host}` refers to `{to}`, and fetching from there failed")]
    Elsewhere {
        /// Who led there.
        host: Authority,
        /// Where to.
        to: Authority,
    },
    /// `WWW-Authenticate` that cannot be followed.
    #[error("`{host}` asks for an authentication that is neither Basic nor a Bearer token with a realm")]
    Challenge {
        /// The registry.
        host: Authority,
        /// What it offers.
        source: ChallengeError,
    },
    /// The URL of its token server is none.
    #[error("`{0}` names a token server whose URL cannot be used")]
    Realm(Authority),
    /// It asks that credentials go to somebody else.
    #[error(
        "`{host}` asks for its credentials to be sent to `{realm}`; if that is right, add `token_realms = [\"{realm}\"]` \
         to its entry in registries.toml"
    )]
    ForeignRealm {
        /// The registry.
        host: Authority,
        /// The token server.
        realm: Authority,
    },
    /// The token server's answer has no token.
    #[error("the token server `{0}` sent no usable token")]
    Token(Authority),
    /// It took a push, and says it has something else now.
    #[error("`{host}` stored `{stored}` when `{sent}` was pushed")]
    Stored {
        /// The registry.
        host: Authority,
        /// What was sent.
        sent: Digest,
        /// What it says it has.
        stored: Digest,
    },
    /// What was received could not be written.
    #[error("cannot write what was received")]
    Sink(#[source] io::Error),
    /// No HTTP client, for example for a bad certificate file.
    #[error("cannot set up TLS for `{host}`")]
    Client {
        /// For whom.
        host: Authority,
        /// Why.
        source: reqwest::Error,
    },
    /// The path of a registry is not part of a URL.
    #[error("`{0}` is not a URL")]
    Url(String),
}

/// What there is for a registry in place of credentials that it takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    /// A helper has them.
    #[error(transparent)]
    Helper(HelperFault),
    /// It asks for a user and a password.
    #[error("there is only an identity token, and the registry has no token server")]
    Password,
}

impl TransportError {
    /// Whether the registry was asked and said that there is nothing. Every other error means that nobody knows.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the registry could not be reached or could not answer: the only errors on which an older, cached digest
    /// may be used in its place.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Proxy { .. }
                | Self::Unavailable { .. }
                | Self::Deadline { .. }
                | Self::Elsewhere { .. }
        )
    }
}

/// What a registry says of its own error: code and message, short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(String);

impl Said {
    /// Reads the body of an error (distribution-spec 1.1, "Error Codes"); one that is something else is not quoted.
    #[must_use]
    pub(super) fn of(body: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| value.pointer(key).and_then(serde_json::Value::as_str).unwrap_or_default();
        let said = match (text("/errors/0/code"), text("/errors/0/message")) {
            ("", message) => message.to_owned(),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        };
        Self(said.chars().filter(|c| !c.is_control()).take(200).collect())
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_quoted_short_and_clean() {
        let check = |body: &str, expected: &str| assert_eq!(Said::of(body.as_bytes()).to_string(), expected);
        check(r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"}]}"#, " (DENIED: no[31m way)");
        check(r#"{"errors":[{"code":"DENIED"}]}"#, " (DENIED)");
        check(r#"{"errors":[{"message":"because"}]}"#, " (because)");
        check("<html>", "");
        check("", "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(9000));
        assert_eq!(Said::of(long.as_bytes()).to_string().len(), 203);
    }
}
