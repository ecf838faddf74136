//! From a normalised object to instructions that the kernel can load, by way of `aya_obj`: parse, fit BTF to the
//! kernel, CO-RE, maps, calls.
//!
//! The only file that names `aya_obj`. It must never do a system call, own a file descriptor or hand out instructions
//! that [`guard`] did not see. `aya_obj` can panic on hostile bytes: callers run it in the parse worker first and then
//! under `catch_unwind`; nothing here panics by itself.
//!
//! Steps and order are those of aya's own loader (`aya/src/bpf.rs`, `EbpfLoader::load`), with two differences: every
//! program is linked from the same pristine functions, so that one program's links cannot reach another's; and the
//! licence is never guessed. Over 400 lines, as no other file may name `aya_obj`'s types.
//!
//! Long because nothing else may name `aya_obj`: its types end here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::RawFd;

use aya_obj::btf::{Btf as LoaderBtf, BtfError, BtfFeatures, BtfRelocationError};
use aya_obj::generated::bpf_insn;
use aya_obj::maps::PinningType;
use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{EbpfSectionKind, Function, Map, Object, ParseError};

use crate::btf::Btf;
use crate::bytes::{count, index, u32_at};
use crate::elf::{Elf, ElfError};
use crate::externs::{CONFIG_MAP, KERNEL_CALL, KernelFunctions};
use crate::guard::{self, GuardError};
use crate::insn::{self, Insn, PSEUDO_KFUNC_CALL};
use crate::inspect::{self, InspectError};
use crate::kernel_btf::Asked;
pub use crate::kernel_btf::KernelBtf;
use crate::load_type::LoadType;
use crate::maps::MapKind;
use crate::normalise::CONFIG_SECTION;
use crate::verifier_log::LinkedFunction;

/// Bytes of one record of [`Finished::func_info`] (`struct bpf_func_info`).
pub const FUNC_INFO_SIZE: u32 = 8;
/// Bytes of one record of [`Finished::line_info`] (`struct bpf_line_info`).
pub const LINE_INFO_SIZE: u32 = 16;
/// Longest name the kernel keeps for a program or a map (BPF_OBJ_NAME_LEN less the final zero).
pub const KERNEL_NAME_MAX: usize = 15;

/// The most instructions the kernel takes in one program (BPF_COMPLEXITY_LIMIT_INSNS), and the most that all programs of one load have
/// together: each has its own copy of every function that it calls, so a small object could otherwise take as much memory as there is.
pub const MAX_INSNS: usize = 1_000_000;

const MAP_TYPE_PROG_ARRAY: u32 = MapKind::PROG_ARRAY.0;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = MapKind::ARRAY_OF_MAPS.0;
const MAP_TYPE_HASH_OF_MAPS: u32 = MapKind::HASH_OF_MAPS.0;
const MAP_TYPE_DEVMAP: u32 = 14;
const MAP_TYPE_CPUMAP: u32 = 16;
const MAP_TYPE_DEVMAP_HASH: u32 = 25;
const MAP_TYPE_RINGBUF: u32 = 27;

/// What the running kernel can take; decides how BTF and map sizes are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFacts {
    /// Bytes of a page, for ring buffers.
    pub page_size: u32,
    /// `bpf_get_attach_cookie` (Linux 5.15).
    pub attach_cookie: bool,
    /// BTF_KIND_DECL_TAG (Linux 5.16).
    pub btf_decl_tag: bool,
    /// BTF_KIND_TYPE_TAG (Linux 5.17).
    pub btf_type_tag: bool,
    /// BTF_KIND_ENUM64 (Linux 6.0).
    pub btf_enum64: bool,
}

impl KernelFacts {
    /// What a kernel of this release has. Releases before 5.15 count as 5.15.
    pub fn for_release(major: u32, minor: u32) -> Self {
        let has = |at_least| (major, minor) >= at_least;
        Self {
            page_size: 4096,
            attach_cookie: has((5, 15)),
            btf_decl_tag: has((5, 16)),
            btf_type_tag: has((5, 17)),
            btf_enum64: has((6, 0)),
        }
    }

