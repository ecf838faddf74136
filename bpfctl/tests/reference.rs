//! Two pages of the reference, made of the programs: `docs/reference/bpfctl.md` of what `--help` prints, and `docs/reference/errors.md` of
//! the table of reasons. `SNAPSHOTS=overwrite cargo test -p bpfctl --test reference` writes them.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::fmt::Write as _;
use std::process::Command;

use bpfd_proto::reason;
use snapbox::{assert_data_eq, file};

const HEAD: &str = "<!-- Made by bpfctl/tests/reference.rs; never edit it. -->\n";

/// What `--help` of a command prints, without the options that each command has.
fn help(command: &[String]) -> String {
    let mut bpfctl = Command::new(env!("CARGO_BIN_EXE_bpfctl"));
    let done = bpfctl.args(command).arg("--help").env("COLUMNS", "110").env("NO_COLOR", "1").output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let parts: Vec<&str> = said.split("\n\n").collect();
    let mut kept = Vec::new();
    let mut global = false;
    for part in parts {
        // A heading is at the margin; what belongs to it is not, but for examples and remarks at the end.
        if !part.starts_with(' ') {
            global = part.starts_with("Global options:") && !command.is_empty();
        }
        if !global {
            kept.push(part);
        }
    }
    kept.join("\n\n").lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The commands that a command has.
fn commands(help: &str) -> Vec<String> {
    let listed = help.split_once("\nCommands:\n").map(|(_, commands)| commands).unwrap_or_default();
    let lines = listed.lines().take_while(|line| !line.is_empty());
    // What a long line goes on with is indented further.
    let first = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    first.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

fn add(page: &mut String, command: &[String]) {
    let help = help(command);
    let title = [&["bpfctl".to_owned()], command].concat().join(" ");
    let depth = if command.len() < 2 { "##" } else { "###" };
    write!(page, "\n{depth} {title}\n\n```text\n{help}```\n").unwrap();
    // The hooks of `load` are those of `attach`, with the options of `load`.
    if command == ["load"] {
        return;
    }
    for name in commands(&help) {
        add(page, &[command, &[name]].concat());
    }
}

#[test]
fn the_page_of_bpfctl_is_what_help_prints() {
    let mut page = format!(
        "{HEAD}# bpfctl\n\nWhat `--help` of each command prints. The global options, which each command takes, are listed once; the hooks \
         that\n`load` takes are those of `attach`. [The command line as a contract](../cli.md) says what scripts may rely on.\n"
    );
    add(&mut page, &[]);
    assert!(page.matches("\n### ").count() > 30, "{page}");
    assert_data_eq!(page, file!["../../docs/reference/bpfctl.md"].raw());
}

/// The comment of each reason in `error.proto`, without the code that it begins with.
fn meaning(reason: &str) -> String {
    let source = include_str!("../../proto/bpfd/v1/error.proto");
    let (before, _) = source.split_once(&format!("  ERROR_REASON_{reason} = ")).unwrap();
    let mut lines: Vec<&str> = before.lines().rev().map_while(|line| line.trim().strip_prefix("// ")).collect();
    lines.reverse();
    let comment = lines.join(" ");
    let shouted = |word: &str| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    match comment.split_once(": ") {
        Some((code, meaning)) if shouted(code) => meaning.to_owned(),
        _ => comment,
    }
}

#[test]
fn the_page_of_errors_is_the_table_of_reasons() {
    let mut page = format!(
        "{HEAD}# Errors\n\nEvery refusal is a gRPC status with a `google.rpc.ErrorInfo`: its `domain` is `bpfd`, its `reason` one of this \
         table, and its\n`metadata` has `cause` and `hint` for people. Reasons keep their names and codes. bpfctl prints message, cause and \
         hint, and exits\nwith the code of the last column ([the command line as a contract](../cli.md#exit-codes)).\n\n| reason | meaning | \
         gRPC code | exit code |\n|---|---|---|---|\n"
    );
    for reason in reason::all() {
        let (word, code, exit) = (reason.word(), reason.code(), reason.exit().number());
        writeln!(page, "| `{word}` | {} | `{code:?}` | {exit} |", meaning(word).replace('|', "\\|")).unwrap();
    }
    assert!(!page.contains("|  |"), "{page}");
    assert_data_eq!(page, file!["../../docs/reference/errors.md"].raw());
}
