//! Programs of `programs.d`: loaded as root at a start, before the daemon is ready, and again when the files are read again, when an image
//! that was not stored is, and when interfaces come that a pattern fits.
//!
//! All that is known is changed in one operation, so that each chain is swapped once; if that is refused, each program is an operation of
//! its own, and what cannot be had is told by name. It must never wait for a registry: what is not stored is LOADING.
//!
//! Long because files are read, judged and carried out in one order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bpfd_core::ask::Look;
use bpfd_core::changes::Fresh;
use bpfd_core::ident::{AppUid, Handle, LinkUid};
use bpfd_core::names::{AppName, IfName};
use bpfd_core::policy::{Denied, Principal};
use bpfd_core::programs::{Declared, DeclaredSource, Wanted, gone, reconcile, write};
use bpfd_core::report::Warning;
use bpfd_core::request::{Bytes, LoadRequest, PullPolicy};
use bpfd_core::snapshot::Snapshot;
use bpfd_core::state::{App, AppOrigin, Persist};
use bpfd_policy::reference::Reference;
use bpfd_sys::netlink::Route;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::make::{Admitted, Made};
use super::{GetAppError, LoadError, Service};
use crate::causes::error_chain;
use crate::engine::{Context, Engine, EngineError, Pending};
use crate::images::ImageError;
use crate::kernel::{HostKernel, StagedApp};
use crate::programs::{Kept, object};
use crate::progress::Report;
use crate::reserved::Reserved;
use crate::turns::Line;
use crate::waiter::Waiter;

/// Between two attempts to pull what is missing; then twice as long, up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How a declared program stands.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    /// Its file.
    pub file: String,
    /// Its name.
    pub name: AppName,
    /// Whether `bpfd-critical.service` fails without it.
    pub critical: bool,
    /// Where its bytes come from, as declared.
    pub source: DeclaredSource,
    /// How it stands.
    pub state: ProgramState,
}

/// See [`ProgramStatus`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProgramState {
    /// It is loaded, and its links are asked for.
    Loaded,
    /// Its image is not stored yet: why not, in a sentence.
    Loading(String),
    /// It cannot be had: why not, in a sentence.
    Failed(String),
}

/// How all of them stand.
#[derive(Clone, Debug, Default)]
pub struct ProgramsStatus {
    /// In the order of the files.
    pub programs: Vec<ProgramStatus>,
    /// Files that are not used, and why.
    pub bad: BTreeMap<String, String>,
    /// Whether interfaces that come may be some program's.
    patterns: bool,
}

impl ProgramsStatus {
    /// What keeps the daemon from being READY, in a sentence each.
    pub fn causes(&self) -> Vec<String> {
        let bad = self.bad.values().map(|why| format!("programs.d: {why}"));
        let missing = self.programs.iter().filter_map(|program| match &program.state {
            ProgramState::Loaded => None,
            ProgramState::Loading(why) => {
                Some(format!("program `{}` of {} is LOADING: {why}", program.name, program.file))
            }
            ProgramState::Failed(why) => {
                Some(format!("program `{}` of {} is not loaded: {why}", program.name, program.file))
            }
        });
        bad.chain(missing).collect()
    }
}

/// What is known of the files, and what has them looked at again.
#[derive(Debug)]
pub struct ProgramFiles {
    status: Mutex<Arc<ProgramsStatus>>,
    /// One at a time applies them.
    kept: tokio::sync::Mutex<Kept>,
    again: mpsc::Sender<()>,
    /// Pulls what is missing at once.
    pull: Notify,
}

/// Which files are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reread {
    /// All of them: somebody asked for it.
    All,
    /// Those that were changed since they were read.
    Changed,
}

impl ProgramFiles {
    /// Nothing known yet. What is received is a reason to look at interfaces again.
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (again, reasons) = mpsc::channel(1);
        (Self { status: Mutex::default(), kept: tokio::sync::Mutex::default(), again, pull: Notify::new() }, reasons)
    }

    /// How they stand.
    pub fn status(&self) -> Arc<ProgramsStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A reason to look at interfaces again.
    pub fn again(&self) -> mpsc::Sender<()> {
        self.again.clone()
    }
}

