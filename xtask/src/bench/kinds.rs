//! `bench kinds`: how much code a hook kind is. The commit that adds one says so in a trailer, `Hook-Kind: kprobe`, and may say why it
//! is large in another, `Hook-Kind-Reason: …`. One that adds two kinds which share their files has the first trailer
//! twice; each kind then has half of its lines.
//!
//! What counts is what somebody wrote by hand and a reader has to read: no tests, generated code, examples or pages. A file that was
//! there before and got no more than a few lines is a registry: its lines count, the file does not.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Args;
use super::figure::{Bound, Figure};

const FILES: Bound = Bound::AtMost(5.0);
const LINES: Bound = Bound::AtMost(200.0);
/// Lines that a registry gets for a kind: one for the kind, one for its module, one for its import.
const REGISTRY: usize = 3;
/// How many of the largest are listed.
const LISTED: usize = 3;

/// One kind as its commits made it.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    name: String,
    commit: String,
    reason: String,
    files: usize,
    registries: usize,
    lines: usize,
}

pub(super) fn measure(root: &Path, _: &Args) -> Result<Vec<Figure>> {
    let git = |args: &[&str]| -> Result<String> {
        let out = Command::new("git").args(args).current_dir(root).output().context("cannot run git")?;
        if !out.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    const FIELDS: &str = "--format=%h%x09%(trailers:key=Hook-Kind,valueonly,separator=%x2C)%x09\
        %(trailers:key=Hook-Kind-Reason,valueonly,unfold,separator=%x20)";
    let log = git(&["log", "--reverse", "--no-merges", FIELDS])?;
    let mut kinds = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t');
        let (Some(commit), Some(name), Some(reason)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if name.is_empty() {
            continue;
        }
        let together = name.split(',').count();
        let registry = REGISTRY * together;
        let show = git(&["show", "--format=", "--unified=0", "--no-renames", "--no-ext-diff", commit])?;
        let (mut files, mut registries, mut lines) = (0, 0, 0);
        for change in changes(&show).into_iter().filter(|change| counts(&change.path)) {
            let text = git(&["show", &format!("{commit}:{}", change.path)])?;
            let added = change.before(tests_begin(&text));
            lines += added;
            match added {
                0 => {}
                added if added <= registry && !change.is_new => registries += 1,
                _ => files += 1,
            }
        }
        let (name, commit, reason) = (name.to_owned(), commit.to_owned(), reason.to_owned());
        kinds.push(Kind { name, commit, reason, files, registries, lines: lines.div_ceil(together) });
    }
    if kinds.is_empty() {
        bail!("no commit has the trailer `Hook-Kind: NAME`");
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.lines));
    for Kind { name, commit, reason, files, registries, lines } in kinds.iter().take(LISTED) {
        println!("{name} ({commit}): {lines} lines, {files} files and {registries} registries. {reason}");
    }
    Ok(figures(&kinds))
}

fn figures(kinds: &[Kind]) -> Vec<Figure> {
    let mut figures = vec![
        Figure::new("files_median", median(kinds.iter().map(|kind| kind.files).collect()), "files", Some(FILES)),
        Figure::new("lines_median", median(kinds.iter().map(|kind| kind.lines).collect()), "lines", Some(LINES)),
    ];
    for Kind { name, files, lines, .. } in kinds {
        figures.push(Figure::new(&format!("files_{name}"), number(*files), "files", None));
        figures.push(Figure::new(&format!("lines_{name}"), number(*lines), "lines", None));
    }
    figures
}

/// What a commit added to one file.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    path: String,
    is_new: bool,
    /// Line numbers of what is not blank.
    added: Vec<usize>,
}

impl Change {
    fn before(&self, line: usize) -> usize {
        self.added.iter().filter(|added| **added < line).count()
    }
}

/// A diff without context.
fn changes(diff: &str) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let (mut is_new, mut line) = (false, 0);
    // Lines of a hunk are counted: an added line may look like a header.
    let (mut left_old, mut left_new) = (0_usize, 0_usize);
    for text in diff.lines() {
        if left_old > 0 && text.starts_with('-') {
            left_old -= 1;
        } else if left_new > 0 && text.starts_with('+') {
            left_new -= 1;
            if let (Some(change), false) = (changes.last_mut(), text.trim_start_matches('+').trim().is_empty()) {
                change.added.push(line);
            }
            line += 1;
        } else if let Some(hunk) = text.strip_prefix("@@ ") {
            let mut ranges = hunk.split(' ').map(range);
            let (old, new) = (ranges.next().flatten(), ranges.next().flatten());
            (left_old, left_new) = (old.map_or(0, |(_, count)| count), new.map_or(0, |(_, count)| count));
            line = new.map_or(0, |(first, _)| first);
        } else if text.starts_with("--- ") {
            is_new = text == "--- /dev/null";
        } else if let Some(path) = text.strip_prefix("+++ b/") {
            changes.push(Change { path: path.to_owned(), is_new, added: Vec::new() });
        }
    }
    changes
}

