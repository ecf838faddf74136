//! A kernel in memory: the same steps with the same effects, and a failure or a death at any of them. What tests of the engine
//! run on; pure, and as strict as the real one: what nothing holds is gone, and what cannot be found by its pins is not found.
//!
//! Staged things are file descriptors of the process: a death loses them. Pins and attachments stay. It counts what it makes itself with
//! a step, since nobody provided it.
//!
//! Long because each step is here, in one match.

mod dispatchers;

use std::collections::{BTreeMap, BTreeSet};

use dispatchers::{Dispatcher, Dispatchers, Holders};
pub(crate) use dispatchers::{Filled, Loaded};

use bpfd_core::adopt::Spared;
use bpfd_core::cow::CowMap;
use bpfd_core::hook::{ChainId, ChainName, InterfaceId, NamedChain, Point, ProceedOn, XdpMode};
use bpfd_core::ident::{AppUid, GenerationUid, KernelId, LinkUid, SlotUid};
use bpfd_core::kernel::{
    ChainContent, ChainMode, DispatcherVersion, EntryProgram, ForeignProgram, ForeignSlot, Kernel, Live,
    LiveDispatcher, LiveGeneration, Member, Need, ObserveError, Observed, ObservedChain, OurSlot, PinnedApp,
    PinnedCopy, PinnedGeneration, Recipe, Runs, SLOTS, Scope, SequenceEntry, Slot, Spot, Step, StepError, Targets,
};
use bpfd_core::names::{Netns, Priority};
use bpfd_core::record::Row;
use bpfd_core::stamp::Stamp;
use bpfd_core::state::{ProgramFacts, State};
use ebpf::verifier_log::Rejection;

/// What happens at a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// The step fails and changes nothing.
    Fail,
    /// The process ends before the step.
    DieBefore,
    /// The process ends in the midst of the step: half a directory of an app is left, or libxdp's directory of a dispatcher that
    /// nothing runs yet. At any other step as `DieBefore`.
    DieHalfway,
    /// The process ends after the swap itself: libxdp's directory of what ran before is left. At any other step as `DieAfter`.
    DieSwapped,
    /// The process ends after the step, before anybody hears of it.
    DieAfter,
}

/// What another user of libxdp does. It does nothing where libxdp would refuse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PeerMove {
    /// Loads a program of its own.
    Load {
        /// Onto this interface.
        chain: ChainName,
        /// Its function.
        name: String,
        /// Its place.
        priority: u32,
        /// Of the dispatcher, if it makes the first.
        version: u8,
    },
    /// Takes its first program off.
    Unload(ChainName),
    /// Takes everything off an interface, ours too.
    UnloadAll(ChainName),
    /// Cleans libxdp's directory up from another network namespace, where no interface runs any of it.
    Clean,
    /// No peer's: an interface comes.
    Comes(ChainName),
    /// No peer's: an interface goes.
    Goes(ChainName),
}

/// What a need was made into.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    Program(KernelId),
    App(PinnedApp),
}

/// How far a swap gets.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Until {
    Shared,
    Swapped,
    Done,
}

#[derive(Clone, Debug)]
struct Top {
    program: KernelId,
    members: Vec<Member>,
    /// Functions of all slots.
    names: Vec<String>,
    chain: ChainId,
    /// The programs whose links it holds; `None` for a fused one.
    links: Option<BTreeSet<KernelId>>,
}

