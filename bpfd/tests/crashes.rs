//! The engine on the in-memory kernel and a real database: every verb fails at each step, dies before it and dies after it. After
//! repair the host is as before or as asked, never between, and every invariant holds.
//!
//! Long because the script of one host and all its deaths are read together.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

use std::collections::BTreeMap;
use std::path::Path;

use bpfd::audit::{AuditSink, Record};
use bpfd::engine::{Context, Engine, EngineError};
use bpfd::execute::{ExecuteError, Repaired};
use bpfd::store::Store;
use bpfd_core::changes::{self, Fresh, Loaded};
use bpfd_core::fake::{FakeKernel, Fate};
use bpfd_core::hook::{ChainKey, Point, XdpMode};
use bpfd_core::ident::{AppUid, BootId, RequestId};
use bpfd_core::invariants::Broken;
use bpfd_core::kernel::{Kernel, PinnedApp, StepError};
use bpfd_core::names::{Netns, Priority};
use bpfd_core::plan::LinkStatus;
use bpfd_core::policy::Principal;
use bpfd_core::request::{
    AttachAsk, AttachRequest, DetachRequest, DetachWhich, HookAsk, UnloadRequest, UnloadWhich, UpdateRequest,
};
use bpfd_core::state::{Map, ObjectDigest, Owner, Program, ProgramType, Reach, Source, State, WhenAbsent};
use proptest::prelude::*;
use uuid::Uuid;

const BOOT: BootId = BootId(Uuid::from_u128(1));

/// Counts; nothing of these tests reads it.
#[derive(Default)]
struct Counted(usize);

impl AuditSink for Counted {
    fn write(&mut self, _: &Record<'_>) -> std::io::Result<()> {
        self.0 += 1;
        Ok(())
    }
}

fn eth(number: u8) -> ChainKey {
    ChainKey { netns: Netns::Host, interface: format!("eth{number}").parse().unwrap(), point: Point::Xdp }
}

fn owner() -> Owner {
    Owner { uid: 0, user: Some("root".into()) }
}

fn context(request: Option<u128>) -> Context {
    Context {
        principal: Principal::daemon(),
        request: request.map(|id| RequestId(Uuid::from_u128(id))),
        validate_only: false,
        new_links: 1,
    }
}

fn on(chain: ChainKey, priority: u32) -> AttachAsk {
    let priority = Some(Priority::try_from(priority).unwrap());
    AttachAsk {
        hook: HookAsk::Xdp { chain, priority, proceed_on: None, mode: XdpMode::Auto },
        when_absent: WhenAbsent::Fail,
    }
}

fn tracing() -> AttachAsk {
    AttachAsk { hook: HookAsk::Tracepoint(Some("sched/sched_switch".parse().unwrap())), when_absent: WhenAbsent::Fail }
}

