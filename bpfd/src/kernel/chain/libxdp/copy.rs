//! Our copies of links' programs, made to go into a dispatcher's slot: loaded and verified before any hook is looked at, pinned in
//! our own tree, so that no peer's clean-up ends them. One copy a slot; it moves from dispatcher to dispatcher as it is.
//!
//! The kernel checks such a program against a function of another one when it is loaded, and lets it be put in the place of any
//! function like it later (`bpf_tracing_prog_attach` of kernel/bpf/syscall.c): a dispatcher that nothing runs serves as the first.
//! This file must never touch an interface or a dispatcher that something runs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bpfd_core::cow::CowMap;
use bpfd_core::ident::{KernelId, SlotUid};
use bpfd_core::kernel::{Member, OurSlot, PinnedCopy, StepError};
use bpfd_sys::bpf::{Target, prog_info};
use ebpf::chain_record::{CHAIN_MAP_NAME, ChainEntry, ChainPlace, ChainRecord};

use super::load::Loaded;
use crate::causes::error_chain;
use crate::kernel::chain::generation;
use crate::kernel::failed;
use crate::kernel::pins::{self, CHAIN_PROGRAM, CHAIN_RECORD, Pins};
use crate::kernel::prepare::{Codes, load_extension};

/// A copy that was made, held by descriptors only.
#[derive(Debug)]
pub(crate) struct BuiltCopy {
    program: OwnedFd,
    /// The load flags of the program that it is a copy of.
    flags: u32,
}

/// Loads what a slot runs against the template.
pub(crate) fn build(template: &Loaded, members: &[Member], apps: &Codes) -> Result<BuiltCopy, StepError> {
    let [Member { link, app, function, .. }] = members else {
        let why = "programs of several links cannot go into one slot of a dispatcher".to_owned();
        let member = members.first().map_or_else(String::new, |member| member.function.clone());
        return Err(StepError::CannotFuse { member, link: None, why });
    };
    let missing = || StepError::Object { why: format!("it has no program `{function}`") };
    let code = apps.get(app).ok_or_else(missing)?;
    let program = code.programs.get(function).ok_or_else(missing)?;
    let target = Target::Program { fd: template.program.as_fd(), function: template.target };
    let copy = load_extension(program, code.types.needed(program)?, target).map_err(|error| error.of_link(*link))?;
    Ok(BuiltCopy { program: copy, flags: program.load.flags })
}

/// Pins a copy as `v1/ext/<slot>`, whole or not at all.
pub(crate) fn pin(pins: &Pins, slot: &OurSlot, built: &BuiltCopy) -> Result<(), StepError> {
    let uid = slot.uid;
    let doing = || format!("pin the copy of `{}` for slot {uid}", slot.first.function);
    let entries = slot.members().map(|member| ChainEntry { flags: built.flags, ..generation::entry(member) });
    // Which generation and interface it runs in changes; the record names the slot alone.
    let place = ChainPlace { generation: uid.bytes(), ..ChainPlace::default() };
    let record = ChainRecord { place, entries: entries.collect() };
    let record = record.encode().map_err(|error| StepError::Object { why: error_chain(&error) })?;
    let record = generation::freeze(CHAIN_MAP_NAME, &record).map_err(failed(doing))?;
    pins::remove_whole(&pins.copies, &uid.to_string()).map_err(failed(doing))?;
    pins::make_whole(&pins.copies, &uid.to_string(), |dir| {
        dir.pin(CHAIN_RECORD, record.as_fd()).map_err(failed(doing))?;
        dir.pin(CHAIN_PROGRAM, built.program.as_fd()).map_err(failed(doing))
    })
}

/// Removes a copy's pins; nothing if there are none.
pub(crate) fn unpin(pins: &Pins, slot: SlotUid) -> Result<(), StepError> {
    pins::remove_whole(&pins.copies, &slot.to_string()).map_err(failed(|| format!("unpin the copy for slot {slot}")))
}

/// A pinned copy, opened, with the load flags of the program it is a copy of, which it does not have itself; `None` if there is none.
pub(crate) fn open(pins: &Pins, slot: SlotUid) -> io::Result<Option<(OwnedFd, u32)>> {
    let dir = match pins.copies.subdir(&slot.to_string()) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(program) = generation::present(dir.pinned(CHAIN_PROGRAM))? else { return Ok(None) };
    let record = generation::record(&dir, |_| true)?;
    Ok(record.and_then(|record| record.entries.first().map(|entry| (program, entry.flags))))
}

/// Removes what an earlier process left half-made, or somebody made so.
pub(crate) fn sweep(pins: &Pins) -> io::Result<()> {
    let (whole, half) = pins.copy_names()?;
    half.into_iter().try_for_each(|slot| pins::remove_unfinished(&pins.copies, &slot.to_string()))?;
    for slot in whole {
        if read(pins, slot)?.is_none() {
            pins::remove_whole(&pins.copies, &slot.to_string())?;
        }
    }
    Ok(())
}

/// Every pinned copy.
pub(crate) fn observe(pins: &Pins) -> io::Result<CowMap<SlotUid, PinnedCopy>> {
    let (whole, _half) = pins.copy_names()?;
    let mut copies = CowMap::default();
    for slot in whole {
        copies.extend(read(pins, slot)?.map(|seen| (slot, seen)));
    }
    Ok(copies)
}

/// `None` if its program or its record is gone, or says something else than its name.
pub(crate) fn read(pins: &Pins, uid: SlotUid) -> io::Result<Option<PinnedCopy>> {
    let dir = pins.copies.subdir(&uid.to_string())?;
    let Some(program) = generation::present(dir.pinned(CHAIN_PROGRAM))? else { return Ok(None) };
    let info = prog_info(program.as_fd())?;
    let record = generation::record(&dir, |_| true)?.filter(|record| record.place.generation == uid.bytes());
    let members = record.and_then(|record| record.entries.iter().map(generation::member).collect::<Option<Vec<_>>>());
    let mut members = members.unwrap_or_default().into_iter();
    let Some(first) = members.next() else { return Ok(None) };
    let slot = OurSlot { uid, first, rest: members.collect() };
    Ok(Some(PinnedCopy { slot, program: KernelId(info.id.0), tag: info.tag, load_time: info.load_time_ns }))
}
