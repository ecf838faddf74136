//! What a tc hook runs: the programs of its tcx chain, then those of its filters, and the changes of either.
//!
//! It must never decide where a program goes.

use std::os::fd::BorrowedFd;

use bpfd_core::hook::{NamedChain, Point};
use bpfd_core::ident::{GenerationUid, KernelId};
use bpfd_core::kernel::{Spot, StepError};
use bpfd_sys::bpf::{Direction, LinkId, ProgId};
use bpfd_sys::netlink::Route;

use super::{clsact, tcx};
use crate::kernel::pins::Pins;
use crate::worker::netns::Namespaces;

/// One program of a tc hook, or a filter that runs none.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Of its filter; none in a tcx chain.
    pub(crate) preference: Option<u16>,
    pub(crate) program: Option<ProgId>,
    /// What holds it in a tcx chain.
    pub(crate) link: Option<LinkId>,
    /// A filter's name, or its kind.
    pub(crate) name: String,
}

/// A generation that comes or goes.
pub(crate) struct Going<'a> {
    pub(crate) generation: GenerationUid,
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) id: KernelId,
    /// Its program's.
    pub(crate) name: String,
}

/// The direction of a tc hook.
pub(crate) fn direction(point: Point) -> Direction {
    match point {
        Point::TcEgress => Direction::Egress,
        Point::TcIngress | Point::Xdp => Direction::Ingress,
    }
}

/// Changes one place of a hook: packets see the old program or the new one there.
pub(crate) fn swap(
    pins: &Pins,
    namespaces: &mut Namespaces,
    route: &Route,
    chain: &NamedChain,
    (from, to): (Option<Going<'_>>, Option<Going<'_>>),
    at: Spot,
) -> Result<(), StepError> {
    match (from, to, at) {
        (None, None, _) => Ok(()),
        (None, Some(to), Spot::Preference(preference)) => clsact::add(pins, route, chain, &to, preference),
        (Some(from), Some(to), Spot::Preference(preference)) => clsact::replace(route, chain, &from, &to, preference),
        (Some(from), None, Spot::Preference(preference)) => clsact::remove(pins, route, chain, &from, preference),
        (None, Some(to), at) => tcx::add(pins, namespaces, chain, &to, at),
        (Some(from), Some(to), _) => tcx::replace(pins, chain, &from, &to),
        (Some(from), None, _) => tcx::remove(pins, chain, &from),
    }
}
