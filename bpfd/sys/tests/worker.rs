//! Workers and their confinement on the real kernel. This binary spawns itself with `--worker KIND`, as the daemon
//! does, so it is its own harness. Needs root and fails without.
//!
//! Long because both sides of each attempt, the worker's and the test's, are best read together.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test harness prints; a worker's last words are tested"
)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "the lint does not see that a harness-less binary is a test")]

use bpfd_sys::bpf::{self, AttachType, ProgId, ProgLoad, ProgramType};
use bpfd_sys::channel::{Channel, Message};
use bpfd_sys::confine::{self, Landlock};
use bpfd_sys::worker::{CallError, Identity, Ids, Limits, Spec, Stderr, Worker, begin};
use bpfd_sys::{caps, seal};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--worker"), Some(kind)) => {
            child(&kind, arguments.next().as_deref());
            ExitCode::SUCCESS
        }
        (Some("--list"), _) => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        (filter, _) => run_all(filter.filter(|filter| !filter.starts_with('-')).unwrap_or_default()),
    }
}

const TESTS: &[(&str, fn())] = &[
    ("a_parser_computes_and_answers", a_parser_computes_and_answers),
    ("a_parser_that_opens_or_connects_is_killed", a_parser_that_opens_or_connects_is_killed),
    ("a_parser_without_its_filter_would_do_all_that", a_parser_without_its_filter_would_do_all_that),
    ("a_fetcher_reaches_the_network_and_its_files_alone", a_fetcher_reaches_the_network_and_its_files_alone),
    ("a_fetcher_listens_nowhere_by_its_filter_alone", a_fetcher_listens_nowhere_by_its_filter_alone),
    ("workers_of_the_same_user_cannot_signal_each_other", workers_of_the_same_user_cannot_signal_each_other),
    ("a_fetcher_cuts_no_file_that_it_was_not_given", a_fetcher_cuts_no_file_that_it_was_not_given),
    ("an_idlookup_gives_descriptors_and_makes_no_map", an_idlookup_gives_descriptors_and_makes_no_map),
    ("a_worker_is_who_it_was_to_be_with_an_empty_environment", a_worker_is_who_it_was_to_be_with_an_empty_environment),
    ("nobody_of_its_user_reads_or_traces_a_worker", nobody_of_its_user_reads_or_traces_a_worker),
    ("roots_ids_are_no_identity", roots_ids_are_no_identity),
    (
        "a_binary_below_a_directory_of_root_alone_runs_as_another_user",
        a_binary_below_a_directory_of_root_alone_runs_as_another_user,
    ),
    ("a_worker_that_panics_leaves_its_last_words", a_worker_that_panics_leaves_its_last_words),
    ("a_worker_that_hangs_is_killed_at_the_deadline", a_worker_that_hangs_is_killed_at_the_deadline),
    ("a_worker_that_takes_too_much_is_killed_by_its_limits", a_worker_that_takes_too_much_is_killed_by_its_limits),
    ("a_worker_sees_no_descriptor_of_its_parent", a_worker_sees_no_descriptor_of_its_parent),
    ("a_dropped_worker_is_dead_and_reaped", a_dropped_worker_is_dead_and_reaped),
    ("a_worker_dies_with_the_thread_that_spawned_it", a_worker_dies_with_the_thread_that_spawned_it),
    ("confinement_with_two_threads_is_refused", confinement_with_two_threads_is_refused),
];

