//! Chains: what each should run, and the steps from what its hook runs to that. One convergence serves all of them; how a kind of hook
//! runs its programs is a file beside this one, and a line in `turns` and `refuse`.
//!
//! ```text
//! xdp       all in one program of the interface, by libxdp or fused
//! sequence  a program each, which the kernel runs one after the other (tc), by tcx or clsact
//! ```
//! This module must never touch an interface, and never remove what it could not observe.
//!
//! Long because each way in which a chain refuses a change is here, beside the others.

mod clsact;
mod fused;
pub mod libxdp;
pub mod room;
mod sequence;
mod tcx;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::hook::{ChainId, ChainName, NamedChain, Point};
use crate::ident::{GenerationUid, LinkUid, Uids};
use crate::kernel::{
    ChainContent, ForeignProgram, Live, LiveDispatcher, LiveGeneration, Member, Observed, ObservedChain, Slot, Spot,
    Step, Unseen,
};
use crate::order;
use crate::plan::{LinkStatus, Plan, PlanError};
use crate::state::{Change, Link, State, WhenAbsent};

/// A chain, and all that decides what becomes of it.
#[derive(Clone, Copy)]
struct View<'a> {
    target: &'a State,
    observed: &'a Observed,
    id: &'a ChainId,
    chain: &'a ObservedChain,
}

/// What becomes of one generation of a chain.
enum Turn {
    /// It stays as it is. If it has a program of ours, we keep references of our own to it.
    Keep { live: LiveGeneration, ours: bool },
    /// Another one takes its place.
    Replace { live: LiveGeneration, with: Built, at: Spot },
    /// A new one comes.
    Add { with: Built, at: Spot },
    /// It goes; there it would come again.
    Remove { live: LiveGeneration, at: Spot },
}

/// A generation to be built, and the steps that must be taken before.
struct Built {
    generation: GenerationUid,
    before: Vec<Step>,
    content: ChainContent,
}

fn turns(view: View<'_>, uids: &mut dyn Uids) -> Vec<Turn> {
    match view.id.point {
        Point::Xdp => xdp::turns(view, uids),
        Point::TcIngress | Point::TcEgress => sequence::turns(view, uids),
    }
}

/// What becomes of a chain in a namespace without a name: nothing comes, and nobody knows the order. A program of a tcx chain that is not
/// wanted goes by the link that holds it.
fn nameless_turns(view: View<'_>) -> Vec<Turn> {
    let turn = |live: LiveGeneration| match is_wanted(view, live) || !view.observed.is_linked(live.generation) {
        true => Turn::Keep { live, ours: true },
        false => Turn::Remove { live, at: Spot::Last },
    };
    view.chain.live.generations().into_iter().map(turn).collect()
}

/// Whether a link is wanted that a generation of the chain runs.
fn is_wanted(View { target, observed, id, .. }: View<'_>, live: LiveGeneration) -> bool {
    let wanted = order::ordered(target, id);
    observed.members_of(live.generation).iter().any(|member| wanted.iter().any(|link| link.uid == member.link))
}

/// What becomes of a chain.
#[derive(Default)]
pub(crate) struct ChainPlan {
    /// Generations that it goes on running.
    pub(crate) kept: Vec<GenerationUid>,
    /// Before the swaps.
    pub(crate) build: Vec<Step>,
    /// What the hook runs changes here alone.
    pub(crate) swaps: Vec<Step>,
    /// After the commit point.
    pub(crate) after: Vec<Step>,
}

/// The steps of one chain.
pub(crate) fn converge(
    target: &State,
    observed: &Observed,
    id: &ChainId,
    chain: &ObservedChain,
    uids: &mut dyn Uids,
) -> ChainPlan {
    let view = View { target, observed, id, chain };
    let named = || NamedChain { id: *id, name: chain.name.clone() };
    let is_held = |live: &LiveGeneration| observed.generations.contains_key(&live.generation);
    let mut plan = ChainPlan::default();
    if observed.spared_member(id).is_some() {
        plan.kept.extend(chain.live.generations().iter().map(|live| live.generation));
        return plan;
    }
    let turns = if chain.is_nameless() { nameless_turns(view) } else { turns(view, uids) };
    for turn in turns {
        let (from, with, at) = match turn {
            Turn::Keep { live, ours } => {
                plan.kept.push(live.generation);
                plan.after.extend((ours && !is_held(&live)).then(|| Step::Adopt { chain: named(), live }));
                continue;
            }
            Turn::Replace { live, with, at } => (Some(live), Some(with), at),
            Turn::Add { with, at } => (None, Some(with), at),
            Turn::Remove { live, at } => (Some(live), None, at),
        };
        // What has no pins of ours is adopted before it is replaced, and its pins go with it.
        if let Some(live) = from.filter(|live| !is_held(live)) {
            plan.build.push(Step::Adopt { chain: named(), live });
            plan.after.push(Step::UnpinGeneration(live.generation));
        }
        let to = with.map(|Built { generation, before, content }| {
            plan.build.extend(before);
            let build = Step::BuildGeneration { generation, chain: named(), content };
            plan.build.extend([build, Step::PinGeneration(generation)]);
            generation
        });
        plan.swaps.push(Step::Swap { chain: named(), from, to, mode: xdp::mode(view), at });
    }
    plan
}

