//! The policy's `[[order]]`s on the chains of a state: effective priorities, which decide the order of a chain and are what peers see.
//! What was asked for stays beside them, so that they can be made anew whenever the policy or a chain changes.
//!
//! Pure: the same policy and rows give the same priorities. This file must never look at what others have in a chain: their programs keep
//! their priorities, whatever ours become.

use std::collections::{BTreeMap, BTreeSet};

use bpfd_policy::order::{Edge, LinkFacts, Order, Placed, Placement, place};

use crate::facts::{chain_facts, map_owner};
use crate::hook::{ChainId, Placement as LinkPlacement};
use crate::ident::LinkUid;
use crate::names::Priority;
use crate::plan::PlanError;
use crate::report::Warning;
use crate::state::{Change, Link, State};

/// The state with each link of these chains at the priority where the orders have it. Links that wait for an interface have the one that
/// was asked for.
#[must_use]
pub fn ordered(orders: &[Order], state: &State, of: impl Fn(&ChainId) -> bool) -> State {
    let mut next = state.clone();
    let mut put = |link: &Link, placed: Placed| {
        let Some(now) = link.placement.place() else { return };
        // A number that is none is not made here.
        let effective = Priority::try_from(placed.effective).unwrap_or(now.priority);
        if (now.effective, &now.order) != (effective, &placed.order)
            && let Some(Link { placement: LinkPlacement::Shared(now), .. }) = next.links.get_mut(&link.uid)
        {
            (now.effective, now.order) = (effective, placed.order);
        }
    };
    state.links.values().filter(|link| link.chain().is_none()).for_each(|link| put(link, as_asked(link)));
    let chains: BTreeSet<ChainId> = state.links.values().filter_map(Link::chain).filter(of).collect();
    for chain in chains {
        let Chain { links, placement } = Chain::of(orders, state, &chain);
        links.into_iter().zip(placement.links).for_each(|(link, placed)| put(link, placed));
    }
    next
}

/// The chains whose links the orders have at other priorities than they are, or for another reason.
#[must_use]
pub fn disordered(orders: &[Order], state: &State) -> BTreeSet<ChainId> {
    let next = ordered(orders, state, |_| true);
    let differs = |(uid, link): (&LinkUid, &Link)| {
        let (now, next) = (link.placement.place()?, next.links.get(uid)?.placement.place()?);
        link.chain().filter(|_| (now.effective, &now.order) != (next.effective, &next.order))
    };
    state.links.iter().filter_map(differs).collect()
}

/// What the orders of these chains say that cannot hold, as an earlier one says the opposite.
#[must_use]
pub fn unmet(orders: &[Order], state: &State, chains: impl IntoIterator<Item = ChainId>) -> Vec<Warning> {
    let of = |chain: ChainId| {
        let Chain { links, placement: Placement { unmet, .. } } = Chain::of(orders, state, &chain);
        let name = |at: usize| links.get(at).map(|link| state.link_name(link)).unwrap_or_default();
        // One of each order is enough to find the others.
        let mut told = BTreeMap::new();
        for Edge { earlier, later, order, strict: _ } in unmet {
            told.entry(order).or_insert_with(|| (name(earlier), name(later)));
        }
        told.into_iter()
            .map(|(order, (earlier, later))| Warning::Unordered { order: order.to_string(), earlier, later })
            .collect::<Vec<_>>()
    };
    chains.into_iter().flat_map(of).collect()
}

