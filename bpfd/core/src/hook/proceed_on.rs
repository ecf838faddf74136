//! After which verdicts of a program the next one of its chain runs: a set of verdicts of one kind of hook.
//!
//! This file must never decide which set a hook can have.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Point;
use super::tc::VERDICTS;
use super::xdp::ACTIONS;
use crate::names::printable;

/// A set of verdicts, one bit each: those of XDP from bit 0 on (`enum xdp_action`, include/uapi/linux/bpf.h), those of tc from bit 16 on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ProceedOn(u32);

/// The bit of the first verdict of tc.
const TC: usize = 16;

/// The verdicts of a kind of hook, and the bit of the first.
fn verdicts(point: Point) -> (usize, &'static [&'static str]) {
    match point {
        Point::Xdp => (0, ACTIONS),
        Point::TcIngress | Point::TcEgress => (TC, VERDICTS),
    }
}

impl ProceedOn {
    /// libxdp's default (`XDP_DEFAULT_CHAIN_CALL_ACTIONS`, xdp-tools lib/libxdp/libxdp.c): go on after PASS alone.
    pub const PASS: Self = Self(1 << 2);

    /// What the kernel does on a tc hook: go on after `TCX_NEXT`, which is `TC_ACT_UNSPEC`, alone.
    pub const NEXT: Self = Self(1 << TC);

    /// What applies to a hook if nobody says.
    pub fn default_of(point: Point) -> Self {
        match point {
            Point::Xdp => Self::PASS,
            Point::TcIngress | Point::TcEgress => Self::NEXT,
        }
    }

    /// The bits, as records have them. Those of XDP are as a dispatcher's configuration has them, without libxdp's bit 31.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// A set of bits; those that are no verdict, and sets of verdicts of different hooks, are an error.
    pub fn from_bits(bits: u32) -> Result<Self, BadProceedOn> {
        let is_one = |point| Self(bits).is_of(point);
        if is_one(Point::Xdp) || is_one(Point::TcIngress) { Ok(Self(bits)) } else { Err(BadProceedOn::Bits(bits)) }
    }

    /// The set that these names make, of the verdicts of XDP or, if they are none, of tc. An empty list is the empty set: the chain always
    /// ends here.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, BadProceedOn> {
        let names: Vec<&str> = names.into_iter().collect();
        let of = |point| {
            let (first, verdicts) = verdicts(point);
            names.iter().try_fold(Self(0), |set, name| {
                let at = verdicts.iter().position(|verdict| verdict.eq_ignore_ascii_case(name));
                let at = at.ok_or_else(|| BadProceedOn::Name(printable(name)))?;
                Ok(Self(set.0 | 1 << (first + at)))
            })
        };
        of(Point::Xdp).or_else(|error| of(Point::TcIngress).map_err(|_| error))
    }

    /// Whether all of it are verdicts of this hook.
    pub fn is_of(self, point: Point) -> bool {
        let (first, verdicts) = verdicts(point);
        let all = ((1 << verdicts.len()) - 1) << first;
        self.0 & !all == 0
    }

    /// The names of the verdicts in the set, in the kernel's order.
    pub fn names(self) -> Vec<&'static str> {
        let of = |point| {
            let (first, verdicts) = verdicts(point);
            (first..).zip(verdicts).filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name)
        };
        of(Point::Xdp).chain(of(Point::TcIngress)).collect()
    }
}

impl fmt::Display for ProceedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            names if names.is_empty() => f.write_str("none"),
            names => f.write_str(&names.join(",")),
        }
    }
}

/// A proceed-on set that names no verdict.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadProceedOn {
    /// A word.
    #[error("`{0}` is not an XDP action: aborted, drop, pass, tx or redirect (on a tc hook: next)")]
    Name(String),
    /// Bits of a mask.
    #[error("proceed-on mask {0:#x} has bits that are no verdict of one hook")]
    Bits(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proceed_on_reads_what_it_writes() {
        for bits in (0..32).chain([1 << 16, 3 << 17, 1 << 25]) {
            let set = ProceedOn::from_bits(bits).unwrap();
            // `redirect` alone is a verdict of both.
            if bits != 1 << 24 {
                assert_eq!(ProceedOn::from_names(set.names()).unwrap(), set);
            }
        }
        for bits in [1 << 5, 1 << 26, 1 | 1 << 16] {
            assert_eq!(ProceedOn::from_bits(bits), Err(BadProceedOn::Bits(bits)));
        }
        assert!(ProceedOn::from_names(["okay"]).is_err());
        assert!(ProceedOn::from_names(["pass", "next"]).is_err(), "of two hooks");
        assert_eq!(ProceedOn::PASS.to_string(), "pass");
        assert_eq!(ProceedOn::NEXT.to_string(), "next");
    }
}
