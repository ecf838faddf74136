//! The system calls against the real kernel. Needs root (CAP_SYS_ADMIN, CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) and fails
//! without. Each test has its own network namespace, mount and temporary directory, and leaves nothing behind.
//!
//! Long because one kernel serves every module of this crate, and the cases share their namespaces.
#![expect(clippy::as_conversions, reason = "tests turn small numbers into bytes")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "the lints exempt test functions, not what they share")]

mod common;

use bpfd_sys::bpf::{self, AttachType, Map, MapCreate, MapType, ProgLoad, ProgramType, TestRun, Update};
use bpfd_sys::bpffs::{self, Dir};
use bpfd_sys::caps::{self, Cap};
use bpfd_sys::netlink::{Expected, LinkEvent, LinkWatch, Route, XdpAttachment, XdpMode};
use bpfd_sys::netns::Netns;
use bpfd_sys::peer::Peer;
use bpfd_sys::perf;
use common::{in_own_netns, ip, load, program_id, returning, unshare};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DROP: u32 = 1;
const PASS: u32 = 2;

fn xdp(name: &str, verdict: u32) -> OwnedFd {
    load(ProgramType::XDP, AttachType::XDP, name, &returning(verdict)).unwrap()
}

/// A temporary directory with something mounted on it; both go when this is dropped, after a panic too.
struct Mounted(PathBuf);

