//! The stage of the show: a directory, two network namespaces joined by a cable, a registry and a daemon.
//!
//! Everything is below the namespaces that the demo entered, so their end is the stage's end. Must never be set outside of them.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ledger::{Entry, Ledger};
use super::shell::Shell;

/// What bpfd has for a root: on a tmpfs that this process namespace alone sees.
pub(super) const SCRATCH: &str = "/run/bpfd-demo";
/// The interface that programs share, and its other end in the namespace `far`.
pub(super) const IFACE: &str = "eth0";
const NEAR: (&str, &str) = ("10.66.0.1", "02:00:00:00:00:01");
const FAR: (&str, &str) = ("10.66.0.2", "02:00:00:00:00:02");
/// Where Debian's registry listens, in a network namespace that nobody else is in.
const REGISTRY: &str = "127.0.0.1:5000";
/// How long a daemon may take to answer: a hundred times what it takes on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) shell: Shell,
    bpfd: Option<Child>,
    registry: Option<Child>,
}

impl Stage {
    /// Sets it, without the daemon.
    pub(super) fn set(root: &Path, ledger: &Ledger) -> Result<Self> {
        // The first process of a namespace of its own: nobody else may have /run covered.
        if std::process::id() != 1 {
            bail!("--inside is for the demo itself: run `cargo xtask demo`");
        }
        std::env::set_current_dir(root).context("cannot enter the tree")?;
        let mut stage = Self { shell: shell(root), bpfd: None, registry: None };
        let quiet = |words: &[&str]| stage.shell.quiet(words);
        quiet(&["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
        fs::create_dir_all(SCRATCH)?;
        network(&stage.shell)?;
        for kind in ["net", "mnt", "pid"] {
            ledger.add(&namespace(&quiet(&["readlink", &format!("/proc/self/ns/{kind}")])?))?;
        }
        ledger.add(&namespace(&quiet(&far(&["readlink", "/proc/self/ns/net"]))?))?;
        stage.registry = Some(registry(&stage.shell)?);
        until("the registry answers", || TcpStream::connect(REGISTRY).is_ok())?;
        Ok(stage)
    }

    /// Starts bpfd and waits until it answers.
    pub(super) fn start_bpfd(&mut self) -> Result<()> {
        let words = ["bpfd", "--root", SCRATCH];
        println!("$ {} &", super::shell::line(&words));
        self.bpfd = Some(start(&self.shell, &words, "bpfd.log")?);
        until("bpfd answers", || UnixStream::connect(socket()).is_ok())
    }

    /// Ends bpfd with a signal, by its number, and waits for its end.
    pub(super) fn end_bpfd(&mut self, signal: &str) -> Result<()> {
        let mut child = self.bpfd.take().context("bpfd does not run")?;
        self.shell.run(&["kill", &format!("-{signal}"), &child.id().to_string()])?;
        let status = child.wait().context("cannot wait for bpfd")?;
        println!("# bpfd: {status}");
        Ok(())
    }

    /// Sends pings from the far end: each is one packet in, as nobody asks for addresses.
    pub(super) fn ping(&self, count: u64) -> Result<()> {
        let count = count.to_string();
        self.shell.run(&far(&["ping", "-q", "-c", &count, "-i", "0.01", "-W", "5", NEAR.0])).map(drop)
    }

    /// Sends pings all the while that something is done. Gives how many were sent.
    pub(super) fn ping_during(&self, act: impl FnOnce() -> Result<()>) -> Result<u64> {
        let words = far(&["ping", "-q", "-i", "0.002", "-W", "5", NEAR.0]);
        println!("$ {} &", super::shell::line(&words));
        let mut ping = self.shell.command(&words)?;
        let ping = ping.stdout(Stdio::piped()).spawn().context("cannot run ping")?;
        let acted = act();
        // As Ctrl-C: it stops sending, and says what it sent.
        self.shell.run(&["kill", "-INT", &ping.id().to_string()])?;
        let out = ping.wait_with_output().context("cannot wait for ping")?;
        let said = String::from_utf8_lossy(&out.stdout);
        print!("{said}");
        acted?;
        let sent = said.lines().find_map(|line| line.split_once(" packets transmitted"));
        sent.and_then(|(sent, _)| sent.parse().ok()).context("ping does not say what it sent")
    }

    /// Nothing of bpfd runs any more: no worker outlives it.
    pub(super) fn no_bpfd(&self) -> Result<()> {
        let runs = || -> Result<bool> {
            let mut comms = fs::read_dir("/proc")?.filter_map(|entry| fs::read(entry.ok()?.path().join("comm")).ok());
            Ok(comms.any(|comm| comm.starts_with(b"bpfd")))
        };
        until("all workers of bpfd end", || runs().is_ok_and(|runs| !runs))
    }

    /// Waits for a condition of the show's own.
    pub(super) fn until(&self, what: &str, holds: impl FnMut() -> bool) -> Result<()> {
        until(what, holds)
    }

    /// Sends UDP datagrams from the far end.
    pub(super) fn datagrams(&self, count: u64, port: u16) -> Result<()> {
        let script = format!("for i in $(seq {count}); do echo x >/dev/udp/{}/{port}; done", NEAR.0);
        self.shell.run(&far(&["bash", "-c", &script])).map(drop)
    }

    /// The file in which the registry keeps a blob's bytes.
    pub(super) fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("not a digest")?;
        let start = hex.get(..2).context("not a digest")?;
        Ok(Path::new(SCRATCH).join("registry/docker/registry/v2/blobs/sha256").join(start).join(hex).join("data"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in [self.bpfd.take(), self.registry.take()].iter_mut().flatten() {
            // What does not end here ends with the process namespace.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Waits for a condition; it is an error that it does not come.
fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited {} s, but not: {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What a program that was started in the background said last, for the reader of a failure.
pub(super) fn last_words(log: &str, count: usize) -> String {
    let text = fs::read_to_string(Path::new(SCRATCH).join(log)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn namespace(name: &str) -> Entry {
    Entry::Namespace(name.trim().to_owned())
}

fn socket() -> PathBuf {
    Path::new(SCRATCH).join("run/bpfd/bpfd.sock")
}

fn shell(root: &Path) -> Shell {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = root.join("target/debug");
    let env = vec![
        ("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display())),
        ("BPFD_SOCKET", socket().display().to_string()),
        ("HOME", format!("{SCRATCH}/home")),
        ("LC_ALL", "C.UTF-8".to_owned()),
    ];
    Shell { env }
}

/// A command in the far namespace.
fn far<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["ip", "netns", "exec", "far"], words].concat()
}

fn network(shell: &Shell) -> Result<()> {
    // Router solicitations and duplicate address detection would be packets that nobody sent.
    let no_ipv6 = ["sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $f ] || echo 1 >$f; done"];
    shell.quiet(&no_ipv6)?;
    shell.quiet(&["ip", "link", "set", "lo", "up"])?;
    shell.quiet(&["ip", "netns", "add", "far"])?;
    shell.quiet(&far(&no_ipv6))?;
    shell.quiet(&["ip", "link", "add", IFACE, "type", "veth", "peer", "name", IFACE, "netns", "far"])?;
    for (prefix, own, other) in [(Vec::new(), NEAR, FAR), (far(&[]), FAR, NEAR)] {
        let address = format!("{}/24", own.0);
        let ip = |words: &[&str]| shell.quiet(&[prefix.as_slice(), &["ip"], words].concat());
        ip(&["link", "set", IFACE, "address", own.1, "up"])?;
        ip(&["address", "add", &address, "dev", IFACE])?;
        // No address is asked for, so that a ping is one packet.
        ip(&["neighbour", "add", other.0, "lladdr", other.1, "dev", IFACE, "nud", "permanent"])?;
    }
    Ok(())
}

/// Debian's registry, which knows nothing of BPF.
fn registry(shell: &Shell) -> Result<Child> {
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {SCRATCH}/registry}}}}\n\
         http: {{addr: \"{REGISTRY}\"}}\n"
    );
    fs::write(Path::new(SCRATCH).join("registry.yml"), config)?;
    // The short name that people and the daemon call it by.
    let known = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{REGISTRY}\"\nhttp = true\n");
    for dir in ["etc/bpfd", "home/.config/bpfd"] {
        let dir = Path::new(SCRATCH).join(dir);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("registries.toml"), &known)?;
    }
    let config = format!("{SCRATCH}/registry.yml");
    start(shell, &["docker-registry", "serve", &config], "registry.log")
}

/// Starts a program whose output goes to a file.
fn start(shell: &Shell, words: &[&str], log: &str) -> Result<Child> {
    let log = Path::new(SCRATCH).join(log);
    let log = File::options().create(true).append(true).open(&log).context("cannot write a log")?;
    let mut command = shell.command(words)?;
    command.stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start `{}`", super::shell::line(words)))
}
