//! Objects by sha256 in `/var/lib/bpfd/objects`: uploads, and what images held. Loading the same bytes again, after a restart or
//! a boot, needs them.
//!
//! A file is written under another name, synced, then renamed: a name means whole bytes. Reading hashes again. Files that no app
//! uses are swept when they are an hour old. This file must never look inside an object.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bpfd_core::state::ObjectDigest;
use bpfd_policy::digest::Digest;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Bytes of one object at most (design: limits of an image's object).
pub const OBJECT_MAX: u64 = 16 << 20;
/// How long an object that no app uses stays: a client uploads first and loads then.
const UNUSED_KEPT: Duration = Duration::from_secs(60 * 60);

/// See the module.
#[derive(Clone, Debug)]
pub struct Objects {
    dir: PathBuf,
}

/// An object on its way in. Dropped before `finish`, it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
}

/// Why an object did not get in.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// Over the limit.
    #[error("an object has at most {OBJECT_MAX} bytes")]
    TooLarge,
    /// The disk.
    #[error("cannot store the object")]
    Write(#[from] io::Error),
}

impl Objects {
    /// Opens the directory, making it if it is absent, and removes what earlier runs left half-written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("incoming-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// A new object, to be written in pieces.
    pub fn incoming(&self) -> io::Result<Incoming> {
        let path = self.dir.join(format!("incoming-{}", Uuid::new_v4().as_simple()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Incoming { dir: self.dir.clone(), path, file, hash: Sha256::new(), size: 0 })
    }

    /// Stores bytes that are at hand; those that are stored already stay as they are.
    pub fn put(&self, bytes: &[u8]) -> Result<ObjectDigest, IncomingError> {
        let digest = ObjectDigest(Digest::of(bytes));
        if self.read(&digest).is_ok() {
            return Ok(digest);
        }
        let mut incoming = self.incoming()?;
        incoming.write(bytes)?;
        Ok(incoming.finish()?.0)
    }

    /// The bytes of that hash; `NotFound` if they are not here, `InvalidData` if the file no longer hashes to its name. Whoever reads them
    /// may be about to use them: no sweep takes them for an hour.
    pub fn read(&self, digest: &ObjectDigest) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let path = self.dir.join(digest.to_string());
        File::open(&path)?.take(OBJECT_MAX + 1).read_to_end(&mut bytes)?;
        let found = ObjectDigest(Digest::of(&bytes));
        if found == *digest {
            if let Err(error) =
                File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()))
            {
                tracing::warn!(%error, path = %path.display(), "cannot mark an object as used");
            }
            Ok(bytes)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("object {digest} hashes to {found}")))
        }
    }

    /// Whether there are bytes by the name of that hash.
    pub fn has(&self, digest: &ObjectDigest) -> bool {
        self.dir.join(digest.to_string()).is_file()
    }

    /// Removes objects that are not in `used` and have not been touched for an hour.
    pub fn sweep(&self, used: &BTreeSet<ObjectDigest>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let digest: Option<ObjectDigest> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            if digest.is_some_and(|digest| !used.contains(&digest)) && age > UNUSED_KEPT {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Incoming {
    /// Takes the next piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), IncomingError> {
        self.size = self.size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if self.size > OBJECT_MAX {
            return Err(IncomingError::TooLarge);
        }
        self.hash.update(piece);
        Ok(self.file.write_all(piece)?)
    }

    /// All pieces are here: the object has its name. Gives its hash and its size.
    pub fn finish(mut self) -> io::Result<(ObjectDigest, u64)> {
        let digest = ObjectDigest(<[u8; 32]>::from(std::mem::take(&mut self.hash).finalize()).into());
        if (Objects { dir: self.dir.clone() }).read(&digest).is_ok() {
            return Ok((digest, self.size));
        }
        self.file.sync_all()?;
        fs::rename(&self.path, self.dir.join(digest.to_string()))?;
        File::open(&self.dir)?.sync_all()?;
        Ok((digest, self.size))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `finish` the name is gone; before it, what is left has no use.
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot remove an incomplete object file")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_was_put_comes_back_and_a_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = objects.put(b"bytes").unwrap();
        assert_eq!(objects.read(&digest).unwrap(), b"bytes");
        fs::write(dir.path().join(digest.to_string()), b"bytez").unwrap();
        assert_eq!(objects.read(&digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(objects.read(&ObjectDigest::from([0; 32])).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_object_that_is_broken_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let mut incoming = objects.incoming().unwrap();
        incoming.write(b"half").unwrap();
        drop(incoming);
        assert_eq!(names(dir.path()), 0);
        std::mem::forget(objects.incoming().unwrap());
        Objects::open(dir.path()).unwrap();
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn what_is_stored_is_not_written_again_unless_it_is_damaged() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = objects.put(b"bytes").unwrap();
        let path = dir.path().join(digest.to_string());
        let (file, old) = (fs::metadata(&path).unwrap().ino(), SystemTime::now() - Duration::from_secs(7200));
        let age = || File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let again = || {
            let mut incoming = objects.incoming().unwrap();
            incoming.write(b"bytes").unwrap();
            assert_eq!(incoming.finish().unwrap(), (digest, 5));
        };
        let put = || assert_eq!(objects.put(b"bytes").unwrap(), digest);
        let stores: [&dyn Fn(); 2] = [&put, &again];
        for store in stores {
            age();
            store();
            // The same file, and young again: a sweep leaves it.
            assert_eq!(fs::metadata(&path).unwrap().ino(), file);
            assert_eq!((objects.sweep(&BTreeSet::new()).unwrap(), names(dir.path())), (0, 1));
        }
        fs::write(&path, b"bytez").unwrap();
        again();
        assert_eq!(objects.read(&digest).unwrap(), b"bytes");
    }

    #[test]
    fn sixteen_mebibytes_is_the_most() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let mut incoming = objects.incoming().unwrap();
        let piece = vec![0; 1 << 20];
        (0..16).for_each(|_| incoming.write(&piece).unwrap());
        assert!(matches!(incoming.write(&[0]), Err(IncomingError::TooLarge)));
    }

    #[test]
    fn only_old_unused_objects_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let [used, old, young] = [b"used", b"old!", b"new!"].map(|bytes| objects.put(bytes).unwrap());
        let hours_ago = SystemTime::now() - Duration::from_secs(7200);
        for digest in [used, old] {
            let file = OpenOptions::new().write(true).open(dir.path().join(digest.to_string())).unwrap();
            file.set_modified(hours_ago).unwrap();
        }
        assert_eq!(objects.sweep(&[used].into()).unwrap(), 1);
        assert!(objects.read(&used).is_ok() && objects.read(&young).is_ok() && objects.read(&old).is_err());
    }
}
