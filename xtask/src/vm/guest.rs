//! One guest: the emulator, the file server that shows it this host's root, and their end.
//!
//! A guest that boots as hosts do may reboot: it says REBOOT on its port for reports, and the emulator is started again with its disk.
//!
//! Must leave nothing behind, however it ends: both processes are killed by the kernel when this one dies, and a
//! shell of our own removes the scratch directory when the pipe to it closes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initrd;
use super::kernel::Kernel;
use crate::tools;

/// The file server of Debian 12's QEMU packages.
pub(crate) const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// Mebibytes: twice what the largest test needs. Most of the emulator's own memory is its translation cache.
const MEMORY: u32 = 1024;
/// Bytes that a guest with a disk can write: many times what any has written. The file is as large as what was.
const DISK: u64 = 2 << 30;
/// How often a guest may boot.
const BOOTS: usize = 3;
/// How often we look whether a process has ended or a file has come.
const POLL: Duration = Duration::from_millis(10);
/// How long the file server may take to listen, on a host with much else to do.
const SERVER_START: Duration = Duration::from_secs(30);

/// For the kernel: a panic ends the emulator at once, and nothing warns because the emulated processor is slow. Programs
/// start at the same addresses each time: the emulator finds what it has translated by virtual address too, and translates a
/// program that starts again only if it lies elsewhere.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 oops=panic nokaslr norandmaps mitigations=off audit=0 random.trust_cpu=on \
    nowatchdog rcupdate.rcu_cpu_stall_suppress=1 tsc=reliable no_timer_check quiet loglevel=4";

/// What the guest's clock follows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clock {
    Host,
    /// One instruction is one nanosecond: equal runs take equal time.
    Instructions,
}

/// What the guest sees as its root, below a tmpfs or a disk.
pub(super) enum Root {
    /// This host's; the command is all that runs.
    Host,
    /// A Debian of its own, in a directory of this host's, whose systemd starts the command; another directory is seen in it at its
    /// path. What it writes is on a disk, and there after a reboot.
    Debian { dir: PathBuf, shown: PathBuf },
}

pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) root: Root,
    pub(super) script: &'a str,
    pub(super) clock: Clock,
    pub(super) limit: Duration,
}

/// What is known once a guest is gone.
pub(super) struct End {
    pub(super) timed_out: bool,
    /// What init reported.
    pub(super) report: String,
    /// What the kernel printed.
    pub(super) console: String,
    /// What the emulator and the file server had to say.
    pub(super) qemu: String,
}

