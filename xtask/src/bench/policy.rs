//! `bench policy`: builds the daemon and the program that measures decisions (`tests/examples/policy.rs`), and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::figure::Figure;
use super::{Args, program};
use crate::tools;

pub(super) fn measure(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    if !tools::is_root() {
        bail!("needs root: it starts the daemon");
    }
    if args.kernel.is_some() {
        bail!("runs on this host only: a decision asks no kernel");
    }
    tools::ensure(&[tools::IPROUTE, tools::PING])?;
    let program = program::build(root, &args.profile, "policy")?;
    program::figures(Command::new(&program).args(args.quick.then_some("--quick")), &program)
}