/// Whether a link that changes attach or move asks for a priority that contradicts a strict order. Before the changes the state is
/// `before`, after them `after`.
pub(crate) fn refuse(
    orders: &[Order],
    (before, after): (&State, &State),
    chain: &ChainId,
    changes: &[Change],
) -> Result<(), PlanError> {
    let asks = |change: &Change| match change {
        Change::Attach(link) => Some(link.uid),
        Change::Update { link, priority: Some(_), proceed_on: _ } => Some(*link),
        Change::Update { priority: None, .. }
        | Change::Load(_)
        | Change::Persist { .. }
        | Change::Rebuild { .. }
        | Change::Reorder { .. }
        | Change::Detach(_)
        | Change::Unload(_) => None,
    };
    let asking: BTreeSet<LinkUid> = changes.iter().filter_map(asks).collect();
    if asking.is_empty() {
        return Ok(());
    }
    let Chain { links, placement: Placement { kept, unmet, links: _ } } = Chain::of(orders, after, chain);
    // What asks stands where it asks to be, and the others where they are.
    let now = |link: &Link| {
        let row = if asking.contains(&link.uid) { Some(link) } else { before.links.get(&link.uid) };
        let place = row.unwrap_or(link).placement.place();
        place.map(|place| if asking.contains(&link.uid) { place.priority } else { place.effective })
    };
    let touches = |link: &Link| asking.contains(&link.uid);
    for (Edge { earlier, later, order, strict: _ }, holds) in kept
        .iter()
        .map(|edge| (edge, true))
        .chain(unmet.iter().map(|edge| (edge, false)))
        .filter(|(edge, _)| edge.strict)
    {
        let (Some(earlier), Some(later)) = (links.get(*earlier), links.get(*later)) else { continue };
        let in_order = (now(earlier), &earlier.function) < (now(later), &later.function);
        if (touches(earlier) || touches(later)) && !(holds && in_order) {
            let (Some(first), Some(then)) = (now(earlier), now(later)) else { continue };
            return Err(PlanError::Order {
                order: order.to_string(),
                earlier: (after.link_name(earlier), first),
                later: (after.link_name(later), then),
            });
        }
    }
    Ok(())
}

fn as_asked(link: &Link) -> Placed {
    let priority = link.placement.place().map(|place| u32::from(place.priority));
    Placed { effective: priority.unwrap_or_default(), order: None }
}

fn link_facts(state: &State, link: &Link) -> LinkFacts {
    let app = state.apps.get(&link.app);
    LinkFacts {
        app: app.map(|app| app.name.to_string()).unwrap_or_default(),
        labels: app.map(|app| map_owner(app).labels).unwrap_or_default(),
        signers: app.map(|app| app.source.signers().to_vec()).unwrap_or_default(),
        function: link.function.clone(),
        asked: as_asked(link).effective,
        number: link.handle.0.into(),
    }
}

/// A chain of a state, as the orders that are about it place its links.
struct Chain<'a> {
    links: Vec<&'a Link>,
    placement: Placement,
}

