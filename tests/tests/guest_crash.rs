//! The daemon killed at every write and step of a load, an attach, an update, a detach and an unload, on interfaces that are shared by libxdp's protocol.
//! Whatever the instant: packets go on, the next start repairs, and the host is as before or as asked, by the table of
//! `spec/state.md`.
//!
//! `host_crash` has every verb in chains of one program, and puts the host back between points. Here the daemon that repairs what
//! the last one left is the one that dies next: one start a point, as a guest's processor is slow.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;

use bpfd_client::proto::v1::{self as pb, detach_request, hook::Hook, load_request, unload_request};
use bpfd_client::{ClientError, request_id};
use bpfd_tests::points::{
    self,
    Became::{Done, Nothing},
    Point, around,
};
use bpfd_tests::{Host, example};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Load,
    Attach,
    Update,
    Detach,
    Unload,
}

/// What there is of the app `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    Absent,
    Loaded,
    Attached,
}

impl Verb {
    const ALL: [Self; 5] = [Self::Load, Self::Attach, Self::Update, Self::Detach, Self::Unload];

    fn points(self) -> Vec<Point> {
        let steps = match self {
            Self::Load => points::SHARED_LOAD,
            Self::Attach => points::SHARED_ATTACH,
            Self::Update => points::SHARED_UPDATE,
            Self::Detach => points::SHARED_DETACH,
            Self::Unload => points::SHARED_UNLOAD,
        };
        steps.points()
    }

    /// What it begins with and what it ends with.
    fn ends(self) -> (App, App) {
        match self {
            Self::Load => (App::Absent, App::Attached),
            Self::Attach => (App::Loaded, App::Attached),
            Self::Update => (App::Attached, App::Attached),
            Self::Detach => (App::Attached, App::Loaded),
            Self::Unload => (App::Attached, App::Absent),
        }
    }

    /// How often it comes by a point.
    fn passes(self, point: &str) -> usize {
        self.points().iter().filter(|passed| passed.name == point).count()
    }

    /// Whether the interface runs the new chain by then.
    fn is_swapped_at(self, point: &str, passed: usize) -> bool {
        let points = self.points();
        let at = |name: &str, passed: usize| points.iter().position(|p| p.name == name && p.passed == passed);
        at(point, passed) >= at("step-swap-after", 0)
    }

    /// Asks for it: the app `x`, at this priority.
    fn ask(self, host: &Host, priority: u32) -> Result<(), ClientError> {
        host.try_ask(async |daemon| match self {
            Self::Load => {
                let uploaded = daemon.upload(&std::fs::read(example("xdp-counter")).unwrap()).await?;
                let uplink = pb::XdpHook { netns: None, interface: "uplink".to_owned() };
                let hook = Some(pb::Hook { hook: Some(Hook::Xdp(uplink)) });
                let request = pb::LoadRequest {
                    request_id: request_id(),
                    name: Some("x".to_owned()),
                    source: Some(load_request::Source::ObjectSha256(uploaded.sha256)),
                    attach: vec![pb::Attachment { hook, priority: Some(priority), ..Default::default() }],
                    ..Default::default()
                };
                daemon.load(request, |_| {}).await.map(drop)
            }
            Self::Attach => {
                let uplink = pb::XdpHook { netns: None, interface: "uplink".to_owned() };
                let hook = Some(pb::Hook { hook: Some(Hook::Xdp(uplink)) });
                let request = pb::AttachRequest {
                    request_id: request_id(),
                    app: "x".to_owned(),
                    attachment: Some(pb::Attachment { hook, priority: Some(priority), ..Default::default() }),
                    ..Default::default()
                };
                daemon.attach(request).await.map(drop)
            }
            Self::Detach => {
                let links =
                    detach_request::Target::Links(pb::LinkNames { names: vec!["x/count@uplink:xdp".to_owned()] });
                let request = pb::DetachRequest { request_id: request_id(), target: Some(links), ..Default::default() };
                daemon.detach(request).await.map(drop)
            }
            Self::Update => {
                let request = pb::UpdateLinkRequest {
                    request_id: request_id(),
                    link: "x/count@uplink:xdp".to_owned(),
                    priority: Some(priority),
                    ..Default::default()
                };
                daemon.update(request).await.map(drop)
            }
            Self::Unload => {
                let apps = unload_request::Target::Apps(pb::AppNames { names: vec!["x".to_owned()] });
                let request = pb::UnloadRequest { request_id: request_id(), target: Some(apps), ..Default::default() };
                daemon.unload(request).await.map(drop)
            }
        })
    }
}

/// The verbs that lead from one to the other, if they differ.
fn way(from: App, to: App) -> &'static [Verb] {
    match (from, to) {
        (App::Absent, App::Absent) | (App::Loaded, App::Loaded) | (App::Attached, App::Attached) => &[],
        (App::Absent, App::Loaded) => &[Verb::Load, Verb::Detach],
        (App::Absent, App::Attached) => &[Verb::Load],
        (App::Loaded, App::Absent) => &[Verb::Attach, Verb::Unload],
        (App::Loaded, App::Attached) => &[Verb::Attach],
        (App::Attached, App::Absent) => &[Verb::Unload],
        (App::Attached, App::Loaded) => &[Verb::Detach],
    }
}

/// The app `x`, as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct X {
    app: App,
    priority: u32,
    /// Packets that it counted since it was loaded.
    counted: u64,
}

