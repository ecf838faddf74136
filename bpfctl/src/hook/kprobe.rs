//! `kprobe [-f FUNCTION [--offset N]]`, `kretprobe [-f FUNCTION]`: a place in a kernel function, and its return.

use bpfd_core::hook::kprobe::{KernelFunction, read_offset};
use bpfd_proto::v1 as pb;
use clap::Args;

use super::{HookArgs, own};

/// A place in a kernel function.
#[derive(Debug, Args)]
pub(super) struct Kprobe {
    /// The kernel function, as in do_unlinkat [default: the one that the program's section names]
    #[arg(short, long, value_name = "FUNCTION")]
    function: Option<KernelFunction>,
    /// Bytes from the function's first to the instruction [default: 0]
    #[arg(long, value_name = "N", requires = "function", value_parser = offset)]
    offset: Option<u32>,
}

/// The return of a kernel function.
#[derive(Debug, Args)]
pub(super) struct Kretprobe {
    /// The kernel function, as in do_unlinkat [default: the one that the program's section names]
    #[arg(short, long, value_name = "FUNCTION")]
    function: Option<KernelFunction>,
}

fn offset(text: &str) -> Result<u32, &'static str> {
    read_offset(text).ok_or("write a number of bytes, as in 16 or 0x10")
}

impl HookArgs for Kprobe {
    const WORD: &'static str = "kprobe";
    const ABOUT: &'static str = "Attach to an instruction of a kernel function, the first if no other is named";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path trace.o kprobe
  bpfctl load --image registry/trace:tag kprobe --function do_unlinkat --offset 0x10";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach tracer kprobe
  bpfctl attach tracer/count kprobe -f do_unlinkat";

    fn attachment(self) -> pb::Attachment {
        let function = self.function.map_or_else(String::new, |function| function.to_string());
        own(pb::hook::Hook::Kprobe(pb::KprobeHook { function, offset: self.offset.unwrap_or_default() }))
    }
}

impl HookArgs for Kretprobe {
    const WORD: &'static str = "kretprobe";
    const ABOUT: &'static str = "Attach to the return of a kernel function";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path trace.o kretprobe
  bpfctl load --image registry/trace:tag kretprobe --function do_unlinkat";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach tracer kretprobe
  bpfctl attach tracer/count kretprobe -f do_unlinkat";

    fn attachment(self) -> pb::Attachment {
        let function = self.function.map_or_else(String::new, |function| function.to_string());
        own(pb::hook::Hook::Kretprobe(pb::KretprobeHook { function }))
    }
}
