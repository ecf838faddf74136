//! The packages on a Debian that systemd has booted: installed, upgraded, removed and purged, every kind of hook under the unit's
//! sandbox, and a reboot. Only in a guest of `cargo xtask vm --debian`, whose root is nobody's.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the lints exempt test functions, not what they share"
)]

#[path = "guest_package/reboot.rs"]
mod reboot;

use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use bpfd_sys::bpf::{Map, obj_get};
use bpfd_tests::{Output, eventually, example};
use rustix::event::{Timespec, poll};
use serde_json::Value;

/// Of each kind: its word, what loads and attaches one, and the map that it counts in.
const KINDS: [(&str, &str, &str); 8] = [
    ("xdp", "xdp-counter xdp -i uplink", "packets"),
    ("tc", "tc-counter --program count tc -i uplink --direction ingress", "packets"),
    ("tracepoint", "tracepoint-count tracepoint", "switches"),
    ("raw_tracepoint", "raw-tracepoint-count raw_tracepoint", "switches"),
    ("kprobe", "kprobe-count --program on_call kprobe", "calls"),
    ("kretprobe", "kprobe-count --program on_return kretprobe", "returns"),
    ("fentry", "fentry-count --program on_entry fentry", "entries"),
    ("fexit", "fentry-count --program on_exit fexit", "exits"),
];

/// What each of them counts at least when something happens.
const EVENTS: u64 = 50;

const UNITS: [&str; 4] = ["bpfd.service", "bpfd.socket", "bpfd-ro.socket", "bpfd-critical.service"];

#[test]
fn packages_keep_programs_running_until_a_purge_unloads_them() {
    if std::env::var("BPFD_VM").as_deref() != Ok("systemd") {
        println!("skipped: `cargo xtask test --only vm` boots a Debian for it");
        return;
    }
    if reboot::is_over() {
        reboot::both_programs_count_from_the_first_packet();
        return;
    }
    make_interfaces();
    install("old");
    is_ready();
    every_kind_runs_in_the_sandbox();
    critical_programs_are_waited_for();
    let programs = kernel_programs();
    let packets = Packets::begin();

    edit("/etc/bpfd/policy.toml", |text| text + "# an administrator's line\n");
    let (daemon, socket) = (main_pid(), inode("/run/bpfd/bpfd.sock"));
    install("new");
    assert_ne!(main_pid(), daemon, "the new daemon runs");
    assert_eq!(inode("/run/bpfd/bpfd.sock"), socket, "the socket stayed open");
    assert!(read("/etc/bpfd/policy.toml").ends_with("# an administrator's line\n"));
    is_ready();
    assert_eq!(kernel_programs(), programs);
    counts_of_every_kind();

    let said = run("dpkg", "--remove bpfd").ok();
    let stays: Vec<&str> = said.lines().filter(|line| line.starts_with("bpfd: ")).collect();
    let names: Vec<&str> = KINDS.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(stays.len(), 2, "{said}");
    for name in &names {
        assert!(stays[0].contains(&format!(" {name}")), "{name}: {said}");
    }
    assert!(stays[1].contains("dpkg --purge bpfd"), "{said}");
    assert!(!run("systemctl", "is-active bpfd.service").stdout.starts_with("active"));
    assert!(!Path::new("/usr/sbin/bpfd").exists());

    install_only("new", "bpfd");
    is_ready();
    assert_eq!(kernel_programs(), programs, "it takes over what ran");
    counts_of_every_kind();

    run("dpkg", "--remove bpfd bpfctl").ok();
    packets.end();
    run("dpkg", "--purge bpfd bpfctl").ok();
    nothing_is_left();

    install("new");
    is_ready();
    reboot::the_lines_of_the_readme_load_two_programs();
    reboot::begin();
}

/// Packets go from `far` to `uplink`. Nothing else does: no neighbour is looked for, and nobody speaks IPv6.
fn make_interfaces() {
    for line in
        ["link add uplink type veth peer name far", "link add second type dummy", "addr add 10.9.0.1/24 dev far"]
    {
        run("ip", line).ok();
    }
    for name in ["uplink", "far", "second"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        run("ip", &format!("link set {name} up")).ok();
    }
    let address = read("/sys/class/net/uplink/address");
    run("ip", &format!("neigh add 10.9.0.2 lladdr {} dev far", address.trim())).ok();
}

