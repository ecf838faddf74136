//! Raw tracepoints: the tracepoints of the kernel by their names alone. Their programs see the arguments as the kernel passes them.
//!
//! This file must never look whether the kernel has one.

use std::fmt;

use super::own::{Own, target_text};
use crate::state::ProgramKind;

/// A raw tracepoint: the event's name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RawTracepoint(String);

/// Bytes of a name: `bpf_raw_tp_link_attach` (kernel/bpf/syscall.c) reads 128 with the NUL and cuts what is longer.
const EVENT_MAX: usize = 127;

target_text!(RawTracepoint);

impl RawTracepoint {
    /// The event's name.
    pub fn event(&self) -> &str {
        &self.0
    }
}

impl Own for RawTracepoint {
    const KIND: ProgramKind = ProgramKind::RawTracepoint;
    const NOUN: &'static str = "raw tracepoint";
    const FORM: &'static str = "EVENT, as in `sched_switch`";

    fn read(text: &str) -> Option<Self> {
        let valid =
            (1..=EVENT_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        valid.then(|| Self(text.to_owned()))
    }

    fn absent_hint(&self) -> String {
        "`ls -d /sys/kernel/tracing/events/*/*/` shows those there are; give the last part".to_owned()
    }
}

impl fmt::Display for RawTracepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let hook: RawTracepoint = "sched_switch".parse().unwrap();
        assert_eq!((hook.event(), hook.to_string().as_str()), ("sched_switch", "sched_switch"));
        assert!(RawTracepoint::read(&"x".repeat(EVENT_MAX)).is_some());
    }

    #[test]
    fn what_the_kernel_would_cut_or_a_path_is_no_name() {
        for text in
            ["", "sched/sched_switch", "sched:sched_switch", "..", "a b", "a\0b", "é", &"x".repeat(EVENT_MAX + 1)]
        {
            assert!(RawTracepoint::read(text).is_none(), "{text}");
        }
    }
}
