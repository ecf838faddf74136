//! Own hooks: attached, pinned as `v1/link/<link>/<n>`, seen and detached. A link is one or more kernel links; the pins hold them,
//! and unpinning detaches. A kind is a file beside this one and a line in `attach`.
//!
//! This file must never name a kind elsewhere, nor decide what is attached.

mod fentry;
mod kprobe;
mod raw_tracepoint;
pub(crate) mod tracefs;
mod tracepoint;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bpfd_core::hook::OwnHook;
use bpfd_core::ident::{AppUid, LinkUid};
use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::{ObjectKind, object_kind};
use bpfd_sys::caps::{Cap, missing};
use bpfd_sys::perf;
use rustix::io::Errno;

use super::pins::{self, Pins};
use super::{app, failed};
use tracefs::Tracefs;

/// `ENOTSUPP` of include/linux/errno.h, which has no name outside the kernel.
const NOT_SUPPORTED: i32 = 524;

/// What attaching may need of the host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) tracefs: Tracefs,
}

/// How a kind of own hook is attached to.
trait Attach {
    /// Attaches a program; gives the kernel links, at least one, which detach when the last descriptor or pin of each goes.
    fn attach(&self, host: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError>;

    /// The target that was probably meant, if there is none of this name.
    fn nearest(&self) -> Option<String> {
        None
    }
}

/// The target that was probably meant by one that this kernel does not have.
pub(crate) fn nearest_target(hook: &OwnHook) -> Option<String> {
    match hook {
        OwnHook::Tracepoint(hook) => hook.nearest(),
        OwnHook::RawTracepoint(hook) => hook.nearest(),
        OwnHook::Kprobe(hook) => hook.nearest(),
        OwnHook::Kretprobe(hook) => hook.nearest(),
        OwnHook::Fentry(hook) => hook.nearest(),
        OwnHook::Fexit(hook) => hook.nearest(),
    }
}

/// A kernel link of a program and a perf event.
fn perf_link(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<OwnedFd, StepError> {
    perf::attach(event, program).map_err(|error| match is(&error, Errno::INVAL) {
        // `BPF_LINK_TYPE_PERF_EVENT`; programs on perf events without it cannot be pinned.
        true => {
            StepError::KernelLacks { what: "a pinned link of a perf event".to_owned(), needs: "Linux 5.15".to_owned() }
        }
        false => failed(|| "make its link")(error),
    })
}

/// Why a program that the kernel calls by a trampoline was not loaded or attached. `EPERM` is the kernel's own answer only if no
/// capability is missing.
pub(super) fn trampoline_refused(doing: impl FnOnce() -> String, error: io::Error) -> StepError {
    let permitted = || missing(&[Cap::Bpf, Cap::Perfmon]).is_ok_and(|missing| missing.is_empty());
    let lacks = |needs: &str| StepError::KernelLacks {
        what: "a program that is called by a trampoline".to_owned(),
        needs: needs.to_owned(),
    };
    if error.raw_os_error() == Some(NOT_SUPPORTED) || is(&error, Errno::OPNOTSUPP) {
        return lacks("a kernel with BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)");
    }
    if is(&error, Errno::PERM) && permitted() {
        return lacks(
            "a kernel that allows BPF trampolines: this one refuses them, although bpfd has all capabilities",
        );
    }
    failed(doing)(error)
}

/// Attaches a pinned program and pins its kernel links, all of them or none.
pub(crate) fn attach(
    pins: &Pins,
    host: &mut Host,
    link: LinkUid,
    (app, function): (AppUid, &str),
    hook: &OwnHook,
) -> Result<(), StepError> {
    let program = app::program(pins, app, function).map_err(failed(|| attaching(function, hook)))?;
    let program = program.as_fd();
    // The registry of own hooks: a new kind is a line here.
    let links = match hook {
        OwnHook::Tracepoint(hook) => hook.attach(host, program),
        OwnHook::RawTracepoint(hook) => hook.attach(host, program),
        OwnHook::Kprobe(hook) => hook.attach(host, program),
        OwnHook::Kretprobe(hook) => hook.attach(host, program),
        OwnHook::Fentry(hook) => hook.attach(host, program),
        OwnHook::Fexit(hook) => hook.attach(host, program),
    };
    let links = links.map_err(|error| error.while_doing(|| attaching(function, hook)))?;
    pins::make_whole(&pins.links, &link.to_string(), |dir| {
        links.iter().enumerate().try_for_each(|(number, fd)| {
            dir.pin(&number.to_string(), fd.as_fd()).map_err(failed(|| format!("pin link {link}")))
        })
    })
}

fn attaching(function: &str, hook: &OwnHook) -> String {
    format!("attach `{function}` to {} `{}`", hook.noun(), hook.target())
}

/// Unpins a link, which detaches it; nothing if there is none. Earlier versions pinned a link's one kernel link by the link's name.
pub(crate) fn detach(pins: &Pins, link: LinkUid) -> Result<(), StepError> {
    let name = link.to_string();
    let removed = match pins.links.subdir(&name) {
        Err(error) if is(&error, Errno::NOTDIR) => pins.links.unlink(&name),
        Ok(_) | Err(_) => pins::remove_whole(&pins.links, &name),
    };
    removed.or_else(pins::absent_is_fine).map_err(failed(|| format!("unpin link {link}")))
}

/// Every pinned link, and every one that is half-made. A pin that is no link is none.
pub(crate) fn observe(pins: &Pins) -> io::Result<(BTreeSet<LinkUid>, BTreeSet<LinkUid>)> {
    let (whole, half) = pins.link_names()?;
    let mut links = BTreeSet::new();
    for link in whole {
        let held = match pins.links.subdir(&link.to_string()) {
            Ok(dir) => {
                let held = dir.names()?.iter().map(|name| dir.pinned(name)).collect::<io::Result<Vec<_>>>()?;
                held.into_iter().map(|fd| object_kind(fd.as_fd())).collect::<io::Result<Vec<_>>>()?
            }
            Err(error) if is(&error, Errno::NOTDIR) => {
                vec![object_kind(pins.links.pinned(&link.to_string())?.as_fd())?]
            }
            Err(error) => return Err(error),
        };
        if !held.is_empty() && held.iter().all(|kind| *kind == ObjectKind::Link) {
            links.insert(link);
        }
    }
    Ok((links, half.into_iter().collect()))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
