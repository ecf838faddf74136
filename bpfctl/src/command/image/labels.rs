//! `bpfctl image labels`: what a plain Containerfile must say so that its image is as good as one of `build`. Builds no image
//! and keeps nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytecode_image::build::{self, Architecture, Recipe};
use bytecode_image::config::ImageConfig;
use bytecode_image::resolve::Platform;
use bytecode_image::summary;
use clap::Args;
use serde_json::{Value, json};

use super::build::read_metadata;
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain, warn};
use crate::files;
use crate::output::{Block, View};

/// Print the labels of an object, for a Containerfile
#[derive(Debug, Args)]
#[command(after_help = "\
The image is one layer with the object, as in:
  FROM scratch
  COPY counter.o /
  LABEL …

Examples:
  bpfctl image labels counter.o --metadata bytecode.toml >> Containerfile
  bpfctl image labels counter.o -o json | jq -r '.items[0] | to_entries[] | .key + \"=\" + .value'")]
pub(super) struct Labels {
    /// An ELF object
    object: PathBuf,
    /// What the object does not say itself: name, version, priorities, …
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
}

impl Labels {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { object: file, metadata } = self;
        let metadata = read_metadata(metadata)?;
        let object = files::object(&file)?;
        let refuse =
            |cause: String| Local::new(Exit::Other, format!("cannot describe `{}`", file.display())).cause(cause);
        // Where `COPY FILE /` puts it.
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Labels do not tell architectures apart.
        let architecture = Platform::host(None).architecture;
        let architecture = architecture.parse::<Architecture>().map_err(|error| refuse(error.to_string()))?;
        let recipe =
            Recipe { object: &object, path: &name, architecture: &architecture, metadata: &metadata, epoch: None };
        let image = build::build(&recipe).map_err(|error| refuse(error_chain(&error)))?;
        let labels = ImageConfig::parse(&image.config).map_err(|error| refuse(error_chain(&error)))?.labels;
        for remark in summary::read(&object, &labels).map_err(|error| refuse(error_chain(&error)))?.remarks {
            warn(&remark.to_string(), "");
        }
        session.printer.show(&Lines(labels))?;
        Ok(Exit::Ok)
    }
}

struct Lines(BTreeMap<String, String>);

impl View for Lines {
    fn kind(&self) -> &'static str {
        "ImageLabels"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!(self.0)])
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(self.0.iter().map(|(key, value)| format!("LABEL {key}={}", quoted(value))).collect())]
    }

    fn nothing(&self) -> &'static str {
        "no labels"
    }
}

/// As Containerfiles and shells read it: nothing within single quotes means anything but itself. What builders do with a
/// backslash within double quotes differs.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r#"'"'"'"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_whatever_is_in_it() {
        assert_eq!(quoted(r#"{"a":"\"$b"}"#), r#"'{"a":"\"$b"}'"#);
        assert_eq!(quoted("it's"), r#"'it'"'"'s'"#);
    }
}
