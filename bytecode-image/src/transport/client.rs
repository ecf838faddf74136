//! HTTP clients: one for each way of connecting, made when first needed.
//!
//! Must never follow redirects, send `Referer`, obey proxy variables (a proxy, not we, resolves names, and the address check
//! is the proxy's: that is for `registries.toml` to say), or trust a certificate beyond the system's and the endpoint's own.

use std::{collections::BTreeMap, sync::Mutex};

use reqwest::{Certificate, Client, Proxy, redirect::Policy};

use super::{
    Timeouts, TransportError,
    address::{PublicOnly, Reach},
    exchange::Target,
};
use crate::registries::{Authorities, Authority};

/// What makes two clients different.
type Key = (Reach, bool, Option<Authorities>, Option<Authority>);

#[derive(Debug)]
pub(super) struct Clients {
    timeouts: Timeouts,
    made: Mutex<BTreeMap<Key, Client>>,
}

impl Clients {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        Self { timeouts: timeouts.clone(), made: Mutex::default() }
    }

    /// The client for a target.
    pub(super) fn of(&self, target: &Target) -> Result<Client, TransportError> {
        let Target { authority, reach, tls, ca, proxy } = target;
        let key = (*reach, *tls, ca.clone(), proxy.clone());
        let known = self.made.lock().ok().and_then(|made| made.get(&key).cloned());
        if let Some(client) = known {
            return Ok(client);
        }
        let client = self
            .build(*reach, *tls, ca.as_ref(), proxy.as_ref())
            .map_err(|source| TransportError::Client { host: authority.clone(), source })?;
        if let Ok(mut made) = self.made.lock() {
            made.insert(key, client.clone());
        }
        Ok(client)
    }

    fn build(
        &self,
        reach: Reach,
        tls: bool,
        ca: Option<&Authorities>,
        proxy: Option<&Authority>,
    ) -> Result<Client, reqwest::Error> {
        let Timeouts { connect, idle, deadline: _ } = self.timeouts;
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .retry(reqwest::retry::never())
            .connect_timeout(connect)
            .read_timeout(idle)
            .user_agent(concat!("bpfd/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = ca.and_then(|ca| ca.pem.as_deref()) {
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        // Without TLS the system's certificates need not be read: 3 ms of each pull from a loopback registry.
        builder = if tls { builder.https_only(true) } else { builder.tls_certs_only([]) };
        builder = match (proxy, reach) {
            // It resolves the host's name; ours is the proxy's own, which registries.toml names.
            (Some(proxy), _) => builder.proxy(Proxy::all(format!("http://{proxy}"))?),
            (None, Reach::Named) => builder,
            (None, Reach::Public) => builder.dns_resolver(PublicOnly),
        };
        builder.build()
    }
}
