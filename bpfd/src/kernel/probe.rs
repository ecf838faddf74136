//! The try whether this kernel lets one program replace another's function, for real: a dispatcher, a program in the place of its
//! main function, attached to nothing, gone when this returns. What follows from it is decided in `bpfd_core::mode`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bpfd_core::mode::{Attempt, Capability, Stage};
use bpfd_sys::bpf::{
    AttachType, BtfTypeId, F_RDONLY_PROG, LoadError, Map, MapCreate, MapType, ProgBtf, ProgLoad, ProgramType, Records,
    Target, Update, btf_load, link_create_ext, prog_load,
};
use bpfd_sys::caps::{Cap, missing};
use ebpf::actions::ActionMask;
use ebpf::dispatch_config::{DispatcherConfig, Slot, Version};
use ebpf::dispatcher::{Dispatcher, NAME, RODATA_NAME};
use ebpf::insn::encode;
use ebpf::load_type::LoadType;
use ebpf::relocate::{FUNC_INFO_SIZE, kernel_name};

use super::object::error_chain;

/// Tries it.
pub(crate) fn attempt() -> io::Result<Attempt> {
    let slot = Slot { priority: 50, actions: ActionMask::PASS, flags: 0 };
    let config = DispatcherConfig { version: Version::V2, frags: false, device_bound: false, slots: vec![slot] };
    let dispatcher = Dispatcher::assemble(&config).map_err(|error| io::Error::other(error_chain(&error)))?;
    let Some(target) = dispatcher.target(0).map(|target| BtfTypeId(target.btf_id)) else {
        return Err(io::Error::other("a dispatcher without a slot"));
    };

    let refused = |at| move |error: LoadError| Attempt::Refused { at, errno: error.errno() };
    let run = || -> Result<io::Result<()>, Attempt> {
        let btf = btf_load(dispatcher.btf()).map_err(refused(Stage::Dispatcher))?;
        let config = match config_map(dispatcher.rodata()) {
            Ok(map) => map,
            Err(error) => return Ok(Err(error)),
        };
        let insns = encode(&dispatcher.link(config.as_raw_fd()));
        let load = |load: LoadType, target| load_one(&dispatcher, btf.as_fd(), &insns, load, target);
        let main = load(dispatcher.load(), None).map_err(refused(Stage::Dispatcher))?;
        let place = Target::Program { fd: main.as_fd(), function: target };
        // The dispatcher itself is the replacement: it has the signature, and nothing ever runs it.
        let replacement = load(dispatcher.load().as_extension(), Some(place)).map_err(refused(Stage::Replacement))?;
        link_create_ext(replacement.as_fd(), main.as_fd(), target)
            .map_err(|error| Attempt::Refused { at: Stage::Attach, errno: error.raw_os_error().unwrap_or(0) })?;
        Ok(Ok(()))
    };
    match run() {
        Ok(done) => done.map(|()| Attempt::Attached),
        Err(refused) => Ok(refused),
    }
}

/// The capabilities of the try that this thread does not have in effect.
pub(crate) fn missing_capabilities() -> io::Result<Vec<Capability>> {
    let missing = missing(&[Cap::Bpf, Cap::Perfmon, Cap::NetAdmin])?;
    let named = missing.into_iter().filter_map(|cap| match cap {
        Cap::Bpf => Some(Capability::Bpf),
        Cap::Perfmon => Some(Capability::Perfmon),
        Cap::NetAdmin => Some(Capability::NetAdmin),
        Cap::SysAdmin => None,
    });
    Ok(named.collect())
}

fn config_map(value: &[u8]) -> io::Result<OwnedFd> {
    let size = u32::try_from(value.len()).map_err(io::Error::other)?;
    let name = kernel_name(RODATA_NAME);
    let shape = MapCreate::new(MapType::ARRAY, 4, size, 1);
    let map = Map::create(&MapCreate { name: &name, flags: F_RDONLY_PROG, ..shape })?;
    map.update(&[0; 4], value, Update::Any)?;
    map.freeze()?;
    Ok(map.into_fd())
}

fn load_one(
    dispatcher: &Dispatcher,
    btf: BorrowedFd<'_>,
    insns: &[u8],
    load: LoadType,
    target: Option<Target<'_>>,
) -> Result<OwnedFd, LoadError> {
    let func_info = Records { bytes: dispatcher.func_info(), record_size: FUNC_INFO_SIZE };
    prog_load(&ProgLoad {
        expected_attach_type: AttachType(load.expected_attach_type),
        name: NAME,
        btf: Some(ProgBtf { fd: btf, func_info, line_info: Records::NONE }),
        target,
        flags: load.flags,
        ..ProgLoad::new(ProgramType(load.prog_type), c"GPL", insns)
    })
}
