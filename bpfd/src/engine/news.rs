//! What was heard of interfaces, and what the engine must look at because of it. An event of an interface that no chain is on costs
//! nothing but this decision.
//!
//! This file must never look at an interface.

use std::collections::{BTreeMap, BTreeSet};

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::{Live, Observed, ObservedChain, Scope, Targets};
use bpfd_core::names::Netns;
use bpfd_core::state::{Link, State};

/// The chains that were there when chains were last made what they should be. A look alone does not count: an interface that comes
/// between a look and the news of it is still to be dealt with.
pub type Settled = BTreeSet<ChainId>;

/// The chains that were observed.
pub(super) fn chains(observed: &Observed) -> Settled {
    observed.chains.keys().copied().collect()
}

/// An event of one interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Its index in its network namespace.
    pub index: u32,
    /// Its name now, or its last one.
    pub name: String,
    /// What it runs now: `None` if it is gone.
    pub runs: Option<Option<KernelId>>,
    /// Where it is now, if it was moved: the number of that network namespace in this one, and its index there.
    pub to: Option<(u32, u32)>,
}

/// What was heard since the last look.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Events were lost, or a namespace came or went.
    pub everything: bool,
    /// By namespace, in the order of hearing.
    pub interfaces: BTreeMap<Netns, Vec<Changed>>,
    /// Interfaces whose filters changed, by namespace.
    pub filters: BTreeMap<Netns, BTreeSet<u32>>,
    /// Numbers that network namespaces had that ended.
    pub ended: BTreeSet<u32>,
    /// Some may have ended of which nothing was heard.
    pub ends_lost: bool,
    /// A network namespace has a number that had none.
    pub numbered: bool,
}

/// Events of one namespace that are kept apart. If more wait, everything is looked at.
const KEPT: usize = 4096;

impl News {
    /// Everything is to be looked at.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nothing was heard.
    pub fn is_empty(&self) -> bool {
        let Self { everything, interfaces, filters, ended, ends_lost, numbered } = self;
        !(*everything || *ends_lost || *numbered) && interfaces.is_empty() && filters.is_empty() && ended.is_empty()
    }

    /// The network namespace of this number ended.
    pub fn heard_of_end(&mut self, number: u32) {
        self.ends_lost |= self.ended.len() >= KEPT;
        if !self.ends_lost {
            self.ended.insert(number);
        }
    }

    /// A filter of an interface came, changed or went.
    pub fn heard_filters(&mut self, netns: &Netns, index: u32) {
        let heard = self.filters.entry(netns.clone()).or_default();
        self.everything |= heard.len() >= KEPT;
        if !self.everything {
            heard.insert(index);
        }
    }

    /// One more event.
    pub fn heard(&mut self, netns: &Netns, changed: Changed) {
        let heard = self.interfaces.entry(netns.clone()).or_default();
        self.everything |= heard.len() >= KEPT;
        if !self.everything {
            heard.push(changed);
        }
    }

    /// Both.
    pub fn and(&mut self, other: Self) {
        self.everything |= other.everything;
        self.ends_lost |= other.ends_lost;
        self.numbered |= other.numbered;
        other.ended.into_iter().for_each(|number| self.heard_of_end(number));
        for (netns, heard) in other.interfaces {
            heard.into_iter().for_each(|changed| self.heard(&netns, changed));
        }
        for (netns, indexes) in other.filters {
            indexes.into_iter().for_each(|index| self.heard_filters(&netns, index));
        }
    }

    /// Interfaces that were moved: what they were, and where they went.
    pub fn moves(&self, seen: &Observed) -> Vec<(InterfaceId, u32, u32)> {
        let of = |(netns, heard): (&Netns, &Vec<Changed>)| {
            let cookie = seen.namespaces.get(netns).copied().flatten();
            let moved = heard.iter().filter_map(move |Changed { index, to, .. }| {
                let (namespace, now) = (*to)?;
                Some((InterfaceId { netns_cookie: cookie?, index: *index }, namespace, now))
            });
            moved.collect::<Vec<_>>()
        };
        self.interfaces.iter().flat_map(of).collect()
    }

