//! The words that rules may use for kinds of programs and for verdicts: a slip must be refused when a file is read, not be a rule that
//! never matches. A test of `bpfd-core` holds them against the registries of kinds and hooks, which this crate does not know.

/// Kinds of programs, each with one kind of hook.
pub const KINDS: &[&str] = &["xdp", "tc", "tracepoint", "raw_tracepoint", "kprobe", "kretprobe", "fentry", "fexit"];
/// Verdicts of XDP programs.
pub const XDP_VERDICTS: &[&str] = &["aborted", "drop", "pass", "tx", "redirect"];
/// Verdicts of tc programs.
pub const TC_VERDICTS: &[&str] =
    &["next", "ok", "reclassify", "shot", "pipe", "stolen", "queued", "repeat", "redirect", "trap"];

/// The verdicts of a kind of program; none if its hook has no chain.
#[must_use]
pub fn verdicts(kind: &str) -> &'static [&'static str] {
    match kind {
        "xdp" => XDP_VERDICTS,
        "tc" => TC_VERDICTS,
        _ => &[],
    }
}