/// One request of a script.
#[derive(Clone, Debug)]
enum Ask {
    Load { name: &'static str, attach: Option<(u8, u32)> },
    Attach { app: &'static str, to: (u8, u32) },
    Trace { app: &'static str },
    Update { link: String, priority: u32 },
    Detach { link: String },
    DetachAll { eth: u8 },
    Unload { app: &'static str },
    UnloadAll,
}

/// One daemon after another over one kernel and one database.
struct Host {
    engine: Option<Engine<FakeKernel>>,
    kernel: FakeKernel,
    dir: tempfile::TempDir,
    uids: u128,
    loads: u32,
}

impl Host {
    fn new() -> Self {
        let kernel = FakeKernel::with_interfaces([eth(0), eth(1)]);
        let mut host = Self { engine: None, kernel, dir: tempfile::tempdir().unwrap(), uids: 1 << 64, loads: 0 };
        host.start();
        host
    }

    fn start(&mut self) -> Repaired {
        let store = Store::open(&self.dir.path().join("state.db")).unwrap();
        self.uids += 1 << 32;
        let mut next = self.uids;
        let uids = move || {
            next += 1;
            Uuid::from_u128(next)
        };
        self.kernel.restart();
        let started =
            Engine::start(self.kernel.clone(), store, Box::new(Counted::default()), BOOT, Box::new(uids)).unwrap();
        let (engine, repaired) = started;
        self.engine = Some(engine);
        repaired
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
                let loaded = loaded(uid, name, &staged, *attach);
                let build = move |state: &State, fresh: &Fresh| changes::load(state, loaded.clone(), &who, fresh);
                self.engine().change(&context, Some((uid, staged)), build).map(drop)
            }
            Ask::Attach { app, to: (number, priority) } => self.attach(&context, app, on(eth(*number), *priority)),
            Ask::Trace { app } => self.attach(&context, app, tracing()),
            Ask::Update { link, priority } => {
                let ask = UpdateRequest {
                    link: link.parse().unwrap(),
                    generation: None,
                    priority: Some(Priority::try_from(*priority).unwrap()),
                    proceed_on: None,
                    request: None,
                };
                self.engine().change(&context, None, |state, _| changes::update(state, &ask)).map(drop)
            }
            Ask::Detach { link } => {
                let which = DetachWhich::Links(vec![link.parse().unwrap()]);
                let ask = DetachRequest { which, request: None };
                self.engine().change(&context, None, |state, _| changes::detach(state, &ask)).map(drop)
            }
            Ask::DetachAll { eth: number } => {
                let ask = DetachRequest { which: DetachWhich::All(eth(*number)), request: None };
                self.engine().change(&context, None, |state, _| changes::detach(state, &ask)).map(drop)
            }
            Ask::Unload { app } => {
                let which = UnloadWhich::Apps(vec![app.parse().unwrap()]);
                let ask = UnloadRequest { which, request: None };
                self.engine().change(&context, None, |state, _| changes::unload(state, &ask)).map(drop)
            }
            Ask::UnloadAll => {
                let ask = UnloadRequest { which: UnloadWhich::All, request: None };
                self.engine().change(&context, None, |state, _| changes::unload(state, &ask)).map(drop)
            }
        }
    }

    fn attach(&mut self, context: &Context, app: &str, attach: AttachAsk) -> Result<(), EngineError> {
        let ask = AttachRequest { app: app.parse().unwrap(), function: None, attach, request: context.request };
        let who = owner();
        let build = |state: &State, fresh: &Fresh| changes::attach(state, &ask, &who, fresh);
        self.engine().change(context, None, build).map(drop)
    }

    /// What a user can tell of the host: rows, and what each chain runs.
    fn sight(&mut self) -> (State, BTreeMap<ChainKey, Vec<(String, u32)>>) {
        let state = self.state();
        let observed = self.engine().kernel().observe(&[eth(0), eth(1)].into()).unwrap();
        let chains = [eth(0), eth(1)].into_iter().map(|chain| {
            let members = observed.members(&chain).into_iter();
            let members = members.map(|member| (state.apps[&member.app].name.to_string(), member.priority.into()));
            let members = members.collect();
            (chain, members)
        });
        let chains = chains.collect();
        (state, chains)
    }

    fn broken(&mut self) -> Vec<Broken> {
        self.engine().check().unwrap()
    }
}

fn loaded(uid: AppUid, name: &str, staged: &PinnedApp, attach: Option<(u8, u32)>) -> Loaded {
    let programs = staged.programs.iter().map(|(function, id)| Program {
        function: function.clone(),
        section: "xdp".into(),
        kind: if name.starts_with("tp") { ProgramType::Tracepoint } else { ProgramType::Xdp },
        tag: [7; 8],
        load_time: id.0.into(),
    });
    Loaded {
        uid,
        name: Some(name.parse().unwrap()),
        default_name: "unnamed".parse().unwrap(),
        source: Source::Upload,
        object: ObjectDigest([3; 32]),
        reach: Reach::Kernel,
        globals: BTreeMap::new(),
        programs: programs.collect(),
        maps: staged.maps.keys().map(|name| map(name)).collect(),
        labels: BTreeMap::new(),
        advice: BTreeMap::new(),
        attach: attach.map(|(number, priority)| (on(eth(number), priority), "pass".into())).into_iter().collect(),
        request: None,
    }
}

fn map(name: &str) -> Map {
    Map { name: name.into(), kind: "array".into(), key_size: 4, value_size: 8, max_entries: 1 }
}

/// A host with two programs on eth0, one on eth1, and a tracepoint.
fn busy() -> Host {
    let mut host = Host::new();
    for ask in [
        Ask::Load { name: "a", attach: Some((0, 50)) },
        Ask::Load { name: "b", attach: Some((0, 20)) },
        Ask::Load { name: "c", attach: Some((1, 90)) },
        Ask::Load { name: "tp", attach: None },
        Ask::Trace { app: "tp" },
    ] {
        host.ask(&ask, None).unwrap();
    }
    assert_eq!(host.broken(), []);
    host
}

fn verbs() -> Vec<Ask> {
    vec![
        Ask::Load { name: "new", attach: None },
        Ask::Load { name: "new", attach: Some((0, 30)) },
        Ask::Load { name: "new", attach: Some((1, 1000)) },
        Ask::Attach { app: "c", to: (0, 0) },
        Ask::Trace { app: "tp" },
        Ask::Update { link: "a".into(), priority: 10 },
        Ask::Detach { link: "a".into() },
        Ask::Detach { link: "c".into() },
        Ask::Detach { link: "tp".into() },
        Ask::DetachAll { eth: 0 },
        Ask::Unload { app: "a" },
        Ask::Unload { app: "tp" },
        Ask::UnloadAll,
    ]
}

#[test]
fn a_verb_that_fails_at_any_step_changes_nothing() {
    for verb in verbs() {
        let mut failures = 0;
        for step in 0.. {
            let mut host = busy();
            let before = host.sight();
            let programs = host.engine().kernel().programs();
            host.engine().kernel().at_step(step, Fate::Fail);
            match host.ask(&verb, None) {
                Err(EngineError::Execute(ExecuteError::Step(_))) => {
                    assert_eq!(host.sight(), before, "{verb:?} failed at step {step}");
                    assert_eq!(host.engine().kernel().programs(), programs, "{verb:?} leaked at step {step}");
                    assert_eq!(host.broken(), [], "{verb:?} failed at step {step}");
                    failures += 1;
                }
                Err(other) => panic!("{verb:?}: {other}"),
                // Past the commit point a failed step leaves pins for the next repair.
                Ok(()) => {
                    host.stop();
                    host.start();
                    assert_eq!(host.broken(), [], "{verb:?} after repair, step {step}");
                    if step > 8 {
                        break;
                    }
                }
            }
        }
        let removes_one =
            matches!(&verb, Ask::Detach { link } if link == "tp") || matches!(verb, Ask::Unload { app: "tp" });
        assert!(failures > 0 || removes_one, "{verb:?} never failed: the fate was not met");
    }
}

#[test]
fn a_death_at_any_step_ends_as_before_or_as_asked() {
    let mut deaths = 0;
    for verb in verbs() {
        let mut asked = busy();
        asked.ask(&verb, None).unwrap();
        let (_, asked) = asked.sight();
        for fate in [Fate::DieBefore, Fate::DieHalfway, Fate::DieAfter] {
            for step in 0..12 {
                let mut host = busy();
                let (rows, before) = host.sight();
                host.engine().kernel().at_step(step, fate);
                let died = match host.ask(&verb, None) {
                    Err(EngineError::Execute(ExecuteError::Step(StepError::Died))) => true,
                    Err(other) => panic!("{verb:?}: {other}"),
                    Ok(()) => false,
                };
                deaths += usize::from(died);
                host.stop();
                host.start();
                assert_eq!(host.broken(), [], "{verb:?} {fate:?} at step {step}");
                let (after_rows, after) = host.sight();
                let whole = after == asked || (died && after == before);
                assert!(whole, "{verb:?} {fate:?} at step {step}: {after:?} is neither {before:?} nor {asked:?}");
                assert!(after == asked || after_rows == rows, "{verb:?} {fate:?} at step {step}: rows differ");
            }
        }
    }
    assert!(deaths >= 50, "only {deaths} deaths: the fates were not met");
}

#[test]
fn a_database_without_a_journal_breaks_an_invariant() {
    // The control of the test above: the same death, and a database that never heard of the operation or its rows.
    let mut host = busy();
    host.engine().kernel().at_step(3, Fate::DieAfter);
    let died = host.ask(&Ask::Load { name: "new", attach: Some((0, 30)) }, None);
    assert!(matches!(died, Err(EngineError::Execute(ExecuteError::Step(StepError::Died)))));
    host.stop();
    let observed = host.kernel.observe(&[eth(0), eth(1)].into()).unwrap();
    let state = Store::open(&host.dir.path().join("state.db")).unwrap().state().unwrap();
    assert_ne!(bpfd_core::invariants::check(&state, &observed), []);
}

#[test]
fn a_restart_changes_nothing() {
    let mut host = busy();
    let before = host.sight();
    let steps = host.engine().kernel().log.len();
    host.stop();
    let repaired = host.start();
    assert_eq!(repaired, Repaired::default());
    assert_eq!(host.sight(), before);
    assert_eq!(host.engine().kernel().log.len(), steps);
}

#[test]
fn a_reboot_brings_every_chain_back() {
    let mut host = busy();
    let (_, before) = host.sight();
    host.stop();
    host.kernel.reboot();
    let repaired = host.start();
    assert_eq!(repaired.failures, Vec::<String>::new());
    assert_eq!(host.sight().1, before);
    let state = host.state();
    assert_eq!(state.links.len(), 4);
    let unpinned_maps_only: Vec<_> =
        host.broken().into_iter().filter(|broken| !broken.what.starts_with("map ")).collect();
    assert_eq!(unpinned_maps_only, [], "the in-memory kernel makes programs again, not maps");
}

#[test]
fn the_same_request_twice_is_done_once() {
    let mut host = busy();
    let load = Ask::Load { name: "once", attach: Some((0, 60)) };
    host.ask(&load, Some(77)).unwrap();
    let after = host.sight();
    host.ask(&load, Some(77)).unwrap();
    assert_eq!(host.sight(), after);
    let again = host.ask(&load, Some(78));
    assert!(matches!(again, Err(EngineError::Request(_))), "another request: the name is taken");
}

#[test]
fn a_foreign_program_is_never_replaced() {
    let mut host = Host::new();
    host.engine().kernel().attach_foreign(&eth(0), "theirs");
    let refused = host.ask(&Ask::Load { name: "a", attach: Some((0, 50)) }, None);
    assert!(matches!(refused, Err(EngineError::Plan(bpfd_core::plan::PlanError::Foreign { .. }))), "{refused:?}");
    assert_eq!(host.state(), State::default());
    assert_eq!(host.engine().kernel().log, Vec::<String>::new());
}

#[test]
fn a_full_disk_changes_nothing() {
    // A database that refuses to grow stands for ENOSPC at any write of the journal.
    let mut host = busy();
    let before = host.sight();
    let db = rusqlite::Connection::open(host.dir.path().join("state.db")).unwrap();
    db.execute_batch("CREATE TRIGGER full BEFORE INSERT ON steps BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        .unwrap();
    let refused = host.ask(&Ask::Update { link: "a".into(), priority: 1 }, None);
    assert!(matches!(refused, Err(EngineError::Execute(ExecuteError::Store(_)))), "{refused:?}");
    assert_eq!(host.sight(), before);
    db.execute_batch("DROP TRIGGER full").unwrap();
    host.ask(&Ask::Update { link: "a".into(), priority: 1 }, None).unwrap();
    assert_eq!(host.broken(), []);
}

#[test]
fn a_newer_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("state.db");
    drop(Store::open(path).unwrap());
    rusqlite::Connection::open(path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_eq!(
        Store::open(path).unwrap_err().to_string(),
        "the state database has layout 99, this version knows 1: run the newer bpfd"
    );
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_every_invariant(asks in prop::collection::vec((any_ask(), 0_usize..40), 1..14)) {
        let mut host = Host::new();
        for (ask, fate) in asks {
            if fate < 8 {
                let kind = [Fate::Fail, Fate::DieBefore, Fate::DieHalfway, Fate::DieAfter][fate % 4];
                host.engine().kernel().at_step(fate, kind);
            }
            match host.ask(&ask, None) {
                Err(EngineError::Execute(ExecuteError::Step(StepError::Died))) => {
                    host.stop();
                    host.start();
                }
                Ok(()) | Err(_) => {
                    host.stop();
                    host.start();
                }
            }
            prop_assert_eq!(host.broken(), vec![], "after {:?}", ask);
            let (state, chains) = host.sight();
            for (chain, members) in chains {
                let mut wanted: Vec<u32> = members.iter().map(|(_, priority)| *priority).collect();
                wanted.sort_unstable();
                let ran: Vec<u32> = members.iter().map(|(_, priority)| *priority).collect();
                prop_assert_eq!(ran, wanted, "order of {}", chain);
            }
            prop_assert!(state.links.values().all(|link| state.apps.contains_key(&link.app)));
        }
    }
}

#[test]
fn an_interface_that_comes_back_gets_its_chain_and_one_that_was_cleared_does_not() {
    let mut host = busy();
    let (_, before) = host.sight();
    let gone = host.engine().kernel().remove_interface(&eth(0));
    host.engine().settle().unwrap();
    assert_eq!(host.sight().1[&eth(0)], vec![]);
    let waiting =
        host.engine().snapshots().borrow().statuses.values().filter(|status| **status == LinkStatus::Waiting).count();
    assert_eq!((gone, waiting), (true, 2));

    host.engine().kernel().add_interface(eth(0));
    host.engine().settle().unwrap();
    assert_eq!(host.sight().1, before);
    assert_eq!(host.broken(), []);

    host.engine().kernel().clear(&eth(0));
    host.engine().settle().unwrap();
    assert_eq!(host.sight().1[&eth(0)], vec![], "what somebody took off stays off");
    assert_eq!(host.broken().iter().filter(|broken| broken.invariant == "K1").count(), 2, "and is reported");
}
