//! Tracepoints: a perf event, and a kernel link that holds it and the program. The pin keeps the link; unpinning detaches.
//!
//! Needs Linux 5.15 (`BPF_LINK_TYPE_PERF_EVENT`). This file must never change the host's mounts: where no tracefs is mounted, it
//! reads one that only this process has.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use bpfd_core::hook::Tracepoint;
use bpfd_core::ident::{AppUid, LinkUid};
use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::{ObjectKind, object_kind};
use bpfd_sys::perf;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::pins::{self, Pins};
use super::{app, failed};

/// Where the numbers of tracepoints are.
#[derive(Debug)]
pub(crate) struct Tracefs {
    mounted: PathBuf,
    private: Option<OwnedFd>,
}

impl Tracefs {
    pub(crate) fn new(mounted: PathBuf) -> Self {
        Self { mounted, private: None }
    }

    /// The host's if it is mounted, else a mount of our own without a place in any tree.
    fn root(&mut self) -> io::Result<PathBuf> {
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

/// Attaches a pinned program and pins the link as `v1/link/<link>`.
pub(crate) fn attach(
    pins: &Pins,
    tracefs: &mut Tracefs,
    link: LinkUid,
    app: AppUid,
    function: &str,
    tracepoint: &Tracepoint,
) -> Result<(), StepError> {
    let doing = || format!("attach `{function}` to tracepoint `{tracepoint}`");
    let program = app::program(pins, app, function).map_err(failed(doing))?;
    let root = tracefs.root().map_err(failed(|| "read tracefs".to_owned()))?;
    let id =
        perf::tracepoint_id(&root, tracepoint.category(), tracepoint.event()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StepError::NoTracepoint(tracepoint.clone()),
            _ => failed(doing)(error),
        })?;
    let event = perf::open_tracepoint(id).map_err(failed(doing))?;
    let attached = perf::attach(event.as_fd(), program.as_fd()).map_err(|error| match error.raw_os_error() {
        Some(errno) if errno == Errno::INVAL.raw_os_error() => {
            StepError::Call { doing: doing(), errno: format!("{error}; it needs Linux 5.15") }
        }
        _ => failed(doing)(error),
    })?;
    pins.links.pin(&link.to_string(), attached.as_fd()).map_err(failed(|| format!("pin link {link}")))
}

/// Unpins a link, which detaches it; nothing if there is none.
pub(crate) fn detach(pins: &Pins, link: LinkUid) -> Result<(), StepError> {
    pins.links.unlink(&link.to_string()).or_else(pins::absent_is_fine).map_err(failed(|| format!("unpin link {link}")))
}

/// Every pinned link. A pin that is no link is none.
pub(crate) fn observe(pins: &Pins) -> io::Result<BTreeSet<LinkUid>> {
    let mut links = BTreeSet::new();
    for link in pins.link_names()? {
        if object_kind(pins.links.pinned(&link.to_string())?.as_fd())? == ObjectKind::Link {
            links.insert(link);
        }
    }
    Ok(links)
}
