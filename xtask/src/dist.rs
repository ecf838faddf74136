//! `cargo xtask dist`: what is shipped, of one release build: Debian packages, a tarball of the same files, an OCI image.
//!
//! What is in the packages stands in `[package.metadata.deb]` of `bpfd/Cargo.toml` and `bpfctl/Cargo.toml`; what they do with the host,
//! in `packaging/`. Owns what is generated for them. It must never ship what was built with fail points: only `for_tests` packages those.

mod image;
mod parts;
mod roff;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};

use crate::tools;

/// Bytes that each program may have, as it is packaged: hosts fetch it with every upgrade.
pub(crate) const LIMITS: [(&str, u64); 2] = [("bpfd", 20_000_000), ("bpfctl", 15_000_000)];

/// Cargo's profile of what is shipped.
pub(crate) const PROFILE: &str = "dist";

#[derive(clap::Args)]
#[command(after_help = "\
  DIR gets bpfd_VERSION_ARCH.deb, bpfctl_VERSION_ARCH.deb, bpfd-VERSION-ARCH.tar.xz with the files of both, and
  bpfd-image-VERSION-ARCH.tar, an OCI archive with the programs and what they are linked with.

Examples:
  cargo xtask dist
  cargo xtask dist --out /tmp/bpfd && sudo apt-get install /tmp/bpfd/*.deb")]
pub(crate) struct Args {
    /// Where the packages go
    #[arg(long, value_name = "DIR", default_value = "target/packages")]
    out: PathBuf,
    /// Package the programs of the last test build instead, in two versions, for tests; build nothing
    #[arg(long, conflicts_with = "out")]
    of_tests: bool,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if args.of_tests {
        return for_tests(root);
    }
    let (target, out) = (root.join("target"), root.join(&args.out));
    let programs = build(root, &target)?;
    let made = Packages::make(root, &programs, &version(1), Compression::Small, &out)?;
    println!("{}", made.tarball(root, &out)?.display());
    for deb in &made.debs {
        println!("{}", deb.display());
    }
    println!("{}", image::write(root, &made, &programs, &out)?.display());
    sizes(&programs)
}

/// Packages of a release build in this directory.
pub(crate) fn packages(root: &Path, target: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let programs = build(root, target)?;
    Ok(Packages::make(root, &programs, &version(1), Compression::Small, out)?.debs)
}

/// Packages of the programs that tests run, as two versions of which one is an upgrade of the other: in `target/packages/test/old` and
/// `new`. Nothing is built but the packages, and those once.
pub(crate) fn for_tests(root: &Path) -> Result<()> {
    static MADE: Mutex<bool> = Mutex::new(false);
    let mut made = MADE.lock().map_err(|_poisoned| anyhow!("packages could not be made before"))?;
    for (name, version) in [("old", version(1)), ("new", version(2))].into_iter().filter(|_| !*made) {
        let out = root.join("target/packages/test").join(name);
        if out.exists() {
            std::fs::remove_dir_all(&out).context("cannot remove packages of an earlier run")?;
        }
        Packages::make(root, &root.join("target/debug"), &version, Compression::Fast, &out)?;
    }
    *made = true;
    Ok(())
}

/// The version of the workspace, and how often it was packaged.
fn version(revision: u32) -> String {
    format!("{}-{revision}", env!("CARGO_PKG_VERSION"))
}

/// The programs, with the list of what they were built of in them (`rust-audit-info`, `cargo audit bin`): where they are.
fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    let auditable = tools::cargo_tool(&tools::CARGO_AUDITABLE)?;
    println!("$ cargo auditable build --profile {PROFILE}");
    let status = Command::new(&auditable)
        .args(["auditable", "build", "--profile", PROFILE, "--locked", "--bin", "bpfd", "--bin", "bpfctl"])
        .env("CARGO", env!("CARGO"))
        .env("CARGO_TARGET_DIR", target)
        .current_dir(root)
        .status()
        .context("cannot run cargo-auditable")?;
    if !status.success() {
        bail!("cargo auditable build: {status}");
    }
    Ok(target.join(PROFILE))
}

/// Says how large the programs are, and fails if one is larger than it may be.
fn sizes(programs: &Path) -> Result<()> {
    for (name, limit) in LIMITS {
        let program = programs.join(name);
        let size = std::fs::metadata(&program).with_context(|| format!("cannot read `{}`", program.display()))?.len();
        println!("{name}: {size} bytes of {limit}");
        if size > limit {
            bail!("{name} has {size} bytes, and may have {limit}: find out what came in (`cargo tree`, `cargo bloat`)");
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Compression {
    Small,
    /// For guests, whose processor is emulated.
    Fast,
}

struct Packages {
    version: String,
    arch: String,
    debs: Vec<PathBuf>,
}

impl Packages {
    fn make(root: &Path, programs: &Path, version: &str, compression: Compression, out: &Path) -> Result<Self> {
        let cargo_deb = tools::cargo_tool(&tools::CARGO_DEB)?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make `{}`", out.display()))?;
        let time = commit_time(root)?;
        parts::write(root, programs, version, &time)?;
        let arch = said(Command::new("dpkg").arg("--print-architecture"))?;
        let mut debs = Vec::new();
        for (package, _) in LIMITS {
            let deb = out.join(format!("{package}_{version}_{arch}.deb"));
            println!("$ cargo deb --package {package}");
            let mut command = Command::new(&cargo_deb);
            command.args([
                "deb",
                "--no-build",
                "--no-strip",
                "--quiet",
                "--package",
                package,
                "--deb-version",
                version,
            ]);
            command.arg("--output").arg(&deb).env("SOURCE_DATE_EPOCH", &time).env("CARGO", env!("CARGO"));
            match compression {
                Compression::Small => {}
                Compression::Fast => {
                    command.args(["--fast", "--compress-type", "gz", "--compress-system"]);
                }
            }
            said(command.current_dir(root))?;
            debs.push(deb);
        }
        Ok(Self { version: version.to_owned(), arch, debs })
    }

    /// What the packages install, for hosts without dpkg.
    fn tarball(&self, root: &Path, out: &Path) -> Result<PathBuf> {
        let Self { version, arch, debs } = self;
        let name = format!("bpfd-{version}-{arch}");
        let (tree, tarball) = (root.join("target/packages").join(&name), out.join(format!("{name}.tar.xz")));
        if tree.exists() {
            std::fs::remove_dir_all(&tree).context("cannot remove what an earlier run left")?;
        }
        for deb in debs {
            said(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&tree))?;
        }
        let mut tar = Command::new("tar");
        tar.args(["--create", "--xz", "--sort=name", "--owner=root:0", "--group=root:0", "--numeric-owner"]);
        tar.arg(format!("--mtime=@{}", commit_time(root)?)).arg("--file").arg(&tarball).arg("--directory");
        said(tar.arg(root.join("target/packages")).arg(&name))?;
        std::fs::remove_dir_all(&tree).context("cannot remove the tree of the tarball")?;
        Ok(tarball)
    }
}

/// What files in packages are dated with: the same tree gives the same packages.
fn commit_time(root: &Path) -> Result<String> {
    said(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root))
}

/// What a program prints, if it succeeds.
fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("cannot run {program}"))?;
    if !out.status.success() {
        bail!("{program}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}
