//! What comes beside a result: progress, warnings, plans, times.

use bpfd_core::report::{Phase, Progress, Warning};

use super::texts;
use crate::v1::{self as pb, ErrorReason};

/// Warnings of one answer: nobody reads more, and the answer must fit one message.
const WARNINGS: usize = 64;

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

/// A plan, a line an entry, as far as a message has room for it.
pub fn plan(text: Option<String>) -> Vec<String> {
    texts(text.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default())
}

/// Warnings that come with a result: at most `WARNINGS`, then one that says how many more there are.
pub fn warnings(warnings: Vec<Warning>) -> Vec<pb::Warning> {
    let warning = |warning| {
        let (reason, message, hint) = match warning {
            Warning::Unreachable(why) => (ErrorReason::RegistryUnreachable, why, String::new()),
            Warning::Signatures(why) => (
                ErrorReason::SignatureInvalid,
                why,
                "the policy asks for no signature of this image; with one, it would be refused".to_owned(),
            ),
            Warning::PinByName { maps, shareable } => {
                let maps = maps.iter().map(|map| format!("`{map}`")).collect::<Vec<_>>().join(", ");
                (
                    ErrorReason::NotPinnedByName,
                    format!("the object asks to share {maps} by name (LIBBPF_PIN_BY_NAME); this app has its own"),
                    shareable.map_or_else(
                        || "maps of programs and maps that the object fills are not shared".to_owned(),
                        |map| format!("`bpfctl load --map-from APP:{map}` shares the map of another app"),
                    ),
                )
            }
            Warning::Stays { thing, owner } => (
                ErrorReason::PolicyDenied,
                format!("{thing} was not removed: it belongs to {owner}"),
                "ask its owner, or root".to_owned(),
            ),
            Warning::Unordered { order, earlier, later } => (
                ErrorReason::PolicyDenied,
                format!("order `{order}` has `{earlier}` run before `{later}`, and an order before it the opposite"),
                "`bpfctl policy show` shows both; ask an administrator to correct the one that is wrong".to_owned(),
            ),
        };
        pb::Warning { reason: reason.word().to_owned(), message, hint }
    };
    let more = warnings.len().saturating_sub(WARNINGS);
    let mut shown: Vec<pb::Warning> = warnings.into_iter().take(WARNINGS).map(warning).collect();
    if let Some(last) = shown.last().filter(|_| more > 0).cloned() {
        shown.push(pb::Warning { message: format!("and {more} more"), ..last });
    }
    shown
}

/// Seconds since 1970.
pub fn time(seconds: u64) -> Option<prost_types::Timestamp> {
    i64::try_from(seconds).ok().map(|seconds| prost_types::Timestamp { seconds, nanos: 0 })
}
