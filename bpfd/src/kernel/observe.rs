//! What the kernel has: pins, generations, links, what names of interfaces lead to, and what the interfaces of the scope run, and
//! those that run a generation of ours. It changes nothing, and says so when something could not be seen, because nothing may be
//! removed on the strength of that.
//!
//! Long because an observation is one list of looks, in an order that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use bpfd_core::adopt::Spared;
use bpfd_core::cow::CowMap;
use bpfd_core::hook::{ChainId, ChainName, InterfaceId, Point};
use bpfd_core::ident::{AppUid, GenerationUid, KernelId, LinkUid, SlotUid};
use bpfd_core::kernel::{
    EntryProgram, ForeignProgram, Live, LiveDispatcher, LiveGeneration, Member, ObserveError, Observed, ObservedChain,
    PinnedApp, PinnedCopy, PinnedGeneration, Runs, Scope, SequenceEntry, Step, Targets, Unseen,
};
use bpfd_core::mode::Modes;
use bpfd_sys::bpf::{ProgId, prog_info};
use bpfd_sys::netlink::XdpAttachment;

use super::chain::generation::{self, SeenGeneration};
use super::chain::libxdp::copy;
use super::chain::libxdp::dispatcher;
use super::chain::sequence::Entry;
use super::chain::xdp::{self, Attached, Interface};
use super::interfaces::{Observer, Sought};
use super::object::error_chain;
use super::pins::Pins;
use super::record::Records;
use super::seek::{Heard, held, nameless, seek};
use super::{app, hook, record};
use crate::worker::idlookup::IdLookup;
use crate::worker::netns::Namespaces;

/// What is pinned, as far as this process knows: read once, and then kept up to date step by step, since nobody else may change the
/// tree while its lock is held. What somebody removes by hand is noticed by the next whole observation.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) apps: CowMap<AppUid, PinnedApp>,
    half_made: BTreeSet<AppUid>,
    pub(crate) generations: BTreeMap<GenerationUid, SeenGeneration>,
    /// The same, as they were observed last.
    pinned: CowMap<GenerationUid, PinnedGeneration>,
    /// Whether the interface that a generation was made for runs it.
    runs: BTreeMap<GenerationUid, Runs>,
    /// Interfaces that were moved to a namespace with a name since everything was read.
    pub(super) moved: BTreeMap<InterfaceId, InterfaceId>,
    pub(crate) links: BTreeSet<LinkUid>,
    half_links: BTreeSet<LinkUid>,
    pub(crate) copies: CowMap<SlotUid, PinnedCopy>,
    records: Records,
}

impl Known {
    fn read(pins: &Pins) -> Result<Self, ObserveError> {
        let (apps, half_made) = app::observe(pins).map_err(unseen("the pinned apps"))?;
        let generations = generation::observe(pins).map_err(unseen("the pinned generations"))?;
        let (links, half_links) = hook::observe(pins).map_err(unseen("the pinned links"))?;
        let copies = copy::observe(pins).map_err(unseen("the pinned programs of slots"))?;
        let records = record::observe(pins).map_err(unseen("the records of apps and links"))?;
        let (apps, pinned) = (apps.into_iter().collect(), CowMap::default());
        let (runs, moved) = Default::default();
        Ok(Self { apps, half_made, generations, pinned, runs, moved, links, half_links, copies, records })
    }

    /// The pins that tell what chains run, read anew; of the rest what was observed before.
    pub(crate) fn of_chains(pins: &Pins, before: &Observed) -> Result<Self, ObserveError> {
        let generations = generation::observe(pins).map_err(unseen("the pinned generations"))?;
        let mut pinned = before.generations.clone();
        pinned.retain(|uid, _| generations.contains_key(uid));
        Ok(Self {
            apps: before.apps.clone(),
            half_made: before.half_made.clone(),
            generations,
            pinned,
            runs: before.generations.iter().map(|(uid, generation)| (*uid, generation.runs)).collect(),
            moved: BTreeMap::new(),
            links: before.links.clone(),
            half_links: before.half_links.clone(),
            copies: copy::observe(pins).map_err(unseen("the pinned programs of slots"))?,
            records: Records { rows: before.recorded.clone(), unread: before.unread_records.clone() },
        })
    }

