//! Rounds of the chosen parts, kept in a file so that they add up over runs.
//!
//! A file is of one commit and one choice of parts: mixing them would prove nothing. Must never count a round
//! that did not end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::count::Tally;
use super::parts::Part;

/// Ends the name of a commit when files differ from it.
pub(super) const CHANGED: &str = " with changes";

/// What came of one round.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) tally: Tally,
    /// How many cases passed, by step: each round must run what the first ran.
    pub(super) cases: BTreeMap<String, u64>,
}

pub(super) struct Rounds {
    file: Option<PathBuf>,
    commit: String,
    parts: Vec<String>,
    rounds: Vec<Round>,
    /// Of this run, and of no round.
    extra: Tally,
}

impl Rounds {
    /// Rounds of `parts`, with those that are in `file`.
    pub(super) fn open(
        file: Option<&Path>,
        parts: &BTreeSet<Part>,
        commit: impl FnOnce() -> Result<String>,
    ) -> Result<Self> {
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let mut rounds = Self {
            file: file.map(Path::to_owned),
            commit: String::new(),
            parts,
            rounds: Vec::new(),
            extra: Tally::default(),
        };
        let Some(file) = file else { return Ok(rounds) };
        rounds.commit = commit()?;
        if rounds.commit.ends_with(CHANGED) {
            bail!("the tree differs from its commit: rounds that add up are of one commit");
        }
        if file.exists() {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            rounds
                .take_over(&serde_json::from_str(&text)?)
                .with_context(|| format!("cannot go on with `{}`", file.display()))?;
        }
        Ok(rounds)
    }

    fn take_over(&mut self, value: &Value) -> Result<()> {
        let commit = value.get("commit").and_then(Value::as_str).context("it names no commit")?;
        if commit != self.commit {
            bail!("it is of commit {commit}, the tree of {}", self.commit);
        }
        let parts = value.get("parts").and_then(Value::as_array).context("it names no parts")?;
        let parts: Vec<&str> = parts.iter().filter_map(Value::as_str).collect();
        if parts != self.parts {
            bail!("it is of the parts {}, not {}", parts.join(","), self.parts.join(","));
        }
        let rounds = value.get("rounds").and_then(Value::as_array).context("it has no rounds")?;
        self.rounds = rounds.iter().map(Round::from_json).collect::<Option<_>>().context("a round is broken")?;
        Ok(())
    }

    pub(super) fn done(&self) -> u32 {
        u32::try_from(self.rounds.len()).unwrap_or(u32::MAX)
    }

    /// What happened before the rounds of this run.
    pub(super) fn add_to_first(&mut self, tally: Tally) {
        self.extra.add(tally);
    }

    pub(super) fn push(&mut self, mut round: Round) -> Result<()> {
        if let Some(first) = self.rounds.first() {
            compare(first, &mut round);
        }
        self.rounds.push(round);
        let Some(file) = &self.file else { return Ok(()) };
        let rounds: Vec<Value> = self.rounds.iter().map(Round::to_json).collect();
        let text = json!({"commit": self.commit, "parts": self.parts, "rounds": rounds}).to_string();
        // A run that is cut off while writing must not lose the rounds before.
        let part = file.with_extension("part");
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, file))
            .with_context(|| format!("cannot write `{}`", file.display()))
    }

    pub(super) fn total(&self) -> Tally {
        let mut total = self.extra.clone();
        for round in &self.rounds {
            total.add(round.tally.clone());
        }
        total
    }
}

/// A step that passed fewer or more cases than in the first round, without a failure that says so, is a failure.
fn compare(first: &Round, round: &mut Round) {
    let steps: BTreeSet<&String> = first.cases.keys().chain(round.cases.keys()).collect();
    let count = |r: &Round, step: &str| r.cases.get(step).copied().unwrap_or(0);
    let differing: Vec<String> = steps
        .into_iter()
        .filter(|s| count(first, s) != count(round, s))
        .map(|s| format!("{s}: {} passed in the first round, {} in this", count(first, s), count(round, s)))
        .collect();
    if first.tally.failed.is_empty() && round.tally.failed.is_empty() {
        for reason in differing {
            round.tally.fail("the same cases in every round", &reason);
        }
    }
}

impl Round {
    fn to_json(&self) -> Value {
        let Self { tally: Tally { passed, failed, skipped }, cases } = self;
        json!({"passed": passed, "failed": failed, "skipped": skipped, "cases": cases})
    }

    fn from_json(value: &Value) -> Option<Self> {
        let pairs = |key: &str| -> Option<Vec<(String, String)>> {
            let text = |v: &Value| v.as_str().map(str::to_owned);
            value.get(key)?.as_array()?.iter().map(|p| Some((text(p.get(0)?)?, text(p.get(1)?)?))).collect()
        };
        let cases = value
            .get("cases")?
            .as_object()?
            .iter()
            .map(|(k, v)| Some((k.clone(), v.as_u64()?)))
            .collect::<Option<_>>()?;
        let tally =
            Tally { passed: value.get("passed")?.as_u64()?, failed: pairs("failed")?, skipped: pairs("skipped")? };
        Some(Self { tally, cases })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("bpfd-rounds-{}-{name}", std::process::id())))
    }

    fn round(passed: u64) -> Round {
        let mut tally = Tally { passed, ..Tally::default() };
        tally.skip("s", "why");
        Round { tally, cases: BTreeMap::from([("host: a".to_owned(), passed)]) }
    }

    fn open(file: &Scratch, commit: &str) -> Result<Rounds> {
        Rounds::open(Some(&file.0), &BTreeSet::from([Part::Host]), || Ok(commit.to_owned()))
    }

    #[test]
    fn rounds_add_up_over_runs() {
        let file = scratch("add");
        open(&file, "c").unwrap().push(round(3)).unwrap();
        let mut second = open(&file, "c").unwrap();
        second.push(round(3)).unwrap();
        let third = open(&file, "c").unwrap();
        assert_eq!((third.done(), third.total().to_string()), (2, "6 passed, 0 failed, 2 skipped".to_owned()));
    }

    #[test]
    fn rounds_of_another_commit_or_of_changes_do_not_count() {
        let file = scratch("commit");
        open(&file, "c").unwrap().push(round(3)).unwrap();
        assert!(open(&file, "d").is_err());
        assert!(open(&file, &format!("c{CHANGED}")).is_err());
        assert!(Rounds::open(Some(&file.0), &BTreeSet::from([Part::Vm]), || Ok("c".to_owned())).is_err());
    }

    #[test]
    fn a_round_with_fewer_cases_is_a_failure() {
        let file = scratch("fewer");
        let mut rounds = open(&file, "c").unwrap();
        rounds.push(round(3)).unwrap();
        rounds.push(round(2)).unwrap();
        assert_eq!(rounds.total().to_string(), "5 passed, 1 failed, 2 skipped");
    }
}
