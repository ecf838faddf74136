//! `cargo xtask test`: every test of the tree, in parts, and what came of them.
//!
//! Owns the order of things and the last line, `N passed, N failed, N skipped`. Nothing here fails on a time,
//! and nothing is left out in silence: what cannot run here is counted as skipped, with its reason.

mod binaries;
mod count;
mod parts;
mod rounds;
mod step;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use binaries::Binaries;
pub(crate) use binaries::FAIL_POINTS;
use count::Tally;
use parts::Part;
use rounds::{Round, Rounds};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run these parts only
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
    /// How many rounds to run, those of --resume included
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Use the test programs of the last run
    #[arg(long)]
    no_build: bool,
    /// Keep the rounds in FILE, and go on from those in it
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let wanted: BTreeSet<Part> =
        if args.only.is_empty() { Part::ALL.into() } else { args.only.iter().copied().collect() };
    let mut rounds = Rounds::open(args.resume.as_deref(), &wanted, || commit(root))?;
    if rounds.done() >= args.repeat {
        println!("{} rounds are done already", rounds.done());
    } else {
        let mut build = Tally::default();
        let binaries = binaries(root, args, &wanted, &mut build)?;
        rounds.add_to_first(build);
        while rounds.done() < args.repeat {
            println!("\n=== round {} of {}", rounds.done() + 1, args.repeat);
            let round = round(root, &wanted, &binaries);
            rounds.push(round)?;
        }
    }
    Ok(report(&rounds.total(), rounds.done()))
}

/// The test programs in one guest: all, or those that `case` names. For `cargo xtask vm`.
pub(crate) fn in_guest(root: &Path, kernel: &str, icount: bool, case: Option<&str>) -> Result<ExitCode> {
    let mut total = Tally::default();
    let binaries = build(root, &mut total)?;
    let steps = parts::in_guest(root, &binaries, kernel, icount, case);
    if let (true, Some(case)) = (steps.is_empty(), case) {
        bail!("`{case}` is no program here, no test program and no case of one");
    }
    step::run_lanes(root, vec![steps]).into_iter().for_each(|(_, tally)| total.add(tally));
    Ok(report(&total, 1))
}

/// The test programs: of the last run, or built now. A tree that does not build is a failure to report, not an
/// error that hides what the other parts say.
fn binaries(root: &Path, args: &Args, wanted: &BTreeSet<Part>, tally: &mut Tally) -> Result<Binaries> {
    if !wanted.iter().any(|p| p.runs_binaries()) {
        return Ok(Binaries::default());
    }
    if args.no_build {
        let binaries = Binaries::recorded(root)?;
        if args.resume.is_some() && binaries.commit != commit(root)? {
            bail!("the test programs are of commit {}: build first, without --no-build", binaries.commit);
        }
        return Ok(binaries);
    }
    build(root, tally)
}

fn build(root: &Path, tally: &mut Tally) -> Result<Binaries> {
    println!("=== build");
    let start = Instant::now();
    let commit = commit(root).unwrap_or_else(|_| "unknown".to_owned());
    let (binaries, failure) = Binaries::build(root, &commit)?;
    if let Some(failure) = failure {
        tally.fail("build", &failure);
    }
    println!("--- build took {}", minutes(start));
    Ok(binaries)
}

fn round(root: &Path, wanted: &BTreeSet<Part>, binaries: &Binaries) -> Round {
    let mut round = Round::default();
    for part in Part::ALL.into_iter().filter(|p| wanted.contains(p)) {
        let lanes = part.lanes(root, binaries);
        if lanes.iter().all(Vec::is_empty) {
            continue;
        }
        println!("\n=== {part} (its share: {} minutes)", part.share());
        let start = Instant::now();
        let mut tally = Tally::default();
        for (label, of_step) in step::run_lanes(root, lanes) {
            round.cases.insert(format!("{part}: {label}"), of_step.passed);
            tally.add(of_step);
        }
        println!("--- {part} took {} of {} minutes: {tally}", minutes(start), part.share());
        round.tally.add(tally);
    }
    round
}

/// Prints what failed and what was skipped, then the last line.
fn report(total: &Tally, rounds: u32) -> ExitCode {
    println!();
    for (case, reason) in &total.skipped {
        println!("skipped: {case}: {reason}");
    }
    for (case, reason) in &total.failed {
        println!("failed: {case}: {reason}");
    }
    if rounds > 1 {
        println!("{rounds} rounds, each with every case");
    }
    println!("{total}");
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The commit of the tree, with a mark when files differ from it.
pub(crate) fn commit(root: &Path) -> Result<String> {
    let git = |args: &[&str]| -> Result<String> {
        let out = std::process::Command::new("git").args(args).current_dir(root).output()?;
        if !out.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Ok(if changed { format!("{head}{}", rounds::CHANGED) } else { head })
}

fn minutes(start: Instant) -> String {
    let seconds = start.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
