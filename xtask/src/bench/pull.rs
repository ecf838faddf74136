//! `bench pull`: builds the daemon and the program that measures pulls beside skopeo's (`tests/examples/pull.rs`), and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::figure::Figure;
use super::{Args, program};
use crate::{examples, tools};

/// Objects of these sizes, in bytes of padding: their images have 24 KB and 5 MB.
const OBJECTS: [(&str, usize); 2] = [("padded-24k", 21_000), ("padded-5m", 5_000_000)];
const TOOLS: [tools::Tool; 6] =
    [tools::CLANG, tools::LIBBPF, tools::IPROUTE, tools::PING, tools::SKOPEO, tools::STRACE];

pub(super) fn measure(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    if !tools::is_root() {
        bail!("needs root: it starts the daemon");
    }
    if args.kernel.is_some() {
        bail!("runs on this host only: a pull asks no kernel");
    }
    tools::ensure(&TOOLS)?;
    let objects = root.join("target/bpf");
    examples::build(root, &objects)?;
    for (name, size) in OBJECTS {
        let padding = objects.join(format!("{name}.bin"));
        std::fs::write(&padding, noise(size)).with_context(|| format!("cannot write `{}`", padding.display()))?;
        let define = format!("-DPADDING=\"{}\"", padding.display());
        let source = root.join("tests/bench/padded.bpf.c");
        examples::compile_with(&source, &objects.join(format!("{name}.bpf.o")), &[&define])?;
    }
    let program = program::build(root, &args.profile, "pull")?;
    program::figures(Command::new(&program).args(args.quick.then_some("--quick")), &program)
}

/// Bytes that do not compress (xorshift64, Marsaglia 2003): the same each time.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    next.flatten().take(size).collect()
}
