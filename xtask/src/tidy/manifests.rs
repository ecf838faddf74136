//! What `Cargo.toml` and `clippy.toml` must say: inherited lints, a reason for each dependency, pure trees.
//!
//! Must never judge versions or licences: `cargo deny` does.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use toml::Table;

use super::{File, Finding, Tree};

/// The dependencies that need no reason of their own: the tree is designed around them.
const AGREED: &str = "aya aya-obj object reqwest oci-client tar flate2 ruzstd sha2 serde_json \
    sigstore-verify sigstore-trust-root tokio tonic tonic-prost tonic-health tonic-reflection tonic-types prost protox \
    rusqlite serde toml clap clap_complete clap_mangen comfy-table indicatif anstream annotate-snippets ratatui \
    rustix rtnetlink landlock seccompiler caps sd-notify listenfd tracing tracing-journald prometheus-client \
    insta trycmd snapbox proptest fail cargo-deny";

/// I1: what may not be in the tree of a crate that decides. The API is not in it either: the codec depends on `bpfd-core`.
const PURE: [&str; 3] = ["bpfd-core", "bpfd-policy", "ebpf"];
const IMPURE: [&str; 10] =
    ["tonic", "tokio", "hyper", "reqwest", "rusqlite", "rustix", "aya", "prost", "bpfd-proto", "aws-lc-rs"];

/// These decide and so have lints of their own beside the root's.
const OWN_CLIPPY: [&str; 3] = ["bpfd/core/clippy.toml", "bpfd/policy/clippy.toml", "ebpf/clippy.toml"];

const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|f| f.path == "Cargo.toml" || f.path.ends_with("/Cargo.toml")) {
        let manifest: Table = file.text.parse().with_context(|| format!("cannot read `{}`", file.path))?;
        found.extend(reasons(file, &manifest));
        if manifest.contains_key("package") && !inherits_lints(&manifest) {
            found.push(file.finding(1, "`[lints] workspace = true` is missing"));
        }
    }
    found.extend(clippy_files(tree));
    Ok(found)
}

fn inherits_lints(manifest: &Table) -> bool {
    manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
}

/// Each dependency that is neither agreed, nor ours, nor inherited has a comment on its line or the one above.
fn reasons(file: &File, manifest: &Table) -> Vec<Finding> {
    let workspace = manifest.get("workspace").and_then(toml::Value::as_table);
    let tables =
        DEPENDENCY_TABLES.iter().filter_map(|t| manifest.get(*t)).chain(workspace.and_then(|w| w.get("dependencies")));
    let mut found = Vec::new();
    for (name, spec) in tables.filter_map(toml::Value::as_table).flatten() {
        let is_ours = spec.get("path").is_some();
        let inherited = spec.get("workspace").and_then(toml::Value::as_bool) == Some(true);
        let agreed = file.path == "Cargo.toml" && AGREED.split_whitespace().any(|a| a == name);
        if is_ours || inherited || agreed {
            continue;
        }
        let (line, has_reason) = reason_at(&file.text, name);
        if !has_reason {
            found.push(file.finding(
                line,
                format!("`{name}` is not among the agreed dependencies: say why it is here, in a comment"),
            ));
        }
    }
    found
}

/// The line of a dependency, and whether a comment stands on it or right above it.
fn reason_at(text: &str, name: &str) -> (usize, bool) {
    let mut above = "";
    for (number, line) in text.lines().enumerate() {
        let key = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if key == name {
            // A comment above that ends a blank-separated block of others is a heading, not a reason.
            let own = line.contains('#') || (above.starts_with('#') && above.contains(name));
            return (number + 1, own);
        }
        above = line;
    }
    (1, false)
}

/// A crate's `clippy.toml` replaces the root's: it must repeat every line.
fn clippy_files(tree: &Tree) -> Vec<Finding> {
    let Some(root) = tree.file("clippy.toml") else {
        return vec![Finding { path: "clippy.toml".to_owned(), line: 1, message: "missing".to_owned() }];
    };
    let wanted: Vec<&str> = root.text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|f| f.path.ends_with("/clippy.toml")) {
        let missing = wanted.iter().filter(|w| !file.text.lines().any(|l| l == **w));
        found.extend(missing.map(|w| file.finding(1, format!("does not repeat the root's line `{w}`"))));
    }
    for path in OWN_CLIPPY {
        if tree.file(path).is_none() {
            let message = "I1: a crate that decides forbids I/O by a clippy.toml of its own".to_owned();
            found.push(Finding { path: path.to_owned(), line: 1, message });
        }
    }
    found
}

