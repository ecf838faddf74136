//! `bpfctl programs`: files of programs.d. They are checked here, without a daemon; how they stand, and what runs as such a file, the
//! daemon says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bpfd_core::programs;
use bpfd_proto::v1::{self as pb, FileProgramState, LinkState};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::views::{NONE, link_state, lower, or_dash};
use crate::args::word;
use crate::client::Session;
use crate::error::{Exit, Failure, Local, warn};
use crate::files;
use crate::later::Later;
use crate::listing::Listing;
use crate::output::{Block, View, messages};

/// Where the daemon reads them.
const DIRECTORY: &str = "/etc/bpfd/programs.d";

/// Programs that are there after every boot: check, list and write their files
#[derive(Debug, Args)]
#[command(after_help = "\
Files of /etc/bpfd/programs.d declare apps that the daemon loads as root at each start. `systemctl reload bpfd` has them read again.

Examples:
  bpfctl programs check
  bpfctl programs list
  bpfctl programs export > /etc/bpfd/programs.d/10-now.toml")]
pub(crate) struct Programs {
    #[command(subcommand)]
    verb: Later<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check the text of files, without the daemon
    #[command(after_help = "\
Without a file, all of /etc/bpfd/programs.d are read. Nothing is loaded, and no image or object is looked for.

Examples:
  bpfctl programs check
  bpfctl programs check 10-firewall.toml")]
    Check {
        /// The files
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show the programs that files declare, and how they stand
    #[command(after_help = "\
Examples:
  bpfctl programs list
  bpfctl programs list --filter state=failed
  bpfctl programs list -o json | jq -r '.items[].state'")]
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Write the apps that there are as such a file
    #[command(after_help = "\
Images are written by their digests. A file that a request sent is named in the daemon's own store.

Examples:
  bpfctl programs export
  bpfctl programs export firewall > /etc/bpfd/programs.d/10-firewall.toml")]
    Export {
        /// Only these apps
        #[arg(value_name = "APP", value_parser = word)]
        apps: Vec<String>,
    },
    /// Wait for the daemon, and fail if a critical program is not there
    #[command(after_help = "\
A critical program is there if it is loaded, and each of its links is attached or waits for its interface.

Examples:
  bpfctl programs wait
  bpfctl programs wait --for 60")]
    Wait {
        /// How many seconds to wait for the daemon
        #[arg(long = "for", value_name = "SECONDS", default_value_t = 30)]
        seconds: u64,
    },
}

impl Programs {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.verb.0 {
            Verb::Check { files } => check(session, files),
            Verb::List { listing } => {
                let selection = listing.of::<pb::FileProgram>()?;
                let answer = session.client().await?.program_files(pb::ListProgramFilesRequest {}).await?;
                let pb::ListProgramFilesResponse { programs, bad } = answer;
                for pb::BadProgramFile { file: _, cause } in &bad {
                    warn(cause, "");
                }
                session.printer.show(&Declared(selection.apply(programs)?))?;
                Ok(Exit::Ok)
            }
            Verb::Export { apps } => {
                let text = session.client().await?.export_programs(apps).await?;
                session.printer.show(&Lines(text.lines().map(str::to_owned).collect()))?;
                Ok(Exit::Ok)
            }
            Verb::Wait { seconds } => wait(session, Duration::from_secs(seconds)).await,
        }
    }
}

/// Each file is read; the first fault of each is told.
fn check(session: &Session, mut paths: Vec<PathBuf>) -> Result<Exit, Failure> {
    if paths.is_empty() {
        paths = in_directory()?;
    }
    let (mut names, mut faults, mut told) = (BTreeMap::new(), Vec::new(), Vec::new());
    for path in &paths {
        let file = path.display().to_string();
        let text = files::document(path)?;
        match programs::read(&text, &file) {
            Err(error) => faults.push(error.to_string()),
            Ok(read) => {
                for program in &read.programs {
                    if let Some(other) = names.insert(program.name.clone(), file.clone()) {
                        let (line, name) = (program.line, &program.name);
                        faults.push(format!("{file}:{line}:1: there is a program `{name}` in {other} already"));
                    }
                }
                let programs = read.programs.iter().map(|program| program.name.to_string());
                told.push(format!("{file}: {}", or_dash(&programs.collect::<Vec<_>>().join(", "))));
            }
        }
    }
    if let Some((first, more)) = faults.split_first() {
        let failure = Local::new(Exit::Usage, "a file of programs would not be loaded").cause(first.clone());
        more.iter().for_each(|fault| warn(fault, ""));
        return Err(failure.hint("correct it, and check it again").into());
    }
    session.printer.show(&Lines(told))?;
    Ok(Exit::Ok)
}

fn in_directory() -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| {
        Local::new(Exit::NotFound, format!("cannot read `{DIRECTORY}`")).cause(error.to_string())
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(DIRECTORY).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether all critical programs are there.
async fn wait(session: &Session, limit: Duration) -> Result<Exit, Failure> {
    let mut client = session.client_within(limit).await?;
    let pb::ListProgramFilesResponse { programs, bad } = client.program_files(pb::ListProgramFilesRequest {}).await?;
    let mut missing: Vec<String> = bad.into_iter().map(|file| file.cause).collect();
    for program in programs.into_iter().filter(|program| program.critical) {
        if program.state() != FileProgramState::Loaded {
            let state = lower(program.state().as_str_name(), "FILE_PROGRAM_STATE_");
            missing.push(format!("program `{}` is {state}: {}", program.app, program.cause));
            continue;
        }
        let request = pb::ListLinksRequest { app: Some(program.app), ..Default::default() };
        for link in client.links(request).await? {
            let there = matches!(link.state(), LinkState::Attached | LinkState::Waiting);
            if link.origin() == pb::LinkOrigin::File && !there {
                missing.push(format!("link `{}` is {}: {}", link.name, link_state(link.state()), link.cause));
            }
        }
    }
    match missing.split_first() {
        None => Ok(Exit::Ok),
        Some((first, more)) => {
            more.iter().for_each(|what| warn(what, ""));
            let failure = Local::new(Exit::Drift, "a critical program is not there").cause(first.clone());
            Err(failure.hint("`bpfctl programs list` and the daemon's log say more").into())
        }
    }
}

/// Programs of files.
struct Declared(Vec<pb::FileProgram>);

impl View for Declared {
    fn kind(&self) -> &'static str {
        "FileProgram"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.0)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|program| program.app.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let row = |program: &pb::FileProgram| {
            let critical = if program.critical { "critical" } else { NONE };
            let state = program.state().as_str_name();
            vec![
                program.app.clone(),
                program.file.clone(),
                program.source.clone(),
                critical.to_owned(),
                state.strip_prefix("FILE_PROGRAM_STATE_").unwrap_or(state).to_owned(),
                or_dash(&program.cause),
            ]
        };
        let rows = self.0.iter().map(row).collect();
        vec![Block::Table(&["PROGRAM", "FILE", "SOURCE", "CRITICAL", "STATE", "CAUSE"], rows)]
    }

    fn nothing(&self) -> &'static str {
        "no programs in files"
    }
}

/// Text that is told line by line.
struct Lines(Vec<String>);

impl View for Lines {
    fn kind(&self) -> &'static str {
        "ProgramFileLine"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(self.0.iter().map(|line| Value::from(line.as_str())).collect())
    }

    fn names(&self) -> Vec<String> {
        self.0.clone()
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(self.0.clone())]
    }

    fn nothing(&self) -> &'static str {
        "nothing"
    }
}
