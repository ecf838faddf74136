//! The kernel, for real: what `bpfd_core::kernel::Kernel` promises, with bpf(2), rtnetlink and a bpffs. The in-memory one is
//! in the crash tests.
//!
//! ```text
//! prepare   an object's maps and programs, as descriptors (any thread)      object  bytes made ready, no system call
//! maker     what a plan needs and the verifier must see (any thread)        pins    the tree and its names
//! app       app directories: pin, unpin, see, open again                    record  rows beside their pins, the database's stamp
//! chain     shared hooks: a back end a file                                 hook    own hooks: a kind a file
//! observe   what is pinned and what runs                                    interfaces  by name, by index, by what they run (seek)
//! elements  maps of apps, opened, and their elements (any thread)           records  of ring and perf buffers (any thread)
//! probe     may a program replace a function?                               reader  looks beside the thread that changes
//! holders   who holds a foreign program            codes   the code of apps that were used last
//! ```
//! Everything here is synchronous. It must never decide what should be, nor remove what it was not told to.
//!
//! Long because each step is dispatched here, in one match.

mod app;
mod chain;
mod codes;
mod elements;
mod holders;
mod hook;
mod interfaces;
mod maker;
mod maps;
mod object;
mod observe;
mod pins;
mod prepare;
mod probe;
mod reader;
mod record;
mod records;
mod release;
mod seek;
mod types;

pub use elements::{AppMaps, OpenMap, map_id};
pub(crate) use hook::nearest_target;
pub use maker::Made;
pub(crate) use pins::map_path;
pub use prepare::{Loader, StagedApp};
pub(crate) use probe::has_tcx;
pub use reader::{Reader, held_by};
pub use records::{Ready, RecordError, RecordReader};

pub(crate) use object::{Fitted, ObjectError, finish, fit, guarded};
pub(crate) use release::{OPTIONS_LIMIT, Release};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use bpfd_core::config::Chain;
use bpfd_core::hook::{ChainId, InterfaceId, NamedChain, Point, XdpMode};
use bpfd_core::ident::{AppUid, GenerationUid, KernelId};
use bpfd_core::kernel::{
    ChainContent, ChainMode, Kernel, LiveGeneration, Need, ObserveError, Observed, OurSlot, Recipe, Scope, Slot, Spot,
    Step, StepError,
};
use bpfd_core::mode::{self, ModeError, Modes};
use bpfd_core::names::{Netns, NetnsName};
use bpfd_core::stamp::Stamp;
use bpfd_core::state::{ObjectDigest, ProgramFacts};
use bpfd_sys::bpf::{LinkId, Map, ProgId, prog_info};
use ebpf::dispatcher::NAME as DISPATCHER;

use crate::causes::error_chain;
use crate::worker::Workers;
use crate::worker::idlookup::IdLookup;
use crate::worker::netns::{Lookup, Namespace, Namespaces};
use crate::worker::numbers::Numbers;
use chain::generation::{self, Built};
use chain::libxdp::dispatcher::{self, HeldDispatcher, Wanted};
use chain::libxdp::{copy, directory as libxdp, installed};
use chain::sequence::{self, Entry, Going};
use chain::{tcx, xdp};
use codes::CodeCache;
use interfaces::Observer;
use maker::{Maker, What};
use observe::Known;
use pins::{Pins, PinsError};
use seek::Heard;

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
    /// Where the installed libxdp may be, if it is not where distributions put it.
    pub libxdp: Option<PathBuf>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            tracefs: PathBuf::from("/sys/kernel/tracing"),
            netns: PathBuf::from("/run/netns"),
            types: PathBuf::from("/sys/kernel/btf/vmlinux"),
            libxdp: std::env::var_os("LIBXDP_OBJECT_PATH").map(PathBuf::from),
        }
    }
}

/// Gives an object's bytes, hashed again.
pub type Objects = Arc<dyn Fn(&ObjectDigest) -> io::Result<Vec<u8>> + Send + Sync>;