/// References to take to dispatchers that a peer built around programs of ours, and to generations of ours that lost their pins: nothing
/// that runs is changed by it.
pub fn adoptions(observed: &Observed) -> Plan {
    let steps = observed.chains.iter().flat_map(|(id, seen)| {
        let carries_ours = match &seen.live {
            Live::Dispatcher(LiveDispatcher { slots, .. }) => slots.iter().any(|slot| slot.ours().is_some()),
            Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_) => true,
        };
        let new = |live: &LiveGeneration| carries_ours && !observed.generations.contains_key(&live.generation);
        let chain = NamedChain { id: *id, name: seen.name.clone() };
        let live = seen.live.generations().into_iter().filter(new);
        live.map(move |live| Step::Adopt { chain: chain.clone(), live }).collect::<Vec<_>>()
    });
    Plan { steps: steps.collect(), committed: 0 }
}

/// How each of these links stands in what was observed, if it is one of a shared hook.
pub fn status_of(state: &State, observed: &Observed, asked: impl Fn(&Link) -> bool) -> BTreeMap<LinkUid, LinkStatus> {
    let links = || state.links.values().filter(|link| link.placement.asked().is_some() && asked(link));
    let without_chain = links().filter_map(|link| match link.chain() {
        Some(chain) if observed.chains.contains_key(&chain) => None,
        Some(chain) if !observed.missing.contains(&chain) => {
            Some((link.uid, LinkStatus::Drifted { cause: not_seen(observed.unseen.get(&chain)) }))
        }
        Some(_) | None => Some((link.uid, LinkStatus::Waiting)),
    });
    let mut statuses: BTreeMap<_, _> = without_chain.collect();
    let chains: BTreeSet<ChainId> = links().filter_map(Link::chain).collect();
    for (chain, seen) in observed.chains.iter().filter(|(chain, _)| chains.contains(chain)) {
        let wanted = wanted(state, observed, chain);
        let runs = observed.members(chain);
        let contains = |members: &[Member], member: &Member| members.iter().any(|other| other.runs_as(member));
        let both: Vec<&Member> = wanted.iter().filter(|member| contains(&runs, member)).collect();
        let in_order = runs.iter().zip(&both).all(|(runs, wanted)| runs.runs_as(wanted));
        // Where nobody can look at the order, nobody of ours changed it.
        let in_order = runs.len() == both.len() && (in_order || seen.is_nameless());
        let drifted = |member: &Member, cause: &str| {
            let cause = observed.barred.get(&member.link).map_or(cause, String::as_str).to_owned();
            LinkStatus::Drifted { cause }
        };
        let newcomer = |member: &Member| {
            let asked = state.links.get(&member.link)?.placement.asked()?;
            let other = observed.chain_of(asked).filter(|other| other != chain)?;
            Some(LinkStatus::Drifted { cause: elsewhere(asked, other, &seen.name, chain) })
        };
        let stands = |member: &Member| match &seen.live {
            Live::Sequence(_) if seen.is_nameless() && !contains(&runs, member) => drifted(member, WENT_WITH_MOVE),
            Live::Ours(_) | Live::Dispatcher(_) | Live::Sequence(_) if !in_order => {
                drifted(member, "the chain's members or their order differ")
            }
            Live::Ours(_) | Live::Dispatcher(_) | Live::Sequence(_) if contains(&runs, member) => {
                newcomer(member).unwrap_or(LinkStatus::Attached)
            }
            Live::Ours(_) | Live::Dispatcher(_) | Live::Sequence(_) => {
                drifted(member, "the chain on the interface does not contain this link")
            }
            Live::Empty => drifted(member, "the interface runs no XDP program"),
            Live::Foreign(ForeignProgram { program, name, .. }) => {
                LinkStatus::Drifted { cause: format!("the interface runs XDP program {program} (`{name}`)") }
            }
        };
        statuses.extend(wanted.iter().map(|member| (member.link, stands(member))));
    }
    statuses
}

