//! `bpfctl persist`: whether an app is there after a reboot.

use bpfd_proto::v1 as pb;
use clap::Args;

use super::views::{self, Apps};
use crate::args::{DryRun, word};
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure};

/// Keep an app, with its links, over reboots, or stop to
#[derive(Debug, Args)]
#[command(after_help = "\
What is loaded or attached without --persist ends with a reboot: that is the way out of a program that cut the network. \
Of the app's links, those go with it that you may change. Links that are attached later need `attach --persist`.

Examples:
  bpfctl persist counter
  bpfctl persist counter --no-persist")]
pub(crate) struct Persist {
    /// The app's name or uid
    #[arg(value_name = "APP", value_parser = word)]
    app: String,
    /// Let the next reboot end it
    #[arg(long)]
    no_persist: bool,
    #[command(flatten)]
    dry: DryRun,
}

impl Persist {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { app, no_persist, dry } = self;
        let (request_id, validate_only) = (request_id(), dry.dry_run);
        let request = pb::PersistRequest { request_id, validate_only, app, persist: !no_persist };
        let answer = session.client().await?.persist(request).await?;
        let view = Apps { apps: answer.app.into_iter().collect(), links: answer.links };
        views::show(session, &dry, view, answer.plan)?;
        Ok(Exit::Ok)
    }
}
