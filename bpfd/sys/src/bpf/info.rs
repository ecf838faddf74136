//! BPF_OBJ_GET_INFO_BY_FD: what the kernel says of a program, a map or a link.
//!
//! Kernels fill as much of the struct as they know; the rest stays zero, which reads as "not known".
use super::pin::{ObjectKind, expect_kind};
use super::{
    Address, AttachType, BtfId, BtfTypeId, Command, LinkId, MapId, MapType, ProgId, ProgramType, bpf, raw, text,
};
use std::io;
use std::os::fd::BorrowedFd;

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: Address,
}

/// Fills `info`.
///
/// # Safety
/// `I` is a `#[repr(C)]` struct of integers that mirrors the kernel's info struct for this kind of descriptor; each
/// [`Address`] in it is null or points to live memory, exclusively ours, as large as the count beside it says.
pub(super) unsafe fn object_info<I>(fd: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    let info_len = u32::try_from(size_of::<I>()).map_err(io::Error::other)?;
    // SAFETY: any `I` of integers may be written as bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(info).cast::<u8>(), size_of::<I>()) };
    let mut attr = InfoAttr { bpf_fd: raw(fd), info_len, info: Address::of_mut(bytes) };
    // SAFETY: `InfoAttr` is the command's prefix; `info` is live, ours and of the size given; the caller vouches for
    // the addresses inside it.
    unsafe { bpf(Command::OBJ_GET_INFO_BY_FD, &mut attr) }.map(|_zero| ())
}

/// `struct bpf_prog_info` as far as `verified_insns`.
#[repr(C)]
#[derive(Default)]
struct RawProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: Address,
    xlated_prog_insns: Address,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: Address,
    name: [u8; 16],
    ifindex: u32,
    flags: u32,
    netns_dev: u64,
    netns_ino: u64,
    nr_jited_ksyms: u32,
    nr_jited_func_lens: u32,
    jited_ksyms: Address,
    jited_func_lens: Address,
    btf_id: u32,
    func_info_rec_size: u32,
    func_info: Address,
    nr_func_info: u32,
    nr_line_info: u32,
    line_info: Address,
    jited_line_info: Address,
    nr_jited_line_info: u32,
    line_info_rec_size: u32,
    jited_line_info_rec_size: u32,
    nr_prog_tags: u32,
    prog_tags: Address,
    run_time_ns: u64,
    run_cnt: u64,
    recursion_misses: u64,
    verified_insns: u32,
    attach_btf_obj_id: u32,
    attach_btf_id: u32,
    padding: u32,
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    /// Its number.
    pub id: ProgId,
    /// What it was verified as.
    pub kind: ProgramType,
    /// At most 15 bytes: longer function names are cut.
    pub name: String,
    /// The kernel's hash of the instructions; kernels differ in the hash.
    pub tag: [u8; 8],
    /// Its maps, in the kernel's order.
    pub map_ids: Vec<MapId>,
    /// Nanoseconds after boot.
    pub load_time_ns: u64,
    /// Its BTF.
    pub btf_id: Option<BtfId>,
    /// Instructions after the kernel's rewriting; 0 if we may not know.
    pub xlated_insns: u32,
    /// Instructions the verifier looked at (Linux 5.16).
    pub verified_insns: u32,
    /// Its licence opens GPL-only helpers.
    pub gpl: bool,
    /// Runs, while run statistics are on.
    pub run_count: u64,
    /// Time in those runs.
    pub run_time_ns: u64,
    /// The device of a device-bound program; 0 for others.
    pub ifindex: u32,
}

/// What the kernel says of a program; `EINVAL` for any other descriptor.
pub fn prog_info(fd: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    expect_kind(fd, ObjectKind::Program)?;
    let mut info = RawProgInfo::default();
    // SAFETY: `RawProgInfo` mirrors the kernel's struct for a program; all addresses are null with count 0.
    unsafe { object_info(fd, &mut info) }?;
    let map_ids = if info.nr_map_ids == 0 { Vec::new() } else { prog_maps(fd, info.nr_map_ids)? };
    Ok(ProgInfo {
        id: ProgId(info.id),
        kind: ProgramType(info.kind),
        name: text(&info.name),
        tag: info.tag,
        map_ids,
        load_time_ns: info.load_time,
        btf_id: (info.btf_id != 0).then_some(BtfId(info.btf_id)),
        xlated_insns: info.xlated_prog_len / 8,
        verified_insns: info.verified_insns,
        gpl: info.flags & 1 != 0,
        run_count: info.run_cnt,
        run_time_ns: info.run_time_ns,
        ifindex: info.ifindex,
    })
}

