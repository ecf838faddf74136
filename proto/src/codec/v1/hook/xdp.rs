//! XDP in messages: chains of interfaces, actions and modes.

use bpfd_core::hook::{ChainName, HookAsk, Place, Point, ProceedOn, XdpMode};
use bpfd_core::names::{IfName, Netns, Priority};

use super::Placed;
use crate::codec::v1::{BadField, bad, parsed};
use crate::v1 as pb;

pub(super) fn asked(hook: &pb::XdpHook, message: &pb::Attachment) -> Result<HookAsk, BadField> {
    Ok(HookAsk::Shared {
        chain: chain_name(hook.netns.as_deref(), &hook.interface)?,
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

/// The XDP chain of an interface; unset namespace = the daemon's own.
pub fn chain_name(netns: Option<&str>, interface: &str) -> Result<ChainName, BadField> {
    let netns: Netns = netns.map_or(Ok(Netns::Host), |netns| parsed("netns", netns))?;
    let interface: IfName = parsed("interface", interface)?;
    Ok(ChainName { netns, interface, point: Point::Xdp })
}

pub(in crate::codec::v1) fn asked_priority(number: Option<u32>) -> Result<Option<Priority>, BadField> {
    number.map(|number| Priority::try_from(number).map_err(|error| bad("priority", error))).transpose()
}

pub(in crate::codec::v1) fn asked_proceed_on(set: Option<&pb::ProceedOn>) -> Result<Option<ProceedOn>, BadField> {
    let Some(pb::ProceedOn { xdp }) = set else { return Ok(None) };
    let names = xdp.iter().filter_map(|number| match pb::XdpAction::try_from(*number) {
        Ok(pb::XdpAction::Aborted) => Some(Ok("aborted")),
        Ok(pb::XdpAction::Drop) => Some(Ok("drop")),
        Ok(pb::XdpAction::Pass) => Some(Ok("pass")),
        Ok(pb::XdpAction::Tx) => Some(Ok("tx")),
        Ok(pb::XdpAction::Redirect) => Some(Ok("redirect")),
        // What a dispatcher's empty slot returns: every chain of ours goes on after it.
        Ok(pb::XdpAction::DispatcherReturn) => None,
        Ok(pb::XdpAction::Unspecified) | Err(_) => Some(Err(bad("proceed_on", format!("{number} is no XDP action")))),
    });
    let names: Vec<&str> = names.collect::<Result<_, _>>()?;
    ProceedOn::from_names(names).map(Some).map_err(|error| bad("proceed_on", error))
}

pub(super) fn placed(Place { asked, priority, effective, proceed_on: set, mode: driven }: &Place) -> Placed {
    let hook = pb::XdpHook { netns: netns(&asked.netns), interface: asked.interface.to_string() };
    Placed {
        hook: pb::hook::Hook::Xdp(hook),
        priority: Some(u32::from(*priority)),
        effective_priority: Some(u32::from(*effective)),
        proceed_on: Some(proceed_on(*set)),
        mode: mode(*driven),
    }
}

pub(in crate::codec::v1) fn netns(netns: &Netns) -> Option<String> {
    match netns {
        Netns::Host => None,
        Netns::Named(name) => Some(name.to_string()),
    }
}

pub(in crate::codec::v1) fn mode(mode: XdpMode) -> pb::XdpMode {
    match mode {
        XdpMode::Auto => pb::XdpMode::Auto,
        XdpMode::Native => pb::XdpMode::Native,
        XdpMode::Generic => pb::XdpMode::Generic,
    }
}

pub(in crate::codec::v1) fn proceed_on(set: ProceedOn) -> pb::ProceedOn {
    let action = |name: &str| match name {
        "aborted" => pb::XdpAction::Aborted,
        "drop" => pb::XdpAction::Drop,
        "pass" => pb::XdpAction::Pass,
        "tx" => pb::XdpAction::Tx,
        "redirect" => pb::XdpAction::Redirect,
        _ => pb::XdpAction::Unspecified,
    };
    pb::ProceedOn { xdp: set.names().into_iter().map(|name| action(name).into()).collect() }
}
