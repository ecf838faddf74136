//! `cargo xtask tidy`: the rules of this tree that no compiler checks, as file:line messages.
//!
//! Owns which rules there are. Reads the tree and `cargo tree`, and must never change a file: a finding is
//! mended by whoever made it.

mod invariants;
pub(crate) mod links;
mod manifests;
mod source;
mod texts;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One broken rule at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, message } = self;
        write!(f, "{path}:{line}: {message}")
    }
}

/// A text file of the tree; binary files are not in it.
pub(crate) struct File {
    /// Path below the root, with `/`.
    path: String,
    text: String,
}

/// The files that git tracks or would track.
pub(crate) struct Tree {
    files: Vec<File>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let out = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("cannot run git ls-files")?;
        if !out.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        let mut files = Vec::new();
        for path in String::from_utf8(out.stdout)?.split_terminator('\0') {
            let full = root.join(path);
            // Tracked but deleted in the working tree, or a link to a directory: nothing to read.
            if !full.is_file() {
                continue;
            }
            let bytes = std::fs::read(&full).with_context(|| format!("cannot read `{path}`"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File { path: path.to_owned(), text });
            }
        }
        Ok(Self { files })
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// The `.rs` files that people write: generated ones answer to `codegen` alone.
    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|f| f.path.ends_with(".rs") && !f.is_generated())
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(p, t)| File { path: (*p).to_owned(), text: (*t).to_owned() }).collect();
        Self { files }
    }
}

impl File {
    fn is_generated(&self) -> bool {
        self.text.lines().take(5).any(|l| l.contains("@generated"))
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

/// Every finding of every rule, sorted by place.
pub(crate) fn findings(root: &Path) -> Result<Vec<Finding>> {
    let tree = Tree::read(root)?;
    let mut found = Vec::new();
    found.extend(invariants::check(&tree));
    found.extend(manifests::check(&tree)?);
    found.extend(texts::check(&tree));
    found.extend(links::check(&tree));
    found.extend(manifests::dependency_trees(root)?);
    found.sort();
    found.dedup();
    Ok(found)
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let found = findings(root)?;
    for finding in &found {
        println!("{finding}");
    }
    if !found.is_empty() {
        bail!("{} broken rules; docs/ARCHITECTURE.md and CONTRIBUTING.md say why each is there", found.len());
    }
    println!("tidy: nothing to mend");
    Ok(())
}
