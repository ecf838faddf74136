//! BPF_OBJ_PIN and BPF_OBJ_GET: objects as files of a bpffs.
use super::{Address, Command, bpf, bpf_fd, raw};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[repr(C)]
struct PinAttr {
    pathname: Address,
    bpf_fd: u32,
    file_flags: u32,
}

/// Makes `path`, on a bpffs, hold `object`. `EEXIST` if it is there, `EPERM` if it is not on a bpffs.
pub fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr { pathname: Address::of(path.as_bytes_with_nul()), bpf_fd: raw(object), file_flags: 0 };
    // SAFETY: `PinAttr` is the command's prefix; `path` ends in NUL and outlives the call; the kernel only reads it.
    unsafe { bpf(Command::OBJ_PIN, &mut attr) }.map(|_zero| ())
}

/// A new descriptor of what `path` holds.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr { pathname: Address::of(path.as_bytes_with_nul()), bpf_fd: 0, file_flags: 0 };
    // SAFETY: `PinAttr` is the command's prefix; `path` ends in NUL and outlives the call; the kernel only reads it
    // and returns a descriptor.
    unsafe { bpf_fd(Command::OBJ_GET, &mut attr) }
}

/// What a bpf descriptor is. A pin of an expected name can hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A program.
    Program,
    /// A map.
    Map,
    /// A link.
    Link,
    /// BTF.
    Btf,
}

/// What the descriptor is, read from /proc; `EINVAL` for anything that is not bpf's.
pub fn object_kind(fd: BorrowedFd<'_>) -> io::Result<ObjectKind> {
    let link = rustix::fs::readlinkat(rustix::fs::CWD, own_link(fd), Vec::new())?;
    match link.as_bytes() {
        b"anon_inode:bpf-prog" => Ok(ObjectKind::Program),
        b"anon_inode:bpf-map" => Ok(ObjectKind::Map),
        // As made by BPF_LINK_CREATE, and as opened again (`bpf_link_prime`, `bpf_link_new_fd` of kernel/bpf/syscall.c).
        b"anon_inode:bpf_link" | b"anon_inode:bpf-link" => Ok(ObjectKind::Link),
        b"anon_inode:btf" => Ok(ObjectKind::Btf),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// `EINVAL` unless the descriptor is of this kind: the kernel's info calls would answer for another kind, and the
/// answer would be misread.
pub(super) fn expect_kind(fd: BorrowedFd<'_>, kind: ObjectKind) -> io::Result<()> {
    if object_kind(fd)? == kind { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// As [`obj_pin`], for a name in an open directory.
pub fn obj_pin_at(object: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    obj_pin(object, Path::new(&in_directory(directory, name)?))
}

/// As [`obj_get`], for a name in an open directory.
pub fn obj_get_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    obj_get(Path::new(&in_directory(directory, name)?))
}

/// bpf(2) takes a directory descriptor only from Linux 6.5 on; the process's own link to it works on all.
fn in_directory(directory: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(format!("{}/{name}", own_link(directory)))
}

fn own_link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_nul| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pin_name_is_one_component() {
        let directory = std::fs::File::open("/").unwrap();
        for name in ["", ".", "..", "a/b", "/a"] {
            assert!(in_directory(directory.as_fd(), name).is_err(), "{name}");
        }
        assert!(in_directory(directory.as_fd(), "prog0-link").unwrap().ends_with("/prog0-link"));
        assert!(obj_get(Path::new("/a\0b")).is_err());
    }
}
