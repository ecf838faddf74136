//! `--persist`: a reboot ends what did not ask for it, and the owner of what did is asked for again.

use bpfd_tests::{Host, example};
use insta::assert_snapshot;

use crate::world::{Images, image};

/// `a` and a link of `b` end with a boot; `b` and its other link do not.
fn two() -> Host {
    let host = Host::new();
    let object = example("xdp-counter");
    host.shell("ip link add second type veth peer name other");
    host.bpfctl(&format!("load --path {object} --name a xdp -i uplink --priority 20")).ok();
    host.bpfctl(&format!("load --path {object} --name b --persist xdp -i uplink")).ok();
    host.bpfctl("attach b xdp -i second").ok();
    host
}

#[test]
fn a_reboot_ends_what_was_not_asked_to_persist() {
    let mut host = two();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  PERSIST  STATE
    a/count  xdp   uplink:xdp  20    1    no       ATTACHED
    b/count  xdp   second:xdp  50    1    no       ATTACHED
    b/count  xdp   uplink:xdp  50    2    yes      ATTACHED
    ");
    host.check();
    host.stop();
    host.start();
    assert_snapshot!(host.bpfctl("list -q").ok(), @"
    a
    b
    ");
    host.reboot();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  PERSIST  STATE
    b/count  xdp   uplink:xdp  50    1    yes      ATTACHED
    ");
    host.ping(10);
    assert_eq!(host.counted("b"), 10);
    host.check();
    assert!(!host.shell("ip link show second").contains("xdp"));
    // Said of this boot, it does not end with it.
    host.stop();
    host.start();
    assert_eq!(host.items("list links").len(), 1);
}

#[test]
fn persist_is_said_and_taken_back_later() {
    let mut host = two();
    assert_snapshot!(host.bpfctl("attach a xdp -i second --persist").refused(2), @"
    error: cannot attach `a` to `second`
    cause: app `a` is not persistent: a reboot unloads it, and its links go with it
    hint: `bpfctl persist a` keeps the app over reboots
    ");
    assert_snapshot!(host.bpfctl("persist a --dry-run").ok(), @"
    -- committed
    record app UID
    record link UID
    ");
    assert_snapshot!(host.bpfctl("persist a").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  PERSIST  STATE
    a/count  xdp   uplink:xdp  20    1    yes      ATTACHED
    ");
    assert_snapshot!(host.bpfctl("persist b --no-persist").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    b/count  xdp   uplink:xdp  50    2    ATTACHED
    b/count  xdp   second:xdp  50    1    ATTACHED
    ");
    host.bpfctl("attach a xdp -i second --persist").ok();
    host.check();
    host.reboot();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  PERSIST  STATE
    a/count  xdp   second:xdp  50    1    yes      ATTACHED
    a/count  xdp   uplink:xdp  20    1    yes      ATTACHED
    ");
    host.ping(10);
    assert_eq!(host.counted("a"), 10);
    host.check();
    // The row of a link may be the same since: its boot is another one.
    host.reboot();
    host.start();
    assert_eq!(host.items("list links").len(), 2);
    host.check();
}

#[test]
fn a_change_that_a_reboot_broke_off_is_no_news_if_a_reboot_ends_what_it_was_about() {
    for line in ["unload a", "detach a/count@uplink:xdp", "update a/count@uplink:xdp --priority 99", "persist a"] {
        let mut host = two();
        host.stop();
        host.start_with(&[("FAILPOINTS", "journal-begin-after=return")]);
        assert_ne!(host.bpfctl(line).code, 0);
        host.wait();
        host.reboot();
        host.start();
        assert_eq!(host.items("list").len(), 1, "{line}");
        host.check();
    }
}

#[test]
fn the_owner_is_asked_for_again_after_a_reboot() {
    let mut images = Images::new();
    images.publish("open/app", &image());
    let host = &mut images.host;
    host.bpfctl_as_member("load --image registry/open/app:1 --name fw --persist xdp -i uplink --priority 200").ok();
    host.reboot();
    host.start();
    host.ping(10);
    assert_eq!(host.counted("fw"), 10);
    host.check();
    // No member any more.
    host.shell("sed 's/^bpfd:.*/bpfd:x:815:/' /etc/group >/run/group.new; cat /run/group.new >/etc/group");
    host.reboot();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM   TYPE  HOOK        PRIO  POS  PERSIST  STATE
    fw/count  xdp   uplink:xdp  200   -    yes      UNAUTHORISED
    ");
    assert_snapshot!(host.bpfctl("get link fw").ok(), @"
    name:        fw/count@uplink:xdp
    uid:         UID
    state:       UNAUTHORISED: member may not load: not root and not in group `bpfd`
    program:     fw/count
    hook:        uplink:xdp
    priority:    200
    proceed on:  pass
    position:    -
    xdp mode:    auto
    kernel id:   -
    owner:       uid 4711
    persist:     yes
    attached:    TIME
    ");
    assert!(!host.shell("ip link show uplink").contains("xdp"));
    assert_snapshot!(host.bpfctl("doctor").stable(), @"
    $ bpfctl doctor
    STATUS  CHECK             FOUND
    ok      xdp-chain-mode    MODE
    warn    start             app `fw` is not loaded again: member may not load: not root and not in group `bpfd`
    warn    unauthorised      the policy refuses 1 apps and 1 links now; what runs of them stays as it is
    ok      invariants        database, pins and attached programs are consistent

    start: correct this and restart bpfd; its log has details
    unauthorised: `bpfctl policy enforce --dry-run` lists them, and without `--dry-run` takes them away
    ");
    // What was found at the start is told until the next one.
    host.bpfctl("unload --all").ok();
    host.stop();
    host.start();
}
