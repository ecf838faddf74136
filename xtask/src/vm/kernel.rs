//! Debian's kernels, fetched with apt into our cache and never installed.
//!
//! A series resolves to the newest package of the day by its metapackage: the package's own name changes with
//! each security update and must never be written down here. A kernel in the cache is used as it is; remove
//! `~/.cache/bpfd/vm` to fetch anew.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Series;
use super::modules::{self, Module};
use crate::tools;

/// An unpacked kernel package.
pub(super) struct Kernel {
    /// The bootable image.
    pub(super) image: PathBuf,
    /// `lib/modules/VERSION`.
    modules: PathBuf,
}

impl Series {
    /// As the command line and Debian name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The cloud flavour: small, and with all that a test of BPF needs.
    fn metapackage(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// The kernel of a series: from the cache, else from the mirrors.
pub(super) fn fetch(series: Series) -> Result<Kernel> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("guests are x86-64 machines that run this host's programs: needs an x86-64 host");
    }
    let cache = tools::cache("vm")?;
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
    // Two guests that start at once fetch a kernel once.
    let lock = File::create(cache.join("lock")).context("cannot make the cache's lock")?;
    lock.lock().context("cannot lock the cache")?;
    let dir = cache.join(series.name());
    if !dir.is_dir() {
        let part = cache.join(format!("{}.part", series.name()));
        if part.exists() {
            std::fs::remove_dir_all(&part).context("cannot remove what an earlier run left")?;
        }
        download(&cache, series, &part).with_context(|| format!("cannot fetch Debian's kernel {}", series.name()))?;
        std::fs::rename(&part, &dir).context("cannot keep the kernel")?;
    }
    Kernel::open(&dir)
}

fn download(cache: &Path, series: Series, into: &Path) -> Result<()> {
    let apt = Apt::new(cache)?;
    println!("apt-get update, with lists of our own in {}", cache.join("apt").display());
    let update = apt.run("apt-get", &["update", "--quiet"], cache)?;
    let wanted = series.metapackage();
    let depends = match apt.run("apt-cache", &["depends", wanted], cache) {
        Ok(depends) => depends.said,
        // Lists that cannot be had are a warning to apt: here they may be the cause.
        Err(error) if update.warnings.is_empty() => return Err(error),
        Err(error) => return Err(error.context(update.warnings)),
    };
    let package = depends
        .lines()
        .find_map(|l| l.trim().strip_prefix("Depends: ").filter(|p| p.starts_with("linux-image-")))
        .with_context(|| format!("the mirrors' `{wanted}` depends on no kernel"))?;
    println!("apt-get downloads {package} into {} (unpacked there, not installed)", cache.display());
    std::fs::create_dir_all(into)?;
    apt.run("apt-get", &["download", "--quiet", package], into)?;
    let deb = only(into, |name| name.ends_with(".deb"))?;
    let status = Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into).status().context("cannot run dpkg-deb")?;
    if !status.success() {
        bail!("dpkg-deb -x {} failed", deb.display());
    }
    std::fs::remove_file(&deb).context("cannot remove the package")
}

/// apt with lists and cache of our own: neither reads nor changes what the host has fetched or configured, but
/// for its proxies and, on the same release, its mirrors.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(cache: &Path) -> Result<Self> {
        let own = cache.join("apt");
        for dir in ["lists/partial", "archives/partial"] {
            std::fs::create_dir_all(own.join(dir))?;
        }
        let at = |name: &str| own.join(name).display().to_string();
        let mut options = vec![
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache::archives={}", at("archives")),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !release.lines().any(|l| l == "VERSION_CODENAME=bookworm") {
            let list = own.join("sources.list");
            std::fs::write(&list, SOURCES).context("cannot write our list of mirrors")?;
            options.push(format!("Dir::Etc::sourcelist={}", list.display()));
            options.push("Dir::Etc::sourceparts=-".to_owned());
        }
        Ok(Self { options })
    }

    fn run(&self, program: &str, args: &[&str], dir: &Path) -> Result<Said> {
        let out = Command::new(program)
            .args(self.options.iter().flat_map(|o| ["-o", o.as_str()]))
            .args(args)
            .current_dir(dir)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        let warnings = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        if !out.status.success() {
            bail!("{program} {} failed: {warnings}", args.join(" "));
        }
        Ok(Said { said: String::from_utf8(out.stdout)?, warnings })
    }
}

/// What a run that went well has printed.
struct Said {
    said: String,
    /// Empty if there are none.
    warnings: String,
}

/// For hosts of another release; the keyring is in the package debian-archive-keyring.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-updates main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
";

impl Kernel {
    fn open(dir: &Path) -> Result<Self> {
        let image = only(&dir.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        let modules = only(&dir.join("lib/modules"), |_| true)?;
        Ok(Self { image, modules })
    }

    /// The modules of a guest, unpacked, in load order.
    pub(super) fn modules(&self) -> Result<Vec<Module>> {
        let list = self.modules.join("modules.builtin");
        let built_in = std::fs::read_to_string(&list).with_context(|| format!("cannot read `{}`", list.display()))?;
        let mut files = Vec::new();
        collect(&self.modules.join("kernel"), &mut files)?;
        let read = |name: &str| {
            let file = files.iter().find(|f| module_name(f).as_deref() == Some(name));
            file.map(|f| unpack(f)).transpose()
        };
        modules::ordered(&modules::built_in(&built_in), read)
    }
}

/// The module in a file `NAME.ko` or `NAME.ko.xz`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko").map(modules::canonical)
}

fn unpack(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|e| e != "xz") {
        return std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()));
    }
    let out = Command::new("xz").arg("-dc").arg(file).output().context("cannot run xz")?;
    if !out.status.success() {
        bail!("cannot unpack `{}`: {}", file.display(), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out.stdout)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The one entry of a directory that is meant.
fn only(dir: &Path, is_meant: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let mut found = entries.filter_map(|e| e.ok()).filter(|e| e.file_name().to_str().is_some_and(&is_meant));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        (_, _) => bail!("`{}` does not hold exactly one of what is looked for", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_their_name_packed_or_not() {
        let name = |file: &str| module_name(Path::new(file));
        assert_eq!(name("/m/virtio-ring.ko"), Some("virtio_ring".to_owned()));
        assert_eq!(name("/m/veth.ko.xz"), Some("veth".to_owned()));
        assert_eq!(name("/m/modules.dep"), None);
    }
}
