//! From an object that may be loaded to programs and maps that wait as file descriptors: everything slow, and everything that reads
//! untrusted bytes.
//!
//! Order: this load's turn, the object's bytes, inspection in the parse worker, selection, globals, the policy's decision about what was
//! selected, a rehearsal of relocation in the parse worker, then maps and programs. It must never pin or attach.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bpfd_core::changes::Loaded;
use bpfd_core::facts::{LoadFacts, lenders};
use bpfd_core::ident::AppUid;
use bpfd_core::kernel::{LoadAs, Recipe, StepError};
use bpfd_core::names::{AppName, printable};
use bpfd_core::policy::{Authorized, Reach, reach};
use bpfd_core::report::{Phase, Progress, Warning};
use bpfd_core::request::LoadRequest;
use bpfd_core::selection::{self, Selection};
use bpfd_core::sharing::{self, Declared};
use bpfd_core::state::{Advice, Map, ObjectDigest, ProgramKind, Setting, Shared};
use bpfd_policy::Policy;
use bpfd_sys::bpf::obj_get;
use ebpf::inspect::Object;
use ebpf::line_info::LineTable;
use ebpf::maps::MapKind;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::LoadError;
use crate::engine::{EngineError, EngineHandle};
use crate::fail_points;
use crate::images::Acquired;
use crate::kernel::{HostKernel, Loader, StagedApp, map_path};
use crate::load_log::LoadLogs;
use crate::objects::Objects;
use crate::progress::Report;
use crate::queue::{Queue, Work};
use crate::reserved::{Reservations, Reserved};
use crate::source::{Bytecode, Proof, UploadError};
use crate::turns::Line;
use crate::worker::parse;
use crate::worker::{Busy, Workers};

/// Loads of users but root that may be verified at the same time, one of each: each may hold a core for seconds.
const AT_ONCE: usize = 2;
/// How long the kernel may take over one load. The verifier gives up at a million instructions, seconds on a slow core.
pub(super) const VERIFICATION: Duration = Duration::from_secs(30);

/// What makes programs.
#[derive(Clone)]
pub struct Loads {
    workers: Workers,
    loader: Loader,
    logs: Arc<LoadLogs>,
    engine: EngineHandle<HostKernel>,
    /// Where apps' maps are pinned.
    pins: PathBuf,
    reservations: Reservations,
    queue: Queue<Work<()>>,
}

impl Loads {
    /// With everything it needs; `logs` gets what the verifier says of programs that it refuses.
    pub fn start(
        workers: Workers,
        loader: Loader,
        logs: Arc<LoadLogs>,
        engine: EngineHandle<HostKernel>,
        pins: PathBuf,
    ) -> io::Result<Self> {
        let (reservations, queue) = (Reservations::default(), Queue::with_threads("load", AT_ONCE, || ())?);
        Ok(Self { workers, loader, logs, engine, pins, reservations, queue })
    }

    /// Says that a load is under way, until the answer is dropped.
    pub(super) fn busy(&self) -> Option<Busy> {
        self.workers.busy()
    }

    pub(super) async fn make(
        &self,
        ask: &Authorized<LoadRequest>,
        admitted: Admitted,
        objects: &Objects,
        policy: Arc<Policy>,
        report: &Report,
    ) -> Result<Made, LoadError> {
        let (ask, objects, loads, report) = (ask.clone(), objects.clone(), self.clone(), report.clone());
        let line = Line::User(ask.principal().uid);
        let place = self.queue.place(line).map_err(EngineError::from)?;
        let ((begun, begins), (made, making)) = (oneshot::channel(), oneshot::channel());
        let load = move |(): &mut ()| {
            let _until_done = place;
            if begun.send(()).is_err() {
                tracing::info!("a load was cancelled before its turn came");
                return;
            }
            let bytecode = admitted.bytecode(&ask, &objects).map_err(LoadError::from);
            let wanted = || !made.is_closed();
            let mut reader = None;
            let done = bytecode.and_then(|bytecode| {
                let reader = reader.insert(parse::Reader::of(&loads.workers, bytecode.bytes())?);
                loads.made(&ask, &bytecode, reader, &policy, &report, &wanted)
            });
            fail_points::hold("load-made");
            if made.send(done).is_err() {
                tracing::info!("a load was cancelled or timed out: discarding its maps and programs");
            }
            // Nobody waits until the worker is gone.
            drop(reader);
        };
        self.queue.push(line, Box::new(load));
        begins.await.map_err(|_| LoadError::Lost)?;
        // Given up, it goes on in its thread until the verifier is done with the program at hand; what it made is dropped.
        match tokio::time::timeout(VERIFICATION, making).await {
            Err(_) => Err(LoadError::TooSlow),
            Ok(joined) => joined.map_err(|_| LoadError::Lost)?,
        }
    }

