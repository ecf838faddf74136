//! How the API's messages look, where more than one verb shows them. Words and columns only; no calls.

use bpfd_proto::codec::v1 as codec;
use bpfd_proto::v1::{self as pb, app_source};
use serde_json::Value;

use crate::args::DryRun;
use crate::client::Session;
use crate::error::{Failure, note};
use crate::output::{Block, View, messages};

/// What stands where there is nothing.
pub(crate) const NONE: &str = "-";

const PLACES: &[&str] = &["PROGRAM", "TYPE", "HOOK", "PRIO", "POS", "STATE"];
/// The same where something is there after a reboot.
const PLACES_KEPT: &[&str] = &["PROGRAM", "TYPE", "HOOK", "PRIO", "POS", "PERSIST", "STATE"];
/// All that is known of a place.
const PLACES_WIDE: &[&str] = &[
    "PROGRAM",
    "TYPE",
    "HOOK",
    "PRIO",
    "EFFECTIVE",
    "POS",
    "PERSIST",
    "STATE",
    "PROCEED-ON",
    "KERNEL-ID",
    "OWNER",
    "HANDLE",
    "CAUSE",
];

/// Apps with their links: a row for each link, and for each program that has none.
pub(crate) struct Apps {
    pub(crate) apps: Vec<pb::App>,
    pub(crate) links: Vec<pb::Link>,
}

impl View for Apps {
    fn kind(&self) -> &'static str {
        "App"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.apps)
    }

    fn names(&self) -> Vec<String> {
        self.apps.iter().map(|app| app.name.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        table(self.rows())
    }

    fn wide(&self) -> Vec<Block> {
        wide_table(self.rows())
    }

    fn nothing(&self) -> &'static str {
        "no programs"
    }
}

impl Apps {
    fn rows(&self) -> Vec<PlaceRow> {
        self.apps.iter().flat_map(|app| places(app, &self.links)).collect()
    }
}

/// Links by themselves.
pub(crate) struct Links(pub(crate) Vec<pb::Link>);

impl View for Links {
    fn kind(&self) -> &'static str {
        "Link"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.0)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|link| link.name.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        table(self.0.iter().map(|link| place(link, NONE.to_owned())).collect())
    }

    fn wide(&self) -> Vec<Block> {
        wide_table(self.0.iter().map(|link| place(link, NONE.to_owned())).collect())
    }

    fn nothing(&self) -> &'static str {
        "no links"
    }
}

/// Says of each link that an order of the policy moved where it runs.
pub(crate) fn tell_orders(session: &Session, links: &[pb::Link]) {
    let ordered = links.iter().filter(|link| !link.order.is_empty() && !session.printer.is_quiet());
    ordered.for_each(|link| {
        let pb::Link { name, order, .. } = link;
        let (asked, runs) = (or_none(link.priority), or_none(link.effective_priority));
        note(&format!("`{name}` runs at priority {runs}, not {asked}, by order `{order}` of the policy"));
    });
}

/// What would be done: its steps for people; for programs what would be shown if it were done, and the steps beside it.
struct Planned<V> {
    pub(crate) view: V,
    pub(crate) steps: Vec<String>,
}

impl<V: View> View for Planned<V> {
    fn kind(&self) -> &'static str {
        self.view.kind()
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        self.view.items()
    }

    fn names(&self) -> Vec<String> {
        self.steps.clone()
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(self.steps.clone())]
    }

    fn nothing(&self) -> &'static str {
        "no steps"
    }

    fn plan(&self) -> Option<&[String]> {
        Some(&self.steps)
    }
}

/// Shows what was done, or what a dry run would do.
pub(crate) fn show(session: &Session, dry: &DryRun, view: impl View, steps: Vec<String>) -> Result<(), Failure> {
    match dry.dry_run {
        true => session.printer.show(&Planned { view, steps }),
        false => session.printer.show(&view),
    }
}

/// One program on one hook, or on none.
struct PlaceRow {
    program: String,
    kind: String,
    hook: String,
    priority: String,
    position: String,
    persist: &'static str,
    state: String,
    effective: String,
    proceed_on: String,
    kernel_id: String,
    owner: String,
    handle: String,
    cause: String,
}

/// A column that would say no in each row is left out.
fn table(rows: Vec<PlaceRow>) -> Vec<Block> {
    let kept = rows.iter().any(|row| row.persist != "no");
    let cells = |row: PlaceRow| {
        let PlaceRow { program, kind, hook, priority, position, persist, state, .. } = row;
        let persist = kept.then(|| persist.to_owned());
        [program, kind, hook, priority, position].into_iter().chain(persist).chain([state]).collect()
    };
    let head = if kept { PLACES_KEPT } else { PLACES };
    vec![Block::Table(head, rows.into_iter().map(cells).collect())]
}

fn wide_table(rows: Vec<PlaceRow>) -> Vec<Block> {
    let cells = |row: PlaceRow| {
        let place = [row.program, row.kind, row.hook, row.priority, row.effective, row.position];
        let kept = [row.persist.to_owned(), row.state];
        let more = [row.proceed_on, row.kernel_id, row.owner, row.handle, row.cause];
        place.into_iter().chain(kept).chain(more).collect()
    };
    vec![Block::Table(PLACES_WIDE, rows.into_iter().map(cells).collect())]
}

