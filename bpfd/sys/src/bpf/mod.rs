//! bpf(2): one function a command, with own `#[repr(C)]` argument structs that hold only the fields in use.
//!
//! The kernel takes any `size` of `union bpf_attr`: bytes the caller leaves out count as zero, and surplus bytes must be
//! zero (`bpf_check_uarg_tail_zero`, kernel/bpf/syscall.c), so a struct that ends after its last field works on every
//! kernel. Offsets are those of include/uapi/linux/bpf.h and are checked by tests. `fd_array` has no field here on
//! purpose: bytes from outside never name our descriptors.
mod btf;
mod id;
mod info;
mod kinds;
mod link;
mod load;
mod map;
mod pin;
mod run;

pub use btf::{BtfInfo, btf_bytes, btf_info, btf_load};
pub use id::{
    BtfId, BtfTypeId, Ids, LinkId, MapId, ProgId, btf_by_id, btf_ids, link_by_id, link_ids, map_by_id, map_ids,
    prog_by_id, prog_ids,
};
pub use info::{LinkInfo, LinkKind, MapInfo, PerfKind, ProgInfo, link_info, map_info, prog_info};
pub use kinds::*;
pub use link::{
    Direction, Neighbour, Position, TcxChain, TcxEntry, link_create_ext, link_create_perf, link_create_tcx,
    link_create_xdp, link_detach, link_update, prog_attach_tcx, prog_query_tcx, raw_tracepoint_open,
};
pub use load::{LoadError, ProgBtf, ProgLoad, Records, Target, prog_bind_map, prog_load, prog_load_with_log};
pub use map::{Map, MapBtf, MapCreate, Update, possible_cpus};
pub use pin::{ObjectKind, obj_get, obj_get_at, obj_pin, obj_pin_at, object_kind};
pub use run::{TestRun, TestRunResult, prog_test_run};

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `enum bpf_cmd` of include/uapi/linux/bpf.h, as far as bpfd uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command(pub(crate) u32);

impl Command {
    pub(crate) const MAP_CREATE: Self = Self(0);
    pub(crate) const MAP_LOOKUP_ELEM: Self = Self(1);
    pub(crate) const MAP_UPDATE_ELEM: Self = Self(2);
    pub(crate) const MAP_DELETE_ELEM: Self = Self(3);
    pub(crate) const MAP_GET_NEXT_KEY: Self = Self(4);
    pub(crate) const PROG_LOAD: Self = Self(5);
    pub(crate) const OBJ_PIN: Self = Self(6);
    pub(crate) const OBJ_GET: Self = Self(7);
    pub(crate) const PROG_ATTACH: Self = Self(8);
    pub(crate) const PROG_TEST_RUN: Self = Self(10);
    pub(crate) const PROG_GET_NEXT_ID: Self = Self(11);
    pub(crate) const MAP_GET_NEXT_ID: Self = Self(12);
    pub(crate) const PROG_GET_FD_BY_ID: Self = Self(13);
    pub(crate) const MAP_GET_FD_BY_ID: Self = Self(14);
    pub(crate) const OBJ_GET_INFO_BY_FD: Self = Self(15);
    pub(crate) const PROG_QUERY: Self = Self(16);
    pub(crate) const RAW_TRACEPOINT_OPEN: Self = Self(17);
    pub(crate) const BTF_LOAD: Self = Self(18);
    pub(crate) const BTF_GET_FD_BY_ID: Self = Self(19);
    pub(crate) const MAP_FREEZE: Self = Self(22);
    pub(crate) const BTF_GET_NEXT_ID: Self = Self(23);
    pub(crate) const LINK_CREATE: Self = Self(28);
    pub(crate) const LINK_UPDATE: Self = Self(29);
    pub(crate) const LINK_GET_FD_BY_ID: Self = Self(30);
    pub(crate) const LINK_GET_NEXT_ID: Self = Self(31);
    pub(crate) const LINK_DETACH: Self = Self(34);
    pub(crate) const PROG_BIND_MAP: Self = Self(35);
}

/// A user-space address as the kernel reads it: `__aligned_u64`. It carries no lifetime; whoever calls [`bpf`] keeps
/// the memory alive.
#[repr(transparent)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Address(u64);

impl Address {
    /// The address of `bytes`, or null if it is empty: the kernel reads null as "not given".
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::default() } else { Self(number(bytes.as_ptr().expose_provenance())) }
    }

    /// As [`Address::of`], for memory the kernel writes.
    fn of_mut(bytes: &mut [u8]) -> Self {
        if bytes.is_empty() { Self::default() } else { Self(number(bytes.as_mut_ptr().expose_provenance())) }
    }

    /// The address of an array of 32-bit numbers that the kernel writes.
    fn of_words(words: &mut [u32]) -> Self {
        if words.is_empty() { Self::default() } else { Self(number(words.as_mut_ptr().expose_provenance())) }
    }
}

/// Lossless on 64-bit targets; does not compile on others.
fn number(address: usize) -> u64 {
    u64::from_ne_bytes(address.to_ne_bytes())
}

/// Makes the bpf(2) call.
///
/// # Safety
/// `A` is the prefix of `union bpf_attr` that belongs to `command`. Each [`Address`] in it is null or points to memory
/// that is live for the call and as large as `attr` and the kernel's definition of `command` say, and that is
/// exclusively ours where the kernel writes.
unsafe fn bpf<A>(command: Command, attr: &mut A) -> io::Result<i64> {
    // SAFETY: `attr` is a live exclusive reference of exactly the passed size; the caller vouches for what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command.0, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a bpf(2) call that gives a new descriptor. All of them are close-on-exec (`O_CLOEXEC` in the kernel).
///
/// # Safety
/// As [`bpf`], and `command` returns a descriptor.
unsafe fn bpf_fd<A>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the same contract, passed on.
    let fd = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The descriptor's number as the kernel's `__u32` fields take it. A `BorrowedFd` is never negative.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// The length for a `__u32` field; `E2BIG` if it does not fit.
fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_too_long| io::Error::from_raw_os_error(libc::E2BIG))
}

/// A kernel object name: `BPF_OBJ_NAME_LEN` is 16 with the closing NUL, so at most 15 bytes, cut at a character.
fn object_name(name: &str) -> [u8; 16] {
    let mut field = [0_u8; 16];
    let mut used = 0;
    for character in name.chars() {
        let end = used + character.len_utf8();
        match field.get_mut(used..end) {
            Some(place) if end <= 15 => _ = character.encode_utf8(place),
            _ => break,
        }
        used = end;
    }
    field
}

/// Text up to the first NUL; bytes that are not UTF-8 become U+FFFD.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_at_fifteen_bytes_and_never_inside_a_character() {
        let name = |text| String::from_utf8(object_name(text).to_vec()).unwrap();
        assert_eq!(name("xdp_dispatcher"), "xdp_dispatcher\0\0");
        assert_eq!(name("a_name_of_seventeen"), "a_name_of_seven\0");
        assert_eq!(name("14_characters_ä"), "14_characters_\0\0");
        assert_eq!(name("13_character_ä"), "13_character_ä\0");
        assert_eq!(name(""), "\0".repeat(16));
    }

    #[test]
    fn text_ends_at_the_first_nul_and_survives_bad_utf8() {
        assert_eq!(text(b"pass\0junk"), "pass");
        assert_eq!(text(b"\xffx"), "\u{fffd}x");
        assert_eq!(text(b""), "");
    }

    #[test]
    fn an_empty_slice_is_passed_as_null() {
        assert_eq!(Address::of(&[]).0, 0);
        assert_ne!(Address::of(&[1]).0, 0);
    }
}