/// One program that is ready for the engine.
struct Ready {
    at: usize,
    wanted: Wanted,
    staged: Option<(AppUid, StagedApp)>,
    _reserved: Option<Reserved>,
}

impl Service {
    /// How the programs of files stand.
    pub async fn program_files(&self, principal: Principal) -> Result<Arc<ProgramsStatus>, Denied> {
        self.permit(principal, Look(())).await?;
        Ok(self.programs.status())
    }

    /// What runs, as the text of a file.
    pub async fn exported(&self, principal: Principal, apps: &BTreeSet<String>) -> Result<String, GetAppError> {
        self.permit(principal, Look(())).await?;
        let snapshot = self.snapshot();
        let names: BTreeSet<&str> = snapshot.state.apps.values().map(|app| app.name.as_str()).collect();
        if let Some(asked) = apps.iter().find(|asked| !names.contains(asked.as_str())) {
            return Err(GetAppError::none(asked, &snapshot.state));
        }
        let objects = self.layout.objects();
        let mut rows: Vec<&App> = snapshot.state.apps.values().collect();
        rows.retain(|app| apps.is_empty() || apps.contains(app.name.as_str()));
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        let object = |object: &_| objects.join(format!("{object}")).display().to_string();
        let programs: Vec<Declared> = rows.iter().map(|app| Declared::of(&snapshot.state, app, object)).collect();
        Ok(write(&programs))
    }

    /// Makes what files declare so, as far as it can be without a registry.
    pub async fn apply_programs(&self, reread: Reread) {
        let mut kept = self.programs.kept.lock().await;
        if reread == Reread::All {
            kept.forget();
        }
        let files = tokio::task::block_in_place(|| kept.programs(&self.layout));
        for why in files.bad.values() {
            tracing::error!("programs.d: {why}");
        }
        let interfaces = tokio::task::block_in_place(interfaces);
        let snapshot = self.snapshot();
        let state = &snapshot.state;
        let made_by = state.apps.values().filter_map(|app| app.origin.file()).map(|origin| origin.file.as_str());
        let gone = gone(state, &files.names(), &files.unread(made_by));
        let (mut states, mut ready) = (Vec::new(), Vec::new());
        // Critical ones first: if each is to be an operation of its own, these are the first.
        let mut order: Vec<usize> = (0..files.declared.len()).collect();
        order.sort_by_key(|at| !files.declared.get(*at).is_some_and(|(_, program)| program.critical));
        states.resize(files.declared.len(), ProgramState::Loaded);
        for at in order {
            let Some((file, program)) = files.declared.get(at) else { continue };
            match self.ready(at, (file, program), &interfaces, &snapshot, &mut kept).await {
                Ok(done) => ready.push(done),
                Err(why) => {
                    if let Some(state) = states.get_mut(at) {
                        *state = why;
                    }
                }
            }
        }
        for (at, why) in self.carry_out(gone, ready).await {
            if let Some(state) = states.get_mut(at) {
                *state = ProgramState::Failed(why);
            }
        }
        let programs = files.declared.iter().zip(states).map(|((file, program), state)| ProgramStatus {
            file: file.clone(),
            name: program.name.clone(),
            critical: program.critical,
            source: program.source.clone(),
            state,
        });
        let patterns = files.declared.iter().any(|(_, program)| program.has_patterns());
        let status = ProgramsStatus { programs: programs.collect(), bad: files.bad, patterns };
        status.causes().iter().for_each(|cause| tracing::warn!("{cause}"));
        let before = self.pull_order();
        *self.programs.status.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
        let is_new = |reference: &Reference| !before.contains(reference);
        if reread == Reread::All || self.pull_order().iter().any(is_new) {
            self.programs.pull.notify_one();
        }
    }

