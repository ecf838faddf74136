//! From a load request to programs that wait as file descriptors, and then to the engine: everything slow and everything that
//! reads untrusted bytes happens here, before any state changes.
//!
//! Order: the proof that an object may be loaded, a permit to make programs, its bytes, inspection in the parse worker, selection,
//! globals, a rehearsal of relocation in the parse worker, then maps and programs. It must never pin or attach.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bpfd_core::changes::{self, Loaded};
use bpfd_core::ident::AppUid;
use bpfd_core::kernel::{Recipe, StepError};
use bpfd_core::names::{AppName, printable};
use bpfd_core::policy::{Authorized, Denied, Verb};
use bpfd_core::request::{Bytes, LoadRequest};
use bpfd_core::selection::{self, Selection, SelectionError};
use bpfd_core::state::{Advice, Map, ObjectDigest, ProgramType, Setting};
use ebpf::globals::GlobalError;
use ebpf::inspect::{NotLoadable, Object};
use ebpf::line_info::LineTable;
use ebpf::verifier_log::{self, LinkedFunction, Rejection};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::audit::DeniedImage;
use crate::engine::{Answer, Context, EngineError, EngineHandle};
use crate::images::{Acquired, ImageError, Images, Warning};
use crate::kernel::{HostKernel, Loader, StagedApp};
use crate::objects::Objects;
use crate::progress::{Phase, Progress, Report};
use crate::source::{Bytecode, UploadError};
use crate::waiter::{GivenUp, Waiter};
use crate::worker::Workers;
use crate::worker::parse::{self, ParseError};

/// Loads that may be verified at the same time: each may hold a core for seconds.
const AT_ONCE: usize = 2;
/// How long the kernel may take over one load. The verifier gives up at a million instructions, seconds on a slow core.
const VERIFICATION: Duration = Duration::from_secs(30);

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
    /// It lacks what every load needs.
    #[error(transparent)]
    NotLoadable(#[from] NotLoadable),
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
    /// The kernel's verifier.
    #[error("the kernel's verifier rejected `{program}`")]
    Verifier {
        /// Which program.
        program: String,
        /// Its whole log.
        log: String,
        /// What the log says.
        rejection: Box<Rejection>,
    },
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
    #[error("the load was lost")]
    Lost,
}

/// See the module.
#[derive(Clone)]
pub struct Loads {
    engine: EngineHandle<HostKernel>,
    images: Arc<Images>,
    objects: Objects,
    workers: Workers,
    loader: Loader,
    permits: Arc<Semaphore>,
}

