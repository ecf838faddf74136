//! The engine on the in-memory kernel and a real database: every verb fails at each step, dies before it and dies after it. After
//! repair the host is as before or as asked, never between, and every invariant holds. In both chain modes, and beside peers that
//! change the same interfaces by libxdp's protocol.
//!
//! Long because the script of one host and all its deaths are read together.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the lints exempt test functions, not what they share"
)]

mod fake;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bpfd::audit::{AuditSink, Kind, Open, Record, WhenFull};
use bpfd::engine::{Answer, Context, Engine, EngineError, News, Pending, Progress, Settling};
use bpfd::execute::ExecuteError;
use bpfd::repair::{Recovered, Repaired};
use bpfd::store::{Earlier, Outcome, Store};
use bpfd_core::adopt::Decision;
use bpfd_core::changes::{self, Fresh, Loaded, RequestError};
use bpfd_core::hook::{ChainName, HookAsk, InterfaceName, OwnHook, Point, XdpMode};
use bpfd_core::ident::{AppUid, AskedId, BootId, KernelId, LinkUid, RequestId, RequestKey, SlotUid};
use bpfd_core::invariants::{self, Broken};
use bpfd_core::kernel::{
    ChainMode, Kernel, Live, Need, ObserveError, Observed, OurSlot, PinnedApp, Recipe, Runs, SLOTS, Scope, Slot, Step,
    StepError, Targets,
};
use bpfd_core::labels::Labels;
use bpfd_core::names::{Netns, Priority};
use bpfd_core::ordering::disordered;
use bpfd_core::plan::{LinkStatus, PlanError};
use bpfd_core::policy::Principal;
use bpfd_core::record::Row;
use bpfd_core::request::{
    AttachAsk, AttachRequest, DetachRequest, DetachWhich, OwnerScope, UnloadRequest, UnloadWhich, UpdateRequest,
};
use bpfd_core::seat::seated;
use bpfd_core::stamp::{Relation, Stamp};
use bpfd_core::state::{
    AppOrigin, Change, Map, ObjectDigest, Owner, Persist, ProgramFacts, ProgramKind, Reach, Source, State, WhenAbsent,
};
use bpfd_core::unauthorised::Unauthorised;
use bpfd_policy::Policy;
use bpfd_policy::read::PolicyText;
use fake::{FakeKernel, Fate, Made, PeerMove};
use proptest::prelude::*;
use tokio::sync::watch;
use uuid::Uuid;

const BOOT: BootId = BootId(Uuid::from_u128(1));

/// Of each operation, in the order of their beginning, how many records say that it began, that a step is taken, that it ended.
type Records = Vec<(Open, [usize; 3])>;

/// An audit log in memory, that one daemon after another writes.
#[derive(Clone, Default)]
struct Audit {
    records: Arc<Mutex<Records>>,
    open: Vec<Open>,
}

impl Audit {
    /// As a start reads it.
    fn read_again(&self) -> Self {
        let records = self.records.clone();
        let open =
            records.lock().unwrap().iter().filter(|(_, [_, _, ends])| *ends == 0).map(|(open, _)| *open).collect();
        Self { records, open }
    }

    /// What is not as it must be: operations without exactly one begin, with more than one end, or, with a daemon at rest, without one.
    fn wrong(&self) -> Vec<String> {
        let records = self.records.lock().unwrap();
        let wrong = records.iter().filter(|(_, [begins, _, ends])| (*begins, *ends) != (1, 1));
        wrong.map(|(Open { kind, .. }, [begins, _, ends])| format!("{kind:?}: {begins} begins, {ends} ends")).collect()
    }

    /// How many operations of a kind took steps.
    fn of(&self, wanted: Kind) -> usize {
        let records = self.records.lock().unwrap();
        records.iter().filter(|(open, [_, intents, _])| open.kind == wanted && *intents > 0).count()
    }
}

impl AuditSink for Audit {
    fn write(&mut self, record: &Record<'_>, _: WhenFull) -> std::io::Result<()> {
        let (operation, at) = match *record {
            Record::Begin { operation, kind, .. } => {
                self.open.push(Open { operation, kind });
                self.records.lock().unwrap().push((Open { operation, kind }, [0; 3]));
                (operation, 0)
            }
            Record::Intent { operation, .. } => (operation, 1),
            Record::End { operation, .. } => {
                self.open.retain(|open| open.operation != operation);
                (operation, 2)
            }
            _ => return Ok(()),
        };
        let mut records = self.records.lock().unwrap();
        let of_it = |(open, _): &&mut (Open, [usize; 3])| open.operation == operation;
        match records.iter_mut().find(of_it) {
            Some((_, counts)) => counts[at] += 1,
            None => panic!("a record of an operation that never began"),
        }
        Ok(())
    }

    fn unended(&self) -> &[Open] {
        &self.open
    }
}

/// A kernel that is there after the engine that had it did not even start.
struct Mortal(Rc<RefCell<FakeKernel>>);

impl Kernel for Mortal {
    type Staged = PinnedApp;
    type Made = Made;
    type Maker = <FakeKernel as Kernel>::Maker;

    fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        self.0.borrow_mut().observe(scope)
    }

    fn stage(&mut self, app: AppUid, staged: PinnedApp) {
        self.0.borrow_mut().stage(app, staged);
    }

    fn discard(&mut self, app: AppUid) {
        self.0.borrow_mut().discard(app);
    }

    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<ProgramFacts>, StepError> {
        self.0.borrow_mut().prepare(app, recipe)
    }

    fn maker(&mut self, need: &Need) -> Self::Maker {
        self.0.borrow_mut().maker(need)
    }

    fn provide(&mut self, need: &Need, made: Result<Made, StepError>) {
        self.0.borrow_mut().provide(need, made);
    }

    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError> {
        self.0.borrow_mut().step(step)
    }

    fn stamp(&mut self) -> Result<Option<Stamp>, ObserveError> {
        self.0.borrow_mut().stamp()
    }

    fn set_stamp(&mut self, stamp: Stamp) -> Result<(), StepError> {
        self.0.borrow_mut().set_stamp(stamp)
    }
}

fn eth(number: u8) -> ChainName {
    ChainName { netns: Netns::Host, interface: format!("eth{number}").parse().unwrap(), point: Point::Xdp }
}

/// Every pin, and both interfaces.
fn both() -> Scope {
    Scope::Everything(Targets { names: [eth(0), eth(1)].into(), chains: BTreeSet::new() })
}

fn owner() -> Owner {
    Owner { uid: 0, user: Some("root".into()) }
}

/// The built-in policy, and an order.
fn ordering(says: &str) -> Policy {
    let text = format!("version = 1\n[[order]]\nid = \"edge\"\nchain = {{ interfaces = [\"eth0\"] }}\n{says}\n");
    Policy::read(&[PolicyText { file: "policy.toml", text: &text }], |_: &Path| unreachable!("no keys")).unwrap()
}

fn context(request: Option<u128>) -> Context {
    Context {
        principal: Principal::daemon(),
        request: request.map(|id| RequestKey { id: RequestId(Uuid::from_u128(id)), asked: AskedId(Uuid::nil()) }),
        validate_only: false,
        new_links: 1,
    }
}

fn on(chain: ChainName, priority: u32) -> AttachAsk {
    let priority = Some(Priority::try_from(priority).unwrap());
    AttachAsk {
        hook: HookAsk::Shared { chain, priority, proceed_on: None, mode: XdpMode::Auto },
        when_absent: WhenAbsent::Fail,
    }
}

fn tracing(event: &str) -> AttachAsk {
    let kind = ProgramKind::Tracepoint;
    let hook = HookAsk::Own { kind, hook: Some(OwnHook::parse(kind, event).unwrap()) };
    AttachAsk { hook, when_absent: WhenAbsent::Fail }
}

/// One request of a script.
#[derive(Clone, Debug)]
enum Ask {
    Load {
        name: &'static str,
        attach: Option<(u8, u32)>,
    },
    Attach {
        app: &'static str,
        to: (u8, u32),
    },
    Trace {
        app: &'static str,
        event: &'static str,
    },
    Update {
        link: String,
        priority: u32,
    },
    Detach {
        link: String,
    },
    DetachAll {
        eth: u8,
    },
    Unload {
        app: &'static str,
    },
    UnloadAll,
    /// The policy has an order from now on.
    Order {
        says: &'static str,
    },
}

/// What a host's chains are like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Chains {
    /// One program each.
    Fused,
    /// Dispatchers, with programs of ours alone.
    Libxdp,
    /// Dispatchers, with programs of peers before, between, beside and after ours.
    Shared,
    /// tcx chains, with somebody else's program in each.
    Tcx,
    /// Filters, with somebody else's among them.
    Clsact,
}

const ALL: [Chains; 5] = [Chains::Fused, Chains::Libxdp, Chains::Shared, Chains::Tcx, Chains::Clsact];
/// Those of XDP.
const XDP: [Chains; 3] = [Chains::Fused, Chains::Libxdp, Chains::Shared];

impl Chains {
    fn mode(self) -> ChainMode {
        match self {
            Self::Fused => ChainMode::Fused { cause: "in memory".into() },
            Self::Libxdp | Self::Shared => ChainMode::Libxdp,
            Self::Tcx => ChainMode::Tcx,
            Self::Clsact => ChainMode::Clsact { cause: "in memory".into() },
        }
    }

    fn point(self) -> Point {
        match self {
            Self::Fused | Self::Libxdp | Self::Shared => Point::Xdp,
            Self::Tcx => Point::TcIngress,
            Self::Clsact => Point::TcEgress,
        }
    }
}

/// A peer's program. At priority 50 `pass` is beside ours, of the same name.
fn theirs(number: u8, priority: u32) -> PeerMove {
    let name = if priority == 50 { "pass".to_owned() } else { format!("theirs_{priority}") };
    PeerMove::Load { chain: eth(number), name, priority, version: 3 }
}

/// What a user can tell of the host: rows, and what each chain runs, by name and priority.
type Sight = (State, BTreeMap<ChainName, Vec<(String, u32)>>);

/// A directory whose syncs cost nothing: what is killed here is a process, never the host.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// One daemon after another over one kernel and one database.
struct Host {
    engine: Option<Engine<FakeKernel>>,
    kernel: FakeKernel,
    /// Which hook of interfaces programs are attached to.
    point: Point,
    dir: tempfile::TempDir,
    uids: u128,
    loads: u32,
    policy: watch::Sender<Arc<Policy>>,
    audit: Audit,
    /// What peers do while something is made for the next change.
    while_made: Vec<PeerMove>,
}