impl Mounted {
    fn new(name: &str, mount: impl FnOnce(&Path)) -> Self {
        let path = std::env::temp_dir().join(format!("bpfd-sys-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let mounted = Self(path);
        mount(&mounted.0);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _not_mounted = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn a_program_is_loaded_run_and_described() {
    let program = xdp("two_insns", DROP);
    let packet: Vec<u8> = (0..64).collect();
    let run = bpf::prog_test_run(program.as_fd(), &TestRun { data_in: &packet, context: &[], repeat: 3 }).unwrap();
    assert_eq!((run.retval, run.data_out), (DROP, packet));
    let info = bpf::prog_info(program.as_fd()).unwrap();
    assert_eq!((info.kind, info.name.as_str(), info.gpl), (ProgramType::XDP, "two_insns", true));
    assert_eq!((info.xlated_insns, info.btf_id, info.map_ids.len()), (2, None, 0));
    assert_ne!(info.tag, [0; 8]);
    assert!(bpf::prog_ids().collect::<Result<Vec<_>, _>>().unwrap().contains(&info.id));
    assert_eq!(program_id(&bpf::prog_by_id(info.id).unwrap()), info.id);
}

#[test]
fn a_refused_program_comes_with_the_verifier_s_log() {
    let uninitialised = [0xbf, 0x10, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = uninitialised;
    bytes[1] = 0x20;
    let refused = load(ProgramType::XDP, AttachType::XDP, "bad", &bytes).unwrap_err();
    assert_eq!(refused.errno(), libc_eacces());
    assert!(refused.log.contains("R2 !read_ok"), "{}", refused.log);
    assert!(!refused.log_cut);
}

fn libc_eacces() -> i32 {
    Errno::ACCESS.raw_os_error()
}

#[test]
fn a_log_longer_than_the_first_buffer_is_read_whole() {
    // 4,000 moves, each logged with its registers, and then a read of an unset register.
    let mut insns: Vec<u8> = [0xb7, 0, 0, 0, 1, 0, 0, 0].repeat(4000);
    insns.extend([0xbf, 0x20, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);
    let refused = load(ProgramType::XDP, AttachType::XDP, "long", &insns).unwrap_err();
    assert!(refused.log.len() > 64 << 10, "{}", refused.log.len());
    assert!(refused.log.starts_with("0: ") && refused.log.contains("R2 !read_ok") && !refused.log_cut);
}

#[test]
fn statistics_come_with_a_program_that_loads() {
    let insns = returning(PASS);
    let program = ProgLoad { expected_attach_type: AttachType::XDP, ..ProgLoad::new(ProgramType::XDP, c"GPL", &insns) };
    let (_program, log) = bpf::prog_load_with_log(&program, 4).unwrap();
    assert!(log.contains("stack depth 0"), "{log}");
}

#[test]
fn a_map_is_written_walked_frozen_and_described() {
    let map = Map::create(&MapCreate { name: "table", ..MapCreate::new(MapType::HASH, 4, 8, 4) }).unwrap();
    let (one, two) = (1_u32.to_ne_bytes(), 2_u32.to_ne_bytes());
    assert_eq!(map.lookup(&one).unwrap(), None);
    map.update(&one, &[7; 8], Update::Create).unwrap();
    assert_eq!(map.update(&one, &[8; 8], Update::Create).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(map.update(&two, &[8; 8], Update::Replace).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(map.lookup(&one).unwrap().unwrap(), [7; 8]);
    assert_eq!(map.next_key(None).unwrap().unwrap(), one);
    assert_eq!(map.next_key(Some(&one)).unwrap(), None);
    for (key, value) in [(&one[..3], &[0; 8][..]), (&one[..], &[0; 7][..])] {
        assert_eq!(map.update(key, value, Update::Any).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
    let info = map.info().unwrap();
    assert_eq!((info.name.as_str(), info.kind, info.key_size, info.value_size), ("table", MapType::HASH, 4, 8));
    map.freeze().unwrap();
    assert_eq!(map.update(&one, &[9; 8], Update::Any).unwrap_err().raw_os_error(), Some(1), "EPERM");
    assert_eq!(map.lookup(&one).unwrap().unwrap(), [7; 8]);
    let again = Map::from_fd(bpf::map_by_id(info.id).unwrap()).unwrap();
    assert_eq!(again.lookup(&one).unwrap().unwrap(), [7; 8]);
}

#[test]
fn elements_are_deleted_once() {
    let map = Map::create(&MapCreate::new(MapType::HASH, 4, 4, 4)).unwrap();
    map.update(&[0; 4], &[1; 4], Update::Any).unwrap();
    assert!(map.delete(&[0; 4]).unwrap());
    assert!(!map.delete(&[0; 4]).unwrap());
}

#[test]
fn a_per_cpu_map_gives_every_cpu_s_value() {
    let map = Map::create(&MapCreate::new(MapType::PERCPU_ARRAY, 4, 4, 1)).unwrap();
    let cpus = map.cpus().unwrap();
    let values: Vec<u8> = (0..cpus).flat_map(|cpu| (cpu as u64 + 1).to_ne_bytes()).collect();
    map.update(&[0; 4], &values, Update::Any).unwrap();
    assert_eq!(map.lookup(&[0; 4]).unwrap().unwrap(), values);
}

#[test]
fn a_program_array_takes_programs() {
    let map = Map::create(&MapCreate::new(MapType::PROG_ARRAY, 4, 4, 1)).unwrap();
    let program = xdp("callee", PASS);
    map.update_fd(&[0; 4], program.as_fd()).unwrap();
    assert_eq!(map.lookup(&[0; 4]).unwrap().unwrap(), program_id(&program).0.to_ne_bytes());
}

#[test]
fn the_kernel_s_own_btf_is_read_whole() {
    let vmlinux = bpf::btf_ids()
        .map(|id| bpf::btf_by_id(id.unwrap()).unwrap())
        .find(|fd| bpf::btf_info(fd.as_fd()).unwrap().name == "vmlinux")
        .unwrap();
    assert!(bpf::btf_info(vmlinux.as_fd()).unwrap().kernel);
    let bytes = bpf::btf_bytes(vmlinux.as_fd()).unwrap();
    assert!(bytes == std::fs::read("/sys/kernel/btf/vmlinux").unwrap());
}

#[test]
fn own_btf_is_loaded_and_bad_btf_is_refused_with_a_log() {
    // A header, one type (INT `u32`), strings "\0u32\0" (Documentation/bpf/btf.rst).
    let mut btf = vec![0x9f, 0xeb, 1, 0];
    for word in [24_u32, 0, 16, 16, 5, 1, 1 << 24, 4, 32] {
        btf.extend(word.to_ne_bytes());
    }
    btf.extend(b"\0u32\0");
    let fd = bpf::btf_load(&btf).unwrap();
    assert_eq!(bpf::btf_bytes(fd.as_fd()).unwrap(), btf);
    assert!(!bpf::btf_info(fd.as_fd()).unwrap().kernel);
    btf[36] = 33;
    let refused = bpf::btf_load(&btf).unwrap_err();
    assert!(!refused.log.is_empty(), "{refused:?}");
}

#[test]
fn pins_are_made_read_renamed_and_removed() {
    let mounted = Mounted::new("pins", |path| bpffs::mount(path).unwrap());
    assert!(bpffs::is_bpffs(&mounted.0).unwrap() && !bpffs::is_bpffs(Path::new("/proc")).unwrap());
    let root = Dir::open(&mounted.0).unwrap();
    assert!(root.is_bpffs().unwrap());
    let dir = root.make("v1").unwrap();
    assert_eq!(std::fs::metadata(mounted.0.join("v1")).unwrap().permissions_mode(), 0o700);
    assert_eq!(root.make("v1").unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(dir.device().unwrap(), root.make_or_open("v1").unwrap().device().unwrap());
    let (program, map) = (xdp("pinned", PASS), Map::create(&MapCreate::new(MapType::ARRAY, 4, 4, 1)).unwrap());
    dir.pin("program", program.as_fd()).unwrap();
    dir.pin("map", map.as_fd()).unwrap();
    assert_eq!(dir.pin("map", map.as_fd()).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(program_id(&dir.pinned("program").unwrap()), program_id(&program));
    assert_eq!(bpf::object_kind(dir.pinned("map").unwrap().as_fd()).unwrap(), bpf::ObjectKind::Map);
    assert!(bpf::prog_info(dir.pinned("map").unwrap().as_fd()).is_err(), "a map is not read as a program");
    dir.rename("program", &root, "moved").unwrap();
    assert_eq!(dir.names().unwrap(), ["map"]);
    // A kernel with CONFIG_BPF_PRELOAD puts two files of its own into the root of each bpffs (kernel/bpf/inode.c).
    let names: Vec<String> = root.names().unwrap().into_iter().filter(|name| !name.ends_with(".debug")).collect();
    assert_eq!(names, ["moved", "v1"]);
    assert!(root.remove_dir("v1").is_err(), "not empty");
    assert_eq!(bpffs::unmount(&mounted.0).unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
    dir.unlink("map").unwrap();
    root.unlink("moved").unwrap();
    root.remove_dir("v1").unwrap();
    assert!(!root.exists("moved").unwrap());
    assert_eq!(dir.pinned("map").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    drop((root, dir));
    bpffs::unmount(&mounted.0).unwrap();
}

trait PermissionsMode {
    fn permissions_mode(&self) -> u32;
}

impl PermissionsMode for std::fs::Metadata {
    fn permissions_mode(&self) -> u32 {
        std::os::unix::fs::PermissionsExt::mode(&self.permissions()) & 0o7777
    }
}

#[test]
fn an_xdp_program_is_swapped_only_for_the_expected_one() {
    in_own_netns(|| {
        ip("link add veth0 type veth peer name veth1");
        let route = Route::open().unwrap();
        let device = route.link_named("veth0").unwrap().unwrap();
        assert_eq!((device.xdp, device.up), (XdpAttachment::None, false));
        let (first, second, stranger) = (xdp("first", PASS), xdp("second", DROP), xdp("stranger", DROP));
        let set = |program: Option<&OwnedFd>, expected: Expected<'_>, mode| {
            route.set_xdp(device.index, program.map(AsFd::as_fd), expected, mode)
        };
        let held = || route.link(device.index).unwrap().unwrap().xdp.program();
        let native = |program| Some((XdpMode::Native, program_id(program)));

        set(Some(&first), Expected::Nothing, XdpMode::Native).unwrap();
        assert_eq!(held(), native(&first));
        let occupied = set(Some(&second), Expected::Nothing, XdpMode::Native).unwrap_err();
        assert_eq!(occupied.errno(), Errno::BUSY.raw_os_error());
        let wrong = set(Some(&second), Expected::Program(stranger.as_fd()), XdpMode::Native).unwrap_err();
        assert_eq!(wrong.errno(), Errno::EXIST.raw_os_error());
        assert_eq!(wrong.message.as_deref(), Some("Active program does not match expected"));
        let other_mode = set(Some(&second), Expected::Program(first.as_fd()), XdpMode::Generic).unwrap_err();
        assert_eq!(other_mode.errno(), Errno::EXIST.raw_os_error());
        assert_eq!(held(), native(&first), "nothing changed");

        set(Some(&second), Expected::Program(first.as_fd()), XdpMode::Native).unwrap();
        assert_eq!(held(), native(&second));
        assert_eq!(set(None, Expected::Nothing, XdpMode::Native).unwrap_err().errno(), 22, "EINVAL");
        assert_eq!(set(None, Expected::Program(first.as_fd()), XdpMode::Native).unwrap_err().errno(), 17, "EEXIST");
        set(None, Expected::Program(second.as_fd()), XdpMode::Native).unwrap();
        assert_eq!(held(), None);
        set(Some(&first), Expected::Nothing, XdpMode::Generic).unwrap();
        assert_eq!(held(), Some((XdpMode::Generic, program_id(&first))));
    });
}

#[test]
fn a_device_held_by_a_link_is_refused_with_the_kernel_s_words() {
    in_own_netns(|| {
        ip("link add veth0 type veth peer name veth1");
        let route = Route::open().unwrap();
        let index = route.link_named("veth0").unwrap().unwrap().index;
        let (holder, ours) = (xdp("holder", PASS), xdp("ours", PASS));
        let link = bpf::link_create_xdp(holder.as_fd(), index, 0).unwrap();
        let info = bpf::link_info(link.as_fd()).unwrap();
        assert_eq!((info.prog_id, info.kind), (program_id(&holder), bpf::LinkKind::Xdp { ifindex: index }));
        let refused =
            route.set_xdp(index, Some(ours.as_fd()), Expected::Program(holder.as_fd()), XdpMode::Native).unwrap_err();
        assert_eq!(refused.errno(), Errno::BUSY.raw_os_error());
        assert_eq!(refused.message.as_deref(), Some("Can't replace active BPF XDP link"));
        bpf::link_update(link.as_fd(), ours.as_fd(), Some(holder.as_fd())).unwrap();
        assert_eq!(bpf::link_info(link.as_fd()).unwrap().prog_id, program_id(&ours));
        let stale = bpf::link_update(link.as_fd(), ours.as_fd(), Some(holder.as_fd())).unwrap_err();
        assert_eq!(stale.raw_os_error(), Some(1), "EPERM");
        bpf::link_detach(link.as_fd()).unwrap();
        assert_eq!(route.link(index).unwrap().unwrap().xdp, XdpAttachment::None);
    });
}

#[test]
fn devices_are_listed_and_absent_ones_are_none() {
    in_own_netns(|| {
        ip("link add veth0 mtu 1400 type veth peer name veth1");
        ip("link set veth0 up");
        let route = Route::open().unwrap();
        let rows = route.links().unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert!(names.contains(&"lo") && names.contains(&"veth0") && names.contains(&"veth1"), "{names:?}");
        let veth = rows.iter().find(|row| row.name == "veth0").unwrap();
        assert_eq!((veth.mtu, veth.up), (1400, true));
        assert_eq!(route.link(4_000_000).unwrap(), None);
        assert_eq!(route.link_named("nope").unwrap(), None);
        assert_eq!(route.link_named("a_name_longer_than_the_kernel_allows").unwrap(), None);
    });
}

#[test]
fn a_watch_tells_of_programs_and_of_devices_that_go() {
    in_own_netns(|| {
        ip("link add veth0 type veth peer name veth1");
        let route = Route::open().unwrap();
        let index = route.link_named("veth0").unwrap().unwrap().index;
        ip("link set veth0 up");
        let mut watch = LinkWatch::open().unwrap();
        assert_eq!(watch.next_event().unwrap(), None);
        let program = xdp("watched", PASS);
        route.set_xdp(index, Some(program.as_fd()), Expected::Nothing, XdpMode::Native).unwrap();
        let wanted = Some((XdpMode::Native, program_id(&program)));
        wait(
            &mut watch,
            |event| matches!(event, LinkEvent::Changed(row) if row.index == index && row.xdp.program() == wanted),
        );
        ip("link del veth0");
        wait(&mut watch, |event| *event == LinkEvent::Removed { index, name: "veth0".into(), to: None });
    });
}

#[test]
fn a_watch_that_falls_behind_says_so() {
    in_own_netns(|| {
        ip("link add veth0 type veth peer name veth1");
        let mut watch = LinkWatch::open().unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(watch.as_fd(), 4096).unwrap();
        for _ in 0..10 {
            ip("link set veth0 up");
            ip("link set veth0 down");
        }
        wait(&mut watch, |event| *event == LinkEvent::Lost);
    });
}

fn wait(watch: &mut LinkWatch, wanted: impl Fn(&LinkEvent) -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while Instant::now() < limit {
        while let Some(event) = watch.next_event().unwrap() {
            if wanted(&event) {
                return;
            }
        }
        let step = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut poll = [rustix::event::PollFd::new(&*watch, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, Some(&step)).unwrap();
    }
    panic!("the event did not come");
}

#[test]
fn a_tracepoint_program_counts_what_happens() {
    let tracefs = Mounted::new("tracefs", |path| {
        rustix::mount::mount("tracefs", path, "tracefs", MountFlags::empty(), None).unwrap();
    });
    let id = perf::tracepoint_id(&tracefs.0, "sched", "sched_switch").unwrap();
    assert_eq!(
        perf::tracepoint_id(&tracefs.0, "sched", "no_such_event").unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
    let map = Map::create(&MapCreate::new(MapType::ARRAY, 4, 8, 1)).unwrap();
    let insns = counting(&map);
    let program = load(ProgramType::TRACEPOINT, AttachType::NONE, "count", &insns).unwrap();
    let event = perf::open_tracepoint(id).unwrap();
    let link = perf::attach(event.as_fd(), program.as_fd()).unwrap();
    let count = || u64::from_ne_bytes(map.lookup(&[0; 4]).unwrap().unwrap().try_into().unwrap());
    let limit = Instant::now() + Duration::from_secs(20);
    while count() < 10 && Instant::now() < limit {
        // Each turn starts and waits for a thread: both switch.
        std::thread::spawn(|| ()).join().unwrap();
    }
    assert!(count() >= 10);
    let info = bpf::link_info(link.as_fd()).unwrap();
    assert_eq!(info.prog_id, program_id(&program));
    let bpf::LinkKind::PerfEvent(kind) = info.kind else { panic!("{info:?}") };
    assert!(
        kind == bpf::PerfKind::Tracepoint { name: "sched_switch".into() } || kind == bpf::PerfKind::Unknown(0),
        "{kind:?}"
    );
    assert_eq!(bpf::prog_info(program.as_fd()).unwrap().map_ids, [map.info().unwrap().id]);
}

#[test]
fn programs_count_at_the_begin_and_the_return_of_a_kernel_function() {
    let Some(pmu) = perf::kprobe_pmu().unwrap() else {
        println!("skipped: needs a kernel built with CONFIG_KPROBE_EVENTS");
        return;
    };
    let map = Map::create(&MapCreate::new(MapType::ARRAY, 4, 8, 1)).unwrap();
    let program = load(ProgramType::KPROBE, AttachType::NONE, "count", &counting(&map)).unwrap();
    let count = || u64::from_ne_bytes(map.lookup(&[0; 4]).unwrap().unwrap().try_into().unwrap());
    for probe in [perf::Probe::At(0), perf::Probe::Return] {
        let event = perf::open_kprobe(pmu, c"do_unlinkat", probe).unwrap();
        let link = perf::attach(event.as_fd(), program.as_fd()).unwrap();
        let before = count();
        std::fs::remove_file("/no/such/file").unwrap_err();
        assert!(count() > before, "{probe:?}");
        assert_eq!(bpf::link_info(link.as_fd()).unwrap().prog_id, program_id(&program));
    }
    let long = std::ffi::CString::new("x".repeat(512)).unwrap();
    for (name, offset, errno) in [
        (c"no_such_function", 0, Errno::NOENT),
        (long.as_c_str(), 0, Errno::TOOBIG),
        // Several functions have this name.
        (c"t_start", 0, Errno::ADDRNOTAVAIL),
        // Marked as not to be probed, as it runs for each probe.
        (c"exc_int3", 0, Errno::INVAL),
        (c"do_unlinkat", 1 << 24, Errno::INVAL),
        // Inside an instruction: that of the function's tracing has five bytes.
        (c"do_unlinkat", 2, Errno::ILSEQ),
    ] {
        let refused = perf::open_kprobe(pmu, name, perf::Probe::At(offset)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(errno.raw_os_error()), "{name:?}+{offset}");
    }
}

/// Adds 1 to element 0 of the map: `r1 = map value; r2 = 1; lock *(u64 *)(r1 + 0) += r2; r0 = 0; exit`.
fn counting(map: &Map) -> Vec<u8> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&map.as_fd());
    let mut insns = vec![0x18, 0x21, 0, 0];
    insns.extend(fd.to_ne_bytes());
    insns.extend([0; 8]);
    insns.extend([0xb7, 0x02, 0, 0, 1, 0, 0, 0]);
    insns.extend([0xdb, 0x21, 0, 0, 0, 0, 0, 0]);
    insns.extend(returning(0));
    insns
}

#[test]
fn namespaces_differ_and_are_left_again() {
    let host = Netns::current().unwrap();
    let other = in_own_netns(|| Netns::current().unwrap());
    assert_ne!(host.identity().unwrap(), other.identity().unwrap());
    assert_ne!(host.cookie().unwrap().unwrap(), other.cookie().unwrap().unwrap());
    let names = other.within(|| Route::open().unwrap().links().unwrap()).unwrap();
    assert_eq!(names.iter().map(|row| row.name.as_str()).filter(|name| *name == "lo").count(), 1);
    assert_eq!(Netns::current().unwrap().identity().unwrap(), host.identity().unwrap());
    let panicked = std::panic::catch_unwind(|| other.within(|| panic!("inside")).unwrap());
    assert!(panicked.is_err());
    assert_eq!(Netns::current().unwrap().identity().unwrap(), host.identity().unwrap(), "left after a panic");
}

#[test]
fn a_named_namespace_is_opened_and_a_link_in_its_place_is_not() {
    // /run of a mount namespace of our own: no other process sees these names.
    std::thread::spawn(|| {
        unshare(UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWNET);
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        std::fs::create_dir("/run/netns").unwrap();
        std::fs::write("/run/netns/blue", "").unwrap();
        rustix::mount::mount_bind("/proc/thread-self/ns/net", "/run/netns/blue").unwrap();
        let blue = Netns::named("blue").unwrap();
        assert_eq!(blue.identity().unwrap(), Netns::current().unwrap().identity().unwrap());
        std::os::unix::fs::symlink("/proc/1/ns/net", "/run/netns/red").unwrap();
        let refused = Netns::named("red").unwrap_err().raw_os_error();
        assert_eq!(refused, Some(Errno::LOOP.raw_os_error()));
        std::fs::write("/run/netns/green", "").unwrap();
        assert!(Netns::named("green").is_err(), "a plain file");
    })
    .join()
    .unwrap();
}

#[test]
fn the_peer_of_a_socket_is_this_process() {
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let peer = Peer::of(one.as_fd()).unwrap();
    assert_eq!(peer.pid, std::process::id());
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.gid, rustix::process::getegid().as_raw());
    let mut own: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
    own.sort_unstable();
    let mut groups = peer.groups;
    groups.sort_unstable();
    assert_eq!(groups, own);
    if let Some(pidfd) = peer.pidfd {
        let pid = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd));
        let info = std::fs::read_to_string(pid).unwrap();
        assert!(info.contains(&format!("Pid:\t{}\n", std::process::id())), "{info}");
    }
}

#[test]
fn many_groups_of_a_peer_are_read() {
    let listener = std::thread::spawn(|| {
        let groups: Vec<_> = (1000..1200).map(rustix::process::Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups).unwrap();
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        Peer::of(one.as_fd()).unwrap().groups
    });
    assert_eq!(listener.join().unwrap(), (1000..1200).collect::<Vec<u32>>());
}

#[test]
fn without_its_capabilities_a_thread_loads_nothing() {
    let all = [Cap::Bpf, Cap::Perfmon, Cap::NetAdmin, Cap::SysAdmin];
    assert_eq!(caps::missing(&all).unwrap(), [], "these tests need root");
    let insns = returning(PASS);
    let refused = caps::without(&all, || load(ProgramType::XDP, AttachType::XDP, "x", &insns).unwrap_err()).unwrap();
    assert_eq!(refused.errno(), 1, "EPERM");
    load(ProgramType::XDP, AttachType::XDP, "x", &insns).unwrap();
}
