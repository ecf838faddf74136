//! `cargo xtask vm`: tests, or one command, as root, on another kernel, in an emulated machine.
//!
//! The guest sees this host's root read-only below a tmpfs: every path works, nothing it does is kept. Emulated
//! even where the host could do better, so that a run means the same everywhere. Owns the exit status rule; must
//! never report a command's status when the kernel under it broke.

mod debian;
mod guest;
mod initrd;
mod kernel;
mod modules;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::tools;

pub(crate) use guest::VIRTIOFSD;
use guest::{Clock, End, Guest, Root};

/// The status of a guest that ran out of time, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// The status of a guest that did not get as far as a status, or whose kernel broke.
const BROKE: u8 = 125;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel: the newest that Debian 12 has of this series
    #[arg(long, value_enum, default_value_t = Series::V6_12)]
    kernel: Series,
    /// Count instructions: the guest's clock then says nanoseconds and means instructions
    #[arg(long)]
    icount: bool,
    /// Boot Debian 12 with systemd in the place of this host's root; systemd starts the command. Of this host it sees the tree alone
    #[arg(long)]
    debian: bool,
    /// End the guest after this many seconds, with status 124
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// A test program or part of a case's name; or a command, of which one word alone is a line for the shell. Without one: all
    /// tests that guests run
    #[arg(last = true, value_name = "CASE|COMMAND")]
    words: Vec<String>,
}

impl Args {
    /// The case that is asked for: one word that could be the name of one, and is no program.
    fn case(&self) -> Option<&str> {
        let [word] = self.words.as_slice() else { return None };
        let named = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        (named && tools::on_path(word).is_none()).then_some(word)
    }
}

/// A series of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let Args { kernel, icount, debian, timeout, words } = args;
    if !tools::is_root() {
        bail!("needs root: the guest's root is this host's, mounted read-only");
    }
    let case = args.case();
    if words.is_empty() || case.is_some() {
        return crate::test::in_guest(root, kernel.name(), *icount, case);
    }
    tools::ensure(&[tools::QEMU, tools::VIRTIOFSD, tools::BUSYBOX, tools::XZ, tools::E2FSPROGS])?;
    let kernel = kernel::fetch(*kernel)?;
    // Snapshot tests ask cargo for it, which is in somebody's home and not on the guest's PATH.
    let insta = ("INSTA_WORKSPACE_ROOT".to_owned(), root.display().to_string());
    let script = initrd::script(&std::env::current_dir()?, std::env::vars().chain([insta]), words);
    let guest_root = if *debian { Root::Debian { dir: debian::fetch()?, shown: root.to_owned() } } else { Root::Host };
    let clock = if *icount { Clock::Instructions } else { Clock::Host };
    let guest =
        Guest { kernel: &kernel, root: guest_root, script: &script, clock, limit: Duration::from_secs(*timeout) };
    Ok(conclude(guest.run()?))
}

/// Fetches the Debian of `--debian`, so that guests started later find it.
pub(crate) fn fetch_debian() -> Result<()> {
    debian::fetch().map(|_| ())
}

/// Fetches a kernel by the name of its series, so that guests started at once later find it.
pub(crate) fn fetch_kernel(series: &str) -> Result<()> {
    let known = Series::from_str(series, false).ok().with_context(|| format!("no kernel series `{series}`"))?;
    kernel::fetch(known).map(|_| ())
}

/// The status for the guest's end; says on stderr what a status alone does not.
fn conclude(end: End) -> ExitCode {
    let End { timed_out, report, console, qemu } = end;
    for line in console.lines().filter(|l| l.contains("WARNING: ")) {
        eprintln!("vm: the kernel warns: {line}");
    }
    match judge(timed_out, &report, &console) {
        Verdict::Exit(status) => ExitCode::from(status),
        Verdict::TimedOut => {
            eprintln!("vm: ended after its time limit; the console's end:\n{}", tail(&console));
            ExitCode::from(TIMED_OUT)
        }
        Verdict::Broke(why) => {
            eprintln!("vm: the guest failed: {why}\n{}\n--- the console's end\n{}", qemu.trim(), tail(&console));
            ExitCode::from(BROKE)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Exit(u8),
    TimedOut,
    Broke(String),
}

fn judge(timed_out: bool, report: &str, console: &str) -> Verdict {
    const SIGNS: [&str; 5] = ["Kernel panic", "BUG: ", "Oops: ", "general protection fault", "BPFD-VM-FATAL"];
    if timed_out {
        return Verdict::TimedOut;
    }
    if let Some(line) = console.lines().find(|l| SIGNS.iter().any(|s| l.contains(s))) {
        return Verdict::Broke(line.to_owned());
    }
    let status = report.lines().find_map(|l| l.strip_prefix("EXIT ")?.split(' ').next()?.parse().ok());
    match status {
        Some(status) => Verdict::Exit(status),
        None => Verdict::Broke(format!("it ended without an exit status: {}", report.trim())),
    }
}

/// What is worth showing of a console.
fn tail(console: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = console.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_counts_only_if_the_kernel_was_well() {
        assert_eq!(judge(false, "UP 2.1\nEXIT 0 3.0\n", "boot"), Verdict::Exit(0));
        assert_eq!(judge(false, "UP 2.1\nEXIT 255 3.0\n", ""), Verdict::Exit(255));
        assert_eq!(judge(false, "EXIT 0 3.0\n", "x\n[ 1.0] BUG: bad\n"), Verdict::Broke("[ 1.0] BUG: bad".to_owned()));
        assert!(matches!(judge(false, "UP 2.1\n", ""), Verdict::Broke(_)));
        assert!(matches!(judge(false, "FATAL overlay\n", ""), Verdict::Broke(why) if why.contains("FATAL overlay")));
        assert_eq!(judge(true, "UP 2.1\n", "Kernel panic"), Verdict::TimedOut);
    }
}
