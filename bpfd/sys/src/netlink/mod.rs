//! rtnetlink, as far as XDP and tc need it: the devices of a network namespace, their XDP programs, the
//! compare-and-swap of a program, their clsact qdiscs and tc filters, and the news of changes.
//!
//! Each socket belongs to the network namespace of the thread that opened it. Facts: include/uapi/linux/if_link.h,
//! `dev_xdp_install` in net/core/dev.c.
mod tc;
mod tc_wire;
mod watch;
mod wire;

pub use tc::{BpfFilter, FilterKind, FilterPlace, IngressQdisc, TcFilter};
pub use watch::{LinkEvent, LinkWatch, MovedTo};

use crate::bpf::ProgId;
use crate::sockopt;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use wire::{Message, Request};

/// The kernel answers within the send; this only keeps a kernel bug from blocking the engine for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A dump sees a changing list; the kernel marks it as interrupted and it is asked for again, so often at most.
const DUMP_ATTEMPTS: u32 = 16;

/// Linux sends a dump in pieces of at most 32 KiB (`netlink_dump`); a single answer is much smaller.
const BUFFER: usize = 64 << 10;

/// `XDP_FLAGS_*` (include/uapi/linux/if_link.h).
const XDP_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_REPLACE: u32 = 1 << 4;

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// Its number, unique in its namespace; reused after wrapping.
    pub index: u32,
    /// Its name; it can change.
    pub name: String,
    /// It is up (`IFF_UP`).
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
    /// What runs on it.
    pub xdp: XdpAttachment,
}

/// The XDP programs of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAttachment {
    /// None.
    None,
    /// One.
    One {
        /// How it is attached.
        mode: XdpMode,
        /// What it is.
        program: ProgId,
    },
    /// One a mode (`XDP_ATTACHED_MULTI`).
    Several {
        /// The driver's.
        native: Option<ProgId>,
        /// The stack's.
        generic: Option<ProgId>,
        /// The device's own.
        hardware: Option<ProgId>,
    },
}

impl XdpAttachment {
    /// The program that counts: the driver's before the stack's, as libxdp reads it (`xdp_multiprog__get_from_ifindex`).
    pub fn program(&self) -> Option<(XdpMode, ProgId)> {
        match *self {
            Self::None => None,
            Self::One { mode, program } => Some((mode, program)),
            Self::Several { native, generic, hardware } => native
                .map(|id| (XdpMode::Native, id))
                .or(generic.map(|id| (XdpMode::Generic, id)))
                .or(hardware.map(|id| (XdpMode::Hardware, id))),
        }
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, for any device.
    Generic,
    /// In the device.
    Hardware,
}

impl XdpMode {
    /// `XDP_FLAGS_{DRV,SKB,HW}_MODE`.
    fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
            Self::Hardware => 1 << 3,
        }
    }
}

/// What the device must hold for the change to happen: the compare of the compare-and-swap.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// No program (`XDP_FLAGS_UPDATE_IF_NOEXIST`); `EBUSY` otherwise.
    Nothing,
    /// This very program (`IFLA_XDP_EXPECTED_FD`, Linux 5.7); `EEXIST` otherwise.
    Program(BorrowedFd<'a>),
}

