//! From an object's bytes to something that only needs its maps: read, choose, normalise, fit to this kernel. The parse worker
//! runs this first and the daemon again on the same bytes, so that whatever the bytes do to it happens to the worker.
//!
//! It must never do a system call or keep anything. A panic in it is an error of the object.

use std::any::Any;
use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bpfd_core::kernel::Recipe;
use bpfd_core::state::{ProgramKind, Reach};
use ebpf::externs::{ExternKind, KernelFunctions};
use ebpf::inspect::{Object, Program};
use ebpf::kconfig::KernelConfig;
use ebpf::kind::Sees;
use ebpf::names::FunctionName;
use ebpf::normalise::{NormaliseError, Wanted};
use ebpf::relocate::{Chosen, Finished, KernelBtf, Unlinked};

use super::release::Release;
pub(crate) use crate::causes::error_chain;

/// Why an object cannot be used: a sentence for whoever sent it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct ObjectError(pub(crate) String);

impl ObjectError {
    fn of(error: &dyn Error) -> Self {
        Self(error_chain(error))
    }
}

/// An object fitted to this kernel, its maps still to be made.
#[derive(Debug)]
pub(crate) struct Fitted {
    /// What it holds.
    pub(crate) object: Object,
    /// The programs of the recipe, and then those that they may reach by tail calls.
    pub(crate) unlinked: Unlinked,
    /// What the latter are loaded as.
    pub(crate) callees: Vec<ProgramKind>,
}

/// Reads and fits an object for a recipe. `kernel` is called only if the object depends on the kernel's types, and `options` only if it
/// asks for the kernel's configuration.
pub(crate) fn fit(
    elf: &[u8],
    recipe: &Recipe,
    kernel: impl FnOnce() -> Result<Option<Arc<KernelBtf>>, ObjectError>,
    release: &Release,
    options: impl FnOnce() -> Result<Option<Arc<str>>, ObjectError>,
) -> Result<Fitted, ObjectError> {
    guarded(|| {
        let object = ebpf::inspect::inspect(elf).map_err(|error| ObjectError::of(&error))?;
        let mut wanted = recipe
            .functions
            .iter()
            .map(|(function, load)| wanted(function, load.kind()))
            .collect::<Result<Vec<_>, _>>()?;
        let kernel = LazyCell::new(kernel);
        let functions = functions(&object, recipe.reach, || LazyCell::force(&kernel).clone())?;
        let callees = callees(elf, &object, &wanted, &functions)?;
        wanted.extend(callees.iter().cloned());
        within_reach(&object, &wanted, recipe.reach)?;
        let chosen: Vec<Chosen> = wanted.iter().map(|wanted| chosen(&object, wanted)).collect();
        let asks = object.externs.iter().any(|symbol| symbol.kind == ExternKind::Config);
        let options = if asks { options()? } else { None };
        let config = KernelConfig { functions: Some(&functions), ..release.config(options.as_deref()) };
        let normal = ebpf::normalise::normalise(elf, &wanted, &config);
        let normal = normal.map_err(|error| match (&error, recipe.reach) {
            (NormaliseError::Extern { .. }, Reach::Packet) => {
                ObjectError(format!("{error}. Only signed images and root's uploads may call functions of the kernel"))
            }
            _ => ObjectError::of(&error),
        })?;
        let kernel = if object.core_relocations > 0 { LazyCell::force(&kernel).clone()? } else { None };
        let unlinked = Unlinked::parse(&normal, &chosen, &recipe.globals, kernel.as_deref(), &release.facts)
            .map_err(|error| ObjectError::of(&error))?
            .calling(&functions);
        Ok(Fitted { object, unlinked, callees: callees.into_iter().map(|callee| callee.kind).collect() })
    })
}

/// The functions of the kernel that an object declares and may call. Bytes that nobody vetted may call none: some of them give access to
/// kernel memory, such as `bpf_cast_to_kern_ctx`.
fn functions(
    object: &Object,
    reach: Reach,
    kernel: impl FnOnce() -> Result<Option<Arc<KernelBtf>>, ObjectError>,
) -> Result<KernelFunctions, ObjectError> {
    let mut declared = object.externs.iter().filter(|symbol| symbol.kind == ExternKind::Kernel).peekable();
    let may = match reach {
        Reach::Kernel => declared.peek().is_some(),
        Reach::Packet => false,
    };
    let Some(kernel) = (if may { kernel()? } else { None }) else { return Ok(KernelFunctions::new()) };
    Ok(declared.filter_map(|symbol| Some((symbol.name.clone(), kernel.function_id(&symbol.name)?))).collect())
}