impl X {
    /// After a verb that happened.
    fn after(self, verb: Verb, priority: u32) -> Self {
        let (_, app) = verb.ends();
        match verb {
            Verb::Load => Self { app, priority, counted: 0 },
            Verb::Attach | Verb::Update => Self { app, priority, ..self },
            Verb::Detach | Verb::Unload => Self { app, ..self },
        }
    }

    /// After packets came.
    fn seen(self, packets: u64) -> Self {
        match self.app {
            App::Attached => Self { counted: self.counted + packets, ..self },
            App::Absent | App::Loaded => self,
        }
    }

    fn other_priority(self) -> u32 {
        if self.priority == 20 { 90 } else { 20 }
    }
}

#[test]
fn each_verb_in_a_dispatcher_happens_wholly_or_not_at_all() {
    let mut host = Host::new();
    if !host.shares() {
        println!("skipped: this kernel does not let one program replace another's function");
        return;
    }
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink --priority 50", example("xdp-counter"))).ok();
    host.kill();

    let mut left = Verb::ALL.map(|verb| (verb, VecDeque::from(verb.points())));
    let (mut packets, mut x) = (0, X { app: App::Absent, priority: 90, counted: 0 });
    while let Some((verb, Point { name: point, passed, became })) = next(x.app, &mut left) {
        let killed = format!("killed at {point} {passed} of {verb:?}");
        let is_swapped = verb.is_swapped_at(&point, passed);
        let way = way(x.app, verb.ends().0);
        let passed = passed + way.iter().map(|verb| verb.passes(&point)).sum::<usize>();
        host.start_with(&[("FAILPOINTS", &format!("{point}={passed}*off->return"))]);
        // What the last one left is repaired.
        holds(&host, x, packets);
        for verb in way {
            let priority = x.other_priority();
            verb.ask(&host, priority).unwrap();
            x = x.after(*verb, priority);
        }

        let priority = x.other_priority();
        let asked = verb.ask(&host, priority);
        println!("{killed}");
        assert!(asked.is_err(), "`{verb:?}` never came to {point}");
        assert_eq!(host.wait().signal(), Some(9), "{killed}: {asked:?}");
        let (undone, done) = (x, x.after(verb, priority));
        // What was attached goes on without a daemon; what is to be detached counts until the swap or the next start.
        host.ping(3);
        packets += 3;
        x = match (verb, became) {
            (Verb::Load | Verb::Attach | Verb::Update, Nothing) => undone.seen(3),
            (Verb::Load | Verb::Attach | Verb::Update, Done) => done.seen(3),
            (Verb::Unload | Verb::Detach, Nothing) => undone.seen(3),
            (Verb::Unload, Done) => done,
            (Verb::Detach, Done) => {
                let counted = if is_swapped { undone.counted } else { undone.seen(3).counted };
                X { counted, ..done }
            }
        };
    }
    host.start();
    holds(&host, x, packets);
}

/// The next point to die at; one that needs the fewest other verbs before it, if there is any.
fn next(app: App, left: &mut [(Verb, VecDeque<Point>); 5]) -> Option<(Verb, Point)> {
    left.sort_by_key(|(verb, _)| (way(app, verb.ends().0).len(), *verb == Verb::Unload));
    left.iter_mut().find_map(|(verb, points)| Some((*verb, points.pop_front()?)))
}

/// `x` is as it must be, all counted what came, and every invariant holds.
#[track_caller]
fn holds(host: &Host, x: X, packets: u64) {
    host.check();
    let links = host.ask(async |daemon| daemon.links(pb::ListLinksRequest::default()).await);
    let mut seen: Vec<(String, u32, u32)> =
        links.iter().map(|link| (link.app.clone(), link.priority(), link.position())).collect();
    seen.sort();
    let attached = x.app == App::Attached;
    let mut wanted = vec![("a".to_owned(), 50, if attached && x.priority < 50 { 2 } else { 1 })];
    wanted.extend(attached.then(|| ("x".to_owned(), x.priority, if x.priority < 50 { 1 } else { 2 })));
    assert_eq!(seen, wanted);
    let loaded = x.app != App::Absent;
    assert_eq!((host.counted("a"), loaded.then(|| host.counted("x"))), (packets, loaded.then_some(x.counted)));
}

/// A start that dies while it repairs leaves no more than the first crash did.
#[test]
fn a_repair_in_a_dispatcher_that_is_killed_is_repaired() {
    let mut host = Host::new();
    if !host.shares() {
        println!("skipped: this kernel does not let one program replace another's function");
        return;
    }
    for (name, priority) in [("a", 50), ("x", 20)] {
        let load = format!("load --path {} --name {name} xdp -i uplink", example("xdp-counter"));
        host.bpfctl(&format!("{load} --priority {priority}")).ok();
    }
    let [load_ext, unpin_ext, _] = points::REPAIRED_SHARED;
    host.kill();
    // What a boot leaves.
    host.shell("ip link set uplink xdp off; rm -rf /run/case/sys/fs/bpf/bpfd /run/case/sys/fs/bpf/xdp");
    around("repair", load_ext).iter().for_each(|point| host.starts_and_dies(point));
    host.start();
    host.ping(3);
    assert_eq!((host.counted("a"), host.counted("x")), (3, 3));
    host.check();
    host.kill();

    host.start_with(&[("FAILPOINTS", "step-unpin-ext-before=return")]);
    let asked = Verb::Detach.ask(&host, 0);
    assert_eq!(host.wait().signal(), Some(9), "{asked:?}");
    around("repair", unpin_ext).iter().for_each(|point| host.starts_and_dies(point));
    host.start();
    holds(&host, X { app: App::Loaded, priority: 20, counted: 3 }, 3);
}
