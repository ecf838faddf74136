//! Interfaces by name and by what they are, in every namespace that a name leads to; and those that are not where they were, by the
//! programs of ours that run on them, in namespaces without a name too. It must never change what they run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::Runs;
use bpfd_core::names::{Nameless, Netns};
use bpfd_sys::bpf::{ProgId, TcxEntry};
use bpfd_sys::netlink::{LinkRow, XdpAttachment};

use super::chain::clsact;
use super::chain::generation::SeenGeneration;
use super::chain::sequence::{self, Entry};
use super::chain::xdp::{self, Interface};
use crate::worker::netns::{Lookup, Namespace, Namespaces};

/// What became of an interface that was looked for.
#[derive(Debug)]
pub(super) enum Sought {
    Here(Interface),
    /// It runs programs of ours in a namespace that no name leads to. It has the identity that it had before.
    Nameless(Interface, Nameless),
    /// It is not where it was, and runs nothing of ours anywhere.
    Gone,
    /// Some name could not be looked at that may lead to its namespace.
    Unseen,
}

/// What tells an interface that is not where it was: the programs that it ran.
#[derive(Debug, Default)]
pub(super) struct Trail {
    xdp: BTreeSet<ProgId>,
    /// Of tcx chains, with the index of the interface that each is held on.
    tcx: Vec<(Point, ProgId, u32)>,
    /// Filters of a clsact qdisc go with a move, and cannot be looked at where there is no name.
    has_filters: bool,
}

impl Trail {
    /// What these generations of an interface leave.
    pub(super) fn of<'a>(generations: impl Iterator<Item = &'a SeenGeneration>) -> Self {
        let mut trail = Self::default();
        for generation in generations {
            let program = ProgId(generation.id.0);
            match (generation.record.as_ref().map(|record| record.chain.point), generation.linked) {
                (Some(Point::Xdp), _) => drop(trail.xdp.insert(program)),
                (Some(point), Some(index)) => trail.tcx.push((point, program, index)),
                (Some(_), None) => trail.has_filters = true,
                (None, _) => {}
            }
        }
        trail
    }

    /// Whether it had filters, which it has no longer.
    pub(super) fn has_filters(&self) -> bool {
        self.has_filters
    }

    fn leads_to(&self, row: &LinkRow) -> bool {
        row.xdp.program().is_some_and(|(_, program)| self.xdp.contains(&program))
    }
}

/// Where an interface is by now.
pub(super) enum Found {
    /// In a namespace with a name: what it is there.
    Moved(Interface),
    /// As [`Sought`] says.
    Sought(Sought),
}

impl Sought {
    /// Whether a generation of this interface runs. `sequence` is what its hook runs, if that runs several programs.
    pub(super) fn runs(&self, generation: &SeenGeneration, sequence: Option<&[Entry]>) -> Runs {
        let is_it = |program: ProgId| KernelId(program.0) == generation.id;
        match self {
            Self::Here(Interface { id: _, row: link }) | Self::Nameless(Interface { id: _, row: link }, _) => {
                let runs = match sequence {
                    Some(sequence) => sequence.iter().filter_map(|entry| entry.program).any(is_it),
                    None => link.xdp.program().is_some_and(|(_, program)| is_it(program)),
                };
                if runs { Runs::Yes } else { Runs::No }
            }
            Self::Gone => Runs::No,
            Self::Unseen => Runs::Unseen,
        }
    }
}

/// The namespaces looked at in one observation. They are let go of at its end: an open socket keeps a namespace alive.
pub(super) struct Observer<'a> {
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

impl<'a> Observer<'a> {
    pub(super) fn new(namespaces: &'a mut Namespaces) -> Self {
        Self { namespaces, seen: BTreeMap::new(), all: None }
    }

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

    /// What the names lead to.
    pub(super) fn cookies(&self) -> BTreeMap<Netns, Option<u64>> {
        let cookie = |namespace: &Option<Namespace>| namespace.as_ref().map(|namespace| namespace.cookie);
        self.seen.iter().map(|(netns, namespace)| (netns.clone(), cookie(namespace))).collect()
    }

