//! An XDP dispatcher that libxdp takes for its own: ten slots, each a global function that an EXT program replaces.
//!
//! Owns the dispatcher's instructions and types, assembled here from the protocol's facts (`lib/libxdp/protocol.org` and
//! the behaviour of Debian's `xdp-dispatcher.o`); no code of libxdp's is in it. It must never have another map than its
//! configuration: peers take such a program for a foreign one.
//!
//! ```text
//! xdp_dispatcher(ctx):
//!     for each slot i: if config.programs < i + 1 goto pass
//!                      ret = prog<i>(ctx)
//!                      if !(config.actions[i] >> ret & 1) return ret
//!     if config.programs < 11 goto pass          keeps compat_test referenced, as libxdp's compatibility probe needs
//!     return compat_test(ctx)
//! pass:
//!     return XDP_PASS
//! prog<i>(ctx), compat_test(ctx):
//!     if !ctx return XDP_ABORTED
//!     bpf_xdp_adjust_tail(ctx, 0)
//!     return 31
//! ```
//! The call of `bpf_xdp_adjust_tail` is never run: an empty slot is never reached. It tells the verifier that a slot may
//! change the packet; without it kernels from 6.13 (and 6.12.y) refuse an EXT program that does (libxdp 1.5.5 has it for
//! the same reason).

use std::os::fd::RawFd;

use crate::actions::{EMPTY_SLOT_VERDICT, XDP_ABORTED, XDP_PASS};
use crate::assembler::{AssembleError, Assembler, Label};
use crate::btf::{Btf, Member, Type};
use crate::btf_build::{BtfBuilder, Linkage, TypeId, func_info};
use crate::bytes::count;
use crate::dispatch_config::{DispatcherConfig, EncodeError, SLOTS};
use crate::elf::Elf;
use crate::insn::{HELPER_XDP_ADJUST_TAIL, Insn, PSEUDO_MAP_VALUE, Reg};
use crate::load_type::{LoadType, XDP_DEV_BOUND_ONLY};

/// The kernel's name of every dispatcher, by which peers know it, and of its main function.
pub const NAME: &str = "xdp_dispatcher";
/// The name libbpf would give its map; peers do not look at it.
pub const RODATA_NAME: &str = "xdp_disp.rodata";
/// The licence it is loaded under; it calls no GPL-only helper. EXT programs keep their own.
pub const LICENSE: &str = "Dual MIT/GPL";

/// The slots' functions, in order.
pub const SLOT_FUNCTIONS: [&str; SLOTS] =
    ["prog0", "prog1", "prog2", "prog3", "prog4", "prog5", "prog6", "prog7", "prog8", "prog9"];
const COMPAT_TEST: &str = "compat_test";
const ACTIONS_OFFSET: i16 = 4;

/// A dispatcher for one configuration, without the fd of the map that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatcher {
    insns: Vec<Insn>,
    btf: Vec<u8>,
    func_info: Vec<u8>,
    rodata: Vec<u8>,
    load: LoadType,
    programs: usize,
    main_id: TypeId,
    slot_ids: Vec<TypeId>,
}

/// Where an EXT program goes: a function of a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The function's name.
    pub function: &'static str,
    /// Its type id in the dispatcher's BTF: `attach_btf_id` on load, `target_btf_id` on attachment.
    pub btf_id: u32,
}

