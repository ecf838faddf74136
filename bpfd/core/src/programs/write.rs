//! What runs, written as a file of `programs.d`: what is loaded from it is what runs. Everything is said that an image or an object could
//! say otherwise tomorrow.
//!
//! This file must never leave out an option.

use std::fmt::Write as _;

use bpfd_policy::digest::Digest;
use bpfd_policy::reference::Reference;

use super::{Declared, DeclaredHook, DeclaredPlace, DeclaredSource, Pattern};
use crate::hook::{HookAsk, Placement, XdpMode};
use crate::names::Netns;
use crate::request::Select;
use crate::state::{App, Link, ObjectDigest, Source, State};

/// The text of a file with these programs.
pub fn write(programs: &[Declared]) -> String {
    let mut text = "version = 1\n".to_owned();
    for program in programs {
        let Declared { line: _, attach, .. } = program;
        text.push_str("\n[[program]]\n");
        text.push_str(&app(program));
        for hook in attach {
            text.push_str("\n[[program.attach]]\n");
            write_hook(&mut text, hook);
        }
    }
    text
}

/// All that an app is loaded from.
pub(super) fn app(program: &Declared) -> String {
    let Declared { line: _, name, source, select, globals, labels, critical, attach: _ } = program;
    let mut text = String::new();
    let mut key = |key: &str, value: String| text.push_str(&format!("{key} = {value}\n"));
    key("name", quoted(name.as_str()));
    match source {
        DeclaredSource::Image(reference) => key("image", quoted(&reference.to_string())),
        DeclaredSource::File(path) => key("file", quoted(path)),
    }
    let of = |wanted: fn(&Select) -> Option<&str>| select.iter().filter_map(wanted).map(quoted).collect::<Vec<_>>();
    let functions = of(|select| match select {
        Select::Function(function) => Some(function),
        Select::Section(_) => None,
    });
    let sections = of(|select| match select {
        Select::Section(section) => Some(section),
        Select::Function(_) => None,
    });
    for (name, list) in [("programs", functions), ("sections", sections)] {
        if !list.is_empty() {
            key(name, format!("[{}]", list.join(", ")));
        }
    }
    let globals = globals.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
    let labels = labels.iter().map(|(name, value)| format!("{} = {}", quoted(name.as_str()), quoted(value.as_str())));
    for (name, pairs) in [("globals", globals.collect::<Vec<_>>()), ("labels", labels.collect())] {
        if !pairs.is_empty() {
            key(name, format!("{{ {} }}", pairs.join(", ")));
        }
    }
    if *critical {
        key("critical", "true".to_owned());
    }
    text
}

fn write_hook(text: &mut String, DeclaredHook { function, place }: &DeclaredHook) {
    let mut key = |key: &str, value: String| {
        // Nothing can go wrong in a text.
        let _always = writeln!(text, "{key} = {value}");
    };
    if let Some(function) = function {
        key("program", quoted(function));
    }
    match place {
        DeclaredPlace::Shared { interface, netns, point, priority, proceed_on, mode } => {
            key("hook", quoted(point.as_str()));
            key("interface", quoted(&interface.to_string()));
            if let Netns::Named(name) = netns {
                key("netns", quoted(name.as_str()));
            }
            if let Some(priority) = priority {
                key("priority", priority.to_string());
            }
            if let Some(set) = proceed_on {
                let names: Vec<String> = set.names().into_iter().map(quoted).collect();
                key("proceed_on", format!("[{}]", names.join(", ")));
            }
            if *mode != XdpMode::Auto {
                key("mode", quoted(&mode.to_string()));
            }
        }
        DeclaredPlace::Own(HookAsk::Own { kind, hook }) => {
            key("hook", quoted(&kind.to_string()));
            if let Some(hook) = hook {
                key("target", quoted(&hook.target()));
            }
        }
        DeclaredPlace::Own(HookAsk::Shared { .. }) => {}
    }
}

/// A basic string of TOML: JSON's, but that all control characters are written as numbers.
fn quoted(text: &str) -> String {
    let plain = |c: char| if c.is_control() { format!("\\u{:04X}", u32::from(c)) } else { c.to_string() };
    serde_json::Value::from(text).to_string().chars().map(plain).collect()
}

