//! The try whether this kernel lets one program replace another's function, for real: a dispatcher, a program in the place of its
//! main function, attached to nothing, gone when this returns. What follows from it is decided in `bpfd_core::mode`.

use std::io;
use std::os::fd::AsFd;

use bpfd_core::mode::{Attempt, Capability, Stage};
use bpfd_sys::bpf::{Direction, LoadError, link_create_ext, prog_query_tcx};
use bpfd_sys::caps::{Cap, missing};
use rustix::io::Errno;

use super::chain::libxdp::load::{NoDispatcher, template};

/// Tries it.
pub(crate) fn attempt() -> io::Result<Attempt> {
    let refused = |at, error: LoadError| Ok(Attempt::Refused { at, errno: error.errno() });
    let dispatcher = match template() {
        Ok(dispatcher) => dispatcher,
        Err(NoDispatcher::Config(error)) => return Err(error),
        Err(NoDispatcher::Refused(error)) => return refused(Stage::Dispatcher, error),
    };
    let replacement = match dispatcher.replacement() {
        Ok(replacement) => replacement,
        Err(error) => return refused(Stage::Replacement, error),
    };
    Ok(match link_create_ext(replacement.as_fd(), dispatcher.program.as_fd(), dispatcher.target) {
        Ok(_) => Attempt::Attached,
        Err(error) => Attempt::Refused { at: Stage::Attach, errno: error.raw_os_error().unwrap_or(0) },
    })
}

/// Whether this kernel has tcx (Linux 6.6): an older one knows no such question. The interface asked about is `lo`.
pub(crate) fn has_tcx() -> bool {
    let asked = prog_query_tcx(1, Direction::Ingress);
    !asked.is_err_and(|error| error.raw_os_error() == Some(Errno::INVAL.raw_os_error()))
}

/// The capabilities of the try that this thread does not have in effect.
pub(crate) fn missing_capabilities() -> io::Result<Vec<Capability>> {
    let missing = missing(&[Cap::Bpf, Cap::Perfmon, Cap::NetAdmin])?;
    let named = missing.into_iter().filter_map(|cap| match cap {
        Cap::Bpf => Some(Capability::Bpf),
        Cap::Perfmon => Some(Capability::Perfmon),
        Cap::NetAdmin => Some(Capability::NetAdmin),
        Cap::SysAdmin => None,
    });
    Ok(named.collect())
}
