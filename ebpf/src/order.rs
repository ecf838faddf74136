//! The order of XDP programs on one interface, in every mode: libxdp's `cmp_xdp_programs` (`lib/libxdp/libxdp.c`), so
//! that a chain does not turn over when a peer rebuilds it.
//!
//! Owns the comparison only. Rules of bpfd's own ("before X") must be written as priorities; nothing may sort otherwise.

use std::cmp::Ordering;

/// What decides a program's place. Compared by priority, then function name, then loaded before unloaded; among loaded
/// ones by tag, then load time; among unloaded ones by size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Lower first.
    pub priority: u32,
    /// The function's full name, compared byte by byte.
    pub function: String,
    /// Whether the kernel has it.
    pub state: LoadState,
}

/// A program's state in the kernel, with what tells apart two of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadState {
    /// It has a kernel id.
    Loaded {
        /// The kernel's digest of its instructions. Differs between kernel releases: never store it.
        tag: [u8; 8],
        /// Nanoseconds since boot.
        load_time: u64,
    },
    /// It is about to be loaded.
    Unloaded {
        /// Its length in instructions, as `bpf_program__insn_cnt` counts them.
        instructions: u64,
    },
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let Self { priority, function, state } = self;
        priority
            .cmp(&other.priority)
            .then_with(|| function.as_bytes().cmp(other.function.as_bytes()))
            .then_with(|| state.cmp(&other.state))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LoadState {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Loaded { .. }, Self::Unloaded { .. }) => Ordering::Less,
            (Self::Unloaded { .. }, Self::Loaded { .. }) => Ordering::Greater,
            (Self::Loaded { tag: a, load_time: at_a }, Self::Loaded { tag: b, load_time: at_b }) => {
                a.cmp(b).then(at_a.cmp(at_b))
            }
            (Self::Unloaded { instructions: a }, Self::Unloaded { instructions: b }) => a.cmp(b),
        }
    }
}

impl PartialOrd for LoadState {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loaded(priority: u32, function: &str, tag: u8, load_time: u64) -> Candidate {
        Candidate { priority, function: function.into(), state: LoadState::Loaded { tag: [tag; 8], load_time } }
    }

    fn unloaded(priority: u32, function: &str, instructions: u64) -> Candidate {
        Candidate { priority, function: function.into(), state: LoadState::Unloaded { instructions } }
    }

    fn check(first: &Candidate, second: &Candidate) {
        assert_eq!(first.cmp(second), Ordering::Less, "{first:?} {second:?}");
        assert_eq!(second.cmp(first), Ordering::Greater);
    }

    #[test]
    fn each_rule_decides_only_where_the_ones_before_are_equal() {
        check(&loaded(10, "z", 9, 9), &loaded(11, "a", 0, 0));
        check(&loaded(10, "a", 9, 9), &loaded(10, "b", 0, 0));
        check(&loaded(10, "a", 9, 9), &unloaded(10, "a", 0));
        check(&loaded(10, "a", 1, 9), &loaded(10, "a", 2, 0));
        check(&loaded(10, "a", 1, 1), &loaded(10, "a", 1, 2));
        check(&unloaded(10, "a", 1), &unloaded(10, "a", 2));
    }

    #[test]
    fn names_compare_as_bytes_and_a_prefix_comes_first() {
        check(&loaded(1, "Z", 0, 0), &loaded(1, "a", 0, 0));
        check(&loaded(1, "pass", 0, 0), &loaded(1, "pass2", 0, 0));
        check(&loaded(1, "_pass", 0, 0), &loaded(1, "pass", 0, 0));
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        let state = prop_oneof![
            (0_u8..3, 0_u64..3).prop_map(|(tag, load_time)| LoadState::Loaded { tag: [tag; 8], load_time }),
            (0_u64..3).prop_map(|instructions| LoadState::Unloaded { instructions }),
        ];
        (0_u32..3, "[ab]{1,2}", state).prop_map(|(priority, function, state)| Candidate { priority, function, state })
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in any_candidate(), b in any_candidate(), c in any_candidate()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a.cmp(&b) == Ordering::Equal, a == b);
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }

        #[test]
        fn sorting_does_not_depend_on_the_order_before(mut chain in proptest::collection::vec(any_candidate(), 0..12)) {
            let mut reversed: Vec<_> = chain.iter().rev().cloned().collect();
            chain.sort();
            reversed.sort();
            prop_assert_eq!(chain, reversed);
        }
    }
}
