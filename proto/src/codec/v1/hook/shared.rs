//! What messages of shared hooks have in common: interfaces, places in chains, verdicts.

use bpfd_core::hook::{InterfaceName, Point, ProceedOn};
use bpfd_core::names::{Netns, Priority};

use crate::codec::v1::{BadField, bad, parsed};
use crate::v1 as pb;

/// An interface; unset namespace = the daemon's own.
pub fn interface_name(netns: Option<&str>, interface: &str) -> Result<InterfaceName, BadField> {
    let netns: Netns = netns.map_or(Ok(Netns::Host), |netns| parsed("netns", netns))?;
    Ok(InterfaceName { netns, interface: parsed("interface", interface)? })
}

/// The hook that a message names.
pub fn point(hook: i32) -> Result<Point, BadField> {
    match pb::ChainHook::try_from(hook) {
        Ok(pb::ChainHook::Unspecified | pb::ChainHook::Xdp) => Ok(Point::Xdp),
        Ok(pb::ChainHook::TcIngress) => Ok(Point::TcIngress),
        Ok(pb::ChainHook::TcEgress) => Ok(Point::TcEgress),
        Err(_) => Err(bad("hook", format!("{hook} is no shared hook"))),
    }
}

pub(in crate::codec::v1) fn chain_hook(point: Point) -> pb::ChainHook {
    match point {
        Point::Xdp => pb::ChainHook::Xdp,
        Point::TcIngress => pb::ChainHook::TcIngress,
        Point::TcEgress => pb::ChainHook::TcEgress,
    }
}

pub(in crate::codec::v1) fn asked_priority(number: Option<u32>) -> Result<Option<Priority>, BadField> {
    number.map(|number| Priority::try_from(number).map_err(|error| bad("priority", error))).transpose()
}

const FIELD: &str = "proceed_on";

pub(in crate::codec::v1) fn asked_proceed_on(set: Option<&pb::ProceedOn>) -> Result<Option<ProceedOn>, BadField> {
    let Some(pb::ProceedOn { xdp, tc }) = set else { return Ok(None) };
    let of_xdp = xdp.iter().filter_map(|number| match pb::XdpAction::try_from(*number) {
        // What a dispatcher's empty slot returns: every chain of ours goes on after it.
        Ok(pb::XdpAction::DispatcherReturn) => None,
        Ok(pb::XdpAction::Unspecified) | Err(_) => Some(Err(bad(FIELD, format!("{number} is no XDP action")))),
        Ok(action) => Some(Ok(1 << (i32::from(action) - 1))),
    });
    let of_tc = tc.iter().map(|number| match pb::TcVerdict::try_from(*number) {
        Ok(pb::TcVerdict::Unspecified) | Err(_) => Err(bad(FIELD, format!("{number} is no verdict of tc"))),
        Ok(verdict) => Ok(ProceedOn::NEXT.bits() << (i32::from(verdict) - 1)),
    });
    let bits = of_xdp.chain(of_tc).try_fold(0, |bits, bit| Ok(bits | bit?))?;
    ProceedOn::from_bits(bits).map(Some).map_err(|error| bad(FIELD, error))
}

pub(in crate::codec::v1) fn netns(netns: &Netns) -> Option<String> {
    match netns {
        Netns::Host => None,
        Netns::Named(_) | Netns::Nameless(_) => Some(netns.to_string()),
    }
}

/// The message of a set.
pub fn proceed_on(set: ProceedOn) -> pb::ProceedOn {
    let numbers = |first: u32| (1..16).filter(move |number| set.bits() >> first >> (number - 1) & 1 == 1).collect();
    pb::ProceedOn { xdp: numbers(0), tc: numbers(ProceedOn::NEXT.bits().trailing_zeros()) }
}

/// A set as listings show it: `pass,drop`, or `none`. What this version does not know is not shown.
pub fn shown_proceed_on(set: &pb::ProceedOn) -> String {
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_ascii_lowercase();
    let of_xdp = set.xdp().map(|action| word(action.as_str_name(), "XDP_ACTION_"));
    let words: Vec<String> = of_xdp.chain(set.tc().map(|verdict| word(verdict.as_str_name(), "TC_VERDICT_"))).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_as_it_is_written() {
        for bits in (0..32).chain([1 << 16, 1 << 17, 1 << 25]) {
            let set = ProceedOn::from_bits(bits).unwrap();
            assert_eq!(asked_proceed_on(Some(&proceed_on(set))), Ok(Some(set)));
        }
        let names = |set| {
            let pb::ProceedOn { xdp, tc } = proceed_on(set);
            let xdp = xdp.into_iter().map(|action| pb::XdpAction::try_from(action).unwrap().as_str_name());
            let tc = tc.into_iter().map(|verdict| pb::TcVerdict::try_from(verdict).unwrap().as_str_name());
            xdp.chain(tc).collect::<Vec<_>>()
        };
        assert_eq!(
            names(ProceedOn::from_names(["aborted", "redirect"]).unwrap()),
            ["XDP_ACTION_ABORTED", "XDP_ACTION_REDIRECT"]
        );
        assert_eq!(names(ProceedOn::from_names(["next", "trap"]).unwrap()), ["TC_VERDICT_NEXT", "TC_VERDICT_TRAP"]);
        let both = pb::ProceedOn { xdp: vec![1], tc: vec![1] };
        assert!(asked_proceed_on(Some(&both)).is_err(), "of two hooks");
    }
}
