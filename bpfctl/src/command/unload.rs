//! `bpfctl unload`: apps that go with their links, all or none.

use bpfd_proto::v1::{self as pb, unload_request};
use clap::Args;
use serde_json::Value;

use super::views;
use crate::args::{DryRun, word};
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure};
use crate::output::{Block, View, message, warnings};

/// Unload apps, and detach their programs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl unload counter
  bpfctl unload --all --dry-run")]
pub(crate) struct Unload {
    /// Apps, by name or uid
    #[arg(value_parser = word, required_unless_present = "all", num_args = 1..=64)]
    app: Vec<String>,
    /// All apps that you may unload
    #[arg(long, conflicts_with = "app")]
    all: bool,
    #[command(flatten)]
    dry: DryRun,
}

impl Unload {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { app, all, dry } = self;
        let target = if all {
            unload_request::Target::All(pb::AllApps {})
        } else {
            unload_request::Target::Apps(pb::AppNames { names: app })
        };
        let validate_only = dry.dry_run;
        let request = pb::UnloadRequest { request_id: request_id(), validate_only, target: Some(target) };
        let mut answer = session.client().await?.unload(request).await?;
        warnings(&answer.warnings);
        let steps = std::mem::take(&mut answer.plan);
        views::show(session, &dry, Unloaded(answer), steps)?;
        Ok(Exit::Ok)
    }
}

struct Unloaded(pb::UnloadResponse);

impl View for Unloaded {
    fn kind(&self) -> &'static str {
        "UnloadResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        self.0.apps.clone()
    }

    fn text(&self) -> Vec<Block> {
        let detached = self.0.links.iter().map(|link| format!("detached {link}"));
        let unloaded = self.0.apps.iter().map(|app| format!("unloaded {app}"));
        vec![Block::Lines(detached.chain(unloaded).collect())]
    }

    fn nothing(&self) -> &'static str {
        // A warning names each that stays.
        if self.0.warnings.is_empty() { "no apps" } else { "no apps that you may unload" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_loaded_nothing_stays() {
        assert_eq!(Unloaded(pb::UnloadResponse::default()).nothing(), "no apps");
    }
}