    /// The interface of a name. The daemon's own namespace is looked at too: another name of it must not hide that the interface is there.
    pub(super) fn named(&mut self, name: &ChainName) -> io::Result<Option<Interface>> {
        self.namespace(&Netns::Host)?;
        match self.namespace(&name.netns)? {
            Some(namespace) => xdp::named(namespace, name),
            None => Ok(None),
        }
    }

    /// An interface where it was, if it is there.
    pub(super) fn here(&mut self, interface: InterfaceId) -> io::Result<Option<Interface>> {
        let InterfaceId { netns_cookie, index } = interface;
        self.namespace(&Netns::Host)?;
        if self.by_cookie(netns_cookie).is_none() {
            self.look_at_all()?;
        }
        match self.by_cookie(netns_cookie) {
            Some((_, namespace)) => xdp::indexed(namespace, index),
            None => Ok(None),
        }
    }

    /// Looks for an interface that is not where it was.
    pub(super) fn follow(&mut self, interface: InterfaceId, trail: &Trail) -> io::Result<Found> {
        let whole = self.look_at_all()?;
        // Moved while it is looked for, it may be missed once.
        for _ in 0..if trail.xdp.is_empty() && trail.tcx.is_empty() { 0 } else { 2 } {
            if let Some(moved) = self.moved(trail)? {
                return Ok(Found::Moved(moved));
            }
            if let Some((row, number)) = self.nameless(interface, trail)? {
                // It may have come to a namespace with a name meanwhile.
                if let Some(moved) = self.moved(trail)? {
                    return Ok(Found::Moved(moved));
                }
                let interface = Interface { id: interface, row };
                return Ok(Found::Sought(Sought::Nameless(interface, number)));
            }
        }
        let is_unreachable = self.by_cookie(interface.netns_cookie).is_none();
        let unseen = is_unreachable && (whole == Whole::No || trail.has_filters && self.may_be_at(interface.index)?);
        Ok(Found::Sought(if unseen { Sought::Unseen } else { Sought::Gone }))
    }

    /// Where an interface is of which it was heard that it was moved, if that is a namespace with a name: `to` is the number of that
    /// namespace in the one that it left, and its index there.
    pub(super) fn heard(&mut self, left: InterfaceId, (number, index): (u32, u32)) -> io::Result<Option<Interface>> {
        let Some(from) = self.by_cookie(left.netns_cookie).map(|(netns, _)| netns.clone()) else { return Ok(None) };
        let names: Vec<Netns> =
            self.seen.iter().filter(|(_, seen)| seen.is_some()).map(|(netns, _)| netns.clone()).collect();
        for netns in names {
            let is_it = self.namespaces.number_in(&from, &netns)? == Some(number);
            if let (true, Some(Some(namespace))) = (is_it, self.seen.get(&netns)) {
                return xdp::indexed(namespace, index);
            }
        }
        Ok(None)
    }

