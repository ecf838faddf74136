//! A kernel in memory: the same steps with the same effects, and a failure or a death at any of them. What tests of the engine
//! run on; pure, so that it can be as strict as the real one is forgiving.
//!
//! Staged things are file descriptors of the process: a death loses them. Pins and attachments stay.

use std::collections::{BTreeMap, BTreeSet};

use crate::hook::{ChainKey, XdpMode};
use crate::ident::{AppUid, KernelId, LinkUid, TopUid};
use crate::kernel::{
    ChainMode, ForeignProgram, ForeignSlot, InterfaceId, Kernel, Live, LiveDispatcher, LiveTop, Member, ObserveError,
    Observed, ObservedChain, PinnedApp, PinnedExt, PinnedTop, Recipe, SLOTS, Slot, Step, StepError, TopContent,
};
use crate::state::Program;

/// What happens at a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// The step fails and changes nothing.
    Fail,
    /// The process ends before the step.
    DieBefore,
    /// The process ends in the midst of pinning an app: half a directory is left. At any other step as `DieBefore`.
    DieHalfway,
    /// The process ends after the step, before anybody hears of it.
    DieAfter,
}

#[derive(Clone, Debug)]
struct Top {
    program: KernelId,
    members: Vec<Member>,
    chain: ChainKey,
    dispatcher: Option<Dispatcher>,
}

#[derive(Clone, Debug)]
struct Dispatcher {
    version: u8,
    slots: Vec<Slot>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    /// Interfaces that exist.
    pub interfaces: BTreeMap<ChainKey, InterfaceId>,
    attached: BTreeMap<ChainKey, (KernelId, XdpMode)>,
    foreign: BTreeMap<KernelId, String>,
    staged_apps: BTreeMap<AppUid, PinnedApp>,
    staged_tops: BTreeMap<TopUid, Top>,
    apps: BTreeMap<AppUid, PinnedApp>,
    half_made: BTreeSet<AppUid>,
    tops: BTreeMap<TopUid, Top>,
    links: BTreeSet<LinkUid>,
    exts: BTreeMap<LinkUid, PinnedExt>,
    mode: Option<ChainMode>,
    /// Every dispatcher that is attached, ours and peers'.
    dispatchers: BTreeMap<KernelId, Dispatcher>,
    next_id: u32,
    next_map: u32,
    next_index: u32,
    steps: usize,
    fate: Option<(usize, Fate)>,
    dead: bool,
    /// Every step that took effect, as text.
    pub log: Vec<String>,
}

impl FakeKernel {
    /// A kernel with these interfaces, nothing attached.
    pub fn with_interfaces(chains: impl IntoIterator<Item = ChainKey>) -> Self {
        let interfaces =
            chains.into_iter().zip(1..).map(|(chain, index)| (chain, InterfaceId { netns_cookie: 1, index }));
        Self { interfaces: interfaces.collect(), ..Self::default() }
    }

    /// Something else takes an interface.
    pub fn attach_foreign(&mut self, chain: &ChainKey, name: &str) {
        let id = self.fresh_id();
        self.foreign.insert(id, name.to_owned());
        self.attached.insert(chain.clone(), (id, XdpMode::Native));
    }

    /// The same kernel with chains in libxdp's protocol.
    #[must_use]
    pub fn in_libxdp_mode(self) -> Self {
        Self { mode: Some(ChainMode::Libxdp), ..self }
    }

    /// A peer rebuilds the dispatcher of an interface, or makes the first: it adds and removes as `change` says, in any order of
    /// its own.
    pub fn peer_rebuilds(&mut self, chain: &ChainKey, change: impl FnOnce(&mut Vec<Slot>)) {
        let before = self.attached.get(chain).and_then(|(program, _)| self.dispatchers.remove(program));
        let mut dispatcher = before.unwrap_or(Dispatcher { version: 2, slots: Vec::new() });
        change(&mut dispatcher.slots);
        let id = self.fresh_id();
        self.attached.insert(chain.clone(), (id, XdpMode::Native));
        self.dispatchers.insert(id, dispatcher);
    }

    /// A peer's program, for `peer_rebuilds`.
    pub fn peer_program(&mut self, name: &str, priority: u32) -> Slot {
        let program = self.fresh_id();
        let load_time = u64::from(program.0);
        let actions = 1 << 2;
        Slot::Foreign(ForeignSlot {
            program,
            name: name.to_owned(),
            tag: [0; 8],
            load_time,
            priority,
            actions,
            flags: 0,
        })
    }

    /// An interface goes, and what it ran with it; `false` if there was none.
    pub fn remove_interface(&mut self, chain: &ChainKey) -> bool {
        self.attached.remove(chain);
        self.interfaces.remove(chain).is_some()
    }

    /// An interface comes, with an index that none had before.
    pub fn add_interface(&mut self, chain: ChainKey) {
        self.next_index += 1;
        self.interfaces.insert(chain, InterfaceId { netns_cookie: 1, index: 1000 + self.next_index });
    }

