//! The registry of hooks: which message belongs to which kind. What a kind's message says is in the kind's own file.

mod fentry;
mod kprobe;
mod raw_tracepoint;
pub(super) mod shared;
mod tc;
mod tracepoint;
pub(super) mod xdp;

use bpfd_core::hook::own::Own;
use bpfd_core::hook::{HookAsk, OwnHook, Placement, Point};
use bpfd_core::state::ProgramKind;

use super::{BadField, bad};
use crate::v1 as pb;

/// The message of a kind of own hook.
trait OwnMessage: Own {
    /// Its message.
    type Message;
    /// The reason that a client gets if the kernel has no such target, or lets no program attach to it.
    const NO_TARGET: pb::ErrorReason;

    /// The target that a message names; `None` = the one that the program's section names.
    fn target(message: &Self::Message) -> Option<String>;

    /// The message that names this hook.
    fn message(&self) -> pb::hook::Hook;
}

macro_rules! own_messages {
    ($($kind:ident),* $(,)?) => {
        /// The hook that an attachment asks for, with its options.
        pub(super) fn asked(message: &pb::Attachment) -> Result<HookAsk, BadField> {
            match message.hook.as_ref().and_then(|hook| hook.hook.as_ref()) {
                None => Err(bad("attachment.hook", "no hook given")),
                Some(pb::hook::Hook::Xdp(hook)) => xdp::asked(hook, message),
                Some(pb::hook::Hook::Tc(hook)) => tc::asked(hook, message),
                $(Some(pb::hook::Hook::$kind(hook)) => own::<bpfd_core::hook::$kind>(hook, message),)*
            }
        }

        /// The message of an own hook.
        fn message(hook: &OwnHook) -> pb::hook::Hook {
            match hook {
                $(OwnHook::$kind(hook) => hook.message(),)*
            }
        }

        /// The reason that a client gets if the kernel has no such target, or lets no program attach to it.
        pub fn no_target(hook: &OwnHook) -> pb::ErrorReason {
            match hook {
                $(OwnHook::$kind(_) => bpfd_core::hook::$kind::NO_TARGET,)*
            }
        }
    };
}

// The registry of own hooks: a new kind is a line here.
own_messages! {
    Tracepoint,
    RawTracepoint,
    Kprobe,
    Kretprobe,
    Fentry,
    Fexit,
}

fn own<T: OwnMessage>(hook: &T::Message, message: &pb::Attachment) -> Result<HookAsk, BadField> {
    if message.priority.is_some() || message.proceed_on.is_some() {
        let why = format!("a {} runs each program independently: priority and proceed-on do not apply", T::NOUN);
        return Err(bad("attachment", why));
    }
    let hook = T::target(hook).map(|target| OwnHook::parse(T::KIND, &target)).transpose();
    Ok(HookAsk::Own { kind: T::KIND, hook: hook.map_err(|error| bad("attachment.hook", error))? })
}

/// What a link's message says of its hook.
pub(super) struct Placed {
    pub(super) hook: pb::hook::Hook,
    pub(super) priority: Option<u32>,
    pub(super) effective_priority: Option<u32>,
    pub(super) order: String,
    pub(super) proceed_on: Option<pb::ProceedOn>,
    pub(super) mode: pb::XdpMode,
}

pub(super) fn placed(placement: &Placement) -> Placed {
    match placement {
        Placement::Shared(place) => match place.asked.point {
            Point::Xdp => xdp::placed(place),
            Point::TcIngress | Point::TcEgress => tc::placed(place),
        },
        Placement::Own(hook) => {
            let (priority, effective_priority, proceed_on) = (None, None, None);
            let (order, mode) = (String::new(), pb::XdpMode::Unspecified);
            Placed { hook: message(hook), priority, effective_priority, order, proceed_on, mode }
        }
    }
}

/// A hook of a message as listings show it: its kind, and its name. `None` for one that this version does not know.
pub fn shown(hook: &pb::Hook) -> Option<(ProgramKind, String)> {
    let asked = asked(&pb::Attachment { hook: Some(hook.clone()), ..Default::default() }).ok()?;
    let name = match &asked {
        HookAsk::Shared { chain, .. } => chain.to_string(),
        HookAsk::Own { kind: _, hook } => hook.as_ref()?.to_string(),
    };
    Some((asked.kind(), name))
}

/// The API's number of a program's kind: its word in the enum's spelling.
pub(super) fn program_type(kind: ProgramKind) -> pb::ProgramType {
    let name = format!("PROGRAM_TYPE_{}", kind.as_str().to_ascii_uppercase());
    pb::ProgramType::from_str_name(&name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_program_has_a_number() {
        for kind in ProgramKind::ALL {
            assert_ne!(program_type(*kind), pb::ProgramType::Unspecified, "{kind}");
        }
    }

    #[test]
    fn a_hook_is_shown_as_its_link_is_named() {
        let hook = OwnHook::parse(ProgramKind::Tracepoint, "sched/sched_switch").unwrap();
        let shown = shown(&pb::Hook { hook: Some(message(&hook)) });
        assert_eq!(shown, Some((ProgramKind::Tracepoint, hook.to_string())));
    }
}
