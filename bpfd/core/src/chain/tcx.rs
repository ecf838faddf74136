//! tcx (Linux 6.6): the kernel keeps a chain of all who use it, and puts a program beside another one, whatever somebody else adds
//! meanwhile (`bpf_mprog_attach` of kernel/bpf/mprog.c).
//!
//! This file must never move a program of somebody else.

use crate::ident::GenerationUid;
use crate::kernel::Spot;

/// The most programs on one hook (`BPF_MPROG_MAX` of include/linux/bpf_mprog.h).
pub(super) const ROOM: usize = 64;

/// Where a generation goes: beside a neighbour of ours, else after what others have there.
pub(super) fn spot(before: Option<GenerationUid>, after: Option<GenerationUid>) -> Spot {
    match (before, after) {
        (Some(before), _) => Spot::After(before),
        (None, Some(after)) => Spot::Before(after),
        (None, None) => Spot::Last,
    }
}
