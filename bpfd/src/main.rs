//! The daemon's entry: what it is asked to be, daemon or worker, and nothing else.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use bpfd::layout::Layout;
use clap::Parser;

/// The system daemon that owns BPF on this host.
///
/// Examples:
///   bpfd                      serve /run/bpfd/bpfd.sock
///   bpfd --root /tmp/try      keep everything below /tmp/try: socket, state, configuration, pins
#[derive(Debug, Parser)]
#[command(name = "bpfd", version, verbatim_doc_comment)]
struct Args {
    /// Keep every path below this directory; a bpffs is mounted there if there is none.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// What to log, as in `info` or `bpfd=debug` [default: info].
    #[arg(long, value_name = "FILTER", env = "BPFD_LOG", default_value = "info", hide_default_value = true)]
    log: String,
}

fn main() -> ExitCode {
    // A worker is started by the daemon with these two words and nothing else: before clap, before any thread.
    let words: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if let [worker, kind] = words.as_slice()
        && worker == "--worker"
    {
        let code = bpfd::worker::run(&kind.to_string_lossy());
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log).unwrap_or_else(|_| "info".into());
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .init();
    bpfd::fail_points::arm();
    match bpfd::daemon::run(&Layout::new(args.root.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
