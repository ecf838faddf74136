//! Orders that contradict each other. They are looked for on chains that surely exist: one for each two orders that can be about the same
//! chain. What only the labels or signers of an app make a contradiction shows when it is there: see [`super::place()`].
//!
//! Must never refuse orders that can hold.

use std::collections::BTreeMap;
use std::fmt;

use super::place::Graph;
use super::{Before, ChainFacts, Chains, KINDS, Member, Order};
use crate::glob::Glob;
use crate::rule::{Direction, Interfaces};

/// A place in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Its name, as the caller gave it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column } = self;
        write!(f, "{file}:{line}:{column}")
    }
}

/// Where the parts of an order stand, in the order in which it has them.
#[derive(Clone, Debug)]
pub struct Said<'a> {
    /// The order.
    pub order: &'a Order,
    /// Of each in `first`.
    pub first: Vec<Place>,
    /// Of each in `before`.
    pub before: Vec<Place>,
    /// Of each in `last`.
    pub last: Vec<Place>,
}

/// What one part of an order says, where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// What runs earlier.
    pub earlier: String,
    /// What runs later.
    pub later: String,
    /// Where that is said.
    pub place: Place,
}

/// Statements of which each is well, and not all of them together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contradiction {
    /// A chain on which all of them should hold.
    pub chain: String,
    /// The one that is too much.
    pub last: Statement,
    /// The way back.
    pub others: Vec<Statement>,
}

/// The first contradiction, if there is one.
#[must_use]
pub fn contradiction(all: &[Said<'_>]) -> Option<Contradiction> {
    let mut looked_at: Vec<Vec<usize>> = vec![];
    for (at, one) in all.iter().enumerate() {
        for other in all.iter().skip(at) {
            for chain in chains_of(&one.order.chain, &other.order.chain) {
                let about: Vec<usize> =
                    (0..all.len()).filter(|at| all.get(*at).is_some_and(|it| it.order.chain.are(&chain))).collect();
                if looked_at.contains(&about) {
                    continue;
                }
                let said: Vec<&Said<'_>> = about.iter().filter_map(|at| all.get(*at)).collect();
                if let Some(found) = on(&chain, &said) {
                    return Some(found);
                }
                looked_at.push(about);
            }
        }
    }
    None
}

/// A chain for each hook that both are about.
fn chains_of(one: &Chains, other: &Chains) -> Vec<ChainFacts> {
    let Interfaces { names, netns, directions: _ } = &one.interfaces;
    let common = |globs: &Option<Vec<Glob>>, others: &Option<Vec<Glob>>| {
        let any = || vec![Glob::any()];
        let (globs, others) = (globs.clone().unwrap_or_else(any), others.clone().unwrap_or_else(any));
        globs.iter().find_map(|glob| others.iter().find_map(|other| glob.common(other)))
    };
    let (Some(name), Some(netns)) = (common(names, &other.interfaces.names), common(netns, &other.interfaces.netns))
    else {
        return vec![];
    };
    let hooks = KINDS.iter().flat_map(|kind| [(*kind, Direction::Ingress), (*kind, Direction::Egress)]);
    // No interface has no name; any will do.
    let name = if name.is_empty() { "*".to_owned() } else { name };
    let chain = |(kind, direction)| ChainFacts { kind, direction, names: vec![(name.clone(), netns.clone())] };
    hooks
        .filter(|hook| *hook != ("xdp", Direction::Egress))
        .map(chain)
        .filter(|chain| one.are(chain) && other.are(chain))
        .collect()
}

/// The members that are named, and everything else.
struct Nodes<'a>(BTreeMap<Option<&'a Member>, usize>);

impl<'a> Nodes<'a> {
    fn of(orders: &[&Said<'a>]) -> Self {
        let named = orders.iter().flat_map(|Said { order, .. }| {
            let before = order.before.iter().flat_map(|Before { app, than }| [app, than]);
            order.first.iter().chain(&order.last).chain(before)
        });
        let mut nodes = BTreeMap::from([(None, 0)]);
        for member in named {
            let next = nodes.len();
            nodes.entry(Some(member)).or_insert(next);
        }
        Self(nodes)
    }
}

fn on(chain: &ChainFacts, orders: &[&Said<'_>]) -> Option<Contradiction> {
    let Nodes(nodes) = Nodes::of(orders);
    let word = |node: usize| {
        let found = nodes.iter().find(|(_, number)| **number == node).and_then(|(member, _)| *member);
        found.map_or_else(|| "everything else".to_owned(), |member| format!("`{member}`"))
    };
    let number = |member: Option<&Member>| nodes.get(&member).copied().unwrap_or_default();
    let mut graph = Graph::new(nodes.len());
    let mut said: Vec<(usize, usize, &Place)> = vec![];
    for one in orders {
        for (earlier, later, place) in statements(one, &nodes) {
            let (earlier, later) = (number(earlier), number(later));
            if graph.add(earlier, later) {
                said.push((earlier, later, place));
                continue;
            }
            let statement = |(earlier, later, place): (usize, usize, &Place)| Statement {
                earlier: word(earlier),
                later: word(later),
                place: place.clone(),
            };
            let name = chain.names.first().map(|(name, _)| name.as_str()).unwrap_or_default();
            let hook = match (chain.kind, chain.direction) {
                ("tc", direction) => format!("tc-{direction}"),
                (kind, _) => kind.to_owned(),
            };
            return Some(Contradiction {
                chain: format!("{name}:{hook}"),
                last: statement((earlier, later, place)),
                others: way(&said, later, earlier).into_iter().map(statement).collect(),
            });
        }
    }
    None
}

/// What an order says of its members, and of those that others name.
fn statements<'a, 's>(
    Said { order, first, before, last }: &'s Said<'a>,
    nodes: &BTreeMap<Option<&'a Member>, usize>,
) -> Vec<(Option<&'a Member>, Option<&'a Member>, &'s Place)> {
    let order: &'a Order = order;
    let mut all = vec![];
    let others = |list: &'a [Member]| {
        let named = nodes.keys().copied().filter(|node| node.is_none_or(|member| !list.contains(member)));
        named.collect::<Vec<_>>()
    };
    for (at, (member, place)) in order.first.iter().zip(first).enumerate() {
        let later = order.first.iter().skip(at + 1).map(Some).chain(others(&order.first));
        all.extend(later.map(|later| (Some(member), later, place)));
    }
    all.extend(order.before.iter().zip(before).map(|(Before { app, than }, place)| (Some(app), Some(than), place)));
    for (at, (member, place)) in order.last.iter().zip(last).enumerate() {
        let earlier = order.last.iter().take(at).map(Some).chain(others(&order.last));
        all.extend(earlier.map(|earlier| (earlier, Some(member), place)));
    }
    all
}

/// The shortest way from one to another.
fn way<'p>(said: &[(usize, usize, &'p Place)], from: usize, to: usize) -> Vec<(usize, usize, &'p Place)> {
    let mut ways: BTreeMap<usize, Vec<(usize, usize, &'p Place)>> = BTreeMap::from([(from, vec![])]);
    let mut edge = vec![from];
    while !ways.contains_key(&to) && !edge.is_empty() {
        let mut next = vec![];
        for node in edge {
            for (earlier, later, place) in said.iter().filter(|(earlier, _, _)| *earlier == node) {
                if !ways.contains_key(later) {
                    let mut longer = ways.get(&node).cloned().unwrap_or_default();
                    longer.push((*earlier, *later, *place));
                    ways.insert(*later, longer);
                    next.push(*later);
                }
            }
        }
        edge = next;
    }
    ways.remove(&to).unwrap_or_default()
}
