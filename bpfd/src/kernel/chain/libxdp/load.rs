//! A dispatcher as a program: assembled, loaded, with its configuration frozen. It must never be given a place to run here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::{
    AttachType, BtfTypeId, F_RDONLY_PROG, LoadError, Map, MapCreate, MapType, ProgBtf, ProgLoad, ProgramType, Records,
    Target, Update, btf_load, prog_load,
};
use ebpf::actions::ActionMask;
use ebpf::dispatch_config::{DispatcherConfig, Slot, Version};
use ebpf::dispatcher::{Dispatcher, NAME, RODATA_NAME};
use ebpf::insn::encode;
use ebpf::relocate::{FUNC_INFO_SIZE, kernel_name};

use crate::causes::error_chain as said;

/// A dispatcher as a program that nothing runs yet.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) program: OwnedFd,
    /// Where the program of the first slot goes.
    pub(crate) target: BtfTypeId,
    pub(super) dispatcher: Dispatcher,
    btf: OwnedFd,
    insns: Vec<u8>,
    #[expect(dead_code, reason = "held: the instructions name it by its descriptor")]
    config: OwnedFd,
}

/// Why there is no dispatcher.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoDispatcher {
    /// Its configuration, or the map of it.
    #[error(transparent)]
    Config(io::Error),
    /// The kernel refuses its types or its instructions.
    #[error(transparent)]
    Refused(LoadError),
}

impl From<NoDispatcher> for StepError {
    fn from(error: NoDispatcher) -> Self {
        Self::Call { doing: "make a dispatcher".to_owned(), errno: said(&error) }
    }
}

/// A dispatcher for nothing but to load programs against.
pub(crate) fn template() -> Result<Loaded, NoDispatcher> {
    let slot = Slot { priority: 50, actions: ActionMask::PASS, flags: 0 };
    load(&DispatcherConfig { version: Version::V2, frags: false, device_bound: false, slots: vec![slot] })
}

/// Makes and loads a dispatcher; its configuration is frozen.
pub(super) fn load(config: &DispatcherConfig) -> Result<Loaded, NoDispatcher> {
    let unmade = |why: String| NoDispatcher::Config(io::Error::other(why));
    let dispatcher = Dispatcher::assemble(config).map_err(|error| unmade(said(&error)))?;
    let target = dispatcher.target(0).ok_or_else(|| unmade("it would have no program".to_owned()))?;
    let btf = btf_load(dispatcher.btf()).map_err(NoDispatcher::Refused)?;
    let config = config_map(dispatcher.rodata()).map_err(NoDispatcher::Config)?;
    let insns = encode(&dispatcher.link(config.as_raw_fd()));
    let (program, target) = (load_one(&dispatcher, &btf, &insns, None), BtfTypeId(target.btf_id));
    Ok(Loaded { program: program.map_err(NoDispatcher::Refused)?, target, dispatcher, btf, insns, config })
}

/// The dispatcher's program, as itself or in the place of a function of another one.
fn load_one(
    dispatcher: &Dispatcher,
    btf: &OwnedFd,
    insns: &[u8],
    target: Option<Target<'_>>,
) -> Result<OwnedFd, LoadError> {
    let func_info = Records { bytes: dispatcher.func_info(), record_size: FUNC_INFO_SIZE };
    let kind = match target {
        Some(_) => dispatcher.load().as_extension(),
        None => dispatcher.load(),
    };
    prog_load(&ProgLoad {
        expected_attach_type: AttachType(kind.expected_attach_type),
        name: NAME,
        btf: Some(ProgBtf { fd: btf.as_fd(), func_info, line_info: Records::NONE }),
        target,
        flags: kind.flags,
        ..ProgLoad::new(ProgramType(kind.prog_type), c"GPL", insns)
    })
}

impl Loaded {
    /// Itself once more, as a program that can stand in its own first slot: it has the signature, and nothing ever runs it.
    pub(crate) fn replacement(&self) -> Result<OwnedFd, LoadError> {
        let target = Target::Program { fd: self.program.as_fd(), function: self.target };
        load_one(&self.dispatcher, &self.btf, &self.insns, Some(target))
    }
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
