//! Interfaces whose packets do not fit one buffer, and programs that take several (`xdp.frags`). On a kernel that lets interfaces be
//! shared these cases are about dispatchers, on any other about fused programs.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use bpfd_tests::{Host, broken, example};
use insta::assert_snapshot;

/// A host whose `uplink` has packets of 9000 bytes; veth takes them only for programs that say so.
fn host() -> Host {
    let host = Host::new();
    host.shell("ip link set uplink mtu 9000; ip -n far link set far mtu 9000");
    host
}

fn several(host: &Host, name: &str) -> bpfd_tests::Output {
    let object = broken("all_kinds");
    host.bpfctl(&format!("load --path {object} --section-name xdp.frags --name {name} xdp -i uplink --mode native"))
}

fn states(host: &Host) -> Vec<String> {
    let links = host.items("list links");
    let state = |link: &serde_json::Value| link.get("state").and_then(|state| state.as_str()).unwrap().to_owned();
    links.iter().map(state).collect()
}

#[test]
fn a_program_for_one_buffer_is_refused_with_what_to_do() {
    let host = host();
    let load = format!("load --path {} --name one xdp -i uplink", example("xdp-counter"));
    assert_snapshot!(host.refuses(1, &load), @r#"
    reading the object
    loading programs
    attaching
    error: cannot load `one`
    cause: the driver of `uplink:xdp` does not take these programs at an MTU of 9000 bytes: veth: Peer MTU is too large to set XDP
    hint: reduce the MTU, or attach only programs with multi-buffer support (`SEC("xdp.frags")`), or use `--mode generic`
    "#);
    host.bpfctl(&format!("{load} --mode generic")).ok();
    host.ping(10);
    assert_eq!(host.counted("one"), 10);
}

#[test]
fn programs_for_several_buffers_share_and_one_for_one_buffer_does_not_join() {
    let host = host();
    several(&host, "a").ok();
    several(&host, "b").ok();
    host.check();
    let load = format!("load --path {} --name one xdp -i uplink", example("xdp-counter"));
    assert!(host.refuses(1, &load).contains("MTU"));
    assert_eq!(states(&host), ["LINK_STATE_ATTACHED"; 2]);
    host.check();

    // Once packets fit, it may join; what it joins stays.
    host.shell("ip link set uplink mtu 1500; ip -n far link set far mtu 1500");
    host.bpfctl(&load).ok();
    host.ping(10);
    assert_eq!(host.counted("one"), 10);
    host.bpfctl("unload one").ok();

    // Without it, long packets are taken again.
    host.check();
    host.shell("ip -n far link set far mtu 9000");
    assert_eq!(states(&host), ["LINK_STATE_ATTACHED"; 2]);
}
