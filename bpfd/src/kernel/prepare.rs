//! Loading an object: its maps and programs as file descriptors, named by nothing. Any thread may do it; what it made is gone when
//! dropped. It must never pin or attach.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::hook::OwnHook;
use bpfd_core::ident::AppUid;
use bpfd_core::kernel::{LoadAs, Recipe, StepError};
use bpfd_core::state::{ProgramFacts, Reach};
use bpfd_sys::bpf::{
    AttachType, BtfTypeId, LoadError, Map, MapBtf, MapCreate, MapType, ProgBtf, ProgLoad, ProgramType as KernelType,
    Records, Target, Update, btf_load, possible_cpus, prog_info, prog_load,
};
use bpfd_sys::caps::{Cap, without};
use bpfd_sys::seal::Sealed;
use ebpf::inspect::Object;
use ebpf::load_type::LoadType;
use ebpf::relocate::{
    FUNC_INFO_SIZE, Finished, KernelBtf, KernelFacts, LINE_INFO_SIZE, MapDefinition, Unlinked, kernel_name,
};

use super::failed;
use super::hook::trampoline_refused;
use super::object::{Fitted, ObjectError, finish, fit};

/// Loads objects; cheap to clone, for a pool of threads.
#[derive(Clone, Debug)]
pub struct Loader {
    types: Arc<KernelTypes>,
    facts: KernelFacts,
}

/// An app's maps and programs, verified, named by nothing yet: when the last clone is dropped, they are gone.
#[derive(Clone, Debug)]
pub struct StagedApp {
    pub(crate) programs: Arc<Vec<LoadedProgram>>,
    pub(crate) code: Arc<AppCode>,
}

#[derive(Debug)]
pub(crate) struct LoadedProgram {
    pub(crate) facts: ProgramFacts,
    pub(crate) fd: OwnedFd,
}

/// What fusing needs of an app: its programs' instructions, and the maps whose descriptors are in them.
#[derive(Debug)]
pub(crate) struct AppCode {
    pub(crate) maps: BTreeMap<String, OwnedFd>,
    pub(crate) programs: BTreeMap<String, Finished>,
    /// The object's types, which its programs' records speak of.
    pub(crate) btf: Option<OwnedFd>,
}

/// The code of apps, by app.
pub(crate) type Codes = BTreeMap<AppUid, Arc<AppCode>>;

impl StagedApp {
    /// The programs as the kernel has them, by function.
    pub fn programs(&self) -> Vec<ProgramFacts> {
        self.programs.iter().map(|program| program.facts.clone()).collect()
    }

    /// The names of its maps, sorted; variables are maps too (`.rodata`).
    pub fn maps(&self) -> Vec<String> {
        self.code.maps.keys().cloned().collect()
    }
}

impl Loader {
    /// For the running kernel, whose types are in `btf`.
    pub(crate) fn new(btf: PathBuf) -> Self {
        Self {
            types: Arc::new(KernelTypes { path: btf, parsed: Mutex::new(None), sealed: Mutex::new(None) }),
            facts: running(),
        }
    }

    /// Makes an app's maps and programs. Takes as long as the verifier does. The bytes must have passed the parse worker.
    pub fn prepare(&self, elf: &[u8], recipe: &Recipe) -> Result<StagedApp, StepError> {
        let Fitted { object, unlinked } = self.fit(elf, recipe)?;
        let types = load_btf(&unlinked)?;
        let btf = types.as_ref().map(AsFd::as_fd);
        let maps = make_maps(&unlinked, btf)?;
        let finished = finish(&unlinked, &numbers(&maps)).map_err(unusable)?;
        // Finished in the order of the recipe, which is by function.
        let programs = finished
            .iter()
            .zip(recipe.functions.values())
            .map(|(program, load_as)| self.load_judged(program, load_as, recipe.reach, &object, btf))
            .collect::<Result<Vec<_>, StepError>>()?;
        Ok(StagedApp { programs: Arc::new(programs), code: Arc::new(AppCode::new(maps, finished, types)) })
    }

