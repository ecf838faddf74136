//! Interfaces by name and by what they are, in every namespace that a name leads to; and those that are not where they were, by the
//! programs of ours that run on them, in namespaces without a name too. It must never change what they run.
//!
//! Long because an interface is looked for in each way in which it can have moved.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::{Runs, Unseen};
use bpfd_core::names::{Nameless, Netns, NetnsName};
use bpfd_sys::bpf::{ProgId, TcxEntry};
use bpfd_sys::netlink::{LinkRow, XdpAttachment};

use super::chain::clsact;
use super::chain::generation::SeenGeneration;
use super::chain::sequence::{self, Entry};
use super::chain::xdp::{self, Interface};
use crate::worker::netns::{Lookup, Namespace, Namespaces};
use crate::worker::numbers::Became;

/// What became of an interface that was looked for.
#[derive(Debug)]
pub(super) enum Sought {
    Here(Interface),
    /// It runs programs of ours in a namespace that no name leads to. It has the identity that it had before.
    Nameless(Interface, Nameless, Filters),
    /// It is not where it was, and runs nothing of ours anywhere.
    Gone,
    /// Nobody can tell.
    Unseen(Unseen),
}

/// What became of the filters of an interface in a namespace that no name leads to: nobody can look at them there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Filters {
    /// They are where they were: its namespace lost its name, and it stayed.
    Stayed,
    /// They went with its qdisc when it was moved.
    Gone,
    /// It may have stayed, or been moved.
    Unknown,
}

