//! Failures as the user sees them: error, cause, hint, on standard error, and the exit code.
//! Nothing here invents a cause; texts from elsewhere never reach the terminal as control characters.

use std::error::Error;
use std::io::{self, Write as _};

pub(crate) use bpfd_proto::reason::Exit;
use bpfd_proto::v1::{ErrorReason, VerifierFailure};
use clap::error::ContextValue;

use crate::args::Limit;
use crate::client::ClientError;
use crate::output::printable;

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BOLD: &str = "\x1b[1m";
const CYAN: &str = "\x1b[1;36m";
const PLAIN: &str = "\x1b[0m";

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon refused, or cannot be reached.
    Daemon(ClientError),
    /// The command line is wrong in a way that clap alone could not see.
    Usage(clap::Error),
    /// Something on this side.
    Local(Local),
    /// Standard output is gone or full.
    Output(io::Error),
}

/// A wrong command line as clap tells it. clap quotes arguments as they are: escapes among them would reach the terminal.
pub(crate) fn quotable(mut error: clap::Error) -> clap::Error {
    let quoted = |value: &ContextValue| match value {
        ContextValue::String(text) => Some(ContextValue::String(printable(text))),
        ContextValue::Strings(texts) => Some(ContextValue::Strings(texts.iter().map(|text| printable(text)).collect())),
        // Styled text is clap's own.
        _ => None,
    };
    let cleaned: Vec<_> = error.context().filter_map(|(kind, value)| Some((kind, quoted(value)?))).collect();
    for (kind, value) in cleaned {
        error.insert(kind, value);
    }
    error
}

/// A failure of bpfctl's own work.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) cause: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Local {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), cause: None, hint: None }
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Failure {
    pub(crate) fn runtime(error: io::Error) -> Self {
        Local::new(Exit::Other, "cannot start").cause(error.to_string()).into()
    }

    pub(crate) fn timeout(limit: Limit, _elapsed: &tokio::time::error::Elapsed) -> Self {
        Local::new(Exit::Timeout, format!("not done after {} s", limit.seconds()))
            .cause("--timeout ended the wait")
            .hint("check the result with `bpfctl list`")
            .into()
    }

    /// Says it on standard error.
    pub(crate) fn report(self) -> Exit {
        match self {
            Self::Daemon(error) => {
                let answer = error.answer();
                let snippet = answer.verifier.as_ref().map(snippet);
                let log = answer.verifier.as_ref().filter(|failure| !failure.log_id.is_empty());
                let log = log.map(|failure| format!("`bpfctl get log {}` prints the whole log", failure.log_id));
                say(&answer.message, snippet, answer.cause.as_deref(), [answer.hint.as_deref(), log.as_deref()]);
                error.exit()
            }
            Self::Usage(error) => {
                // clap writes its own form, to standard error; that it could not is not worth another message.
                drop(quotable(error).print());
                Exit::Usage
            }
            Self::Local(Local { exit, message, cause, hint }) => {
                say(&message, None, cause.as_deref(), [hint.as_deref(), None]);
                exit
            }
            // The reader of a pipe went away: it has what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Output(error) => {
                say("cannot write the result", None, Some(&error.to_string()), [None, None]);
                Exit::Other
            }
        }
    }

    /// Whether the daemon does not run, as opposed to refusing.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Daemon(error) if error.reason() == Some(ErrorReason::DaemonUnreachable))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Daemon(error)
    }
}

impl From<Local> for Failure {
    fn from(local: Local) -> Self {
        Self::Local(local)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A warning with its hint, in the same form as an error.
pub(crate) fn warn(message: &str, hint: &str) {
    let mut text = format!("{YELLOW}warning{PLAIN}: {}\n", printable(message));
    if !hint.is_empty() {
        line(&mut text, "hint", hint);
    }
    to_stderr(&text);
}

/// A remark that is neither result nor warning.
pub(crate) fn note(message: &str) {
    to_stderr(&format!("{}\n", printable(message)));
}

fn say(message: &str, snippet: Option<String>, cause: Option<&str>, hints: [Option<&str>; 2]) {
    let mut text = format!("{RED}error{PLAIN}: {BOLD}{}{PLAIN}\n", printable(message));
    text.push_str(snippet.as_deref().unwrap_or_default());
    if let Some(cause) = cause {
        line(&mut text, "cause", cause);
    }
    for hint in hints.into_iter().flatten() {
        line(&mut text, "hint", hint);
    }
    to_stderr(&text);
}

fn line(text: &mut String, label: &str, content: &str) {
    text.push_str(&format!("{CYAN}{label}{PLAIN}: {}\n", printable(content)));
}

/// The C source line that the verifier stopped at, as compilers show it.
fn snippet(failure: &VerifierFailure) -> String {
    let VerifierFailure { program, instruction, file, line, column, source_line, message, log_id: _, explanation } =
        failure;
    let mut text = String::new();
    let place = match (file, line) {
        (Some(file), Some(line)) => {
            let column = column.map(|column| format!(":{column}")).unwrap_or_default();
            format!("{}:{line}{column}", printable(file))
        }
        _ => format!("`{}`", printable(program)),
    };
    let instruction = instruction.map(|index| format!(", instruction {index}")).unwrap_or_default();
    let number = line.map(|line| line.to_string()).unwrap_or_default();
    let gutter = " ".repeat(number.len());
    text.push_str(&format!("{gutter}{CYAN}-->{PLAIN} {place}{instruction}\n"));
    if let Some(source) = source_line {
        text.push_str(&format!("{gutter} {CYAN}|{PLAIN}\n"));
        text.push_str(&format!("{CYAN}{number} |{PLAIN} {}\n", printable(source)));
    }
    text.push_str(&format!("{gutter} {CYAN}={PLAIN} {}\n", printable(message)));
    if !explanation.is_empty() {
        text.push_str(&format!("{gutter} {CYAN}={PLAIN} that is: {}\n", printable(explanation)));
    }
    text
}

fn to_stderr(text: &str) {
    // If standard error is closed there is nobody left to tell.
    drop(anstream::stderr().write_all(text.as_bytes()));
}

/// An error with all its sources, outermost first.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_wrong_command_line_is_quoted_without_escapes() {
        let hostile = "\u{1b}]0;x\u{7}\u{1b}[31mA\nerror: done";
        for words in [
            vec!["load", "--path", "x", "--name", hostile],
            vec!["load", "--image", hostile],
            vec!["load", "--path", "x", "--set", hostile],
            vec!["chain", "show", hostile],
            vec!["trust", "add", "ci", "--key", "x", "--scope", hostile],
            vec![hostile],
            vec!["list", hostile],
        ] {
            let line = std::iter::once("bpfctl").chain(words.iter().copied());
            let said = quotable(Cli::try_parse_from(line).unwrap_err()).to_string();
            assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{words:?}: {said:?}");
            assert!(!said.lines().skip(1).any(|line| line.starts_with("error")), "{words:?}: {said:?}");
        }
    }
}
