//! The test programs of the tree: built in one go, remembered for `--no-build`, sorted into parts by where they live.
//!
//! Must never decide what a test does: `parts` puts them to use.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Below the root; not in the tree.
const RECORD: &str = "target/xtask/test-programs.json";

/// The feature that lets tests fail or end bpfd at chosen points; without effect unless a test asks.
pub(crate) const FAIL_POINTS: &str = "bpfd/failpoints";

#[derive(Debug, Default)]
pub(super) struct Binaries {
    /// The commit they were built from.
    pub(super) commit: String,
    pub(super) all: Vec<Binary>,
}

/// One test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binary {
    pub(super) package: String,
    /// The target's name: the file's below `tests/`, the crate's otherwise.
    pub(super) name: String,
    pub(super) lane: Lane,
    pub(super) file: PathBuf,
    /// The directory of its crate, where cargo would run it.
    pub(super) dir: PathBuf,
}

/// What a test program needs, told from where it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Nothing.
    Unit,
    /// Nothing but time: hostile objects, mutations.
    Corpora,
    /// Root.
    Host,
    /// Root, and objects of Debian's packages.
    Objects,
    /// Root and a kernel of its own.
    Guest,
}

impl Lane {
    fn of(package: &str, is_integration: bool, name: &str) -> Self {
        let starts = |words: &[&str]| words.iter().any(|w| name.starts_with(w));
        if !is_integration {
            Self::Unit
        } else if starts(&["guest"]) {
            Self::Guest
        } else if starts(&["objects_"]) {
            Self::Objects
        } else if ["bpfd-tests", "bpfd-sys"].contains(&package) || starts(&["host_", "kernel", "root"]) {
            Self::Host
        } else if ["corpora", "corpus", "fuzz", "hostile", "mutation"].iter().any(|w| name.contains(w)) {
            Self::Corpora
        } else {
            Self::Unit
        }
    }
}

impl Binary {
    /// `bpfd-core` for unit tests, `bpfd-tests::load` for `tests/load.rs`.
    pub(super) fn label(&self) -> String {
        let krate = self.package.replace('-', "_");
        if self.name == krate { self.package.clone() } else { format!("{}::{}", self.package, self.name) }
    }

    /// The names of its tests; empty if it cannot say.
    pub(super) fn cases(&self) -> Vec<String> {
        let out = Command::new(&self.file).arg("--list").current_dir(&self.dir).output();
        let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().filter_map(|l| Some(format!("{}: {}", self.label(), l.strip_suffix(": test")?))).collect()
    }
}

impl Binaries {
    /// Builds the tests and the programs that they run, and remembers where they are. When some do not build, the
    /// others are there to run, beside what is wrong.
    pub(super) fn build(root: &Path, commit: &str) -> Result<(Self, Option<String>)> {
        let out = Command::new(env!("CARGO"))
            .args(["build", "--workspace", "--all-targets", "--keep-going", "--locked", "--features", FAIL_POINTS])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo build")?;
        let all = parse_messages(&String::from_utf8(out.stdout)?)?;
        let built = Self { commit: commit.to_owned(), all };
        if !out.status.success() {
            return Ok((built, Some(format!("cargo build: {}", out.status))));
        }
        let record = root.join(RECORD);
        std::fs::create_dir_all(record.parent().context("no parent")?)?;
        std::fs::write(&record, built.to_json().to_string()).with_context(|| format!("cannot write `{RECORD}`"))?;
        Ok((built, None))
    }

    /// What the last `build` made.
    pub(super) fn recorded(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(RECORD))
            .with_context(|| format!("cannot read `{RECORD}`: run once without --no-build"))?;
        Self::from_json(&serde_json::from_str(&text)?).with_context(|| format!("`{RECORD}` is not what we wrote"))
    }

    fn to_json(&self) -> Value {
        let all: Vec<Value> = self
            .all
            .iter()
            .map(|b| {
                let lane = match b.lane {
                    Lane::Unit => "unit",
                    Lane::Corpora => "corpora",
                    Lane::Host => "host",
                    Lane::Objects => "objects",
                    Lane::Guest => "guest",
                };
                json!({"package": b.package, "name": b.name, "lane": lane, "file": b.file, "dir": b.dir})
            })
            .collect();
        json!({"commit": self.commit, "all": all})
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut all = Vec::new();
        for v in value.get("all")?.as_array()? {
            let lane = match text(v, "lane")?.as_str() {
                "unit" => Lane::Unit,
                "corpora" => Lane::Corpora,
                "host" => Lane::Host,
                "objects" => Lane::Objects,
                "guest" => Lane::Guest,
                _ => return None,
            };
            let (file, dir) = (text(v, "file")?.into(), text(v, "dir")?.into());
            all.push(Binary { package: text(v, "package")?, name: text(v, "name")?, lane, file, dir });
        }
        Some(Self { commit: text(value, "commit")?, all })
    }
}

