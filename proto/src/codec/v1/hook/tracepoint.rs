//! Tracepoints in messages.

use bpfd_core::hook::Tracepoint;
use bpfd_core::request::HookAsk;

use super::Placed;
use crate::codec::v1::{BadField, bad, parsed};
use crate::v1 as pb;

pub(super) fn asked(hook: &pb::TracepointHook, message: &pb::Attachment) -> Result<HookAsk, BadField> {
    if message.priority.is_some() || message.proceed_on.is_some() {
        return Err(bad("attachment", "a tracepoint has no priority and no proceed-on: it is not shared"));
    }
    let pb::TracepointHook { category, event } = hook;
    let named = !(category.is_empty() && event.is_empty());
    let tracepoint = named.then(|| parsed::<Tracepoint>("attachment.hook.tracepoint", &format!("{category}/{event}")));
    Ok(HookAsk::Tracepoint(tracepoint.transpose()?))
}

pub(super) fn placed(tracepoint: &Tracepoint) -> Placed {
    let hook = pb::hook::Hook::Tracepoint(pb::TracepointHook {
        category: tracepoint.category().to_owned(),
        event: tracepoint.event().to_owned(),
    });
    Placed { hook, priority: None, proceed_on: None, mode: pb::XdpMode::Unspecified }
}
