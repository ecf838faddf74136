//! Whether a registry accepts a user and a password, for whoever is about to store them.
//!
//! Must never ask about a repository: a user need not have any.

use reqwest::{Method, Url};

use super::{
    Remote, TransportConfig, TransportError,
    exchange::{Access, Ask},
};
use crate::reference::{Reference, Registry};

/// What a registry says to somebody who signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It checked the credentials.
    Accepted,
    /// It did not ask for any.
    Everybody,
}

/// Asks a registry itself, never a mirror, for its API (distribution-spec 1.1, "Determining Support") with the credentials of `config`.
///
/// # Errors
/// [`TransportError`].
pub async fn sign_in(config: &TransportConfig, registry: &Registry) -> Result<Welcome, TransportError> {
    // Where a registry is does not depend on the repository, and no other name of this one is used.
    let text = format!("{registry}/sign-in");
    let reference: Reference = text.parse().map_err(|_too_long| TransportError::Url(text))?;
    let remote = Remote::new(config, &reference);
    let at = remote.own()?;
    let text = format!("{}/v2/", at.origin());
    let url = Url::parse(&text).map_err(|_not| TransportError::Url(text))?;
    remote.ask(at, Access::Nothing, &Ask::new(Method::GET, url, "API for images")).await?;
    Ok(if remote.authorization(at, Access::Nothing).is_some() { Welcome::Accepted } else { Welcome::Everybody })
}
