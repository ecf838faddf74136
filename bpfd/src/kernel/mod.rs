//! The kernel, for real: what `bpfd_core::kernel::Kernel` promises, with bpf(2), rtnetlink and a bpffs. The in-memory one is in
//! bpfd-core.
//!
//! ```text
//! prepare   an object's maps and programs, as descriptors (any thread)      object  bytes made ready, no system call
//! app       app directories: pin, unpin, see, open again                    pins    the tree and its names
//! top       a generation of a chain: build, pin, unpin, see                 probe   may a program replace a function?
//! xdp       what an interface runs, and its compare-and-swap                holders who holds a foreign program
//! tracepoint  links of unshared hooks
//! ```
//! Everything here is synchronous. It must never decide what should be, nor remove what it was not told to.

mod app;
mod holders;
mod object;
mod observe;
mod pins;
mod prepare;
mod probe;
mod top;
mod tracepoint;
mod xdp;

pub(crate) use pins::map_path;
pub use prepare::{Loader, StagedApp};

pub(crate) use object::{Fitted, ObjectError, finish, fit, guarded};
pub(crate) use prepare::running;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bpfd_core::hook::{ChainKey, XdpMode};
use bpfd_core::ident::{AppUid, KernelId, TopUid};
use bpfd_core::kernel::{
    ChainMode, InterfaceId, Kernel, LiveTop, Member, ObserveError, Observed, Recipe, Step, StepError, TopContent,
};
use bpfd_core::mode::{self, ModeError};
use bpfd_core::state::{ObjectDigest, Program};
use bpfd_sys::bpf::prog_info;

use crate::causes::chain;
use crate::worker::Workers;
use crate::worker::idlookup::IdLookup;
use crate::worker::netns::{Lookup, Namespace, Namespaces};
use crate::worker::parse::{self, ParseError};
use pins::{Pins, PinsError};
use prepare::AppCode;
use top::BuiltTop;
use tracepoint::Tracefs;

/// Where the kernel shows itself on this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    /// A mounted bpffs; pins live below its `bpfd/v1`.
    pub bpffs: PathBuf,
    /// Where tracefs usually is; if it is not mounted, a private one is read.
    pub tracefs: PathBuf,
    /// Named network namespaces.
    pub netns: PathBuf,
    /// The kernel's own types.
    pub types: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            tracefs: PathBuf::from("/sys/kernel/tracing"),
            netns: PathBuf::from("/run/netns"),
            types: PathBuf::from("/sys/kernel/btf/vmlinux"),
        }
    }
}

/// Gives an object's bytes, hashed again.
pub type Objects = Box<dyn Fn(&ObjectDigest) -> io::Result<Vec<u8>> + Send>;

/// The kernel of this host. Dropping it leaves every pin and attachment as it is.
pub struct HostKernel {
    pins: Pins,
    tracefs: Tracefs,
    namespaces: Namespaces,
    ids: IdLookup,
    workers: Workers,
    loader: Loader,
    objects: Objects,
    mode: ChainMode,
    staged: BTreeMap<AppUid, StagedApp>,
    apps: BTreeMap<AppUid, AppCode>,
    built: BTreeMap<TopUid, BuiltTop>,
}

