//! An app's maps as file descriptors: made as its object declares them, or lent by other apps; and filled. It must never pin.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::{BtfTypeId, Map, MapBtf, MapCreate, MapType, Update, possible_cpus};
use ebpf::contents::{Content, Held};
use ebpf::relocate::{MapDefinition, Unlinked, kernel_name};

use super::failed;
use super::prepare::LoadedProgram;

/// An app's maps: those that are lent, and the others made.
pub(super) fn make_maps(
    unlinked: &Unlinked,
    btf: Option<BorrowedFd<'_>>,
    mut lent: BTreeMap<String, OwnedFd>,
) -> Result<BTreeMap<String, OwnedFd>, StepError> {
    let of = |definition: &MapDefinition| {
        let name = definition.name();
        let map = match lent.remove(name) {
            Some(fd) => {
                let flags = bpfd_sys::bpf::map_info(fd.as_fd()).map_err(failed(|| format!("read map `{name}`")))?.flags;
                same_map(definition, Some(fd.as_fd()))?;
                if flags != definition.flags() {
                    let why = format!("map `{name}` has other flags than the one that it is to share");
                    return Err(StepError::Object { why });
                }
                fd
            }
            None => make_map(definition, btf)?,
        };
        Ok((name.to_owned(), map))
    };
    unlinked.maps().iter().map(of).collect()
}

/// Puts programs and maps into maps, as the object says. Places for programs that nothing here leads to stay empty.
pub(super) fn fill<'a>(
    contents: impl Iterator<Item = &'a Content>,
    maps: &BTreeMap<String, OwnedFd>,
    programs: &[LoadedProgram],
) -> Result<(), StepError> {
    for Content { map, slot, holds } in contents {
        let doing = || format!("fill map `{map}`");
        let held = match holds {
            Held::Map(inner) => maps.get(inner.as_str()),
            Held::Program(function) => {
                let program = programs.iter().find(|program| program.facts.function == function.as_str());
                program.map(|program| &program.fd)
            }
        };
        if let (Some(map), Some(held)) = (maps.get(map.as_str()), held) {
            let map = map.try_clone().and_then(Map::from_fd).map_err(failed(doing))?;
            map.update_fd(&slot.to_ne_bytes(), held.as_fd()).map_err(failed(doing))?;
        }
    }
    Ok(())
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
pub(super) fn same_map(definition: &MapDefinition, pinned: Option<BorrowedFd<'_>>) -> Result<(), StepError> {
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
