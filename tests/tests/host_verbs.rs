//! What each verb does to the programs on an interface: loaded, named, attached, detached, driven and removed.

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;

#[test]
fn options_may_stand_before_or_after_the_hook() {
    let host = Host::new();
    let pass = example("xdp-pass");
    assert_snapshot!(host.bpfctl(&format!("load --path {pass} --section-name xdp xdp -i uplink --priority 50")).ok(), @"
    PROGRAM        TYPE  HOOK        PRIO  POS  STATE
    xdp-pass/pass  xdp   uplink:xdp  50    1    ATTACHED
    ");
    assert_snapshot!(host.bpfctl(&format!("load xdp -i uplink --priority 60 --path {pass} --section-name pass")).ok(), @"
    PROGRAM          TYPE  HOOK        PRIO  POS  STATE
    xdp-pass-2/pass  xdp   uplink:xdp  60    2    ATTACHED
    ");
    host.ping(3);
}

#[test]
fn what_is_detached_stays_loaded_and_counts_no_more() {
    let host = Host::with_counters();
    assert_snapshot!(host.bpfctl("detach b/count@uplink:xdp").ok(), @"detached b/count@uplink:xdp");
    host.ping(10);
    assert_eq!(["a", "b", "c"].map(|app| host.counted(app)), [10, 0, 1_000]);
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  90    2    ATTACHED
    b/count  xdp   -           -     -    LOADED
    c/count  xdp   uplink:xdp  20    1    ATTACHED
    ");
    host.check();
    assert_snapshot!(host.bpfctl("attach b xdp -i uplink --priority 1").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    b/count  xdp   uplink:xdp  1     1    ATTACHED
    ");
    assert_snapshot!(host.bpfctl("detach --all -i uplink").ok(), @"
    detached b/count@uplink:xdp
    detached c/count@uplink:xdp
    detached a/count@uplink:xdp
    ");
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   -
    kernel id:  -
    ");
    host.ping(10);
    assert_eq!(["a", "b", "c"].map(|app| host.counted(app)), [10, 0, 1_000]);
    host.check();
}

#[test]
fn what_is_unloaded_is_gone_with_its_links() {
    let host = Host::with_counters();
    assert_snapshot!(host.bpfctl("unload a b").ok(), @"
    detached a/count@uplink:xdp
    detached b/count@uplink:xdp
    unloaded a
    unloaded b
    ");
    host.ping(10);
    assert_eq!(host.counted("c"), 1_000);
    host.check();
    assert_snapshot!(host.bpfctl("unload --all").ok(), @"
    detached c/count@uplink:xdp
    unloaded c
    ");
    assert_snapshot!(host.bpfctl("list").stable(), @"
    $ bpfctl list
    --- stderr
    no programs
    ");
    // The state map, which says whose the pins are.
    assert_eq!(host.pinned().counts(), [0, 1, 0]);
    host.check();
}

#[test]
fn an_app_may_be_attached_twice_with_one_counter() {
    let host = Host::new();
    host.counter("a", 10, 1);
    assert_snapshot!(host.bpfctl("attach a xdp -i uplink --priority 20").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  20    2    ATTACHED
    ");
    host.ping(10);
    assert_eq!(host.counted("a"), 20);
    host.check();
}

#[test]
fn a_name_that_is_taken_is_numbered() {
    let host = Host::new();
    let pass = example("xdp-pass");
    for _ in 0..3 {
        host.bpfctl(&format!("load --path {pass}")).ok();
    }
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM          TYPE  HOOK  PRIO  POS  STATE
    xdp-pass/pass    xdp   -     -     -    LOADED
    xdp-pass-2/pass  xdp   -     -     -    LOADED
    xdp-pass-3/pass  xdp   -     -     -    LOADED
    ");
}

#[test]
fn a_chain_is_driven_as_asked_and_in_one_mode() {
    let host = Host::new();
    let pass = example("xdp-pass");
    host.bpfctl(&format!("load --path {pass} --name generic xdp -i uplink --mode generic")).ok();
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   generic
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM       PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     50    generic/pass  pass        ID         uid 0  ATTACHED
    ");
    host.ping(3);
    assert_snapshot!(host.bpfctl(&format!("load --path {pass} --name native xdp -i uplink --mode native")).refused(8), @"
    reading the object
    loading programs
    attaching
    error: cannot load `native`
    cause: links of `uplink:xdp` ask for native and generic mode at once
    hint: leave out `--mode`, or detach the others first
    ");
    host.bpfctl(&format!("load --path {pass} --name auto xdp -i uplink")).ok();
    host.check();
    host.bpfctl("detach --all -i uplink").ok();
    host.bpfctl("attach auto xdp -i uplink --mode native").ok();
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   native
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM    PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     50    auto/pass  pass        ID         uid 0  ATTACHED
    ");
    host.ping(3);
}

#[test]
fn a_chain_in_another_namespace_is_kept_as_well() {
    let host = Host::new();
    let object = example("xdp-counter");
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name far xdp --netns far -i far")).ok(), @"
    PROGRAM    TYPE  HOOK         PRIO  POS  STATE
    far/count  xdp   far:far:xdp  50    1    ATTACHED
    ");
    // Each answer comes in at `far`.
    host.ping(10);
    assert_eq!(host.counted("far"), 10);
    assert_snapshot!(host.bpfctl("chain show far --netns far").ok(), @"
    chain:      far:far:xdp
    mode:       MODE
    xdp mode:   native
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM    PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     50    far/count  pass        ID         uid 0  ATTACHED
    ");
    host.check();
}

#[test]
fn a_raw_tracepoint_program_runs_across_a_kill_until_it_is_detached() {
    let mut host = Host::new();
    let object = example("raw-tracepoint-count");
    // The section names the target.
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name raw raw_tracepoint")).ok(), @"
    PROGRAM        TYPE            HOOK                         PRIO  POS  STATE
    raw/on_switch  raw_tracepoint  raw_tracepoint:sched_switch  -     -    ATTACHED
    ");
    let counts = |host: &Host| {
        let before = host.sum("raw", "switches");
        host.ping(1);
        host.sum("raw", "switches") > before
    };
    assert!(counts(&host));
    host.kill();
    host.start();
    assert!(counts(&host), "the pinned link holds it");
    assert_snapshot!(host.refuses(3, "attach raw raw_tracepoint no_such_event"), @"
    error: cannot attach `raw` to raw tracepoint `no_such_event`
    cause: this kernel has no raw tracepoint `no_such_event`
    hint: `ls -d /sys/kernel/tracing/events/*/*/` shows those there are; give the last part
    ");
    assert_snapshot!(host.bpfctl("detach raw/on_switch@raw_tracepoint:sched_switch").ok(), @"detached raw/on_switch@raw_tracepoint:sched_switch");
    // The kernel lets go of an unpinned link a moment later (`bpf_link_put` of kernel/bpf/syscall.c puts it off).
    assert!(!eventually(|| counts(&host), |counts| !counts), "it counts on");
}

#[test]
fn a_kprobe_is_refused_on_a_kernel_without_them_and_for_other_programs() {
    let host = Host::new();
    let object = example("kprobe-count");
    host.bpfctl(&format!("load --path {object} --name p")).ok();
    if !std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        assert_snapshot!(host.refuses(11, "attach p kprobe"), @"
        error: cannot attach `p` to its kprobe
        cause: a probe of a kernel function needs a kernel built with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS
        ");
        assert_snapshot!(host.refuses(11, "attach p kretprobe -f do_unlinkat"), @"
        error: cannot attach `p` to kernel function `do_unlinkat`
        cause: a probe of a kernel function needs a kernel built with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS
        ");
    }
    assert_snapshot!(host.refuses(2, "attach p/on_call kretprobe"), @"
    error: cannot attach `p` to its kretprobe
    cause: `on_call` is a kprobe program: it cannot attach to `kretprobe:do_unlinkat`
    ");
    assert_snapshot!(host.refuses(2, "attach p kprobe -f a/b"), @"
    error: invalid value 'a/b' for '--function <FUNCTION>': `a/b` is not a kernel function: write FUNCTION, as in `do_unlinkat`

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(2, "attach p kprobe --offset 4"), @"
    error: the following required arguments were not provided:
      --function <FUNCTION>

    Usage: bpfctl attach <APP[/FUNCTION]> kprobe --function <FUNCTION> --offset <N>

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(2, "attach p kprobe -f a --offset 010"), @"
    error: invalid value '010' for '--offset <N>': write a number of bytes, as in 16 or 0x10

    For more information, try '--help'.
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {} kprobe -f do_unlinkat", example("xdp-pass"))), @"
    reading the object
    error: cannot load `xdp-pass.bpf`
    cause: object has no kprobe program; it has `pass` (section `xdp`)
    ");
    host.check();
}

#[test]
fn a_fentry_program_needs_a_function_that_exists_and_a_kernel_that_allows_trampolines() {
    let host = Host::new();
    let object = example("fentry-count");
    assert_snapshot!(host.refuses(3, &format!("load --path {object} fentry -f no_such_function")), @"
    reading the object
    loading programs
    error: cannot load `fentry-count.bpf`
    cause: this kernel has no kernel function `no_such_function`
    hint: `bpftool btf dump file /sys/kernel/btf/vmlinux | grep -w no_such_function` shows whether this kernel's types have it as FUNC; functions of modules cannot be named yet
    ");
    assert_snapshot!(host.refuses(2, &format!("load --path {object} --program on_any")), @"
    reading the object
    error: cannot load `fentry-count.bpf`
    cause: the section of `on_any` names no fentry to attach to
    hint: name it: `fentry` with FUNCTION, as in `do_unlinkat`
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {} fexit", example("xdp-pass"))), @"
    reading the object
    error: cannot load `xdp-pass.bpf`
    cause: object has no fexit program; it has `pass` (section `xdp`)
    ");
    let loaded = host.bpfctl(&format!("load --path {object} --name f fentry"));
    if loaded.code != 0 {
        assert_snapshot!(loaded.refused(11), @"
        reading the object
        loading programs
        error: cannot load `f`
        cause: a program that is called by a trampoline needs a kernel that allows BPF trampolines: this one refuses them, although bpfd has all capabilities
        ");
    }
    host.check();
}

#[test]
fn a_tracepoint_program_runs() {
    let host = Host::new();
    let object = example("tracepoint-count");
    assert_snapshot!(host.bpfctl(&format!("load --path {object} tracepoint sched/sched_switch")).ok(), @"
    PROGRAM                     TYPE        HOOK                           PRIO  POS  STATE
    tracepoint-count/on_switch  tracepoint  tracepoint:sched/sched_switch  -     -    ATTACHED
    ");
    host.ping(10);
    let before = host.sum("tracepoint-count", "switches");
    host.ping(10);
    assert!(before > 0 && host.sum("tracepoint-count", "switches") > before);
    host.check();
    assert_snapshot!(host.bpfctl("detach tracepoint-count/on_switch@tracepoint:sched/sched_switch").ok(), @"detached tracepoint-count/on_switch@tracepoint:sched/sched_switch");
    host.check();
    assert_snapshot!(host.bpfctl("attach tracepoint-count tracepoint").ok(), @"
    PROGRAM                     TYPE        HOOK                           PRIO  POS  STATE
    tracepoint-count/on_switch  tracepoint  tracepoint:sched/sched_switch  -     -    ATTACHED
    ");
    assert_snapshot!(host.bpfctl("get link tracepoint-count/on_switch@tracepoint:sched/sched_switch").ok(), @"
    name:        tracepoint-count/on_switch@tracepoint:sched/sched_switch
    uid:         UID
    state:       ATTACHED
    program:     tracepoint-count/on_switch
    hook:        tracepoint:sched/sched_switch
    priority:    -
    proceed on:  -
    position:    -
    xdp mode:    -
    kernel id:   ID
    owner:       uid 0
    persist:     no
    attached:    TIME
    ");
}

#[test]
fn apps_are_found_by_the_labels_that_they_were_loaded_with() {
    let mut host = Host::new();
    let pass = example("xdp-pass");
    let load = |rest: &str| host.bpfctl(&format!("load --path {pass} {rest}"));
    load("--name a --label team=edge --label canary= xdp -i uplink").ok();
    load("--name b --label team=core").ok();
    load("--name c").ok();
    assert_snapshot!(load("--name d --label Team=edge").refused(2), @"
    error: invalid value 'Team=edge' for '--label <KEY=VALUE>': `Team` is not a label's key: at most 63 of a-z, 0-9, `.`, `_`, `/` and `-`, with a letter or digit at both ends

    For more information, try '--help'.
    ");
    assert_snapshot!(load("--name d --label team").refused(2), @"
    error: invalid value 'team' for '--label <KEY=VALUE>': write KEY=VALUE

    For more information, try '--help'.
    ");
    assert_snapshot!(load("--name d --label team=edge xdp -i uplink --label team=core").refused(2), @"
    error: label `team` is given twice

    Usage: bpfctl load [OPTIONS] [COMMAND]

    For more information, try '--help'.
    ");
    host.stop();
    host.start();
    let list = |what: &str| host.bpfctl(&format!("list {what}")).ok();
    assert_snapshot!(list("--label team"), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/pass   xdp   uplink:xdp  50    1    ATTACHED
    b/pass   xdp   -           -     -    LOADED
    ");
    assert_snapshot!(list("-q --label team=edge --label canary"), @"a");
    assert_snapshot!(list("links -q --label team=edge"), @"a/pass@uplink:xdp");
    assert_snapshot!(host.bpfctl("list --label team=edge --label team=core").stable(), @"
    $ bpfctl list --label team=edge --label team=core
    --- stderr
    no programs
    ");
    assert_snapshot!(host.bpfctl("get app a").ok(), @"
    name:     a
    uid:      UID
    state:    LOADED
    source:   upload `a`
    object:   sha256:SHA256
    reach:    kernel
    owner:    root (uid 0)
    persist:  no
    loaded:   TIME
    label:    canary=
    label:    team=edge

    FUNCTION  SECTION  TYPE  KERNEL-ID  TAG               INSNS
    pass      xdp      xdp   ID         TAG-IN-16-DIGITS  COUNT

    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/pass   xdp   uplink:xdp  50    1    ATTACHED
    ");
    assert_eq!(host.items("get app a")[0]["userLabels"], serde_json::json!({"canary": "", "team": "edge"}));
}