    /// What must be looked at; `None` if nothing of it is about a chain, or all of it is known already: it was seen, on an interface
    /// whose chain was settled.
    pub fn scope(&self, state: &State, seen: &Observed, settled: &Settled) -> Option<Scope> {
        // A namespace that ends takes its interfaces along.
        let ended = self.ends_lost || !self.ended.is_empty();
        if self.everything || ended && seen.is_anything_nameless() || self.numbered && seen.is_any_number_unknown() {
            return Some(Scope::Everything(Targets::of(state.links.values())));
        }
        let mut targets = Targets::default();
        for (netns, heard) in &self.interfaces {
            let cookie = seen.namespaces.get(netns).copied().flatten();
            for (changed, point) in
                heard.iter().flat_map(|changed| Point::ALL.iter().map(move |point| (changed, *point)))
            {
                let name = changed.name.parse().ok();
                let name = name.map(|interface| ChainName { netns: netns.clone(), interface, point });
                let interface = cookie.map(|netns_cookie| InterfaceId { netns_cookie, index: changed.index });
                let id = interface.map(|interface| ChainId { interface, point });
                let is_wanted = |id: &ChainId| state.links.values().any(|link| link.chain() == Some(*id));
                let id = id.filter(|id| seen.chains.contains_key(id) || is_wanted(id));
                let is_asked = |name: &ChainName| state.links.values().any(|link| link.placement.asked() == Some(name));
                let asked = name.filter(is_asked);
                let is_known = |id| settled.contains(&id) && known(seen.chains.get(&id), changed);
                let known = id.is_some_and(is_known);
                let leads_here = asked.as_ref().is_none_or(|asked| id.is_some() && seen.chain_of(asked) == id);
                if (id.is_none() && asked.is_none()) || (known && leads_here) {
                    continue;
                }
                let about = |link: &&Link| {
                    let asks = asked.is_some() && link.placement.asked() == asked.as_ref();
                    asks || id.is_some() && link.chain() == id
                };
                targets = targets.and(Targets::of(state.links.values().filter(about)));
                targets.chains.extend(id);
            }
        }
        for (netns, indexes) in &self.filters {
            let cookie = seen.namespaces.get(netns).copied().flatten();
            let is_it = |chain: &ChainId| {
                let InterfaceId { netns_cookie, index } = chain.interface;
                chain.point != Point::Xdp && Some(netns_cookie) == cookie && indexes.contains(&index)
            };
            let wanted = state.links.values().filter_map(Link::chain);
            let chains: BTreeSet<ChainId> = wanted.chain(seen.chains.keys().copied()).filter(is_it).collect();
            let links = state.links.values().filter(|link| link.chain().is_some_and(|chain| chains.contains(&chain)));
            targets = targets.and(Targets::of(links));
            targets.chains.extend(chains);
        }
        (!targets.is_empty()).then_some(Scope::Chains(targets))
    }
}

/// Whether an event says of a chain what was seen already, as the events of our own changes do.
fn known(seen: Option<&ObservedChain>, changed: &Changed) -> bool {
    let (Some(ObservedChain { name, live, .. }), Some(runs)) = (seen, changed.runs) else { return false };
    let program = match live {
        // No event tells what such a hook runs.
        Live::Sequence(_) => runs,
        Live::Empty => None,
        Live::Ours(live) => Some(live.program),
        Live::Dispatcher(live) => Some(live.generation.program),
        Live::Foreign(foreign) => Some(foreign.program),
    };
    name.interface.as_str() == changed.name && program == runs
}

#[cfg(test)]
mod tests {
    use bpfd_core::hook::{Place, Placement, ProceedOn, XdpMode};
    use bpfd_core::ident::{AppUid, GenerationUid, Handle, LinkUid};
    use bpfd_core::kernel::{ChainMode, LiveGeneration, Unseen};
    use bpfd_core::names::{Nameless, Priority};
    use bpfd_core::seat::Seat;
    use bpfd_core::state::{LinkLifetime, LinkOrigin, Owner, WhenAbsent};

    use super::*;

    fn eth(name: &str) -> ChainName {
        ChainName { netns: Netns::Host, interface: name.parse().unwrap(), point: Point::Xdp }
    }

    /// eth0 has index 2 and runs program 7.
    fn seen() -> Observed {
        let live = Live::Ours(LiveGeneration { program: KernelId(7), generation: GenerationUid::of_peer(KernelId(7)) });
        let chain = ObservedChain { name: eth("eth0"), live, driven: None, mode: ChainMode::Libxdp };
        Observed {
            namespaces: [(Netns::Host, Some(1))].into(),
            interfaces: [(eth("eth0"), Some(CHAIN.interface))].into(),
            chains: [(CHAIN, chain)].into(),
            ..Observed::default()
        }
    }

