//! Places for work on images, which are few: each is a process, or memory for an object. Root has places of its own, and no other user
//! has all that there are.
//!
//! It must never know what the work is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ImageError;

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    /// For root alone.
    pub(super) root: usize,
    /// For all others together.
    pub(super) others: usize,
    /// For one of these.
    pub(super) each: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    number: Number,
    root: Arc<Semaphore>,
    others: Arc<Semaphore>,
    /// Of users that have a place, or wait for one.
    users: Mutex<BTreeMap<u32, Weak<Semaphore>>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _shared: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new(number: Number) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { number, root: places(number.root), others: places(number.others), users: Mutex::default() }
    }

    /// A place for a user, as soon as there is one. Who has all that it may have waits for its own, and nobody behind it.
    pub(super) async fn of(&self, uid: u32) -> Result<Place, ImageError> {
        let lost = |_closed| ImageError::Lost;
        if uid == 0 {
            let root = self.root.clone().acquire_owned().await.map_err(lost)?;
            return Ok(Place { _shared: root, _own: None });
        }
        let own = self.of_user(uid).acquire_owned().await.map_err(lost)?;
        let shared = self.others.clone().acquire_owned().await.map_err(lost)?;
        Ok(Place { _shared: shared, _own: Some(own) })
    }

    /// Whether nobody but root gets one now.
    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.others.available_permits() == 0
    }

    fn of_user(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, places| places.strong_count() > 0);
        let known = users.get(&uid).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let places = Arc::new(Semaphore::new(self.number.each));
            users.insert(uid, Arc::downgrade(&places));
            places
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A place, if there is one now.
    fn now(places: &Places, uid: u32) -> Option<Place> {
        match pin!(places.of(uid)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => place.ok(),
            Poll::Pending => None,
        }
    }

    #[test]
    fn root_has_places_of_its_own_and_nobody_has_those_of_all() {
        let places = Places::new(Number { root: 1, others: 3, each: 2 });
        let first = now(&places, 7).unwrap();
        let _second = now(&places, 7).unwrap();
        assert!(now(&places, 7).is_none(), "it has as many as it may");
        let _of_another = now(&places, 8).unwrap();
        assert!(now(&places, 9).is_none(), "there are no more");
        let of_root = now(&places, 0).unwrap();
        assert!(now(&places, 0).is_none());
        drop((first, of_root));
        let _ninth = now(&places, 9).unwrap();
        assert!(now(&places, 7).is_none() && now(&places, 0).is_some());
    }
}