    const fn btf_features(self) -> BtfFeatures {
        // FUNC 5.0, global FUNC 5.6, DATASEC 5.2, empty DATASEC 5.12, FLOAT 5.13.
        let Self { page_size: _, attach_cookie: _, btf_decl_tag, btf_type_tag, btf_enum64 } = self;
        BtfFeatures::new(true, true, true, true, true, btf_decl_tag, btf_type_tag, btf_enum64)
    }
}

impl Default for KernelFacts {
    fn default() -> Self {
        Self::for_release(5, 15)
    }
}

/// Why an object cannot be made ready for the kernel.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    /// The object breaks the rule that bytes never name kernel objects.
    #[error("refused before anything is loaded")]
    Guard(#[from] GuardError),
    /// Not an object.
    #[error("cannot read the object")]
    Elf(#[from] ElfError),
    /// Its licence cannot be read.
    #[error(transparent)]
    Licence(#[from] InspectError),
    /// Nothing says where the functions of a program begin, and it uses what the kernel allows only if something does.
    #[error(
        "`{program}` {why}, which needs type information of all functions; `{function}` has none: compile it with `-g`"
    )]
    NoFuncInfo {
        /// The program.
        program: String,
        /// What it does.
        why: &'static str,
        /// A function without records.
        function: String,
    },
    /// The ELF or its BTF is not understood.
    #[error("cannot parse the object")]
    Parse(#[source] ParseError),
    /// The object's BTF cannot be fitted to the kernel.
    #[error("cannot fit the object's BTF to this kernel")]
    Btf(#[source] BtfError),
    /// The object's BTF is not understood.
    #[error("cannot read the object's types")]
    Types(#[from] crate::btf::BtfError),
    /// An excerpt of the kernel's BTF cannot be read.
    #[error("cannot parse the kernel's BTF")]
    KernelBtf(#[source] BtfError),
    /// It relies on kernel types, and this kernel shows none.
    #[error("object has CO-RE relocations, and the kernel's BTF is not available")]
    NeedsKernelBtf,
    /// A CO-RE relocation failed.
    #[error("cannot fit the object to this kernel's types")]
    CoRe(#[source] BtfRelocationError),
    /// A map or call relocation failed.
    #[error("cannot link the object")]
    Link(#[source] EbpfRelocationError),
    /// A function that was asked for is not in the object.
    #[error("no program `{0}` in the object")]
    NoFunction(String),
    /// `finish` was not given an fd for a map.
    #[error("no file descriptor was given for map `{0}`")]
    NoMapFd(String),
    /// A map of maps does not say what its inner maps are.
    #[error("map `{0}` of maps does not define its inner map")]
    NoInnerMap(String),
    /// More instructions than one load may have.
    #[error(
        "with `{function}`, the programs have {found} instructions, callees included; {MAX_INSNS} is the limit for all together: load fewer of them"
    )]
    TooLong {
        /// The program that is one too many, in the order of the request.
        function: String,
        /// The instructions so far, all callees included.
        found: usize,
    },
}

/// A map that has to be made before the programs can be finished.
#[derive(Debug, Clone)]
pub struct MapDefinition {
    name: String,
    map: Map,
}

impl MapDefinition {
    /// Its name in the object: a C identifier, or the section's for globals (`.rodata`, `.bss`, …).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `enum bpf_map_type`.
    pub const fn map_type(&self) -> u32 {
        self.map.map_type()
    }

    /// Bytes of a key.
    pub const fn key_size(&self) -> u32 {
        self.map.key_size()
    }

    /// Bytes of a value.
    pub const fn value_size(&self) -> u32 {
        self.map.value_size()
    }

    /// Entries; 0 for a perf event array means one a CPU.
    pub const fn max_entries(&self) -> u32 {
        self.map.max_entries()
    }

    /// `BPF_F_*` flags of BPF_MAP_CREATE.
    pub const fn flags(&self) -> u32 {
        self.map.map_flags()
    }

    /// `map_extra` of BPF_MAP_CREATE.
    pub const fn extra(&self) -> u64 {
        self.map.map_extra()
    }

    /// The key's and the value's type ids in [`Unlinked::btf`], for map kinds that take them: the others refuse them
    /// (the list is libbpf's, `bpf_object__create_map`).
    pub fn btf_types(&self) -> Option<(u32, u32)> {
        const REFUSE: [u32; 14] = [4, 7, 8, 12, 13, 14, 15, 16, 17, 18, 22, 23, 25, 27];
        match &self.map {
            Map::Btf(map) if !REFUSE.contains(&self.map_type()) => {
                Some((map.def.btf_key_type_id, map.def.btf_value_type_id)).filter(|ids| *ids != (0, 0))
            }
            Map::Btf(_) | Map::Legacy(_) => None,
        }
    }

    /// The value to write at key 0 before any program is loaded; only maps that hold globals have one.
    pub fn initial(&self) -> Option<&[u8]> {
        Some(self.map.data()).filter(|data| !data.is_empty())
    }

    /// Whether to freeze it once [`MapDefinition::initial`] is written: constants, which the verifier may then fold.
    pub fn freeze(&self) -> bool {
        self.map.section_kind() == EbpfSectionKind::Rodata
    }

    /// Whether the object wishes it pinned by name. Only a wish: bpfd chooses pins itself.
    pub fn wants_pin_by_name(&self) -> bool {
        self.map.pinning() == PinningType::ByName
    }

    /// What the maps inside look like; only a map of maps has one. The kernel needs such a map's fd to make this one.
    pub fn inner(&self) -> Option<Self> {
        let map = self.map.inner()?;
        Some(Self { name: format!("{}.inner", self.name), map })
    }

    /// As `aya::maps::MapData::create` wants it.
    pub fn definition(&self) -> Map {
        self.map.clone()
    }

    const fn is_map_of_maps(&self) -> bool {
        matches!(self.map_type(), MAP_TYPE_ARRAY_OF_MAPS | MAP_TYPE_HASH_OF_MAPS)
    }

    /// Sizes that the kernel wants otherwise than objects state them (`aya/src/bpf.rs`, `max_entries_override` and
    /// `value_size_override`; a device's or CPU's entry carries a program since Linux 5.8 and 5.9).
    fn fit(&mut self, facts: &KernelFacts) {
        match self.map.map_type() {
            MAP_TYPE_DEVMAP | MAP_TYPE_DEVMAP_HASH | MAP_TYPE_CPUMAP => self.map.set_value_size(8),
            MAP_TYPE_PROG_ARRAY => self.map.set_value_size(4),
            MAP_TYPE_RINGBUF => {
                self.map.set_value_size(0);
                self.map.set_max_entries(whole_pages(self.map.max_entries(), facts.page_size));
            }
            _ => {}
        }
    }
}

/// The next power of two of pages, as ring buffers must be. 0 stays 0, for the kernel to refuse.
fn whole_pages(bytes: u32, page_size: u32) -> u32 {
    if bytes == 0 || page_size == 0 {
        return bytes;
    }
    bytes
        .div_ceil(page_size)
        .checked_next_power_of_two()
        .and_then(|pages| pages.checked_mul(page_size))
        .unwrap_or(bytes)
}

/// Fits an object to the kernel's types, by an excerpt of those that it names.
fn fit_types(object: &mut Object, elf: &[u8], kernel: &KernelBtf) -> Result<(), RelocateError> {
    const LOADS_A_NUMBER: [u8; 2] = [0xb7, 0xb4];
    let Asked { names, numbers } = Asked::read(&Elf::open(elf)?)?;
    let excerpt = kernel.excerpt(&names);
    let types = LoaderBtf::parse(&excerpt.bytes, Default::default()).map_err(RelocateError::KernelBtf)?;
    object.relocate_btf(&types).map_err(RelocateError::CoRe)?;
    // Numbers of types are the excerpt's until now.
    for (section, offset) in numbers {
        let size = size_of::<bpf_insn>();
        let found = object.functions.values_mut().find_map(|function| {
            let place = offset.checked_sub(function.section_offset)? / size;
            Some(function).filter(|function| function.section_index.0 == section)?.instructions.get_mut(place)
        });
        if let Some(insn) = found
            && (insn.code == insn::LD_IMM64 || LOADS_A_NUMBER.contains(&insn.code))
            && let Some(id) = u32::try_from(insn.imm).ok().and_then(|number| excerpt.kernel_id(number))
        {
            insn.imm = id.cast_signed();
        }
    }
    Ok(())
}

/// A program to make from an object: which function, and how it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The function's name.
    pub function: String,
    /// Its type for the kernel; the section's name has no say.
    pub load: LoadType,
}

/// An object fitted to the kernel, its maps still to be made.
#[derive(Debug, Clone)]
pub struct Unlinked {
    object: Object,
    chosen: Vec<Chosen>,
    license: String,
    maps: Vec<MapDefinition>,
    btf: Option<Vec<u8>>,
    /// Types of functions of the kernel that may be called.
    calls: BTreeSet<i32>,
}

impl Unlinked {
    /// Parses an object that `normalise` wrote, writes `globals` (name to encoded value) into its data, and fits it to
    /// the kernel. `kernel` may be absent when the object needs no CO-RE.
    pub fn parse(
        bytes: &[u8],
        chosen: &[Chosen],
        globals: &BTreeMap<String, Vec<u8>>,
        kernel: Option<&KernelBtf>,
        facts: &KernelFacts,
    ) -> Result<Self, RelocateError> {
        guard::check_object(bytes)?;
        let license = inspect::license(&Elf::open(bytes)?)?.unwrap_or_default();
        let mut object = Object::parse(bytes).map_err(RelocateError::Parse)?;
        if let Some(missing) = chosen.iter().find(|chosen| !object.programs.contains_key(&chosen.function)) {
            return Err(RelocateError::NoFunction(missing.function.clone()));
        }
        if let Some(half) = object.functions.values().find(|function| ends_in_half(function)) {
            return Err(GuardError::HalfInstruction(half.name.clone()).into());
        }
        let values: HashMap<&str, (&[u8], bool)> =
            globals.iter().map(|(name, value)| (name.as_str(), (value.as_slice(), true))).collect();
        object.patch_map_data(values).map_err(RelocateError::Parse)?;
        let btf =
            object.fixup_and_sanitize_btf(&facts.btf_features()).map_err(RelocateError::Btf)?.map(LoaderBtf::to_bytes);
        if object.has_btf_relocations() {
            fit_types(&mut object, bytes, kernel.ok_or(RelocateError::NeedsKernelBtf)?)?;
        }
        let maps = take_maps(&mut object, facts)?;
        Ok(Self { object, chosen: chosen.to_vec(), license, maps, btf, calls: BTreeSet::new() })
    }

    /// With calls of these functions of the kernel, which `normalise` was told of.
    #[must_use]
    pub fn calling(self, functions: &KernelFunctions) -> Self {
        let calls = functions.values().filter_map(|id| i32::try_from(*id).ok()).collect();
        Self { calls, ..self }
    }

    /// The object's BTF as this kernel takes it: for BPF_BTF_LOAD, then for maps and programs by its fd.
    pub fn btf(&self) -> Option<&[u8]> {
        self.btf.as_deref()
    }

    /// The maps to make, in this order: by name, maps of maps last.
    pub fn maps(&self) -> &[MapDefinition] {
        &self.maps
    }

    /// The object's licence.
    pub fn license(&self) -> &str {
        &self.license
    }

    /// Links the chosen functions, in the order they were chosen, against maps that were made: one fd a name of
    /// [`Unlinked::maps`].
    pub fn finish(&self, map_fds: &BTreeMap<String, RawFd>) -> Result<Vec<Finished>, RelocateError> {
        let mut object = self.object.clone();
        let mut fds = Vec::with_capacity(self.maps.len());
        for definition in &self.maps {
            let name = definition.name();
            let fd = map_fds.get(name).ok_or_else(|| RelocateError::NoMapFd(name.to_owned()))?;
            fds.push((name, *fd, &definition.map));
        }
        let own_maps: BTreeSet<RawFd> = fds.iter().map(|(_, fd, _)| *fd).collect();
        let code = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(fds.into_iter(), &code).map_err(RelocateError::Link)?;

        let types = self.btf().and_then(|btf| Btf::open(btf).ok());
        let programs = std::mem::take(&mut object.programs);
        let mut finished = Vec::with_capacity(self.chosen.len());
        let mut insns = 0_usize;
        for chosen in &self.chosen {
            let missing = || RelocateError::NoFunction(chosen.function.clone());
            let program = programs.get(&chosen.function).ok_or_else(missing)?.clone();
            let key = program.function_key();
            let pristine = object.functions.get(&key).ok_or_else(missing)?.clone();
            let kernel_version = program.kernel_version;
            object.programs.insert(chosen.function.clone(), program);
            object.relocate_calls(&code).map_err(RelocateError::Link)?;
            object.programs.clear();
            let linked = object.functions.insert(key, pristine).ok_or_else(missing)?;
            insns = insns.saturating_add(linked.instructions.len());
            if insns > MAX_INSNS {
                return Err(RelocateError::TooLong { function: chosen.function.clone(), found: insns });
            }
            finished.push(self.one(chosen, &linked, kernel_version, &own_maps, types.as_ref())?);
        }
        if finished.iter().any(|program| program.insns.iter().any(Insn::is_tail_call)) {
            for program in &mut finished {
                program.load = program.load.for_tail_calls();
            }
        }
        Ok(finished)
    }

    fn one(
        &self,
        chosen: &Chosen,
        linked: &Function,
        kernel_version: Option<u32>,
        own_maps: &BTreeSet<RawFd>,
        types: Option<&Btf<'_>>,
    ) -> Result<Finished, RelocateError> {
        let function = chosen.function.clone();
        let insns: Vec<Insn> = linked.instructions.iter().map(typed).collect();
        guard::check_finished(&function, &insns, own_maps)?;
        let insns: Vec<Insn> = insns.into_iter().map(|insn| self.kernel_call(insn)).collect();
        let starts = guard::function_starts(&insns);
        let mut func_info = linked.func_info.func_info_bytes();
        let mut line_info = linked.line_info.line_info_bytes();
        let functions = starts.iter().map(|start| match *start {
            0 => LinkedFunction { name: function.clone(), start: 0 },
            start => LinkedFunction { name: name_at(&func_info, start, types), start: count(start) },
        });
        let functions = functions.collect();
        // The kernel wants a record of each function's start, or none at all.
        if !slots(&func_info, FUNC_INFO_SIZE).eq(starts.iter().copied()) {
            self.check_needless(&function, &insns, &starts)?;
            func_info = Vec::new();
        }
        let lines: BTreeSet<usize> = slots(&line_info, LINE_INFO_SIZE).collect();
        if !lines.is_superset(&starts) || !slots(&line_info, LINE_INFO_SIZE).is_sorted_by(|a, b| a < b) {
            line_info = Vec::new();
        }
        Ok(Finished {
            name: kernel_name(&function),
            function,
            load: chosen.load,
            insns,
            license: self.license.clone(),
            kernel_version,
            func_info,
            line_info,
            functions,
        })
    }

    /// The call of a function of the kernel that an instruction stands for; others as they are.
    fn kernel_call(&self, insn: Insn) -> Insn {
        let id = insn.imm.checked_sub(KERNEL_CALL).filter(|id| self.calls.contains(id));
        match id {
            Some(id) if insn.is_call() && insn.src == 0 => Insn { src: PSEUDO_KFUNC_CALL, imm: id, ..insn },
            Some(_) | None => insn,
        }
    }

    /// Refuses a program whose functions need records and that lacks some, naming one that has none.
    fn check_needless(&self, program: &str, insns: &[Insn], starts: &BTreeSet<usize>) -> Result<(), RelocateError> {
        let Some(why) = needs_func_info(insns, starts) else { return Ok(()) };
        let untyped = self.object.functions.values().find(|function| function.func_info.len() == 0);
        let function = untyped.map_or(program, |function| function.name.as_str()).to_owned();
        Err(RelocateError::NoFuncInfo { program: program.to_owned(), why, function })
    }
}

/// A program that BPF_PROG_LOAD can be asked for. Map fds in it are borrowed: keep the maps open until it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The function's full name.
    pub function: String,
    /// The name the kernel keeps: at most 15 bytes of `[A-Za-z0-9_.]`.
    pub name: String,
    /// Type, expected attach type and flags.
    pub load: LoadType,
    /// The program with all it calls.
    pub insns: Vec<Insn>,
    /// The object's licence.
    pub license: String,
    /// The kernel release the object is bound to; only kprobes before Linux 5.0 ask.
    pub kernel_version: Option<u32>,
    /// Records of [`FUNC_INFO_SIZE`] bytes: one a function, or none at all. Only together with the fd of [`Unlinked::btf`].
    pub func_info: Vec<u8>,
    /// Records of [`LINE_INFO_SIZE`] bytes; none if a function's first line is not known. Only together with the fd of
    /// [`Unlinked::btf`].
    pub line_info: Vec<u8>,
    /// Where its functions begin, itself first; those without records have no name.
    pub functions: Vec<LinkedFunction>,
}

impl Finished {
    /// The program's bytes.
    pub fn insn_bytes(&self) -> Vec<u8> {
        insn::encode(&self.insns)
    }

    /// What it does that the kernel allows only with records of its functions.
    pub fn needs_func_info(&self) -> Option<&'static str> {
        needs_func_info(&self.insns, &guard::function_starts(&self.insns))
    }
}

/// `check_ld_imm` and `check_abnormal_return` of the kernel's `kernel/bpf/verifier.c`.
fn needs_func_info(insns: &[Insn], starts: &BTreeSet<usize>) -> Option<&'static str> {
    let main = starts.iter().nth(1).copied().unwrap_or(insns.len());
    insns.iter().enumerate().find_map(|(slot, insn)| {
        if insn.is_function_address() {
            Some("hands a callback to the kernel")
        } else if insn.is_tail_call() && slot >= main {
            Some("makes a tail call in a function that it calls")
        } else {
            None
        }
    })
}