/// A second call, for the ids alone. A program's maps are fixed by its load, so `count` cannot have grown, except by
/// BPF_PROG_BIND_MAP, whose maps are then left out.
fn prog_maps(fd: BorrowedFd<'_>, count: u32) -> io::Result<Vec<MapId>> {
    let mut ids = vec![0_u32; usize::try_from(count).map_err(io::Error::other)?];
    let mut info = RawProgInfo { nr_map_ids: count, map_ids: Address::of_words(&mut ids), ..RawProgInfo::default() };
    // SAFETY: as above; `ids` outlives the call and holds `nr_map_ids` numbers.
    unsafe { object_info(fd, &mut info) }?;
    Ok(ids.into_iter().map(MapId).collect())
}

/// `struct bpf_map_info` as far as `map_extra`.
#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_vmlinux_value_type_id: u32,
    netns_dev: u64,
    netns_ino: u64,
    btf_id: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    btf_vmlinux_id: u32,
    map_extra: u64,
}

/// A map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Its number.
    pub id: MapId,
    /// Its kind.
    pub kind: MapType,
    /// Bytes.
    pub key_size: u32,
    /// Bytes of one value (of one CPU).
    pub value_size: u32,
    /// The most elements it holds; bytes for ring buffers.
    pub max_entries: u32,
    /// `BPF_F_*` map flags.
    pub flags: u32,
    /// At most 15 bytes.
    pub name: String,
    /// The BTF that describes key and value.
    pub btf_id: Option<BtfId>,
}

/// What the kernel says of a map; `EINVAL` for any other descriptor.
pub fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    expect_kind(fd, ObjectKind::Map)?;
    let mut info = RawMapInfo::default();
    // SAFETY: `RawMapInfo` mirrors the kernel's struct for a map and holds no address.
    unsafe { object_info(fd, &mut info) }?;
    Ok(MapInfo {
        id: MapId(info.id),
        kind: MapType(info.kind),
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
        name: text(&info.name),
        btf_id: (info.btf_id != 0).then_some(BtfId(info.btf_id)),
    })
}

/// `struct bpf_link_info`: four words, then the union's members that bpfd reads, as words.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    /// raw_tracepoint: the name's address; tracing: attach type and target object; xdp: ifindex; tcx: ifindex and
    /// attach type; perf_event: its kind.
    first: [u32; 2],
    /// raw_tracepoint: the name's length; tracing: target BTF type; perf_event tracepoint: the name's address.
    second: [u32; 2],
    /// perf_event tracepoint: the name's length.
    third: [u32; 2],
    fourth: [u32; 2],
}

/// A bpf_link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number.
    pub id: LinkId,
    /// Its program; it changes with BPF_LINK_UPDATE.
    pub prog_id: ProgId,
    /// Where it is.
    pub kind: LinkKind,
}

/// What a link is attached to, for the kinds bpfd reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A raw tracepoint.
    RawTracepoint {
        /// Such as `sched_switch`.
        name: String,
    },
    /// fentry, fexit, LSM, or an EXT program in its target.
    Tracing {
        /// [`AttachType::NONE`] for EXT.
        attach_type: AttachType,
        /// The target's program id for EXT, a BTF object id otherwise; 0 before Linux 5.13.
        target_obj: u32,
        /// The function; 0 before Linux 5.13.
        target_btf: BtfTypeId,
    },
    /// XDP on a device.
    Xdp {
        /// 0 after the device is gone.
        ifindex: u32,
    },
    /// tcx on a device.
    Tcx {
        /// 0 after the device is gone.
        ifindex: u32,
        /// [`AttachType::TCX_INGRESS`] or [`AttachType::TCX_EGRESS`].
        attach_type: AttachType,
    },
    /// A perf event.
    PerfEvent(PerfKind),
    /// Any other `enum bpf_link_type`.
    Unknown(u32),
}

