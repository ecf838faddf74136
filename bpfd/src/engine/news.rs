//! What was heard of interfaces, and what the engine must look at because of it. An event of an interface that no chain is on costs
//! nothing but this decision.
//!
//! This file must never look at an interface.

use std::collections::{BTreeMap, BTreeSet};

use bpfd_core::hook::ChainKey;
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::{InterfaceId, Live, Observed, ObservedChain, Scope};
use bpfd_core::names::Netns;
use bpfd_core::state::State;

/// The interface of each chain when the chains were last made what they should be. A look alone does not count: an interface that
/// comes between a look and the news of it is still to be dealt with.
pub type Settled = BTreeMap<ChainKey, Option<InterfaceId>>;

/// The interface of each observed chain.
pub(super) fn interfaces(observed: &Observed) -> Settled {
    observed.chains.iter().map(|(chain, seen)| (chain.clone(), seen.interface)).collect()
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
}

/// What was heard since the last look.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Events were lost, or a namespace came or went.
    pub everything: bool,
    /// By namespace, in the order of hearing.
    pub interfaces: BTreeMap<Netns, Vec<Changed>>,
}

/// Events of one namespace that are kept apart. If more wait, everything is looked at.
const KEPT: usize = 4096;

impl News {
    /// Everything is to be looked at.
    pub fn everything() -> Self {
        Self { everything: true, interfaces: BTreeMap::new() }
    }

    /// Whether nothing was heard.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.interfaces.is_empty()
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
        for (netns, heard) in other.interfaces {
            heard.into_iter().for_each(|changed| self.heard(&netns, changed));
        }
    }

    /// What must be looked at; `None` if nothing of it is about a chain, or all of it is known already: it was seen, on an interface
    /// that the chain was settled on.
    pub fn scope(&self, state: &State, seen: &Observed, settled: &Settled) -> Option<Scope> {
        let everything = || Some(Scope::Everything(state.chains()));
        if self.everything {
            return everything();
        }
        let wanted = state.chains();
        let mut chains = BTreeSet::new();
        for (netns, heard) in &self.interfaces {
            for changed in heard {
                let here = seen.chains.iter().filter(|(chain, _)| chain.netns == *netns);
                let on_it = |seen: &ObservedChain| seen.interface.is_some_and(|id| id.index == changed.index);
                for (chain, _) in here.filter(|(_, seen)| on_it(seen)) {
                    // An interface that has another name now may be another chain's, and its chain another interface's.
                    if chain.interface.as_str() != changed.name {
                        return everything();
                    }
                }
                let named = |chain: &&ChainKey| chain.netns == *netns && chain.interface.as_str() == changed.name;
                let of_name = wanted.iter().chain(seen.chains.keys()).filter(named);
                let known = |chain: &&ChainKey| {
                    let settled = settled.get(chain).copied().flatten();
                    known(seen.chains.get(chain).filter(|seen| seen.interface == settled), changed)
                };
                chains.extend(of_name.filter(|chain| !known(chain)).cloned());
            }
        }
        (!chains.is_empty()).then_some(Scope::Chains(chains))
    }
}

/// Whether an event says of a chain what was seen already, as the events of our own changes do.
fn known(seen: Option<&ObservedChain>, changed: &Changed) -> bool {
    let (Some(seen), Some(runs)) = (seen, changed.runs) else { return false };
    let program = match &seen.live {
        Live::Empty => None,
        Live::Ours(live) => Some(live.program),
        Live::Dispatcher(live) => Some(live.top.program),
        Live::Foreign(foreign) => Some(foreign.program),
    };
    seen.interface.is_some_and(|id| id.index == changed.index) && program == runs
}

#[cfg(test)]
mod tests {
    use bpfd_core::hook::Point;
    use bpfd_core::ident::TopUid;
    use bpfd_core::kernel::{ChainMode, LiveTop};

    use super::*;

    fn eth(name: &str) -> ChainKey {
        ChainKey { netns: Netns::Host, interface: name.parse().unwrap(), point: Point::Xdp }
    }

    /// eth0 has index 2 and runs program 7.
    fn seen() -> Observed {
        let live = Live::Ours(LiveTop { program: KernelId(7), top: TopUid::of_peer(KernelId(7)) });
        let interface = Some(INTERFACE);
        let chain = ObservedChain { interface, live, driven: None, mode: ChainMode::Libxdp };
        Observed { chains: [(eth("eth0"), chain)].into(), ..Observed::default() }
    }

    const INTERFACE: InterfaceId = InterfaceId { netns_cookie: 1, index: 2 };

    fn scope(index: u32, name: &str, runs: Option<Option<u32>>) -> Option<Scope> {
        scope_of(&[(eth("eth0"), Some(INTERFACE))].into(), index, name, runs)
    }

    fn scope_of(settled: &Settled, index: u32, name: &str, runs: Option<Option<u32>>) -> Option<Scope> {
        let mut news = News::default();
        let runs = runs.map(|program| program.map(KernelId));
        news.heard(&Netns::Host, Changed { index, name: name.to_owned(), runs });
        news.scope(&State::default(), &seen(), settled)
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
        let elsewhere = Some(InterfaceId { index: 1, ..INTERFACE });
        for settled in [Settled::new(), [(eth("eth0"), None)].into(), [(eth("eth0"), elsewhere)].into()] {
            let one = Some(Scope::Chains([eth("eth0")].into()));
            assert_eq!(scope_of(&settled, 2, "eth0", Some(Some(7))), one, "{settled:?}");
        }
    }

    #[test]
    fn a_change_of_a_chain_is_looked_at_alone() {
        let one = Some(Scope::Chains([eth("eth0")].into()));
        assert_eq!(scope(2, "eth0", Some(Some(8))), one, "another program");
        assert_eq!(scope(2, "eth0", Some(None)), one, "no program");
        assert_eq!(scope(2, "eth0", None), one, "gone");
        assert_eq!(scope(9, "eth0", Some(Some(7))), one, "another interface of the name");
    }

    #[test]
    fn after_a_rename_everything_is_looked_at() {
        assert_eq!(scope(2, "wan0", Some(Some(7))), Some(Scope::Everything(BTreeSet::new())));
    }

    #[test]
    fn lost_events_and_too_many_events_are_looked_for() {
        let everything = Some(Scope::Everything(BTreeSet::new()));
        assert_eq!(News::everything().scope(&State::default(), &seen(), &Settled::new()), everything);
        let mut many = News::default();
        for index in 100..100 + u32::try_from(KEPT).unwrap() + 1 {
            many.heard(&Netns::Host, Changed { index, name: "x".into(), runs: None });
        }
        assert_eq!(many.scope(&State::default(), &seen(), &Settled::new()), everything);
    }
}
