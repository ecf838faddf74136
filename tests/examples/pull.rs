//! `cargo xtask bench pull`: what pulling an image takes, beside skopeo, which copies the same image of the same registry and verifies
//! nothing. Prints one figure a line, as JSON; what it does meanwhile goes to standard error.
//!
//! Times are compared only with times of the same run, taken in turn. Must never fail on a time: xtask judges.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a tool: what it cannot do ends it, and it says what it does"
)]

mod measured;
#[expect(dead_code, reason = "cases need more of it")]
#[path = "../tests/host_bad_images/world.rs"]
mod world;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bpfd_client::proto::v1 as pb;
use bpfd_client::request_id;
use bpfd_tests::{Calls, Host, example};
use measured::{figure, milliseconds, ratio};
use world::{Images, built, image_of};

/// Images of the size of a small program, and of the largest there are, by what debuggers read in them.
const SIZES: [(&str, &str, [&str; 2]); 2] =
    [("24k", "padded-24k", ["<=0.8", "<=0.4"]), ("5m", "padded-5m", ["<=0.6", "<=0.4"])];
/// Images that `ls` has to show.
const MANY: u32 = 200;
const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    let quick = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--quick") => true,
        Some(_) => {
            eprintln!("usage: pull [--quick]");
            std::process::exit(2);
        }
    };
    let rounds = if quick { 7 } else { 31 };
    for (size, object, bounds) in SIZES {
        cold(size, object, bounds, rounds);
    }
    counts();
    memory();
    warm(rounds);
    list(rounds);
}

/// A signed image of this object, in a registry of its own.
fn signed(object: &str) -> Images {
    let images = Images::new();
    // skopeo notes where it found blobs: in memory, as all else that is written here.
    images.host.shell("mkdir -p /var/lib/containers; mount -t tmpfs none /var/lib/containers");
    images.publish("team/app", &image_of(&example(object)));
    images.sign("team/app", &images.key);
    images
}

/// From exec to exit.
fn whole(command: &mut Command) -> Duration {
    command.env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let done = command.output().unwrap();
    let took = started.elapsed();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    took
}

fn bpfctl(host: &Host, line: &str) -> Command {
    let mut command = host.command("/run/bin/bpfctl");
    command.args(line.split(' '));
    command
}

/// One call on a connection that is open.
fn call(host: &Host, reference: &str) -> Duration {
    let request = pb::PullRequest { request_id: request_id(), reference: reference.to_owned(), pull: 0 };
    host.ask(async |daemon| {
        let started = Instant::now();
        daemon.pull(request, |_| {}).await?;
        Ok(started.elapsed())
    })
}

fn forget(host: &Host) {
    host.bpfctl("image rm registry/team/app:1").ok();
}

/// An image that is not in the store: pulled, verified and stored, as a whole process and as a call.
fn cold(size: &str, object: &str, bounds: [&str; 2], rounds: u32) {
    eprintln!("an image of {size}, pulled and copied by skopeo");
    let images = signed(object);
    let host = &images.host;
    let (mut processes, mut calls, mut copies) = (vec![], vec![], vec![]);
    // The first round warms all up.
    for round in 0..=rounds {
        let process = whole(&mut bpfctl(host, "image pull -q registry/team/app:1"));
        forget(host);
        let from = format!("docker://{}/team/app:1", images.registry.address());
        let mut skopeo = host.command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &from]);
        let copy = whole(skopeo.arg(format!("oci:/run/copy-{round}:1")));
        host.shell(&format!("rm -r /run/copy-{round}"));
        let call = call(host, "registry/team/app:1");
        forget(host);
        if round > 0 {
            processes.push(process);
            copies.push(copy);
            calls.push(call);
        }
    }
    let [of_process, of_call] = bounds;
    figure(&format!("whole_process_ratio_{size}"), ratio(&processes, &copies), "ratio", Some(of_process));
    figure(&format!("daemon_ratio_{size}"), ratio(&calls, &copies), "ratio", Some(of_call));
    figure(&format!("whole_process_{size}"), milliseconds(&processes), "ms", None);
    figure(&format!("daemon_{size}"), milliseconds(&calls), "ms", None);
    figure(&format!("skopeo_{size}"), milliseconds(&copies), "ms", None);
}

