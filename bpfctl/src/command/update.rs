//! `bpfctl update`: another place in the chain for a link, in one swap.

use bpfd_proto::v1 as pb;
use clap::Args;

use super::views::{self, Links};
use crate::args::{DryRun, Place, word};
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure};
use crate::output::warnings;

/// Change a link's priority or its proceed-on set
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("change").args(["priority", "proceed_on"]).required(true).multiple(true),
    mut_arg("priority", |arg| arg.help("0 to 1000, lower runs first [default: unchanged]")),
    mut_arg("proceed_on", |arg| arg.help(
        "Verdicts after which the next program runs, such as pass,drop, or `none` [default: unchanged]"
    )),
    after_help = "\
Examples:
  bpfctl update counter/pass@eth0:xdp --priority 10
  bpfctl update counter/pass@eth0:xdp --proceed-on pass,drop --dry-run"
)]
pub(crate) struct Update {
    /// The link, PROGRAM@HOOK as `bpfctl list` shows them, or its uid
    #[arg(value_parser = word)]
    link: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    dry: DryRun,
}

impl Update {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { link, place, dry } = self;
        let (priority, proceed_on) = place.fields();
        let request = pb::UpdateLinkRequest {
            request_id: request_id(),
            validate_only: dry.dry_run,
            link,
            generation: None,
            priority,
            proceed_on,
        };
        let answer = session.client().await?.update(request).await?;
        warnings(&answer.warnings);
        views::tell_orders(session, answer.link.as_slice());
        views::show(session, &dry, Links(answer.link.into_iter().collect()), answer.plan)?;
        Ok(Exit::Ok)
    }
}