    /// Follows a step that was taken. `Err` if what it pinned cannot be read: then everything must be read anew.
    pub(crate) fn follow(&mut self, pins: &Pins, step: &Step) -> io::Result<()> {
        match step {
            Step::PinApp(uid) => {
                self.half_made.remove(uid);
                self.apps.insert(*uid, app::read(pins, *uid)?);
            }
            Step::UnpinApp(uid) => {
                self.half_made.remove(uid);
                self.apps.remove(uid);
                self.records.rows.apps.remove(uid);
            }
            Step::LoadCopy { slot, recipes: _ } => {
                let seen = copy::read(pins, slot.uid)?.ok_or(io::ErrorKind::NotFound)?;
                self.copies.insert(slot.uid, seen);
            }
            Step::UnpinCopy(slot) => {
                self.copies.remove(slot);
            }
            Step::PinGeneration(uid) | Step::Adopt { live: LiveGeneration { generation: uid, .. }, .. } => {
                let seen = generation::read(pins, *uid)?.ok_or(io::ErrorKind::NotFound)?;
                self.generations.insert(*uid, seen);
            }
            Step::UnpinGeneration(uid) => {
                self.generations.remove(uid);
                self.pinned.remove(uid);
                self.runs.remove(uid);
            }
            Step::AttachLink { link, .. } => {
                self.half_links.remove(link);
                self.links.insert(*link);
            }
            Step::DetachLink(link) => {
                self.half_links.remove(link);
                self.links.remove(link);
            }
            Step::Record(row) => self.records.write(row),
            Step::Unrecord(link) => self.records.remove(link),
            // A link may hold it now.
            Step::Swap { chain, to: Some(uid), .. } if chain.id.point != Point::Xdp => {
                self.generations.extend(generation::read(pins, *uid)?.map(|seen| (*uid, seen)));
            }
            Step::BuildGeneration { .. } | Step::DropGeneration(_) | Step::Swap { .. } => {}
        }
        Ok(())
    }
}

