//! The guest's first file system: busybox, init, modules, the command; as an uncompressed newc archive.
//!
//! The archive format is Documentation/driver-api/early-userspace/buffer-format.rst of the kernel's.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::guest::Root;
use super::kernel::Kernel;
use crate::tools;

const INIT: &str = include_str!("../../vm/init.sh");

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const DEVICE: u32 = 0o020_600;

/// Environment that a test program may read; the rest of the caller's stays out.
const PASSED: [&str; 6] = ["BPFD_", "CARGO_MANIFEST_DIR", "CARGO_PKG_", "FAILPOINTS", "INSTA_", "RUST_"];

/// The shell script that runs `command` where the caller stands.
pub(super) fn script(dir: &Path, vars: impl Iterator<Item = (String, String)>, command: &[String]) -> String {
    let mut text = String::new();
    for (name, value) in vars.filter(|(n, _)| PASSED.iter().any(|p| n.starts_with(p))) {
        text.push_str(&format!("export {name}={}\n", quote(&value)));
    }
    text.push_str(&format!("cd {} || exit\n", quote(&dir.display().to_string())));
    match command {
        [line] => text.push_str(line),
        words => text.push_str(&words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ")),
    }
    text.push('\n');
    text
}

/// One word for a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

pub(super) fn build(kernel: &Kernel, script: &str, root: &Root) -> Result<Vec<u8>> {
    let busybox = tools::on_path("busybox").context("no busybox")?;
    let busybox = std::fs::read(&busybox).with_context(|| format!("cannot read `{}`", busybox.display()))?;
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "modules"] {
        archive.add(dir, DIRECTORY, b"")?;
    }
    // The kernel opens the console for init before anything is mounted on /dev.
    for (path, major, minor) in [("dev/console", 5, 1), ("dev/null", 1, 3), ("dev/kmsg", 1, 11)] {
        archive.add_device(path, major, minor)?;
    }
    archive.add("bin/busybox", PROGRAM, &busybox)?;
    archive.add("init", PROGRAM, INIT.as_bytes())?;
    let mut order = String::new();
    for module in kernel.modules()? {
        archive.add(&format!("modules/{}.ko", module.name), FILE, &module.bytes)?;
        order.push_str(&format!("{}.ko {}\n", module.name, module.parameters));
    }
    archive.add("modules/order", FILE, order.as_bytes())?;
    archive.add("cmd.sh", FILE, script.as_bytes())?;
    if let Root::Debian { dir, shown } = root {
        archive.add("debian", FILE, format!("{}\n{}\n", dir.display(), shown.display()).as_bytes())?;
    }
    archive.finish()
}

/// Writes a newc archive.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entry(path, mode, data, (0, 0))
    }

    fn add_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(path, DEVICE, b"", (major, minor))
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8], (major, minor): (u32, u32)) -> Result<()> {
        if path.contains('\0') {
            bail!("a path with a NUL");
        }
        self.entries += 1;
        let size = u32::try_from(data.len()).with_context(|| format!("`{path}` is too large"))?;
        let name_size = u32::try_from(path.len() + 1)?;
        // inode, mode, uid, gid, links, mtime, size, device of the file, device it is, name's size, check
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    /// Headers with their name, and data, end on a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, b"")?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"hello").unwrap();
        archive.add_device("dev/null", 1, 3).unwrap();
        let bytes = archive.finish().unwrap();
        let header = "070701000000010000 81ED000000000000000000000001000000000000000500000000000000000000000000000000\
                      0000000500000000"
            .replace(' ', "");
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.get(..110), Some(header.as_str()));
        assert_eq!(text.get(110..124), Some("init\0\0hello\0\0\0"));
        assert!(text.get(124..).unwrap().starts_with("0707010000000200002180"));
        assert!(text.contains("0000000100000003"), "the device's numbers");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0") && text.len().is_multiple_of(4));
    }

    #[test]
    fn other_tools_read_the_archive() {
        let mut archive = Archive::default();
        archive.add("d", DIRECTORY, b"").unwrap();
        archive.add("d/file", FILE, b"1234567").unwrap();
        let bytes = archive.finish().unwrap();
        // A newc member starts at each magic: three with the trailer, each at a multiple of four.
        let at: Vec<usize> = bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(i, _)| i).collect();
        assert_eq!(at.len(), 3);
        assert!(at.iter().all(|i| i.is_multiple_of(4)));
    }

    #[test]
    fn a_command_runs_where_the_caller_stands_with_chosen_variables() {
        let vars = [("RUST_LOG", "it's"), ("SECRET_TOKEN", "x"), ("CARGO_REGISTRY_TOKEN", "x")];
        let vars = vars.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        let words = ["echo".to_owned(), "a b".to_owned()];
        assert_eq!(
            script(Path::new("/x y"), vars, &words),
            "export RUST_LOG='it'\\''s'\ncd '/x y' || exit\n'echo' 'a b'\n"
        );
        let line = ["echo a | cat".to_owned()];
        assert_eq!(script(Path::new("/"), std::iter::empty(), &line), "cd '/' || exit\necho a | cat\n");
    }
}