fn places(app: &pb::App, links: &[pb::Link]) -> Vec<PlaceRow> {
    let mut rows = Vec::new();
    for program in &app.programs {
        let kind = program_type(program.r#type());
        let own = links.iter().filter(|link| link.app_uid == app.uid && link.function == program.function);
        let before = rows.len();
        rows.extend(own.map(|link| place(link, kind.clone())));
        if rows.len() == before {
            rows.push(PlaceRow {
                program: format!("{}/{}", app.name, program.function),
                kind,
                hook: NONE.to_owned(),
                priority: NONE.to_owned(),
                position: NONE.to_owned(),
                persist: app_persist(app),
                state: app_state(app.state()),
                effective: NONE.to_owned(),
                proceed_on: NONE.to_owned(),
                kernel_id: or_none(program.kernel_id),
                owner: app.owner.as_ref().map_or_else(|| NONE.to_owned(), |owner| format!("uid {}", owner.uid)),
                handle: program.handle.to_string(),
                cause: or_dash(&app.cause),
            });
        }
    }
    rows
}

fn place(link: &pb::Link, kind: String) -> PlaceRow {
    let kind = if kind == NONE { hook_kind(link.hook.as_ref()) } else { kind };
    PlaceRow {
        program: format!("{}/{}", link.app, link.function),
        kind,
        hook: place_of(link),
        priority: or_none(link.priority),
        position: or_none(link.position),
        persist: link_persist(link),
        state: link_state(link.state()),
        effective: or_none(link.effective_priority),
        proceed_on: proceed_on(link.proceed_on.as_ref()),
        kernel_id: or_none(link.kernel_program_id),
        owner: format!("uid {}", link.owner_uid),
        handle: link.handle.to_string(),
        cause: or_dash(&link.cause),
    }
}

/// Whether an app is there after a reboot, or which file says so.
fn app_persist(app: &pb::App) -> &'static str {
    match (app.program_file.is_empty(), app.persist) {
        (false, _) => "file",
        (true, true) => "yes",
        (true, false) => "no",
    }
}

fn link_persist(link: &pb::Link) -> &'static str {
    match (link.origin(), link.persist) {
        (pb::LinkOrigin::File, _) => "file",
        (_, true) => "yes",
        (_, false) => "no",
    }
}

fn hook_kind(hook: Option<&pb::Hook>) -> String {
    hook.and_then(codec::hook::shown).map_or_else(|| NONE.to_owned(), |(kind, _)| kind.to_string())
}

/// Where a link was asked for, and what that is called now if it is called otherwise: `eth0:xdp (now wan0:xdp)`.
pub(crate) fn place_of(link: &pb::Link) -> String {
    let asked = link.hook.as_ref().map_or_else(|| NONE.to_owned(), hook);
    match link.name_now.split_once('@') {
        Some((_, now)) => format!("{asked} (now {now})"),
        None => asked,
    }
}

/// `[netns:]interface:xdp`, or a word and a target: `tracepoint:category/event`.
pub(crate) fn hook(hook: &pb::Hook) -> String {
    codec::hook::shown(hook).map_or_else(|| NONE.to_owned(), |(_, name)| name)
}

/// Where an app's bytes came from, in one line.
pub(crate) fn source(source: Option<&pb::AppSource>) -> String {
    match source.and_then(|source| source.source.as_ref()) {
        Some(app_source::Source::Image(image)) => format!("image {}", image.reference),
        Some(app_source::Source::Upload(upload)) if upload.name_hint.is_empty() => "upload".to_owned(),
        Some(app_source::Source::Upload(upload)) => format!("upload `{}`", upload.name_hint),
        None => NONE.to_owned(),
    }
}

/// `pass,drop`, `none`, or `-` where there is no such thing.
pub(crate) fn proceed_on(set: Option<&pb::ProceedOn>) -> String {
    match set {
        None => NONE.to_owned(),
        Some(set) => codec::shown_proceed_on(set),
    }
}

pub(crate) fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

/// `sha256:0123456789ab`: enough to tell digests apart in a table.
pub(crate) fn short_digest(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

pub(crate) fn program_type(kind: pb::ProgramType) -> String {
    lower(kind.as_str_name(), "PROGRAM_TYPE_")
}

pub(crate) fn app_state(state: pb::AppState) -> String {
    word(state.as_str_name(), "APP_STATE_").to_owned()
}

pub(crate) fn link_state(state: pb::LinkState) -> String {
    word(state.as_str_name(), "LINK_STATE_").to_owned()
}

/// An enum's name without its prefix, in lower case; `-` for the unspecified one.
pub(crate) fn lower(name: &str, prefix: &str) -> String {
    match word(name, prefix) {
        "UNSPECIFIED" => NONE.to_owned(),
        word => word.to_ascii_lowercase(),
    }
}

pub(crate) fn word<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}
