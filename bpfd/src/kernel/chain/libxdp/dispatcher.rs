//! Dispatchers of libxdp's protocol: made, filled, held, read. What an interface runs is the kernel's word: the dispatcher's
//! configuration and the programs that stand in the place of its functions. Pins are how peers find them, not what is true.
//!
//! A dispatcher may have no map but its configuration, or peers take it for a plain program: our record of it lies beside it.
//! This file must never attach anything to an interface.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bpfd_core::cow::CowMap;
use bpfd_core::hook::{ChainId, InterfaceId, NamedChain, Point, ProceedOn};
use bpfd_core::ident::{GenerationUid, KernelId, SlotUid};
use bpfd_core::kernel::{ForeignSlot, LiveDispatcher, LiveGeneration, OurSlot, PinnedCopy, Slot, StepError};
use bpfd_core::names::Priority;
use bpfd_sys::bpf::{
    AttachType, BtfTypeId, F_RDONLY_PROG, LinkId, LinkInfo, LinkKind, Map, MapInfo, ProgId, btf_bytes, link_create_ext,
    link_info, prog_info,
};
use ebpf::actions::ActionMask;
use ebpf::chain_record::{CHAIN_MAP_NAME, ChainEntry, ChainRecord, MAX_FUNCTION};
use ebpf::dispatch_config::{self, DispatcherConfig, Version};
use ebpf::dispatcher::{NAME, full_name, slot_in_btf, version_in_btf};
use ebpf::relocate::KERNEL_NAME_MAX;

use super::copy;
use super::directory;
use super::load::load;
use crate::causes::error_chain as said;
use crate::kernel::chain::generation;
use crate::kernel::failed;
use crate::kernel::pins::{self, CHAIN_PROGRAM, CHAIN_RECORD, Pins};
use crate::worker::idlookup::{IdLookup, Replacement};

/// No version's configuration is as long; a longer value is not read.
const CONFIG_LIMIT: u32 = 4096;

/// A program in its slot, held by descriptors.
#[derive(Debug)]
pub(crate) struct HeldSlot {
    pub(crate) index: usize,
    pub(crate) program: OwnedFd,
    pub(crate) link: OwnedFd,
    /// Whether it is ours.
    pub(crate) ours: bool,
}

/// A dispatcher with its programs, held by descriptors for as long as an operation lasts: to pin it, and to put it back.
#[derive(Debug)]
pub(crate) struct HeldDispatcher {
    pub(crate) program: OwnedFd,
    pub(crate) id: KernelId,
    pub(crate) interface: InterfaceId,
    record: OwnedFd,
    pub(crate) slots: Vec<HeldSlot>,
}

/// What a generation is to be.
pub(crate) struct Wanted<'a> {
    pub(crate) generation: GenerationUid,
    pub(crate) chain: &'a NamedChain,
    pub(crate) version: u8,
    pub(crate) slots: &'a [Slot],
}

/// Makes a dispatcher and puts every program into its slot. Each was verified when it was loaded: this takes no longer for long
/// programs. A program of somebody else's that is gone by now is a race.
pub(crate) fn build(wanted: &Wanted<'_>, pins: &Pins, ids: &mut IdLookup) -> Result<HeldDispatcher, StepError> {
    let Wanted { generation, chain, version, slots } = *wanted;
    let interface = chain.id.interface;
    let doing = || format!("build a dispatcher for `{chain}`");
    let unknown = || StepError::Call { doing: doing(), errno: format!("version {version} is not known") };
    let version = Version::from_number(u32::from(version)).ok_or_else(unknown)?;
    let mut opened = Vec::new();
    for slot in slots {
        let found = open(slot, pins, ids).map_err(failed(doing))?;
        opened.push(found.ok_or_else(|| StepError::Raced(chain.name.clone()))?);
    }
    let loaded = load(&DispatcherConfig::of(version, opened.iter().map(|(_, config)| *config).collect()))?;
    let mut held = Vec::new();
    for (index, (slot, (program, _))) in slots.iter().zip(opened).enumerate() {
        let ours = slot.ours().is_some();
        let target = loaded.dispatcher.target(index).map(|target| BtfTypeId(target.btf_id));
        let target = target.ok_or_else(|| StepError::Call { doing: doing(), errno: "too many programs".to_owned() })?;
        let link = link_create_ext(program.as_fd(), loaded.program.as_fd(), target)
            .map_err(failed(|| format!("put `{}` into slot {index} of a dispatcher", name(slot))))?;
        held.push(HeldSlot { index, program, link, ours });
    }
    let record = record(generation, interface, slots)?;
    let id = KernelId(prog_info(loaded.program.as_fd()).map_err(failed(doing))?.id.0);
    Ok(HeldDispatcher { program: loaded.program, id, interface, record, slots: held })
}

