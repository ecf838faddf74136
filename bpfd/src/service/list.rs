//! Get and list: apps, links, chains, and logs of refused loads. Only a chain that is asked for by name is looked at now; everything
//! else comes from the last snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use bpfd_core::ask::Look;
use bpfd_core::hook::{ChainId, ChainName, InterfaceName, Point};
use bpfd_core::labels::LabelSelector;
use bpfd_core::names::{AppName, Netns, NetnsName, printable};
use bpfd_core::policy::{Denied, Principal};
use bpfd_core::request::{AppRef, LinkRef, NoOneLink};
use bpfd_core::snapshot::Snapshot;
use bpfd_core::state::{App, ChangeError, Link, State};
use ebpf::names::nearest;

use super::Service;
use super::near::Misspelt;
use crate::reads::ReadError;
use crate::turns::Line;

/// Which part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// How many items at most.
    pub size: usize,
    /// The place of the last item of the page before; empty for the first page.
    pub after: String,
}

impl Page {
    /// The page of a list whose items come with their places, in ascending order of these.
    pub(super) fn of<T>(&self, snapshot: Arc<Snapshot>, sorted: impl IntoIterator<Item = (String, T)>) -> Listed<T> {
        let mut rest = sorted.into_iter().filter(|(place, _)| *place > self.after);
        let items: Vec<(String, T)> = rest.by_ref().take(self.size).collect();
        let last = items.last().map(|(place, _)| place.clone()).unwrap_or_default();
        let next = if rest.next().is_some() { last } else { String::new() };
        Listed { snapshot, items, next }
    }
}

/// One page. If not all of it can be sent, the next page begins after the place of the last item that was.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// What it was read from.
    pub snapshot: Arc<Snapshot>,
    /// What is on it, each item with its place in the list.
    pub items: Vec<(String, T)>,
    /// What the next page begins after; empty on the last.
    pub next: String,
}

/// Which links.
#[derive(Clone, Debug, Default)]
pub struct LinkFilter {
    /// On this interface.
    pub interface: Option<InterfaceName>,
    /// Of this app.
    pub app: Option<AppRef>,
    /// Of apps with these labels.
    pub labels: Vec<LabelSelector>,
}

/// Which apps.
#[derive(Clone, Debug, Default)]
pub struct AppFilter {
    /// With a link on this interface.
    pub interface: Option<InterfaceName>,
    /// With these labels.
    pub labels: Vec<LabelSelector>,
}

/// Why an app is not shown.
#[derive(Debug, thiserror::Error)]
pub enum GetAppError {
    /// The policy.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is none.
    #[error("{error}")]
    None {
        /// Says so.
        error: ChangeError,
        /// The name that was probably meant. Who is told may list all of them.
        near: Option<AppName>,
    },
}

impl GetAppError {
    pub(super) fn none(asked: &str, state: &State) -> Self {
        let near = nearest(asked, state.apps.values().map(|app| app.name.as_str()));
        let near = near.and_then(|near| near.parse().ok());
        Self::None { error: ChangeError::NoApp(printable(asked)), near }
    }
}

/// Why a link is not shown.
#[derive(Debug, thiserror::Error)]
pub enum GetLinkError {
    /// The policy.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// None fits, or several.
    #[error(transparent)]
    NoOne(#[from] NoOneLink),
}

/// Why a chain is not shown.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The policy.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The look.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No such network namespace.
    #[error("no network namespace `{netns}`")]
    NoNetns {
        /// The name that was asked for.
        netns: NetnsName,
        /// The one that was probably meant.
        near: Option<String>,
    },
    /// No such interface.
    #[error("no interface `{}` in network namespace `{}`", .chain.interface, .chain.netns)]
    NoInterface {
        /// The name that was asked for.
        chain: ChainName,
        /// The one of its interface that was probably meant.
        near: Option<String>,
    },
}

impl Service {
    /// One app.
    pub async fn app(&self, principal: Principal, app: AppRef) -> Result<(Arc<Snapshot>, App), GetAppError> {
        let (Look(app), _) = self.permit(principal, Look(app)).await?.into_parts();
        let snapshot = self.snapshot();
        let Ok(found) = app.resolve(&snapshot.state) else {
            return Err(GetAppError::none(&app.to_string(), &snapshot.state));
        };
        let found = found.clone();
        Ok((snapshot, found))
    }

    /// Apps by name.
    pub async fn apps(&self, principal: Principal, filter: AppFilter, page: &Page) -> Result<Listed<App>, Denied> {
        let (Look(AppFilter { interface, labels }), _) = self.permit(principal, Look(filter)).await?.into_parts();
        let snapshot = self.snapshot();
        let state = &snapshot.state;
        let apps_on = |name| state.links_on(&name).iter().map(|link| link.app).collect::<BTreeSet<_>>();
        let on_it = interface.map(apps_on);
        let wanted =
            |app: &&App| on_it.as_ref().is_none_or(|apps| apps.contains(&app.uid)) && app.user_labels.fit(&labels);
        let mut apps: Vec<&App> = state.apps.values().filter(wanted).collect();
        apps.sort_by(|one, other| one.name.cmp(&other.name));
        let Listed { items, next, .. } =
            page.of(snapshot.clone(), apps.into_iter().map(|app| (app.name.to_string(), app)));
        let items = items.into_iter().map(|(place, app)| (place, app.clone())).collect();
        Ok(Listed { items, next, snapshot })
    }