/// What is pinned, and the chains of the scope.
pub(crate) fn observe(
    pins: &Pins,
    known: &mut Option<Known>,
    namespaces: &mut Namespaces,
    ids: &mut IdLookup,
    modes: &Modes,
    heard: &mut Heard,
    scope: &Scope,
) -> Result<Observed, ObserveError> {
    let whole = match scope {
        Scope::Everything(_) => true,
        Scope::Chains(_) => known.is_none(),
    };
    if whole {
        *known = None;
    }
    let known = match known {
        Some(known) => known,
        None => known.insert(Known::read(pins)?),
    };
    let mut observer = Observer::new(namespaces);
    let Targets { names, chains: wanted } = scope.targets();
    let mut interfaces = BTreeMap::new();
    let mut found: BTreeMap<InterfaceId, Sought> = BTreeMap::new();
    let mut looked_at: BTreeSet<ChainId> = BTreeSet::new();
    for name in names {
        let interface = observer.named(name).map_err(unseen(name))?;
        interfaces.insert(name.clone(), interface.as_ref().map(|interface| interface.id));
        if let Some(interface) = interface {
            looked_at.insert(ChainId { interface: interface.id, point: name.point });
            found.insert(interface.id, Sought::Here(interface));
        }
    }
    let mut moved: BTreeMap<InterfaceId, InterfaceId> = BTreeMap::new();
    for chain in wanted {
        let interface = seek(chain.interface, pins, known, &mut observer, heard, (&mut found, &mut moved))?;
        looked_at.insert(ChainId { interface, ..*chain });
    }
    // Elsewhere nothing changed that this process did not do, or hear of.
    let is_of_interest = |uid: &GenerationUid, chain: &ChainId, known: &BTreeMap<GenerationUid, Runs>| {
        whole || looked_at.contains(chain) || !known.contains_key(uid)
    };
    let mut chains_found = looked_at.clone();
    let made_for = |(uid, generation): (&GenerationUid, &SeenGeneration)| {
        generation.record.as_ref().map(|record| record.chain).filter(|chain| is_of_interest(uid, chain, &known.runs))
    };
    let chains_of_generations: BTreeSet<ChainId> = known.generations.iter().filter_map(made_for).collect();
    for chain in chains_of_generations {
        let interface = seek(chain.interface, pins, known, &mut observer, heard, (&mut found, &mut moved))?;
        chains_found.insert(ChainId { interface, ..chain });
    }
    let mut sequences: BTreeMap<ChainId, Vec<Entry>> = BTreeMap::new();
    for chain in &chains_found {
        if chain.point != Point::Xdp && matches!(found.get(&chain.interface), Some(Sought::Here(_))) {
            let what = || format!("what interface {} runs at {}", chain.interface.index, chain.point);
            sequences.insert(*chain, observer.sequence(chain, modes.has_tcx).map_err(|error| unseen(what())(error))?);
        }
        if chain.point != Point::Xdp
            && let Some(Sought::Nameless(_, _, filters)) = found.get(&chain.interface)
        {
            sequences.insert(*chain, held(chain, *filters, &known.generations, &known.runs));
        }
    }
    for (uid, generation) in &known.generations {
        let Some(record) = &generation.record else { continue };
        if let Some(sought) = found.get(&record.chain.interface).filter(|_| chains_found.contains(&record.chain)) {
            let sequence = sequences.get(&record.chain).map(Vec::as_slice);
            known.runs.insert(*uid, sought.runs(generation, sequence));
        }
    }
    let running = |chain: &ChainId| {
        let is_of_it = |uid: &GenerationUid| {
            let record = known.generations.get(uid).and_then(|generation| generation.record.as_ref());
            record.is_some_and(|record| record.chain == *chain)
        };
        known.runs.iter().any(|(uid, runs)| *runs == Runs::Yes && is_of_it(uid))
    };
    // Filters that may have stayed with an interface in a namespace without a name, or not.
    let in_doubt = |chain: &ChainId| {
        let of_it = known.generations.iter().filter(|(_, generation)| generation.chain() == Some(*chain));
        of_it.into_iter().any(|(uid, generation)| generation.is_filter() && known.runs.get(uid) == Some(&Runs::Unseen))
    };
    let (mut chains, mut missing, mut unpinned) = (CowMap::default(), BTreeSet::new(), BTreeMap::new());
    let mut unseen_chains: BTreeMap<ChainId, Unseen> = BTreeMap::new();
    for id in chains_found {
        match found.get(&id.interface) {
            Some(Sought::Nameless(..)) if in_doubt(&id) => {
                unseen_chains.insert(id, Unseen::Nameless);
            }
            Some(Sought::Here(interface) | Sought::Nameless(interface, ..))
                if looked_at.contains(&id) || running(&id) =>
            {
                let name = match found.get(&id.interface) {
                    Some(Sought::Nameless(interface, number, _)) => nameless(interface, *number, id.point),
                    _ => observer.name(interface, id.point),
                };
                let Some(name) = name else { continue };
                let unseen = unseen(name.to_string());
                let pinned = (pins, &known.generations, &known.copies);
                let seen = match sequences.get(&id) {
                    Some(sequence) => observe_sequence(id, sequence, name, ids, modes, &known.generations).map(Some),
                    None => observe_steady(interface, &name, &mut observer, ids, modes, pinned),
                };
                let Some((seen, without_pins)) = seen.map_err(unseen)? else {
                    missing.insert(id);
                    continue;
                };
                unpinned.extend(without_pins);
                chains.insert(id, seen);
            }
            Some(Sought::Gone) => {
                missing.insert(id);
            }
            Some(Sought::Unseen(why)) => {
                unseen_chains.insert(id, why.clone());
            }
            Some(Sought::Here(_) | Sought::Nameless(..)) | None => {}
        }
    }
    // What a record says never changes: most are as they were.
    for (uid, generation) in &known.generations {
        let runs = known.runs.get(uid).copied().unwrap_or(Runs::Unseen);
        let is_linked = generation.linked.is_some();
        let now = (generation.id, runs, generation.is_moved, is_linked);
        let as_before =
            |before: &PinnedGeneration| (before.program, before.runs, before.is_moved, before.is_linked) == now;
        if !known.pinned.get(uid).is_some_and(as_before) {
            let members = generation.record.as_ref().map(|record| record.members.clone());
            let (program, is_moved) = (generation.id, generation.is_moved);
            known.pinned.insert(*uid, PinnedGeneration { program, members, runs, is_moved, is_linked });
        }
    }
    Ok(Observed {
        apps: known.apps.clone(),
        half_made: known.half_made.clone(),
        generations: known.pinned.clone(),
        unpinned,
        links: known.links.clone(),
        half_links: known.half_links.clone(),
        copies: known.copies.clone(),
        namespaces: observer.cookies(),
        interfaces,
        recorded: known.records.rows.clone(),
        unread_records: known.records.unread.clone(),
        chains,
        missing,
        unseen: unseen_chains,
        moved,
        new_dispatcher: modes.new_dispatcher,
        versions: BTreeMap::new(),
        barred: BTreeMap::new(),
        spared: Spared::default(),
    })
}

