//! bpf_links: EXT programs in their targets, tcx, perf events; the tcx chain of a device.
use super::{Address, AttachType, BtfTypeId, Command, LinkId, ProgId, bpf, bpf_fd, raw};
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Linux allows 64 programs on a tcx hook (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h); room for a larger bound later.
const TCX_ROOM: usize = 256;

// `BPF_F_*` (include/uapi/linux/bpf.h).
const F_REPLACE: u32 = 1 << 2;
const F_BEFORE: u32 = 1 << 3;
const F_AFTER: u32 = 1 << 4;
const F_ID: u32 = 1 << 5;
const F_LINK: u32 = 1 << 13;

/// A direction of a device's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Received.
    Ingress,
    /// Sent.
    Egress,
}

impl Direction {
    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => AttachType::TCX_INGRESS.0,
            Self::Egress => AttachType::TCX_EGRESS.0,
        }
    }
}

/// A place in a tcx chain.
#[derive(Clone, Copy, Debug)]
pub enum Position<'a> {
    /// Before all.
    First,
    /// After all.
    Last,
    /// Just before this one.
    Before(Neighbour<'a>),
    /// Just after this one.
    After(Neighbour<'a>),
}

/// A member of a tcx chain; ids are looked up by the kernel without CAP_SYS_ADMIN.
#[derive(Clone, Copy, Debug)]
pub enum Neighbour<'a> {
    /// A link.
    Link(BorrowedFd<'a>),
    /// A link by its number.
    LinkId(LinkId),
    /// A program attached without a link.
    Program(BorrowedFd<'a>),
    /// A program by its number.
    ProgramId(ProgId),
}

impl Position<'_> {
    /// The flags and the relative descriptor or id.
    fn encode(self) -> (u32, u32) {
        let (flag, neighbour) = match self {
            Self::First => return (F_BEFORE, 0),
            Self::Last => return (F_AFTER, 0),
            Self::Before(neighbour) => (F_BEFORE, neighbour),
            Self::After(neighbour) => (F_AFTER, neighbour),
        };
        match neighbour {
            Neighbour::Link(fd) => (flag | F_LINK, raw(fd)),
            Neighbour::LinkId(id) => (flag | F_LINK | F_ID, id.0),
            Neighbour::Program(fd) => (flag, raw(fd)),
            Neighbour::ProgramId(id) => (flag | F_ID, id.0),
        }
    }
}

/// `link_create`: four words, then 16 bytes whose meaning depends on the kind of link.
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// tracing: `target_btf_id`; tcx: `relative_fd` or `relative_id`.
    relative: u32,
    padding: u32,
    /// tcx: `expected_revision`.
    revision: u64,
}

/// `link_create` for a perf event, where a cookie takes the place of `relative`.
#[repr(C)]
struct PerfLinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

fn link_create(mut attr: LinkCreateAttr) -> io::Result<OwnedFd> {
    // SAFETY: `LinkCreateAttr` is the command's prefix for links to a device or a program's function and holds no
    // address; the command returns a descriptor.
    unsafe { bpf_fd(Command::LINK_CREATE, &mut attr) }
}

/// Puts an EXT program in the place of `function` of `target` (Linux 5.10 for a second target).
pub fn link_create_ext(program: BorrowedFd<'_>, target: BorrowedFd<'_>, function: BtfTypeId) -> io::Result<OwnedFd> {
    link_create(LinkCreateAttr {
        prog_fd: raw(program),
        target: raw(target),
        attach_type: AttachType::NONE.0,
        flags: 0,
        relative: function.0,
        padding: 0,
        revision: 0,
    })
}

/// Puts a TC program into a tcx chain (Linux 6.6). `ESTALE` if the chain is not at `expected_revision` any more.
pub fn link_create_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    direction: Direction,
    position: Position<'_>,
    expected_revision: Option<u64>,
) -> io::Result<OwnedFd> {
    let (flags, relative) = position.encode();
    link_create(LinkCreateAttr {
        prog_fd: raw(program),
        target: ifindex,
        attach_type: direction.attach_type(),
        flags,
        relative,
        padding: 0,
        revision: expected_revision.unwrap_or(0),
    })
}

/// Attaches an XDP program by a link (Linux 5.9). bpfd never does: links refuse compare-and-swap and libxdp cannot
/// share them. It is here to be the foreign holder in tests.
pub fn link_create_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let attach_type = AttachType::XDP.0;
    let prog_fd = raw(program);
    link_create(LinkCreateAttr { prog_fd, target: ifindex, attach_type, flags, relative: 0, padding: 0, revision: 0 })
}

/// Attaches a program to a perf event (Linux 5.15). `cookie` is what `bpf_get_attach_cookie` returns.
pub fn link_create_perf(program: BorrowedFd<'_>, perf: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    let (prog_fd, target_fd) = (raw(program), raw(perf));
    let mut attr = PerfLinkAttr { prog_fd, target_fd, attach_type: AttachType::PERF_EVENT.0, flags: 0, cookie };
    // SAFETY: `PerfLinkAttr` is the command's prefix for perf events and holds no address; it returns a descriptor.
    unsafe { bpf_fd(Command::LINK_CREATE, &mut attr) }
}

