//! What cannot be planned, and what to do about it. It must never decide that.

use bpfd_core::kernel::{ForeignProgram, Unseen};
use bpfd_core::plan::PlanError;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;

use super::commands::{give_name, show_chain, show_interfaces, way_out};
use super::{KEPT, change, meant};

pub(super) fn plan(message: &str, error: &PlanError, near: Option<&str>) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error.to_string());
    match error {
        PlanError::Change(error) => change(message, error),
        PlanError::NoInterface(chain) => refusal(ErrorReason::NoSuchInterface).hint(format!(
            "{}`{}` shows interfaces; use `--when-present` to attach when the interface appears",
            meant(near),
            show_interfaces(chain)
        )),
        PlanError::NoNetns(_) => refusal(ErrorReason::NoSuchNetns).hint(format!(
            "{}`ip netns` shows network namespaces that have a name; \
             use `--when-present` to attach when the interface appears",
            meant(near)
        )),
        PlanError::Foreign { chain, holder, driven } => {
            let ForeignProgram { program, name, link, holders } = holder;
            let held = match (link, holders.as_slice()) {
                (None, []) => String::new(),
                (Some(link), []) => format!(", held by bpf_link {link}"),
                (_, holders) => format!(", held by {}", holders.join(", ")),
            };
            Refusal::new(ErrorReason::ForeignProgram, message)
                .cause(format!(
                    "`{}` runs XDP program {program} (`{name}`){held}, which is not bpfd's",
                    chain.interface
                ))
                .hint(format!(
                    "inspect it with `bpftool prog show id {program}`; `{}` detaches it",
                    way_out(chain, holder, *driven)
                ))
        }
        PlanError::ChainFull { chain, .. } => refusal(ErrorReason::ChainFull)
            .hint(format!("`{}` shows which programs use the slots; detach one of them", show_chain(chain))),
        PlanError::Kept { .. } => refusal(ErrorReason::ChainFull).hint(KEPT),
        PlanError::Unexplained { .. } => refusal(ErrorReason::StateRecovered)
            .hint("`bpfctl state show` shows what differs; `bpfctl state adopt` or `bpfctl state discard` decides"),
        PlanError::Nameless { chain, .. } => refusal(ErrorReason::StillRuns).hint(give_name(chain)),
        PlanError::Unseen { called, why, .. } => refusal(ErrorReason::StillRuns).hint(match why {
            Some(Unseen::Nameless) => give_name(called),
            Some(Unseen::Unreadable(name)) => format!("remove the file /run/netns/{name}, then ask again"),
            None => "`bpfctl doctor` says what cannot be looked at; nothing was changed".to_owned(),
        }),
        PlanError::Order { order, .. } => refusal(ErrorReason::PolicyDenied)
            .hint(format!("ask for another priority, or ask an administrator: order `{order}` is strict")),
        PlanError::NoDispatcher(chain) => {
            refusal(ErrorReason::InvalidRequest).hint(format!("`{}` shows how the chain is kept", show_chain(chain)))
        }
        PlanError::Peers { .. } => refusal(ErrorReason::InUse)
            .hint("unload them first, with the tool that loaded them: `xdp-loader status` lists them"),
        PlanError::Mode { .. } | PlanError::MixedModes(_) => {
            refusal(ErrorReason::ModeConflict).hint("leave out `--mode`, or detach the others first")
        }
    }
}