impl Host {
    fn new(chains: Chains) -> Self {
        let mut kernel = FakeKernel::with_interfaces([eth(0), eth(1)]);
        kernel.keep_chains(chains.mode());
        let (point, dir) = (chains.point(), in_memory());
        let mut host = Self {
            engine: None,
            kernel,
            point,
            dir,
            uids: 1 << 64,
            loads: 0,
            policy: watch::Sender::default(),
            audit: Audit::default(),
            while_made: vec![],
        };
        for chain in [eth(0), eth(1)].map(|name| host.hook(name)).iter().filter(|chain| chain.point != Point::Xdp) {
            let preference = (chains == Chains::Clsact).then_some(25_000);
            host.kernel.join_sequence(chain, preference, "theirs");
        }
        host.start();
        host
    }

    /// The hook of an interface that this host's programs are attached to.
    fn hook(&self, name: ChainName) -> ChainName {
        ChainName { point: self.point, ..name }
    }

    fn start(&mut self) -> Repaired {
        self.start_with(|_| ())
    }

    /// A start, and what its repair will meet.
    fn start_with(&mut self, prepare: impl FnOnce(&mut FakeKernel)) -> Repaired {
        let store = Store::open(&self.dir.path().join("state.db")).unwrap();
        self.uids += 1 << 32;
        let mut next = self.uids;
        let uids = move || {
            next += 1;
            Uuid::from_u128(next)
        };
        self.kernel.restart();
        prepare(&mut self.kernel);
        let (audit, judge) =
            (Box::new(self.audit.read_again()), Box::new(|_: &State, _: &Observed| Unauthorised::default()));
        let policy = self.policy.subscribe();
        let started = Engine::start(self.kernel.clone(), store, audit, policy, BOOT, Box::new(uids), judge);
        let (mut engine, repaired) = started.unwrap();
        // At a start nobody waits for the engine's thread.
        engine.kernel().made_here = 0;
        self.engine = Some(engine);
        repaired
    }

    /// A start that dies at a step of its repair; `false` if it has no such step.
    fn start_and_die(&mut self, step: usize, fate: Fate) -> bool {
        let store = Store::open(&self.dir.path().join("state.db")).unwrap();
        self.uids += 1 << 32;
        let mut next = self.uids;
        let uids = Box::new(move || {
            next += 1;
            Uuid::from_u128(next)
        });
        self.kernel.restart();
        self.kernel.at_step(step, fate);
        let kernel = Mortal(Rc::new(RefCell::new(self.kernel.clone())));
        let left = kernel.0.clone();
        let (audit, judge) =
            (Box::new(self.audit.read_again()), Box::new(|_: &State, _: &Observed| Unauthorised::default()));
        let died = Engine::start(kernel, store, audit, self.policy.subscribe(), BOOT, uids, judge).is_err();
        self.kernel = left.borrow().clone();
        died
    }

    /// Decides about a lost state.
    fn decide(&mut self, decision: Decision) {
        let mut pending = Pending::new(vec![]);
        loop {
            match self.engine().decide(decision, &mut pending).unwrap() {
                Progress::Done(failures) => return assert_eq!(failures, NOTHING),
                Progress::Wait(targets) => panic!("{targets:?}"),
                Progress::Make(needs) => {
                    needs.into_iter().for_each(|(need, maker)| pending.made(need, maker()));
                }
            }
        }
    }

    /// The process ends: what the kernel has stays.
    fn stop(&mut self) {
        self.kernel = self.engine.take().unwrap().kernel().clone();
    }

    fn engine(&mut self) -> &mut Engine<FakeKernel> {
        self.engine.as_mut().unwrap()
    }

    fn state(&mut self) -> State {
        self.engine().snapshots().borrow().state.clone()
    }

    fn ask(&mut self, ask: &Ask, request: Option<u128>) -> Result<(), EngineError> {
        let context = context(request);
        let who = owner();
        match ask {
            Ask::Load { name, attach } => {
                self.loads += 1;
                let uid = AppUid(Uuid::from_u128(u128::from(self.loads)));
                let staged = self.engine().kernel().load(&["pass"], &["counters"]);
                let attach = attach.map(|(number, priority)| on(self.hook(eth(number)), priority));
                let mut loaded = loaded(uid, name, &staged, attach);
                if loaded.programs.iter().any(|program| program.kind == ProgramKind::Xdp) {
                    loaded.programs.iter_mut().for_each(|program| program.kind = self.point.kind());
                }
                let build = move |state: &State, fresh: &Fresh| changes::load(state, loaded.clone(), &who, fresh);
                self.change(&context, Some((uid, staged)), build).map(drop)
            }
            Ask::Attach { app, to: (number, priority) } => {
                let hook = self.hook(eth(*number));
                self.attach(&context, app, on(hook, *priority))
            }
            Ask::Trace { app, event } => self.attach(&context, app, tracing(event)),
            Ask::Update { link, priority } => {
                let ask = UpdateRequest {
                    link: link.parse().unwrap(),
                    generation: None,
                    priority: Some(Priority::try_from(*priority).unwrap()),
                    proceed_on: None,
                    request: None,
                };
                self.change(&context, None, |state, _| changes::update(state, &ask)).map(drop)
            }
            Ask::Detach { link } => {
                let which = DetachWhich::Links(vec![link.parse().unwrap()]);
                let ask = DetachRequest { which, owners: OwnerScope::Anyone, request: None };
                self.change(&context, None, |state, _| changes::detach(state, &ask)).map(drop)
            }
            Ask::DetachAll { eth: number } => {
                let ChainName { netns, interface, point: _ } = eth(*number);
                let which = DetachWhich::All(InterfaceName { netns, interface });
                let ask = DetachRequest { which, owners: OwnerScope::Anyone, request: None };
                self.change(&context, None, |state, _| changes::detach(state, &ask)).map(drop)
            }
            Ask::Unload { app } => {
                let which = UnloadWhich::Apps(vec![app.parse().unwrap()]);
                let ask = UnloadRequest { which, owners: OwnerScope::Anyone, request: None };
                self.change(&context, None, |state, _| changes::unload(state, &ask)).map(drop)
            }
            Ask::UnloadAll => {
                let ask = UnloadRequest { which: UnloadWhich::All, owners: OwnerScope::Anyone, request: None };
                self.change(&context, None, |state, _| changes::unload(state, &ask)).map(drop)
            }
            Ask::Order { says } => {
                self.policy.send_replace(Arc::new(ordering(says)));
                let orders = self.policy.borrow().orders.clone();
                let reorder = |chain| Change::Reorder { chain };
                let build =
                    |state: &State, _: &Fresh| Ok(disordered(&orders, state).into_iter().map(reorder).collect());
                self.change(&context, None, build).map(drop)
            }
        }
    }

    fn attach(&mut self, context: &Context, app: &str, attach: AttachAsk) -> Result<(), EngineError> {
        let (app, persist) = (app.parse().unwrap(), Persist::Yes);
        let ask = AttachRequest { app, function: None, attach, persist, request: context.request };
        let who = owner();
        let build = |state: &State, fresh: &Fresh| changes::attach(state, &ask, &who, fresh);
        self.change(context, None, build).map(drop)
    }

    /// What the daemon does about a change, on one thread.
    fn change(
        &mut self,
        context: &Context,
        staged: Option<(AppUid, PinnedApp)>,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Answer, EngineError> {
        let mut pending = Pending::new(staged.into_iter().collect());
        loop {
            match self.engine().change(context, &mut pending, &build)? {
                Progress::Done(answer) => return Ok(answer),
                Progress::Wait(chains) => panic!("nobody else changes {chains:?}"),
                Progress::Make(needs) => needs.into_iter().for_each(|(need, maker)| pending.made(need, maker())),
            }
            for act in self.while_made.drain(..) {
                assert!(self.engine.as_mut().unwrap().kernel().peer(&act), "{act:?}");
            }
        }
    }

    fn settle(&mut self, news: &News) -> Repaired {
        let mut settling = Settling::default();
        loop {
            match self.engine().settle(news, &mut settling).unwrap() {
                Progress::Done(repaired) => return repaired,
                Progress::Wait(chains) => panic!("news wait for no chain: {chains:?}"),
                Progress::Make(needs) => needs.into_iter().for_each(|(need, maker)| settling.made(need, maker())),
            }
        }
    }

    fn attach_waiting(&mut self, app: &str, attach: AttachAsk) -> Result<(), EngineError> {
        self.attach(&context(None), app, AttachAsk { when_absent: WhenAbsent::Wait, ..attach })
    }

    fn sight(&mut self) -> Sight {
        let chains = [eth(0), eth(1)].into_iter().map(|name| (name.clone(), self.of(&name)));
        let chains = chains.collect();
        (self.state(), chains)
    }

    /// What the interface of this name runs.
    fn of(&mut self, name: &ChainName) -> Vec<(String, u32)> {
        let name = &self.hook(name.clone());
        let state = self.state();
        let observed = self.engine().kernel().observe(&Scope::Everything(Targets::name(name.clone()))).unwrap();
        let app = |app: &AppUid| state.apps.get(app).map_or_else(|| app.to_string(), |app| app.name.to_string());
        let Some(chain) = observed.chain_of(name) else { return vec![] };
        let runs = match &observed.chains[&chain].live {
            Live::Dispatcher(live) => live.slots.clone(),
            Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_) => {
                let alone = |first| Slot::Ours(OurSlot { uid: SlotUid(Uuid::nil()), first, rest: vec![] });
                observed.members(&chain).into_iter().map(alone).collect()
            }
        };
        let runs = runs.iter().map(|slot| match slot {
            Slot::Ours(OurSlot { first, .. }) => (app(&first.app), u32::from(first.effective)),
            Slot::Foreign(slot) => (slot.name.clone(), slot.priority),
        });
        runs.collect()
    }

    /// A peer acts while the daemon runs, which hears of it.
    fn peer(&mut self, act: &PeerMove) -> bool {
        let done = self.engine().kernel().peer(act);
        self.settle(&News::everything());
        done
    }

    fn restart(&mut self) -> Repaired {
        self.stop();
        self.start()
    }

    fn broken(&mut self) -> Vec<Broken> {
        let published = self.engine().snapshots().borrow().clone();
        let everything = Scope::Everything(Targets::of(published.state.links.values()));
        let seen = self.engine().kernel().observe(&everything).unwrap();
        let seen = Observed { barred: published.observed.barred.clone(), ..seen };
        invariants::check(&seated(&published.state, &seen), &seen)
    }

