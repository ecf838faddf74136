//! Types: those of an object, as the kernel took them or did not, and the running kernel's own.
//!
//! It must never keep a program from loading for types that it can do without.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::{LoadError, btf_load};
use bpfd_sys::seal::Sealed;
use ebpf::relocate::{Finished, KernelBtf, Unlinked};

/// An object's types in the kernel.
#[derive(Debug)]
pub(crate) enum Types {
    /// As the kernel took them.
    Loaded(OwnedFd),
    /// The object has none.
    None,
    /// The kernel does not take them, for this reason. As with libbpf, the programs then do without, if they can.
    Refused(String),
}

impl Types {
    pub(super) fn load(unlinked: &Unlinked) -> Self {
        match unlinked.btf().map(btf_load) {
            None => Self::None,
            Some(Ok(fd)) => Self::Loaded(fd),
            Some(Err(LoadError { error, log, .. })) => {
                let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                Self::Refused(format!("{error} {last}").trim_end().to_owned())
            }
        }
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Loaded(fd) => Some(fd.as_fd()),
            Self::None | Self::Refused(_) => None,
        }
    }

    /// Refuses programs that cannot do without types that the kernel refused.
    pub(super) fn suffice(&self, programs: &[Finished]) -> Result<(), StepError> {
        let Self::Refused(why) = self else { return Ok(()) };
        let needs = programs.iter().find_map(|program| Some((&program.function, program.needs_func_info()?)));
        needs.map_or(Ok(()), |(function, does)| {
            let why = format!(
                "`{function}` {does}, which needs type information, and the kernel refused the object's: {why}"
            );
            Err(StepError::Object { why })
        })
    }

    /// The types for a program that must have them, and records of its functions.
    pub(crate) fn needed(&self, program: &Finished) -> Result<BorrowedFd<'_>, StepError> {
        let function = &program.function;
        let object = |why: String| StepError::Object { why };
        match self {
            Self::Loaded(fd) if !program.func_info.is_empty() => Ok(fd.as_fd()),
            Self::Loaded(_) | Self::None => Err(object(format!(
                "`{function}` has no type information, which sharing an interface needs: compile it with `-g`"
            ))),
            Self::Refused(why) => Err(object(format!(
                "`{function}` has type information that the kernel refused, and sharing an interface needs it: {why}"
            ))),
        }
    }
}

/// The running kernel's types, read and parsed when first needed.
#[derive(Debug)]
pub(super) struct KernelTypes {
    path: PathBuf,
    parsed: Mutex<Option<Arc<KernelBtf>>>,
    sealed: Mutex<Option<Arc<Sealed>>>,
}

impl KernelTypes {
    /// From this file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, parsed: Mutex::new(None), sealed: Mutex::new(None) }
    }

    pub(super) fn parsed(&self) -> io::Result<Option<Arc<KernelBtf>>> {
        once(&self.parsed, &self.path, |bytes| KernelBtf::parse(bytes).map_err(io::Error::other))
    }

    pub(super) fn sealed(&self) -> io::Result<Option<Arc<Sealed>>> {
        once(&self.sealed, &self.path, Sealed::from_bytes)
    }
}

fn once<T>(
    cell: &Mutex<Option<Arc<T>>>,
    path: &Path,
    make: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<Option<Arc<T>>> {
    let mut made = cell.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_none() {
        match std::fs::read(path) {
            Ok(bytes) => *made = Some(Arc::new(make(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(made.clone())
}
