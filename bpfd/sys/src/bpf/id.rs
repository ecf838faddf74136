//! Kernel object ids: from an id to a descriptor, and the walk over all ids.
//!
//! All of these need CAP_SYS_ADMIN (`bpf_prog_get_fd_by_id`, kernel/bpf/syscall.c), so only the id look-up worker
//! calls them.
use super::{Command, bpf, bpf_fd};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

macro_rules! kernel_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl From<u32> for $name {
            fn from(id: u32) -> Self {
                Self(id)
            }
        }
    };
}

kernel_id! {
    /// The kernel's number of a loaded program. It is never used again before it wraps at 2³¹.
    ProgId
}
kernel_id! {
    /// The kernel's number of a map.
    MapId
}
kernel_id! {
    /// The kernel's number of a bpf_link.
    LinkId
}
kernel_id! {
    /// The kernel's number of a loaded BTF object (not of a type in it).
    BtfId
}
kernel_id! {
    /// A type's number inside one BTF object, for instance of the function a program extends.
    BtfTypeId
}

/// `BPF_*_GET_FD_BY_ID` and `BPF_*_GET_NEXT_ID`: `start_id`/`*_id`, `next_id`, `open_flags`.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next: u32,
    open_flags: u32,
}

fn by_id(command: Command, id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, ..IdAttr::default() };
    // SAFETY: `IdAttr` is this command's prefix of the union and holds no address; the command returns a descriptor.
    unsafe { bpf_fd(command, &mut attr) }
}

/// A descriptor of the program; `ENOENT` if it is gone.
pub fn prog_by_id(id: ProgId) -> io::Result<OwnedFd> {
    by_id(Command::PROG_GET_FD_BY_ID, id.0)
}

/// A descriptor of the map; `ENOENT` if it is gone.
pub fn map_by_id(id: MapId) -> io::Result<OwnedFd> {
    by_id(Command::MAP_GET_FD_BY_ID, id.0)
}

/// A descriptor of the link; `ENOENT` if it is gone, `EAGAIN` if it is being made.
pub fn link_by_id(id: LinkId) -> io::Result<OwnedFd> {
    by_id(Command::LINK_GET_FD_BY_ID, id.0)
}

/// A descriptor of the BTF object; `ENOENT` if it is gone.
pub fn btf_by_id(id: BtfId) -> io::Result<OwnedFd> {
    by_id(Command::BTF_GET_FD_BY_ID, id.0)
}

/// All ids of one kind, ascending. Objects that come and go during the walk may be missed or be gone when opened.
/// After an error the walk is over.
#[derive(Debug)]
pub struct Ids<I> {
    command: Command,
    last: Option<u32>,
    kind: PhantomData<I>,
}

impl<I> Ids<I> {
    fn of(command: Command) -> Self {
        Self { command, last: Some(0), kind: PhantomData }
    }
}

impl<I: From<u32>> Iterator for Ids<I> {
    type Item = io::Result<I>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut attr = IdAttr { id: self.last?, ..IdAttr::default() };
        // SAFETY: `IdAttr` is this command's prefix of the union and holds no address.
        match unsafe { bpf(self.command, &mut attr) } {
            Ok(_zero) => {
                self.last = Some(attr.next);
                Some(Ok(attr.next.into()))
            }
            Err(error) => {
                self.last = None;
                (error.raw_os_error() != Some(libc::ENOENT)).then_some(Err(error))
            }
        }
    }
}

/// All loaded programs.
pub fn prog_ids() -> Ids<ProgId> {
    Ids::of(Command::PROG_GET_NEXT_ID)
}

/// All maps.
pub fn map_ids() -> Ids<MapId> {
    Ids::of(Command::MAP_GET_NEXT_ID)
}

/// All links (Linux 5.8).
pub fn link_ids() -> Ids<LinkId> {
    Ids::of(Command::LINK_GET_NEXT_ID)
}

/// All loaded BTF objects, the kernel's own included.
pub fn btf_ids() -> Ids<BtfId> {
    Ids::of(Command::BTF_GET_NEXT_ID)
}
