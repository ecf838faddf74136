//! The registry protocol (distribution-spec 1.1), for one repository at a time.
//!
//! ```text
//! Remote ─ ask        tries, 401 once, deadline                  exchange.rs, retry.rs
//!           └ follow  at most five redirects                     exchange.rs
//!              └ once check(url) → client of that reach → send   address.rs, client.rs
//! token.rs who gets credentials · body.rs, blob.rs bytes within limits · push.rs, referrers.rs the other verbs
//! ```
//! Everything a registry sends is hostile until it hashes to what was asked for. Each body has a limit that is checked
//! while it arrives. "There is no such thing" ([`TransportError::is_not_found`]) is never confused with "nobody could be
//! asked". Must never write to disk, decide about trust, or keep anything beyond its own life.

mod address;
mod blob;
mod body;
pub mod challenge;
mod client;
mod error;
mod exchange;
mod push;
mod referrers;
mod retry;
mod sign_in;
mod token;

use std::{collections::HashMap, fmt, sync::Mutex, time::Duration};

use reqwest::{
    Method, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};

use self::{
    client::Clients,
    exchange::{Access, Ask},
    token::Authorization,
};
pub use self::{
    error::{Lacking, Said, TransportError},
    push::{Place, Put},
    retry::{Trouble, Wait},
    sign_in::{Welcome, sign_in},
};
use crate::{
    auth::AuthFile,
    digest::{Descriptor, Digest},
    document::{ACCEPTED, Document, DocumentError},
    limits,
    reference::Reference,
    registries::{Author, Authority, Endpoint, Registries},
};

/// Everything that a transport needs to know; serialises, with secrets, for the process that does the asking.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportConfig {
    /// Where registries are.
    pub registries: Registries,
    /// Credentials.
    pub auth: AuthFile,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// The one endpoint to ask, if not each in its turn: whoever holds the credentials of one must not need those of another.
    #[serde(default)]
    pub only: Option<Endpoint>,
    /// Who wrote the reference.
    pub author: Author,
}

/// How long to wait. The defaults are those of [`limits`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// For everything that one [`Remote`] does.
    pub deadline: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: limits::CONNECT, idle: limits::IDLE, deadline: limits::DEADLINE }
    }
}

/// One repository of one registry. Its deadline starts when it is made.
#[derive(Debug)]
pub struct Remote<'a> {
    reference: Reference,
    registries: Registries,
    auth: AuthFile,
    timeouts: Timeouts,
    author: Author,
    deadline: Instant,
    clients: Clients,
    endpoints: Vec<Endpoint>,
    only: Option<Endpoint>,
    /// The endpoint that answered first: mirrors may differ, so everything of one pull comes from one of them.
    serving: Mutex<Option<Endpoint>>,
    authorizations: Mutex<HashMap<(Authority, Access), Authorization>>,
    /// For blobs that are under way at the same time.
    places: Semaphore,
    waits: Waits<'a>,
}

/// Who hears of pauses.
struct Waits<'a>(&'a (dyn Fn(&Wait) + Sync));

impl fmt::Debug for Waits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waits")
    }
}

/// What a tag names at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The digest; nobody has hashed the bytes yet.
    pub digest: Digest,
    /// The media type that was announced.
    pub media_type: String,
}

impl<'a> Remote<'a> {
    /// Prepares to ask for a repository; connects nowhere yet.
    #[must_use]
    pub fn new(config: &TransportConfig, reference: &Reference) -> Self {
        let TransportConfig { registries, auth, timeouts, author, only } = config.clone();
        Self {
            endpoints: registries.endpoints(reference),
            reference: reference.clone(),
            deadline: Instant::now() + timeouts.deadline,
            clients: Clients::new(&timeouts),
            places: Semaphore::new(registries.parallel()),
            registries,
            auth,
            timeouts,
            only,
            author,
            serving: Mutex::default(),
            authorizations: Mutex::default(),
            waits: Waits(&|_wait| ()),
        }
    }

    /// Tells of each pause before a request is sent again.
    #[must_use]
    pub fn telling(self, waits: &'a (dyn Fn(&Wait) + Sync)) -> Self {
        Self { waits: Waits(waits), ..self }
    }

    /// How many things of one kind are asked for at the same time.
    pub(crate) fn parallel(&self) -> usize {
        self.registries.parallel()
    }

