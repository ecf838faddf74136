//! `tracepoint [CATEGORY/EVENT]`: a kernel tracepoint.

use bpfd_core::hook::Tracepoint as Target;
use bpfd_proto::v1 as pb;
use clap::Args;

use super::{HookArgs, own};

/// A kernel tracepoint.
#[derive(Debug, Args)]
pub(super) struct Tracepoint {
    /// The tracepoint, as in sched/sched_switch [default: the one that the program's section names]
    #[arg(value_name = "CATEGORY/EVENT")]
    event: Option<Target>,
}

impl HookArgs for Tracepoint {
    const WORD: &'static str = "tracepoint";
    const ABOUT: &'static str = "Attach to a kernel tracepoint";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path trace.o tracepoint
  bpfctl load --image registry/trace:tag tracepoint sched/sched_switch";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach tracer tracepoint
  bpfctl attach tracer/count tracepoint sched/sched_switch";

    fn attachment(self) -> pb::Attachment {
        let hook = self.event.map_or_else(pb::TracepointHook::default, |event| pb::TracepointHook {
            category: event.category().to_owned(),
            event: event.event().to_owned(),
        });
        own(pb::hook::Hook::Tracepoint(hook))
    }
}
