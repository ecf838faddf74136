//! Dispatchers of every version that libxdp ever wrote: a rebuilt one keeps its version, a new one has that of the installed libxdp or of
//! bpfd.toml. No package has the libxdp of version 1 any more, so a peer's dispatchers are made here.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the lints exempt test functions, not what they share")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bpfd_sys::bpf::{
    AttachType, BtfTypeId, F_RDONLY_PROG, Map, MapCreate, MapType, ProgBtf, ProgId, ProgLoad, ProgramType, Records,
    Target, Update, btf_load, link_create_ext, map_by_id, prog_by_id, prog_info, prog_load,
};
use bpfd_sys::netlink::{Expected, Route, XdpMode};
use bpfd_tests::{Host, example};
use ebpf::actions::ActionMask;
use ebpf::dispatch_config::{DispatcherConfig, Slot, Version};
use ebpf::dispatcher::{Dispatcher, NAME};
use ebpf::insn::encode;
use ebpf::load_type::{LoadType, XDP_HAS_FRAGS};
use ebpf::relocate::FUNC_INFO_SIZE;

/// Somebody else's dispatcher, with one program in it for as long as this lives.
struct Peer {
    dispatcher: OwnedFd,
    #[expect(dead_code, reason = "held: the program leaves its slot with its last link")]
    link: OwnedFd,
}

fn load(dispatcher: &Dispatcher, kind: LoadType, target: Option<Target<'_>>) -> OwnedFd {
    let value = dispatcher.rodata();
    let shape = MapCreate::new(MapType::ARRAY, 4, u32::try_from(value.len()).unwrap(), 1);
    let map = Map::create(&MapCreate { name: "xdp_disp.rodata", flags: F_RDONLY_PROG, ..shape }).unwrap();
    map.update(&[0; 4], value, Update::Any).unwrap();
    map.freeze().unwrap();
    let map = map.into_fd();
    let btf = btf_load(dispatcher.btf()).unwrap();
    let func_info = Records { bytes: dispatcher.func_info(), record_size: FUNC_INFO_SIZE };
    prog_load(&ProgLoad {
        expected_attach_type: AttachType(kind.expected_attach_type),
        name: NAME,
        btf: Some(ProgBtf { fd: btf.as_fd(), func_info, line_info: Records::NONE }),
        target,
        flags: kind.flags,
        ..ProgLoad::new(ProgramType(kind.prog_type), c"GPL", &encode(&dispatcher.link(map.as_raw_fd())))
    })
    .unwrap()
}

/// A dispatcher of this version on `uplink`; its program passes everything on, and takes several buffers where the version can
/// say so.
fn peer(host: &Host, version: Version) -> Peer {
    let flags = if version == Version::V1 { 0 } else { XDP_HAS_FRAGS };
    let slot = Slot { priority: 4_000_000_000, actions: ActionMask::PASS, flags };
    let made = Dispatcher::assemble(&DispatcherConfig::of(version, vec![slot])).unwrap();
    let dispatcher = load(&made, made.load(), None);
    let main = BtfTypeId(made.target(0).unwrap().btf_id);
    // A dispatcher without programs passes everything, and has the signature that a slot needs.
    let pass = Dispatcher::assemble(&DispatcherConfig::of(version, vec![])).unwrap();
    let target = Target::Program { fd: dispatcher.as_fd(), function: main };
    let program = load(&pass, pass.load().as_extension(), Some(target));
    let link = link_create_ext(program.as_fd(), dispatcher.as_fd(), main).unwrap();
    host.within(|| {
        let route = Route::open().unwrap();
        let uplink = route.link_named("uplink").unwrap().unwrap();
        route.set_xdp(uplink.index, Some(dispatcher.as_fd()), Expected::Nothing, XdpMode::Native).unwrap();
    });
    Peer { dispatcher, link }
}

