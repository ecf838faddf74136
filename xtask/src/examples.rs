//! Compiles `examples/NAME/NAME.bpf.c` to BPF objects, for tests, the demo and people.
//!
//! Needs clang and libbpf's headers; must never be needed to build bpfd or bpfctl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Compiles all examples into `out_dir` as `NAME.bpf.o`; those newer than their source are left alone.
pub(crate) fn build(root: &Path, out_dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(out_dir).with_context(|| format!("cannot make `{}`", out_dir.display()))?;
    let mut objects = Vec::new();
    for source in sources(root)? {
        let name = source.file_stem().context("a source without a name")?;
        let object = out_dir.join(name).with_extension("bpf.o");
        if !is_newer(&object, &source) {
            compile(&source, &object)?;
        }
        objects.push(object);
    }
    Ok(objects)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join("examples")).context("cannot read examples/")? {
        let dir = entry?.path();
        let Some(name) = dir.file_name() else { continue };
        let source = dir.join(name).with_extension("bpf.c");
        if source.is_file() {
            found.push(source);
        }
    }
    found.sort();
    Ok(found)
}

fn is_newer(object: &Path, source: &Path) -> bool {
    let time = |p: &Path| p.metadata().and_then(|m| m.modified());
    matches!((time(object), time(source)), (Ok(object), Ok(source)) if object > source)
}

pub(crate) fn compile(source: &Path, object: &Path) -> Result<()> {
    // Debian keeps <asm/types.h> in a directory per architecture, which `-target bpf` does not search.
    let headers = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    // Two runs at once must not see each other's half-written object.
    let part = object.with_extension(format!("{}.part", std::process::id()));
    let out = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", &headers, "-c"])
        .arg(source)
        .arg("-o")
        .arg(&part)
        .output()
        .context("cannot run clang (Debian: apt-get install clang libbpf-dev)")?;
    if !out.status.success() {
        bail!("cannot compile `{}`:\n{}", source.display(), String::from_utf8_lossy(&out.stderr));
    }
    std::fs::rename(&part, object).with_context(|| format!("cannot write `{}`", object.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_a_source_a_page_and_a_licence() {
        let root = crate::root().unwrap();
        let sources = sources(&root).unwrap();
        let directories =
            std::fs::read_dir(root.join("examples")).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir());
        assert_eq!(sources.len(), directories.count());
        for source in sources {
            let text = std::fs::read_to_string(&source).unwrap();
            assert!(
                text.starts_with("// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause\n"),
                "{}",
                source.display()
            );
            let page = std::fs::read_to_string(source.with_file_name("README.md")).unwrap();
            assert!(page.lines().count() <= 40, "{}", source.display());
        }
    }
}