/// Links the programs against maps, by name.
pub(crate) fn finish(unlinked: &Unlinked, maps: &BTreeMap<String, RawFd>) -> Result<Vec<Finished>, ObjectError> {
    guarded(|| unlinked.finish(maps).map_err(|error| ObjectError::of(&error)))
}

/// Runs what may panic on hostile bytes: aya-obj's parser does, and a panic must not end the daemon.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, ObjectError>) -> Result<T, ObjectError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = words(panic.as_ref());
        Err(ObjectError(format!("the object parser panicked ({words})")))
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

fn wanted(function: &str, kind: ProgramKind) -> Result<Wanted, ObjectError> {
    let function: FunctionName = function.parse().map_err(|error| ObjectError::of(&error))?;
    Ok(Wanted { function, kind })
}

/// What the wanted programs may reach by tail calls, each of its own kind, or of the first one's where its section does not say.
fn callees(
    elf: &[u8],
    object: &Object,
    wanted: &[Wanted],
    kernel: &KernelFunctions,
) -> Result<Vec<Wanted>, ObjectError> {
    let functions: Vec<FunctionName> = wanted.iter().map(|wanted| wanted.function.clone()).collect();
    let callees =
        ebpf::normalise::callees(elf, object, &functions, Some(kernel)).map_err(|error| ObjectError::of(&error))?;
    let of_callers = wanted.first().map(|wanted| wanted.kind);
    let kind = |function: &FunctionName| {
        let declared = object.programs.iter().find(|program| program.function == *function).and_then(Program::kind);
        declared.or(of_callers)
    };
    Ok(callees.into_iter().filter_map(|function| Some(Wanted { kind: kind(&function)?, function })).collect())
}

fn chosen(object: &Object, wanted: &Wanted) -> Chosen {
    let program = object.programs.iter().find(|program| program.function == wanted.function);
    let load = wanted.kind.load();
    let frags = load.is_xdp() && program.is_some_and(|program| program.frags);
    Chosen { function: wanted.function.as_str().to_owned(), load: if frags { load.with_frags() } else { load } }
}

/// What a caller whose bytes nobody vetted may not even ask the verifier: types other than packet programs, and tags that change
/// what the verifier believes of a parameter (`arg:untrusted` reads any kernel address with CAP_BPF alone).
fn within_reach(object: &Object, wanted: &[Wanted], reach: Reach) -> Result<(), ObjectError> {
    match reach {
        Reach::Kernel => return Ok(()),
        Reach::Packet => {}
    }
    let beyond = wanted.iter().find(|wanted| match wanted.kind.sees() {
        Sees::Packets => false,
        Sees::Kernel => true,
    });
    if let Some(Wanted { function, kind }) = beyond {
        return Err(ObjectError(format!(
            "`{function}` is a {kind} program, which can read more than packets; only \
             signed images and root's uploads may contain one"
        )));
    }
    match object.decl_tags.first() {
        Some(tag) => Err(ObjectError(format!(
            "it uses the declaration tag `{tag}`, which can give access to kernel memory; \
             only signed images and root's uploads may use it"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bpfd_core::kernel::LoadAs;

    use super::*;

    fn recipe(functions: &[(&str, ProgramKind)], reach: Reach) -> Recipe {
        let functions = functions.iter().map(|(name, kind)| ((*name).to_owned(), LoadAs::Any(*kind))).collect();
        Recipe {
            object: bpfd_core::state::ObjectDigest::from([0; 32]),
            globals: BTreeMap::new(),
            functions,
            reach,
            shared: BTreeMap::new(),
        }
    }

    fn fit_plain(elf: &[u8], recipe: &Recipe) -> Result<Fitted, ObjectError> {
        fit(elf, recipe, || Ok(None), &Release::default(), || Ok(None))
    }

    #[test]
    fn noise_is_an_error_of_the_object() {
        let error = fit_plain(b"not an object", &recipe(&[("pass", ProgramKind::Xdp)], Reach::Kernel)).unwrap_err();
        assert!(!error.0.is_empty());
    }

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let error = guarded::<()>(|| panic!("index 7 of 3")).unwrap_err();
        assert_eq!(error.0, "the object parser panicked (index 7 of 3)");
    }

    #[test]
    fn a_function_name_that_is_none_is_refused() {
        assert!(wanted("a/b", ProgramKind::Xdp).is_err());
    }
}