impl Declared {
    /// What declares an app that runs, its links in the order of their numbers. An upload is the file that `object` names.
    pub fn of(state: &State, app: &App, object: impl Fn(&ObjectDigest) -> String) -> Self {
        let mut links: Vec<&Link> = state.links_of(app.uid).collect();
        links.sort_by_key(|link| link.handle);
        let source = match &app.source {
            Source::Image { reference, digest, signers: _ } => pinned(reference, digest),
            Source::Upload => None,
        };
        Self {
            line: 0,
            name: app.name.clone(),
            source: source.unwrap_or_else(|| DeclaredSource::File(object(&app.object))),
            select: app.programs.iter().map(|program| Select::Function(program.function.clone())).collect(),
            globals: app.globals.iter().map(|(name, set)| (name.clone(), set.text.clone())).collect(),
            labels: app.user_labels.clone(),
            critical: app.origin.file().is_some_and(|origin| origin.critical),
            attach: links.into_iter().map(attached).collect(),
        }
    }
}

/// The image by its digest: a tag may move.
fn pinned(reference: &str, digest: &str) -> Option<DeclaredSource> {
    let (reference, digest) = (reference.parse::<Reference>().ok()?, digest.parse::<Digest>().ok()?);
    Some(DeclaredSource::Image(reference.by_digest(digest)))
}

