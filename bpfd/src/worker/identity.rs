//! Whom workers run as that see foreign bytes or a network: the user `bpfd-worker`, or, where there is none, a number of its own for
//! each worker that runs. Never `nobody`, whom other services run as too.
//!
//! The user database is looked at once, when the daemon starts. Must never give root's ids, nor one number to two workers at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::config::UidBase;
use bpfd_sys::worker::Ids;

/// The user that packages make for workers.
const USER: &str = "bpfd-worker";

/// Bytes read of /etc/passwd.
const DATABASE_MAX: u64 = 4 << 20;

/// Who workers are.
#[derive(Debug)]
pub struct Identities {
    source: Source,
    /// Numbers that somebody has.
    taken: Mutex<BTreeSet<u32>>,
}

#[derive(Debug)]
enum Source {
    User(Ids),
    /// Some of these have a name in the user database: those are somebody's.
    Numbers(Vec<Ids>),
}

/// A worker's identity, its own until this is dropped: hold it for longer than the worker.
#[derive(Debug)]
pub struct Identity {
    ids: Ids,
    of: Arc<Identities>,
}

impl Identities {
    /// As the host's user database says.
    pub fn of_host(base: UidBase) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(Path::new("/etc/passwd")) {
            Ok(file) => file.take(DATABASE_MAX).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Self::of(&String::from_utf8_lossy(&bytes), base)
    }

    fn of(passwd: &str, base: UidBase) -> io::Result<Self> {
        // `name:password:uid:gid:…` (passwd(5)).
        let users = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
            Some((name, uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?))
        });
        let users: Vec<_> = users.collect();
        let source = match users.iter().find(|(name, ..)| *name == USER) {
            Some((_, uid, gid)) => Source::User(Ids::new(*uid, *gid).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("user `{USER}` has root's user or group id"))
            })?),
            None => {
                let free = |uid: &u32| users.iter().all(|(_, known, _)| known != uid);
                Source::Numbers(base.uids().filter(free).filter_map(|uid| Ids::new(uid, uid)).collect())
            }
        };
        Ok(Self { source, taken: Mutex::default() })
    }

    /// An identity for one worker.
    pub fn lend(self: &Arc<Self>) -> io::Result<Identity> {
        let ids = match &self.source {
            Source::User(ids) => *ids,
            Source::Numbers(all) => {
                let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                let free = all.iter().find(|ids| !taken.contains(&ids.uid())).copied();
                let ids = free.ok_or_else(|| io::Error::other("every user id of workers is in use"))?;
                taken.insert(ids.uid());
                ids
            }
        };
        Ok(Identity { ids, of: self.clone() })
    }
}

impl Default for Identities {
    /// Numbers from the default base on.
    fn default() -> Self {
        let ids = UidBase::default().uids().filter_map(|uid| Ids::new(uid, uid));
        Self { source: Source::Numbers(ids.collect()), taken: Mutex::default() }
    }
}

impl Identity {
    /// The user and the group.
    pub fn ids(&self) -> Ids {
        self.ids
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.of.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ids.uid());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identities(passwd: &str, base: u32) -> Arc<Identities> {
        Arc::new(Identities::of(passwd, UidBase::new(base).unwrap()).unwrap())
    }

    #[test]
    fn the_user_of_that_name_is_every_worker() {
        let of = identities("root:x:0:0::/:/bin/sh\nbpfd-worker:x:990:991::/:/bin/false\n", 61_100);
        let (one, other) = (of.lend().unwrap(), of.lend().unwrap());
        assert_eq!([one.ids(), other.ids()], [Ids::new(990, 991).unwrap(); 2]);
    }

    #[test]
    fn without_that_user_each_worker_has_a_number_that_nobody_has() {
        let of = identities("a:x:61100:7::/:/bin/sh\n", 61_100);
        let one = of.lend().unwrap();
        let other = of.lend().unwrap();
        assert_eq!([one.ids().uid(), other.ids().uid()], [61_101, 61_102]);
        drop(one);
        assert_eq!(of.lend().unwrap().ids(), Ids::new(61_101, 61_101).unwrap());
    }

    #[test]
    fn there_is_an_end_to_numbers_and_root_is_no_worker() {
        let of = identities("", 61_100);
        let all: Vec<Identity> = std::iter::from_fn(|| of.lend().ok()).take(1000).collect();
        assert_eq!(all.len(), UidBase::default().uids().count());
        let root = Identities::of("bpfd-worker:x:0:0::/:/bin/sh\n", UidBase::default());
        assert_eq!(root.unwrap_err().to_string(), "user `bpfd-worker` has root's user or group id");
    }
}
