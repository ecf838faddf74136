//! `bpfctl man`: the manual, made from the same definitions that parse the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_mangen::Man as Page;

use crate::args::Cli;
use crate::client::Session;
use crate::error::{Exit, Failure, Local};

/// Print the manual page, or write all pages
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl man | man -l -
  bpfctl man --directory /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write the page of every command here
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.directory {
            None => {
                let mut page = Vec::new();
                Page::new(Cli::command()).render(&mut page)?;
                session.printer.raw(&String::from_utf8_lossy(&page))?;
            }
            Some(directory) => clap_mangen::generate_to(Cli::command(), &directory).map_err(|error| {
                Local::new(Exit::Other, format!("cannot write manual pages to `{}`", directory.display()))
                    .cause(error.to_string())
            })?,
        }
        Ok(Exit::Ok)
    }
}
