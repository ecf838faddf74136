//! tcx chains: a program comes by a kernel link that is pinned beside it, next to a neighbour of ours, and only if the chain is as it was
//! looked at.
//!
//! It must never touch a link of somebody else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bpfd_core::hook::NamedChain;
use bpfd_core::ident::{GenerationUid, KernelId};
use bpfd_core::kernel::{Spot, StepError};
use bpfd_core::names::Netns;
use bpfd_sys::bpf::{LinkId, LinkKind, link_detach, link_info, link_update};
use rustix::io::Errno;

use super::sequence::{Going, direction};
use crate::kernel::failed;
use crate::kernel::pins::{self, CHAIN_LINK, Pins};
use crate::worker::netns::{Beside, Namespaces};

/// Puts a program into a chain.
pub(crate) fn add(
    pins: &Pins,
    namespaces: &mut Namespaces,
    chain: &NamedChain,
    to: &Going<'_>,
    at: Spot,
) -> Result<(), StepError> {
    let doing = || format!("attach to `{chain}`");
    let raced = || StepError::Raced(chain.name.clone());
    let (interface, direction) = (chain.id.interface, direction(chain.id.point));
    let beside = |neighbour: GenerationUid| -> Result<LinkId, StepError> {
        let link = held(pins, neighbour).map_err(failed(doing))?.ok_or_else(raced)?;
        Ok(link_info(link.as_fd()).map_err(failed(doing))?.id)
    };
    let place = match at {
        Spot::After(neighbour) => Beside::After(beside(neighbour)?.0),
        Spot::Before(neighbour) => Beside::Before(beside(neighbour)?.0),
        Spot::Last | Spot::Whole | Spot::Preference(_) => Beside::Last,
    };
    let seen = namespaces.tcx_chain(&chain.name.netns, interface, direction).map_err(failed(doing))?;
    let seen = seen.ok_or_else(|| StepError::NoInterface(chain.name.clone()))?;
    if let Beside::After(link) | Beside::Before(link) = place
        && !seen.entries.iter().any(|entry| entry.link == Some(LinkId(link)))
    {
        return Err(raced());
    }
    let joined = namespaces.join_tcx((&chain.name.netns, interface, direction), to.fd, place, seen.revision);
    let link = joined.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::STALE | Errno::NOENT | Errno::EXIST | Errno::BUSY) => raced(),
        Some(Errno::NODEV) => StepError::NoInterface(chain.name.clone()),
        Some(Errno::RANGE) => StepError::Hook {
            why: format!("the kernel has no room for one more program at `{chain}`"),
            hint: "detach one first: a tcx chain has 64 at most".to_owned(),
        },
        _ => failed(doing)(error),
    })?;
    hold(pins, to.generation, &link).map_err(failed(|| format!("pin the link of generation {}", to.generation)))
}

/// Puts a program in the place of another one, in one step.
pub(crate) fn replace(pins: &Pins, chain: &NamedChain, from: &Going<'_>, to: &Going<'_>) -> Result<(), StepError> {
    let link = live(pins, chain, from)?;
    // First: what runs is never held by the pins of a generation that does not.
    hold(pins, to.generation, &link).map_err(failed(|| format!("pin the link of generation {}", to.generation)))?;
    link_update(link.as_fd(), to.fd, Some(from.fd)).map_err(|error| match changed(&error) {
        true => StepError::Raced(chain.name.clone()),
        false => failed(|| format!("change what `{chain}` runs"))(error),
    })
}

/// Takes a program off.
pub(crate) fn remove(pins: &Pins, chain: &NamedChain, from: &Going<'_>) -> Result<(), StepError> {
    let link = live(pins, chain, from)?;
    let doing = || format!("detach from `{chain}`");
    link_detach(link.as_fd()).map_err(|error| match changed(&error) {
        true => StepError::Raced(chain.name.clone()),
        false => failed(doing)(error),
    })?;
    let dir = pins.generations.subdir(&from.generation.to_string()).map_err(failed(doing))?;
    dir.unlink(CHAIN_LINK).or_else(pins::absent_is_fine).map_err(failed(doing))
}

/// Takes hold of a link that lost its pin.
pub(crate) fn hold(pins: &Pins, generation: GenerationUid, link: &OwnedFd) -> io::Result<()> {
    let dir = pins.generations.subdir(&generation.to_string())?;
    dir.unlink(CHAIN_LINK).or_else(pins::absent_is_fine)?;
    dir.pin(CHAIN_LINK, link.as_fd())
}

/// The pinned link of a generation; `None` if it has none.
fn held(pins: &Pins, generation: GenerationUid) -> io::Result<Option<OwnedFd>> {
    let Some(dir) = super::generation::present_dir(pins.generations.subdir(&generation.to_string()))? else {
        return Ok(None);
    };
    super::generation::present(dir.pinned(CHAIN_LINK))
}

/// The link of a generation, if that is what it holds on this interface.
fn live(pins: &Pins, chain: &NamedChain, from: &Going<'_>) -> Result<OwnedFd, StepError> {
    let doing = || format!("look at the link of generation {}", from.generation);
    let link = held(pins, from.generation).map_err(failed(doing))?;
    let link = link.ok_or_else(|| StepError::Raced(chain.name.clone()))?;
    let info = link_info(link.as_fd()).map_err(failed(doing))?;
    // In a namespace without a name it may have another index than it had.
    let nameless = matches!(chain.name.netns, Netns::Nameless(_));
    let is_it = |ifindex| if nameless { ifindex != 0 } else { ifindex == chain.id.interface.index };
    let here = matches!(info.kind, LinkKind::Tcx { ifindex, .. } if is_it(ifindex));
    match here && KernelId(info.prog_id.0) == from.id {
        true => Ok(link),
        false => Err(StepError::Raced(chain.name.clone())),
    }
}

/// The link holds another program, or was severed (`tcx_link_update`, `tcx_link_detach` of kernel/bpf/tcx.c).
fn changed(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::PERM | Errno::NOLINK))
}
