//! The daemon's entry: what it is asked to be, daemon or worker, and nothing else.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use bpfd::layout::Layout;
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// The system daemon that owns BPF on this host.
///
/// Reads in /etc/bpfd, each if it is there:
///   bpfd.toml                   settings
///   policy.toml, policy.d/      which images may be loaded; SIGHUP has them read again
///   programs.d/                 what is loaded at each start; SIGHUP has them read again
///   registries.toml, auth.json  how registries are reached, and as whom
///
/// Keeps state in /var/lib/bpfd, the audit log in /var/log/bpfd, sockets in /run/bpfd, pins in
/// /sys/fs/bpf/bpfd. Logs to standard error.
///
/// Exit status:
///   0  stopped by SIGTERM or SIGINT; attached programs stay
///   1  cannot start, or cannot go on
///   2  wrong usage
///
/// Examples:
///   bpfd                      serve /run/bpfd/bpfd.sock
///   bpfd --root /root/try     keep everything below /root/try: socket, state, configuration, pins
#[derive(Debug, Parser)]
#[command(name = "bpfd", version, verbatim_doc_comment)]
struct Args {
    /// Keep every path below this directory; a bpffs is mounted there if there is none.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// What to log, as in `info` or `bpfd=debug` [default: info].
    #[arg(long, value_name = "FILTER", env = "BPFD_LOG", default_value = "info", hide_default_value = true)]
    log: Filter,
}

/// What to log, in the words of [`EnvFilter`], which cannot be cloned as clap wants it.
#[derive(Clone, Debug)]
struct Filter(Vec<Directive>);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let directives: Vec<Directive> = parts.map(directive).collect::<Result<_, _>>()?;
        // An empty variable is as good as none.
        if directives.is_empty() { Ok(Self(vec![LevelFilter::INFO.into()])) } else { Ok(Self(directives)) }
    }
}

/// A word alone is a level. `EnvFilter` would take `debgu` for a module, and log nothing of any other.
fn directive(text: &str) -> Result<Directive, String> {
    if !text.contains(['=', '[']) {
        let level = text.parse::<LevelFilter>();
        return level.map(Directive::from).map_err(|_no_level| {
            format!(
                "`{text}` is not a level: error, warn, info, debug, trace or off; for a part of bpfd write PART=LEVEL"
            )
        });
    }
    text.parse().map_err(|error| format!("`{text}`: {error}"))
}

impl From<Filter> for EnvFilter {
    fn from(Filter(directives): Filter) -> Self {
        directives.into_iter().fold(Self::default(), Self::add_directive)
    }
}

fn main() -> ExitCode {
    // A worker is started by the daemon with two words, or three, and nothing else: before clap, before any thread.
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let worker = match words.as_slice() {
        ["--worker", kind] => Some((kind, None)),
        ["--worker", kind, ids] => Some((kind, Some(*ids))),
        _ => None,
    };
    if let Some((kind, ids)) = worker {
        let code = bpfd::worker::run(kind, ids);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let args = Args::parse();
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(args.log)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(log: &str) -> String {
        Args::try_parse_from(["bpfd", "--log", log]).unwrap_err().to_string()
    }

    fn filter(log: &str) -> String {
        EnvFilter::from(Args::try_parse_from(["bpfd", "--log", log]).unwrap().log).to_string()
    }

    #[test]
    fn a_filter_that_means_nothing_is_wrong_usage() {
        insta::assert_snapshot!(refused("debgu"), @"
        error: invalid value 'debgu' for '--log <FILTER>': `debgu` is not a level: error, warn, info, debug, trace or off; for a part of bpfd write PART=LEVEL

        For more information, try '--help'.
        ");
        insta::assert_snapshot!(refused("info,bpfd=loud"), @r#"
        error: invalid value 'info,bpfd=loud' for '--log <FILTER>': `bpfd=loud`: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5

        For more information, try '--help'.
        "#);
        insta::assert_snapshot!(refused("="), @"
        error: invalid value '=' for '--log <FILTER>': `=`: invalid filter directive

        For more information, try '--help'.
        ");
    }

    #[test]
    fn a_filter_is_a_level_and_levels_of_parts() {
        assert_eq!(filter("info"), "info");
        assert_eq!(filter("off"), "off");
        assert_eq!(filter("DEBUG"), "debug");
        assert_eq!(filter(""), "info");
        assert_eq!(filter("warn, bpfd::rpc=debug"), "bpfd::rpc=debug,warn");
        assert_eq!(filter("bpfd=debug"), "bpfd=debug");
    }

    #[test]
    fn help_says_what_is_read_and_how_it_ends() {
        use clap::CommandFactory as _;
        insta::assert_snapshot!(Args::command().get_long_about().unwrap(), @"
        The system daemon that owns BPF on this host.

        Reads in /etc/bpfd, each if it is there:
          bpfd.toml                   settings
          policy.toml, policy.d/      which images may be loaded; SIGHUP has them read again
          programs.d/                 what is loaded at each start; SIGHUP has them read again
          registries.toml, auth.json  how registries are reached, and as whom

        Keeps state in /var/lib/bpfd, the audit log in /var/log/bpfd, sockets in /run/bpfd, pins in
        /sys/fs/bpf/bpfd. Logs to standard error.

        Exit status:
          0  stopped by SIGTERM or SIGINT; attached programs stay
          1  cannot start, or cannot go on
          2  wrong usage

        Examples:
          bpfd                      serve /run/bpfd/bpfd.sock
          bpfd --root /root/try     keep everything below /root/try: socket, state, configuration, pins
        ");
    }
}
