//! Network namespaces: open, tell apart, work inside. A namespace belongs to a thread; nothing here touches the
//! process's other threads.
use crate::sockopt;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// `NS_GET_NSTYPE` (include/uapi/linux/nsfs.h).
const NS_GET_NSTYPE: u64 = 0xb703;

/// An open network namespace. It lives as long as this does, even with no process and no name.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// The calling thread's.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The file at `path`: a `/proc/PID/ns/net`, or a bind mount of one. Symbolic links are followed, as the former is
    /// one: `path` must come from the daemon itself, never from a caller. `EINVAL` if it is no network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// `/run/netns/NAME`, as `ip netns` makes them. `name` may come from a caller: it is one path component, and the
    /// file must not be a symbolic link (`ELOOP`).
    pub fn named(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, "/run/netns", directory, Mode::empty())?;
        let file = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::from_fd(rustix::fs::openat(directory, name, file, Mode::empty())?)
    }

    /// That of a process; `ENOENT` if it is gone. Needs CAP_SYS_PTRACE over processes of others.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Takes a descriptor; `EINVAL` (`ENOTTY`) if it is no network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the request takes no argument.
        match unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) } {
            libc::CLONE_NEWNET => Ok(Self(fd)),
            ..0 => Err(io::Error::last_os_error()),
            _other => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// The kernel's cookie: unique over this boot, never used again (Linux 5.14; `None` before). Enters it briefly.
    pub fn cookie(&self) -> io::Result<Option<u64>> {
        let socket = self.within(|| {
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        })??;
        let mut cookie = [0; 8];
        match sockopt::read(socket.as_fd(), sockopt::NETNS_COOKIE, &mut cookie) {
            Ok(_length) => Ok(Some(u64::from_ne_bytes(cookie))),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Device and inode. Two that live at the same time differ; the kernel uses them again later.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Moves the calling thread into it until the result is dropped. Needs CAP_SYS_ADMIN.
    pub fn enter(&self) -> io::Result<Entered> {
        let back = Self::current()?;
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(Entered { back, bound_to_thread: PhantomData })
    }

    /// Runs `work` with the calling thread inside. `work` must not start threads: they would stay inside.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let _entered = self.enter()?;
        Ok(work())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Netns> for OwnedFd {
    fn from(netns: Netns) -> Self {
        netns.0
    }
}

/// The calling thread is in another network namespace; dropping this takes it back. Not `Send`.
#[derive(Debug)]
#[must_use = "dropping it leaves the namespace"]
pub struct Entered {
    back: Netns,
    bound_to_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    /// A thread left in the wrong namespace would attach programs to the wrong devices: the process ends instead.
    fn drop(&mut self) {
        if move_into_link_name_space(self.back.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_and_a_file_is_not_a_namespace() {
        for name in ["", ".", "..", "../self/ns/net", "a\0"] {
            assert_eq!(Netns::named(name).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{name:?}");
        }
        assert!(Netns::open(Path::new("/dev/null")).is_err());
        assert_eq!(
            Netns::open(Path::new("/proc/self/ns/uts")).unwrap_err().raw_os_error(),
            Some(libc::EINVAL),
            "another kind of namespace"
        );
    }

    #[test]
    fn the_current_namespace_is_the_process_s_own() {
        let own = Netns::of_process(std::process::id()).unwrap();
        assert_eq!(Netns::current().unwrap().identity().unwrap(), own.identity().unwrap());
    }
}
