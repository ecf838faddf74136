//! From rows and observations to messages. Text that came from objects or peers goes out as it is: clients escape what they print.

use std::path::Path;

use bpfd_core::hook::{ChainKey, Placement, ProceedOn, XdpMode};
use bpfd_core::kernel::{ChainMode, ForeignSlot, Live, LiveTop, Member, Observed, SLOTS, Slot};
use bpfd_core::names::Netns;
use bpfd_core::order;
use bpfd_core::plan::LinkStatus;
use bpfd_core::request::GLOBAL_VALUE_MAX;
use bpfd_core::state::{App, Link, Owner, ProgramType, Reach, Source};
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;

use crate::engine::Snapshot;
use crate::images::Warning;
use crate::kernel::map_path;
use crate::pages;
use crate::progress::{Phase, Progress};

/// An app with what the kernel has of it.
pub(super) fn app(snapshot: &Snapshot, app: &App, pins: &Path) -> pb::App {
    let Snapshot { state, observed, statuses: _ } = snapshot;
    let pinned = observed.apps.get(&app.uid);
    let programs = app.programs.iter().map(|program| pb::Program {
        function: program.function.clone(),
        section: program.section.clone(),
        r#type: program_type(program.kind).into(),
        kernel_id: pinned.and_then(|pinned| pinned.programs.get(&program.function)).map(|id| id.0),
        tag: program.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
        verified_instructions: pinned.and_then(|pinned| pinned.verified.get(&program.function)).copied(),
    });
    let maps = app.maps.iter().map(|map| {
        let id = pinned.and_then(|pinned| pinned.maps.get(&map.name));
        let path = id.and_then(|_| map_path(pins, app.uid, &map.name));
        pb::Map {
            name: map.name.clone(),
            r#type: map.kind.clone(),
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            kernel_id: id.map(|id| id.0),
            pin_path: path.map(|path| path.display().to_string()),
        }
    });
    // Rows of earlier versions may have longer ones.
    let short = |text: &str| text.get(..text.floor_char_boundary(GLOBAL_VALUE_MAX)).unwrap_or_default().to_owned();
    let globals =
        app.globals.iter().map(|(name, set)| pb::GlobalSetting { name: name.clone(), value: short(&set.text) });
    pb::App {
        uid: app.uid.to_string(),
        name: app.name.to_string(),
        generation: app.generation,
        state: pb::AppState::Loaded.into(),
        cause: if pinned.is_some() { String::new() } else { "its pins are gone: `bpfctl doctor` says more".to_owned() },
        owner: Some(owner(&app.owner)),
        source: Some(source(app)),
        labels: app.labels.clone().into_iter().collect(),
        programs: programs.collect(),
        maps: maps.collect(),
        globals: globals.collect(),
        create_time: time(app.created),
        links: pages::texts(state.links_of(app.uid).map(|link| state.link_name(link)).collect()),
        reach: match app.reach {
            Reach::Kernel => pb::Reach::Kernel,
            Reach::Packet => pb::Reach::Packet,
        }
        .into(),
    }
}

fn owner(owner: &Owner) -> pb::Owner {
    pb::Owner { uid: owner.uid, user: owner.user.clone() }
}

fn source(app: &App) -> pb::AppSource {
    let source = match &app.source {
        Source::Image { reference, digest, signers } => pb::app_source::Source::Image(pb::ImageOrigin {
            reference: reference.clone(),
            digest: digest.clone(),
            signers: signers.clone(),
        }),
        Source::Upload => pb::app_source::Source::Upload(pb::UploadOrigin { name_hint: app.name.to_string() }),
    };
    pb::AppSource { source: Some(source), object_sha256: app.object.to_string() }
}

pub(super) fn program_type(kind: ProgramType) -> pb::ProgramType {
    match kind {
        ProgramType::Xdp => pb::ProgramType::Xdp,
        ProgramType::Tracepoint => pb::ProgramType::Tracepoint,
    }
}

