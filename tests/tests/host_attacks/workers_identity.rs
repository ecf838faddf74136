//! Workers: nobody else reads, traces or stops one, whoever runs as `nobody` or even as its own user; one that was taken over reaches
//! nothing that the daemon trusts, and has one host's credentials alone. A damaged image store is set aside.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Host, eventually};
use bytecode_image::media;
use bytecode_image::testing::registry::{Mode, Options, TestRegistry};

use crate::world::{ETC, Images, image};

/// As whom many services run.
const NOBODY: u32 = 65_534;
const STORE: &str = "/run/case/var/lib/bpfd/images";

/// A fetch worker that runs now.
#[derive(Clone, Copy, Debug)]
struct Fetcher {
    pid: u32,
    uid: u32,
}

/// Every fetch worker of a daemon.
fn fetchers(daemon: u32) -> Vec<Fetcher> {
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let pids: Vec<u32> = children.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let fetcher = |pid: u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        line.contains("--worker\0fetch").then_some(())?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // The first moments of a worker are root's.
        let uid = uids.split_whitespace().next()?.parse().ok().filter(|uid| *uid != 0)?;
        Some(Fetcher { pid, uid })
    };
    pids.into_iter().filter_map(fetcher).collect()
}

impl Images {
    /// A pull that its registry does not answer, and its worker. Drop the first to end it.
    #[track_caller]
    fn stalled(&self, reference: &str) -> (Pull, Fetcher) {
        let known: Vec<u32> = fetchers(self.host.pid()).iter().map(|fetcher| fetcher.pid).collect();
        let mut command = self.host.command("/run/bin/bpfctl");
        command.args(["image", "pull", reference]).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
        let pull = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let new = || fetchers(self.host.pid()).into_iter().find(|fetcher| !known.contains(&fetcher.pid));
        (Pull(pull), eventually(new, Option::is_some).expect("a fetch worker"))
    }
}

struct Pull(Child);