    /// Whether some namespace that can be looked into by its number has an interface of this index.
    fn may_be_at(&self, index: u32) -> io::Result<bool> {
        let Some(own) = self.seen.get(&Netns::Host).and_then(Option::as_ref) else { return Ok(false) };
        for number in own.route.namespaces()? {
            if own.route.links_of(number)?.iter().any(|row| row.index == index) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The interface in some namespace with a name that runs what the trail says.
    fn moved(&mut self, trail: &Trail) -> io::Result<Option<Interface>> {
        for namespace in self.seen.values().flatten() {
            if !trail.xdp.is_empty()
                && let Some(row) = namespace.route.links()?.into_iter().find(|row| trail.leads_to(row))
            {
                return Ok(Some(Interface {
                    id: InterfaceId { netns_cookie: namespace.cookie, index: row.index },
                    row,
                }));
            }
        }
        let names: Vec<Netns> = self.seen.keys().cloned().collect();
        for (point, program, index) in &trail.tcx {
            for netns in &names {
                let Some(Some(namespace)) = self.seen.get(netns) else { continue };
                let Some(found) = xdp::indexed(namespace, *index)? else { continue };
                let chain = self.namespaces.tcx_chain(netns, found.id, sequence::direction(*point))?;
                if chain.is_some_and(|chain| chain.entries.iter().any(|entry| entry.program == *program)) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The same in a namespace that no name leads to: those that have a number in ours, or in the one that the interface was in, can be
    /// looked at. A move gives them one in the latter (`__dev_change_net_namespace` of net/core/dev.c).
    fn nameless(&self, interface: InterfaceId, trail: &Trail) -> io::Result<Option<(LinkRow, Nameless)>> {
        let own = self.seen.get(&Netns::Host).and_then(Option::as_ref);
        let before = self.by_cookie(interface.netns_cookie).map(|(_, namespace)| namespace);
        let from = own.into_iter().map(|own| (own, true)).chain(before.into_iter().map(|before| (before, false)));
        let held: Option<u32> = trail.tcx.first().map(|(_, _, index)| *index);
        for (namespace, is_own) in from {
            for number in namespace.route.namespaces()? {
                let rows = namespace.route.links_of(number)?;
                let known = Nameless(Some(number).filter(|_| is_own));
                if let Some(row) = rows.iter().find(|row| trail.leads_to(row)) {
                    return Ok(Some((row.clone(), known)));
                }
                // A link tells that it holds, and not where: the number of the interface is all that there is.
                if let Some(row) = rows.into_iter().find(|row| trail.xdp.is_empty() && held == Some(row.index)) {
                    return Ok(Some((row, known)));
                }
            }
        }
        let unseen = |index| LinkRow { index, name: format!("if{index}"), up: true, mtu: 0, xdp: XdpAttachment::None };
        Ok(held.map(|index| (unseen(index), Nameless(None))))
    }

    /// The name of a chain of an interface now, in a namespace that was looked at.
    pub(super) fn name(&self, Interface { id, row }: &Interface, point: Point) -> Option<ChainName> {
        let (netns, _) = self.by_cookie(id.netns_cookie)?;
        Some(ChainName { netns: netns.clone(), interface: row.name.parse().ok()?, point })
    }

    /// What a tc hook runs, if its interface is there.
    pub(super) fn sequence_of(&mut self, chain: &ChainId, has_tcx: bool) -> io::Result<Vec<Entry>> {
        match self.here(chain.interface)? {
            Some(_) => self.sequence(chain, has_tcx),
            None => Ok(Vec::new()),
        }
    }

    /// What a tc hook of an interface runs, in order: the tcx chain first.
    pub(super) fn sequence(&mut self, chain: &ChainId, has_tcx: bool) -> io::Result<Vec<Entry>> {
        let ChainId { interface, point } = *chain;
        let direction = sequence::direction(point);
        let found = self.by_cookie(interface.netns_cookie).map(|(netns, _)| netns.clone());
        let Some(netns) = found else { return Ok(Vec::new()) };
        let tcx = match has_tcx {
            true => self.namespaces.tcx_chain(&netns, interface, direction)?,
            false => None,
        };
        let programs = tcx.into_iter().flat_map(|chain| chain.entries);
        let mut entries: Vec<Entry> = programs
            .map(|TcxEntry { program, link }| Entry {
                preference: None,
                program: Some(program),
                link,
                name: String::new(),
            })
            .collect();
        let filters = self.by_cookie(interface.netns_cookie);
        let filters = filters.map(|(_, namespace)| namespace.route.filters(interface.index, direction)).transpose()?;
        entries.extend(clsact::entries(filters.unwrap_or_default()));
        Ok(entries)
    }

    fn by_cookie(&self, cookie: u64) -> Option<(&Netns, &Namespace)> {
        let found = |(netns, namespace)| Some((netns, Option::as_ref(namespace)?));
        self.seen.iter().filter_map(found).find(|(_, namespace)| namespace.cookie == cookie)
    }

    fn look_at_all(&mut self) -> io::Result<Whole> {
        if let Some(whole) = self.all {
            return Ok(whole);
        }
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
        self.all = Some(whole);
        Ok(whole)
    }
}