impl<'a> Chain<'a> {
    fn of(orders: &[Order], state: &'a State, id: &ChainId) -> Self {
        let links: Vec<&Link> = state.links.values().filter(|link| link.chain() == Some(*id)).collect();
        // Whatever it is or was called: a rename is no way round an order.
        let names = links
            .iter()
            .flat_map(|link| link.placement.asked().into_iter().chain(link.on.as_ref().map(|on| &on.called)));
        let facts = chain_facts(id.point, names);
        let about: Vec<&Order> = orders.iter().filter(|order| order.chain.are(&facts)).collect();
        let placement = match about.is_empty() {
            true => Placement { links: links.iter().map(|link| as_asked(link)).collect(), ..Placement::default() },
            false => place(&about, &links.iter().map(|link| link_facts(state, link)).collect::<Vec<_>>()),
        };
        Self { links, placement }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bpfd_policy::Policy;
    use bpfd_policy::read::PolicyText;

    use super::*;
    use crate::hook::{InterfaceId, Point};
    use crate::seat::Seat;
    use crate::testing;

    fn orders(says: &str) -> Vec<Order> {
        let text = format!("version = 1\n[[order]]\nid = \"edge\"\n{says}\n");
        let read = Policy::read(&[PolicyText { file: "p", text: &text }], |_: &Path| unreachable!("no keys"));
        read.unwrap().orders
    }

    fn chain(index: u32) -> ChainId {
        ChainId { interface: InterfaceId { netns_cookie: 1, index }, point: Point::Xdp }
    }

    /// `app1` at priority 50 and `app2` at 60, asked for on eth0, which is called `called` now.
    fn state(called: &str) -> State {
        let mut state = State::default();
        for (number, priority) in [(1, 50), (2, 60)] {
            let app = testing::app(number);
            let mut link = testing::link(number + 10, number).moved(Some(Priority::try_from(priority).unwrap()), None);
            let asked = link.placement.asked().unwrap().clone();
            let called = crate::hook::ChainName { interface: called.parse().unwrap(), ..asked };
            link.on = Some(Seat { chain: chain(2), called });
            state.apps.insert(app.uid, app);
            state.links.insert(link.uid, link);
        }
        // As rows are: what is effective is what was asked for.
        ordered(&[], &state, |_| true)
    }

    fn effective(state: &State) -> Vec<(u32, Option<String>)> {
        let places = state.links.values().filter_map(|link| link.placement.place());
        places.map(|place| (place.effective.into(), place.order.as_ref().map(ToString::to_string))).collect()
    }

    fn edge(effective: u32) -> (u32, Option<String>) {
        (effective, Some("edge".to_owned()))
    }

    #[test]
    fn links_come_to_where_an_order_has_them_and_back_when_it_goes() {
        let first = orders("chain = { interfaces = [\"eth0\"] }\nfirst = [\"app2\"]");
        let before = state("eth0");
        let after = ordered(&first, &before, |_| true);
        assert_eq!(effective(&after), [(50, None), edge(49)]);
        assert_eq!(ordered(&first, &after, |_| true), after, "once is enough");
        assert_eq!(disordered(&first, &before), [chain(2)].into());
        assert_eq!(disordered(&first, &after), BTreeSet::new());
        assert_eq!(ordered(&[], &after, |_| true), before);
        assert_eq!(ordered(&first, &before, |chain| chain.interface.index == 3), before, "another chain");
        // What waits for its interface has what was asked for.
        let mut waiting = after.clone();
        for link in after.links.keys() {
            waiting.links.get_mut(link).unwrap().on = None;
        }
        assert_eq!(effective(&ordered(&first, &waiting, |_| true)), [(50, None), (60, None)]);
    }

    #[test]
    fn an_order_is_about_an_interface_by_its_name_of_now_and_by_the_one_that_was_asked_for() {
        for (name, about) in [("eth0", true), ("wan0", true), ("wan1", false)] {
            let first = orders(&format!("chain = {{ interfaces = [\"{name}\"] }}\nfirst = [\"app2\"]"));
            assert_eq!(!disordered(&first, &state("wan0")).is_empty(), about, "{name}");
        }
    }

    #[test]
    fn a_strict_order_refuses_requests_alone_and_by_where_the_others_are() {
        let chain_of = "chain = { interfaces = [\"eth0\"] }";
        let strict = orders(&format!("{chain_of}\nfirst = [\"app2\"]\nstrict = true"));
        let before = ordered(&strict, &state("eth0"), |_| true);
        let (one, two) = (testing::link(11, 1).uid, testing::link(12, 2).uid);
        let update = |link: LinkUid, priority: u32| Change::Update {
            link,
            priority: Some(Priority::try_from(priority).unwrap()),
            proceed_on: None,
        };
        let refused = |orders: &[Order], change: Change| {
            let after = ordered(orders, &before.after(std::slice::from_ref(&change)).unwrap(), |_| true);
            refuse(orders, (&before, &after), &chain(2), &[change]).map_err(|error| error.to_string())
        };
        // Both functions have one name: equal priorities are not enough.
        let why = |one: u32, two: u32| {
            Err(format!(
                "order `edge` has `app2/count@eth0:xdp` run before `app1/count@eth0:xdp`, and at priorities {two} and {one} it would not"
            ))
        };
        assert_eq!(refused(&strict, update(two, 50)), why(50, 50));
        assert_eq!(refused(&strict, update(two, 48)), Ok(()));
        // app2 is at 49 now, whatever it asked for.
        assert_eq!(refused(&strict, update(one, 49)), why(49, 49));
        assert_eq!(refused(&strict, update(one, 55)), Ok(()));
        assert_eq!(refused(&strict, Change::Reorder { chain: chain(2) }), Ok(()));
        assert_eq!(refused(&strict, Change::Update { link: two, priority: None, proceed_on: None }), Ok(()));
        let lenient = orders(&format!("{chain_of}\nfirst = [\"app2\"]"));
        assert_eq!(refused(&lenient, update(two, 50)), Ok(()));
    }
}
