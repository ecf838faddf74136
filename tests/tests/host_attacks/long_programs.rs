//! Small objects that cost much: programs that become large when they are linked, and programs that the verifier follows for long.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use bpfd_tests::{broken, eventually, example};
use insta::assert_snapshot;
use rustix::fs::OFlags;

use crate::world::{Images, image_of};

#[test]
fn a_small_object_becomes_no_large_one() {
    let images = Images::new();
    images.publish("open/calls", &image_of(&broken("many_calls")));
    // 100 KB, with a copy of the long function for each program.
    let load = "load -q --image registry/open/calls:1";
    assert_snapshot!(images.host.unchanged(|| images.host.bpfctl_as_member(load)).refused(1), @"
    error: cannot load `registry/open/calls:1`
    cause: with `p99`, the programs have 1000400 instructions, callees included; 1000000 is the limit for all together: load fewer of them
    ");
    let some: String = (0..60).map(|number| format!(" --program p{number:02}")).collect();
    images.host.bpfctl_as_member(&format!("{load}{some}")).ok();
    assert!(images.host.peak() <= 128, "{} MiB at the peak", images.host.peak());
}

#[test]
fn a_member_leaves_root_the_verifiers_steps() {
    let mut images = Images::new();
    images.publish("team/loops", &image_of(&broken("long_loops")));
    images.sign("team/loops", &images.key);
    // Programs that are one with others share the steps.
    images.host.stop();
    images.host.set_fused();
    images.host.start();
    let host = &images.host;
    let load = |name: &str, program: &str, priority: u32| {
        let line = format!("load -q --image registry/team/loops:1 --name {name} --program {program}");
        format!("{line} xdp -i uplink --priority {priority}")
    };
    // Alone on the interface, and beside another one.
    assert_snapshot!(host.unchanged(|| host.bpfctl_as_member(&load("too-long", "steps_800k", 500))).refused(8), @"
    error: cannot load `too-long`
    cause: the chain would have 801602 instructions for the verifier to follow; 1000000 is the limit, and the last 250000 are kept for links of priorities 0 to 99
    hint: detach another program of this interface, or ask root to attach this one at a priority below 100
    ");
    host.bpfctl_as_member(&load("its", "steps_700k", 500)).ok();
    let refused = host.unchanged(|| host.bpfctl_as_member(&load("more", "steps_200k", 500))).refused(8);
    assert!(refused.contains("instructions for the verifier to follow; 1000000 is the limit"), "{refused}");
    host.bpfctl(&load("fw", "steps_200k", 50)).ok();
    let links = host.items("list links --interface uplink");
    assert!(links.iter().all(|link| link["state"] == "LINK_STATE_ATTACHED"), "{links:?}");
    assert_eq!(links.len(), 2);
}

#[test]
fn nobody_waits_for_a_members_long_verifications() {
    const FIFO: &str = "/run/hold";
    let mut images = Images::signed();
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
    images.host.shell(&format!("mkfifo {FIFO}"));
    images.host.stop();
    // As many as are verified at a time last, until the file is closed again.
    images.host.start_with(&[("FAILPOINTS", &format!("load-made=2*return({FIFO})"))]);
    let host = &images.host;
    let load = |user: u32, name: &str| {
        let mut command = host.command("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--groups=815", "/run/bin/bpfctl"]);
        command.args(["load", "-q", "--image", "registry/team/app:1", "--pull", "never", "--name", name]);
        command.env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let holding = || {
        let open = fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap();
        open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(|path| path.ends_with("hold")).count()
    };
    let mut loads = vec![load(4711, "one"), load(4711, "two"), load(4711, "three")];
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    let open = || OpenOptions::new().write(true).custom_flags(flags).open(host.path(FIFO));
    let held = eventually(open, Result::is_ok).unwrap();
    // The member has one under way, so another user has the other place, and root has its own.
    loads.push(load(4713, "other"));
    assert_eq!(eventually(holding, |holding| *holding == 2), 2);
    host.bpfctl(&format!("load -q --path {} --name fw xdp -i uplink", example("xdp-counter"))).ok();
    drop(held);
    for mut load in loads {
        assert!(load.wait().unwrap().success());
    }
}