pub(super) fn unseen(what: impl ToString) -> impl FnOnce(io::Error) -> ObserveError {
    move |error| ObserveError { what: what.to_string(), errno: error_chain(&error) }
}

/// A chain, and the members of generations in it that have no pins.
type Seen = (ObservedChain, BTreeMap<GenerationUid, Vec<Member>>);

/// A chain of a tc hook: whatever is ours is known by its record.
fn observe_sequence(
    id: ChainId,
    sequence: &[Entry],
    name: ChainName,
    ids: &mut IdLookup,
    modes: &Modes,
    generations: &BTreeMap<GenerationUid, SeenGeneration>,
) -> io::Result<Seen> {
    let mut unpinned = BTreeMap::new();
    let mut seen = Vec::new();
    for Entry { preference, program, link, name } in sequence {
        let is_it = |seen: &SeenGeneration| program.is_some_and(|program| seen.id == KernelId(program.0));
        let is_of_it = |seen: &SeenGeneration| seen.record.as_ref().is_none_or(|record| record.chain == id);
        let pinned = generations.iter().find(|(_, seen)| is_it(seen) && is_of_it(seen));
        let without_pins = match (pinned, program) {
            (None, Some(program)) => unpinned_of(*program, id, generations, ids)?,
            (Some(_), _) | (None, None) => None,
        };
        let program = match (pinned, without_pins) {
            (Some((generation, seen)), _) => {
                EntryProgram::Ours(LiveGeneration { program: seen.id, generation: *generation })
            }
            (None, Some((live, members))) => {
                unpinned.insert(live.generation, members);
                EntryProgram::Ours(live)
            }
            (None, None) => {
                let known = program.map(|program| program_name(ids, program)).filter(|known| !known.is_empty());
                EntryProgram::Foreign(ForeignProgram {
                    program: KernelId(program.map_or(0, |program| program.0)),
                    name: known.unwrap_or_else(|| name.clone()),
                    link: link.map(|link| link.0),
                    holders: Vec::new(),
                })
            }
        };
        seen.push(SequenceEntry { preference: *preference, program });
    }
    let mode = modes.of_chain(&name).clone();
    Ok((ObservedChain { name, live: Live::Sequence(seen), driven: None, mode }, unpinned))
}

/// How often what an interface runs is read again because somebody replaced it while it was read.
const REPLACED: u32 = 10;

/// What pins tell of chains.
type Pinned<'a> = (&'a Pins, &'a BTreeMap<GenerationUid, SeenGeneration>, &'a CowMap<SlotUid, PinnedCopy>);

/// A chain as it is at one moment: what somebody replaced between two reads is read again. `None` if the interface went.
fn observe_steady(
    interface: &Interface,
    name: &ChainName,
    observer: &mut Observer<'_>,
    ids: &mut IdLookup,
    modes: &Modes,
    pinned: Pinned<'_>,
) -> io::Result<Option<Seen>> {
    if let Some(seen) = observe_chain(interface, name.clone(), ids, modes, pinned)? {
        return Ok(Some(seen));
    }
    for _ in 0..REPLACED {
        let Some(interface) = observer.here(interface.id)? else { return Ok(None) };
        if let Some(seen) = observe_chain(&interface, name.clone(), ids, modes, pinned)? {
            return Ok(Some(seen));
        }
    }
    Err(io::Error::other("somebody replaces what it runs again and again"))
}

