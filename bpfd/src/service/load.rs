//! Load: an image or an upload becomes an app, and is attached if asked.
//!
//! Order: the answer to a repeated request, the policy, the image's proof, programs that wait as file descriptors (`make`), the
//! engine. Nothing is pinned or attached before the engine has it: a load that is given up leaves nothing.

use bpfd_core::changes::{self, Loaded};
use bpfd_core::kernel::StepError;
use bpfd_core::names::printable;
use bpfd_core::policy::{Authorized, Denied, Principal, Verb};
use bpfd_core::report::{Phase, Progress, Warning};
use bpfd_core::request::{Apply, Bytes, LoadRequest};
use bpfd_core::selection::SelectionError;
use bpfd_core::sharing::ShareError;
use bytecode_image::store::Ended;
use ebpf::globals::GlobalError;

use super::make::{Admitted, Made, VERIFICATION};
use super::{Changed, Service};
use crate::audit::DeniedImage;
use crate::engine::{Context, Engine, EngineError, Pending};
use crate::fail_points::point;
use crate::images::ImageError;
use crate::kernel::HostKernel;
use crate::load_log::Rejected;
use crate::progress::Report;
use crate::source::UploadError;
use crate::turns::Line;
use crate::waiter::{GivenUp, Waiter};
use crate::worker::parse::ParseError;

/// Why a load did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The upload.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The parse worker refused the object, or died of it.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// No program fits.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A `--set`.
    #[error("cannot set `{name}`")]
    Global {
        /// Which.
        name: String,
        /// Why.
        source: GlobalError,
    },
    /// A `--map-from`.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The kernel's verifier.
    #[error(transparent)]
    Verifier(Rejected),
    /// Another step of making maps and programs.
    #[error(transparent)]
    Kernel(StepError),
    /// The kernel took too long.
    #[error("the kernel did not verify the programs within {} seconds", VERIFICATION.as_secs())]
    TooSlow,
    /// Nobody waits for it any more.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A thread of the pool ended without an answer: it panicked, and said so on stderr.
    #[error("the load ended unexpectedly")]
    Lost,
}

impl Service {
    /// The app and its links are the outcome's. Given up, it ends before the engine begins, or not at all.
    pub async fn load(
        &self,
        principal: Principal,
        request: LoadRequest,
        apply: Apply,
        report: Report,
        waiter: &Waiter,
    ) -> Result<Changed, LoadError> {
        let before = self.snapshot();
        if let Some(answer) = self.earlier(&principal, request.request, apply, &before.state)? {
            return Ok(Changed::again(answer, &before));
        }
        let ask = self.permit(principal, request).await.map_err(EngineError::Denied)?;
        let (admitted, mut warnings) = self.admit(&ask, &report, waiter).await?;
        let busy = self.loads.busy();
        let release = match &admitted {
            Admitted::Image(acquired) => Some(acquired.release()),
            Admitted::Upload(_) => None,
        };
        report(Progress::begin(Phase::Inspect));
        let made = tokio::select! {
            made = self.loads.make(&ask, admitted, &self.objects, self.trust.policy(), &report) => made,
            why = waiter.given_up() => return Err(why.into()),
        };
        if let Err(LoadError::Engine(EngineError::Denied(denied))) = &made {
            self.put_on_record(ask.principal(), denied).await;
        }
        let Made { uid, staged, loaded, proof, reserved, warnings: more } = made?;
        warnings.extend(more);
        let (request, principal) = ask.into_parts();
        let owner = principal.owner();
        let (asks, line) = (principal.clone(), Line::User(principal.uid));
        let new_links = request.attach.len();
        if new_links > 0 {
            report(Progress::begin(Phase::Attach));
        }
        let validate_only = apply == Apply::ValidateOnly;
        let context = Context { principal, request: request.request, validate_only, new_links };
        let waits = waiter.clone();
        let attempt = move |engine: &mut Engine<HostKernel>, pending: &mut Pending<HostKernel>| {
            // The last time to turn back: others may have been before it in the engine's queue.
            waits.wanted()?;
            // A key may have been revoked since the image was judged.
            let source = proof.clone().again(&engine.policy()).map_err(ImageError::from)?.source();
            let loaded = |source| Loaded { source, ..loaded.clone() };
            let build = |state: &_, fresh: &_| changes::load(state, loaded(source.clone()), &owner, fresh);
            engine.change(&context, pending, build).map_err(LoadError::from)
        };
        let release = release.filter(|_| apply == Apply::Write);
        let (engine, images, who) = (self.engine.clone(), self.images.clone(), asks.uid);
        // A task of its own: what was noted of a load is ended, even if its caller leaves.
        let changing = tokio::spawn(async move {
            let noted = match release {
                Some((reference, release)) => images.loading(who, uid, reference, release).await?,
                None => false,
            };
            let committed = engine.change(line, vec![(uid, staged)], attempt).await;
            drop((reserved, busy));
            point("load-committed");
            if noted {
                let is_loaded = engine.snapshot().state.apps.contains_key(&uid);
                images.loaded(who, uid, if is_loaded { Ended::Loaded } else { Ended::Failed }).await;
            }
            committed
        });
        let committed = changing.await.map_err(|_panicked| LoadError::Lost)?;
        if let (Bytes::Image { reference, .. }, Err(LoadError::Image(error))) = (&request.bytes, &committed) {
            self.record(&asks, reference, error).await;
        }
        let answer = match committed {
            Ok(answer) => answer,
            Err(LoadError::Engine(error)) => return Err(self.explained(&asks, error).await.into()),
            Err(error) => return Err(error),
        };
        self.keep_image_quota().await;
        let warnings = warnings.into_iter().chain(self.unordered(&answer)).collect();
        Ok(Changed { answer, before, now: self.snapshot(), warnings })
    }

    async fn admit(
        &self,
        ask: &Authorized<LoadRequest>,
        report: &Report,
        waiter: &Waiter,
    ) -> Result<(Admitted, Vec<Warning>), LoadError> {
        match &ask.request().bytes {
            Bytes::Uploaded { object, stem: _ } => Ok((Admitted::Upload(*object), vec![])),
            Bytes::Image { reference, pull } => {
                let acquired = self.images.acquire(ask.principal(), reference, *pull, report, waiter).await;
                if let Err(error) = &acquired {
                    self.record(ask.principal(), reference, error).await;
                }
                let (acquired, warnings) = acquired?;
                Ok((Admitted::Image(Box::new(acquired)), warnings))
            }
        }
    }

    /// Puts it on record that the image policy refused a load.
    async fn record(&self, principal: &Principal, reference: &str, error: &ImageError) {
        let Some((digest, why)) = error.refused() else { return };
        let image = DeniedImage { reference: printable(reference), digest: digest.map(|digest| digest.to_string()) };
        let (name, uid, hint) = (principal.to_string(), principal.uid, String::new());
        let denied = Denied { principal: name, uid, verb: Verb::Load, why, hint, rules: vec![] };
        let job = move |engine: &mut Engine<HostKernel>| engine.audit().denied_image(&denied, &image);
        match self.engine.enqueue(Line::User(principal.uid), job).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot record a refused image in the audit log"),
            Err(error) => tracing::error!(%error, "cannot record a refused image in the audit log"),
        }
    }
}
