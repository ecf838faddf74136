//! The API: each handler parses the message, asks the policy, waits for the work and answers. Nothing is decided here.
//!
//! Handlers never see a request that was not authorised: `Context::authorize` is the only way from a message to work.

use std::sync::Arc;

use bpfd_core::policy::{Ask, Authorized, Policy, Principal, authorize};
use bpfd_core::wire::BadField;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use tonic::{Request, Status};

use crate::engine::{EngineHandle, Snapshot};
use crate::images::Images;
use crate::kernel::HostKernel;
use crate::layout::Layout;
use crate::load::Loads;
use crate::load_log::LoadLogs;
use crate::objects::Objects;
use crate::trust::Trust;

mod app;
mod chain;
mod connections;
mod image;
mod intake;
mod link;
mod peer;
mod policy;
mod record;
mod server;
mod status;
mod system;
mod view;

pub use peer::{PeerStream, group_id, principal};
pub use server::{ServeError, serve};

/// What handlers work with.
pub struct Context {
    /// The one that changes things.
    pub engine: EngineHandle<HostKernel>,
    /// From a request to a loaded app.
    pub loads: Loads,
    /// Images of this host.
    pub images: Arc<Images>,
    /// Whose signatures count.
    pub trust: Arc<Trust>,
    /// Uploads, and what images held.
    pub objects: Objects,
    /// Logs of refused loads.
    pub logs: Arc<LoadLogs>,
    /// The rules in force.
    pub policy: Policy,
    /// Paths.
    pub layout: Layout,
    /// What the daemon found when it started.
    pub start: Start,
}

/// What the daemon found when it started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Seconds since 1970.
    pub time: u64,
    /// What keeps it from being READY, in a sentence each.
    pub causes: Vec<String>,
    /// How a change ended that a crash broke off.
    pub recovered: Option<&'static str>,
    /// The way chains are kept, and why.
    pub mode: String,
    /// Why.
    pub mode_cause: String,
}

impl Context {
    /// The request as typed by `parse`, if its caller may ask it. A refusal goes on record.
    pub async fn authorize<M, R: Ask>(
        &self,
        request: &Request<M>,
        parse: impl FnOnce(&M) -> Result<R, BadField>,
    ) -> Result<Authorized<R>, Status> {
        let parsed = parse(request.get_ref()).map_err(bad_field)?;
        self.permit(principal(request)?, parsed).await
    }

    /// The decision on a parsed request.
    pub async fn permit<R: Ask>(&self, principal: Principal, request: R) -> Result<Authorized<R>, Status> {
        let snapshot = self.engine.snapshot();
        match authorize(&self.policy, principal, &snapshot.state, request) {
            Ok(authorized) => Ok(authorized),
            Err(denied) => {
                let record = denied.clone();
                if let Err(error) = self.engine.call(move |engine| engine.denied(&record)).await {
                    tracing::error!(%error, "a refusal is not on record");
                }
                Err(status::denied(&denied).into())
            }
        }
    }

    /// What readers see.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.engine.snapshot()
    }
}

fn bad_field(error: BadField) -> Status {
    let BadField { field, why } = error;
    Refusal::new(ErrorReason::InvalidRequest, "the request is not valid").cause(why).fact("field", field).into()
}
