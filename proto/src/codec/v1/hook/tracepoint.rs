//! Tracepoints in messages.

use bpfd_core::hook::Tracepoint;

use super::OwnMessage;
use crate::v1 as pb;

impl OwnMessage for Tracepoint {
    type Message = pb::TracepointHook;
    const NO_TARGET: pb::ErrorReason = pb::ErrorReason::NoSuchTracepoint;

    fn target(message: &pb::TracepointHook) -> Option<String> {
        let pb::TracepointHook { category, event } = message;
        (!category.is_empty() || !event.is_empty()).then(|| format!("{category}/{event}"))
    }

    fn message(&self) -> pb::hook::Hook {
        let (category, event) = (self.category().to_owned(), self.event().to_owned());
        pb::hook::Hook::Tracepoint(pb::TracepointHook { category, event })
    }
}
