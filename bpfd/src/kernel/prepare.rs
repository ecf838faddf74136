//! Loading an object: its maps and programs as file descriptors, named by nothing. Any thread may do it; what it made is gone when
//! dropped. It must never pin or attach.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use bpfd_core::hook::OwnHook;
use bpfd_core::ident::AppUid;
use bpfd_core::kernel::{LoadAs, Recipe, StepError};
use bpfd_core::state::{ProgramFacts, Reach};
use bpfd_sys::bpf::{
    AttachType, BtfTypeId, LoadError, ProgBtf, ProgLoad, ProgramType as KernelType, Records, Target, prog_info,
    prog_load,
};
use bpfd_sys::caps::{Cap, without};
use bpfd_sys::seal::Sealed;
use ebpf::inspect::Object;
use ebpf::load_type::LoadType;
use ebpf::relocate::{FUNC_INFO_SIZE, Finished, LINE_INFO_SIZE};
use ebpf::verifier_log::{self, Rejection};
use rustix::io::Errno;

use super::failed;
use super::hook::trampoline_refused;
use super::maps::{fill, make_maps, same_map};
use super::object::{Fitted, ObjectError, finish, fit};
use super::release::{KernelOptions, Release};
use super::types::{KernelTypes, Types};

/// Loads objects; cheap to clone, for a pool of threads.
#[derive(Clone, Debug)]
pub struct Loader {
    types: Arc<KernelTypes>,
    release: Arc<Release>,
    options: Arc<KernelOptions>,
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
    pub(crate) types: Types,
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
            types: Arc::new(KernelTypes::new(btf)),
            release: Arc::new(Release::running()),
            options: Arc::new(KernelOptions::default()),
        }
    }

    /// Makes an app's maps and programs. Takes as long as the verifier does, unless nobody wants them any more: that is asked before each
    /// program. The bytes must have passed the parse worker. `lent`: the maps that the recipe says are shared.
    pub fn prepare(
        &self,
        elf: &[u8],
        recipe: &Recipe,
        lent: BTreeMap<String, OwnedFd>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<StagedApp, StepError> {
        let Fitted { object, unlinked, callees } = self.fit(elf, recipe)?;
        let types = Types::load(&unlinked);
        let btf = types.fd();
        let shared: BTreeSet<String> = lent.keys().cloned().collect();
        let maps = make_maps(&unlinked, btf, lent)?;
        let finished = finish(&unlinked, &numbers(&maps)).map_err(unusable)?;
        types.suffice(&finished)?;
        // Finished in the order of the recipe, which is by function; then what they reach by tail calls, which the arrays keep.
        let callees = callees.into_iter().map(LoadAs::Any);
        let load_as: Vec<LoadAs> = recipe.functions.values().cloned().chain(callees).collect();
        let mut programs = finished
            .iter()
            .zip(&load_as)
            .map(|(program, load_as)| match wanted() {
                true => self.load_judged(program, load_as, recipe.reach, &object, btf),
                false => Err(StepError::Object { why: "nobody waits for its programs any more".to_owned() }),
            })
            .collect::<Result<Vec<_>, StepError>>()?;
        let own = object.contents.iter().filter(|content| !shared.contains(content.map.as_str()));
        fill(own, &maps, &programs)?;
        programs.truncate(recipe.functions.len());
        Ok(StagedApp { programs: Arc::new(programs), code: Arc::new(AppCode::new(maps, finished, types)) })
    }

    /// Makes an app's instructions again around maps that exist.
    pub(crate) fn reopen(
        &self,
        elf: &[u8],
        recipe: &Recipe,
        maps: BTreeMap<String, OwnedFd>,
    ) -> Result<AppCode, StepError> {
        let Fitted { unlinked, .. } = self.fit(elf, recipe)?;
        for definition in unlinked.maps() {
            same_map(definition, maps.get(definition.name()).map(AsFd::as_fd))?;
        }
        let finished = finish(&unlinked, &numbers(&maps)).map_err(unusable)?;
        Ok(AppCode::new(maps, finished, Types::load(&unlinked)))
    }

    /// The kernel's types as bytes, for the parse worker; `None` if this kernel shows none.
    pub(crate) fn sealed_types(&self) -> io::Result<Option<Arc<Sealed>>> {
        self.types.sealed()
    }

    /// The kernel's configuration, for the parse worker; `None` if this host has none.
    pub(crate) fn sealed_options(&self) -> io::Result<Option<Arc<Sealed>>> {
        self.options.sealed(&self.release)
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
        let options = || {
            let read = self.options.text(&self.release);
            read.map_err(|error| ObjectError(format!("cannot read the kernel's configuration: {error}")))
        };
        fit(elf, recipe, types, &self.release, options).map_err(unusable)
    }
}