    /// Every invariant that does not hold, K5 and what peers see included.
    fn wrong(&mut self) -> Vec<String> {
        let mut wrong: Vec<String> = self.broken().iter().map(ToString::to_string).collect();
        wrong.extend(self.engine().kernel().wrong_for_peers());
        wrong.extend(self.audit.wrong());
        let made_here = self.engine().kernel().made_here;
        wrong.extend((made_here > 0).then(|| format!("{made_here} programs were verified on the engine's thread")));
        wrong
    }
}

fn loaded(uid: AppUid, name: &str, staged: &PinnedApp, attach: Option<AttachAsk>) -> Loaded {
    let programs = staged.programs.iter().map(|(function, id)| ProgramFacts {
        function: function.clone(),
        section: "xdp".into(),
        kind: if name.starts_with("tp") { ProgramKind::Tracepoint } else { ProgramKind::Xdp },
        target: None,
        tag: FakeKernel::tag(uid),
        load_time: id.0.into(),
    });
    Loaded {
        uid,
        name: Some(name.parse().unwrap()),
        default_name: "unnamed".parse().unwrap(),
        source: Source::Upload,
        object: ObjectDigest::from([3; 32]),
        reach: Reach::Kernel,
        globals: BTreeMap::new(),
        programs: programs.collect(),
        maps: staged.maps.keys().map(|name| map(name)).collect(),
        labels: BTreeMap::new(),
        user_labels: Labels::default(),
        advice: BTreeMap::new(),
        attach: attach.map(|attach| (attach, "pass".into())).into_iter().collect(),
        persist: Persist::Yes,
        origin: AppOrigin::Request,
        request: None,
    }
}

fn map(name: &str) -> Map {
    Map { name: name.into(), kind: "array".into(), key_size: 4, value_size: 8, max_entries: 1, shared: None }
}

/// A host with two programs on eth0, one on eth1, and a tracepoint.
fn busy(chains: Chains) -> Host {
    let mut host = Host::new(chains);
    for ask in [
        Ask::Load { name: "a", attach: Some((0, 50)) },
        Ask::Load { name: "b", attach: Some((0, 20)) },
        Ask::Load { name: "c", attach: Some((1, 90)) },
        Ask::Load { name: "tp", attach: None },
        Ask::Trace { app: "tp", event: "sched/sched_switch" },
    ] {
        host.ask(&ask, None).unwrap();
        // b is put in by bpfd between what a peer made.
        let beside: &[(u8, u32)] = match &ask {
            Ask::Load { name: "a", .. } if chains == Chains::Shared => &[(0, 10), (0, 35), (0, 50), (0, 60)],
            Ask::Load { name: "c", .. } if chains == Chains::Shared => &[(1, 5)],
            _ => &[],
        };
        beside.iter().for_each(|(number, priority)| assert!(host.peer(&theirs(*number, *priority))));
    }
    assert_eq!(host.wrong(), Vec::<String>::new());
    host
}

fn verbs() -> Vec<Ask> {
    vec![
        Ask::Load { name: "new", attach: None },
        Ask::Load { name: "new", attach: Some((0, 30)) },
        Ask::Load { name: "new", attach: Some((1, 1000)) },
        Ask::Attach { app: "c", to: (0, 0) },
        Ask::Trace { app: "tp", event: "sched/sched_wakeup" },
        Ask::Update { link: "a".into(), priority: 10 },
        Ask::Detach { link: "a".into() },
        Ask::Detach { link: "c".into() },
        Ask::Detach { link: "tp".into() },
        Ask::DetachAll { eth: 0 },
        Ask::Unload { app: "a" },
        Ask::Unload { app: "tp" },
        Ask::UnloadAll,
        Ask::Order { says: "first = [\"a\"]" },
    ]
}

const NOTHING: [String; 0] = [];

#[test]
fn a_verb_that_fails_at_any_step_changes_nothing() {
    for (chains, verb) in ALL.into_iter().flat_map(|chains| verbs().into_iter().map(move |verb| (chains, verb))) {
        let mut failures = 0;
        for step in 0.. {
            let mut host = busy(chains);
            let before = host.sight();
            let programs = host.engine().kernel().programs();
            host.engine().kernel().at_step(step, Fate::Fail);
            let result = host.ask(&verb, None);
            let met = host.engine().kernel().met();
            match result {
                Err(EngineError::Execute(ExecuteError::Step(_))) => {
                    assert_eq!(host.sight(), before, "{chains:?} {verb:?} failed at step {step}");
                    assert_eq!(
                        host.engine().kernel().programs(),
                        programs,
                        "{chains:?} {verb:?} leaked at step {step}"
                    );
                    assert_eq!(host.wrong(), NOTHING, "{chains:?} {verb:?} failed at step {step}");
                    failures += 1;
                }
                Err(other) => panic!("{chains:?} {verb:?}: {other}"),
                // Past the commit point a failed step leaves pins for the next repair.
                Ok(()) => {
                    host.restart();
                    assert_eq!(host.wrong(), NOTHING, "{chains:?} {verb:?} after repair, step {step}");
                }
            }
            if !met {
                break;
            }
        }
        let removes_one =
            matches!(&verb, Ask::Detach { link } if link == "tp") || matches!(verb, Ask::Unload { app: "tp" });
        assert!(failures > 0 || removes_one, "{chains:?} {verb:?} never failed: the fate was not met");
    }
}

const DEATHS: [Fate; 4] = [Fate::DieBefore, Fate::DieHalfway, Fate::DieSwapped, Fate::DieAfter];

/// One death of `verb` at a step; `None` if the verb has no such step. Gives the host, stopped, with what it was before.
fn killed(chains: Chains, verb: &Ask, fate: Fate, step: usize) -> Option<(Host, Sight)> {
    let mut host = busy(chains);
    let before = host.sight();
    host.engine().kernel().at_step(step, fate);
    let result = host.ask(verb, None);
    match result {
        Err(EngineError::Execute(ExecuteError::Step(StepError::Died))) | Ok(()) => {}
        Err(other) => panic!("{chains:?} {verb:?}: {other}"),
    }
    let met = host.engine().kernel().met();
    host.stop();
    met.then_some((host, before))
}

#[test]
fn a_death_at_any_step_ends_as_before_or_as_asked() {
    let mut deaths = 0;
    for (chains, verb) in ALL.into_iter().flat_map(|chains| verbs().into_iter().map(move |verb| (chains, verb))) {
        let mut asked = busy(chains);
        asked.ask(&verb, None).unwrap();
        let (_, asked) = asked.sight();
        let in_order = |runs: &Vec<(String, u32)>| runs.is_sorted_by_key(|(_, priority)| *priority);
        assert!(asked.values().all(in_order), "{chains:?} {verb:?}: {asked:?}");
        for fate in DEATHS {
            for step in 0.. {
                let Some((mut host, (rows, before))) = killed(chains, &verb, fate, step) else { break };
                deaths += 1;
                host.start();
                let at = format!("{chains:?} {verb:?} {fate:?} at step {step}");
                assert_eq!(host.wrong(), NOTHING, "{at}");
                let (after_rows, after) = host.sight();
                assert!(after == asked || after == before, "{at}: {after:?} is neither {before:?} nor {asked:?}");
                assert!(after == asked || after_rows == rows, "{at}: rows differ");
            }
        }
    }
    assert!(deaths >= 500, "only {deaths} deaths: the fates were not met");
}

#[test]
fn orders_hold_at_every_change_of_a_chain_and_end_with_their_file() {
    for chains in ALL {
        let mut host = busy(chains);
        let ours = |host: &mut Host| {
            let mut runs = host.of(&eth(0));
            runs.retain(|(name, _)| !name.starts_with("theirs") && name != "pass");
            runs
        };
        let named = |runs: &[(&str, u32)]| runs.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect::<Vec<_>>();
        let foreign = |host: &mut Host| {
            let mut runs = host.of(&eth(0));
            runs.retain(|(name, _)| name.starts_with("theirs") || name == "pass");
            runs
        };
        let theirs = foreign(&mut host);
        assert_eq!(ours(&mut host), named(&[("b", 20), ("a", 50)]), "{chains:?}");
        host.ask(&Ask::Order { says: "first = [\"a\"]" }, None).unwrap();
        assert_eq!(ours(&mut host), named(&[("a", 19), ("b", 20)]), "{chains:?}");
        host.ask(&Ask::Load { name: "new", attach: Some((0, 3)) }, None).unwrap();
        assert_eq!(ours(&mut host), named(&[("a", 2), ("new", 3), ("b", 20)]), "{chains:?}");
        host.ask(&Ask::Update { link: "a".into(), priority: 1 }, None).unwrap();
        assert_eq!(ours(&mut host), named(&[("a", 1), ("new", 3), ("b", 20)]), "{chains:?}");
        host.ask(&Ask::Update { link: "a".into(), priority: 60 }, None).unwrap();
        host.ask(&Ask::Unload { app: "new" }, None).unwrap();
        assert_eq!(ours(&mut host), named(&[("a", 19), ("b", 20)]), "{chains:?}");
        let repaired = host.restart();
        assert_eq!((repaired.steps, ours(&mut host)), (vec![], named(&[("a", 19), ("b", 20)])), "{chains:?}");
        // The files changed while the daemon was not there.
        host.policy.send_replace(Arc::default());
        host.restart();
        assert_eq!(ours(&mut host), named(&[("b", 20), ("a", 60)]), "{chains:?}");
        assert_eq!(foreign(&mut host), theirs, "{chains:?}: nothing of others moved");
        assert_eq!(host.wrong(), NOTHING, "{chains:?}");
    }
}

#[test]
fn a_death_while_repairing_a_death_ends_alike() {
    let mut deaths = 0;
    for (chains, verb) in ALL.into_iter().flat_map(|chains| verbs().into_iter().map(move |verb| (chains, verb))) {
        let mut asked = busy(chains);
        asked.ask(&verb, None).unwrap();
        let (_, asked) = asked.sight();
        for (fate, step) in (0..).map(|step| (DEATHS[step % DEATHS.len()], step)) {
            let Some(_) = killed(chains, &verb, fate, step) else { break };
            for again in 0.. {
                let (mut host, (_, before)) = killed(chains, &verb, fate, step).unwrap();
                let died = host.start_and_die(again, DEATHS[again % DEATHS.len()]);
                host.start();
                let at = format!("{chains:?} {verb:?} {fate:?} at step {step}, again at {again}");
                assert_eq!(host.wrong(), NOTHING, "{at}");
                let (_, after) = host.sight();
                assert!(after == asked || after == before, "{at}: {after:?} is neither {before:?} nor {asked:?}");
                if !died {
                    break;
                }
                deaths += 1;
            }
        }
    }
    assert!(deaths >= 100, "only {deaths} deaths: the fates were not met");
}