/// Interfaces are named by their XDP hook.
fn at_xdp(name: &ChainName) -> ChainName {
    ChainName { point: Point::Xdp, ..name.clone() }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel {
    /// Interfaces that exist.
    pub(crate) interfaces: BTreeMap<ChainName, InterfaceId>,
    attached: BTreeMap<InterfaceId, (KernelId, XdpMode)>,
    /// What tc hooks run, in order, with the preferences of filters.
    sequences: BTreeMap<ChainId, Vec<(Option<u16>, KernelId)>>,
    foreign: BTreeMap<KernelId, String>,
    staged_apps: BTreeMap<AppUid, PinnedApp>,
    /// Which maps an app's object has: it is made again with them.
    maps: BTreeMap<AppUid, Vec<String>>,
    /// Generations held by descriptors. Dispatchers among them are held with all that is in them, until the next look.
    staged_generations: BTreeMap<GenerationUid, Top>,
    apps: BTreeMap<AppUid, PinnedApp>,
    half_made: BTreeSet<AppUid>,
    generations: BTreeMap<GenerationUid, Top>,
    links: BTreeSet<LinkUid>,
    copies: CowMap<SlotUid, PinnedCopy>,
    recorded: State,
    stamp: Option<Stamp>,
    /// Apps whose objects are lost, or that the verifier does not take any more.
    unloadable: BTreeSet<AppUid>,
    /// Apps whose programs run alone only.
    unshareable: BTreeSet<AppUid>,
    /// How many members a fused program may have before the verifier has enough; `None` if it has not.
    patience: Option<usize>,
    mode: Option<ChainMode>,
    dispatchers: Dispatchers,
    /// What peers put on interfaces and did not take off; `false` where a clean-up of theirs may have ended it.
    theirs: BTreeMap<InterfaceId, Vec<(Filled, bool)>>,
    provided: Vec<(Need, Result<Made, StepError>)>,
    /// What was made with a step that needs it, on the engine's thread.
    pub(crate) made_here: usize,
    next_id: u32,
    next_map: u32,
    next_index: u32,
    steps: usize,
    fate: Option<(usize, Fate)>,
    peers: Vec<(usize, PeerMove)>,
    dead: bool,
    /// Every step that took effect, as text.
    pub(crate) log: Vec<String>,
}

impl FakeKernel {
    /// A kernel with these interfaces, nothing attached.
    pub(crate) fn with_interfaces(chains: impl IntoIterator<Item = ChainName>) -> Self {
        let interfaces =
            chains.into_iter().zip(1..).map(|(chain, index)| (chain, InterfaceId { netns_cookie: 1, index }));
        Self { interfaces: interfaces.collect(), ..Self::default() }
    }

    /// Something else takes an interface.
    pub(crate) fn attach_foreign(&mut self, chain: &ChainName, name: &str) {
        let id = self.fresh_id();
        self.foreign.insert(id, name.to_owned());
        self.attached.insert(self.interfaces[chain], (id, XdpMode::Native));
    }

    /// Something else comes to a tc hook, before all that is there.
    pub(crate) fn join_sequence(&mut self, chain: &ChainName, preference: Option<u16>, name: &str) {
        let id = self.fresh_id();
        self.foreign.insert(id, name.to_owned());
        let chain = ChainId { interface: self.interfaces[&at_xdp(chain)], point: chain.point };
        let sequence = self.sequences.entry(chain).or_default();
        sequence.insert(0, (preference, id));
        sequence.sort_by_key(|(preference, _)| *preference);
    }

    /// From now on chains are kept in this way.
    pub(crate) fn keep_chains(&mut self, mode: ChainMode) {
        self.mode = Some(mode);
    }

    /// A peer acts; `false` if libxdp would have refused.
    pub(crate) fn peer(&mut self, act: &PeerMove) -> bool {
        let id = self.fresh_id();
        let at = |chain: &ChainName| self.interfaces.get(chain).copied();
        let runs = |chain: &ChainName| Some(self.attached.get(&at(chain)?)?.0);
        let done = match act {
            PeerMove::Load { chain, name, priority, version } => {
                let before = runs(chain);
                let interface = at(chain);
                let program = self.fresh_id();
                let load_time = u64::from(program.0);
                let loaded = Loaded { name: name.clone(), tag: [0x80; 8], load_time, program };
                let slot = Filled { priority: *priority, actions: 1 << 2, flags: 0, loaded, linked: true };
                let added = interface.filter(|_| self.dispatchers.peer_adds(id, before, *version, slot.clone()));
                if let Some(interface) = added {
                    self.theirs.entry(interface).or_default().push((slot, true));
                    self.attached.insert(interface, (id, XdpMode::Native));
                }
                added.is_some()
            }
            PeerMove::Unload(chain) => {
                let theirs = self.slots(chain).into_iter().find(|slot| self.ext_of(slot.loaded.program).is_none());
                let removed = at(chain).zip(runs(chain)).zip(theirs).and_then(|((interface, before), slot)| {
                    let left = self.dispatchers.peer_removes(id, before, slot.loaded.program)?;
                    let theirs = self.theirs.entry(interface).or_default();
                    theirs.retain(|(found, _)| found.loaded.program != slot.loaded.program);
                    match left {
                        true => self.attached.insert(interface, (id, XdpMode::Native)),
                        false => self.attached.remove(&interface),
                    };
                    Some(())
                });
                removed.is_some()
            }
            PeerMove::UnloadAll(chain) => match at(chain).and_then(|at| Some((at, self.attached.remove(&at)?))) {
                Some((interface, (program, _))) => {
                    self.dispatchers.unshare(program);
                    self.theirs.remove(&interface);
                    true
                }
                None => false,
            },
            PeerMove::Comes(chain) => {
                self.add_interface(chain.clone());
                true
            }
            PeerMove::Goes(chain) => self.remove_interface(chain),
            PeerMove::Clean => {
                self.dispatchers.clean();
                self.theirs.values_mut().flatten().for_each(|(_, kept)| *kept = false);
                true
            }
        };
        self.collect();
        done
    }

    /// At the `step`th step from now on, counted from 0, a peer acts first.
    pub(crate) fn peer_at_step(&mut self, step: usize, act: PeerMove) {
        self.peers.push((self.steps + step, act));
    }

    /// What the dispatcher of an interface runs, in order, as a peer sees it.
    pub(crate) fn slots(&self, chain: &ChainName) -> Vec<Filled> {
        let attached = self.interfaces.get(chain).and_then(|interface| self.attached.get(interface));
        let program = attached.map(|(program, _)| program);
        let dispatcher = program.and_then(|program| self.dispatchers.all.get(program));
        dispatcher.iter().flat_map(|found| &found.slots).filter(|slot| slot.linked).cloned().collect()
    }

    /// The version of an interface's dispatcher.
    pub(crate) fn version(&self, chain: &ChainName) -> Option<u8> {
        let (program, _) = self.attached.get(self.interfaces.get(chain)?)?;
        self.dispatchers.all.get(program).map(|dispatcher| dispatcher.version)
    }

    /// What is wrong with what peers see, in a sentence each: K5, the comparator's order, one place a program, no directory of
    /// libxdp's for what nothing runs.
    pub(crate) fn wrong_for_peers(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let named = |interface: &InterfaceId| self.interfaces.iter().find(|(_, found)| *found == interface);
        for (interface, (attached, _)) in &self.attached {
            let Some((chain, _)) = named(interface) else { continue };
            let slots = self.slots(chain);
            if !slots.is_sorted_by_key(Filled::place) {
                wrong.push(format!("{chain}: not in libxdp's order: {slots:?}"));
            }
            if slots.iter().map(|slot| slot.loaded.program).collect::<BTreeSet<_>>().len() != slots.len() {
                wrong.push(format!("{chain}: a program is there twice: {slots:?}"));
            }
            if self.dispatchers.all.contains_key(attached) && slots.len() > SLOTS {
                wrong.push(format!("{chain}: more programs than slots"));
            }
            let known = self.theirs.get(interface).map(Vec::as_slice).unwrap_or_default();
            let lost = known.iter().filter(|(slot, kept)| *kept && !slots.contains(slot));
            wrong.extend(lost.map(|(slot, _)| format!("{chain}: lost or changed: {slot:?}")));
            let others = slots.iter().filter(|slot| self.ext_of(slot.loaded.program).is_none());
            let unknown = others.filter(|slot| !known.iter().any(|(found, _)| found == *slot));
            wrong.extend(unknown.map(|slot| format!("{chain}: nobody's: {slot:?}")));
        }
        let absent = self.theirs.iter().filter(|(interface, _)| !self.attached.contains_key(interface));
        let absent = absent.filter(|(_, slots)| slots.iter().any(|(_, kept)| *kept));
        wrong.extend(absent.map(|(interface, slots)| format!("{}: lost with all: {slots:?}", interface.index)));
        let attached = self.attached.values().map(|(program, _)| *program).collect();
        let left_over = self.dispatchers.left_over(&attached).into_iter();
        wrong.extend(left_over.map(|id| format!("libxdp's directory of dispatcher {id}, which nothing runs")));
        wrong
    }

    fn ext_of(&self, program: KernelId) -> Option<&OurSlot> {
        self.copies.values().find(|copy| copy.program == program).map(|copy| &copy.slot)
    }

    /// What nobody holds any more goes.
    fn collect(&mut self) {
        let links = |generation: &Top| generation.links.clone().map(|links| (generation.program, links));
        let holders = Holders {
            attached: self.attached.values().map(|(program, _)| *program).collect(),
            whole: self
                .staged_generations
                .values()
                .filter(|generation| generation.links.is_some())
                .map(|generation| generation.program)
                .collect(),
            pinned: self.generations.values().filter_map(links).collect(),
        };
        self.dispatchers.collect(&holders);
    }

    /// An interface goes, and what it ran with it; `false` if there was none.
    pub(crate) fn remove_interface(&mut self, chain: &ChainName) -> bool {
        let Some(gone) = self.interfaces.get(chain).copied() else { return false };
        self.interfaces.retain(|_, interface| *interface != gone);
        self.attached.remove(&gone);
        self.sequences.retain(|chain, _| chain.interface != gone);
        self.theirs.remove(&gone);
        self.collect();
        true
    }

    /// An interface gets another name.
    pub(crate) fn rename(&mut self, chain: &ChainName, new: ChainName) {
        if let Some(interface) = self.interfaces.remove(chain) {
            self.interfaces.insert(new, interface);
        }
    }

    /// An app cannot be loaded again from now on.
    pub(crate) fn lose(&mut self, app: AppUid) {
        self.unloadable.insert(app);
    }

    /// An app's programs share with no others from now on.
    pub(crate) fn keep_alone(&mut self, app: AppUid) {
        self.unshareable.insert(app);
    }

    /// The verifier takes no fused program of more members from now on.
    pub(crate) fn bear(&mut self, members: Option<usize>) {
        self.patience = members;
    }

    /// An interface that has two names: those of its network namespace.
    pub(crate) fn alias(&mut self, chain: &ChainName, also: ChainName) {
        if let Some(interface) = self.interfaces.get(chain) {
            self.interfaces.insert(also, *interface);
        }
    }

    /// An interface comes, with an index that none had before.
    pub(crate) fn add_interface(&mut self, chain: ChainName) {
        self.next_index += 1;
        self.interfaces.insert(chain, InterfaceId { netns_cookie: 1, index: 1000 + self.next_index });
    }

    /// Somebody takes off what an interface runs.
    pub(crate) fn clear(&mut self, chain: &ChainName) {
        self.attached.remove(&self.interfaces[chain]);
        self.theirs.remove(&self.interfaces[chain]);
        self.collect();
    }

    /// The digest of an app's instructions, the same for every copy of them.
    pub(crate) fn tag(app: AppUid) -> [u8; 8] {
        app.bytes().last().map_or([0; 8], |last| [last.wrapping_mul(167); 8])
    }

    /// What loading does for real: an app's programs and maps as file descriptors.
    pub(crate) fn load(&mut self, functions: &[&str], maps: &[&str]) -> PinnedApp {
        let programs = functions.iter().map(|function| ((*function).to_owned(), self.fresh_id())).collect();
        // The kernel numbers maps apart from programs.
        let maps = maps.iter().map(|map| {
            self.next_map += 1;
            ((*map).to_owned(), KernelId(self.next_map))
        });
        PinnedApp { programs, verified: BTreeMap::new(), maps: maps.collect() }
    }

    /// At the `step`th step from now on, counted from 0, this happens.
    pub(crate) fn at_step(&mut self, step: usize, fate: Fate) {
        self.fate = Some((self.steps + step, fate));
    }

    /// Whether the step of the last `at_step` or `peer_at_step` came.
    pub(crate) fn met(&self) -> bool {
        self.fate.is_none_or(|(at, _)| at < self.steps) && self.peers.is_empty()
    }

    /// A new process: what was staged is gone, pins and attachments are not.
    pub(crate) fn restart(&mut self) {
        self.staged_apps.clear();
        self.staged_generations.clear();
        self.provided.clear();
        self.fate = None;
        self.peers.clear();
        self.dead = false;
        self.collect();
    }

    /// What earlier versions did not write is gone.
    pub(crate) fn forget_records(&mut self) {
        (self.recorded, self.stamp) = (State::default(), None);
    }

    /// Somebody removed the state map.
    pub(crate) fn forget_stamp(&mut self) {
        self.stamp = None;
    }

    /// A new boot: only interfaces are left.
    pub(crate) fn reboot(&mut self) {
        self.restart();
        self.attached.clear();
        self.sequences.clear();
        self.apps.clear();
        self.half_made.clear();
        self.generations.clear();
        self.links.clear();
        self.copies = CowMap::default();
        self.forget_records();
        self.dispatchers = Dispatchers::default();
        self.theirs.clear();
    }

    /// Program ids that exist: K8 counts them.
    pub(crate) fn programs(&self) -> usize {
        let apps = self.apps.values().chain(self.staged_apps.values()).map(|app| app.programs.len()).sum::<usize>();
        let generations =
            self.generations.values().chain(self.staged_generations.values()).map(|generation| generation.program);
        let generations: BTreeSet<KernelId> = generations.chain(self.dispatchers.all.keys().copied()).collect();
        let copies = self.copies.values().map(|copy| copy.program).chain(self.dispatchers.programs());
        apps + generations.len() + copies.collect::<BTreeSet<_>>().len()
    }

    fn fresh_id(&mut self) -> KernelId {
        self.next_id += 1;
        KernelId(self.next_id)
    }

    fn refuse(doing: &str, errno: &str) -> StepError {
        StepError::Call { doing: doing.to_owned(), errno: errno.to_owned() }
    }

    fn apply(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        match step {
            Step::PinApp(app) => {
                let staged = self.staged_apps.remove(app).ok_or_else(|| Self::refuse("pin app", "nothing staged"))?;
                self.half_made.remove(app);
                self.apps.insert(*app, staged);
            }
            Step::BuildGeneration { generation, chain, content } => {
                let built = self.build(*generation, chain, content)?;
                let program = built.program;
                self.staged_generations.insert(*generation, built);
                return Ok(Some(program));
            }
            Step::LoadCopy { slot, recipes } => {
                let members: Vec<Member> = slot.members().cloned().collect();
                if !members.iter().all(|member| self.apps.contains_key(&member.app)) {
                    return Err(Self::refuse("load", "app is not pinned"));
                }
                let program = self.obtain(&Need::Copy { members, recipes: recipes.clone() })?;
                let tag = Self::tag(slot.first.app);
                let copy = PinnedCopy { slot: slot.clone(), program, tag, load_time: u64::from(program.0) };
                self.copies.insert(slot.uid, copy);
            }
            Step::UnpinCopy(slot) => {
                self.copies.remove(slot);
            }
            Step::Adopt { chain, .. } if chain.id.point != Point::Xdp => {
                return Err(Self::refuse("adopt", "a tcx link without a pin is gone"));
            }
            Step::Adopt { chain, live } => {
                if self.attached.get(&chain.id.interface).map(|(program, _)| *program) != Some(live.program) {
                    return Err(StepError::Raced(chain.name.clone()));
                }
                self.capture(chain, *live)?;
                self.pin_generation(live.generation)?;
            }
            Step::DropGeneration(generation) => {
                self.staged_generations.remove(generation);
            }
            Step::PinGeneration(generation) => self.pin_generation(*generation)?,
            Step::AttachLink { link, app, function, hook: _ } => {
                let pinned = self.apps.get(app).ok_or_else(|| Self::refuse("attach", "app is not pinned"))?;
                if !pinned.programs.contains_key(function) || !self.links.insert(*link) {
                    return Err(Self::refuse("attach", "no program, or attached already"));
                }
            }
            Step::DetachLink(link) => {
                self.links.remove(link);
            }
            Step::Swap { chain, from, to, mode: _, at } if chain.id.point != Point::Xdp => {
                self.swap_in_sequence(chain, *from, *to, *at)?;
            }
            Step::Swap { chain, from, to, mode, at: _ } => self.swap(chain, *from, *to, *mode, Until::Done)?,
            Step::UnpinGeneration(generation) => {
                let pinned = self.generations.get(generation).cloned();
                if pinned.as_ref().is_some_and(|pinned| self.runs(pinned)) {
                    return Err(Self::refuse("unpin generation", "it is attached"));
                }
                if let Some(Top { program, links: Some(_), .. }) = pinned {
                    self.dispatchers.unshare(program);
                }
                self.generations.remove(generation);
                self.staged_generations.remove(generation);
            }
            Step::UnpinApp(app) => {
                self.half_made.remove(app);
                self.apps.remove(app);
                self.recorded.apps.remove(app);
            }
            Step::Record(row) => match row.as_ref() {
                Row::App(app) if !self.apps.contains_key(&app.uid) => {
                    return Err(Self::refuse("record", "app is not pinned"));
                }
                Row::App(app) => drop(self.recorded.apps.insert(app.uid, app.clone())),
                Row::Link(link) => drop(self.recorded.links.insert(link.uid, link.clone())),
            },
            Step::Unrecord(link) => {
                self.recorded.links.remove(link);
            }
        }
        self.log.push(step.to_string());
        Ok(None)
    }

    fn interface(&self, chain: &NamedChain) -> Result<InterfaceId, StepError> {
        let found = self.interfaces.values().find(|interface| **interface == chain.id.interface);
        found.copied().ok_or_else(|| StepError::NoInterface(chain.name.clone()))
    }

    fn build(
        &mut self,
        generation: GenerationUid,
        chain: &NamedChain,
        content: &ChainContent,
    ) -> Result<Top, StepError> {
        self.interface(chain)?;
        match content {
            ChainContent::Fused { members, recipes, room } => {
                if members.iter().any(|member| !self.apps.contains_key(&member.app)) {
                    return Err(Self::refuse("build", "app is not pinned"));
                }
                let (members, recipes) = (members.clone(), recipes.clone());
                let chain = chain.id;
                let need = Need::Generation { generation, chain, members: members.clone(), recipes, room: *room };
                let program = self.obtain(&need)?;
                Ok(Top { program, members, names: Vec::new(), chain, links: None })
            }
            ChainContent::Dispatcher { version, slots } => {
                let filled =
                    slots.iter().map(|slot| self.fill(slot).ok_or_else(|| StepError::Raced(chain.name.clone())));
                let filled: Vec<Filled> = filled.collect::<Result<_, _>>()?;
                let members = Slot::members(slots).cloned().collect::<Vec<_>>();
                let ours = filled.iter().zip(slots).filter(|(_, slot)| slot.ours().is_some());
                let links: BTreeSet<KernelId> = ours.map(|(filled, _)| filled.loaded.program).collect();
                if filled.is_empty() || filled.len() > SLOTS || links.len() != members.len() {
                    return Err(Self::refuse("build", "no program, too many, or one of ours twice"));
                }
                let program = self.fresh_id();
                let names = filled.iter().map(|slot| slot.loaded.name.clone()).collect();
                self.dispatchers.all.insert(program, Dispatcher { version: *version, slots: filled });
                Ok(Top { program, members, names, chain: chain.id, links: Some(links) })
            }
        }
    }

    /// What was provided for a program, or is made with its step.
    fn obtain(&mut self, need: &Need) -> Result<KernelId, StepError> {
        match self.made(need)? {
            Made::Program(program) => Ok(program),
            Made::App(_) => Err(Self::refuse("use", "another need's")),
        }
    }

    fn made(&mut self, need: &Need) -> Result<Made, StepError> {
        let provided = self.provided.iter().find(|(provided, _)| provided == need);
        match provided.map(|(_, made)| made.clone()) {
            Some(made) => made,
            None => {
                self.made_here += 1;
                self.make(need)
            }
        }
    }

    /// What the verifier says, of pinned apps and of staged ones.
    fn make(&mut self, need: &Need) -> Result<Made, StepError> {
        let has = |member: &Member| {
            let app = self.apps.get(&member.app).or_else(|| self.staged_apps.get(&member.app));
            app.is_some_and(|app| app.programs.contains_key(&member.function))
        };
        match need {
            Need::Copy { members, recipes } => {
                for member in members {
                    let made = recipes.get(&member.app);
                    if !has(member) || !made.is_some_and(|it| it.functions.contains_key(&member.function)) {
                        return Err(Self::refuse("load", "no such program"));
                    }
                    if self.unshareable.contains(&member.app) {
                        return Err(StepError::Object { why: "no type information".to_owned() });
                    }
                }
            }
            Need::Generation { generation: _, chain: _, members, recipes, room: _ } => {
                if self.patience.is_some_and(|most| members.len() > most) {
                    let message = Some("BPF program is too large. Processed 1000001 insn".to_owned());
                    let rejection = Box::new(Rejection { message, ..Rejection::default() });
                    return Err(StepError::Verifier {
                        program: "bpfd_fused".to_owned(),
                        link: None,
                        log: String::new(),
                        rejection,
                    });
                }
                for member in members {
                    if !has(member) || !recipes.contains_key(&member.app) {
                        return Err(Self::refuse("build", "no such program"));
                    }
                    if members.len() > 1 && self.unshareable.contains(&member.app) {
                        let (member, link) = (member.function.clone(), Some(member.link));
                        return Err(StepError::CannotFuse { member, link, why: "no type information".to_owned() });
                    }
                }
            }
            Need::App { app, recipe } => {
                if self.unloadable.contains(app) {
                    return Err(StepError::Object { why: "it is lost".to_owned() });
                }
                let names: Vec<&str> = recipe.functions.keys().map(String::as_str).collect();
                let maps = self.maps.get(app).cloned().unwrap_or_default();
                let maps: Vec<&str> = maps.iter().map(String::as_str).collect();
                return Ok(Made::App(self.load(&names, &maps)));
            }
        }
        Ok(Made::Program(self.fresh_id()))
    }

    /// A slot with its program; `None` if that is gone.
    fn fill(&self, slot: &Slot) -> Option<Filled> {
        match slot {
            Slot::Ours(slot) => {
                let PinnedCopy { program, tag, load_time, slot: _ } = *self.copies.get(&slot.uid)?;
                let loaded = Loaded { name: slot.first.function.clone(), tag, load_time, program };
                let (priority, actions) = (u32::from(slot.first.effective), slot.proceed_on().bits());
                Some(Filled { priority, actions, flags: 0, loaded, linked: true })
            }
            Slot::Foreign(ForeignSlot { program, priority, actions, flags, .. }) => {
                let loaded = self.dispatchers.program(*program)?.clone();
                Some(Filled { priority: *priority, actions: *actions, flags: *flags, loaded, linked: true })
            }
        }
    }

    fn pin_generation(&mut self, generation: GenerationUid) -> Result<(), StepError> {
        let built = self
            .staged_generations
            .get(&generation)
            .cloned()
            .ok_or_else(|| Self::refuse("pin generation", "not built"))?;
        match self.generations.contains_key(&generation) {
            true => Err(Self::refuse("pin generation", "its directory is there")),
            false => {
                self.generations.insert(generation, built);
                Ok(())
            }
        }
    }

    /// Holds a dispatcher that runs, with what is left in it.
    fn capture(&mut self, chain: &NamedChain, live: LiveGeneration) -> Result<(), StepError> {
        if self.staged_generations.contains_key(&live.generation) {
            return Ok(());
        }
        self.interface(chain)?;
        let found = self.dispatchers.all.get(&live.program).ok_or_else(|| StepError::Raced(chain.name.clone()))?;
        let slots: Vec<Slot> = found.slots.iter().filter(|slot| slot.linked).map(|slot| self.slot(slot)).collect();
        let members = Slot::members(&slots).cloned().collect();
        let links = found.slots.iter().filter(|slot| slot.linked).map(|slot| slot.loaded.program);
        let links = links.filter(|program| self.ext_of(*program).is_some()).collect();
        let names = slots.iter().map(|slot| match slot {
            Slot::Ours(slot) => slot.first.function.clone(),
            Slot::Foreign(slot) => slot.name.clone(),
        });
        let names = names.collect();
        self.staged_generations.insert(
            live.generation,
            Top { program: live.program, members, names, chain: chain.id, links: Some(links) },
        );
        Ok(())
    }

    /// What a slot is to bpfd: ours if its program is one of the pinned copies.
    fn slot(&self, filled: &Filled) -> Slot {
        let Filled { priority, actions, flags, loaded, linked: _ } = filled;
        match self.ext_of(loaded.program) {
            Some(slot) => {
                let mut slot = slot.clone();
                let first = &mut slot.first;
                first.priority = Priority::try_from(*priority).unwrap_or(first.priority);
                first.effective = Priority::try_from(*priority).unwrap_or(first.effective);
                first.proceed_on = ProceedOn::from_bits(*actions).unwrap_or(first.proceed_on);
                Slot::Ours(slot)
            }
            None => Slot::Foreign(ForeignSlot {
                program: loaded.program,
                name: loaded.name.clone(),
                tag: loaded.tag,
                load_time: loaded.load_time,
                priority: *priority,
                actions: *actions,
                flags: *flags,
            }),
        }
    }

    fn swap(
        &mut self,
        chain: &NamedChain,
        from: Option<LiveGeneration>,
        to: Option<GenerationUid>,
        mode: XdpMode,
        until: Until,
    ) -> Result<(), StepError> {
        let raced = || StepError::Raced(chain.name.clone());
        let interface = self.interface(chain)?;
        let known = |kernel: &Self, generation| {
            kernel.staged_generations.get(&generation).or_else(|| kernel.generations.get(&generation)).cloned()
        };
        if let Some(live) = from {
            let by_number = live.generation == GenerationUid::of_peer(live.program);
            match known(self, live.generation) {
                Some(generation) if generation.program == live.program => {}
                None if by_number && self.dispatchers.all.contains_key(&live.program) => {}
                Some(_) | None => return Err(raced()),
            }
            if self.dispatchers.all.contains_key(&live.program) {
                self.capture(chain, live)?;
            }
        }
        let coming = to
            .map(|generation| known(self, generation).ok_or_else(|| Self::refuse("swap", "not built")))
            .transpose()?;
        if coming.as_ref().is_some_and(|coming| coming.chain != chain.id) {
            return Err(raced());
        }
        // Only a dispatcher that is held with all that is in it can be pinned for libxdp.
        let shares = |generation: &GenerationUid| {
            self.staged_generations.get(generation).filter(|generation| generation.links.is_some())
        };
        let shared = to.as_ref().and_then(shares).map(|generation| generation.program);
        if shared.is_some_and(|program| !self.dispatchers.share(program)) {
            return Err(Self::refuse("pin the slots", "libxdp's directory of the dispatcher is there"));
        }
        if until == Until::Shared {
            return Ok(());
        }
        let runs = self.attached.get(&interface).map(|(program, _)| *program);
        if runs != from.map(|live| live.program) {
            shared.into_iter().for_each(|program| self.dispatchers.unshare(program));
            return Err(raced());
        }
        match coming {
            None => self.attached.remove(&interface),
            Some(generation) => {
                let driven = if mode == XdpMode::Auto { XdpMode::Native } else { mode };
                self.attached.insert(interface, (generation.program, driven))
            }
        };
        if let (Until::Done, Some(live)) = (until, from) {
            self.dispatchers.unshare(live.program);
        }
        Ok(())
    }

    /// As strict as the kernel: what leaves must be there, in a tcx chain a program is there once, and its neighbour must be.
    fn swap_in_sequence(
        &mut self,
        chain: &NamedChain,
        from: Option<LiveGeneration>,
        to: Option<GenerationUid>,
        at: Spot,
    ) -> Result<(), StepError> {
        self.interface(chain)?;
        let raced = || StepError::Raced(chain.name.clone());
        let coming =
            to.map(|generation| self.generations.get(&generation).ok_or_else(|| Self::refuse("swap", "not pinned")));
        let coming = coming.transpose()?.map(|generation| (generation.chain, generation.program));
        if coming.is_some_and(|(made_for, _)| made_for != chain.id) {
            return Err(raced());
        }
        let leaving =
            from.map(|live| self.generations.get(&live.generation).filter(|found| found.program == live.program));
        let leaving = leaving.map(|found| found.map(|found| found.program).ok_or_else(raced)).transpose()?;
        let neighbour = |generation: GenerationUid| self.generations.get(&generation).map(|found| found.program);
        let sequence = self.sequences.get(&chain.id).cloned().unwrap_or_default();
        let place = |program: Option<KernelId>| sequence.iter().position(|(_, found)| Some(*found) == program);
        let mut sequence = sequence.clone();
        let preference = match at {
            Spot::Preference(preference) => Some(preference),
            Spot::Whole | Spot::After(_) | Spot::Before(_) | Spot::Last => None,
        };
        match (leaving, coming) {
            (Some(leaving), coming) => {
                let place = place(Some(leaving)).ok_or_else(raced)?;
                if sequence[place].0 != preference {
                    return Err(raced());
                }
                match coming {
                    Some((_, coming)) => sequence[place].1 = coming,
                    None => drop(sequence.remove(place)),
                }
            }
            (None, Some((_, coming))) => {
                let first_filter =
                    sequence.iter().position(|(preference, _)| preference.is_some()).unwrap_or(sequence.len());
                let place = match at {
                    Spot::After(before) => place(neighbour(before)).ok_or_else(raced)? + 1,
                    Spot::Before(after) => place(neighbour(after)).ok_or_else(raced)?,
                    Spot::Whole | Spot::Last => first_filter,
                    Spot::Preference(wanted) => match sequence.iter().any(|(taken, _)| *taken == Some(wanted)) {
                        true => return Err(raced()),
                        false => sequence.iter().position(|(other, _)| other > &Some(wanted)).unwrap_or(sequence.len()),
                    },
                };
                sequence.insert(place, (preference, coming));
            }
            (None, None) => {}
        }
        self.sequences.insert(chain.id, sequence);
        Ok(())
    }

    /// Whether the interface that a generation was made for runs it.
    fn runs(&self, generation: &Top) -> bool {
        if generation.chain.point != Point::Xdp {
            let sequence = self.sequences.get(&generation.chain).map(Vec::as_slice).unwrap_or_default();
            return sequence.iter().any(|(_, program)| *program == generation.program);
        }
        self.attached.get(&generation.chain.interface).is_some_and(|(program, _)| *program == generation.program)
    }

    /// What a hook of an interface runs.
    fn live(&self, ChainId { interface, point }: ChainId) -> Live {
        if point != Point::Xdp {
            let entry = |(preference, program): &(Option<u16>, KernelId)| {
                let mut generations = self.generations.iter();
                let ours = generations.find(|(_, found)| found.program == *program);
                let program = match ours {
                    Some((generation, _)) => {
                        EntryProgram::Ours(LiveGeneration { program: *program, generation: *generation })
                    }
                    None => EntryProgram::Foreign(self.foreign_program(*program)),
                };
                SequenceEntry { preference: *preference, program }
            };
            let sequence = self.sequences.get(&ChainId { interface, point }).map(Vec::as_slice).unwrap_or_default();
            return Live::Sequence(sequence.iter().map(entry).collect());
        }
        let ours = |program: KernelId| {
            let mut generations = self.generations.iter();
            generations
                .find(|(_, generation)| generation.program == program && generation.chain.interface == interface)
                .map(|(uid, _)| *uid)
        };
        match self.attached.get(&interface) {
            None => Live::Empty,
            Some((program, _)) if self.dispatchers.all.contains_key(program) => {
                let generation = ours(*program).unwrap_or_else(|| GenerationUid::of_peer(*program));
                Live::Dispatcher(self.dispatcher(LiveGeneration { program: *program, generation }))
            }
            Some((program, _)) => match ours(*program) {
                Some(generation) => Live::Ours(LiveGeneration { program: *program, generation }),
                None => Live::Foreign(self.foreign_program(*program)),
            },
        }
    }

    fn foreign_program(&self, program: KernelId) -> ForeignProgram {
        let name = self.foreign.get(&program).cloned().unwrap_or_default();
        ForeignProgram { program, name, link: None, holders: vec![] }
    }
}

impl Kernel for FakeKernel {
    type Staged = PinnedApp;
    type Made = Made;
    type Maker = Box<dyn FnOnce() -> Result<Made, StepError> + Send>;

    fn stage(&mut self, app: AppUid, staged: PinnedApp) {
        self.maps.insert(app, staged.maps.keys().cloned().collect());
        self.staged_apps.insert(app, staged);
    }

    fn discard(&mut self, app: AppUid) {
        self.staged_apps.remove(&app);
    }

    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<ProgramFacts>, StepError> {
        let staged = match self.made(&Need::App { app, recipe: recipe.clone() })? {
            Made::App(staged) => staged,
            Made::Program(_) => return Err(Self::refuse("load", "another need's")),
        };
        let programs =
            recipe.functions.iter().zip(staged.programs.values()).map(|((function, load), id)| ProgramFacts {
                function: function.clone(),
                section: load.kind().to_string(),
                kind: load.kind(),
                target: load.target().cloned(),
                tag: Self::tag(app),
                load_time: u64::from(id.0),
            });
        let programs = programs.collect();
        self.stage(app, staged);
        Ok(programs)
    }

    fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        // No operation is under way: nothing has to be put back any more.
        self.staged_generations.retain(|_, generation| generation.links.is_none());
        self.provided.clear();
        self.collect();
        let seen = |generation: &Top| PinnedGeneration {
            program: generation.program,
            members: Some(generation.members.clone()),
            runs: if self.runs(generation) { Runs::Yes } else { Runs::No },
            is_moved: false,
            is_linked: false,
        };
        let generations = self.generations.iter().map(|(uid, generation)| (*uid, seen(generation))).collect();
        let Targets { names, chains } = scope.targets();
        let leads_to = |name: &ChainName| self.interfaces.get(&at_xdp(name)).copied();
        let running =
            self.generations.values().filter(|generation| self.runs(generation)).map(|generation| generation.chain);
        let by_name = |name: &ChainName| Some(ChainId { interface: leads_to(name)?, point: name.point });
        let asked = chains.iter().copied().chain(names.iter().filter_map(by_name)).chain(running);
        let named = |interface: InterfaceId| self.interfaces.iter().find(|(_, found)| **found == interface);
        let (mut chains, mut missing) = (BTreeMap::new(), BTreeSet::new());
        for chain in asked {
            match named(chain.interface) {
                None => {
                    missing.insert(chain);
                }
                Some((name, _)) => {
                    let driven = self.attached.get(&chain.interface).map(|(_, mode)| *mode);
                    let seen = ObservedChain {
                        name: ChainName { point: chain.point, ..name.clone() },
                        live: self.live(chain),
                        driven: driven.filter(|_| chain.point == Point::Xdp),
                        mode: self.mode.clone().unwrap_or_else(|| ChainMode::Fused { cause: "in memory".to_owned() }),
                    };
                    chains.insert(chain, seen);
                }
            }
        }
        Ok(Observed {
            apps: self.apps.clone().into_iter().collect(),
            half_made: self.half_made.clone(),
            generations,
            unpinned: BTreeMap::new(),
            links: self.links.clone(),
            half_links: BTreeSet::new(),
            copies: self.copies.clone(),
            namespaces: [(Netns::Host, Some(1))].into(),
            interfaces: names.iter().map(|name| (name.clone(), leads_to(name))).collect(),
            recorded: self.recorded.clone(),
            unread_records: BTreeSet::new(),
            chains: chains.into_iter().collect(),
            missing,
            unseen: BTreeMap::new(),
            moved: BTreeMap::new(),
            new_dispatcher: DispatcherVersion::default(),
            versions: BTreeMap::new(),
            barred: BTreeMap::new(),
            spared: Spared::default(),
        })
    }

    fn maker(&mut self, need: &Need) -> Self::Maker {
        let made = self.make(need);
        Box::new(move || made)
    }

    fn provide(&mut self, need: &Need, made: Result<Made, StepError>) {
        self.provided.push((need.clone(), made));
    }

    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        let (now, later) = self.peers.drain(..).partition::<Vec<_>, _>(|(at, _)| *at <= self.steps);
        self.peers = later;
        now.into_iter().for_each(|(_, act)| {
            self.peer(&act);
        });
        let result = self.take(step);
        self.collect();
        result
    }

    fn stamp(&mut self) -> Result<Option<Stamp>, ObserveError> {
        Ok(self.stamp)
    }

    fn set_stamp(&mut self, stamp: Stamp) -> Result<(), StepError> {
        self.stamp = Some(stamp);
        Ok(())
    }
}

