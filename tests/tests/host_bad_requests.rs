//! Requests that mean nothing here, or that this caller may not make: each refused with a clear error, and nothing changed.
//!
//! Long because the words of each refusal stand whole beside what was asked.

use std::os::fd::AsFd;

use bpfd_client::proto::v1 as pb;
use bpfd_sys::bpf::{ProgLoad, ProgramType, link_create_xdp, link_info, prog_load};
use bpfd_sys::netns::Netns;
use bpfd_tests::{Host, example, proprietary};
use insta::assert_snapshot;

/// `nobody`.
const STRANGER: u32 = 65534;

/// A counter `a` on `uplink`, of root's.
fn one(host: &Host) {
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink", example("xdp-counter"))).ok();
}

fn host() -> Host {
    let host = Host::new();
    one(&host);
    host
}

/// A host with a group `bpfd`.
fn with_group() -> Host {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    one(&host);
    host
}

#[test]
fn an_unknown_interface_is_refused() {
    let host = host();
    let pass = example("xdp-pass");
    assert_snapshot!(host.refuses(3, &format!("load --path {pass} xdp -i nosuch")), @"
    reading the object
    loading programs
    attaching
    error: cannot load `xdp-pass.bpf`
    cause: no interface `nosuch` in network namespace `host`
    hint: `ip link` shows interfaces; use `--when-present` to attach when the interface appears
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {pass} xdp --netns far -i uplink")), @"
    reading the object
    loading programs
    attaching
    error: cannot load `xdp-pass.bpf`
    cause: no interface `uplink` in network namespace `far`
    hint: `ip -n far link` shows interfaces; use `--when-present` to attach when the interface appears
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {pass} xdp --netns nosuch -i uplink")), @"
    reading the object
    loading programs
    attaching
    error: cannot load `xdp-pass.bpf`
    cause: no network namespace `nosuch`
    hint: `ip netns` shows network namespaces that have a name; use `--when-present` to attach when the interface appears
    ");
    assert_snapshot!(host.refuses(2, &format!("load --path {pass} xdp -i a/b")), @"
    error: invalid value 'a/b' for '--interface <IF>': `a/b` is not an interface name

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(3, "attach a xdp -i nosuch"), @"
    error: cannot attach `a` to `nosuch`
    cause: no interface `nosuch` in network namespace `host`
    hint: `ip link` shows interfaces; use `--when-present` to attach when the interface appears
    ");
    assert_snapshot!(host.refuses(3, "chain show uplink --netns nosuch"), @"
    error: no network namespace `nosuch`
    hint: `ip netns` shows network namespaces that have a name
    ");
    assert_snapshot!(host.refuses(3, "chain show nosuch"), @"
    error: no interface `nosuch` in network namespace `host`
    hint: `ip link` shows interfaces
    ");
}

/// What a refusal suggests.
#[track_caller]
fn meant(output: &str) -> Option<&str> {
    let hint = output.lines().find_map(|line| line.strip_prefix("hint: did you mean `"));
    hint.and_then(|hint| hint.split('`').next())
}

#[test]
fn the_name_that_was_probably_meant_is_told_to_who_may_list_it() {
    let host = with_group();
    host.shell("ip netns add blue; ip -n blue link add uplink0 type veth peer name v0");
    let pass = example("xdp-pass");
    let words: [(&str, String); 9] = [
        ("uplink0", format!("load --path {pass} xdp -i uplnk0 --netns blue")),
        ("uplink0", "attach a xdp -i uplink --netns blue".to_owned()),
        ("uplink0", "list links -i uplnk0 --netns blue".to_owned()),
        ("uplink0", "detach --all -i uplnk0 --netns blue".to_owned()),
        ("v0", "chain show vo --netns blue".to_owned()),
        ("blue", "attach a xdp -i uplink0 --netns bleu".to_owned()),
        ("blue", "chain show uplink0 --netns blu".to_owned()),
        ("uplink", "chain show uplnk".to_owned()),
        ("xdp", format!("load --path {pass} --section-name xpd xdp -i uplink")),
    ];
    for (wanted, line) in &words {
        let refused = host.bpfctl(line);
        assert_eq!((refused.code, meant(&refused.stderr)), (3, Some(*wanted)), "{line}: {refused}");
    }
    assert_eq!(meant(&host.refuses(3, "chain show wan7 --netns blue")), None);

    // A viewer hears of what it may list, and of nothing else.
    let asks =
        ["list links -i uplnk0 --netns blue", "chain show uplnk0 --netns blue", "chain show uplink0 --netns bleu"];
    let told = || {
        asks.map(|line| {
            let refused = host.bpfctl_as_viewer(line);
            assert_eq!(refused.code, 3, "{line}: {refused}");
            meant(&refused.stderr).map(str::to_owned)
        })
    };
    assert_eq!(told(), [const { None }; 3]);
    host.bpfctl("attach a xdp -i uplink0 --netns blue").ok();
    assert_eq!(told().each_ref().map(Option::as_deref), [Some("uplink0"), Some("uplink0"), Some("blue")]);
    host.check();
}

#[test]
fn an_unknown_app_or_link_is_refused() {
    let host = host();
    assert_snapshot!(host.refuses(3, "attach nosuch xdp -i uplink"), @"
    error: cannot attach `nosuch` to `uplink`
    cause: no app `nosuch`
    hint: `bpfctl list` shows apps
    ");
    assert_snapshot!(host.refuses(3, "attach a/nosuch xdp -i uplink"), @"
    error: cannot attach `a` to `uplink`
    cause: app `a` has no program `nosuch`; it has `count`
    ");
    assert_snapshot!(host.refuses(3, "update nosuch/count@uplink:xdp --priority 1"), @"
    error: cannot update `nosuch/count@uplink:xdp`
    cause: no link `nosuch/count@uplink:xdp`
    hint: `bpfctl list` shows links
    ");
    assert_snapshot!(host.refuses(3, "detach a/count@uplink:xdp a/count@far:xdp"), @"
    error: cannot detach `a/count@uplink:xdp`, `a/count@far:xdp`
    cause: no link `a/count@far:xdp`
    hint: `bpfctl list` shows links
    ");
    assert_snapshot!(host.refuses(3, "unload a nosuch"), @"
    error: cannot unload `a`, `nosuch`
    cause: no app `nosuch`
    hint: `bpfctl list` shows apps
    ");
    assert_snapshot!(host.refuses(3, "get app nosuch"), @"
    error: no app `nosuch`
    hint: `bpfctl list` shows apps
    ");
    assert_snapshot!(host.refuses(3, "get link nosuch"), @"
    error: no link `nosuch`
    hint: `bpfctl list` shows links
    ");
}

#[test]
fn an_unknown_tracepoint_is_refused() {
    let host = Host::new();
    let object = example("tracepoint-count");
    assert_snapshot!(host.refuses(3, &format!("load --path {object} tracepoint sched/nosuch")), @"
    reading the object
    loading programs
    attaching
    error: cannot load `tracepoint-count.bpf`
    cause: this kernel has no tracepoint `sched/nosuch`
    hint: `ls /sys/kernel/tracing/events/sched` shows those there are
    ");
    assert_snapshot!(host.refuses(2, &format!("load --path {object} tracepoint ../sched_switch")), @"
    error: invalid value '../sched_switch' for '[CATEGORY/EVENT]': `../sched_switch` is not a tracepoint: write CATEGORY/EVENT, as in `sched/sched_switch`

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {object} xdp -i uplink")), @"
    reading the object
    error: cannot load `tracepoint-count.bpf`
    cause: object has no xdp program; it has `on_switch` (section `tracepoint/sched/sched_switch`)
    ");
}

#[test]
fn a_program_attaches_to_a_tracepoint_once() {
    let host = Host::new();
    let load = format!("load --path {}", example("tracepoint-count"));
    host.bpfctl(&format!("{load} --name a tracepoint sched/sched_switch")).ok();
    assert_snapshot!(host.refuses(8, "attach a tracepoint sched/sched_switch"), @"
    error: cannot attach `a` to tracepoint `sched/sched_switch`
    cause: `on_switch` of app `a` is attached to `tracepoint:sched/sched_switch` already
    hint: load it again under another `--name` to run it there twice
    ");
    // What the hint says, and another tracepoint.
    host.bpfctl(&format!("{load} --name b tracepoint sched/sched_switch")).ok();
    host.bpfctl("attach a tracepoint sched/sched_wakeup").ok();
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let host = host();
    assert_snapshot!(host.refuses(8, &format!("load --path {} --name a", example("xdp-pass"))), @"
    reading the object
    loading programs
    error: cannot load `a`
    cause: an app named `a` exists
    hint: choose another `--name`, or omit it: bpfd then adds a number
    ");
    assert_snapshot!(host.refuses(2, &format!("load --path {} --name A/b", example("xdp-pass"))), @"
    error: invalid value 'A/b' for '--name <NAME>': `A/b` is not an app name: use a-z, 0-9, `.`, `_` and `-`, and start with a letter or digit

    For more information, try '--help'.
    ");
}

#[test]
fn a_priority_above_1000_is_refused() {
    let host = host();
    assert_snapshot!(host.refuses(2, &format!("load --path {} xdp -i uplink --priority 1001", example("xdp-pass"))), @"
    error: invalid value '1001' for '--priority <N>': priority 1001 is out of range: 0 to 1000

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(2, "update a/count@uplink:xdp --priority 1001"), @"
    error: invalid value '1001' for '--priority <N>': priority 1001 is out of range: 0 to 1000

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(2, "attach a xdp -i uplink --priority -1"), @"
    error: invalid value '-1' for '--priority <N>': priority -1 is out of range: 0 to 1000

    For more information, try '--help'.
    ");
}

#[test]
fn an_interface_that_another_program_holds_is_refused_and_left_alone() {
    let host = Host::new();
    let pass = example("xdp-pass");
    host.shell(&format!("ip link set uplink xdpgeneric obj {pass} sec xdp"));
    assert_snapshot!(host.refuses(8, &format!("load --path {pass} xdp -i uplink")), @"
    reading the object
    loading programs
    attaching
    error: cannot load `xdp-pass.bpf`
    cause: `uplink` runs XDP program ID (`pass`), which is not bpfd's
    hint: inspect it with `bpftool prog show id ID`; `ip link set uplink xdpgeneric off` detaches it
    ");
    host.ping(1);
    let request = pb::GetChainRequest { interface: "uplink".to_owned(), ..Default::default() };
    let shown = host.ask(async |daemon| daemon.chain(request.clone()).await);
    assert_eq!((shown.mode(), shown.mode_cause.as_str()), (pb::ChainMode::Foreign, "neither bpfd's nor libxdp's"));
    // The hint is true.
    host.shell("ip link set uplink xdpgeneric off");
    host.bpfctl(&format!("load --path {pass} xdp -i uplink")).ok();
}

#[test]
fn an_interface_that_a_process_holds_by_a_link_is_refused_with_its_name() {
    let host = Host::new();
    let pass = example("xdp-pass");
    // r0 = XDP_PASS; exit
    let instructions = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let held = Netns::open(&host.path("/run/netns/far")).unwrap().within(|| {
        let load = ProgLoad { name: "rival", ..ProgLoad::new(ProgramType::XDP, c"GPL", &instructions) };
        let program = prog_load(&load).unwrap();
        let far = bpfd_sys::netlink::Route::open().unwrap().link_named("far").unwrap().unwrap();
        link_create_xdp(program.as_fd(), far.index, 0).unwrap()
    });
    let held = held.unwrap();
    let own = std::process::id().to_string();
    let refused = host.refuses(8, &format!("load --path {pass} xdp --netns far -i far"));
    assert_snapshot!(refused.replace(&own, "PID"), @"
    reading the object
    loading programs
    attaching
    error: cannot load `xdp-pass.bpf`
    cause: `far` runs XDP program ID (`rival`), held by PID (host_bad_reques), which is not bpfd's
    hint: inspect it with `bpftool prog show id ID`; `bpftool link detach id ID` detaches it
    ");
    let shown = &host.items("chain show far --netns far")[0]["members"][0]["foreign"];
    assert_eq!(
        *shown,
        serde_json::json!({"name": "rival", "holder": format!("{own} (host_bad_reques)"), "pinPath": ""})
    );
    // The hint is true.
    let link = link_info(held.as_fd()).unwrap().id;
    host.shell(&format!("bpftool link detach id {link}"));
    host.bpfctl(&format!("load --path {pass} xdp --netns far -i far")).ok();
}

#[test]
fn a_daemon_that_does_not_run_is_said_to_be_so() {
    let host = Host::without_daemon();
    assert_snapshot!(host.bpfctl("list").refused(7), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: there is no such socket
    hint: start the daemon with `systemctl start bpfd` or `sudo bpfd`, or name its socket with --socket
    ");
    assert_snapshot!(host.bpfctl(&format!("load --path {}", example("xdp-pass"))).refused(7), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: there is no such socket
    hint: start the daemon with `systemctl start bpfd` or `sudo bpfd`, or name its socket with --socket
    ");
}

#[test]
fn a_caller_without_rights_is_refused_at_the_socket() {
    let host = host();
    let as_nobody = |line: &str| host.unchanged(|| host.bpfctl_as(STRANGER, STRANGER, &[], line)).refused(4);
    assert_snapshot!(as_nobody("list"), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: you may not open the socket
    hint: run as root, or as a member of the group `bpfd`; members of `bpfd-view` may look
    ");
    assert_snapshot!(as_nobody("unload a"), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: you may not open the socket
    hint: run as root, or as a member of the group `bpfd`; members of `bpfd-view` may look
    ");
}

#[test]
fn a_stranger_is_refused_where_there_is_a_group_too() {
    let host = with_group();
    assert_snapshot!(host.unchanged(|| host.bpfctl_as(STRANGER, STRANGER, &[], "list")).refused(4), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: you may not open the socket
    hint: run as root, or as a member of the group `bpfd`; members of `bpfd-view` may look
    ");
}

#[test]
fn a_member_of_the_group_may_look() {
    let host = with_group();
    assert_snapshot!(host.bpfctl_as_member("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  50    1    ATTACHED
    ");
}

#[test]
fn a_member_of_the_group_loads_no_file() {
    let host = with_group();
    let refused = |line: &str| host.unchanged(|| host.bpfctl_as_member(line)).refused(4);
    let pass = host.path("/run/pass.o");
    std::fs::copy(example("xdp-pass"), pass).unwrap();
    assert_snapshot!(refused("load --path /run/pass.o xdp -i uplink --priority 500"), @"
    error: member may not load
    cause: members of group `bpfd` load images, not files
    hint: build and sign an image with `bpfctl image build` and `bpfctl image sign`, or load the file as root
    ");
    // The control: root may, the same file.
    host.bpfctl("load --path /run/pass.o xdp -i uplink --priority 500").ok();
}

#[test]
fn a_member_of_the_group_removes_nothing_of_roots() {
    let host = with_group();
    let member = |line: &str| host.unchanged(|| host.bpfctl_as_member(line));
    let refused = |line: &str| member(line).refused(4);
    assert_snapshot!(refused("detach a/count@uplink:xdp"), @"
    error: member may not detach
    cause: link `a/count@uplink:xdp` belongs to root
    hint: ask its owner, or root
    ");
    assert_snapshot!(refused("unload a"), @"
    error: member may not unload
    cause: app `a` belongs to root
    hint: ask its owner, or root
    ");
    // All that it may take away is nothing.
    assert_snapshot!(member("detach --all -i uplink").to_string(), @"
    $ bpfctl detach --all -i uplink
    --- stderr
    warning: link `a/count@uplink:xdp` was not removed: it belongs to root
    hint: ask its owner, or root
    no links that you may detach
    ");
    assert_snapshot!(member("unload --all").to_string(), @"
    $ bpfctl unload --all
    --- stderr
    warning: app `a` was not removed: it belongs to root
    hint: ask its owner, or root
    no apps that you may unload
    ");
    // The control: root may, the same words.
    host.bpfctl("detach a/count@uplink:xdp").ok();
    host.bpfctl("unload a").ok();
}

#[test]
fn a_member_of_the_group_is_told_that_there_is_no_such_app_or_link() {
    let host = with_group();
    let refused = |line: &str| host.unchanged(|| host.bpfctl_as_member(line)).refused(3);
    assert_snapshot!(refused("unload nosuch"), @"
    error: cannot unload `nosuch`
    cause: no app `nosuch`
    hint: `bpfctl list` shows apps
    ");
    assert_snapshot!(refused("detach nosuch"), @"
    error: cannot detach `nosuch`
    cause: no link `nosuch`
    hint: `bpfctl list` shows links
    ");
    assert_snapshot!(refused("update nosuch --priority 100"), @"
    error: cannot update `nosuch`
    cause: no link `nosuch`
    hint: `bpfctl list` shows links
    ");
}

#[test]
fn a_member_of_the_group_that_views_lists_and_loads_nothing() {
    let host = with_group();
    let viewer = |line: &str| host.unchanged(|| host.bpfctl_as_viewer(line));
    assert_snapshot!(host.bpfctl_as_viewer("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  50    1    ATTACHED
    ");
    viewer("chain show uplink").ok();
    std::fs::copy(example("xdp-pass"), host.path("/run/pass.o")).unwrap();
    assert_snapshot!(viewer("load --path /run/pass.o xdp -i uplink --priority 500").refused(4), @"
    error: viewer may not load
    cause: not root and not in group `bpfd`
    hint: ask as root, or have root add you to the group: `usermod -aG bpfd USER`
    ");
    assert_snapshot!(viewer("unload --all").refused(4), @"
    error: viewer may not unload
    cause: not root and not in group `bpfd`
    hint: ask as root, or have root add you to the group: `usermod -aG bpfd USER`
    ");
    assert_snapshot!(viewer("unload nosuch").refused(4), @"
    error: viewer may not unload
    cause: not root and not in group `bpfd`
    hint: ask as root, or have root add you to the group: `usermod -aG bpfd USER`
    ");
    // A stranger gets in by neither socket.
    let sockets = host.shell("stat -c '%a %u %g' /run/case/run/bpfd/*.sock");
    assert_eq!(sockets, "660 0 816\n660 0 815\n");
    host.unchanged(|| host.bpfctl_as(STRANGER, STRANGER, &[], "list")).refused(4);
}

#[test]
fn what_is_on_an_interface_that_is_not_there_is_nothing_only_if_a_link_waits_for_it() {
    let host = host();
    assert_snapshot!(host.refuses(3, "list -i nosuch"), @"
    error: no interface `nosuch` in network namespace `host`
    hint: `ip link` shows interfaces
    ");
    assert_snapshot!(host.refuses(3, "list links -i nosuch"), @"
    error: no interface `nosuch` in network namespace `host`
    hint: `ip link` shows interfaces
    ");
    assert_snapshot!(host.refuses(3, "detach --all -i nosuch"), @"
    error: no interface `nosuch` in network namespace `host`
    hint: `ip link` shows interfaces
    ");
    host.bpfctl("attach a xdp -i nosuch --when-present").ok();
    host.bpfctl("list -i nosuch").ok();
    host.bpfctl("detach --all -i nosuch").ok();
}

#[test]
fn a_member_of_the_group_moves_and_attaches_nothing_of_roots() {
    let host = with_group();
    let refused = |line: &str| host.unchanged(|| host.bpfctl_as_member(line)).refused(4);
    assert_snapshot!(refused("update a/count@uplink:xdp --priority 900"), @"
    error: member may not update
    cause: link `a/count@uplink:xdp` belongs to root
    hint: ask its owner, or root
    ");
    assert_snapshot!(refused("attach a xdp -i uplink --priority 500"), @"
    error: member may not attach
    cause: app `a` belongs to root
    hint: load the image under a name of your own
    ");
    assert_snapshot!(refused("attach a xdp -i uplink --priority 10"), @"
    error: member may not attach
    cause: app `a` belongs to root
    hint: load the image under a name of your own
    ");
    // The control: root may, the same words.
    host.bpfctl("update a/count@uplink:xdp --priority 900").ok();
    host.bpfctl("attach a xdp -i uplink --priority 10").ok();
}

/// Hostile words in an argument: a window's title, a colour, and a line that looks like bpfctl's own.
const HOSTILE: &str = r"$(printf '\033]0;owned\007\033[31mred\nerror: done')";

#[test]
fn what_a_hostile_argument_says_reaches_no_terminal_as_an_escape() {
    let host = host();
    let object = example("xdp-counter");
    for words in [
        format!(r#"load --path {object} --name "{HOSTILE}""#),
        format!(r#"load --path {object} --set "{HOSTILE}=1" xdp -i uplink"#),
        format!(r#"load --path {object} --program "{HOSTILE}""#),
        format!(r#"load --path {object} --section-name "{HOSTILE}""#),
        format!(r#"load --path {object} xdp -i "{HOSTILE}""#),
        format!(r#"load --path {object} xdp -i uplink --netns "{HOSTILE}""#),
        format!(r#"load --path "/run/{HOSTILE}""#),
        format!(r#"load --image "reg.acme/{HOSTILE}:1""#),
        format!(r#"get app "{HOSTILE}""#),
        format!(r#"detach "{HOSTILE}""#),
        format!(r#"chain show "{HOSTILE}""#),
        format!(r#"trust add ci --key /run/none --scope "{HOSTILE}""#),
        format!(r#"image inspect "{HOSTILE}""#),
        format!(r#""{HOSTILE}""#),
    ] {
        // As on a terminal: where colours are stripped, a test would see nothing.
        let environment = "CLICOLOR_FORCE=1 BPFD_SOCKET=/run/case/run/bpfd/bpfd.sock";
        let said = host.shell(&format!("{environment} /run/bin/bpfctl {words} 2>&1 </dev/null || echo refused"));
        assert!(said.ends_with("refused\n") && said.contains("\u{1b}[1m"), "{words}: {said:?}");
        // Its own colours end in `m` and are bold, or one of the few that bpfctl or clap use; these here are none of them.
        let strange = |c: char| c.is_control() && c != '\n' && c != '\u{1b}';
        assert!(
            !said.contains(strange) && !said.contains("\u{1b}]") && !said.contains("\u{1b}[31mred"),
            "{words}: {said:?}"
        );
        assert!(!said.contains("\nerror: done"), "{words}: {said:?}");
    }
}

#[test]
fn a_program_that_cannot_be_one_with_the_others_is_refused() {
    let host = Host::fused();
    host.counter("a", 50, 1);
    std::fs::write(host.path("/run/closed.o"), proprietary("xdp-pass")).unwrap();
    assert_snapshot!(host.refuses(8, "load -q --path /run/closed.o xdp -i uplink"), @"
    error: cannot load `closed`
    cause: `pass` cannot be fused with other programs: `count` is under a GPL-compatible licence and `pass` is under `Proprietary`: they cannot be one program
    hint: in mode `fused` all programs of an interface are combined into one; attach this program to an interface without other programs
    ");
    host.bpfctl("unload a").ok();
    host.bpfctl("load --path /run/closed.o xdp -i uplink").ok();
}
