//! From the priorities that were asked for to those that orders ask for.
//!
//! What runs first or before something comes to a lower priority, what runs last to a higher one; everything else keeps what was asked
//! for, unless there is no lower priority than 0 or no higher one than 1000. Equal priorities are told apart by the function's name, as
//! libxdp does, so that nothing moves that need not. Must never depend on the order in which links are given.

use std::collections::BTreeSet;

use super::{Before, LinkFacts, Member, Order};
use crate::caller::PRIORITY_MAX;
use crate::name::Name;

/// Where a link comes to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// The priority that orders it.
    pub effective: u32,
    /// The order that made it another one than was asked for.
    pub order: Option<Name>,
}

/// One link runs before another, since an order says so. Both are places in the list of links.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edge {
    /// This one runs earlier.
    pub earlier: usize,
    /// Than this one.
    pub later: usize,
    /// Who says so.
    pub order: Name,
    /// A request that says otherwise is refused.
    pub strict: bool,
}

/// The links of a chain, placed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Placement {
    /// In the order in which they were given.
    pub links: Vec<Placed>,
    /// What holds between them.
    pub kept: Vec<Edge>,
    /// What cannot hold, since what comes before it in the files says the opposite.
    pub unmet: Vec<Edge>,
}

/// Which of the two moves.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Moves {
    Earlier,
    Later,
}

struct Constraint<'a> {
    earlier: usize,
    later: usize,
    moves: Moves,
    order: &'a Order,
    /// How much lower the earlier one must be.
    gap: i64,
}

impl Constraint<'_> {
    fn edge(&self, at: &impl Fn(usize) -> usize) -> Edge {
        let Self { earlier, later, order, .. } = self;
        Edge { earlier: at(*earlier), later: at(*later), order: order.id.clone(), strict: order.strict }
    }
}

/// The links of a chain, as these orders of it want them.
#[must_use]
pub fn place(orders: &[&Order], links: &[LinkFacts]) -> Placement {
    let mut given: Vec<usize> = (0..links.len()).collect();
    given.sort_by_key(|at| links.get(*at).map(|link| (link.asked, &link.function, link.number)));
    let sorted: Vec<&LinkFacts> = given.iter().filter_map(|at| links.get(*at)).collect();
    let at = |place: usize| given.get(place).copied().unwrap_or_default();

    let mut graph = Graph::new(sorted.len());
    let (mut kept, mut unmet): (Vec<Constraint<'_>>, Vec<Edge>) = (vec![], vec![]);
    for constraint in orders.iter().flat_map(|order| hard(order, &sorted)) {
        match graph.add(constraint.earlier, constraint.later) {
            true => kept.push(constraint),
            false => unmet.push(constraint.edge(&at)),
        }
    }
    let hard = kept.len();
    let soft = orders.iter().flat_map(|order| soft(order, &sorted));
    kept.extend(soft.filter(|constraint| graph.add(constraint.earlier, constraint.later)));

    let asked: Vec<i64> = sorted.iter().map(|link| i64::from(link.asked)).collect();
    let effective = solve(&asked, &kept, &graph.topological());
    let value = |place: usize| effective.get(place).copied().unwrap_or_default();
    let holds = |constraint: &Constraint<'_>| value(constraint.earlier) + constraint.gap <= value(constraint.later);
    let cause = |place: usize| {
        let moved = (value(place) - asked.get(place).copied().unwrap_or_default()).signum();
        let about = || kept.iter().filter(move |it| it.earlier == place || it.later == place);
        // That which keeps it from where it asked to be, else any that is about it.
        let binds = |it: &&Constraint<'_>| {
            let end = if moved < 0 { it.earlier } else { it.later };
            end == place && value(it.earlier) + it.gap == value(it.later)
        };
        (moved != 0).then(|| about().find(binds).or_else(|| about().next())).flatten().map(|it| it.order.id.clone())
    };
    let mut placed = vec![Placed { effective: 0, order: None }; links.len()];
    for place in 0..sorted.len() {
        if let Some(placed) = placed.get_mut(at(place)) {
            *placed = Placed { effective: u32::try_from(value(place)).unwrap_or_default(), order: cause(place) };
        }
    }
    // More links than there are priorities.
    let (kept, beyond): (Vec<_>, Vec<_>) = kept.iter().take(hard).partition(|constraint| holds(constraint));
    unmet.extend(beyond.into_iter().map(|constraint| constraint.edge(&at)));
    Placement { links: placed, kept: kept.into_iter().map(|constraint| constraint.edge(&at)).collect(), unmet }
}

/// What an order says of pairs of links.
fn hard<'a>(order: &'a Order, links: &[&LinkFacts]) -> Vec<Constraint<'a>> {
    let gap = |earlier: &LinkFacts, later: &LinkFacts| i64::from(earlier.function >= later.function);
    let mut all = vec![];
    let mut say = |moves, says: &dyn Fn(&LinkFacts, &LinkFacts) -> bool| {
        for (earlier, one) in links.iter().enumerate() {
            for (later, other) in
                links.iter().enumerate().filter(|(later, other)| *later != earlier && says(one, other))
            {
                all.push(Constraint { earlier, later, moves, order, gap: gap(one, other) });
            }
        }
    };
    let first = |link: &LinkFacts| rank(&order.first, link);
    say(Moves::Earlier, &|one, other| match (first(one), first(other)) {
        (Some(one), Some(other)) => one < other,
        (Some(_), None) => true,
        (None, _) => false,
    });
    for Before { app, than } in &order.before {
        say(Moves::Earlier, &|one, other| app.is(one) && !than.is(one) && than.is(other));
    }
    let last = |link: &LinkFacts| rank(&order.last, link);
    say(Moves::Later, &|one, other| match (last(one), last(other)) {
        (Some(one), Some(other)) => one < other,
        (None, Some(_)) => true,
        (_, None) => false,
    });
    all
}