/// What tells an interface that is not where it was: the programs that it ran.
#[derive(Debug, Default)]
pub(super) struct Trail {
    xdp: BTreeSet<ProgId>,
    /// Of tcx chains, with the index of the interface that each is held on.
    tcx: Vec<(Point, ProgId, u32)>,
    /// It had filters.
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
                (Some(_), None) => trail.has_filters |= generation.is_filter(),
                (None, _) => {}
            }
        }
        trail
    }

    /// Whether it had filters, which it has no longer.
    pub(super) fn has_filters(&self) -> bool {
        self.has_filters
    }

    /// The index of the interface that links of its tcx chains are held on.
    fn held_on(&self) -> Option<u32> {
        self.tcx.first().map(|(_, _, index)| *index)
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
            Self::Nameless(_, _, Filters::Unknown) if generation.is_filter() => Runs::Unseen,
            Self::Here(Interface { id: _, row: link }) | Self::Nameless(Interface { id: _, row: link }, ..) => {
                let runs = match sequence {
                    Some(sequence) => sequence.iter().filter_map(|entry| entry.program).any(is_it),
                    None => link.xdp.program().is_some_and(|(_, program)| is_it(program)),
                };
                if runs { Runs::Yes } else { Runs::No }
            }
            Self::Gone => Runs::No,
            Self::Unseen(_) => Runs::Unseen,
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

#[derive(Clone)]
enum Whole {
    Yes,
    /// This name was there and could not be looked at.
    No(NetnsName),
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
                let filters = self.filters(interface, &row, number)?;
                let interface = Interface { id: interface, row };
                return Ok(Found::Sought(Sought::Nameless(interface, number, filters)));
            }
        }
        if self.by_cookie(interface.netns_cookie).is_some() {
            return Ok(Found::Sought(Sought::Gone));
        }
        let became = self.became(interface)?;
        let sought = match (became, whole) {
            (Became::Ended, _) => Sought::Gone,
            (Became::Numbered(number), _) => match self.indexed_in(number, interface.index)? {
                Some(row) if trail.has_filters => {
                    let interface = Interface { id: interface, row };
                    Sought::Nameless(interface, Nameless(Some(number)), Filters::Stayed)
                }
                Some(_) | None => Sought::Gone,
            },
            (Became::Unknown, Whole::No(name)) => Sought::Unseen(Unseen::Unreadable(name)),
            (Became::Unknown, Whole::Yes) if trail.has_filters && self.may_be_at(interface.index)? => {
                Sought::Unseen(Unseen::Nameless)
            }
            (Became::Unknown, Whole::Yes) => Sought::Gone,
        };
        Ok(Found::Sought(sought))
    }

    /// What became of the namespace of an interface, which has no name.
    fn became(&self, interface: InterfaceId) -> io::Result<Became> {
        let Some(own) = self.own() else { return Ok(Became::Unknown) };
        Ok(self.namespaces.became(interface.netns_cookie, &own.route.namespaces()?))
    }

    /// What became of the filters of an interface that was found in a namespace without a name.
    fn filters(&self, interface: InterfaceId, row: &LinkRow, number: Nameless) -> io::Result<Filters> {
        if self.by_cookie(interface.netns_cookie).is_some() {
            return Ok(Filters::Gone);
        }
        let stayed = row.index == interface.index;
        Ok(match self.became(interface)? {
            Became::Numbered(known) if stayed && number == Nameless(Some(known)) => Filters::Stayed,
            Became::Unknown if stayed => Filters::Unknown,
            Became::Numbered(_) | Became::Ended | Became::Unknown => Filters::Gone,
        })
    }

    /// The interface of this index in the namespace that has this number in the daemon's own.
    fn indexed_in(&self, number: u32, index: u32) -> io::Result<Option<LinkRow>> {
        let Some(own) = self.own() else { return Ok(None) };
        Ok(own.route.links_of(number)?.into_iter().find(|row| row.index == index))
    }

    fn own(&self) -> Option<&Namespace> {
        self.seen.get(&Netns::Host).and_then(Option::as_ref)
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

    /// Whether some namespace without a name that can be looked into by its number has an interface of this index.
    fn may_be_at(&mut self, index: u32) -> io::Result<bool> {
        let named = self.numbers_of_named(&Netns::Host)?;
        let Some(own) = self.own() else { return Ok(false) };
        for number in own.route.namespaces()?.into_iter().filter(|number| !named.contains(number)) {
            if own.route.links_of(number)?.iter().any(|row| row.index == index) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The numbers that namespaces with names have in this one.
    fn numbers_of_named(&mut self, seen_from: &Netns) -> io::Result<BTreeSet<u32>> {
        let seen = self.seen.iter().filter_map(|(netns, seen)| Some((netns.clone(), seen.as_ref()?.cookie)));
        let seen: Vec<(Netns, u64)> = seen.collect();
        let mut numbers = BTreeSet::new();
        for (netns, cookie) in seen {
            numbers.extend(match seen_from {
                Netns::Host => self.namespaces.own_number(&netns, cookie)?,
                Netns::Named(_) | Netns::Nameless(_) => self.namespaces.number_in(seen_from, &netns)?,
            });
        }
        Ok(numbers)
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
    fn nameless(&mut self, interface: InterfaceId, trail: &Trail) -> io::Result<Option<(LinkRow, Nameless)>> {
        if let Some((row, number)) = self.nameless_in(&Netns::Host, interface, trail)? {
            return Ok(Some((row, Nameless(number))));
        }
        let before = self.by_cookie(interface.netns_cookie).map(|(netns, _)| netns.clone());
        let found = match before.filter(|before| *before != Netns::Host) {
            Some(before) => self.nameless_in(&before, interface, trail)?.map(|(row, _)| row),
            None => None,
        };
        // Whoever lists interfaces from here gives the namespaces of their peers numbers here (`rtnl_fill_link_netnsid` of
        // net/core/rtnetlink.c).
        if found.is_some() {
            let Some(own) = self.own() else { return Ok(None) };
            for number in own.route.namespaces()? {
                own.route.links_of(number)?;
            }
            if let Some((row, number)) = self.nameless_in(&Netns::Host, interface, trail)? {
                return Ok(Some((row, Nameless(number))));
            }
        }
        let unseen = |index| LinkRow { index, name: format!("if{index}"), up: true, mtu: 0, xdp: XdpAttachment::None };
        Ok(found.or_else(|| trail.held_on().map(unseen)).map(|row| (row, Nameless(None))))
    }

    /// The same by the numbers of one namespace. The number is `None` if several may be it.
    fn nameless_in(
        &mut self,
        seen_from: &Netns,
        interface: InterfaceId,
        trail: &Trail,
    ) -> io::Result<Option<(LinkRow, Option<u32>)>> {
        let named = self.numbers_of_named(seen_from)?;
        let Some(Some(namespace)) = self.seen.get(seen_from) else { return Ok(None) };
        let numbers = namespace.route.namespaces()?;
        let it = match self.namespaces.became(interface.netns_cookie, &numbers) {
            Became::Numbered(number) if *seen_from == Netns::Host => Some(number),
            Became::Numbered(_) | Became::Ended | Became::Unknown => None,
        };
        // A link tells that it holds, and not where: the index of the interface is all that there is.
        let (mut held, mut only): (Option<LinkRow>, Option<u32>) = (None, None);
        for number in numbers.into_iter().filter(|number| !named.contains(number)) {
            let rows = namespace.route.links_of(number)?;
            if let Some(row) = rows.iter().find(|row| trail.leads_to(row)) {
                return Ok(Some((row.clone(), Some(number))));
            }
            let holds = |row: &LinkRow| trail.xdp.is_empty() && trail.held_on() == Some(row.index);
            let Some(row) = rows.into_iter().find(holds) else { continue };
            if it == Some(number) {
                return Ok(Some((row, it)));
            }
            only = if held.is_none() { Some(number) } else { None };
            held = Some(held.map_or(row.clone(), |other| match other.name == row.name {
                true => other,
                false => LinkRow { name: format!("if{}", row.index), ..row },
            }));
        }
        Ok(held.map(|row| (row, only)))
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
        if let Some(whole) = &self.all {
            return Ok(whole.clone());
        }
        let mut whole = Whole::Yes;
        for name in self.namespaces.names()? {
            let netns = Netns::Named(name.clone());
            match self.namespaces.look_up(&netns) {
                Ok(Lookup::Found(namespace)) => {
                    self.seen.insert(netns, Some(namespace));
                }
                Ok(Lookup::Absent) => {}
                Ok(Lookup::NotANamespace) | Err(_) => whole = Whole::No(name),
            }
        }
        self.all = Some(whole.clone());
        Ok(whole)
    }
}
