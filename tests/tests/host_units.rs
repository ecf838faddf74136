//! The units of `packaging/systemd`, judged by systemd's own tools where they are there, and what the daemon says to systemd.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "the lints exempt test functions, not what they share"
)]

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bpfd_tests::Host;
use rustix::process::{Pid, Signal, kill_process};

/// Ten times what `systemd-analyze security` may say of the daemon's unit at most.
const EXPOSURE: u32 = 35;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd")
}

/// `None` if there is no such tool.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(done) => {
            let text = [done.stdout, done.stderr].concat();
            Some((done.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: there is no systemd-analyze");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// How exposed a unit is, by its text.
fn exposure(text: &str, most: u32) -> Option<(bool, String)> {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("bpfd.service");
    fs::write(&unit, text).unwrap();
    let threshold = format!("--threshold={most}");
    analyze(&["security", "--offline=true", &threshold, "--no-pager", unit.to_str().unwrap()])
}

#[test]
fn the_daemons_unit_is_not_more_exposed_than_it_must_be() {
    let text = fs::read_to_string(units().join("bpfd.service")).unwrap();
    let Some((within, said)) = exposure(&text, EXPOSURE) else { return };
    assert!(within, "{said}");
    // The control: one more capability is too much.
    let more =
        text.replace("CapabilityBoundingSet=", "CapabilityBoundingSet=CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_PTRACE ");
    assert!(!exposure(&more, EXPOSURE).unwrap().0);
    let critical = fs::read_to_string(units().join("bpfd-critical.service")).unwrap();
    assert!(exposure(&critical, 20).unwrap().0);
}

/// The units with the built programs, verified: what systemd says of them.
fn verified(edit: impl Fn(String) -> String) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for entry in fs::read_dir(units()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // They are not installed here; any program will do.
        let text = text.replace("/usr/sbin/bpfd", "/bin/true").replace("/usr/bin/bpfctl", "/bin/true");
        let copy = directory.path().join(path.file_name().unwrap());
        fs::write(&copy, edit(text)).unwrap();
        paths.push(copy.to_str().unwrap().to_owned());
    }
    let arguments = ["verify", "--man=no"].into_iter().chain(paths.iter().map(String::as_str));
    let (_, said) = analyze(&arguments.collect::<Vec<_>>())?;
    let ours = |line: &&str| line.contains(directory.path().to_str().unwrap()) || line.starts_with("bpfd");
    // Known since systemd 253; before, the line above it counts.
    let said = said.lines().filter(ours).filter(|line| !line.contains("notify-reload"));
    Some(said.collect::<Vec<_>>().join("\n"))
}

#[test]
fn systemd_understands_each_line_of_the_units() {
    let Some(said) = verified(|text| text) else { return };
    assert_eq!(said, "");
    let said = verified(|text| text.replace("LockPersonality=yes", "LockPersonalty=yes")).unwrap();
    assert!(said.contains("LockPersonalty"), "{said}");
}

/// A daemon that was told of a watchdog, and what it says to systemd.
struct Told {
    host: Host,
    daemon: Child,
    socket: UnixDatagram,
}

impl Told {
    fn new(watchdog: Duration) -> Self {
        let host = Host::without_daemon();
        let socket = UnixDatagram::bind(host.path("/run/told")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = host.command("/run/bin/bpfd");
        command.args(["--root", "/run/case"]).env("NOTIFY_SOCKET", "/run/told");
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { host, daemon, socket }
    }

    /// Reads until a message begins so; the others before it.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let mut said = [0; 256];
            let length = self.socket.recv(&mut said).unwrap();
            let said = String::from_utf8_lossy(&said[..length]).into_owned();
            if said.starts_with(wanted) {
                return before;
            }
            before.push(said);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.daemon), signal).unwrap();
    }
}

#[test]
fn systemd_is_told_of_each_turn_of_a_reload_and_of_the_end() {
    let mut told = Told::new(Duration::from_millis(300));
    told.until("READY=1");
    (0..3).for_each(|_| drop(told.until("WATCHDOG=1")));
    told.signal(Signal::HUP);
    told.until("RELOADING=1\nMONOTONIC_USEC=");
    told.until("READY=1");
    told.signal(Signal::TERM);
    told.until("STOPPING=1");
    assert!(told.daemon.wait().unwrap().success());
    drop(told.host);
}

#[test]
fn sockets_that_systemd_passes_are_served_and_kept() {
    let mut host = Host::without_daemon();
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        println!("skipped: there is no systemd-socket-activate");
        return;
    }
    let mut command = host.command("systemd-socket-activate");
    host.shell("mkdir -p /run/case/run/bpfd; chmod 755 /run/case/run /run/case/run/bpfd");
    let sockets = ["--listen=/run/case/run/bpfd/bpfd.sock", "--listen=/run/case/run/bpfd/bpfd-ro.sock"];
    command.args(sockets).args(["/run/bin/bpfd", "--root", "/run/case"]);
    let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The first call starts it, and waits for it.
    host.await_output("version", "state:");
    assert_eq!(host.bpfctl("list -q --socket /run/case/run/bpfd/bpfd-ro.sock").code, 0);
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(host.path("/run/case/run/bpfd/bpfd.sock").exists(), "systemd's socket stays");
    host.start();
}