impl Guest<'_> {
    /// Boots, copies the command's output to stdout, and returns when the guest is gone for good.
    pub(super) fn run(&self) -> Result<End> {
        let scratch = Scratch::new()?;
        std::fs::write(scratch.dir.join("initrd"), initrd::build(self.kernel, self.script, &self.root)?)
            .context("cannot write the initrd")?;
        if matches!(self.root, Root::Debian { .. }) {
            make_disk(&scratch.dir.join("disk"))?;
        }
        let start = Instant::now();
        let mut console = String::new();
        for _ in 0..BOOTS {
            let end = self.boot(&scratch.dir, start)?;
            console.push_str(&end.console);
            if end.timed_out || !end.report.lines().any(|line| line == "REBOOT") {
                return Ok(End { console, ..end });
            }
        }
        bail!("the guest wants to reboot for the {BOOTS}. time")
    }

    /// From one start of the emulator to its end.
    fn boot(&self, dir: &Path, start: Instant) -> Result<End> {
        let file = |name: &str| dir.join(name);
        let _server = serve_root(dir)?;
        let mut qemu = Process(self.qemu(dir)?.spawn().context("cannot start qemu-system-x86_64")?);
        let out = qemu.0.stdout.take().context("no stdout")?;
        let copy = thread::spawn(move || copy_lines(out));
        let mut timed_out = false;
        while qemu.0.try_wait().context("cannot wait for qemu")?.is_none() {
            if start.elapsed() > self.limit {
                timed_out = true;
                qemu.0.kill().context("cannot kill qemu")?;
                qemu.0.wait().context("cannot wait for qemu")?;
                break;
            }
            thread::sleep(POLL);
        }
        match copy.join() {
            Ok(copied) => copied.context("cannot write the command's output")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let read = |name: &str| {
            let bytes = std::fs::read(file(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\r', "")
        };
        let qemu = [read("qemu.log"), read("virtiofsd.log")].concat();
        Ok(End { timed_out, report: read("status"), console: read("console"), qemu })
    }

    fn qemu(&self, dir: &Path) -> Result<Command> {
        let at = |name: &str| dir.join(name).display().to_string();
        let mut qemu = dies_with_us("qemu-system-x86_64");
        // Without the old timer the kernel measures its clock by the HPET alone: by the other, on a busy host, it was once
        // taken for five times slower than it is, and every limit in the guest came five times sooner.
        qemu.args(["-M", "q35,pit=off", "-accel", "tcg,thread=single,tb-size=256", "-cpu", "max", "-smp", "1"])
            .args(["-m", &MEMORY.to_string(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-nic", "none", "-kernel"])
            .arg(&self.kernel.image)
            .args(["-initrd", &at("initrd"), "-append", KERNEL_LINE])
            .args(["-chardev", &format!("file,id=console,path={}", at("console")), "-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci"])
            // The command's output is qemu's stdout.
            .args(["-chardev", "stdio,id=out,signal=off", "-device", "virtserialport,chardev=out,name=out"])
            .args(["-chardev", &format!("file,id=status,path={}", at("status"))])
            .args(["-device", "virtserialport,chardev=status,name=status", "-device", "virtio-rng-pci"])
            // The file server reads and writes the guest's memory.
            .args(["-object", &format!("memory-backend-memfd,id=mem,size={MEMORY}M,share=on")])
            .args(["-numa", "node,memdev=mem", "-chardev", &format!("socket,id=root,path={}", at("root.sock"))])
            .args(["-device", "vhost-user-fs-pci,chardev=root,tag=hostroot,queue-size=1024"])
            // The port is closed, and the guest's writes to it block, once qemu reads the end of its stdin.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("qemu.log"))?);
        if let Root::Debian { .. } = self.root {
            // Nobody needs what it wrote once this process is gone.
            qemu.args(["-drive", &format!("id=disk,if=none,format=raw,cache=unsafe,file={}", at("disk"))])
                .args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        match self.clock {
            Clock::Host => {}
            Clock::Instructions => {
                qemu.args(["-icount", "shift=0,sleep=off"]);
            }
        }
        Ok(qemu)
    }
}

/// An empty file system for what a guest writes. Its journal would be for a guest that is cut off, and none goes on after that.
fn make_disk(path: &Path) -> Result<()> {
    let file = File::create(path).and_then(|file| file.set_len(DISK));
    file.with_context(|| format!("cannot make `{}`", path.display()))?;
    let mkfs = tools::on_path("mkfs.ext4").context("no mkfs.ext4")?;
    let out = Command::new(mkfs)
        .args(["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1"])
        .arg(path)
        .output()
        .context("cannot run mkfs.ext4")?;
    if !out.status.success() {
        bail!("mkfs.ext4: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// A command that the kernel kills when this thread ends, in a group of its own so that Ctrl-C reaches us alone.
fn dies_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).process_group(0);
    command
}

/// Serves `/` read-only: the server sees it through a mount namespace in which a read-only copy is bound, so that
/// not even a guest that asks for a writable mount can write.
fn serve_root(dir: &Path) -> Result<Process> {
    const SCRIPT: &str = r#"mount --bind / "$1" && mount -o remount,bind,ro "$1" && exec "$2" --socket-path="$3" \
        -o source="$1" -o cache=always -o sandbox=chroot -o no_posix_lock -o no_flock --thread-pool-size=1"#;
    let (root, socket) = (dir.join("root"), dir.join("root.sock"));
    std::fs::create_dir_all(&root).context("cannot make the directory to serve")?;
    // The one of the boot before: nobody listens there any more.
    if socket.exists() {
        std::fs::remove_file(&socket).context("cannot remove the socket of before")?;
    }
    let log = File::create(dir.join("virtiofsd.log"))?;
    let child = dies_with_us("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", SCRIPT, "sh"])
        .arg(&root)
        .arg(VIRTIOFSD)
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start virtiofsd")?;
    let mut server = Process(child);
    let start = Instant::now();
    while !socket.exists() {
        let ended = server.0.try_wait().context("cannot wait for virtiofsd")?;
        if ended.is_some() || start.elapsed() > SERVER_START {
            bail!("virtiofsd does not listen: {}", std::fs::read_to_string(dir.join("virtiofsd.log"))?.trim());
        }
        thread::sleep(POLL);
    }
    Ok(server)
}

/// Copies until the end, and whole lines at a time: the output of two guests may share a terminal.
fn copy_lines(mut from: impl io::Read) -> io::Result<()> {
    let mut held = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let n = from.read(&mut chunk)?;
        held.extend_from_slice(chunk.get(..n).unwrap_or_default());
        let whole = if n == 0 { held.len() } else { held.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) };
        let mut out = io::stdout().lock();
        out.write_all(held.get(..whole).unwrap_or_default())?;
        out.flush()?;
        held.drain(..whole);
        if n == 0 {
            return Ok(());
        }
    }
}

/// A child that does not outlive its place in the code.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, or ended now: either way there is no child afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory of this guest's, removed when we end, in whatever way.
struct Scratch {
    dir: PathBuf,
    keeper: Child,
}

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("bpfd-vm-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make `{}`", dir.display()))?;
        // `read` returns when the other end of the pipe, ours alone, is closed: by us or by our death.
        let keeper = Command::new("sh")
            .args(["-c", r#"read -r _; exec rm -rf --one-file-system -- "$1""#, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        Ok(Self { dir, keeper })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
