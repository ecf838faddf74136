//! What the kernel has: pins, generations, links, and what the interfaces of the chains in the scope run, and those that run a
//! generation of ours under another name. It changes nothing, and says so when something could not be seen, because nothing may be removed on the
//! strength of that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use bpfd_core::hook::{ChainKey, Point};
use bpfd_core::ident::{AppUid, KernelId, LinkUid, TopUid};
use bpfd_core::kernel::{
    ChainMode, ForeignProgram, InterfaceId, Live, LiveDispatcher, LiveTop, Member, ObserveError, Observed,
    ObservedChain, PinnedApp, PinnedExt, PinnedTop, Scope, Step,
};
use bpfd_core::names::{Netns, NetnsName};
use bpfd_sys::bpf::{ProgId, prog_info};
use bpfd_sys::netlink::XdpAttachment;

use super::ext::{self, SeenExt};
use super::object::error_chain;
use super::pins::Pins;
use super::record::Records;
use super::top::{self, SeenTop};
use super::xdp::{self, Interface, Runs};
use super::{app, dispatcher, hook, record};
use crate::worker::idlookup::IdLookup;
use crate::worker::netns::{Lookup, Namespace, Namespaces};

/// What is pinned, as far as this process knows: read once, and then kept up to date step by step, since nobody else may change the
/// tree while its lock is held. What somebody removes by hand is noticed by the next whole observation.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) apps: BTreeMap<AppUid, PinnedApp>,
    half_made: BTreeSet<AppUid>,
    pub(crate) tops: BTreeMap<TopUid, SeenTop>,
    /// Whether the interface that a generation was made for runs it; `None` if that could not be seen.
    lives: BTreeMap<TopUid, Option<bool>>,
    /// The interface that each chain had when it was last looked at.
    interfaces: BTreeMap<ChainKey, InterfaceId>,
    pub(crate) links: BTreeSet<LinkUid>,
    half_links: BTreeSet<LinkUid>,
    pub(crate) exts: BTreeMap<LinkUid, SeenExt>,
    records: Records,
}

impl Known {
    fn read(pins: &Pins) -> Result<Self, ObserveError> {
        let (apps, half_made) = app::observe(pins).map_err(unseen("the pinned apps"))?;
        let tops = top::observe(pins).map_err(unseen("the pinned generations"))?;
        let (links, half_links) = hook::observe(pins).map_err(unseen("the pinned links"))?;
        let exts = ext::observe(pins).map_err(unseen("the pinned programs of slots"))?;
        let records = record::observe(pins).map_err(unseen("the records of apps and links"))?;
        let (lives, interfaces) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { apps, half_made, tops, lives, interfaces, links, half_links, exts, records })
    }

    /// Follows a step that was taken. `Err` if what it pinned cannot be read: then everything must be read anew.
    pub(crate) fn follow(&mut self, pins: &Pins, step: &Step) -> io::Result<()> {
        match step {
            Step::PinApp(uid) => {
                self.half_made.remove(uid);
                self.apps.insert(*uid, app::read(pins, *uid)?);
            }
            Step::UnpinApp(uid) => {
                self.half_made.remove(uid);
                self.apps.remove(uid);
                self.records.rows.apps.remove(uid);
            }
            Step::LoadExt { member, recipe: _ } => {
                let seen = ext::read(pins, member.link)?.ok_or(io::ErrorKind::NotFound)?;
                self.exts.insert(member.link, seen);
            }
            Step::UnpinExt(link) => {
                self.exts.remove(link);
            }
            Step::PinTop(uid) | Step::Adopt { live: LiveTop { top: uid, .. }, .. } => {
                let seen = top::read(pins, *uid)?.ok_or(io::ErrorKind::NotFound)?;
                self.tops.insert(*uid, seen);
            }
            Step::UnpinTop(uid) => {
                self.tops.remove(uid);
                self.lives.remove(uid);
            }
            Step::AttachLink { link, .. } => {
                self.half_links.remove(link);
                self.links.insert(*link);
            }
            Step::DetachLink(link) => {
                self.half_links.remove(link);
                self.links.remove(link);
            }
            Step::Record(row) => self.records.write(row),
            Step::Unrecord(link) => self.records.remove(link),
            Step::BuildTop { .. } | Step::DropTop(_) | Step::Swap { .. } => {}
        }
        Ok(())
    }
}

