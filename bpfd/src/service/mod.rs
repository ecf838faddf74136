//! The verbs of bpfd, one file each. A verb takes who asks and a typed request. It answers a repeated request, asks the policy, has the
//! engine, the images or the policy files do the work, and returns typed results and errors.
//!
//! Work begins with an `Authorized` request; `permit` makes them, and only verbs can call it. Must never know how a request was sent.

use std::sync::Arc;

use bpfd_core::policy::{Ask, Asked, Authorized, Denied, Principal, at_the_door, authorize};
use bpfd_core::snapshot::Snapshot;

use crate::engine::EngineHandle;
use crate::images::Images;
use crate::kernel::HostKernel;
use crate::layout::Layout;
use crate::load_log::LoadLogs;
use crate::maps::Maps;
use crate::objects::Objects;
use crate::reads::Reads;
use crate::store::Answers;
use crate::trust::{Files, Trust};
use crate::turns::Line;
use crate::watch::WatchHealth;
use crate::worker::Workers;

mod attach;
mod change;
mod detach;
mod host;
mod image;
mod list;
mod load;
mod make;
mod map;
mod map_stream;
mod near;
mod persist;
mod policy;
mod programs;
mod pull;
mod rebuild;
mod record;
mod state;
mod system;
mod trust;
mod unload;
mod update;
mod upload;

pub use self::change::Changed;
pub use self::detach::DetachError;
pub use self::image::StoredImage;
pub use self::list::{AppFilter, GetAppError, GetLinkError, LinkFilter, Listed, LookError, Page};
pub use self::load::LoadError;
pub use self::make::Loads;
pub use self::map::{ListedMap, MapError};
pub use self::map_stream::{Dump, Piece, Records, Watching};
pub use self::policy::{CanAsk, Enforced, SeenPolicy, WhoIs, WhoseError};
pub use self::programs::{ProgramFiles, ProgramState, ProgramStatus, ProgramsStatus, Reread};
pub use self::record::Refused;
pub use self::state::{Decided, LostState};
pub use self::system::{Check, Condition, DoctorError, Info, Start};
pub use self::trust::NewSigner;
pub use self::upload::UploadRefused;

/// What verbs work with.
pub struct Service {
    pub(crate) engine: EngineHandle<HostKernel>,
    pub(crate) reads: Reads,
    pub(crate) answers: Answers,
    pub(crate) loads: Loads,
    pub(crate) maps: Maps,
    pub(crate) images: Arc<Images>,
    pub(crate) trust: Arc<Trust>,
    /// Held while chains are ordered as a new policy has them.
    pub(crate) ordering: tokio::sync::Mutex<()>,
    pub(crate) programs: ProgramFiles,
    pub(crate) objects: Objects,
    pub(crate) logs: Arc<LoadLogs>,
    pub(crate) watching: WatchHealth,
    pub(crate) layout: Layout,
    pub(crate) workers: Workers,
    pub(crate) start: Start,
}

impl Service {
    /// The policy's decision. A refusal goes on record.
    async fn permit<R: Ask>(&self, principal: Principal, request: R) -> Result<Authorized<R>, Denied> {
        let (snapshot, asks) = (self.snapshot(), principal.clone());
        let decided = match self.adds_nothing(&principal, &request.asked(&snapshot.state)) {
            Some(denied) => Err(denied),
            None => authorize(&self.trust.policy(), principal, &snapshot.state, request),
        };
        if let Err(denied) = &decided {
            self.put_on_record(&asks, denied).await;
        }
        decided
    }

    /// The refusal of what adds something, while the policy is one that was kept from an earlier run.
    fn adds_nothing(&self, principal: &Principal, asked: &[Asked]) -> Option<Denied> {
        let verb = asked.iter().map(|asked| asked.verb).find(|verb| verb.adds())?;
        let Files::Bad { why, at_start: true } = self.trust.files() else { return None };
        Some(Denied {
            principal: principal.to_string(),
            uid: principal.uid,
            verb,
            why: format!("the policy files were bad when bpfd started: {why}"),
            hint: "correct the file: bpfd reads it again by itself, or with `bpfctl policy reload`".to_owned(),
            rules: vec![],
        })
    }

    /// A refusal that the engine does not know of.
    async fn put_on_record(&self, principal: &Principal, denied: &Denied) {
        let record = denied.clone();
        let written = self.engine.enqueue(Line::User(principal.uid), move |engine| engine.denied(&record)).await;
        if let Err(error) = written {
            tracing::error!(%error, "cannot record a refusal");
        }
    }

    /// Whether a caller may ask for such a thing at all: for what is decided before a request is read. A refusal goes on record.
    pub(crate) fn may_ask(&self, principal: &Principal, asked: &Asked) -> Result<(), Denied> {
        at_the_door(&self.trust.policy(), principal, asked).inspect_err(|denied| {
            let (engine, denied, line) = (self.engine.clone(), denied.clone(), Line::User(principal.uid));
            // Nobody waits for it: unlike the others, it needs a place.
            tokio::spawn(async move {
                if let Err(error) = engine.call(line, move |engine| engine.denied(&denied)).await {
                    tracing::error!(%error, "cannot record a refusal");
                }
            });
        })
    }

    /// Whether the engine does its jobs: returns after one of them.
    pub(crate) async fn takes_turns(&self) -> bool {
        self.engine.enqueue(Line::Daemon, |_| ()).await.is_ok()
    }

    /// What readers see.
    fn snapshot(&self) -> Arc<Snapshot> {
        self.engine.snapshot()
    }
}