    /// Somebody takes off what an interface runs.
    pub fn clear(&mut self, chain: &ChainKey) {
        self.attached.remove(chain);
    }

    /// What loading does for real: an app's programs and maps as file descriptors.
    pub fn load(&mut self, functions: &[&str], maps: &[&str]) -> PinnedApp {
        let programs = functions.iter().map(|function| ((*function).to_owned(), self.fresh_id())).collect();
        // The kernel numbers maps apart from programs.
        let maps = maps.iter().map(|map| {
            self.next_map += 1;
            ((*map).to_owned(), KernelId(self.next_map))
        });
        PinnedApp { programs, verified: BTreeMap::new(), maps: maps.collect() }
    }

    /// At the `step`th step from now on, counted from 0, this happens.
    pub fn at_step(&mut self, step: usize, fate: Fate) {
        self.fate = Some((self.steps + step, fate));
    }

    /// A new process: what was staged is gone, pins and attachments are not.
    pub fn restart(&mut self) {
        self.staged_apps.clear();
        self.staged_tops.clear();
        self.fate = None;
        self.dead = false;
    }

    /// A new boot: only interfaces are left.
    pub fn reboot(&mut self) {
        self.restart();
        self.attached.clear();
        self.apps.clear();
        self.half_made.clear();
        self.tops.clear();
        self.links.clear();
        self.exts.clear();
        self.dispatchers.clear();
    }

    /// Program ids that exist: K8 counts them.
    pub fn programs(&self) -> usize {
        let apps = self.apps.values().chain(self.staged_apps.values()).map(|app| app.programs.len()).sum::<usize>();
        apps + self.exts.len()
            + self.tops.len()
            + self.staged_tops.iter().filter(|(top, _)| !self.tops.contains_key(top)).count()
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
            Step::BuildTop { top, chain, content: TopContent::Fused { members, recipes } } => {
                for member in members {
                    let app = self.apps.get(&member.app).ok_or_else(|| Self::refuse("build", "app is not pinned"))?;
                    if !app.programs.contains_key(&member.function) || !recipes.contains_key(&member.app) {
                        return Err(Self::refuse("build", "no such program"));
                    }
                }
                let program = self.fresh_id();
                let built = Top { program, members: members.clone(), chain: chain.clone(), dispatcher: None };
                self.staged_tops.insert(*top, built);
                return Ok(Some(program));
            }
            Step::BuildTop { top, chain, content: content @ TopContent::Dispatcher { version, slots } } => {
                let members: Vec<Member> = content.members().into_iter().cloned().collect();
                if slots.len() > SLOTS || members.iter().any(|member| !self.exts.contains_key(&member.link)) {
                    return Err(Self::refuse("build", "too many slots, or a program is not loaded"));
                }
                let program = self.fresh_id();
                let dispatcher = Some(Dispatcher { version: *version, slots: slots.clone() });
                self.staged_tops.insert(*top, Top { program, members, chain: chain.clone(), dispatcher });
                return Ok(Some(program));
            }
            Step::LoadExt { member, recipe: _ } => {
                let app = self.apps.get(&member.app).ok_or_else(|| Self::refuse("load", "app is not pinned"))?;
                if !app.programs.contains_key(&member.function) {
                    return Err(Self::refuse("load", "no such program"));
                }
                let program = self.fresh_id();
                let ext = PinnedExt { program, tag: [0; 8], load_time: u64::from(program.0) };
                self.exts.insert(member.link, ext);
            }
            Step::UnpinExt(link) => {
                self.exts.remove(link);
            }
            Step::Adopt { chain, live } => {
                let dispatcher = self.dispatchers.get(&live.program).cloned();
                if self.attached.get(chain).map(|(program, _)| *program) != Some(live.program) || dispatcher.is_none() {
                    return Err(StepError::Raced(chain.clone()));
                }
                let members =
                    dispatcher.iter().flat_map(|found| &found.slots).filter_map(Slot::ours).cloned().collect();
                let adopted = Top { program: live.program, members, chain: chain.clone(), dispatcher };
                self.tops.insert(live.top, adopted);
            }
            Step::DropTop(top) => {
                self.staged_tops.remove(top);
            }
            Step::PinTop(top) => {
                let built = self.staged_tops.get(top).ok_or_else(|| Self::refuse("pin top", "not built"))?;
                self.tops.insert(*top, built.clone());
            }
            Step::AttachLink { link, app, function, tracepoint: _ } => {
                let pinned = self.apps.get(app).ok_or_else(|| Self::refuse("attach", "app is not pinned"))?;
                if !pinned.programs.contains_key(function) || !self.links.insert(*link) {
                    return Err(Self::refuse("attach", "no program, or attached already"));
                }
            }
            Step::DetachLink(link) => {
                self.links.remove(link);
            }
            Step::Swap { chain, from, to, mode } => {
                if !self.interfaces.contains_key(chain) {
                    return Err(StepError::NoInterface(chain.clone()));
                }
                if self.attached.get(chain).map(|(program, _)| *program) != from.map(|live| live.program) {
                    return Err(StepError::Raced(chain.clone()));
                }
                match to {
                    None => {
                        self.attached.remove(chain);
                    }
                    Some(top) => {
                        let built = self.tops.get(top).ok_or_else(|| Self::refuse("swap", "not pinned"))?;
                        self.dispatchers.extend(built.dispatcher.clone().map(|dispatcher| (built.program, dispatcher)));
                        let driven = if *mode == XdpMode::Auto { XdpMode::Native } else { *mode };
                        self.attached.insert(chain.clone(), (built.program, driven));
                    }
                }
            }
            Step::UnpinTop(top) => {
                let attached = self.tops.get(top).is_some_and(|pinned| {
                    self.attached.get(&pinned.chain).is_some_and(|(program, _)| *program == pinned.program)
                });
                if attached {
                    return Err(Self::refuse("unpin top", "it is attached"));
                }
                self.tops.remove(top);
                self.staged_tops.remove(top);
            }
            Step::UnpinApp(app) => {
                self.half_made.remove(app);
                self.apps.remove(app);
            }
        }
        self.log.push(step.to_string());
        Ok(None)
    }
}

