//! Commands as a person would type them: shown with a `$`, run, their output shown, their exit status held to what was expected.
//!
//! Must never show a line that is not what runs.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Where the commands of the show run.
#[derive(Debug)]
pub(super) struct Shell {
    /// The whole environment: what the caller has set must not change the show.
    pub(super) env: Vec<(&'static str, String)>,
}

impl Shell {
    /// Shows and runs a command that must succeed, and shows what it says. Gives its standard output.
    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        println!("$ {}", line(words));
        let out = self.output(words)?;
        show(&out);
        if !out.status.success() {
            bail!("`{}`: {}", line(words), out.status);
        }
        text(out.stdout)
    }

    /// Shows and runs a command that must be refused with this exit status.
    pub(super) fn refused(&self, exit: i32, words: &[&str]) -> Result<()> {
        println!("$ {}", line(words));
        let out = self.output(words)?;
        show(&out);
        match out.status.code() {
            Some(code) if code == exit => {
                println!("# exit {code}, as it must be");
                Ok(())
            }
            Some(_) | None => bail!("`{}` must end with {exit}: {}", line(words), out.status),
        }
    }

    /// The same as `run`, unseen: for what only sets the stage, or reads what the show has shown.
    pub(super) fn quiet(&self, words: &[&str]) -> Result<String> {
        let out = self.output(words)?;
        if !out.status.success() {
            show(&out);
            bail!("`{}`: {}", line(words), out.status);
        }
        text(out.stdout)
    }

    /// A command that can be started in this environment.
    pub(super) fn command(&self, words: &[&str]) -> Result<Command> {
        let (program, args) = words.split_first().context("a command without words")?;
        let mut command = Command::new(program);
        let env = self.env.iter().map(|(key, value)| (key, value));
        command.args(args).env_clear().envs(env).stdin(Stdio::null());
        Ok(command)
    }

    fn output(&self, words: &[&str]) -> Result<Output> {
        self.command(words)?.output().with_context(|| format!("cannot run `{}`", line(words)))
    }
}

/// Progress and warnings come before the result that they lead to.
fn show(out: &Output) {
    print!("{}{}", String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).context("it printed what is not UTF-8")
}

/// The words as a shell would read them.
pub(super) fn line(words: &[&str]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_means_the_same_to_a_shell() {
        let words = ["printf", "%s|", "a b", "it's", "", "x=1", "**", "$HOME"];
        assert_eq!(line(&words[2..]), r"'a b' 'it'\''s' '' x=1 '**' '$HOME'");
        let out = Command::new("sh").args(["-c", &line(&words)]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "a b|it's||x=1|**|$HOME|");
    }

    #[test]
    fn another_exit_status_than_expected_is_an_error() {
        let path = std::env::var("PATH").unwrap();
        let shell = Shell { env: vec![("CODE", "6".to_owned()), ("PATH", path)] };
        let exits = ["sh", "-c", "exit $CODE"];
        assert!(shell.refused(6, &exits).is_ok());
        assert!(shell.refused(4, &exits).is_err());
        assert!(shell.refused(0, &exits).is_err());
        assert!(shell.run(&exits).is_err() && shell.quiet(&exits).is_err());
        assert_eq!(shell.run(&["echo", "x"]).unwrap(), "x\n");
    }
}
