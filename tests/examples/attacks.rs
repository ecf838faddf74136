//! `cargo xtask bench attacks`: what root waits for while others ask for as much as they may. Prints one figure a line, as JSON; what it
//! does meanwhile goes to standard error.
//!
//! Times are compared only with times of the same run, taken in turn. Must never fail on a time: xtask judges.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a tool: what it cannot do ends it, and what it prints is its result"
)]

mod measured;
#[path = "../tests/host_attacks/raw.rs"]
#[expect(dead_code, reason = "only what makes calls as somebody else is used")]
mod raw;
#[path = "../tests/host_bad_images/world.rs"]
#[expect(dead_code, reason = "only hosts with images are made")]
mod world;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bpfd_client::proto::v1::{self as pb, detach_request, hook::Hook};
use bpfd_client::{Client, request_id};
use bytecode_image::testing::registry::Mode;
use measured::figure;
use raw::{Door, MEMBER, VIEWER, Who};
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::timeout;
use world::{Images, image};

/// Connections of a flood, and calls at a time on each: three times what a user may have.
const CALLERS: usize = 24;
const STREAMS: usize = 8;
/// Links that wait: what looks at everything looks at them.
const WAITING: usize = 128;
/// Changes before the flood begins, or ends, again.
const IN_TURN: usize = 10;
/// How long a caller waits for a registry that says nothing.
const PATIENCE: Duration = Duration::from_secs(1);

type Call = Pin<Box<dyn Future<Output = ()>>>;
/// Asks once; the number is the caller's. That one is refused for having asked too much is what is to be seen.
type Flood = (&'static str, Who, fn(Client, usize) -> Call);

const FLOODS: [Flood; 3] = [
    ("doctor", VIEWER, |mut client, _| Box::pin(async move { drop(client.doctor(pb::DoctorRequest {}).await) })),
    ("inspect", MEMBER, |mut client, _| {
        let request = pb::InspectImageRequest { image: "registry/team/app:1".to_owned() };
        Box::pin(async move { drop(client.inspect(request).await) })
    }),
    ("slow_pulls", MEMBER, |mut client, number| {
        let request = pb::PullRequest { reference: format!("registry/open/slow{number}:1"), ..Default::default() };
        // The registry says nothing: the caller gives up, and asks again.
        Box::pin(async move { drop(timeout(PATIENCE, client.pull(request, |_| {})).await) })
    }),
];

fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    let turns = if quick { 3 } else { 20 };
    let images = Images::signed();
    for number in 0..CALLERS {
        images.publish(&format!("open/slow{number}"), &image());
        images.registry.behave(&format!("open/slow{number}"), Mode::Stall);
    }
    images.host.bpfctl("load -q --image registry/team/app:1 --name fw").ok();
    for number in 0..WAITING {
        let line = format!("attach -q fw xdp -i later{number} --when-present");
        images.host.bpfctl(&line).ok();
    }
    for flood in FLOODS {
        eprintln!("{} calls of {} at a time", CALLERS * STREAMS, flood.0);
        let (mut idle, mut beside) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..turns {
            changes(&images, &mut idle);
            under(&images, flood, || changes(&images, &mut beside));
        }
        for (verb, (idle, beside)) in ["attach", "detach"].into_iter().zip(idle.into_iter().zip(beside)) {
            let (idle, beside) = (p99(idle), p99(beside));
            figure(&format!("{verb}_under_{}_ratio", flood.0), beside / idle, "ratio", Some("<=3"));
            figure(&format!("{verb}_under_{}_p99", flood.0), beside, "ms", None);
            figure(&format!("{verb}_idle_p99_{}", flood.0), idle, "ms", None);
        }
    }
}

/// Root's changes: how long each answer took.
fn changes(images: &Images, [attached, detached]: &mut [Vec<Duration>; 2]) {
    let timed = |ask: &mut dyn FnMut()| {
        let started = Instant::now();
        ask();
        started.elapsed()
    };
    for _ in 0..IN_TURN {
        let hook = Hook::Xdp(pb::XdpHook { netns: None, interface: "uplink".to_owned() });
        let attachment = pb::Attachment { hook: Some(pb::Hook { hook: Some(hook) }), ..Default::default() };
        let request = pb::AttachRequest {
            request_id: request_id(),
            app: "fw".into(),
            attachment: Some(attachment),
            ..Default::default()
        };
        attached.push(timed(&mut || drop(images.host.ask(async |daemon| daemon.attach(request.clone()).await))));
        let names = vec!["fw/count@uplink:xdp".to_owned()];
        let target = Some(detach_request::Target::Links(pb::LinkNames { names }));
        let request = pb::DetachRequest { request_id: request_id(), validate_only: false, target };
        detached.push(timed(&mut || drop(images.host.ask(async |daemon| daemon.detach(request.clone()).await))));
    }
}

/// Does something while others ask without end.
fn under(images: &Images, (name, who, ask): Flood, work: impl FnOnce()) {
    let (door, ended, asked) = (Door::of(&images.host), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let call = |number: usize| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(&door.opened_as(who), Duration::ZERO)).unwrap();
        let streams = LocalSet::new();
        for _ in 0..STREAMS {
            let (client, ended, asked) = (client.clone(), ended.clone(), asked.clone());
            streams.spawn_local(async move {
                while !ended.load(Ordering::Relaxed) {
                    ask(client.clone(), number).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        runtime.block_on(streams);
    };
    thread::scope(|scope| {
        (0..CALLERS).for_each(|number| drop(scope.spawn(move || call(number))));
        work();
        ended.store(true, Ordering::Relaxed);
    });
    eprintln!("{} calls of {name} meanwhile", asked.load(Ordering::Relaxed));
}

/// In milliseconds.
fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[(times.len() * 99).div_ceil(100) - 1].as_secs_f64() * 1e3
}