/// What is pinned, and the chains of the scope.
pub(crate) fn observe(
    pins: &Pins,
    known: &mut Option<Known>,
    namespaces: &mut Namespaces,
    ids: &mut IdLookup,
    mode: &ChainMode,
    scope: &Scope,
) -> Result<Observed, ObserveError> {
    let whole = match scope {
        Scope::Everything(_) => true,
        Scope::Chains(_) => known.is_none(),
    };
    if whole {
        *known = None;
    }
    let known = match known {
        Some(known) => known,
        None => known.insert(Known::read(pins)?),
    };
    let mut observer = Observer { namespaces, seen: BTreeMap::new(), all: None };
    let mut look = |observer: &mut Observer<'_>, key: &ChainKey| {
        observe_chain(observer, ids, mode, key, (pins, &known.tops, &known.exts)).map_err(unseen(key))
    };
    let mut chains = scope
        .chains()
        .iter()
        .map(|key| Ok((key.clone(), look(&mut observer, key)?)))
        .collect::<Result<BTreeMap<_, _>, ObserveError>>()?;
    let before = scope.chains().iter().filter_map(|key| known.interfaces.get(key).copied());
    let before: BTreeSet<InterfaceId> = before.collect();
    for (uid, top) in &known.tops {
        let Some(record) = &top.record else { continue };
        let looked_at = chains.values().any(|chain| chain.interface == Some(record.interface));
        // Elsewhere nothing changed that this process did not do, or hear of.
        if !whole && !looked_at && !before.contains(&record.interface) && known.lives.contains_key(uid) {
            continue;
        }
        let unseen = || unseen(format!("generation {uid}"));
        let live = observer.runs(record.interface, top.id).map_err(unseen())?;
        known.lives.insert(*uid, live);
        if live == Some(true) && !looked_at {
            // An interface keeps what it runs when it gets another name: it is the chain of that name now, asked for or not.
            if let Some(key) = observer.name(record.interface).map_err(unseen())? {
                let chain = look(&mut observer, &key)?;
                chains.insert(key, chain);
            }
        }
    }
    for (key, seen) in &chains {
        match seen.interface {
            Some(interface) => known.interfaces.insert(key.clone(), interface),
            None => known.interfaces.remove(key),
        };
    }
    let pinned = |(uid, top): (&TopUid, &SeenTop)| {
        let members = top.record.as_ref().map(|record| record.members.clone());
        (*uid, PinnedTop { program: top.id, members, live: known.lives.get(uid).copied().flatten() })
    };
    Ok(Observed {
        apps: known.apps.clone(),
        half_made: known.half_made.clone(),
        tops: known.tops.iter().map(pinned).collect(),
        links: known.links.clone(),
        half_links: known.half_links.clone(),
        exts: known.exts.iter().map(|(link, ext)| (*link, ext.pinned)).collect(),
        recorded: known.records.rows.clone(),
        unread_records: known.records.unread.clone(),
        chains,
        absent_netns: observer.absent(),
        barred: BTreeMap::new(),
    })
}

/// One chain, with the pins that tell what it runs.
pub(crate) struct Alone {
    pub(crate) seen: ObservedChain,
    pub(crate) tops: BTreeMap<TopUid, (KernelId, Option<Vec<Member>>)>,
    pub(crate) exts: BTreeMap<LinkUid, PinnedExt>,
    /// The namespace that it was asked for in, if none has that name.
    pub(crate) absent: BTreeSet<NetnsName>,
}

