//! programs.d: what files declare is there after each start, follows them when they are read again, and needs no registry.
//!
//! Long because the cases share one host and its files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use bpfd_tests::{Host, Opens, eventually, example};
use bytecode_image::testing::registry::Mode;
use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{ETC, Images, image};

const OBJECT: &str = "/run/case/fw.o";

/// `fw` before `second` on `uplink`.
const FW: &str = r#"version = 1
[[program]]
name = "fw"
file = "/run/case/fw.o"
globals = { step = 10 }
labels = { team = "edge" }
critical = true
[[program.attach]]
hook = "xdp"
interface = "uplink"
priority = 20
"#;
const SECOND: &str = r#"version = 1
[[program]]
name = "second"
file = "/run/case/fw.o"
[[program.attach]]
hook = "xdp"
interface = "uplink"
"#;

fn put(host: &Host, file: &str, text: &str) {
    fs::create_dir_all(host.path(&format!("{ETC}/programs.d"))).unwrap();
    fs::write(host.path(&format!("{ETC}/programs.d/{file}")), text).unwrap();
}

/// A host with these files, on which nothing runs yet.
fn with(files: &[(&str, &str)]) -> Host {
    let host = Host::without_daemon();
    fs::copy(example("xdp-counter"), host.path(OBJECT)).unwrap();
    fs::set_permissions(host.path(OBJECT), fs::Permissions::from_mode(0o644)).unwrap();
    files.iter().for_each(|(file, text)| put(&host, file, text));
    host
}

