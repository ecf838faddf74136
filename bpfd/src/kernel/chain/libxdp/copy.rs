//! Our copies of links' programs, made to go into a dispatcher's slot: loaded and verified before any hook is looked at, pinned in
//! our own tree, so that no peer's clean-up ends them. One copy a link; it moves from dispatcher to dispatcher as it is.
//!
//! The kernel checks such a program against a function of another one when it is loaded, and lets it be put in the place of any
//! function like it later (`bpf_tracing_prog_attach` of kernel/bpf/syscall.c): a dispatcher that nothing runs serves as the first.
//! This file must never touch an interface or a dispatcher that something runs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bpfd_core::ident::{KernelId, LinkUid};
use bpfd_core::kernel::{Member, PinnedCopy, StepError};
use bpfd_sys::bpf::{Target, prog_info};
use bpfd_sys::bpffs::Dir;
use ebpf::chain_record::{CHAIN_MAP_NAME, ChainEntry, ChainPlace, ChainRecord};

use super::load::Loaded;
use crate::causes::error_chain;
use crate::kernel::chain::generation;
use crate::kernel::failed;
use crate::kernel::pins::{self, CHAIN_PROGRAM, CHAIN_RECORD, Pins};
use crate::kernel::prepare::{Codes, load_extension};

/// A pinned copy, read.
#[derive(Debug)]
pub(crate) struct SeenCopy {
    pub(crate) pinned: PinnedCopy,
    /// As it was when the copy was made: priority and verdicts may have changed since.
    pub(crate) member: Member,
}

/// A copy that was made, held by descriptors only.
#[derive(Debug)]
pub(crate) struct BuiltCopy {
    program: OwnedFd,
    record: OwnedFd,
}

/// Loads a member's program against the template.
pub(crate) fn build(template: &Loaded, member: &Member, apps: &Codes) -> Result<BuiltCopy, StepError> {
    let Member { link, app, function, .. } = member;
    let missing = || StepError::Object { why: format!("it has no program `{function}`") };
    let code = apps.get(app).ok_or_else(missing)?;
    let program = code.programs.get(function).ok_or_else(missing)?;
    let target = Target::Program { fd: template.program.as_fd(), function: template.target };
    let copy = load_extension(program, code.types.needed(program)?, target).map_err(|error| error.of_link(*link))?;

    let entry = ChainEntry { flags: program.load.flags, ..generation::entry(member) };
    // Which generation and interface it runs in changes; the record names the link alone.
    let place = ChainPlace { generation: link.bytes(), ..ChainPlace::default() };
    let record = ChainRecord { place, entries: vec![entry] };
    let record = record.encode().map_err(|error| StepError::Object { why: error_chain(&error) })?;
    let record = generation::freeze(CHAIN_MAP_NAME, &record)
        .map_err(failed(|| format!("make the record of the copy of `{function}`")))?;
    Ok(BuiltCopy { program: copy, record })
}

/// Pins a copy as `v1/ext/<link>`, whole or not at all.
pub(crate) fn pin(pins: &Pins, member: &Member, built: &BuiltCopy) -> Result<(), StepError> {
    let Member { link, function, .. } = member;
    let doing = || format!("pin the copy of `{function}` for link {link}");
    pins::remove_whole(&pins.copies, &link.to_string()).map_err(failed(doing))?;
    pins::make_whole(&pins.copies, &link.to_string(), |dir| {
        dir.pin(CHAIN_RECORD, built.record.as_fd()).map_err(failed(doing))?;
        dir.pin(CHAIN_PROGRAM, built.program.as_fd()).map_err(failed(doing))
    })
}

/// Removes a copy's pins; nothing if there are none.
pub(crate) fn unpin(pins: &Pins, link: LinkUid) -> Result<(), StepError> {
    pins::remove_whole(&pins.copies, &link.to_string()).map_err(failed(|| format!("unpin the copy for link {link}")))
}

/// A pinned copy, opened, with the load flags of the program it is a copy of, which it does not have itself; `None` if there is none.
pub(crate) fn open(pins: &Pins, link: LinkUid) -> io::Result<Option<(OwnedFd, u32)>> {
    let dir = match pins.copies.subdir(&link.to_string()) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(program) = generation::present(dir.pinned(CHAIN_PROGRAM))? else { return Ok(None) };
    Ok(entry(&dir)?.map(|entry| (program, entry.flags)))
}

fn entry(dir: &Dir) -> io::Result<Option<ChainEntry>> {
    Ok(generation::record(dir, |_| true)?.and_then(|record| record.entries.into_iter().next()))
}

/// Removes what an earlier process left half-made, or somebody made so.
pub(crate) fn sweep(pins: &Pins) -> io::Result<()> {
    let (whole, half) = pins.copy_names()?;
    half.into_iter().try_for_each(|link| pins::remove_unfinished(&pins.copies, &link.to_string()))?;
    for link in whole {
        if read(pins, link)?.is_none() {
            pins::remove_whole(&pins.copies, &link.to_string())?;
        }
    }
    Ok(())
}

/// Every pinned copy.
pub(crate) fn observe(pins: &Pins) -> io::Result<BTreeMap<LinkUid, SeenCopy>> {
    let (whole, _half) = pins.copy_names()?;
    let mut copies = BTreeMap::new();
    for link in whole {
        copies.extend(read(pins, link)?.map(|seen| (link, seen)));
    }
    Ok(copies)
}

/// `None` if its program or its record is gone, or says something else than its name.
pub(crate) fn read(pins: &Pins, link: LinkUid) -> io::Result<Option<SeenCopy>> {
    let dir = pins.copies.subdir(&link.to_string())?;
    let Some(program) = generation::present(dir.pinned(CHAIN_PROGRAM))? else { return Ok(None) };
    let info = prog_info(program.as_fd())?;
    let Some(entry) = entry(&dir)? else { return Ok(None) };
    let member = generation::member(&entry).filter(|member| member.link == link);
    let pinned = PinnedCopy { program: KernelId(info.id.0), tag: info.tag, load_time: info.load_time_ns };
    Ok(member.map(|member| SeenCopy { pinned, member }))
}