/// `BPF_PROG_ATTACH` as far as `attach_flags`.
#[repr(C)]
struct AttachAttr {
    target: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Puts a TC program behind all others of a tcx chain, without a link (Linux 6.6). bpfd never does: nothing would hold
/// it there. It is here to be the foreign program in tests.
pub fn prog_attach_tcx(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<()> {
    let attach_type = direction.attach_type();
    let mut attr = AttachAttr { target: ifindex, attach_bpf_fd: raw(program), attach_type, attach_flags: 0 };
    // SAFETY: `AttachAttr` is the command's prefix and holds no address.
    unsafe { bpf(Command::PROG_ATTACH, &mut attr) }.map(|_zero| ())
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Swaps a link's program. With `expected_old`, `EPERM` if the link holds another one.
pub fn link_update(link: BorrowedFd<'_>, new: BorrowedFd<'_>, expected_old: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let (flags, old_prog_fd) = expected_old.map_or((0, 0), |old| (F_REPLACE, raw(old)));
    let mut attr = LinkUpdateAttr { link_fd: raw(link), new_prog_fd: raw(new), flags, old_prog_fd };
    // SAFETY: `LinkUpdateAttr` is the command's prefix and holds no address.
    unsafe { bpf(Command::LINK_UPDATE, &mut attr) }.map(|_zero| ())
}

/// Detaches now, whoever else holds the link (Linux 5.9). `EOPNOTSUPP` for kinds that cannot.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    // SAFETY: the command reads `link_fd`, the union's first word, and nothing else.
    unsafe { bpf(Command::LINK_DETACH, &mut attr) }.map(|_zero| ())
}

#[repr(C)]
struct RawTracepointAttr {
    name: Address,
    prog_fd: u32,
    padding: u32,
}

/// Attaches a raw tracepoint program, or, without a name, a tracing, LSM or EXT program to what it was loaded for.
pub fn raw_tracepoint_open(name: Option<&CStr>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let name = Address::of(name.map_or(&[], CStr::to_bytes_with_nul));
    let mut attr = RawTracepointAttr { name, prog_fd: raw(program), padding: 0 };
    // SAFETY: `RawTracepointAttr` is the command's prefix; `name` is null or ends in NUL and outlives the call; it
    // returns a descriptor.
    unsafe { bpf_fd(Command::RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// The programs of one tcx hook, in the order they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcxChain {
    /// Grows with each change; give it to [`link_create_tcx`].
    pub revision: u64,
    /// First runs first.
    pub entries: Vec<TcxEntry>,
}

/// One program of a tcx hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcxEntry {
    /// What runs.
    pub program: ProgId,
    /// What holds it; `None` if it was attached without a link.
    pub link: Option<LinkId>,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: Address,
    count: u32,
    padding: u32,
    prog_attach_flags: Address,
    link_ids: Address,
    link_attach_flags: Address,
    revision: u64,
}

/// The tcx chain of a device of this thread's network namespace (Linux 6.6); `ENODEV` if it is gone. The flags of the
/// entries are not read: the kernel gives 0 for all of them (`bpf_mprog_query`, kernel/bpf/mprog.c).
pub fn prog_query_tcx(ifindex: u32, direction: Direction) -> io::Result<TcxChain> {
    let (mut programs, mut links) = ([0_u32; TCX_ROOM], [0_u32; TCX_ROOM]);
    let mut attr = QueryAttr {
        target: ifindex,
        attach_type: direction.attach_type(),
        count: u32::try_from(TCX_ROOM).map_err(io::Error::other)?,
        prog_ids: Address::of_words(&mut programs),
        link_ids: Address::of_words(&mut links),
        ..QueryAttr::default()
    };
    // SAFETY: `QueryAttr` is the command's prefix; both arrays outlive the call and hold `count` numbers.
    unsafe { bpf(Command::PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.count).map_err(io::Error::other)?;
    let entries = programs.iter().zip(&links).take(count);
    let entries = entries
        .map(|(program, link)| TcxEntry { program: ProgId(*program), link: (*link != 0).then_some(LinkId(*link)) });
    Ok(TcxChain { revision: attr.revision, entries: entries.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_fields_are_where_the_kernel_reads_them() {
        assert_eq!(offset_of!(LinkCreateAttr, relative), 16);
        assert_eq!(offset_of!(LinkCreateAttr, revision), 24);
        assert_eq!(offset_of!(PerfLinkAttr, cookie), 16);
        assert_eq!(offset_of!(QueryAttr, count), 24);
        assert_eq!(offset_of!(QueryAttr, link_ids), 40);
        assert_eq!(offset_of!(QueryAttr, revision), 56);
        assert_eq!(size_of::<QueryAttr>(), 64);
    }

    #[test]
    fn a_position_is_encoded_as_the_kernel_reads_it() {
        assert_eq!(Position::First.encode(), (0x08, 0));
        assert_eq!(Position::Last.encode(), (0x10, 0));
        assert_eq!(Position::Before(Neighbour::LinkId(LinkId(7))).encode(), (0x2028, 7));
        assert_eq!(Position::After(Neighbour::ProgramId(ProgId(9))).encode(), (0x30, 9));
    }
}
