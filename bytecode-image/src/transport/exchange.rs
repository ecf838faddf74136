//! One request to an endpoint, with everything that may happen on the way: redirects, authentication, tries, deadline.
//!
//! Must never send `Authorization` to another origin than the endpoint's (CVE-2020-15157) nor `Referer` at all, follow a
//! redirect by itself, or connect where [`super::address`] forbids it.

use std::{error::Error, time::SystemTime};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Remote, TransportError,
    address::{NotPublic, Reach, is_public},
    body,
    challenge::{self, Challenge},
    error::Said,
    retry::{self, Trouble, Wait, may_come_back},
};
use crate::{
    limits,
    registries::{Author, Authority, Endpoint, Scheme},
};

/// What to ask for.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    /// The verb.
    pub(super) method: Method,
    /// Where.
    pub(super) url: Url,
    /// Headers beside those that every request has.
    pub(super) headers: HeaderMap,
    /// What is sent.
    pub(super) body: Option<&'a [u8]>,
    /// In the user's words, for errors.
    pub(super) what: String,
}

/// What is done in the repository: the scope of the token that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    /// Nothing: a token only says who asks.
    Nothing,
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, url: Url, what: &str) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, what: what.to_owned() }
    }
}

impl Remote<'_> {
    /// Asks until there is an answer that is worth reading: success, or a redirect or range status that the caller
    /// understands. All else is an error.
    pub(super) async fn ask(&self, at: &Endpoint, access: Access, ask: &Ask<'_>) -> Result<Response, TransportError> {
        let send = async || self.follow(at, access, ask).await;
        let mut response = self.patiently(at, &ask.method, send).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.authenticate(at, access, &response).await?;
            response = self.patiently(at, &ask.method, send).await?;
        }
        self.judge(at, ask, response).await
    }

    /// Sends a request again while what went wrong may pass: at most [`limits::ATTEMPTS`] times, and never if the deadline would pass
    /// before the next try.
    pub(super) async fn patiently(
        &self,
        at: &Endpoint,
        method: &Method,
        send: impl AsyncFn() -> Result<Response, TransportError>,
    ) -> Result<Response, TransportError> {
        let mut tried = 0;
        loop {
            let outcome = send().await;
            tried += 1;
            let Some(trouble) = Trouble::of(&outcome) else { return outcome };
            let asked = outcome.as_ref().ok().and_then(|response| retry::asked(response.headers(), SystemTime::now()));
            let pause = retry::pause(tried, asked, dice());
            let in_time = self.deadline.saturating_duration_since(Instant::now()) > pause;
            if tried >= self.attempts(at) || !trouble.may_repeat(method) || !in_time {
                return outcome;
            }
            drop(outcome);
            (self.waits.0)(&Wait { host: at.authority.clone(), trouble, pause });
            sleep(pause).await;
        }
    }

    /// An answer, or the error that its status means.
    async fn judge(&self, at: &Endpoint, ask: &Ask<'_>, response: Response) -> Result<Response, TransportError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let host = at.authority.clone();
        let said = self.in_time(&host, body::start(response)).await?;
        let said = Said::of(&said);
        Err(match status {
            StatusCode::NOT_FOUND => TransportError::NotFound { what: ask.what.clone(), host },
            StatusCode::UNAUTHORIZED if self.credentials(at).is_none() => self.no_credentials(at),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => TransportError::Denied { host, said },
            status if may_come_back(status) => TransportError::Unavailable { host, status, said },
            status => TransportError::Status { host, status, said },
        })
    }

    /// Follows redirects by hand, each target checked like the first.
    async fn follow(&self, at: &Endpoint, access: Access, ask: &Ask<'_>) -> Result<Response, TransportError> {
        let mut url = ask.url.clone();
        for _hop in 0..=limits::REDIRECTS {
            let authorization = if same_origin(at, &url) { self.authorization(at, access) } else { None };
            let response = self.once(&at.authority, ask, &url, authorization).await?;
            if !redirects(&ask.method, response.status()) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| TransportError::Location(at.authority.clone()))?;
        }
        Err(TransportError::Redirects(at.authority.clone()))
    }

    /// One HTTP request to one URL, and nothing more.
    pub(super) async fn once(
        &self,
        host: &Authority,
        ask: &Ask<'_>,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, TransportError> {
        let target = self.check(host, url)?;
        let client = self.clients.of(&target)?;
        let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(bytes) = ask.body {
            request = request.body(bytes.to_vec());
        }
        let sent = self.in_time(host, request.send()).await?;
        sent.map_err(|source| {
            let (source, to, proxy) = (source.without_url(), target.authority, target.proxy);
            if caused_by_private_address(&source) {
                return private(host, to);
            }
            match self.author {
                // Whether something listens there is nothing that a caller may find out by a registry of its own.
                Author::Other if to != *host && !self.registries.lists(&to) => {
                    TransportError::Elsewhere { host: host.clone(), to }
                }
                Author::Trusted | Author::Other => match proxy {
                    Some(proxy) => TransportError::Proxy { host: to, proxy, source },
                    None => TransportError::Unreachable { host: to, source },
                },
            }
        })
    }

    /// Decides whether a URL may be connected to, and how far the connection may reach.
    pub(super) fn check(&self, host: &Authority, url: &Url) -> Result<Target, TransportError> {
        let authority = authority_of(url).ok_or_else(|| TransportError::Location(host.clone()))?;
        let known = self.registries.endpoint_at(&authority);
        let scheme = known.map_or(Scheme::Https, |known| known.scheme);
        let wanted = match scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
        };
        // A user in a URL would become an `Authorization` header that nobody here meant to send.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TransportError::Location(host.clone()));
        }
        if url.scheme() != wanted && url.scheme() != "https" {
            let to = format!("{}://{authority}", url.scheme());
            return Err(TransportError::Insecure { host: host.clone(), to });
        }
        let reach =
            if self.registries.names(&self.reference, self.author, &authority) { Reach::Named } else { Reach::Public };
        let literal = authority.host.trim_matches(['[', ']']).parse();
        if reach == Reach::Public && literal.is_ok_and(|address| !is_public(address)) {
            return Err(private(host, authority));
        }
        let ca = known.and_then(|known| known.ca.clone());
        let tls = url.scheme() == "https";
        let scheme = if tls { Scheme::Https } else { Scheme::Http };
        let proxy = self.registries.proxies().proxy_for(scheme, &authority).cloned();
        Ok(Target { authority, reach, tls, ca, proxy })
    }

    /// Does what a 401 asks for, and keeps the outcome for the requests that follow.
    async fn authenticate(&self, at: &Endpoint, access: Access, refusal: &Response) -> Result<(), TransportError> {
        let headers = refusal.headers().get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes);
        let chosen = challenge::choose(headers)
            .map_err(|source| TransportError::Challenge { host: at.authority.clone(), source })?;
        match chosen {
            Challenge::Bearer { realm, service } => self.fetch_token(at, access, &realm, service.as_deref()).await,
            Challenge::Basic => self.use_basic(at, access),
        }
    }

    /// Runs something, but not beyond the deadline.
    pub(super) async fn in_time<T>(
        &self,
        host: &Authority,
        work: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        let limit = self.timeouts.deadline;
        timeout_at(self.deadline, work).await.map_err(|_elapsed| TransportError::Deadline { host: host.clone(), limit })
    }
}

