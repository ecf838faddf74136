//! What numbers network namespaces have in the daemon's own, by their cookies: a namespace that no name leads to is known by its number.
//!
//! A number that bpfd gives is made of the cookie, so that it tells the namespace after a restart too. One that the kernel gave is used
//! again once its namespace ended, and tells the namespace only to who knew them both and has heard of no end since. This file must never
//! ask the kernel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kernel gives numbers from 0 on (`alloc_netid` of net/core/net_namespace.c): these are far beyond.
const GIVEN: u32 = 1 << 30;

/// So many are remembered; then all are asked for again. More than the namespaces of any host that was seen.
const REMEMBERED: usize = 1 << 14;

/// The number that bpfd gives to the namespace of a cookie. Cookies are counted, and never used again over a boot.
pub(super) fn given(cookie: u64) -> u32 {
    let low = u32::try_from(cookie % u64::from(GIVEN)).unwrap_or_default();
    GIVEN | low
}

/// What became of a namespace that no name leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Became {
    /// It has this number.
    Numbered(u32),
    /// It is no more.
    Ended,
    /// Its number is not known, if it has one.
    Unknown,
}

/// What is known of numbers; clones know the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Arc<Mutex<BTreeMap<u64, Known>>>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    Number(u32),
    Ended,
}

impl Numbers {
    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a namespace that lives.
    pub(super) fn of(&self, cookie: u64) -> Option<u32> {
        match self.known().get(&cookie) {
            Some(Known::Number(number)) => Some(*number),
            Some(Known::Ended) | None => None,
        }
    }

    /// A namespace that lives has this number, and has it until it ends.
    pub(super) fn learn(&self, cookie: u64, number: u32) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(cookie, Known::Number(number));
    }

    /// The namespace that had this number ended.
    pub(crate) fn ended(&self, number: u32) {
        let mut known = self.known();
        known.values_mut().filter(|known| **known == Known::Number(number)).for_each(|known| *known = Known::Ended);
    }

    /// Some namespaces may have ended of which nobody heard.
    pub(crate) fn doubt(&self) {
        self.known().retain(|cookie, known| *known == Known::Number(given(*cookie)));
    }

    /// See [`Became`]; `there` are the numbers that there are.
    pub(super) fn became(&self, cookie: u64, there: &[u32]) -> Became {
        match self.known().get(&cookie) {
            Some(Known::Number(number)) if there.contains(number) => Became::Numbered(*number),
            Some(Known::Number(_) | Known::Ended) => Became::Ended,
            None if there.contains(&given(cookie)) => Became::Numbered(given(cookie)),
            None => Became::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_bpfd_gave_tells_the_namespace_to_who_never_saw_it() {
        let new = Numbers::default();
        assert_eq!(new.became(4097, &[0, 1, given(4097)]), Became::Numbered(given(4097)));
        assert_eq!(new.became(4098, &[0, 1, given(4097)]), Became::Unknown);
        assert_ne!(given(4097), given(4098));
    }

    #[test]
    fn a_number_that_the_kernel_gave_tells_it_until_its_end_is_heard_of() {
        let numbers = Numbers::default();
        numbers.learn(7, 3);
        assert_eq!(numbers.became(7, &[0, 3]), Became::Numbered(3));
        assert_eq!(numbers.became(7, &[0]), Became::Ended);
        numbers.ended(3);
        // Another one has it by now.
        assert_eq!((numbers.of(7), numbers.became(7, &[0, 3])), (None, Became::Ended));
        numbers.learn(8, 3);
        numbers.learn(9, given(9));
        numbers.doubt();
        assert_eq!(numbers.became(8, &[0, 3]), Became::Unknown);
        assert_eq!(numbers.became(9, &[given(9)]), Became::Numbered(given(9)));
    }
}
