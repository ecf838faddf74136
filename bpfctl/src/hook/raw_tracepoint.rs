//! `raw_tracepoint [EVENT]`: a raw tracepoint.

use bpfd_core::hook::RawTracepoint as Target;
use bpfd_proto::v1 as pb;
use clap::Args;

use super::{HookArgs, own};

/// A raw tracepoint: the event's name alone.
#[derive(Debug, Args)]
pub(super) struct RawTracepoint {
    /// The event, as in sched_switch [default: the one that the program's section names]
    #[arg(value_name = "EVENT")]
    event: Option<Target>,
}

impl HookArgs for RawTracepoint {
    const WORD: &'static str = "raw_tracepoint";
    const ABOUT: &'static str = "Attach to a raw tracepoint";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path trace.o raw_tracepoint
  bpfctl load --image registry/trace:tag raw_tracepoint sched_switch";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach tracer raw_tracepoint
  bpfctl attach tracer/count raw_tracepoint sched_switch";

    fn attachment(self) -> pb::Attachment {
        let event = self.event.map_or_else(String::new, |event| event.event().to_owned());
        own(pb::hook::Hook::RawTracepoint(pb::RawTracepointHook { event }))
    }
}
