//! The look back, from outside: what of the show is still there. Must never remove anything: what is left is a defect to see.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ledger::Entry;
use super::stage::SCRATCH;

/// The kernel frees programs and namespaces after their last user is gone, not at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is still there after a while, in words; empty is how it must be.
pub(super) fn after(entries: &[Entry]) -> Result<Vec<String>> {
    if entries.is_empty() {
        bail!("the show wrote nothing down, so nothing can be looked for");
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = now(entries)?;
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn now(entries: &[Entry]) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let mut left: Vec<String> =
        mounts.lines().filter(|line| line.contains(SCRATCH)).map(|line| format!("mount {line}")).collect();
    if Path::new(SCRATCH).exists() {
        left.push(format!("directory {SCRATCH}"));
    }
    for entry in entries {
        match entry {
            Entry::Namespace(name) => {
                left.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
                left.extend(processes_in(name)?.into_iter().map(|pid| format!("process {pid} in {name}")));
            }
            Entry::Program(id) if exists("prog", *id)? => left.push(format!("BPF program {id}")),
            Entry::Map(id) if exists("map", *id)? => left.push(format!("BPF map {id}")),
            Entry::Program(_) | Entry::Map(_) => {}
        }
    }
    Ok(left)
}

/// Who is in a namespace. A process that ends while we look is none.
fn processes_in(namespace: &str) -> Result<Vec<String>> {
    let Some((kind, _)) = namespace.split_once(':') else { bail!("`{namespace}` is no namespace") };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let pid = entry?.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        if link.is_ok_and(|link| link.to_string_lossy() == namespace) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn exists(what: &str, id: u64) -> Result<bool> {
    let out = Command::new("bpftool").args([what, "show", "id", &id.to_string()]).output();
    let out = out.context("cannot run bpftool")?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() && !said.contains("No such file or directory") {
        bail!("bpftool {what} show id {id}: {}", said.trim());
    }
    Ok(out.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_with_a_process_in_it_is_found_and_an_empty_one_is_not() {
        let own = fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy().into_owned();
        let me = std::process::id().to_string();
        assert!(processes_in(&own).unwrap().contains(&me));
        assert_eq!(processes_in("net:[1]").unwrap(), Vec::<String>::new());
        assert!(processes_in("nothing").is_err());
        let left = now(&[Entry::Namespace(own.clone())]).unwrap();
        assert!(left.contains(&format!("process {me} in {own}")), "{left:?}");
    }

    #[test]
    fn a_show_that_wrote_nothing_down_is_not_believed() {
        assert!(after(&[]).is_err());
    }
}
