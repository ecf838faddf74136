//! `bpfctl image inspect`: what is in an image of a registry, without a daemon. Says nothing about trust: that is `verify`.

use bytecode_image::config::ImageConfig;
use bytecode_image::fetch::select;
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use bytecode_image::summary::{self, GlobalSummary, MapSummary, ProgramSummary, Summary};
use bytecode_image::unpack;
use clap::Args;
use serde_json::{Value, json};

use super::registry::{self, Registry, fetch_failed};
use crate::client::Session;
use crate::command::views::{NONE, or_none};
use crate::error::{Exit, Failure, Local, error_chain, warn};
use crate::output::{Block, View};

/// Show what is in an image of a registry
///
/// `bpfctl get image` shows an image of the daemon's store.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl image inspect registry/bpf/counter:1.2.0
  bpfctl image inspect registry/bpf/counter:1.2.0 --arch arm64 -o json")]
pub(super) struct Inspect {
    /// The image
    reference: Reference,
    /// Of an index, the image for this architecture, as Go names it [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    #[command(flatten)]
    registry: Registry,
}

impl Inspect {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { reference, arch, registry } = self;
        let message = format!("cannot inspect `{reference}`");
        let platform = match arch {
            Some(architecture) => Platform { architecture, kernel: None },
            None => Platform::host(None),
        };
        let remote = registry.remote(session, &reference)?;
        let top = registry::top(&remote).await?;
        let selected = select(&remote, top, &platform).await.map_err(|error| fetch_failed(&message, &error))?;
        let failed = |error| registry::failed(&message, &error);
        let refuse = |cause: String| Local::new(Exit::Other, message.clone()).cause(cause);
        let described = selected.layer().map_err(|error| refuse(error_chain(&error)))?;
        let config = remote.bytes(selected.config(), limits::CONFIG).await.map_err(failed)?;
        let layer = remote.bytes(described, limits::LAYER).await.map_err(failed)?;
        let config = ImageConfig::parse(&config).map_err(|error| refuse(error_chain(&error)))?;
        let unpacked = unpack::object(&described.media_type, &layer).map_err(|error| refuse(error_chain(&error)))?;
        let summary = summary::read(&unpacked.object, &config.labels).map_err(|error| refuse(error_chain(&error)))?;
        for remark in &summary.remarks {
            warn(&remark.to_string(), "");
        }
        session.printer.show(&Inspected { reference, digest: selected.digest().to_string(), summary })?;
        Ok(Exit::Ok)
    }
}

struct Inspected {
    reference: Reference,
    digest: String,
    summary: Summary,
}

impl View for Inspected {
    fn kind(&self) -> &'static str {
        "ImageSummary"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let summary = serde_json::to_value(&self.summary)
            .map_err(|error| Local::new(Exit::Other, "cannot print the image as JSON").cause(error.to_string()))?;
        Ok(vec![json!({ "reference": self.reference.to_string(), "digest": self.digest, "summary": summary })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.clone()]
    }

    fn text(&self) -> Vec<Block> {
        let Summary {
            object,
            size,
            name,
            version,
            license,
            kernel_license,
            labels: _,
            programs,
            maps,
            globals,
            remarks: _,
        } = &self.summary;
        let facts = vec![
            ("image", self.reference.to_string()),
            ("digest", self.digest.clone()),
            ("object", format!("{object} ({size} bytes)")),
            ("name", or_none(name.as_ref())),
            ("version", or_none(version.as_ref())),
            ("license", or_none(license.as_ref())),
            ("for the kernel", or_none(kernel_license.as_ref())),
        ];
        vec![
            Block::Facts(facts),
            Block::Table(
                &["FUNCTION", "SECTION", "TYPE", "PRIO", "PROCEED-ON", "INSNS", "DEFAULT"],
                programs.iter().map(program).collect(),
            ),
            Block::Table(&["MAP", "TYPE", "KEY", "VALUE", "MAX"], maps.iter().map(map).collect()),
            Block::Table(&["GLOBAL", "TYPE", "KIND", "DOC"], globals.iter().map(global).collect()),
        ]
    }

    fn nothing(&self) -> &'static str {
        "no image"
    }
}

fn program(program: &ProgramSummary) -> Vec<String> {
    let ProgramSummary { name, section, kind, optional, instructions, attach, doc: _ } = program;
    let priority = attach.as_ref().and_then(|attach| attach.priority);
    let proceed_on = attach
        .as_ref()
        .and_then(|attach| attach.proceed_on.as_ref())
        .map(|actions| actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    vec![
        name.clone(),
        section.clone(),
        kind.clone().unwrap_or_else(|| NONE.to_owned()),
        or_none(priority),
        or_none(proceed_on),
        instructions.to_string(),
        if *optional { "optional" } else { "loaded" }.to_owned(),
    ]
}

fn map(map: &MapSummary) -> Vec<String> {
    let MapSummary { name, kind, key_size, value_size, max_entries } = map;
    vec![name.clone(), kind.clone(), key_size.to_string(), value_size.to_string(), max_entries.to_string()]
}

fn global(global: &GlobalSummary) -> Vec<String> {
    let GlobalSummary { name, kind, read_only, doc } = global;
    let constant = if *read_only { "constant" } else { "variable" };
    vec![name.clone(), kind.clone(), constant.to_owned(), or_none(doc.as_ref())]
}