/// Why the kernel cannot be worked with at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing, or something else, is mounted there.
    #[error("`{0}` is not a bpffs")]
    NotBpffs(PathBuf),
    /// Two daemons on one tree would undo each other's work.
    #[error("another bpfd uses `{0}`")]
    Busy(PathBuf),
    /// The pin tree cannot be opened or made.
    #[error("cannot open `bpfd/v1` on `{path}`")]
    Pins {
        /// The bpffs.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The try of function replacement could not be made.
    #[error("cannot try what this kernel allows")]
    Probe(#[source] io::Error),
    /// Nothing follows from the try.
    #[error(transparent)]
    Mode(#[from] ModeError),
}

impl HostKernel {
    /// Opens the pin tree, which nothing else may have open, and finds out how chains are kept here. Workers are started later, by
    /// the thread that needs one first, and end with that thread: let only one use this.
    pub fn open(paths: Paths, workers: Workers, objects: Objects) -> Result<Self, OpenError> {
        let Paths { bpffs, tracefs, netns, types } = paths;
        let refused = |path: &PathBuf, source| OpenError::Pins { path: path.clone(), source };
        let pins = Pins::open(&bpffs).map_err(|error| match error {
            PinsError::NotBpffs => OpenError::NotBpffs(bpffs.clone()),
            PinsError::Busy => OpenError::Busy(bpffs.clone()),
            PinsError::Io(source) => refused(&bpffs, source),
        })?;
        top::sweep(&pins).map_err(|source| refused(&bpffs, source))?;
        let attempt = probe::attempt().map_err(OpenError::Probe)?;
        let mode = mode::decide(attempt, &probe::missing_capabilities().map_err(OpenError::Probe)?)?;
        Ok(Self {
            pins,
            tracefs: Tracefs::new(tracefs),
            namespaces: Namespaces::new(workers.clone(), netns),
            ids: IdLookup::new(workers.clone()),
            workers,
            loader: Loader::new(types),
            objects,
            mode,
            staged: BTreeMap::new(),
            apps: BTreeMap::new(),
            built: BTreeMap::new(),
        })
    }

    /// How chains are kept here, and why.
    pub fn mode(&self) -> &ChainMode {
        &self.mode
    }

    /// What loads objects for this kernel, for other threads.
    pub fn loader(&self) -> Loader {
        self.loader.clone()
    }

    fn pin_app(&mut self, app: AppUid) -> Result<(), StepError> {
        let doing = || format!("pin app {app}");
        let absent = || StepError::Call { doing: doing(), errno: "it was not loaded".to_owned() };
        let staged = self.staged.remove(&app).ok_or_else(absent)?;
        let code = app::pin(&self.pins, app, staged)?;
        self.apps.insert(app, code);
        Ok(())
    }

    fn build_top(
        &mut self,
        top: TopUid,
        chain: &ChainKey,
        members: &[Member],
        recipes: &BTreeMap<AppUid, Recipe>,
    ) -> Result<KernelId, StepError> {
        let interface = {
            let namespace = self.namespace(chain)?;
            xdp::interface(&namespace, chain).map_err(failed(|| format!("look for `{chain}`")))?
        };
        let interface = interface.ok_or_else(|| StepError::NoInterface(chain.clone()))?.id;
        for app in members.iter().map(|member| member.app) {
            self.open_app(app, recipes.get(&app))?;
        }
        let built = top::build(top, interface, members, &self.apps)?;
        let id = built.id;
        self.built.insert(top, built);
        Ok(id)
    }

    /// Makes an app's instructions again around its pinned maps, unless this process has them.
    fn open_app(&mut self, app: AppUid, recipe: Option<&Recipe>) -> Result<(), StepError> {
        if self.apps.contains_key(&app) {
            return Ok(());
        }
        let unknown = || StepError::Call {
            doing: format!("open app {app}"),
            errno: "the plan does not say what it is made of".to_owned(),
        };
        let recipe = recipe.ok_or_else(unknown)?;
        let maps = app::maps(&self.pins, app).map_err(failed(|| format!("open the maps of app {app}")))?;
        let elf = self.accepted(recipe)?;
        let code = self.loader.reopen(&elf, recipe, maps)?;
        self.apps.insert(app, code);
        Ok(())
    }

    /// An object's bytes, read by the parse worker first: another version of bpfd may have accepted them.
    fn accepted(&self, recipe: &Recipe) -> Result<Vec<u8>, StepError> {
        let doing = || format!("read object {}", recipe.object);
        let elf = (self.objects)(&recipe.object).map_err(failed(doing))?;
        parse::rehearse(&self.workers, &self.loader, &elf, recipe).map_err(|error| match error {
            ParseError::Refused(_) | ParseError::TooSlow(_) | ParseError::Died { .. } => {
                StepError::Object { why: error.to_string() }
            }
            ParseError::Worker(_) => StepError::Call { doing: doing(), errno: error.to_string() },
        })?;
        Ok(elf)
    }

    fn swap(
        &mut self,
        chain: &ChainKey,
        from: Option<LiveTop>,
        to: Option<TopUid>,
        mode: XdpMode,
    ) -> Result<(), StepError> {
        let namespace = self.namespace(chain)?;
        let raced = || StepError::Raced(chain.clone());
        let from = match from {
            None => None,
            Some(LiveTop { program, top }) => {
                let (fd, id, _) = self.top_program(top)?.ok_or_else(raced)?;
                Some((id, fd)).filter(|(id, _)| *id == program).map(Some).ok_or_else(raced)?
            }
        };
        let to = match to {
            None => None,
            Some(top) => {
                let doing = || format!("attach generation {top}");
                let absent = || StepError::Call { doing: doing(), errno: "it was not built".to_owned() };
                let (fd, _, made_for) = self.top_program(top)?.ok_or_else(absent)?;
                let found = xdp::interface(&namespace, chain).map_err(failed(doing))?;
                let found = found.ok_or_else(|| StepError::NoInterface(chain.clone()))?.id;
                // The interface was replaced by another one of its name since the generation was built.
                Some(fd).filter(|_| made_for.is_none_or(|made_for| made_for == found)).map(Some).ok_or_else(raced)?
            }
        };
        let from = from.as_ref().map(|(id, fd)| (*id, fd.as_fd()));
        xdp::swap(&namespace, chain, from, to.as_ref().map(AsFd::as_fd), mode)
    }

    /// A generation's program, its number and the interface it was made for, from what was built or from its pins.
    fn top_program(&self, top: TopUid) -> Result<Option<(OwnedFd, KernelId, Option<InterfaceId>)>, StepError> {
        let doing = || format!("open generation {top}");
        if let Some(BuiltTop { program, id, interface, record: _ }) = self.built.get(&top) {
            let fd = program.try_clone().map_err(failed(doing))?;
            return Ok(Some((fd, *id, Some(*interface))));
        }
        let fd = match top::program(&self.pins, top) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(doing)(error)),
        };
        let id = KernelId(prog_info(fd.as_fd()).map_err(failed(doing))?.id.0);
        let record = top::read(&self.pins, top).map_err(failed(doing))?.and_then(|seen| seen.record);
        Ok(Some((fd, id, record.map(|record| record.interface))))
    }

    /// The namespace of a chain; absent, its interface is too.
    fn namespace(&mut self, chain: &ChainKey) -> Result<Namespace, StepError> {
        match self.namespaces.look_up(&chain.netns) {
            Ok(Lookup::Found(namespace)) => Ok(namespace),
            Ok(Lookup::Absent | Lookup::NotANamespace) => Err(StepError::NoInterface(chain.clone())),
            Err(error) => Err(failed(|| format!("enter network namespace `{}`", chain.netns))(error)),
        }
    }
}

