//! `cargo xtask bench scale`: what more interfaces and links cost. Prints one figure a line, as JSON; what it does meanwhile goes to
//! standard error.
//!
//! Times are compared only with times of the same run, taken in turn. Must never fail on a time: xtask judges.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a tool: what it cannot do ends it, and what it prints is its result"
)]

mod measured;
mod raw;

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use bpfd_client::proto::v1::{self as pb, detach_request, hook::Hook, load_request, unload_request};
use bpfd_client::{Client, ClientError, request_id};
use bpfd_tests::{Calls, Host, example};
use measured::{figure, milliseconds, ratio};
use raw::kernel;
use tokio::runtime::Builder;

/// Links of each chain.
const LINKS: usize = 4;
/// How long an attachment runs before another request is made beside it: less than the verification takes.
const HEAD_START: Duration = Duration::from_millis(150);

fn main() {
    let mut quick = false;
    let mut interfaces = None;
    let mut notes = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--interfaces" => interfaces = words.next().and_then(|number| number.parse().ok()),
            "--notes" => notes = words.next(),
            _ => {
                eprintln!("usage: scale [--quick] [--interfaces N] [--notes NOTES.SO]");
                std::process::exit(2);
            }
        }
    }
    let (many, rounds, links) = if quick { (32, 5, 8 * LINKS) } else { (256, 15, 64 * LINKS) };
    let many = interfaces.unwrap_or(many);

    one_more(many, rounds);
    beside_a_verification(rounds.min(7));
    if let Some(notes) = notes {
        a_load(&notes, rounds);
    }
    a_start(links);
}

/// A host with chains of equal length on interfaces `i0`, `i1`, …, and an app `more` that is loaded alone.
struct World {
    host: Host,
    /// What attaching all of it took.
    by_hand: Duration,
}

/// Makes one change in a round of that number, and says what its answer took.
type Verb = fn(&World, u32) -> Duration;

/// What one change cost.
struct Spent {
    /// Until it was answered.
    answer: Duration,
    /// On a processor, also for what follows from it.
    processor: Duration,
}

impl World {
    fn new(interfaces: usize) -> Self {
        eprintln!("{interfaces} interfaces with {LINKS} links each");
        let host = Host::new();
        let mut batch = String::new();
        for index in 0..interfaces {
            writeln!(batch, "link add i{index} type veth peer name i{index} netns far").unwrap();
            writeln!(batch, "link set i{index} up").unwrap();
        }
        host.shell(&format!("ip -batch - <<END\n{batch}END"));
        let world = Self { host, by_hand: Duration::ZERO };
        world.load("more", "xdp-counter");
        let started = Instant::now();
        for link in 0..LINKS {
            let app = format!("app{link}");
            world.load(&app, "xdp-counter");
            for index in 0..interfaces {
                world.attach(&app, &format!("i{index}"));
            }
        }
        Self { by_hand: started.elapsed(), ..world }
    }

    fn load(&self, name: &str, object: &str) -> Duration {
        let bytes = fs::read(example(object)).unwrap();
        self.timed(async |daemon| {
            let uploaded = daemon.upload(&bytes).await?;
            let request = pb::LoadRequest {
                request_id: request_id(),
                name: Some(name.to_owned()),
                source: Some(load_request::Source::ObjectSha256(uploaded.sha256)),
                ..Default::default()
            };
            daemon.load(request, |_| {}).await.map(drop)
        })
    }

    fn attach(&self, app: &str, interface: &str) -> Duration {
        let request = to_interface(app, interface);
        self.timed(async |daemon| daemon.attach(request).await.map(drop))
    }

    fn update(&self, app: &str, interface: &str, priority: u32) -> Duration {
        let request = pb::UpdateLinkRequest {
            request_id: request_id(),
            link: format!("{app}/count@{interface}:xdp"),
            priority: Some(priority),
            ..Default::default()
        };
        self.timed(async |daemon| daemon.update(request).await.map(drop))
    }

    fn detach(&self, app: &str, function: &str, interface: &str) -> Duration {
        let names = vec![format!("{app}/{function}@{interface}:xdp")];
        let target = Some(detach_request::Target::Links(pb::LinkNames { names }));
        let request = pb::DetachRequest { request_id: request_id(), validate_only: false, target };
        self.timed(async |daemon| daemon.detach(request).await.map(drop))
    }

