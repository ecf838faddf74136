//! `cargo xtask demo`: bpfd's main job on a real kernel, a real registry and real packets, as a show with an exit status.
//!
//! Owns the way into namespaces of its own and the look back from outside. Everything that the show makes is below a network, a
//! mount and a process namespace that end with it: it must never touch this host's interfaces, mounts or BPF programs.

mod counters;
mod ledger;
mod leftovers;
mod shell;
mod show;
mod stage;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{examples, tools};
use ledger::Ledger;

/// A show takes 20 seconds; one that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) const TOOLS: [tools::Tool; 7] =
    [tools::CLANG, tools::LIBBPF, tools::REGISTRY, tools::BPFTOOL, tools::IPROUTE, tools::PING, tools::PROCPS];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Use the programs of the last build
    #[arg(long)]
    no_build: bool,
    /// Set by the demo itself, once it is in namespaces of its own: where it writes what it makes
    #[arg(long, hide = true, value_name = "FILE")]
    inside: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    match &args.inside {
        Some(ledger) => show::run(root, &Ledger::at(ledger))?,
        None => outside(root, args.no_build)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn outside(root: &Path, no_build: bool) -> Result<()> {
    if !tools::is_root() {
        bail!("needs root: it makes network namespaces and loads BPF programs (sudo cargo xtask demo)");
    }
    tools::ensure(&TOOLS)?;
    if !no_build {
        build(root)?;
    }
    examples::build(root, &root.join("target/bpf"))?;

    let start = Instant::now();
    let ledger = Ledger::create(root)?;
    let status = perform(&ledger)?;
    // Whatever came of the show, nothing of it may be left.
    let left = leftovers::after(&ledger.read()?)?;
    for thing in &left {
        println!("left behind: {thing}");
    }
    if !left.is_empty() {
        bail!("the demo left {} things behind", left.len());
    }
    println!("\nleft behind: no process, namespace, mount, program or map");
    if !status.success() {
        bail!("the demo failed: {}", said(status));
    }
    println!("demo: all counters and refusals as they must be, in {} s", start.elapsed().as_secs());
    Ok(())
}

fn build(root: &Path) -> Result<()> {
    println!("$ cargo build");
    let status = Command::new(env!("CARGO")).args(["build", "--locked"]).current_dir(root).status();
    if !status.context("cannot run cargo build")?.success() {
        bail!("cargo build failed");
    }
    Ok(())
}

/// Runs this program again, inside; what it prints is printed here.
fn perform(ledger: &Ledger) -> Result<ExitStatus> {
    // setpriv and --kill-child: if this process is killed, so is all that runs inside.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(own_program()?)
        .args(["demo", "--inside"])
        .arg(ledger.path())
        .spawn()
        .context("cannot run setpriv and unshare (Debian: util-linux)")?;
    wait(&mut child)
}

/// The file of this program. A build since it started has put another one in its place, and the kernel says so in the name
/// (proc(5), /proc/PID/exe).
fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell which program this is")?;
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map(PathBuf::from).unwrap_or_else(|| path.clone()))
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            println!("ended: it took more than {} s", LIMIT.as_secs());
            child.kill()?;
            return Ok(child.wait()?);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn said(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("ended by signal {signal}"),
        None => status.to_string(),
    }
}