/// The name of the function that starts at a slot, by the record of it; empty without one.
fn name_at(func_info: &[u8], start: usize, types: Option<&Btf<'_>>) -> String {
    let record = func_info.chunks_exact(index(FUNC_INFO_SIZE)).find(|record| u32_at(record, 0) == Some(count(start)));
    let id = record.and_then(|record| u32_at(record, 4));
    types.zip(id).map_or("", |(types, id)| types.name(id)).to_owned()
}

/// The first word of each record: the instruction that it is about.
fn slots(records: &[u8], size: u32) -> impl Iterator<Item = usize> {
    records.chunks_exact(index(size)).filter_map(|record| u32_at(record, 0)).map(index)
}

/// The first 15 bytes of a name, what the kernel would refuse replaced by `_`.
pub fn kernel_name(name: &str) -> String {
    let allowed = |byte: char| byte.is_ascii_alphanumeric() || matches!(byte, '_' | '.');
    name.chars().map(|byte| if allowed(byte) { byte } else { '_' }).take(KERNEL_NAME_MAX).collect()
}

fn take_maps(object: &mut Object, facts: &KernelFacts) -> Result<Vec<MapDefinition>, RelocateError> {
    let name = |name: String| if name == CONFIG_SECTION { CONFIG_MAP.to_owned() } else { name };
    let maps = object.maps.drain().map(|(old, map)| MapDefinition { name: name(old), map });
    let mut maps: Vec<MapDefinition> = maps.collect();
    maps.sort_by(|a, b| a.is_map_of_maps().cmp(&b.is_map_of_maps()).then_with(|| a.name.cmp(&b.name)));
    for definition in &mut maps {
        definition.fit(facts);
        if definition.is_map_of_maps() && definition.map.inner().is_none() {
            return Err(RelocateError::NoInnerMap(definition.name.clone()));
        }
    }
    Ok(maps)
}

fn ends_in_half(function: &Function) -> bool {
    function.instructions.last().is_some_and(|insn| insn.code == insn::LD_IMM64)
}

fn typed(raw: &bpf_insn) -> Insn {
    Insn { code: raw.code, dst: raw.dst_reg(), src: raw.src_reg(), off: raw.off, imm: raw.imm }
}
