//! Who is at the other end of a unix stream socket, as the kernel recorded it at connect(2). It decides nothing about
//! what they may do.
use crate::sockopt;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// Linux's `NGROUPS_MAX`.
const GROUPS_LIMIT: usize = 65_536;

/// The peer of a connected unix stream socket.
#[derive(Debug)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, as this process's PID namespace sees it; 0 if it cannot.
    pub pid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The process itself, safe from reuse of its number; `None` before Linux 6.5, or if it is gone already.
    pub pidfd: Option<OwnedFd>,
}

impl Peer {
    /// Reads `SO_PEERCRED`, `SO_PEERGROUPS` and `SO_PEERPIDFD`.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // `struct ucred`, read here because rustix's has a non-zero pid, which no kernel promises across namespaces.
        let mut credentials = [0; 12];
        let _length = sockopt::read(socket, sockopt::PEER_CRED, &mut credentials)?;
        let [p0, p1, p2, p3, u0, u1, u2, u3, g0, g1, g2, g3] = credentials;
        Ok(Self {
            pid: u32::from_ne_bytes([p0, p1, p2, p3]),
            uid: u32::from_ne_bytes([u0, u1, u2, u3]),
            gid: u32::from_ne_bytes([g0, g1, g2, g3]),
            groups: groups(socket)?,
            pidfd: pidfd(socket)?,
        })
    }
}

fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        let mut bytes = vec![0; room * 4];
        match sockopt::read(socket, sockopt::PEER_GROUPS, &mut bytes) {
            Ok(length) => {
                let used = bytes.get(..length).unwrap_or(&bytes);
                return Ok(used.as_chunks().0.iter().copied().map(u32::from_ne_bytes).collect());
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && room < GROUPS_LIMIT => room = GROUPS_LIMIT,
            Err(error) => return Err(error),
        }
    }
}

fn pidfd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut number = [0; 4];
    match sockopt::read(socket, sockopt::PEER_PIDFD, &mut number) {
        // SAFETY: the kernel has just made this descriptor, close-on-exec, for us, so nobody else owns it.
        Ok(4) => Ok(Some(unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes(number)) })),
        Ok(_other) => Ok(None),
        // ENOPROTOOPT: Linux before 6.5. ESRCH, EINVAL: the process was reaped (net/core/sock.c, kernel/fork.c).
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::ESRCH | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}
