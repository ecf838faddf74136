//! The namespaces of one case: network and mounts, with a second network at the other end of a veth pair. One process holds
//! them; when it ends, and it ends with the test's thread at the latest, the kernel takes all of it away: mounts, devices, pins.
//!
//! `/run` is a tmpfs of the case's own and `/sys/fs/bpf` a bpffs, so no file or pin of a case is ever on the host:
//! `/run/bin` the two programs, `/run/case` the daemon's `--root`, `/run/netns` the names that `ip netns` gives.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bpfd_sys::netns::Netns;

use crate::objects::program;

/// `uplink` is where chains are; `far`, in the namespace of that name, is where packets come from. Nothing but these packets
/// goes over the pair: no IPv6, and neighbours are known.
const SETUP: &str = r#"
mount -t tmpfs -o mode=0755 case /run
mount -t bpf case /sys/fs/bpf
mkdir -p /run/bin /run/case /run/netns
touch /run/bin/bpfd /run/bin/bpfctl
mount --bind "$1" /run/bin/bpfd
mount --bind "$2" /run/bin/bpfctl
ip netns add far
ip -batch - <<END
link set lo up
link add uplink address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02 netns far
link set uplink addrgenmode none
addr add 10.9.0.1/24 dev uplink
link set uplink up
END
ip -n far -batch - <<END
link set far addrgenmode none
addr add 10.9.0.2/24 dev far
link set far up
neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev far
END
ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev uplink
echo ready
exec cat
"#;

#[derive(Debug)]
pub(crate) struct Namespaces {
    holder: Child,
}

impl Namespaces {
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "sh", "-ec", SETUP, "sh"])
            .args([program("bpfd"), program("bpfctl")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv and unshare are of util-linux");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut said = String::new();
            holder.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("cannot make the case's namespaces (as root?): {said}");
        }
        Self { holder }
    }

    /// A command in the case's namespaces. It ends with the thread that starts it.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.enter()(program)
    }

    /// The way in, for another thread.
    pub(crate) fn enter(&self) -> impl Fn(&str) -> Command + Send + 'static {
        let target = format!("--target={}", self.holder.id());
        move |program| {
            let mut command = Command::new("nsenter");
            command.args([&target, "--net", "--mount", "--root", "setpriv", "--pdeathsig", "KILL", program]);
            command
        }
    }

    /// A path of the case, as this process sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// The network that chains are in.
    pub(crate) fn network(&self) -> Netns {
        Netns::of_process(self.holder.id()).unwrap()
    }

    /// Processes in the case's mounts, but for the holder.
    pub(crate) fn others(&self) -> Vec<u32> {
        let mounts = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = mounts(self.holder.id());
        let processes = std::fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.holder.id() && mounts(*pid) == own).collect()
    }

    /// Runs a shell script in the case's namespaces.
    pub(crate) fn shell(&self, script: &str) -> String {
        let mut shell = self.command("sh").args(["-e"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let done = shell.wait_with_output().unwrap();
        assert!(done.status.success(), "{script}: {}", done.status);
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Already gone is as good; it is waited for either way.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