/// `enum bpf_perf_event_type` (Linux 6.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerfKind {
    /// A tracepoint.
    Tracepoint {
        /// Such as `sched_switch`.
        name: String,
    },
    /// Another kind; 0 on kernels that do not say.
    Unknown(u32),
}

const LINK_RAW_TRACEPOINT: u32 = 1;
const LINK_TRACING: u32 = 2;
const LINK_XDP: u32 = 6;
const LINK_PERF_EVENT: u32 = 7;
const LINK_TCX: u32 = 11;
const PERF_TRACEPOINT: u32 = 5;

/// What the kernel says of a link; `EINVAL` for any other descriptor.
pub fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    expect_kind(fd, ObjectKind::Link)?;
    let mut info = RawLinkInfo::default();
    // SAFETY: `RawLinkInfo` mirrors the kernel's struct for a link; all addresses are null with length 0.
    unsafe { object_info(fd, &mut info) }?;
    let [first, second] = info.first;
    let kind = match info.kind {
        LINK_RAW_TRACEPOINT => LinkKind::RawTracepoint { name: link_name(fd, NamePlace::First)? },
        LINK_TRACING => LinkKind::Tracing {
            attach_type: AttachType(first),
            target_obj: second,
            target_btf: BtfTypeId(info.second[0]),
        },
        LINK_XDP => LinkKind::Xdp { ifindex: first },
        LINK_TCX => LinkKind::Tcx { ifindex: first, attach_type: AttachType(second) },
        LINK_PERF_EVENT if first == PERF_TRACEPOINT => {
            LinkKind::PerfEvent(PerfKind::Tracepoint { name: link_name(fd, NamePlace::Second)? })
        }
        LINK_PERF_EVENT => LinkKind::PerfEvent(PerfKind::Unknown(first)),
        other => LinkKind::Unknown(other),
    };
    Ok(LinkInfo { id: LinkId(info.id), prog_id: ProgId(info.prog_id), kind })
}

/// Which pair of words holds the address of the name buffer; its length is in the pair after it.
#[derive(Clone, Copy)]
enum NamePlace {
    First,
    Second,
}

/// A second call, for the name alone. Tracepoint names are shorter than 256 bytes; `ENOSPC` if not.
fn link_name(fd: BorrowedFd<'_>, place: NamePlace) -> io::Result<String> {
    let mut name = [0_u8; 256];
    let address = halves(Address::of_mut(&mut name));
    let mut info = RawLinkInfo::default();
    match place {
        NamePlace::First => (info.first, info.second) = (address, [256, 0]),
        NamePlace::Second => (info.second, info.third) = (address, [256, 0]),
    }
    // SAFETY: the link's kind was read before and never changes, so these words are the address and length of `name`,
    // which outlives the call.
    unsafe { object_info(fd, &mut info) }?;
    Ok(text(&name))
}

/// An 8-byte address as the two words it takes in memory.
fn halves(address: Address) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.0.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_fields_are_where_the_kernel_writes_them() {
        assert_eq!(offset_of!(RawProgInfo, load_time), 40);
        assert_eq!(offset_of!(RawProgInfo, map_ids), 56);
        assert_eq!(offset_of!(RawProgInfo, flags), 84);
        assert_eq!(offset_of!(RawProgInfo, btf_id), 128);
        assert_eq!(offset_of!(RawProgInfo, prog_tags), 184);
        assert_eq!(offset_of!(RawProgInfo, verified_insns), 216);
        assert_eq!(size_of::<RawProgInfo>(), 232);
        assert_eq!(offset_of!(RawMapInfo, netns_dev), 48);
        assert_eq!(offset_of!(RawMapInfo, map_extra), 80);
        assert_eq!(offset_of!(RawLinkInfo, first), 16);
        assert_eq!(offset_of!(RawLinkInfo, second), 24);
    }

    #[test]
    fn an_address_split_in_words_keeps_its_bytes() {
        let [low, high] = halves(Address(0x1122_3344_5566_7788));
        let whole: Vec<u8> = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
        assert_eq!(whole, 0x1122_3344_5566_7788_u64.to_ne_bytes());
    }
}