/// A link with how it stands.
pub(super) fn link(snapshot: &Snapshot, link: &Link) -> pb::Link {
    let Snapshot { state, observed, statuses } = snapshot;
    let (link_state, cause) = match statuses.get(&link.uid) {
        Some(LinkStatus::Attached) => (pb::LinkState::Attached, String::new()),
        Some(LinkStatus::Waiting) => (pb::LinkState::Waiting, "the interface is absent".to_owned()),
        Some(LinkStatus::Drifted { cause }) => (pb::LinkState::Drifted, cause.clone()),
        None => (pb::LinkState::Unspecified, String::new()),
    };
    let (hook, priority, set, mode, position) = match &link.placement {
        Placement::Chain { key, priority, proceed_on: set, mode } => {
            // Places are counted from 1.
            let mut places = (1..).zip(observed.members(key));
            let position = places.find(|(_, member)| member.link == link.uid).map(|(place, _)| place);
            (xdp_hook(key), Some(u32::from(*priority)), Some(proceed_on(*set)), xdp_mode(*mode), position)
        }
        Placement::Tracepoint(tracepoint) => {
            let hook = pb::hook::Hook::Tracepoint(pb::TracepointHook {
                category: tracepoint.category().to_owned(),
                event: tracepoint.event().to_owned(),
            });
            (hook, None, None, pb::XdpMode::Unspecified, None)
        }
    };
    let pinned = observed.apps.get(&link.app);
    pb::Link {
        uid: link.uid.to_string(),
        name: state.link_name(link),
        generation: link.generation,
        state: link_state.into(),
        cause,
        app: state.apps.get(&link.app).map(|app| app.name.to_string()).unwrap_or_default(),
        app_uid: link.app.to_string(),
        function: link.function.clone(),
        hook: Some(pb::Hook { hook: Some(hook) }),
        priority,
        proceed_on: set,
        position,
        xdp_mode: mode.into(),
        owner_uid: link.owner.uid,
        origin: pb::LinkOrigin::Request.into(),
        kernel_program_id: pinned.and_then(|pinned| pinned.programs.get(&link.function)).map(|id| id.0),
        create_time: time(link.created),
    }
}

fn netns(netns: &Netns) -> Option<String> {
    match netns {
        Netns::Host => None,
        Netns::Named(name) => Some(name.to_string()),
    }
}

fn xdp_hook(key: &ChainKey) -> pb::hook::Hook {
    pb::hook::Hook::Xdp(pb::XdpHook { netns: netns(&key.netns), interface: key.interface.to_string() })
}

fn xdp_mode(mode: XdpMode) -> pb::XdpMode {
    match mode {
        XdpMode::Auto => pb::XdpMode::Auto,
        XdpMode::Native => pb::XdpMode::Native,
        XdpMode::Generic => pb::XdpMode::Generic,
    }
}

fn proceed_on(set: ProceedOn) -> pb::ProceedOn {
    let action = |name: &str| match name {
        "aborted" => pb::XdpAction::Aborted,
        "drop" => pb::XdpAction::Drop,
        "pass" => pb::XdpAction::Pass,
        "tx" => pb::XdpAction::Tx,
        "redirect" => pb::XdpAction::Redirect,
        _ => pb::XdpAction::Unspecified,
    };
    pb::ProceedOn { xdp: set.names().into_iter().map(|name| action(name).into()).collect() }
}

/// A chain as the kernel has it, beside what was asked for.
pub(super) fn chain(snapshot: &Snapshot, key: &ChainKey, bpffs: &Path) -> Option<pb::Chain> {
    let Snapshot { state, observed, statuses } = snapshot;
    let seen = observed.chains.get(key)?;
    let interface = seen.interface?;
    let (mode, cause) = match &seen.mode {
        ChainMode::Fused { cause } => (pb::ChainMode::Fused, cause.clone()),
        ChainMode::Libxdp => {
            (pb::ChainMode::Libxdp, "this kernel lets one program replace another's function".to_owned())
        }
    };
    let mut slots = None;
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
        Live::Ours(LiveTop { program, .. }) => (Some(program.0), members(snapshot, observed, key)),
        Live::Dispatcher(live) => {
            let lost = |name: &String| format!("`{name}` is no longer in its slot: somebody removed its pins");
            findings.extend(live.lost.iter().map(lost));
            slots = u32::try_from(live.slots.len()).ok();
            let directory = bpffs.join(format!("xdp/dispatch-{}-{}", interface.index, live.top.program));
            let members = (0..).zip(&live.slots).map(|(slot, found)| match found {
                Slot::Ours(found) => pb::ChainMember { slot: Some(slot), ..member(snapshot, slot + 1, found) },
                Slot::Foreign(found) => foreign_member(found, slot, &directory),
            });
            (Some(live.top.program.0), members.collect())
        }
        Live::Foreign(foreign) => {
            let holder = foreign.holders.join(", ");
            let member = pb::ForeignProgram { name: foreign.name.clone(), holder, pin_path: String::new() };
            let member = pb::ChainMember {
                position: 1,
                program: Some(pb::chain_member::Program::Foreign(member)),
                kernel_program_id: Some(foreign.program.0),
                ..Default::default()
            };
            (Some(foreign.program.0), vec![member])
        }
    };
    for row in order::ordered(state, key) {
        if let Some(LinkStatus::Drifted { cause }) = statuses.get(&row.uid) {
            findings.push(format!("`{}` is not as asked: {cause}", state.link_name(row)));
        }
    }
    let findings = pages::texts(findings);
    Some(pb::Chain {
        netns: netns(&key.netns),
        interface: key.interface.to_string(),
        ifindex: interface.index,
        hook: pb::ChainHook::Xdp.into(),
        mode: mode.into(),
        mode_cause: cause,
        xdp_mode: seen.driven.map_or(pb::XdpMode::Unspecified, xdp_mode).into(),
        kernel_program_id: program,
        slots_used: slots,
        slots: slots.and_then(|_| u32::try_from(SLOTS).ok()),
        members,
        findings,
    })
}

