//! Directories of a bpffs, by descriptor: an open directory is the same one whatever is mounted or renamed above it,
//! and holding it keeps the bpffs from being unmounted. Pins are made and read here by name; what the names mean is
//! the daemon's business.
use crate::bpf;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// How long to wait between two tries of a lock: peers hold it for milliseconds.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// An open directory. Its methods take names of one component; `EINVAL` for any other.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// An exclusive flock(2) on a directory, until dropped or the process ends.
#[derive(Debug)]
#[must_use = "dropping it unlocks"]
pub struct DirLock(#[expect(dead_code, reason = "held for its lock")] OwnedFd);

impl Dir {
    /// `ELOOP` or `ENOTDIR` if the last component is a symbolic link.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, flags(), Mode::empty())?))
    }

    /// A directory in this one; never through a symbolic link.
    pub fn subdir(&self, name: &str) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(&self.0, component(name)?, flags(), Mode::empty())?))
    }

    /// Makes a directory, mode 0700; `EEXIST` if there is one.
    pub fn make(&self, name: &str) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.0, component(name)?, Mode::RWXU)?;
        self.subdir(name)
    }

    /// Opens a directory, which is made if there is none.
    pub fn make_or_open(&self, name: &str) -> io::Result<Self> {
        self.make_if_absent(name)?;
        self.subdir(name)
    }

    /// The same for one that may be behind a symbolic link, as long as it is on this bpffs; else `EXDEV`.
    pub fn make_or_follow(&self, name: &str) -> io::Result<Self> {
        self.make_if_absent(name)?;
        self.follow(name)
    }

    /// A directory in this one that may be behind a symbolic link, as long as it is on this bpffs; else `EXDEV`.
    pub fn follow(&self, name: &str) -> io::Result<Self> {
        let flags = flags().difference(OFlags::NOFOLLOW);
        let dir = Self(rustix::fs::openat(&self.0, component(name)?, flags, Mode::empty())?);
        match dir.device()? == self.device()? {
            true => Ok(dir),
            false => Err(rustix::io::Errno::XDEV.into()),
        }
    }

    fn make_if_absent(&self, name: &str) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.0, component(name)?, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, component(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes a pin. What it held stays as long as something else holds it.
    pub fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, component(name)?, AtFlags::empty())?)
    }

    /// Renames within one bpffs; an existing pin at the new name is replaced.
    pub fn rename(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, component(name)?, &to.0, component(new)?)?)
    }

    /// There is something of this name.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.0, component(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_stat) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// All names in it, sorted; those that are not UTF-8 are left out: neither we nor libxdp make such.
    /// The root of a bpffs also has the kernel's own `maps.debug` and `progs.debug`.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a pin; `EEXIST` if there is one.
    pub fn pin(&self, name: &str, object: BorrowedFd<'_>) -> io::Result<()> {
        bpf::obj_pin_at(object, self.0.as_fd(), name)
    }

    /// What a pin holds; ask [`bpf::object_kind`] what that is.
    pub fn pinned(&self, name: &str) -> io::Result<OwnedFd> {
        bpf::obj_get_at(self.0.as_fd(), component(name)?)
    }

    /// It is on a bpffs.
    pub fn is_bpffs(&self) -> io::Result<bool> {
        Ok(is_magic(rustix::fs::fstatfs(&self.0)?.f_type))
    }

    /// `st_dev`: two directories are on the same bpffs if and only if these are equal.
    pub fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.0)?.st_dev)
    }

    /// Locks the directory, as libxdp locks its own (`xdp_lock_acquire`); `None` if another still holds it at
    /// `deadline`. Tried at least once. Two locks of one process exclude each other too.
    pub fn lock(&self, deadline: Instant) -> io::Result<Option<DirLock>> {
        // A lock belongs to an open file, so each needs its own.
        let own = rustix::fs::openat(&self.0, ".", flags(), Mode::empty())?;
        loop {
            match rustix::fs::flock(&own, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(DirLock(own))),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(None),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Mounts a new bpffs, mode 0700, over `target`.
pub fn mount(target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("bpf", target, "bpf", flags, Some(c"mode=0700"))?)
}

/// Unmounts; `EBUSY` while anything on it is open. All pins of that bpffs die with its last mount.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)?)
}

/// `path` is on a bpffs.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(is_magic(rustix::fs::statfs(path)?.f_type))
}

/// `st_dev` of `path`.
pub fn device(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::stat(path)?.st_dev)
}

/// `st_dev` of what PID 1 sees mounted at a directory. Only those who may trace it can look there by `/proc/1/root`, and services may not.
pub fn device_of_host(directory: &str) -> io::Result<Option<u64>> {
    Ok(device_at(&std::fs::read_to_string("/proc/1/mountinfo")?, directory))
}

/// By proc_pid_mountinfo(5). The last one lies on top.
fn device_at(mountinfo: &str, directory: &str) -> Option<u64> {
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, _root, mounted) = (fields.next()?, fields.next()?, fields.next()?);
        (mounted == directory).then(|| device.split_once(':'))?
    });
    let (major, minor) = mounts.next_back()?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// `f_type` is a signed word on some targets; the low 32 bits are the magic.
fn is_magic(kind: impl Into<i128>) -> bool {
    kind.into() & 0xffff_ffff == i128::from(BPF_FS_MAGIC)
}

fn component(name: &str) -> io::Result<&str> {
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_top_of_a_directory_is_what_is_mounted_there() {
        let mounts =
            "24 30 0:22 / /sys rw,nosuid - sysfs sysfs rw\n31 24 0:27 / /sys/fs/bpf rw shared:9 - bpf bpf rw\n";
        let above = format!("{mounts}40 31 0:41 / /sys/fs/bpf rw - bpf bpf rw\n");
        assert_eq!(device_at(mounts, "/sys/fs/bpf"), Some(rustix::fs::makedev(0, 27)));
        assert_eq!(device_at(&above, "/sys/fs/bpf"), Some(rustix::fs::makedev(0, 41)));
        assert_eq!(device_at(mounts, "/sys/fs"), None);
    }

    #[test]
    fn a_name_with_a_path_in_it_is_refused() {
        let dir = Dir::open(Path::new("/")).unwrap();
        for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            assert!(dir.subdir(name).is_err() && dir.exists(name).is_err() && dir.unlink(name).is_err(), "{name:?}");
        }
        assert!(dir.exists("proc").unwrap());
    }

    #[test]
    fn a_lock_held_elsewhere_is_waited_for_until_the_deadline() {
        let scratch = std::env::temp_dir().join(format!("bpfd-sys-lock-{}", std::process::id()));
        std::fs::create_dir(&scratch).unwrap();
        let dir = Dir::open(&scratch).unwrap();
        let held = dir.lock(Instant::now()).unwrap().unwrap();
        let refused = Dir::open(&scratch).unwrap().lock(Instant::now() + Duration::from_millis(5)).unwrap();
        drop(held);
        let free = dir.lock(Instant::now()).unwrap();
        std::fs::remove_dir(&scratch).unwrap();
        assert!(refused.is_none());
        assert!(free.is_some());
    }
}
