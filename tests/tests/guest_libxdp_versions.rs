//! Dispatchers of every version that libxdp ever wrote: a rebuilt one keeps its version, a new one has version 2. No package has
//! the libxdp of version 1 any more, so a peer's dispatchers are made here.
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

#[test]
fn an_empty_interface_gets_version_2() {
    let host = Host::new();
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink", example("xdp-counter"))).ok();
    let (_, value) = runs(&host);
    assert_eq!((value.len(), value.starts_with(&[236, 2, 1, 0])), (Version::V2.size(), true), "{value:?}");
}
