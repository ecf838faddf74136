//! Chains: what shared hooks run, beside what was asked for.

use bpfd_core::hook::{ChainId, ProceedOn};
use bpfd_core::kernel::{
    ChainMode, DispatcherVersion, EntryProgram, ForeignProgram, ForeignSlot, Live, LiveGeneration, Member, Observed,
    SLOTS, SequenceEntry, Slot,
};
use bpfd_core::order;
use bpfd_core::plan::LinkStatus;
use bpfd_core::snapshot::Snapshot;

use super::hook::shared::{chain_hook, netns, proceed_on};
use super::hook::xdp::mode as xdp_mode;
use super::{BadField, Paths, bad, link, texts};
use crate::v1 as pb;

/// A chain as the kernel has it, beside what was asked for.
pub fn chain(snapshot: &Snapshot, id: &ChainId, paths: &impl Paths) -> Option<pb::Chain> {
    let Snapshot { state, observed, statuses, .. } = snapshot;
    let seen = observed.chains.get(id)?;
    let (mode, cause) = match &seen.mode {
        ChainMode::Fused { cause } => (pb::ChainMode::Fused, cause.clone()),
        ChainMode::Libxdp => {
            (pb::ChainMode::Libxdp, "this kernel lets one program replace another's function".to_owned())
        }
        ChainMode::Tcx => (pb::ChainMode::Tcx, "this kernel has tcx".to_owned()),
        ChainMode::Clsact { cause } => (pb::ChainMode::Clsact, cause.clone()),
    };
    let (mut slots, mut version) = (None, None);
    let mut findings = Vec::new();
    let (mode, cause) = match (&seen.live, mode) {
        (Live::Foreign(_), _) => (pb::ChainMode::Foreign, "neither bpfd's nor libxdp's".to_owned()),
        (Live::Dispatcher(_), pb::ChainMode::Fused) => {
            (pb::ChainMode::Libxdp, "the dispatcher that is there is kept".to_owned())
        }
        _ => (mode, cause),
    };
    let (program, members) = match &seen.live {
        Live::Empty => (None, vec![]),
        Live::Ours(LiveGeneration { program, .. }) => (Some(program.0), members(snapshot, observed, id)),
        Live::Dispatcher(live) => {
            let lost = |name: &String| format!("`{name}` is no longer in its slot: somebody removed its pins");
            findings.extend(live.lost.iter().map(lost));
            slots = u32::try_from(live.slots.len()).ok();
            version = Some(live.version);
            let pin = |slot| paths.libxdp_pin(id.interface.index, live.generation.program, slot);
            let members = (0..).zip(&live.slots).flat_map(|(slot, found)| match found {
                Slot::Ours(found) => {
                    let of_slot = |found| pb::ChainMember { slot: Some(slot), ..member(snapshot, 0, found) };
                    found.members().map(of_slot).collect()
                }
                Slot::Foreign(found) => vec![foreign_member(found, slot, pin(slot))],
            });
            let members = (1..).zip(members).map(|(position, member)| pb::ChainMember { position, ..member });
            (Some(live.generation.program.0), members.collect())
        }
        Live::Foreign(foreign) => (Some(foreign.program.0), vec![alone(1, foreign)]),
        Live::Sequence(sequence) => {
            let member = |(position, SequenceEntry { preference, program }): (u32, &SequenceEntry)| {
                let found = match program {
                    EntryProgram::Foreign(foreign) => alone(position, foreign),
                    EntryProgram::Ours(live) => {
                        let found =
                            observed.members_of(live.generation).first().map(|found| member(snapshot, position, found));
                        pb::ChainMember {
                            position,
                            kernel_program_id: Some(live.program.0),
                            ..found.unwrap_or_default()
                        }
                    }
                };
                pb::ChainMember { preference: preference.map(u32::from), ..found }
            };
            let known = seen.is_order_known();
            let places = (1..).map(|place| if known { place } else { 0 });
            (None, places.zip(sequence).map(member).collect())
        }
    };
    for row in order::ordered(state, id) {
        if let Some(LinkStatus::Drifted { cause }) = statuses.get(&row.uid) {
            findings.push(format!("`{}` is not as requested: {cause}", state.link_name(row)));
        }
    }
    Some(pb::Chain {
        netns: netns(&seen.name.netns),
        interface: seen.name.interface.to_string(),
        ifindex: id.interface.index,
        hook: chain_hook(id.point).into(),
        mode: mode.into(),
        mode_cause: cause,
        xdp_mode: seen.driven.map_or(pb::XdpMode::Unspecified, xdp_mode).into(),
        kernel_program_id: program,
        slots_used: slots,
        slots: slots.and_then(|_| u32::try_from(SLOTS).ok()),
        members,
        findings: texts(findings),
        dispatcher_version: version.map(u32::from),
        shut_out: version.map(shut_out).unwrap_or_default().to_owned(),
    })
}

