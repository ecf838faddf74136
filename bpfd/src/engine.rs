//! The engine: one thread that owns the state, the database and the kernel, and does one change at a time.
//!
//! Whatever the kernel's verifier must see is made by other threads, as file descriptors: a change that needs it is given back with what is
//! to be made ([`Progress`]), and planned again later. It must never wait on a network, a verifier or a caller.
//!
//! Long because its fields, its start and the way of one change are read together.

mod acts;
mod before;
mod chains;
mod confirm;
mod error;
mod handle;
mod news;
mod progress;
mod recovery;
mod settle;
mod shown;
mod stock;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bpfd_core::adopt::Recovery;
use bpfd_core::changes::{Fresh, RequestError};
use bpfd_core::hook::ChainId;
use bpfd_core::ident::{BootId, LinkUid, OpId, RequestKey, Uids};
use bpfd_core::journal::Operation;
use bpfd_core::kernel::{Kernel, Need, Scope, StepError, Targets};
use bpfd_core::plan::{Planned, plan, targets};
use bpfd_core::policy::Principal;
use bpfd_core::state::{Change, State};
use bpfd_core::unauthorised::{Judged, Unauthorised};
use bpfd_policy::Policy;
use tokio::sync::watch;

use crate::audit::{AuditSink, Journalled, Open, end_unended};
use crate::execute::{ExecuteError, Executor, RACES, execute};
use crate::repair::{Judge, RepairError, Repaired, relate, repair};
use crate::reserved::cpus;
use crate::store::{Outcome, Store};

pub use acts::Acts;
pub use bpfd_core::snapshot::Snapshot;
use chains::Chains;
pub use error::EngineError;
pub use handle::{EngineHandle, StartError, WhenSettled};
use news::chains;
pub use news::{Changed, News, Settled};
use progress::Go;
pub use progress::{Pending, Progress, Settling};
pub use stock::Stock;

/// Who asks for a change, and how.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who asks, and owns what it makes.
    pub principal: Principal,
    /// The caller's idempotency key.
    pub request: Option<RequestKey>,
    /// Plan only.
    pub validate_only: bool,
    /// How many links it makes at most.
    pub new_links: usize,
}

/// What a change did, or would do.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The rows.
    pub outcome: Outcome,
    /// The plan, a line a step, if it was only asked for.
    pub plan: Option<String>,
}

/// See the module.
pub struct Engine<K: Kernel> {
    kernel: K,
    store: Store,
    audit: Box<dyn AuditSink + Send>,
    policy: watch::Receiver<Arc<Policy>>,
    boot: BootId,
    uids: Box<dyn Uids + Send>,
    judge: Box<Judge>,
    /// See [`cpus`].
    cpus: u64,
    state: State,
    settled: Settled,
    /// A look because of news failed: the next news are a reason to look at everything.
    missed: bool,
    /// See [`bpfd_core::kernel::Observed::barred`]. Each is tried again when its interface comes anew, and at the next start.
    barred: BTreeMap<LinkUid, String>,
    /// See [`Repaired::unauthorised`].
    unauthorised: Unauthorised,
    judged: Judged,
    /// A change was broken off, and what it left could not be mended.
    unrepaired: bool,
    /// What is to be decided since the state was lost.
    recovery: Option<Arc<Recovery>>,
    published: watch::Sender<Arc<Snapshot>>,
    acts: Arc<Acts>,
    turns: Arc<Chains>,
}

impl<K: Kernel> Engine<K> {
    /// Repairs what the last run left, then is ready.
    pub fn start(
        mut kernel: K,
        mut store: Store,
        mut audit: Box<dyn AuditSink + Send>,
        policy: watch::Receiver<Arc<Policy>>,
        boot: BootId,
        mut uids: Box<dyn Uids + Send>,
        judge: Box<Judge>,
    ) -> Result<(Self, Repaired), RepairError> {
        let journalled = journalled(&mut kernel, &store, boot, audit.unended())?;
        let relation = journalled.relation;
        end_unended(audit.as_mut(), journalled);
        let mut executor = Executor { kernel: &mut kernel, store: &mut store, audit: audit.as_mut(), stock: None };
        let now = policy.borrow().clone();
        let (state, seen, repaired) = repair(&mut executor, boot, uids.as_mut(), judge.as_ref(), &now.orders)?;
        // As it was found: pins that were nobody's are this database's by now.
        let repaired = Repaired { relation, ..repaired };
        let recovery = store.recovery()?.map(Arc::new);
        let (published, _) = watch::channel(Arc::new(Snapshot::default()));
        let (settled, barred, missed, unrepaired) = (chains(&seen), repaired.lasting(), false, false);
        let unauthorised = repaired.unauthorised.clone();
        let (acts, turns) = Default::default();
        let mut engine = Self {
            kernel,
            store,
            audit,
            policy,
            boot,
            uids,
            judge,
            cpus: cpus(),
            state,
            settled,
            missed,
            barred,
            unauthorised,
            judged: Judged::default(),
            unrepaired,
            recovery,
            published,
            acts,
            turns,
        };
        engine.publish(&Scope::Everything(engine.targets()))?;
        Ok((engine, repaired))
    }