/// Takes away what `uplink` runs.
fn empty(host: &Host, program: BorrowedFd<'_>) {
    host.within(|| {
        let route = Route::open().unwrap();
        let uplink = route.link_named("uplink").unwrap().unwrap();
        let (mode, _) = uplink.xdp.program().unwrap();
        route.set_xdp(uplink.index, None, Expected::Program(program), mode).unwrap();
    });
}

/// The program on `uplink` and its configuration.
fn runs(host: &Host) -> (OwnedFd, Vec<u8>) {
    let (_, id) = host.within(|| Route::open().unwrap().link_named("uplink").unwrap().unwrap().xdp.program()).unwrap();
    let program = prog_by_id(ProgId(id.0)).unwrap();
    let info = prog_info(program.as_fd()).unwrap();
    assert_eq!(info.name, NAME);
    let [map] = info.map_ids.as_slice() else { unreachable!("peers want exactly one map: {:?}", info.map_ids) };
    let map = Map::from_fd(map_by_id(*map).unwrap()).unwrap();
    let value = map.lookup(&[0; 4]).unwrap().expect("an array has its entry");
    (program, value)
}

fn check(version: Version, flags: [u32; 2]) {
    let host = Host::new();
    let theirs = peer(&host, version);
    let before = prog_info(theirs.dispatcher.as_fd()).unwrap().id;
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink --priority 10", example("xdp-counter"))).ok();
    host.ping(10);
    assert_eq!(host.counted("a"), 10);
    let (rebuilt, value) = runs(&host);
    assert_ne!(prog_info(rebuilt.as_fd()).unwrap().id, before, "rebuilt");
    assert_eq!(value.len(), version.size());
    let config = DispatcherConfig::decode(&value, Some(1)).unwrap();
    let slots: Vec<(u32, u32)> = config.slots.iter().map(|slot| (slot.priority, slot.flags)).collect();
    assert_eq!((config.version, config.frags), (version, false), "ours takes one buffer");
    assert_eq!(slots, [(10, flags[0]), (4_000_000_000, flags[1])], "theirs is kept as it was");
    let findings = host.findings();
    assert!(findings.is_empty(), "{findings:#?}{}", host.log());

    // Alone again, it is as they made it.
    host.bpfctl("unload a").ok();
    let (left, value) = runs(&host);
    let config = DispatcherConfig::decode(&value, Some(1)).unwrap();
    assert_eq!((config.version, config.frags, config.slots.len()), (version, flags[1] != 0, 1));
    empty(&host, left.as_fd());
}

#[test]
fn a_dispatcher_of_version_1_stays_one() {
    check(Version::V1, [0, 0]);
}

#[test]
fn a_dispatcher_of_version_2_stays_one_and_keeps_flags() {
    check(Version::V2, [0, XDP_HAS_FRAGS]);
}

#[test]
fn a_dispatcher_of_version_3_stays_one_and_keeps_flags() {
    check(Version::V3, [0, XDP_HAS_FRAGS]);
}

/// The version of the dispatcher on `uplink`.
fn version(host: &Host) -> u8 {
    let (_, value) = runs(host);
    let config = DispatcherConfig::decode(&value, Some(1)).unwrap();
    config.version.number()
}

fn counter(host: &Host) {
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink", example("xdp-counter"))).ok();
}

fn settings(host: &Host, version: &str) {
    let etc = host.path("/run/case/etc/bpfd");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("bpfd.toml"), format!("[chain]\ndispatcher_version = {version}\n")).unwrap();
}

#[test]
fn an_empty_interface_gets_the_version_that_is_set() {
    for expected in [2, 3] {
        let mut host = Host::without_daemon();
        settings(&host, &expected.to_string());
        host.start();
        counter(&host);
        assert_eq!(version(&host), expected);
    }
}

