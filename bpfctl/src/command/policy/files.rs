//! The policy's files, read as the daemon reads them, for whoever writes them: without a daemon, and in any directory.
//!
//! In `/etc/bpfd` owners and modes are looked at too. Elsewhere, as in a checkout, what is to be below `/etc/bpfd` is looked for there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bpfd_policy::Policy;
use bpfd_policy::read::PolicyText;
use bytecode_image::keyless::PolicyFiles;

use crate::error::{Exit, Failure, Local, error_chain};
use crate::files;

/// Where the daemon reads.
pub(super) const ETC: &str = "/etc/bpfd";
/// Who may write besides the owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A policy that is good.
pub(super) struct Checked {
    pub(super) policy: Policy,
    /// What is good and yet may not be meant, each with what to do.
    pub(super) warnings: Vec<(String, &'static str)>,
}

/// Reads all files of a directory as one policy.
pub(super) fn read(dir: Option<&Path>) -> Result<Checked, Failure> {
    let etc = dir.unwrap_or_else(|| Path::new(ETC));
    let mut texts = Vec::new();
    for path in paths(etc)? {
        if dir.is_none() {
            root_alone_writes(&path)?;
        }
        texts.push((path.display().to_string(), files::document(&path)?));
    }
    let there = |path: &Path| match (dir, path.strip_prefix(ETC)) {
        (Some(dir), Ok(below)) => dir.join(below),
        _ => path.to_path_buf(),
    };
    let named = PolicyFiles { trust: etc.join("trust"), read: |path: &Path| fs::read_to_string(there(path)) };
    let files: Vec<PolicyText<'_>> = texts.iter().map(|(file, text)| PolicyText { file, text }).collect();
    let policy = Policy::read(&files, named)
        .map_err(|error| Local::new(Exit::Usage, "the policy would be refused").cause(error_chain(&error)))?;
    let warnings = warnings(&policy, etc);
    Ok(Checked { policy, warnings })
}

/// `policy.toml`, then the files of `policy.d` by name, as `bpfd` takes them.
fn paths(etc: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |path: &Path, error: &io::Error| {
        Local::new(Exit::Other, format!("cannot read `{}`", path.display())).cause(error.to_string())
    };
    let first = etc.join("policy.toml");
    let mut paths = Vec::new();
    let below = etc.join("policy.d");
    match fs::read_dir(&below) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(|error| unreadable(&below, &error))?.file_name();
                let text = name.to_string_lossy();
                if text.ends_with(".toml") && !text.starts_with('.') {
                    paths.push(below.join(&name));
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&below, &error).into()),
    }
    paths.sort();
    if first.exists() {
        paths.insert(0, first);
    }
    match paths.is_empty() {
        false => Ok(paths),
        true => Err(Local::new(Exit::NotFound, format!("no policy in `{}`", etc.display()))
            .cause("there is neither policy.toml nor a file in policy.d")
            .hint("without a file the built-in policy holds: `bpfctl policy show` shows it")
            .into()),
    }
}

/// What the daemon asks of a file of the host.
fn root_alone_writes(path: &Path) -> Result<(), Failure> {
    let refused = |cause: String, hint: String| {
        Local::new(Exit::Usage, format!("bpfd would not use `{}`", path.display())).cause(cause).hint(hint)
    };
    let found = fs::symlink_metadata(path).map_err(|error| refused(error.to_string(), String::new()))?;
    if !found.is_file() {
        return Err(refused("it is not a regular file".to_owned(), "put the file itself there".to_owned()).into());
    }
    if found.uid() != 0 {
        let hint = format!("`chown root {}`", path.display());
        return Err(refused(format!("it belongs to uid {}; it must belong to root", found.uid()), hint).into());
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        let hint = format!("`chmod go-w {}`", path.display());
        let mode = found.mode() & 0o7777;
        return Err(refused(format!("its mode is {mode:o}; only its owner may be allowed to write"), hint).into());
    }
    Ok(())
}

fn warnings(policy: &Policy, etc: &Path) -> Vec<(String, &'static str)> {
    let mut warnings = Vec::new();
    let units = policy.rules.iter().filter(|rule| rule.who.iter().flatten().any(|who| who.unit.is_some()));
    let units: Vec<&str> = units.map(|rule| rule.id.as_str()).collect();
    if !units.is_empty() && !has_units() {
        warnings.push((
            format!("rules with `unit` match nobody on this kernel: {}", units.join(", ")),
            "they need Linux 6.5, which tells whose process it is that connects",
        ));
    }
    let uncovered = policy.images.is_empty() && policy.rules.iter().any(|rule| rule.source.is_some());
    if uncovered {
        warnings.push((
            format!("no `[[image]]` in {}: no image is let through, whatever rules say", etc.display()),
            "`bpfctl trust add` writes one",
        ));
    }
    warnings
}

/// Whether this kernel has SO_PEERPIDFD (Linux 6.5).
fn has_units() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 5)
}
