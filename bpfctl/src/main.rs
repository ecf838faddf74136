//! `bpfctl`, the command line of bpfd: parse the arguments, run one verb, say what became of it.
//! It asks and shows; it decides nothing that the daemon decides, and needs no privilege of its own.

mod args;
mod client;
mod command;
mod credentials;
mod error;
mod files;
mod hook;
mod later;
mod listing;
mod live;
mod output;
mod password;
mod progress;

use std::process::ExitCode;

use crate::args::Cli;
use crate::error::Failure;

fn main() -> ExitCode {
    live::complete();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => error::quotable(error).exit(),
    };
    cli.global.color.write_global();
    let exit = match run(cli) {
        Ok(exit) => exit,
        Err(failure) => failure.report(),
    };
    ExitCode::from(exit.number())
}

fn run(cli: Cli) -> Result<error::Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::runtime)?;
    let Cli { global, command } = cli;
    let limit = global.timeout;
    let session = client::Session::new(global);
    runtime.block_on(async {
        match limit {
            None => command.run(&session).await,
            Some(limit) => match tokio::time::timeout(limit.duration(), command.run(&session)).await {
                Ok(result) => result,
                Err(elapsed) => Err(Failure::timeout(limit, &elapsed)),
            },
        }
    })
}
