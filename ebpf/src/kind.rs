//! What a section name says about the programs in it, by libbpf's rules (`section_defs` in `libbpf.c`), and the kinds that
//! bpfd loads. Must never guess: a name that says nothing leaves the choice to the requester.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::load_type::LoadType;

/// How the kernel takes a kind of program: a row of the table below.
#[derive(Debug, Clone, Copy)]
struct Row {
    kind: ProgramKind,
    /// The word for it in requests, labels and listings.
    word: &'static str,
    /// `enum bpf_prog_type` and `enum bpf_attach_type` of BPF_PROG_LOAD (include/uapi/linux/bpf.h).
    load: (u32, u32),
    /// First words of the section names that libbpf gives to it.
    sections: &'static [&'static str],
    sees: Sees,
}

/// What a kind of program can read by its nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Packets and its own maps.
    Packets,
    /// The kernel's or other processes' memory.
    Kernel,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal, load $load:expr, sections $sections:expr, $sees:expr;)*) => {
        /// What a program is: the one type for it, from the section's name to the API. Each kind of program has one kind of hook.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ProgramKind {
            $($(#[$doc])* #[serde(rename = $word)] $kind,)*
        }

        impl ProgramKind {
            /// Every kind, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$kind => {
                        Row { kind: Self::$kind, word: $word, load: $load, sections: $sections, sees: $sees }
                    })*
                }
            }
        }
    };
}

// The registry of program kinds: a new kind is a line here.
kinds! {
    /// `BPF_PROG_TYPE_XDP` for an interface, with expected attach type BPF_XDP as libbpf loads it.
    Xdp = "xdp", load (6, 37), sections &["xdp"], Sees::Packets;
    /// `BPF_PROG_TYPE_SCHED_CLS`, by tcx or cls_bpf.
    Tc = "tc", load (3, 0), sections &["tc", "tcx", "classifier"], Sees::Packets;
    /// `BPF_PROG_TYPE_TRACEPOINT`.
    Tracepoint = "tracepoint", load (5, 0), sections &["tracepoint", "tp"], Sees::Kernel;
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
    RawTracepoint = "raw_tracepoint", load (17, 0), sections &["raw_tp", "raw_tracepoint"], Sees::Kernel;
    /// `BPF_PROG_TYPE_KPROBE` at an instruction of a kernel function.
    Kprobe = "kprobe", load (2, 0), sections &["kprobe"], Sees::Kernel;
    /// `BPF_PROG_TYPE_KPROBE` at the return of a kernel function.
    Kretprobe = "kretprobe", load (2, 0), sections &["kretprobe"], Sees::Kernel;
    /// `BPF_PROG_TYPE_TRACING` at the entry of a kernel function, BPF_TRACE_FENTRY.
    Fentry = "fentry", load (26, 24), sections &["fentry"], Sees::Kernel;
    /// `BPF_PROG_TYPE_TRACING` at the return of a kernel function, BPF_TRACE_FEXIT.
    Fexit = "fexit", load (26, 25), sections &["fexit"], Sees::Kernel;
}

impl ProgramKind {
    /// The word for it in requests, labels and listings.
    pub const fn as_str(self) -> &'static str {
        self.row().word
    }

    /// How the kernel is asked to load it.
    pub const fn load(self) -> LoadType {
        let (prog_type, expected_attach_type) = self.row().load;
        LoadType { prog_type, expected_attach_type, flags: 0 }
    }

    /// What it can read by its nature.
    pub const fn sees(self) -> Sees {
        self.row().sees
    }

    /// The kind that a word of an image's label names: the kind's own, or one that its sections have.
    pub fn of_label(word: &str) -> Option<Self> {
        word.parse().ok().or_else(|| Self::of_section(word))
    }

    fn of_section(word: &str) -> Option<Self> {
        Self::ALL.iter().map(|kind| kind.row()).find(|row| row.sections.contains(&word)).map(|row| row.kind)
    }
}

impl fmt::Display for ProgramKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("no program kind `{0}`")]
pub struct UnknownKind(pub String);

impl FromStr for ProgramKind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// What an object says about a program's kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclaredKind {
    /// The section names a kind that bpfd loads.
    Known(ProgramKind),
    /// The section names a kind of libbpf's that bpfd does not load; the name without a leading `?`.
    Unsupported(String),
    /// The section says nothing (`pass`, `prog`): the requester's sub-command decides.
    Unstated,
}

/// All that a section name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SectionMeaning {
    pub(crate) kind: DeclaredKind,
    /// What follows the first `/`: the target, as the kind reads it.
    pub(crate) target: Option<String>,
    /// `xdp.frags`: the program takes packets in several buffers.
    pub(crate) frags: bool,
    /// A leading `?`: not loaded unless it is asked for.
    pub(crate) optional: bool,
}