    fn unload(&self, app: &str) {
        let target = Some(unload_request::Target::Apps(pb::AppNames { names: vec![app.to_owned()] }));
        let request = pb::UnloadRequest { request_id: request_id(), validate_only: false, target };
        self.timed(async |daemon| daemon.unload(request).await.map(drop));
    }

    /// On a connection that is open.
    fn timed(&self, ask: impl AsyncFnOnce(&mut Client) -> Result<(), ClientError>) -> Duration {
        self.host.ask(async |daemon| {
            daemon.info(pb::GetInfoRequest {}).await?;
            let started = Instant::now();
            ask(daemon).await?;
            Ok(started.elapsed())
        })
    }

    /// What a change costs until nothing more follows from it.
    fn spent(&self, change: impl FnOnce(&Self) -> Duration) -> Spent {
        self.host.await_quiet();
        let before = self.host.processor_time();
        let answer = change(self);
        self.host.await_quiet();
        Spent { answer, processor: self.host.processor_time().saturating_sub(before) }
    }

    /// The daemon's memory in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.host.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn to_interface(app: &str, interface: &str) -> pb::AttachRequest {
    let hook = Hook::Xdp(pb::XdpHook { netns: None, interface: interface.to_owned() });
    let attachment = pb::Attachment { hook: Some(pb::Hook { hook: Some(hook) }), ..Default::default() };
    pb::AttachRequest {
        request_id: request_id(),
        app: app.to_owned(),
        attachment: Some(attachment),
        ..Default::default()
    }
}

/// One more link on one interface of a host with many, against a host with one.
fn one_more(many: usize, rounds: usize) {
    let (one, all) = (World::new(1), World::new(many));
    let links = u32::try_from((many - 1) * LINKS).unwrap();
    let grown = all.memory().saturating_sub(one.memory());
    figure("memory_per_link", f64::from(u32::try_from(grown).unwrap()) / f64::from(links), "KiB", Some("<=16"));

    let verbs: [(&str, Verb); 3] = [
        ("attach", |world, _| world.attach("more", "i0")),
        ("update", |world, round| world.update("more", "i0", 900 + round % 2)),
        ("detach", |world, _| world.detach("more", "count", "i0")),
    ];
    let mut spent = [const { (Vec::new(), Vec::new()) }; 3];
    // The first round warms both up.
    for round in 0..=rounds {
        let number = u32::try_from(round).unwrap();
        for ((_, verb), (few, many)) in verbs.iter().zip(&mut spent) {
            let (one, all) = (one.spent(|world| verb(world, number)), all.spent(|world| verb(world, number)));
            if round > 0 {
                few.push(one);
                many.push(all);
            }
        }
    }
    for ((name, _), (few, all)) in verbs.iter().zip(spent) {
        let answer = [&few, &all].map(|spent| spent.iter().map(|spent| spent.answer).collect::<Vec<_>>());
        let processor = [&few, &all].map(|spent| spent.iter().map(|spent| spent.processor).collect::<Vec<_>>());
        for (what, [few, all]) in [("answer", answer), ("processor", processor)] {
            let name = format!("{name}_{what}");
            figure(&format!("{name}_ratio_{many}_interfaces"), ratio(&all, &few), "ratio", Some("<=1.3"));
            figure(&format!("{name}_1_interface"), milliseconds(&few), "ms", None);
            figure(&format!("{name}_{many}_interfaces"), milliseconds(&all), "ms", None);
        }
    }

    let calls = |what: &str, bound: &str, work: &dyn Fn(&World)| {
        for (world, interfaces) in [(&one, 1), (&all, many)] {
            let calls = sum(&world.host.calls(|| work(world)), |_| true);
            figure(&format!("system_calls_{what}_{interfaces}"), calls, "calls", Some(bound));
        }
    };
    calls("attach", "<=400", &|world| _ = world.attach("more", "i0"));
    calls("update", "<=400", &|world| _ = world.update("more", "i0", 900));
    calls("detach", "<=400", &|world| _ = world.detach("more", "count", "i0"));
    calls("event", "<=20", &|world| {
        world.host.shell("ip link add unrelated type veth peer name unrelated netns far");
    });
    let syncs = |name: &str| ["fsync", "fdatasync", "sync_file_range", "syncfs"].contains(&name);
    let calls = one.host.calls(|| _ = one.attach("more", "i0"));
    figure("syncs_attach", sum(&calls, syncs), "calls", Some("<=4"));
    let calls = one.host.calls(|| _ = one.load("another", "tracepoint-12k"));
    figure("syncs_load", sum(&calls, syncs), "calls", Some("<=6"));
}

