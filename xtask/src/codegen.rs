//! Makes the committed API code from `proto/bpfd/v1/*.proto`: `proto/src/generated` (Rust and the descriptor set that
//! reflection serves), `proto/go/bpfdv1` (Go) and the page `docs/reference/api.md`. `--check` compares instead of writing.
//! It must never need `protoc`, and must never write anywhere else but to the tool cache.

mod page;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::compiler::{CodeGeneratorRequest, CodeGeneratorResponse, Version};

const PACKAGE: &str = "bpfd.v1";
const PROTO_ROOT: &str = "proto";
const PROTO_DIR: &str = "proto/bpfd/v1";
const RUST_DIR: &str = "proto/src/generated";
const GO_DIR: &str = "proto/go/bpfdv1";
const API_PAGE: &str = "docs/reference/api.md";
const GO_MODULE: &str = "bpfd/proto/go";

/// The plugins that make the Go code, pinned so that the output does not change by itself.
const GO_PLUGINS: [GoPlugin; 2] = [
    GoPlugin { name: "protoc-gen-go", package: "google.golang.org/protobuf/cmd/protoc-gen-go", version: "v1.36.10" },
    GoPlugin {
        name: "protoc-gen-go-grpc",
        package: "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
        version: "v1.6.0",
    },
];

/// `cargo xtask codegen`
#[derive(Debug, clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing; fail if a committed file differs
    #[arg(long)]
    check: bool,
    /// Leave out the Go module, for machines without Go
    #[arg(long)]
    no_go: bool,
}

struct GoPlugin {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

/// Generated files by their path from the workspace root.
type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Codegen {
    /// Runs from the workspace root `root`.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let descriptors = compile(root)?;
        let mut files = rust_files(root, &descriptors)?;
        files.insert(PathBuf::from(API_PAGE), page::api(&descriptors).into_bytes());
        let mut directories = vec![RUST_DIR];
        if !self.no_go {
            files.extend(go_files(&descriptors)?);
            directories.push(GO_DIR);
        }
        if self.check { compare(root, &directories, &files) } else { write(root, &directories, &files) }
    }
}

/// Compiles every `.proto` of the package, with comments and imports.
fn compile(root: &Path) -> Result<FileDescriptorSet> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(root.join(PROTO_DIR)).context(PROTO_DIR)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            let name = path.file_name().and_then(|name| name.to_str()).context("a file name that is not UTF-8")?;
            names.push(format!("bpfd/v1/{name}"));
        }
    }
    names.sort();
    let mut compiler = protox::Compiler::new([root.join(PROTO_ROOT)])?;
    compiler.include_source_info(true).include_imports(true).open_files(&names)?;
    Ok(compiler.file_descriptor_set())
}

fn rust_files(root: &Path, descriptors: &FileDescriptorSet) -> Result<Files> {
    let scratch = Scratch::new("codegen")?;
    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]); // a message has one form in bytes: the same request again hashes the same
    config.enable_type_names(); // errors carry messages as google.protobuf.Any, which needs their names
    tonic_prost_build::configure()
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .emit_rerun_if_changed(false)
        .out_dir(&scratch.0)
        .compile_fds_with_config(descriptors.clone(), config)
        .context("the Rust code")?;
    let body = fs::read_to_string(scratch.0.join(format!("{PACKAGE}.rs"))).context("no Rust code for the package")?;
    let source = format!(
        "//! Messages and services of `{PACKAGE}`, made by `cargo xtask codegen`; never edit it.\n\
         //! Longer than 400 lines because it is one generated module a package.\n\n{body}"
    );

    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    Ok(Files::from([
        (Path::new(RUST_DIR).join(format!("{PACKAGE}.rs")), rustfmt(root, source)?),
        (Path::new(RUST_DIR).join(format!("{PACKAGE}.bin")), bare.encode_to_vec()),
    ]))
}

/// Formats as `cargo fmt` would, so that both agree about the committed file.
fn rustfmt(root: &Path, source: String) -> Result<Vec<u8>> {
    let mut command = Command::new("rustfmt");
    command.args(["--edition", "2024", "--config-path"]).arg(root.join("rustfmt.toml"));
    pipe(&mut command, source.into_bytes())
}