fn is_ready() {
    for unit in UNITS {
        assert_eq!(run("systemctl", &format!("is-enabled {unit}")).stdout, "enabled\n", "{unit}");
        let wanted = if unit == "bpfd-critical.service" { "inactive\n" } else { "active\n" };
        let state = run("systemctl", &format!("is-active {unit}")).stdout;
        assert!(state == wanted || unit == "bpfd-critical.service", "{unit}: {state}{}", journal());
    }
    let version = run("bpfctl", "version").ok();
    assert!(
        version.lines().any(|line| line.starts_with("state:") && line.ends_with("ready")),
        "{version}{}",
        journal()
    );
    for (path, group) in [("/run/bpfd/bpfd.sock", "bpfd"), ("/run/bpfd/bpfd-ro.sock", "bpfd-view")] {
        let found = std::fs::metadata(path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o660, 0), "{path}");
        assert!(run("getent", &format!("group {group}")).ok().contains(&format!(":{}:", found.gid())), "{path}");
    }
}

fn every_kind_runs_in_the_sandbox() {
    let help = run("bpfctl", "attach --help").ok();
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:") && !line.starts_with("Hooks:")).skip(1);
    let listed: Vec<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .filter(|word| *word != "help")
        .collect();
    assert_eq!(listed, KINDS.map(|(kind, ..)| kind), "a kind is missing here: {help}");
    for (kind, words, _) in KINDS {
        let (object, words) = words.split_once(' ').unwrap();
        let loaded = run("bpfctl", &format!("load --path {} --name {kind} {words}", example(object)));
        assert!(loaded.code == 0 && loaded.stdout.contains("ATTACHED"), "{loaded}{}", journal());
    }
    counts_of_every_kind();
    let doctor = run("bpfctl", "doctor");
    assert_eq!(doctor.code, 0, "{doctor}");
}

/// What each program counts grows with what happens.
fn counts_of_every_kind() {
    let counts = || KINDS.map(|(kind, _, map)| count(kind, map));
    let before = counts();
    let socket = sender();
    for _ in 0..EVENTS {
        send(&socket);
        std::fs::remove_file("/no/such/file").unwrap_err();
        thread::yield_now();
    }
    let after = eventually(counts, |after| after.iter().zip(before).all(|(after, before)| *after >= before + EVENTS));
    for ((kind, ..), (before, after)) in KINDS.iter().zip(before.into_iter().zip(after)) {
        assert!(after >= before + EVENTS, "{kind}: {before}, then {after}");
    }
}

fn critical_programs_are_waited_for() {
    std::fs::create_dir_all("/usr/lib/bpfd").unwrap();
    std::fs::copy(example("xdp-counter"), "/usr/lib/bpfd/guard.o").unwrap();
    let file = "/etc/bpfd/programs.d/10-guard.toml";
    let attach = |interface| format!("[[program.attach]]\nhook = \"xdp\"\ninterface = \"{interface}\"\n");
    let head = "version = 1\n[[program]]\nname = \"guard\"\nfile = \"/usr/lib/bpfd/guard.o\"\ncritical = true\n";
    std::fs::write(file, [head, &attach("second"), &attach("later0")].concat()).unwrap();
    run("systemctl", "reload bpfd").ok();
    let is = |state: &str, count| {
        let listed = eventually(|| run("bpfctl", "list links").stdout, |listed| listed.matches(state).count() == count);
        assert_eq!(listed.matches(state).count(), count, "{state}: {listed}{}", journal());
    };
    is("WAITING", 1);
    let critical = || run("systemctl", "restart bpfd-critical.service").code == 0;
    assert!(critical(), "attached, or waiting for an interface: {}", journal());
    run("ip", "link set dev second xdp off").ok();
    is("DRIFTED", 1);
    assert!(!critical(), "a critical program was taken away");
    run("systemctl", "restart bpfd.service").ok();
    is("DRIFTED", 0);
    assert!(critical(), "the restart has put it back: {}", journal());
    std::fs::write(file, format!("{head}oops = 1\n")).unwrap();
    run("systemctl", "reload bpfd").ok();
    drop(eventually(|| run("bpfctl", "version").stdout, |said| said.contains("degraded")));
    assert!(!critical(), "nobody knows what a bad file declares");
    std::fs::remove_file(file).unwrap();
    run("systemctl", "restart bpfd.service").ok();
    assert!(critical(), "{}", journal());
}

