//! `bpfctl completion`: what a shell needs to complete the command line.

use clap::Args;
use clap_complete::Shell;

use crate::client::Session;
use crate::error::{Exit, Failure};
use crate::live;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
The script asks bpfctl itself, so that names of apps, links, maps, images and interfaces are completed too.

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
        let script = live::script(&self.shell.to_string())?;
        session.printer.raw(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Ok)
    }
}