/// First words of libbpf's section names (1.5), without `.s` and other suffixes: those that name no kind of the table are of kinds
/// that bpfd does not load.
const LIBBPF: [&str; 42] = [
    "action",
    "cgroup",
    "cgroup_skb",
    "fentry",
    "fexit",
    "flow_dissector",
    "fmod_ret",
    "freplace",
    "iter",
    "kprobe",
    "kretprobe",
    "kretsyscall",
    "ksyscall",
    "lirc_mode2",
    "lsm",
    "lsm_cgroup",
    "lwt_in",
    "lwt_out",
    "lwt_seg6local",
    "lwt_xmit",
    "netfilter",
    "netkit",
    "perf_event",
    "raw_tp",
    "raw_tracepoint",
    "sk_lookup",
    "sk_msg",
    "sk_reuseport",
    "sk_skb",
    "socket",
    "sockops",
    "struct_ops",
    "syscall",
    "tp_btf",
    "uprobe",
    "uretprobe",
    "usdt",
    "kprobe.multi",
    "kretprobe.multi",
    "kprobe.session",
    "uprobe.multi",
    "uretprobe.multi",
];

/// Reads a section name.
pub(crate) fn meaning(section: &str) -> SectionMeaning {
    let (optional, name) = match section.strip_prefix('?') {
        Some(rest) => (true, rest),
        None => (false, section),
    };
    let (word, rest) = match name.split_once('/') {
        Some((word, rest)) => (word, Some(rest)),
        None => (name, None),
    };
    let kind = match (word, rest) {
        // Programs for map entries, not for an interface (`BPF_XDP_DEVMAP`, `BPF_XDP_CPUMAP`).
        ("xdp" | "xdp.frags", Some("devmap" | "cpumap")) => DeclaredKind::Unsupported(name.to_owned()),
        ("xdp.frags", _) => DeclaredKind::Known(ProgramKind::Xdp),
        _ => match ProgramKind::of_section(word) {
            Some(kind) => DeclaredKind::Known(kind),
            None if LIBBPF.contains(&without_suffix(word)) => DeclaredKind::Unsupported(name.to_owned()),
            None => DeclaredKind::Unstated,
        },
    };
    let target = rest.filter(|_| matches!(kind, DeclaredKind::Known(_))).map(str::to_owned);
    SectionMeaning { kind, target, frags: word == "xdp.frags", optional }
}

/// `lsm.s` (sleepable), `raw_tp.w` (writable): the same kind.
fn without_suffix(word: &str) -> &str {
    word.strip_suffix(".s").or_else(|| word.strip_suffix(".w")).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(section: &str, kind: DeclaredKind, target: Option<&str>, frags: bool, optional: bool) {
        let found = meaning(section);
        assert_eq!(found.kind, kind, "{section}");
        assert_eq!(found.target.as_deref(), target, "{section}");
        assert_eq!((found.frags, found.optional), (frags, optional), "{section}");
    }

    #[test]
    fn section_names_mean_what_libbpf_says() {
        use DeclaredKind::{Known, Unstated, Unsupported};
        let other = |name: &str| Unsupported(name.to_owned());
        check("xdp", Known(ProgramKind::Xdp), None, false, false);
        check("xdp.frags", Known(ProgramKind::Xdp), None, true, false);
        check("xdp/foo", Known(ProgramKind::Xdp), Some("foo"), false, false);
        check("?xdp", Known(ProgramKind::Xdp), None, false, true);
        check("xdp/devmap", other("xdp/devmap"), None, false, false);
        check("?xdp.frags/cpumap", other("xdp.frags/cpumap"), None, true, true);
        check("tc", Known(ProgramKind::Tc), None, false, false);
        check("classifier", Known(ProgramKind::Tc), None, false, false);
        check("tcx/ingress", Known(ProgramKind::Tc), Some("ingress"), false, false);
        check("tc/egress", Known(ProgramKind::Tc), Some("egress"), false, false);
        check("tp/sched/sched_switch", Known(ProgramKind::Tracepoint), Some("sched/sched_switch"), false, false);
        check("tracepoint/a/b", Known(ProgramKind::Tracepoint), Some("a/b"), false, false);
        check("tracepoint/../b", Known(ProgramKind::Tracepoint), Some("../b"), false, false);
        check("tracepoint", Known(ProgramKind::Tracepoint), None, false, false);
        check("raw_tp/sched_switch", Known(ProgramKind::RawTracepoint), Some("sched_switch"), false, false);
        check("raw_tracepoint.w/x", other("raw_tracepoint.w/x"), None, false, false);
        check("lsm.s/file_open", other("lsm.s/file_open"), None, false, false);
        check("kprobe/do_unlinkat+0x10", Known(ProgramKind::Kprobe), Some("do_unlinkat+0x10"), false, false);
        check("kprobe", Known(ProgramKind::Kprobe), None, false, false);
        check("kretprobe/do_unlinkat", Known(ProgramKind::Kretprobe), Some("do_unlinkat"), false, false);
        check("fentry/do_unlinkat", Known(ProgramKind::Fentry), Some("do_unlinkat"), false, false);
        check("fexit", Known(ProgramKind::Fexit), None, false, false);
        check("fentry.s/x", other("fentry.s/x"), None, false, false);
        check("kprobe.multi/x", other("kprobe.multi/x"), None, false, false);
        for silent in ["pass", "prog", "xdp_pass", "tcfoo"] {
            check(silent, Unstated, None, false, false);
        }
    }

    #[test]
    fn kinds_round_trip_as_words() {
        for kind in ProgramKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
        }
        assert_eq!("socket".parse::<ProgramKind>(), Err(UnknownKind("socket".to_owned())));
    }
}
