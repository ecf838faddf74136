//! The daemon killed at every write and step of a load, an update and an unload, on interfaces that are shared by libxdp's protocol.
//! Whatever the instant: packets go on, the next start repairs, and the host is as before or as asked, by the table of
//! `spec/state.md`.
//!
//! `host_crash` has every verb in chains of one program, and puts the host back between points. Here the daemon that repairs what
//! the last one left is the one that dies next: one start a point, as a guest's processor is slow.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;

use bpfd_client::proto::v1::{self as pb, hook::Hook, load_request, unload_request};
use bpfd_client::{ClientError, request_id};
use bpfd_tests::points::{
    Became::{Done, Nothing},
    Point,
    Verb::{Adds, Removes},
    points,
};
use bpfd_tests::{Host, example};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Load,
    Update,
    Unload,
}

impl Verb {
    fn points(self) -> Vec<Point> {
        let chain = ["build-top", "pin-top", "swap"];
        match self {
            Self::Load => points(Adds, &["pin-app", "load-ext", "build-top", "pin-top", "swap"], &["unpin-top"]),
            // The copy of the program moves as it is.
            Self::Update => points(Adds, &chain, &["unpin-top"]),
            Self::Unload => points(Removes, &chain, &["unpin-top", "unpin-ext", "unpin-app"]),
        }
    }

    /// How often it comes by a point.
    fn passes(self, point: &str) -> usize {
        self.points().iter().filter(|passed| passed.name == point).count()
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

/// The app `x`, as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attached {
    priority: u32,
    counted: u64,
}

#[test]
fn a_load_an_update_and_an_unload_in_a_dispatcher_happen_wholly_or_not_at_all() {
    let mut host = Host::new();
    if !host.shares() {
        println!("skipped: this kernel does not let one program replace another's function");
        return;
    }
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink --priority 50", example("xdp-counter"))).ok();
    host.kill();

    let mut left = [Verb::Load, Verb::Update, Verb::Unload].map(|verb| (verb, VecDeque::from(verb.points())));
    let (mut packets, mut x) = (0, None);
    while let Some((verb, Point { name: point, passed, became })) = next(x.is_some(), &mut left) {
        let killed = format!("killed at {point} {passed} of {verb:?}");
        let first =
            (x.is_some() == (verb == Verb::Load)).then_some(if x.is_some() { Verb::Unload } else { Verb::Load });
        let passed = passed + first.map_or(0, |first| first.passes(&point));
        host.start_with(&[("FAILPOINTS", &format!("{point}={passed}*off->return"))]);
        // What the last one left is repaired.
        holds(&host, x, packets);
        if let Some(first) = first {
            first.ask(&host, 20).unwrap();
            x = (first == Verb::Load).then_some(Attached { priority: 20, counted: 0 });
        }

        let priority = if x.is_some_and(|x| x.priority == 20) { 90 } else { 20 };
        let asked = verb.ask(&host, priority);
        println!("{killed}");
        assert!(asked.is_err(), "`{verb:?}` never came to {point}");
        assert_eq!(host.wait().signal(), Some(9), "{killed}: {asked:?}");
        // What was attached goes on without a daemon.
        host.ping(3);
        packets += 3;
        x = match (verb, became) {
            (Verb::Load, Nothing) | (Verb::Unload, Done) => None,
            (Verb::Load, Done) => Some(Attached { priority, counted: 3 }),
            (Verb::Update, Done) => x.map(|x| Attached { priority, counted: x.counted + 3 }),
            (Verb::Update | Verb::Unload, Nothing) => x.map(|x| Attached { counted: x.counted + 3, ..x }),
        };
    }
    host.start();
    holds(&host, x, packets);
}

/// The next point to die at; one that needs no other verb before it, if there is any.
fn next(is_loaded: bool, left: &mut [(Verb, VecDeque<Point>); 3]) -> Option<(Verb, Point)> {
    left.sort_by_key(|(verb, _)| (is_loaded == (*verb == Verb::Load), *verb == Verb::Unload));
    left.iter_mut().find_map(|(verb, points)| Some((*verb, points.pop_front()?)))
}

/// `x` is as it must be, all counted what came, and every invariant holds.
#[track_caller]
fn holds(host: &Host, x: Option<Attached>, packets: u64) {
    host.check();
    let links = host.ask(async |daemon| daemon.links(pb::ListLinksRequest::default()).await);
    let mut seen: Vec<(String, u32, u32)> =
        links.iter().map(|link| (link.app.clone(), link.priority(), link.position())).collect();
    seen.sort();
    let mut wanted = vec![("a".to_owned(), 50, if x.is_some_and(|x| x.priority < 50) { 2 } else { 1 })];
    wanted.extend(x.map(|x| ("x".to_owned(), x.priority, if x.priority < 50 { 1 } else { 2 })));
    assert_eq!(seen, wanted);
    assert_eq!((host.counted("a"), x.map(|_| host.counted("x"))), (packets, x.map(|x| x.counted)));
}
