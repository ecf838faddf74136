//! The try whether this kernel lets one program replace another's function, for real: a dispatcher, a program in the place of its
//! main function, attached to nothing, gone when this returns. What follows from it is decided in `bpfd_core::mode`.

use std::io;
use std::os::fd::AsFd;

use bpfd_core::mode::{Attempt, Capability, Stage};
use bpfd_sys::bpf::{LoadError, link_create_ext};
use bpfd_sys::caps::{Cap, missing};

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