#[test]
fn a_repair_that_fails_at_any_step_leaves_the_rest_to_the_next_one() {
    let mut failures = 0;
    for (chains, verb) in ALL.into_iter().flat_map(|chains| verbs().into_iter().map(move |verb| (chains, verb))) {
        for (death, fate) in DEATHS.into_iter().enumerate().map(|(index, fate)| (2 * index, fate)) {
            let Some((mut host, _)) = killed(chains, &verb, fate, death) else { break };
            for step in 0.. {
                let repaired = host.start_with(|kernel| kernel.at_step(step, Fate::Fail));
                let at = format!("{chains:?} {verb:?} {fate:?} at step {death}, then at step {step} of the repair");
                if !host.engine().kernel().met() {
                    break;
                }
                failures += 1;
                // Without its swap a chain runs what it ran, which keeps its pins.
                if repaired.failures.first().is_some_and(|failure| failure.what.starts_with("swap")) {
                    assert_eq!(repaired.failures.len(), 1, "{at}: {:?}", repaired.failures);
                }
                host.restart();
                assert_eq!(host.wrong(), NOTHING, "{at}, after a restart");
                (host, _) = killed(chains, &verb, fate, death).unwrap();
            }
        }
    }
    assert!(failures >= 100, "only {failures} failures: the fates were not met");
}

#[test]
fn what_was_made_for_a_chain_that_a_peer_changed_meanwhile_is_planned_again() {
    for (act, verb) in [
        (theirs(0, 15), Ask::Load { name: "new", attach: Some((0, 30)) }),
        (PeerMove::Unload(eth(0)), Ask::Load { name: "new", attach: Some((0, 30)) }),
        (theirs(0, 15), Ask::Attach { app: "c", to: (0, 40) }),
        (PeerMove::Unload(eth(1)), Ask::Attach { app: "a", to: (1, 40) }),
    ] {
        let mut host = busy(Chains::Shared);
        host.while_made.push(act.clone());
        host.ask(&verb, None).unwrap();
        assert_eq!(host.while_made, [], "{verb:?} needed something");
        assert_eq!(host.wrong(), NOTHING, "{verb:?} after {act:?}");
        let (_, runs) = host.sight();
        assert!(runs.values().all(|runs| runs.is_sorted_by_key(|(_, priority)| *priority)), "{runs:?}");
    }
}

#[test]
fn a_generation_for_an_interface_that_went_and_came_meanwhile_is_made_again() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = busy(chains);
        host.while_made.extend([PeerMove::Goes(eth(1)), PeerMove::Comes(eth(1))]);
        host.ask(&Ask::Attach { app: "a", to: (1, 40) }, None).unwrap();
        assert_eq!(host.wrong(), NOTHING, "{chains:?}");
        let (_, runs) = host.sight();
        assert_eq!(runs[&eth(1)], [("a".to_owned(), 40), ("c".to_owned(), 90)], "{chains:?}");
    }
}

#[test]
fn a_database_without_a_journal_breaks_an_invariant() {
    // The control of the tests above: the same death, and a database that never heard of the operation or its rows.
    for chains in ALL {
        let mut host = busy(chains);
        host.engine().kernel().at_step(3, Fate::DieAfter);
        let died = host.ask(&Ask::Load { name: "new", attach: Some((0, 30)) }, None);
        assert!(matches!(died, Err(EngineError::Execute(ExecuteError::Step(StepError::Died)))));
        host.stop();
        let observed = host.kernel.observe(&both()).unwrap();
        let state = Store::open(&host.dir.path().join("state.db")).unwrap().state(BOOT).unwrap();
        assert_ne!(invariants::check(&state, &observed), []);
    }
}

/// What a repair could not have.
fn told(repaired: &Repaired) -> Vec<String> {
    repaired.failures.iter().map(ToString::to_string).collect()
}

/// A repair that found all as it was left.
fn nothing() -> Repaired {
    Repaired { relation: Relation::Matches, ..Repaired::default() }
}

/// What is recorded beside the pins.
fn recorded(host: &mut Host) -> State {
    host.engine().kernel().observe(&Scope::Everything(Targets::default())).unwrap().recorded
}

/// The rows as they are recorded: without the chains that links are in now.
fn as_asked(host: &mut Host) -> State {
    let mut state = host.state();
    for link in state.links.values_mut() {
        *link = link.as_asked();
    }
    state
}

#[test]
fn the_records_say_what_the_database_says_after_each_verb() {
    for (chains, verb) in ALL.into_iter().flat_map(|chains| verbs().into_iter().map(move |verb| (chains, verb))) {
        let mut host = busy(chains);
        let before = recorded(&mut host);
        assert_eq!(before, as_asked(&mut host), "{chains:?}");
        host.ask(&verb, None).unwrap();
        let after = recorded(&mut host);
        assert_eq!(after, as_asked(&mut host), "{chains:?} {verb:?}");
        assert_ne!(after, before, "{chains:?} {verb:?}");
        // As the maps have them, byte by byte.
        let apps = after.apps.values().cloned().map(Row::App);
        for row in apps.chain(after.links.values().cloned().map(Row::Link)) {
            assert_eq!(Row::decode(&row.encode().unwrap()).unwrap(), row);
        }
    }
}

#[test]
fn a_host_without_records_gets_them_at_a_start_and_keeps_those_of_an_app_that_is_lost() {
    let mut host = busy(Chains::Fused);
    host.stop();
    host.kernel.forget_records();
    let written = host.start().steps.iter().filter(|step| step.starts_with("record ")).count();
    assert_eq!(written, 8, "four apps and four links");
    assert_eq!((recorded(&mut host), host.wrong()), (as_asked(&mut host), vec![]));
    assert_eq!(host.restart().steps, NOTHING);

    // The object of `a` is lost: after a boot its link keeps its row, and so its record.
    host.stop();
    host.kernel.reboot();
    host.kernel.lose(AppUid(Uuid::from_u128(1)));
    host.start();
    let (records, state) = (recorded(&mut host), as_asked(&mut host));
    assert_eq!((records.links, records.apps.len()), (state.links, 3));
}

#[test]
fn a_database_of_before_and_another_one_are_told_from_the_one_that_made_the_pins() {
    let mut host = busy(Chains::Fused);
    let start = |host: &mut Host| host.restart().relation;
    assert_eq!(start(&mut host), Relation::Matches);
    let database = |host: &Host| host.dir.path().join("state.db");
    host.stop();
    let kept = std::fs::read(database(&host)).unwrap();
    host.start();
    host.ask(&Ask::Update { link: "a".into(), priority: 10 }, None).unwrap();
    host.ask(&Ask::Detach { link: "c".into() }, None).unwrap();
    host.stop();
    let pins = host.kernel.clone();
    std::fs::write(database(&host), kept).unwrap();
    let running = runs(&pins);
    assert_eq!(host.start().relation, Relation::Older { by: 2 });
    assert_eq!(runs(host.engine().kernel()), running, "nothing was changed");
    // The database was made what runs, and is another one.
    assert_eq!(start(&mut host), Relation::Matches);
    assert_eq!(runs(host.engine().kernel()), running);

    // Killed after a commit, before the map was written.
    host.stop();
    let before = host.kernel.clone();
    host.start();
    host.ask(&Ask::Update { link: "b".into(), priority: 30 }, None).unwrap();
    host.stop();
    host.kernel = before;
    assert_eq!(host.start().relation, Relation::Matches);

    host.stop();
    host.kernel = pins;
    std::fs::remove_file(database(&host)).unwrap();
    assert_eq!(host.start().relation, Relation::Another);
    assert_eq!(runs(host.engine().kernel()), running);
    host.stop();
    host.kernel.reboot();
    assert_eq!(host.start().relation, Relation::Fresh);

    // Nothing says whose the pins are: of a version that left no records, too.
    for records in [true, false] {
        let mut host = busy(Chains::Fused);
        host.stop();
        let running = runs(&host.kernel);
        match records {
            true => host.kernel.forget_stamp(),
            false => host.kernel.forget_records(),
        }
        std::fs::remove_file(host.dir.path().join("state.db")).unwrap();
        assert_eq!(host.start().relation, Relation::Incomplete);
        assert_eq!(runs(host.engine().kernel()), running);
        assert_eq!(host.restart().relation, Relation::Matches);
        assert_eq!(runs(host.engine().kernel()), running);
    }
}

/// What each interface runs, what else is attached, and what is pinned for it: by the kernel's numbers.
fn runs(kernel: &FakeKernel) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut kernel = kernel.clone();
    let seen = kernel.observe(&both()).unwrap();
    let running = seen.generations.into_iter().filter(|(_, generation)| generation.runs != Runs::No);
    (seen.chains, seen.links, seen.copies, running.collect::<Vec<_>>(), seen.apps)
}

/// The links that run.
fn attached(kernel: &FakeKernel) -> BTreeSet<LinkUid> {
    let seen = kernel.clone().observe(&both()).unwrap();
    seen.running().union(&seen.links).copied().collect()
}

#[test]
fn after_a_death_at_any_step_a_lost_database_takes_no_program_off() {
    let mut deaths = 0;
    for (chains, verb) in ALL.into_iter().flat_map(|chains| verbs().into_iter().map(move |verb| (chains, verb))) {
        for (step, fate) in (0..).map(|step| (step, DEATHS[step % DEATHS.len()])) {
            let Some((mut host, _)) = killed(chains, &verb, fate, step) else { break };
            deaths += 1;
            let at = format!("{chains:?} {verb:?} {fate:?} at step {step}");
            host.kernel.restart();
            let running = runs(&host.kernel);
            let lose = |host: &Host| std::fs::remove_file(host.dir.path().join("state.db")).unwrap();
            lose(&host);
            host.start_and_die(0, fate);
            assert_eq!(runs(&host.kernel), running, "{at}, dying");
            host.start();
            let recovery = host.engine().snapshots().borrow().recovery.clone();
            let attached = attached(&host.kernel);
            host.restart();
            assert!(attached.is_subset(&self::attached(host.engine().kernel())), "{at}: {attached:?}");
            assert_eq!(host.engine().snapshots().borrow().recovery, recovery, "{at}");
            host.decide(Decision::Adopt);
            assert_eq!(host.wrong(), NOTHING, "{at}, adopted");
            assert_eq!(host.restart().steps, NOTHING, "{at}");
            host.stop();
            lose(&host);
            host.start();
            host.decide(Decision::Discard);
            assert_eq!((host.state(), host.wrong()), (State::default(), vec![]), "{at}, discarded");
        }
    }
    assert!(deaths >= 100, "only {deaths} deaths: the fates were not met");
}

