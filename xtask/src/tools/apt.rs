//! apt-get, told to install packages: says how much there is to come and how far it is, and why it failed.
//!
//! Must never leave dpkg in the middle of a package: what apt prints goes to a file, not to a pipe that breaks when we end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a run that takes long says how far it is.
const INTERVAL: Duration = Duration::from_secs(10);

/// What apt does with every package unless it is told otherwise: nothing that only goes well with it.
const INSTALL: [&str; 4] = ["install", "--quiet", "--yes", "--no-install-recommends"];

/// Reads the lists, and installs `packages`. `dir` keeps what apt says.
pub(super) fn install(packages: &[&str], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    println!("$ apt-get update");
    let lists = run(&["update", "--quiet"], dir)?;
    println!("$ apt-get {} {}", INSTALL.join(" "), packages.join(" "));
    let done = run(&[&INSTALL, packages].concat(), dir)?;
    if !done.status.success() {
        // Lists that cannot be had are a warning to apt, and old ones or none are used: here they are the cause.
        let said: Vec<&str> = done.complaints().chain(lists.complaints()).collect();
        bail!("apt-get install failed:\n{}\nAll that it said is in `{}`", said.join("\n"), done.log.display());
    }
    Ok(())
}

/// Fetches a package and unpacks it as `dir/PACKAGE`, whole or not at all.
pub(super) fn unpack(package: &str, dir: &Path) -> Result<()> {
    let fetched = dir.join(format!("{package}.fetched"));
    fs::create_dir_all(&fetched).with_context(|| format!("cannot make `{}`", fetched.display()))?;
    println!("$ apt-get download {package}");
    let download = || {
        let out = Command::new("apt-get").args(["download", "--quiet", package]).current_dir(&fetched).output();
        out.context("cannot run apt-get")
    };
    let mut done = download()?;
    if !done.status.success() {
        // The lists may be older than the archive.
        run(&["update", "--quiet"], dir)?;
        done = download()?;
    }
    if !done.status.success() {
        bail!("apt-get download {package} failed:\n{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    let mut entries = fs::read_dir(&fetched)?.filter_map(Result::ok).map(|entry| entry.path());
    let deb =
        entries.find(|path| path.extension().is_some_and(|end| end == "deb")).context("apt-get fetched nothing")?;
    let half = dir.join(format!("{package}.half"));
    let status =
        Command::new("dpkg-deb").arg("--extract").args([&deb, &half]).status().context("cannot run dpkg-deb")?;
    if !status.success() {
        bail!("dpkg-deb cannot unpack `{}`", deb.display());
    }
    fs::rename(&half, dir.join(package)).and_then(|()| fs::remove_dir_all(&fetched)).context("cannot keep the package")
}

/// What came of a run.
struct Done {
    status: ExitStatus,
    log: PathBuf,
    said: String,
}

impl Done {
    /// apt's errors and warnings, as it marks them.
    fn complaints(&self) -> impl Iterator<Item = &str> {
        self.said.lines().filter(|line| ["E:", "W:"].iter().any(|mark| line.starts_with(mark)))
    }
}

fn run(args: &[&str], dir: &Path) -> Result<Done> {
    let log = dir.join(format!("apt-get-{}.log", args.first().unwrap_or(&"")));
    let to = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
    let mut child = Command::new("apt-get")
        // Another run of ours, or the nightly upgrade, may hold the lock.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        // systemctl then ignores `start`: no service comes up because of a test.
        .env("SYSTEMD_OFFLINE", "1")
        .stdin(Stdio::null())
        .stderr(to.try_clone().context("cannot share the log")?)
        .stdout(to)
        .spawn()
        .context("cannot run apt-get")?;
    let read = || fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (mut announced, mut last) = (false, Instant::now());
    loop {
        let ended = child.try_wait().context("cannot wait for apt-get")?;
        let said = read().with_context(|| format!("cannot read `{}`", log.display()))?;
        let progress = Progress::of(&said);
        if let (Some(size), false) = (&progress.size, announced) {
            println!("  {} packages. {size}", progress.packages);
            announced = true;
        }
        if let Some(status) = ended {
            return Ok(Done { status, log, said });
        }
        if last.elapsed() > INTERVAL {
            println!("  {progress}");
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// How far apt is, from its own words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    packages: u32,
    /// `Need to get 55.4 MB of archives.`
    size: Option<String>,
    fetched: usize,
    unpacked: usize,
    set_up: usize,
    waits: bool,
}

impl Progress {
    fn of(said: &str) -> Self {
        let mut progress = Self::default();
        for line in said.lines() {
            if let Some((_, rest)) = line.split_once(" upgraded, ") {
                progress.packages = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            } else if line.starts_with("Need to get ") {
                progress.size = Some(line.to_owned());
            }
            progress.fetched += usize::from(line.starts_with("Get:"));
            progress.unpacked += usize::from(line.starts_with("Unpacking "));
            progress.set_up += usize::from(line.starts_with("Setting up "));
        }
        // It counts the seconds on one line.
        let last = said.rsplit(['\n', '\r']).find(|line| !line.is_empty());
        progress.waits = last.is_some_and(|line| line.starts_with("Waiting for cache lock"));
        progress
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { packages, size, fetched, unpacked, set_up, waits } = self;
        match (waits, size, unpacked, set_up) {
            (true, _, _, _) => f.write_str("waits for another apt-get to end"),
            (false, None, _, _) => write!(f, "{fetched} lists fetched"),
            // Those that apt has already are not fetched.
            (false, Some(_), 0, 0) => write!(f, "{fetched} fetched"),
            (false, Some(_), _, 0) => write!(f, "{unpacked} of {packages} unpacked"),
            (false, Some(_), _, _) => write!(f, "{set_up} of {packages} set up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Reading package lists...\n0 upgraded, 87 newly installed, 0 to remove and 0 not upgraded.\n\
        Need to get 55.4 MB of archives.\nGet:1 http://x a\nGet:2 http://x b\n";

    #[test]
    fn how_far_apt_is_is_read_from_its_words() {
        let says = |text: &str| Progress::of(text).to_string();
        assert_eq!(says("Get:1 http://x InRelease\n"), "1 lists fetched");
        assert_eq!(says(SAID), "2 fetched");
        assert_eq!(says(&format!("{SAID}Unpacking a (1) ...\n")), "1 of 87 unpacked");
        assert_eq!(says(&format!("{SAID}Setting up a (1) ...\n")), "1 of 87 set up");
        assert_eq!(
            says("Waiting for cache lock: held by process 7... 0s\rWaiting for cache lock: held by process 7... 1s\r"),
            "waits for another apt-get to end"
        );
    }
}
