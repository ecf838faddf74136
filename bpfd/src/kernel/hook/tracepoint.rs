//! Tracepoints: a perf event, and a kernel link that holds it and the program.
//!
//! This file must never pin.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bpfd_core::hook::{OwnHook, Tracepoint};
use bpfd_core::kernel::StepError;
use bpfd_sys::perf;

use ebpf::names::nearest;

use super::tracefs::{MOUNTED, Tracefs};
use super::{Attach, Host, perf_link};
use crate::kernel::failed;

impl Attach for Tracepoint {
    fn attach(&self, host: &mut Host, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, StepError> {
        let root = host.tracefs.root().map_err(failed(|| "read tracefs"))?;
        let id = perf::tracepoint_id(&root, self.category(), self.event()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StepError::NoTarget(OwnHook::Tracepoint(self.clone())),
            _ => failed(|| "read the tracepoint's number")(error),
        })?;
        let event = perf::open_tracepoint(id).map_err(failed(|| "open its perf event"))?;
        Ok(vec![perf_link(event.as_fd(), program)?])
    }

    fn nearest(&self) -> Option<String> {
        // A mount of our own is there for as long as this is.
        let mut tracefs = Tracefs::new(MOUNTED.into());
        let root = tracefs.root().ok()?.join("events");
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let categories = names(&root);
        let category = nearest(self.category(), categories.iter().map(String::as_str))?;
        let events = names(&root.join(category));
        let event = nearest(self.event(), events.iter().map(String::as_str))?;
        Some(format!("{category}/{event}"))
    }
}
