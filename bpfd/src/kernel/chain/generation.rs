//! Generations of chains, of each back end: their pins, and the frozen map beside or in each that says which members it has and for which
//! interface. The kernel alone is enough to tell what runs. This file must never touch an interface.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bpfd_core::hook::{ChainId, InterfaceId, Point, ProceedOn};
use bpfd_core::ident::{AppUid, GenerationUid, KernelId, LinkUid};
use bpfd_core::kernel::{Member, StepError};
use bpfd_core::names::Priority;
use bpfd_sys::bpf::{F_RDONLY_PROG, LinkKind, Map, MapCreate, MapInfo, MapType, Update, link_info, prog_info};
use bpfd_sys::bpffs::Dir;
use ebpf::actions::ActionMask;
use ebpf::chain_record::{CHAIN_MAP_NAME, ChainEntry, ChainHook, ChainPlace, ChainRecord};
use ebpf::dispatcher::NAME as DISPATCHER;

use crate::kernel::failed;
use crate::kernel::pins::{self, CHAIN_LINK, CHAIN_PROGRAM, CHAIN_RECORD, Pins};
use crate::worker::idlookup::IdLookup;

/// The link uid of an entry that is somebody else's program.
pub(crate) const FOREIGN: [u8; 16] = [0; 16];

/// The longest record that is read: 255 entries of 312 bytes and a header, with room for a later version.
const RECORD_LIMIT: u32 = 256 << 10;

/// A pinned generation, read.
#[derive(Debug)]
pub(crate) struct SeenGeneration {
    pub(crate) id: KernelId,
    /// `None` if the record cannot be read.
    pub(crate) record: Option<SeenRecord>,
    /// Whether it is a dispatcher, ours or one of a peer's that we hold.
    pub(crate) is_dispatcher: bool,
    /// The index of the interface that a pinned link holds it on, if that lives.
    pub(crate) linked: Option<u32>,
    /// A link is pinned beside it, which may hold nothing any more.
    pub(crate) has_link: bool,
    /// Its interface was moved since the record was made: here, the record says what the interface is now.
    pub(crate) is_moved: bool,
}

impl SeenGeneration {
    /// The chain that it was made for.
    pub(crate) fn chain(&self) -> Option<ChainId> {
        self.record.as_ref().map(|record| record.chain)
    }

    /// Whether it runs as a filter, if it runs.
    pub(crate) fn is_filter(&self) -> bool {
        !self.has_link && self.chain().is_some_and(|chain| chain.point != Point::Xdp)
    }
}

/// A generation that was built, held by descriptors only. A dispatcher is held with more.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) program: OwnedFd,
    pub(crate) record: OwnedFd,
    pub(crate) id: KernelId,
    pub(crate) chain: ChainId,
}

/// Pins a built generation as `v1/top/<top>`, whole or not at all.
pub(crate) fn pin(pins: &Pins, generation: GenerationUid, built: &Built) -> Result<(), StepError> {
    pins::make_whole(&pins.generations, &generation.to_string(), |dir| {
        let doing = || format!("pin generation {generation}");
        dir.pin(CHAIN_RECORD, built.record.as_fd()).map_err(failed(doing))?;
        dir.pin(CHAIN_PROGRAM, built.program.as_fd()).map_err(failed(doing))
    })
}

/// What a frozen map says.
#[derive(Debug)]
pub(crate) struct SeenRecord {
    pub(crate) chain: ChainId,
    pub(crate) members: Vec<Member>,
    /// The functions of all entries, those of others included.
    pub(crate) names: Vec<String>,
}

/// A record as a frozen map.
pub(crate) fn freeze(name: &str, record: &[u8]) -> io::Result<OwnedFd> {
    let size = u32::try_from(record.len()).map_err(io::Error::other)?;
    let shape = MapCreate::new(MapType::ARRAY, 4, size, 1);
    let map = Map::create(&MapCreate { name, flags: F_RDONLY_PROG, ..shape })?;
    map.update(&[0; 4], record, Update::Any)?;
    map.freeze()?;
    Ok(map.into_fd())
}

/// A generation's place, as its record has it.
pub(crate) fn place(generation: GenerationUid, ChainId { interface, point }: ChainId) -> ChainPlace {
    let hook = match point {
        Point::Xdp => ChainHook::Xdp,
        Point::TcIngress => ChainHook::TcIngress,
        Point::TcEgress => ChainHook::TcEgress,
    };
    let InterfaceId { netns_cookie, index } = interface;
    ChainPlace { generation: generation.bytes(), netns_cookie, ifindex: index, hook }
}