fn nothing_is_left() {
    for path in ["/etc/bpfd", "/var/lib/bpfd", "/var/log/bpfd", "/run/bpfd", "/sys/fs/bpf/bpfd", "/usr/bin/bpfctl"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    let interfaces = run("ip", "-d link").ok();
    assert!(!interfaces.contains("xdp"), "{interfaces}");
    assert_eq!(kernel_programs(), Vec::<u32>::new());
    assert_eq!(run("dpkg", "--audit").ok(), "");
    assert_eq!(run("systemctl", "list-units --all --no-legend bpfd.* bpfd-ro.* bpfd-critical.*").ok(), "");
    let failed = run("systemctl", "--failed --no-legend").ok();
    assert!(!failed.contains("bpfd"), "{failed}");
}

/// Packets without an end, each counted by the programs of `xdp` and `tc`.
struct Packets {
    ends: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    /// What was counted before, and where: read when the daemon is gone.
    counters: Vec<(Map, u64)>,
}

/// Between two packets.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

impl Packets {
    fn begin() -> Self {
        let counters = ["xdp", "tc"].map(|app| {
            let map = map(app, "packets");
            let before = sum(&map);
            (map, before)
        });
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let sender = thread::spawn(move || {
            let socket = sender();
            let mut sent = 0;
            while !told.load(Ordering::Relaxed) {
                send(&socket);
                sent += 1;
                // The processor is emulated, and others need it.
                poll(&mut [], Some(&PAUSE)).unwrap();
            }
            sent
        });
        Self { ends, sender, counters: counters.into() }
    }

    /// None was missed; those that `counts_of_every_kind` sent are counted too.
    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap() + 2 * EVENTS;
        for (map, before) in &self.counters {
            let counted = eventually(|| sum(map) - before, |counted| *counted >= sent);
            assert_eq!(counted, sent, "each packet is counted once");
        }
    }
}

fn sender() -> UdpSocket {
    UdpSocket::bind("10.9.0.1:0").unwrap()
}

fn send(socket: &UdpSocket) {
    assert_eq!(socket.send_to(b"packet", "10.9.0.2:9").unwrap(), 6);
}

/// What a program of this app counted, over all processors.
fn count(app: &str, name: &str) -> u64 {
    sum(&map(app, name))
}

fn sum(map: &Map) -> u64 {
    let values = map.lookup(&[0; 4]).unwrap().unwrap();
    values.chunks(8).map(|value| u64::from_ne_bytes(value.try_into().unwrap())).sum()
}

/// A map by the pin that the daemon names.
fn map(app: &str, name: &str) -> Map {
    let shown = run("bpfctl", &format!("get app {app} -o json"));
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{shown}"));
    let maps = shown["items"][0]["maps"].as_array().unwrap();
    let pin = maps.iter().find(|map| map["name"] == name).unwrap()["pinPath"].as_str().unwrap();
    Map::from_fd(obj_get(Path::new(pin)).unwrap()).unwrap()
}

/// The kernel's numbers of the programs that are there: of bpfd's and of everybody else's, without systemd's, which come and go.
fn kernel_programs() -> Vec<u32> {
    let mut found = Vec::new();
    collect(Path::new("/sys/fs/bpf/bpfd"), &mut found);
    let mut numbers: Vec<u32> = found.iter().filter_map(|pin| program_number(pin)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, found) } else { found.push(path) }
    }
}

/// The number in what the kernel says of a descriptor of it.
fn program_number(pin: &Path) -> Option<u32> {
    use std::os::fd::AsRawFd as _;
    let fd = obj_get(pin).unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
}

fn packages(which: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages/test").join(which)
}

/// Installs both packages of that directory.
#[track_caller]
fn install(which: &str) {
    let debs: Vec<String> = ["bpfctl", "bpfd"].iter().map(|package| deb(which, package)).collect();
    run("dpkg", &format!("--install {}", debs.join(" "))).ok();
}

#[track_caller]
fn install_only(which: &str, package: &str) {
    run("dpkg", &format!("--install {}", deb(which, package))).ok();
}

fn deb(which: &str, package: &str) -> String {
    let dir = packages(which);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths = entries.map(|entry| entry.unwrap().path().display().to_string());
    paths.find(|path| path.contains(&format!("/{package}_"))).unwrap()
}

fn main_pid() -> String {
    run("systemctl", "show --property MainPID --value bpfd.service").ok()
}

fn journal() -> String {
    run("journalctl", "--no-pager --boot --lines 80 --unit bpfd* --unit systemd-sysusers.service").stdout
}

fn inode(path: &str) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn edit(path: &str, change: impl FnOnce(String) -> String) {
    std::fs::write(path, change(read(path))).unwrap();
}

fn run(program: &str, arguments: &str) -> Output {
    let line = format!("{program} {arguments}");
    let mut command = Command::new(program);
    command.args(arguments.split(' ')).stdin(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive");
    Output::of(&line, command.output().unwrap())
}
