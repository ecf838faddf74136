//! The command line's frame: what every verb shares, and the texts that become types here. A verb's own arguments live in
//! the verb's file. A value that parses here is right as far as it can be known without the daemon.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bpfd_core::hook::ProceedOn;
use bpfd_core::labels::{BadLabel, LabelKey, LabelSelector, LabelValue};
use bpfd_core::names::{Netns, Priority};
use bpfd_proto::codec::v1 as codec;
use bpfd_proto::v1 as pb;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};

use crate::command::Command;

const EXITS: &str = "\
Exit codes:
  0  done                       7  the daemon cannot be reached
  1  any other failure          8  conflict: name taken, chain full, foreign program
  2  wrong usage                9  registry or network
  3  not found                 10  timeout
  4  denied                    11  not supported by this kernel
  5  rejected by the verifier  12  `doctor` found something wrong
  6  signature or digest";

/// Ask bpfd to load, attach, order and show BPF programs
#[derive(Debug, Parser)]
#[command(name = "bpfctl", version, after_help = EXITS, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The command line of this process.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        // Taking it apart again would cost a third of what making it did; the process ends instead.
        let command = Box::leak(Box::new(Self::command()));
        let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(command))
    }

    /// A usage error about a verb, in clap's own form.
    pub(crate) fn error(verb: &str, kind: clap::error::ErrorKind, message: &str) -> clap::Error {
        let mut root = Self::command();
        root.build();
        match root.find_subcommand_mut(verb) {
            Some(verb) => verb.error(kind, message),
            None => root.error(kind, message),
        }
    }
}

/// What every verb takes.
#[derive(Debug, Default, Args)]
pub(crate) struct Global {
    /// The daemon's socket [default: $BPFD_SOCKET, else /run/bpfd/bpfd.sock]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub(crate) socket: Option<PathBuf>,
    /// How to print results
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) output: Format,
    /// Print names alone, and no progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Print tables without their first line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_headers: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Global options")]
    pub(crate) color: Color,
    /// Give up after so many seconds
    #[arg(long, global = true, value_name = "SECONDS", help_heading = "Global options")]
    pub(crate) timeout: Option<Limit>,
}

/// Whether a verb that changes something does so.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DryRun {
    /// Print the steps that would be taken, and take none
    #[arg(long, global = true, help_heading = None::<&'static str>)]
    pub(crate) dry_run: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// A table with more columns, if there is more to say
    Wide,
    /// For programs: {"apiVersion", "kind", "items"}; messages of the API are in proto3 JSON
    Json,
    /// The same document in YAML
    Yaml,
    /// Names alone, one a line, for the arguments of other commands
    Name,
}

/// When standard error has colour.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR says otherwise
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    pub(crate) fn write_global(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// A time limit in whole seconds, 1 to 86400.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(u32);

impl Limit {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }

    pub(crate) fn seconds(self) -> u32 {
        self.0
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(seconds @ 1..=86_400) => Ok(Self(seconds)),
            Ok(_) | Err(_) => Err("a number of seconds from 1 to 86400".to_owned()),
        }
    }
}

/// A place in a chain.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// 0 to 1000, lower runs first [default: the image's, else the object's, else 50]
    #[arg(short, long, value_name = "N", value_parser = priority, allow_negative_numbers = true)]
    pub(crate) priority: Option<Priority>,
    /// Verdicts after which the next program runs, such as pass,drop, or `none`
    /// [default: the image's, else the object's, else pass on XDP and next on tc]
    #[arg(long, value_name = "ACTIONS", value_parser = proceed_on)]
    pub(crate) proceed_on: Option<ProceedOn>,
}

impl Place {
    pub(crate) fn fields(self) -> (Option<u32>, Option<pb::ProceedOn>) {
        let Self { priority, proceed_on } = self;
        (priority.map(u32::from), proceed_on.map(codec::proceed_on))
    }
}

/// The API's form of a namespace: unset is the daemon's own.
pub(crate) fn netns_field(netns: Netns) -> Option<String> {
    match netns {
        Netns::Host => None,
        Netns::Named(_) | Netns::Nameless(_) => Some(netns.into()),
    }
}