/// A detachment from one interface while the kernel verifies what goes to another, against the same on an idle host.
fn beside_a_verification(rounds: usize) {
    eprintln!("a detachment beside a verification");
    let world = World::new(2);
    world.load("slow", "slow-to-verify");
    let (mut idle, mut beside, mut verified) = (Vec::new(), Vec::new(), Vec::new());
    // Another caller, whose connection is open before it is needed.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let socket = world.host.path("/run/case/run/bpfd/bpfd.sock");
    let mut other = runtime.block_on(Client::connect(&socket, Duration::ZERO)).unwrap();
    for _ in 0..rounds {
        world.attach("more", "i0");
        idle.push(world.detach("more", "count", "i0"));
        world.attach("more", "i0");
        thread::scope(|scope| {
            let attachment = scope.spawn(|| {
                let started = Instant::now();
                runtime.block_on(other.attach(to_interface("slow", "i1"))).unwrap();
                started.elapsed()
            });
            thread::sleep(HEAD_START);
            beside.push(world.detach("more", "count", "i0"));
            verified.push(attachment.join().unwrap());
        });
        world.detach("slow", "slow", "i1");
    }
    figure("detach_beside_a_verification_ratio", ratio(&beside, &idle), "ratio", Some("<=2"));
    figure("detach_idle", milliseconds(&idle), "ms", None);
    figure("detach_beside_a_verification", milliseconds(&beside), "ms", None);
    figure("attach_that_is_verified", milliseconds(&verified), "ms", None);
}

/// Loading an object on an open connection, against the system calls alone that make its maps and programs.
fn a_load(notes: &str, rounds: usize) {
    eprintln!("a load, by the daemon and by system calls alone");
    const OBJECT: &str = "tracepoint-12k";
    let raw = raw::steps(OBJECT, notes);
    let world = World { host: Host::new(), by_hand: Duration::ZERO };
    let bpffs = world.host.path("/run/case/sys/fs/bpf");
    let (mut asked, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        asked.push(world.load("tracer", OBJECT));
        world.unload("tracer");
        let started = Instant::now();
        let made = kernel::make(&world.host, &bpffs, &raw);
        alone.push(started.elapsed());
        drop(made);
    }
    figure("load_ratio_to_raw", ratio(&asked, &alone), "ratio", Some("<=3"));
    figure("load", milliseconds(&asked), "ms", None);
    figure("load_raw", milliseconds(&alone), "ms", None);
}

/// A start after a boot, which took everything but the database, against attaching the same by hand.
fn a_start(links: usize) {
    let mut world = World::new(links / LINKS);
    world.host.stop();
    let started = Instant::now();
    world.host.start();
    figure("restart", started.elapsed().as_secs_f64() * 1e3, "ms", None);
    world.host.stop();
    let off: String = (0..links / LINKS).map(|index| format!("ip link set i{index} xdp off\n")).collect();
    world.host.shell(&format!("{off}cd /run/case/sys/fs/bpf; rm -rf bpfd xdp"));
    let started = Instant::now();
    world.host.start();
    let start = started.elapsed();
    figure(&format!("start_ratio_{links}_links"), ratio(&[start], &[world.by_hand]), "ratio", Some("<=0.5"));
    figure(&format!("start_{links}_links"), milliseconds(&[start]), "ms", None);
    figure(&format!("by_hand_{links}_links"), milliseconds(&[world.by_hand]), "ms", None);
}

fn sum(calls: &Calls, wanted: impl Fn(&str) -> bool) -> f64 {
    let count: u64 = calls.iter().filter(|(name, _)| wanted(name)).map(|(_, count)| count).sum();
    f64::from(u32::try_from(count).unwrap())
}
