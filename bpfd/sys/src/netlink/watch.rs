//! The news of a network namespace's devices. It keeps no list: it says what the kernel said, or that news was lost.
use super::tc_wire::{self, RTM_DELQDISC, RTM_DELTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER};
use super::wire::{self, RTM_DELLINK, RTM_DELNSID, RTM_NEWLINK, RTM_NEWNSID};
use super::{BUFFER, LinkRow, receive, socket};
use crate::sockopt;
use rustix::net::{RecvFlags, SocketFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `RTMGRP_LINK`: the group `RTNLGRP_LINK` as a mask.
const GROUP_LINK: u32 = 1;

/// `RTNLGRP_TC` (include/uapi/linux/rtnetlink.h).
const GROUP_TC: i32 = 4;

/// `RTNLGRP_NSID`.
const GROUP_NSID: i32 = 28;

/// News queue up to this many bytes before some is lost; a device that comes or goes takes about 2 KiB.
const QUEUE: usize = 4 << 20;

/// Something about a device changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It came, or something of it changed, its XDP program perhaps. It may say what is known already. The kernel does
    /// not tell of a changed XDP program while the device is down (`netdev_state_change`), but tells when it goes up.
    Changed(LinkRow),
    /// It went (also into another network namespace).
    Removed {
        /// Its number.
        index: u32,
        /// Its last name.
        name: String,
        /// Where it went, if it was moved to another network namespace.
        to: Option<MovedTo>,
    },
    /// Its clsact came or went, or a filter on it came, changed or went ([`LinkWatch::follow_filters`]). tcx programs come
    /// and go without news.
    Filters {
        /// The device's number.
        index: u32,
    },
    /// The namespace that had this number here ended ([`LinkWatch::follow_namespaces`]).
    NamespaceEnded(u32),
    /// A namespace has a number here that it did not have ([`LinkWatch::follow_namespaces`]).
    NamespaceNumbered,
    /// News was lost: read everything anew.
    Lost,
}

/// Where a device is that was moved to another network namespace (Linux 4.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedTo {
    /// The number of that namespace in the one that it left.
    pub namespace: u32,
    /// Its index there.
    pub index: u32,
}

/// A non-blocking subscription to the devices of the namespace of the thread that opened it.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    waiting: VecDeque<LinkEvent>,
}

impl LinkWatch {
    /// For the calling thread's network namespace, for good. Subscribe first, then read, and no change is missed.
    pub fn open() -> io::Result<Self> {
        let watch = Self::open_short()?;
        // Beyond net.core.rmem_max with CAP_NET_ADMIN; a smaller queue only makes `Lost` likelier.
        let _larger = rustix::net::sockopt::set_socket_recv_buffer_size_force(&watch.socket, QUEUE);
        Ok(watch)
    }

    /// The same with the queue that any socket has (net.core.rmem_default, about 100 devices): for who has many of them open, and
    /// reads everything anew whatever the news is.
    pub fn open_short() -> io::Result<Self> {
        let socket = socket(GROUP_LINK, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        Ok(Self { socket, waiting: VecDeque::new() })
    }

    /// Takes a socket that this type opened, in this process or, in another namespace, in a worker: `EINVAL` unless it is a
    /// netlink socket for routes. It never blocks, whatever the socket's flags are.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        super::check_is_route(&socket)?;
        Ok(Self { socket, waiting: VecDeque::new() })
    }

    /// Gives the socket away; it stays in its namespace. News that was received already is dropped.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Asks for [`LinkEvent::Filters`] too.
    pub fn follow_filters(&self) -> io::Result<()> {
        sockopt::set(self.as_fd(), sockopt::NETLINK_ADD_MEMBERSHIP, GROUP_TC)
    }

    /// Asks for [`LinkEvent::NamespaceEnded`] and [`LinkEvent::NamespaceNumbered`] too.
    pub fn follow_namespaces(&self) -> io::Result<()> {
        sockopt::set(self.as_fd(), sockopt::NETLINK_ADD_MEMBERSHIP, GROUP_NSID)
    }

    /// The next event; `None` if none waits: poll [`AsFd`] for reading.
    pub fn next_event(&mut self) -> io::Result<Option<LinkEvent>> {
        let mut buffer = vec![0; BUFFER];
        while self.waiting.is_empty() {
            match receive(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(datagram) => self.waiting.extend(events(datagram)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EMSGSIZE)) => {
                    self.waiting.push_back(LinkEvent::Lost);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.waiting.pop_front())
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What cannot be read is lost.
fn events(datagram: &[u8]) -> Vec<LinkEvent> {
    let event = |message: io::Result<wire::Message<'_>>| -> io::Result<Option<LinkEvent>> {
        let message = message?;
        match message.kind {
            RTM_NEWLINK => Ok(wire::link_row(message.payload)?.map(LinkEvent::Changed)),
            RTM_DELLINK => {
                let Some(LinkRow { index, name, .. }) = wire::link_row(message.payload)? else { return Ok(None) };
                Ok(Some(LinkEvent::Removed { index, name, to: wire::moved_to(message.payload)? }))
            }
            RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER => {
                Ok(tc_wire::hooked_device(message.payload)?.map(|index| LinkEvent::Filters { index }))
            }
            RTM_DELNSID => Ok(wire::number(message.payload)?.map(LinkEvent::NamespaceEnded)),
            RTM_NEWNSID => Ok(Some(LinkEvent::NamespaceNumbered)),
            _ => Ok(None),
        }
    };
    wire::messages(datagram).filter_map(|message| event(message).unwrap_or(Some(LinkEvent::Lost))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_that_cannot_be_read_is_lost_news() {
        assert_eq!(events(&[1, 2, 3]), [LinkEvent::Lost]);
        let mut short = vec![20, 0, 0, 0, 16, 0, 0, 0];
        short.resize(20, 0);
        assert_eq!(events(&short), [LinkEvent::Lost]);
        assert_eq!(events(&[]), []);
    }
}
