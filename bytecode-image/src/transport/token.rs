//! Credentials and tokens: who gets them, and how long they are used.
//!
//! A token server may be anywhere on the public internet over https, but it gets the registry's credentials only if it is
//! of the registry's own origin or listed in `registries.toml` (CVE-2019-10214). Must never send them on a guess: without
//! an entry the request is refused, not made without them.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Remote, TransportError,
    error::Lacking,
    exchange::{Access, Ask, authority_of, same_origin},
};
use crate::{
    auth::{Credentials, Secret},
    limits,
    registries::{Authority, Endpoint},
};

/// Seconds a token lasts if its server does not say (distribution "Token Authentication Specification": 60).
const USUAL_LIFE: u64 = 60;

/// An `Authorization` header and until when it holds.
#[derive(Debug, Clone)]
pub(super) struct Authorization {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<Secret<String>>,
    access_token: Option<Secret<String>>,
    expires_in: Option<u64>,
}

impl Remote<'_> {
    /// The header to send, if one was got before and still holds.
    pub(super) fn authorization(&self, at: &Endpoint, access: Access) -> Option<HeaderValue> {
        let known = self.authorizations.lock().ok()?;
        let found = known.get(&(at.authority.clone(), access))?;
        (found.until > Instant::now()).then(|| found.header.clone())
    }

    /// The credentials for this repository at an endpoint.
    pub(super) fn credentials(&self, at: &Endpoint) -> Option<&Credentials> {
        let names = self.registries.auth_names(&self.reference, at);
        names.iter().find_map(|name| self.auth.lookup(name, self.reference.repository()))
    }

    /// The error if there are none, or none that the registry takes.
    pub(super) fn no_credentials(&self, at: &Endpoint) -> TransportError {
        let names = self.registries.auth_names(&self.reference, at);
        let source = match self.credentials(at) {
            Some(_) => Some(Lacking::Password),
            None => self.auth.helper(&names).map(|helper| Lacking::Helper(helper.fault())),
        };
        TransportError::NoCredentials { host: at.authority.clone(), source }
    }

    pub(super) fn use_basic(&self, at: &Endpoint, access: Access) -> Result<(), TransportError> {
        let header = self.credentials(at).and_then(basic).ok_or_else(|| self.no_credentials(at))?;
        self.keep(at, access, header, limits::DEADLINE);
        Ok(())
    }

    /// Asks a token server for a token of this repository.
    pub(super) async fn fetch_token(
        &self,
        at: &Endpoint,
        access: Access,
        realm: &str,
        service: Option<&str>,
    ) -> Result<(), TransportError> {
        let unusable = || TransportError::Realm(at.authority.clone());
        let mut url = Url::parse(realm).map_err(|_not| unusable())?;
        let server = authority_of(&url).ok_or_else(unusable)?;
        let credentials = self.credentials_for(at, &url, &server)?;
        let scope = |actions| format!("repository:{}:{actions}", self.reference.repository());
        let scope = match access {
            Access::Nothing => None,
            Access::Pull => Some(scope("pull")),
            Access::Push => Some(scope("pull,push")),
        };
        let asked = [("scope", scope.as_deref()), ("service", service)];
        let asked = asked.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let what = "a token server's answer";
        let form;
        let ask = if let Some(Credentials::IdentityToken(token)) = credentials {
            // RFC 6749 §6, as distribution's "OAuth2 Token Authentication" has it.
            let mut query = url.clone();
            query.set_query(None);
            let grant = [("grant_type", "refresh_token"), ("client_id", "bpfd"), ("refresh_token", token.reveal())];
            query.query_pairs_mut().extend_pairs(asked).extend_pairs(grant);
            form = query.query().unwrap_or_default().to_owned();
            let mut ask = Ask::new(Method::POST, url, what);
            ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            ask.body = Some(form.as_bytes());
            ask
        } else {
            url.query_pairs_mut().extend_pairs(asked);
            Ask::new(Method::GET, url, what)
        };
        let authorization = credentials.and_then(basic);
        let send = async || self.once(&at.authority, &ask, &ask.url, authorization.clone()).await;
        let response = self.patiently(at, &ask.method, send).await?;
        let status = response.status();
        if !status.is_success() {
            let body = self.in_time(&server, super::body::start(response)).await?;
            let said = super::error::Said::of(&body);
            let host = server;
            return Err(match status.as_u16() {
                401 | 403 if credentials.is_none() => self.no_credentials(at),
                401 | 403 => TransportError::Denied { host, said },
                429 | 500.. => TransportError::Unavailable { host, status, said },
                _ => TransportError::Status { host, status, said },
            });
        }
        let body = self.whole(&server, &ask.what, limits::TOKEN, response).await?;
        let no_token = || TransportError::Token(server.clone());
        let answer: Answer = serde_json::from_slice(&body).map_err(|_quotes_the_token| no_token())?;
        let Answer { token, access_token, expires_in } = answer;
        let token = token.or(access_token).filter(|token| !token.reveal().is_empty()).ok_or_else(no_token)?;
        let header = secret_header(&format!("Bearer {}", token.reveal())).ok_or_else(no_token)?;
        // Five seconds early: the clock that counts is the registry's.
        let life = expires_in.unwrap_or(USUAL_LIFE).clamp(10, 3600) - 5;
        self.keep(at, access, header, Duration::from_secs(life));
        Ok(())
    }

    /// The credentials, if the token server may have them.
    fn credentials_for(
        &self,
        at: &Endpoint,
        realm: &Url,
        server: &Authority,
    ) -> Result<Option<&Credentials>, TransportError> {
        let Some(credentials) = self.credentials(at) else { return Ok(None) };
        let listed = || self.registries.token_realms(self.reference.registry()).contains(server);
        if same_origin(at, realm) || listed() {
            return Ok(Some(credentials));
        }
        Err(TransportError::ForeignRealm { host: at.authority.clone(), realm: server.clone() })
    }

    fn keep(&self, at: &Endpoint, access: Access, header: HeaderValue, life: Duration) {
        if let Ok(mut known) = self.authorizations.lock() {
            let authorization = Authorization { header, until: Instant::now() + life };
            known.insert((at.authority.clone(), access), authorization);
        }
    }
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let Credentials::Password { user, password } = credentials else { return None };
    secret_header(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

/// A header that `Debug` does not show.
fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;
    use crate::{auth::AuthFile, registries::Registries, transport::TransportConfig};

    /// Whose credentials each endpoint of `r.example/a` gets: the users' names are the keys in the auth file.
    fn users(endpoint: &str, keys: &[&str]) -> Vec<Option<String>> {
        let text = format!("[[registry]]\nname = 'r.example'\nmirrors = [{{ {endpoint} }}]");
        let auths: serde_json::Map<_, _> = keys
            .iter()
            .map(|key| {
                (
                    (*key).to_owned(),
                    serde_json::json!({"auth": STANDARD.encode(format!("{}:x", key.replace(':', "+")))}),
                )
            })
            .collect();
        let config = TransportConfig {
            registries: Registries::parse(&text, "x").unwrap(),
            auth: AuthFile::parse(serde_json::json!({ "auths": auths }).to_string().as_bytes()).unwrap(),
            ..TransportConfig::default()
        };
        let remote = Remote::new(&config, &"r.example/a".parse().unwrap());
        let user = |at| match remote.credentials(at) {
            Some(Credentials::Password { user, .. }) => Some(user.replace('+', ":")),
            Some(Credentials::IdentityToken(_)) | None => None,
        };
        remote.endpoints.iter().map(user).collect()
    }

    #[test]
    fn credentials_without_a_port_are_for_the_port_of_the_scheme_and_no_other() {
        let https = "endpoint = 'm.example'";
        let some = |user: &str| Some(user.to_owned());
        assert_eq!(users(https, &["m.example"]), [some("m.example"), None]);
        assert_eq!(users(https, &["m.example", "m.example:443"]), [some("m.example:443"), None]);
        assert_eq!(users("endpoint = 'm.example', http = true", &["m.example"]), [some("m.example"), None]);
        assert_eq!(users("endpoint = 'm.example:80'", &["m.example"]), [None, None]);
        assert_eq!(users("endpoint = 'm.example:5000'", &["m.example"]), [None, None]);
        assert_eq!(users(https, &["r.example"]), [None, some("r.example")]);
    }
}