fn go_files(descriptors: &FileDescriptorSet) -> Result<Files> {
    let request = CodeGeneratorRequest {
        file_to_generate: descriptors
            .file
            .iter()
            .filter(|file| file.package() == PACKAGE)
            .map(|file| file.name().to_owned())
            .collect(),
        parameter: Some(format!("module={GO_MODULE}")),
        proto_file: descriptors.file.clone(),
        // The plugins print it into each file; a fixed value keeps the files the same on every machine.
        compiler_version: Some(Version { major: Some(6), minor: Some(0), patch: Some(0), suffix: None }),
    };
    let mut files = Files::new();
    for plugin in &GO_PLUGINS {
        let answer = pipe(&mut Command::new(plugin.installed()?), request.encode_to_vec())?;
        let response = CodeGeneratorResponse::decode(answer.as_slice()).context(plugin.name)?;
        if let Some(error) = response.error {
            bail!("{}: {error}", plugin.name);
        }
        for file in response.file {
            files.insert(Path::new("proto/go").join(file.name()), file.content().as_bytes().to_vec());
        }
    }
    Ok(files)
}

impl GoPlugin {
    /// The plugin's path in the tool cache, installed if it is not there.
    fn installed(&self) -> Result<PathBuf> {
        let cache = tool_cache()?.join(format!("{}@{}", self.name, self.version));
        let binary = cache.join(self.name);
        if binary.is_file() {
            return Ok(binary);
        }
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        let target = format!("{}@{}", self.package, self.version);
        let status = Command::new("go")
            .args(["install", &target])
            .env("GOBIN", &cache)
            .status()
            .context("cannot run `go`: install it, or give --no-go")?;
        ensure!(status.success(), "`go install {target}` failed");
        Ok(binary)
    }
}

fn tool_cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("bpfd/tools"))
}

/// Gives `input` to the command's standard input and returns its standard output.
fn pipe(command: &mut Command, input: Vec<u8>) -> Result<Vec<u8>> {
    let name = command.get_program().to_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", name.display()))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // In a thread: the child may fill its output before it has read everything.
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{} failed: {}", name.display(), output.status);
    match writer.join() {
        Ok(written) => written.with_context(|| format!("{} did not read its input", name.display()))?,
        Err(_) => bail!("the writer of {} panicked", name.display()),
    }
    Ok(output.stdout)
}

fn write(root: &Path, directories: &[&str], files: &Files) -> Result<()> {
    for stale in stale(root, directories, files)? {
        fs::remove_file(root.join(&stale)).with_context(|| stale.display().to_string())?;
    }
    for (path, content) in files {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // An unchanged file keeps its time, so that cargo builds nothing anew.
        if fs::read(&path).is_ok_and(|committed| committed == *content) {
            continue;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn compare(root: &Path, directories: &[&str], files: &Files) -> Result<()> {
    let mut differing = stale(root, directories, files)?;
    for (path, content) in files {
        if !fs::read(root.join(path)).is_ok_and(|committed| committed == *content) {
            differing.push(path.clone());
        }
    }
    let list: Vec<String> = differing.iter().map(|path| path.display().to_string()).collect();
    ensure!(list.is_empty(), "generated code differs, run `cargo xtask codegen`: {}", list.join(", "));
    Ok(())
}

/// Files in the generated directories that nothing makes any more.
fn stale(root: &Path, directories: &[&str], files: &Files) -> Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for directory in directories {
        let entries = match fs::read_dir(root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(directory.to_string()),
        };
        for entry in entries {
            let path = Path::new(directory).join(entry?.file_name());
            if !files.contains_key(&path) {
                stale.push(path);
            }
        }
    }
    Ok(stale)
}

/// A directory of our own under the system's temporary one, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(purpose: &str) -> Result<Self> {
        let mut name = OsString::from("bpfd-xtask-");
        name.push(purpose);
        name.push(format!("-{}", std::process::id()));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays behind in /tmp is no reason to fail the command.
        drop(fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_missing_or_stale_file_fails_the_check() {
        let scratch = Scratch::new("test").unwrap();
        let files = Files::from([(PathBuf::from("made/a"), b"one".to_vec())]);
        let check = || compare(&scratch.0, &["made"], &files).map_err(|error| error.to_string());
        let differs = |list: &str| Err(format!("generated code differs, run `cargo xtask codegen`: {list}"));

        assert_eq!(check(), differs("made/a"));
        write(&scratch.0, &["made"], &files).unwrap();
        assert_eq!(check(), Ok(()));
        fs::write(scratch.0.join("made/b"), "x").unwrap();
        assert_eq!(check(), differs("made/b"));
        write(&scratch.0, &["made"], &files).unwrap();
        assert_eq!(check(), Ok(()));
        fs::write(scratch.0.join("made/a"), "two").unwrap();
        assert_eq!(check(), differs("made/a"));
    }
}