/// What a peer does beside the busy host.
fn moves() -> Vec<PeerMove> {
    vec![
        theirs(0, 15),
        theirs(0, 50),
        theirs(1, 95),
        PeerMove::Unload(eth(0)),
        PeerMove::UnloadAll(eth(0)),
        PeerMove::Clean,
    ]
}

#[test]
fn a_peer_that_acts_between_any_two_steps_of_a_verb_loses_nothing_of_either_side() {
    let mut acts = 0;
    for (verb, act) in verbs().into_iter().flat_map(|verb| moves().into_iter().map(move |act| (verb.clone(), act))) {
        for step in 0.. {
            let mut host = busy(Chains::Shared);
            host.engine().kernel().peer_at_step(step, act.clone());
            let asked = host.ask(&verb, None);
            let at = format!("{verb:?}, {act:?} at step {step}");
            assert!(asked.is_ok(), "{at}: {asked:?}");
            if !host.engine().kernel().met() {
                break;
            }
            acts += 1;
            host.settle(&News::everything());
            assert_eq!(host.engine().kernel().wrong_for_peers(), NOTHING, "{at}");
            host.restart();
            assert_eq!(host.wrong(), NOTHING, "{at}, after a restart");
        }
    }
    assert!(acts >= 200, "only {acts} acts: the steps were not met");
}

#[test]
fn a_peer_that_acts_while_the_daemon_is_dead_loses_nothing_of_either_side() {
    let mut deaths = 0;
    for verb in verbs() {
        for (index, act) in moves().into_iter().enumerate() {
            for step in 0.. {
                let fate = DEATHS[(step + index) % DEATHS.len()];
                let Some((mut host, _)) = killed(Chains::Shared, &verb, fate, step) else { break };
                host.kernel.restart();
                host.kernel.peer(&act);
                host.start();
                assert_eq!(host.wrong(), NOTHING, "{verb:?} {fate:?} at step {step}, then {act:?}");
                deaths += 1;
            }
        }
    }
    assert!(deaths >= 200, "only {deaths} deaths: the fates were not met");
}

#[test]
fn a_peer_that_acts_between_any_two_steps_of_a_repair_loses_nothing_of_either_side() {
    let mut acts = 0;
    for verb in verbs() {
        for (index, act) in moves().into_iter().enumerate() {
            // Every third death: between them the moves meet each one twice.
            for death in (index % 3..).step_by(3) {
                let fate = DEATHS[(death + index) % DEATHS.len()];
                let Some((mut host, _)) = killed(Chains::Shared, &verb, fate, death) else { break };
                for step in 0.. {
                    let repaired = host.start_with(|kernel| kernel.peer_at_step(step, act.clone()));
                    let at = format!("{verb:?} {fate:?} at step {death}, {act:?} at step {step} of the repair");
                    assert_eq!(told(&repaired), NOTHING, "{at}");
                    assert_eq!(host.engine().kernel().wrong_for_peers(), NOTHING, "{at}");
                    if !host.engine().kernel().met() {
                        break;
                    }
                    acts += 1;
                    host.restart();
                    assert_eq!(host.wrong(), NOTHING, "{at}, after a restart");
                    (host, _) = killed(Chains::Shared, &verb, fate, death).unwrap();
                }
            }
        }
    }
    assert!(acts >= 200, "only {acts} acts: the steps were not met");
}

#[test]
fn peers_are_never_turned_over_or_rewritten() {
    let mut host = Host::new(Chains::Libxdp);
    let act = PeerMove::Load { chain: eth(0), name: "theirs".into(), priority: 4_000_000_000, version: 1 };
    assert!(host.peer(&act), "a priority that bpfd has not");
    for (ask, expected) in [
        (Ask::Load { name: "a", attach: Some((0, 50)) }, vec!["a", "theirs"]),
        (Ask::Load { name: "b", attach: Some((0, 1000)) }, vec!["a", "b", "theirs"]),
        (Ask::Detach { link: "a".into() }, vec!["b", "theirs"]),
        (Ask::UnloadAll, vec!["theirs"]),
    ] {
        host.ask(&ask, None).unwrap();
        let (_, chains) = host.sight();
        let names: Vec<_> = chains[&eth(0)].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, host.engine().kernel().version(&eth(0))), (expected, Some(1)), "{ask:?}");
        assert_eq!(host.wrong(), NOTHING, "{ask:?}");
    }
    assert!(host.peer(&PeerMove::Unload(eth(0))));
    host.ask(&Ask::Load { name: "a", attach: Some((0, 50)) }, None).unwrap();
    assert_eq!(host.engine().kernel().version(&eth(0)), Some(2), "an interface without a dispatcher gets version 2");
    assert_eq!(host.wrong(), NOTHING);
}

#[test]
fn an_eleventh_program_is_refused_and_nothing_is_changed() {
    for others in [0, 3, 9] {
        let mut host = Host::new(Chains::Libxdp);
        (0..others).for_each(|number| assert!(host.peer(&theirs(0, 100 + number))));
        host.ask(&Ask::Load { name: "a", attach: Some((0, 0)) }, None).unwrap();
        for priority in 1..10 - others {
            host.ask(&Ask::Attach { app: "a", to: (0, priority) }, None).unwrap();
        }
        let before = host.sight();
        assert_eq!(before.1[&eth(0)].len(), SLOTS);
        let steps = host.engine().kernel().log.len();
        for ask in [Ask::Attach { app: "a", to: (0, 1000) }, Ask::Load { name: "b", attach: Some((0, 1000)) }] {
            let refused = host.ask(&ask, None);
            let full = |error: &EngineError| matches!(error, EngineError::Plan(PlanError::ChainFull { chain, programs: 11, room: 10 }) if *chain == eth(0));
            assert!(refused.as_ref().is_err_and(full), "{others} {ask:?}: {refused:?}");
            assert_eq!((host.sight(), host.engine().kernel().log.len()), (before.clone(), steps));
            assert_eq!(host.wrong(), NOTHING);
        }
        assert!(!host.peer(&theirs(0, 999)), "nor is there room for a peer");
        host.ask(&Ask::DetachAll { eth: 0 }, None).unwrap();
        assert!(host.peer(&theirs(0, 999)), "there is now");
        assert_eq!(host.wrong(), NOTHING);
    }
}

#[test]
fn the_last_two_slots_are_kept_for_priorities_below_100() {
    let mut host = Host::new(Chains::Libxdp);
    host.ask(&Ask::Load { name: "a", attach: Some((0, 500)) }, None).unwrap();
    for priority in 501..508 {
        host.ask(&Ask::Attach { app: "a", to: (0, priority) }, None).unwrap();
    }
    let before = host.sight();
    for ask in [Ask::Attach { app: "a", to: (0, 100) }, Ask::Load { name: "b", attach: Some((0, 1000)) }] {
        let refused = host.ask(&ask, None).unwrap_err();
        let numbers = "9 XDP programs; 10 is the limit, and the last 2 are kept for links of priorities 0 to 99";
        assert!(refused.to_string().contains(numbers), "{refused}");
        assert_eq!(host.sight(), before);
    }
    for priority in [99, 0] {
        host.ask(&Ask::Attach { app: "a", to: (0, priority) }, None).unwrap();
    }
    assert_eq!(host.sight().1[&eth(0)].len(), SLOTS);
    // What is attached stays: a move is no new link, and a restart leaves nothing out.
    host.restart();
    assert_eq!(host.sight().1[&eth(0)].len(), SLOTS);
    assert_eq!(host.wrong(), NOTHING);
}

#[test]
fn slots_that_peers_took_while_ours_were_off_are_theirs() {
    let mut host = Host::new(Chains::Libxdp);
    host.ask(&Ask::Load { name: "a", attach: Some((0, 50)) }, None).unwrap();
    host.stop();
    assert!(host.kernel.peer(&PeerMove::UnloadAll(eth(0))));
    (100..110).for_each(|priority| assert!(host.kernel.peer(&theirs(0, priority))));
    host.start();
    assert_eq!(host.engine().kernel().wrong_for_peers(), NOTHING);
    let told: Vec<_> = host.broken().into_iter().map(|broken| broken.invariant).collect();
    assert_eq!(told, ["K1"], "ours is reported, and nothing else is wrong");
    host.peer(&PeerMove::Unload(eth(0)));
    host.restart();
    assert_eq!(host.wrong(), NOTHING);
    assert_eq!(host.sight().1[&eth(0)][0], ("a".to_owned(), 50));
}

#[test]
fn a_dispatcher_that_peers_share_is_left_to_them_where_chains_are_fused_from_now_on() {
    let mut host = busy(Chains::Shared);
    let (_, before) = host.sight();
    host.stop();
    host.kernel.keep_chains(Chains::Fused.mode());
    host.start();
    assert_eq!((host.sight().1, host.wrong()), (before.clone(), NOTHING.to_vec()));
    for ask in [Ask::Attach { app: "c", to: (0, 30) }, Ask::Load { name: "new", attach: Some((0, 30)) }] {
        let refused = host.ask(&ask, None);
        assert!(matches!(refused, Err(EngineError::Plan(PlanError::Foreign { .. }))), "{ask:?}: {refused:?}");
        assert_eq!((host.sight().1, host.wrong()), (before.clone(), NOTHING.to_vec()), "{ask:?}");
    }
    // What is to go goes, and leaves theirs.
    host.ask(&Ask::Unload { app: "a" }, None).unwrap();
    assert_eq!(host.wrong(), NOTHING);
    let (_, chains) = host.sight();
    let names: Vec<_> = chains[&eth(0)].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["theirs_10", "b", "theirs_35", "pass", "theirs_60"]);
    host.ask(&Ask::DetachAll { eth: 0 }, None).unwrap();
    assert_eq!(host.wrong(), NOTHING);
    // Once they have gone it is bpfd's.
    assert!(host.peer(&PeerMove::UnloadAll(eth(0))));
    host.ask(&Ask::Attach { app: "c", to: (0, 30) }, None).unwrap();
    assert_eq!((host.sight().1[&eth(0)].as_slice(), host.wrong()), (&[("c".to_owned(), 30)][..], NOTHING.to_vec()));
}

