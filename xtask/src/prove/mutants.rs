//! `prove mutants`: changes each comparison, condition and answer of the policy's decision, one at a time in a copy of the tree, and runs
//! the tests that must notice. cargo-mutants does both (<https://mutants.rs>).
//!
//! A change that no test notices is a fault of the tests, unless it is listed here with the reason why it changes no decision.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Args;
use crate::bench::{Bound, Figure};
use crate::tools::{self, CARGO_MUTANTS};

/// What is changed, and which tests must notice.
struct Part {
    name: &'static str,
    files: &'static [&'static str],
    /// Of these files, what has such a name; all of it if there is none.
    only: &'static [&'static str],
    tests: &'static [&'static str],
}

/// The model of the decision asks globs and scopes itself, and so would not notice: they have tests beside them.
const PARTS: [Part; 2] = [
    Part {
        name: "decision",
        files: &["decide.rs", "conditions.rs", "quota.rs", "rules.rs"],
        only: &[],
        tests: &["--test", "decisions"],
    },
    Part {
        name: "words",
        files: &["glob.rs", "scope.rs", "rule.rs"],
        only: &["Glob::matches", "Scope::matches", "Scope::specificity", "most_specific", "Band::has", "RuleVerb::of"],
        tests: &["--lib", "--test", "decisions"],
    },
];

/// Random cases that the decision is compared with its model over, for each change: the first thousands show what a million would.
const CASES: &str = "50000";

/// Changes that change nothing, by the name that cargo-mutants has for them, without line and column, each with the reason.
const EQUIVALENT: [(&str, &str); 1] = [(
    "rules.rs: replace only_user -> Option<u32> with None",
    "each rule is then looked at, which costs time and decides the same",
)];

pub(super) fn prove(root: &Path, _: &Args) -> Result<Vec<Figure>> {
    let cargo_mutants = tools::cargo_tool(&CARGO_MUTANTS)?;
    let mut figures = Vec::new();
    let mut unnoticed = BTreeSet::new();
    for part in &PARTS {
        let found = run(&cargo_mutants, root, part)?;
        if found.caught.is_empty() {
            bail!("no change of the {} could be tried", part.name);
        }
        let Found { caught, missed } = found;
        figures.push(Figure::new(
            &format!("{}: changes that a test notices", part.name),
            count(caught.len()),
            "",
            None,
        ));
        let (known, new): (Vec<String>, Vec<String>) = missed.into_iter().partition(|name| is_equivalent(name));
        for name in &new {
            eprintln!("no test notices: {name}");
        }
        unnoticed.extend(known.into_iter().map(|name| unplaced(&name)));
        let unseen = Figure::new(
            &format!("{}: changes that no test notices", part.name),
            count(new.len()),
            "",
            Some(Bound::AtMost(0.0)),
        );
        figures.push(unseen);
    }
    let stale = EQUIVALENT.iter().filter(|(name, _)| !unnoticed.contains(*name));
    stale.clone().for_each(|(name, _)| eprintln!("listed as changing nothing, and noticed or gone: {name}"));
    let stale = Figure::new("stale exceptions", count(stale.count()), "", Some(Bound::AtMost(0.0)));
    figures.push(stale);
    Ok(figures)
}

/// The names of changes; those that do not compile are none.
struct Found {
    caught: Vec<String>,
    missed: Vec<String>,
}

fn run(cargo_mutants: &Path, root: &Path, part: &Part) -> Result<Found> {
    let Part { name, files, only, tests } = part;
    let out = root.join("target/mutants").join(name);
    std::fs::create_dir_all(&out)?;
    let files = files.iter().flat_map(|file| ["--file".to_owned(), format!("bpfd/policy/src/{file}")]);
    let only = only.iter().flat_map(|name| ["--re", name]);
    let mut command = Command::new(cargo_mutants);
    command.args(["mutants", "--no-config", "--package", "bpfd-policy", "--colors", "never"]).args(files).args(only);
    command.arg("--output").arg(&out).arg("--").args(*tests).current_dir(root);
    // One line is another each time: little is to be built between two changes, and little is run.
    command.env("CARGO_INCREMENTAL", "1").env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    let status = command.env("BPFD_MODEL_CASES", CASES).status();
    // 0: all were noticed; 2: some were not; 3: a test took too long, which is noticed too.
    match status.context("cannot run cargo-mutants")?.code() {
        Some(0 | 2 | 3) => {}
        _ => bail!("cargo-mutants failed: see {}", out.display()),
    }
    let listed = |file: &str| -> Result<Vec<String>> {
        let text = std::fs::read_to_string(out.join("mutants.out").join(file)).context("cargo-mutants' list")?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    Ok(Found { caught: [listed("caught.txt")?, listed("timeout.txt")?].concat(), missed: listed("missed.txt")? })
}

fn is_equivalent(name: &str) -> bool {
    EQUIVALENT.iter().any(|(known, _)| *known == unplaced(name))
}

/// `decide.rs: replace == with != in denied` of `bpfd/policy/src/decide.rs:215:47: replace == with != in denied`.
fn unplaced(name: &str) -> String {
    let parts: Vec<&str> = name.splitn(4, ':').collect();
    match parts.as_slice() {
        [path, _, _, what] => format!("{}:{what}", path.rsplit('/').next().unwrap_or(path)),
        _ => name.to_owned(),
    }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_wherever_its_line_is() {
        let name = "bpfd/policy/src/decide.rs:215:47: replace == with != in denied";
        assert_eq!(unplaced(name), "decide.rs: replace == with != in denied");
        assert_eq!(unplaced("something else"), "something else");
    }
}