fn members(snapshot: &Snapshot, observed: &Observed, key: &ChainKey) -> Vec<pb::ChainMember> {
    (1..).zip(observed.members(key)).map(|(position, found)| member(snapshot, position, &found)).collect()
}

fn member(snapshot: &Snapshot, position: u32, member: &Member) -> pb::ChainMember {
    let Snapshot { state, observed, statuses: _ } = snapshot;
    let row = state.links.get(&member.link);
    let program = observed.apps.get(&member.app).and_then(|app| app.programs.get(&member.function));
    let ext = observed.exts.get(&member.link).map(|ext| ext.program);
    let known = state.apps.get(&member.app).and_then(|app| app.program(&member.function)).map(|program| program.tag);
    pb::ChainMember {
        position,
        slot: None,
        program: row.map(|row| pb::chain_member::Program::Link(link(snapshot, row))),
        priority: member.priority.into(),
        proceed_on: Some(proceed_on(member.proceed_on)),
        kernel_program_id: ext.or(program.copied()).map(|id| id.0),
        tag: known.map(|tag| hex(&tag)).unwrap_or_default(),
    }
}

/// Somebody else's program in a dispatcher, with where its owner's pins should be.
fn foreign_member(found: &ForeignSlot, slot: u32, directory: &Path) -> pb::ChainMember {
    let ForeignSlot { program, name, tag, load_time: _, priority, actions, flags: _ } = found;
    let path = directory.join(format!("prog{slot}-prog"));
    let (holder, pin_path) = match path.exists() {
        true => ("libxdp".to_owned(), path.display().to_string()),
        false => (String::new(), String::new()),
    };
    pb::ChainMember {
        position: slot + 1,
        slot: Some(slot),
        program: Some(pb::chain_member::Program::Foreign(pb::ForeignProgram { name: name.clone(), holder, pin_path })),
        priority: *priority,
        // Bits without a name are not shown.
        proceed_on: ProceedOn::from_bits(actions & 0x1f).ok().map(proceed_on),
        kernel_program_id: Some(program.0),
        tag: hex(tag),
    }
}

fn hex(tag: &[u8; 8]) -> String {
    tag.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A report.
pub(super) fn progress(progress: Progress) -> pb::Progress {
    let Progress { phase, digest, done, total } = progress;
    let phase = match phase {
        Phase::Resolve => pb::Phase::Resolve,
        Phase::Verify => pb::Phase::Verify,
        Phase::Fetch => pb::Phase::Fetch,
        Phase::Inspect => pb::Phase::Inspect,
        Phase::Load => pb::Phase::Load,
        Phase::Attach => pb::Phase::Attach,
    };
    pb::Progress { phase: phase.into(), digest, done_bytes: done, total_bytes: total }
}

/// A plan, a line an entry.
pub(super) fn plan(text: Option<String>) -> Vec<String> {
    pages::texts(text.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default())
}

/// Warnings that came with a result.
pub(super) fn warnings(warnings: Vec<Warning>) -> Vec<pb::Warning> {
    let warning = |warning| {
        let (reason, message) = match warning {
            Warning::Unreachable(why) => (ErrorReason::RegistryUnreachable, why),
        };
        pb::Warning { reason: reason.word().to_owned(), message, hint: String::new() }
    };
    warnings.into_iter().map(warning).collect()
}

/// No more warnings than are read; of the rest the last one says how many there are.
pub(super) fn few(mut warnings: Vec<pb::Warning>) -> Vec<pb::Warning> {
    const SHOWN: usize = 64;
    let more = warnings.len().saturating_sub(SHOWN);
    if let Some(last) = warnings.last().filter(|_| more > 0).cloned() {
        warnings.truncate(SHOWN);
        warnings.push(pb::Warning { message: format!("and {more} more"), ..last });
    }
    warnings
}

/// What `--all` leaves, and why.
pub(super) fn stays(what: &str, owner: &Owner) -> pb::Warning {
    pb::Warning {
        reason: ErrorReason::PolicyDenied.word().to_owned(),
        message: format!("{what} stays: it belongs to {owner}"),
        hint: "ask its owner, or root".to_owned(),
    }
}

pub(super) fn time(seconds: u64) -> Option<prost_types::Timestamp> {
    i64::try_from(seconds).ok().map(|seconds| prost_types::Timestamp { seconds, nanos: 0 })
}
