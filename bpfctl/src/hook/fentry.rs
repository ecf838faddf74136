//! `fentry [-f FUNCTION]`, `fexit [-f FUNCTION]`: the entry and the return of a kernel function.

use bpfd_core::hook::kprobe::KernelFunction;
use bpfd_proto::v1 as pb;
use clap::Args;

use super::{HookArgs, own};

/// The entry of a kernel function.
#[derive(Debug, Args)]
pub(super) struct Fentry {
    #[command(flatten)]
    target: Target,
}

/// The return of a kernel function.
#[derive(Debug, Args)]
pub(super) struct Fexit {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Target {
    /// The kernel function, as in do_unlinkat; fixed when the program is loaded [default: the one that the program's section names]
    #[arg(short, long, value_name = "FUNCTION")]
    function: Option<KernelFunction>,
}

impl Target {
    /// As the message has it: empty for what the program's section names.
    fn name(self) -> String {
        self.function.map_or_else(String::new, |function| function.to_string())
    }
}

impl HookArgs for Fentry {
    const WORD: &'static str = "fentry";
    const ABOUT: &'static str = "Attach to the entry of a kernel function";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path trace.o fentry
  bpfctl load --image registry/trace:tag fentry --function do_unlinkat";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach tracer fentry
  bpfctl attach tracer/count fentry --dry-run";

    fn attachment(self) -> pb::Attachment {
        own(pb::hook::Hook::Fentry(pb::FentryHook { function: self.target.name() }))
    }
}

impl HookArgs for Fexit {
    const WORD: &'static str = "fexit";
    const ABOUT: &'static str = "Attach to the return of a kernel function, with its arguments";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path trace.o fexit
  bpfctl load --image registry/trace:tag fexit --function do_unlinkat";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach tracer fexit
  bpfctl attach tracer/count fexit --dry-run";

    fn attachment(self) -> pb::Attachment {
        own(pb::hook::Hook::Fexit(pb::FexitHook { function: self.target.name() }))
    }
}