pub(crate) fn priority(text: &str) -> Result<Priority, String> {
    let number: i64 = text
        .parse()
        .map_err(|_not_a_number| format!("a priority is a number from 0 to {}; lower ones run first", Priority::MAX))?;
    // What no `u32` holds is as wrong as 1001, and is told so in the same words.
    let small = u32::try_from(number)
        .map_err(|_too_far| format!("priority {number} is out of range: 0 to {}", Priority::MAX))?;
    Priority::try_from(small).map_err(|error| error.to_string())
}

pub(crate) fn proceed_on(text: &str) -> Result<ProceedOn, String> {
    let names = text.split(',').filter(|name| *name != "none" || text != "none");
    ProceedOn::from_names(names).map_err(|error| error.to_string())
}

/// `KEY=VALUE`, a label for an app.
pub(crate) fn label(text: &str) -> Result<(LabelKey, LabelValue), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    let label = || Ok((key.parse()?, value.parse()?));
    label().map_err(|error: BadLabel| error.to_string())
}

/// The API's form of a selector.
pub(crate) fn label_field(selector: &LabelSelector) -> pb::LabelSelector {
    let LabelSelector { key, value } = selector;
    pb::LabelSelector { key: key.to_string(), value: value.as_ref().map(ToString::to_string) }
}

/// Something that a person writes as a word and the daemon resolves: only emptiness is wrong on this side.
pub(crate) fn word(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("cannot be empty".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// A command and all below it.
    fn all(command: &clap::Command) -> Vec<&clap::Command> {
        std::iter::once(command).chain(command.get_subcommands().flat_map(all)).collect()
    }

    #[test]
    fn every_verb_has_examples() {
        let root = Cli::command();
        let without = |verb: &&clap::Command| {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.split_once("Examples:\n  bpfctl ").map(|(_, examples)| examples).unwrap_or_default();
            !examples.split_whitespace().any(|word| word == verb.get_name())
        };
        let verbs = root.get_subcommands().flat_map(all);
        let without: Vec<&str> = verbs.filter(without).map(clap::Command::get_name).collect();
        assert_eq!(without, Vec::<&str>::new());
    }

    #[test]
    fn a_priority_is_0_to_1000() {
        let refused = |text| priority(text).unwrap_err();
        assert_eq!([priority("0"), priority("1000")].map(|it| it.map(u32::from)), [Ok(0), Ok(1000)]);
        assert_eq!(refused("1001"), "priority 1001 is out of range: 0 to 1000");
        assert_eq!(refused("-1"), "priority -1 is out of range: 0 to 1000");
        assert_eq!(refused("4294967296"), "priority 4294967296 is out of range: 0 to 1000");
        assert_eq!(refused("high"), "a priority is a number from 0 to 1000; lower ones run first");
    }

    #[test]
    fn every_example_is_a_command_line() {
        let root = Cli::command();
        let helps = all(&root).into_iter().filter_map(|command| Some(command.get_after_help()?.to_string()));
        let mut examples = 0;
        for line in helps.flat_map(|help| help.lines().map(str::to_owned).collect::<Vec<_>>()) {
            let Some(line) = line.strip_prefix("  bpfctl ") else { continue };
            // What is behind a pipe or an arrow is the shell's; so are quotes, and a command's output stands for one word.
            let own = line.split(['|', '<', '>']).next().unwrap().replace("$(bpfctl image ls -q)", "image");
            let words = own.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
            let parsed = Cli::try_parse_from(std::iter::once("bpfctl").chain(words));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            examples += 1;
        }
        assert!(examples > 40, "{examples}");
    }

    #[test]
    fn proceed_on_takes_a_list_or_none() {
        let bits = |text| proceed_on(text).map(ProceedOn::bits);
        assert_eq!(bits("pass"), Ok(1 << 2));
        assert_eq!(bits("pass,DROP"), Ok(1 << 2 | 1 << 1));
        assert_eq!(bits("none"), Ok(0));
        assert_eq!(bits("next"), Ok(1 << 16));
        assert!(bits("pass,none").is_err());
        assert!(bits("").is_err());
    }
}
