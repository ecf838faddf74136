//! Makes the kernel what the database says: after a crash, at every start, and when something changed in the kernel. What one app, link
//! or interface cannot have is reported, and the others have theirs. Where the database is not the one of the pins, it is the other way
//! round: the database is made what runs.
//!
//! Long because a repair is one list, from what was lost to what was swept.
//!
//! Only the engine's thread runs this. At a start it makes what it needs; later it gives back what others are to make, and is run again
//! from the beginning. It must never decide what to do: plans come from `bpfd_core::plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bpfd_core::adopt::{Spared, adopt, lacks};
use bpfd_core::describe::{Touched, apps, describe};
use bpfd_core::hook::ChainId;
use bpfd_core::ident::{AppUid, BootId, DatabaseUid, GenerationUid, LinkUid, SlotUid, Uids};
use bpfd_core::journal::{Operation, Verdict, recover};
use bpfd_core::kernel::{
    ChainContent, Kernel, Need, ObserveError, Observed, Recipe, Scope, Slot, Step, StepError, Targets,
};
use bpfd_core::order;
use bpfd_core::ordering::ordered;
use bpfd_core::plan::{Plan, converge, converge_chains, reached};
use bpfd_core::reboot::Ended;
use bpfd_core::record::with_records;
use bpfd_core::seat::seated;
use bpfd_core::stamp::Relation;
use bpfd_core::state::{App, Change, Link, State};
use bpfd_core::unauthorised::Unauthorised;
use bpfd_policy::order::Order;

use crate::audit::{Kind, Record, WhenFull, result};
use crate::execute::{Executor, RACES, stamp};
use crate::fail_points::point;
use crate::store::{Outcome, Store, StoreError};

/// What the policy refuses of what does not run: to load again for its owner, or to attach again.
pub type Judge = dyn Fn(&State, &Observed) -> Unauthorised + Send;

/// What repair did.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Repaired {
    /// How the database stood to the pins.
    pub relation: Relation,
    /// Whether a broken-off operation was found, and how it ended.
    pub recovered: Option<Recovered>,
    /// Steps taken, as text.
    pub steps: Vec<String>,
    /// What could not be had.
    pub failures: Vec<Failure>,
    /// What the policy refused to load or attach again, and why.
    pub unauthorised: Unauthorised,
    /// Links whose program did not go into what runs their chain, and why: the others run without them.
    pub barred: BTreeMap<LinkUid, String>,
    /// Those of them that may go in next time: what was in the way is not said to be theirs.
    pub passing: BTreeSet<LinkUid>,
}

/// Something that could not be had.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Failure {
    /// In a sentence.
    pub what: String,
    /// What it is about, if it is about no more than that: once all of it is unloaded or detached, nobody misses anything.
    pub apps: BTreeSet<AppUid>,
    /// As above.
    pub links: BTreeSet<LinkUid>,
}

impl Failure {
    fn of_app(app: &App, what: impl fmt::Display) -> Self {
        Self { what: format!("app `{}`{what}", app.name), apps: [app.uid].into(), links: BTreeSet::new() }
    }

