//! Passwords that a person types or pipes. Must never come from the command line, which every user of the host can read, or be printed.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use bytecode_image::auth::Secret;
use bytecode_image::limits;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// A line of standard input, or all of it.
pub(crate) fn piped() -> io::Result<Secret<String>> {
    let mut text = String::new();
    io::stdin().lock().take(limits::TOKEN).read_to_string(&mut text)?;
    Ok(Secret::new(line(text)))
}

/// What is typed while the terminal does not show it; `None` if standard input is no terminal.
pub(crate) fn typed() -> Option<io::Result<Secret<String>>> {
    let input = io::stdin();
    let ask = || {
        anstream::stderr().write_all(b"Password: ")?;
        let shown = tcgetattr(&input)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &hidden)?;
        let mut text = String::new();
        let read = input.read_line(&mut text);
        tcsetattr(&input, OptionalActions::Flush, &shown)?;
        anstream::stderr().write_all(b"\n")?;
        read.map(|_| Secret::new(line(text)))
    };
    input.is_terminal().then(ask)
}

/// Without the last line break, which is not part of a password.
pub(crate) fn line(text: String) -> String {
    let line = text.strip_suffix('\n').unwrap_or(&text);
    line.strip_suffix('\r').unwrap_or(line).to_owned()
}
