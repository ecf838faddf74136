//! Where the interface of a chain is: where it was, in another namespace with a name, or in one without. It must never decide what becomes of
//! its chains.

use std::collections::BTreeMap;

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::GenerationUid;
use bpfd_core::kernel::ObserveError;
use bpfd_core::names::{Nameless, Netns};
use bpfd_sys::bpf::ProgId;

use super::chain::generation::{self, SeenGeneration};
use super::chain::sequence::Entry;
use super::chain::xdp::Interface;
use super::interfaces::{Found, Observer, Sought, Trail};
use super::observe::{Known, unseen};
use super::pins::Pins;

/// Where interfaces went: the number of the namespace in the one that each left, and its index there.
pub(crate) type Heard = BTreeMap<InterfaceId, (u32, u32)>;

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
        heard.remove(&interface);
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
            generation.linked = seen.linked;
        }
    }
    let trail = Trail::of(of_it.iter().filter_map(|uid| known.generations.get(uid)));
    let mut followed = observer.follow(interface, &trail).map_err(|error| unseen(what())(error))?;
    if let (Found::Sought(Sought::Gone), Some(to)) = (&followed, heard.get(&interface)) {
        let found = observer.heard(interface, *to).map_err(|error| unseen(what())(error))?;
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

/// What links of ours hold in a tcx chain that nobody can look at, in no order.
pub(super) fn held(chain: &ChainId, generations: &BTreeMap<GenerationUid, SeenGeneration>) -> Vec<Entry> {
    let is_of_it = |generation: &&SeenGeneration| {
        generation.linked.is_some() && generation.record.as_ref().is_some_and(|record| record.chain == *chain)
    };
    let entry = |generation: &SeenGeneration| Entry {
        preference: None,
        program: Some(ProgId(generation.id.0)),
        link: None,
        name: String::new(),
    };
    generations.values().filter(is_of_it).map(entry).collect()
}
