//! The verbs, one file each: its arguments, its calls, its result. A verb is a short list of calls; what two verbs share is in
//! `views` or in `args`.

mod attach;
mod audit;
mod bug_report;
mod chain;
mod completion;
mod detach;
mod doctor;
mod get;
mod image;
mod keygen;
mod list;
mod load;
mod login;
mod man;
mod map;
mod persist;
mod policy;
mod programs;
mod state;
mod trust;
mod unload;
mod update;
mod version;
mod views;
mod wait;
mod whoami;

use clap::Subcommand;

use crate::client::Session;
use crate::error::{Exit, Failure};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Load(load::Load),
    Attach(attach::Attach),
    Update(update::Update),
    Detach(detach::Detach),
    Unload(unload::Unload),
    Persist(persist::Persist),
    Programs(programs::Programs),
    List(list::List),
    Get(get::Get),
    Chain(chain::Chain),
    Map(map::Map),
    Image(image::Image),
    Login(login::Login),
    Logout(login::Logout),
    Keygen(keygen::Keygen),
    Trust(trust::Trust),
    Policy(policy::Policy),
    #[command(name = "whoami")]
    WhoAmI(whoami::WhoAmI),
    Audit(audit::Audit),
    Doctor(doctor::Doctor),
    BugReport(bug_report::BugReport),
    State(state::State),
    Completion(completion::Completion),
    Man(man::Man),
    Version(version::Version),
}

impl Command {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Self::Load(verb) => verb.run(session).await,
            Self::Attach(verb) => verb.run(session).await,
            Self::Update(verb) => verb.run(session).await,
            Self::Detach(verb) => verb.run(session).await,
            Self::Unload(verb) => verb.run(session).await,
            Self::Persist(verb) => verb.run(session).await,
            Self::Programs(verb) => verb.run(session).await,
            Self::List(verb) => verb.run(session).await,
            Self::Get(verb) => verb.run(session).await,
            Self::Chain(verb) => verb.run(session).await,
            Self::Map(verb) => verb.run(session).await,
            Self::Image(verb) => verb.run(session).await,
            Self::Login(verb) => verb.run(session).await,
            Self::Logout(verb) => verb.run(session),
            Self::Keygen(verb) => verb.run(session),
            Self::Trust(verb) => verb.run(session).await,
            Self::Policy(verb) => verb.run(session).await,
            Self::WhoAmI(verb) => verb.run(session).await,
            Self::Audit(verb) => verb.run(session).await,
            Self::Doctor(verb) => verb.run(session).await,
            Self::BugReport(verb) => verb.run(session).await,
            Self::State(verb) => verb.run(session).await,
            Self::Completion(verb) => verb.run(session),
            Self::Man(verb) => verb.run(session),
            Self::Version(verb) => verb.run(session).await,
        }
    }
}
