//! The planner: from what is wanted and what the kernel has to the steps between. Pure and idempotent: planned again after its
//! steps, it plans nothing. Requests, start-up repair and `doctor` use this one.
//!
//! Order of a plan: pin what is new, build and pin new generations, attach links of own hooks, swap the chains;
//! up to here each step can be undone and a failure leaves the host as it was. From `committed` on records of rows
//! are written, and links of own hooks go, and pins that nothing uses. It must never remove what it could not observe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::chain::{self, ChainPlan};
use crate::hook::{ChainKey, Placement, XdpMode};
use crate::ident::{AppUid, KernelId, LinkUid, TopUid, Uids};
use crate::kernel::{ForeignProgram, Live, LiveDispatcher, LiveTop, Need, Observed, SLOTS, Step, TopContent};
use crate::names::NetnsName;
use crate::record::with_records;
use crate::state::{Change, ChangeError, Link, State};

/// What to do, in order.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// Every step.
    pub steps: Vec<Step>,
    /// How many of them come before the commit point and can be undone.
    pub committed: usize,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What must be made for its steps. What is not there to be looked at needs nothing: its step fails.
    pub fn needs(&self, observed: &Observed) -> Vec<Need> {
        let need = |step: &Step| match step {
            Step::LoadExt { member, recipe } => Some(Need::Ext { member: member.clone(), recipe: recipe.clone() }),
            Step::BuildTop { top, chain, content: TopContent::Fused { members, recipes } } => Some(Need::Fused {
                top: *top,
                interface: observed.chains.get(chain)?.interface?,
                members: members.clone(),
                recipes: recipes.clone(),
            }),
            _ => None,
        };
        self.steps.iter().filter_map(need).collect()
    }

    /// The same plan, with other names for generations that it builds.
    #[must_use]
    pub fn renamed(mut self, names: &BTreeMap<TopUid, TopUid>) -> Self {
        for step in &mut self.steps {
            let (Step::BuildTop { top, .. }
            | Step::DropTop(top)
            | Step::PinTop(top)
            | Step::UnpinTop(top)
            | Step::Swap { to: Some(top), .. }) = step
            else {
                continue;
            };
            *top = names.get(top).copied().unwrap_or(*top);
        }
        self
    }

    /// What takes the kernel back to where it was before `step`, given the kernel's ids of what was built; `None` for a step
    /// that comes after the commit point.
    pub fn undo(step: &Step, built: &BTreeMap<TopUid, KernelId>) -> Option<Step> {
        match step {
            Step::PinApp(app) => Some(Step::UnpinApp(*app)),
            Step::BuildTop { top, .. } => Some(Step::DropTop(*top)),
            Step::PinTop(top) => Some(Step::UnpinTop(*top)),
            Step::AttachLink { link, .. } => Some(Step::DetachLink(*link)),
            Step::Swap { chain, from, to, mode } => {
                let live = to.and_then(|top| built.get(&top).map(|program| LiveTop { program: *program, top }));
                Some(Step::Swap { chain: chain.clone(), from: live, to: from.map(|live| live.top), mode: *mode })
            }
            Step::LoadExt { member, .. } => Some(Step::UnpinExt(member.link)),
            Step::Adopt { .. }
            | Step::DropTop(_)
            | Step::DetachLink(_)
            | Step::UnpinTop(_)
            | Step::UnpinExt(_)
            | Step::UnpinApp(_)
            | Step::Record(_)
            | Step::Unrecord(_) => None,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(index, step)| {
            if index == self.committed {
                writeln!(f, "-- committed")?;
            }
            writeln!(f, "{step}")
        })
    }
}

/// How a link stands, by the kernel's word.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LinkStatus {
    /// It runs where it should.
    Attached,
    /// Its interface, or the namespace of it, is absent.
    Waiting,
    /// The kernel has something else than what was asked for.
    Drifted {
        /// What it has.
        cause: String,
    },
}