    fn link_on(number: u8, asked: ChainName, on: Option<Seat>) -> Link {
        let (priority, proceed_on, mode) = (Priority::DEFAULT, ProceedOn::PASS, XdpMode::Auto);
        Link {
            uid: LinkUid::from_bytes([number; 16]),
            handle: Handle(number.into()),
            app: AppUid::from_bytes([9; 16]),
            function: "pass".to_owned(),
            placement: Placement::Shared(Place { asked, priority, effective: priority, order: None, proceed_on, mode }),
            on,
            owner: Owner { uid: 0, user: None },
            credentials: None,
            origin: LinkOrigin::Request,
            lifetime: LinkLifetime::UntilDetached,
            when_absent: WhenAbsent::Wait,
            created: 0,
            generation: 1,
            request: None,
        }
    }

    const CHAIN: ChainId = ChainId { interface: InterfaceId { netns_cookie: 1, index: 2 }, point: Point::Xdp };

    /// A link that is in the chain, and one that waits for `later`.
    fn state() -> State {
        let on = Seat { chain: CHAIN, called: eth("eth0") };
        let links = [link_on(1, eth("eth0"), Some(on)), link_on(2, eth("later"), None)];
        State { links: links.map(|link| (link.uid, link)).into(), ..State::default() }
    }

    fn scope(index: u32, name: &str, runs: Option<Option<u32>>) -> Option<Scope> {
        scope_of(&[CHAIN].into(), index, name, runs)
    }

    fn scope_of(settled: &Settled, index: u32, name: &str, runs: Option<Option<u32>>) -> Option<Scope> {
        let mut news = News::default();
        let runs = runs.map(|program| program.map(KernelId));
        news.heard(&Netns::Host, Changed { index, name: name.to_owned(), runs, to: None });
        news.scope(&state(), &seen(), settled)
    }

    fn eth0() -> Option<Scope> {
        Some(Scope::Chains(Targets { names: [eth("eth0")].into(), chains: [CHAIN].into() }))
    }

    #[test]
    fn an_event_of_another_interface_is_nothing_to_look_at() {
        assert_eq!(scope(3, "eth1", Some(None)), None);
    }

    #[test]
    fn the_event_of_what_was_done_is_known() {
        assert_eq!(scope(2, "eth0", Some(Some(7))), None);
    }

    #[test]
    fn an_interface_that_was_seen_and_not_dealt_with_is_looked_at() {
        assert_eq!(scope_of(&Settled::new(), 2, "eth0", Some(Some(7))), eth0());
    }

    #[test]
    fn a_change_of_a_chain_is_looked_at_alone() {
        assert_eq!(scope(2, "eth0", Some(Some(8))), eth0(), "another program");
        assert_eq!(scope(2, "eth0", Some(None)), eth0(), "no program");
        assert_eq!(scope(2, "eth0", None), eth0(), "gone");
        assert_eq!(scope(2, "wan0", Some(Some(7))), eth0(), "another name");
        assert_eq!(scope(9, "eth0", Some(Some(7))), eth0(), "another interface of the name");
    }

    #[test]
    fn a_name_that_a_link_waits_for_is_looked_at() {
        let later = Some(Scope::Chains(Targets::name(eth("later"))));
        assert_eq!(scope(9, "later", Some(None)), later);
    }

    #[test]
    fn ends_and_numbers_of_namespaces_matter_to_chains_in_namespaces_without_a_name() {
        let everything = Some(Scope::Everything(Targets::of(state().links.values())));
        let ended = News { ended: [4].into(), ..News::default() };
        let numbered = News { numbered: true, ..News::default() };
        let of = |news: &News, seen: &Observed| news.scope(&state(), seen, &[CHAIN].into());
        assert_eq!([of(&ended, &seen()), of(&numbered, &seen())], [None, None], "every name is there");
        for (number, sees_number) in [(None, everything.clone()), (Some(4), None)] {
            let mut nameless = seen();
            nameless.chains.get_mut(&CHAIN).unwrap().name.netns = Netns::Nameless(Nameless(number));
            assert_eq!([of(&ended, &nameless), of(&numbered, &nameless)], [everything.clone(), sees_number]);
        }
        let mut unseen = seen();
        unseen.unseen.insert(CHAIN, Unseen::Nameless);
        assert_eq!([of(&ended, &unseen), of(&numbered, &unseen)], [everything.clone(), everything]);
    }

    #[test]
    fn lost_events_and_too_many_events_are_looked_for() {
        let everything = Some(Scope::Everything(Targets::of(state().links.values())));
        assert_eq!(News::everything().scope(&state(), &seen(), &Settled::new()), everything);
        let mut many = News::default();
        for index in 100..100 + u32::try_from(KEPT).unwrap() + 1 {
            many.heard(&Netns::Host, Changed { index, name: "x".into(), runs: None, to: None });
        }
        assert_eq!(many.scope(&state(), &seen(), &Settled::new()), everything);
    }
}
