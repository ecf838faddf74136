//! What a command printed, and the same with all that differs from run to run taken out.

use std::fmt::{self, Write as _};
use std::process;

use regex::Regex;

/// The outcome of one command.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line.
    pub line: String,
    /// Its exit code; a signal's number is negative.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// What a command line said and did.
    pub fn of(line: &str, done: process::Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = done.status.code().unwrap_or_else(|| -done.status.signal().unwrap());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { line: line.to_owned(), code, stdout: text(done.stdout), stderr: text(done.stderr) }
    }

    /// It succeeded without a word of complaint: its standard output, for a snapshot.
    #[track_caller]
    pub fn ok(self) -> String {
        let complains = |line: &str| ["error", "warning"].iter().any(|word| line.starts_with(word));
        assert!(self.code == 0 && !self.stderr.lines().any(complains), "{self}");
        stable(&self.stdout)
    }

    /// It was refused with this exit code: its standard error, for a snapshot.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert!(self.code == code && self.stdout.is_empty(), "{self}");
        stable(&self.stderr)
    }

    /// All of it, for a snapshot.
    pub fn stable(&self) -> String {
        stable(&self.to_string())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(f, "$ {line}\n{stdout}")?;
        if !stderr.is_empty() {
            write!(f, "--- stderr\n{stderr}")?;
        }
        if *code != 0 {
            writeln!(f, "--- exit {code}")?;
        }
        Ok(())
    }
}

/// Identities, times and the kernel's numbers, as words. Cases run on several kernels: how this one keeps chains is a word too, and
/// what it lets strangers do is left out.
fn stable(text: &str) -> String {
    const RULES: [(&str, &str); 17] = [
        (r"\b[0-9a-f]{32}\b", "UID"),
        (r"\b[0-9a-f]{64}\b", "SHA256"),
        (r"\b[0-9a-f]{16}\b", "TAG-IN-16-DIGITS"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r#"("kernel(?:Program|Map)?Id": )\d+"#, "${1}ID"),
        (r#"("verifiedInstructions": )\d+"#, "${1}COUNT"),
        (r"(?m)(TAG-IN-16-DIGITS  )\d+$", "${1}COUNT"),
        (r"(?m)^(kernel id: +)\d+$", "${1}ID"),
        (r"(XDP program |prog show id |bpf_link |link detach id )\d+", "${1}ID"),
        (r"(?m)^(mode: +).*$", "${1}MODE"),
        (r"(?m)^slots: +\d+ of \d+\n", ""),
        (r"(?m)^version: +\d+ \(libxdp .*\n", ""),
        (r"(?m)^(ok +xdp-chain-mode +).*$", "${1}MODE"),
        (r"(?m)^(ok|warn) +unprivileged-bpf .*\n", ""),
        (r"(?m)^ok +(bpffs|btf|jit|tcx|capabilities|clock|room|store|units) .*\n", ""),
        (r"(?m)^unprivileged-bpf: .*\n", ""),
        (r#"("modeCause": )".*""#, "${1}CAUSE"),
    ];
    let text = RULES
        .iter()
        .fold(text.to_owned(), |text, (rule, with)| Regex::new(rule).unwrap().replace_all(&text, *with).into_owned());
    columns(&text)
}

/// Tables with the kernel's numbers, and with slots that only one way of keeping chains has, in columns that are always as wide as
/// their heading.
fn columns(text: &str) -> String {
    ["SLOT", "PREF"].iter().fold(masked(text, "KERNEL-ID", "ID"), |text, column| masked(&text, column, "-"))
}

/// Numbers below a heading, as a word.
fn masked(text: &str, heading: &str, word: &str) -> String {
    let width = heading.len();
    let mut at = None;
    let mut out = String::new();
    for line in text.lines() {
        if line.contains(heading) {
            at = line.find(heading);
        } else if line.is_empty() || line.starts_with(['-', '$']) {
            at = None;
        }
        let number = at.and_then(|at| line.get(at..at + width)).filter(|cell| cell.starts_with(char::is_numeric));
        match (at, number) {
            (Some(at), Some(_)) => {
                out.push_str(&line[..at]);
                write!(out, "{word:width$}").unwrap();
                out.push_str(&line[at + width..]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_a_word() {
        let text = "uid: 0e0b5a8c111142228333444455556666 tag 0123456789abcdef\nPOS  KERNEL-ID  OWNER\n0    12         uid 0\n\n12\n";
        assert_eq!(stable(text), "uid: UID tag TAG-IN-16-DIGITS\nPOS  KERNEL-ID  OWNER\n0    ID         uid 0\n\n12\n");
    }
}
