//! `bpfctl image lint`: what works less well than it could in the images that objects would make. Builds them and keeps nothing.

use std::path::{Path, PathBuf};

use bytecode_image::build::{self, Architecture, DEFAULT_PATH, Recipe};
use bytecode_image::config::ImageConfig;
use bytecode_image::metadata::Metadata;
use bytecode_image::resolve::Platform;
use bytecode_image::summary::{self, Remark};
use clap::Args;
use serde_json::{Value, json};

use super::build::read_metadata;
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain};
use crate::files;
use crate::output::{Block, View};

/// Check objects and their metadata before an image is built of them
#[derive(Debug, Args)]
#[command(after_help = "\
What cannot be built is an error. What can be, and works less well than it could, is a finding: with --strict, findings make it \
exit with 1.

Examples:
  bpfctl image lint counter.o --metadata bytecode.toml
  bpfctl image lint --strict amd64.o arm64.o --metadata bytecode.toml")]
pub(super) struct Lint {
    /// ELF objects
    #[arg(value_name = "FILE", required = true, num_args = 1..=16)]
    object: Vec<PathBuf>,
    /// What the objects do not say themselves: name, version, priorities, …
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// Exit with 1 if there is a finding
    #[arg(long)]
    strict: bool,
}

impl Lint {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { object, metadata, strict } = self;
        let metadata = read_metadata(metadata)?;
        let mut findings = Vec::new();
        for file in object {
            findings.extend(remarks(&file, &metadata)?.into_iter().map(|remark| (file.clone(), remark)));
        }
        let exit = if strict && !findings.is_empty() { Exit::Other } else { Exit::Ok };
        session.printer.show(&Findings(findings))?;
        Ok(exit)
    }
}

fn remarks(file: &Path, metadata: &Metadata) -> Result<Vec<Remark>, Failure> {
    let refuse =
        |cause: String| Local::new(Exit::Other, format!("cannot build an image of `{}`", file.display())).cause(cause);
    let object = files::object(file)?;
    // Nothing that is looked at depends on it.
    let architecture = Platform::host(None).architecture;
    let architecture = architecture.parse::<Architecture>().map_err(|error| refuse(error.to_string()))?;
    let recipe = Recipe { object: &object, path: DEFAULT_PATH, architecture: &architecture, metadata, epoch: None };
    let image = build::build(&recipe).map_err(|error| refuse(error_chain(&error)))?;
    let config = ImageConfig::parse(&image.config).map_err(|error| refuse(error_chain(&error)))?;
    Ok(summary::read(&object, &config.labels).map_err(|error| refuse(error_chain(&error)))?.remarks)
}

struct Findings(Vec<(PathBuf, Remark)>);

impl View for Findings {
    fn kind(&self) -> &'static str {
        "LintFinding"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let item = |(file, remark): &(PathBuf, Remark)| {
            let finding = serde_json::to_value(remark).map_err(|error| {
                Local::new(Exit::Other, "cannot print the findings as JSON").cause(error.to_string())
            })?;
            Ok(json!({ "object": file.display().to_string(), "finding": finding, "message": remark.to_string() }))
        };
        self.0.iter().map(item).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(file, _)| file.display().to_string()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let rows = self.0.iter().map(|(file, remark)| vec![file.display().to_string(), remark.to_string()]);
        vec![Block::Table(&["OBJECT", "FINDING"], rows.collect())]
    }

    fn nothing(&self) -> &'static str {
        "no findings"
    }
}
