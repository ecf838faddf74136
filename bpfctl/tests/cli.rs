//! What bpfctl says without a daemon: help, wrong usage, a daemon that does not run. Whole outputs, in `tests/cmd`; of the scripts
//! and pages that clap makes, that each verb is in them.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_transcripts_hold() {
    trycmd::TestCases::new()
        .default_bin_name("bpfctl")
        .env("BPFD_SOCKET", "/nonexistent/bpfd.sock")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .case("tests/cmd/*.trycmd");
}

/// What it prints, without a word of complaint.
#[track_caller]
fn printed(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_bpfctl"))
        .args(arguments)
        .env("BPFD_SOCKET", "/nonexistent/bpfd.sock")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert_eq!((done.status.code(), String::from_utf8(done.stderr).unwrap().as_str()), (Some(0), ""));
    String::from_utf8(done.stdout).unwrap()
}

/// The verbs that `--help` lists.
fn verbs() -> BTreeSet<String> {
    let help = printed(&["--help"]);
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let lines = commands.lines().take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The verbs in a text: each is between these two. `help` is clap's own, and `ls` another word for `list` that not all shells are told.
fn between(script: &str, before: &str, after: &str) -> BTreeSet<String> {
    let places = script.split(before).skip(1).filter_map(|rest| rest.split_once(after));
    let word = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    places
        .map(|(text, _)| text)
        .filter(word)
        .map(str::to_owned)
        .filter(|verb| !["help", "ls"].contains(&verb.as_str()))
        .collect()
}

#[test]
fn completion_knows_each_verb_in_each_shell() {
    for (shell, split, at) in
        [("bash", "\n", ""), ("elvish", "\n", ""), ("fish", "\n", "\t"), ("powershell", "\n", "\t"), ("zsh", "\n", ":")]
    {
        let script = printed(&["completion", shell]);
        assert!(script.contains("BPFCTL_COMPLETE") && script.contains("bpfctl"), "{shell}: {script}");
        // What such a script asks.
        let mut bpfctl = Command::new(env!("CARGO_BIN_EXE_bpfctl"));
        let asked = bpfctl.args(["--", "bpfctl", ""]).env("BPFCTL_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", "1");
        let said = String::from_utf8(asked.env("_CLAP_IFS", "\n").output().unwrap().stdout).unwrap();
        let word = |line: &str| if at.is_empty() { line.to_owned() } else { line.split(at).next().unwrap().to_owned() };
        let offered: BTreeSet<String> = said.split(split).map(word).filter(|word| !word.starts_with('-')).collect();
        assert!(verbs().is_subset(&offered), "{shell}: {offered:?}");
    }
}

/// The sections of a manual page.
fn sections(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(|title| title.trim_matches('"')).collect()
}

#[test]
fn the_manual_page_has_its_sections_and_each_verb() {
    let page = printed(&["man"]);
    assert_eq!(page.lines().nth(2).unwrap(), concat!(".TH bpfctl 1  \"bpfctl ", env!("CARGO_PKG_VERSION"), "\" "));
    let titles = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "GLOBAL OPTIONS", "SUBCOMMANDS", "EXTRA", "VERSION"];
    assert_eq!(sections(&page), titles);
    assert_eq!(between(&page.replace("\\-", "-"), "\nbpfctl-", "(1)\n"), verbs());
}

#[test]
fn a_page_a_verb_is_written() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(printed(&["man", "--directory", directory.path().to_str().unwrap()]), "");
    let pages: BTreeSet<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .filter_map(|page| page.strip_suffix(".1").map(str::to_owned))
        .collect();
    let verbs = verbs();
    let is_below = |page: &&str| verbs.iter().any(|verb| page.starts_with(&format!("{verb}-")));
    let of_verbs = pages.iter().filter_map(|page| page.strip_prefix("bpfctl-")).filter(|page| !is_below(page));
    assert_eq!(of_verbs.map(str::to_owned).collect::<BTreeSet<_>>(), verbs);
    for page in pages {
        let text = fs::read_to_string(directory.path().join(format!("{page}.1"))).unwrap();
        assert!(sections(&text).starts_with(&["NAME", "SYNOPSIS", "DESCRIPTION"]), "{page}: {text}");
    }
    // The page of the whole is what is printed without a directory.
    let whole = fs::read_to_string(Path::new(directory.path()).join("bpfctl.1")).unwrap();
    assert_eq!(sections(&whole), sections(&printed(&["man"])));
}