/// Has the files read again, and waits for what comes of it.
#[track_caller]
fn reload(host: &Host, line: &str, wanted: impl Fn(&str) -> bool) -> String {
    kill_process(Pid::from_raw(host.pid().try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
    let said = eventually(|| host.bpfctl(line).stable(), |said| wanted(said));
    assert!(wanted(&said), "{said}{}", host.log());
    said
}

#[test]
fn what_files_declare_is_there_after_each_start() {
    let mut host = with(&[("10-fw.toml", FW), ("20-second.toml", SECOND)]);
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM       TYPE  HOOK        PRIO  POS  PERSIST  STATE
    fw/count      xdp   uplink:xdp  20    1    file     ATTACHED
    second/count  xdp   uplink:xdp  50    2    file     ATTACHED
    ");
    assert_snapshot!(host.bpfctl("programs list").ok(), @"
    PROGRAM  FILE            SOURCE               CRITICAL  STATE   CAUSE
    fw       10-fw.toml      file /run/case/fw.o  critical  LOADED  -
    second   20-second.toml  file /run/case/fw.o  -         LOADED  -
    ");
    host.ping(10);
    assert_eq!((host.counted("fw"), host.counted("second")), (100, 10));
    host.check();
    // Both came with one operation, and so with one swap.
    let records = host.shell("grep -c '\"plan\"' /run/case/var/log/bpfd/audit.jsonl");
    assert_eq!(records.trim(), "1");
    let swaps = |host: &Host| host.log().matches("step=swap").count();
    host.stop();
    host.start();
    assert_eq!(swaps(&host), 0);
    host.ping(10);
    assert_eq!(host.counted("fw"), 200, "not loaded anew");
    host.reboot();
    host.start();
    assert_eq!(swaps(&host), 1);
    host.ping(10);
    assert_eq!((host.counted("fw"), host.counted("second")), (100, 10));
    host.check();
    host.bpfctl("programs wait").ok();
}

#[test]
fn chains_of_critical_programs_are_built_first() {
    let mut host = with(&[("10-second.toml", SECOND), ("20-fw.toml", &FW.replace("\"uplink\"", "\"later\""))]);
    host.shell("ip link add later type veth peer name other");
    host.start();
    host.reboot();
    host.start();
    let log = host.log();
    let steps: Vec<&str> = log.lines().filter_map(|line| line.split_once("step=swap ")).map(|(_, step)| step).collect();
    let chains: Vec<&str> = steps.iter().filter_map(|step| step.split([' ', ':']).next()).collect();
    assert_eq!(chains, ["later", "uplink"], "{log}");
    host.check();
}

#[test]
fn a_reload_changes_what_files_made_and_nothing_else() {
    let mut host = with(&[("10-fw.toml", FW), ("20-second.toml", SECOND)]);
    host.start();
    host.bpfctl(&format!("load --path {} --name mine xdp -i uplink --priority 500", example("xdp-counter"))).ok();
    host.ping(10);
    put(&host, "10-fw.toml", &FW.replace("priority = 20", "priority = 90"));
    reload(&host, "list", |said| said.contains("uplink:xdp  90"));
    host.ping(10);
    assert_eq!(host.counted("fw"), 200, "moved, not loaded anew");
    put(&host, "10-fw.toml", &FW.replace("step = 10", "step = 7"));
    reload(&host, "get app fw", |said| said.contains("step = 7"));
    host.ping(10);
    assert_eq!(host.counted("fw"), 70);
    fs::remove_file(host.path(&format!("{ETC}/programs.d/20-second.toml"))).unwrap();
    reload(&host, "list", |said| !said.contains("second"));
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM     TYPE  HOOK        PRIO  POS  PERSIST  STATE
    fw/count    xdp   uplink:xdp  20    1    file     ATTACHED
    mine/count  xdp   uplink:xdp  500   2    no       ATTACHED
    ");
    assert_eq!(host.counted("mine"), 30);
    host.check();
    // Gone while nobody looked.
    fs::remove_file(host.path(&format!("{ETC}/programs.d/10-fw.toml"))).unwrap();
    host.stop();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM     TYPE  HOOK        PRIO  POS  STATE
    mine/count  xdp   uplink:xdp  500   1    ATTACHED
    ");
    host.check();
}

#[test]
fn a_bad_file_stops_that_file_only() {
    let mut host =
        with(&[("10-fw.toml", FW), ("20-second.toml", SECOND), ("30-bad.toml", "version = 1\n[[programm]]\n")]);
    host.start();
    assert_snapshot!(host.bpfctl("programs list").stable(), @"
    $ bpfctl programs list
    PROGRAM  FILE            SOURCE               CRITICAL  STATE   CAUSE
    fw       10-fw.toml      file /run/case/fw.o  critical  LOADED  -
    second   20-second.toml  file /run/case/fw.o  -         LOADED  -
    --- stderr
    warning: /run/case/etc/bpfd/programs.d/30-bad.toml:2:3: unknown field `programm`, expected `version` or `program`
    ");
    let version = host.bpfctl("version").ok();
    let state: Vec<&str> =
        version.lines().filter(|line| line.starts_with("state:") || line.starts_with("cause:")).collect();
    assert_snapshot!(state.join("\n"), @"
    state:       degraded
    cause:       programs.d: /run/case/etc/bpfd/programs.d/30-bad.toml:2:3: unknown field `programm`, expected `version` or `program`
    ");
    assert_snapshot!(host.bpfctl("programs wait").refused(12), @"
    error: a critical program is not there
    cause: /run/case/etc/bpfd/programs.d/30-bad.toml:2:3: unknown field `programm`, expected `version` or `program`
    hint: `bpfctl programs list` and the daemon's log say more
    ");
    // What it made when it was good stays, over a reboot too.
    put(&host, "10-fw.toml", &FW.replace("priority", "priorty"));
    fs::remove_file(host.path(&format!("{ETC}/programs.d/30-bad.toml"))).unwrap();
    host.reboot();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM       TYPE  HOOK        PRIO  POS  PERSIST  STATE
    fw/count      xdp   uplink:xdp  20    1    file     ATTACHED
    second/count  xdp   uplink:xdp  50    2    file     ATTACHED
    ");
    host.ping(10);
    assert_eq!(host.counted("fw"), 100);
}

#[test]
fn one_that_cannot_be_had_is_named_and_the_others_are_there() {
    let files = [
        ("10-fw.toml", FW.to_owned()),
        ("20-link.toml", SECOND.replace("second", "link").replace("fw.o", "link.o")),
        ("30-open.toml", SECOND.replace("second", "open").replace("fw.o", "open.o")),
        ("40-none.toml", SECOND.replace("second", "none").replace("fw.o", "none.o")),
        ("50-twice.toml", SECOND.replace("second", "fw")),
        ("60-bad.toml", SECOND.replace("second", "bad").replace("fw.o", "bad.o")),
        ("70-hook.toml", SECOND.replace("second", "hook") + "program = \"nobody\"\n"),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(file, text)| (*file, text.as_str())).collect();
    let mut host = with(&files);
    symlink(OBJECT, host.path("/run/case/link.o")).unwrap();
    fs::copy(host.path(OBJECT), host.path("/run/case/open.o")).unwrap();
    fs::set_permissions(host.path("/run/case/open.o"), fs::Permissions::from_mode(0o664)).unwrap();
    fs::write(host.path("/run/case/bad.o"), "no ELF").unwrap();
    host.start();
    assert_snapshot!(host.bpfctl("programs list").stable(), @"
    $ bpfctl programs list
    PROGRAM  FILE          SOURCE                 CRITICAL  STATE   CAUSE
    fw       10-fw.toml    file /run/case/fw.o    critical  LOADED  -
    link     20-link.toml  file /run/case/link.o  -         FAILED  cannot use `/run/case/link.o`: Too many levels of symbolic links (os error 40)
    open     30-open.toml  file /run/case/open.o  -         FAILED  cannot use `/run/case/open.o`: its mode is 664; only its owner may be allowed to write: `chmod go-w`
    none     40-none.toml  file /run/case/none.o  -         FAILED  cannot use `/run/case/none.o`: No such file or directory (os error 2)
    bad      60-bad.toml   file /run/case/bad.o   -         FAILED  not an ELF object: what `clang -target bpf -c` writes is one
    hook     70-hook.toml  file /run/case/fw.o    -         FAILED  object has no program `nobody`; it has `count` (section `xdp`)
    --- stderr
    warning: /run/case/etc/bpfd/programs.d/50-twice.toml:2:1: there is a program `fw` in 10-fw.toml already
    ");
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM   TYPE  HOOK        PRIO  POS  PERSIST  STATE
    fw/count  xdp   uplink:xdp  20    1    file     ATTACHED
    ");
    // A name that a request took is not taken from it.
    host.stop();
    for (file, _) in &files {
        fs::remove_file(host.path(&format!("{ETC}/programs.d/{file}"))).unwrap();
    }
    host.start();
    host.bpfctl(&format!("load --path {} --name fw", example("xdp-counter"))).ok();
    put(&host, "10-fw.toml", FW);
    assert_snapshot!(reload(&host, "programs list", |said| said.contains("fw")), @"
    $ bpfctl programs list
    PROGRAM  FILE        SOURCE               CRITICAL  STATE   CAUSE
    fw       10-fw.toml  file /run/case/fw.o  critical  FAILED  an app named `fw` exists
    ");
    fs::remove_file(host.path(&format!("{ETC}/programs.d/10-fw.toml"))).unwrap();
    reload(&host, "programs list", |said| !said.contains("10-fw"));
}

#[test]
fn a_database_of_before_is_not_taken_for_the_right_one_because_a_file_is_gone() {
    const LIB: &str = "/run/case/var/lib/bpfd";
    let mut host = with(&[("10-fw.toml", FW), ("20-second.toml", SECOND)]);
    host.start();
    host.stop();
    host.shell(&format!("mkdir /run/case/kept; cp {LIB}/state.db* /run/case/kept"));
    host.start();
    // One commit more: an app and its link.
    host.bpfctl(&format!("load --path {} --name mine xdp -i uplink --priority 500", example("xdp-counter"))).ok();
    host.stop();
    host.shell(&format!("rm {LIB}/state.db*; cp /run/case/kept/state.db* {LIB}"));
    fs::remove_file(host.path(&format!("{ETC}/programs.d/20-second.toml"))).unwrap();
    host.start();
    assert!(host.log().contains("the database is older than the pins were"), "{}", host.log());
    host.ping(10);
    assert_eq!(host.counted("mine"), 10, "{}", host.log());
    host.bpfctl("state adopt").ok();
    host.check();
}

#[test]
fn an_image_of_a_file_that_a_reload_found_is_pulled() {
    let images = Images::new();
    images.publish("open/app", &image());
    let text = SECOND.replace("second", "app").replace("file = \"/run/case/fw.o\"", "image = \"registry/open/app:1\"");
    put(&images.host, "10-app.toml", &text);
    reload(&images.host, "programs list", |said| said.contains("LOADED"));
    images.host.check();
}

#[test]
fn an_image_that_is_not_stored_is_pulled_later_and_then_needs_no_registry() {
    let mut images = Images::new();
    let text = SECOND.replace("second", "app").replace("file = \"/run/case/fw.o\"", "image = \"registry/open/app:1\"");
    put(&images.host, "10-app.toml", &text);
    images.host.stop();
    images.host.start();
    let said = images.host.bpfctl("programs list").stable();
    assert!(said.contains("image registry/open/app:1  -         LOADING"), "{said}");
    images.publish("open/app", &image());
    images.host.await_output("programs list", "LOADED");
    images.host.ping(10);
    assert_eq!(images.host.counted("app"), 10);
    images.host.check();
    let Images { mut host, registry, .. } = images;
    drop(registry);
    host.reboot();
    host.start();
    host.ping(10);
    assert_eq!(host.counted("app"), 10);
    host.check();
    // The policy is asked again, from the store alone.
    fs::write(host.path(&format!("{ETC}/policy.toml")), "version = 1\n").unwrap();
    host.reboot();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM    TYPE  HOOK        PRIO  POS  PERSIST  STATE
    app/count  xdp   uplink:xdp  50    -    file     UNAUTHORISED
    ");
    assert!(!host.shell("ip link show uplink").contains("xdp"));
    let policy = "version = 1\n[[image]]\nscope = \"registry/open/**\"\nunsigned = \"allow\"\n";
    fs::write(host.path(&format!("{ETC}/policy.toml")), policy).unwrap();
    reload(&host, "list", |said| said.contains("ATTACHED"));
    host.ping(10);
    assert_eq!(host.counted("app"), 10);
    host.bpfctl("unload --all").ok();
    fs::remove_file(host.path(&format!("{ETC}/programs.d/10-app.toml"))).unwrap();
    host.stop();
    host.start();
}

#[test]
fn a_pattern_is_about_interfaces_that_come_later_too() {
    let mut host = with(&[("10-fw.toml", &FW.replace("\"uplink\"", "\"eth*\""))]);
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM   TYPE  HOOK  PRIO  POS  PERSIST  STATE
    fw/count  xdp   -     -     -    file     LOADED
    ");
    host.shell("ip link add eth7 type veth peer name veth7");
    host.await_output("list", "eth7");
    host.await_output("list", "ATTACHED");
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM   TYPE  HOOK      PRIO  POS  PERSIST  STATE
    fw/count  xdp   eth7:xdp  20    1    file     ATTACHED
    ");
    host.check_settled();
    host.shell("ip link del eth7");
    let listed = eventually(|| host.bpfctl("list").stdout, |said| !said.contains("eth7"));
    assert!(!listed.contains("eth7"), "{listed}");
    host.check_settled();
}

/// Makes an interface that the pattern of [`FW`] fits, and waits until it has its program.
#[track_caller]
fn add_eth(host: &Host, number: u32) {
    host.shell(&format!("ip link add eth{number} type veth peer name veth{number}"));
    let attached = |said: &String| {
        said.lines().any(|line| line.contains(&format!(" eth{number}:xdp ")) && line.contains("ATTACHED"))
    };
    let said = eventually(|| host.bpfctl("list").stdout, attached);
    assert!(attached(&said), "{said}{}", host.log());
}

#[test]
fn interfaces_that_come_wait_for_no_pull_and_have_nothing_pulled_sooner() {
    let mut images = Images::new();
    let text = SECOND.replace("second", "app").replace("file = \"/run/case/fw.o\"", "image = \"registry/open/app:1\"");
    let host = &images.host;
    fs::copy(example("xdp-counter"), host.path(OBJECT)).unwrap();
    put(host, "10-app.toml", &text);
    put(host, "20-fw.toml", &FW.replace("\"uplink\"", "\"eth*\""));
    images.host.stop();
    images.host.start();
    let Images { host, registry, .. } = &images;
    let asked = || registry.seen().iter().filter(|seen| seen.path.contains("open/app")).count();
    // It has no such image: asked after 1, 2, 4, 8 s and so on, whatever comes.
    assert!(eventually(asked, |asked| *asked > 0) > 0);
    let (before, came) = (asked(), 16);
    (0..came).for_each(|number| add_eth(host, number));
    let during = asked() - before;
    assert!(during < usize::try_from(came).unwrap() / 2, "asked {during} times while {came} interfaces came");
    // Who asks has it pulled at once.
    let before = asked();
    kill_process(Pid::from_raw(host.pid().try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
    assert!(eventually(asked, |asked| *asked > before) > before);

    // A registry that never answers holds up its own image alone.
    images.publish("open/app", &image());
    images.registry.behave("open/app", Mode::Stall);
    images.host.stop();
    images.host.start();
    let Images { host, registry, .. } = &images;
    let blobs = || registry.seen().iter().filter(|seen| seen.path.contains("open/app/blobs")).count();
    let before = blobs();
    assert!(eventually(blobs, |blobs| *blobs > before) > before, "a pull is under way");
    add_eth(host, came);
    assert!(host.bpfctl("programs list").stdout.contains("LOADING"));
    host.check_settled();
}

#[test]
fn files_are_read_again_for_an_interface_only_if_they_were_changed() {
    let mut host = with(&[("10-fw.toml", &FW.replace("\"uplink\"", "\"eth*\""))]);
    host.start();
    let opens = Opens::of([host.path(OBJECT), host.path(&format!("{ETC}/programs.d/10-fw.toml"))]);
    let was_opened = || opens.count() > 0;
    // A file that was written a moment ago is read again.
    let unread = (0..20).find(|number| {
        was_opened();
        add_eth(&host, *number);
        host.check_settled();
        !was_opened()
    });
    assert!(unread.is_some(), "they were read each time");
    let mut next = unread.unwrap() + 1;
    for _ in 0..3 {
        add_eth(&host, next);
        next += 1;
    }
    assert!(!was_opened());
    // Others have their programs from what is kept, and a change is seen.
    put(&host, "10-fw.toml", &FW.replace("\"uplink\"", "\"eth*\"").replace("priority = 20", "priority = 30"));
    was_opened();
    add_eth(&host, next);
    assert!(was_opened());
    let listed = host.bpfctl("list").ok();
    assert!(listed.lines().filter(|line| line.contains("ATTACHED")).all(|line| line.contains("  30  ")), "{listed}");
    host.check_settled();
}

#[test]
fn what_is_exported_is_loaded_from_files_again() {
    let mut host = with(&[]);
    host.start();
    let object = example("xdp-counter");
    host.bpfctl(&format!(
        "load --path {object} --name a --set step=7 --label team=edge xdp -i uplink --priority 20 --proceed-on pass,tx"
    ))
    .ok();
    host.bpfctl("attach a xdp -i later --when-present").ok();
    let tracer = example("raw-tracepoint-count");
    host.bpfctl(&format!("load --path {tracer} --name t raw_tracepoint")).ok();
    let text = host.bpfctl("programs export").ok();
    assert_snapshot!(text, @r#"
    version = 1

    [[program]]
    name = "a"
    file = "/run/case/var/lib/bpfd/objects/SHA256"
    programs = ["count"]
    globals = { "step" = "7" }
    labels = { "team" = "edge" }

    [[program.attach]]
    program = "count"
    hook = "xdp"
    interface = "uplink"
    priority = 20
    proceed_on = ["pass", "tx"]

    [[program.attach]]
    program = "count"
    hook = "xdp"
    interface = "later"
    priority = 50
    proceed_on = ["pass"]

    [[program]]
    name = "t"
    file = "/run/case/var/lib/bpfd/objects/SHA256"
    programs = ["on_switch"]

    [[program.attach]]
    program = "on_switch"
    hook = "raw_tracepoint"
    target = "sched_switch"
    "#);
    let before = host.bpfctl("list").stdout;
    put(&host, "10-now.toml", &host.bpfctl("programs export").stdout);
    host.reboot();
    host.start();
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM      TYPE            HOOK                         PRIO  POS  PERSIST  STATE
    a/count      xdp             later:xdp                    50    -    file     WAITING
    a/count      xdp             uplink:xdp                   20    1    file     ATTACHED
    t/on_switch  raw_tracepoint  raw_tracepoint:sched_switch  -     -    file     ATTACHED
    ");
    assert_eq!(host.bpfctl("list").stdout.lines().count(), before.lines().count());
    host.ping(10);
    assert_eq!(host.counted("a"), 70);
    assert_eq!(host.bpfctl("programs export").ok(), text);
    assert_eq!(host.bpfctl("programs export t").ok().matches("[[program]]").count(), 1);
    host.bpfctl("load --name firewall --path /run/case/fw.o").ok();
    assert_snapshot!(host.refuses(3, "programs export t firewal"), @"
    error: no app `firewal`
    hint: did you mean `firewall`? `bpfctl list` shows apps
    ");
    host.bpfctl("unload firewall").ok();
    host.check();
}

#[test]
fn files_are_checked_without_a_daemon() {
    let host =
        with(&[("10-fw.toml", FW), ("20-bad.toml", "version = 1\n\n[[program]]\nname = \"A\"\nfile = \"/a.o\"\n")]);
    let check = |files: &[&str]| {
        let files: Vec<String> = files.iter().map(|file| format!("{ETC}/programs.d/{file}")).collect();
        host.bpfctl(&format!("programs check {}", files.join(" ")))
    };
    assert_snapshot!(check(&["10-fw.toml"]).ok(), @"/run/case/etc/bpfd/programs.d/10-fw.toml: fw");
    assert_snapshot!(check(&["10-fw.toml", "20-bad.toml"]).refused(2), @"
    error: a file of programs would not be loaded
    cause: /run/case/etc/bpfd/programs.d/20-bad.toml:4:8: `A` is not an app name: use a-z, 0-9, `.`, `_` and `-`, and start with a letter or digit
    hint: correct it, and check it again
    ");
    assert_snapshot!(check(&["10-fw.toml", "10-fw.toml"]).refused(2), @"
    error: a file of programs would not be loaded
    cause: /run/case/etc/bpfd/programs.d/10-fw.toml:2:1: there is a program `fw` in /run/case/etc/bpfd/programs.d/10-fw.toml already
    hint: correct it, and check it again
    ");
}
