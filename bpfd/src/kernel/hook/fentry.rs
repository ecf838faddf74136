//! Fentry and fexit: one kernel link, to the function that the program was loaded for.
//!
//! This file must never pin.

use std::os::fd::{BorrowedFd, OwnedFd};

use bpfd_core::hook::{Fentry, Fexit};
use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::raw_tracepoint_open;

use super::{Attach, Host, trampoline_refused};

impl Attach for Fentry {
    fn attach(&self, _: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
        attach(program)
    }
}

impl Attach for Fexit {
    fn attach(&self, _: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
        attach(program)
    }
}

fn attach(program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
    // Without a name: to what it was loaded for (`bpf_raw_tp_link_attach`, kernel/bpf/syscall.c).
    let link =
        raw_tracepoint_open(None, program).map_err(|error| trampoline_refused(|| "make its link".to_owned(), error))?;
    Ok(vec![link])
}