/// `None` if what it runs was replaced meanwhile.
fn observe_chain(
    interface: &Interface,
    name: ChainName,
    ids: &mut IdLookup,
    modes: &Modes,
    (pins, generations, copies): Pinned<'_>,
) -> io::Result<Option<Seen>> {
    let id = interface.id;
    let unpinned = match interface.row.xdp {
        XdpAttachment::One { program, .. } if xdp::driven(&interface.row.xdp).is_some() => {
            unpinned_of(program, ChainId { interface: id, point: Point::Xdp }, generations, ids)?
        }
        XdpAttachment::One { .. } | XdpAttachment::None | XdpAttachment::Several { .. } => None,
    };
    let live = match xdp::runs(interface, generations) {
        Attached::Nothing => Live::Empty,
        Attached::Ours(live) => match generations.get(&live.generation).filter(|generation| generation.is_dispatcher) {
            None => Live::Ours(live),
            Some(generation) => {
                let names = generation.record.as_ref().map_or(&[][..], |record| &record.names);
                match dispatcher::live(live, names, (pins, id.index), copies, ids)? {
                    Some(seen) => Live::Dispatcher(seen),
                    None => match foreign(ids, ProgId(live.program.0))? {
                        Some(foreign) => foreign,
                        None => return Ok(None),
                    },
                }
            }
        },
        Attached::Other(_) if let Some((live, _)) = &unpinned => Live::Ours(*live),
        Attached::Other(program) => match theirs(interface, program, (pins, copies), ids)? {
            Some(seen) => Live::Dispatcher(seen),
            None => match foreign(ids, program)? {
                Some(foreign) => foreign,
                None => return Ok(None),
            },
        },
    };
    let mode = modes.of_chain(&name).clone();
    let unpinned = unpinned.into_iter().map(|(live, members)| (live.generation, members)).collect();
    Ok(Some((ObservedChain { name, live, driven: xdp::driven(&interface.row.xdp), mode }, unpinned)))
}

/// A generation of ours that this chain runs and that has no pins: its namespace had no name for a while, or somebody removed them.
fn unpinned_of(
    program: ProgId,
    chain: ChainId,
    generations: &BTreeMap<GenerationUid, SeenGeneration>,
    ids: &mut IdLookup,
) -> io::Result<Option<(LiveGeneration, Vec<Member>)>> {
    if generations.values().any(|generation| generation.id == KernelId(program.0)) {
        return Ok(None);
    }
    let Some(fd) = ids.program(program)? else { return Ok(None) };
    let found =
        generation::running(fd.as_fd(), chain, ids)?.filter(|(generation, _)| !generations.contains_key(generation));
    Ok(found.map(|(generation, record)| (LiveGeneration { program: KernelId(program.0), generation }, record.members)))
}

/// A peer's dispatcher that bpfd can keep and rebuild; one that a bpf_link holds cannot be replaced.
fn theirs(
    interface: &Interface,
    program: ProgId,
    (pins, copies): (&Pins, &CowMap<SlotUid, PinnedCopy>),
    ids: &mut IdLookup,
) -> io::Result<Option<LiveDispatcher>> {
    if xdp::driven(&interface.row.xdp).is_none() || !matches!(interface.row.xdp, XdpAttachment::One { .. }) {
        return Ok(None);
    }
    let id = KernelId(program.0);
    let generation = LiveGeneration { program: id, generation: GenerationUid::of_peer(id) };
    let seen = dispatcher::live(generation, &[], (pins, interface.id.index), copies, ids)?;
    match seen {
        Some(seen) if ids.xdp_link(program)?.is_none() => Ok(Some(seen)),
        Some(_) | None => Ok(None),
    }
}

/// What can be told of a program that is not ours; `None` if it is gone by now. Its holders are looked up for those who are told of them.
fn foreign(ids: &mut IdLookup, program: ProgId) -> io::Result<Option<Live>> {
    let Some(fd) = ids.program(program)? else { return Ok(None) };
    let name = prog_info(fd.as_fd())?.name;
    let link = told(program, ids.xdp_link(program));
    let (program, link) = (KernelId(program.0), link.map(|link| link.0));
    Ok(Some(Live::Foreign(ForeignProgram { program, name, link, holders: Vec::new() })))
}

fn program_name(ids: &mut IdLookup, program: ProgId) -> String {
    let name = ids.program(program).and_then(|fd| fd.map(|fd| Ok(prog_info(fd.as_fd())?.name)).transpose());
    told(program, name).unwrap_or_default()
}

fn told<T>(program: ProgId, found: io::Result<Option<T>>) -> Option<T> {
    found.unwrap_or_else(|error| {
        tracing::warn!(program = program.0, error = error_chain(&error), "cannot look up a program that is not bpfd's");
        None
    })
}
