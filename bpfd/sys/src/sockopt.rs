//! The few socket options that rustix does not wrap, as numbers and bytes. No socket is made or kept here.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_PEERCRED`.
pub(crate) const PEER_CRED: Opt = Opt { level: libc::SOL_SOCKET, name: libc::SO_PEERCRED };
/// `SO_PEERGROUPS` (include/uapi/asm-generic/socket.h).
pub(crate) const PEER_GROUPS: Opt = Opt { level: libc::SOL_SOCKET, name: 59 };
/// `SO_NETNS_COOKIE` (Linux 5.14).
pub(crate) const NETNS_COOKIE: Opt = Opt { level: libc::SOL_SOCKET, name: 71 };
/// `SO_PEERPIDFD` (Linux 6.5).
pub(crate) const PEER_PIDFD: Opt = Opt { level: libc::SOL_SOCKET, name: 77 };
/// `NETLINK_ADD_MEMBERSHIP`: news of one more group, by its number (include/uapi/linux/netlink.h).
pub(crate) const NETLINK_ADD_MEMBERSHIP: Opt = Opt { level: libc::SOL_NETLINK, name: 1 };
/// `NETLINK_CAP_ACK`: an error does not carry the request back.
pub(crate) const NETLINK_CAP_ACK: Opt = Opt { level: libc::SOL_NETLINK, name: 10 };
/// `NETLINK_EXT_ACK`: an error carries the kernel's words.
pub(crate) const NETLINK_EXT_ACK: Opt = Opt { level: libc::SOL_NETLINK, name: 11 };

/// A level and a name.
#[derive(Clone, Copy)]
pub(crate) struct Opt {
    level: i32,
    name: i32,
}

/// Reads an option into `value` and returns how many bytes the kernel has (it may have more: then the error is `ERANGE`).
pub(crate) fn read(socket: BorrowedFd<'_>, opt: Opt, value: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    let Opt { level, name } = opt;
    // SAFETY: `value` is live and ours for `length` bytes, `length` is live, and the kernel writes no more than that.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { usize::try_from(length).map_err(io::Error::other) }
}

/// Sets an option of type `int`.
pub(crate) fn set(socket: BorrowedFd<'_>, opt: Opt, value: i32) -> io::Result<()> {
    let value = value.to_ne_bytes();
    let Opt { level, name } = opt;
    // SAFETY: `value` is live for the four bytes that the kernel reads.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), 4) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
