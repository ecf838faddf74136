//! Examples whose user space is not bpfctl: each is started as its page says, prints a rate while there is something to count, and
//! leaves nothing loaded when it is interrupted.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the lint exempts test functions, not what they share")]

#[path = "host_examples/counter.rs"]
mod counter;
#[path = "host_examples/pipeline.rs"]
mod pipeline;

use std::path::Path;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Host, Output, example, example_program, rust_example};
use insta::assert_snapshot;

use counter::{SOCKET, counts};

#[test]
fn the_xdp_counter_in_go_prints_packets_that_an_interface_received() {
    let Some(program) = example_program("go-xdp-counter") else { return };
    let host = Host::new();
    counts(&host, &[&program, "-object", &example("xdp-counter"), "-interface", "uplink"], "packets", || host.ping(50));
}

#[test]
fn the_tc_counter_in_go_prints_packets_that_an_interface_sent() {
    let Some(program) = example_program("go-tc-counter") else { return };
    let host = Host::new();
    counts(&host, &[&program, "-object", &example("tc-counter"), "-interface", "uplink"], "packets", || host.ping(50));
}

#[test]
fn the_tracepoint_counter_in_go_prints_context_switches() {
    let Some(program) = example_program("go-tracepoint-counter") else { return };
    let host = Host::new();
    counts(&host, &[&program, "-object", &example("tracepoint-count")], "switches", || host.ping(1));
}

#[test]
fn the_xdp_counter_in_rust_prints_packets_that_an_interface_received() {
    let host = Host::new();
    let program = rust_example("rust-xdp-counter");
    counts(&host, &[&program, "--object", &example("xdp-counter"), "--interface", "uplink"], "packets", || {
        host.ping(50)
    });
}

/// The words of a refusal, whatever the language.
#[track_caller]
fn refused(host: &Host, command: &[&str]) -> String {
    host.unchanged(|| run(host, command)).refused(1)
}

fn run(host: &Host, command: &[&str]) -> Output {
    let (program, rest) = command.split_first().unwrap();
    let done = host.command(program).args(rest).output().unwrap();
    Output::of(&command.join(" "), done)
}

#[test]
fn an_example_in_go_says_why_bpfd_refuses() {
    let Some(program) = example_program("go-xdp-counter") else { return };
    let host = Host::new();
    let object = example("xdp-counter");
    let said = refused(&host, &[&program, "-socket", SOCKET, "-object", &object, "-interface", "nowhere"]);
    // Go's text of a message has one space or two, at random from build to build.
    assert_snapshot!(said.replace("  ", " "), @r#"rpc error: code = NotFound desc = cannot load the object reason:"NO_SUCH_INTERFACE" domain:"bpfd" metadata:{key:"cause" value:"no interface `nowhere` in network namespace `host`"} metadata:{key:"hint" value:"`ip link` shows interfaces; use `--when-present` to attach when the interface appears"}"#);
}

#[test]
fn an_example_in_rust_says_why_bpfd_refuses() {
    let host = Host::new();
    let (program, object) = (rust_example("rust-xdp-counter"), example("xdp-counter"));
    let said = refused(&host, &[&program, "--socket", SOCKET, "--object", &object, "--interface", "nowhere"]);
    assert_snapshot!(said, @"
    error: cannot load `rust-xdp-counter`
    cause: no interface `nowhere` in network namespace `host`
    hint: `ip link` shows interfaces; use `--when-present` to attach when the interface appears
    ");
}

#[test]
fn the_kprobe_counter_in_go_says_that_this_kernel_has_no_kprobes() {
    let Some(program) = example_program("go-kprobe-counter") else { return };
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        println!("skipped: this kernel has kprobes");
        return;
    }
    let host = Host::new();
    let said = refused(&host, &[&program, "-socket", SOCKET, "-object", &example("kprobe-count")]);
    assert_snapshot!(said.replace("  ", " "), @r#"rpc error: code = FailedPrecondition desc = cannot load the object reason:"KERNEL_LACKS" domain:"bpfd" metadata:{key:"cause" value:"a probe of a kernel function needs a kernel built with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS"}"#);
}

#[test]
fn the_client_in_python_loads_shows_and_unloads() {
    let Some(python) = example_program("python/bin/python") else { return };
    let host = Host::new();
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python-client/client.py");
    let call = |words: &[&str]| run(&host, &[&[python.as_str(), client, "--socket", SOCKET], words].concat());
    let object = example("xdp-counter");
    host.counter("first", 7, 1);
    assert_snapshot!(call(&["load", &object, "uplink", "--priority", "9"]).ok(), @"xdp-counter/count@uplink:xdp");
    host.ping(5);
    assert_eq!(host.counted("xdp-counter"), 5);
    assert_snapshot!(call(&["show"]).ok(), @"
    1	ATTACHED	first/count@uplink:xdp	a file
    2	ATTACHED	xdp-counter/count@uplink:xdp	a file
    ");
    let refused = host.unchanged(|| call(&["load", &object, "nowhere"])).refused(1);
    assert_snapshot!(refused, @"
    error: cannot load `xdp-counter`
    cause: no interface `nowhere` in network namespace `host`
    hint: `ip link` shows interfaces; use `--when-present` to attach when the interface appears
    ");
    assert_snapshot!(call(&["unload", "xdp-counter"]).ok(), @"detached xdp-counter/count@uplink:xdp");
    let apps = host.ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await);
    assert_eq!(apps.iter().map(|app| app.name.as_str()).collect::<Vec<_>>(), ["first"]);
}