/// Why a change cannot be planned. Nothing was done.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// It does not fit the state.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The interface is absent.
    #[error("no interface `{}` in network namespace `{}`", .0.interface, .0.netns)]
    NoInterface(ChainKey),
    /// One interface, asked for in two ways: two names of one network namespace.
    #[error("`{chain}` and `{other}` are two names of the same interface")]
    OneInterface {
        /// As it was asked for now.
        chain: ChainKey,
        /// The chain that it has.
        other: ChainKey,
    },
    /// The interface's network namespace is absent.
    #[error("no network namespace `{0}`")]
    NoNetns(NetnsName),
    /// The hook belongs to somebody else.
    #[error("`{}` runs XDP program {} (`{}`), which is not bpfd's", chain.interface, holder.program, holder.name)]
    Foreign {
        /// The hook.
        chain: ChainKey,
        /// What is there.
        holder: ForeignProgram,
        /// How it is driven; `None` by the device itself.
        driven: Option<XdpMode>,
    },
    /// Another mode than the one that the chain is driven in.
    #[error("`{chain}` is attached in {driven} mode; an interface cannot use {asked} mode at the same time")]
    Mode {
        /// The hook.
        chain: ChainKey,
        /// As it is.
        driven: XdpMode,
        /// As asked for.
        asked: XdpMode,
    },
    /// More programs than a dispatcher has slots, those of others counted.
    #[error("`{}` would have {programs} XDP programs, and a dispatcher has {SLOTS} slots", chain.interface)]
    ChainFull {
        /// The hook.
        chain: ChainKey,
        /// How many there would be.
        programs: usize,
    },
    /// Links of one chain ask for different modes.
    #[error("links of `{0}` ask for native and generic mode at once")]
    MixedModes(ChainKey),
}

/// Changes, planned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    /// The state that they lead to.
    pub after: State,
    /// The chains that they are about: what others have is left as it is.
    pub touched: BTreeSet<ChainKey>,
    /// How.
    pub plan: Plan,
}

/// The steps that make `changes` so. Every chain that a change touches must be in `observed`.
pub fn plan(state: &State, observed: &Observed, changes: &[Change], uids: &mut dyn Uids) -> Result<Planned, PlanError> {
    let after = state.after(changes)?;
    let touched = touched(state, changes);
    touched.iter().try_for_each(|key| chain::refuse(&after, observed, key, changes))?;
    // What cannot be had elsewhere on the host is no reason against this, and what drifted there is left alone.
    let chains = observed.chains.iter().filter(|(chain, _)| touched.contains(chain));
    let near = Observed { chains: chains.map(|(key, seen)| (key.clone(), seen.clone())).collect(), ..observed.clone() };
    let plan = with_records(converge_chains(&after, &near, changes, uids), &after, &near);
    Ok(Planned { after, touched, plan })
}

/// `converge` for the observed chains, and for what `changes` name: no other app is pinned and no other link attached. Members that
/// cannot run, since their app is loaded no longer, are left out, as a start leaves them out.
pub fn converge_chains(target: &State, observed: &Observed, changes: &[Change], uids: &mut dyn Uids) -> Plan {
    let loads = |app: &AppUid| changes.iter().any(|change| matches!(change, Change::Load(new) if new.uid == *app));
    let attaches =
        |link: &LinkUid| changes.iter().any(|change| matches!(change, Change::Attach(new) if new.uid == *link));
    let runs = |link: &Link| {
        let app = observed.apps.contains_key(&link.app) || loads(&link.app);
        app || observed.exts.contains_key(&link.uid) || link.placement.chain().is_none()
    };
    let runnable = target.without_links(|link| !runs(link));
    let Plan { mut steps, committed } = converge(&runnable, observed, uids);
    let cleaning = steps.split_off(committed);
    steps.retain(|step| match step {
        Step::PinApp(app) => loads(app),
        Step::AttachLink { link, .. } => attaches(link),
        _ => true,
    });
    let committed = steps.len();
    steps.extend(cleaning);
    Plan { steps, committed }
}

/// The steps from what the kernel has to what `target` wants. A chain that cannot be had (absent, held by another) is left
/// alone, and a link that is barred is left out: `status` says so.
pub fn converge(target: &State, observed: &Observed, uids: &mut dyn Uids) -> Plan {
    let target = &target.without_links(|link| observed.barred.contains_key(&link.uid));
    let mut before = Vec::new();
    let mut swaps = Vec::new();
    let mut after = Vec::new();

    before.extend(target.apps.keys().filter(|app| !observed.apps.contains_key(app)).map(|app| Step::PinApp(*app)));

    let mut wanted_tops = BTreeSet::new();
    for (key, seen) in &observed.chains {
        match chain::converge(target, observed, key, seen, uids) {
            ChainPlan::Keep(top) => wanted_tops.extend(top),
            ChainPlan::Adopt(live) => {
                wanted_tops.insert(live.top);
                after.push(Step::Adopt { chain: key.clone(), live });
            }
            ChainPlan::Replace { build, swap } => {
                // A peer's dispatcher is adopted before it is replaced, and its pins go with it.
                after.extend(build.iter().filter_map(|step| match step {
                    Step::Adopt { live, .. } => Some(Step::UnpinTop(live.top)),
                    _ => None,
                }));
                before.extend(build);
                swaps.push(swap);
            }
        }
    }

    let absent = |link: &&Link| !observed.links.contains(&link.uid);
    before.extend(target.links.values().filter(absent).filter_map(attach_step));
    before.extend(swaps);

    // What a crash left half-made of a wanted link is cleared by its `AttachLink`.
    let unwanted = observed.links.union(&observed.half_links).filter(|link| !target.links.contains_key(link));
    after.extend(unwanted.map(|link| Step::DetachLink(*link)));
    after.extend(dead_tops(observed, &wanted_tops).map(Step::UnpinTop));
    after.extend(
        observed
            .exts
            .keys()
            .filter(|link| !chain::libxdp::keeps_ext(target, observed, link))
            .map(|link| Step::UnpinExt(*link)),
    );
    // A half-made directory of a wanted app is cleared by its `PinApp`.
    let pinned = observed.apps.keys().chain(&observed.half_made);
    after.extend(pinned.filter(|app| !target.apps.contains_key(app)).map(|app| Step::UnpinApp(*app)));

    let committed = before.len();
    before.extend(after);
    Plan { steps: before, committed }
}