    /// Goes on as long as the daemon does: looks again when interfaces come that a pattern may fit, whatever is being pulled.
    pub async fn keep_patterns(self: Arc<Self>, mut reasons: mpsc::Receiver<()>) {
        while reasons.recv().await.is_some() {
            if self.programs.status().patterns {
                self.apply_programs(Reread::Changed).await;
            }
        }
    }

    /// Goes on as long as the daemon does: pulls what is missing, less and less often until something else is, or somebody asks.
    pub async fn keep_pulling(self: Arc<Self>) {
        let mut pause = AGAIN.0;
        loop {
            match self.pull_missing().await {
                None => {
                    self.programs.pull.notified().await;
                    pause = AGAIN.0;
                }
                Some(true) => self.apply_programs(Reread::Changed).await,
                Some(false) => match tokio::time::timeout(pause, self.programs.pull.notified()).await {
                    Ok(()) => pause = AGAIN.0,
                    Err(_time_to_pull_again) => pause = (pause * 2).min(AGAIN.1),
                },
            }
        }
    }

    fn pull_order(&self) -> Vec<Reference> {
        let status = self.programs.status();
        let loading = status.programs.iter().filter(|program| matches!(program.state, ProgramState::Loading(_)));
        loading.filter_map(|program| program.source.image().cloned()).collect()
    }

    /// Pulls images that programs wait for. `None` if there are none; else whether one came.
    async fn pull_missing(&self) -> Option<bool> {
        let missing = self.pull_order();
        let (report, waiter): (Report, _) = (Arc::new(|_| ()), Waiter::default());
        let mut came = false;
        for reference in &missing {
            let (daemon, name) = (Principal::daemon(), reference.to_string());
            let pulled = self.images.acquire(&daemon, &name, PullPolicy::IfNotPresent, &report, &waiter).await;
            match pulled {
                Ok(_) => came = true,
                Err(error) => {
                    let why = error_chain(&error);
                    tracing::warn!(%reference, why, "cannot pull the image of a program; retried later");
                    self.loading(reference, &why);
                }
            }
        }
        (!missing.is_empty()).then_some(came)
    }

    fn loading(&self, reference: &Reference, why: &str) {
        let mut status = self.programs.status.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = ProgramsStatus::clone(&status);
        for program in next.programs.iter_mut().filter(|program| program.source.image() == Some(reference)) {
            if let ProgramState::Loading(said) = &mut program.state {
                why.clone_into(said);
            }
        }
        *status = Arc::new(next);
    }

