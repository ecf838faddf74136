//! Which chains requests are under way for: those about one chain wait for each other here, outside the engine, so that two of them do
//! not undo each other's plans for ever, and nobody else waits for what the verifier sees of one.
//!
//! It must never be asked to wait on the engine's thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::hook::{ChainId, ChainName};
use bpfd_core::kernel::Targets;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// See the module. A chain that nobody has a link in yet is known by the name that is asked for alone.
#[derive(Debug, Default)]
pub(super) struct Chains(Mutex<BTreeMap<Target, Arc<Turn<()>>>>);

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Target {
    Name(ChainName),
    Chain(ChainId),
}

/// Chains that a request has for itself. Dropped, they are the next one's.
#[derive(Debug)]
pub(super) struct Held {
    targets: Targets,
    #[expect(dead_code, reason = "held for its lock")]
    turns: Vec<OwnedMutexGuard<()>>,
}

impl Held {
    /// The chains.
    pub(super) fn targets(&self) -> &Targets {
        &self.targets
    }
}

impl Chains {
    /// All of these at once, or none if some request has one or waits for one.
    pub(super) fn try_hold(&self, targets: &Targets) -> Option<Held> {
        let turns = self.turns(targets).into_iter().map(|turn| turn.try_lock_owned().ok());
        Some(Held { turns: turns.collect::<Option<_>>()?, targets: targets.clone() })
    }

    /// Waits for them, in the order of their names: whoever holds some never waits for one before them.
    pub(super) async fn hold(&self, targets: Targets) -> Held {
        let mut turns = Vec::new();
        for turn in self.turns(&targets) {
            turns.push(turn.lock_owned().await);
        }
        Held { targets, turns }
    }

    fn turns(&self, Targets { names, chains }: &Targets) -> Vec<Arc<Turn<()>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        let targets = names.iter().cloned().map(Target::Name).chain(chains.iter().copied().map(Target::Chain));
        targets.map(|target| all.entry(target).or_default().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use bpfd_core::hook::{InterfaceId, Point};
    use bpfd_core::names::Netns;

    use super::*;

    fn eth(numbers: &[u8]) -> Targets {
        let eth = |number| format!("eth{number}").parse().unwrap();
        let name = |number| ChainName { netns: Netns::Host, interface: eth(number), point: Point::Xdp };
        Targets { names: numbers.iter().map(name).collect(), chains: [].into() }
    }

    #[test]
    fn requests_by_two_names_are_about_one_chain_that_links_are_in() {
        let chains = Chains::default();
        let chain = ChainId { interface: InterfaceId { netns_cookie: 1, index: 2 }, point: Point::Xdp };
        let of = |number| Targets { chains: [chain].into(), ..eth(&[number]) };
        let _held = chains.try_hold(&of(0)).unwrap();
        assert!(chains.try_hold(&of(1)).is_none());
        assert!(chains.try_hold(&eth(&[1])).is_some());
    }

    #[test]
    fn a_chain_is_one_requests_at_a_time_and_others_are_free() {
        let chains = Chains::default();
        let held = chains.try_hold(&eth(&[0, 1])).unwrap();
        assert!(chains.try_hold(&eth(&[1, 2])).is_none());
        assert!(chains.try_hold(&eth(&[2])).is_some());
        drop(held);
        assert!(chains.try_hold(&eth(&[1, 2])).is_some());
        assert!(chains.0.lock().unwrap().len() <= 2, "what nobody holds is forgotten");
    }

    #[test]
    fn who_waits_comes_before_who_asks_later() {
        let chains = Chains::default();
        let held = chains.try_hold(&eth(&[0])).unwrap();
        let mut waiting = pin!(chains.hold(eth(&[0])));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(held);
        assert!(chains.try_hold(&eth(&[0])).is_none());
        let Poll::Ready(second) = waiting.as_mut().poll(&mut context) else { panic!("it is its turn") };
        assert_eq!(second.targets(), &eth(&[0]));
    }
}
