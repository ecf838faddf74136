//! What is kept free of the limits that the links of a chain share, so that the programs of priorities 0 to 99, root's, find room however
//! many others there are. A new link of a higher priority that would take it is refused; what a chain has already is never left out for it.
//!
//! It must never decide for a repair: what was attached stays.

use bpfd_policy::caller::GROUP_PRIORITY_MIN;
use ebpf::fuse::{MAX_FUNCTIONS, MAX_INSNS, MAX_MAPS, Size};
use serde::{Deserialize, Serialize};

use crate::hook::{ChainId, ChainName};
use crate::kernel::{ChainContent, SLOTS, Step};
use crate::plan::{Plan, PlanError};
use crate::state::Change;

/// Slots of a dispatcher: a firewall and one more.
const SLOTS_KEPT: usize = 2;
/// Maps of a fused program.
const MAPS_KEPT: usize = 16;
/// Functions of a fused program.
const FUNCTIONS_KEPT: usize = 64;

/// Instructions of a fused program, and of the steps that the verifier takes through one: what the largest firewalls take.
const INSNS_KEPT: usize = 250_000;

/// How much of a fused program its members may take.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Room {
    /// All that the kernel allows.
    #[default]
    All,
    /// What is not kept for priorities 0 to 99.
    Common,
}

/// New links would take what is kept.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the chain would have {found} {what}; {limit} is the limit, and the last {kept} are kept for links of priorities 0 to {}",
    GROUP_PRIORITY_MIN - 1
)]
pub struct Kept {
    /// Of what.
    pub what: &'static str,
    /// How many there would be.
    pub found: usize,
    /// How many there can be.
    pub limit: usize,
    /// How many of these are kept.
    pub kept: usize,
}

fn within(what: &'static str, found: usize, limit: usize, kept: usize) -> Result<(), Kept> {
    if found > limit.saturating_sub(kept) { Err(Kept { what, found, limit, kept }) } else { Ok(()) }
}

impl Room {
    /// Whether programs of this size have room in one.
    ///
    /// # Errors
    /// [`Kept`], with the numbers.
    pub fn takes(self, size: Size) -> Result<(), Kept> {
        match self {
            Self::All => Ok(()),
            Self::Common => {
                within("maps", size.maps, MAX_MAPS, MAPS_KEPT)?;
                within("functions", size.functions, MAX_FUNCTIONS, FUNCTIONS_KEPT)?;
                within("instructions", size.insns, MAX_INSNS, INSNS_KEPT)
            }
        }
    }

    /// Whether the verifier took few enough steps through a program that others are to be one with. 0 is a kernel that does not say
    /// (before Linux 5.16).
    ///
    /// # Errors
    /// [`Kept`], with the numbers.
    pub fn takes_steps(self, verified: u32) -> Result<(), Kept> {
        match self {
            Self::All => Ok(()),
            Self::Common => {
                let steps = usize::try_from(verified).unwrap_or(usize::MAX);
                within("instructions for the verifier to follow", steps, MAX_INSNS, INSNS_KEPT)
            }
        }
    }

    fn of(changes: &[Change], chain: &ChainId) -> Self {
        let common = |change: &Change| match change {
            Change::Attach(link) if link.chain() == Some(*chain) => {
                // What was asked for: an order gives nobody the room of others.
                link.placement.place().is_some_and(|place| u32::from(place.priority) >= GROUP_PRIORITY_MIN)
            }
            Change::Attach(_)
            | Change::Load(_)
            | Change::Update { .. }
            | Change::Persist { .. }
            | Change::Rebuild { .. }
            | Change::Reorder { .. }
            | Change::Detach(_)
            | Change::Unload(_) => false,
        };
        if changes.iter().any(common) { Self::Common } else { Self::All }
    }
}

/// Whether changes would take the slots of a dispatcher that are kept. `programs` is how many there would be.
pub(super) fn refuse(name: &ChainName, chain: &ChainId, programs: usize, changes: &[Change]) -> Result<(), PlanError> {
    match Room::of(changes, chain) {
        // That there are more than slots is said in the same words for all.
        Room::Common if programs <= SLOTS => within("XDP programs", programs, SLOTS, SLOTS_KEPT)
            .map_err(|kept| PlanError::Kept { chain: name.clone(), kept }),
        Room::Common | Room::All => Ok(()),
    }
}

/// The plan of changes, whose fused programs leave what is kept.
pub(crate) fn keep(mut plan: Plan, changes: &[Change]) -> Plan {
    for step in &mut plan.steps {
        if let Step::BuildGeneration { chain, content: ChainContent::Fused { room, .. }, .. } = step {
            *room = Room::of(changes, &chain.id);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_the_numbers_and_exactly_what_is_left_is_taken() {
        let size = |maps, functions| Size { maps, functions, insns: 2 };
        assert_eq!(Room::Common.takes(size(48, 192)), Ok(()));
        assert_eq!(
            Room::Common.takes(size(49, 1)).unwrap_err().to_string(),
            "the chain would have 49 maps; 64 is the limit, and the last 16 are kept for links of priorities 0 to 99"
        );
        assert!(Room::Common.takes(size(1, 193)).is_err());
        assert_eq!(Room::All.takes(size(64, 256)), Ok(()));
        let long = |insns| Size { insns, ..size(1, 1) };
        assert_eq!(Room::Common.takes(long(750_000)), Ok(()));
        assert!(Room::Common.takes(long(750_001)).is_err());
        assert_eq!((Room::Common.takes_steps(750_000), Room::All.takes_steps(1_000_000)), (Ok(()), Ok(())));
        assert!(Room::Common.takes_steps(750_001).is_err());
    }

    #[test]
    fn what_is_kept_goes_by_the_priority_that_was_asked_for_wherever_an_order_has_the_link() {
        use crate::hook::{InterfaceId, Placement, Point};
        use crate::seat::Seat;
        let id = ChainId { interface: InterfaceId { netns_cookie: 1, index: 2 }, point: Point::Xdp };
        let room = |asked: u32, effective: u32| {
            let mut link = crate::testing::link(11, 1);
            let called = link.placement.asked().unwrap().clone();
            link.on = Some(Seat { chain: id, called });
            if let Placement::Shared(place) = &mut link.placement {
                (place.priority, place.effective) = (asked.try_into().unwrap(), effective.try_into().unwrap());
            }
            Room::of(&[Change::Attach(link)], &id)
        };
        assert_eq!((room(500, 49), room(49, 500)), (Room::Common, Room::All));
    }
}
