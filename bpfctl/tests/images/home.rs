//! A home directory of a test's own, so that nothing of the caller's is read or written, and a registry in this process.

#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail the test")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use bytecode_image::testing::registry::{Access, Options, TestRegistry};

const OBJECT: &[u8] = include_bytes!("../../../bytecode-image/tests/objects/counter.o");

const BIG_ENDIAN: &[u8] = include_bytes!("../../../bytecode-image/tests/objects/counter.eb.o");

/// A home directory, and the registry that its registries.toml knows as `registry`.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    pub(crate) registry: TestRegistry,
}

impl Home {
    /// With a registry that is open to all.
    pub(crate) fn new() -> Self {
        Self::with(Access::Open)
    }

    pub(crate) fn with(access: Access) -> Self {
        Self::of(Options { access, ..Options::default() })
    }

    pub(crate) fn of(options: Options) -> Self {
        let registry = TestRegistry::start(options).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        fs::create_dir_all(home.join(".config/bpfd")).unwrap();
        let entry = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{}\"\nhttp = true\n", registry.address());
        fs::write(home.join(".config/bpfd/registries.toml"), entry).unwrap();
        fs::write(home.join("counter.o"), OBJECT).unwrap();
        fs::write(home.join("big.o"), BIG_ENDIAN).unwrap();
        fs::write(home.join("text.o"), "not an object").unwrap();
        fs::write(home.join("full.toml"), "name = \"counter\"\nversion = \"1.2.0\"\nlicense = \"GPL-2.0-only\"\n")
            .unwrap();
        fs::create_dir(home.join("bin")).unwrap();
        Self { directory, registry }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file of the home.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a credential helper that counts its runs in a file `asked`.
    pub(crate) fn helper(&self, name: &str, script: &str) {
        let path = self.path().join("bin").join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\nread host; echo \"{name} $1 $host\" >>$HOME/asked\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What a user sees of one command. Digests are cut, as they are those of another crate's tests or random; so is the
    /// registry's port.
    pub(crate) fn run(&self, line: &str) -> String {
        self.run_with(line, &[], "")
    }

    /// With variables, and with text on its standard input.
    pub(crate) fn run_with(&self, line: &str, variables: &[(&str, &str)], input: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bpfctl"))
            .args(line.split_whitespace())
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", format!("{}:/usr/bin:/bin", self.path().join("bin").display()))
            .env("NO_COLOR", "1")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may be gone already.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let mut text = format!("$ bpfctl {line}\n{}", String::from_utf8_lossy(&output.stdout));
        if !output.stderr.is_empty() {
            text.push_str(&format!("--- stderr\n{}", String::from_utf8_lossy(&output.stderr)));
        }
        text.push_str(&format!("--- exit {}\n", output.status.code().unwrap()));
        let text = text.replace(&self.registry.host(), "127.0.0.1:PORT");
        cut_digests(&text.replace(&self.path().display().to_string(), "HOME"))
    }
}

fn cut_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut cut = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        cut.push_str("sha256:…");
        cut.push_str(rest);
    }
    cut
}
