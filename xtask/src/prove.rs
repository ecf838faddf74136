//! `cargo xtask prove NAME`: looks for what must never be, for as long as it is told, and says how much it looked at. Each proof is a file
//! of its name.
//!
//! A proof fails on what it finds, never on a time. Its short form is a test.

mod attacks;
mod mutants;
mod packages;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;

use crate::bench::{self, Figure};

/// A proof, in its own file.
struct Proof {
    name: &'static str,
    run: fn(&Path, &Args) -> Result<Vec<Figure>>,
}

/// A new proof is a line here and a file.
const PROOFS: [Proof; 3] = [
    Proof { name: "attacks", run: attacks::prove },
    Proof { name: "mutants", run: mutants::prove },
    Proof { name: "packages", run: packages::prove },
];

#[derive(clap::Args)]
#[command(after_help = "\
  attacks  random input at each door of a built daemon: frames and messages on both sockets, objects,
           images, policy files, registries.toml and auth.json, state.db and bpfd.toml; as root. The
           daemon must live, answer, stay below 128 MiB, and not panic
  mutants  each comparison, condition and answer of the policy's decision, changed one at a time in a copy
           of the tree: a test must notice each; some 170 changes, a few seconds of building each
  packages two release builds: the packages of both must be the same, small enough, and without an error
           of lintian's; takes as long as it takes

Exit status:
  0  nothing was found
  1  something was: standard error says what, and of which seed and input
  2  it could not be run

Examples:
  cargo xtask prove attacks --for 3
  cargo xtask prove attacks --for 3 --seed 7       the same inputs again
  cargo xtask prove attacks --seed 7 --input state:115   one of them
  cargo xtask prove mutants
  cargo xtask prove attacks --json | tail -n 1")]
pub(crate) struct Args {
    /// What to prove
    #[arg(value_parser = PossibleValuesParser::new(PROOFS.map(|proof| proof.name)))]
    name: String,
    /// How many minutes it may take, building not counted
    #[arg(long = "for", default_value = "1", value_name = "MIN")]
    minutes: f64,
    /// What inputs are made of [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only this one of the inputs, as standard error names it
    #[arg(long, value_name = "DOOR:NUMBER", requires = "seed")]
    input: Option<String>,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Cargo's profile of the daemon: `dev` checks its arithmetic
    #[arg(long, default_value = "dev", value_name = "PROFILE")]
    profile: String,
}

impl Args {
    fn time(&self) -> Result<Duration> {
        match Duration::try_from_secs_f64(self.minutes * 60.0) {
            Ok(time) if time >= Duration::from_secs(1) => Ok(time),
            Ok(_) | Err(_) => bail!("`--for {}`: give a second at least: `--for 0.1` is six", self.minutes),
        }
    }

    fn seed(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        self.seed.unwrap_or_else(now)
    }
}

pub(crate) fn run(root: &Path, args: &Args) -> ExitCode {
    let proved = || {
        let proof = PROOFS.iter().find(|proof| proof.name == args.name);
        let Some(proof) = proof else { bail!("no such proof") };
        let figures = (proof.run)(root, args)?;
        bench::show(root, ("prove", proof.name), &figures, args.json)
    };
    bench::exit_code(proved())
}
