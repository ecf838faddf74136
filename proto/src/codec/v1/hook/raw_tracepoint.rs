//! Raw tracepoints in messages.

use bpfd_core::hook::RawTracepoint;

use super::OwnMessage;
use crate::v1 as pb;

impl OwnMessage for RawTracepoint {
    type Message = pb::RawTracepointHook;
    const NO_TARGET: pb::ErrorReason = pb::ErrorReason::NoSuchTracepoint;

    fn target(message: &pb::RawTracepointHook) -> Option<String> {
        (!message.event.is_empty()).then(|| message.event.clone())
    }

    fn message(&self) -> pb::hook::Hook {
        pb::hook::Hook::RawTracepoint(pb::RawTracepointHook { event: self.event().to_owned() })
    }
}
