//! What a section name says about the programs in it, by libbpf's rules (`section_defs` in `libbpf.c`), and the kinds that
//! bpfd loads. Must never guess: a name that says nothing leaves the choice to the requester.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of program that bpfd loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProgramKind {
    /// `BPF_PROG_TYPE_XDP` for an interface.
    #[serde(rename = "xdp")]
    Xdp,
    /// `BPF_PROG_TYPE_SCHED_CLS`, by tcx or cls_bpf.
    #[serde(rename = "tc")]
    TcClassifier,
    /// `BPF_PROG_TYPE_TRACEPOINT`.
    #[serde(rename = "tracepoint")]
    Tracepoint,
}

impl ProgramKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::TcClassifier, Self::Tracepoint];

    /// The word for it in requests, labels and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcClassifier => "tc",
            Self::Tracepoint => "tracepoint",
        }
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
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| UnknownKind(word.to_owned()))
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

/// Where a section name says that a program belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookHint {
    /// `tracepoint/CATEGORY/EVENT`.
    Tracepoint {
        /// Such as `sched`.
        category: String,
        /// Such as `sched_switch`.
        event: String,
    },
    /// `tc/ingress`, `tcx/ingress`.
    TcIngress,
    /// `tc/egress`, `tcx/egress`.
    TcEgress,
}

impl fmt::Display for HookHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracepoint { category, event } => write!(f, "{category}/{event}"),
            Self::TcIngress => f.write_str("ingress"),
            Self::TcEgress => f.write_str("egress"),
        }
    }
}

/// All that a section name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SectionMeaning {
    pub(crate) kind: DeclaredKind,
    pub(crate) hook: Option<HookHint>,
    /// `xdp.frags`: the program takes packets in several buffers.
    pub(crate) frags: bool,
    /// A leading `?`: not loaded unless it is asked for.
    pub(crate) optional: bool,
}

/// First words of libbpf's section names (1.5) for kinds that bpfd does not load, without `.s` and other suffixes.
const UNSUPPORTED: [&str; 42] = [
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
    let (kind, hook) = match (word, rest) {
        // Programs for map entries, not for an interface (`BPF_XDP_DEVMAP`, `BPF_XDP_CPUMAP`).
        ("xdp" | "xdp.frags", Some("devmap" | "cpumap")) => (DeclaredKind::Unsupported(name.to_owned()), None),
        ("xdp" | "xdp.frags", _) => (DeclaredKind::Known(ProgramKind::Xdp), None),
        ("tc" | "tcx" | "classifier", _) => {
            let hook = match rest {
                Some("ingress") => Some(HookHint::TcIngress),
                Some("egress") => Some(HookHint::TcEgress),
                _ => None,
            };
            (DeclaredKind::Known(ProgramKind::TcClassifier), hook)
        }
        ("tracepoint" | "tp", _) => {
            let hook = rest.and_then(|rest| rest.split_once('/')).and_then(|(category, event)| {
                let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                (word(category) && word(event))
                    .then(|| HookHint::Tracepoint { category: category.to_owned(), event: event.to_owned() })
            });
            (DeclaredKind::Known(ProgramKind::Tracepoint), hook)
        }
        _ if UNSUPPORTED.contains(&without_suffix(word)) => (DeclaredKind::Unsupported(name.to_owned()), None),
        _ => (DeclaredKind::Unstated, None),
    };
    SectionMeaning { kind, hook, frags: word == "xdp.frags", optional }
}

/// `lsm.s` (sleepable), `raw_tp.w` (writable): the same kind.
fn without_suffix(word: &str) -> &str {
    word.strip_suffix(".s").or_else(|| word.strip_suffix(".w")).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(section: &str, kind: DeclaredKind, hook: Option<&str>, frags: bool, optional: bool) {
        let found = meaning(section);
        assert_eq!(found.kind, kind, "{section}");
        assert_eq!(found.hook.map(|hook| hook.to_string()).as_deref(), hook, "{section}");
        assert_eq!((found.frags, found.optional), (frags, optional), "{section}");
    }

    #[test]
    fn section_names_mean_what_libbpf_says() {
        use DeclaredKind::{Known, Unstated, Unsupported};
        let other = |name: &str| Unsupported(name.to_owned());
        check("xdp", Known(ProgramKind::Xdp), None, false, false);
        check("xdp.frags", Known(ProgramKind::Xdp), None, true, false);
        check("xdp/foo", Known(ProgramKind::Xdp), None, false, false);
        check("?xdp", Known(ProgramKind::Xdp), None, false, true);
        check("xdp/devmap", other("xdp/devmap"), None, false, false);
        check("?xdp.frags/cpumap", other("xdp.frags/cpumap"), None, true, true);
        check("tc", Known(ProgramKind::TcClassifier), None, false, false);
        check("classifier", Known(ProgramKind::TcClassifier), None, false, false);
        check("tcx/ingress", Known(ProgramKind::TcClassifier), Some("ingress"), false, false);
        check("tc/egress", Known(ProgramKind::TcClassifier), Some("egress"), false, false);
        check("tp/sched/sched_switch", Known(ProgramKind::Tracepoint), Some("sched/sched_switch"), false, false);
        check("tracepoint/a/b", Known(ProgramKind::Tracepoint), Some("a/b"), false, false);
        check("tracepoint/../b", Known(ProgramKind::Tracepoint), None, false, false);
        check("tracepoint", Known(ProgramKind::Tracepoint), None, false, false);
        check("lsm.s/file_open", other("lsm.s/file_open"), None, false, false);
        check("kprobe.multi/x", other("kprobe.multi/x"), None, false, false);
        for silent in ["pass", "prog", "xdp_pass", "tcfoo"] {
            check(silent, Unstated, None, false, false);
        }
    }

    #[test]
    fn kinds_round_trip_as_words() {
        for kind in ProgramKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("socket".parse::<ProgramKind>(), Err(UnknownKind("socket".to_owned())));
    }
}
