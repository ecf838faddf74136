//! The engine: one thread that owns the state, the database and the kernel, and does one change at a time.
//!
//! Everything slow happened before a change gets here: bytes are fetched and verified, programs are loaded as file descriptors.
//! Reads come from a published snapshot and never wait for it. It must never wait on a network or on a caller.

mod acts;
mod handle;
mod news;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bpfd_core::chain::status_of;
use bpfd_core::changes::{Fresh, RequestError};
use bpfd_core::hook::ChainKey;
use bpfd_core::ident::{AppUid, BootId, LinkUid, OpId, RequestId, RequestKey, TopUid, Uids};
use bpfd_core::journal::Operation;
use bpfd_core::kernel::{Kernel, ObserveError, Observed, ObservedChain, Scope, StepError};
use bpfd_core::order;
use bpfd_core::plan::{PlanError, Planned, adoptions, own_status, plan, status, touched};
use bpfd_core::policy::{Denied, Principal, confirm};
use bpfd_core::state::{Change, State};
use bpfd_policy::Policy;
use tokio::sync::watch;

use crate::audit::AuditSink;
use crate::execute::{ExecuteError, Executor, RACES, execute};
use crate::repair::{Attempt, RepairError, Repaired, repair, settle};
use crate::store::{Earlier, Outcome, Store, StoreError};
use crate::turns::Full;