impl Kernel for HostKernel {
    type Staged = StagedApp;

    fn observe(&mut self, chains: &BTreeSet<ChainKey>) -> Result<Observed, ObserveError> {
        let Self { pins, namespaces, ids, mode, .. } = self;
        observe::observe(pins, namespaces, ids, mode, chains)
    }

    fn stage(&mut self, app: AppUid, staged: StagedApp) {
        self.staged.insert(app, staged);
    }

    fn discard(&mut self, app: AppUid) {
        self.staged.remove(&app);
    }

    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<Program>, StepError> {
        let elf = self.accepted(recipe)?;
        let staged = self.loader.prepare(&elf, recipe)?;
        let programs = staged.programs();
        self.stage(app, staged);
        Ok(programs)
    }

    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        match step {
            Step::PinApp(app) => self.pin_app(*app)?,
            Step::BuildTop { top, chain, content: TopContent::Fused { members, recipes } } => {
                return self.build_top(*top, chain, members, recipes).map(Some);
            }
            Step::DropTop(top) => {
                self.built.remove(top);
            }
            Step::PinTop(top) => {
                let absent =
                    || StepError::Call { doing: format!("pin generation {top}"), errno: "it was not built".to_owned() };
                top::pin(&self.pins, *top, self.built.get(top).ok_or_else(absent)?)?;
                // From here on the pins hold it.
                self.built.remove(top);
            }
            Step::AttachLink { link, app, function, tracepoint } => {
                tracepoint::attach(&self.pins, &mut self.tracefs, *link, *app, function, tracepoint)?;
            }
            Step::DetachLink(link) => tracepoint::detach(&self.pins, *link)?,
            Step::Swap { chain, from, to, mode } => self.swap(chain, *from, *to, *mode)?,
            Step::UnpinTop(top) => {
                self.built.remove(top);
                top::unpin(&self.pins, *top)?;
            }
            Step::UnpinApp(app) => {
                self.apps.remove(app);
                app::unpin(&self.pins, *app)?;
            }
        }
        Ok(None)
    }
}

/// What a step says when a call fails; `doing` in the user's terms.
pub(crate) fn failed<S: Into<String>>(doing: impl FnOnce() -> S) -> impl FnOnce(io::Error) -> StepError {
    move |error| StepError::Call { doing: doing().into(), errno: chain(&error) }
}