/// Why nobody can look at the interface of a link.
fn not_seen(why: Option<&Unseen>) -> String {
    let why = match why {
        Some(Unseen::Nameless) => {
            "its network namespace has no name now, and its tc filters, which nobody can look at there, run on as long as it \
             lives; give it a name: `ip netns attach NAME PID`"
        }
        Some(Unseen::Unreadable(name)) => {
            return format!(
                "its interface cannot be looked at: the file /run/netns/{name} leads to no network namespace; remove it"
            );
        }
        None => "nobody looked at its interface yet",
    };
    why.to_owned()
}

/// Of a link of a tc hook in a namespace without a name.
const WENT_WITH_MOVE: &str = "its interface was moved to a network namespace without a name, and its tc filter went with the \
     qdisc; give the namespace a name, and it is attached there: `ip netns attach NAME PID`";

/// The name that a link was asked for is that of another interface by now.
fn elsewhere(asked: &ChainName, other: ChainId, now: &ChainName, chain: &ChainId) -> String {
    let (index, other) = (chain.interface.index, other.interface.index);
    format!(
        "it protects interface {index}, which is `{now}` now, and not interface {other}, which took the name `{asked}`: \
         to protect that one, attach the program to it"
    )
}

/// The members that a chain should have, in the order of what runs it: a dispatcher's is by what peers see of ours.
fn wanted(state: &State, observed: &Observed, chain: &ChainId) -> Vec<Member> {
    match observed.chains.get(chain).map(|seen| &seen.live) {
        Some(Live::Dispatcher(_)) => {
            let slots = libxdp::slots(state, observed, chain, &mut || Uuid::nil());
            Slot::members(&slots).cloned().collect()
        }
        Some(Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_)) | None => order::members(state, chain),
    }
}

/// Whether the interface of a new link is absent, and the request does not wait for it.
pub(crate) fn refuse_absent(observed: &Observed, change: &Change) -> Result<(), PlanError> {
    let Change::Attach(Link { on: None, when_absent: WhenAbsent::Fail, placement, .. }) = change else { return Ok(()) };
    let Some(asked) = placement.asked() else { return Ok(()) };
    Err(match observed.absent_netns(asked) {
        Some(netns) => PlanError::NoNetns(netns.clone()),
        None => PlanError::NoInterface(asked.clone()),
    })
}

/// Whether a chain cannot be had for a request that adds to it. Requests that only remove are not refused: they end bpfd's interest
/// in the hook, whatever it runs. A chain that runs what nobody knows since the state was lost is not changed at all.
pub(crate) fn refuse(
    (state, target): (&State, &State),
    observed: &Observed,
    id: &ChainId,
    changes: &[Change],
) -> Result<(), PlanError> {
    let Some(chain) = observed.chains.get(id) else { return refuse_unseen(state, observed, id) };
    if let Some(Member { link, function, .. }) = observed.spared_member(id) {
        return Err(PlanError::Unexplained { chain: chain.name.clone(), function, link });
    }
    let removes = changes.iter().all(Change::removes);
    let view = View { target, observed, id, chain };
    if chain.is_nameless() {
        // What a link of ours holds can be taken off from here.
        let stuck = |live: &LiveGeneration| !removes || !is_wanted(view, *live) && !observed.is_linked(live.generation);
        let stuck: Vec<LiveGeneration> = chain.live.generations().into_iter().filter(stuck).collect();
        if !removes || !stuck.is_empty() {
            let members = stuck.iter().flat_map(|live| observed.members_of(live.generation));
            let runs = members.map(|member| name_of(state, member.link).unwrap_or(member.function)).collect();
            return Err(PlanError::Nameless { chain: chain.name.clone(), runs });
        }
    }
    if removes {
        return Ok(());
    }
    match id.point {
        Point::Xdp => xdp::refuse(view, changes),
        Point::TcIngress | Point::TcEgress => sequence::refuse(view),
    }
}

/// A chain that was looked for and is neither there nor gone may run on: what is in it is not forgotten.
fn refuse_unseen(state: &State, observed: &Observed, id: &ChainId) -> Result<(), PlanError> {
    let links = order::ordered(state, id);
    match links.first().and_then(|link| link.on.as_ref()) {
        Some(seat) if !observed.missing.contains(id) => {
            let runs = links.iter().filter_map(|link| name_of(state, link.uid)).collect();
            Err(PlanError::Unseen { called: seat.called.clone(), runs, why: observed.unseen.get(id).cloned() })
        }
        Some(_) | None => Ok(()),
    }
}

