//! Which chains requests are under way for: those about one chain wait for each other here, outside the engine, so that two of them do
//! not undo each other's plans for ever, and nobody else waits for what the verifier sees of one.
//!
//! It must never be asked to wait on the engine's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::hook::ChainKey;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Chains(Mutex<BTreeMap<ChainKey, Arc<Turn<()>>>>);

/// Chains that a request has for itself. Dropped, they are the next one's.
#[derive(Debug)]
pub(super) struct Held {
    chains: BTreeSet<ChainKey>,
    #[expect(dead_code, reason = "held for its lock")]
    turns: Vec<OwnedMutexGuard<()>>,
}

impl Held {
    /// The chains.
    pub(super) fn chains(&self) -> &BTreeSet<ChainKey> {
        &self.chains
    }
}

impl Chains {
    /// All of these at once, or none if some request has one or waits for one.
    pub(super) fn try_hold(&self, chains: &BTreeSet<ChainKey>) -> Option<Held> {
        let turns = self.turns(chains).into_iter().map(|turn| turn.try_lock_owned().ok());
        Some(Held { turns: turns.collect::<Option<_>>()?, chains: chains.clone() })
    }

    /// Waits for them, in the order of their names: whoever holds some never waits for one before them.
    pub(super) async fn hold(&self, chains: BTreeSet<ChainKey>) -> Held {
        let mut turns = Vec::new();
        for turn in self.turns(&chains) {
            turns.push(turn.lock_owned().await);
        }
        Held { chains, turns }
    }

    fn turns(&self, chains: &BTreeSet<ChainKey>) -> Vec<Arc<Turn<()>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        chains.iter().map(|chain| all.entry(chain.clone()).or_default().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use bpfd_core::hook::Point;
    use bpfd_core::names::Netns;

    use super::*;

    fn eth(numbers: &[u8]) -> BTreeSet<ChainKey> {
        let eth = |number| format!("eth{number}").parse().unwrap();
        let key = |number| ChainKey { netns: Netns::Host, interface: eth(number), point: Point::Xdp };
        numbers.iter().map(key).collect()
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
        assert_eq!(second.chains(), &eth(&[0]));
    }
}
