//! Kernel tracepoints: `category/event`, as below tracefs' `events/`.
//!
//! This file must never read tracefs.

use std::fmt;

use super::own::{Own, target_text};
use crate::state::ProgramKind;

/// A kernel tracepoint: `category/event`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tracepoint {
    category: String,
    event: String,
}

/// Bytes of a tracepoint's category.
const CATEGORY_MAX: usize = 63;
/// Bytes of a tracepoint's name.
const EVENT_MAX: usize = 127;

target_text!(Tracepoint);

impl Tracepoint {
    /// The directory below tracefs' `events/`.
    pub fn category(&self) -> &str {
        &self.category
    }

    /// The directory below the category.
    pub fn event(&self) -> &str {
        &self.event
    }
}

impl Own for Tracepoint {
    const KIND: ProgramKind = ProgramKind::Tracepoint;
    const NOUN: &'static str = "tracepoint";
    const FORM: &'static str = "CATEGORY/EVENT, as in `sched/sched_switch`";

    /// Sections write `category/event`, labels of images `category:event`.
    fn read(text: &str) -> Option<Self> {
        // The longest names in the tracefs of Linux 6.12 have 24 and 42 bytes; the parts become path components.
        let part = |part: &str, most: usize| {
            (1..=most).contains(&part.len())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        };
        let (category, event) = text.split_once(['/', ':'])?;
        (part(category, CATEGORY_MAX) && part(event, EVENT_MAX))
            .then(|| Self { category: category.to_owned(), event: event.to_owned() })
    }

    fn absent_hint(&self) -> String {
        format!("`ls /sys/kernel/tracing/events/{}` shows those there are", self.category)
    }
}

impl fmt::Display for Tracepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { category, event } = self;
        write!(f, "{category}/{event}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_is_two_path_components() {
        assert_eq!("sched/sched_switch".parse::<Tracepoint>(), "sched:sched_switch".parse());
        assert!("sched/sched_switch".parse::<Tracepoint>().is_ok());
        for bad in ["sched", "sched/", "/x", "../x", "a/b/c", "a/..", "a/b "] {
            assert!(bad.parse::<Tracepoint>().is_err(), "{bad:?}");
        }
    }
}
