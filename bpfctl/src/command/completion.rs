//! `bpfctl completion`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::client::Session;
use crate::error::{Exit, Failure};

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl completion bash > /etc/bash_completion.d/bpfctl
  bpfctl completion zsh > /usr/local/share/zsh/site-functions/_bpfctl
  bpfctl completion fish > /etc/fish/completions/bpfctl.fish")]
pub(crate) struct Completion {
    /// Which shell
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "bpfctl", &mut script);
        session.printer.raw(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Ok)
    }
}
