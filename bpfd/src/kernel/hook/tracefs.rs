//! Where tracefs is read: the host's mount, else one that only this process has.
//!
//! This file must never change the host's mounts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A tracefs: what events there are, and their numbers.
#[derive(Debug)]
pub(crate) struct Tracefs {
    mounted: PathBuf,
    private: Option<OwnedFd>,
}

/// Where the kernel's documentation has it mounted.
pub(crate) const MOUNTED: &str = "/sys/kernel/tracing";

impl Tracefs {
    pub(crate) fn new(mounted: PathBuf) -> Self {
        Self { mounted, private: None }
    }

    /// The host's if it is mounted, else a mount of our own without a place in any tree.
    pub(super) fn root(&mut self) -> io::Result<PathBuf> {
        if self.mounted.join("events").try_exists()? {
            return Ok(self.mounted.clone());
        }
        let fd = match self.private.take() {
            Some(fd) => fd,
            None => mount()?,
        };
        let path = Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string());
        self.private = Some(fd);
        Ok(path)
    }
}

fn mount() -> io::Result<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
