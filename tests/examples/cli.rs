//! `cargo xtask bench cli`: what commands cost as whole processes, and how much memory programs have. Prints one figure a line, as JSON;
//! what it does meanwhile goes to standard error.
//!
//! Times are compared only with times of the same run, taken in turn. Must never fail on a time: xtask judges.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a tool: what it cannot do ends it, and it says what it does"
)]

mod measured;
mod raw;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bpfd_client::proto::v1::{self as pb, load_request, unload_request};
use bpfd_client::request_id;
use bpfd_tests::{Host, example};
use measured::{figure, milliseconds, ratio};
use raw::kernel::{self, Step};
use serde_json::json;

/// An XDP program of the size of a small real one.
const OBJECT: &str = "xdp-12k";
/// Apps that `list` has to show.
const MANY: usize = 200;
/// Programs that a boot loads.
const AT_BOOT: usize = 10;
const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    let mut words = std::env::args().skip(1);
    let (mut quick, mut notes) = (false, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--notes" => notes = words.next(),
            _ => {
                eprintln!("usage: cli [--quick] --notes NOTES.SO");
                std::process::exit(2);
            }
        }
    }
    let (rounds, cycles) = if quick { (7, 100) } else { (31, 1000) };
    sizes();
    small_commands(rounds);
    a_load(&notes.unwrap_or_default(), rounds);
    memory(cycles);
    a_boot(rounds.min(5));
}

/// A program that is measured: beside this one, as the same build made it.
fn program(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name)
}

fn sizes() {
    for (name, bound) in [("bpfd", "<=20"), ("bpfctl", "<=15")] {
        let size = fs::metadata(program(name)).unwrap().len();
        figure(&format!("{name}_size"), float(size) / 1e6, "MB", Some(bound));
    }
}

/// `bpfctl` with these words, asking the host's daemon.
fn bpfctl(host: &Host, line: &str) -> Command {
    let mut command = Command::new(program("bpfctl"));
    command.env("BPFD_SOCKET", host.path("/run/case/run/bpfd/bpfd.sock")).args(line.split(' '));
    command
}

/// From exec to exit.
fn whole(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let done = command.output().unwrap();
    let took = started.elapsed();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    took
}

fn small_commands(rounds: usize) {
    eprintln!("version and list");
    let (one, many) = (Host::new(), Host::new());
    one.bpfctl(&format!("load --path {} --name app0", example("xdp-counter"))).ok();
    for number in 0..MANY {
        many.bpfctl(&format!("load --path {} --name app{number}", example("xdp-counter"))).ok();
    }
    let (mut spawn, mut version, mut few, mut all) = (vec![], vec![], vec![], vec![]);
    let mut peak = 0;
    // The first round warms both up.
    for round in 0..=rounds {
        let times = [
            whole(&mut Command::new("true")),
            whole(&mut bpfctl(&one, "version")),
            whole(&mut bpfctl(&one, "list")),
            whole(&mut bpfctl(&many, "list")),
        ];
        peak = peak.max(most_memory(&mut bpfctl(&one, "version")));
        if round > 0 {
            [&mut spawn, &mut version, &mut few, &mut all]
                .into_iter()
                .zip(times)
                .for_each(|(all, time)| all.push(time));
        }
    }
    figure("version_to_spawn", ratio(&version, &spawn), "ratio", Some("<=3"));
    figure("version", milliseconds(&version), "ms", None);
    figure("spawn", milliseconds(&spawn), "ms", None);
    figure("version_memory", float(peak) / MIB, "MiB", Some("<=10"));
    figure(&format!("list_{MANY}_apps_to_one"), ratio(&all, &few), "ratio", Some("<=3"));
    figure("list_one_app", milliseconds(&few), "ms", None);
    figure(&format!("list_{MANY}_apps"), milliseconds(&all), "ms", None);
}

/// The most that a short process had resident, as far as it could be read while it lived: bytes.
fn most_memory(command: &mut Command) -> u64 {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(status(child.id(), "VmHWM:"));
    }
    most
}

/// A line of `/proc/PID/status` that is in KiB, in bytes; 0 if the process is gone.
fn status(pid: u32, line: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = text.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default() << 10
}

