//! One case's host: its daemon, its command line, and what must hold when the case ends.
//!
//! Long because each case is written in these words, and they are read together.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bpfd_client::proto::v1 as pb;
use bpfd_client::{Client, ClientError};
use bpfd_sys::bpf::{Map, obj_get};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::audit::Audit;
use crate::census::{Census, Pins, Rows};
use crate::namespaces::Namespaces;
use crate::objects::example;
use crate::output::Output;

/// How long anything may take before the case fails. A guest's emulated processor is slow.
const LIMIT: Duration = Duration::from_secs(60);

/// The daemon's `--root`.
const ROOT: &str = "/run/case";

/// See the module. Dropped without a panic, it checks that all holds, takes everything away and checks that nothing is left.
#[derive(Debug)]
pub struct Host {
    namespaces: Namespaces,
    daemon: Option<Daemon>,
    /// Every BPF object that a check of this case saw.
    seen: RefCell<Census>,
    /// Of these, programs as they go into a dispatcher's slot.
    copies: RefCell<BTreeSet<u32>>,
    logs: Cell<u32>,
    /// How often it was booted again.
    boots: u32,
    connection: RefCell<Option<Connection>>,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

/// A connection to one daemon.
#[derive(Debug)]
struct Connection {
    daemon: u32,
    used: Instant,
    client: Client,
    /// Last, as the client's task is in it.
    runtime: Runtime,
}

impl Connection {
    /// Nothing is read from it between two questions: the daemon's keepalive would end it after a while.
    fn answers_to(&self, daemon: u32) -> bool {
        self.daemon == daemon && self.used.elapsed() < Duration::from_secs(10)
    }
}

impl Host {
    /// A host whose daemon is ready.
    #[track_caller]
    pub fn new() -> Self {
        let mut host = Self::without_daemon();
        host.start();
        host
    }

    /// A host whose daemon keeps each chain in one program, whatever the kernel allows.
    #[track_caller]
    pub fn fused() -> Self {
        let mut host = Self::without_daemon();
        host.set_fused();
        host.start();
        host
    }

    /// The next start keeps each chain in one program, whatever the kernel allows.
    pub fn set_fused(&self) {
        let etc = self.path(&format!("{ROOT}/etc/bpfd"));
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("bpfd.toml"), "[chain]\nmode = \"fused\"\n").unwrap();
    }