impl Loads {
    /// With everything it needs.
    pub fn new(
        engine: EngineHandle<HostKernel>,
        images: Arc<Images>,
        objects: Objects,
        workers: Workers,
        loader: Loader,
    ) -> Self {
        Self { engine, images, objects, workers, loader, permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The whole way. `Answer::outcome` has the app and its links. Given up, it ends before the engine begins, or not at all.
    pub async fn load(
        &self,
        ask: Authorized<LoadRequest>,
        validate_only: bool,
        report: Report,
        waiter: &Waiter,
    ) -> Result<(Answer, Vec<Warning>), LoadError> {
        let (admitted, warnings) = self.admit(&ask, &report, waiter).await?;
        report(Progress::begin(Phase::Inspect));
        let made = tokio::select! {
            made = self.make(&ask, admitted, &report) => made?,
            why = waiter.given_up() => return Err(why.into()),
        };
        let Made { uid, staged, loaded } = made;
        let (request, principal) = ask.into_parts();
        let owner = principal.owner();
        let context = Context { principal, request: request.request, validate_only, new_links: request.attach.len() };
        if !request.attach.is_empty() {
            report(Progress::begin(Phase::Attach));
        }
        let waits = waiter.clone();
        let job = move |engine: &mut crate::engine::Engine<HostKernel>| {
            // The last time to turn back: others may have been before it in the engine's queue.
            waits.wanted()?;
            let build = |state: &_, fresh: &_| changes::load(state, loaded.clone(), &owner, fresh);
            engine.change(&context, Some((uid, staged)), build).map_err(LoadError::from)
        };
        let answer = self.engine.call(job).await??;
        Ok((answer, warnings))
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
                    self.record(ask, reference, error).await;
                }
                let (acquired, warnings) = acquired?;
                Ok((Admitted::Image(Box::new(acquired)), warnings))
            }
        }
    }

    /// Puts it on record that the image policy refused a load.
    async fn record(&self, ask: &Authorized<LoadRequest>, reference: &str, error: &ImageError) {
        let Some((digest, why)) = error.refused() else { return };
        let image = DeniedImage { reference: printable(reference), digest: digest.map(|digest| digest.to_string()) };
        let principal = ask.principal().to_string();
        let denied = Denied { principal, verb: Verb::Load, why, hint: String::new() };
        let job = move |engine: &mut crate::engine::Engine<HostKernel>| engine.audit().denied_image(&denied, &image);
        match self.engine.call(job).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "audit log: a refused image is not on record"),
            Err(error) => tracing::error!(%error, "audit log: a refused image is not on record"),
        }
    }

    async fn make(
        &self,
        ask: &Authorized<LoadRequest>,
        admitted: Admitted,
        report: &Report,
    ) -> Result<Made, LoadError> {
        let (ask, objects) = (ask.clone(), self.objects.clone());
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| LoadError::Lost)?;
        let (workers, loader, report) = (self.workers.clone(), self.loader.clone(), report.clone());
        let (made, making) = oneshot::channel();
        // A thread of its own, which the end of the daemon need not wait for.
        let load = move || {
            let bytecode = admitted.bytecode(&ask, &objects).map_err(LoadError::from);
            let done = bytecode.and_then(|bytecode| make(&workers, &loader, ask.request(), &bytecode, &report));
            drop(permit);
            if made.send(done).is_err() {
                tracing::info!("a load was given up; what it made is dropped");
            }
        };
        thread::Builder::new().name("load".to_owned()).spawn(load).map_err(|_| LoadError::Lost)?;
        // A verification that is given up goes on in its thread until the verifier ends; what it makes is dropped.
        match tokio::time::timeout(VERIFICATION, making).await {
            Err(_) => Err(LoadError::TooSlow),
            Ok(joined) => joined.map_err(|_| LoadError::Lost)?,
        }
    }
}

/// What may be loaded, without its bytes: any number of loads wait for a permit, and an object has up to 16 MiB.
enum Admitted {
    Upload(ObjectDigest),
    Image(Box<Acquired>),
}

impl Admitted {
    /// With its bytes, hashed again. Only for a load that has its permit.
    fn bytecode(self, ask: &Authorized<LoadRequest>, objects: &Objects) -> Result<Bytecode, UploadError> {
        match self {
            Self::Upload(object) => Bytecode::permitted(ask, object, objects),
            Self::Image(acquired) => acquired.bytecode(ask, objects),
        }
    }
}

struct Made {
    uid: AppUid,
    staged: StagedApp,
    loaded: Loaded,
}

fn make(
    workers: &Workers,
    loader: &Loader,
    request: &LoadRequest,
    bytecode: &Bytecode,
    report: &Report,
) -> Result<Made, LoadError> {
    let object = parse::inspect(workers, bytecode.bytes())?;
    object.loadable()?;
    let Selection { functions, attach } = selection::select(&object, &request.select, &request.attach)?;
    let globals = settings(&object, &request.globals)?;
    let recipe = recipe(bytecode, &functions, &globals);
    parse::rehearse(workers, loader, bytecode.bytes(), &recipe)?;
    report(Progress::begin(Phase::Load));
    let staged = loader.prepare(bytecode.bytes(), &recipe).map_err(|error| explain(bytecode.bytes(), error))?;
    let uid = AppUid(Uuid::new_v4());
    let mut programs = staged.programs();
    for program in &mut programs {
        if let Some(declared) = object.programs.iter().find(|declared| declared.function.as_str() == program.function) {
            program.section = declared.section.to_string();
        }
    }
    let loaded = Loaded {
        uid,
        name: request.name.clone(),
        default_name: default_name(bytecode, &functions),
        source: bytecode.source().clone(),
        object: bytecode.object(),
        reach: bytecode.reach(),
        globals,
        programs,
        maps: maps(&object, &staged.maps()),
        labels: bytecode.labels().clone(),
        advice: advice(&object, bytecode, &functions),
        attach: request.attach.iter().map(|(ask, _)| ask.clone()).zip(attach).collect(),
        request: request.request.map(|key| key.id),
    };
    Ok(Made { uid, staged, loaded })
}

