//! Programs and headers this tree's commands use, and where they come from.
//!
//! Owns the list of Debian packages. Installs only what is asked for and missing, says so first, and must never
//! start a service, now or at the next boot: `docker-registry` would listen on all addresses.

mod apt;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A thing that a command needs, and the package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The package of Debian.
    package: &'static str,
    /// A program looked up on PATH, or an absolute path.
    file: &'static str,
    why: &'static str,
}

const fn tool(package: &'static str, file: &'static str, why: &'static str) -> Tool {
    Tool { package, file, why }
}

pub(crate) const CLANG: Tool = tool("clang", "clang", "compiles the example BPF programs");
pub(crate) const LIBBPF: Tool =
    tool("libbpf-dev", "/usr/include/bpf/bpf_helpers.h", "headers of the example BPF programs");
pub(crate) const IPROUTE: Tool = tool("iproute2", "ip", "makes interfaces and network namespaces");
pub(crate) const PING: Tool = tool("iputils-ping", "ping", "sends the packets that programs count");
pub(crate) const OPENSSL: Tool =
    tool("openssl", "openssl", "makes and checks keys, certificates and signatures, as we do");
pub(crate) const PROCPS: Tool = tool("procps", "kill", "ends programs in the middle of their work");
pub(crate) const REGISTRY: Tool =
    tool("docker-registry", "docker-registry", "a registry that is not ours, on loopback");
pub(crate) const SKOPEO: Tool = tool("skopeo", "skopeo", "reads our images and our store");
pub(crate) const BUILDAH: Tool = tool("buildah", "buildah", "builds an image from a plain Containerfile");
pub(crate) const XDP_TOOLS: Tool = tool("xdp-tools", "xdp-loader", "the peer on a shared interface");
pub(crate) const BPFTOOL: Tool = tool("bpftool", "bpftool", "reads what the kernel has");
pub(crate) const SUDO: Tool = tool("sudo", "sudo", "the first lines of the README, as written");
pub(crate) const STRACE: Tool = tool("strace", "strace", "counts the daemon's system calls");
pub(crate) const CC: Tool = tool("gcc", "cc", "compiles what notes the programs of a daemon");
pub(crate) const QEMU: Tool = tool("qemu-system-x86", "qemu-system-x86_64", "runs other kernels");
pub(crate) const VIRTIOFSD: Tool = tool("qemu-system-common", crate::vm::VIRTIOFSD, "shows this root to other kernels");
pub(crate) const BUSYBOX: Tool = tool("busybox-static", "busybox", "starts other kernels' user space");
pub(crate) const MMDEBSTRAP: Tool = tool("mmdebstrap", "mmdebstrap", "makes a Debian for guests to boot");
pub(crate) const E2FSPROGS: Tool = tool("e2fsprogs", "mkfs.ext4", "makes the disks of guests that reboot");
pub(crate) const LINTIAN: Tool = tool("lintian", "lintian", "judges packages by Debian's rules");
pub(crate) const XZ: Tool = tool("xz-utils", "xz", "unpacks other kernels' modules");

impl Tool {
    fn is_here(&self) -> bool {
        if self.file.starts_with('/') { Path::new(self.file).exists() } else { on_path(self.file).is_some() }
    }
}

/// Where a program is: PATH, and the directories of root's that a user's PATH leaves out.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|d| d.join(program)).find(|p| p.is_file())
}

/// The directory in which these packages of Debian are unpacked: in our cache, and nothing of them is installed.
pub(crate) fn unpacked(packages: &[&str]) -> Result<PathBuf> {
    let dir = cache("packages")?;
    for package in packages.iter().filter(|package| !dir.join(package).exists()) {
        apt::unpack(package, &dir)?;
    }
    Ok(dir)
}

/// Where we keep what we fetched and cannot install: `~/.cache/bpfd/NAME`.
pub(crate) fn cache(name: &str) -> Result<PathBuf> {
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(home.context("neither HOME nor XDG_CACHE_HOME is set")?.join("bpfd").join(name))
}

