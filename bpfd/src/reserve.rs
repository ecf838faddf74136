//! Room that is kept on a file system for what removes: on a full disk `detach` and `unload` go on. A file holds it; it is given back to
//! the file system when it is needed, and taken again as soon as there is room.
//!
//! It must never be what keeps something from being removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Bytes. A removal needs some 20 KiB in the log of the database, until that is reused, and some hundred bytes in the audit log.
pub const SIZE: u64 = 4 << 20;
/// Bytes that are given at a time: others who fill the file system take what is not used at once.
const PIECE: u64 = SIZE / 16;

/// See the module.
#[derive(Debug)]
pub struct Reserve(PathBuf);

impl Reserve {
    /// The reserve in a directory, taken if there is room.
    pub fn open(directory: &Path) -> Self {
        let reserve = Self(path(directory));
        if let Err(error) = reserve.take() {
            tracing::warn!(path = %reserve.0.display(), %error, "cannot keep room for what removes: nothing is added until there is some");
        }
        reserve
    }

    /// Has all of it, or says why not.
    ///
    /// # Errors
    /// The file system has no room for it.
    pub fn take(&self) -> io::Result<()> {
        let before = length(&self.0);
        if before >= SIZE {
            return Ok(());
        }
        let file = opened(OpenOptions::new().create(true).truncate(false).mode(0o600), &self.0)?;
        if let Err(error) = allocate(&file) {
            // What it got more is for others.
            file.set_len(before)?;
            return Err(error);
        }
        Ok(())
    }

    /// Gives a piece of it back to the file system, to be used at once; `false` if there is nothing more to give.
    pub fn give(&self) -> bool {
        let before = length(&self.0);
        if before == 0 {
            return false;
        }
        let shorter = before.saturating_sub(PIECE);
        let given = opened(&mut OpenOptions::new(), &self.0).and_then(|file| file.set_len(shorter));
        if let Err(error) = &given {
            tracing::error!(path = %self.0.display(), %error, "cannot use the room that was kept");
        }
        given.is_ok()
    }
}

/// The file itself, to be written: a link, or what is no file, was put there by somebody else.
fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.write(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("reserve")
}

fn length(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |facts| facts.len())
}

/// Whether the file system of a directory has no room: some of its reserve is given away, and cannot be taken again.
pub fn is_used_up(directory: &Path) -> bool {
    let given = SIZE.saturating_sub(length(&path(directory)));
    let free = statvfs(directory).map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize));
    given > 0 && free.is_ok_and(|free| free < given)
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
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, path(dir.path())).unwrap();
        let reserve = Reserve::open(dir.path());
        assert!(reserve.take().is_err());
        reserve.give();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "kept");
    }

    #[test]
    fn it_is_taken_given_by_pieces_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path());
        let size = || length(&path(dir.path()));
        assert_eq!(size(), SIZE);
        assert!(reserve.give());
        assert_eq!(size(), SIZE - PIECE);
        assert!(!is_used_up(dir.path()), "there is room for it");
        assert_eq!((0..).take_while(|_| reserve.give()).count(), 15);
        assert_eq!(size(), 0);
        reserve.take().unwrap();
        assert_eq!(size(), SIZE);
    }
}
