//! A generation of one program: a copy of the member's program, loaded with its app's maps and its own types, to which the record of it is
//! bound, so that the kernel alone tells whose it is. It may do what no fused program may: tail calls, callbacks, kernel functions.
//!
//! A copy, because the app's program may run elsewhere too, under another record; a tcx chain takes a program once (`bpf_mprog_attach` of
//! kernel/bpf/mprog.c), and one that moves is at its new place before it leaves the old one. This file must never touch an interface.

use std::os::fd::AsFd;

use bpfd_core::chain::room::Room;
use bpfd_core::hook::{ChainId, Point};
use bpfd_core::ident::{GenerationUid, KernelId};
use bpfd_core::kernel::{Member, StepError};
use bpfd_sys::bpf::{prog_bind_map, prog_info};
use ebpf::chain_record::{CHAIN_MAP_NAME, ChainRecord};
use ebpf::dispatcher::NAME as DISPATCHER;
use ebpf::fuse::{self, Size};
use ebpf::relocate::Finished;

use super::generation::{self, Built};
use crate::causes::error_chain;
use crate::kernel::failed;
use crate::kernel::prepare::{Codes, load};

/// The kernel's name of a copy that cannot have its function's.
const NAMELESS: &str = "bpfd_alone";

/// Builds it.
pub(crate) fn build(
    uid: GenerationUid,
    chain: ChainId,
    member: &Member,
    room: Room,
    apps: &Codes,
) -> Result<Built, StepError> {
    let Member { link, app, function, .. } = member;
    let missing = || StepError::Object { why: format!("it has no program `{function}`") };
    let code = apps.get(app).ok_or_else(missing)?;
    let finished = code.programs.get(function).ok_or_else(missing)?;
    // The next one on the interface is one program with it.
    let room = if chain.point == Point::Xdp { room } else { Room::All };
    let parts = [fuse::Member { entry: generation::entry(member), program: finished }];
    room.takes(Size::of(&parts)).map_err(StepError::Kept)?;
    let types = code.types.fd();
    let program = match finished.name == DISPATCHER {
        // By this name dispatchers are known.
        true => load(&Finished { name: NAMELESS.to_owned(), ..finished.clone() }, types),
        false => load(finished, types),
    };
    let program = program.map_err(|error| error.of_link(*link))?;
    let record = ChainRecord { place: generation::place(uid, chain), entries: vec![generation::entry(member)] };
    let record = record.encode().map_err(|error| StepError::Object { why: error_chain(&error) })?;
    let doing = || format!("make the record of generation {uid}");
    let record = generation::freeze(CHAIN_MAP_NAME, &record).map_err(failed(doing))?;
    prog_bind_map(program.as_fd(), record.as_fd()).map_err(failed(doing))?;
    let info = prog_info(program.as_fd()).map_err(failed(|| format!("read the program of generation {uid}")))?;
    room.takes_steps(info.verified_insns).map_err(StepError::Kept)?;
    Ok(Built { program, record, id: KernelId(info.id.0), chain })
}