/// Who cannot change a chain whose dispatcher has this version (measured with libxdp 1.3.1, 1.5.4 and 1.6.3).
fn shut_out(version: u8) -> &'static str {
    match version {
        3.. => "libxdp before 1.6 can neither show nor change it",
        0..3 => "libxdp 1.6 and later can show it, and unload all of it, but cannot add to it",
    }
}

/// The version that a request names.
pub fn dispatcher_version(number: u32) -> Result<DispatcherVersion, BadField> {
    let known = u8::try_from(number).ok().and_then(|number| DispatcherVersion::try_from(number).ok());
    known.ok_or_else(|| bad("dispatcher_version", format!("{number} is no version that bpfd makes: give 2 or 3")))
}

fn members(snapshot: &Snapshot, observed: &Observed, id: &ChainId) -> Vec<pb::ChainMember> {
    (1..).zip(observed.members(id)).map(|(position, found)| member(snapshot, position, &found)).collect()
}

fn member(snapshot: &Snapshot, position: u32, member: &Member) -> pb::ChainMember {
    let Snapshot { state, observed, .. } = snapshot;
    let row = state.links.get(&member.link);
    let program = observed.apps.get(&member.app).and_then(|app| app.programs.get(&member.function));
    let copy = observed
        .copies
        .values()
        .find(|copy| copy.slot.links().any(|link| link == member.link))
        .map(|copy| copy.program);
    let known = state.apps.get(&member.app).and_then(|app| app.program(&member.function)).map(|program| program.tag);
    pb::ChainMember {
        position,
        slot: None,
        preference: None,
        program: row.map(|row| pb::chain_member::Program::Link(link(snapshot, row))),
        priority: member.priority.into(),
        effective_priority: member.effective.into(),
        proceed_on: Some(proceed_on(member.proceed_on)),
        kernel_program_id: copy.or(program.copied()).map(|id| id.0),
        tag: known.map(|tag| hex(&tag)).unwrap_or_default(),
    }
}

/// Somebody else's program, of which no more is known.
fn alone(position: u32, foreign: &ForeignProgram) -> pb::ChainMember {
    let (name, holder) = (foreign.name.clone(), foreign.holders.join(", "));
    let program = pb::ForeignProgram { name, holder, pin_path: String::new() };
    pb::ChainMember {
        position,
        program: Some(pb::chain_member::Program::Foreign(program)),
        kernel_program_id: Some(foreign.program.0),
        ..Default::default()
    }
}

/// Somebody else's program in a dispatcher, with the pin that libxdp made for it.
fn foreign_member(found: &ForeignSlot, slot: u32, pin: Option<String>) -> pb::ChainMember {
    let ForeignSlot { program, name, tag, load_time: _, priority, actions, flags: _ } = found;
    let holder = if pin.is_some() { "libxdp".to_owned() } else { String::new() };
    let pin_path = pin.unwrap_or_default();
    pb::ChainMember {
        position: slot + 1,
        slot: Some(slot),
        program: Some(pb::chain_member::Program::Foreign(pb::ForeignProgram { name: name.clone(), holder, pin_path })),
        priority: *priority,
        effective_priority: *priority,
        preference: None,
        // Bits without a name are not shown.
        proceed_on: ProceedOn::from_bits(actions & 0x1f).ok().map(proceed_on),
        kernel_program_id: Some(program.0),
        tag: hex(tag),
    }
}

pub(super) fn hex(tag: &[u8; 8]) -> String {
    tag.iter().map(|byte| format!("{byte:02x}")).collect()
}