    /// One change: built from the state as it is now, planned, carried out, published. If it is not done, `pending` has what the next
    /// call goes on with.
    pub fn change(
        &mut self,
        context: &Context,
        pending: &mut Pending<K>,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Progress<Answer, K>, EngineError> {
        if pending.stuck.is_none()
            && let Some(outcome) = self.answered(context)?
        {
            return Ok(Progress::Done(Answer { outcome, plan: None }));
        }
        for (app, staged) in &pending.staged {
            self.kernel.stage(*app, staged.clone());
        }
        let result = self.mended(context, pending, build);
        self.acts.end();
        // While it is staged: the makers hold it too.
        let result = result.map(|go| match go {
            Go::Done(answer) => Progress::Done(answer),
            Go::Wait(targets) => Progress::Wait(targets),
            Go::Make(needs) => self.makers(needs),
        });
        for (app, _) in &pending.staged {
            self.kernel.discard(*app);
        }
        result
    }

    /// The change, after the repair of what an earlier one left, and before that of what it left itself.
    fn mended(
        &mut self,
        context: &Context,
        pending: &mut Pending<K>,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Go<Answer>, EngineError> {
        if pending.stuck.is_none() {
            if self.unrepaired {
                match self.repair(&mut pending.stock) {
                    Err(RepairError::Unmade(needs)) => return Ok(Go::Make(needs)),
                    done => drop(done?),
                }
            }
            match self.attempt(context, pending, build) {
                Err(EngineError::Execute(stuck @ ExecuteError::Stuck { .. })) => {
                    tracing::error!(error = %stuck, "repairing");
                    pending.stuck = Some(stuck);
                }
                other => return other,
            }
        }
        match self.repair(&mut pending.stock) {
            Err(RepairError::Unmade(needs)) => return Ok(Go::Make(needs)),
            Err(error) => tracing::error!(%error, "repair failed; the next change or start tries again"),
            Ok(_) => {}
        }
        self.show_now(&Scope::Everything(self.targets()));
        pending.stuck.take().map_or(Err(EngineError::Stopped), |stuck| Err(stuck.into()))
    }

    fn makers<T>(&mut self, needs: Vec<Need>) -> Progress<T, K> {
        let maker = |need| {
            let maker = self.kernel.maker(&need);
            (need, maker)
        };
        Progress::Make(needs.into_iter().map(maker).collect())
    }

    /// The audit log, for changes that are no chain's.
    pub fn audit(&mut self) -> &mut dyn AuditSink {
        self.audit.as_mut()
    }

    /// The policy of now.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.borrow().clone()
    }

    /// The kernel, for what is not part of any change.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// How often the engine has acted, for readers on other threads.
    pub fn acts(&self) -> Arc<Acts> {
        self.acts.clone()
    }

    /// Which chains requests are under way for.
    fn turns(&self) -> Arc<Chains> {
        self.turns.clone()
    }

    /// A receiver of snapshots.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    fn attempt(
        &mut self,
        context: &Context,
        pending: &mut Pending<K>,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Go<Answer>, EngineError> {
        let unused = self.store.last_handle();
        let attempted = self.attempt_with(context, pending, build);
        // What only looked, was refused or must wait has used up no numbers.
        self.store.give_back_handles(unused);
        attempted
    }

    fn attempt_with(
        &mut self,
        context: &Context,
        pending: &mut Pending<K>,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Go<Answer>, EngineError> {
        let app = self.store.next_handle();
        // Programs are made for links by their identities: these stay.
        let missing = context.new_links.saturating_sub(pending.links.len());
        pending.links.extend((0..missing).map(|_| LinkUid(self.uids.fresh())));
        let links = pending.links.iter().map(|link| (*link, self.store.next_handle())).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fresh = Fresh { app, links, programs: self.store.next_handle(), now };
        let credentials = &context.principal.credentials;
        let changes: Vec<Change> =
            build(&self.state, &fresh)?.into_iter().map(|change| change.by(credentials)).collect();
        self.confirm(context, &changes, None)?;
        self.within_quota(&context.principal, &changes)?;
        let targets = targets(&self.state, &changes);
        if !context.validate_only
            && let Some(targets) = pending.lacks(&self.turns, &targets)
        {
            return Ok(Go::Wait(targets));
        }
        let races = pending.races;
        let mut scope = self.scope(pending, &targets);
        let result = loop {
            match self.once(context, pending, &changes, &scope) {
                Err(EngineError::Execute(ExecuteError::Step(StepError::Raced(chain)))) if pending.races < RACES => {
                    pending.races += 1;
                    tracing::info!(%chain, races = pending.races, "making a new plan: another process changed the hook");
                    scope = self.scope(pending, &targets);
                    // It was pinned, and unpinned when the attempt was undone.
                    for (app, staged) in &pending.staged {
                        self.kernel.stage(*app, staged.clone());
                    }
                }
                other => break other,
            }
        };
        match &result {
            Ok(Go::Make(_)) if pending.races == races => {}
            Err(EngineError::Execute(ExecuteError::Stuck { .. })) => {}
            _ => self.show_now(&scope),
        }
        result
    }

    /// What is looked at for a change of these chains. After a race what is pinned may have been changed as well.
    fn scope(&self, pending: &Pending<K>, targets: &Targets) -> Scope {
        match pending.races {
            0 => Scope::Chains(targets.clone()),
            _ => Scope::Everything(self.targets().and(targets.clone())),
        }
    }

    /// Everything that the state is about.
    fn targets(&self) -> Targets {
        Targets::of(self.state.links.values())
    }

    /// Ends what was broken off, and makes the kernel what the state says.
    fn repair(&mut self, stock: &mut Stock<K>) -> Result<Repaired, RepairError> {
        self.unrepaired = true;
        self.acts.begin();
        let policy = self.policy();
        let (kernel, store, audit) = (&mut self.kernel, &mut self.store, self.audit.as_mut());
        let mut executor = Executor { kernel, store, audit, stock: Some(stock) };
        let (uids, judge) = (self.uids.as_mut(), self.judge.as_ref());
        let (state, seen, repaired) = repair(&mut executor, self.boot, uids, judge, &policy.orders)?;
        self.state = state;
        self.recovery = self.store.recovery()?.map(Arc::new);
        self.settled = chains(&seen);
        self.barred = repaired.lasting();
        self.unauthorised.clone_from(&repaired.unauthorised);
        self.unrepaired = false;
        Ok(repaired)
    }

    fn once(
        &mut self,
        context: &Context,
        pending: &mut Pending<K>,
        changes: &[Change],
        scope: &Scope,
    ) -> Result<Go<Answer>, EngineError> {
        let observed = self.observe(scope)?;
        let policy = self.policy();
        let planned = plan(&self.state, &observed, changes, &policy.orders, self.uids.as_mut())?;
        let Planned { changes, after, touched, plan } = planned;
        // Links have their chains now: rules are about the interfaces themselves, whatever name was asked for.
        self.confirm(context, &changes, Some(&observed))?;
        let outcome = Outcome::of(&self.state, &after, &changes);
        if context.validate_only {
            return Ok(Go::Done(Answer { outcome, plan: Some(plan.to_string()) }));
        }
        let (kernel, store, audit) = (&mut self.kernel, &mut self.store, self.audit.as_mut());
        let mut executor = Executor { kernel, store, audit, stock: Some(&mut pending.stock) };
        let plan = match executor.ready(plan) {
            Ok(plan) => plan,
            Err(needs) => return Ok(Go::Make(pending.make(needs, scope.targets())?)),
        };
        let operation = Operation {
            id: OpId(self.uids.fresh()),
            boot: self.boot,
            request: context.request,
            owner: context.principal.owner(),
            changes,
            plan,
        };
        self.acts.begin();
        let left = execute(&mut executor, &operation, &self.state, &after, &outcome)?;
        self.state = after;
        // An interface that came elsewhere meanwhile is still to be dealt with, and one for which links are to be tried again.
        let barred = self.barred.keys().filter_map(|link| self.state.links.get(link)?.chain());
        let barred: BTreeSet<ChainId> = barred.collect();
        let here = |chain: &ChainId| observed.chains.contains_key(chain) && !barred.contains(chain);
        self.settled.extend(touched.into_iter().filter(here));
        if !left.is_empty() {
            // The next change tries again.
            self.unrepaired = true;
            return Err(EngineError::StillRuns(left));
        }
        Ok(Go::Done(Answer { outcome, plan: None }))
    }
}

/// What the database says of changes whose end is not on record.
fn journalled<K: Kernel>(
    kernel: &mut K,
    store: &Store,
    boot: BootId,
    unended: &[Open],
) -> Result<Journalled, RepairError> {
    let open = store.open_operation()?.map(|operation| operation.id);
    let relation = relate(kernel, store, boot)?;
    let mut committed = None;
    for Open { operation, .. } in unended {
        if store.is_committed_last(*operation)? {
            committed = Some(*operation);
        }
    }
    Ok(Journalled { open, committed, relation })
}