/// The refusal of a private address: of the host that was asked for, or of one that it leads to.
fn private(host: &Authority, to: Authority) -> TransportError {
    if to == *host {
        TransportError::PrivateHost(to)
    } else {
        TransportError::PrivateAddress { host: host.clone(), to }
    }
}

/// Where a request goes, after it was checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) authority: Authority,
    pub(super) reach: Reach,
    pub(super) tls: bool,
    pub(super) ca: Option<crate::registries::Authorities>,
    pub(super) proxy: Option<Authority>,
}

/// Host and port of a URL, the scheme's port if it has none.
pub(super) fn authority_of(url: &Url) -> Option<Authority> {
    Some(Authority { host: url.host_str()?.to_owned(), port: url.port_or_known_default()? })
}

/// Scheme, host and port agree.
pub(super) fn same_origin(at: &Endpoint, url: &Url) -> bool {
    let scheme = match at.scheme {
        Scheme::Https => "https",
        Scheme::Http => "http",
    };
    url.scheme() == scheme && authority_of(url).is_some_and(|authority| authority == at.authority)
}

/// 301–303 turn other verbs into GET (RFC 9110 §15.4): only 307 and 308 are followed for them.
fn redirects(method: &Method, status: StatusCode) -> bool {
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => method.is_safe(),
        _ => false,
    }
}

/// Not a secret: it only spreads clients. Without any, they meet again.
fn dice() -> u16 {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).map_or(0, |()| u16::from_ne_bytes(bytes))
}

fn caused_by_private_address(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<NotPublic>() {
            return true;
        }
        cause = error.source();
    }
    false
}
