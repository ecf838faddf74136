//! Fentry and fexit in messages.

use bpfd_core::hook::{Fentry, Fexit};

use super::OwnMessage;
use crate::v1 as pb;

impl OwnMessage for Fentry {
    type Message = pb::FentryHook;
    const NO_TARGET: pb::ErrorReason = pb::ErrorReason::NoSuchKernelFunction;

    fn target(message: &pb::FentryHook) -> Option<String> {
        (!message.function.is_empty()).then(|| message.function.clone())
    }

    fn message(&self) -> pb::hook::Hook {
        pb::hook::Hook::Fentry(pb::FentryHook { function: self.0.to_string() })
    }
}

impl OwnMessage for Fexit {
    type Message = pb::FexitHook;
    const NO_TARGET: pb::ErrorReason = pb::ErrorReason::NoSuchKernelFunction;

    fn target(message: &pb::FexitHook) -> Option<String> {
        (!message.function.is_empty()).then(|| message.function.clone())
    }

    fn message(&self) -> pb::hook::Hook {
        pb::hook::Hook::Fexit(pb::FexitHook { function: self.0.to_string() })
    }
}