/// The kernel of this host. Dropping it leaves every pin and attachment as it is.
pub struct HostKernel {
    pins: Arc<Pins>,
    /// Named network namespaces.
    netns: PathBuf,
    hooks: hook::Host,
    namespaces: Namespaces,
    numbers: Numbers,
    ids: IdLookup,
    workers: Workers,
    loader: Loader,
    objects: Objects,
    modes: Modes,
    staged: BTreeMap<AppUid, StagedApp>,
    codes: CodeCache,
    built: BTreeMap<GenerationUid, Arc<Built>>,
    /// What was made for the operation that begins.
    provided: Vec<(Need, Result<Made, StepError>)>,
    known: Option<Known>,
    /// Dispatchers of the operation under way, with all that is in them.
    dispatchers: BTreeMap<GenerationUid, HeldDispatcher>,
    /// What the operation under way took off, and from where: its interface may be another one than it was made for.
    left: BTreeMap<GenerationUid, ChainId>,
    heard: Heard,
    /// The state map, once a stamp was written.
    state: Option<Map>,
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
    #[error("cannot probe whether this kernel supports freplace")]
    Probe(#[source] io::Error),
    /// Nothing follows from the try.
    #[error(transparent)]
    Mode(#[from] ModeError),
}

impl HostKernel {
    /// Opens the pin tree, which nothing else may have open, and finds out how chains are kept here. Workers are started later, by
    /// the thread that needs one first, and end with that thread: let only one use this.
    pub fn open(paths: Paths, workers: Workers, objects: Objects) -> Result<Self, OpenError> {
        Self::open_in(&Chain::default(), paths, workers, objects)
    }

    /// The same, with a word on how chains are kept.
    pub fn open_in(settings: &Chain, paths: Paths, workers: Workers, objects: Objects) -> Result<Self, OpenError> {
        let Paths { bpffs, tracefs, netns, types, libxdp } = paths;
        let refused = |path: &PathBuf, source| OpenError::Pins { path: path.clone(), source };
        let pins = Pins::open(&bpffs).map_err(|error| match error {
            PinsError::NotBpffs => OpenError::NotBpffs(bpffs.clone()),
            PinsError::Busy => OpenError::Busy(bpffs.clone()),
            PinsError::Io(source) => refused(&bpffs, source),
        })?;
        let swept = generation::sweep(&pins).and_then(|()| copy::sweep(&pins)).and_then(|()| record::sweep(&pins));
        swept.map_err(|source| refused(&bpffs, source))?;
        let attempt = probe::attempt().map_err(OpenError::Probe)?;
        let missing = probe::missing_capabilities().map_err(OpenError::Probe)?;
        let installed = installed::version(&installed::directories(libxdp));
        let modes = Modes::of(settings, &mode::decide(attempt, &missing), has_tcx(), installed)?;
        let numbers = Numbers::default();
        Ok(Self {
            pins: Arc::new(pins),
            netns: netns.clone(),
            hooks: hook::Host { tracefs: hook::tracefs::Tracefs::new(tracefs) },
            namespaces: Namespaces::knowing(workers.clone(), netns, numbers.clone()),
            numbers,
            ids: IdLookup::new(workers.clone()),
            workers,
            loader: Loader::new(types),
            objects,
            modes,
            staged: BTreeMap::new(),
            codes: CodeCache::default(),
            built: BTreeMap::new(),
            provided: Vec::new(),
            known: None,
            dispatchers: BTreeMap::new(),
            left: BTreeMap::new(),
            heard: Heard::default(),
            state: None,
        })
    }

    /// How chains of interfaces without a mode of their own are kept, and why.
    pub fn mode(&self) -> &ChainMode {
        &self.modes.host
    }

    /// What loads objects for this kernel, for other threads.
    pub fn loader(&self) -> Loader {
        self.loader.clone()
    }

    /// What opens the maps of apps, for other threads.
    pub fn maps(&self) -> AppMaps {
        AppMaps::new(self.pins.clone())
    }

    /// Makes what looks at this kernel for readers, on other threads.
    pub fn readers(&self) -> impl Fn() -> Reader + Clone + Send + use<> {
        let (pins, workers, netns, modes) =
            (self.pins.clone(), self.workers.clone(), self.netns.clone(), self.modes.clone());
        let numbers = self.numbers.clone();
        move || Reader {
            pins: pins.clone(),
            namespaces: Namespaces::knowing(workers.clone(), netns.clone(), numbers.clone()),
            ids: IdLookup::new(workers.clone()),
            modes: modes.clone(),
        }
    }

    fn pin_app(&mut self, app: AppUid) -> Result<(), StepError> {
        let doing = || format!("pin app {app}");
        let absent = || StepError::Call { doing: doing(), errno: "it was not loaded".to_owned() };
        let staged = self.staged.remove(&app).ok_or_else(absent)?;
        let code = app::pin(&self.pins, app, staged)?;
        self.codes.keep([(app, code)].into());
        Ok(())
    }

    fn build_generation(&mut self, need: &Need, generation: GenerationUid) -> Result<KernelId, StepError> {
        let What::Generation(built) = self.obtain(need)? else { return Err(another()) };
        let id = built.id;
        self.built.insert(generation, built);
        Ok(id)
    }

    /// What was made for a need, or is made now.
    fn obtain(&mut self, need: &Need) -> Result<What, StepError> {
        let provided = self.provided.iter().find(|(provided, _)| provided == need);
        let made = match provided.map(|(_, made)| made.clone()) {
            Some(made) => made,
            None => self.maker(need)(),
        };
        let Made { what, codes } = made?;
        self.codes.keep(codes);
        Ok(what)
    }

    fn build_dispatcher(
        &mut self,
        generation: GenerationUid,
        chain: &NamedChain,
        version: u8,
        slots: &[Slot],
    ) -> Result<KernelId, StepError> {
        let wanted = Wanted { generation, chain, version, slots };
        let dispatcher = dispatcher::build(&wanted, &self.pins, &mut self.ids)?;
        let id = dispatcher.id;
        self.dispatchers.insert(generation, dispatcher);
        Ok(id)
    }

    fn load_copy(&mut self, slot: &OurSlot, recipes: &BTreeMap<AppUid, Recipe>) -> Result<(), StepError> {
        let need = Need::Copy { members: slot.members().cloned().collect(), recipes: recipes.clone() };
        let What::Copy(built) = self.obtain(&need)? else { return Err(another()) };
        copy::pin(&self.pins, slot, &built)
    }

    /// Takes references of our own to a peer's dispatcher, or to a generation of ours that has none.
    fn adopt(&mut self, chain: &NamedChain, live: LiveGeneration) -> Result<(), StepError> {
        let raced = || StepError::Raced(chain.name.clone());
        let link = self.running(chain, live.program)?;
        let doing = || format!("take hold of program {}", live.program);
        let program = self.ids.program(ProgId(live.program.0)).map_err(failed(doing))?.ok_or_else(raced)?;
        let Attachable { fd, id, name: _, is_dispatcher } = Attachable::of(program)?;
        if is_dispatcher {
            self.capture(chain, live)?;
            let dispatcher = self.dispatchers.get(&live.generation).ok_or_else(raced)?;
            return dispatcher::pin(&self.pins, live.generation, dispatcher);
        }
        let (record, _) =
            generation::own_record(fd.as_fd(), &mut self.ids).map_err(failed(doing))?.ok_or_else(raced)?;
        generation::pin(&self.pins, live.generation, &Built { program: fd, record, id, chain: chain.id })?;
        let Some(link) = link else { return Ok(()) };
        let doing = || format!("take hold of link {}", link.0);
        let fd = self.ids.link(link).map_err(failed(doing))?.ok_or_else(raced)?;
        tcx::hold(&self.pins, live.generation, &fd).map_err(failed(doing))
    }

    /// Makes sure that a chain runs this program; gives what holds it in a tcx chain.
    fn running(&mut self, chain: &NamedChain, program: KernelId) -> Result<Option<LinkId>, StepError> {
        let doing = || format!("look for `{chain}`");
        let raced = || StepError::Raced(chain.name.clone());
        match chain.id.point {
            Point::Xdp => {
                let namespace = self.namespace(chain)?;
                let found = xdp::indexed(&namespace, chain.id.interface.index).map_err(failed(doing))?;
                let found = found.ok_or_else(|| StepError::NoInterface(chain.name.clone()))?;
                let runs = found.row.xdp.program().is_some_and(|(_, runs)| KernelId(runs.0) == program);
                if runs { Ok(None) } else { Err(raced()) }
            }
            Point::TcIngress | Point::TcEgress => {
                let mut observer = Observer::new(&mut self.namespaces);
                let sequence = observer.sequence_of(&chain.id, self.modes.has_tcx).map_err(failed(doing))?;
                let runs = |entry: &Entry| entry.program.is_some_and(|runs| KernelId(runs.0) == program);
                sequence.into_iter().find(runs).map(|entry| entry.link).ok_or_else(raced)
            }
        }
    }

    /// Holds a dispatcher that runs, so that it can be pinned, or put back.
    fn capture(&mut self, chain: &NamedChain, live: LiveGeneration) -> Result<(), StepError> {
        if self.dispatchers.contains_key(&live.generation) {
            return Ok(());
        }
        let read;
        let copies = match &self.known {
            Some(known) => &known.copies,
            None => {
                read = copy::observe(&self.pins).map_err(failed(|| "look at the pinned programs of slots"))?;
                &read
            }
        };
        let dispatcher = dispatcher::capture(live, chain.id.interface, (&self.pins, copies), &mut self.ids)?;
        self.dispatchers.insert(live.generation, dispatcher.ok_or_else(|| StepError::Raced(chain.name.clone()))?);
        Ok(())
    }

    fn pin_generation(&mut self, generation: GenerationUid) -> Result<(), StepError> {
        if let Some(dispatcher) = self.dispatchers.get(&generation) {
            return dispatcher::pin(&self.pins, generation, dispatcher);
        }
        let absent =
            || StepError::Call { doing: format!("pin generation {generation}"), errno: "it was not built".to_owned() };
        generation::pin(&self.pins, generation, self.built.get(&generation).ok_or_else(absent)?)?;
        // From here on the pins hold it.
        self.built.remove(&generation);
        Ok(())
    }

    fn unpin_generation(&mut self, generation: GenerationUid) -> Result<(), StepError> {
        self.built.remove(&generation);
        self.dispatchers.remove(&generation);
        let doing = || format!("look at generation {generation}");
        let seen = match generation::read(&self.pins, generation) {
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(doing)(error)),
        };
        if let Some(seen) = seen.filter(|seen| seen.is_dispatcher) {
            libxdp::forget(&self.pins.bpffs, seen.id)?;
        }
        generation::unpin(&self.pins, generation)
    }

    fn swap(
        &mut self,
        chain: &NamedChain,
        from: Option<LiveGeneration>,
        to: Option<GenerationUid>,
        mode: XdpMode,
        at: Spot,
    ) -> Result<(), StepError> {
        if let (Some(live), None, Netns::Nameless(_)) = (from, to, &chain.name.netns) {
            // Its link lets go of it, wherever that is.
            let leaving = self.leaving(chain, live)?;
            return tcx::remove(&self.pins, chain, &leaving.going(live.generation));
        }
        let namespace = self.namespace(chain)?;
        if let (Netns::Named(name), Some(_)) = (&chain.name.netns, to) {
            let doing = || format!("give the network namespace of `{chain}` a number");
            self.namespaces.number(name, chain.id.interface.netns_cookie).map_err(failed(doing))?;
        }
        let leaving = from.map(|live| self.leaving(chain, live)).transpose()?;
        let coming = to.map(|generation| self.coming(chain, generation)).transpose()?;
        if chain.id.point != Point::Xdp {
            let leaving = leaving.as_ref().zip(from).map(|(program, live)| program.going(live.generation));
            let coming = coming.as_ref().zip(to).map(|(program, generation)| program.going(generation));
            return sequence::swap(&self.pins, &mut self.namespaces, &namespace.route, chain, (leaving, coming), at);
        }
        let both = [&leaving, &coming];
        let shared = match both.into_iter().flatten().any(|program| program.is_dispatcher) {
            true => Some(libxdp::lock(&self.pins.bpffs)?),
            false => None,
        };
        let dispatcher = to.and_then(|generation| self.dispatchers.get(&generation));
        if let (Some(shared), Some(dispatcher)) = (&shared, dispatcher) {
            shared.pin(chain.id.interface.index, dispatcher.id, &dispatcher.slots)?;
        }
        let expected = leaving.as_ref().map(|Attachable { fd, id, .. }| (*id, fd.as_fd()));
        let swapped = xdp::swap(&namespace, chain, expected, coming.as_ref().map(|coming| coming.fd.as_fd()), mode);
        let gone = match &swapped {
            Ok(()) => leaving,
            Err(_) => coming,
        };
        if let (Some(shared), Some(Attachable { id, is_dispatcher: true, .. })) = (shared, gone)
            && let Err(error) = shared.unpin(id)
        {
            // Unpinning the generation tries again.
            tracing::warn!(
                dispatcher = id.0,
                %error,
                "cannot remove libxdp's pins of a detached dispatcher; they are removed with its generation"
            );
        }
        swapped
    }

    /// What must run now: its program, by our pins or, for a peer's, by its number.
    fn leaving(&mut self, chain: &NamedChain, live: LiveGeneration) -> Result<Attachable, StepError> {
        let raced = || StepError::Raced(chain.name.clone());
        let LiveGeneration { program, generation } = live;
        let fd = match self.program_of(generation)? {
            Some((fd, id, _)) => Some(fd).filter(|_| id == program),
            None if generation == GenerationUid::of_peer(program) => {
                self.ids.program(ProgId(program.0)).map_err(failed(|| format!("open program {program}")))?
            }
            None => None,
        };
        let fd = fd.ok_or_else(raced)?;
        self.left.insert(generation, chain.id);
        let attachable = Attachable::of(fd)?;
        if attachable.is_dispatcher {
            self.capture(chain, live)?;
        }
        Ok(attachable)
    }

    /// What is to run: built for this very interface.
    fn coming(&mut self, chain: &NamedChain, generation: GenerationUid) -> Result<Attachable, StepError> {
        let doing = || format!("attach generation {generation}");
        let absent = || StepError::Call { doing: doing(), errno: "it was not built".to_owned() };
        let (fd, _, made_for) = self.program_of(generation)?.ok_or_else(absent)?;
        let ran_here = self.left.get(&generation) == Some(&chain.id);
        if !ran_here && made_for.is_some_and(|made_for| made_for != chain.id) {
            return Err(StepError::Raced(chain.name.clone()));
        }
        Attachable::of(fd)
    }

    /// A generation's program, its number and the chain it was made for, from what was built or from its pins.
    fn program_of(&self, generation: GenerationUid) -> Result<Option<(OwnedFd, KernelId, Option<ChainId>)>, StepError> {
        let doing = || format!("open generation {generation}");
        if let Some(HeldDispatcher { program, id, interface, .. }) = self.dispatchers.get(&generation) {
            let fd = program.try_clone().map_err(failed(doing))?;
            return Ok(Some((fd, *id, Some(ChainId { interface: *interface, point: Point::Xdp }))));
        }
        if let Some(Built { program, id, chain, record: _ }) = self.built.get(&generation).map(Arc::as_ref) {
            let fd = program.try_clone().map_err(failed(doing))?;
            return Ok(Some((fd, *id, Some(*chain))));
        }
        let fd = match generation::program(&self.pins, generation) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(doing)(error)),
        };
        let id = KernelId(prog_info(fd.as_fd()).map_err(failed(doing))?.id.0);
        let record = generation::read(&self.pins, generation).map_err(failed(doing))?.and_then(|seen| seen.record);
        Ok(Some((fd, id, record.map(|record| record.chain))))
    }

    /// Gives namespaces that run something of ours numbers, as earlier versions did not: when their names are gone, they can be looked into.
    fn number_namespaces(&mut self, observed: &Observed) {
        let runs = observed.chains.iter().filter(|(_, chain)| !chain.live.generations().is_empty());
        let names: BTreeSet<(&NetnsName, u64)> = runs
            .filter_map(|(id, chain)| match &chain.name.netns {
                Netns::Named(name) => Some((name, id.interface.netns_cookie)),
                Netns::Host | Netns::Nameless(_) => None,
            })
            .collect();
        for (name, cookie) in names {
            if let Err(error) = self.namespaces.number(name, cookie) {
                tracing::warn!(netns = %name, %error, "cannot give this network namespace a number: nobody could look into it without its name");
            }
        }
    }

    /// The namespace of a chain; absent, its interface is too. Its name may lead elsewhere since somebody looked.
    fn namespace(&mut self, chain: &NamedChain) -> Result<Namespace, StepError> {
        let NamedChain { id, name } = chain;
        match self.namespaces.look_up(&name.netns) {
            Ok(Lookup::Found(namespace)) if namespace.cookie == id.interface.netns_cookie => Ok(namespace),
            Ok(Lookup::Found(_)) => Err(StepError::Raced(name.clone())),
            Ok(Lookup::Absent | Lookup::NotANamespace) => Err(StepError::NoInterface(name.clone())),
            Err(error) => Err(failed(|| format!("enter network namespace `{}`", name.netns))(error)),
        }
    }
}