impl AppCode {
    fn new(maps: BTreeMap<String, OwnedFd>, finished: Vec<Finished>, types: Types) -> Self {
        let programs = finished.into_iter().map(|program| (program.function.clone(), program)).collect();
        Self { maps, programs, types }
    }

    /// How many descriptors it holds.
    pub(super) fn descriptors(&self) -> usize {
        self.maps.len() + usize::from(self.types.fd().is_some())
    }

    /// How many bytes of instructions and records.
    pub(super) fn bytes(&self) -> usize {
        let of = |program: &Finished| 8 * program.insns.len() + program.func_info.len() + program.line_info.len();
        self.programs.values().map(of).sum()
    }
}

/// Loads a finished program with the types that its records speak of, if it has any.
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
    let Finished { function, name, license, func_info, line_info, .. } = program;
    let license = CString::new(license.as_str())
        .map_err(|_nul| StepError::Object { why: "its licence has a zero byte".to_owned() })?;
    let insns = program.insn_bytes();
    let btf = btf.filter(|_| !func_info.is_empty() || !line_info.is_empty()).map(|fd| ProgBtf {
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
        _ => refused(program, error),
    })
}

fn numbers(maps: &BTreeMap<String, OwnedFd>) -> BTreeMap<String, RawFd> {
    maps.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect()
}

fn unusable(ObjectError(why): ObjectError) -> StepError {
    StepError::Object { why }
}

/// What the verifier says of a program with too many steps (`do_check` of kernel/bpf/verifier.c), before their number.
pub(super) const TOO_LARGE: &str = "BPF program is too large";

/// A verdict has words in the verifier's log. A log without any is of a program that the verifier accepted, and that the kernel failed to
/// make ready afterwards; without a log, the verifier was not reached. Of a log that was cut the words may be missing: the errno tells,
/// which is that of the try without a log.
fn refused(program: &Finished, LoadError { error, log, log_cut }: LoadError) -> StepError {
    let Finished { function, functions, .. } = program;
    let mut rejection = Box::new(verifier_log::read(log.as_bytes(), functions));
    // Kernels before 6.4 keep the beginning of a log that does not fit: where it ends nothing was refused.
    let has_end = || log.lines().last().is_some_and(|line| line.starts_with("processed "));
    if log_cut && !has_end() {
        let is_long = Errno::from_io_error(&error) == Some(Errno::TOOBIG);
        let message = is_long.then(|| TOO_LARGE.to_owned());
        *rejection = Rejection { message, ..Rejection::default() };
    }
    let is_verdict = if log_cut { !is_shortage(&error) } else { rejection.message.is_some() };
    if !is_verdict {
        // Under another errno a verifier that was cut short may have been at work still.
        let is_accepted = if log_cut { is_of_descriptors(&error) } else { !log.is_empty() };
        let after = if is_accepted { ", after the verifier accepted it" } else { "" };
        return StepError::Call { doing: format!("load `{function}`"), errno: format!("{error}{after}") };
    }
    let log = if log_cut { format!("{log}\n(cut: the log is longer than the kernel gives)") } else { log };
    StepError::Verifier { program: function.clone(), link: None, log, rejection }
}

