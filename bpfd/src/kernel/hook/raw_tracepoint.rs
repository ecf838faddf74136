//! Raw tracepoints: one kernel link.
//!
//! This file must never pin.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use bpfd_core::hook::{OwnHook, RawTracepoint};
use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::raw_tracepoint_open;

use super::{Attach, Host};
use crate::kernel::failed;

impl Attach for RawTracepoint {
    fn attach(&self, _: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
        let open = CString::new(self.event())
            .map_err(io::Error::from)
            .and_then(|name| raw_tracepoint_open(Some(&name), program));
        let link = open.map_err(|error| match error.kind() {
            // `bpf_get_raw_tracepoint` found none (kernel/bpf/syscall.c), in modules neither.
            io::ErrorKind::NotFound => StepError::NoTarget(OwnHook::RawTracepoint(self.clone())),
            _ => failed(|| "make its link")(error),
        })?;
        Ok(vec![link])
    }
}