fn run_all(filter: &str) -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let (mut passed_count, mut failed) = (0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(filter)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        failed += u32::from(!passed);
        passed_count += u32::from(passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    // libtest's last line, by which `cargo xtask test` counts.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed_count} passed; {failed} failed; 0 ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn limits() -> Limits {
    let address_space = 256 << 20;
    Limits { address_space, cpu_seconds: 10, open_files: 32, file_size: 1 << 20, wall: Some(Duration::from_secs(60)) }
}

fn spec(kind: &str) -> Spec {
    Spec { kind: kind.into(), limits: limits(), identity: Identity::Own(ids()), stderr: Stderr::Keep }
}

/// Nobody's on this host.
const UID: u32 = 61_999;

fn ids() -> Ids {
    Ids::new(UID, UID).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// One call to a worker of its own.
fn call(kind: &str, message: &str) -> Result<String, CallError> {
    let answer = Worker::spawn(&spec(kind)).unwrap().call(message.as_bytes(), &[], soon());
    answer.map(|Message { bytes, .. }| String::from_utf8(bytes).unwrap())
}

const SIGKILL: i32 = 9;
const SIGALRM: i32 = 14;
const SIGXCPU: i32 = 24;
const SIGSYS: i32 = 31;

#[track_caller]
fn assert_killed_by(signals: &[i32], answer: Result<String, CallError>, what: &str) {
    match answer {
        Err(CallError::Died { status, .. }) if status.signal().is_some_and(|signal| signals.contains(&signal)) => {}
        other => panic!("{what}: {other:?}"),
    }
}

// ---- the tests ----

fn a_parser_computes_and_answers() {
    let mut worker = Worker::spawn(&spec("parser")).unwrap();
    let object = seal::Sealed::from_bytes(&[7; 100_000]).unwrap();
    let answer = worker.call(b"sum", &[object.as_fd()], soon()).unwrap();
    assert_eq!(answer.bytes, b"700000");
    let status = String::from_utf8(worker.call(b"status", &[], soon()).unwrap().bytes).unwrap();
    assert_eq!(status, format!("confined: {:?}, capabilities: 0", landlock_here()));
    assert!(worker.finish(soon()).unwrap().success());
}

/// What this kernel keeps of the rules: it numbers its landlock (`LANDLOCK_CREATE_RULESET_VERSION`, uapi/linux/landlock.h),
/// and ours are those of number 6.
#[expect(unsafe_code, reason = "the library does not tell the number")]
fn landlock_here() -> Landlock {
    // SAFETY: without attributes and with this flag the call takes no memory of ours and makes nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1_u32) };
    match version {
        6.. => Landlock::Full,
        1..6 => Landlock::Partial,
        _ => Landlock::Absent,
    }
}

const FORBIDDEN: [&str; 8] = ["open", "socket", "stat", "thread", "fork", "exec", "executable", "bpf"];

fn a_parser_that_opens_or_connects_is_killed() {
    for what in FORBIDDEN {
        assert_killed_by(&[SIGSYS], call("parser", what), what);
    }
}

fn a_parser_without_its_filter_would_do_all_that() {
    for what in FORBIDDEN {
        let answer = call("unconfined", what).unwrap();
        assert!(answer.starts_with("did it") || (what == "bpf" && answer.contains("os error 1)")), "{what}: {answer}");
    }
}

fn a_fetcher_reaches_the_network_and_its_files_alone() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for what in [&format!("connect {port}"), "thread", "read /etc/hosts", "resolve localhost", "addresses"] {
        assert_eq!(call("fetcher", what).unwrap(), "did it", "{what}");
    }
    // What landlock forbids too is forbidden with its own number, 13.
    let everywhere = ["read /etc/passwd", "listen", "socket", "unix", "unix_pair", "exec", "replace", "fork", "write"];
    let beyond_its_user = ["read /proc/1/status", "unshare", "bpf", "mount", "sctp"];
    for what in everywhere.iter().chain(&beyond_its_user) {
        assert_refused(&call("fetcher", what).unwrap(), what);
    }
    let status = call("fetcher", "status").unwrap();
    assert_eq!(status, format!("confined: {:?}, capabilities: 0", landlock_here()));
    for what in everywhere.iter().filter(|what| !["replace", "write"].contains(what)) {
        assert_eq!(call("unconfined", what).unwrap(), "did it", "the control: {what}");
    }
    if cfg!(target_arch = "x86_64") {
        assert_killed_by(&[SIGSYS], call("fetcher", "x32"), "x32");
    }
}

fn assert_refused(answer: &str, what: &str) {
    assert!(answer.contains("os error 1)") || answer.contains("os error 13)"), "{what}: {answer}");
}

fn a_fetcher_listens_nowhere_by_its_filter_alone() {
    // With the number of the filter, EPERM, on kernels whose landlock would answer too (EACCES).
    for what in ["listen", "listen_unbound", "socket"] {
        assert!(call("fetcher", what).unwrap().contains("os error 1)"), "{what}");
        assert_eq!(call("unconfined", what).unwrap(), "did it", "the control: {what}");
    }
}

fn workers_of_the_same_user_cannot_signal_each_other() {
    let mut other = Worker::spawn(&spec("unconfined")).unwrap();
    let pid = String::from_utf8(other.call(b"pid", &[], soon()).unwrap().bytes).unwrap();
    for way in ["kill", "tgkill", "own", "limit"] {
        let what = format!("{way} {pid}");
        assert_refused(&call("fetcher", &what).unwrap(), &what);
        assert_killed_by(&[SIGSYS], call("parser", &what), &what);
        assert_eq!(call("unconfined", &what).unwrap(), "did it", "the control: {what}");
    }
}

fn a_fetcher_cuts_no_file_that_it_was_not_given() {
    let file = tempfile();
    let what = format!("truncate {}", file.0.display());
    assert_refused(&call("fetcher", &what).unwrap(), &what);
    assert_eq!(std::fs::metadata(&file.0).unwrap().len(), 5);
    assert_eq!(call("unconfined", &what).unwrap(), "did it", "the control");
    assert_eq!(std::fs::metadata(&file.0).unwrap().len(), 0);
}

/// A file that everybody may write; removed when dropped.
struct Everybodys(std::path::PathBuf);

fn tempfile() -> Everybodys {
    let file = Everybodys(std::env::temp_dir().join(format!("bpfd-sys-everybodys-{}", std::process::id())));
    std::fs::write(&file.0, "bytes").unwrap();
    std::fs::set_permissions(&file.0, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    file
}

impl Drop for Everybodys {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn an_idlookup_gives_descriptors_and_makes_no_map() {
    let insns = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let program = ProgLoad { expected_attach_type: AttachType::XDP, ..ProgLoad::new(ProgramType::XDP, c"GPL", &insns) };
    let program = bpf::prog_load(&program).unwrap();
    let id = bpf::prog_info(program.as_fd()).unwrap().id;
    let same = Spec { identity: Identity::Same, ..spec("idlookup") };
    let mut worker = Worker::spawn(&same).unwrap();
    let Message { bytes, fds } = worker.call(format!("program {id}").as_bytes(), &[], soon()).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), format!("found {id}"));
    let [fd]: [OwnedFd; 1] = fds.try_into().unwrap();
    assert_eq!(bpf::prog_info(fd.as_fd()).unwrap().id, id);
    let walk = String::from_utf8(worker.call(b"walk", &[], soon()).unwrap().bytes).unwrap();
    assert!(walk.split(' ').any(|word| word == id.to_string()), "{walk}");
    for what in ["map", "open", "socket"] {
        let mut worker = Worker::spawn(&same).unwrap();
        let answer = worker.call(what.as_bytes(), &[], soon()).map(|_| String::new());
        assert_killed_by(&[SIGSYS], answer, what);
    }
}

fn a_worker_is_who_it_was_to_be_with_an_empty_environment() {
    let text = call("unconfined", "whoami").unwrap();
    assert_eq!(text, format!("uid {UID}, gid {UID}, groups [], environment 0, no_new_privs true, in /"));
}

fn nobody_of_its_user_reads_or_traces_a_worker() {
    let mut worker = Worker::spawn(&spec("unconfined")).unwrap();
    let pid = String::from_utf8(worker.call(b"pid", &[], soon()).unwrap().bytes).unwrap();
    // The reader is a process of the same user, no worker: what keeps it out is the worker's own doing.
    let read = |pid: &str, file: &str| {
        let mut reader = std::process::Command::new("cat");
        reader.arg(format!("/proc/{pid}/{file}")).stdout(std::process::Stdio::null());
        std::os::unix::process::CommandExt::uid(&mut reader, UID).status().unwrap().success()
    };
    let mut other = std::process::Command::new("sleep");
    let other = std::os::unix::process::CommandExt::uid(&mut other, UID).arg("60").spawn();
    let mut other = other.unwrap();
    for file in ["environ", "maps", "auxv"] {
        assert!(!read(&pid, file), "{file} of a worker is read");
        assert!(read(&other.id().to_string(), file), "the control: {file}");
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

fn roots_ids_are_no_identity() {
    for text in ["0:61999", "61999:0", "4294967295:61999", "61999", "", "a:b"] {
        assert!(text.parse::<Ids>().is_err(), "{text}");
    }
    assert_eq!(ids().to_string().parse::<Ids>().unwrap(), ids());
}

fn a_binary_below_a_directory_of_root_alone_runs_as_another_user() {
    let closed = std::env::temp_dir().join(format!("bpfd-sys-closed-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&closed).unwrap();
    let copied = std::fs::copy("/proc/self/exe", closed.join("bpfd"));
    let [there, absent] = ["bpfd", "absent"].map(|name| Worker::spawn_program(&closed.join(name), &spec("unconfined")));
    std::fs::remove_dir_all(&closed).unwrap();
    copied.unwrap();
    assert!(there.unwrap().call(b"whoami", &[], soon()).unwrap().bytes.starts_with(format!("uid {UID}").as_bytes()));
    assert_eq!(absent.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

fn a_worker_that_panics_leaves_its_last_words() {
    match call("parser", "panic") {
        Err(CallError::Died { status, stderr }) => {
            assert_eq!(status.code(), Some(101));
            assert!(stderr.contains("a foreign byte"), "{stderr}");
        }
        other => panic!("{other:?}"),
    }
}

fn a_worker_that_hangs_is_killed_at_the_deadline() {
    let mut worker = Worker::spawn(&spec("parser")).unwrap();
    let answer = worker.call(b"hang", &[], Instant::now() + Duration::from_millis(50));
    assert!(matches!(answer, Err(CallError::Deadline)), "{answer:?}");
    assert!(matches!(worker.call(b"sum", &[], soon()), Err(CallError::Died { .. })), "it is dead");
}

fn a_worker_that_takes_too_much_is_killed_by_its_limits() {
    let with = |limits, message: &str| {
        let mut worker = Worker::spawn(&Spec { limits, ..spec("unconfined") }).unwrap();
        worker.call(message.as_bytes(), &[], soon()).map(|Message { bytes, .. }| String::from_utf8(bytes).unwrap())
    };
    assert_killed_by(&[SIGXCPU], with(Limits { cpu_seconds: 1, ..limits() }, "spin"), "CPU");
    let wall = Some(Duration::from_millis(1));
    assert_killed_by(&[SIGALRM], with(Limits { wall, ..limits() }, "hang"), "wall clock");
    let memory = with(limits(), "memory").unwrap();
    assert!(memory.contains("memory allocation"), "{memory}");
    let files = with(limits(), "files").unwrap();
    assert!(files.contains("os error 24)"), "{files}");
}

fn a_worker_sees_no_descriptor_of_its_parent() {
    // One that was left inheritable by mistake.
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let text = call("unconfined", "descriptors").unwrap();
    // The channel, its copy, /dev/null, standard error, the directory that is read.
    assert!(!text.contains("passwd"), "{text} ({})", leak.as_raw_fd());
    assert_eq!(text.lines().count(), 5, "{text}");
}

fn a_dropped_worker_is_dead_and_reaped() {
    let mut worker = Worker::spawn(&spec("parser")).unwrap();
    let pid = String::from_utf8(worker.call(b"pid", &[], soon()).unwrap().bytes).unwrap();
    assert!(Path::new("/proc").join(&pid).exists());
    drop(worker);
    assert!(!Path::new("/proc").join(&pid).exists());
}

fn a_worker_dies_with_the_thread_that_spawned_it() {
    // It has answered once: until it has its identity, the end of a thread is not told to it.
    let spawned = std::thread::spawn(|| {
        let mut worker = Worker::spawn(&spec("parser")).unwrap();
        worker.call(b"pid", &[], soon()).unwrap();
        worker
    });
    let mut worker = spawned.join().unwrap();
    match worker.call(b"hang", &[], soon()) {
        Err(CallError::Died { status, .. }) => assert_eq!(status.signal(), Some(SIGKILL)),
        other => panic!("{other:?}"),
    }
}

fn confinement_with_two_threads_is_refused() {
    assert_eq!(call("two_threads", "status").unwrap(), "cannot confine a process with 2 threads; it must have one");
}

// ---- the worker ----

fn child(kind: &str, ids: Option<&str>) {
    let channel = begin(ids).unwrap();
    // A thread that outlives the attempt.
    let (_alive, ended) = std::sync::mpsc::channel::<()>();
    let landlock = match kind {
        "parser" => Ok(confine::parser().unwrap()),
        "fetcher" => Ok(confine::fetcher(&[Path::new("/etc/hosts"), Path::new("/etc/no/such/file")], None).unwrap()),
        "idlookup" => Ok(confine::idlookup().unwrap()),
        "two_threads" => {
            std::thread::spawn(move || ended.recv());
            Err(confine::parser().unwrap_err().to_string())
        }
        _ => Ok(Landlock::Absent),
    };
    loop {
        let Ok(Message { bytes, fds }) = channel.receive(Instant::now() + Duration::from_secs(60)) else { return };
        let message = String::from_utf8(bytes).unwrap();
        let words: Vec<&str> = message.split(' ').collect();
        match (words.as_slice(), &landlock) {
            (_, Err(error)) => reply(&channel, error, &[]),
            (["status"], Ok(landlock)) => {
                let has = [caps::Cap::Bpf, caps::Cap::Perfmon, caps::Cap::NetAdmin, caps::Cap::SysAdmin];
                let left = has.len() - caps_missing(kind, &has);
                reply(&channel, &format!("confined: {landlock:?}, capabilities: {left}"), &[]);
            }
            (["program", id], _) => {
                let fd = bpf::prog_by_id(ProgId(id.parse().unwrap())).unwrap();
                let info = bpf::prog_info(fd.as_fd()).unwrap();
                reply(&channel, &format!("found {}", info.id), &[fd]);
            }
            (["walk"], _) => {
                let ids: Vec<String> = bpf::prog_ids().map(|id| id.unwrap().to_string()).collect();
                reply(&channel, &ids.join(" "), &[]);
            }
            (words, _) => reply(&channel, &attempt(words, fds), &[]),
        }
    }
}

/// capget(2) is not among a parser's calls, and after `drop_all` there is nothing to ask.
fn caps_missing(kind: &str, has: &[caps::Cap]) -> usize {
    if kind == "parser" { has.len() } else { caps::missing(has).unwrap().len() }
}

fn reply(channel: &Channel, text: &str, fds: &[OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    channel.send(text.as_bytes(), &fds, soon()).unwrap();
}

fn did(result: std::io::Result<()>) -> String {
    result.map_or_else(|error| error.to_string(), |()| "did it".into())
}

fn attempt(words: &[&str], fds: Vec<OwnedFd>) -> String {
    match words {
        ["sum"] => {
            let [object]: [OwnedFd; 1] = fds.try_into().unwrap();
            let bytes = seal::Sealed::verify(object).unwrap().read(1 << 20).unwrap();
            bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>().to_string()
        }
        ["pid"] => std::process::id().to_string(),
        ["open"] => did(std::fs::File::open("/etc/hosts").map(drop)),
        ["stat"] => did(std::fs::symlink_metadata("/etc/hosts").map(drop)),
        ["read", path] => did(std::fs::read(path).map(drop)),
        ["write"] => did(std::fs::write("/tmp/bpfd-sys-fetcher", "")),
        ["socket"] => did(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)),
        ["connect", port] => did(std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).map(drop)),
        ["listen"] => did(std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
        ["resolve", name] => did(std::net::ToSocketAddrs::to_socket_addrs(&(*name, 80)).map(drop)),
        // Binds a netlink socket, as glibc does to learn the addresses of this host.
        ["addresses"] => did(bpfd_sys::netlink::LinkWatch::open().map(drop).map_err(std::io::Error::other)),
        ["listen_unbound"] => raw(|| socket(libc::SOCK_STREAM, 0).map(|fd| vec![libc::SYS_listen, fd, 1])),
        ["sctp"] => raw(|| socket(libc::SOCK_STREAM, libc::IPPROTO_SCTP).map(|fd| vec![libc::SYS_close, fd])),
        ["kill", pid] => raw(|| Ok(vec![libc::SYS_kill, pid.parse().unwrap(), 0])),
        ["tgkill", pid] => raw(|| Ok(vec![libc::SYS_tgkill, pid.parse().unwrap(), pid.parse().unwrap(), 0])),
        ["own", pid] => raw(|| Ok(vec![libc::SYS_fcntl, 0, libc::F_SETOWN.into(), pid.parse().unwrap()])),
        ["limit", pid] => raw(|| Ok(vec![libc::SYS_prlimit64, pid.parse().unwrap(), libc::RLIMIT_CORE.into(), 0, 0])),
        ["truncate", path] => truncate(path),
        ["unix_pair"] => did(unix_pair()),
        ["replace"] => {
            std::os::unix::process::CommandExt::exec(&mut std::process::Command::new("/bin/true")).to_string()
        }
        ["unix"] => did(std::os::unix::net::UnixDatagram::unbound().map(drop)),
        ["thread"] => did(std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap())),
        ["exec"] => did(std::process::Command::new("/bin/true").status().map(drop)),
        ["fork"] => fork(),
        ["unshare"] => did(unshare()),
        ["executable"] => did(executable_memory()),
        ["mount"] => did(bpfd_sys::bpffs::mount(Path::new("/tmp"))),
        ["bpf"] | ["map"] => {
            let map = bpf::MapCreate::new(bpf::MapType::ARRAY, 4, 4, 1);
            did(bpf::Map::create(&map).map(drop))
        }
        ["x32"] => x32(),
        ["panic"] => panic!("a foreign byte"),
        ["hang"] => loop {
            // Not a system call that a filter forbids: waits for a descriptor list that stays silent.
            let step = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            rustix::event::poll(&mut [], Some(&step)).unwrap();
        },
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        ["memory"] => {
            let mut bytes: Vec<u8> = Vec::new();
            match bytes.try_reserve_exact(512 << 20) {
                Ok(()) => "did it".into(),
                Err(error) => error.to_string(),
            }
        }
        ["files"] => did((0..100).map(|_| std::fs::File::open("/dev/null")).collect::<Result<Vec<_>, _>>().map(drop)),
        ["descriptors"] => descriptors(),
        ["whoami"] => whoami(),
        other => panic!("what is {other:?}?"),
    }
}

fn descriptors() -> String {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let lines = entries.map(|entry| {
        let path = entry.unwrap().path();
        format!("{} -> {}", path.display(), std::fs::read_link(&path).unwrap_or_default().display())
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn whoami() -> String {
    let mut status = String::new();
    std::fs::File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    format!(
        "uid {}, gid {}, groups {:?}, environment {}, no_new_privs {}, in {}",
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        rustix::process::getgroups().unwrap(),
        std::env::vars_os().count(),
        status.contains("NoNewPrivs:\t1"),
        std::env::current_dir().unwrap().display(),
    )
}

/// A datagram socket of a pair that reaches a third one.
fn unix_pair() -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("bpfd-sys-{}", std::process::id()))?;
    let (one, other) = std::os::unix::net::UnixDatagram::pair()?;
    drop(other);
    let third = std::os::unix::net::UnixDatagram::bind_addr(&name)?;
    one.connect_addr(&name)?;
    one.send(b"reached")?;
    third.recv(&mut [0; 7]).map(drop)
}

#[expect(unsafe_code, reason = "the standard library always binds before it listens, and knows no other protocol")]
fn socket(kind: i32, protocol: i32) -> std::io::Result<i64> {
    // SAFETY: takes three numbers; the descriptor ends with the worker.
    match unsafe { libc::socket(libc::AF_INET, kind, protocol) } {
        -1 => Err(std::io::Error::last_os_error()),
        fd => Ok(fd.into()),
    }
}

/// A call of numbers alone.
#[expect(unsafe_code, reason = "only the raw calls can be forbidden")]
fn raw(call: impl Fn() -> std::io::Result<Vec<i64>>) -> String {
    let made = call().and_then(|words| {
        let at = |place| words.get(place).copied().unwrap_or(0);
        // SAFETY: every caller gives a call that takes numbers, or a null pointer that stands for none.
        let done = unsafe { libc::syscall(at(0), at(1), at(2), at(3), at(4)) };
        if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    });
    did(made)
}

#[expect(unsafe_code, reason = "the standard library cuts open files alone")]
fn truncate(path: &str) -> String {
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: a string that ends in zero and lives until the call is over.
    let done = unsafe { libc::truncate(path.as_ptr(), 0) };
    did(if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

#[expect(unsafe_code, reason = "only the raw calls can be forbidden")]
fn fork() -> String {
    // SAFETY: the process has one thread; the child ends at once, the parent reaps it.
    match unsafe { libc::fork() } {
        -1 => std::io::Error::last_os_error().to_string(),
        // SAFETY: _exit(2) takes a number.
        0 => unsafe { libc::_exit(0) },
        pid => {
            let pid = rustix::process::Pid::from_raw(pid);
            did(rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).map(|_| ()).map_err(Into::into))
        }
    }
}

#[expect(unsafe_code, reason = "only the raw calls can be forbidden")]
fn unshare() -> std::io::Result<()> {
    // SAFETY: the descriptor table stays shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }?)
}

#[expect(unsafe_code, reason = "only the raw calls can be forbidden")]
fn executable_memory() -> std::io::Result<()> {
    let (protection, kind) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, kind, -1, 0) };
    if address == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "only the raw calls can be forbidden")]
fn x32() -> String {
    // SAFETY: getpid takes nothing, in either table.
    let result = unsafe { libc::syscall(0x4000_0000 + 39) };
    eprintln!("the x32 call returned {result}");
    result.to_string()
}
