//! What loads that are under way will take of their users' quotas. A load makes its maps long before the engine has a row of it, and many
//! loads of one user may be under way: each reserves what its object declares before anything is made.
//!
//! It must never decide how much a user may have.

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bpfd_core::quota::{OverQuota, Usage};
use bpfd_core::state::{Map, State};
use bpfd_policy::quota::Quota;
use bpfd_sys::bpf::possible_cpus;

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Reservations {
    cpus: u64,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    /// Of which user, and what.
    loads: BTreeMap<u64, (u32, Usage)>,
}

/// One load's. Dropped, it is given back: the row of the app counts from then on, or nothing is left of the load.
#[derive(Debug)]
pub struct Reserved {
    number: u64,
    held: Arc<Mutex<Held>>,
}

/// How many values an element of a per-CPU map has. A kernel that does not say is taken for one with one CPU.
pub fn cpus() -> u64 {
    possible_cpus().ok().and_then(|cpus| cpus.try_into().ok()).unwrap_or(1)
}

impl Default for Reservations {
    fn default() -> Self {
        Self { cpus: cpus(), held: Arc::default() }
    }
}

impl Reservations {
    /// For a load of an object with these maps and so many links, if that is within the quota of its user, beside what the user has and
    /// what its other loads reserved.
    pub fn reserve(
        &self,
        quota: Option<Quota>,
        state: &State,
        uid: u32,
        maps: &[Map],
        links: usize,
    ) -> Result<Reserved, OverQuota> {
        let links = u64::try_from(links).unwrap_or(u64::MAX);
        let asked = Usage { links, ..Usage::of_maps(maps, self.cpus) };
        let mut held = lock(&self.held);
        if let Some(quota) = quota {
            let others = held.loads.values().filter(|(of, _)| *of == uid).map(|(_, usage)| *usage);
            others.fold(Usage::of_user(state, uid, self.cpus), Add::add).may_add(asked, quota)?;
        }
        held.last += 1;
        let number = held.last;
        held.loads.insert(number, (uid, asked));
        Ok(Reserved { number, held: self.held.clone() })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.held).loads.remove(&self.number);
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bpfd_core::quota::Resource;

    use super::*;

    #[test]
    fn what_is_reserved_counts_until_it_is_given_back_and_only_for_its_user() {
        let quota = Some(Quota { apps: 2, links: 9, map_bytes: 1 << 20, state_bytes: 0 });
        let reservations = Reservations::default();
        let reserve = |uid| reservations.reserve(quota, &State::default(), uid, &[], 0);
        let first = reserve(7).unwrap();
        let _second = reserve(7).unwrap();
        let over = reserve(7).unwrap_err();
        assert_eq!((over.resource, over.limit, over.used, over.asked), (Resource::Apps, 2, 2, 1));
        let _of_another = reserve(8).unwrap();
        drop(first);
        let _third = reserve(7).unwrap();
        assert!(reserve(7).is_err());
    }
}