#[test]
fn what_a_peer_built_around_ours_keeps_ours_through_a_clean_up_without_a_restart() {
    let mut host = Host::new(Chains::Libxdp);
    host.ask(&Ask::Load { name: "a", attach: Some((0, 50)) }, None).unwrap();
    assert!(host.peer(&theirs(0, 60)));
    assert_eq!(host.sight().1[&eth(0)], [("a".to_owned(), 50), ("theirs_60".to_owned(), 60)]);
    assert!(host.peer(&PeerMove::Clean));
    assert_eq!(host.sight().1[&eth(0)], [("a".to_owned(), 50)], "theirs was held by what they cleaned up");
    assert_eq!(host.wrong(), NOTHING);
}

#[test]
fn a_restart_changes_nothing() {
    for chains in ALL {
        let mut host = busy(chains);
        let before = host.sight();
        let steps = host.engine().kernel().log.len();
        let repaired = host.restart();
        assert_eq!(repaired, nothing());
        assert_eq!(host.sight(), before);
        assert_eq!(host.engine().kernel().log.len(), steps);
    }
}

#[test]
fn a_reboot_brings_every_chain_back() {
    for chains in ALL {
        let mut host = busy(chains);
        let (_, mut before) = host.sight();
        // What peers had is theirs to load again.
        before.values_mut().for_each(|runs| runs.retain(|(name, _)| ["a", "b", "c"].contains(&name.as_str())));
        host.stop();
        host.kernel.reboot();
        let repaired = host.start();
        assert_eq!(told(&repaired), NOTHING);
        assert_eq!(host.audit.of(Kind::Repair), 1, "the repair is on record, once");
        assert_eq!(host.sight().1, before);
        let state = host.state();
        assert_eq!(state.links.len(), 4);
        assert_eq!(host.wrong(), NOTHING);
    }
}

#[test]
fn the_same_request_twice_is_done_once() {
    let mut host = busy(Chains::Shared);
    let load = Ask::Load { name: "once", attach: Some((0, 60)) };
    host.ask(&load, Some(77)).unwrap();
    let after = host.sight();
    host.ask(&load, Some(77)).unwrap();
    assert_eq!(host.sight(), after);
    let again = host.ask(&load, Some(78));
    assert!(matches!(again, Err(EngineError::Request(_))), "another request: the name is taken");
    // The key with something else.
    let used = context(Some(77));
    let other = RequestKey { asked: AskedId(Uuid::from_u128(1)), ..used.request.unwrap() };
    let reused = host.change(&Context { request: Some(other), ..used }, None, |_, _| Ok(vec![]));
    assert!(matches!(reused, Err(EngineError::Reused(id)) if id == other.id), "{reused:?}");
    assert_eq!(host.sight(), after);
}

#[test]
fn a_foreign_program_is_never_replaced() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = Host::new(chains);
        host.engine().kernel().attach_foreign(&eth(0), "theirs");
        let refused = host.ask(&Ask::Load { name: "a", attach: Some((0, 50)) }, None);
        assert!(matches!(refused, Err(EngineError::Plan(PlanError::Foreign { .. }))), "{refused:?}");
        assert_eq!(host.state(), State::default());
        assert_eq!(host.engine().kernel().log, Vec::<String>::new());
    }
}

#[test]
fn a_full_disk_changes_nothing() {
    // A database that refuses to grow stands for ENOSPC at any write of the journal.
    let mut host = busy(Chains::Shared);
    let before = host.sight();
    let db = rusqlite::Connection::open(host.dir.path().join("state.db")).unwrap();
    db.execute_batch("CREATE TRIGGER full BEFORE INSERT ON links BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        .unwrap();
    let refused = host.ask(&Ask::Update { link: "a".into(), priority: 1 }, None);
    assert!(matches!(refused, Err(EngineError::Execute(ExecuteError::Store(_)))), "{refused:?}");
    assert_eq!(host.sight(), before);
    db.execute_batch("DROP TRIGGER full").unwrap();
    host.ask(&Ask::Update { link: "a".into(), priority: 1 }, None).unwrap();
    assert_eq!(host.broken(), []);
}

/// Where nothing can be written at all, what was undone cannot be written down either.
#[test]
fn what_was_undone_on_a_full_disk_is_not_done_later() {
    let lost_room = |host: &Host| {
        let db = rusqlite::Connection::open(host.dir.path().join("state.db")).unwrap();
        db.execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON links BEGIN SELECT RAISE(FAIL, 'disk is full'); END;
             CREATE TRIGGER full_again BEFORE DELETE ON links BEGIN SELECT RAISE(FAIL, 'disk is full'); END;
             CREATE TRIGGER full_too BEFORE DELETE ON operations BEGIN SELECT RAISE(FAIL, 'disk is full'); END",
        )
        .unwrap();
        db
    };
    let operations = |db: &rusqlite::Connection| -> u32 {
        db.query_row("SELECT count(*) FROM operations", [], |row| row.get(0)).unwrap()
    };
    for chains in XDP {
        for (ask, is_asked_again) in [
            (Ask::Load { name: "new", attach: Some((0, 60)) }, true),
            (Ask::Detach { link: "a/pass@eth0:xdp".into() }, true),
            (Ask::Update { link: "a/pass@eth0:xdp".into(), priority: 1 }, false),
        ] {
            let mut host = busy(chains);
            let before = host.sight();
            let db = lost_room(&host);
            let refused = host.ask(&ask, None);
            assert!(matches!(refused, Err(EngineError::Execute(ExecuteError::Store(_)))), "{refused:?}");
            assert_eq!((host.sight(), operations(&db)), (before.clone(), 1));
            db.execute_batch("DROP TRIGGER full; DROP TRIGGER full_again; DROP TRIGGER full_too").unwrap();
            let again = if is_asked_again { ask } else { Ask::Update { link: "c/pass@eth1:xdp".into(), priority: 3 } };
            host.ask(&again, None).unwrap();
            let after = host.sight();
            assert_eq!(operations(&db), 0);
            host.restart();
            assert_eq!(host.sight(), after);
            assert_eq!(host.wrong(), NOTHING);
        }
    }
}

/// A journal that the state went on without: written by a daemon that could not take its last words back.
#[test]
fn an_operation_that_fits_the_state_no_more_is_let_go() {
    let mut host = busy(Chains::Fused);
    let db = lost_words(&host);
    host.ask(&Ask::Load { name: "twice", attach: None }, None).unwrap();
    let after = host.sight();
    host.stop();
    db.execute_batch("INSERT INTO operations SELECT * FROM kept").unwrap();
    // That was an earlier version, whose audit log says nothing of what is open.
    host.audit = Audit::default();
    let repaired = host.start();
    assert_eq!(
        told(&repaired),
        ["an operation in the journal no longer fits the state and was dropped: an app named `twice` exists"]
    );
    assert_eq!(host.sight(), after);
    assert_eq!(host.wrong(), NOTHING);
    assert_eq!(host.restart(), nothing());
}

/// Keeps each row of the journal.
fn lost_words(host: &Host) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(host.dir.path().join("state.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE kept AS SELECT * FROM operations;
         CREATE TRIGGER keeps AFTER INSERT ON operations BEGIN INSERT INTO kept SELECT * FROM operations; END",
    )
    .unwrap();
    db
}

/// How the link of each app on eth0 stands, by name.
fn stand(host: &mut Host) -> BTreeMap<String, LinkStatus> {
    let snapshot = host.engine().snapshots().borrow().clone();
    let here = snapshot.state.links.values().filter(|link| link.placement.asked() == Some(&eth(0)));
    here.map(|link| (snapshot.state.apps[&link.app].name.to_string(), snapshot.statuses[&link.uid].clone())).collect()
}

/// What eth0 runs.
fn names(host: &mut Host) -> Vec<String> {
    host.sight().1[&eth(0)].iter().map(|(name, _)| name.clone()).collect()
}

/// A host whose eth0 runs these three, in this order.
fn three(chains: Chains) -> (Host, AppUid) {
    let mut host = Host::new(chains);
    for (name, priority) in [("first", 20), ("alone", 50), ("last", 90)] {
        host.ask(&Ask::Load { name, attach: Some((0, priority)) }, None).unwrap();
    }
    let alone = host.state().app_named(&"alone".parse().unwrap()).unwrap().uid;
    host.stop();
    (host, alone)
}

#[test]
fn a_chain_runs_without_the_member_that_does_not_go_into_it() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let (mut host, alone) = three(chains);
        host.kernel.reboot();
        host.kernel.keep_alone(alone);
        let why = |status: &LinkStatus| matches!(status, LinkStatus::Drifted { cause } if cause.contains("no type information"));
        for start in 0..2 {
            let repaired = host.start();
            assert_eq!((repaired.barred.len(), repaired.failures.len()), (1, 1), "{chains:?} {start}: {repaired:?}");
            assert_eq!(names(&mut host), ["first", "last"], "{chains:?} {start}");
            let stand = stand(&mut host);
            assert!(why(&stand["alone"]), "{chains:?}: {stand:?}");
            assert!(["first", "last"].iter().all(|app| stand[*app] == LinkStatus::Attached), "{chains:?}: {stand:?}");
            let wrong = host.wrong();
            assert!(matches!(wrong.as_slice(), [one] if one.starts_with("K1: link `alone/")), "{chains:?}: {wrong:?}");
            host.stop();
        }
        // It is no reason against changes of its chain, its own included.
        host.start();
        host.ask(&Ask::Load { name: "more", attach: Some((0, 60)) }, None).unwrap();
        host.ask(&Ask::Update { link: "alone/pass@eth0:xdp".into(), priority: 10 }, None).unwrap();
        host.ask(&Ask::Unload { app: "first" }, None).unwrap();
        assert_eq!(names(&mut host), ["more", "last"], "{chains:?}");
        // Its interface comes anew: it is tried again, and the others run.
        host.engine().kernel().remove_interface(&eth(0));
        host.settle(&News::everything());
        host.engine().kernel().add_interface(eth(0));
        let settled = host.settle(&News::everything());
        assert_eq!((settled.barred.len(), names(&mut host)), (1, vec!["more".to_owned(), "last".to_owned()]));
        assert!(why(&stand(&mut host)["alone"]), "{chains:?}");
        // So it is if a change was before the news.
        host.engine().kernel().remove_interface(&eth(0));
        host.engine().kernel().add_interface(eth(0));
        host.ask(&Ask::Update { link: "last/pass@eth0:xdp".into(), priority: 91 }, None).unwrap();
        assert_eq!(host.settle(&News::everything()).barred.len(), 1, "{chains:?}");
        assert_eq!(names(&mut host), ["more", "last"], "{chains:?}");
        host.ask(&Ask::Unload { app: "alone" }, None).unwrap();
        assert_eq!(host.wrong(), NOTHING, "{chains:?}");
    }
}