pub(crate) fn is_root() -> bool {
    // The directory of this process belongs to its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Makes sure that `tools` are here; as root on Debian, by installing what is missing.
/// The error names what is missing and how to get it.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|t| t.package).collect();
    let packages_line = packages.join(" ");
    if !is_root() || !Path::new("/etc/debian_version").exists() {
        bail!("needs {packages_line} (as root on Debian 12: apt-get install {packages_line})");
    }
    println!("apt-get installs what is missing:");
    for Tool { package, why, .. } in &missing {
        println!("  {package}: {why}");
    }
    if packages.contains(&REGISTRY.package) {
        mask(REGISTRY_UNIT)?;
    }
    apt::install(&packages, &cache("apt")?)?;
    let still = self::missing(tools);
    if let Some(tool) = still.first() {
        bail!("`{}` is not there although {} is installed", tool.file, tool.package);
    }
    Ok(())
}

/// The package enables its service, which would listen on all addresses now and after each boot.
const REGISTRY_UNIT: &str = "docker-registry.service";

/// Keeps systemd from ever starting a unit that is about to be installed, as `systemctl mask` does (systemctl(1)).
fn mask(unit: &str) -> Result<()> {
    let units = Path::new("/etc/systemd/system");
    std::fs::create_dir_all(units).with_context(|| format!("cannot make `{}`", units.display()))?;
    let link = units.join(unit);
    match std::os::unix::fs::symlink("/dev/null", &link) {
        Ok(()) => println!("  {unit} is masked, so that it never starts (`systemctl unmask {unit}` undoes it)"),
        // Somebody has said already what is to become of it.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("cannot make `{}`", link.display())),
    }
    Ok(())
}

fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().copied().filter(|t| !t.is_here()).collect()
}

/// A program of cargo's that crates.io has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CargoTool {
    /// Its crate and program.
    name: &'static str,
    /// What the tree is written for.
    version: &'static str,
    why: &'static str,
    /// Of `cargo install`.
    options: &'static [&'static str],
}

const fn cargo_program(name: &'static str, version: &'static str, why: &'static str) -> CargoTool {
    CargoTool { name, version, why, options: &[] }
}

/// `deny.toml` is written for it.
const CARGO_DENY: CargoTool = cargo_program("cargo-deny", "0.20.2", "checks licences and sources");
pub(crate) const CARGO_DEB: CargoTool = cargo_program("cargo-deb", "3.8.0", "makes packages of Debian's");
pub(crate) const CARGO_AUDITABLE: CargoTool =
    cargo_program("cargo-auditable", "0.7.7", "notes in programs what they were built of");
/// Without its web server and search, and not optimised: a fraction of the time to build, and the book is small.
pub(crate) const MDBOOK: CargoTool = CargoTool {
    options: &["--no-default-features", "--debug"],
    ..cargo_program("mdbook", "0.5.4", "makes the book of docs/")
};

pub(crate) const CARGO_MUTANTS: CargoTool =
    cargo_program("cargo-mutants", "27.1.0", "changes the decision, to see that tests notice");

/// `cargo-deny` from PATH or our cache; built into the cache if it is nowhere (some minutes).
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_tool(&CARGO_DENY)
}

/// Such a program from PATH or our cache; built into the cache if it is nowhere (some minutes).
pub(crate) fn cargo_tool(tool: &CargoTool) -> Result<PathBuf> {
    let CargoTool { name, version, why, options } = tool;
    let tools = cache("tools")?;
    let ours = tools.join("bin").join(name);
    if let Some(found) = on_path(name).or_else(|| ours.is_file().then(|| ours.clone())) {
        return Ok(found);
    }
    let wanted = format!("{name}@{version}");
    println!("cargo builds {wanted} into {} (some minutes): {why}", tools.display());
    let status = Command::new(env!("CARGO"))
        .args(["install", "--quiet", "--locked", &wanted, "--root"])
        .arg(&tools)
        .args(*options)
        .status()
        .context("cannot run cargo install")?;
    if !status.success() {
        bail!("cargo install {wanted} failed");
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_is_not_missing() {
        let shell = tool("dash", "sh", "a shell");
        let nothing = tool("no-such-package", "no-such-program", "nothing");
        assert_eq!(missing(&[shell, nothing]), [nothing]);
        assert_eq!(missing(&[tool("base-files", "/etc", "a path")]), []);
    }
}
