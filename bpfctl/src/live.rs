//! What a shell completes: commands and options, and the names of what the daemon has now, of its images and of this host's interfaces.
//!
//! A name becomes part of a command line: one that a shell would read as anything but a word is never offered. Must never print an error,
//! nor make a shell wait for a daemon that hangs.

use std::ffi::OsStr;
use std::time::Duration;

use bpfd_proto::v1 as pb;
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCompleter, CompletionCandidate};

use crate::args::Cli;
use crate::client::{Client, ClientError, Session};

/// What a completion script sets, so that bpfctl completes instead of doing.
pub(crate) const VARIABLE: &str = "BPFCTL_COMPLETE";

/// Nobody waits longer for a completion.
const LIMIT: Duration = Duration::from_millis(500);

/// Answers a completion script, and ends the process then.
pub(crate) fn complete() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script that makes a shell ask `bpfctl`, as it is found by then.
pub(crate) fn script(shell: &str) -> std::io::Result<Vec<u8>> {
    let unknown = || std::io::Error::other("no such shell");
    let mut script = Vec::new();
    let shells = Shells::builtins();
    shells.completer(shell).ok_or_else(unknown)?.write_registration(
        VARIABLE,
        "bpfctl",
        "bpfctl",
        "bpfctl",
        &mut script,
    )?;
    Ok(script)
}

/// What an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Apps,
    /// `app/function`
    Programs,
    /// `app/map`
    Maps,
    Links,
    Images,
    Interfaces,
    Namespaces,
}

/// By the name of the command and of the argument's value, as `--help` shows it.
fn names(command: &str, arg: &Arg) -> Option<Names> {
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    match value {
        "APP" | "APP[:MAP]" => Some(Names::Apps),
        "APP[/FUNCTION]" => Some(Names::Programs),
        "APP/MAP" => Some(Names::Maps),
        "LINK" => Some(Names::Links),
        "REFERENCE" | "IMAGE" => Some(Names::Images),
        "IF" | "INTERFACE" => Some(Names::Interfaces),
        "NAME" if arg.get_id() == "netns" => Some(Names::Namespaces),
        "NAME" => match command {
            "app" | "get" => Some(Names::Apps),
            "link" => Some(Names::Links),
            "image" => Some(Names::Images),
            _ => None,
        },
        _ => None,
    }
}

/// The command line with what completes its values.
fn command() -> Command {
    let mut command = Cli::command();
    // Sub-commands are made later otherwise.
    command.build();
    with_names(command)
}

fn with_names(command: Command) -> Command {
    let name = command.get_name().to_owned();
    let completed = |arg: Arg| match names(&name, &arg) {
        Some(names) => arg.add(ArgValueCompleter::new(move |typed: &OsStr| candidates(names, typed))),
        None => arg,
    };
    command.mut_args(completed).mut_subcommands(with_names)
}

fn candidates(names: Names, typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    let names = match names {
        Names::Interfaces => entries("/sys/class/net"),
        Names::Namespaces => entries("/run/netns"),
        of_daemon => ask(of_daemon),
    };
    names.into_iter().filter(|name| name.starts_with(typed) && is_word(name)).map(CompletionCandidate::new).collect()
}

/// Whether every shell takes it for one word that means itself.
fn is_word(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:@/+".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

fn entries(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Nothing, if there is no daemon, or none that answers soon.
fn ask(names: Names) -> Vec<String> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let asked = runtime.block_on(async {
        tokio::time::timeout(LIMIT, async {
            let mut client = Session::at(socket()).client_if_up().await.ok()?;
            of_daemon(&mut client, names).await.ok()
        })
        .await
    });
    asked.ok().flatten().unwrap_or_default()
}

/// The socket that the line which is completed names.
fn socket() -> Option<std::path::PathBuf> {
    let words = || std::env::args_os().skip_while(|word| word != "--");
    let after = words().skip_while(|word| word != "--socket").nth(1);
    let joined = words().find_map(|word| word.to_str()?.strip_prefix("--socket=").map(Into::into));
    after.or(joined).map(Into::into)
}

async fn of_daemon(client: &mut Client, names: Names) -> Result<Vec<String>, ClientError> {
    let apps = pb::ListAppsRequest::default;
    Ok(match names {
        Names::Apps => client.apps(apps()).await?.into_iter().map(|app| app.name).collect(),
        Names::Programs => {
            let programs = |app: &pb::App| -> Vec<String> {
                app.programs.iter().map(|program| format!("{}/{}", app.name, program.function)).collect()
            };
            client.apps(apps()).await?.iter().flat_map(programs).collect()
        }
        Names::Maps => {
            let maps = client.maps(pb::ListMapsRequest::default()).await?;
            maps.into_iter().filter_map(|map| Some(format!("{}/{}", map.app, map.map?.name))).collect()
        }
        Names::Links => {
            client.links(pb::ListLinksRequest::default()).await?.into_iter().map(|link| link.name).collect()
        }
        Names::Images => {
            let images = client.images(pb::ListImagesRequest::default()).await?;
            images.into_iter().map(|image| image.reference).collect()
        }
        Names::Interfaces | Names::Namespaces => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_run_is_no_candidate() {
        for name in ["a/b@blue:eth0:xdp", "registry:5000/team/a@sha256:0a", "eth0.100"] {
            assert!(is_word(name), "{name}");
        }
        for name in ["$(reboot)", "a;b", "a b", "-rf", "`x`", "a\u{1b}", "*", "~", "a'", ""] {
            assert!(!is_word(name), "{name}");
        }
    }

    /// All arguments that take a value, as `command argument`, with what completes them.
    fn completed(command: &Command, path: &str, into: &mut Vec<(String, Option<Names>)>) {
        for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            into.push((format!("{path} {}", arg.get_id()), names(command.get_name(), arg)));
        }
        for below in command.get_subcommands() {
            completed(below, &format!("{path} {}", below.get_name()), into);
        }
    }

    #[test]
    fn arguments_that_name_what_there_is_are_completed() {
        let mut all = Vec::new();
        completed(&command(), "bpfctl", &mut all);
        for (argument, wanted) in [
            ("bpfctl unload app", Names::Apps),
            ("bpfctl persist app", Names::Apps),
            ("bpfctl programs export apps", Names::Apps),
            ("bpfctl get name", Names::Apps),
            ("bpfctl get app name", Names::Apps),
            ("bpfctl get link name", Names::Links),
            ("bpfctl get image name", Names::Images),
            ("bpfctl attach program", Names::Programs),
            ("bpfctl detach link", Names::Links),
            ("bpfctl update link", Names::Links),
            ("bpfctl load image", Names::Images),
            ("bpfctl load map_from", Names::Apps),
            ("bpfctl load xdp interface", Names::Interfaces),
            ("bpfctl attach tc interface", Names::Interfaces),
            ("bpfctl attach tc netns", Names::Namespaces),
            ("bpfctl chain show interface", Names::Interfaces),
            ("bpfctl list interface", Names::Interfaces),
            ("bpfctl map get map", Names::Maps),
            ("bpfctl image pull reference", Names::Images),
            ("bpfctl image rm image", Names::Images),
        ] {
            assert_eq!(all.iter().find(|(known, _)| known == argument), Some(&(argument.to_owned(), Some(wanted))));
        }
        // A name for something new is not one of those that there are.
        for argument in ["bpfctl load name", "bpfctl trust add name", "bpfctl load path"] {
            assert_eq!(all.iter().find(|(known, _)| known == argument), Some(&(argument.to_owned(), None)));
        }
    }
}