/// Why a dispatcher cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatcherError {
    /// The configuration cannot be written.
    #[error("cannot write the dispatcher's configuration")]
    Config(#[from] EncodeError),
    /// The program cannot be assembled.
    #[error("cannot assemble the dispatcher")]
    Assemble(#[from] AssembleError),
}

impl Dispatcher {
    /// The dispatcher for a configuration.
    pub fn assemble(config: &DispatcherConfig) -> Result<Self, DispatcherError> {
        let rodata = config.encode()?;
        let (insns, starts) = code(config)?;
        let types = types(config.version.number());
        let functions: Vec<TypeId> =
            std::iter::once(types.main).chain(types.slots.iter().copied()).chain([types.compat_test]).collect();
        let records: Vec<(u32, TypeId)> = starts.into_iter().map(count).zip(functions).collect();
        let mut load = if config.frags { LoadType::XDP.with_frags() } else { LoadType::XDP };
        if config.device_bound {
            load.flags |= XDP_DEV_BOUND_ONLY;
        }
        Ok(Self {
            insns,
            btf: types.btf,
            func_info: func_info(&records),
            rodata,
            load,
            programs: config.slots.len(),
            main_id: types.main,
            slot_ids: types.slots,
        })
    }

    /// The value of its only map at key 0: an array of one entry with 4-byte keys and BPF_F_RDONLY_PROG, frozen once
    /// this is written and before the program is loaded.
    pub fn rodata(&self) -> &[u8] {
        &self.rodata
    }

    /// Its types, for BPF_BTF_LOAD. EXT programs can be attached only to a dispatcher that was loaded with them.
    pub fn btf(&self) -> &[u8] {
        &self.btf
    }

    /// Its `func_info`, records of [`crate::relocate::FUNC_INFO_SIZE`] bytes.
    pub fn func_info(&self) -> &[u8] {
        &self.func_info
    }

    /// Type, expected attach type and flags.
    pub const fn load(&self) -> LoadType {
        self.load
    }

    /// Its instructions, reading the configuration from the map with this fd.
    pub fn link(&self, rodata_fd: RawFd) -> Vec<Insn> {
        let mut insns = self.insns.clone();
        for insn in insns.iter_mut().filter(|insn| insn.is_ld_imm64() && insn.src == PSEUDO_MAP_VALUE) {
            insn.imm = rodata_fd;
        }
        insns
    }

    /// Where the program of a slot goes: the main function itself if it is the only one, else the slot's own. `None`
    /// for a slot that the configuration does not use.
    pub fn target(&self, slot: usize) -> Option<Target> {
        match (slot, self.programs) {
            (0, 1) => Some(Target { function: NAME, btf_id: self.main_id.number() }),
            (slot, programs) if slot < programs => {
                let (function, id) = (SLOT_FUNCTIONS.get(slot)?, self.slot_ids.get(slot)?);
                Some(Target { function, btf_id: id.number() })
            }
            _ => None,
        }
    }

    /// The BTF id of any of its functions that can be replaced, used or not.
    pub fn function_id(&self, function: &str) -> Option<u32> {
        let slots = SLOT_FUNCTIONS.iter().copied().zip(self.slot_ids.iter().copied());
        let mut all = slots.chain([(NAME, self.main_id)]);
        all.find(|(name, _)| *name == function).map(|(_, id)| id.number())
    }
}

/// The `dispatcher_version` that a dispatcher's BTF tells: of a loaded program, or of an installed `xdp-dispatcher.o`'s
/// `.BTF` section. Any bytes may be given. It is how peers know version 1, whose configuration has no number.
pub fn version_in_btf(btf: &[u8]) -> Option<u32> {
    let btf = Btf::open(btf).ok()?;
    let section = btf.section("xdp_metadata")?;
    let named = |var: u32| btf.name(var) == "dispatcher_version";
    let variable = section.iter().find(|entry| named(entry.var))?;
    let Some(Type::Variable { of }) = btf.get(variable.var) else { return None };
    btf.uint(Member { name: 0, of })
}

/// The same of an object: the `xdp-dispatcher.o` of an installed libxdp. Any bytes may be given.
pub fn version_in_object(object: &[u8]) -> Option<u32> {
    version_in_btf(Elf::open(object).ok()?.content(".BTF")?.data)
}

/// Which slot a function of a dispatcher is, by the dispatcher's BTF: the main function is the only program's. `None` for any other
/// function.
pub fn slot_in_btf(btf: &[u8], function: u32) -> Option<usize> {
    let btf = Btf::open(btf).ok()?;
    let Type::Function = btf.get(function)? else { return None };
    match btf.name(function) {
        NAME => Some(0),
        name => SLOT_FUNCTIONS.iter().position(|slot| *slot == name),
    }
}

/// The function that a kernel name stands for, which is cut at 15 bytes: the only one of the program's BTF that begins so. Peers
/// sort by it. `None` if there is none, or several.
pub fn full_name(btf: &[u8], cut: &str) -> Option<String> {
    let btf = Btf::open(btf).ok()?;
    let functions = btf.ids().filter(|id| matches!(btf.get(*id), Some(Type::Function))).map(|id| btf.name(id));
    let mut found = functions.filter(|name| name.starts_with(cut));
    let first = found.next()?;
    found.all(|other| other == first).then(|| first.to_owned())
}

/// The instructions, and where each function begins: main, the slots, `compat_test`.
fn code(config: &DispatcherConfig) -> Result<(Vec<Insn>, Vec<usize>), AssembleError> {
    let mut asm = Assembler::new();
    let stubs: Vec<Label> = SLOT_FUNCTIONS.iter().chain([&COMPAT_TEST]).map(|_| asm.label()).collect();
    let (pass, exit) = (asm.label(), asm.label());
    let mut starts = vec![asm.position()];

    asm.push(Insn::mov_reg(Reg::R6, Reg::R1));
    asm.extend(Insn::load_map_value(Reg::R7, 0, 0));
    asm.push(Insn::load8(Reg::R8, Reg::R7, config.version.count_offset()));
    for ((programs, actions), stub) in (1..).zip((ACTIONS_OFFSET..).step_by(4)).zip(&stubs) {
        asm.jump_if_below(Reg::R8, programs, pass);
        asm.push(Insn::mov_reg(Reg::R1, Reg::R6));
        asm.call(*stub);
        if programs <= count_i32(SLOTS) {
            asm.extend([
                Insn::mov32_reg(Reg::R2, Reg::R0),
                Insn::load32(Reg::R1, Reg::R7, actions),
                Insn::shr_reg(Reg::R1, Reg::R2),
                Insn::and(Reg::R1, 1),
            ]);
            asm.jump_if_equal(Reg::R1, 0, exit);
        } else {
            asm.push(Insn::exit());
        }
    }
    asm.place(pass);
    asm.push(Insn::mov(Reg::R0, XDP_PASS));
    asm.place(exit);
    asm.push(Insn::exit());

    for stub in &stubs {
        asm.place(*stub);
        starts.push(asm.position());
        push_stub(&mut asm);
    }
    Ok((asm.finish()?, starts))
}

fn push_stub(asm: &mut Assembler) {
    let aborted = asm.label();
    asm.jump_if_equal(Reg::R1, 0, aborted);
    asm.push(Insn::mov(Reg::R2, 0));
    asm.push(Insn::call_helper(HELPER_XDP_ADJUST_TAIL));
    // A global function's result is unknown to its callers: unlike clang, the verifier cannot fold this away.
    asm.push(Insn::mov32(Reg::R0, EMPTY_SLOT_VERDICT));
    asm.push(Insn::exit());
    asm.place(aborted);
    asm.push(Insn::mov(Reg::R0, XDP_ABORTED));
    asm.push(Insn::exit());
}

fn count_i32(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

struct Types {
    btf: Vec<u8>,
    main: TypeId,
    slots: Vec<TypeId>,
    compat_test: TypeId,
}

/// `struct xdp_md`, `int f(struct xdp_md *ctx)` for each function, and the version as libxdp's `__uint` writes it: the
/// length of an array that a pointer points to. The kernel compares an EXT program's signature with its target's.
fn types(version: u8) -> Types {
    let mut btf = BtfBuilder::new();
    let int = btf.signed("int", 4);
    let word = btf.unsigned("unsigned int", 4);
    let context = btf.structure(
        "xdp_md",
        24,
        &[
            ("data", word, 0),
            ("data_end", word, 4),
            ("data_meta", word, 8),
            ("ingress_ifindex", word, 12),
            ("rx_queue_index", word, 16),
            ("egress_ifindex", word, 20),
        ],
    );
    let pointer = btf.pointer(context);
    let signature = btf.signature(int, &[("ctx", pointer)]);
    let slots = SLOT_FUNCTIONS.map(|name| btf.function(name, signature, Linkage::Global)).to_vec();
    let compat_test = btf.function(COMPAT_TEST, signature, Linkage::Global);
    let main = btf.function(NAME, signature, Linkage::Global);
    let array = btf.array(int, word, u32::from(version));
    let pointer = btf.pointer(array);
    let variable = btf.variable("dispatcher_version", pointer, Linkage::Global);
    btf.section("xdp_metadata", 8, &[(variable, 0, 8)]);
    Types { btf: btf.finish(), main, slots, compat_test }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::ActionMask;
    use crate::dispatch_config::{Slot, Version};
    use crate::insn::encode;

    fn dispatcher(version: Version, programs: usize) -> Dispatcher {
        let slot = Slot { priority: 50, actions: ActionMask::PASS, flags: 0 };
        let config = DispatcherConfig { version, frags: false, device_bound: false, slots: vec![slot; programs] };
        Dispatcher::assemble(&config).unwrap()
    }

    fn hex(insns: &[Insn]) -> String {
        let lines =
            insns.iter().map(|insn| encode(&[*insn]).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_program_is_the_one_that_was_run_on_kernels() {
        insta::assert_snapshot!(hex(&dispatcher(Version::V2, 3).link(0x1234)));
    }

    #[test]
    fn versions_differ_only_in_where_they_count_and_in_what_their_types_say() {
        let (v1, v2, v3) = (dispatcher(Version::V1, 3), dispatcher(Version::V2, 3), dispatcher(Version::V3, 3));
        assert_eq!(v2.link(5), v3.link(5));
        let differing: Vec<_> =
            v1.link(5).into_iter().zip(v2.link(5)).enumerate().filter(|(_, (a, b))| a != b).collect();
        assert_eq!(differing, [(3, (Insn::load8(Reg::R8, Reg::R7, 0), Insn::load8(Reg::R8, Reg::R7, 2)))]);
        for (dispatcher, version) in [(v1, 1), (v2, 2), (v3, 3)] {
            assert_eq!(version_in_btf(dispatcher.btf()), Some(version));
        }
    }

    #[test]
    fn the_map_is_the_only_one_it_names() {
        let insns = dispatcher(Version::V2, 10).link(7);
        crate::guard::check_finished(NAME, &insns, &std::collections::BTreeSet::from([7])).unwrap();
    }

    #[test]
    fn each_function_has_a_record_at_its_first_instruction_in_order() {
        let dispatcher = dispatcher(Version::V2, 2);
        let insns = dispatcher.link(7);
        let calls = insns.iter().enumerate().filter(|(_, insn)| insn.is_local_call());
        let mut starts: Vec<usize> = calls.filter_map(|(slot, insn)| crate::guard::target(slot, insn)).collect();
        starts.insert(0, 0);
        let (records, rest) = dispatcher.func_info().as_chunks::<8>();
        assert!(rest.is_empty());
        let word = |record: &[u8; 8], at| crate::bytes::u32_at(record, at).unwrap();
        let found: Vec<usize> = records.iter().map(|record| usize::try_from(word(record, 0)).unwrap()).collect();
        assert_eq!(found, starts);
        let btf = Btf::open(dispatcher.btf()).unwrap();
        let names: Vec<&str> = records.iter().map(|record| btf.name(word(record, 4))).collect();
        let expected: Vec<&str> = [NAME].into_iter().chain(SLOT_FUNCTIONS).chain([COMPAT_TEST]).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_single_program_replaces_main_and_several_their_slots() {
        let target = |programs, slot| dispatcher(Version::V2, programs).target(slot).map(|target| target.function);
        assert_eq!(target(1, 0), Some(NAME));
        assert_eq!(target(2, 0), Some("prog0"));
        assert_eq!(target(10, 9), Some("prog9"));
        assert_eq!((target(0, 0), target(1, 1), target(10, 10)), (None, None, None));
        let dispatcher = dispatcher(Version::V2, 10);
        for slot in 0..SLOTS {
            let target = dispatcher.target(slot).unwrap();
            assert_eq!(dispatcher.function_id(target.function), Some(target.btf_id));
        }
        assert_eq!(dispatcher.function_id(COMPAT_TEST), None);
    }

    #[test]
    fn frags_and_device_binding_become_load_flags() {
        let flags = |frags, device_bound| {
            let config = DispatcherConfig { version: Version::V3, frags, device_bound, slots: vec![] };
            Dispatcher::assemble(&config).unwrap().load().flags
        };
        assert_eq!([flags(false, false), flags(true, false), flags(true, true)], [0, 0x20, 0x60]);
    }

    #[test]
    fn slots_and_names_are_read_back_from_the_types() {
        let dispatcher = dispatcher(Version::V2, 3);
        for slot in 0..3 {
            let target = dispatcher.target(slot).unwrap();
            assert_eq!(slot_in_btf(dispatcher.btf(), target.btf_id), Some(slot));
        }
        assert_eq!(slot_in_btf(dispatcher.btf(), dispatcher.main_id.number()), Some(0));
        assert_eq!(slot_in_btf(dispatcher.btf(), 1), None);
        assert_eq!(slot_in_btf(dispatcher.btf(), u32::MAX), None);
        assert_eq!(full_name(dispatcher.btf(), "compat_te"), Some(COMPAT_TEST.to_owned()));
        assert_eq!(full_name(dispatcher.btf(), "prog"), None, "several");
        assert_eq!(full_name(dispatcher.btf(), "xyz"), None);
    }

    #[test]
    fn bytes_that_are_no_dispatchers_types_have_no_version() {
        assert_eq!(version_in_btf(&[]), None);
        assert_eq!(version_in_btf(&BtfBuilder::new().finish()), None);
        let btf = dispatcher(Version::V2, 1).btf().to_vec();
        for cut in 0..btf.len() {
            assert_eq!(version_in_btf(&btf[..cut]), None, "cut at {cut}");
        }
    }
}
