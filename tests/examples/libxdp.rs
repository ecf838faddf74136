//! `cargo xtask bench libxdp`: what attaching a program takes, beside xdp-loader doing the same. Prints one figure a line, as JSON; what it
//! does meanwhile goes to standard error.
//!
//! Times are compared only with times of the same run, taken in turn. Must never fail on a time: xtask judges.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a tool: what it cannot do ends it, and it says what it does"
)]

mod measured;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bpfd_client::proto::v1::{self as pb, hook::Hook};
use bpfd_client::request_id;
use bpfd_tests::{Host, example};
use measured::{figure, milliseconds, ratio};

/// Where the case has its bpffs, as xdp-loader asks for it.
const BPFFS: &str = "/run/case/sys/fs/bpf";

fn main() {
    let rounds = if std::env::args().any(|word| word == "--quick") { 5 } else { 15 };
    let host = Host::new();
    assert!(host.shares(), "this kernel has no chains of libxdp's form");
    host.shell("for i in i0 i1; do ip link add $i type veth peer name $i netns far; ip link set $i up; done");
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name more")).ok();
    let (mut answers, mut works, mut commands, mut loaders) = (vec![], vec![], vec![], vec![]);
    // The first round warms both up.
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        let answer = attached(&host);
        host.bpfctl("detach --all -i i0").ok();
        // What both take that is neither's: a process in the case's namespaces.
        let nothing = whole(&mut host.command("true"));
        let start = timed(host.command("xdp-loader").arg("help")).0;
        let loader = whole(
            host.command("xdp-loader").env("LIBXDP_BPFFS", BPFFS).args(["load", "--mode", "native", "i1", &object]),
        );
        whole(host.command("xdp-loader").env("LIBXDP_BPFFS", BPFFS).args(["unload", "--all", "i1"]));
        let load = format!("load --path {object} --name other xdp -i i0");
        let mut bpfctl = host.command("/run/bin/bpfctl");
        let command = whole(bpfctl.env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock").args(load.split(' ')));
        host.bpfctl("unload other").ok();
        if round > 0 {
            answers.push(answer);
            works.push(loader.saturating_sub(start));
            commands.push(command.saturating_sub(nothing));
            loaders.push(loader.saturating_sub(nothing));
        }
    }
    figure("attach_to_loader_less_its_start", ratio(&answers, &works), "ratio", Some("<=1"));
    figure("attach", milliseconds(&answers), "ms", None);
    figure("xdp_loader_less_its_start", milliseconds(&works), "ms", None);
    figure("bpfctl_load_to_xdp_loader", ratio(&commands, &loaders), "ratio", Some("<=1.2"));
    figure("bpfctl_load", milliseconds(&commands), "ms", None);
    figure("xdp_loader_load", milliseconds(&loaders), "ms", None);
}

/// Until an attachment is answered, on a connection that is open.
fn attached(host: &Host) -> Duration {
    let hook = Hook::Xdp(pb::XdpHook { netns: None, interface: "i0".to_owned() });
    let attachment = pb::Attachment { hook: Some(pb::Hook { hook: Some(hook) }), ..Default::default() };
    let request = pb::AttachRequest {
        request_id: request_id(),
        app: "more".to_owned(),
        attachment: Some(attachment),
        ..Default::default()
    };
    host.ask(async |daemon| {
        daemon.info(pb::GetInfoRequest {}).await?;
        let started = Instant::now();
        daemon.attach(request).await?;
        Ok(started.elapsed())
    })
}

/// From exec to exit of what must succeed.
fn whole(command: &mut Command) -> Duration {
    let (took, done) = timed(command);
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    took
}

/// From exec to exit. xdp-loader's help ends with 1.
fn timed(command: &mut Command) -> (Duration, Output) {
    let started = Instant::now();
    let done = command.stdin(Stdio::null()).output().unwrap();
    (started.elapsed(), done)
}
