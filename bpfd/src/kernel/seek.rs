//! Where the interface of a chain is: where it was, in another namespace with a name, or in one without. It must never decide what becomes of
//! its chains.

use std::collections::{BTreeMap, VecDeque};

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::GenerationUid;
use bpfd_core::kernel::{ObserveError, Runs};
use bpfd_core::names::{Nameless, Netns};
use bpfd_sys::bpf::ProgId;

use super::chain::generation::{self, SeenGeneration};
use super::chain::sequence::Entry;
use super::chain::xdp::Interface;
use super::interfaces::{Filters, Found, Observer, Sought, Trail};
use super::observe::{Known, unseen};
use super::pins::Pins;

/// Where interfaces went that were moved, as far as it was heard: the number of the namespace in the one that each left, and its index
/// there. The oldest are forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Heard(VecDeque<(InterfaceId, (u32, u32))>);

/// Moves that are remembered. Few are ever of use, and each is until the next one of its interface.
const HEARD: usize = 1024;

impl Heard {
    pub(crate) fn insert(&mut self, interface: InterfaceId, to: (u32, u32)) {
        self.remove(interface);
        self.0.push_back((interface, to));
        if self.0.len() > HEARD {
            self.0.pop_front();
        }
    }

    fn remove(&mut self, interface: InterfaceId) {
        self.0.retain(|(moved, _)| *moved != interface);
    }

    fn to(&self, interface: InterfaceId) -> Option<(u32, u32)> {
        self.0.iter().find(|(moved, _)| *moved == interface).map(|(_, to)| *to)
    }
}

/// Looks for an interface, unless it was found already; gives what it is now. If it was moved, generations that were made for it are taken
/// as made for what it is now.
pub(super) fn seek(
    interface: InterfaceId,
    pins: &Pins,
    known: &mut Known,
    observer: &mut Observer<'_>,
    heard: &mut Heard,
    (found, moved): (&mut BTreeMap<InterfaceId, Sought>, &mut BTreeMap<InterfaceId, InterfaceId>),
) -> Result<InterfaceId, ObserveError> {
    let interface = match known.moved.get(&interface) {
        Some(now) => {
            moved.insert(interface, *now);
            *now
        }
        None => interface,
    };
    if found.contains_key(&interface) {
        return Ok(interface);
    }
    let what = || format!("interface {}", interface.index);
    if let Some(here) = observer.here(interface).map_err(|error| unseen(what())(error))? {
        heard.remove(interface);
        found.insert(interface, Sought::Here(here));
        return Ok(interface);
    }
    let is_of_it = |generation: &SeenGeneration| {
        generation.record.as_ref().is_some_and(|record| record.chain.interface == interface)
    };
    let of_it = known.generations.iter().filter(|(_, generation)| is_of_it(generation));
    let of_it: Vec<GenerationUid> = of_it.map(|(uid, _)| *uid).collect();
    // Where a link holds it, the link tells now.
    for uid in &of_it {
        let seen = generation::read(pins, *uid).map_err(unseen(format!("generation {uid}")))?;
        if let (Some(generation), Some(seen)) = (known.generations.get_mut(uid), seen) {
            (generation.linked, generation.has_link) = (seen.linked, seen.has_link);
        }
    }
    let trail = Trail::of(of_it.iter().filter_map(|uid| known.generations.get(uid)));
    let mut followed = observer.follow(interface, &trail).map_err(|error| unseen(what())(error))?;
    if let (Found::Sought(Sought::Gone), Some(to)) = (&followed, heard.to(interface)) {
        let found = observer.heard(interface, to).map_err(|error| unseen(what())(error))?;
        if let Some(here) = found {
            if trail.has_filters() {
                tracing::warn!(
                    interface = %here.row.name,
                    "an interface was moved to another network namespace, and its tc filters went with its qdisc: until they are attached again, packets pass without them"
                );
            }
            followed = Found::Moved(here);
        }
    }
    let sought = match followed {
        Found::Sought(sought) => sought,
        Found::Moved(here) => {
            let now = here.id;
            moved.insert(interface, now);
            known.moved.values_mut().filter(|known| **known == interface).for_each(|known| *known = now);
            known.moved.insert(interface, now);
            // It is back where it was before.
            known.moved.remove(&now);
            found.insert(now, Sought::Here(here));
            for uid in of_it {
                let Some(generation) = known.generations.get_mut(&uid) else { continue };
                generation.is_moved = true;
                if let Some(record) = &mut generation.record {
                    record.chain.interface = now;
                }
            }
            return Ok(now);
        }
    };
    found.insert(interface, sought);
    Ok(interface)
}

/// The name of a chain in a namespace that no name leads to.
pub(super) fn nameless(interface: &Interface, number: Nameless, point: Point) -> Option<ChainName> {
    Some(ChainName { netns: Netns::Nameless(number), interface: interface.row.name.parse().ok()?, point })
}

/// What an interface runs at a tc hook that nobody can look at: what links of ours hold there, and filters that stayed. Its order is what
/// the records say, and not what the kernel says.
pub(super) fn held(
    chain: &ChainId,
    filters: Filters,
    generations: &BTreeMap<GenerationUid, SeenGeneration>,
    runs: &BTreeMap<GenerationUid, Runs>,
) -> Vec<Entry> {
    let is_filter = |uid: &GenerationUid, generation: &SeenGeneration| {
        filters == Filters::Stayed && generation.is_filter() && runs.get(uid) != Some(&Runs::No)
    };
    let of_it = generations.iter().filter(|(uid, generation)| {
        generation.chain() == Some(*chain) && (generation.linked.is_some() || is_filter(uid, generation))
    });
    let mut held: Vec<&SeenGeneration> = of_it.map(|(_, generation)| generation).collect();
    held.sort_by_key(|generation| {
        let member = generation.record.as_ref().and_then(|record| record.members.first());
        member.map(|member| (member.effective, member.function.clone()))
    });
    let entry = |generation: &SeenGeneration| Entry {
        preference: None,
        program: Some(ProgId(generation.id.0)),
        link: None,
        name: String::new(),
    };
    held.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_move_is_forgotten_first() {
        let interface = |index| InterfaceId { netns_cookie: 1, index };
        let mut heard = Heard::default();
        // The first has the highest number.
        for index in (0..=u32::try_from(HEARD).unwrap()).rev() {
            heard.insert(interface(index), (0, index));
        }
        assert_eq!(heard.to(interface(u32::try_from(HEARD).unwrap())), None);
        assert_eq!(heard.to(interface(0)), Some((0, 0)));
        heard.insert(interface(0), (3, 4));
        assert_eq!(heard.to(interface(0)), Some((3, 4)));
        assert_eq!(heard.0.len(), HEARD);
    }
}