impl Kernel for HostKernel {
    type Staged = StagedApp;
    type Made = Made;
    type Maker = Box<dyn FnOnce() -> Result<Made, StepError> + Send>;

    fn heard_of_move(&mut self, interface: InterfaceId, namespace: u32, index: u32) {
        self.heard.insert(interface, (namespace, index));
    }

    fn heard_of_end(&mut self, number: Option<u32>) {
        match number {
            Some(number) => self.numbers.ended(number),
            None => self.numbers.doubt(),
        }
    }

    fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        // No operation is under way: nothing has to be put back any more.
        self.dispatchers.clear();
        self.left.clear();
        self.provided.clear();
        let Self { pins, known, namespaces, ids, modes, heard, .. } = self;
        let observed = observe::observe(pins, known, namespaces, ids, modes, heard, scope)?;
        if let Scope::Everything(_) = scope {
            self.number_namespaces(&observed);
        }
        Ok(observed)
    }

    fn stage(&mut self, app: AppUid, staged: StagedApp) {
        self.staged.insert(app, staged);
    }

    fn discard(&mut self, app: AppUid) {
        self.staged.remove(&app);
    }

    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<ProgramFacts>, StepError> {
        let need = Need::App { app, recipe: recipe.clone() };
        let What::App(staged) = self.obtain(&need)? else { return Err(another()) };
        let programs = staged.programs();
        self.stage(app, staged);
        Ok(programs)
    }

    fn maker(&mut self, need: &Need) -> Self::Maker {
        let apps: Vec<AppUid> = match need {
            Need::Copy { members, .. } | Need::Generation { members, .. } => {
                members.iter().map(|member| member.app).collect()
            }
            // Those that lend it maps.
            Need::App { recipe, .. } => recipe.shared.values().copied().collect(),
        };
        let code = |app: AppUid| {
            let staged = self.staged.get(&app).map(|staged| staged.code.clone());
            staged.or_else(|| self.codes.code(app)).map(|code| (app, code))
        };
        let maker = Maker {
            pins: self.pins.clone(),
            workers: self.workers.clone(),
            loader: self.loader.clone(),
            objects: self.objects.clone(),
            codes: apps.into_iter().filter_map(code).collect(),
        };
        let need = need.clone();
        Box::new(move || maker.make(&need))
    }

    fn provide(&mut self, need: &Need, made: Result<Made, StepError>) {
        self.provided.push((need.clone(), made));
    }

    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        let taken = self.take(step);
        // What a failed step has left is read anew, and so is what cannot be read now.
        let followed = taken.is_ok() && self.known.as_mut().is_none_or(|known| known.follow(&self.pins, step).is_ok());
        if !followed {
            self.known = None;
        }
        taken
    }

    fn stamp(&mut self) -> Result<Option<Stamp>, ObserveError> {
        let what = || "the stamp of the database beside the pins".to_owned();
        record::stamp(&self.pins).map_err(|error| ObserveError { what: what(), errno: error_chain(&error) })
    }

    fn set_stamp(&mut self, stamp: Stamp) -> Result<(), StepError> {
        let written = match &self.state {
            Some(map) => record::write_stamp(map, stamp),
            None => record::open_stamp(&self.pins, stamp).map(|map| self.state = Some(map)),
        };
        written.map_err(failed(|| "write the stamp of the database"))
    }
}

