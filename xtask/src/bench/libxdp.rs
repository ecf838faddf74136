//! `bench libxdp`: builds the daemon and the program that measures it beside xdp-loader (`tests/examples/libxdp.rs`), and runs that in a
//! guest, whose kernel allows what both do.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::figure::Figure;
use super::{Args, program};
use crate::{examples, tools};

const TOOLS: [tools::Tool; 5] = [tools::CLANG, tools::LIBBPF, tools::IPROUTE, tools::PING, tools::XDP_TOOLS];
/// Unless another one is given.
const KERNEL: &str = "6.12";
/// Seconds: each of some dozen attachments may take several on an emulated processor.
const TIMEOUT: &str = "1800";

pub(super) fn measure(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    if !tools::is_root() {
        bail!("needs root: guests see this host's files");
    }
    tools::ensure(&TOOLS)?;
    examples::build(root, &root.join("target/bpf"))?;
    let program = program::build(root, &args.profile, "libxdp")?;
    let mut vm = Command::new(std::env::current_exe()?);
    let kernel = args.kernel.as_deref().unwrap_or(KERNEL);
    vm.args(["vm", "--kernel", kernel, "--timeout", TIMEOUT, "--"]).arg(&program);
    program::figures(vm.args(args.quick.then_some("--quick")), &program)
}