    /// Whether something that it is about is still wanted.
    pub fn stands(&self, state: &State) -> bool {
        let apps = self.apps.iter().any(|app| state.apps.contains_key(app));
        let links = self.links.iter().any(|link| state.links.contains_key(link));
        apps || links || self.apps.is_empty() && self.links.is_empty()
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self { what, ..Self::default() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Repaired {
    /// Starts without these.
    fn refuse(&mut self, refused: Unauthorised, state: &State) {
        let told = refused.apps.iter().filter_map(|(uid, why)| Some((state.apps.get(uid)?, why)));
        self.failures.extend(told.map(|(app, why)| Failure::of_app(app, format_args!(" is not loaded again: {why}"))));
        self.barred.clone_from(&refused.links);
        self.unauthorised = refused;
    }

    /// The barred links that are barred until they are tried again.
    pub fn lasting(&self) -> BTreeMap<LinkUid, String> {
        let lasting = self.barred.iter().filter(|(link, _)| !self.passing.contains(link));
        lasting.map(|(link, why)| (*link, why.clone())).collect()
    }
}

/// How a broken-off operation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recovered {
    /// Its changes hold.
    Forward,
    /// It never happened.
    Back,
}

/// Why repair could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// What the rest of it needs is to be made first, by another thread; until then it is as if this had been broken off.
    #[error("programs are to be made first")]
    Unmade(Vec<Need>),
    /// The in-memory kernel died.
    #[error("the process died")]
    Died,
}

/// Makes the kernel what the database says, after whatever happened. If the database is not the one of the pins, it is made what runs
/// instead, and nothing else happens. Else it ends a broken-off operation, loads apps whose pins are gone, rebuilds chains, sweeps what no row knows
/// and what is not spared. Taken twice, the second finds nothing to do. Gives what it saw last, too: what comes after that is news.
pub fn repair<K: Kernel>(
    executor: &mut Executor<'_, K>,
    boot: BootId,
    uids: &mut dyn Uids,
    judge: &Judge,
    orders: &[Order],
) -> Result<(State, Observed, Repaired), RepairError> {
    // Before anything is written: each commit counts.
    let relation = relate(executor.kernel, executor.store, boot)?;
    let mut repaired = Repaired { relation, ..Repaired::default() };
    // What a boot ended is nobody's intent, whatever became of the rest.
    let ended = forget_ended(executor, boot, &mut repaired)?;
    if let Some(adopted) = adopt_lost(executor, boot, uids, &mut repaired)? {
        return Ok(adopted);
    }
    let spared = executor.store.recovery()?.unwrap_or_default().spared;
    let mut state = executor.store.state(boot)?;
    let (named, renamed) = state.without_names_of_identities();
    if !renamed.is_empty() {
        executor.store.replace(boot, &state, &named)?;
        state = named;
        let told = renamed
            .iter()
            .map(|(old, new)| format!("app `{old}` is now `{new}`: the old name reads as a uid or a number"));
        repaired.steps.extend(told);
    }
    let open = executor.store.open_operation()?.map(|operation| operation.read_in(boot));
    open.iter().for_each(|operation| begin_late(executor, &state, operation));
    let open = open.map(|operation| operation.without(&ended));
    let targets = open.iter().map(Operation::targets).fold(Targets::of(state.links.values()), Targets::and);
    let everything = Scope::Everything(targets);
    let mut observed = look(executor, &everything, &spared)?;
    let known = ordered(orders, &seated(&state, &observed), |_| true);
    if known != state {
        // Found out again by the next start: no reason to leave interfaces without their programs.
        if let Err(error) = executor.store.replace(boot, &state, &known) {
            let told = format!("cannot write down which interfaces links are on, and at which priorities: {error}");
            repaired.failures.push(told.into());
        }
        state = known;
    }
    // What runs stays; what does not is not started again if the policy refuses it.
    repaired.refuse(judge(&state, &observed), &state);
    observed.barred.clone_from(&repaired.barred);
    if open.is_none()
        && let Some(rows) = critical_first(executor, boot, (&state, &observed), uids, &mut repaired)?
    {
        state = rows;
        observed = look(executor, &everything, &spared)?;
    }
    let mut verdict = open.as_ref().map(|operation| {
        recover(&state, &observed, operation, orders).unwrap_or_else(|error| {
            // Undone before, and nobody could write that down; the state went on without it.
            repaired
                .failures
                .push(format!("an operation in the journal no longer fits the state and was dropped: {error}").into());
            Verdict::Back
        })
    });
    let reloaded = loop {
        let target = match &verdict {
            Some(Verdict::Forward(target)) => target.clone(),
            Some(Verdict::Back) | None => state.clone(),
        };
        let mut gone = BTreeSet::new();
        let reloaded = reload(executor, &target, &observed, &mut gone, &mut repaired)?;
        let rows = with_apps_of(&state, &reloaded);
        if rows != state {
            executor.store.replace(boot, &state, &rows)?;
            state = rows;
        }
        let wanted = reachable(&reloaded, &gone);
        let mut races = 0;
        loop {
            observed.barred.clone_from(&repaired.barred);
            // An app that cannot be loaded, and its links, keep their rows.
            let plan = with_records(converge(&seated(&wanted, &observed), &observed, uids), &reloaded, &observed);
            let attempt = carry_out(executor, Kind::Repair, plan, &reloaded, &observed, &mut repaired)?;
            if !attempt.again(&mut races) {
                repaired.failures.extend(attempt.failed);
                break;
            }
            observed = look(executor, &everything, &spared)?;
        }
        if !matches!(verdict, Some(Verdict::Forward(_))) {
            break reloaded;
        }
        let barred = repaired.barred.clone();
        observed = Observed { barred, ..look(executor, &everything, &spared)? };
        if reached(&seated(&wanted, &observed), &observed) {
            break reloaded;
        }
        // What the kernel would not let go keeps its rows: without them nobody would look at its chain again.
        verdict = Some(Verdict::Back);
    };
    // Last: killed before, the next start finds the operation again, and with it every chain that it may have touched.
    if let (Some(operation), Some(verdict)) = (&open, &verdict) {
        point("repair-verdict-before");
        let (recovered, result) = match verdict {
            Verdict::Forward(_) => {
                let outcome = Outcome::of(&state, &reloaded, &operation.changes);
                executor.store.commit(operation, &state, &reloaded, &outcome)?;
                (Recovered::Forward, "done, by a repair")
            }
            Verdict::Back => {
                executor.store.abandon(operation.id)?;
                (Recovered::Back, "undone, by a repair")
            }
        };
        repaired.recovered = Some(recovered);
        point("repair-verdict-after");
        executor.audit.ended(operation.id, result);
    }
    executor.stamp();
    Ok((reloaded, observed, repaired))
}

/// Forgets what was not asked to be there after a boot, at the first start after one.
fn forget_ended<K: Kernel>(
    executor: &mut Executor<'_, K>,
    boot: BootId,
    repaired: &mut Repaired,
) -> Result<Ended, RepairError> {
    let state = executor.store.state(boot)?;
    let ended = Ended::of(&state, &executor.store.of_other_boots(boot)?);
    if !ended.is_empty() {
        let told: Vec<String> = ended.told(&state).into_iter().collect();
        let Touched { apps, told: _ } = Touched::rows(&ended.apps, &ended.links, &[&state]);
        on_record(executor, &told, &apps, |executor| executor.store.replace(boot, &state, &ended.gone_from(&state)))?;
        repaired.steps.extend(told);
    }
    Ok(ended)
}

/// What a repair does to rows of these apps alone, with a record before it and one after it.
fn on_record<K: Kernel>(
    executor: &mut Executor<'_, K>,
    changes: &[String],
    apps: &[String],
    work: impl FnOnce(&mut Executor<'_, K>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let operation = executor.audit.begin_own(Kind::Repair, changes, apps, None);
    let done = work(executor);
    executor.audit.ended(operation, &result(&done));
    done
}

/// The record that an interrupted operation did not come to: it is in the journal first.
fn begin_late<K: Kernel>(executor: &mut Executor<'_, K>, state: &State, operation: &Operation) {
    if executor.audit.is_open(operation.id) {
        return;
    }
    let Operation { id, owner, changes, .. } = operation;
    let after = state.after(changes).unwrap_or_else(|_no_longer_fits| state.clone());
    let (apps, changes) = (apps(state, &after, changes), describe(state, &after, changes));
    let (kind, changes, apps) = (Kind::Change, changes.as_slice(), apps.as_slice());
    let begun = Record::Begin { operation: *id, kind, owner, changes, apps, plan: None, late: true };
    if let Err(error) = executor.audit.write(&begun, WhenFull::Count) {
        tracing::error!(%error, "cannot record in the audit log what a crash interrupted");
    }
}

/// What the kernel has, and what stays of it although no row explains it.
fn look<K: Kernel>(executor: &mut Executor<'_, K>, scope: &Scope, spared: &Spared) -> Result<Observed, ObserveError> {
    Ok(Observed { spared: spared.clone(), ..executor.kernel.observe(scope)? })
}

/// How the database stands to the pins. Those that nothing says whose they are become this database's, if it lacks nothing of them:
/// written down before anything else is, a later start need not find that out from what a crash left.
pub fn relate<K: Kernel>(kernel: &mut K, store: &Store, boot: BootId) -> Result<Relation, RepairError> {
    let relation = match kernel.stamp() {
        Ok(stamp) => Relation::of(store.stamp(), stamp),
        Err(error) => {
            tracing::warn!(%error, "cannot read which database the pins belong to");
            Relation::Unreadable
        }
    };
    if relation != Relation::Fresh {
        return Ok(relation);
    }
    let state = store.state(boot)?;
    let operation = store.open_operation()?;
    let after = operation.and_then(|operation| state.after(&operation.read_in(boot).changes).ok());
    let rows: Vec<&State> = [&state].into_iter().chain(&after).collect();
    let earlier = store.recovery()?.unwrap_or_default().spared;
    let observed = kernel.observe(&Scope::Everything(Targets::of(state.links.values())))?;
    if lacks(&rows, &earlier, &observed) {
        return Ok(Relation::Incomplete);
    }
    stamp(kernel, store);
    Ok(relation)
}

/// Adopts what runs if the database is not the one of the pins, and changes nothing but records. `None` if it is, or if nothing
/// differs: then the repair is as ever.
fn adopt_lost<K: Kernel>(
    executor: &mut Executor<'_, K>,
    boot: BootId,
    uids: &mut dyn Uids,
    repaired: &mut Repaired,
) -> Result<Option<(State, Observed, Repaired)>, RepairError> {
    let relation = repaired.relation;
    if !relation.is_doubtful() {
        return Ok(None);
    }
    let rows = executor.store.state(boot)?;
    // What the records ask for must be looked at, too.
    let pinned = executor.kernel.observe(&Scope::Everything(Targets::of(rows.links.values())))?;
    let targets = Targets::of(rows.links.values().chain(pinned.recorded.links.values()));
    let observed = executor.kernel.observe(&Scope::Everything(targets))?;
    let (state, recovery) = adopt(relation, &rows, executor.store.recovery()?.as_ref(), &observed);
    let lost = !recovery.is_empty();
    point("repair-lost-before");
    let Touched { apps, told } = Touched::recovered(&recovery, &state);
    let why = format!("take what runs into the database: {relation}");
    let changes: Vec<String> = [why].into_iter().chain(told).collect();
    let adopted = (&state, &recovery);
    on_record(executor, &changes, &apps, |executor| {
        executor.store.adopt(boot, &rows, adopted, DatabaseUid(uids.fresh()))
    })?;
    point("repair-lost-after");
    if !lost {
        return Ok(None);
    }
    let observed = Observed { spared: recovery.spared, ..observed };
    let records = with_records(Plan::default(), &state, &observed);
    let attempt = carry_out(executor, Kind::Repair, records, &state, &observed, repaired)?;
    repaired.failures.extend(attempt.failed);
    executor.stamp();
    Ok(Some((state, observed, std::mem::take(repaired))))
}

/// The rows, with their apps as they were loaded again.
fn with_apps_of(state: &State, reloaded: &State) -> State {
    let mut rows = state.clone();
    for (uid, again) in reloaded.apps.changed_since(&state.apps) {
        if let Some(app) = rows.apps.get_mut(uid) {
            app.clone_from(again);
        }
    }
    rows
}

/// Takes the steps of `first`, makes the observed chains what `state` says, and sweeps. Not journalled: broken off, the next start does
/// the rest.
pub fn settle<K: Kernel>(
    executor: &mut Executor<'_, K>,
    first: Plan,
    state: &State,
    observed: &Observed,
    uids: &mut dyn Uids,
    repaired: &mut Repaired,
) -> Result<Attempt, RepairError> {
    let Attempt { mut failed, mut raced, mut barred, mut idle } =
        carry_out(executor, Kind::Event, first, state, observed, repaired)?;
    // Orders of the policy may have other places for links of chains that came.
    let rest = with_records(converge_chains(state, observed, &[], uids), state, observed);
    let rest = carry_out(executor, Kind::Event, rest, state, observed, repaired)?;
    failed.extend(rest.failed);
    raced |= rest.raced;
    barred |= rest.barred;
    idle &= rest.idle;
    Ok(Attempt { failed, raced, barred, idle })
}

/// Loads critical apps that the kernel has no longer, and builds their chains, with all the others of these chains: each chain is
/// swapped once. Gives the rows after that; `None` if there are none.
fn critical_first<K: Kernel>(
    executor: &mut Executor<'_, K>,
    boot: BootId,
    (state, observed): (&State, &Observed),
    uids: &mut dyn Uids,
    repaired: &mut Repaired,
) -> Result<Option<State>, RepairError> {
    let is_critical = |app: &App| app.origin.file().is_some_and(|origin| origin.critical);
    let missing = |app: &App| !observed.apps.contains_key(&app.uid);
    let critical: BTreeSet<AppUid> =
        state.apps.values().filter(|app| is_critical(app) && missing(app)).map(|app| app.uid).collect();
    if critical.is_empty() {
        return Ok(None);
    }
    let of_critical = state.links.values().filter(|link| critical.contains(&link.app));
    let chains: BTreeSet<ChainId> = of_critical.filter_map(Link::chain).collect();
    let beside = |link: &&Link| link.chain().is_some_and(|chain| chains.contains(&chain));
    let beside: BTreeSet<AppUid> = state.links.values().filter(beside).map(|link| link.app).collect();
    let mut first = state.clone();
    first.apps.retain(|uid, app| missing(app) && (critical.contains(uid) || beside.contains(uid)));
    first.links.retain(|_, link| first.apps.contains_key(&link.app));
    let mut gone = BTreeSet::new();
    let reloaded = reload(executor, &first, observed, &mut gone, repaired)?;
    let rows = with_apps_of(state, &reloaded);
    // Before the kernel has it, as for all others: killed in between, the next start knows what is pinned.
    executor.store.replace(boot, state, &rows)?;
    let loaded = reloaded.apps.values().filter(|app| !gone.contains(&app.uid));
    let own = reloaded.links.values().filter(|link| link.placement.own().is_some() && critical.contains(&link.app));
    let own = own.filter(|link| !gone.contains(&link.app));
    let changes: Vec<Change> = loaded.cloned().map(Change::Load).chain(own.cloned().map(Change::Attach)).collect();
    let mut near = observed.clone();
    near.chains.retain(|chain, _| chains.contains(chain));
    let plan = converge_chains(&reachable(&rows, &gone), &near, &changes, uids);
    // What fails is told by the repair of the rest, which tries it again.
    carry_out(executor, Kind::Repair, plan, &rows, &near, repaired)?;
    Ok(Some(rows))
}

/// Stages every app that the kernel has no longer; their programs have new tags and load times. Maps that apps share are made once.
fn reload<K: Kernel>(
    executor: &mut Executor<'_, K>,
    state: &State,
    observed: &Observed,
    gone: &mut BTreeSet<AppUid>,
    repaired: &mut Repaired,
) -> Result<State, RepairError> {
    let mut reloaded = state.clone();
    let missing = state.apps.values().filter(|app| !observed.apps.contains_key(&app.uid));
    let (refused, loadable): (Vec<&App>, Vec<&App>) =
        missing.partition(|app| repaired.unauthorised.apps.contains_key(&app.uid));
    gone.extend(refused.iter().map(|app| app.uid));
    let mut waiting: BTreeMap<AppUid, Recipe> =
        loadable.iter().map(|app| (app.uid, order::recipe(state, app))).collect();
    // Those that share maps after those that have them.
    while !waiting.is_empty() {
        let borrows = |recipe: &Recipe| recipe.shared.values().any(|lender| waiting.contains_key(lender));
        let mut ready: BTreeMap<AppUid, Recipe> = waiting.clone();
        ready.retain(|_, recipe| !borrows(recipe));
        if ready.is_empty() {
            // Rows that contradict each other: each says that the other was there first.
            ready.clone_from(&waiting);
        }
        if let Some(stock) = &executor.stock {
            let needs = ready.iter().map(|(app, recipe)| Need::App { app: *app, recipe: recipe.clone() });
            stock.provide(&needs.collect::<Vec<_>>(), executor.kernel).map_err(RepairError::Unmade)?;
        }
        for (uid, recipe) in &ready {
            waiting.remove(uid);
            let Some(app) = reloaded.apps.get_mut(uid) else { continue };
            match executor.kernel.prepare(*uid, recipe) {
                Ok(programs) => app.loaded_again(&programs),
                Err(StepError::Died) => return Err(RepairError::Died),
                Err(error) => {
                    let told = Failure::of_app(app, format_args!(": {error}"));
                    if !repaired.failures.contains(&told) {
                        repaired.failures.push(told);
                    }
                    gone.insert(*uid);
                }
            }
        }
    }
    Ok(reloaded)
}

/// The state without the apps that cannot be loaded: the rest of each chain runs without them.
fn reachable(state: &State, gone: &BTreeSet<AppUid>) -> State {
    let mut reachable = state.without_links(|link| gone.contains(&link.app));
    reachable.apps.retain(|uid, _| !gone.contains(uid));
    reachable
}

/// How the steps of a repair went.
#[derive(Debug)]
pub struct Attempt {
    /// Steps that failed; those of links that are barred from now on are in `Repaired::failures`.
    pub failed: Vec<Failure>,
    /// Somebody else was faster.
    raced: bool,
    /// Some link is barred from now on.
    barred: bool,
    /// There was nothing to do.
    idle: bool,
}

impl Attempt {
    /// Whether nothing is to be planned anew.
    pub fn whole(&self) -> bool {
        !self.raced && !self.barred
    }

    /// Whether what was observed is still so.
    pub fn idle(&self) -> bool {
        self.idle
    }

    /// Whether it is to be planned anew, with the races so far: after each link that is barred, and ten times after a race.
    pub fn again(&self, races: &mut u32) -> bool {
        *races += u32::from(self.raced && !self.barred);
        self.barred || self.raced && *races <= RACES
    }
}

/// Takes the steps of a repair, on record with the rows of `state` that they are about. A step that fails takes those that need it along; the others go on.
fn carry_out<K: Kernel>(
    executor: &mut Executor<'_, K>,
    kind: Kind,
    plan: Plan,
    state: &State,
    observed: &Observed,
    repaired: &mut Repaired,
) -> Result<Attempt, RepairError> {
    let plan = &executor.ready(plan).map_err(RepairError::Unmade)?;
    if let Some(stock) = &mut executor.stock {
        stock.used(plan);
    }
    let running = observed.running();
    let mut copyless: BTreeSet<SlotUid> = BTreeSet::new();
    let mut lost: BTreeSet<GenerationUid> = BTreeSet::new();
    let mut unswapped = false;
    let mut attempt = Attempt { failed: Vec::new(), raced: false, barred: false, idle: plan.is_empty() };
    if plan.is_empty() {
        return Ok(attempt);
    }
    let why = match kind {
        Kind::Event => "follow a change of an interface, a filter or a network namespace",
        Kind::Repair | Kind::Change | Kind::Host => "make the kernel what the database says",
    };
    let Touched { apps, told } = Touched::by(plan, state, observed);
    let changes: Vec<String> = [why.to_owned()].into_iter().chain(told).collect();
    let operation = executor.audit.begin_own(kind, &changes, &apps, Some(plan.to_string()));
    let mut failures = Vec::new();
    for step in &plan.steps {
        let needs = match step {
            // Left attached by a swap that did not happen, a generation keeps its pins.
            Step::PinGeneration(generation)
            | Step::Swap { to: Some(generation), .. }
            | Step::UnpinGeneration(generation) => Some(*generation),
            Step::BuildGeneration { .. }
            | Step::PinApp(_)
            | Step::LoadCopy { .. }
            | Step::UnpinCopy(_)
            | Step::Adopt { .. }
            | Step::DropGeneration(_)
            | Step::AttachLink { .. }
            | Step::DetachLink(_)
            | Step::Swap { to: None, .. }
            | Step::UnpinApp(_)
            | Step::Record(_)
            | Step::Unrecord(_) => None,
        };
        let stays = match step {
            Step::Swap { from: Some(live), .. } => Some(live.generation),
            _ => None,
        };
        // A copy whose pin went while it runs would be nobody's.
        let may_run = unswapped && matches!(step, Step::UnpinCopy(_));
        if let Step::BuildGeneration { generation, content: ChainContent::Dispatcher { slots, .. }, .. } = step
            && slots.iter().filter_map(Slot::ours).any(|slot| copyless.contains(&slot.uid))
        {
            lost.insert(*generation);
            continue;
        }
        if may_run || needs.is_some_and(|generation| lost.contains(&generation)) {
            unswapped |= matches!(step, Step::Swap { .. });
            lost.extend(stays);
            continue;
        }
        if let Err(error) = executor.audit.intent(operation, step, WhenFull::Count) {
            tracing::error!(%error, "cannot record a step of a repair in the audit log");
        }
        point(&format!("repair-{}-before", step.verb()));
        match executor.kernel.step(step) {
            Ok(_) => repaired.steps.push(step.to_string()),
            Err(StepError::Died) => return Err(RepairError::Died),
            Err(error) => {
                unswapped |= matches!(step, Step::Swap { .. });
                let apps = if let Step::PinApp(app) = step { [*app].into() } else { BTreeSet::new() };
                let told = Failure { what: format!("{step}: {error}"), apps, links: links_of(step, plan) };
                failures.push(told.what.clone());
                if let Step::LoadCopy { slot, .. } = step {
                    copyless.insert(slot.uid);
                }
                attempt.raced |= matches!(error, StepError::Raced(_));
                // What runs, if in another form, is left running.
                match to_blame(step, &error).filter(|(link, _)| !running.contains(link)) {
                    Some((link, why)) if !repaired.barred.contains_key(&link) => {
                        repaired.barred.insert(link, why);
                        attempt.barred = true;
                        // The others run without it.
                        repaired.failures.push(Failure { links: [link].into(), ..told });
                        if !is_the_programs(&error) {
                            repaired.passing.insert(link);
                        }
                    }
                    Some(_) | None => attempt.failed.push(told),
                }
                if let Step::BuildGeneration { generation, .. } | Step::PinGeneration(generation) = step {
                    lost.insert(*generation);
                }
                lost.extend(stays);
            }
        }
        point(&format!("repair-{}-after", step.verb()));
    }
    let result = if failures.is_empty() { "done".to_owned() } else { format!("done, but: {}", failures.join("; ")) };
    executor.audit.ended(operation, &result);
    Ok(attempt)
}

/// The links that miss something if a step of a plan is not taken.
fn links_of(step: &Step, plan: &Plan) -> BTreeSet<LinkUid> {
    let made_of = |wanted: &GenerationUid| {
        plan.steps.iter().find_map(|step| match step {
            Step::BuildGeneration { generation, content, .. } if generation == wanted => Some(content.members()),
            _ => None,
        })
    };
    match step {
        Step::LoadCopy { slot, .. } => slot.links().collect(),
        Step::BuildGeneration { content, .. } => content.members().into_iter().map(|member| member.link).collect(),
        Step::PinGeneration(generation) | Step::Swap { to: Some(generation), .. } => {
            made_of(generation).into_iter().flatten().map(|member| member.link).collect()
        }
        Step::AttachLink { link, .. } => [*link].into(),
        Step::PinApp(_)
        | Step::UnpinCopy(_)
        | Step::Adopt { .. }
        | Step::DropGeneration(_)
        | Step::DetachLink(_)
        | Step::Swap { to: None, .. }
        | Step::UnpinGeneration(_)
        | Step::UnpinApp(_)
        | Step::Record(_)
        | Step::Unrecord(_) => BTreeSet::new(),
    }
}

/// The link without which the rest of its chain can be had, and why it is left out. Of programs that cannot run together, though each can
/// alone, that is the one with the lowest place, until the others can.
fn to_blame(step: &Step, error: &StepError) -> Option<(LinkUid, String)> {
    match (step, error) {
        (_, StepError::Raced(_) | StepError::NoInterface(_) | StepError::Died) => None,
        (Step::LoadCopy { slot, .. }, _) if slot.rest.is_empty() => Some((slot.first.link, error.to_string())),
        (
            Step::BuildGeneration { content, .. },
            StepError::CannotFuse { link, .. } | StepError::Verifier { link, .. },
        ) => {
            let lowest = || Some((content.members().last()?.link, format!("left out so that the others run: {error}")));
            link.map(|link| (link, error.to_string())).or_else(lowest)
        }
        _ => None,
    }
}

/// Whether it will be so next time too: memory and room on the bpffs come and go.
fn is_the_programs(error: &StepError) -> bool {
    matches!(error, StepError::Verifier { .. } | StepError::Object { .. } | StepError::CannotFuse { .. })
}
