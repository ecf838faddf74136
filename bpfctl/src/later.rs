//! Sub-commands that are made when their verb is the one that was asked for: most of what the command line is made of belongs to verbs
//! that a run does not use. Help, man pages and completion see all of it.

use clap::{ArgMatches, Command, Error, FromArgMatches, Subcommand};

/// The sub-commands of a verb.
#[derive(Debug)]
pub(crate) struct Later<T>(pub(crate) T);

impl<T: Subcommand> Subcommand for Later<T> {
    fn augment_subcommands(verb: Command) -> Command {
        verb.defer(T::augment_subcommands)
    }

    fn augment_subcommands_for_update(verb: Command) -> Command {
        verb.defer(T::augment_subcommands_for_update)
    }

    fn has_subcommand(name: &str) -> bool {
        T::has_subcommand(name)
    }
}

impl<T: FromArgMatches> FromArgMatches for Later<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}
