//! `bpfctl detach`: links that go, all or none.

use bpfd_core::names::{IfName, Netns};
use bpfd_proto::v1::{self as pb, detach_request};
use clap::Args;
use serde_json::Value;

use super::views;
use crate::args::{DryRun, netns_field, word};
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure};
use crate::output::{Block, View, message, warnings};

/// Detach programs; their apps stay loaded
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl detach counter/pass@eth0:xdp
  bpfctl detach --all -i eth0 --dry-run")]
pub(crate) struct Detach {
    /// Links, PROGRAM@HOOK as `bpfctl list` shows them, or their uids
    #[arg(value_parser = word, required_unless_present = "all", num_args = 1..=64)]
    link: Vec<String>,
    /// All links on an interface that you may detach
    #[arg(long, requires = "interface", conflicts_with = "link")]
    all: bool,
    /// The interface, with --all
    #[arg(short, long, value_name = "IF", alias = "iface", requires = "all")]
    interface: Option<IfName>,
    /// The interface's network namespace [default: the daemon's own]
    #[arg(long, value_name = "NAME", requires = "all")]
    netns: Option<Netns>,
    #[command(flatten)]
    dry: DryRun,
}

impl Detach {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { link, all: _, interface, netns, dry } = self;
        let target = match interface {
            Some(interface) => detach_request::Target::AllOn(pb::AllOnInterface {
                netns: netns.and_then(netns_field),
                interface: interface.into(),
            }),
            None => detach_request::Target::Links(pb::LinkNames { names: link }),
        };
        let validate_only = dry.dry_run;
        let request = pb::DetachRequest { request_id: request_id(), validate_only, target: Some(target) };
        let mut answer = session.client().await?.detach(request).await?;
        warnings(&answer.warnings);
        let steps = std::mem::take(&mut answer.plan);
        views::show(session, &dry, Detached(answer), steps)?;
        Ok(Exit::Ok)
    }
}

struct Detached(pb::DetachResponse);

impl View for Detached {
    fn kind(&self) -> &'static str {
        "DetachResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        self.0.links.clone()
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(self.0.links.iter().map(|link| format!("detached {link}")).collect())]
    }

    fn nothing(&self) -> &'static str {
        // A warning names each that stays.
        if self.0.warnings.is_empty() { "no links" } else { "no links that you may detach" }
    }
}