/// A load that attaches, by `bpfctl`, and the system calls alone that load and attach the same program.
fn a_load(notes: &str, rounds: usize) {
    eprintln!("a load, as a whole process and by system calls alone");
    let mut steps = raw::steps(OBJECT, notes);
    let program = steps.iter().find_map(|step| match step {
        Step::Program { id, .. } => Some(id.clone()),
        _ => None,
    });
    let attach = json!({"what": "attach", "program": program, "interface": {"name": "i1"}, "generic": false});
    steps.push(serde_json::from_value(attach).unwrap());
    let host = Host::new();
    host.shell("ip link add i0 type veth peer name i0 netns far && ip link add i1 type veth peer name i1 netns far");
    let bpffs = host.path("/run/case/sys/fs/bpf");
    let (mut asked, mut alone) = (vec![], vec![]);
    for round in 0..=rounds {
        let load = whole(&mut bpfctl(&host, &format!("load --path {} --name app xdp -i i0", example(OBJECT))));
        host.bpfctl("unload app").ok();
        let started = Instant::now();
        let made = kernel::make(&host, &bpffs, &steps);
        let raw = started.elapsed();
        drop(made);
        host.shell("ip link set i1 xdp off");
        if round > 0 {
            asked.push(load);
            alone.push(raw);
        }
    }
    figure("load_to_raw", ratio(&asked, &alone), "ratio", Some("<=8"));
    figure("load", milliseconds(&asked), "ms", None);
    figure("load_raw", milliseconds(&alone), "ms", None);
}

/// What the daemon and its workers have resident: bytes.
fn resident(host: &Host) -> u64 {
    let daemon = host.pid();
    let of_daemon = |pid: &u32| *pid == daemon || parent(*pid) == Some(daemon);
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    entries.filter(of_daemon).map(|pid| status(pid, "VmRSS:")).sum()
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn memory(cycles: u32) {
    eprintln!("the daemon's memory, idle and after {cycles} loads");
    let host = Host::new();
    host.await_quiet();
    figure("idle_memory", float(resident(&host)) / MIB, "MiB", Some("<=24"));
    let bytes = fs::read(example(OBJECT)).unwrap();
    host.ask(async |daemon| {
        for _ in 0..cycles {
            let uploaded = daemon.upload(&bytes).await?;
            let source = Some(load_request::Source::ObjectSha256(uploaded.sha256));
            let name = Some("app".to_owned());
            let load = pb::LoadRequest { request_id: request_id(), name, source, ..Default::default() };
            daemon.load(load, |_| {}).await?;
            let target = Some(unload_request::Target::Apps(pb::AppNames { names: vec!["app".to_owned()] }));
            daemon.unload(pb::UnloadRequest { request_id: request_id(), validate_only: false, target }).await?;
        }
        Ok(())
    });
    host.await_quiet();
    figure(&format!("memory_after_{cycles}_loads"), float(resident(&host)) / MIB, "MiB", Some("<=30"));
}

/// From exec to READY after a boot with programs that are to be there, against loading the same by hand.
fn a_boot(rounds: usize) {
    eprintln!("a start after a boot");
    let (mut starts, mut hands) = (vec![], vec![]);
    for _ in 0..rounds {
        let mut host = Host::new();
        let add = |number| format!("ip link add i{number} type veth peer name i{number} netns far\n");
        host.shell(&(0..AT_BOOT).map(add).collect::<String>());
        let load = |number| {
            let line = format!("load --path {} --name app{number} --persist xdp -i i{number}", example(OBJECT));
            whole(&mut bpfctl(&host, &line))
        };
        hands.push((0..AT_BOOT).map(load).sum());
        host.stop();
        let off: String = (0..AT_BOOT).map(|number| format!("ip link set i{number} xdp off\n")).collect();
        host.shell(&format!("{off}cd /run/case/sys/fs/bpf; rm -rf bpfd xdp"));
        let started = Instant::now();
        host.start();
        starts.push(started.elapsed());
        assert_eq!(host.items("list").len(), AT_BOOT, "all of it is there");
    }
    figure(&format!("boot_with_{AT_BOOT}_to_by_hand"), ratio(&starts, &hands), "ratio", Some("<=3"));
    figure(&format!("boot_with_{AT_BOOT}"), milliseconds(&starts), "ms", None);
    figure(&format!("by_hand_{AT_BOOT}"), milliseconds(&hands), "ms", None);
}

/// Whole KiB.
fn float(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap()) * 1024.0
}
