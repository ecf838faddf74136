//! Room that is kept on a file system for what removes: on a full disk `detach` and `unload` go on. A file holds it; it is given back to
//! the file system when it is needed, and taken again as soon as there is room.
//!
//! It must never be what keeps something from being removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Bytes. The log of the database needs some 20 KiB for a removal, and is reused from 4 MiB on; a record of the audit log some hundred bytes.
pub const SIZE: u64 = 4 << 20;

/// See the module.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    /// Whether all of it is there.
    whole: bool,
}

impl Reserve {
    /// The reserve in a directory, taken if there is room.
    pub fn open(directory: &Path) -> Self {
        let path = path(directory);
        let whole = is_whole(&path);
        let mut reserve = Self { path, whole };
        if let Err(error) = reserve.take() {
            tracing::warn!(path = %reserve.path.display(), %error, "cannot keep room for what removes: nothing is added until there is some");
        }
        reserve
    }

    /// Has all of it again, or says why not.
    ///
    /// # Errors
    /// The file system has no room for it.
    pub fn take(&mut self) -> io::Result<()> {
        if self.whole {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if let Err(error) = allocate(&file) {
            // What it got of it is for others.
            file.set_len(0)?;
            return Err(error);
        }
        self.whole = true;
        Ok(())
    }

    /// Gives it back to the file system, to be used at once; `false` if there was nothing to give.
    pub fn give(&mut self) -> bool {
        if !std::mem::take(&mut self.whole) {
            return false;
        }
        let given = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(0));
        if let Err(error) = &given {
            tracing::error!(path = %self.path.display(), %error, "cannot use the room that was kept");
        }
        given.is_ok()
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("reserve")
}

fn is_whole(path: &Path) -> bool {
    path.metadata().is_ok_and(|facts| facts.len() >= SIZE)
}

/// Whether the file system of a directory has no room: its reserve is given away, and cannot be taken again.
pub fn is_used_up(directory: &Path) -> bool {
    let free = statvfs(directory).map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize));
    !is_whole(&path(directory)) && free.is_ok_and(|free| free < SIZE)
}

/// Whether an error means that a file system is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn allocate(mut file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, SIZE) {
        // Some file systems cannot: they are written to.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = [0; 64 << 10];
            let chunks = SIZE.div_ceil(64 << 10);
            (0..chunks).try_for_each(|_| file.write_all(&zeros))?;
            file.sync_all()
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_given_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::open(dir.path());
        let size = || path(dir.path()).metadata().unwrap().len();
        assert_eq!(size(), SIZE);
        assert!(reserve.give() && !reserve.give(), "once");
        assert_eq!(size(), 0);
        assert!(!is_used_up(dir.path()), "there is room for it");
        reserve.take().unwrap();
        assert_eq!(size(), SIZE);
        // A daemon that finds it has it.
        assert!(Reserve::open(dir.path()).give());
    }
}
