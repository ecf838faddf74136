//! Traffic control by rtnetlink, as far as bpfd needs it: whether a device has a clsact qdisc, and the filters on it.
//!
//! Filters have no compare-and-swap: what others do between a read and a change is lost. A change names one filter and
//! never all of a preference or of a qdisc. Facts: net/sched/{cls_api,cls_bpf,sch_api}.c.
use super::{ChangeError, Route, tc_wire};
use crate::bpf::{Direction, ProgId};
use std::io;
use std::num::{NonZeroU16, NonZeroU32};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `ACT_BPF_NAME_LEN` of net/sched/cls_bpf.c, with the closing NUL.
const NAME_ROOM: usize = 256;

/// The qdisc that holds the filters of a device's received packets. There is room for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressQdisc {
    /// clsact: filters of both directions.
    Clsact,
    /// Another, by its kind: `ingress`, which has no filters for packets that are sent.
    Other(String),
}

/// Where a filter is on a hook: in chain 0, of bpfd's kind (`bpf`, for all protocols).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterPlace {
    /// The lowest runs first. All filters of one preference are of one kind and protocol (`EINVAL` otherwise).
    pub preference: NonZeroU16,
    /// Tells apart the filters of one preference.
    pub handle: NonZeroU32,
}

/// A filter of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcFilter {
    /// Only chain 0 runs by itself; the others if an action goes to them.
    pub chain: u32,
    /// Where it is in its chain.
    pub place: FilterPlace,
    /// `ETH_P_*` (include/uapi/linux/if_ether.h), in host order; 3 for all packets.
    pub protocol: u16,
    /// What it does.
    pub kind: FilterKind,
}

/// What a filter does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// It runs a program (cls_bpf).
    Bpf(BpfFilter),
    /// Another kind by its name, such as `flower`.
    Other(String),
}

/// A filter that runs a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfFilter {
    /// Given by whoever made it.
    pub name: Option<String>,
    /// `None` for classic BPF.
    pub program: Option<ProgId>,
    /// The program's tag.
    pub tag: Option<[u8; 8]>,
    /// What the program returns is the verdict (`TCA_BPF_FLAG_ACT_DIRECT`).
    pub direct_action: bool,
}

impl Route {
    /// The qdisc where a clsact would be. It reads all qdiscs of the namespace: older kernels send the answer about one to
    /// all listeners (`tc_get_qdisc` before Linux 6.8), so that a listener who asks would never rest.
    pub fn ingress_qdisc(&self, index: u32) -> io::Result<Option<IngressQdisc>> {
        let rows = self.dump(tc_wire::get_qdiscs, |payload| tc_wire::ingress_qdisc(payload, index))?;
        Ok(rows.into_iter().next())
    }

    /// Gives a device a clsact. `EEXIST` if it has one, or another qdisc in its place.
    pub fn create_clsact(&self, index: u32) -> Result<(), ChangeError> {
        self.change(tc_wire::create_clsact(self.next_sequence(), index))
    }

    /// Takes the clsact away, with all filters that are left on it, whoever made them. `EINVAL` for another qdisc.
    pub fn delete_clsact(&self, index: u32) -> Result<(), ChangeError> {
        self.change(tc_wire::delete_clsact(self.next_sequence(), index))
    }

    /// All filters, chain by chain, in the order they run. Without a device or a clsact there are none.
    pub fn filters(&self, index: u32, direction: Direction) -> io::Result<Vec<TcFilter>> {
        self.dump(|sequence| tc_wire::get_filters(sequence, index, direction), tc_wire::filter)
    }

    /// Puts a TC program there, in direct-action mode. `EEXIST` if the place is taken, `EINVAL` without a clsact,
    /// `EOPNOTSUPP` if the device shares its filters with others (`ingress_block`). `name` has at most 255 bytes.
    pub fn create_filter(
        &self,
        index: u32,
        direction: Direction,
        place: FilterPlace,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), ChangeError> {
        let bpf = tc_wire::Bpf { program: program.as_raw_fd(), name: checked(name)? };
        self.change(tc_wire::create_filter(self.next_sequence(), index, direction, place, bpf))
    }

    /// Swaps program and name of the filter there, in one step that packets do not see. `ENOENT` if there is none.
    pub fn replace_filter(
        &self,
        index: u32,
        direction: Direction,
        place: FilterPlace,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), ChangeError> {
        let bpf = tc_wire::Bpf { program: program.as_raw_fd(), name: checked(name)? };
        self.change(tc_wire::replace_filter(self.next_sequence(), index, direction, place, bpf))
    }

    /// Takes the filter away. `ENOENT` if there is none, `EINVAL` if the preference is of another kind.
    pub fn delete_filter(&self, index: u32, direction: Direction, place: FilterPlace) -> Result<(), ChangeError> {
        self.change(tc_wire::delete_filter(self.next_sequence(), index, direction, place))
    }
}

fn checked(name: &str) -> io::Result<&str> {
    match name.len() < NAME_ROOM && !name.contains('\0') {
        true => Ok(name),
        false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}
