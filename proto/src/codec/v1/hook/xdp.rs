//! XDP in messages.

use bpfd_core::hook::{HookAsk, Place, Point, XdpMode};

use super::Placed;
use super::shared::{asked_priority, asked_proceed_on, interface_name, netns, proceed_on};
use crate::codec::v1::{BadField, bad};
use crate::v1 as pb;

pub(super) fn asked(hook: &pb::XdpHook, message: &pb::Attachment) -> Result<HookAsk, BadField> {
    Ok(HookAsk::Shared {
        chain: interface_name(hook.netns.as_deref(), &hook.interface)?.chain(Point::Xdp),
        priority: asked_priority(message.priority)?,
        proceed_on: asked_proceed_on(message.proceed_on.as_ref())?,
        mode: match pb::XdpMode::try_from(message.xdp_mode) {
            Ok(pb::XdpMode::Unspecified | pb::XdpMode::Auto) => XdpMode::Auto,
            Ok(pb::XdpMode::Native) => XdpMode::Native,
            Ok(pb::XdpMode::Generic) => XdpMode::Generic,
            Err(_) => return Err(bad("attachment.xdp_mode", format!("{} is no XDP mode", message.xdp_mode))),
        },
    })
}

pub(super) fn placed(Place { asked, priority, effective, order, proceed_on: set, mode: driven }: &Place) -> Placed {
    let hook = pb::XdpHook { netns: netns(&asked.netns), interface: asked.interface.to_string() };
    Placed {
        hook: pb::hook::Hook::Xdp(hook),
        priority: Some(u32::from(*priority)),
        effective_priority: Some(u32::from(*effective)),
        order: order.as_ref().map(ToString::to_string).unwrap_or_default(),
        proceed_on: Some(proceed_on(*set)),
        mode: mode(*driven),
    }
}

pub(in crate::codec::v1) fn mode(mode: XdpMode) -> pb::XdpMode {
    match mode {
        XdpMode::Auto => pb::XdpMode::Auto,
        XdpMode::Native => pb::XdpMode::Native,
        XdpMode::Generic => pb::XdpMode::Generic,
    }
}