fn attached(link: &Link) -> DeclaredHook {
    let place = match &link.placement {
        Placement::Shared(place) => DeclaredPlace::Shared {
            interface: Pattern::Exactly(place.asked.interface.clone()),
            netns: place.asked.netns.clone(),
            point: place.asked.point,
            priority: Some(place.priority),
            proceed_on: Some(place.proceed_on),
            mode: place.mode,
        },
        Placement::Own(hook) => DeclaredPlace::Own(HookAsk::Own { kind: hook.kind(), hook: Some(hook.clone()) }),
    };
    DeclaredHook { function: Some(link.function.clone()), place }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::changes::{self, Fresh, Loaded};
    use crate::hook::{OwnHook, Point, ProceedOn};
    use crate::ident::Handle;
    use crate::labels::Labels;
    use crate::names::Priority;
    use crate::programs::{AppOrigin, read};
    use crate::state::{Persist, Program, ProgramFacts, ProgramKind, Setting};
    use crate::testing;

    /// What a user can tell of an app and its links, but not who made them and when.
    fn sight(state: &State) -> Vec<String> {
        let app = |app: &App| {
            let programs: Vec<_> = app.programs.iter().map(|it| (&it.function, it.kind, &it.target)).collect();
            let mut links: Vec<_> = state
                .links_of(app.uid)
                .map(|link| (link.handle, format!("{} {:?}", link.function, link.placement)))
                .collect();
            links.sort();
            let links: Vec<_> = links.into_iter().map(|(_, link)| link).collect();
            let source = match &app.source {
                Source::Image { digest, .. } => digest.clone(),
                Source::Upload => app.object.to_string(),
            };
            format!("{} {source} {programs:?} {:?} {:?} {links:#?}", app.name, app.globals, app.user_labels)
        };
        state.apps.values().map(app).collect()
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9\"'\\\\#= ]{0,12}", "\\PC{0,8}", Just("\u{7f}\u{1}\n".to_owned())]
    }

    fn placement() -> impl Strategy<Value = Placement> {
        let chain = (0_usize..3, 0_u32..=1000, 0_u32..32, 0_usize..3, any::<bool>());
        let chain = chain.prop_map(|(point, priority, bits, mode, far)| {
            let point = Point::ALL[point];
            let priority = Priority::try_from(priority).unwrap();
            let proceed_on = match point {
                Point::Xdp => ProceedOn::from_bits(bits).unwrap(),
                Point::TcIngress | Point::TcEgress => ProceedOn::NEXT,
            };
            let mode = match point {
                Point::Xdp => [XdpMode::Auto, XdpMode::Native, XdpMode::Generic][mode],
                Point::TcIngress | Point::TcEgress => XdpMode::Auto,
            };
            let netns = if far { "blue".parse().unwrap() } else { Netns::Host };
            let interface = crate::hook::InterfaceName { netns, interface: "eth0".parse().unwrap() };
            let asked = interface.chain(point);
            Placement::Shared(crate::hook::Place {
                asked,
                priority,
                effective: priority,
                order: None,
                proceed_on,
                mode,
            })
        });
        let own = prop_oneof![
            Just((ProgramKind::Kprobe, "do_unlinkat+0x4")),
            Just((ProgramKind::Tracepoint, "sched/sched_switch")),
            Just((ProgramKind::Fentry, "do_unlinkat")),
        ];
        let own = own.prop_map(|(kind, target)| Placement::Own(OwnHook::parse(kind, target).unwrap()));
        prop_oneof![chain, own]
    }

    fn states() -> impl Strategy<Value = State> {
        let app = (
            proptest::collection::btree_map("[a-z_]{1,8}", text(), 0..3),
            proptest::collection::vec(placement(), 0..4),
            proptest::option::of("[a-f0-9]{64}"),
            "[a-z0-9]([a-z0-9/-]{0,5}[a-z0-9])?",
            "[^\\p{C}]{0,9}",
        );
        proptest::collection::vec(app, 0..3).prop_map(|apps| {
            let mut state = State::default();
            for (number, (globals, links, digest, label, value)) in (1..).zip(apps) {
                let (mut app, mut numbers) = (testing::app(number), 1..);
                app.globals = globals.into_iter().map(|(name, text)| (name, Setting { text, bytes: vec![] })).collect();
                app.user_labels = Labels::of([(label.parse().unwrap(), value.parse().unwrap())]).unwrap();
                app.source = digest.map_or(Source::Upload, |digest| Source::Image {
                    reference: "r.example/fw:1".into(),
                    digest: format!("sha256:{digest}"),
                    signers: vec![],
                });
                for placement in links {
                    let place = numbers.next().unwrap();
                    let function = format!("f{place}");
                    let target = placement.own().filter(|hook| hook.loaded_for().is_some()).cloned();
                    app.programs.push(Program::new(
                        Handle(0),
                        ProgramFacts {
                            function: function.clone(),
                            section: String::new(),
                            kind: placement.kind(),
                            target,
                            tag: [0; 8],
                            load_time: 0,
                        },
                    ));
                    let link = Link { placement, function, ..testing::link(number * 100 + place, number) };
                    state.links.insert(link.uid, link);
                }
                state.apps.insert(app.uid, app);
            }
            state
        })
    }

    /// The state after a load of what a file declares; what its bytes say is as it was.
    fn load(before: &State, programs: &[Declared]) -> State {
        let mut state = State::default();
        for declared in programs {
            let was = before.app_named(&declared.name).unwrap();
            let attach = declared.attachments([]);
            let fresh = Fresh {
                app: was.handle,
                links: (1..)
                    .zip(&attach)
                    .map(|(place, _)| testing::link(was.uid.0.as_u128() * 100 + place, 1))
                    .map(|it| (it.uid, it.handle))
                    .collect(),
                programs: Handle(0),
                now: 0,
            };
            let source = match &declared.source {
                DeclaredSource::Image(reference) => Source::Image {
                    reference: reference.to_string(),
                    digest: reference.digest().unwrap().to_string(),
                    signers: vec![],
                },
                DeclaredSource::File(_) => Source::Upload,
            };
            let chosen = |program: &&Program| declared.select.contains(&Select::Function(program.function.clone()));
            let programs = was.programs.iter().filter(chosen).map(|it| ProgramFacts {
                function: it.function.clone(),
                section: it.section.clone(),
                kind: it.kind,
                target: it.target.clone(),
                tag: it.tag,
                load_time: it.load_time,
            });
            let loaded = Loaded {
                uid: was.uid,
                name: Some(declared.name.clone()),
                default_name: declared.name.clone(),
                source,
                object: match &declared.source {
                    DeclaredSource::File(path) => path.strip_prefix("/objects/").unwrap().parse().unwrap(),
                    DeclaredSource::Image(_) => was.object,
                },
                reach: was.reach,
                globals: declared
                    .globals
                    .iter()
                    .map(|(name, text)| (name.clone(), Setting { text: text.clone(), bytes: vec![] }))
                    .collect(),
                programs: programs.collect(),
                maps: vec![],
                labels: was.labels.clone(),
                user_labels: declared.labels.clone(),
                advice: was.advice.clone(),
                attach: attach.into_iter().map(|(ask, function)| (ask, function.unwrap())).collect(),
                persist: Persist::Yes,
                origin: AppOrigin::Request,
                request: None,
            };
            let changes = changes::load(&state, loaded, &was.owner, &fresh).unwrap();
            state = state.after(&changes).unwrap();
        }
        state
    }

    proptest! {
        #[test]
        fn what_is_loaded_from_an_export_is_what_ran(state in states()) {
            let of = |app: &App| Declared::of(&state, app, |object| format!("/objects/{object}"));
            let programs: Vec<Declared> = state.apps.values().map(of).collect();
            let text = write(&programs);
            let read = read(&text, "export").unwrap_or_else(|error| panic!("{error}\n{text}"));
            let placed: Vec<Declared> = read.programs.iter().map(|it| Declared { line: 0, ..it.clone() }).collect();
            prop_assert_eq!(&placed, &programs);
            prop_assert_eq!(sight(&load(&state, &read.programs)), sight(&state));
        }
    }
}
