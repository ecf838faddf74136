//! Filters of a clsact qdisc: one a program, each with a preference of its own. The qdisc is taken away when nothing is on it, if bpfd made
//! it.
//!
//! Filters have no compare-and-swap: what is there is looked at before it is changed. It must never touch a filter of somebody else.

use std::num::{NonZeroU16, NonZeroU32};
use std::os::fd::AsFd;

use bpfd_core::hook::{InterfaceId, NamedChain};
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::StepError;
use bpfd_sys::bpf::{Direction, Map, MapCreate, MapType, ProgId};
use bpfd_sys::netlink::{ChangeError, FilterKind, FilterPlace, IngressQdisc, Route, TcFilter};
use rustix::io::Errno;

use super::sequence::{Entry, Going, direction};
use crate::kernel::failed;
use crate::kernel::pins::{self, Pins};

/// Of every filter of ours: each has a preference of its own.
const HANDLE: NonZeroU32 = NonZeroU32::MIN;

/// What the filters of a direction are, in the order in which they run. Chains but the first run only if an action goes there.
pub(crate) fn entries(filters: Vec<TcFilter>) -> Vec<Entry> {
    let filters = filters.into_iter().filter(|filter| filter.chain == 0);
    filters
        .map(|TcFilter { place, kind, .. }| {
            let preference = Some(place.preference.get());
            match kind {
                FilterKind::Bpf(filter) => {
                    let name = filter.name.unwrap_or_default();
                    Entry { preference, program: filter.program, link: None, name }
                }
                FilterKind::Other(kind) => Entry { preference, program: None, link: None, name: kind },
            }
        })
        .collect()
}

/// Adds a filter, and the qdisc if there is none.
pub(crate) fn add(
    pins: &Pins,
    route: &Route,
    chain: &NamedChain,
    to: &Going<'_>,
    preference: u16,
) -> Result<(), StepError> {
    make_qdisc(pins, route, chain)?;
    let (index, place) = (chain.id.interface.index, place(preference)?);
    let added = route.create_filter(index, direction(chain.id.point), place, to.fd, &to.name);
    added.map_err(|error| refused(chain, &error))
}

/// Puts a program in the place of another one, in one step.
pub(crate) fn replace(
    route: &Route,
    chain: &NamedChain,
    from: &Going<'_>,
    to: &Going<'_>,
    preference: u16,
) -> Result<(), StepError> {
    expect(route, chain, from.id, preference)?;
    let (index, place) = (chain.id.interface.index, place(preference)?);
    let replaced = route.replace_filter(index, direction(chain.id.point), place, to.fd, &to.name);
    replaced.map_err(|error| refused(chain, &error))
}

/// Takes a filter away, and the qdisc if that was the last one and bpfd made it.
pub(crate) fn remove(
    pins: &Pins,
    route: &Route,
    chain: &NamedChain,
    from: &Going<'_>,
    preference: u16,
) -> Result<(), StepError> {
    expect(route, chain, from.id, preference)?;
    let (index, place) = (chain.id.interface.index, place(preference)?);
    let removed = route.delete_filter(index, direction(chain.id.point), place);
    removed.map_err(|error| refused(chain, &error))?;
    if let Err(error) = remove_qdisc(pins, route, chain) {
        // Nothing runs on it; the next program that comes uses it.
        tracing::warn!(interface = index, %error, "cannot remove the empty clsact qdisc");
    }
    Ok(())
}

/// The filter is there, and runs this.
fn expect(route: &Route, chain: &NamedChain, program: KernelId, preference: u16) -> Result<(), StepError> {
    let filters = route.filters(chain.id.interface.index, direction(chain.id.point));
    let filters = filters.map_err(failed(|| format!("look at the filters of `{chain}`")))?;
    let there = entries(filters)
        .into_iter()
        .any(|entry| entry.preference == Some(preference) && entry.program == Some(ProgId(program.0)));
    if there { Ok(()) } else { Err(StepError::Raced(chain.name.clone())) }
}

/// Makes the qdisc if there is none, and marks it as bpfd's. Killed in between, bpfd leaves one that it takes for somebody else's: that
/// stays. The other way round, it would take somebody else's away.
fn make_qdisc(pins: &Pins, route: &Route, chain: &NamedChain) -> Result<(), StepError> {
    let doing = || format!("give `{chain}` a clsact qdisc");
    let index = chain.id.interface.index;
    match route.create_clsact(index) {
        Ok(()) => {}
        Err(error) if is(&error, Errno::EXIST) => {
            return match route.ingress_qdisc(index).map_err(failed(doing))? {
                Some(IngressQdisc::Clsact) => Ok(()),
                Some(IngressQdisc::Other(kind)) => Err(StepError::Hook {
                    why: format!("`{chain}` has a qdisc of kind `{kind}` where its clsact qdisc would be"),
                    hint: format!("`tc qdisc del dev {} ingress` removes it", chain.name.interface),
                }),
                None => Err(StepError::Raced(chain.name.clone())),
            };
        }
        Err(error) => return Err(refused(chain, &error)),
    }
    let map = Map::create(&MapCreate { name: "bpfd_clsact", ..MapCreate::new(MapType::ARRAY, 4, 4, 1) });
    let marked = map.and_then(|map| pins::replace(&pins.qdiscs, &mark(chain.id.interface), map.as_fd()));
    marked.map_err(|error| {
        if let Err(error) = route.delete_clsact(index) {
            tracing::warn!(interface = index, %error, "cannot remove the clsact qdisc that cannot be marked");
        }
        failed(doing)(error)
    })
}

fn remove_qdisc(pins: &Pins, route: &Route, chain: &NamedChain) -> Result<(), StepError> {
    let doing = || format!("remove the clsact qdisc of `{chain}`");
    let (index, mark) = (chain.id.interface.index, mark(chain.id.interface));
    if !pins.qdiscs.exists(&mark).map_err(failed(doing))? {
        return Ok(());
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if !route.filters(index, direction).map_err(failed(doing))?.is_empty() {
            return Ok(());
        }
    }
    match route.delete_clsact(index) {
        Ok(()) => {}
        Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::INVAL) => {}
        Err(error) => return Err(refused(chain, &error)),
    }
    pins.qdiscs.unlink(&mark).or_else(pins::absent_is_fine).map_err(failed(doing))
}

fn mark(InterfaceId { netns_cookie, index }: InterfaceId) -> String {
    format!("{netns_cookie}_{index}")
}

fn place(preference: u16) -> Result<FilterPlace, StepError> {
    let preference = NonZeroU16::new(preference).ok_or_else(|| StepError::Call {
        doing: "find a place for a filter".to_owned(),
        errno: "a preference of 0 is none".to_owned(),
    })?;
    Ok(FilterPlace { preference, handle: HANDLE })
}

fn refused(chain: &NamedChain, error: &ChangeError) -> StepError {
    let ChangeError { error: errno, message } = error;
    match () {
        () if is(error, Errno::EXIST) || is(error, Errno::NOENT) => StepError::Raced(chain.name.clone()),
        () if is(error, Errno::NODEV) => StepError::NoInterface(chain.name.clone()),
        () => StepError::Call {
            doing: format!("change the filters of `{chain}`"),
            errno: message.as_ref().map_or_else(|| errno.to_string(), |message| format!("{errno}: {message}")),
        },
    }
}

fn is(error: &ChangeError, errno: Errno) -> bool {
    error.errno() == errno.raw_os_error()
}
