//! What came of tests, read from what their runners print: libtest's lines, an exit status.
//!
//! Must never count a test as passed that did not say so: a runner that dies, or says nothing, is a failure.

use std::fmt;

/// A line by which a passing test says that it could not run here: `skipped: this kernel has no tcx`.
const SKIPPED: &str = "skipped: ";

/// How to read a runner's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// One check: its exit status.
    Status,
    /// Rust test programs, one after the other, run with `--show-output`.
    Libtest,
}

/// Cases that passed, failed and were skipped; the last two with their names and reasons.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: Vec<(String, String)>,
    pub(super) skipped: Vec<(String, String)>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed += passed;
        self.failed.extend(failed);
        self.skipped.extend(skipped);
    }

    pub(super) fn fail(&mut self, case: &str, reason: &str) {
        self.failed.push((case.to_owned(), reason.to_owned()));
    }

    pub(super) fn skip(&mut self, case: &str, reason: &str) {
        self.skipped.push((case.to_owned(), reason.to_owned()));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {} failed, {} skipped", failed.len(), skipped.len())
    }
}

/// What to do with a line once it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Show {
    Line(String),
    Nothing,
}

/// libtest says `successes:`, what passing tests printed, `successes:` again and their names; `failures:` likewise.
/// What tests print may look like anything, a result too: only the runner's own words count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    Runner,
    PassedTests,
    FailedTests,
}

/// Reads one runner's output line by line.
pub(super) struct Reader {
    count: Count,
    label: String,
    tally: Tally,
    /// libtest said what came of a test program.
    concluded: bool,
    /// Failures and skips of the test program that libtest has not concluded yet.
    failed_here: u64,
    skipped_here: u64,
    /// Whose words a line of libtest's output is.
    voice: Voice,
    /// The test whose output follows.
    section: String,
}

impl Reader {
    pub(super) fn new(count: Count, label: &str) -> Self {
        Self {
            count,
            label: label.to_owned(),
            tally: Tally::default(),
            concluded: false,
            failed_here: 0,
            skipped_here: 0,
            voice: Voice::Runner,
            section: String::new(),
        }
    }

    pub(super) fn line(&mut self, line: &str) -> Show {
        match self.count {
            Count::Status => Show::Line(line.to_owned()),
            Count::Libtest => self.libtest(line),
        }
    }

    fn case(&self, name: &str) -> String {
        format!("{}: {name}", self.label)
    }

    fn libtest(&mut self, line: &str) -> Show {
        match (line, self.voice) {
            ("successes:", Voice::Runner) => self.voice = Voice::PassedTests,
            ("failures:", Voice::Runner) => self.voice = Voice::FailedTests,
            ("successes:", Voice::PassedTests) | ("failures:", Voice::FailedTests) => self.voice = Voice::Runner,
            (_, Voice::Runner) => self.of_runner(line),
            (_, Voice::PassedTests) => return self.of_passed_test(line),
            (_, Voice::FailedTests) => {}
        }
        Show::Line(line.to_owned())
    }

    fn of_runner(&mut self, line: &str) {
        let test = line.strip_prefix("test ");
        if let Some(name) = test.and_then(|l| l.strip_suffix(" ... FAILED")) {
            let case = self.case(name);
            self.tally.fail(&case, "see above");
            self.failed_here += 1;
        } else if let Some((name, rest)) = test.and_then(|l| l.split_once(" ... ignored")) {
            let reason = rest.trim_start_matches(", ");
            let case = self.case(name);
            self.tally.skip(&case, if reason.is_empty() { "marked as ignored" } else { reason });
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.concluded = true;
            self.conclude(result);
        }
    }

