//! Sealed memory files: bytes that nobody can change any more, ourselves included, so that what was checked is what is
//! used. It does not know what the bytes are.
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// No write, no growth, no shrinking, and no change of that.
fn all() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

/// A memory file with all seals.
#[derive(Debug)]
pub struct Sealed(File);

impl Sealed {
    /// Makes one of these bytes.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let plain = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = match rustix::fs::memfd_create("bpfd-object", plain | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know the flag.
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("bpfd-object", plain)?,
            other => other?,
        };
        let file = File::from(fd);
        file.write_all_at(bytes, 0)?;
        rustix::fs::fcntl_add_seals(&file, all())?;
        Ok(Self(file))
    }

    /// Takes a descriptor of unknown origin: `PermissionDenied` unless it is a memory file with all seals.
    pub fn verify(fd: OwnedFd) -> io::Result<Self> {
        match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(all()) => Ok(Self(fd.into())),
            // EINVAL: not a memory file at all.
            Ok(_) | Err(rustix::io::Errno::INVAL) => Err(io::ErrorKind::PermissionDenied.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes it holds.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// It holds nothing.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// All bytes; `FileTooLarge` if there are more than `limit`.
    pub fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.len()?).map_err(io::Error::other)?;
        if length > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_back_and_cannot_be_changed() {
        let sealed = Sealed::from_bytes(b"object").unwrap();
        assert_eq!(sealed.read(6).unwrap(), b"object");
        assert_eq!(sealed.0.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(sealed.0.set_len(0).is_err());
        assert!(sealed.0.set_len(100).is_err());
        assert_eq!(Sealed::verify(sealed.into_fd()).unwrap().read(100).unwrap(), b"object");
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        assert_eq!(Sealed::from_bytes(b"object").unwrap().read(5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(Sealed::from_bytes(b"").unwrap().is_empty().unwrap());
    }

    #[test]
    fn a_file_and_a_half_sealed_one_are_refused() {
        let refused = |fd: OwnedFd| Sealed::verify(fd).unwrap_err().kind();
        assert_eq!(refused(File::open("/dev/null").unwrap().into()), io::ErrorKind::PermissionDenied);
        let half = rustix::fs::memfd_create("half", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::fcntl_add_seals(&half, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).unwrap();
        assert_eq!(refused(half), io::ErrorKind::PermissionDenied);
    }
}
