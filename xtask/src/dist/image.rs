//! The OCI image of the daemon: glibc and the certificates of Debian's packages, the two programs, and nothing else: no shell.
//!
//! Written by buildah, which has no state of ours afterwards. Must never be written if its daemon does not start in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Packages, said};
use crate::tools;

/// What the programs are linked with, and whom they believe in registries' names.
const PACKAGES: [&str; 3] = ["libc6", "libgcc-s1", "ca-certificates"];

/// Of those packages: libraries, certificates and licences.
const KEPT: [&str; 4] = ["lib", "lib64", "usr/share/ca-certificates", "usr/share/doc"];

pub(super) fn write(root: &Path, packages: &Packages, programs: &Path, out: &Path) -> Result<PathBuf> {
    tools::ensure(&[tools::BUILDAH])?;
    let work = root.join("target/packages/image");
    if work.exists() {
        fs::remove_dir_all(&work).context("cannot remove what an earlier run left")?;
    }
    let tree = work.join("tree");
    base(&tree)?;
    for (program, dir) in [("bpfd", "usr/sbin"), ("bpfctl", "usr/bin")] {
        fs::create_dir_all(tree.join(dir)).context("cannot make a directory of the image")?;
        fs::copy(programs.join(program), tree.join(dir).join(program)).context("cannot copy a program")?;
        // Fails if a library is missing.
        said(Command::new("chroot").arg(&tree).arg(format!("/{dir}/{program}")).arg("--version"))?;
    }
    let Packages { version, arch, .. } = packages;
    let archive = out.join(format!("bpfd-image-{version}-{arch}.tar"));
    if archive.exists() {
        fs::remove_file(&archive).context("cannot remove the image of an earlier run")?;
    }
    let buildah = |words: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(work.join("storage")).arg("--runroot").arg(work.join("run"));
        said(command.args(["--storage-driver", "vfs"]).args(words))
    };
    let container = buildah(&["from", "scratch"])?;
    let (shown, to) = (tree.display().to_string(), format!("oci-archive:{}:bpfd:{version}", archive.display()));
    buildah(&["copy", "--quiet", &container, &shown, "/"])?;
    buildah(&["config", "--entrypoint", "[\"/usr/sbin/bpfd\"]", "--arch", arch, "--os", "linux", &container])?;
    let labels = [("title", "bpfd"), ("version", version.as_str()), ("licenses", "Apache-2.0 OR MIT")];
    for (name, value) in labels {
        buildah(&["config", "--label", &format!("org.opencontainers.image.{name}={value}"), &container])?;
    }
    buildah(&["commit", "--quiet", "--timestamp", &super::commit_time(root)?, &container, &to])?;
    buildah(&["rm", &container])?;
    fs::remove_dir_all(&work).context("cannot remove what the image was made in")?;
    Ok(archive)
}

/// All but the programs.
fn base(tree: &Path) -> Result<()> {
    let unpacked = tools::unpacked(&PACKAGES)?;
    fs::create_dir_all(tree).with_context(|| format!("cannot make `{}`", tree.display()))?;
    for package in PACKAGES {
        for kept in KEPT.iter().filter(|kept| unpacked.join(package).join(kept).exists()) {
            let from = unpacked.join(package);
            said(Command::new("cp").args(["--archive", "--parents", kept]).arg(tree).current_dir(from))?;
        }
    }
    // As the package's own script makes it, of all that it has.
    let mut bundle = Vec::new();
    let mut certificates = Vec::new();
    for entry in fs::read_dir(tree.join("usr/share/ca-certificates/mozilla")).context("no certificates")? {
        certificates.push(entry?.path());
    }
    certificates.sort();
    for certificate in certificates {
        bundle.extend(fs::read(&certificate).with_context(|| format!("cannot read `{}`", certificate.display()))?);
    }
    if bundle.is_empty() {
        bail!("the package of certificates has none");
    }
    let files: [(&str, &[u8]); 4] = [
        ("etc/ssl/certs/ca-certificates.crt", &bundle),
        ("etc/passwd", b"root:x:0:0::/root:/\nbpfd-worker:x:61100:61100::/:/\n"),
        ("etc/group", b"root:x:0:\nbpfd:x:815:\nbpfd-view:x:816:\nbpfd-worker:x:61100:\n"),
        ("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
    ];
    for (path, content) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("no parent")?).context("cannot make a directory of the image")?;
        fs::write(&path, content).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    for dir in ["etc/bpfd", "run", "tmp", "var/lib", "var/log", "sys", "proc", "dev"] {
        fs::create_dir_all(tree.join(dir)).context("cannot make a directory of the image")?;
    }
    symlink("/run", tree.join("var/run")).context("cannot make a link of the image")
}