    /// A program with all that the engine needs of it, or why there is none.
    async fn ready(
        &self,
        at: usize,
        (file, program): (&str, &Declared),
        interfaces: &BTreeSet<IfName>,
        snapshot: &Snapshot,
        kept: &mut Kept,
    ) -> Result<Ready, ProgramState> {
        let attach = program.attachments(interfaces);
        let name = program.name.clone();
        let as_loaded = |identity: &str| {
            let origin = program.origin(file, identity);
            let wanted = || Wanted { name: name.clone(), origin: origin.clone(), loaded: None, attach: attach.clone() };
            let is_loaded = Wanted::is_loaded(snapshot, &name, &origin);
            is_loaded.then(|| Ready { at, wanted: wanted(), staged: None, _reserved: None })
        };
        // One that runs needs no bytes.
        if let DeclaredSource::File(path) = &program.source
            && let Some(digest) = tokio::task::block_in_place(|| kept.object(Path::new(path)))
            && let Some(ready) = as_loaded(&digest.to_string())
        {
            return Ok(ready);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| ProgramState::Failed(error_chain(error));
        let (admitted, bytes, identity) = match &program.source {
            DeclaredSource::File(path) => {
                let read = || {
                    let bytes = object(Path::new(path)).map_err(|error| failed(&error))?;
                    self.objects.put(&bytes).map_err(|error| failed(&error))
                };
                let stored = tokio::task::block_in_place(|| kept.read_object(Path::new(path), read))?;
                (Admitted::Upload(stored), Bytes::Uploaded { object: stored, stem: None }, stored.to_string())
            }
            DeclaredSource::Image(reference) => {
                let acquired = self.images.stored(reference).await.map_err(|error| match error {
                    ImageError::NotStored(_) | ImageError::Store(_) => ProgramState::Loading(error_chain(&error)),
                    error => failed(&error),
                })?;
                let (reference, identity) = (reference.to_string(), acquired.digest());
                let bytes = Bytes::Image { reference, pull: PullPolicy::Never };
                (Admitted::Image(Box::new(acquired)), bytes, identity)
            }
        };
        if let Some(ready) = as_loaded(&identity) {
            return Ok(ready);
        }
        let origin = program.origin(file, &identity);
        let request = LoadRequest {
            bytes,
            name: Some(name.clone()),
            select: program.select.clone(),
            globals: program.globals.clone(),
            map_from: vec![],
            labels: program.labels.clone(),
            attach: attach.clone(),
            persist: Persist::Yes,
            origin: AppOrigin::File(origin.clone()),
            request: None,
        };
        let ask = self.permit(Principal::daemon(), request).await.map_err(|denied| failed(&denied))?;
        let silent: Report = Arc::new(|_| ());
        let made = self.loads.make(&ask, admitted, &self.objects, self.trust.policy(), &silent).await;
        let Made { uid, staged, loaded, proof: _, reserved, warnings } =
            made.map_err(|error: LoadError| failed(&error))?;
        for warning in &warnings {
            if let Warning::PinByName { maps, .. } = warning {
                tracing::warn!(app = %name, ?maps, "these maps ask to be pinned by name, and are not");
            }
        }
        let wanted = Wanted { name, origin, loaded: Some(loaded), attach };
        Ok(Ready { at, wanted, staged: Some((uid, staged)), _reserved: Some(reserved) })
    }

    /// All at once, or, where that is refused, one by one. Gives those that cannot be had, and why.
    async fn carry_out(&self, gone: Vec<AppUid>, ready: Vec<Ready>) -> Vec<(usize, String)> {
        match self.change_to(gone.clone(), &ready.iter().collect::<Vec<_>>()).await {
            Ok(()) => return vec![],
            Err(error) => tracing::info!(error = error_chain(&error), "making each program of files alone"),
        }
        if let Err(error) = self.change_to(gone, &[]).await {
            tracing::error!(error = error_chain(&error), "cannot unload what files declare no more");
        }
        let mut failed = Vec::new();
        for one in &ready {
            if let Err(error) = self.change_to(vec![], &[one]).await {
                failed.push((one.at, error_chain(&error)));
            }
        }
        failed
    }

    async fn change_to(&self, gone: Vec<AppUid>, ready: &[&Ready]) -> Result<(), EngineError> {
        let wanted: Vec<Wanted> = ready.iter().map(|one| one.wanted.clone()).collect();
        let staged: Vec<_> = ready.iter().filter_map(|one| one.staged.clone()).collect();
        let owner = Principal::daemon().owner();
        let new_links = wanted.iter().map(|wanted| wanted.attach.len()).sum();
        // Nothing to do is no operation.
        let links = (0..new_links).map(|_| (LinkUid(Uuid::nil()), Handle(0))).collect();
        let trial = Fresh { app: Handle(0), links, programs: Handle(0), now: 0 };
        if reconcile(&self.snapshot().state, &gone, &wanted, &owner, &trial)?.is_empty() {
            return Ok(());
        }
        let context = Context { principal: Principal::daemon(), request: None, validate_only: false, new_links };
        let attempt = move |engine: &mut Engine<HostKernel>, pending: &mut Pending<HostKernel>| {
            engine.change(&context, pending, |state, fresh| reconcile(state, &gone, &wanted, &owner, fresh))
        };
        self.engine.change(Line::User(0), staged, attempt).await.map(drop)
    }
}

/// The interfaces of the daemon's own network namespace.
fn interfaces() -> BTreeSet<IfName> {
    let rows = Route::open().and_then(|route| route.links()).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot list interfaces: patterns of programs.d fit none");
        vec![]
    });
    rows.iter().filter_map(|row| row.name.parse().ok()).collect()
}