/// The test programs among cargo's messages, in cargo's words `profile.test` and `executable`.
fn parse_messages(messages: &str) -> Result<Vec<Binary>> {
    let mut all = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).with_context(|| format!("not a message of cargo's: {line}"))?;
        let text = |path: &str| message.pointer(path).and_then(Value::as_str);
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
        let (Some(file), true) = (text("/executable"), is_test) else { continue };
        let manifest = Path::new(text("/manifest_path").context("no manifest_path")?);
        let dir = manifest.parent().context("a manifest without a directory")?;
        let name = text("/target/name").context("no target.name")?.to_owned();
        let is_integration = text("/target/kind/0") == Some("test");
        let package = package_name(text("/package_id").context("no package_id")?);
        let lane = Lane::of(&package, is_integration, &name);
        all.push(Binary { package, name, lane, file: file.into(), dir: dir.to_owned() });
    }
    all.sort_by_key(Binary::label);
    Ok(all)
}

/// `path+file:///x/bpfd#0.1.0` or `path+file:///x/core#bpfd-core@0.1.0`.
fn package_name(id: &str) -> String {
    let (place, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => place.rsplit('/').next().unwrap_or(place).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r##"{"reason":"compiler-artifact","package_id":"path+file:///r/bpfd/core#bpfd-core@0.1.0","manifest_path":"/r/bpfd/core/Cargo.toml","target":{"kind":["lib"],"name":"bpfd_core"},"profile":{"test":true},"executable":"/r/t/bpfd_core-1"}
{"reason":"compiler-artifact","package_id":"path+file:///r/bpfd#0.1.0","manifest_path":"/r/bpfd/Cargo.toml","target":{"kind":["bin"],"name":"bpfd"},"profile":{"test":false},"executable":"/r/t/bpfd"}
{"reason":"compiler-artifact","package_id":"path+file:///r/tests#bpfd-tests@0.1.0","manifest_path":"/r/tests/Cargo.toml","target":{"kind":["test"],"name":"load"},"profile":{"test":true},"executable":"/r/t/load-1"}
{"reason":"build-finished","success":true}"##;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let all = parse_messages(MESSAGES).unwrap();
        assert_eq!(all.iter().map(Binary::label).collect::<Vec<_>>(), ["bpfd-core", "bpfd-tests::load"]);
        assert_eq!(all[1].dir, Path::new("/r/tests"));
        assert_eq!(all[1].lane, Lane::Host);
    }

    #[test]
    fn what_is_recorded_comes_back() {
        let built = Binaries { commit: "c".to_owned(), all: parse_messages(MESSAGES).unwrap() };
        let back = Binaries::from_json(&built.to_json()).unwrap();
        assert_eq!((back.commit, back.all), (built.commit, built.all));
    }

    #[test]
    fn where_a_test_lives_says_what_it_needs() {
        assert_eq!(Lane::of("bpfd-core", false, "bpfd_core"), Lane::Unit);
        assert_eq!(Lane::of("bytecode-image", true, "transport"), Lane::Unit);
        assert_eq!(Lane::of("ebpf", true, "hostile_objects"), Lane::Corpora);
        assert_eq!(Lane::of("bpfd-sys", true, "bpf"), Lane::Host);
        assert_eq!(Lane::of("bpfd", true, "kernel_xdp"), Lane::Host);
        assert_eq!(Lane::of("bpfd-tests", true, "guest_peers"), Lane::Guest);
    }

    #[test]
    fn a_package_is_named_by_its_id() {
        assert_eq!(package_name("path+file:///r/bpfd#0.1.0"), "bpfd");
        assert_eq!(package_name("path+file:///r/core#bpfd-core@0.1.0"), "bpfd-core");
    }
}
