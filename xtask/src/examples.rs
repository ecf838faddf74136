//! Compiles `examples/NAME/NAME.bpf.c` to BPF objects, for tests, the demo and people; builds the examples in Go, and what runs those in
//! Python, for the tests.
//!
//! Needs clang and libbpf's headers; must never be needed to build bpfd or bpfctl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Instead build the examples in Go into target/examples, and the Python that runs the one in Python
    #[arg(long)]
    programs: bool,
}

/// `cargo xtask examples`
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if args.programs {
        return programs(root);
    }
    for object in build(root, &root.join("target/bpf"))? {
        println!("{}", object.display());
    }
    Ok(())
}

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
    compile_with(source, object, &[])
}

/// The same with more words for clang.
pub(crate) fn compile_with(source: &Path, object: &Path, more: &[&str]) -> Result<()> {
    // Debian keeps <asm/types.h> in a directory per architecture, which `-target bpf` does not search.
    let headers = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    // Two runs at once must not see each other's half-written object.
    let part = object.with_extension(format!("{}.part", std::process::id()));
    let out = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", &headers, "-c"])
        .args(more)
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

/// Where the programs are that `programs` makes.
const PROGRAMS: &str = "target/examples";

/// Modules in Go, and which of their programs the tests run.
const GO: [(&str, &[&str]); 2] = [
    ("examples", &["./..."]),
    (
        "tests/go",
        &[
            "github.com/containernetworking/cni/cnitool",
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "github.com/containernetworking/plugins/plugins/main/ptp",
        ],
    ),
];

/// Makes what the tests run beside the BPF objects, as far as this host has what it takes; the cases say what they miss.
pub(crate) fn programs(root: &Path) -> Result<()> {
    let directory = root.join(PROGRAMS);
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
    if tools::on_path("go").is_some() {
        for (module, packages) in GO {
            // Static: guests and images have no libraries. Go itself knows what is new.
            let mut go = Command::new("go");
            go.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(&directory).args(packages);
            succeed(go.current_dir(root.join(module)).env("CGO_ENABLED", "0"))?;
        }
    }
    if let Err(error) = python(root, &directory.join("python")) {
        println!("no Python for examples/python-client: {error:#}");
    }
    Ok(())
}

/// A Python with the packages that the example asks for, made again when it asks for others.
fn python(root: &Path, environment: &Path) -> Result<()> {
    let wanted = root.join("examples/python-client/requirements.txt");
    let (packages, made_with) = (std::fs::read_to_string(&wanted)?, environment.join("requirements.txt"));
    if std::fs::read_to_string(&made_with).is_ok_and(|text| text == packages) {
        return Ok(());
    }
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    succeed(Command::new(environment.join("bin/python")).args(install).arg(&wanted))?;
    std::fs::write(&made_with, packages).with_context(|| format!("cannot write `{}`", made_with.display()))
}

fn succeed(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_a_page_and_those_in_c_a_licence() {
        let root = crate::root().unwrap();
        let entries = std::fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
        for directory in entries.filter(|path| path.is_dir()) {
            let page = std::fs::read_to_string(directory.join("README.md")).unwrap();
            assert!(page.lines().count() <= 60, "{}", directory.display());
        }
        for source in sources(&root).unwrap() {
            let text = std::fs::read_to_string(&source).unwrap();
            let licence = "// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause\n";
            assert!(text.starts_with(licence), "{}", source.display());
        }
    }

    #[test]
    fn every_short_example_in_go_is_one_file() {
        let root = crate::root().unwrap();
        let entries = std::fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
        let programs: Vec<PathBuf> =
            entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("go-")).collect();
        assert_eq!(programs.len(), 5, "{programs:?}");
        for program in programs {
            let text = std::fs::read_to_string(program.join("main.go")).unwrap();
            assert!(text.lines().count() <= 80, "{}", program.display());
        }
    }
}
