//! `bench scale`: builds the daemon and the program that measures it (`tests/examples/scale.rs`), and runs that.
//!
//! Bounds stand where the figures are measured; nothing here knows what a figure means.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::figure::Figure;
use super::{Args, program};
use crate::{examples, tools};

/// Objects that only benches load.
const OBJECTS: [&str; 2] = ["slow-to-verify", "tracepoint-12k"];
const TOOLS: [tools::Tool; 6] = [tools::CLANG, tools::LIBBPF, tools::IPROUTE, tools::PING, tools::STRACE, tools::CC];

/// Seconds: each of some hundred attachments may take several on an emulated processor.
const GUEST_TIMEOUT: &str = "7200";

pub(super) fn measure(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    if !tools::is_root() {
        bail!("needs root: it makes interfaces and loads BPF programs");
    }
    tools::ensure(&TOOLS)?;
    examples::build(root, &root.join("target/bpf"))?;
    for name in OBJECTS {
        let source = root.join(format!("tests/bench/{name}.bpf.c"));
        examples::compile(&source, &root.join(format!("target/bpf/{name}.bpf.o")))?;
    }
    let notes = notes(root)?;
    let program = program::build(root, &args.profile, "scale")?;
    let mut command = match &args.kernel {
        None => Command::new(&program),
        Some(kernel) => {
            let mut vm = Command::new(std::env::current_exe()?);
            vm.args(["vm", "--kernel", kernel, "--timeout", GUEST_TIMEOUT, "--"]).arg(&program);
            vm.args(["--interfaces", if args.quick { "8" } else { "64" }]);
            vm
        }
    };
    command.arg("--notes").arg(notes).args(args.quick.then_some("--quick"));
    program::figures(&mut command, &program)
}

/// Writes down what a daemon gives to the kernel.
pub(super) fn notes(root: &Path) -> Result<PathBuf> {
    let library = root.join("target/notes.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(root.join("tests/layouts/notes.c"));
    let status = cc.status().context("cannot run cc")?;
    if !status.success() {
        bail!("cannot compile `tests/layouts/notes.c`: {status}");
    }
    Ok(library)
}
