//! Kprobes and kretprobes: a perf event of a kernel function, and a kernel link that holds it and the program.
//!
//! This file must never pin.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bpfd_core::hook::kprobe::KernelFunction;
use bpfd_core::hook::{Kprobe, Kretprobe, OwnHook};
use bpfd_core::kernel::StepError;
use bpfd_sys::perf::{self, Probe};
use rustix::io::Errno;

use super::{Attach, Host, perf_link};
use crate::kernel::failed;

impl Attach for Kprobe {
    fn attach(&self, _: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
        attach(&self.function, Probe::At(self.offset.into()), program, || OwnHook::Kprobe(self.clone()))
    }
}

impl Attach for Kretprobe {
    fn attach(&self, _: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
        attach(&self.0, Probe::Return, program, || OwnHook::Kretprobe(self.clone()))
    }
}

fn attach(
    function: &KernelFunction,
    probe: Probe,
    program: BorrowedFd<'_>,
    hook: impl Fn() -> OwnHook,
) -> Result<Vec<OwnedFd>, StepError> {
    let pmu = perf::kprobe_pmu().map_err(failed(|| "read the number of kprobes in sysfs"))?.ok_or_else(|| {
        StepError::KernelLacks {
            what: "a probe of a kernel function".to_owned(),
            needs: "a kernel built with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS".to_owned(),
        }
    })?;
    let open = CString::new(function.as_str())
        .map_err(io::Error::from)
        .and_then(|function| perf::open_kprobe(pmu, &function, probe));
    let event = open.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        // A name that is longer than those that the kernel has.
        Some(Errno::NOENT | Errno::TOOBIG) => StepError::NoTarget(hook()),
        // Blacklisted, several of that name, not the first byte of an instruction (`register_kprobe`, kernel/kprobes.c).
        Some(Errno::INVAL | Errno::ADDRNOTAVAIL | Errno::ILSEQ) => StepError::TargetRefused(hook()),
        _ => failed(|| "open its perf event")(error),
    })?;
    Ok(vec![perf_link(event.as_fd(), program)?])
}
