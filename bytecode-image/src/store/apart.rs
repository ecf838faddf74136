//! A directory of its own in `ingest/` for one writer that is not trusted, as a worker is that a registry's bytes went through.
//!
//! The writer owns the directory and no other; it is not the user that owns the store. What it wrote is copied, hashed on the way,
//! into files of the store's own before anything is decided on it: who still holds a file open changes nothing then. Must never
//! rename a file of the writer's into the store.

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Gid, Uid};

use super::{Fetched, Ingest, Landed, Staged, Store, StoreError, dir::Dir, whole::check_number};
use crate::{digest::Digest, digest::Hasher, limits};

/// See the module. Dropped, it is removed with all that is in it.
#[derive(Debug)]
pub struct Apart {
    dir: Dir,
    path: PathBuf,
}

impl Apart {
    /// The directory, to be given to the writer.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Nobody can be told here; what stays is cleared at the next start.
        let _cleared_later = std::fs::remove_dir_all(&self.path);
    }
}

impl Store {
    /// A directory for a writer that runs as this user and group.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn ingest_apart(&self, uid: u32, gid: u32) -> Result<Apart, StoreError> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let mut number = 0_u64;
        loop {
            let name = format!("apart.{number}");
            match self.ingest.subdir_of(&name, uid, gid) {
                Ok(dir) => return Ok(Apart { dir, path: self.path.join("ingest").join(name) }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(self.failed("make a directory in `ingest`", error)),
            }
        }
    }

    /// [`Store::stage`] of what a writer left in its directory.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is left.
    pub fn stage_apart(&self, apart: &Apart, fetched: &Fetched) -> Result<Staged<'_>, StoreError> {
        check_number(&fetched.landed)?;
        let ingest = self.ingest()?;
        let mut own = Fetched { landed: Vec::new(), ..fetched.clone() };
        let copied = fetched.landed.iter().try_for_each(|part| {
            own.landed.push(self.copied(apart, part, &ingest)?);
            Ok(())
        });
        let discarded = |_failed: &StoreError| self.discard(&own).unwrap_or_default();
        copied.inspect_err(discarded)?;
        self.stage_own(own)
    }

    /// A part as a file of the store's own, if it is what it says.
    fn copied(&self, apart: &Apart, part: &Landed, ingest: &Ingest) -> Result<Landed, StoreError> {
        let Landed { file, descriptor } = part;
        let (digest, size, limit) = (descriptor.digest, descriptor.size, limits::LAYER);
        if size > limit {
            return Err(StoreError::TooLarge { digest, size, limit });
        }
        let doing = |source| self.failed("take in a blob", source);
        let mut from = io::Read::take(apart.dir.open(file.as_str()).map_err(doing)?, size.saturating_add(1));
        let mut copy = Hashed::new(ingest.begin(descriptor).map_err(doing)?);
        io::copy(&mut from, &mut copy).map_err(doing)?;
        let (to, hasher) = copy.into_parts();
        let (length, got): (u64, Digest) = (hasher.length(), hasher.finish());
        if got != digest || length != size {
            return Err(StoreError::NotWhatItSays { wanted: digest, got });
        }
        // What nobody reads again need not be brought to the disk with the rest. That it is there twice harms nobody: it goes with its
        // directory.
        apart.dir.remove(file.as_str()).unwrap_or_default();
        Ok(to.land())
    }

    /// Makes `ingest/` the store's own again, with nothing in it: earlier versions let one writer have all of it. Only for a start.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn take_ingest(&self) -> Result<(), StoreError> {
        self.ingest.take().map_err(|source| self.failed("own `ingest`", source))?;
        self.clear_ingest()
    }

    /// Removes a file in `ingest/`, or a directory that a writer had.
    pub(super) fn clear(&self, name: &str) -> io::Result<()> {
        match self.ingest.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                std::fs::remove_dir_all(Path::new(&self.path).join("ingest").join(name))
            }
            done => done,
        }
    }
}

/// Hashes what it writes.
pub(crate) struct Hashed<W> {
    to: W,
    hasher: Hasher,
}

impl<W> Hashed<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, hasher: Hasher::new() }
    }

    pub(crate) fn into_parts(self) -> (W, Hasher) {
        (self.to, self.hasher)
    }
}

impl<W: io::Write> io::Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