/// I1: what the crates that decide are built from.
pub(super) fn dependency_trees(root: &Path) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for name in PURE {
        let out = Command::new(env!("CARGO"))
            .args(["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
            .current_dir(root)
            .output()
            .context("cannot run cargo tree")?;
        if !out.status.success() {
            bail!("cargo tree -p {name} failed: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        found.extend(impure(name, &String::from_utf8(out.stdout)?));
    }
    Ok(found)
}

fn impure(name: &str, listing: &str) -> Vec<Finding> {
    let places: HashMap<&str, &str> = HashMap::from([
        ("bpfd-core", "bpfd/core/Cargo.toml"),
        ("bpfd-policy", "bpfd/policy/Cargo.toml"),
        ("ebpf", "ebpf/Cargo.toml"),
    ]);
    let path = places.get(name).copied().unwrap_or(name).to_owned();
    let named = |bad: &&&str| listing.lines().any(|l| l.split(' ').next() == Some(**bad));
    IMPURE
        .iter()
        .filter(named)
        .map(|bad| Finding { path: path.clone(), line: 1, message: format!("I1: `{bad}` is in the tree of `{name}`") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        let mut all: Vec<(&str, &str)> = OWN_CLIPPY.map(|path| (path, "")).into();
        all.push(("clippy.toml", ""));
        all.retain(|(p, _)| !files.iter().any(|(q, _)| p == q));
        all.extend_from_slice(files);
        check(&Tree::of(&all)).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unagreed_dependency_needs_a_reason() {
        let head = "[workspace.dependencies]\ntokio = \"1\"\n";
        assert_eq!(messages(&[("Cargo.toml", &format!("{head}left-pad = \"1\" # pads\n"))]), Vec::<String>::new());
        let found = messages(&[("Cargo.toml", &format!("{head}left-pad = \"1\"\n"))]);
        assert!(found.len() == 1 && found[0].starts_with("Cargo.toml:3: `left-pad`"), "{found:?}");
        assert_eq!(messages(&[("Cargo.toml", "[workspace.dependencies]\n# heading\nleft-pad = \"1\"\n")]).len(), 1);
    }

    #[test]
    fn a_crate_inherits_lints_and_dependencies() {
        let good = "[package]\nname = \"a\"\n[lints]\nworkspace = true\n[dependencies]\ntokio.workspace = true\n";
        assert_eq!(messages(&[("a/Cargo.toml", good)]), Vec::<String>::new());
        assert_eq!(
            messages(&[("a/Cargo.toml", "[package]\nname = \"a\"\n")]),
            ["a/Cargo.toml:1: `[lints] workspace = true` is missing"]
        );
        let own = good.replace("tokio.workspace = true", "tokio = \"1\"");
        assert_eq!(messages(&[("a/Cargo.toml", &own)]).len(), 1);
    }

    #[test]
    fn a_crate_repeats_the_roots_clippy_lines() {
        let found = messages(&[
            ("clippy.toml", "# c\na = 1\nb = 2\n"),
            ("bpfd/core/clippy.toml", "a = 1\nb = 2\nc = 3\n"),
            ("bpfd/policy/clippy.toml", "a = 1\nb = 2\n"),
            ("ebpf/clippy.toml", "a = 1\n"),
        ]);
        assert_eq!(found, ["ebpf/clippy.toml:1: does not repeat the root's line `b = 2`"]);
    }

    #[test]
    fn a_crate_that_decides_is_not_built_on_a_runtime() {
        assert_eq!(impure("ebpf", "ebpf v0.1.0 (/x)\naya-obj v0.3.0\n"), []);
        assert_eq!(impure("bpfd-core", "bpfd-core v0.1.0\nbpfd-proto v0.1.0 (/x)\n").len(), 1);
        let found = impure("bpfd-core", "bpfd-core v0.1.0\ntonic v0.14.9\n");
        assert_eq!(found[0].to_string(), "bpfd/core/Cargo.toml:1: I1: `tonic` is in the tree of `bpfd-core`");
    }
}