    /// Makes an app's instructions again around maps that exist.
    pub(crate) fn reopen(
        &self,
        elf: &[u8],
        recipe: &Recipe,
        maps: BTreeMap<String, OwnedFd>,
    ) -> Result<AppCode, StepError> {
        let Fitted { object: _, unlinked } = self.fit(elf, recipe)?;
        for definition in unlinked.maps() {
            same_map(definition, maps.get(definition.name()).map(AsFd::as_fd))?;
        }
        let finished = finish(&unlinked, &numbers(&maps)).map_err(unusable)?;
        Ok(AppCode::new(maps, finished, load_btf(&unlinked)?))
    }

    /// The kernel's types as bytes, for the parse worker; `None` if this kernel shows none.
    pub(crate) fn sealed_types(&self) -> io::Result<Option<Arc<Sealed>>> {
        self.types.sealed()
    }

    /// Loads an app's program as its reach says. One that reaches no further than packets is verified without the capabilities that
    /// open the kernel's memory, and stays as it was verified then.
    fn load_judged(
        &self,
        program: &Finished,
        load_as: &LoadAs,
        reach: Reach,
        object: &Object,
        btf: Option<BorrowedFd<'_>>,
    ) -> Result<LoadedProgram, StepError> {
        let function = &program.function;
        let unknown = || StepError::Object { why: format!("it has no program `{function}`") };
        let row = object.programs.iter().find(|row| row.function.as_str() == function).ok_or_else(unknown)?;
        let target = load_as.target().map(|hook| self.loaded_for(hook)).transpose()?.flatten();
        let load = || load_program(program, btf, program.load, target);
        let fd = match reach {
            Reach::Kernel => load(),
            Reach::Packet => {
                without(&[Cap::Perfmon, Cap::SysAdmin], load).map_err(failed(|| "set capabilities aside"))?
            }
        }?;
        let info = prog_info(fd.as_fd()).map_err(failed(|| format!("read what was loaded as `{function}`")))?;
        let facts = ProgramFacts {
            function: function.clone(),
            section: row.section.as_str().to_owned(),
            kind: load_as.kind(),
            target: load_as.target().cloned(),
            tag: info.tag,
            load_time: info.load_time_ns,
        };
        Ok(LoadedProgram { facts, fd })
    }

    /// The function of the kernel that programs for a hook are loaded for; `None` if they are loaded for any.
    fn loaded_for(&self, hook: &OwnHook) -> Result<Option<Target<'static>>, StepError> {
        let Some(name) = hook.loaded_for() else { return Ok(None) };
        let types = self.types.parsed().map_err(failed(|| "read the kernel's types"))?;
        let types = types.ok_or_else(|| StepError::KernelLacks {
            what: format!("a {} program", hook.kind()),
            needs: "a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned(),
        })?;
        let function = types.function_id(name).ok_or_else(|| StepError::NoTarget(hook.clone()))?;
        Ok(Some(Target::Kernel { function: BtfTypeId(function) }))
    }

    fn fit(&self, elf: &[u8], recipe: &Recipe) -> Result<Fitted, StepError> {
        let types =
            || self.types.parsed().map_err(|error| ObjectError(format!("cannot read the kernel's types: {error}")));
        fit(elf, recipe, types, &self.facts).map_err(unusable)
    }
}

impl AppCode {
    fn new(maps: BTreeMap<String, OwnedFd>, finished: Vec<Finished>, btf: Option<OwnedFd>) -> Self {
        let programs = finished.into_iter().map(|program| (program.function.clone(), program)).collect();
        Self { maps, programs, btf }
    }

    /// How many descriptors it holds.
    pub(super) fn descriptors(&self) -> usize {
        self.maps.len() + usize::from(self.btf.is_some())
    }