/// `-3,2` or `+7`: first line and how many.
fn range(text: &str) -> Option<(usize, usize)> {
    let (first, count) = text.get(1..)?.split_once(',').unwrap_or((text.get(1..)?, "1"));
    Some((first.parse().ok()?, count.parse().ok()?))
}

/// Whether a reader has to read it: source, and neither test nor made by a program.
fn counts(path: &str) -> bool {
    let source = [".rs", ".proto", ".go", ".sql", ".toml"].iter().any(|end| path.ends_with(end));
    let made = ["proto/src/generated/", "proto/go/bpfdv1/"].iter().any(|dir| path.starts_with(dir));
    let test = path.split('/').any(|part| ["tests", "examples", "vectors"].contains(&part))
        || path.ends_with("_test.go")
        || path.ends_with("/tests.rs")
        || path.starts_with("xtask/");
    source && !made && !test
}

/// The line of a file's own tests; past its end if it has none.
fn tests_begin(text: &str) -> usize {
    text.lines().position(|line| line == "#[cfg(test)]").map_or(usize::MAX, |index| index + 1)
}

fn median(mut values: Vec<usize>) -> f64 {
    values.sort_unstable();
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).map_or(0.0, |value| number(*value));
    if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) }
}

/// Counts of a commit are small.
fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "\
diff --git a/core/src/hook.rs b/core/src/hook.rs
index 1..2 100644
--- a/core/src/hook.rs
+++ b/core/src/hook.rs
@@ -3,0 +4,2 @@ mod xdp;
+mod kprobe;
+
@@ -9 +11 @@
--- gone
+++ b/looks/like/a/header.rs
diff --git a/core/src/hook/kprobe.rs b/core/src/hook/kprobe.rs
new file mode 100644
--- /dev/null
+++ b/core/src/hook/kprobe.rs
@@ -0,0 +1,3 @@
+//! Kprobes.
+struct Kprobe;
+#[cfg(test)]
";

    #[test]
    fn added_lines_are_counted_without_blank_ones() {
        let change =
            |path: &str, is_new, added: &[usize]| Change { path: path.to_owned(), is_new, added: added.to_vec() };
        assert_eq!(
            changes(DIFF),
            [change("core/src/hook.rs", false, &[4, 11]), change("core/src/hook/kprobe.rs", true, &[1, 2, 3]),]
        );
    }

    #[test]
    fn a_files_own_tests_are_left_out() {
        assert_eq!(tests_begin("fn a() {}\n\n#[cfg(test)]\nmod tests {}\n"), 3);
        assert_eq!(tests_begin("fn a() {}\n"), usize::MAX);
        assert_eq!(Change { path: String::new(), is_new: true, added: vec![1, 2, 3] }.before(3), 2);
    }

    #[test]
    fn only_what_is_written_by_hand_and_no_test_counts() {
        for path in ["core/src/hook/kprobe.rs", "proto/bpfd/v1/hook.proto", "bpfd/Cargo.toml"] {
            assert!(counts(path), "{path}");
        }
        for path in [
            "tests/tests/host_kprobe.rs",
            "proto/src/generated/bpfd.v1.rs",
            "proto/go/bpfdv1/hook.pb.go",
            "proto/go/daemon_test.go",
            "examples/kprobe-count/kprobe-count.bpf.c",
            "docs/hooks.md",
            "Cargo.lock",
        ] {
            assert!(!counts(path), "{path}");
        }
    }

    #[test]
    fn the_median_is_bounded_and_each_kind_listed() {
        let kind = |name: &str, files, lines| Kind {
            name: name.to_owned(),
            commit: "c".to_owned(),
            reason: String::new(),
            files,
            registries: 2,
            lines,
        };
        let figures = figures(&[kind("tc", 9, 700), kind("kprobe", 5, 150)]);
        let values: Vec<(&str, f64, Option<bool>)> =
            figures.iter().map(|figure| (figure.name.as_str(), figure.value, figure.holds())).collect();
        assert_eq!(
            values,
            [
                ("files_median", 7.0, Some(false)),
                ("lines_median", 425.0, Some(false)),
                ("files_tc", 9.0, None),
                ("lines_tc", 700.0, None),
                ("files_kprobe", 5.0, None),
                ("lines_kprobe", 150.0, None),
            ]
        );
    }
}
