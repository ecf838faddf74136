//! What the show makes outside of any one namespace, written down as it is made, so that the look back needs nobody's word that
//! all went well. One file, gone with its `Ledger`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The file.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    /// The one who made it removes it.
    owned: bool,
}

/// One thing that must be gone afterwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// As `readlink /proc/PID/ns/net` shows it: `net:[4026531840]`.
    Namespace(String),
    /// A BPF program, by the kernel's id.
    Program(u64),
    /// A BPF map, by the kernel's id.
    Map(u64),
}

impl Ledger {
    pub(super) fn create(root: &Path) -> Result<Self> {
        let path = root.join(format!("target/xtask/demo-{}", std::process::id()));
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, "").with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { path, owned: true })
    }

    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), owned: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn add(&self, entry: &Entry) -> Result<()> {
        let line = match entry {
            Entry::Namespace(name) => format!("namespace {name}\n"),
            Entry::Program(id) => format!("program {id}\n"),
            Entry::Map(id) => format!("map {id}\n"),
        };
        let mut file = OpenOptions::new().append(true).open(&self.path).context("cannot open the ledger")?;
        file.write_all(line.as_bytes()).context("cannot write the ledger")
    }

    pub(super) fn read(&self) -> Result<Vec<Entry>> {
        let text = fs::read_to_string(&self.path).context("cannot read the ledger")?;
        let mut entries = text.lines().map(parse).collect::<Result<Vec<_>>>()?;
        entries.sort();
        entries.dedup();
        Ok(entries)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.owned {
            // Below target/: a file that stays is untidy, not wrong.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn parse(line: &str) -> Result<Entry> {
    match line.split_once(' ') {
        Some(("namespace", name)) => Ok(Entry::Namespace(name.to_owned())),
        Some(("program", id)) => Ok(Entry::Program(id.parse()?)),
        Some(("map", id)) => Ok(Entry::Map(id.parse()?)),
        Some(_) | None => bail!("the ledger has a line `{line}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_once_and_the_file_goes() {
        let ledger = Ledger::create(&crate::root().unwrap()).unwrap();
        let entries = [Entry::Namespace("net:[1]".to_owned()), Entry::Program(7), Entry::Map(8)];
        for entry in entries.iter().chain(&entries) {
            Ledger::at(ledger.path()).add(entry).unwrap();
        }
        assert_eq!(ledger.read().unwrap(), entries);
        let path = ledger.path().to_owned();
        drop(ledger);
        assert!(!path.exists());
    }
}
