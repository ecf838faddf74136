//! `examples/cni-agent`: the reference `cnitool` runs its plugin for network namespaces, after the reference plugin that makes a pod's
//! veth pair; the agent has the rights of a member of `bpfd`, and what its page's policy gives to it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

mod image;
mod node;
#[expect(dead_code, reason = "the world of other cases too")]
#[path = "../host_bad_images/world.rs"]
mod world;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::page::{Line, console, holds};
use bpfd_tests::{Output, eventually, example_program};
use insta::assert_snapshot;

use node::Node;

#[test]
fn a_pod_has_the_agents_program_from_add_to_del() {
    let Some(mut node) = Node::new() else { return };
    node.start_agent();
    let veth = node.add("pod");
    let link = node.link(&veth).unwrap();
    assert_eq!((link.state(), link.priority, link.owner_uid), (pb::LinkState::Attached, Some(200), 4711));
    // What the pod sends is seen on the host's end.
    let before = node.host().counted(&link.app);
    node.host().shell("ip netns exec pod ping -q -c 5 -i 0.01 -W 1 10.200.0.1 >/run/nothing");
    assert!(node.host().counted(&link.app) >= before + 5);
    node.cni("check", "pod").ok();
    // Once more, as after a call whose answer was lost: nothing changes.
    node.ask("add", &veth, 200);
    assert_eq!(node.link(&veth).unwrap(), link);
    // At another place it is refused.
    assert_snapshot!(node.asks("add", &veth, 300).replace(&veth, "VETH").replace(&link.app, "APP"), @r#"{"message":"APP/count@VETH:xdp has priority 200","cause":"the network's configuration says 300"}"#);

    node.cni("del", "pod").ok();
    assert_eq!(node.links(), []);
    node.cni("del", "pod").ok();
    // The app stays for the next pod.
    let again = node.add("pod");
    assert_eq!(node.link(&again).unwrap().app_uid, link.app_uid);
    node.cni("del", "pod").ok();
}

#[test]
fn two_pods_have_one_app_and_a_link_each() {
    let Some(mut node) = Node::new() else { return };
    node.start_agent();
    let veths = [node.add("pod"), node.add("other")];
    let apps = veths.each_ref().map(|veth| node.link(veth).unwrap().app_uid);
    assert_eq!(apps[0], apps[1]);
    node.cni("del", "pod").ok();
    assert_eq!(node.links().len(), 1);
    node.cni("check", "other").ok();
    node.cni("del", "other").ok();
}

#[test]
fn outside_of_its_band_the_agent_is_refused_in_bpfds_words() {
    let Some(mut node) = Node::new() else { return };
    node.start_agent();
    node.configure(50);
    let refused = node.host().unchanged(|| node.cni("add", "pod"));
    assert_snapshot!(refused.refused(1), @r#"plugin type="bpfd-xdp" failed (add): cni may not attach; rule `cni` allows it, except priority 50: it is for 100 to 499; ask for what the rule allows, or ask an administrator"#);
    // What the runtime does then; and the same pod comes up in the band.
    node.cni("del", "pod").ok();
    node.configure(499);
    node.add("pod");
    node.cni("del", "pod").ok();
    // Not a pod's interface.
    assert_snapshot!(node.asks("add", "uplink", 200), @r#"{"message":"cni may not attach","cause":"rule `cni` allows it, except interface uplink: it is for veth*","hint":"ask for what the rule allows, or ask an administrator"}"#);
}

#[test]
fn check_fails_when_the_program_was_moved_detached_or_is_no_longer_allowed() {
    let Some(mut node) = Node::new() else { return };
    node.start_agent();
    let veth = node.add("pod");
    let pb::Link { name: link, app, .. } = node.link(&veth).unwrap();
    let says = |said: String| said.replace(&veth, "VETH").replace(&app, "APP");
    // The policy would refuse it now; it runs on.
    node.allow("priority = { min = 250 }");
    assert_snapshot!(says(node.cni("check", "pod").refused(1)), @"APP/count@VETH:xdp is UNAUTHORISED; the policy would refuse it now: cni may not attach: rule `cni` allows it, except priority 200: it is for 250 to 1000");
    node.allow("");
    node.host().bpfctl(&format!("update {link} --priority 300")).ok();
    assert_snapshot!(says(node.cni("check", "pod").refused(1)), @"APP/count@VETH:xdp has priority 300; the network's configuration says 200");
    node.host().bpfctl(&format!("update {link} --priority 200")).ok();
    node.cni("check", "pod").ok();
    node.host().bpfctl(&format!("detach {link}")).ok();
    assert_snapshot!(says(node.cni("check", "pod").refused(1)), @"VETH has 0 programs of the agent, and must have 1; it was never attached, or somebody else changed the interface; `bpfctl list -i VETH` shows what is there; create the pod again");
    node.cni("del", "pod").ok();
}

#[test]
fn pods_outlive_the_agent_and_the_daemon() {
    let Some(mut node) = Node::new() else { return };
    node.start_agent();
    let veth = node.add("pod");
    let link = node.link(&veth).unwrap();
    node.stop_agent();
    assert_eq!(node.link(&veth).unwrap(), link);
    // Nobody answers a new pod; an old one can go, and its link with the agent's next start.
    assert_snapshot!(node.cni("add", "other").refused(1), @r#"plugin type="bpfd-xdp" failed (add): cannot reach cni-agent at /run/cni-agent/agent.sock; connect: no such file or directory"#);
    node.cni("del", "other").ok();
    node.cni("del", "pod").ok();
    node.start_agent();
    assert_eq!(eventually(|| node.links(), Vec::is_empty), []);
    // A daemon that is killed and comes back: the agent's calls wait for it.
    let veth = node.add("pod");
    node.host_mut().kill();
    let check = node.begin("check", "pod");
    node.host_mut().start();
    Output::of("cnitool check", check.wait_with_output().unwrap()).ok();
    assert_eq!(node.link(&veth).unwrap().app_uid, link.app_uid);
    node.cni("del", "pod").ok();
}

#[test]
fn pods_keep_the_image_that_they_began_with() {
    let Some(mut node) = Node::new() else { return };
    node.start_agent();
    let old = node.add("pod");
    node.stop_agent();
    node.publish_another();
    node.start_agent();
    let new = node.add("other");
    let apps = [&old, &new].map(|veth| node.link(veth).unwrap().app);
    assert_ne!(apps[0], apps[1]);
    node.cni("del", "pod").ok();
    let left = node.host().ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await);
    assert_eq!(left.iter().map(|app| &app.name).collect::<Vec<_>>(), [&apps[1]], "no pod uses the old one");
    node.cni("del", "other").ok();
}

#[test]
fn an_image_that_the_team_did_not_sign_reaches_no_pod() {
    let Some(mut node) = Node::new() else { return };
    node.publish_unsigned();
    node.start_agent();
    let refused = node.host().unchanged(|| node.cni("add", "pod")).refused(1);
    assert_snapshot!(refused, @r#"plugin type="bpfd-xdp" failed (add): image `registry/cni/xdp@sha256:SHA256` (sha256:SHA256) is refused by policy; it is not signed, and scope `registry/cni/**` requires 1 of the signers `cni-team`; have it signed by `cni-team`: `bpfctl image sign registry/cni/xdp@sha256:SHA256 --key FILE`"#);
    node.cni("del", "pod").ok();
}

#[test]
fn every_console_line_of_the_page_does_what_it_says() {
    if example_program("cni-agent").is_none() {
        return;
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/agents.md")).unwrap();
    let (_, rule) = page.split_once("```toml\n").unwrap();
    assert!(
        node::file("policy.toml").contains(rule.split("```").next().unwrap()),
        "the page has the rule of policy.toml"
    );
    let lines = console(&page);
    // What cargo builds is built.
    let lines: Vec<&Line> = lines.iter().filter(|line| !line.command.starts_with("cargo ")).collect();
    assert!(lines.iter().any(|line| line.command.starts_with("cnitool add")), "docs/agents.md adds a pod");
    holds("docs/agents.md", &lines);
}

#[test]
fn the_agent_starts_with_no_image_that_is_named_by_a_tag() {
    let Some(node) = Node::new() else { return };
    assert_snapshot!(node.agent_with("registry/cni/xdp:1").refused(1), @r#"cni-agent: -image "registry/cni/xdp:1" names no digest: a tag may be another image tomorrow"#);
}