/// Whether it says that a descriptor could not be had, which is the last thing that the kernel does.
fn is_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::MFILE, Errno::NFILE].map(Some).contains(&errno)
}

/// Whether it says what the kernel or the caller lacks, and nothing of the program. The verifier judges with other numbers once it walks
/// a program, and a log that does not fit is of one that it walked.
fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let others = [Errno::NOMEM, Errno::AGAIN, Errno::INTR, Errno::PERM, Errno::NOSPC, Errno::BUSY];
    is_of_descriptors(error) || others.map(Some).contains(&errno)
}

#[cfg(test)]
mod tests {
    use ebpf::verifier_log::LinkedFunction;

    use super::*;

    fn said(log: &str, log_cut: bool) -> StepError {
        said_with(Errno::INVAL, log, log_cut)
    }

    fn said_with(errno: Errno, log: &str, log_cut: bool) -> StepError {
        let program = Finished {
            function: "pass".to_owned(),
            name: "pass".to_owned(),
            load: LoadType::XDP,
            insns: vec![],
            license: String::new(),
            kernel_version: None,
            func_info: vec![],
            line_info: vec![],
            functions: vec![LinkedFunction { name: "pass".to_owned(), start: 0 }],
        };
        let error = io::Error::from_raw_os_error(errno.raw_os_error());
        refused(&program, LoadError { error, log: log.to_owned(), log_cut })
    }

    #[test]
    fn a_verdict_is_told_from_a_failure_before_or_after_the_verifier() {
        let walked = "0: (b7) r0 = 2\n1: (95) exit\n";
        let total =
            "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n";
        let verdict = said(&format!("{walked}R0 !read_ok\n{total}"), false);
        assert_eq!(verdict.to_string(), "the kernel's verifier rejected `pass`: R0 !read_ok");
        let accepted = said(&format!("{walked}{total}"), false);
        let words = "cannot load `pass`: Invalid argument (os error 22), after the verifier accepted it";
        assert_eq!(accepted.to_string(), words);
        assert_eq!(said("", false).to_string(), "cannot load `pass`: Invalid argument (os error 22)");
        // What is cut off may be the verdict.
        assert!(matches!(said(walked, true), StepError::Verifier { .. }));
        // Of a log without its end, nothing is said about where it was.
        let StepError::Verifier { rejection, .. } = said_with(Errno::TOOBIG, "0: (b7) r0 = 2\n1: (95) ex", true) else {
            unreachable!()
        };
        let message = Some("BPF program is too large".to_owned());
        assert_eq!(*rejection, Rejection { message, ..Rejection::default() });
    }

    #[test]
    fn of_a_log_that_does_not_fit_the_errno_tells_whether_it_is_a_verdict() {
        // Kernels from 6.4 keep the end of a log, older ones its beginning.
        for log in [
            "0: (b7) r0 = 2\n1: (95) ex",
            "9: (95) exit\nprocessed 900000 insns (limit 1000000) max_states_per_insn 4\n",
        ] {
            let words = |errno| said_with(errno, log, true).to_string();
            assert_eq!(
                words(Errno::MFILE),
                "cannot load `pass`: Too many open files (os error 24), after the verifier accepted it"
            );
            assert_eq!(
                words(Errno::NFILE),
                "cannot load `pass`: Too many open files in system (os error 23), after the verifier accepted it"
            );
            // The verifier needs memory too, and stops when its process is killed.
            assert_eq!(words(Errno::NOMEM), "cannot load `pass`: Cannot allocate memory (os error 12)");
            assert_eq!(words(Errno::AGAIN), "cannot load `pass`: Resource temporarily unavailable (os error 11)");
            assert_eq!(words(Errno::PERM), "cannot load `pass`: Operation not permitted (os error 1)");
            for verdict in [Errno::INVAL, Errno::ACCESS, Errno::TOOBIG, Errno::FAULT] {
                assert!(matches!(said_with(verdict, log, true), StepError::Verifier { .. }), "{verdict}");
            }
        }
    }
}