/// What a record says of a member.
pub(crate) fn entry(member: &Member) -> ChainEntry {
    let Member { link, app, function, priority, effective, proceed_on } = member;
    ChainEntry {
        link: link.bytes(),
        app: app.bytes(),
        priority: u32::from(*priority),
        effective: u32::from(*effective),
        actions: ActionMask::from_bits(proceed_on.bits()),
        flags: 0,
        function: function.clone(),
    }
}

/// Removes the pins of a generation; nothing if there are none.
pub(crate) fn unpin(pins: &Pins, generation: GenerationUid) -> Result<(), StepError> {
    pins::remove_whole(&pins.generations, &generation.to_string())
        .map_err(failed(|| format!("unpin generation {generation}")))
}

/// Removes what an earlier process left half-made, or somebody made so: a generation without its program is none. Only one bpfd
/// has the tree.
pub(crate) fn sweep(pins: &Pins) -> io::Result<()> {
    let (whole, half) = pins.generation_names()?;
    half.into_iter().try_for_each(|generation| pins::remove_unfinished(&pins.generations, &generation.to_string()))?;
    for generation in whole {
        if read(pins, generation)?.is_none() {
            pins::remove_whole(&pins.generations, &generation.to_string())?;
        }
    }
    Ok(())
}

/// Every pinned generation.
pub(crate) fn observe(pins: &Pins) -> io::Result<BTreeMap<GenerationUid, SeenGeneration>> {
    let (whole, _half) = pins.generation_names()?;
    let mut generations = BTreeMap::new();
    for generation in whole {
        generations.extend(read(pins, generation)?.map(|seen| (generation, seen)));
    }
    Ok(generations)
}

/// The pinned program of a generation, opened.
pub(crate) fn program(pins: &Pins, generation: GenerationUid) -> io::Result<OwnedFd> {
    pins.generations.subdir(&generation.to_string())?.pinned(CHAIN_PROGRAM)
}

/// One pinned generation; `None` if it has no program.
pub(crate) fn read(pins: &Pins, generation: GenerationUid) -> io::Result<Option<SeenGeneration>> {
    let dir = pins.generations.subdir(&generation.to_string())?;
    let Some(program) = present(dir.pinned(CHAIN_PROGRAM))? else { return Ok(None) };
    let info = prog_info(program.as_fd())?;
    let is_dispatcher = info.name == DISPATCHER;
    // A fused program's record counts only if it is the program's own. A dispatcher can have no map but its configuration: its record
    // lies beside it and counts by what it says, in a tree that only root writes.
    let own = |map: &MapInfo| is_dispatcher || info.map_ids.contains(&map.id);
    let record = record(&dir, own)?.and_then(|record| seen(generation, &record));
    let link = present(dir.pinned(CHAIN_LINK))?;
    let has_link = link.is_some();
    let kind = link.map(|link| link_info(link.as_fd())).transpose()?.map(|link| link.kind);
    let linked = match kind {
        Some(LinkKind::Tcx { ifindex, .. }) if ifindex != 0 => Some(ifindex),
        _ => None,
    };
    Ok(Some(SeenGeneration { id: KernelId(info.id.0), record, is_dispatcher, linked, has_link, is_moved: false }))
}

/// The record in a pin directory, if it is there and reads.
pub(crate) fn record(dir: &Dir, own: impl FnOnce(&MapInfo) -> bool) -> io::Result<Option<ChainRecord>> {
    let value = value(dir, CHAIN_RECORD, RECORD_LIMIT, own)?;
    Ok(value.and_then(|value| ChainRecord::decode(&value).ok()))
}

/// A generation that a program of this chain is, by the record that the program refers to: it needs no pins.
pub(crate) fn running(
    program: BorrowedFd<'_>,
    chain: ChainId,
    ids: &mut IdLookup,
) -> io::Result<Option<(GenerationUid, SeenRecord)>> {
    let Some((_, record)) = own_record(program, ids)? else { return Ok(None) };
    let generation = GenerationUid::from_bytes(record.place.generation);
    let seen = seen(generation, &record).filter(|seen| seen.chain == chain);
    Ok(seen.map(|seen| (generation, seen)))
}

