//! The lines of README.md on the installed packages, and a reboot: both programs of the signed image count from the first packet that the
//! interface receives.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use bpfd_tests::page::{Line, console};
use bpfd_tests::{Output, eventually};
use bytecode_image::testing::registry::{Options, TestRegistry};

use super::{EVENTS, count, is_ready, journal, read, run};

/// Is there from before the reboot.
const README_RAN: &str = "/var/lib/readme-ran";

/// A network card that the kernel finds before anything is started, and what is at the other end of its cable: it sends from the moment
/// that its own end is up. The card itself comes up as on every host, after `network-pre.target`.
const NETWORK: [(&str, &str); 3] = [
    (
        "card",
        "[Unit]\nDefaultDependencies=no\nBefore=bpfd.service network-pre.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -ec '\
         ip link add eth0 type veth peer name cable; \
         for device in eth0 cable; do echo 1 >/proc/sys/net/ipv6/conf/$$device/disable_ipv6; done; \
         ip addr add 10.8.0.1/24 dev cable; \
         ip neigh add 10.8.0.2 lladdr $$(cat /sys/class/net/eth0/address) dev cable; \
         ip link set cable up'\n",
    ),
    (
        "peer",
        "[Unit]\nDefaultDependencies=no\nAfter=card.service\n\
         [Service]\nExecStart=/bin/bash -c 'while :; do echo x >/dev/udp/10.8.0.2/9; sleep 0.05; done'\n",
    ),
    (
        "ifup",
        "[Unit]\nDefaultDependencies=no\nWants=network-pre.target\nAfter=network-pre.target card.service\nBefore=network.target\n\
         [Service]\nType=oneshot\nExecStart=/bin/ip link set eth0 up\n",
    ),
];

/// From the packages alone, but for what builds and starts a daemon. Their output is compared as in `host_seed`.
pub(super) fn the_lines_of_the_readme_load_two_programs() {
    for (name, unit) in NETWORK {
        std::fs::write(format!("/etc/systemd/system/{name}.service"), unit).unwrap();
        let link = format!("/etc/systemd/system/multi-user.target.wants/{name}.service");
        std::os::unix::fs::symlink(format!("../{name}.service"), link).unwrap();
    }
    run("systemctl", "daemon-reload").ok();
    run("systemctl", "start card.service").ok();
    let registry = TestRegistry::start(Options { listen: ([127, 0, 0, 1], 5000).into(), ..Options::default() });
    let _registry = registry.unwrap();
    let readme = read(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    let of_a_build =
        |line: &Line| ["cargo ", "sudo ./target", "export PATH"].iter().any(|start| line.command.starts_with(start));
    let lines: Vec<Line> = console(&readme).into_iter().filter(|line| !of_a_build(line)).collect();
    assert!(lines.iter().any(|line| line.command.contains("--persist")), "README.md loads what stays");
    for Line { command, output } in lines {
        let mut shell = Command::new("sh");
        shell.args(["-ec", &command]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).stdin(Stdio::null());
        let done = Output::of(&command, shell.output().unwrap());
        assert_eq!(done.code, 0, "{done}{}", journal());
        let said = done.stdout;
        assert!(output.is_empty() || said == output, "`{command}` prints:\n{said}README.md says:\n{output}");
    }
}

/// Whether this is the boot after it.
pub(super) fn is_over() -> bool {
    Path::new(README_RAN).exists()
}

/// Ends the guest, which boots again with what was written.
pub(super) fn begin() -> ! {
    std::fs::write(README_RAN, "").unwrap();
    std::fs::write("/dev/port-status", "REBOOT\n").unwrap();
    run("systemctl", "reboot").ok();
    loop {
        // systemd ends this process.
        thread::park();
    }
}

/// After the reboot: what the card received since it is there is what each program counted.
pub(super) fn both_programs_count_from_the_first_packet() {
    // The command that runs this test is started beside the daemon.
    drop(eventually(|| run("systemctl", "is-active bpfd.service").stdout, |state| state == "active\n"));
    is_ready();
    let received = || read("/sys/class/net/eth0/statistics/rx_packets").trim().parse::<u64>().unwrap();
    let some = eventually(received, |received| *received >= EVENTS);
    assert!(some >= EVENTS, "the peer sends: {some}");
    run("systemctl", "stop peer.service").ok();
    let readme = read(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    let list = console(&readme).into_iter().find(|line| line.command == "bpfctl list").unwrap();
    assert_eq!(run("bpfctl", "list").ok(), list.output, "{}", journal());
    let received = received();
    assert_eq!((count("a", "packets"), count("b", "packets")), (received, 10 * received), "{}", journal());
    assert_ne!(received, 0);
}
