//! README.md, as it stands: every line of its console blocks.

use bpfd_tests::example;
use bpfd_tests::page::{Line, awaited, console, holds, run};
use insta::assert_snapshot;

/// What people type first. After `cargo build`, which the runner of the tests has done.
const FIRST: [&str; 2] = [
    "sudo ./target/debug/bpfd&",
    r#"sudo ./target/debug/bpfctl load --path /path/to/xdp/program --section-name "pass" xdp -i wlp2s0 --priority 50"#,
];

#[test]
fn the_first_lines_work_as_they_stand() {
    let [daemon, load] = FIRST;
    let wait = awaited(daemon);
    let look = "ip -details link show wlp2s0 | grep --only-matching prog/xdp";
    let (said, complained, done) = run(&format!("{daemon}\n{wait}\n{load}\n{look}"));
    assert!(done, "{said}{complained}");
    assert_snapshot!(said, @"
    PROGRAM       TYPE  HOOK        PRIO  POS  STATE
    program/pass  xdp   wlp2s0:xdp  50    1    ATTACHED
    prog/xdp
    ");
}

#[test]
fn without_the_first_line_the_second_says_what_is_missing() {
    let [_, load] = FIRST;
    let (said, complained, done) = run(&format!("{load} || echo exit $?"));
    assert!(done, "{said}{complained}");
    // sudo remarks on hosts whose name nobody knows, such as a guest's.
    let ours: Vec<&str> = complained.lines().filter(|line| !line.starts_with("sudo: ")).collect();
    assert_snapshot!(format!("{}\n{said}", ours.join("\n")), @"
    error: cannot reach bpfd at `/run/bpfd/bpfd.sock`
    cause: there is no such socket
    hint: start the daemon with `systemctl start bpfd` or `sudo bpfd`, or name its socket with --socket
    exit 7
    ");
}

#[test]
fn every_console_line_of_the_readme_does_what_the_page_says() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let lines = console(&page);
    assert!(FIRST.iter().all(|first| lines.iter().any(|line| line.command == *first)), "README.md has {FIRST:?}");
    // What cargo builds is built, and xtask's own tests read the lines that call it.
    let lines: Vec<&Line> = lines.iter().filter(|line| !line.command.starts_with("cargo ")).collect();
    example("xdp-counter");
    holds("README.md", &lines);
}
