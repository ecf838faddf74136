//! `bpfctl doctor`: what bpfd finds when it looks at what it stands on.

use bpfd_proto::v1::{self as pb, CheckStatus};
use clap::Args;
use serde_json::Value;

use super::views;
use crate::client::Session;
use crate::error::{Exit, Failure};
use crate::output::{Block, View, messages};

/// Check the kernel, the system and the daemon's state
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 12 if a check failed, or with --strict if one warned.

Examples:
  bpfctl doctor
  bpfctl doctor --strict -o json")]
pub(crate) struct Doctor {
    /// Treat warnings as failures
    #[arg(long)]
    strict: bool,
}

impl Doctor {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let checks = session.client().await?.doctor(pb::DoctorRequest {}).await?.checks;
        let bad = checks.iter().any(|check| match check.status() {
            CheckStatus::Ok => false,
            CheckStatus::Warn => self.strict,
            CheckStatus::Fail | CheckStatus::Unspecified => true,
        });
        session.printer.show(&Checks(checks))?;
        Ok(if bad { Exit::Drift } else { Exit::Ok })
    }
}

struct Checks(Vec<pb::Check>);

impl View for Checks {
    fn kind(&self) -> &'static str {
        "Check"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.0)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().filter(|check| check.status() != CheckStatus::Ok).map(|check| check.id.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let rows = self.0.iter().map(|check| {
            vec![views::lower(check.status().as_str_name(), "CHECK_STATUS_"), check.id.clone(), check.detail.clone()]
        });
        let hints = self.0.iter().filter(|check| !check.hint.is_empty());
        let hints = hints.map(|check| format!("{}: {}", check.id, check.hint));
        vec![Block::Table(&["STATUS", "CHECK", "FOUND"], rows.collect()), Block::Lines(hints.collect())]
    }

    fn nothing(&self) -> &'static str {
        "no checks"
    }
}
