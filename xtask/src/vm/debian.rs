//! A Debian with systemd, in a directory of our cache: the root of guests that boot as hosts do.
//!
//! Made by mmdebstrap of the mirror's packages of the day, and used as it is from then on; remove `~/.cache/bpfd/debian` to make it anew.
//! Guests must never write to it: they have it below a tmpfs.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools;

const RELEASE: &str = "bookworm";
/// What a host has that runs bpfd, beside what every Debian has.
const PACKAGES: &str = "systemd-sysv,iproute2,procps";

/// The directory; made if it is not there.
pub(super) fn fetch() -> Result<PathBuf> {
    let cache = tools::cache("debian")?;
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
    let lock = File::create(cache.join("lock")).context("cannot make the cache's lock")?;
    lock.lock().context("cannot lock the cache")?;
    let dir = cache.join(RELEASE);
    if dir.is_dir() {
        return Ok(dir);
    }
    tools::ensure(&[tools::MMDEBSTRAP])?;
    let part = cache.join(format!("{RELEASE}.part"));
    if part.exists() {
        std::fs::remove_dir_all(&part).context("cannot remove what an earlier run left")?;
    }
    println!("mmdebstrap makes a Debian with systemd in {} (some 220 MB)", dir.display());
    let out = Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--quiet", &format!("--include={PACKAGES}"), RELEASE])
        .arg(&part)
        .output()
        .context("cannot run mmdebstrap")?;
    if !out.status.success() {
        bail!("mmdebstrap: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    std::fs::rename(&part, &dir).context("cannot keep the root")?;
    Ok(dir)
}