impl HostKernel {
    fn take(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        match step {
            Step::PinApp(app) => self.pin_app(*app)?,
            Step::BuildGeneration { generation, chain, content: ChainContent::Fused { members, recipes, room } } => {
                let (chain, members, recipes) = (chain.id, members.clone(), recipes.clone());
                let need = Need::Generation { generation: *generation, chain, members, recipes, room: *room };
                return self.build_generation(&need, *generation).map(Some);
            }
            Step::BuildGeneration { generation, chain, content: ChainContent::Dispatcher { version, slots } } => {
                return self.build_dispatcher(*generation, chain, *version, slots).map(Some);
            }
            Step::LoadCopy { slot, recipes } => self.load_copy(slot, recipes)?,
            Step::UnpinCopy(slot) => copy::unpin(&self.pins, *slot)?,
            Step::Adopt { chain, live } => self.adopt(chain, *live)?,
            Step::DropGeneration(generation) => {
                self.built.remove(generation);
                self.dispatchers.remove(generation);
            }
            Step::PinGeneration(generation) => self.pin_generation(*generation)?,
            Step::AttachLink { link, app, function, hook } => {
                hook::attach(&self.pins, &mut self.hooks, *link, (*app, function), hook)?;
            }
            Step::DetachLink(link) => hook::detach(&self.pins, *link)?,
            Step::Swap { chain, from, to, mode, at } => self.swap(chain, *from, *to, *mode, *at)?,
            Step::UnpinGeneration(generation) => self.unpin_generation(*generation)?,
            Step::UnpinApp(app) => {
                self.codes.forget(*app);
                app::unpin(&self.pins, *app)?;
            }
            Step::Record(row) => record::write(&self.pins, row)?,
            Step::Unrecord(link) => record::remove(&self.pins, *link)?,
        }
        Ok(None)
    }
}

/// A program for an interface.
struct Attachable {
    fd: OwnedFd,
    id: KernelId,
    name: String,
    /// libxdp must find what is in it.
    is_dispatcher: bool,
}

impl Attachable {
    fn of(fd: OwnedFd) -> Result<Self, StepError> {
        let info = prog_info(fd.as_fd()).map_err(failed(|| "read a program of an interface"))?;
        let is_dispatcher = info.name == DISPATCHER;
        Ok(Self { fd, id: KernelId(info.id.0), name: info.name, is_dispatcher })
    }

    fn going(&self, generation: GenerationUid) -> Going<'_> {
        Going { generation, fd: self.fd.as_fd(), id: self.id, name: self.name.clone() }
    }
}

/// What was provided is not for this need. The need has the values of global variables: it is not shown.
fn another() -> StepError {
    StepError::Call { doing: "use what was made for the plan".to_owned(), errno: "it is something else".to_owned() }
}

/// What a step says when a call fails; `doing` in the user's terms.
pub(crate) fn failed<S: Into<String>>(doing: impl FnOnce() -> S) -> impl FnOnce(io::Error) -> StepError {
    move |error| StepError::Call { doing: doing().into(), errno: error_chain(&error) }
}
