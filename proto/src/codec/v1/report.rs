//! What comes beside a result: progress, warnings, plans, times.

use bpfd_core::report::{Phase, Progress, Warning};

use crate::v1::{self as pb, ErrorReason};

/// A report.
pub fn progress(progress: Progress) -> pb::Progress {
    let Progress { phase, digest, done, total } = progress;
    let phase = match phase {
        Phase::Resolve => pb::Phase::Resolve,
        Phase::Verify => pb::Phase::Verify,
        Phase::Fetch => pb::Phase::Fetch,
        Phase::Inspect => pb::Phase::Inspect,
        Phase::Load => pb::Phase::Load,
        Phase::Attach => pb::Phase::Attach,
    };
    pb::Progress { phase: phase.into(), digest, done_bytes: done, total_bytes: total }
}

/// A plan, a line an entry.
pub fn plan(text: Option<String>) -> Vec<String> {
    text.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// Warnings that come with a result.
pub fn warnings(warnings: Vec<Warning>) -> Vec<pb::Warning> {
    let warning = |warning| {
        let (reason, message, hint) = match warning {
            Warning::Unreachable(why) => (ErrorReason::RegistryUnreachable, why, ""),
            Warning::Stays { thing, owner } => {
                (ErrorReason::PolicyDenied, format!("{thing} stays: it belongs to {owner}"), "ask its owner, or root")
            }
        };
        pb::Warning { reason: reason.word().to_owned(), message, hint: hint.to_owned() }
    };
    warnings.into_iter().map(warning).collect()
}

/// Seconds since 1970.
pub fn time(seconds: u64) -> Option<prost_types::Timestamp> {
    i64::try_from(seconds).ok().map(|seconds| prost_types::Timestamp { seconds, nanos: 0 })
}
