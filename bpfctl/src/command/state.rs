//! `bpfctl state`: what differs since the daemon's state was lost, and the decision. What a decision takes off is said before it is
//! asked for.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use bpfd_proto::v1::{self as pb, DaemonState, StateSide};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::views::lower;
use crate::client::{Client, Session};
use crate::error::{Exit, Failure, Local, note, warn};
use crate::later::Later;
use crate::output::{Block, View, message, printable};

/// Decide about a lost state: what runs, or what the database says
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl state show
  bpfctl state adopt")]
pub(crate) struct State {
    #[command(subcommand)]
    verb: Later<StateVerb>,
}

#[derive(Debug, Subcommand)]
enum StateVerb {
    /// Show what differs between the database and what runs
    #[command(after_help = "\
Examples:
  bpfctl state show
  bpfctl state show -o json | jq '.items[].differences'")]
    Show,
    /// Keep what runs; what only the database has is dropped; root only
    #[command(after_help = "\
Examples:
  bpfctl state adopt
  bpfctl state adopt --yes")]
    Adopt {
        #[command(flatten)]
        consent: Consent,
    },
    /// Go back to the database: detach and unload what it does not have; root only
    #[command(after_help = "\
Examples:
  bpfctl state discard
  bpfctl state discard --yes")]
    Discard {
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Args)]
struct Consent {
    /// Do not ask before programs are removed
    #[arg(long)]
    yes: bool,
}

impl State {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut client = session.client().await?;
        let state = client.state(pb::GetStateRequest {}).await?;
        let (verb, removes, consent): (_, &[StateSide], _) = match self.verb.0 {
            StateVerb::Show => {
                session.printer.show(&Shown(state))?;
                return Ok(Exit::Ok);
            }
            StateVerb::Adopt { consent } => ("adopt", &[StateSide::Unrecorded], consent),
            StateVerb::Discard { consent } => ("discard", &[StateSide::OnlyRuns, StateSide::Unrecorded], consent),
        };
        let gone = state.differences.iter().filter(|difference| removes.contains(&difference.side()));
        let gone: Vec<String> = gone.map(|it| format!("removes {} {}", it.thing, it.name)).collect();
        if (!gone.is_empty() || state.more > 0) && !consent.yes {
            confirmed(verb, &gone, state.more)?;
        }
        let (decided, failures) = match verb {
            "adopt" => {
                let pb::AdoptStateResponse { decided, failures } = client.adopt_state(pb::AdoptStateRequest {}).await?;
                (decided, failures)
            }
            _ => {
                let answer = client.discard_state(pb::DiscardStateRequest {}).await?;
                let pb::DiscardStateResponse { decided, failures } = answer;
                (decided, failures)
            }
        };
        failures.iter().for_each(|failure| warn(failure, "`bpfctl doctor` shows what is not as requested"));
        if !decided {
            note(NOTHING);
        } else if !session.printer.is_quiet() {
            note(&format!("{verb}ed the state"));
        }
        Ok(Exit::Ok)
    }
}

const NOTHING: &str = "nothing to decide: the database is the one that the pins belong to";

/// Says what goes, and asks a person; without a terminal there is nobody to ask.
fn confirmed(verb: &str, gone: &[String], more: u32) -> Result<(), Failure> {
    gone.iter().for_each(|line| note(line));
    if more > 0 {
        note(&format!("and more: {more} differences are not shown"));
    }
    let refused = |cause: &str| {
        let hint = "give --yes; `bpfctl state show` shows all that differs";
        Local::new(Exit::Usage, format!("did not {verb} the state")).cause(cause).hint(hint)
    };
    if !io::stdin().is_terminal() {
        return Err(refused("programs would be removed, and there is no terminal to ask on").into());
    }
    anstream::stderr().write_all(b"Remove these programs? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        other => Err(refused(&format!("the answer was `{}`", printable(other))).into()),
    }
}

/// Says that the state was lost, beside a result that would not show it.
pub(super) async fn tell_recovered(client: &mut Client) -> Result<(), Failure> {
    let info = client.info(pb::GetInfoRequest {}).await?;
    if info.state() == DaemonState::Recovered {
        let cause = info.causes.first().map(String::as_str).unwrap_or_default();
        warn(&format!("bpfd is RECOVERED: {cause}"), "`bpfctl state show` shows what differs, and what to do");
    }
    Ok(())
}

struct Shown(pb::GetStateResponse);

impl Shown {
    fn is_lost(&self) -> bool {
        self.0.state() == DaemonState::Recovered
    }
}

impl View for Shown {
    fn kind(&self) -> &'static str {
        "GetStateResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        self.0.differences.iter().map(|difference| difference.name.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        if !self.is_lost() {
            return vec![];
        }
        let pb::GetStateResponse { state: _, cause, differences, more } = &self.0;
        let rows = differences.iter().map(|difference| {
            let side = lower(difference.side().as_str_name(), "STATE_SIDE_").replace('_', " ");
            vec![side, difference.thing.clone(), difference.name.clone(), difference.detail.clone()]
        });
        let facts = vec![("state", "RECOVERED".to_owned()), ("cause", cause.clone())];
        let mut what = vec![
            "bpfctl state adopt    keeps what runs, and drops what is only in the database".to_owned(),
            "bpfctl state discard  removes what only runs, and carries out what is only in the database".to_owned(),
        ];
        if *more > 0 {
            what.insert(0, format!("and {more} more"));
        }
        vec![Block::Facts(facts), Block::Table(&["SIDE", "WHAT", "NAME", "DETAIL"], rows.collect()), Block::Lines(what)]
    }

    fn nothing(&self) -> &'static str {
        NOTHING
    }
}