    fn of_passed_test(&mut self, line: &str) -> Show {
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            self.section = name.to_owned();
        } else if let Some(reason) = line.strip_prefix(SKIPPED) {
            let case = self.case(&self.section);
            self.tally.skip(&case, reason);
            self.skipped_here += 1;
            return Show::Line(format!("test {} ... skipped, {reason}", self.section));
        }
        Show::Nothing
    }

    /// `ok. 5 passed; 0 failed; 0 ignored; …`: these numbers hold, whatever the lines before looked like. A test
    /// that writes past libtest's capture may have broken its own line.
    fn conclude(&mut self, result: &str) {
        let number = |word: &str| -> u64 {
            let before = result.split(';').find_map(|part| part.trim().strip_suffix(word));
            before.and_then(|b| b.rsplit(' ').find(|w| !w.is_empty())).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        // libtest counts a test that skipped itself as passed.
        self.tally.passed += number("passed").saturating_sub(std::mem::take(&mut self.skipped_here));
        for _ in std::mem::take(&mut self.failed_here)..number("failed") {
            let case = self.case("a test whose line was broken by other output");
            self.tally.fail(&case, "see above");
        }
    }

    /// The end of the runner: its exit status in words if it was not success.
    pub(super) fn end(mut self, failure: Option<&str>) -> Tally {
        match (self.count, failure) {
            (Count::Status, None) => self.tally.passed = 1,
            (Count::Status, Some(status)) => {
                let label = self.label.clone();
                self.tally.fail(&label, status);
            }
            (Count::Libtest, Some(status)) if self.tally.failed.is_empty() => {
                let case = self.case("the test program");
                self.tally.fail(&case, &format!("{status}, without a test that failed"));
            }
            (Count::Libtest, None) if !self.concluded => {
                let case = self.case("the test program");
                self.tally.fail(&case, "ended without saying what came of its tests");
            }
            (Count::Libtest, Some(_) | None) => {}
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(count: Count, output: &str, failure: Option<&str>) -> String {
        let mut reader = Reader::new(count, "x");
        for line in output.lines() {
            reader.line(line);
        }
        let tally = reader.end(failure);
        let list = |cases: &[(String, String)]| cases.iter().map(|(c, r)| format!("; {c} ({r})")).collect::<String>();
        format!("{tally}{}{}", list(&tally.failed), list(&tally.skipped))
    }

    const RESULT: &str =
        "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn the_result_lines_of_several_programs_add_up() {
        assert_eq!(read(Count::Libtest, &format!("{RESULT}\nnoise\n{RESULT}"), None), "4 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn a_failed_test_is_named() {
        let output = "test a::b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured";
        assert_eq!(
            read(Count::Libtest, output, Some("exit status: 101")),
            "1 passed, 1 failed, 0 skipped; x: a::b (see above)"
        );
    }

    #[test]
    fn a_failure_whose_line_was_broken_counts() {
        let output = "test a ... daemon output FAILE\nD\ntest result: FAILED. 0 passed; 1 failed; 0 ignored";
        assert!(read(Count::Libtest, output, Some("exit status: 101")).starts_with("0 passed, 1 failed, 0 skipped; "));
    }

    #[test]
    fn a_program_that_dies_or_says_nothing_is_a_failure() {
        assert!(read(Count::Libtest, "test a ... ok", Some("signal: 11")).starts_with("0 passed, 1 failed"));
        assert!(read(Count::Libtest, "", None).starts_with("0 passed, 1 failed"));
        assert!(read(Count::Libtest, RESULT, Some("exit status: 124")).starts_with("2 passed, 1 failed"));
        assert_eq!(
            read(Count::Status, "", Some("exit status: 1")),
            "0 passed, 1 failed, 0 skipped; x (exit status: 1)"
        );
    }

    #[test]
    fn ignored_tests_and_those_that_say_so_are_skipped_with_a_reason() {
        let output = format!(
            "test a ... ignored, no disk\ntest b ... ok\n\nsuccesses:\n\n---- b stdout ----\nhello\nskipped: no tcx\n\n\nsuccesses:\n    b\n\n{RESULT}"
        );
        assert_eq!(read(Count::Libtest, &output, None), "1 passed, 0 failed, 2 skipped; x: a (no disk); x: b (no tcx)");
    }

    #[test]
    fn what_a_failing_test_prints_does_not_make_it_skipped() {
        let output = "test a ... FAILED\nfailures:\n---- a stdout ----\nskipped: no\nfailures:\n    a\ntest result: FAILED. 0 passed; 1 failed;";
        assert_eq!(
            read(Count::Libtest, output, Some("exit status: 101")),
            "0 passed, 1 failed, 0 skipped; x: a (see above)"
        );
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_the_runners_words() {
        let output =
            format!("successes:\n\n---- a stdout ----\n{RESULT}\ntest b ... FAILED\n\n\nsuccesses:\n    a\n\n{RESULT}");
        assert_eq!(read(Count::Libtest, &output, None), "2 passed, 0 failed, 0 skipped");
    }
}
