//! Hosts as earlier versions of bpfd left them: today's daemon starts on each, finds everything, and touches nothing that runs.
//!
//! Each directory of `tests/layouts/` is one host, recorded of the version that wrote it; its README says how. A later layout is a
//! directory more, and nothing here changes.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the lints exempt test functions, not what they share"
)]

mod kernel;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bpfd_client::proto::v1 as pb;
use bpfd_sys::bpf::{self, ProgId};
use bpfd_sys::netlink::Route;
use bpfd_tests::{Census, Host};
use kernel::{Interface, Objects, Step, within};
use shown::shown;

/// Where the daemon's pins are.
const BPFFS: &str = "/run/case/sys/fs/bpf";

const NOTHING_RUNS: &str = "ip link set uplink xdp off; ip -n far link set far xdp off";

/// What records of chains begin with, `bpfdchn\0`.
const MAGIC: &str = "6270666463686e00";

/// A host as an old daemon left it.
struct Left {
    host: Host,
    /// What is pinned.
    kept: Objects,
    /// What is pinned, and the daemon that pinned it would have removed.
    swept: Objects,
}

/// A recorded host.
struct Layout {
    dir: PathBuf,
    steps: Vec<Step>,
}

impl Layout {
    fn read(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("layouts").join(name);
        let steps = fs::read_to_string(dir.join("kernel.jsonl")).unwrap();
        Self { steps: steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), dir }
    }

    fn all() -> Vec<String> {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("layouts")).unwrap();
        let dirs = entries.map(Result::unwrap).filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = dirs.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn shown(&self) -> String {
        fs::read_to_string(self.dir.join("shown.txt")).unwrap()
    }

    /// The host as the old daemon left it. Nothing is held but what is pinned and what interfaces run.
    fn make(&self) -> Left {
        let host = Host::without_daemon();
        // Some apps are a member's, by what the built-in rules allow the group.
        host.make_group();
        host.shell(&format!("mkdir -p {BPFFS}; mount -t bpf bpf {BPFFS}"));
        kernel::mount_tracefs(&host);
        copy(&self.dir.join("root"), &host.path("/run/case"));
        let bpffs = host.path(BPFFS);
        let made = kernel::make(&host, &bpffs, &self.steps);
        let rows = made.named(&fs::read_to_string(self.dir.join("state.sql")).unwrap());
        // SQLite follows links in a path, and would leave the case by /proc/PID/root.
        let database = tempfile::NamedTempFile::new().unwrap();
        rusqlite::Connection::open(database.path()).unwrap().execute_batch(&rows).unwrap();
        fs::copy(database.path(), host.path("/run/case/var/lib/bpfd/state.db")).unwrap();
        let (kept, swept) = made.pinned(&self.steps);
        drop(made);
        Left { host, kept, swept }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}

/// What runs: of each interface the program's number and when it was loaded.
fn running(host: &Host, layout: &Layout) -> BTreeMap<Interface, Option<(u32, u64)>> {
    let interfaces = layout.steps.iter().filter_map(|step| match step {
        Step::Attach { interface, .. } => Some(interface.clone()),
        _ => None,
    });
    let runs = |interface: Interface| {
        let row = within(host, &interface, || Route::open().unwrap().link_named(&interface.name).unwrap().unwrap());
        let program = row.xdp.program().map(|(_, ProgId(id))| {
            let fd = bpf::prog_by_id(ProgId(id)).unwrap();
            (id, bpf::prog_info(fd.as_fd()).unwrap().load_time_ns)
        });
        (interface, program)
    };
    interfaces.map(runs).collect()
}

/// Everything that is pinned, wherever.
fn pinned(host: &Host) -> Objects {
    let Census { programs, maps, links } = host.pinned();
    let of = |kind: &'static str, ids: BTreeSet<u32>| ids.into_iter().map(move |id| (kind, id));
    of("program", programs).chain(of("map", maps)).chain(of("link", links)).collect()
}

/// Today's daemon on a recorded host: what is not as it was.
fn brought_up(layout: &Layout, left: &mut Left) -> Vec<String> {
    let Left { host, kept, swept } = left;
    let ran = running(host, layout);
    assert!(ran.values().all(Option::is_some) && !kept.is_empty(), "{ran:?} {kept:?}");
    host.ping(5);

    host.start();
    let mut wrong = Vec::new();
    let mut differs = |what: &str, before: String, after: String| {
        if before != after {
            wrong.push(format!("{what}:\n{before}\n--- now\n{after}"));
        }
    };
    differs("what runs", format!("{ran:?}"), format!("{:?}", running(host, layout)));
    differs("what is shown", layout.shown(), shown(host));
    let pinned = pinned(host);
    differs("what was pinned", format!("{kept:?}"), format!("{:?}", &*kept & &pinned));
    differs(
        "what the old daemon would have removed",
        format!("{:?}", Objects::new()),
        format!("{:?}", &*swept & &pinned),
    );
    differs("what doctor finds", format!("{:?}", [(); 0]), format!("{:?}", host.findings()));
    differs("what runs after all that", format!("{ran:?}"), format!("{:?}", running(host, layout)));
    wrong
}