/// The record that a program refers to, and its map.
pub(crate) fn own_record(program: BorrowedFd<'_>, ids: &mut IdLookup) -> io::Result<Option<(OwnedFd, ChainRecord)>> {
    for id in prog_info(program)?.map_ids {
        let Some(map) = ids.map(id)?.and_then(|fd| Map::from_fd(fd).ok()) else { continue };
        if !map.info().is_ok_and(|map| plausible(&map, RECORD_LIMIT) && map.name == CHAIN_MAP_NAME) {
            continue;
        }
        let record = map.lookup(&[0; 4])?.and_then(|value| ChainRecord::decode(&value).ok());
        if let Some(record) = record {
            return Ok(Some((map.into_fd(), record)));
        }
    }
    Ok(None)
}

/// The only value of a pinned map, if it is there and of a shape that bpfd makes.
pub(crate) fn value(
    dir: &Dir,
    name: &str,
    limit: u32,
    own: impl FnOnce(&MapInfo) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    let map = present(dir.pinned(name))?
        .and_then(|fd| Map::from_fd(fd).ok())
        .filter(|map| map.info().is_ok_and(|map| plausible(&map, limit) && own(&map)));
    Ok(map.map(|map| map.lookup(&[0; 4])).transpose()?.flatten())
}

/// A directory, if it is there.
pub(crate) fn present_dir(dir: io::Result<Dir>) -> io::Result<Option<Dir>> {
    match dir {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn present(pin: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match pin {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn plausible(map: &MapInfo, limit: u32) -> bool {
    map.kind == MapType::ARRAY && map.key_size == 4 && map.max_entries == 1 && map.value_size <= limit
}

/// `None` if the record says what no record of ours would.
fn seen(generation: GenerationUid, record: &ChainRecord) -> Option<SeenRecord> {
    let ChainRecord { place: ChainPlace { generation: named, netns_cookie, ifindex, hook }, entries } = record;
    if GenerationUid::from_bytes(*named) != generation {
        return None;
    }
    let ours = entries.iter().filter(|entry| entry.link != FOREIGN);
    let members = ours.map(member).collect::<Option<Vec<_>>>()?;
    let names = entries.iter().map(|entry| entry.function.clone()).collect();
    let point = match hook {
        ChainHook::Xdp => Point::Xdp,
        ChainHook::TcIngress => Point::TcIngress,
        ChainHook::TcEgress => Point::TcEgress,
    };
    let interface = InterfaceId { netns_cookie: *netns_cookie, index: *ifindex };
    Some(SeenRecord { chain: ChainId { interface, point }, members, names })
}

pub(crate) fn member(entry: &ChainEntry) -> Option<Member> {
    let ChainEntry { link, app, priority, effective, actions, flags: _, function } = entry;
    Some(Member {
        link: LinkUid::from_bytes(*link),
        app: AppUid::from_bytes(*app),
        function: function.clone(),
        priority: Priority::try_from(*priority).ok()?,
        effective: Priority::try_from(*effective).ok()?,
        proceed_on: ProceedOn::from_bits(actions.bits()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: ChainId = ChainId { interface: InterfaceId { netns_cookie: 4, index: 5 }, point: Point::TcEgress };

    fn record(priority: u32, actions: u32) -> ChainRecord {
        let entry = ChainEntry {
            link: [1; 16],
            app: [2; 16],
            priority,
            effective: 60,
            actions: ActionMask::from_bits(actions),
            flags: 0,
            function: "pass".to_owned(),
        };
        let place = place(GenerationUid::from_bytes([3; 16]), CHAIN);
        ChainRecord { place, entries: vec![entry] }
    }

    #[test]
    fn a_record_is_read_as_members_of_its_interface() {
        let seen = seen(GenerationUid::from_bytes([3; 16]), &record(50, 4)).unwrap();
        assert_eq!(seen.chain, CHAIN);
        let [member] = seen.members.as_slice() else { panic!("one member") };
        assert_eq!(
            (member.function.as_str(), u32::from(member.priority), u32::from(member.effective), member.proceed_on),
            ("pass", 50, 60, ProceedOn::PASS)
        );
    }

    #[test]
    fn a_record_that_bpfd_would_not_write_is_not_read() {
        let generation = GenerationUid::from_bytes([3; 16]);
        assert!(seen(generation, &record(1001, 4)).is_none(), "priority");
        assert!(seen(generation, &record(50, 1 << 9)).is_none(), "verdicts");
        assert!(seen(GenerationUid::from_bytes([9; 16]), &record(50, 4)).is_none(), "another generation's");
    }
}
