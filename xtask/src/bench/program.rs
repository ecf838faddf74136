//! Programs that measure (`tests/examples/*.rs`): built beside the daemon that they measure, and run.
//!
//! Bounds stand where the figures are measured; nothing here knows what a figure means.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::figure::Figure;

/// Runs a program, or what runs it elsewhere, and reads its figures.
pub(crate) fn figures(command: &mut Command, program: &Path) -> Result<Vec<Figure>> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{}`", program.display()))?;
    let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let mut figures = Vec::new();
    for line in lines {
        let line = line?;
        if line.starts_with('{') {
            figures.push(Figure::from_json(&line)?);
        } else {
            // What a guest's program says to standard error.
            eprintln!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}`: {status}", program.display());
    }
    Ok(figures)
}

/// Builds the daemon and the program of that name.
pub(crate) fn build(root: &Path, profile: &str, name: &str) -> Result<PathBuf> {
    // The whole workspace: dependencies have the features that every other build gives them.
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--workspace", "--locked", "--bin", "bpfd", "--bin", "bpfctl", "--example", name]);
    if profile == "dev" {
        // As tests have it: what they would run next stays built.
        cargo.args(["--features", crate::test::FAIL_POINTS]);
    }
    let status = cargo.args(["--profile", profile]).current_dir(root).status().context("cannot run cargo build")?;
    if !status.success() {
        bail!("cargo build: {status}");
    }
    let dir = if profile == "dev" { "debug" } else { profile };
    Ok(root.join("target").join(dir).join("examples").join(name))
}
