//! Kprobes and kretprobes in messages.

use bpfd_core::hook::{Kprobe, Kretprobe};

use super::OwnMessage;
use crate::v1 as pb;

impl OwnMessage for Kprobe {
    type Message = pb::KprobeHook;
    const NO_TARGET: pb::ErrorReason = pb::ErrorReason::NoSuchKernelFunction;

    fn target(message: &pb::KprobeHook) -> Option<String> {
        let pb::KprobeHook { function, offset } = message;
        // An offset alone is no target: it is read, and refused.
        (!function.is_empty() || *offset != 0).then(|| format!("{function}+{offset}"))
    }

    fn message(&self) -> pb::hook::Hook {
        let Self { function, offset } = self;
        pb::hook::Hook::Kprobe(pb::KprobeHook { function: function.to_string(), offset: *offset })
    }
}

impl OwnMessage for Kretprobe {
    type Message = pb::KretprobeHook;
    const NO_TARGET: pb::ErrorReason = pb::ErrorReason::NoSuchKernelFunction;

    fn target(message: &pb::KretprobeHook) -> Option<String> {
        (!message.function.is_empty()).then(|| message.function.clone())
    }

    fn message(&self) -> pb::hook::Hook {
        pb::hook::Hook::Kretprobe(pb::KretprobeHook { function: self.0.to_string() })
    }
}