/// Links that an order moves together keep the order that they have among each other, where nothing else is said of them.
fn soft<'a>(order: &'a Order, links: &[&LinkFacts]) -> Vec<Constraint<'a>> {
    let mut all = vec![];
    let mut keep = |moves, together: Vec<usize>| {
        for pair in together.windows(2) {
            let [earlier, later] = *pair else { continue };
            let name = |at: usize| links.get(at).map(|link| &link.function);
            // Equal ones stay as they are.
            let gap = i64::from(name(earlier) > name(later));
            all.push(Constraint { earlier, later, moves, order, gap });
        }
    };
    let those = |is: &dyn Fn(&LinkFacts) -> bool| {
        (0..links.len()).filter(|at| links.get(*at).is_some_and(|link| is(link))).collect::<Vec<usize>>()
    };
    for (at, _) in order.first.iter().enumerate() {
        keep(Moves::Earlier, those(&|link| rank(&order.first, link) == Some(at)));
    }
    for Before { app, than } in &order.before {
        keep(Moves::Earlier, those(&|link| app.is(link) && !than.is(link)));
    }
    for (at, _) in order.last.iter().enumerate() {
        keep(Moves::Later, those(&|link| rank(&order.last, link) == Some(at)));
    }
    all
}

/// The first member of a list that a link is.
fn rank(members: &[Member], link: &LinkFacts) -> Option<usize> {
    members.iter().position(|member| member.is(link))
}

/// Priorities with which all constraints hold, as near to what was asked for as those that move allow.
fn solve(asked: &[i64], constraints: &[Constraint<'_>], order: &[usize]) -> Vec<i64> {
    let top = i64::from(PRIORITY_MAX);
    let mut now = asked.to_vec();
    let value = |now: &[i64], at: usize| now.get(at).copied().unwrap_or_default();
    // By node, so that each pass takes them in their order.
    let mut into: Vec<Vec<&Constraint<'_>>> = vec![vec![]; asked.len()];
    let mut out_of: Vec<Vec<&Constraint<'_>>> = vec![vec![]; asked.len()];
    for constraint in constraints {
        into.get_mut(constraint.later).into_iter().for_each(|list| list.push(constraint));
        out_of.get_mut(constraint.earlier).into_iter().for_each(|list| list.push(constraint));
    }
    let raise = |now: &mut Vec<i64>, these: &dyn Fn(&Constraint<'_>) -> bool| {
        for at in order {
            let least = into.get(*at).into_iter().flatten().filter(|it| these(it));
            let least = least.map(|it| value(now, it.earlier) + it.gap).max().unwrap_or_default();
            let raised = value(now, *at).max(least).min(top);
            now.get_mut(*at).into_iter().for_each(|now| *now = raised);
        }
    };
    let lower = |now: &mut Vec<i64>, these: &dyn Fn(&Constraint<'_>) -> bool| {
        for at in order.iter().rev() {
            let most = out_of.get(*at).into_iter().flatten().filter(|it| these(it));
            let most = most.map(|it| value(now, it.later) - it.gap).min();
            let lowered = most.map_or(value(now, *at), |most| most.min(value(now, *at)));
            now.get_mut(*at).into_iter().for_each(|now| *now = lowered);
        }
    };
    // First what runs early, beside that which stays; then what runs late. So neither is moved because of where the other was before.
    let late: BTreeSet<usize> = constraints.iter().filter(|it| it.moves == Moves::Later).map(|it| it.later).collect();
    lower(&mut now, &|it| it.moves == Moves::Earlier && !late.contains(&it.later));
    raise(&mut now, &|it| it.moves == Moves::Later);
    lower(&mut now, &|_| true);
    raise(&mut now, &|_| true);
    now
}

/// Which link is before which, each known as soon as it is said.
pub(super) struct Graph {
    /// All that are somewhere after each.
    after: Vec<BTreeSet<usize>>,
}

impl Graph {
    pub(super) fn new(nodes: usize) -> Self {
        Self { after: vec![BTreeSet::new(); nodes] }
    }

    pub(super) fn is_before(&self, earlier: usize, later: usize) -> bool {
        self.after.get(earlier).is_some_and(|after| after.contains(&later))
    }

    /// One is before another; `false` if it is after it already.
    pub(super) fn add(&mut self, earlier: usize, later: usize) -> bool {
        if earlier == later || self.is_before(later, earlier) {
            return false;
        }
        if !self.is_before(earlier, later) {
            let mut new = self.after.get(later).cloned().unwrap_or_default();
            new.insert(later);
            for (node, after) in self.after.iter_mut().enumerate() {
                if node == earlier || after.contains(&earlier) {
                    after.extend(&new);
                }
            }
        }
        true
    }

    /// Every node after all that are before it.
    fn topological(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.after.len()).collect();
        // Whatever is after a node has fewer after it.
        nodes.sort_by_key(|node| std::cmp::Reverse(self.after.get(*node).map_or(0, BTreeSet::len)));
        nodes
    }
}
