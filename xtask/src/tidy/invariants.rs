//! I1 to I7 of `docs/ARCHITECTURE.md`, as far as text shows them, and the file rules of CONTRIBUTING.md.
//!
//! Each rule is a row of a table or one function; a rule that text cannot show is not here at all.
//! I4 is kept by types (`Verified`, `Permitted`, `Authorized`), I6 by `cargo xtask codegen --check`.

use super::source::{calls, code, has_word, names_crate};
use super::{File, Finding, Tree};

/// A file longer than this says why in its head (I7).
const LINES_WITHOUT_A_REASON: usize = 400;
const LONG: &str = "//! Long because ";

/// I1: the crates that decide. Their code does no I/O, reads no clock or environment, waits for nothing.
const PURE: [&str; 3] = ["bpfd/core/src/", "bpfd/policy/src/", "ebpf/src/"];
const NOT_PURE: [(&str, &str); 7] = [
    ("std::fs", "reads or writes files"),
    ("std::net", "talks to the network"),
    ("std::env", "reads the environment"),
    ("std::process", "starts or ends processes"),
    ("std::thread", "starts or blocks threads"),
    ("SystemTime::now", "reads the clock"),
    ("Instant::now", "reads the clock"),
];

/// I2: who may name a crate, by the start of the path. Tests may stand in for the other side of a wire or read what
/// the normaliser made, and examples read maps as a client does: what ships may not.
const NAMED_ONLY_BY: [(&str, &[&str]); 8] = [
    ("aya", &["bpfd/src/kernel/", "bpfd/src/kernel.rs", "examples/"]),
    ("aya_obj", &["ebpf/src/relocate.rs", "ebpf/src/relocate/", "ebpf/tests/"]),
    (
        "tonic",
        &[
            "proto/",
            "bpfd/src/rpc/",
            "bpfd/src/rpc.rs",
            "bpfctl/src/client.rs",
            "bpfctl/src/client/",
            "bpfctl/tests/",
            "bpfd/tests/",
        ],
    ),
    ("reqwest", &["bytecode-image/"]),
    ("sigstore_verify", &["bytecode-image/"]),
    ("sigstore_trust_root", &["bytecode-image/"]),
    ("aws_lc_rs", &["bytecode-image/"]),
    ("libc", &["bpfd/sys/"]),
];

/// I3: what changes the kernel's state or pins. The engine reaches these through the `Kernel` trait alone.
const EFFECTS: [&str; 14] = [
    "set_xdp",
    "create_clsact",
    "delete_clsact",
    "create_filter",
    "replace_filter",
    "delete_filter",
    "obj_pin",
    "obj_pin_at",
    "link_create_ext",
    "link_create_perf",
    "link_create_tcx",
    "link_update",
    "link_detach",
    "raw_tracepoint_open",
];
/// The netns worker takes a part of such a step, in another namespace; what it made is gone if nobody takes it.
const EFFECTS_IN: [&str; 4] = ["bpfd/sys/", "bpfd/src/kernel/", "bpfd/src/kernel.rs", "bpfd/src/worker/netns.rs"];

/// I5: where requests are authorised. The work of a verb begins there.
const AUTHORIZE_IN: [&str; 2] = ["bpfd/src/service/", "bpfd/core/"];

/// Where the only `unsafe` is.
const UNSAFE_IN: &str = "bpfd/sys/";

/// Where `anyhow` may be named: it hides which errors there are.
const ANYHOW_IN: [&str; 2] = ["xtask/", "tests/"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust().flat_map(|file| [head(file), words(file)]).flatten().collect()
}

/// I7, the head of a file.
fn head(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    if !file.text.starts_with("//!") {
        found.push(file.finding(1, "I7: a file starts with `//!`: what it owns, what it must never do"));
    }
    let lines = file.text.lines().count();
    let says_why = file.text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.starts_with(LONG));
    if lines > LINES_WITHOUT_A_REASON && !says_why {
        found.push(
            file.finding(1, format!("I7: {lines} lines; split it, or say why in its head with a line `{LONG}…`")),
        );
    }
    found
}

fn words(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in code(&file.text) {
        found.extend(broken_on(file, &line).into_iter().map(|message| file.finding(number, message)));
    }
    found
}