    /// Whether the daemon shares interfaces by libxdp's protocol: where the kernel allows it.
    #[track_caller]
    pub fn shares(&self) -> bool {
        self.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await).xdp_chain_mode == "libxdp"
    }

    /// A host with three counters on `uplink`, in the order c, b, a: they count 100, 10 and 1 a packet.
    #[track_caller]
    pub fn with_counters() -> Self {
        let host = Self::new();
        host.counter("a", 90, 1);
        host.counter("b", 50, 10);
        host.counter("c", 20, 100);
        host
    }

    /// Loads `xdp-counter` on `uplink`: it counts `step` a packet.
    #[track_caller]
    pub fn counter(&self, name: &str, priority: u32, step: u32) {
        let object = example("xdp-counter");
        let load = format!("load --path {object} --name {name} --set step={step}");
        self.bpfctl(&format!("{load} xdp -i uplink --priority {priority}")).ok();
    }

    /// A host on which nothing runs yet.
    pub fn without_daemon() -> Self {
        let (daemon, seen, copies, logs) = (None, RefCell::default(), RefCell::default(), Cell::new(0));
        Self { namespaces: Namespaces::new(), daemon, seen, copies, logs, boots: 0, connection: RefCell::default() }
    }

    /// Starts the daemon and waits until it says that it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with more in its environment.
    #[track_caller]
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.daemon =
            Some(self.spawn(environment).unwrap_or_else(|status| panic!("bpfd ended: {status}{}", self.log())));
    }

    /// Starts the daemon, which may end instead; gives how.
    pub fn tries_to_start(&mut self) -> Result<(), ExitStatus> {
        self.daemon = Some(self.spawn(&[])?);
        Ok(())
    }

    /// A daemon on this host's root, ready; or how it ended before it was.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> Result<Daemon, ExitStatus> {
        let mut command = self.command("/run/bin/bpfd");
        command.envs(environment.iter().copied());
        self.spawn_as(command)
    }

    /// The same without some of root's capabilities, as `setpriv` names them.
    pub fn spawn_without(&self, capabilities: &[&str]) -> Result<Daemon, ExitStatus> {
        let without: Vec<String> = capabilities.iter().map(|capability| format!("-{capability}")).collect();
        let mut command = self.command("setpriv");
        command.args([&format!("--bounding-set={}", without.join(",")), "--inh-caps=-all", "/run/bin/bpfd"]);
        self.spawn_as(command)
    }

    fn spawn_as(&self, mut command: Command) -> Result<Daemon, ExitStatus> {
        let number = self.logs.replace(self.logs.get() + 1);
        let notify = format!("/run/notify-{number}");
        let ready = UnixDatagram::bind(self.path(&notify)).unwrap();
        let log = std::fs::File::create(self.path(&format!("/run/log-{number}"))).unwrap();
        command.args(["--root", ROOT]).env("NOTIFY_SOCKET", &notify);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut daemon = Daemon { child };
        let process = pidfd_open(Pid::from_child(&daemon.child), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(LIMIT).unwrap();
        loop {
            let mut either = [PollFd::new(&ready, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
            assert!(poll(&mut either, Some(&limit)).unwrap() > 0, "bpfd does not become ready{}", self.log());
            if either[0].revents().is_empty() {
                return Err(daemon.child.wait().unwrap());
            }
            let mut said = [0; 64];
            let length = ready.recv(&mut said).unwrap();
            if said[..length].starts_with(b"READY=1") {
                return Ok(daemon);
            }
        }
    }

    /// A start that dies at a fail point.
    #[track_caller]
    pub fn starts_and_dies(&self, point: &str) {
        let ended = self.spawn(&[("FAILPOINTS", &format!("{point}=return"))]).err();
        assert_eq!(ended.and_then(|status| status.signal()), Some(9), "{point}: {ended:?}{}", self.log());
    }

    /// Stops the daemon as systemd does.
    #[track_caller]
    pub fn stop(&mut self) {
        // The daemon waits for its callers to go.
        self.connection.take();
        let status = self.daemon.take().expect("the daemon runs").end(Signal::TERM);
        assert!(status.success(), "bpfd ended: {status}{}", self.log());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.daemon.take().expect("the daemon runs").end(Signal::KILL);
    }

    /// A reboot, as far as bpfd can tell: no process and no pin is left, no interface runs anything, and the boot has another id.
    pub fn reboot(&mut self) {
        if self.daemon.is_some() {
            self.kill();
        }
        self.connection.take();
        self.boots += 1;
        self.shell(&format!(
            "for interface in $(ip -o link show | sed 's/^[0-9]*: *\\([^:@]*\\).*/\\1/'); do
               ip link set $interface xdp off; tc qdisc del dev $interface clsact 2>/run/nothing || true
             done
             rm -rf {ROOT}/sys/fs/bpf/bpfd {ROOT}/sys/fs/bpf/xdp {ROOT}/run
             printf '00000000-0000-4000-8000-%012d' {} >/run/boot_id
             id=/proc/sys/kernel/random/boot_id
             test \"$(cat $id)\" = \"$(cat /run/boot_id)\" || mount --bind /run/boot_id $id",
            self.boots
        ));
    }

    /// Waits for a daemon that ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.daemon.take().expect("the daemon runs").wait()
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").child.id()
    }

    /// The most memory that the daemon had, in MiB.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" 0 kB");
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
    }

    /// `bpfctl` with these words, as root.
    pub fn bpfctl(&self, line: &str) -> Output {
        self.output(self.command("/run/bin/bpfctl"), &format!("bpfctl {line}"))
    }

    /// `bpfctl` as somebody: user, group, and other groups.
    pub fn bpfctl_as(&self, user: u32, group: u32, groups: &[u32], line: &str) -> Output {
        let mut command = self.command("setpriv");
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        command.args([format!("--reuid={user}"), format!("--regid={group}")]);
        command.arg(if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={}", groups.join(",")) });
        command.arg("/run/bin/bpfctl");
        self.output(command, &format!("bpfctl {line}"))
    }

    fn output(&self, mut command: Command, line: &str) -> Output {
        command.args(line.split(' ').skip(1)).env("BPFD_SOCKET", format!("{ROOT}/run/bpfd/bpfd.sock"));
        Output::of(line, command.stdin(Stdio::null()).output().unwrap())
    }

    /// The items of `bpfctl … -o json`.
    #[track_caller]
    pub fn items(&self, line: &str) -> Vec<Value> {
        let said = self.bpfctl(&format!("{line} -o json"));
        assert_eq!(said.code, 0, "{said}");
        let mut document: Value = serde_json::from_str(&said.stdout).unwrap();
        match document["items"].take() {
            Value::Array(items) => items,
            other => panic!("{line}: {other}"),
        }
    }

    /// What the program `xdp-counter` of this app counted, over all processors.
    #[track_caller]
    pub fn counted(&self, app: &str) -> u64 {
        self.sum(app, "packets")
    }

    /// The sum over all processors of an app's one-slot map, read through the pin that the daemon names.
    #[track_caller]
    pub fn sum(&self, app: &str, map: &str) -> u64 {
        let shown = self.ask(async |daemon| daemon.app(pb::GetAppRequest { app: app.to_owned() }).await);
        let pin = shown.maps.iter().find(|shown| shown.name == map).and_then(|map| map.pin_path.as_deref()).unwrap();
        let map = Map::from_fd(obj_get(&self.path(pin)).unwrap()).unwrap();
        let values = map.lookup(&[0; 4]).unwrap().unwrap();
        values.chunks(8).map(|value| u64::from_ne_bytes(value.try_into().unwrap())).sum()
    }

    /// Asks for something that must be refused with this exit code: its standard error, for a snapshot. Nothing is changed by it:
    /// not what is listed, not what is pinned; that all invariants hold is asked when the case ends.
    #[track_caller]
    pub fn refuses(&self, code: i32, line: &str) -> String {
        self.unchanged(|| self.bpfctl(line)).refused(code)
    }

    /// The same for any way of asking.
    #[track_caller]
    pub fn unchanged(&self, ask: impl Fn() -> Output) -> Output {
        let look = || {
            let listed = self.ask(async |daemon| {
                let apps = daemon.apps(pb::ListAppsRequest::default()).await?;
                Ok((apps, daemon.links(pb::ListLinksRequest::default()).await?))
            });
            (listed, self.pinned())
        };
        let before = look();
        let output = ask();
        assert_eq!(look(), before, "changed by: {output}{}", self.log());
        output
    }

    /// Runs `bpfctl` until it prints this.
    #[track_caller]
    pub fn await_output(&self, line: &str, wanted: &str) -> Output {
        let output = eventually(|| self.bpfctl(line), |output| output.stdout.contains(wanted));
        assert!(output.stdout.contains(wanted), "never `{wanted}`: {output}{}", self.log());
        output
    }

    /// A path of the case, as this process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.namespaces.path(inside)
    }

    /// The daemon's `--root`, as the case sees it.
    pub fn root(&self) -> &'static Path {
        Path::new(ROOT)
    }

    /// Does something in the case's network.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        self.namespaces.network().within(work).unwrap()
    }

    /// Makes the groups `bpfd` and `bpfd-view` and a member of each, for a daemon that starts later. The host's own files are left alone.
    pub fn make_group(&self) {
        self.shell(
            "for file in group passwd; do
               cp /etc/$file /run/$file
               mount --bind /run/$file /etc/$file
             done
             printf '%s\\n' bpfd:x:815:member bpfd-view:x:816:viewer >>/etc/group
             printf '%s\\n' member:x:4711:4711::/:/bin/sh viewer:x:4712:4712::/:/bin/sh >>/etc/passwd",
        );
    }

    /// `bpfctl` as the member that `make_group` made.
    pub fn bpfctl_as_member(&self, line: &str) -> Output {
        self.bpfctl_as(4711, 4711, &[815], line)
    }

    /// `bpfctl` as the member of `bpfd-view` that `make_group` made.
    pub fn bpfctl_as_viewer(&self, line: &str) -> Output {
        self.bpfctl_as(4712, 4712, &[816], line)
    }

    /// A command in the case's namespaces.
    pub fn command(&self, program: &str) -> Command {
        self.namespaces.command(program)
    }

    /// A command in the network at the other end.
    pub(crate) fn in_far(&self, program: &str) -> Command {
        self.way_to_far()(program)
    }

    /// The way there, for another thread.
    pub(crate) fn way_to_far(&self) -> impl Fn(&str) -> Command + Send + 'static {
        let enter = self.namespaces.enter();
        move |program| {
            let mut command = enter("nsenter");
            command.args(["--net=/run/netns/far", program]);
            command
        }
    }

    /// Runs a shell script in the case's namespaces.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.namespaces.shell(script)
    }

    /// What the daemon answers, asked by this process: a `bpfctl` for each question takes most of a second in a guest.
    #[track_caller]
    pub fn ask<T>(&self, question: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> T {
        self.try_ask(question).unwrap_or_else(|error| panic!("{error}{}", self.log()))
    }

    /// The same, where the daemon may refuse, or die.
    pub fn try_ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut connection = self.connection.borrow_mut();
        let (runtime, client) = match connection.take().filter(|connection| connection.answers_to(self.pid())) {
            Some(Connection { runtime, client, .. }) => (runtime, client),
            None => {
                let socket = self.path(&format!("{ROOT}/run/bpfd/bpfd.sock"));
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                let client = runtime.block_on(Client::connect(&socket, Duration::ZERO))?;
                (runtime, client)
            }
        };
        let mut client = client;
        let answer = runtime.block_on(question(&mut client));
        *connection = Some(Connection { daemon: self.pid(), used: Instant::now(), client, runtime });
        answer
    }

    /// What `doctor` finds wrong: K1 to K4, K11, and anything that start-up could not repair.
    #[track_caller]
    pub fn findings(&self) -> Vec<String> {
        let checks = self.ask(async |daemon| daemon.doctor(pb::DoctorRequest {}).await).checks;
        let wrong = checks.iter().filter(|check| check.status() == pb::CheckStatus::Fail || check.id == "start");
        wrong.map(|check| format!("{}: {}", check.id, check.detail)).collect()
    }

    /// All invariants that can be asked of a case hold now. K8: as many objects are pinned as the rows say, and the daemon holds
    /// no other.
    #[track_caller]
    pub fn check(&self) {
        let findings = self.findings();
        assert!(findings.is_empty(), "{findings:#?}{}", self.log());
        let wrong = self.audit().wrong;
        assert!(wrong.is_empty(), "the audit log: {wrong:#?}{}", self.log());
        let (apps, links, chains) = self.ask(async |daemon| {
            let apps = daemon.apps(pb::ListAppsRequest::default()).await?;
            let links = daemon.links(pb::ListLinksRequest::default()).await?;
            Ok((apps, links, daemon.chains(pb::ListChainsRequest::default()).await?))
        });
        let pins = Pins::read(&self.bpffs());
        let wrong = pins.wrong(&Rows { apps, links, chains }, &mut self.copies.borrow_mut());
        assert!(wrong.is_empty(), "K8: {wrong:#?}{}", self.log());
        let held = Census::held_by(self.pid());
        self.seen.replace_with(|seen| seen.and(&pins.all()).and(&held));
        let only =
            eventually(|| Census::held_by(self.pid()).without(&self.pinned()), |only| *only == Census::default());
        assert_eq!(only, Census::default(), "K8: the daemon holds what is not pinned{}", self.log());
    }

    /// `check` once the daemon has heard of what somebody else changed.
    #[track_caller]
    pub fn check_settled(&self) {
        drop(eventually(|| self.findings(), Vec::is_empty));
        self.check();
    }

    /// The audit log as it is on disk.
    pub fn audit(&self) -> Audit {
        Audit::read(&self.path(ROOT))
    }

    fn bpffs(&self) -> PathBuf {
        self.path(&format!("{ROOT}/sys/fs/bpf"))
    }

    /// What is pinned below the root.
    pub fn pinned(&self) -> Census {
        Census::pinned(&self.bpffs())
    }

    /// The log of the last daemon, for the words of a failure.
    pub fn log(&self) -> String {
        let number = self.logs.get().saturating_sub(1);
        let text = std::fs::read_to_string(self.path(&format!("/run/log-{number}"))).unwrap_or_default();
        format!("\n--- bpfd's log\n{text}")
    }

    fn end(&mut self) {
        if self.daemon.is_some() {
            self.check();
            if self.ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await).is_empty() {
                self.stop();
            } else {
                self.bpfctl("unload --all").ok();
                let left = self.ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await);
                assert!(left.is_empty(), "{left:?}");
                self.check();
                self.stop();
            }
        }
        // It says whose the pins are as long as there is a place for pins.
        self.shell(&format!("rm -f {ROOT}/sys/fs/bpf/bpfd/v1/state"));
        let links = self.shell("ip link show");
        assert!(!links.contains("xdp"), "left on an interface: {links}");
        let processes = eventually(|| self.namespaces.others(), Vec::is_empty);
        assert!(processes.is_empty(), "processes are left: {processes:?}");
        let seen = self.seen.borrow();
        let alive = eventually(|| seen.alive(), |alive| *alive == Census::default());
        assert_eq!(alive, Census::default(), "BPF objects are left");
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "belongs to the test's own words")]
            {
                eprintln!("{}", self.log());
            }
        } else {
            self.end();
        }
    }
}

impl Daemon {
    fn end(self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.wait()
    }

    fn wait(mut self) -> ExitStatus {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(LIMIT).unwrap();
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "bpfd does not end");
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks until the answer is the one wanted, or the limit has come: the last answer. The kernel frees objects a moment after their
/// last holder went, and tells nobody: asked without a pause, an emulated processor has no time to do it.
pub fn eventually<T>(ask: impl Fn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    let limit = Instant::now() + LIMIT;
    loop {
        let answer = ask();
        if wanted(&answer) || Instant::now() > limit {
            return answer;
        }
        // Nothing to wait for but the time.
        poll(&mut [], Some(&PAUSE)).unwrap();
    }
}