/// `None` if this kernel cannot keep chains as the layout does.
fn made(layout: &Layout) -> Option<Left> {
    let shares = layout.steps.iter().any(|step| matches!(step, Step::Link { to: kernel::To::Function(_), .. }));
    (!shares || Host::new().shares()).then(|| layout.make())
}

#[test]
fn every_recorded_host_is_brought_up_with_its_programs_untouched() {
    let layouts = Layout::all();
    assert!(!layouts.is_empty());
    for name in layouts {
        let layout = Layout::read(&name);
        let Some(mut left) = made(&layout) else {
            println!("skipped: {name}: this kernel lets no program replace a function of another");
            continue;
        };
        let wrong = brought_up(&layout, &mut left);
        let Left { mut host, .. } = left;
        assert!(wrong.is_empty(), "{name}: {}{}", wrong.join("\n"), host.log());
        host.check();
        // A restart finds nothing to do, and changes work.
        let ran = running(&host, &layout);
        host.stop();
        host.start();
        assert_eq!(running(&host, &layout), ran, "{name}");
        let apps = host.ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await);
        // Written before there was anything else: nobody asked for less.
        let links = host.ask(async |daemon| daemon.links(pb::ListLinksRequest::default()).await);
        assert!(apps.iter().all(|app| app.persist) && links.iter().all(|link| link.persist), "{name}");
        let app = apps.into_iter().find(|app| app.maps.iter().any(|map| map.name == "packets")).unwrap().name;
        host.bpfctl(&format!("attach {app} xdp -i uplink --priority 999")).ok();
        assert_ne!(running(&host, &layout), ran, "{name}");
        let before = host.counted(&app);
        host.ping(1);
        assert!(host.counted(&app) > before, "{name}");
        host.check();
        host.bpfctl("unload --all").ok();
        if running(&host, &layout).values().any(Option::is_some) {
            // Programs of peers, and our pins of what they run in, stay; nothing of bpfd's would be left on any other host.
            host.stop();
            host.shell(&format!("{NOTHING_RUNS}; rm -r {BPFFS}/bpfd {BPFFS}/xdp"));
        }
    }
}

/// No record of that version says what was asked for: what it left is kept, until an administrator decides.
#[test]
fn a_recorded_host_without_its_database_keeps_what_runs() {
    for name in Layout::all() {
        let layout = Layout::read(&name);
        let Some(Left { mut host, kept, .. }) = made(&layout) else {
            println!("skipped: {name}: this kernel lets no program replace a function of another");
            continue;
        };
        host.shell("rm /run/case/var/lib/bpfd/state.db");
        let ran = running(&host, &layout);
        for _ in 0..2 {
            host.start();
            assert_eq!(running(&host, &layout), ran, "{name}{}", host.log());
            assert_eq!(&kept - &pinned(&host), Objects::new(), "{name}{}", host.log());
            let state = host.ask(async |daemon| daemon.state(pb::GetStateRequest {}).await);
            assert_eq!(state.state(), pb::DaemonState::Recovered, "{name}{}", host.log());
            let unrecorded = |it: &pb::StateDifference| it.side() == pb::StateSide::Unrecorded;
            assert!(!state.differences.is_empty() && state.differences.iter().all(unrecorded), "{name}: {state:?}");
            let doctor = host.bpfctl("doctor");
            assert!(doctor.code == 12 && doctor.stdout.contains("RECOVERED: nothing says which"), "{name}: {doctor}");
            let chain = host.items("chain show uplink");
            assert_eq!(chain[0]["members"].as_array().map(Vec::is_empty), Some(false), "{name}: {chain:?}");
            host.stop();
        }
        host.start();
        host.bpfctl("state adopt --yes").ok();
        host.check();
        host.stop();
        host.shell(&format!("{NOTHING_RUNS}; rm -r {BPFFS}/bpfd; rm -rf {BPFFS}/xdp"));
    }
}

/// The records say which members a chain has: a daemon that cannot read them does not find it.
#[test]
fn a_layout_that_is_not_read_is_noticed() {
    for name in Layout::all() {
        let mut layout = Layout::read(&name);
        for step in &mut layout.steps {
            if let Step::Value { value, .. } = step
                && value.starts_with(MAGIC)
            {
                // The version is behind it.
                value.replace_range(MAGIC.len()..MAGIC.len() + 2, "ff");
            }
        }
        let Some(mut left) = made(&layout) else {
            println!("skipped: {name}: this kernel lets no program replace a function of another");
            continue;
        };
        let wrong = brought_up(&layout, &mut left);
        assert!(!wrong.is_empty(), "{name}");
        // Pins of chains that it could not read stay: nothing of this host holds at its end.
        left.host.kill();
        left.host.shell(NOTHING_RUNS);
    }
}