pub use acts::Acts;
pub use bpfd_core::snapshot::Snapshot;
pub use handle::{EngineHandle, StartError};
use news::interfaces;
pub use news::{Changed, News, Settled};

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

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request means nothing here.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What it turned out to mean is not allowed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It was tried, failed, and was undone.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The kernel could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key belongs to another request of this caller.
    #[error("request id {0} was used for another request")]
    Reused(RequestId),
    /// What an earlier change left is in the way.
    #[error("an earlier operation was interrupted, and recovery failed")]
    Repair(#[from] RepairError),
    /// This user has too many requests.
    #[error(transparent)]
    Busy(#[from] Full),
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// See the module.
pub struct Engine<K: Kernel> {
    kernel: K,
    store: Store,
    audit: Box<dyn AuditSink + Send>,
    policy: watch::Receiver<Arc<Policy>>,
    boot: BootId,
    uids: Box<dyn Uids + Send>,
    state: State,
    settled: Settled,
    /// A look because of news failed: the next news are a reason to look at everything.
    missed: bool,
    /// See [`Observed::barred`]. Each is tried again when its interface comes anew, and at the next start.
    barred: BTreeMap<LinkUid, String>,
    /// A change was broken off, and what it left could not be mended.
    unrepaired: bool,
    published: watch::Sender<Arc<Snapshot>>,
    acts: Arc<Acts>,
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
    ) -> Result<(Self, Repaired), RepairError> {
        let mut executor = Executor { kernel: &mut kernel, store: &mut store, audit: audit.as_mut() };
        let (state, seen, repaired) = repair(&mut executor, boot, uids.as_mut())?;
        let (published, _) = watch::channel(Arc::new(Snapshot::default()));
        let (settled, barred, missed, unrepaired) = (interfaces(&seen), repaired.lasting(), false, false);
        let acts = Arc::default();
        let mut engine = Self {
            kernel,
            store,
            audit,
            policy,
            boot,
            uids,
            state,
            settled,
            missed,
            barred,
            unrepaired,
            published,
            acts,
        };
        let everything = Scope::Everything(engine.state.chains());
        engine.publish(&everything)?;
        Ok((engine, repaired))
    }

    /// One change: built from the state as it is now, planned, carried out, published. `staged` is what a load made before.
    pub fn change(
        &mut self,
        context: &Context,
        staged: Option<(AppUid, K::Staged)>,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Answer, EngineError> {
        if let Some(outcome) = self.answered(context)? {
            return Ok(Answer { outcome, plan: None });
        }
        if self.unrepaired {
            self.repair().inspect_err(|_| self.acts.end())?;
        }
        let app = staged.map(|(app, staged)| {
            self.kernel.stage(app, staged);
            app
        });
        let result = self.attempt(context, build);
        self.acts.end();
        if let Some(app) = app {
            self.kernel.discard(app);
        }
        result
    }

    /// Something changed in the kernel: links whose interface came, or came back as another one, are attached; what ran on one that
    /// went is swept; a peer's dispatcher with programs of ours is held. What somebody else took off an interface that stayed is
    /// DRIFTED, and left alone.
    pub fn settle(&mut self, news: &News) -> Result<Repaired, RepairError> {
        let scope = match self.missed {
            true => Some(Scope::Everything(self.state.chains())),
            false => news.scope(&self.state, &self.published.borrow().observed, &self.settled),
        };
        let Some(scope) = scope else { return Ok(Repaired::default()) };
        self.missed = true;
        let repaired = self.settle_all(scope);
        self.acts.end();
        let repaired = repaired?;
        self.missed = false;
        Ok(repaired)
    }

    /// Looks and deals with it until there is nothing more to do, and publishes.
    fn settle_all(&mut self, mut scope: Scope) -> Result<Repaired, RepairError> {
        let mut repaired = Repaired::default();
        let mut races = 0;
        loop {
            let attempt = self.settle_once(&scope, &mut repaired)?;
            if !attempt.again(&mut races) {
                repaired.failures.extend(attempt.failed);
                break;
            }
            scope = Scope::Everything(self.state.chains());
            tracing::info!(
                races,
                "making a new plan: another process changed a hook, or a program cannot be part of its chain"
            );
        }
        self.barred.retain(|link, _| !repaired.passing.contains(link));
        self.publish(&scope)?;
        Ok(repaired)
    }

    /// One observation, and what follows from it.
    fn settle_once(&mut self, scope: &Scope, repaired: &mut Repaired) -> Result<Attempt, RepairError> {
        let mut observed = self.kernel.observe(scope)?;
        let now = interfaces(&observed);
        let (came, stayed) = std::mem::take(&mut observed.chains).into_iter().partition(|(chain, seen)| {
            let known = self.settled.get(chain).copied().flatten();
            known.is_none() || known != seen.interface
        });
        observed.chains = stayed;
        let adoptions = adoptions(&observed);
        observed.chains = came;
        let here = |link: &LinkUid| self.state.links.get(link).and_then(|link| link.placement.chain());
        self.barred.retain(|link, _| here(link).is_some_and(|chain| !observed.chains.contains_key(chain)));
        self.barred.extend(repaired.barred.clone());
        observed.barred.clone_from(&self.barred);
        self.acts.begin();
        let mut executor = Executor { kernel: &mut self.kernel, store: &mut self.store, audit: self.audit.as_mut() };
        let attempt = settle(&mut executor, &adoptions, &self.state, &observed, self.uids.as_mut(), repaired)?;
        self.barred.extend(repaired.barred.clone());
        // What came is to be dealt with until it was.
        if attempt.whole() {
            match scope {
                Scope::Everything(_) => self.settled = now,
                Scope::Chains(_) => self.settled.extend(now),
            }
        }
        Ok(attempt)
    }

    /// Puts a refusal on record.
    pub fn denied(&mut self, denied: &Denied) {
        self.audit
            .denied(denied)
            .unwrap_or_else(|error| tracing::error!(%error, "cannot record a refusal in the audit log"));
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

    /// A receiver of snapshots.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    fn answered(&self, context: &Context) -> Result<Option<Outcome>, EngineError> {
        let (Some(key), false) = (context.request, context.validate_only) else { return Ok(None) };
        match self.store.answer(key, &context.principal.owner())? {
            Some(Earlier::Answered(outcome)) => Ok(Some(outcome)),
            Some(Earlier::Another) => Err(EngineError::Reused(key.id)),
            None => Ok(None),
        }
    }

    fn attempt(
        &mut self,
        context: &Context,
        build: impl Fn(&State, &Fresh) -> Result<Vec<Change>, RequestError>,
    ) -> Result<Answer, EngineError> {
        let app = self.store.next_handle();
        let links = (0..context.new_links).map(|_| (LinkUid(self.uids.fresh()), self.store.next_handle())).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fresh = Fresh { app, links, programs: self.store.next_handle(), now };
        let mut changes = build(&self.state, &fresh)?;
        if let Err(denied) = confirm(&self.policy(), &context.principal, &self.state, &changes) {
            self.denied(&denied);
            return Err(denied.into());
        }
        let mut scope = Scope::Chains(touched(&self.state, &changes));
        let mut races = 0;
        let result = loop {
            match self.once(context, &changes, &scope) {
                Err(EngineError::Execute(ExecuteError::Step(StepError::Raced(chain)))) if races < RACES => {
                    races += 1;
                    tracing::info!(%chain, races, "making a new plan: another process changed the hook");
                    // What is pinned may have been changed as well.
                    scope = Scope::Everything(self.state.chains().union(scope.chains()).cloned().collect());
                    if let Err(error) = self.load_again(&mut changes) {
                        break Err(error.into());
                    }
                }
                Err(EngineError::Execute(stuck @ ExecuteError::Stuck { .. })) => {
                    tracing::error!(error = %stuck, "repairing");
                    if let Err(error) = self.repair() {
                        tracing::error!(%error, "repair failed; the next change or start tries again");
                    }
                    scope = Scope::Everything(self.state.chains());
                    break Err(stuck.into());
                }
                other => break other,
            }
        };
        if let Err(error) = self.publish(&scope) {
            tracing::warn!(%error, "cannot publish the new state: reads return the previous snapshot until the next observation");
        }
        result
    }

    /// Ends what was broken off, and makes the kernel what the state says.
    fn repair(&mut self) -> Result<(), RepairError> {
        self.unrepaired = true;
        self.acts.begin();
        let mut executor = Executor { kernel: &mut self.kernel, store: &mut self.store, audit: self.audit.as_mut() };
        let (state, seen, repaired) = repair(&mut executor, self.boot, self.uids.as_mut())?;
        self.state = state;
        self.settled = interfaces(&seen);
        self.barred = repaired.lasting();
        self.unrepaired = false;
        Ok(())
    }

    /// What was staged was pinned, and unpinned when the attempt was undone: it is gone.
    fn load_again(&mut self, changes: &mut [Change]) -> Result<(), ExecuteError> {
        for change in changes {
            if let Change::Load(app) = change {
                let programs = self.kernel.prepare(app.uid, &order::recipe(app)).map_err(ExecuteError::Step)?;
                app.loaded_again(&programs);
            }
        }
        Ok(())
    }

    fn once(&mut self, context: &Context, changes: &[Change], scope: &Scope) -> Result<Answer, EngineError> {
        self.state.after(changes).map_err(PlanError::Change)?;
        let observed = self.observe(scope)?.over(&self.published.borrow().observed, |_| true);
        let Planned { after, touched, plan } = plan(&self.state, &observed, changes, self.uids.as_mut())?;
        let outcome = Outcome::of(&self.state, &after, changes);
        if context.validate_only {
            return Ok(Answer { outcome, plan: Some(plan.to_string()) });
        }
        let operation = Operation {
            id: OpId(self.uids.fresh()),
            boot: self.boot,
            request: context.request,
            owner: context.principal.owner(),
            changes: changes.to_vec(),
            plan,
        };
        self.acts.begin();
        let mut executor = Executor { kernel: &mut self.kernel, store: &mut self.store, audit: self.audit.as_mut() };
        execute(&mut executor, &operation, &self.state, &after, &outcome)?;
        self.state = after;
        // An interface that came elsewhere meanwhile is still to be dealt with, and one for which links are to be tried again.
        let barred = self.barred.keys().filter_map(|link| self.state.links.get(link)?.placement.chain());
        let barred: BTreeSet<&ChainKey> = barred.collect();
        let here = |chain: &ChainKey| touched.contains(chain) && !barred.contains(chain);
        let near = interfaces(&observed).into_iter().filter(|(chain, _)| here(chain));
        self.settled.extend(near);
        Ok(Answer { outcome, plan: None })
    }

    /// The kernel as it is, and what is remembered of it.
    fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        let observed = self.kernel.observe(scope)?;
        Ok(Observed { barred: self.barred.clone(), ..observed })
    }

    /// Shows readers the state, beside the kernel as it is now in this scope and as it was seen last elsewhere.
    fn publish(&mut self, scope: &Scope) -> Result<(), ObserveError> {
        let seen = self.observe(scope)?;
        let before = self.published.borrow().clone();
        let chains = self.state.chains();
        let looked_at: BTreeSet<ChainKey> = seen.chains.keys().cloned().collect();
        let observed = match scope {
            Scope::Everything(_) => seen,
            Scope::Chains(_) => {
                let mut observed = seen.over(&before.observed, |_| true);
                let pinned: BTreeSet<TopUid> = observed.tops.keys().copied().collect();
                // One that lost its last link is of interest while it runs a generation that is pinned here.
                let runs = |seen: &ObservedChain| seen.live.top().is_some_and(|top| pinned.contains(&top));
                observed.chains.retain(|chain, seen| chains.contains(chain) || runs(seen));
                observed
            }
        };
        let statuses = match scope {
            Scope::Everything(_) => status(&self.state, &observed),
            Scope::Chains(_) => {
                let mut statuses = before.statuses.clone();
                statuses.retain(|link, _| self.state.links.contains_key(link));
                statuses.extend(own_status(&self.state, &observed));
                statuses.extend(status_of(&self.state, &observed, &looked_at));
                statuses
            }
        };
        self.published.send_replace(Arc::new(Snapshot { state: self.state.clone(), observed, statuses }));
        Ok(())
    }
}
