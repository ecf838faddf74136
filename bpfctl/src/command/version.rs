//! `bpfctl version`: of this program, and of the daemon if it runs.

use bpfd_proto::v1 as pb;
use clap::Args;
use serde_json::{Value, json};

use super::views::lower;
use crate::client::Session;
use crate::error::{Exit, Failure, note};
use crate::output::{Block, View, message};

/// Print the versions of bpfctl and of the daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl version
  bpfctl version -o json")]
pub(crate) struct Version {}

impl Version {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let daemon = match session.client_if_up().await {
            Ok(mut client) => Some(client.info(pb::GetInfoRequest {}).await?),
            Err(failure) if failure.is_unreachable() => {
                note("bpfd does not run");
                None
            }
            Err(failure) => return Err(failure),
        };
        session.printer.show(&Versions(daemon))?;
        Ok(Exit::Ok)
    }
}

struct Versions(Option<pb::GetInfoResponse>);

const OURS: &str = env!("CARGO_PKG_VERSION");

impl View for Versions {
    fn kind(&self) -> &'static str {
        "Version"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let daemon = self.0.as_ref().map(message).transpose()?;
        Ok(vec![json!({ "bpfctl": OURS, "bpfd": daemon })])
    }

    fn names(&self) -> Vec<String> {
        vec![OURS.to_owned()]
    }

    fn text(&self) -> Vec<Block> {
        let mut facts = vec![("bpfctl", OURS.to_owned())];
        if let Some(daemon) = &self.0 {
            facts.push(("bpfd", daemon.version.clone()));
            facts.push(("state", lower(daemon.state().as_str_name(), "DAEMON_STATE_")));
            facts.extend(daemon.causes.iter().map(|cause| ("cause", cause.clone())));
            facts.push(("kernel", format!("{} {}", daemon.kernel, daemon.architecture)));
            let why = match daemon.xdp_chain_mode_cause.as_str() {
                "" => String::new(),
                cause => format!(" ({cause})"),
            };
            facts.push(("xdp chains", format!("{}{why}", daemon.xdp_chain_mode)));
            facts.push(("pins", daemon.pin_directory.clone()));
        }
        vec![Block::Facts(facts)]
    }

    fn nothing(&self) -> &'static str {
        "no version"
    }
}