/// Requests to the registry and syncs to the disk, by one pull of a signed image, and by one that has nothing new.
fn counts() {
    eprintln!("requests and syncs");
    let images = signed("padded-24k");
    let asked = || images.registry.seen().len();
    let pull = || {
        let before = asked();
        call(&images.host, "registry/team/app:1");
        count(asked() - before)
    };
    figure("requests", pull(), "", Some("<=5"));
    figure("requests_when_nothing_is_new", pull(), "", Some("<=1"));
    forget(&images.host);
    let calls = images.host.calls(|| {
        pull();
    });
    figure("syncs", syncs(&calls), "", Some("<=5"));
    figure("parse_workers_ready", count(readers(images.host.pid())), "", Some(">=2"));
}

fn syncs(calls: &Calls) -> f64 {
    let names = ["fsync", "fdatasync", "sync_file_range", "syncfs", "sync"];
    let count: u64 = names.into_iter().filter_map(|name| calls.get(name)).sum();
    f64::from(u32::try_from(count).unwrap())
}

/// Workers that wait for an object.
fn readers(daemon: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap().map(Result::unwrap);
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<String> =
        children.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let reads = |pid: &&String| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("--worker\0parse\0"))
    };
    children.iter().filter(reads).count()
}

/// What the daemon has resident more after pulling the large image than before: its own process, as workers end or are new.
fn memory() {
    eprintln!("memory");
    let images = signed("padded-5m");
    images.publish("team/small", &image_of(&example("xdp-counter")));
    images.sign("team/small", &images.key);
    // What any pull needs is there before.
    call(&images.host, "registry/team/small:1");
    images.host.await_quiet();
    let before = resident(images.host.pid());
    call(&images.host, "registry/team/app:1");
    images.host.await_quiet();
    figure("memory_growth_5m", (resident(images.host.pid()) - before) / MIB, "MiB", Some("<=8"));
}

/// `VmRSS` of a process, in bytes.
fn resident(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0
}

/// A load of an image that is in the store, and of the same object from a file.
fn warm(rounds: u32) {
    eprintln!("a load of an image and of a file");
    let images = signed("padded-24k");
    let host = &images.host;
    fs::copy(example("padded-24k"), host.path("/run/object.bpf.o")).unwrap();
    let (mut stored, mut asked, mut files) = (vec![], vec![], vec![]);
    for round in 0..=rounds {
        let load = |line: &str| {
            let took = whole(&mut bpfctl(host, &format!("load -q {line} --name app")));
            host.bpfctl("unload app").ok();
            took
        };
        let asks = load("--image registry/team/app:1");
        let file = load("--path /run/object.bpf.o");
        let has = load("--image registry/team/app:1 --pull if-not-present");
        if round > 0 {
            asked.push(asks);
            files.push(file);
            stored.push(has);
        }
    }
    figure("warm_load_ratio", ratio(&stored, &files), "ratio", Some("<=1.3"));
    figure("warm_load_that_asks_ratio", ratio(&asked, &files), "ratio", None);
    figure("load_path", milliseconds(&files), "ms", None);
}

/// `image ls`.
fn list(rounds: u32) {
    eprintln!("{MANY} images");
    let [one, many] = [1, MANY].map(|images| (Images::new(), images));
    for (images, number) in [&one, &many] {
        let mut object = fs::read(example("xdp-counter")).unwrap();
        for number in 0..*number {
            // Behind all that is read of an object: no two are the same image.
            object.extend(number.to_le_bytes());
            images.publish(&format!("open/app{number}"), &built(&object).unwrap());
            call(&images.host, &format!("registry/open/app{number}:1"));
        }
    }
    let (mut few, mut all) = (vec![], vec![]);
    for round in 0..=rounds {
        let [one, many] = [&one, &many].map(|(images, _)| whole(&mut bpfctl(&images.host, "image ls")));
        if round > 0 {
            few.push(one);
            all.push(many);
        }
    }
    figure(&format!("list_{MANY}_images_to_one"), ratio(&all, &few), "ratio", Some("<=5"));
    figure("list_one_image", milliseconds(&few), "ms", None);
    figure(&format!("list_{MANY}_images"), milliseconds(&all), "ms", None);
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}