    /// One link.
    pub async fn link(&self, principal: Principal, link: LinkRef) -> Result<(Arc<Snapshot>, Link), GetLinkError> {
        let (Look(link), _) = self.permit(principal, Look(link)).await?.into_parts();
        let snapshot = self.snapshot();
        let found = link.resolve(&snapshot.state)?.clone();
        Ok((snapshot, found))
    }

    /// Links in the order of their hooks, then as they run.
    pub async fn links(
        &self,
        principal: Principal,
        filter: LinkFilter,
        page: &Page,
    ) -> Result<Listed<Link>, LookError> {
        let (Look(LinkFilter { interface, app, labels }), principal) =
            self.permit(principal, Look(filter)).await?.into_parts();
        let snapshot = self.snapshot();
        // A link may wait for its interface; a name that no link has either is a slip.
        let on_it = interface.as_ref().map(|name| snapshot.state.links_on(name));
        if let (Some(name), Some([])) = (&interface, on_it.as_deref()) {
            self.look(&principal, &name.chain(Point::Xdp)).await?;
        }
        let on_it = on_it.map(|links| links.iter().map(|link| link.uid).collect::<BTreeSet<_>>());
        let app = app.map(|app| app.resolve(&snapshot.state).ok().map(|app| app.uid));
        let labelled = |link: &Link| snapshot.state.apps.get(&link.app).is_some_and(|app| app.user_labels.fit(&labels));
        let wanted = |link: &&Link| {
            let of_app = app.is_none_or(|app| app == Some(link.app)) && labelled(link);
            of_app && on_it.as_ref().is_none_or(|links| links.contains(&link.uid))
        };
        let key = |link: &&Link| {
            let place = link
                .chain()
                .and_then(|chain| snapshot.observed.members(&chain).iter().position(|member| member.link == link.uid));
            format!("{} {:05} {}", link.placement, place.unwrap_or(99_999), link.uid)
        };
        let links = snapshot.state.links.values().filter(wanted);
        let mut links: Vec<(String, &Link)> = links.map(|link| (key(&link), link)).collect();
        links.sort_by(|(one, _), (other, _)| one.cmp(other));
        let Listed { items, next, .. } = page.of(snapshot.clone(), links);
        let items = items.into_iter().map(|(place, link)| (place, link.clone())).collect();
        Ok(Listed { items, next, snapshot })
    }

    /// A snapshot of now, with the chain of that name.
    pub async fn chain(&self, principal: Principal, name: ChainName) -> Result<(Snapshot, ChainId), LookError> {
        let (Look(name), principal) = self.permit(principal, Look(name)).await?.into_parts();
        self.look(&principal, &name).await
    }

    /// Chains that have links, of interfaces that are there; the daemon's own network namespace first.
    pub async fn chains(&self, principal: Principal, page: &Page) -> Result<Listed<ChainId>, Denied> {
        self.permit(principal, Look(())).await?;
        let snapshot = self.snapshot();
        // The name of a network namespace never begins with a space.
        let place = |name: &ChainName| match &name.netns {
            Netns::Host => format!(" {name}"),
            Netns::Named(_) | Netns::Nameless(_) => name.to_string(),
        };
        let there = snapshot.observed.chains.iter().map(|(chain, seen)| (place(&seen.name), *chain));
        let mut chains: Vec<(String, ChainId)> = there.collect();
        chains.sort();
        Ok(page.of(snapshot, chains))
    }

    /// The verifier's log of a load that this caller was refused, or root.
    pub async fn load_log(&self, principal: Principal, id: String) -> Result<Option<String>, Denied> {
        let (Look(id), principal) = self.permit(principal, Look(id)).await?.into_parts();
        Ok(self.logs.read(principal.uid, &id))
    }

    /// The chain of an interface that is there: the one of this name, else one that a link was attached to by this name.
    pub(super) async fn look(&self, principal: &Principal, name: &ChainName) -> Result<(Snapshot, ChainId), LookError> {
        let snapshot = self.reads.chain(Line::User(principal.uid), name).await?;
        let Snapshot { state, observed, .. } = &snapshot;
        let chain = observed.chain_of(name).or_else(|| state.chain_called(name));
        match (chain.filter(|chain| observed.chains.contains_key(chain)), observed.absent_netns(name)) {
            (Some(chain), _) => Ok((snapshot, chain)),
            (None, Some(netns)) => {
                let near = self.near(principal, Misspelt::Netns(netns)).await;
                Err(LookError::NoNetns { netns: netns.clone(), near })
            }
            (None, None) => {
                let near = self.near(principal, Misspelt::Interface(name)).await;
                Err(LookError::NoInterface { chain: name.clone(), near })
            }
        }
    }
}
