//! `bpfctl whoami`: whom the daemon takes the caller for.

use bpfd_proto::v1 as pb;
use clap::Args;
use serde_json::Value;

use crate::client::Session;
use crate::error::{Exit, Failure};
use crate::output::{Block, View, message};

/// Show whom bpfd takes you for, and which rules are about you
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl whoami
  bpfctl whoami -o json")]
pub(crate) struct WhoAmI {}

impl WhoAmI {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let answer = session.client().await?.whoami(pb::WhoAmIRequest {}).await?;
        session.printer.show(&Told(answer))?;
        Ok(Exit::Ok)
    }
}

struct Told(pb::WhoAmIResponse);

impl View for Told {
    fn kind(&self) -> &'static str {
        "WhoAmIResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.uid.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let pb::WhoAmIResponse { uid, user, groups, unit, rules } = &self.0;
        let user = user.as_ref().map_or_else(|| format!("{uid}"), |name| format!("{name} ({uid})"));
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        vec![Block::Facts(vec![
            ("user", user),
            ("groups", groups.join(", ")),
            ("unit", unit.clone().unwrap_or_else(|| "none".to_owned())),
            ("rules", if rules.is_empty() { "none".to_owned() } else { rules.join(", ") }),
        ])]
    }

    fn nothing(&self) -> &'static str {
        "nobody"
    }
}