impl Drop for Pull {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether a shell of this user can do something. `9` is open on a directory, if there is one.
fn can(host: &Host, uid: u32, directory: Option<&str>, script: &str) -> bool {
    let mut command = host.command("sh");
    let outer = match directory {
        Some(directory) => format!("exec 9<{directory}; "),
        None => String::new(),
    };
    let ids = format!("--reuid={uid} --regid={uid} --clear-groups");
    command.args(["-c", &format!("{outer}exec setpriv {ids} sh -c \"$1\""), "sh", script]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn no_other_process_reads_traces_or_stops_a_worker() {
    let images = Images::signed();
    images.registry.behave("team/app", Mode::Stall);
    let (pull, Fetcher { pid, uid }) = images.stalled("registry/team/app:1");
    assert_ne!(uid, NOBODY);
    // What ptrace(2) asks, the kernel asks of these too (`ptrace_may_access`).
    let looks = ["cat /proc/PID/environ", "ls /proc/PID/fd", ": </proc/PID/mem", "cat /proc/PID/maps"];
    for who in [NOBODY, uid] {
        let mut control = images.host.command("setpriv");
        control.args([&format!("--reuid={who}"), &format!("--regid={who}"), "--clear-groups", "sleep", "60"]);
        let mut other = Pull(control.stdin(Stdio::null()).spawn().unwrap());
        for look in looks {
            let at = |pid: u32| can(&images.host, who, None, &look.replace("PID", &pid.to_string()));
            assert!(!at(pid), "uid {who}: {look}");
            assert!(eventually(|| at(other.0.id()), |seen| *seen), "the control, uid {who}: {look}");
        }
        other.0.kill().unwrap();
    }
    assert!(!can(&images.host, NOBODY, None, &format!("kill -STOP {pid}")));
    drop(pull);
}

#[test]
fn workers_that_run_at_the_same_time_are_different_users() {
    let mut images = Images::signed();
    images.publish("open/app", &image());
    images.registry.behave("team/app", Mode::Stall);
    images.registry.behave("open/app", Mode::Stall);
    let one = images.stalled("registry/team/app:1");
    let other = images.stalled("registry/open/app:1");
    assert_ne!(one.1.uid, other.1.uid);
    drop((one, other));
    // Where packages made a user for them, it is that one.
    images.host.shell("echo bpfd-worker:x:815816:815817::/:/bin/false >>/run/passwd");
    images.host.stop();
    images.host.start();
    let (pull, Fetcher { uid, .. }) = images.stalled("registry/team/app:1");
    assert_eq!(uid, 815_816);
    drop(pull);
    images.host.stop();
    // Or a number of the administrator's choice.
    images.host.shell("grep -v bpfd-worker /run/passwd >/run/kept; cat /run/kept >/run/passwd");
    fs::write(images.host.path(&format!("{ETC}/bpfd.toml")), "[workers]\nuid_base = 815900\n").unwrap();
    images.host.start();
    let (pull, Fetcher { uid, .. }) = images.stalled("registry/team/app:1");
    // Those that wait for an object have the first ones.
    assert!((815_900..815_910).contains(&uid), "{uid}");
    drop(pull);
}

#[test]
fn a_worker_that_was_taken_over_reaches_nothing_that_the_daemon_trusts() {
    let images = Images::signed();
    images.publish("open/app", &image());
    images.registry.behave("team/app", Mode::Stall);
    let (pull, Fetcher { pid, uid }) = images.stalled("registry/team/app:1");
    let given = eventually(|| directories(pid), |found| !found.is_empty());
    let [given] = given.as_slice() else { panic!("it has {given:?}") };
    // Its own directory it may fill, that is what it is for.
    assert!(can(&images.host, uid, Some(given), "echo x >/proc/self/fd/9/part"), "the control");
    // In the way of every name that the daemon gives to a file that it stages.
    for name in ["index.json.new", "oci-layout.new"] {
        can(&images.host, uid, Some(given), &format!("mkdir -p /proc/self/fd/9/{name}/x"));
    }
    for beside in ["..", "../..", "../../blobs/sha256"] {
        assert!(!can(&images.host, uid, Some(given), &format!(">/proc/self/fd/9/{beside}/x")), "{beside}");
    }
    images.host.bpfctl("load -q --image registry/open/app:1 xdp -i uplink").ok();
    let others = owned_by_others(&images.host.path(STORE));
    assert_eq!(others, Vec::<String>::new());
    drop(pull);
}

/// Directories that a process has open below the store.
fn directories(pid: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let directories = open.filter(|open| fs::metadata(open).is_ok_and(|of| of.is_dir()));
    let paths = directories.filter_map(|open| Some(fs::read_link(open).ok()?.to_str()?.to_owned()));
    paths.filter(|path| path.starts_with(STORE)).collect()
}

/// Everything but what workers are given, if it is not root's.
fn owned_by_others(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("apart.") {
            continue;
        }
        if (metadata.uid(), metadata.gid(), metadata.mode() & 0o022) != (0, 0, 0) {
            found.push(name.to_owned());
        }
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

#[test]
fn a_worker_has_the_credentials_of_the_host_that_it_asks_and_no_others() {
    let images = Images::at(Options::default(), "mirrors = [{ endpoint = \"10.0.0.1:5001\", http = true }]\n");
    images.publish("open/app", &image());
    let listen = ([10, 0, 0, 1], 5001).into();
    let mirror = images.host.within(|| TestRegistry::start(Options { listen, ..Options::default() })).unwrap();
    // `puller:own-S3CRET`, `puller:mirror-S3CRET`.
    let auth = r#"{"auths": {"registry": {"auth": "cHVsbGVyOm93bi1TM0NSRVQ="},
                             "10.0.0.1:5001": {"auth": "cHVsbGVyOm1pcnJvci1TM0NSRVQ="}}}"#;
    fs::write(images.host.path(&format!("{ETC}/auth.json")), auth).unwrap();
    let stalls = image();
    mirror.put_blob(&stalls.config);
    mirror.put_blob(&stalls.layer);
    mirror.put_manifest("open/app", "stalls", media::MANIFEST, &stalls.manifest);
    mirror.behave("open/app", Mode::Stall);
    let (pull, worker) = images.stalled("registry/open/app:stalls");
    let has = |pid: u32| {
        let memory = memory(pid);
        ["own-S3CRET", "mirror-S3CRET"].map(|secret| memory.windows(secret.len()).any(|at| at == secret.as_bytes()))
    };
    assert_eq!(eventually(|| has(worker.pid), |found| found.contains(&true)), [false, true], "the mirror's worker");
    drop(pull);
    assert!(eventually(|| fetchers(images.host.pid()), Vec::is_empty).is_empty());
    // The mirror has no such image: the registry itself is asked, by another worker.
    mirror.behave("open/app", Mode::Honest);
    images.registry.behave("open/app", Mode::Stall);
    let before = mirror.seen().len();
    let (pull, _one_of_both) = images.stalled("registry/open/app:1");
    let own = || fetchers(images.host.pid()).into_iter().find(|worker| has(worker.pid)[0]);
    let own = eventually(own, Option::is_some).unwrap();
    assert_eq!(has(own.pid), [true, false], "the registry's worker");
    assert!(mirror.seen().len() > before, "the mirror was asked first");
    drop(pull);
    images.registry.behave("open/app", Mode::Honest);
    images.host.bpfctl("image pull -q registry/open/app:1").ok();
}

/// What a process can write in its memory, all of it.
fn memory(pid: u32) -> Vec<u8> {
    let mut found = Vec::new();
    let (Ok(maps), Ok(mut memory)) =
        (fs::read_to_string(format!("/proc/{pid}/maps")), File::open(format!("/proc/{pid}/mem")))
    else {
        return found;
    };
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (first, last) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [first, last] = [first, last].map(|address| u64::from_str_radix(address, 16).unwrap());
        if last - first > 64 << 20 {
            continue;
        }
        memory.seek(SeekFrom::Start(first)).unwrap();
        let mut piece = vec![0; usize::try_from(last - first).unwrap()];
        // What is not there cannot be read, and holds nothing.
        if memory.read_exact(&mut piece).is_ok() {
            found.extend(piece);
        }
    }
    found
}

#[test]
fn a_damaged_image_store_is_set_aside_and_said() {
    let mut host = Host::new();
    for damage in [
        "echo '{' >images/index.json",
        "rm images/index.json; mkdir -p images/index.json/x",
        "rm images/index.json; ln -s /etc/passwd images/index.json",
        "echo '{\"imageLayoutVersion\":\"7\"}' >images/oci-layout",
        "rm -r images/blobs; echo x >images/blobs",
        "rm -r images; echo x >images",
    ] {
        host.stop();
        host.shell(&format!("cd /run/case/var/lib/bpfd; {damage}"));
        host.start();
        let checks = host.ask(async |daemon| daemon.doctor(pb::DoctorRequest {}).await).checks;
        let start: Vec<&str> =
            checks.iter().filter(|check| check.id == "start").map(|check| check.detail.as_str()).collect();
        let [said] = start.as_slice() else { panic!("{damage}: {start:?}") };
        assert!(said.starts_with("the image store was damaged ("), "{said}");
        assert!(
            said.ends_with("is now `/run/case/var/lib/bpfd/images.damaged`; pull what you need again, then remove it")
        );
        assert_eq!(host.items("image ls"), Vec::<serde_json::Value>::new());
        // It is not said of the new store.
        host.stop();
        host.start();
    }
}
