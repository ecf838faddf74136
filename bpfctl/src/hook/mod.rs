//! The hooks that `load` and `attach` take as sub-commands. A kind is a file beside this one and a line in the registry.
//!
//! This module must never call the daemon.

mod fentry;
mod kprobe;
mod raw_tracepoint;
mod tc;
mod tracepoint;
mod xdp;

use bpfd_proto::v1 as pb;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

/// A kind of hook on the command line.
trait HookArgs: Args {
    /// The sub-command.
    const WORD: &'static str;
    /// Its line in `--help`.
    const ABOUT: &'static str;
    /// What follows `bpfctl load … `: at least two examples, whole lines.
    const LOAD_EXAMPLES: &'static str;
    /// The same for `bpfctl attach`.
    const ATTACH_EXAMPLES: &'static str;

    /// What the flags say. The function and what to do while the hook is absent are the verb's.
    fn attachment(self) -> pb::Attachment;
}

/// The attachment to an own hook: all that it needs to know is in the hook's message.
fn own(hook: pb::hook::Hook) -> pb::Attachment {
    pb::Attachment { hook: Some(pb::Hook { hook: Some(hook) }), ..Default::default() }
}

/// A row of the registry: a kind's functions without its type.
struct Kind {
    word: &'static str,
    about: &'static str,
    load_examples: &'static str,
    attach_examples: &'static str,
    augment: fn(Command) -> Command,
    read: fn(&ArgMatches) -> Result<pb::Attachment, clap::Error>,
}

const fn kind<T: HookArgs>() -> Kind {
    Kind {
        word: T::WORD,
        about: T::ABOUT,
        load_examples: T::LOAD_EXAMPLES,
        attach_examples: T::ATTACH_EXAMPLES,
        augment: T::augment_args,
        read: |matches| T::from_arg_matches(matches).map(T::attachment),
    }
}

/// The registry: a new kind is a line here.
const KINDS: &[Kind] = &[
    // In the order of the help.
    kind::<xdp::Xdp>(),
    kind::<tc::Tc>(),
    kind::<tracepoint::Tracepoint>(),
    kind::<raw_tracepoint::RawTracepoint>(),
    kind::<kprobe::Kprobe>(),
    kind::<kprobe::Kretprobe>(),
    kind::<fentry::Fentry>(),
    kind::<fentry::Fexit>(),
];

/// A verb that takes a hook, with the arguments of its own that may also stand behind the hook.
pub(crate) trait HookVerb: Args {
    /// Which of a kind's examples its help shows.
    const EXAMPLES: Examples;
}

/// Whose examples.
pub(crate) enum Examples {
    Load,
    Attach,
}

/// `attach` takes nothing of its own behind the hook.
#[derive(Debug, Args)]
pub(crate) struct NothingMore {}

impl HookVerb for NothingMore {
    const EXAMPLES: Examples = Examples::Attach;
}

/// A hook as a sub-command of a verb.
#[derive(Debug)]
pub(crate) struct Hook<V> {
    pub(crate) attachment: pb::Attachment,
    pub(crate) more: V,
}

impl<V: HookVerb> FromArgMatches for Hook<V> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::raw(ErrorKind::MissingSubcommand, "say which hook");
        let (word, matches) = matches.subcommand().ok_or_else(missing)?;
        let kind = KINDS.iter().find(|kind| kind.word == word).ok_or_else(missing)?;
        Ok(Self { attachment: (kind.read)(matches)?, more: V::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<V: HookVerb> Hook<V> {
    fn commands(verb: Command) -> Command {
        let command = |kind: &Kind| {
            let examples = match V::EXAMPLES {
                Examples::Load => kind.load_examples,
                Examples::Attach => kind.attach_examples,
            };
            // Last: the derived arguments bring their own help along.
            let command = V::augment_args((kind.augment)(Command::new(kind.word)));
            command.about(kind.about).long_about(None::<&str>).after_help(format!("Examples:\n{examples}"))
        };
        verb.subcommands(KINDS.iter().map(command))
    }
}

impl<V: HookVerb> Subcommand for Hook<V> {
    fn augment_subcommands(verb: Command) -> Command {
        // Made if the verb is the one that was asked for: see `Later`.
        verb.defer(Self::commands)
    }

    fn augment_subcommands_for_update(verb: Command) -> Command {
        Self::augment_subcommands(verb)
    }

    fn has_subcommand(name: &str) -> bool {
        KINDS.iter().any(|kind| kind.word == name)
    }
}
