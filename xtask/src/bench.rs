//! `cargo xtask bench NAME`: what is measured, and whether it is within its bounds. Each bench is a file of its name.
//!
//! A bound is on a count or on a ratio of two things that were measured in turn in one run, never on a time: a machine may be slow
//! or busy. Nothing of it is a test.

mod attacks;
mod cli;
mod figure;
mod kinds;
mod libxdp;
mod policy;
pub(crate) mod program;
mod pull;
mod scale;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use serde_json::json;

use figure::table;
pub(crate) use figure::{Bound, Figure};

/// A bench, in its own file.
struct Bench {
    name: &'static str,
    run: fn(&Path, &Args) -> Result<Vec<Figure>>,
}

/// A new bench is a line here and a file.
const BENCHES: [Bench; 7] = [
    Bench { name: "scale", run: scale::measure },
    Bench { name: "attacks", run: attacks::measure },
    Bench { name: "policy", run: policy::measure },
    Bench { name: "cli", run: cli::measure },
    Bench { name: "pull", run: pull::measure },
    Bench { name: "libxdp", run: libxdp::measure },
    Bench { name: "kinds", run: kinds::measure },
];

/// What programs are built with unless it is said otherwise.
const PROFILE: &str = "release";

/// It could not be measured.
const NOT_MEASURED: u8 = 2;

#[derive(clap::Args)]
#[command(after_help = "\
  scale    what more interfaces and links cost; as root
  attacks  what root waits for while others ask for as much as they may; as root
  policy   what a decision costs with ten rules and with a thousand; as root
  cli      what commands cost as whole processes, as packages have them; as root
  pull     what pulling an image takes beside skopeo, which verifies nothing; as root
  libxdp   what attaching takes beside xdp-loader, in a guest; as root
  kinds    how much code each hook kind is, from git

Exit status:
  0  every figure is within its bound
  1  one is not
  2  it could not be measured")]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_parser = PossibleValuesParser::new(BENCHES.map(|bench| bench.name)))]
    name: String,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Smaller sizes and fewer rounds
    #[arg(long)]
    quick: bool,
    /// Measure in a guest with this kernel, as `cargo xtask vm` runs it
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
    /// Cargo's profile of the programs that are measured; of `cli`, that of packages unless another is given
    #[arg(long, default_value = PROFILE, value_name = "PROFILE")]
    profile: String,
}

pub(crate) fn run(root: &Path, args: &Args) -> ExitCode {
    exit_code(measured(root, args))
}

/// What came of measuring, or of looking.
pub(crate) fn exit_code(done: Result<ExitCode>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(NOT_MEASURED)
        }
    }
}

fn measured(root: &Path, args: &Args) -> Result<ExitCode> {
    let bench = BENCHES.iter().find(|bench| bench.name == args.name).context("no such bench")?;
    let figures = (bench.run)(root, args)?;
    show(root, ("bench", bench.name), &figures, args.json)
}

/// Prints figures, and judges them.
pub(crate) fn show(root: &Path, (verb, name): (&str, &str), figures: &[Figure], as_json: bool) -> Result<ExitCode> {
    print!("{}", table(figures));
    if as_json {
        let commit = crate::test::commit(root)?;
        let figures: Vec<_> = figures.iter().map(Figure::to_json).collect();
        let load = load_average()?;
        println!("{}", json!({verb: name, "commit": commit, "load_average": load, "figures": figures}));
    }
    let all_hold = figures.iter().all(|figure| figure.holds() != Some(false));
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of the last minute: how busy the machine was.
fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    text.split(' ').next().and_then(|first| first.parse().ok()).context("/proc/loadavg is not what it was")
}