impl FakeKernel {
    fn dispatcher(&self, generation: LiveGeneration) -> LiveDispatcher {
        let names =
            self.generations.get(&generation.generation).map(|generation| generation.names.clone()).unwrap_or_default();
        let (version, filled) = match self.dispatchers.all.get(&generation.program) {
            Some(Dispatcher { version, slots }) => (*version, slots.as_slice()),
            None => (0, &[][..]),
        };
        let slots = filled.iter().filter(|slot| slot.linked).map(|slot| self.slot(slot)).collect();
        let lost = filled.iter().enumerate().filter(|(_, slot)| !slot.linked);
        let lost = lost.map(|(index, _)| names.get(index).cloned().unwrap_or_else(|| format!("slot {index}")));
        LiveDispatcher { generation, version, slots, lost: lost.collect() }
    }

    fn take(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        if self.dead {
            return Err(StepError::Died);
        }
        let fate = self.fate.filter(|(at, _)| *at == self.steps).map(|(_, fate)| fate);
        self.steps += 1;
        match fate {
            None => self.apply(step),
            Some(Fate::Fail) => Err(Self::refuse(step.verb(), "told to fail")),
            Some(fate @ (Fate::DieBefore | Fate::DieHalfway)) => {
                match (fate, step) {
                    (Fate::DieHalfway, Step::PinApp(app)) => {
                        self.half_made.insert(*app);
                    }
                    (Fate::DieHalfway, Step::Swap { chain, from, to, mode, at: _ }) if chain.id.point == Point::Xdp => {
                        self.swap(chain, *from, *to, *mode, Until::Shared)?;
                    }
                    _ => {}
                }
                self.dead = true;
                Err(StepError::Died)
            }
            Some(Fate::DieSwapped)
                if let Step::Swap { chain, from, to, mode, at: _ } = step
                    && chain.id.point == Point::Xdp =>
            {
                self.swap(chain, *from, *to, *mode, Until::Swapped)?;
                self.dead = true;
                Err(StepError::Died)
            }
            Some(Fate::DieAfter | Fate::DieSwapped) => {
                self.apply(step)?;
                self.dead = true;
                Err(StepError::Died)
            }
        }
    }
}
