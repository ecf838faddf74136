//! `bpfctl attach`: one program of a loaded app to one hook.

use bpfd_proto::v1 as pb;
use clap::Args;

use super::views::{self, Links};
use super::wait;
use crate::args::{DryRun, word};
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure};
use crate::hook::{Hook, NothingMore};
use crate::output::warnings;

/// Attach a program of a loaded app
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl attach counter xdp -i eth0
  bpfctl attach counter/pass xdp -i eth1 --priority 20 --proceed-on pass,drop
  bpfctl attach counter xdp -i wg0 --wait --timeout 60
  bpfctl attach tracer tracepoint sched/sched_switch --dry-run")]
pub(crate) struct Attach {
    /// The app, and the function if it has several that fit
    #[arg(value_name = "APP[/FUNCTION]", value_parser = word)]
    program: String,
    /// If the interface does not exist, attach when it appears
    #[arg(long, global = true)]
    when_present: bool,
    /// Wait until it is attached, also for an interface that does not exist yet. --timeout ends the wait, and the link stays
    #[arg(long, global = true, conflicts_with = "dry_run")]
    wait: bool,
    /// Attach it again after a reboot; the app must be persistent
    #[arg(long, global = true)]
    persist: bool,
    #[command(flatten)]
    dry: DryRun,
    #[command(subcommand)]
    hook: Hook<NothingMore>,
}

impl Attach {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { program, when_present, wait, persist, dry, hook } = self;
        let when_present = when_present || wait;
        let (app, function) = match program.split_once('/') {
            Some((app, function)) => (app.to_owned(), Some(function.to_owned())),
            None => (program, None),
        };
        let Hook { attachment, more: NothingMore {} } = hook;
        let request = pb::AttachRequest {
            request_id: request_id(),
            validate_only: dry.dry_run,
            app,
            attachment: Some(pb::Attachment { function, when_present, ..attachment }),
            persist,
        };
        let mut client = session.client().await?;
        let mut answer = client.attach(request).await?;
        warnings(&answer.warnings);
        if wait {
            answer.link = wait::until_attached(&mut client, Vec::from_iter(answer.link)).await?.pop();
        }
        views::tell_orders(session, answer.link.as_slice());
        views::show(session, &dry, Links(answer.link.into_iter().collect()), answer.plan)?;
        Ok(Exit::Ok)
    }
}