fn settings(object: &Object, wanted: &[(String, String)]) -> Result<BTreeMap<String, Setting>, LoadError> {
    let encode = |(name, text): &(String, String)| {
        let bytes = object.global(name).and_then(|global| ebpf::globals::encode(global, text));
        let bytes = bytes.map_err(|source| LoadError::Global { name: printable(name), source })?;
        Ok((name.clone(), Setting { text: text.clone(), bytes }))
    };
    wanted.iter().map(encode).collect()
}

fn recipe(
    bytecode: &Bytecode,
    functions: &BTreeMap<String, ProgramType>,
    globals: &BTreeMap<String, Setting>,
) -> Recipe {
    Recipe {
        object: bytecode.object(),
        globals: globals.iter().map(|(name, setting)| (name.clone(), setting.bytes.clone())).collect(),
        functions: functions.clone(),
        reach: bytecode.reach(),
    }
}

/// A verifier's log with the place in the source that it means, read from the object's own line information.
fn explain(elf: &[u8], error: StepError) -> LoadError {
    match error {
        StepError::Verifier { program, log } => {
            let lines = LineTable::read(elf).unwrap_or_default();
            let functions = [LinkedFunction { name: program.clone(), start: 0 }];
            let rejection = Box::new(verifier_log::read(log.as_bytes(), &lines, &functions));
            LoadError::Verifier { program, log, rejection }
        }
        other => LoadError::Kernel(other),
    }
}

fn default_name(bytecode: &Bytecode, functions: &BTreeMap<String, ProgramType>) -> AppName {
    let function = || functions.keys().next().and_then(|function| AppName::nearest(function));
    bytecode.name().cloned().or_else(function).unwrap_or_else(AppName::unnamed)
}

/// What the object declares of each map that was made; data sections are arrays of one value.
fn maps(object: &Object, made: &[String]) -> Vec<Map> {
    let row = |name: &String| {
        let declared = object.maps.iter().find(|map| map.name.as_str() == name);
        let data = object.data.iter().find(|section| section.name.as_str() == name);
        match (declared, data) {
            (Some(map), _) => Map {
                name: name.clone(),
                kind: map.kind.to_string(),
                key_size: map.key_size,
                value_size: map.value_size,
                max_entries: map.max_entries,
            },
            (None, section) => Map {
                name: name.clone(),
                kind: "array".to_owned(),
                key_size: 4,
                value_size: section.map_or(0, |section| section.size),
                max_entries: 1,
            },
        }
    };
    made.iter().map(row).collect()
}

/// The image's label first, then the object's own run config.
fn advice(object: &Object, bytecode: &Bytecode, functions: &BTreeMap<String, ProgramType>) -> BTreeMap<String, Advice> {
    let of = |function: &String| {
        let own = object.programs.iter().find(|program| program.function.as_str() == function);
        let own = own.map(selection::advice).unwrap_or_default();
        let label = bytecode.advice(function).cloned().unwrap_or_default();
        let merged = Advice {
            priority: label.priority.or(own.priority),
            proceed_on: label.proceed_on.or(own.proceed_on),
            tracepoint: label.tracepoint.or(own.tracepoint),
        };
        (function.clone(), merged)
    };
    functions.keys().map(of).collect()
}