/// An ELF object with the types of a dispatcher of this version, as `xdp-dispatcher.o` has them.
fn dispatcher_object(version: Version) -> Vec<u8> {
    let made = Dispatcher::assemble(&DispatcherConfig::of(version, vec![])).unwrap();
    let (types, names) = (made.btf(), b"\0.shstrtab\0.BTF\0");
    let (types_at, names_at) = (64, 64 + types.len());
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut object = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    object.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    object.extend([0; 16]);
    object.extend(u64::try_from(sections_at).unwrap().to_le_bytes());
    object.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 3, 0, 1, 0]);
    object.extend(types);
    object.extend(names);
    object.resize(sections_at, 0);
    let mut section = |name: u32, kind: u32, at: usize, size: usize| {
        object.extend([name.to_le_bytes(), kind.to_le_bytes()].concat());
        object.extend([0; 16]);
        object.extend([at, size].map(|word| u64::try_from(word).unwrap().to_le_bytes()).concat());
        object.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    };
    section(0, 0, 0, 0);
    section(1, 3, names_at, names.len());
    section(11, 1, types_at, types.len());
    object
}

#[test]
fn an_empty_interface_gets_the_version_of_the_installed_libxdp_unless_one_is_set() {
    for (installed, set, expected) in [
        (Some(Version::V3), "\"auto\"", 3),
        (Some(Version::V2), "\"auto\"", 2),
        (Some(Version::V3), "2", 2),
        (None, "\"auto\"", 2),
    ] {
        let mut host = Host::without_daemon();
        settings(&host, set);
        let libxdp = host.path("/run/libxdp");
        std::fs::create_dir(&libxdp).unwrap();
        if let Some(installed) = installed {
            std::fs::write(libxdp.join("xdp-dispatcher.o"), dispatcher_object(installed)).unwrap();
        } else {
            // What is installed in the guest, if it is, is Debian's of version 2.
            std::fs::write(libxdp.join("xdp-dispatcher.o"), "no object").unwrap();
        }
        host.start_with(&[("LIBXDP_OBJECT_PATH", "/run/libxdp")]);
        counter(&host);
        assert_eq!(version(&host), expected, "{installed:?} {set}{}", host.log());
    }
}

#[test]
fn a_dispatcher_is_built_again_with_another_version_and_no_packet_passes_by() {
    let mut host = Host::new();
    counter(&host);
    assert_eq!(version(&host), 2);
    let shown = host.bpfctl("chain show uplink").stdout;
    assert!(
        shown.contains("2 (libxdp 1.6 and later can show it, and unload all of it, but cannot add to it)"),
        "{shown}"
    );
    host.bpfctl("chain rebuild uplink --dispatcher-version 3 --dry-run").ok();
    assert_eq!(version(&host), 2, "a dry run");
    host.ping(5);
    let shown = host.bpfctl("chain rebuild uplink --dispatcher-version 3").stdout;
    assert!(shown.contains("3 (libxdp before 1.6 can neither show nor change it)"), "{shown}");
    assert_eq!(version(&host), 3);
    host.ping(5);
    assert_eq!(host.counted("a"), 10);
    host.check();
    // It keeps it, over changes and starts.
    host.bpfctl("update a/count@uplink:xdp --priority 60").ok();
    host.kill();
    host.start();
    assert_eq!(version(&host), 3);
    host.bpfctl("chain rebuild uplink --dispatcher-version 3").ok();
    host.check();
    host.refuses(2, "chain rebuild uplink --dispatcher-version 1");
    host.refuses(3, "chain rebuild lo --dispatcher-version 2");
    host.bpfctl("unload a").ok();

    // Somebody else's program in it would be shut out.
    let theirs = peer(&host, Version::V2);
    counter(&host);
    let refused = host.refuses(8, "chain rebuild uplink --dispatcher-version 3");
    assert!(refused.contains("runs programs of others beside bpfd's: `xdp_dispatcher`"), "{refused}");
    host.bpfctl("unload a").ok();
    let (left, _) = runs(&host);
    empty(&host, left.as_fd());
    drop(theirs);
}