    /// How many bytes of instructions and records.
    pub(super) fn bytes(&self) -> usize {
        let of = |program: &Finished| 8 * program.insns.len() + program.func_info.len() + program.line_info.len();
        self.programs.values().map(of).sum()
    }
}

fn load_btf(unlinked: &Unlinked) -> Result<Option<OwnedFd>, StepError> {
    unlinked.btf().map(btf_load).transpose().map_err(|error| refused_btf(&error))
}

/// What the running kernel takes, by its release.
pub(crate) fn running() -> KernelFacts {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let facts = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => KernelFacts::for_release(major, minor),
        _ => KernelFacts::default(),
    };
    KernelFacts { page_size: u32::try_from(rustix::param::page_size()).unwrap_or(facts.page_size), ..facts }
}

/// Loads a finished program. `btf` is the one that its records speak of; without it they are left out.
pub(crate) fn load(program: &Finished, btf: Option<BorrowedFd<'_>>) -> Result<OwnedFd, StepError> {
    load_program(program, btf, program.load, None)
}

/// Loads a finished program so that it can go in the place of `target` and of functions like it.
pub(crate) fn load_extension(
    program: &Finished,
    btf: BorrowedFd<'_>,
    target: Target<'_>,
) -> Result<OwnedFd, StepError> {
    load_program(program, Some(btf), program.load.as_extension(), Some(target))
}

fn load_program(
    program: &Finished,
    btf: Option<BorrowedFd<'_>>,
    load: LoadType,
    target: Option<Target<'_>>,
) -> Result<OwnedFd, StepError> {
    let Finished { function, name, load: _, insns: _, license, kernel_version: _, func_info, line_info } = program;
    let license = CString::new(license.as_str())
        .map_err(|_nul| StepError::Object { why: "its licence has a zero byte".to_owned() })?;
    let insns = program.insn_bytes();
    let btf = btf.filter(|_| !func_info.is_empty()).map(|fd| ProgBtf {
        fd,
        func_info: Records { bytes: func_info, record_size: FUNC_INFO_SIZE },
        line_info: Records { bytes: line_info, record_size: LINE_INFO_SIZE },
    });
    let request = ProgLoad {
        expected_attach_type: AttachType(load.expected_attach_type),
        name,
        btf,
        target,
        flags: load.flags,
        ..ProgLoad::new(KernelType(load.prog_type), &license, &insns)
    };
    prog_load(&request).map_err(|error| match (target, error.log.is_empty()) {
        (Some(Target::Kernel { .. }), true) => trampoline_refused(|| format!("load `{function}`"), error.error),
        _ => refused(function, &error),
    })
}

fn make_maps(unlinked: &Unlinked, btf: Option<BorrowedFd<'_>>) -> Result<BTreeMap<String, OwnedFd>, StepError> {
    unlinked.maps().iter().map(|map| Ok((map.name().to_owned(), make_map(map, btf)?))).collect()
}

/// Makes one map with its initial value.
fn make_map(definition: &MapDefinition, btf: Option<BorrowedFd<'_>>) -> Result<OwnedFd, StepError> {
    let name = definition.name();
    // The kernel copies the shape of the inner map, which can go then.
    let inner = definition.inner().map(|inner| make_map(&inner, btf)).transpose()?;
    let map =
        create(definition, inner.as_ref().map(AsFd::as_fd), btf).map_err(failed(|| format!("make map `{name}`")))?;
    if let Some(initial) = definition.initial() {
        map.update(&0_u32.to_ne_bytes(), initial, Update::Any).map_err(failed(|| format!("fill map `{name}`")))?;
    }
    if definition.freeze() {
        map.freeze().map_err(failed(|| format!("freeze map `{name}`")))?;
    }
    Ok(map.into_fd())
}

