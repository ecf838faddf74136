//! `prove attacks`: builds the daemon and the program that attacks it (`tests/examples/prove_attacks.rs`), and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Args;
use crate::bench::{Figure, program};
use crate::{examples, tools};

const TOOLS: [tools::Tool; 3] = [tools::CLANG, tools::LIBBPF, tools::IPROUTE];

pub(super) fn prove(root: &Path, args: &Args) -> Result<Vec<Figure>> {
    let (time, seed) = (args.time()?, args.seed());
    if !tools::is_root() {
        bail!("needs root: it makes interfaces and loads BPF programs");
    }
    tools::ensure(&TOOLS)?;
    examples::build(root, &root.join("target/bpf"))?;
    let program = program::build(root, &args.profile, "prove_attacks")?;
    let words = [time.as_secs().to_string(), seed.to_string()];
    let input = match args.input.as_deref().map(|input| input.split_once(':').context("`--input` is DOOR:NUMBER")) {
        Some(input) => <[&str; 2]>::from(input?).to_vec(),
        None => vec![],
    };
    program::figures(Command::new(&program).args(words).args(input), &program)
}