    /// What it was made for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What a tag names: one HEAD, or a GET if the registry's answer has no digest.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn resolve(&self, tag: &str) -> Result<Resolved, TransportError> {
        self.anywhere(async |at| {
            let ask = self.manifest_ask(at, Method::HEAD, tag)?;
            let response = self.ask(at, Access::Pull, &ask).await?;
            match (announced_digest(&response), media_type(&response)) {
                (Some(digest), Some(media_type)) => Ok(Resolved { digest, media_type }),
                (None, _) | (_, None) => {
                    let document = self.manifest_from(at, tag, None).await?;
                    Ok(Resolved { digest: document.digest(), media_type: document.media_type().to_owned() })
                }
            }
        })
        .await
    }

    /// The manifest or index that a tag names, hashed here.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn tagged(&self, tag: &str) -> Result<Document, TransportError> {
        self.anywhere(async |at| self.manifest_from(at, tag, None).await).await
    }

    /// The manifest or index with a digest.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn manifest(&self, digest: Digest) -> Result<Document, TransportError> {
        self.anywhere(async |at| self.manifest_from(at, &digest.to_string(), Some(digest)).await).await
    }

    /// The manifest that an index describes: digest, size and media type must all agree.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn described(&self, wanted: &Descriptor) -> Result<Document, TransportError> {
        let Descriptor { media_type, digest, size } = wanted;
        if *size > limits::MANIFEST {
            return Err(TransportError::TooLarge { what: format!("manifest `{digest}`"), limit: limits::MANIFEST });
        }
        let document = self.manifest(*digest).await?;
        if document.media_type() != media_type {
            let (inside, announced) = (document.media_type().to_owned(), media_type.clone());
            return Err(DocumentError::MediaTypeDiffers { inside, announced }.into());
        }
        if document.descriptor().size != *size {
            let got = document.descriptor().size;
            return Err(DocumentError::Size { wanted: *size, got }.into());
        }
        Ok(document)
    }

    async fn manifest_from(
        &self,
        at: &Endpoint,
        name: &str,
        wanted: Option<Digest>,
    ) -> Result<Document, TransportError> {
        let ask = self.manifest_ask(at, Method::GET, name)?;
        let response = self.ask(at, Access::Pull, &ask).await?;
        let announced = announced_digest(&response);
        let media_type = media_type(&response).unwrap_or_default();
        if !ACCEPTED.contains(&media_type.as_str()) {
            return Err(DocumentError::MediaType(media_type).into());
        }
        let bytes = self.whole(&at.authority, &ask.what, limits::MANIFEST, response).await?;
        let document = Document::new(&media_type, bytes);
        let got = document.digest();
        if let Some(wanted) = wanted.filter(|wanted| *wanted != got) {
            return Err(TransportError::WrongDigest { what: ask.what, wanted, got });
        }
        if let Some(announced) = announced.filter(|announced| *announced != got) {
            return Err(TransportError::Announced { host: at.authority.clone(), announced, got });
        }
        document.parse()?;
        Ok(document)
    }

    fn manifest_ask(&self, at: &Endpoint, method: Method, name: &str) -> Result<Ask<'static>, TransportError> {
        let url = self.url(at, &format!("manifests/{name}"))?;
        let mut ask = Ask::new(method, url, &format!("manifest `{}` in `{}`", name, self.reference.repository()));
        ask.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED_HEADER));
        Ok(ask)
    }

    /// `ORIGIN/v2/REPOSITORY/…`; a digest or a tag in the path needs no escapes, by their grammars.
    fn url(&self, at: &Endpoint, path: &str) -> Result<Url, TransportError> {
        let text = format!("{}/v2/{}/{path}", at.origin(), self.reference.repository());
        Url::parse(&text).map_err(|_not| TransportError::Url(text))
    }

    /// Asks the endpoints in order until one answers, and that one only from then on. If none does, an error that says
    /// why nobody could be asked outranks one that says there is nothing: a mirror may lack what its source has.
    async fn anywhere<T>(
        &self,
        ask: impl AsyncFn(&Endpoint) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        if let Some(at) = self.serving() {
            return ask(&at).await;
        }
        let mut worst: Option<TransportError> = None;
        for at in self.only.as_ref().map_or(self.endpoints.as_slice(), std::slice::from_ref) {
            match ask(at).await {
                Ok(answer) => {
                    if let Ok(mut serving) = self.serving.lock() {
                        *serving = Some(at.clone());
                    }
                    return Ok(answer);
                }
                Err(error) if worst.as_ref().is_none_or(TransportError::is_not_found) => worst = Some(error),
                Err(_less_telling) => {}
            }
        }
        Err(worst.unwrap_or_else(|| TransportError::Url(self.reference.to_string())))
    }

    fn serving(&self) -> Option<Endpoint> {
        self.serving.lock().ok().and_then(|serving| serving.clone())
    }

    /// The registry itself, not a mirror of it: the last endpoint.
    fn own(&self) -> Result<&Endpoint, TransportError> {
        self.endpoints.last().ok_or_else(|| TransportError::Url(self.reference.to_string()))
    }

    fn is_own(&self, at: &Endpoint) -> bool {
        self.endpoints.last() == Some(at)
    }

    /// A mirror that has not answered yet is tried once: there is somebody else to ask.
    fn attempts(&self, at: &Endpoint) -> u32 {
        let chosen = self.serving().is_some_and(|serving| serving == *at);
        if chosen || self.is_own(at) { limits::ATTEMPTS } else { 1 }
    }
}

/// [`ACCEPTED`] as a header.
const ACCEPTED_HEADER: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// `Docker-Content-Digest`, if it is one that this crate knows.
fn announced_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// `Content-Type` without parameters.
fn media_type(response: &Response) -> Option<String> {
    let text = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_is_the_list_of_accepted_types() {
        assert_eq!(ACCEPTED_HEADER, ACCEPTED.join(", "));
    }

    #[test]
    fn a_config_survives_the_way_to_a_worker() {
        let json = serde_json::to_string(&TransportConfig::default()).unwrap();
        let config: TransportConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(config.timeouts, Timeouts::default());
    }
}
