//! Traffic control (tc) on an interface, ingress and egress: after which verdicts the kernel runs the next program.
//!
//! This file must never touch an interface.

/// What a tc program may return (`TC_ACT_UNSPEC` to `TC_ACT_TRAP` of include/uapi/linux/pkt_cls.h), from -1 on. Only after the first the
/// kernel runs the next program of a tcx hook (`TCX_NEXT` of include/uapi/linux/bpf.h) and the next filter of a clsact qdisc
/// (`cls_bpf_classify` of net/sched/cls_bpf.c).
pub(super) const VERDICTS: &[&str] =
    &["next", "ok", "reclassify", "shot", "pipe", "stolen", "queued", "repeat", "redirect", "trap"];
