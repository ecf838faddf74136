//! Apps and links, with how they stand, to messages.

use bpfd_core::kernel::ObservedChain;
use bpfd_core::names::Netns;
use bpfd_core::plan::LinkStatus;
use bpfd_core::request::GLOBAL_VALUE_MAX;
use bpfd_core::snapshot::Snapshot;
use bpfd_core::state::{App, Link, LinkOrigin, Map, Owner, Persist, Reach, Shared, Source};
use bpfd_core::watched::WATCHED_MAX;

use super::hook::{Placed, placed, program_type};
use super::{Paths, chain, texts, time};
use crate::v1 as pb;

/// An app with what the kernel has of it.
pub fn app(snapshot: &Snapshot, app: &App, paths: &impl Paths) -> pb::App {
    let Snapshot { state, observed, .. } = snapshot;
    let pinned = observed.apps.get(&app.uid);
    let refused = snapshot.unauthorised.apps.get(&app.uid);
    let (app_state, cause) = match (refused, pinned) {
        (Some(why), Some(_)) => (pb::AppState::Unauthorised, unauthorised(why)),
        (Some(why), None) => (pb::AppState::Unauthorised, why.clone()),
        (None, Some(_)) => (pb::AppState::Loaded, String::new()),
        (None, None) => (pb::AppState::Failed, "its pins are missing: `bpfctl doctor` shows details".to_owned()),
    };
    let programs = app.programs.iter().map(|program| pb::Program {
        handle: program.handle.0,
        function: program.function.clone(),
        section: program.section.clone(),
        r#type: program_type(program.kind).into(),
        kernel_id: pinned.and_then(|pinned| pinned.programs.get(&program.function)).map(|id| id.0),
        tag: chain::hex(&program.tag),
        verified_instructions: pinned.and_then(|pinned| pinned.verified.get(&program.function)).copied(),
    });
    let maps = app.maps.iter().map(|found| map(snapshot, app, found, paths));
    // Rows of earlier versions may have longer values.
    let short = |text: &str| text.get(..text.floor_char_boundary(GLOBAL_VALUE_MAX)).unwrap_or_default().to_owned();
    let globals =
        app.globals.iter().map(|(name, set)| pb::GlobalSetting { name: name.clone(), value: short(&set.text) });
    pb::App {
        uid: app.uid.to_string(),
        handle: app.handle.0,
        name: app.name.to_string(),
        generation: app.generation,
        state: app_state.into(),
        cause,
        owner: Some(owner(&app.owner)),
        source: Some(source(app)),
        labels: app.labels.clone(),
        user_labels: app.user_labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        programs: programs.collect(),
        maps: maps.collect(),
        globals: globals.collect(),
        persist: Persist::from(app.lifetime) == Persist::Yes,
        program_file: app.origin.file().map(|origin| origin.file.clone()).unwrap_or_default(),
        create_time: time(app.created),
        links: texts(state.links_of(app.uid).map(|link| state.link_name(link)).collect()),
        reach: match app.reach {
            Reach::Kernel => pb::Reach::Kernel,
            Reach::Packet => pb::Reach::Packet,
        }
        .into(),
    }
}

/// A map of an app with what the kernel has of it.
pub fn map(snapshot: &Snapshot, app: &App, map: &Map, paths: &impl Paths) -> pb::Map {
    let id = snapshot.observed.apps.get(&app.uid).and_then(|pinned| pinned.maps.get(&map.name));
    pb::Map {
        name: map.name.clone(),
        r#type: map.kind.clone(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        kernel_id: id.map(|id| id.0),
        pin_path: id.and_then(|_| paths.map_pin(app.uid, &map.name)),
        shared_from: map
            .shared
            .as_ref()
            .map(|Shared { app, name, origin: _ }| pb::SharedFrom { app_uid: app.to_string(), app: name.to_string() }),
    }
}

/// It was made under another policy, and stays until somebody enforces this one.
fn unauthorised(why: &str) -> String {
    format!("the policy would refuse it now: {why}")
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

/// Why a link may be shown as it was some time ago.
fn not_watched(netns: &Netns) -> String {
    format!(
        "network namespace `{netns}` is not watched (limit {WATCHED_MAX}): this link is updated when it is changed, or when bpfd starts"
    )
}

/// A link with how it stands.
pub fn link(snapshot: &Snapshot, link: &Link) -> pb::Link {
    let Snapshot { state, observed, statuses, unwatched, .. } = snapshot;
    let netns = link.placement.asked().map(|name| &name.netns);
    let unwatched = netns.filter(|netns| matches!(netns, Netns::Named(name) if unwatched.contains(name)));
    let (link_state, cause) = match (statuses.get(&link.uid), unwatched) {
        (Some(LinkStatus::Attached), None) => (pb::LinkState::Attached, String::new()),
        (Some(LinkStatus::Waiting), None) => (pb::LinkState::Waiting, "the interface is absent".to_owned()),
        (Some(LinkStatus::Attached), Some(netns)) => (pb::LinkState::Attached, not_watched(netns)),
        (Some(LinkStatus::Waiting), Some(netns)) => {
            (pb::LinkState::Waiting, format!("the interface is absent, and {}", not_watched(netns)))
        }
        (Some(LinkStatus::Drifted { cause }), _) => (pb::LinkState::Drifted, cause.clone()),
        (None, _) => (pb::LinkState::Unspecified, String::new()),
    };
    let (link_state, cause) = match snapshot.unauthorised.links.get(&link.uid) {
        Some(why) if snapshot.is_refused(link.app) => (pb::LinkState::Unauthorised, why.clone()),
        Some(why) => {
            let also = if cause.is_empty() { cause } else { format!("; {cause}") };
            (pb::LinkState::Unauthorised, format!("{}{also}", unauthorised(why)))
        }
        None => (link_state, cause),
    };
    // Places are counted from 1.
    let chain = link.chain().filter(|chain| observed.chains.get(chain).is_some_and(ObservedChain::is_order_known));
    let places = chain.map(|chain| (1..).zip(observed.members(&chain)));
    let place = places.and_then(|mut places| places.find(|(_, member)| member.link == link.uid));
    let Placed { hook, priority, effective_priority, order, proceed_on, mode } = placed(&link.placement);
    let pinned = observed.apps.get(&link.app);
    pb::Link {
        uid: link.uid.to_string(),
        handle: link.handle.0,
        name: state.link_name(link),
        name_now: state.link_name_now(link).unwrap_or_default(),
        generation: link.generation,
        state: link_state.into(),
        cause,
        app: state.apps.get(&link.app).map(|app| app.name.to_string()).unwrap_or_default(),
        app_uid: link.app.to_string(),
        function: link.function.clone(),
        hook: Some(pb::Hook { hook: Some(hook) }),
        priority,
        effective_priority,
        order,
        proceed_on,
        position: place.map(|(place, _)| place),
        xdp_mode: mode.into(),
        owner_uid: link.owner.uid,
        origin: match link.origin {
            LinkOrigin::Request => pb::LinkOrigin::Request,
            LinkOrigin::File => pb::LinkOrigin::File,
        }
        .into(),
        kernel_program_id: pinned.and_then(|pinned| pinned.programs.get(&link.function)).map(|id| id.0),
        create_time: time(link.created),
        persist: Persist::from(link.lifetime) == Persist::Yes,
    }
}