/// The messages for one line of code.
fn broken_on(file: &File, line: &str) -> Vec<String> {
    let within = |places: &[&str]| places.iter().any(|p| file.path.starts_with(p));
    let mut messages = Vec::new();
    if within(&PURE) {
        for (path, what) in NOT_PURE {
            if line.contains(path) {
                messages.push(format!("I1: `{path}` {what}; this crate decides and does nothing else"));
            }
        }
        if has_word(line, "async") {
            messages.push("I1: no `async` in a crate that decides".to_owned());
        }
    }
    for (name, places) in NAMED_ONLY_BY {
        if names_crate(line, name) && !within(places) {
            messages.push(format!("I2: `{name}` may be named only in {}", places.join(", ")));
        }
    }
    for effect in EFFECTS {
        if calls(line, effect) && !within(&EFFECTS_IN) && !is_main_or_test(&file.path) {
            messages
                .push(format!("I3: `{effect}` changes the kernel; only the engine does, by a step in bpfd/src/kernel"));
        }
    }
    if calls(line, "authorize") && file.path.starts_with("bpfd/src/") && !within(&AUTHORIZE_IN) {
        messages.push("I5: requests are authorised by the verbs in bpfd/src/service alone".to_owned());
    }
    if has_word(line, "unsafe") && !within(&[UNSAFE_IN]) {
        messages.push(format!("`unsafe` only in {UNSAFE_IN}"));
    }
    if names_crate(line, "anyhow") && !within(&ANYHOW_IN) && !is_main_or_test(&file.path) {
        messages.push("`anyhow` only in main.rs, xtask and tests: name the errors".to_owned());
    }
    for attribute in ["#[ignore", "#[should_panic"] {
        if line.contains(attribute) {
            messages.push(format!("`{attribute}]` hides a test: run it where it can run, assert what it returns"));
        }
    }
    messages
}

fn is_main_or_test(path: &str) -> bool {
    path.ends_with("/main.rs") || path.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn broken(path: &str, line: &str, rule: &str) {
        let found = messages(path, &format!("//! Head.\n{line}\n"));
        let at = format!("{path}:2: {rule}");
        assert!(matches!(found.as_slice(), [one] if one.starts_with(&at)), "{found:?}");
    }

    #[track_caller]
    fn fine(path: &str, line: &str) {
        assert_eq!(messages(path, &format!("//! Head.\n{line}\n")), Vec::<String>::new());
    }

    #[test]
    fn a_crate_that_decides_does_no_io() {
        broken("bpfd/core/src/a.rs", "let x = std::fs::read(p);", "I1: `std::fs`");
        broken("ebpf/src/a.rs", "let t = Instant::now();", "I1: `Instant::now`");
        broken("bpfd/policy/src/a.rs", "let x = std::fs::read(p);", "I1: `std::fs`");
        broken("ebpf/src/a.rs", "pub async fn a() {}", "I1: no `async`");
        fine("bpfd/src/a.rs", "let x = std::fs::read(p);");
        fine("bpfd/core/src/a.rs", "// std::fs is not for us");
    }

    #[test]
    fn a_crate_is_named_only_in_its_place() {
        broken("bpfd/src/engine.rs", "use aya::maps::Map;", "I2: `aya`");
        broken("ebpf/src/btf.rs", "use aya_obj::Object;", "I2: `aya_obj`");
        broken("bpfctl/src/main.rs", "fn f(s: tonic::Status) {}", "I2: `tonic`");
        broken("bpfd/src/source.rs", "reqwest::get(x)", "I2: `reqwest`");
        broken("bpfd/policy/src/key.rs", "use aws_lc_rs::signature;", "I2: `aws_lc_rs`");
        fine("bpfd/src/kernel/maps.rs", "use aya::maps::Map;");
        fine("ebpf/src/relocate.rs", "use aya_obj::Object;");
        fine("bpfctl/src/client.rs", "fn f(s: tonic::Status) {}");
    }

    #[test]
    fn only_kernel_steps_change_the_kernel() {
        broken("bpfd/src/engine.rs", "sys.set_xdp(iface, fd)?;", "I3: `set_xdp`");
        fine("bpfd/src/kernel/chain/xdp.rs", "sys.set_xdp(iface, fd)?;");
    }

    #[test]
    fn only_verbs_authorise_requests() {
        broken("bpfd/src/rpc/v1/app.rs", "let ask = authorize(&policy, who, &state, request)?;", "I5: requests");
        fine("bpfd/src/service/mod.rs", "let ask = authorize(&policy, who, &state, request)?;");
    }

    #[test]
    fn unsafe_anyhow_and_hidden_tests_stay_out() {
        broken("bpfd/src/a.rs", "unsafe { x() }", "`unsafe` only");
        fine("bpfd/sys/src/a.rs", "unsafe { x() }");
        fine("bpfd/src/a.rs", "#![deny(unsafe_code)]");
        broken("bpfd/src/a.rs", "use anyhow::Result;", "`anyhow` only");
        fine("bpfd/src/main.rs", "use anyhow::Result;");
        broken("bpfd/src/a.rs", "#[ignore]", "`#[ignore]` hides");
    }

    #[test]
    fn a_file_has_a_head_and_a_long_one_says_why() {
        let long = "x();\n".repeat(LINES_WITHOUT_A_REASON);
        assert_eq!(messages("a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(messages("a.rs", &format!("//! Head.\n{long}")).len(), 1);
        assert_eq!(messages("a.rs", &format!("//! Head.\n//! Long because of tables.\n{long}")).len(), 0);
        assert_eq!(messages("a.rs", &format!("// @generated by x\n{long}")).len(), 0);
    }
}