/// The kernel refused a request.
#[derive(Debug, thiserror::Error)]
pub struct ChangeError {
    /// The cause. Of an XDP program: `EEXIST` for another program than expected, or one of another mode; `EBUSY` for one
    /// that is held by a bpf_link, or where none was expected.
    #[source]
    pub error: io::Error,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`).
    pub message: Option<String>,
}

impl std::fmt::Display for ChangeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the kernel refused the change")?;
        self.message.as_ref().map_or(Ok(()), |message| write!(formatter, " (`{message}`)"))
    }
}

impl ChangeError {
    /// The kernel's errno; 0 if there was none.
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for ChangeError {
    fn from(error: io::Error) -> Self {
        Self { error, message: None }
    }
}

/// A socket that asks the kernel about the devices of one network namespace.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

impl Route {
    /// For the calling thread's network namespace, for good.
    pub fn open() -> io::Result<Self> {
        let socket = socket(0, SocketFlags::CLOEXEC)?;
        // Without these, errors come without words (Linux before 4.12): no reason to fail.
        let _words = sockopt::set(socket.as_fd(), sockopt::NETLINK_EXT_ACK, 1);
        let _short = sockopt::set(socket.as_fd(), sockopt::NETLINK_CAP_ACK, 1);
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_LIMIT))?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Takes a socket that [`Route::open`] made, in this process or, in another namespace, in a worker: `EINVAL` unless it
    /// is a netlink socket for routes.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        check_is_route(&socket)?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Gives the socket away; it stays in its namespace.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// All devices.
    pub fn links(&self) -> io::Result<Vec<LinkRow>> {
        self.dump(Request::get_links, wire::link_row)
    }

    /// One device; `None` if there is none of this number.
    pub fn link(&self, index: u32) -> io::Result<Option<LinkRow>> {
        self.one(&Request::get_link(self.next_sequence(), index))
    }

    /// One device; `None` if there is none of this name.
    pub fn link_named(&self, name: &str) -> io::Result<Option<LinkRow>> {
        // `IFNAMSIZ` with the closing NUL: the kernel would say ERANGE.
        if name.is_empty() || name.len() > 15 || name.contains('\0') {
            return Ok(None);
        }
        self.one(&Request::get_link_named(self.next_sequence(), name))
    }

    /// The numbers that other network namespaces have in this one (`ip netns list-id`): the only way to look into one that no name
    /// leads to without keeping it alive.
    pub fn namespaces(&self) -> io::Result<Vec<u32>> {
        self.dump(Request::get_numbers, wire::number)
    }

    /// All devices of the namespace that has this number here; none if there is no such namespace any more.
    pub fn links_of(&self, namespace: u32) -> io::Result<Vec<LinkRow>> {
        match self.dump(|sequence| Request::get_links_of(sequence, namespace), wire::link_row) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The number that a namespace has here, if it has one.
    pub fn number_of(&self, namespace: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        let mut number = None;
        let asked = self.ask(&Request::get_number(self.next_sequence(), namespace.as_raw_fd()), |message| {
            number = wire::number(message.payload)?;
            Ok(())
        });
        asked.map_err(|refused| refused.error)?;
        Ok(number)
    }

    /// Gives a namespace this number here, unless it has one, or another one has this. It has it until it ends.
    pub fn give_number(&self, namespace: BorrowedFd<'_>, number: u32) -> io::Result<()> {
        match self.change(Request::new_number(self.next_sequence(), namespace.as_raw_fd(), number)) {
            Err(error) if error.errno() == libc::EEXIST => Ok(()),
            other => other.map_err(|refused| refused.error),
        }
    }

    /// Swaps the XDP program of a device, in one step that packets do not see: puts `program` there, or nothing, if
    /// what is there now is `expected`. Detaching needs an expected program; `EINVAL` otherwise, as it would take away
    /// whatever is there.
    pub fn set_xdp(
        &self,
        index: u32,
        program: Option<BorrowedFd<'_>>,
        expected: Expected<'_>,
        mode: XdpMode,
    ) -> Result<(), ChangeError> {
        let (expected, flag) = match (expected, program) {
            (Expected::Nothing, None) => return Err(io::Error::from_raw_os_error(libc::EINVAL).into()),
            (Expected::Nothing, Some(_)) => (None, XDP_UPDATE_IF_NOEXIST),
            (Expected::Program(fd), _) => (Some(fd.as_raw_fd()), XDP_REPLACE),
        };
        let program = program.map_or(-1, |fd| fd.as_raw_fd());
        let request = Request::set_xdp(self.next_sequence(), index, program, expected, mode.flag() | flag);
        self.change(request)
    }

    /// What `row` reads from the messages of a list that did not change while it was dumped.
    fn dump<T>(
        &self,
        request: impl Fn(u32) -> Request,
        row: impl Fn(&[u8]) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut rows = Vec::new();
            let end = self.ask(&request(self.next_sequence()), |message| {
                rows.extend(row(message.payload)?);
                Ok(())
            });
            match end {
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(error.error),
                Ok(()) => return Ok(rows),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }

    fn one(&self, request: &Request) -> io::Result<Option<LinkRow>> {
        let mut row = None;
        let end = self.ask(request, |message| {
            row = wire::link_row(message.payload)?.or(row.take());
            Ok(())
        });
        match end {
            Ok(()) => Ok(row),
            Err(ChangeError { error, .. }) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(ChangeError { error, .. }) => Err(error),
        }
    }

    fn change(&self, request: Request) -> Result<(), ChangeError> {
        self.ask(&request, |_message| Ok(()))
    }

    fn next_sequence(&self) -> u32 {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        self.sequence.get()
    }

    /// Sends a request and gives each answer to `take`, up to the acknowledgement or the end of the dump.
    fn ask(&self, request: &Request, mut take: impl FnMut(&Message<'_>) -> io::Result<()>) -> Result<(), ChangeError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, request.bytes(), SendFlags::empty(), &kernel).map_err(io::Error::from)?;
        let mut buffer = vec![0; BUFFER];
        let mut interrupted = false;
        loop {
            for message in wire::messages(receive(&self.socket, &mut buffer, RecvFlags::empty())?) {
                let message = message?;
                if message.sequence != request.sequence() {
                    continue;
                }
                interrupted |= message.is_interrupted();
                match message.end()? {
                    None => take(&message)?,
                    Some(wire::End { errno: 0, .. }) if interrupted => {
                        return Err(io::Error::from_raw_os_error(libc::EINTR).into());
                    }
                    Some(wire::End { errno: 0, .. }) => return Ok(()),
                    Some(wire::End { errno, message }) => {
                        return Err(ChangeError { error: io::Error::from_raw_os_error(errno), message });
                    }
                }
            }
        }
    }
}

/// `EINVAL` for a descriptor of anything but a netlink socket for routes.
fn check_is_route(socket: &OwnedFd) -> io::Result<()> {
    let family = rustix::net::sockopt::socket_domain(socket)?;
    // No protocol is protocol 0: NETLINK_ROUTE.
    match family == AddressFamily::NETLINK && rustix::net::sockopt::socket_protocol(socket)?.is_none() {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// A netlink socket with an address of the kernel's choice, in these multicast groups.
fn socket(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    // No protocol is protocol 0: NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// One datagram from the kernel; those of other senders are dropped. `EMSGSIZE` if it is longer than the buffer.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8], flags: RecvFlags) -> io::Result<&'a [u8]> {
    loop {
        let (_, length, from) = match rustix::net::recvfrom(socket, &mut *buffer, flags | RecvFlags::TRUNC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if sender.is_some_and(|sender| sender.pid() == 0) {
            return buffer.get(..length).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
    }
}
