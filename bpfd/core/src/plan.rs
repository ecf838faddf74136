//! The planner: from what is wanted and what the kernel has to the steps between. Pure and idempotent: planned again after its
//! steps, it plans nothing. Requests, start-up repair and `doctor` use this one.
//!
//! Order of a plan: pin what is new, build and pin new generations, attach links of own hooks, swap the chains;
//! up to here each step can be undone and a failure leaves the host as it was. From `committed` on records of rows
//! are written, and links of own hooks go, and pins that nothing uses. It must never remove what it could not observe.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bpfd_policy::order::Order;
use serde::{Deserialize, Serialize};

use crate::chain;
use crate::chain::room;
use crate::hook::{ChainId, Placement};
use crate::ident::{AppUid, GenerationUid, KernelId, LinkUid, Uids};
use crate::kernel::{ChainContent, LiveGeneration, Need, Observed, Runs, Spot, Step, Targets};
use crate::ordering::{self, ordered};
use crate::record::with_records_of;
use crate::seat::{seated, seated_changes};
use crate::state::{Change, Link, State};

pub use self::error::PlanError;

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

    /// What must be made for its steps.
    pub fn needs(&self) -> Vec<Need> {
        let need = |step: &Step| match step {
            Step::LoadCopy { slot, recipes } => {
                Some(Need::Copy { members: slot.members().cloned().collect(), recipes: recipes.clone() })
            }
            Step::BuildGeneration { generation, chain, content: ChainContent::Fused { members, recipes, room } } => {
                Some(Need::Generation {
                    generation: *generation,
                    chain: chain.id,
                    members: members.clone(),
                    recipes: recipes.clone(),
                    room: *room,
                })
            }
            _ => None,
        };
        self.steps.iter().filter_map(need).collect()
    }

    /// The same plan, with other names for generations that it builds.
    #[must_use]
    pub fn renamed(mut self, names: &BTreeMap<GenerationUid, GenerationUid>) -> Self {
        let named =
            |generation: &mut GenerationUid| *generation = names.get(generation).copied().unwrap_or(*generation);
        for step in &mut self.steps {
            match step {
                Step::BuildGeneration { generation, .. }
                | Step::DropGeneration(generation)
                | Step::PinGeneration(generation)
                | Step::UnpinGeneration(generation) => named(generation),
                Step::Swap { to, at, .. } => {
                    to.iter_mut().for_each(named);
                    if let Spot::After(neighbour) | Spot::Before(neighbour) = at {
                        named(neighbour);
                    }
                }
                Step::PinApp(_)
                | Step::LoadCopy { .. }
                | Step::UnpinCopy(_)
                | Step::Adopt { .. }
                | Step::AttachLink { .. }
                | Step::DetachLink(_)
                | Step::UnpinApp(_)
                | Step::Record(_)
                | Step::Unrecord(_) => {}
            }
        }
        self
    }

    /// What takes the kernel back to where it was before `step`, given the kernel's ids of what was built; `None` for a step
    /// that comes after the commit point.
    pub fn undo(step: &Step, built: &BTreeMap<GenerationUid, KernelId>) -> Option<Step> {
        match step {
            Step::PinApp(app) => Some(Step::UnpinApp(*app)),
            Step::BuildGeneration { generation, .. } => Some(Step::DropGeneration(*generation)),
            Step::PinGeneration(generation) => Some(Step::UnpinGeneration(*generation)),
            Step::AttachLink { link, .. } => Some(Step::DetachLink(*link)),
            Step::Swap { chain, from, to, mode, at } => {
                let live = to.and_then(|generation| {
                    built.get(&generation).map(|program| LiveGeneration { program: *program, generation })
                });
                let (chain, to) = (chain.clone(), from.map(|live| live.generation));
                Some(Step::Swap { chain, from: live, to, mode: *mode, at: *at })
            }
            Step::LoadCopy { slot, .. } => Some(Step::UnpinCopy(slot.uid)),
            Step::Adopt { .. }
            | Step::DropGeneration(_)
            | Step::DetachLink(_)
            | Step::UnpinGeneration(_)
            | Step::UnpinCopy(_)
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

/// Changes, planned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    /// The changes, with the chains that new links are in.
    pub changes: Vec<Change>,
    /// The state that they lead to.
    pub after: State,
    /// The chains that they are about: what others have is left as it is.
    pub touched: BTreeSet<ChainId>,
    /// How.
    pub plan: Plan,
}

/// The steps that make `changes` so. What `targets` says of the changes must have been looked at.
pub fn plan(
    state: &State,
    observed: &Observed,
    changes: &[Change],
    orders: &[Order],
    uids: &mut dyn Uids,
) -> Result<Planned, PlanError> {
    let before = state;
    let state = seated(state, observed);
    let changes = seated_changes(changes, observed);
    let touched = about(&state, &changes).into_iter().filter_map(Link::chain).collect::<BTreeSet<ChainId>>();
    let after = ordered(orders, &state.after(&changes)?, |chain| touched.contains(chain));
    changes.iter().try_for_each(|change| chain::refuse_absent(observed, change))?;
    touched.iter().try_for_each(|chain| ordering::refuse(orders, (&state, &after), chain, &changes))?;
    touched.iter().try_for_each(|chain| chain::refuse((&state, &after), observed, chain, &changes))?;
    // What cannot be had elsewhere on the host is no reason against this, and what drifted there is left alone.
    let chains = observed.chains.iter().filter(|(chain, _)| touched.contains(chain));
    let versions = changes.iter().filter_map(|change| match change {
        Change::Rebuild { chain, version } => Some((*chain, *version)),
        Change::Load(_)
        | Change::Attach(_)
        | Change::Update { .. }
        | Change::Reorder { .. }
        | Change::Persist { .. }
        | Change::Detach(_)
        | Change::Unload(_) => None,
    });
    let near = Observed {
        chains: chains.map(|(chain, seen)| (*chain, seen.clone())).collect(),
        versions: versions.collect(),
        ..observed.clone()
    };
    let changed = after.links.changed_since(&before.links).map(|(_, link)| link);
    let plan = with_records_of(converge_chains(&after, &near, &changes, uids), &after, &near, changed);
    let plan = room::keep(plan, &changes);
    Ok(Planned { changes, after, touched, plan })
}

/// `converge` for the observed chains, and for what `changes` name: no other app is pinned and no other link attached. Members that
/// cannot run, since their app is loaded no longer, are left out, as a start leaves them out.
pub fn converge_chains(target: &State, observed: &Observed, changes: &[Change], uids: &mut dyn Uids) -> Plan {
    let loads = |app: &AppUid| changes.iter().any(|change| matches!(change, Change::Load(new) if new.uid == *app));
    let attaches =
        |link: &LinkUid| changes.iter().any(|change| matches!(change, Change::Attach(new) if new.uid == *link));
    let runs = |link: &Link| {
        let app = observed.apps.contains_key(&link.app) || loads(&link.app);
        app || observed.copied().any(|copied| copied == link.uid) || link.placement.asked().is_none()
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

    let mut wanted_generations = BTreeSet::new();
    for (id, seen) in &observed.chains {
        let chain = chain::converge(target, observed, id, seen, uids);
        wanted_generations.extend(chain.kept);
        before.extend(chain.build);
        swaps.extend(chain.swaps);
        after.extend(chain.after);
    }

    let attach = target.links.values().filter_map(|link| attach_step(link).map(|step| (link, step)));
    before.extend(attach.filter(|(link, _)| !observed.links.contains(&link.uid)).map(|(_, step)| step));
    before.extend(swaps);

    // What a crash left half-made of a wanted link is cleared by its `AttachLink`.
    let unwanted = observed.links.union(&observed.half_links).filter(|link| !target.links.contains_key(link));
    let unwanted = unwanted.filter(|link| !observed.spared.links.contains(link));
    after.extend(unwanted.map(|link| Step::DetachLink(*link)));
    let dead: BTreeSet<GenerationUid> = dead_generations(observed, &wanted_generations).collect();
    let keeps_copy_of =
        |link: &LinkUid| observed.spared.links.contains(link) || chain::libxdp::keeps_copy(target, observed, link);
    let unwanted = observed.copies.iter().filter(|(_, copy)| !copy.slot.links().all(|link| keeps_copy_of(&link)));
    let unwanted: Vec<_> = unwanted.map(|(slot, _)| *slot).collect();
    after.extend(dead.iter().map(|generation| Step::UnpinGeneration(*generation)));
    after.extend(unwanted.into_iter().map(Step::UnpinCopy));
    // A half-made directory of a wanted app is cleared by its `PinApp`.
    let pinned = observed.apps.keys().chain(&observed.half_made);
    let unwanted = pinned.filter(|app| !target.apps.contains_key(app) && !observed.spared.apps.contains(app));
    after.extend(unwanted.map(|app| Step::UnpinApp(*app)));

    let committed = before.len();
    before.extend(after);
    Plan { steps: before, committed }
}

/// How each link of `state` stands in what was observed.
pub fn status(state: &State, observed: &Observed) -> BTreeMap<LinkUid, LinkStatus> {
    let mut statuses = chain::status_of(state, observed, |_| true);
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

/// What must be looked at before changes are planned. The name of a new link may be that of others, whose interface is gone and this
/// one in its place.
pub fn targets(state: &State, changes: &[Change]) -> Targets {
    let links = about(state, changes);
    let named = |link: &Link| links.iter().any(|about| about.placement.asked() == link.placement.asked());
    let others = state.links.values().filter(|link| link.placement.asked().is_some() && named(link));
    Targets::of(links.iter().copied()).and(Targets::of(others))
}

/// The links that changes make, move or remove.
fn about<'a>(state: &'a State, changes: &'a [Change]) -> Vec<&'a Link> {
    let of = |change: &'a Change| match change {
        Change::Load(_) | Change::Persist { .. } => vec![],
        Change::Attach(link) => vec![link],
        Change::Rebuild { chain, .. } | Change::Reorder { chain } => {
            state.links.values().filter(|link| link.chain() == Some(*chain)).collect()
        }
        Change::Update { link, .. } | Change::Detach(link) => state.links.get(link).into_iter().collect(),
        Change::Unload(app) => state.links_of(*app).collect(),
    };
    changes.iter().flat_map(of).collect()
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
fn dead_generations<'a>(
    observed: &'a Observed,
    wanted: &'a BTreeSet<GenerationUid>,
) -> impl Iterator<Item = GenerationUid> + 'a {
    let live = observed.chains.values().flat_map(|chain| chain.live.generations());
    let kept: BTreeSet<GenerationUid> = live.map(|live| live.generation).collect();
    observed
        .generations
        .iter()
        .filter(|(generation, _)| !observed.spared.generations.contains(generation))
        .filter(move |(generation, pinned)| match pinned.runs {
            // On an observed chain: it stays only if the plan keeps it. Elsewhere and alive: some other chain's, leave it.
            Runs::Yes => kept.contains(generation) && !wanted.contains(generation),
            Runs::No => !wanted.contains(generation),
            Runs::Unseen => false,
        })
        .map(|(generation, _)| *generation)
}
