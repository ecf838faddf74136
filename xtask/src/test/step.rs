//! Runs the commands of a part, shows what they print, and counts.
//!
//! Lanes run side by side, the steps of a lane one after the other. Must never end a step early: a test that
//! hangs says so itself, or its guest's time limit does.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};

use super::count::{Count, Reader, Show, Tally};

/// One command and how to count it, or cases that cannot run here.
#[derive(Debug)]
pub(super) enum Step {
    Run { label: String, command: Spec, count: Count },
    Skip { label: String, cases: Vec<String>, reason: String },
}

/// A command as data.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// Where it runs; the root of the tree if nothing is said.
    pub(super) dir: Option<PathBuf>,
    pub(super) env: Vec<(String, String)>,
}

impl Spec {
    pub(super) fn new(program: impl Into<PathBuf>, args: &[&str]) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Self { program: program.into(), args, dir: None, env: Vec::new() }
    }
}

impl Step {
    pub(super) fn check(label: &str, command: Spec) -> Self {
        Self::Run { label: label.to_owned(), command, count: Count::Status }
    }

    /// One check that cannot run here.
    pub(super) fn skip(label: &str, reason: &str) -> Self {
        Self::Skip { label: label.to_owned(), cases: vec![label.to_owned()], reason: reason.to_owned() }
    }
}

/// Runs the lanes side by side and returns each step's label and count.
pub(super) fn run_lanes(root: &Path, lanes: Vec<Vec<Step>>) -> Vec<(String, Tally)> {
    let alone = lanes.len() == 1;
    thread::scope(|scope| {
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || lane.into_iter().map(|s| run(root, s, alone)).collect::<Vec<_>>()))
            .collect();
        // A panic in a lane is a bug of this tool, and must look like one.
        lanes.into_iter().flat_map(|l| l.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

fn run(root: &Path, step: Step, alone: bool) -> (String, Tally) {
    match step {
        Step::Skip { label, cases, reason } => {
            println!("--- {label}: skipped, {reason}");
            let mut tally = Tally::default();
            for case in cases {
                tally.skip(&case, &reason);
            }
            (label, tally)
        }
        Step::Run { label, command, count } => {
            println!("--- {label}");
            let prefix = if alone { String::new() } else { format!("[{label}] ") };
            let mut reader = Reader::new(count, &label);
            let tally = match stream(root, &command, &mut reader, &prefix) {
                Ok(status) if status.success() => reader.end(None),
                Ok(status) => reader.end(Some(&status.to_string())),
                Err(error) => reader.end(Some(&format!("{error:#}"))),
            };
            (label, tally)
        }
    }
}

fn stream(root: &Path, spec: &Spec, reader: &mut Reader, prefix: &str) -> Result<ExitStatus> {
    let Spec { program, args, dir, env } = spec;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir.as_deref().unwrap_or(root))
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", program.display()))?;
    let out = child.stdout.take().context("no stdout")?;
    let err = child.stderr.take().context("no stderr")?;
    let (sender, lines) = mpsc::channel::<(Stream, String)>();
    thread::scope(|scope| {
        let of_err = sender.clone();
        scope.spawn(move || send_lines(out, Stream::Out, &sender));
        scope.spawn(move || send_lines(err, Stream::Err, &of_err));
        for (stream, line) in lines {
            let show = match stream {
                Stream::Out => reader.line(&line),
                Stream::Err => Show::Line(line),
            };
            if let Show::Line(line) = show {
                println!("{prefix}{line}");
            }
        }
    });
    child.wait().context("cannot wait for it")
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Sends each line until the end; bytes that are not UTF-8 are shown as such, not lost.
fn send_lines(from: impl Read, stream: Stream, to: &mpsc::Sender<(Stream, String)>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        let text = String::from_utf8_lossy(&line);
        if to.send((stream, text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(script: &str, count: Count) -> String {
        let command = Spec::new("sh", &["-c", script]);
        let step = Step::Run { label: "x".to_owned(), command, count };
        let mut all = Tally::default();
        for (_, tally) in run_lanes(Path::new("/"), vec![vec![step]]) {
            all.add(tally);
        }
        all.to_string()
    }

    #[test]
    fn a_command_is_counted_by_its_status_or_its_lines() {
        assert_eq!(tally("true", Count::Status), "1 passed, 0 failed, 0 skipped");
        assert_eq!(tally("exit 3", Count::Status), "0 passed, 1 failed, 0 skipped");
        assert_eq!(
            tally("echo 'test result: ok. 3 passed; 0 failed'", Count::Libtest),
            "3 passed, 0 failed, 0 skipped"
        );
        assert_eq!(
            tally("echo 'test result: ok. 3 passed; 0 failed' >&2", Count::Libtest),
            "0 passed, 1 failed, 0 skipped"
        );
    }

    #[test]
    fn every_case_of_a_skipped_step_is_counted() {
        let step =
            Step::Skip { label: "x".to_owned(), cases: vec!["a".to_owned(), "b".to_owned()], reason: "r".to_owned() };
        let results = run_lanes(Path::new("/"), vec![vec![step], vec![]]);
        assert_eq!(results.iter().map(|(_, t)| t.to_string()).collect::<Vec<_>>(), ["0 passed, 0 failed, 2 skipped"]);
    }
}
