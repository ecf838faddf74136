//! All members in one program of the interface's own, with libxdp's semantics: where one program cannot replace another's function.

use super::room::Room;
use super::xdp::Program;
use crate::hook::ChainId;
use crate::kernel::{ChainContent, Live, Member, Observed, Step};
use crate::order;
use crate::state::State;

/// The members, in order.
pub(super) struct Fused(pub(super) Vec<Member>);

impl Program for Fused {
    fn members(&self) -> Vec<&Member> {
        self.0.iter().collect()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn fits(&self) -> bool {
        true
    }

    fn runs(&self, observed: &Observed, chain: &ChainId, live: &Live) -> bool {
        let runs = observed.members(chain);
        let alike = runs.len() == self.0.len() && runs.iter().zip(&self.0).all(|(runs, wanted)| runs.runs_as(wanted));
        matches!(live, Live::Ours(_)) && alike
    }

    fn content(&self, target: &State, _: &Observed, _: &Live) -> (Vec<Step>, ChainContent) {
        (
            vec![],
            ChainContent::Fused { members: self.0.clone(), recipes: order::recipes(target, &self.0), room: Room::All },
        )
    }
}
