//! Traffic control in messages.

use bpfd_core::hook::{HookAsk, Place, Point, XdpMode};

use super::Placed;
use super::shared::{asked_priority, asked_proceed_on, interface_name, netns, proceed_on};
use crate::codec::v1::{BadField, bad};
use crate::v1 as pb;

pub(super) fn asked(hook: &pb::TcHook, message: &pb::Attachment) -> Result<HookAsk, BadField> {
    let point = match hook.direction() {
        pb::TcDirection::Ingress => Point::TcIngress,
        pb::TcDirection::Egress => Point::TcEgress,
        pb::TcDirection::Unspecified => {
            return Err(bad("attachment.hook.tc.direction", "say which packets: ingress or egress"));
        }
    };
    if message.xdp_mode() != pb::XdpMode::Unspecified {
        return Err(bad("attachment.xdp_mode", "a tc hook has no XDP mode"));
    }
    Ok(HookAsk::Shared {
        chain: interface_name(hook.netns.as_deref(), &hook.interface)?.chain(point),
        priority: asked_priority(message.priority)?,
        proceed_on: asked_proceed_on(message.proceed_on.as_ref())?,
        mode: XdpMode::Auto,
    })
}

pub(super) fn placed(Place { asked, priority, effective, order, proceed_on: set, mode: _ }: &Place) -> Placed {
    let direction = match asked.point {
        Point::TcEgress => pb::TcDirection::Egress,
        Point::TcIngress | Point::Xdp => pb::TcDirection::Ingress,
    };
    let (netns, interface) = (netns(&asked.netns), asked.interface.to_string());
    Placed {
        hook: pb::hook::Hook::Tc(pb::TcHook { netns, interface, direction: direction.into() }),
        priority: Some(u32::from(*priority)),
        effective_priority: Some(u32::from(*effective)),
        order: order.as_ref().map(ToString::to_string).unwrap_or_default(),
        proceed_on: Some(proceed_on(*set)),
        mode: pb::XdpMode::Unspecified,
    }
}