fn create(definition: &MapDefinition, inner: Option<BorrowedFd<'_>>, btf: Option<BorrowedFd<'_>>) -> io::Result<Map> {
    let name = kernel_name(definition.name());
    let kind = MapType(definition.map_type());
    let types = definition.btf_types().zip(btf);
    let plain = MapCreate {
        flags: definition.flags(),
        name: &name,
        inner,
        extra: definition.extra(),
        ..MapCreate::new(kind, definition.key_size(), definition.value_size(), entries(definition, kind)?)
    };
    let Some(((key, value), fd)) = types else { return Map::create(&plain) };
    let typed = MapCreate { btf: Some(MapBtf { fd, key: BtfTypeId(key), value: BtfTypeId(value) }), ..plain };
    match Map::create(&typed) {
        // As libbpf does: types are for people, and the kernel is strict about them (`map_check_btf`).
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Map::create(&plain),
        other => other,
    }
}

/// One entry a CPU for perf event arrays, whatever more or nothing they ask for: more cannot be used.
fn entries(definition: &MapDefinition, kind: MapType) -> io::Result<u32> {
    let asked = definition.max_entries();
    if kind != MapType::PERF_EVENT_ARRAY {
        return Ok(asked);
    }
    let cpus = u32::try_from(possible_cpus()?).map_err(io::Error::other)?;
    Ok(if asked == 0 { cpus } else { asked.min(cpus) })
}

/// Whether a pinned map still is what the object's code takes it for.
fn same_map(definition: &MapDefinition, pinned: Option<BorrowedFd<'_>>) -> Result<(), StepError> {
    let name = definition.name();
    let doing = || format!("open the pinned map `{name}`");
    let absent = || StepError::Call { doing: doing(), errno: "it is gone".to_owned() };
    let info = bpfd_sys::bpf::map_info(pinned.ok_or_else(absent)?).map_err(failed(doing))?;
    let same = info.kind.0 == definition.map_type()
        && info.key_size == definition.key_size()
        && info.value_size == definition.value_size();
    match same {
        true => Ok(()),
        false => Err(StepError::Call {
            doing: doing(),
            errno: "its kind or sizes are not those of the object's map".to_owned(),
        }),
    }
}

fn numbers(maps: &BTreeMap<String, OwnedFd>) -> BTreeMap<String, RawFd> {
    maps.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect()
}

fn unusable(ObjectError(why): ObjectError) -> StepError {
    StepError::Object { why }
}

/// A log means that the verifier was reached: it refused the program. Otherwise the call failed.
fn refused(function: &str, error: &LoadError) -> StepError {
    let LoadError { error, log, log_cut } = error;
    if log.is_empty() {
        return StepError::Call { doing: format!("load `{function}`"), errno: error.to_string() };
    }
    let log = if *log_cut { format!("{log}\n(cut: the log is longer than the kernel gives)") } else { log.clone() };
    StepError::Verifier { program: function.to_owned(), log }
}

fn refused_btf(error: &LoadError) -> StepError {
    let last = error.log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let LoadError { error, .. } = error;
    StepError::Object { why: format!("the kernel refused its type information: {error} {last}").trim_end().to_owned() }
}

/// The running kernel's types, read and parsed when first needed.
#[derive(Debug)]
struct KernelTypes {
    path: PathBuf,
    parsed: Mutex<Option<Arc<KernelBtf>>>,
    sealed: Mutex<Option<Arc<Sealed>>>,
}

impl KernelTypes {
    fn parsed(&self) -> io::Result<Option<Arc<KernelBtf>>> {
        once(&self.parsed, &self.path, |bytes| KernelBtf::parse(bytes).map_err(io::Error::other))
    }

    fn sealed(&self) -> io::Result<Option<Arc<Sealed>>> {
        once(&self.sealed, &self.path, Sealed::from_bytes)
    }
}

fn once<T>(
    cell: &Mutex<Option<Arc<T>>>,
    path: &Path,
    make: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<Option<Arc<T>>> {
    let mut made = cell.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_none() {
        match std::fs::read(path) {
            Ok(bytes) => *made = Some(Arc::new(make(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(made.clone())
}
