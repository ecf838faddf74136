//! Progress of loads and pulls on standard error: a bar on a terminal, a line for each phase elsewhere.
//! It must never touch standard output.

use std::io::IsTerminal as _;

use bpfd_proto::v1::{self as pb, Phase};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::client::Session;
use crate::error::note;

/// Shows states as they come; what it drew is gone when it is dropped.
pub(crate) enum Progress {
    Silent,
    Lines { last: Phase },
    Bar(ProgressBar),
}

impl Progress {
    pub(crate) fn new(session: &Session) -> Self {
        if session.printer.is_quiet() {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: Phase::Unspecified };
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self::Bar(bar)
    }

    pub(crate) fn state(&mut self, state: &pb::Progress) {
        let phase = state.phase();
        match self {
            Self::Silent => {}
            Self::Lines { last } if *last == phase => {}
            Self::Lines { last } => {
                *last = phase;
                note(&text(state));
            }
            Self::Bar(bar) => draw(bar, state),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, state: &pb::Progress) {
    match (state.done_bytes, state.total_bytes) {
        (Some(done), Some(total)) if total > 0 => {
            // The template is a constant; if it did not parse, the spinner stays.
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}") {
                bar.set_style(style);
            }
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(verb(state.phase()));
        }
        _ => {
            bar.set_style(ProgressStyle::default_spinner());
            bar.set_message(text(state));
        }
    }
}

fn text(state: &pb::Progress) -> String {
    let verb = verb(state.phase());
    match (state.phase(), &state.digest, state.total_bytes) {
        (Phase::Fetch, _, Some(total)) => format!("{verb} {}", HumanBytes(total)),
        (Phase::Verify, Some(digest), _) => format!("{verb} of {digest}"),
        _ => verb.to_owned(),
    }
}

fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "working",
        Phase::Resolve => "resolving the reference",
        Phase::Verify => "verifying signatures",
        Phase::Fetch => "fetching",
        Phase::Inspect => "reading the object",
        Phase::Load => "loading programs",
        Phase::Attach => "attaching",
    }
}