#[test]
fn of_programs_that_the_verifier_takes_only_apart_the_lowest_places_are_left_out() {
    let (mut host, _) = three(Chains::Fused);
    host.kernel.reboot();
    let why = |status: &LinkStatus| {
        let told =
            "left out so that the others run: the kernel's verifier rejected `bpfd_fused`: BPF program is too large";
        matches!(status, LinkStatus::Drifted { cause } if cause.starts_with(told))
    };
    for (most, run) in [(2, vec!["first", "alone"]), (1, vec!["first"])] {
        host.kernel.bear(Some(most));
        host.kernel.reboot();
        let repaired = host.start();
        assert_eq!(repaired.barred.len(), 3 - most, "{repaired:?}");
        assert_eq!(names(&mut host), run);
        let stand = stand(&mut host);
        for app in ["first", "alone", "last"] {
            let stands = &stand[app];
            assert!(
                if run.contains(&app) { *stands == LinkStatus::Attached } else { why(stands) },
                "{app}: {stands:?}"
            );
        }
        host.stop();
    }
    // A verifier that takes all of them again has them at the next start.
    host.kernel.bear(None);
    host.start();
    assert_eq!(names(&mut host), ["first", "alone", "last"]);
    assert_eq!(host.wrong(), NOTHING);
    // None of them is off because of one that comes.
    host.engine().kernel().bear(Some(3));
    host.ask(&Ask::Load { name: "more", attach: Some((0, 60)) }, None).unwrap_err();
    assert_eq!(names(&mut host), ["first", "alone", "last"]);
}

#[test]
fn what_runs_in_another_form_runs_on_if_the_new_one_cannot_have_it() {
    for (before, now) in [(Chains::Libxdp, Chains::Fused), (Chains::Fused, Chains::Libxdp)] {
        let (mut host, alone) = three(before);
        host.kernel.keep_chains(now.mode());
        host.kernel.keep_alone(alone);
        let repaired = host.start();
        assert_eq!((repaired.barred.len(), repaired.failures.len()), (0, 1), "{now:?}: {repaired:?}");
        assert_eq!(names(&mut host), ["first", "alone", "last"], "{now:?}");
    }
}

#[test]
fn what_the_kernel_had_no_room_for_goes_in_with_the_next_change() {
    let (mut host, _) = three(Chains::Libxdp);
    host.kernel.reboot();
    let mut left_out = 0;
    for step in 0.. {
        let kernel = host.kernel.clone();
        let repaired = host.start_with(|kernel| kernel.at_step(step, Fate::Fail));
        let met = host.engine().kernel().met();
        if let [link] = repaired.passing.iter().collect::<Vec<_>>().as_slice() {
            assert!(repaired.barred.contains_key(link), "{repaired:?}");
            assert_eq!(names(&mut host).len(), 2, "{repaired:?}");
            host.ask(&Ask::Update { link: "last/pass@eth0:xdp".into(), priority: 80 }, None).unwrap();
            assert_eq!(names(&mut host), ["first", "alone", "last"]);
            assert_eq!(host.wrong(), NOTHING);
            host.ask(&Ask::Update { link: "last/pass@eth0:xdp".into(), priority: 90 }, None).unwrap();
            left_out += 1;
        }
        host.stop();
        host.kernel = kernel;
        if !met {
            break;
        }
    }
    assert_eq!(left_out, 6, "each app that is not pinned, each copy that is not made");
}

#[test]
fn what_cannot_be_had_elsewhere_is_no_reason_against_a_change() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = busy(chains);
        let lost = host.state().app_named(&"a".parse().unwrap()).unwrap().uid;
        host.stop();
        host.kernel.reboot();
        host.kernel.lose(lost);
        let repaired = host.start();
        assert_eq!(told(&repaired), ["app `a`: cannot use the object: it is lost"]);
        let runs = |host: &mut Host, number: u8| host.sight().1[&eth(number)].clone();
        let beside = runs(&mut host, 0);
        assert!(!beside.is_empty(), "the rest of its chain runs");
        // Elsewhere, and on its own chain.
        host.ask(&Ask::Load { name: "new", attach: Some((1, 60)) }, None).unwrap();
        host.ask(&Ask::Update { link: "new/pass@eth1:xdp".into(), priority: 1 }, None).unwrap();
        host.ask(&Ask::Unload { app: "new" }, None).unwrap();
        host.ask(&Ask::Load { name: "more", attach: Some((0, 900)) }, None).unwrap();
        assert_eq!(runs(&mut host, 0), [beside.clone(), vec![("more".to_owned(), 900)]].concat());
        host.ask(&Ask::Unload { app: "more" }, None).unwrap();
        // An interface that comes gets what can be had.
        host.engine().kernel().remove_interface(&eth(0));
        host.settle(&News::everything());
        host.engine().kernel().add_interface(eth(0));
        host.settle(&News::everything());
        assert_eq!(runs(&mut host, 0), beside);
        host.ask(&Ask::Unload { app: "a" }, None).unwrap();
        assert_eq!(host.broken(), []);
    }
}

#[test]
fn what_somebody_took_off_one_interface_is_left_alone_by_changes_of_another() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = busy(chains);
        host.engine().kernel().clear(&eth(0));
        host.ask(&Ask::Load { name: "new", attach: Some((1, 60)) }, None).unwrap();
        assert_eq!(host.sight().1[&eth(0)], vec![]);
        host.ask(&Ask::Load { name: "here", attach: Some((0, 60)) }, None).unwrap();
        assert_eq!(host.broken(), [], "a change of its own chain puts all back");
    }
}

#[test]
fn two_names_of_one_interface_make_one_chain() {
    for chains in XDP {
        let mut host = busy(chains);
        // One waits for the second name, one is asked for by it.
        host.attach_waiting("a", on(eth(7), 5)).unwrap();
        host.engine().kernel().alias(&eth(0), eth(7));
        host.settle(&News::everything());
        let (_, joined) = host.sight();
        assert_eq!(joined[&eth(0)][0], ("a".to_owned(), 5), "{chains:?}");
        host.ask(&Ask::Attach { app: "b", to: (7, 1) }, None).unwrap();
        let (_, both) = host.sight();
        assert_eq!(both[&eth(0)][..2], [("b".to_owned(), 1), ("a".to_owned(), 5)], "{chains:?}");
        assert_eq!((host.broken(), host.wrong()), (vec![], NOTHING.to_vec()), "{chains:?}");
        assert_eq!(host.restart(), nothing(), "{chains:?}");
        assert_eq!(host.sight().1, both, "{chains:?}");
    }
}

#[test]
fn a_renamed_interface_keeps_its_chain_and_a_newcomer_of_its_name_gets_nothing() {
    // What peers had on an interface goes with it.
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = busy(chains);
        let ran = host.sight().1[&eth(0)].clone();
        host.engine().kernel().rename(&eth(0), eth(7));
        let steps = host.settle(&News::everything()).steps;
        assert_eq!((steps, host.broken()), (Vec::<String>::new(), vec![]), "{chains:?}");
        assert_eq!(host.restart(), nothing(), "{chains:?}");
        assert_eq!(host.of(&eth(7)), ran, "{chains:?}");

        host.engine().kernel().add_interface(eth(0));
        let steps = host.settle(&News::everything()).steps;
        assert_eq!(steps, Vec::<String>::new(), "{chains:?}");
        assert_eq!((host.of(&eth(7)), host.of(&eth(0))), (ran.clone(), vec![]), "{chains:?}");
        assert!(stand(&mut host).values().all(|status| matches!(status, LinkStatus::Drifted { .. })), "{chains:?}");
        assert_eq!(host.restart(), nothing(), "{chains:?}");

        host.engine().kernel().remove_interface(&eth(7));
        host.settle(&News::everything());
        assert_eq!((host.of(&eth(0)), host.broken()), (ran, vec![]), "{chains:?}");
    }
}

#[test]
fn a_chain_is_found_by_what_runs_it_if_the_database_does_not_say() {
    for chains in ALL {
        let mut host = busy(chains);
        let ran = host.sight().1[&eth(0)].clone();
        host.stop();
        let database = rusqlite::Connection::open(host.dir.path().join("state.db")).unwrap();
        database.execute("UPDATE links SET body = json_remove(body, '$.on')", []).unwrap();
        host.kernel.rename(&eth(0), eth(7));
        assert_eq!(host.start(), nothing(), "{chains:?}");
        assert_eq!((host.of(&eth(7)), host.broken()), (ran, vec![]), "{chains:?}");
    }
}

#[test]
fn an_interface_that_comes_while_the_daemon_starts_gets_its_chain() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = busy(chains);
        let (_, before) = host.sight();
        host.stop();
        host.kernel.reboot();
        host.kernel.remove_interface(&eth(0));
        // It comes while programs are loaded, after the look.
        host.start_with(|kernel| kernel.peer_at_step(1, PeerMove::Comes(eth(0))));
        host.settle(&News::everything());
        assert_eq!(host.sight().1, before, "{chains:?}");
        assert_eq!(host.broken(), [], "{chains:?}");
    }
}

#[test]
fn a_peer_that_is_faster_on_an_interface_that_comes_is_joined() {
    let mut raced = 0;
    for step in 0..3 {
        let mut host = busy(Chains::Libxdp);
        host.engine().kernel().remove_interface(&eth(1));
        host.settle(&News::everything());
        host.engine().kernel().add_interface(eth(1));
        let before = host.engine().kernel().log.len();
        host.engine().kernel().peer_at_step(step, theirs(1, 40));
        host.settle(&News::everything());
        let pinned =
            host.engine().kernel().log[before..].iter().filter(|step| step.starts_with("pin generation")).count();
        assert!(host.engine().kernel().met(), "no step {step}: {:?}", host.engine().kernel().log);
        raced += pinned - 1;
        assert_eq!(host.wrong(), NOTHING, "at step {step}");
    }
    assert!(raced > 0, "it was never faster");
}

