//! `cargo xtask VERB`: what people and CI run in this tree. Each verb is a file of its name.
//!
//! Must never be part of what is shipped: nothing depends on this crate.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

mod bench;
mod book;
mod codegen;
mod demo;
mod dist;
mod examples;
mod prove;
mod test;
mod tidy;
mod tools;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, check and test this tree")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show bpfd at work on this kernel: a registry, signed images, three programs on one interface; as root
    Demo(demo::Args),
    /// Run the tests: all of them, or some parts
    Test(test::Args),
    /// Check the rules of the tree that no compiler checks
    Tidy,
    /// Run tests, or a command, in a virtual machine with another kernel
    Vm(vm::Args),
    /// Make the generated code, or check that it is what would be made
    Codegen(codegen::Codegen),
    /// Make the book of docs/ in target/book/html
    Book,
    /// Compile the example programs into target/bpf
    Examples(examples::Args),
    /// Build what is shipped, in one release build: Debian packages, a tarball, an image of the daemon
    Dist(dist::Args),
    /// Measure something, and judge it by ratios and counts
    Bench(bench::Args),
    /// Send random input to a daemon, and check that it survives
    Prove(prove::Args),
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let root = root()?;
    match verb {
        Verb::Demo(args) => return demo::run(&root, &args),
        Verb::Test(args) => return test::run(&root, &args),
        Verb::Bench(args) => return Ok(bench::run(&root, &args)),
        Verb::Prove(args) => return Ok(prove::run(&root, &args)),
        Verb::Dist(args) => dist::run(&root, &args)?,
        Verb::Book => book::run(&root)?,
        Verb::Tidy => tidy::run(&root)?,
        Verb::Vm(args) => return vm::run(&root, &args),
        Verb::Codegen(args) => args.run(&root)?,
        Verb::Examples(args) => examples::run(&root, &args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The root of the tree: the parent of this crate.
fn root() -> Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(parent.context("this crate is not below the root of a tree")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other lines of README.md are run by the end-to-end tests; these would run the tests, or build what runs now.
    #[test]
    fn the_lines_of_the_pages_that_call_cargo_are_lines_that_can_be_called() {
        let docs = ["", "how-to"].map(|directory| root().unwrap().join("docs").join(directory));
        let docs = docs.iter().flat_map(|directory| std::fs::read_dir(directory).unwrap());
        let docs = docs.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let pages = ["README.md", "CONTRIBUTING.md"].map(|page| root().unwrap().join(page)).into_iter().chain(docs);
        let pages: Vec<String> = pages.map(|page| std::fs::read_to_string(page).unwrap()).collect();
        let lines = pages.iter().flat_map(|page| page.lines());
        let calls = lines.filter_map(|line| {
            let line = line.strip_prefix("$ ").unwrap_or(line);
            line.starts_with("cargo ").then(|| line.split('#').next().unwrap_or(line).split_whitespace().skip(1))
        });
        let mut checked = 0;
        for mut words in calls {
            match words.next() {
                Some("xtask") => assert!(Args::try_parse_from(["cargo xtask"].into_iter().chain(words)).is_ok()),
                other => assert_eq!((other, words.count()), (Some("build"), 0)),
            }
            checked += 1;
        }
        assert!(checked > 5, "{checked} lines were found");
    }
}