/// One chain, and nothing of the others.
pub(crate) fn alone(
    pins: &Pins,
    namespaces: &mut Namespaces,
    ids: &mut IdLookup,
    mode: &ChainMode,
    key: &ChainKey,
) -> Result<Alone, ObserveError> {
    let tops = top::observe(pins).map_err(unseen("the pinned generations"))?;
    let exts = ext::observe(pins).map_err(unseen("the pinned programs of slots"))?;
    let mut observer = Observer { namespaces, seen: BTreeMap::new(), all: None };
    let seen = observe_chain(&mut observer, ids, mode, key, (pins, &tops, &exts)).map_err(unseen(key))?;
    let members = |(uid, top): (TopUid, SeenTop)| (uid, (top.id, top.record.map(|record| record.members)));
    Ok(Alone {
        seen,
        tops: tops.into_iter().map(members).collect(),
        exts: exts.into_iter().map(|(link, ext)| (link, ext.pinned)).collect(),
        absent: observer.absent(),
    })
}

fn unseen(what: impl ToString) -> impl FnOnce(io::Error) -> ObserveError {
    move |error| ObserveError { what: what.to_string(), errno: error_chain(&error) }
}

fn observe_chain(
    observer: &mut Observer<'_>,
    ids: &mut IdLookup,
    mode: &ChainMode,
    key: &ChainKey,
    (pins, tops, exts): (&Pins, &BTreeMap<TopUid, SeenTop>, &BTreeMap<LinkUid, SeenExt>),
) -> io::Result<ObservedChain> {
    let absent = ObservedChain { interface: None, live: Live::Empty, driven: None, mode: mode.clone() };
    let Some(namespace) = observer.namespace(&key.netns)? else { return Ok(absent) };
    let Some(interface) = xdp::interface(namespace, key)? else { return Ok(absent) };
    let id = interface.id;
    let live = match xdp::runs(&interface, tops) {
        Runs::Nothing => Live::Empty,
        Runs::Ours(live) => match tops.get(&live.top).filter(|top| top.is_dispatcher) {
            None => Live::Ours(live),
            Some(top) => {
                let names = top.record.as_ref().map_or(&[][..], |record| &record.names);
                let seen = dispatcher::live(live, names, (pins, id.index), exts, ids)?;
                seen.map_or_else(|| foreign(ids, ProgId(live.program.0)), Live::Dispatcher)
            }
        },
        Runs::Other(program) => match theirs(&interface, program, (pins, exts), ids)? {
            Some(seen) => Live::Dispatcher(seen),
            None => foreign(ids, program),
        },
    };
    let Interface { id: _, row } = interface;
    Ok(ObservedChain { interface: Some(id), live, driven: xdp::driven(&row.xdp), ..absent })
}

/// A peer's dispatcher that bpfd can keep and rebuild; one that a bpf_link holds cannot be replaced.
fn theirs(
    interface: &Interface,
    program: ProgId,
    (pins, exts): (&Pins, &BTreeMap<LinkUid, SeenExt>),
    ids: &mut IdLookup,
) -> io::Result<Option<LiveDispatcher>> {
    if xdp::driven(&interface.row.xdp).is_none() || !matches!(interface.row.xdp, XdpAttachment::One { .. }) {
        return Ok(None);
    }
    let id = KernelId(program.0);
    let top = LiveTop { program: id, top: TopUid::of_peer(id) };
    let seen = dispatcher::live(top, &[], (pins, interface.id.index), exts, ids)?;
    match seen {
        Some(seen) if ids.xdp_link(program)?.is_none() => Ok(Some(seen)),
        Some(_) | None => Ok(None),
    }
}

/// What can be told of a program that is not ours. That it is there is certain; its name is for people, and empty if it cannot be found
/// out. Its holders are looked up for those who are told of them.
fn foreign(ids: &mut IdLookup, program: ProgId) -> Live {
    let name = ids.program(program).and_then(|fd| fd.map(|fd| Ok(prog_info(fd.as_fd())?.name)).transpose());
    let name = told(program, name).unwrap_or_default();
    let link = told(program, ids.xdp_link(program));
    let (program, link) = (KernelId(program.0), link.map(|link| link.0));
    Live::Foreign(ForeignProgram { program, name, link, holders: Vec::new() })
}