#[test]
fn a_request_that_a_start_carried_forward_gets_its_answer() {
    for chains in ALL {
        let mut forward = 0;
        for step in 0.. {
            let mut host = busy(chains);
            host.engine().kernel().at_step(step, Fate::DieAfter);
            if host.ask(&Ask::Load { name: "new", attach: Some((0, 60)) }, Some(77)).is_ok() {
                break;
            }
            let repaired = host.restart();
            // Nothing is to be done any more: what is given is the answer, or nothing.
            let answer = host.change(&context(Some(77)), None, |_, _| Ok(vec![])).unwrap();
            let named: Vec<String> = answer.outcome.apps.iter().map(|app| app.name.to_string()).collect();
            let wanted = if repaired.recovered == Some(Recovered::Forward) { vec!["new".to_owned()] } else { vec![] };
            assert_eq!(answer.outcome.links.len(), wanted.len(), "{chains:?} {step}");
            assert_eq!(named, wanted, "{chains:?} {step}");
            forward += named.len();
        }
        assert!(forward > 0, "{chains:?}");
    }
}

#[test]
fn a_newer_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("state.db");
    drop(Store::open(path).unwrap());
    rusqlite::Connection::open(path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_eq!(
        Store::open(path).unwrap_err().to_string(),
        "the state database has layout 99, this version knows 6: run the newer bpfd"
    );
}

#[test]
fn an_older_database_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("state.db");
    drop(Store::open(path).unwrap());
    let old = rusqlite::Connection::open(path).unwrap();
    old.execute_batch(
        "ALTER TABLE answers DROP COLUMN asked; PRAGMA user_version = 1;
         INSERT INTO answers (request_id, owner, at, body)
         VALUES ('0000000000000000000000000000004d', 0, unixepoch(), '{\"apps\":[],\"links\":[]}');
         INSERT INTO operations (id, boot_id, owner, body) VALUES ('a', 'b', 0, '{\"id\":\"00000000-0000-0000-0000-000000000001\",
         \"boot\":\"00000000-0000-0000-0000-000000000001\",\"request\":\"00000000-0000-0000-0000-00000000004d\",
         \"owner\":{\"uid\":0,\"user\":null},\"changes\":[],\"plan\":{\"steps\":[],\"committed\":0}}');",
    )
    .unwrap();
    drop(old);
    let store = Store::open(path).unwrap();
    let key = context(Some(77)).request.unwrap();
    assert_eq!(
        store.answer(key, &owner(), &State::default()).unwrap(),
        Some(Earlier::Answered(Outcome::default())),
        "whatever for"
    );
    let operation = store.open_operation().unwrap().unwrap();
    assert_eq!(operation.request.unwrap().id, key.id);
    drop(store);
    Store::open(path).unwrap();
}

#[test]
fn programs_of_an_older_database_get_numbers_of_their_own() {
    let mut host = Host::new(Chains::Fused);
    host.ask(&Ask::Load { name: "a", attach: Some((0, 10)) }, Some(77)).unwrap();
    let before = host.sight().1;
    host.stop();
    let old = rusqlite::Connection::open(host.dir.path().join("state.db")).unwrap();
    old.execute_batch(
        "UPDATE apps SET body = json_remove(body, '$.user_labels', '$.programs[0].handle');
         UPDATE answers SET body = json_remove(body, '$.apps[0].user_labels', '$.apps[0].programs[0].handle');
         PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(old);
    host.start();
    assert_eq!((host.sight().1, host.broken()), (before, vec![]));
    let apps: Vec<_> = host.state().apps.into_values().collect();
    let answer = host.change(&context(Some(77)), None, |_, _| Ok(vec![])).unwrap();
    assert_eq!(answer.outcome.apps, apps);
    host.ask(&Ask::Load { name: "b", attach: Some((1, 10)) }, None).unwrap();
    host.stop();
    host.start();
    host.ask(&Ask::Attach { app: "b", to: (0, 10) }, None).unwrap();
    let State { apps, links } = host.state();
    let programs = apps.values().flat_map(|app| app.programs.iter().map(|program| program.handle).chain([app.handle]));
    let mut numbers: Vec<_> = programs.chain(links.values().map(|link| link.handle)).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 7, "two apps with a program each, three links: {numbers:?}");
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let app = prop::sample::select(vec!["a", "b", "c", "d"]);
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    let place = (0_u8..2, 0_u32..=1000);
    prop_oneof![
        (name, prop::option::of(place.clone())).prop_map(|(name, attach)| Ask::Load { name, attach }),
        (app.clone(), place).prop_map(|(app, to)| Ask::Attach { app, to }),
        (app.clone(), 0_u32..=1000).prop_map(|(link, priority)| Ask::Update { link: link.into(), priority }),
        app.clone().prop_map(|link| Ask::Detach { link: link.into() }),
        (0_u8..2).prop_map(|eth| Ask::DetachAll { eth }),
        app.prop_map(|app| Ask::Unload { app }),
    ]
}

fn any_move() -> impl Strategy<Value = PeerMove> {
    let load = (0_u8..2, prop::sample::select(vec![0, 20, 50, 50, 1000, u32::MAX]));
    prop_oneof![
        4 => load.prop_map(|(number, priority)| theirs(number, priority)),
        2 => (0_u8..2).prop_map(|number| PeerMove::Unload(eth(number))),
        1 => (0_u8..2).prop_map(|number| PeerMove::UnloadAll(eth(number))),
        1 => Just(PeerMove::Clean),
    ]
}

/// What happens on a host.
#[derive(Clone, Debug)]
enum Event {
    /// A request, and what a step of it meets.
    Ask(Ask, Option<(usize, Fate)>),
    /// A request, and a peer at a step of it.
    Raced(Ask, usize, PeerMove),
    /// A peer, while the daemon listens.
    Heard(PeerMove),
    /// A peer, while the daemon is dead.
    Unheard(PeerMove),
}

fn any_event(peers: bool) -> impl Strategy<Value = Event> {
    let fate =
        prop::sample::select(vec![Fate::Fail, Fate::DieBefore, Fate::DieHalfway, Fate::DieSwapped, Fate::DieAfter]);
    let ask =
        (any_ask(), prop::option::weighted(0.3, (0_usize..12, fate))).prop_map(|(ask, fate)| Event::Ask(ask, fate));
    let weight = u32::from(peers);
    prop_oneof![
        4 => ask,
        2 * weight => (any_ask(), 0_usize..8, any_move()).prop_map(|(ask, step, act)| Event::Raced(ask, step, act)),
        weight => any_move().prop_map(Event::Heard),
        weight => any_move().prop_map(Event::Unheard),
    ]
}

/// After each event and a start: every invariant holds, ours are all there once in their order, nothing of others is lost.
fn history(chains: Chains, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut host = Host::new(chains);
    for event in events {
        match &event {
            Event::Ask(ask, fate) => {
                if let Some((step, fate)) = fate {
                    host.engine().kernel().at_step(*step, *fate);
                }
                // Refused, failed, dead or done: what is left must be whole.
                host.ask(ask, None).ok();
            }
            Event::Raced(ask, step, act) => {
                host.engine().kernel().peer_at_step(*step, act.clone());
                host.ask(ask, None).ok();
            }
            Event::Heard(act) => {
                host.peer(act);
                prop_assert_eq!(host.engine().kernel().wrong_for_peers(), NOTHING, "after {:?}", event);
            }
            Event::Unheard(act) => {
                host.stop();
                host.kernel.peer(act);
                host.start();
            }
        }
        host.restart();
        let (state, ran) = host.sight();
        let full = |chain: &ChainName| {
            let ours = state.links.values().filter(|link| link.placement.asked() == Some(chain)).count();
            ours + ran[chain].iter().filter(|(name, _)| state.app_named(&name.parse().unwrap()).is_none()).count()
                > SLOTS
        };
        if chains != Chains::Fused && (full(&eth(0)) || full(&eth(1))) {
            // Peers took slots that ours had: reported, and nothing is lost of theirs.
            prop_assert_eq!(host.engine().kernel().wrong_for_peers(), NOTHING, "after {:?}", event);
            continue;
        }
        prop_assert_eq!(host.wrong(), NOTHING, "after {:?}", event);
        prop_assert_eq!(host.restart(), nothing(), "a second repair after {:?}", event);
        for (chain, runs) in ran {
            let ran: Vec<u32> = runs.iter().map(|(_, priority)| *priority).collect();
            prop_assert!(ran.is_sorted(), "order of {}", chain);
        }
        prop_assert!(state.links.values().all(|link| state.apps.contains_key(&link.app)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_every_invariant(events in prop::collection::vec(any_event(false), 1..14)) {
        history(Chains::Fused, events.clone())?;
        history(Chains::Libxdp, events)?;
    }

    #[test]
    fn any_history_with_peers_keeps_every_invariant(events in prop::collection::vec(any_event(true), 1..14)) {
        history(Chains::Shared, events)?;
    }
}

#[test]
fn an_interface_that_comes_between_a_look_and_its_news_gets_its_chain() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        let mut host = busy(chains);
        let (_, before) = host.sight();
        host.engine().kernel().remove_interface(&eth(0));
        host.settle(&News::everything());
        host.engine().kernel().add_interface(eth(0));
        // Somebody asks how things are: to have seen it is not to have dealt with it.
        assert_ne!(host.broken(), []);
        host.settle(&News::everything());
        assert_eq!(host.sight().1, before, "{chains:?}");
        assert_eq!(host.broken(), [], "{chains:?}");
    }
}

#[test]
fn an_interface_that_comes_back_gets_its_chain_and_one_that_was_cleared_does_not() {
    for chains in [Chains::Fused, Chains::Libxdp] {
        interface_comes_and_goes(chains);
    }
}

fn interface_comes_and_goes(chains: Chains) {
    let mut host = busy(chains);
    let (_, before) = host.sight();
    let gone = host.engine().kernel().remove_interface(&eth(0));
    host.settle(&News::everything());
    assert_eq!(host.sight().1[&eth(0)], vec![]);
    let waiting =
        host.engine().snapshots().borrow().statuses.values().filter(|status| **status == LinkStatus::Waiting).count();
    assert_eq!((gone, waiting), (true, 2));

    host.engine().kernel().add_interface(eth(0));
    host.settle(&News::everything());
    assert_eq!(host.sight().1, before);
    assert_eq!(host.broken(), []);
    assert!(host.audit.of(Kind::Event) > 0, "{chains:?}: what the event led to is not on record");
    assert_eq!(host.audit.wrong(), NOTHING);

    host.engine().kernel().clear(&eth(0));
    host.settle(&News::everything());
    assert_eq!(host.sight().1[&eth(0)], vec![], "what somebody took off stays off");
    assert_eq!(host.broken().iter().filter(|broken| broken.invariant == "K1").count(), 2, "and is reported");
}
