//! Interfaces by name and by what they are, in every namespace that a name leads to. It must never look at what they run.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::io;

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::{Missing, Runs};
use bpfd_core::names::Netns;
use bpfd_sys::bpf::{ProgId, TcxEntry};

use super::chain::clsact;
use super::chain::generation::SeenGeneration;
use super::chain::sequence::{self, Entry};
use super::chain::xdp::{self, Interface};
use crate::worker::netns::{Lookup, Namespace, Namespaces};

/// What became of an interface that was looked for.
#[derive(Debug)]
pub(super) enum Sought {
    Here(Interface),
    Missing(Missing),
    /// Some name could not be looked at that may lead to its namespace.
    Unseen,
}

impl Sought {
    /// Whether a generation of this interface runs. `sequence` is what its hook runs, if that runs several programs. A fused program needs
    /// no pins to run on where nobody can look, and is known by its record when somebody can again; a tcx link does.
    pub(super) fn runs(&self, interface: InterfaceId, generation: &SeenGeneration, sequence: Option<&[Entry]>) -> Runs {
        let is_it = |program: ProgId| KernelId(program.0) == generation.id;
        match self {
            Self::Here(Interface { id: _, row: link }) => {
                let runs = match sequence {
                    Some(sequence) => sequence.iter().filter_map(|entry| entry.program).any(is_it),
                    None => link.xdp.program().is_some_and(|(_, program)| is_it(program)),
                };
                if runs { Runs::Yes } else { Runs::No }
            }
            Self::Missing(Missing::Unreachable) if generation.is_dispatcher || generation.has_link => {
                Runs::Unreachable(interface)
            }
            Self::Missing(Missing::Gone) if generation.has_link => Runs::Moved,
            Self::Missing(Missing::Unreachable | Missing::Gone) => Runs::No,
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

    /// The interface of a name.
    pub(super) fn named(&mut self, name: &ChainName) -> io::Result<Option<Interface>> {
        match self.namespace(&name.netns)? {
            Some(namespace) => xdp::named(namespace, name),
            None => Ok(None),
        }
    }

    /// Looks for an interface, unless it was found already. A namespace that no name leads to cannot be looked at.
    pub(super) fn find<'f>(
        &mut self,
        interface: InterfaceId,
        found: &'f mut BTreeMap<InterfaceId, Sought>,
    ) -> io::Result<&'f Sought> {
        match found.entry(interface) {
            btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            btree_map::Entry::Vacant(new) => Ok(new.insert(self.sought(interface)?)),
        }
    }

    fn sought(&mut self, interface: InterfaceId) -> io::Result<Sought> {
        let InterfaceId { netns_cookie, index } = interface;
        self.namespace(&Netns::Host)?;
        if self.by_cookie(netns_cookie).is_none() && self.all.is_none() {
            self.all = Some(self.look_at_all()?);
        }
        match (self.by_cookie(netns_cookie), self.all) {
            (Some((_, namespace)), _) => {
                Ok(xdp::indexed(namespace, index)?.map_or(Sought::Missing(Missing::Gone), Sought::Here))
            }
            (None, Some(Whole::Yes)) => Ok(Sought::Missing(Missing::Unreachable)),
            (None, Some(Whole::No) | None) => Ok(Sought::Unseen),
        }
    }

    /// The name of a chain of an interface now, in a namespace that was looked at.
    pub(super) fn name(&self, Interface { id, row }: &Interface, point: Point) -> Option<ChainName> {
        let (netns, _) = self.by_cookie(id.netns_cookie)?;
        Some(ChainName { netns: netns.clone(), interface: row.name.parse().ok()?, point })
    }

    /// What a tc hook runs, if its interface is there.
    pub(super) fn sequence_of(&mut self, chain: &ChainId, has_tcx: bool) -> io::Result<Vec<Entry>> {
        match self.sought(chain.interface)? {
            Sought::Here(_) => self.sequence(chain, has_tcx),
            Sought::Missing(_) | Sought::Unseen => Ok(Vec::new()),
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