    fn made(
        &self,
        ask: &Authorized<LoadRequest>,
        bytecode: &Bytecode,
        reader: &mut parse::Reader,
        policy: &Policy,
        report: &Report,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Made, LoadError> {
        let request = ask.request();
        let object = reader.inspect()?;
        let selection = selection::select(&object, &request.select, &request.attach)?;
        let advice = advice(&object, bytecode, &selection.functions);
        let functions = selection::load_as(&selection, &request.attach, &advice).map_err(EngineError::Request)?;
        let Selection { functions: selected, attach } = selection;
        let globals = settings(&object, &request.globals)?;
        let snapshot = self.engine.snapshot();
        let shared = sharing::taken(&snapshot.state, &request.map_from, &shareable(&object))?;
        let facts = LoadFacts {
            kinds: selected.values().copied().collect(),
            source: bytecode.proof().facts(bytecode.object()),
            maps_of: lenders(&snapshot.state, shared.values()),
        };
        let reach = reach(policy, ask.principal(), &facts).map_err(EngineError::Denied)?;
        let recipe = Recipe {
            shared: shared.iter().map(|(map, from)| (map.clone(), from.app)).collect(),
            ..recipe(bytecode, functions, &globals, reach)
        };
        reader.rehearse(&self.loader, &recipe)?;
        reader.end();
        let quota = policy.quota(ask.principal());
        let (state, links) = (&snapshot.state, request.attach.len());
        let reserved = self.reservations.reserve(
            quota,
            state,
            ask.principal().uid,
            &maps(&object, &declared(&object), &shared),
            links,
        );
        let reserved = reserved.map_err(EngineError::from)?;
        report(Progress::begin(Phase::Load));
        let staged = self.loader.prepare(bytecode.bytes(), &recipe, self.lent(&shared)?, wanted);
        let staged = staged.map_err(|error| self.explain(ask.principal().uid, bytecode.bytes(), error))?;
        let uid = AppUid(Uuid::new_v4());
        let mut programs = staged.programs();
        for program in &mut programs {
            if let Some(declared) =
                object.programs.iter().find(|declared| declared.function.as_str() == program.function)
            {
                program.section = declared.section.to_string();
            }
        }
        let loaded = Loaded {
            uid,
            name: request.name.clone(),
            default_name: default_name(bytecode, &selected),
            source: bytecode.proof().source(),
            object: bytecode.object(),
            reach,
            globals,
            programs,
            maps: maps(&object, &staged.maps(), &shared),
            labels: bytecode.labels().clone(),
            user_labels: request.labels.clone(),
            advice,
            attach: request.attach.iter().map(|(ask, _)| ask.clone()).zip(attach).collect(),
            persist: request.persist,
            origin: request.origin.clone(),
            request: request.request.map(|key| key.id),
        };
        let warnings = pins_by_name(&object, &shared);
        Ok(Made { uid, staged, loaded, proof: bytecode.proof().clone(), reserved, warnings })
    }

    /// The maps that are shared, opened: they stay, whatever becomes of the apps that have them.
    fn lent(&self, shared: &BTreeMap<String, Shared>) -> Result<BTreeMap<String, OwnedFd>, LoadError> {
        let open = |(map, from): (&String, &Shared)| {
            let path = map_path(&self.pins, from.app, map).ok_or(io::ErrorKind::InvalidFilename);
            let fd = path.map_err(io::Error::from).and_then(|path| obj_get(&path));
            let doing = || format!("open map `{map}` of app `{}`", from.name);
            fd.map(|fd| (map.clone(), fd))
                .map_err(|error| LoadError::Kernel(StepError::Call { doing: doing(), errno: error.to_string() }))
        };
        shared.iter().map(open).collect()
    }

    /// A verifier's refusal with the place in the source that it means, read from the object's own line information. The whole log is
    /// kept for its caller.
    fn explain(&self, uid: u32, elf: &[u8], mut error: StepError) -> LoadError {
        if let StepError::Verifier { rejection, .. } = &mut error {
            rejection.locate(&LineTable::read(elf).unwrap_or_default());
        }
        self.logs.rejected(uid, error).map_or_else(LoadError::Kernel, LoadError::Verifier)
    }
}

/// What may be loaded, without its bytes: many loads wait for their turn, and an object has up to 16 MiB.
pub(super) enum Admitted {
    Upload(ObjectDigest),
    Image(Box<Acquired>),
}

impl Admitted {
    /// With its bytes, hashed again. Only for a load whose turn it is.
    fn bytecode(self, ask: &Authorized<LoadRequest>, objects: &Objects) -> Result<Bytecode, UploadError> {
        match self {
            Self::Upload(object) => Bytecode::permitted(ask, object, objects),
            Self::Image(acquired) => acquired.bytecode(objects),
        }
    }
}

/// Programs and maps that wait as file descriptors, and the row that they are to be.
pub(super) struct Made {
    pub(super) uid: AppUid,
    pub(super) staged: StagedApp,
    pub(super) loaded: Loaded,
    /// Why its bytes may be loaded; the policy is asked again.
    pub(super) proof: Proof,
    /// Until the row counts.
    pub(super) reserved: Reserved,
    /// What to know about it.
    pub(super) warnings: Vec<Warning>,
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
    functions: BTreeMap<String, LoadAs>,
    globals: &BTreeMap<String, Setting>,
    reach: Reach,
) -> Recipe {
    Recipe {
        object: bytecode.object(),
        globals: globals.iter().map(|(name, setting)| (name.clone(), setting.bytes.clone())).collect(),
        functions,
        reach,
        shared: BTreeMap::new(),
    }
}

fn default_name(bytecode: &Bytecode, functions: &BTreeMap<String, ProgramKind>) -> AppName {
    let function = || functions.keys().next().and_then(|function| AppName::nearest(function));
    bytecode.name().cloned().or_else(function).unwrap_or_else(AppName::unnamed)
}

/// Every map that may be made of an object.
fn declared(object: &Object) -> Vec<String> {
    let maps = object.maps.iter().map(|map| map.name.to_string());
    maps.chain(object.data.iter().map(|section| section.name.to_string())).collect()
}

/// What the object declares of each map that was made; data sections are arrays of one value.
fn maps(object: &Object, made: &[String], shared: &BTreeMap<String, Shared>) -> Vec<Map> {
    let of = |name: &String| {
        let declared = object.maps.iter().find(|map| map.name.as_str() == name);
        let data = object.data.iter().find(|section| section.name.as_str() == name);
        match (declared, data) {
            (Some(map), _) => Map { shared: shared.get(name).cloned(), ..row(map) },
            (None, section) => Map {
                name: name.clone(),
                kind: "array".to_owned(),
                key_size: 4,
                value_size: section.map_or(0, |section| section.size),
                max_entries: 1,
                shared: None,
            },
        }
    };
    made.iter().map(of).collect()
}

fn row(map: &ebpf::maps::Map) -> Map {
    Map {
        name: map.name.to_string(),
        kind: map.kind.to_string(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        shared: None,
    }
}

/// The maps of an object that another app's may stand for.
fn shareable(object: &Object) -> Vec<Declared> {
    let filled = |map: &ebpf::maps::Map| {
        map.kind == MapKind::PROG_ARRAY || object.contents.iter().any(|content| content.map == map.name)
    };
    object.maps.iter().map(|map| Declared { map: row(map), filled: filled(map) }).collect()
}

/// The maps that ask to be pinned by name: an app that wants one of another must say so.
fn pins_by_name(object: &Object, shared: &BTreeMap<String, Shared>) -> Vec<Warning> {
    let asks = object.maps.iter().filter(|map| map.pin_by_name && !shared.contains_key(map.name.as_str()));
    let maps: Vec<String> = asks.map(|map| map.name.to_string()).collect();
    let could = shareable(object).into_iter().filter(|declared| !declared.filled).map(|declared| declared.map.name);
    let shareable = could.into_iter().find(|name| maps.contains(name));
    if maps.is_empty() { vec![] } else { vec![Warning::PinByName { maps, shareable }] }
}

/// The image's label first, then the object's own run config.
fn advice(object: &Object, bytecode: &Bytecode, functions: &BTreeMap<String, ProgramKind>) -> BTreeMap<String, Advice> {
    let of = |function: &String| {
        let own = object.programs.iter().find(|program| program.function.as_str() == function);
        let own = own.map(selection::advice).unwrap_or_default();
        let label = bytecode.advice(function).cloned().unwrap_or_default();
        (function.clone(), label.or(own))
    };
    functions.keys().map(of).collect()
}