/// References to take to dispatchers that a peer built around programs of ours: nothing that runs is changed by it.
pub fn adoptions(observed: &Observed) -> Plan {
    let steps = observed.chains.iter().filter_map(|(chain, seen)| match &seen.live {
        Live::Dispatcher(LiveDispatcher { top, slots, .. }) => {
            let carries_ours = slots.iter().any(|slot| slot.ours().is_some());
            let new = carries_ours && !observed.tops.contains_key(&top.top);
            new.then(|| Step::Adopt { chain: chain.clone(), live: *top })
        }
        Live::Empty | Live::Ours(_) | Live::Foreign(_) => None,
    });
    Plan { steps: steps.collect(), committed: 0 }
}

/// How each link of `state` stands in what was observed; links of chains that were not observed are absent.
pub fn status(state: &State, observed: &Observed) -> BTreeMap<LinkUid, LinkStatus> {
    let chains: BTreeSet<ChainKey> = observed.chains.keys().cloned().collect();
    let mut statuses = chain::status_of(state, observed, &chains);
    statuses.extend(own_status(state, observed));
    statuses
}

/// The same for the links of own hooks.
pub fn own_status<'a>(
    state: &'a State,
    observed: &'a Observed,
) -> impl Iterator<Item = (LinkUid, LinkStatus)> + use<'a> {
    let own = state.links.values().filter(|link| matches!(link.placement, Placement::Own(_)));
    own.map(|link| match observed.links.contains(&link.uid) {
        true => (link.uid, LinkStatus::Attached),
        false => (link.uid, LinkStatus::Drifted { cause: "its kernel link is gone".to_owned() }),
    })
}

/// Whether the kernel already has what `target` wants, left-over pins aside: what recovery asks to know if a broken-off
/// operation got past its commit point.
pub fn reached(target: &State, observed: &Observed) -> bool {
    let mut none = || uuid::Uuid::nil();
    converge(target, observed, &mut none).committed == 0
}

/// The chains that changes are about: what must be observed before they are planned.
pub fn touched(state: &State, changes: &[Change]) -> BTreeSet<ChainKey> {
    let of = |link: &LinkUid| state.links.get(link).and_then(|link| link.placement.chain().cloned());
    let chains = changes.iter().flat_map(|change| match change {
        Change::Load(_) => vec![],
        Change::Attach(link) => link.placement.chain().cloned().into_iter().collect(),
        Change::Update { link, .. } | Change::Detach(link) => of(link).into_iter().collect(),
        Change::Unload(app) => state.links_of(*app).filter_map(|link| link.placement.chain().cloned()).collect(),
    });
    chains.collect()
}

fn attach_step(link: &Link) -> Option<Step> {
    match &link.placement {
        Placement::Shared(_) => None,
        Placement::Own(hook) => Some(Step::AttachLink {
            link: link.uid,
            app: link.app,
            function: link.function.clone(),
            hook: hook.clone(),
        }),
    }
}

/// Generations that no hook runs once the plan's swaps are done.
fn dead_tops<'a>(observed: &'a Observed, wanted: &'a BTreeSet<TopUid>) -> impl Iterator<Item = TopUid> + 'a {
    let kept: BTreeSet<TopUid> = observed.chains.values().filter_map(|chain| chain.live.top()).collect();
    observed
        .tops
        .iter()
        .filter(move |(top, pinned)| match pinned.live {
            // On an observed chain: it stays only if the plan keeps it. Elsewhere and alive: some other chain's, leave it.
            Some(true) => kept.contains(top) && !wanted.contains(top),
            Some(false) => !wanted.contains(top),
            None => false,
        })
        .map(|(top, _)| *top)
}
