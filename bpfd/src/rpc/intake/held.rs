//! How much is held of whom: bytes of messages and calls under way, counted by user and in all. Must never wait, nor know what a
//! call is for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bpfd_policy::quota::Rate;

/// Bytes of one caller: sixteen messages of the largest size at a time.
pub(super) const OF_ONE: u64 = 16 << 20;
/// Bytes of everybody but root; with root's own this makes 64 MiB in all.
pub(super) const OF_OTHERS: u64 = 48 << 20;
/// Calls of one caller at a time, on all its connections. Each may have an answer that nobody reads yet.
pub(super) const CALLS: usize = 64;
/// The same once all users but root have [`CALLS`] together: with answers of 1 MiB that nobody reads, a hundred calls are 100 MiB.
pub(super) const CALLS_BESIDE_OTHERS: usize = 16;
/// Calls of root: agents of the host run as root, and many things are done by one command each.
const CALLS_OF_ROOT: usize = 256;
/// What is held of all callers.
#[derive(Default)]
pub(super) struct Held {
    callers: Mutex<BTreeMap<u32, OfOne>>,
    /// When callers with a rate may begin the next call: of each, the time at which a call that came at its rate would begin.
    rates: Mutex<BTreeMap<u32, Instant>>,
}

#[derive(Clone, Copy, Default)]
struct OfOne {
    bytes: u64,
    calls: usize,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Full {
    OfOne,
    OfOthers,
    Calls,
    CallsOfOthers,
    /// Of the quota of a rule, at a time.
    CallsOfRule(u32),
    /// Of the quota of a rule, in a minute.
    Rate(u32),
}

/// What one call holds. Dropped, it holds nothing.
pub(super) struct Share {
    held: Arc<Held>,
    uid: u32,
    bytes: Mutex<u64>,
}

impl Held {
    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, OfOne>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of this user begins, as often as the rules about it say.
    pub(super) fn call(self: &Arc<Self>, uid: u32, rate: Rate, now: Instant) -> Result<Share, Full> {
        let Rate { requests_per_minute, concurrent } = rate;
        let mut table = self.table();
        let others: usize = table.iter().filter(|(uid, _)| **uid != 0).map(|(_, of_one)| of_one.calls).sum();
        let calls = table.get(&uid).map_or(0, |of_one| of_one.calls);
        if calls >= if uid == 0 { CALLS_OF_ROOT } else { CALLS } {
            return Err(Full::Calls);
        }
        if uid != 0 && others >= CALLS && calls >= CALLS_BESIDE_OTHERS {
            return Err(Full::CallsOfOthers);
        }
        if let Some(limit) = concurrent
            && calls >= usize::try_from(limit).unwrap_or(usize::MAX)
        {
            return Err(Full::CallsOfRule(limit));
        }
        if let Some(limit) = requests_per_minute {
            self.at_rate(uid, limit, now)?;
        }
        let of_one = table.entry(uid).or_default();
        of_one.calls += 1;
        Ok(Share { held: self.clone(), uid, bytes: Mutex::default() })
    }
}

impl Held {
    /// Whether a call may begin now: a minute's calls may come at once, and then one each time that one is due.
    fn at_rate(&self, uid: u32, limit: u32, now: Instant) -> Result<(), Full> {
        const MINUTE: Duration = Duration::from_secs(60);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is not ahead of its rate is as one who never called.
        rates.retain(|_, due| *due > now);
        let due = rates.get(&uid).copied().unwrap_or(now) + MINUTE / limit.max(1);
        if due > now + MINUTE {
            return Err(Full::Rate(limit));
        }
        rates.insert(uid, due);
        Ok(())
    }
}

impl Share {
    /// Holds so much from now on, instead of what it held.
    pub(super) fn hold(&self, bytes: u64) -> Result<(), Full> {
        let mut own = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.held.table();
        let others = table.iter().filter(|(uid, _)| **uid != 0).map(|(_, of_one)| of_one.bytes).sum::<u64>();
        let of_one = table.entry(self.uid).or_default();
        let without = of_one.bytes.saturating_sub(*own);
        if without.saturating_add(bytes) > OF_ONE {
            return Err(Full::OfOne);
        }
        if self.uid != 0 && others.saturating_sub(*own).saturating_add(bytes) > OF_OTHERS {
            return Err(Full::OfOthers);
        }
        of_one.bytes = without.saturating_add(bytes);
        *own = bytes;
        Ok(())
    }

    /// Holds nothing from now on.
    pub(super) fn let_go(&self) {
        // Nothing is less than any limit.
        self.hold(0).unwrap_or_default();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.let_go();
        let mut table = self.held.table();
        if let Some(of_one) = table.get_mut(&self.uid) {
            of_one.calls = of_one.calls.saturating_sub(1);
            if of_one.calls == 0 {
                table.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_has_a_limit_for_one_and_one_for_all_but_root() {
        let held: Arc<Held> = Arc::default();
        let hold = |uid: u32, mib: u64| {
            let share = held.call(uid, Rate::default(), Instant::now()).unwrap();
            share.hold(mib << 20).map(|()| share)
        };
        let one = hold(1, 15).unwrap();
        assert_eq!(hold(1, 2).err(), Some(Full::OfOne));
        // The next message in the place of the last.
        one.hold(16 << 20).unwrap();
        let (_two, _three) = (hold(2, 16).unwrap(), hold(3, 16).unwrap());
        assert_eq!(hold(4, 1).err(), Some(Full::OfOthers));
        let _root = hold(0, 16).unwrap();
        drop(one);
        let _four = hold(4, 1).unwrap();
    }

    #[test]
    fn calls_of_a_rule_have_a_limit_at_a_time_and_in_a_minute() {
        let held: Arc<Held> = Arc::default();
        let start = Instant::now();
        let two = Rate { concurrent: Some(2), requests_per_minute: None };
        let _first = held.call(1, two, start).unwrap();
        let second = held.call(1, two, start).unwrap();
        assert_eq!(held.call(1, two, start).err(), Some(Full::CallsOfRule(2)));
        drop(second);
        assert!(held.call(1, two, start).is_ok() && held.call(2, two, start).is_ok());
        let slow = Rate { concurrent: None, requests_per_minute: Some(60) };
        let at = |seconds| held.call(3, slow, start + Duration::from_secs(seconds)).map(drop);
        assert_eq!((0..60).map(|_| at(0)).filter(Result::is_ok).count(), 60);
        assert_eq!(at(0), Err(Full::Rate(60)));
        assert_eq!((at(1), at(1)), (Ok(()), Err(Full::Rate(60))));
        assert_eq!((0..100).map(|_| at(600)).filter(Result::is_ok).count(), 60);
        assert!(held.call(4, slow, start).is_ok());
    }

    #[test]
    fn calls_have_a_limit_and_end() {
        let held: Arc<Held> = Arc::default();
        let call = |uid| held.call(uid, Rate::default(), Instant::now());
        let calls: Vec<Share> = std::iter::from_fn(|| call(1).ok()).take(1000).collect();
        assert_eq!(calls.len(), CALLS);
        assert!(call(2).is_ok() && call(0).is_ok());
        // Others have fewer each by now, so that all together do not have as many as there are users.
        let of_another: Vec<Share> = std::iter::from_fn(|| call(2).ok()).take(1000).collect();
        assert_eq!((of_another.len(), call(2).err()), (CALLS_BESIDE_OTHERS, Some(Full::CallsOfOthers)));
        assert!(call(3).is_ok());
        drop(of_another);
        drop(calls);
        assert!(call(1).is_ok());
        assert!(held.table().is_empty());
    }
}