/// The program for a slot and what the configuration says of it; `None` if it is gone.
fn open(slot: &Slot, pins: &Pins, ids: &mut IdLookup) -> io::Result<Option<(OwnedFd, dispatch_config::Slot)>> {
    match slot {
        Slot::Ours(slot) => Ok(copy::open(pins, slot.uid)?.map(|(program, flags)| {
            let actions = ActionMask::from_bits(slot.proceed_on().bits());
            (program, dispatch_config::Slot { priority: u32::from(slot.first.effective), actions, flags })
        })),
        Slot::Foreign(ForeignSlot { program, priority, actions, flags, .. }) => {
            let (actions, flags) = (ActionMask::from_bits(*actions), *flags);
            let config = dispatch_config::Slot { priority: *priority, actions, flags };
            Ok(ids.program(ProgId(program.0))?.map(|program| (program, config)))
        }
    }
}

fn name(slot: &Slot) -> &str {
    match slot {
        Slot::Ours(slot) => &slot.first.function,
        Slot::Foreign(slot) => &slot.name,
    }
}

fn record(generation: GenerationUid, interface: InterfaceId, slots: &[Slot]) -> Result<OwnedFd, StepError> {
    let place = generation::place(generation, ChainId { interface, point: Point::Xdp });
    let entries = slots.iter().map(|slot| match slot {
        Slot::Ours(slot) => generation::entry(&slot.first),
        Slot::Foreign(ForeignSlot { name, priority, actions, .. }) => ChainEntry {
            link: generation::FOREIGN,
            app: generation::FOREIGN,
            priority: *priority,
            effective: *priority,
            actions: ActionMask::from_bits(*actions),
            flags: 0,
            function: recordable(name),
        },
    });
    let record = ChainRecord { place, entries: entries.collect() };
    let bytes = record.encode().map_err(|error| StepError::Object { why: said(&error) })?;
    generation::freeze(CHAIN_MAP_NAME, &bytes).map_err(failed(|| format!("make the record of generation {generation}")))
}