fn told<T>(program: ProgId, found: io::Result<Option<T>>) -> Option<T> {
    found.unwrap_or_else(|error| {
        tracing::warn!(program = program.0, error = error_chain(&error), "cannot look up a program that is not bpfd's");
        None
    })
}

/// The namespaces looked at in one observation. They are let go of at its end: an open socket keeps a namespace alive.
struct Observer<'a> {
    namespaces: &'a mut Namespaces,
    seen: BTreeMap<Netns, Option<Namespace>>,
    /// Whether every named namespace is in `seen`; `None` before anybody asked.
    all: Option<Whole>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Whole {
    Yes,
    /// Some name was there and could not be looked at.
    No,
}

impl Observer<'_> {
    fn namespace(&mut self, netns: &Netns) -> io::Result<Option<&Namespace>> {
        if !self.seen.contains_key(netns) {
            let found = match self.namespaces.look_up(netns)? {
                Lookup::Found(namespace) => Some(namespace),
                Lookup::Absent | Lookup::NotANamespace => None,
            };
            self.seen.insert(netns.clone(), found);
        }
        Ok(self.seen.get(netns).and_then(Option::as_ref))
    }

    /// Names that were asked for, and that no namespace has.
    fn absent(&self) -> BTreeSet<NetnsName> {
        let absent = |(netns, namespace): (&Netns, &Option<Namespace>)| match (netns, namespace) {
            (Netns::Named(name), None) => Some(name.clone()),
            (Netns::Named(_) | Netns::Host, _) => None,
        };
        self.seen.iter().filter_map(absent).collect()
    }

    /// Whether an interface runs a program; `None` if its namespace could not be looked at. A namespace that has no name any more
    /// cannot be looked at either, but bpfd was asked for chains by name only: once every name was tried, what was made for it
    /// serves nobody that bpfd knows.
    fn runs(&mut self, interface: InterfaceId, program: KernelId) -> io::Result<Option<bool>> {
        let InterfaceId { netns_cookie, index } = interface;
        self.namespace(&Netns::Host)?;
        if self.by_cookie(netns_cookie).is_none() && self.all.is_none() {
            self.all = Some(self.look_at_all()?);
        }
        match (self.by_cookie(netns_cookie), self.all) {
            (Some(namespace), _) => {
                let row = namespace.route.link(index)?;
                Ok(Some(row.and_then(|row| row.xdp.program()).is_some_and(|(_, id)| KernelId(id.0) == program)))
            }
            (None, Some(Whole::Yes)) => Ok(Some(false)),
            (None, Some(Whole::No) | None) => Ok(None),
        }
    }

    /// The chain of an interface by the name that it has now, in a namespace that was looked at.
    fn name(&self, interface: InterfaceId) -> io::Result<Option<ChainKey>> {
        let of = |(netns, namespace): (&Netns, &Option<Namespace>)| {
            let namespace = namespace.as_ref().filter(|namespace| namespace.cookie == interface.netns_cookie)?;
            Some((netns.clone(), namespace.route.link(interface.index)))
        };
        let Some((netns, row)) = self.seen.iter().find_map(of) else { return Ok(None) };
        let interface = row?.and_then(|row| row.name.parse().ok());
        Ok(interface.map(|interface| ChainKey { netns, interface, point: Point::Xdp }))
    }

    fn by_cookie(&self, cookie: u64) -> Option<&Namespace> {
        self.seen.values().flatten().find(|namespace| namespace.cookie == cookie)
    }

    fn look_at_all(&mut self) -> io::Result<Whole> {
        let mut whole = Whole::Yes;
        for name in self.namespaces.names()? {
            let netns = Netns::Named(name);
            match self.namespaces.look_up(&netns) {
                Ok(Lookup::Found(namespace)) => {
                    self.seen.insert(netns, Some(namespace));
                }
                Ok(Lookup::Absent) => {}
                Ok(Lookup::NotANamespace) | Err(_) => whole = Whole::No,
            }
        }
        Ok(whole)
    }
}
