//! How the kernel is asked to load a program: its type, expected attach type and flags.
//!
//! Owns the numbers of `enum bpf_prog_type`, `enum bpf_attach_type` and the `BPF_F_*` load flags
//! (`include/uapi/linux/bpf.h`) for the kinds bpfd knows. It must never decide where a program is attached.

use crate::kind::ProgramKind;

/// Type, expected attach type and flags of BPF_PROG_LOAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadType {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// `enum bpf_attach_type`; 0 where the type has none.
    pub expected_attach_type: u32,
    /// `BPF_F_*` load flags.
    pub flags: u32,
}

/// Load flag of an XDP program that reads multi-buffer packets (BPF_F_XDP_HAS_FRAGS, Linux 5.18).
pub const XDP_HAS_FRAGS: u32 = 1 << 5;
/// Load flag of an XDP program bound to one device (BPF_F_XDP_DEV_BOUND_ONLY, Linux 6.3).
pub const XDP_DEV_BOUND_ONLY: u32 = 1 << 6;

impl LoadType {
    /// An XDP program for an interface, with expected attach type BPF_XDP as libbpf loads it.
    pub const XDP: Self = ProgramKind::Xdp.load();
    /// A program that replaces a function of another one (freplace).
    pub const EXTENSION: Self = Self { prog_type: 28, expected_attach_type: 0, flags: 0 };

    /// Whether this is an XDP program for an interface (not for a devmap or cpumap).
    pub const fn is_xdp(self) -> bool {
        let of_interface =
            self.expected_attach_type == Self::XDP.expected_attach_type || self.expected_attach_type == 0;
        self.prog_type == Self::XDP.prog_type && of_interface
    }

    /// An XDP program that shares a program array: it has no expected attach type, as the copies of it that go into dispatchers have
    /// none. Newer kernels (6.18, and stable ones of 2025) let only programs of one expected attach type use an array, or be in it: that of
    /// the first one (`__bpf_prog_map_compatible` in kernel/bpf/core.c).
    pub const fn for_tail_calls(self) -> Self {
        if self.is_xdp() { Self { expected_attach_type: 0, ..self } } else { self }
    }

    /// The same with multi-buffer packets.
    pub const fn with_frags(self) -> Self {
        Self { flags: self.flags | XDP_HAS_FRAGS, ..self }
    }

    /// Whether the program takes multi-buffer packets.
    pub const fn has_frags(self) -> bool {
        self.flags & XDP_HAS_FRAGS != 0
    }

    /// The same program loaded to replace a dispatcher's function: libxdp clears both XDP flags there, and the
    /// expected attach type is 0.
    pub const fn as_extension(self) -> Self {
        Self { flags: self.flags & !(XDP_HAS_FRAGS | XDP_DEV_BOUND_ONLY), ..Self::EXTENSION }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_keeps_no_xdp_flag_and_no_attach_type() {
        let extension = LoadType::XDP.with_frags().as_extension();
        assert_eq!(extension, LoadType::EXTENSION);
        assert!(!extension.is_xdp());
        assert!(LoadType::XDP.with_frags().is_xdp());
        assert!(LoadType::XDP.for_tail_calls().is_xdp() && LoadType::XDP.for_tail_calls() != LoadType::XDP);
        assert_eq!(ProgramKind::Tc.load().for_tail_calls(), ProgramKind::Tc.load());
    }
}