/// A peer chooses its programs' names: any text of 1 to 256 bytes stands as it is.
fn recordable(name: &str) -> String {
    let end = (0..=name.len().min(MAX_FUNCTION)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name.get(..end).filter(|name| !name.is_empty() && !name.contains('\0')).unwrap_or("?").to_owned()
}

/// Pins a generation as `v1/top/<top>`, whole or not at all, with references of our own to our links in it.
pub(crate) fn pin(pins: &Pins, generation: GenerationUid, dispatcher: &HeldDispatcher) -> Result<(), StepError> {
    let doing = || format!("pin generation {generation}");
    pins::make_whole(&pins.generations, &generation.to_string(), |dir| {
        dir.pin(CHAIN_RECORD, dispatcher.record.as_fd()).map_err(failed(doing))?;
        for HeldSlot { index, link, .. } in dispatcher.slots.iter().filter(|slot| slot.ours) {
            dir.pin(&format!("link_{index}"), link.as_fd()).map_err(failed(doing))?;
        }
        dir.pin(CHAIN_PROGRAM, dispatcher.program.as_fd()).map_err(failed(doing))
    })
}

/// Takes hold of a dispatcher that runs, with all that is in it; `None` if it is gone, or none of libxdp's.
pub(crate) fn capture(
    generation: LiveGeneration,
    interface: InterfaceId,
    (pins, copies): (&Pins, &CowMap<SlotUid, PinnedCopy>),
    ids: &mut IdLookup,
) -> Result<Option<HeldDispatcher>, StepError> {
    let doing = || format!("take hold of dispatcher {}", generation.program);
    let pinned = pinned_links(pins, generation, interface.index).map_err(failed(doing))?;
    let Some(read) = read(ProgId(generation.program.0), &pinned, copies, ids).map_err(failed(doing))? else {
        return Ok(None);
    };
    let mut held = Vec::new();
    let mut recorded = Vec::new();
    for Filled { index, link, slot } in read.slots {
        let ours = slot.ours().is_some();
        let program = ids.program(ProgId(id(&slot, copies).0)).map_err(failed(doing))?;
        let link = ids.link(link).map_err(failed(doing))?;
        // Gone in this moment: it is nothing to keep any more.
        if let (Some(program), Some(link)) = (program, link) {
            held.push(HeldSlot { index, program, link, ours });
            recorded.push(slot);
        }
    }
    let record = record(generation.generation, interface, &recorded)?;
    Ok(Some(HeldDispatcher { program: read.program, id: generation.program, interface, record, slots: held }))
}

fn id(slot: &Slot, copies: &CowMap<SlotUid, PinnedCopy>) -> KernelId {
    match slot {
        Slot::Ours(slot) => copies.get(&slot.uid).map_or(KernelId(0), |copy| copy.program),
        Slot::Foreign(slot) => slot.program,
    }
}

/// A dispatcher, read from the kernel.
struct Read {
    program: OwnedFd,
    version: Version,
    /// As its configuration says.
    programs: usize,
    slots: Vec<Filled>,
}

struct Filled {
    index: usize,
    link: LinkId,
    slot: Slot,
}

/// What runs on an interface, if it is a dispatcher that bpfd can keep: peers' test, in their order (`xdp_multiprog__fill_from_fd`).
pub(crate) fn live(
    generation: LiveGeneration,
    names: &[String],
    (pins, ifindex): (&Pins, u32),
    copies: &CowMap<SlotUid, PinnedCopy>,
    ids: &mut IdLookup,
) -> io::Result<Option<LiveDispatcher>> {
    let pinned = pinned_links(pins, generation, ifindex)?;
    let Some(read) = read(ProgId(generation.program.0), &pinned, copies, ids)? else { return Ok(None) };
    let Read { program: _, version, programs, slots } = read;
    let empty = (0..programs).filter(|index| slots.iter().all(|filled| filled.index != *index));
    let lost = empty.map(|index| names.get(index).cloned().unwrap_or_else(|| format!("slot {index}"))).collect();
    let slots = slots.into_iter().map(|filled| filled.slot).collect();
    Ok(Some(LiveDispatcher { generation, version: version.number(), slots, lost }))
}

/// The links of a dispatcher that are pinned, by bpfd beside its record or for libxdp's users: most often all that it has.
fn pinned_links(pins: &Pins, generation: LiveGeneration, ifindex: u32) -> io::Result<Vec<OwnedFd>> {
    let own = generation::present_dir(pins.generations.subdir(&generation.generation.to_string()))?;
    let shared = directory::directory(&pins.bpffs, ifindex, generation.program)?;
    let mut links = Vec::new();
    for dir in own.iter().chain(&shared) {
        let names = dir.names()?;
        let of_links = names.iter().filter(|name| name.starts_with("link_") || name.ends_with("-link"));
        for name in of_links {
            links.extend(generation::present(dir.pinned(name))?);
        }
    }
    Ok(links)
}

/// What stands in the slots of a dispatcher, each link once. The links of the whole host are looked through only if the pinned ones are
/// not as many as the configuration says.
fn replacements(
    id: ProgId,
    programs: usize,
    pinned: &[OwnedFd],
    ids: &mut IdLookup,
) -> io::Result<BTreeMap<u32, Replacement>> {
    let mut found = BTreeMap::new();
    for fd in pinned {
        let LinkInfo { id: link, prog_id, kind } = link_info(fd.as_fd())?;
        if let LinkKind::Tracing { attach_type: AttachType::NONE, target_obj, target_btf } = kind
            && target_obj == id.0
        {
            found.insert(link.0, Replacement { link: link.0, program: prog_id.0, function: target_btf.0 });
        }
    }
    if found.len() != programs {
        found.extend(ids.replacements(id)?.into_iter().map(|replacement| (replacement.link, replacement)));
    }
    Ok(found)
}

fn read(
    id: ProgId,
    pinned: &[OwnedFd],
    copies: &CowMap<SlotUid, PinnedCopy>,
    ids: &mut IdLookup,
) -> io::Result<Option<Read>> {
    let Some(program) = ids.program(id)? else { return Ok(None) };
    let info = prog_info(program.as_fd())?;
    let (NAME, [map], Some(btf)) = (info.name.as_str(), info.map_ids.as_slice(), info.btf_id) else { return Ok(None) };
    let (Some(map), Some(btf)) = (ids.map(*map)?, ids.btf(btf)?) else { return Ok(None) };
    let map = Map::from_fd(map)?;
    if !is_config(&map.info()?) {
        return Ok(None);
    }
    let (Some(value), btf) = (map.lookup(&[0; 4])?, btf_bytes(btf.as_fd())?) else { return Ok(None) };
    let config = match DispatcherConfig::decode(&value, version_in_btf(&btf)) {
        // One that is bound to a device could not be rebuilt as it is.
        Ok(config) if !config.device_bound => config,
        Ok(_) | Err(_) => return Ok(None),
    };
    let mut slots = Vec::new();
    for Replacement { link, program, function } in replacements(id, config.slots.len(), pinned, ids)?.into_values() {
        let place = slot_in_btf(&btf, function).and_then(|index| Some((index, config.slots.get(index)?)));
        let Some((index, config)) = place else { continue };
        let slot = match copies.values().find(|copy| copy.program == KernelId(program)) {
            Some(copy) => Some(Slot::Ours(ours(&copy.slot, config))),
            None => foreign(ProgId(program), config, ids)?.map(Slot::Foreign),
        };
        slots.extend(slot.map(|slot| Filled { index, link: LinkId(link), slot }));
    }
    slots.sort_by_key(|filled| filled.index);
    Ok(Some(Read { program, version: config.version, programs: config.slots.len(), slots }))
}

fn is_config(map: &MapInfo) -> bool {
    map.key_size == 4 && map.max_entries == 1 && map.flags & F_RDONLY_PROG != 0 && map.value_size <= CONFIG_LIMIT
}

/// Our slot with its place as the dispatcher has it. What was asked for is known only if the link was not moved since its copy was made.
fn ours(slot: &OurSlot, config: &dispatch_config::Slot) -> OurSlot {
    let mut slot = slot.clone();
    let first = &mut slot.first;
    let effective = Priority::try_from(config.priority).unwrap_or(first.effective);
    if effective != first.effective {
        (first.priority, first.effective) = (effective, effective);
    }
    let last = slot.rest.last_mut().unwrap_or(first);
    last.proceed_on = ProceedOn::from_bits(config.actions.bits()).unwrap_or(last.proceed_on);
    slot
}

fn foreign(id: ProgId, config: &dispatch_config::Slot, ids: &mut IdLookup) -> io::Result<Option<ForeignSlot>> {
    let Some(program) = ids.program(id)? else { return Ok(None) };
    let info = prog_info(program.as_fd())?;
    let mut name = info.name;
    if let (true, Some(btf)) = (name.len() >= KERNEL_NAME_MAX, info.btf_id)
        && let Some(btf) = ids.btf(btf)?
    {
        name = full_name(&btf_bytes(btf.as_fd())?, &name).unwrap_or(name);
    }
    let dispatch_config::Slot { priority, actions, flags } = *config;
    Ok(Some(ForeignSlot {
        program: KernelId(id.0),
        name,
        tag: info.tag,
        load_time: info.load_time_ns,
        priority,
        actions: actions.bits(),
        flags,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_name_fits_into_a_record_whatever_it_is() {
        assert_eq!(recordable("pass"), "pass");
        assert_eq!(recordable(""), "?");
        assert_eq!(recordable("a\0b"), "?");
        assert_eq!(recordable(&"é".repeat(200)).len(), 256);
        assert_eq!(recordable(&format!("x{}", "é".repeat(200))).len(), 255);
    }
}
