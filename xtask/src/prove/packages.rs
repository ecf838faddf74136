//! `prove packages`: packages of a release build, as they are shipped: small enough, without an error of lintian's, and the same, byte for
//! byte, when they are built again in another directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Args;
use crate::bench::{Bound, Figure};
use crate::{dist, tools};

pub(super) fn prove(root: &Path, _: &Args) -> Result<Vec<Figure>> {
    tools::ensure(&[tools::LINTIAN])?;
    let first = dist::packages(root, &root.join("target"), &root.join("target/packages/first"))?;
    let second = dist::packages(root, &root.join("target/packages/again"), &root.join("target/packages/second"))?;
    let mut figures = Vec::new();
    for (name, limit) in dist::LIMITS {
        let program =
            std::fs::metadata(root.join("target").join(dist::PROFILE).join(name)).context("a program is not there")?;
        figures.push(count(&format!("{name}: size"), program.len(), "bytes", limit));
    }
    for (one, other) in first.iter().zip(&second) {
        let name = one.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let differs = std::fs::read(one)? != std::fs::read(other)?;
        figures.push(count(&format!("{name}: differs when built again"), u64::from(differs), "files", 0));
        figures.push(count(&format!("{name}: errors of lintian's"), lintian(one)?, "errors", 0));
    }
    Ok(figures)
}

fn count(name: &str, value: u64, unit: &str, most: u64) -> Figure {
    // Sizes and counts are far below where a float loses one.
    let float = |number: u64| u32::try_from(number).map_or(f64::INFINITY, f64::from);
    Figure::new(name, float(value), unit, Some(Bound::AtMost(float(most))))
}

/// How many errors; each is told on standard error.
fn lintian(deb: &PathBuf) -> Result<u64> {
    let out = Command::new("lintian").args(["--no-tag-display-limit", "--allow-root"]).arg(deb).output();
    let out = out.context("cannot run lintian")?;
    let said = String::from_utf8_lossy(&out.stdout);
    for line in said.lines().chain(String::from_utf8_lossy(&out.stderr).lines()) {
        eprintln!("{line}");
    }
    // It exits with 2 if it found errors.
    match out.status.code() {
        Some(0 | 2) => Ok(said.lines().filter(|line| line.starts_with("E: ")).map(|_| 1).sum()),
        _ => bail!("lintian: {}", out.status),
    }
}
