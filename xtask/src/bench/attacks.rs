//! `bench attacks`: builds the daemon and the program that measures it (`tests/examples/attacks.rs`), and runs that.
//!
//! It must never be run on a host that others use: it asks as much of the daemon as it can.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::figure::Figure;
use super::{Args, program};
use crate::{examples, tools};

const TOOLS: [tools::Tool; 4] = [tools::CLANG, tools::LIBBPF, tools::IPROUTE, tools::PING];

pub(super) fn measure(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    if !tools::is_root() {
        bail!("needs root: it makes interfaces and loads BPF programs");
    }
    if args.kernel.is_some() {
        bail!("runs on this host only: guests have one processor, which is no figure for many callers");
    }
    tools::ensure(&TOOLS)?;
    examples::build(root, &root.join("target/bpf"))?;
    let program = program::build(root, &args.profile, "attacks")?;
    program::figures(Command::new(&program).args(args.quick.then_some("--quick")), &program)
}
