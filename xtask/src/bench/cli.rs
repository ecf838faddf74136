//! `bench cli`: builds the programs as they are shipped and the one that measures them (`tests/examples/cli.rs`), and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::figure::Figure;
use super::{Args, program, scale};
use crate::{examples, tools};

/// An object that only this bench loads.
const OBJECT: &str = "xdp-12k";
const TOOLS: [tools::Tool; 5] = [tools::CLANG, tools::LIBBPF, tools::IPROUTE, tools::PING, tools::CC];

pub(super) fn measure(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    if !tools::is_root() {
        bail!("needs root: it makes interfaces and loads BPF programs");
    }
    if args.kernel.is_some() {
        bail!("runs on this host only: a guest's processor is emulated, and starting a process there is no yardstick");
    }
    tools::ensure(&TOOLS)?;
    examples::build(root, &root.join("target/bpf"))?;
    let source = root.join(format!("tests/bench/{OBJECT}.bpf.c"));
    examples::compile(&source, &root.join(format!("target/bpf/{OBJECT}.bpf.o")))?;
    let notes = scale::notes(root)?;
    // Sizes are those of what packages have.
    let profile = if args.profile == super::PROFILE { "dist" } else { &args.profile };
    let program = program::build(root, profile, "cli")?;
    program::figures(Command::new(&program).arg("--notes").arg(notes).args(args.quick.then_some("--quick")), &program)
}