/// How people name the program of a link.
fn name_of(state: &State, link: LinkUid) -> Option<String> {
    let link = state.links.get(&link)?;
    let app = state.apps.get(&link.app).map_or_else(|| link.app.to_string(), |app| app.name.to_string());
    Some(format!("{app}/{}", link.function))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::hook::{InterfaceId, ProceedOn};
    use crate::ident::{AppUid, KernelId};
    use crate::kernel::{ChainMode, EntryProgram, PinnedGeneration, Runs, SequenceEntry};
    use crate::names::{Nameless, Netns, Priority};
    use crate::state::Link;

    /// A link of `v0:tc-egress` that is in the chain.
    fn link(uid: u128) -> Link {
        let row = format!(
            r#"{{"uid":"{}","handle":{uid},"app":"{}","function":"f","placement":{{"chain":{{"key":{{"netns":"host",
            "interface":"v0","point":"tc-egress"}},"priority":50,"proceed_on":65536,"mode":"auto"}}}},
            "on":{{"chain":{{"interface":{{"netns_cookie":1,"index":2}},"point":"tc-egress"}},
            "called":{{"netns":"netnsid/?","interface":"v0","point":"tc-egress"}}}},
            "owner":{{"uid":0,"user":null}},"origin":"request","lifetime":"until-detached","when_absent":"wait","created":0,
            "generation":1,"request":null}}"#,
            Uuid::from_u128(uid),
            Uuid::from_u128(90),
        );
        serde_json::from_str(&row).unwrap()
    }

    #[test]
    fn where_nobody_can_look_what_is_wanted_stays_in_whatever_order_and_the_rest_goes_by_its_link() {
        let id = ChainId { interface: InterfaceId { netns_cookie: 1, index: 2 }, point: Point::TcEgress };
        let generation = |uid: u128| GenerationUid(Uuid::from_u128(uid));
        let name = ChainName {
            netns: Netns::Nameless(Nameless(None)),
            interface: "v0".parse().unwrap(),
            point: Point::TcEgress,
        };
        // In the order of their numbers, which is not that of the links.
        let entry = |uid| SequenceEntry {
            preference: None,
            program: EntryProgram::Ours(LiveGeneration { program: KernelId(7), generation: generation(uid) }),
        };
        let chain = ObservedChain {
            name,
            live: Live::Sequence(vec![entry(13), entry(11), entry(12)]),
            driven: None,
            mode: ChainMode::Tcx,
        };
        let member = |uid: u128| Member {
            link: LinkUid(Uuid::from_u128(uid)),
            app: AppUid(Uuid::from_u128(90)),
            function: "f".to_owned(),
            priority: Priority::DEFAULT,
            effective: Priority::DEFAULT,
            proceed_on: ProceedOn::NEXT,
        };
        let pinned = |uid| {
            let (members, runs) = (Some(vec![member(uid)]), Runs::Yes);
            (
                generation(uid),
                PinnedGeneration { program: KernelId(7), members, runs, is_moved: false, is_linked: true },
            )
        };
        let observed = Observed {
            generations: [11, 12, 13].map(pinned).into(),
            chains: [(id, chain.clone())].into(),
            ..Observed::default()
        };
        let state = |uids: &[u128]| State {
            links: uids.iter().map(|uid| (LinkUid(Uuid::from_u128(*uid)), link(*uid))).collect(),
            ..State::default()
        };
        let plan = |uids: &[u128]| converge(&state(uids), &observed, &id, &chain, &mut || Uuid::nil());
        assert_eq!(plan(&[11, 12, 13]).swaps, []);
        assert_eq!(plan(&[11, 12, 13, 14]).swaps, [], "nothing can come");
        let gone = plan(&[12, 13]);
        assert_eq!((gone.kept.len(), gone.build.len()), (2, 0));
        assert!(
            matches!(gone.swaps.as_slice(), [Step::Swap { from: Some(live), to: None, .. }] if live.generation == generation(11)),
            "{:?}",
            gone.swaps
        );

        // A filter, which no link holds, stays, and who asks is told.
        let mut filters = observed.clone();
        filters.generations.get_mut(&generation(11)).unwrap().is_linked = false;
        assert_eq!(converge(&state(&[12, 13]), &filters, &id, &chain, &mut || Uuid::nil()).swaps, []);
        let refused = |observed: &Observed, target: &[u128]| {
            let gone = [Change::Detach(LinkUid(Uuid::from_u128(11)))];
            refuse((&state(&[11, 12, 13]), &state(target)), observed, &id, &gone)
        };
        let runs = vec![format!("{}/f", Uuid::from_u128(90).simple())];
        assert_eq!(
            refused(&filters, &[12, 13]),
            Err(PlanError::Nameless { chain: chain.name.clone(), runs }),
            "it alone is named"
        );
        assert_eq!(refused(&observed, &[12, 13]), Ok(()));
        assert_eq!(refused(&filters, &[11, 13]), Ok(()), "another one is held by a link");
    }
}
