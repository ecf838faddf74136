//! What is generated for packages, in `target/packages/parts`: manual pages, completions, changelogs; and the programs beside them, where
//! `Cargo.toml` looks for them.
//!
//! Must never have words of its own: they come from the programs, and from pages that are read anyway.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::roff::{self, Head};
use super::said;

/// A page of the manual.
struct Page {
    name: &'static str,
    section: u8,
    summary: &'static str,
    /// What `--help` of a program says goes first.
    help: Option<&'static str>,
    /// A page of the tree, or one part of it.
    file: &'static str,
    part: Option<&'static str>,
}

const fn page(name: &'static str, section: u8, summary: &'static str, file: &'static str) -> Page {
    Page { name, section, summary, help: None, file, part: None }
}

/// Those of bpfctl are made by bpfctl.
const PAGES: [Page; 6] = [
    Page { help: Some("bpfd"), ..page("bpfd", 8, "the system daemon that owns BPF on a host", "docs/operations.md") },
    page("bpfd.toml", 5, "settings of bpfd", "spec/settings.md"),
    page("bpfd-policy", 5, "who may load which BPF programs, and whose signatures count", "spec/policy.md"),
    page("bpfd-programs", 5, "BPF programs that are there after every boot", "spec/programs.md"),
    Page {
        part: Some("Registries"),
        ..page("bpfd-registries", 5, "how bpfd and bpfctl reach registries", "spec/bytecode-image.md")
    },
    page("bpfd-image", 7, "images of BPF bytecode", "spec/bytecode-image.md"),
];

/// Shells, and the names by which they look for a completion.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "bpfctl.bash"), ("zsh", "_bpfctl"), ("fish", "bpfctl.fish")];

pub(super) fn write(root: &Path, programs: &Path, version: &str, time: &str) -> Result<()> {
    let parts = root.join("target/packages/parts");
    if parts.exists() {
        fs::remove_dir_all(&parts).context("cannot remove what an earlier run left")?;
    }
    for dir in ["bin", "man", "completions"] {
        fs::create_dir_all(parts.join(dir)).with_context(|| format!("cannot make `{}`", parts.display()))?;
    }
    let program = |name: &str| parts.join("bin").join(name);
    for name in ["bpfd", "bpfctl"] {
        // A release build has no symbols. A test build has a hundred megabytes of them.
        said(Command::new("strip").arg("-o").arg(program(name)).arg(programs.join(name)))?;
        changelog(&parts, name, version, time)?;
    }
    said(Command::new(program("bpfctl")).args(["man", "--directory"]).arg(parts.join("man")))?;
    for (shell, file) in COMPLETIONS {
        let script = said(Command::new(program("bpfctl")).args(["completion", shell]))?;
        fs::write(parts.join("completions").join(file), script + "\n").context("cannot write a completion")?;
    }
    for page in &PAGES {
        let Page { name, section, summary, help, file, part } = page;
        let mut text = Head { name, section: *section, summary, version }.write();
        if let Some(name) = help {
            let help = said(Command::new(program(name)).arg("--help"))?;
            text += &format!(".SH SYNOPSIS\n{}", roff::verbatim(&help));
        }
        let markdown = fs::read_to_string(root.join(file)).with_context(|| format!("cannot read `{file}`"))?;
        let markdown = match part {
            Some(heading) => {
                section_of(&markdown, heading).with_context(|| format!("`{file}` has no part `{heading}`"))?
            }
            None => &markdown,
        };
        // What stands before the first heading belongs below one.
        text += ".SH DESCRIPTION\n";
        text += &roff::page(markdown).with_context(|| format!("cannot make a manual page of `{file}`"))?;
        let path = parts.join("man").join(format!("{name}.{section}"));
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

/// The text below a heading of the second level.
fn section_of<'a>(markdown: &'a str, heading: &str) -> Option<&'a str> {
    let (_, after) = markdown.split_once(&format!("\n## {heading}\n"))?;
    Some(after.split_once("\n## ").map_or(after, |(section, _)| section))
}

/// Debian's form; what changed stands in CHANGELOG.md.
fn changelog(parts: &Path, name: &str, version: &str, time: &str) -> Result<()> {
    let date = said(Command::new("date").args(["--utc", "--rfc-email", "--date"]).arg(format!("@{time}")))?;
    let text = format!(
        "{name} ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md of bpfd.\n\n -- The bpfd developers \
         <maintainers@bpfd.invalid>  {date}\n"
    );
    let path = parts.join(format!("changelog-{name}"));
    fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_page_ends_where_the_next_begins() {
        let page = "# T\n\n## A\n\none\n\n### B\n\ntwo\n\n## C\n\nthree\n";
        assert_eq!(section_of(page, "A"), Some("\none\n\n### B\n\ntwo\n"));
        assert_eq!(section_of(page, "C"), Some("\nthree\n"));
        assert_eq!(section_of(page, "B"), None);
    }

    #[test]
    fn every_page_of_the_manual_can_be_made() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for Page { file, part, .. } in &PAGES {
            let markdown = fs::read_to_string(root.join(file)).unwrap();
            let markdown = part.map_or(markdown.as_str(), |part| section_of(&markdown, part).unwrap());
            let page = roff::page(markdown).unwrap_or_else(|error| panic!("{file}: {error:#}"));
            assert!(page.lines().count() > 20, "{file}");
        }
    }
}