impl Kernel for FakeKernel {
    type Staged = PinnedApp;

    fn stage(&mut self, app: AppUid, staged: PinnedApp) {
        self.staged_apps.insert(app, staged);
    }

    fn discard(&mut self, app: AppUid) {
        self.staged_apps.remove(&app);
    }

    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<Program>, StepError> {
        let names: Vec<&str> = recipe.functions.keys().map(String::as_str).collect();
        let staged = self.load(&names, &[]);
        let programs = recipe.functions.iter().zip(staged.programs.values()).map(|((function, kind), id)| Program {
            function: function.clone(),
            section: kind.to_string(),
            kind: *kind,
            tag: [0; 8],
            load_time: u64::from(id.0),
        });
        let programs = programs.collect();
        self.stage(app, staged);
        Ok(programs)
    }

    fn observe(&mut self, chains: &BTreeSet<ChainKey>) -> Result<Observed, ObserveError> {
        let tops = self
            .tops
            .iter()
            .map(|(uid, top)| {
                let live = self.attached.get(&top.chain).is_some_and(|(program, _)| *program == top.program);
                let pinned = PinnedTop { program: top.program, members: Some(top.members.clone()), live: Some(live) };
                (*uid, pinned)
            })
            .collect();
        let chains = chains
            .iter()
            .map(|chain| {
                let attached = self.attached.get(chain);
                let ours =
                    |program: KernelId| self.tops.iter().find(|(_, top)| top.program == program).map(|(uid, _)| *uid);
                let live = match attached {
                    None => Live::Empty,
                    Some((program, _)) if self.dispatchers.contains_key(program) => {
                        let top = ours(*program).unwrap_or_else(|| TopUid::of_peer(*program));
                        let found = self.dispatchers.get(program).cloned();
                        let Dispatcher { version, slots } = found.unwrap_or(Dispatcher { version: 2, slots: vec![] });
                        let top = LiveTop { program: *program, top };
                        Live::Dispatcher(LiveDispatcher { top, version, slots, lost: vec![] })
                    }
                    Some((program, _)) => match ours(*program) {
                        Some(top) => Live::Ours(LiveTop { program: *program, top }),
                        None => Live::Foreign(ForeignProgram {
                            program: *program,
                            name: self.foreign.get(program).cloned().unwrap_or_default(),
                            link: None,
                            holders: vec![],
                        }),
                    },
                };
                let seen = ObservedChain {
                    interface: self.interfaces.get(chain).copied(),
                    live,
                    driven: attached.map(|(_, mode)| *mode),
                    mode: self.mode.clone().unwrap_or_else(|| ChainMode::Fused { cause: "in memory".to_owned() }),
                };
                (chain.clone(), seen)
            })
            .collect();
        Ok(Observed {
            apps: self.apps.clone(),
            half_made: self.half_made.clone(),
            tops,
            links: self.links.clone(),
            exts: self.exts.clone(),
            chains,
        })
    }

    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        if self.dead {
            return Err(StepError::Died);
        }
        let fate = self.fate.filter(|(at, _)| *at == self.steps).map(|(_, fate)| fate);
        self.steps += 1;
        match fate {
            None => self.apply(step),
            Some(Fate::Fail) => Err(Self::refuse(step.verb(), "told to fail")),
            Some(fate @ (Fate::DieBefore | Fate::DieHalfway)) => {
                if let (Fate::DieHalfway, Step::PinApp(app)) = (fate, step) {
                    self.half_made.insert(*app);
                }
                self.dead = true;
                Err(StepError::Died)
            }
            Some(Fate::DieAfter) => {
                self.apply(step)?;
                self.dead = true;
                Err(StepError::Died)
            }
        }
    }
}
