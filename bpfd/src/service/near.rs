//! The name of an interface or a network namespace that was probably meant. Root is told of any that is there; others of those that lists
//! show them anyway. It must never tell anybody more.

use bpfd_core::ask::Look;
use bpfd_core::hook::ChainName;
use bpfd_core::names::{Netns, NetnsName};
use bpfd_core::plan::PlanError;
use bpfd_core::policy::{Principal, authorize};
use ebpf::names::nearest;

use super::Service;
use crate::turns::Line;

/// A name that leads nowhere.
#[derive(Clone, Copy, Debug)]
pub(super) enum Misspelt<'a> {
    /// A network namespace.
    Netns(&'a NetnsName),
    /// An interface, in a network namespace that is there.
    Interface(&'a ChainName),
}

impl<'a> Misspelt<'a> {
    /// The name that a plan failed for.
    pub(super) fn of(error: &'a PlanError) -> Option<Self> {
        if let PlanError::NoNetns(name) = error {
            return Some(Self::Netns(name));
        }
        if let PlanError::NoInterface(chain) = error { Some(Self::Interface(chain)) } else { None }
    }

    fn text(self) -> &'a str {
        match self {
            Self::Netns(name) => name.as_str(),
            Self::Interface(chain) => chain.interface.as_str(),
        }
    }

    /// What a chain says of it.
    fn in_name(self, name: &ChainName) -> Option<String> {
        match (self, &name.netns) {
            (Self::Netns(_), Netns::Named(netns)) => Some(netns.to_string()),
            (Self::Interface(chain), netns) if *netns == chain.netns => Some(name.interface.to_string()),
            (Self::Netns(_) | Self::Interface(_), _) => None,
        }
    }
}

impl Service {
    /// The name that was probably meant.
    pub(super) async fn near(&self, principal: &Principal, misspelt: Misspelt<'_>) -> Option<String> {
        let names =
            if principal.uid == 0 { self.that_are_there(misspelt).await } else { self.listed(principal, misspelt) };
        nearest(misspelt.text(), names.iter().map(String::as_str)).map(str::to_owned)
    }

    /// A name is a courtesy: what cannot be looked at has none.
    async fn that_are_there(&self, misspelt: Misspelt<'_>) -> Vec<String> {
        let netns = match misspelt {
            Misspelt::Netns(_) => None,
            Misspelt::Interface(chain) => Some(chain.netns.clone()),
        };
        self.reads.names(Line::User(0), netns).await.unwrap_or_default()
    }

    /// Those of links and chains, if the caller may list them.
    fn listed(&self, principal: &Principal, misspelt: Misspelt<'_>) -> Vec<String> {
        let snapshot = self.snapshot();
        if authorize(&self.trust.policy(), principal.clone(), &snapshot.state, Look(())).is_err() {
            return vec![];
        }
        let links = snapshot.state.links.values();
        let links =
            links.flat_map(|link| link.placement.asked().into_iter().chain(link.on.as_ref().map(|on| &on.called)));
        let chains = snapshot.observed.chains.values().map(|chain| &chain.name);
        links.chain(chains).filter_map(|name| misspelt.in_name(name)).collect()
    }
}
