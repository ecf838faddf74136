//! The registry of hooks: which message belongs to which kind. What a kind's message says is in the kind's own file.

mod tracepoint;
pub(super) mod xdp;

use bpfd_core::hook::Placement;
use bpfd_core::request::HookAsk;
use bpfd_core::state::ProgramType;

use super::{BadField, bad};
use crate::v1 as pb;

/// The hook that an attachment asks for, with its options.
pub(super) fn asked(message: &pb::Attachment) -> Result<HookAsk, BadField> {
    match message.hook.as_ref().and_then(|hook| hook.hook.as_ref()) {
        None => Err(bad("attachment.hook", "no hook given")),
        Some(pb::hook::Hook::Xdp(hook)) => xdp::asked(hook, message),
        Some(pb::hook::Hook::Tracepoint(hook)) => tracepoint::asked(hook, message),
    }
}

/// What a link's message says of its hook.
pub(super) struct Placed {
    pub(super) hook: pb::hook::Hook,
    pub(super) priority: Option<u32>,
    pub(super) proceed_on: Option<pb::ProceedOn>,
    pub(super) mode: pb::XdpMode,
}

pub(super) fn placed(placement: &Placement) -> Placed {
    match placement {
        Placement::Chain { key, priority, proceed_on, mode } => xdp::placed(key, *priority, *proceed_on, *mode),
        Placement::Tracepoint(tracepoint) => tracepoint::placed(tracepoint),
    }
}

pub(super) fn program_type(kind: ProgramType) -> pb::ProgramType {
    match kind {
        ProgramType::Xdp => pb::ProgramType::Xdp,
        ProgramType::Tracepoint => pb::ProgramType::Tracepoint,
    }
}
