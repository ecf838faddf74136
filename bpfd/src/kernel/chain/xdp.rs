//! XDP on an interface: what it runs, and the compare-and-swap of it. The only file of the daemon that changes what an interface
//! runs. It must never replace what it was not told to expect.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use bpfd_core::hook::{ChainId, ChainName, InterfaceId, NamedChain, Point, XdpMode};
use bpfd_core::ident::{GenerationUid, KernelId};
use bpfd_core::kernel::{LiveGeneration, StepError};
use bpfd_sys::bpf::ProgId;
use bpfd_sys::netlink::{ChangeError, Expected, LinkRow, XdpAttachment, XdpMode as Driven};
use rustix::io::Errno;

use super::generation::SeenGeneration;
use crate::kernel::failed;
use crate::worker::netns::Namespace;

/// One interface.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) id: InterfaceId,
    pub(crate) row: LinkRow,
}

impl Interface {
    fn of(namespace: &Namespace, row: LinkRow) -> Self {
        Self { id: InterfaceId { netns_cookie: namespace.cookie, index: row.index }, row }
    }
}

/// The interface of this name in its namespace. The kernel also knows interfaces by their alternative names (`__rtnl_newlink` and
/// `rtnl_getlink` of net/core/rtnetlink.c): what was asked for by one of those would be shown and looked for by another.
pub(crate) fn named(namespace: &Namespace, name: &ChainName) -> io::Result<Option<Interface>> {
    let name = name.interface.as_str();
    let row = namespace.route.link_named(name)?.filter(|row| row.name == name);
    Ok(row.map(|row| Interface::of(namespace, row)))
}

/// The interface of this index.
pub(crate) fn indexed(namespace: &Namespace, index: u32) -> io::Result<Option<Interface>> {
    Ok(namespace.route.link(index)?.map(|row| Interface::of(namespace, row)))
}

/// What an interface runs: nothing, a generation of ours that was made for it, or the number of something else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attached {
    Nothing,
    Ours(LiveGeneration),
    Other(ProgId),
}

/// Tells what an interface runs. A generation of ours on another interface than its record says was put there by somebody else.
pub(crate) fn runs(interface: &Interface, generations: &BTreeMap<GenerationUid, SeenGeneration>) -> Attached {
    let Some((_, program)) = interface.row.xdp.program() else { return Attached::Nothing };
    let chain = ChainId { interface: interface.id, point: Point::Xdp };
    let made_here = |generation: &SeenGeneration| generation.record.as_ref().is_none_or(|record| record.chain == chain);
    let ours = generations.iter().find(|(_, generation)| generation.id == KernelId(program.0) && made_here(generation));
    match (ours, interface.row.xdp) {
        (Some((generation, seen)), XdpAttachment::One { mode: Driven::Native | Driven::Generic, .. }) => {
            Attached::Ours(LiveGeneration { program: seen.id, generation: *generation })
        }
        _ => Attached::Other(program),
    }
}

/// How an interface is driven, when something is attached; a device that runs it itself is neither.
pub(crate) fn driven(attachment: &XdpAttachment) -> Option<XdpMode> {
    match attachment.program()? {
        (Driven::Native, _) => Some(XdpMode::Native),
        (Driven::Generic, _) => Some(XdpMode::Generic),
        (Driven::Hardware, _) => None,
    }
}

/// What must be there, and its program.
pub(crate) type Expect<'a> = Option<(KernelId, BorrowedFd<'a>)>;

/// Replaces what an interface runs, if it runs what is expected. Packets see the old program or the new one.
pub(crate) fn swap(
    namespace: &Namespace,
    chain: &NamedChain,
    from: Expect<'_>,
    to: Option<BorrowedFd<'_>>,
    asked: XdpMode,
) -> Result<(), StepError> {
    let doing = || format!("change what `{chain}` runs");
    let found = indexed(namespace, chain.id.interface.index).map_err(failed(doing))?;
    let Interface { id, row } = found.ok_or_else(|| StepError::NoInterface(chain.name.clone()))?;
    if from.is_none() && to.is_none() {
        return match row.xdp {
            XdpAttachment::None => Ok(()),
            XdpAttachment::One { .. } | XdpAttachment::Several { .. } => Err(StepError::Raced(chain.name.clone())),
        };
    }
    let modes = modes(&row.xdp, from.map(|(id, _)| id), asked).map_err(|clash| match clash {
        Clash::Raced => StepError::Raced(chain.name.clone()),
        Clash::Mode(driven) => StepError::Call {
            doing: format!("attach to `{chain}` in {asked} mode"),
            errno: format!("an XDP program is attached in {} mode", word(driven)),
        },
    })?;
    let expected = || from.map_or(Expected::Nothing, |(_, fd)| Expected::Program(fd));
    let mut refused = StepError::Raced(chain.name.clone());
    for mode in modes {
        match set(namespace, chain, &row, || namespace.route.set_xdp(id.index, to, expected(), mode)) {
            Ok(()) => return Ok(()),
            Err(Refused::Race(error)) => return Err(error),
            Err(Refused::Unfit(error)) => refused = call_error(chain, mode, &error),
            Err(Refused::Mtu(error)) => {
                let said = error.message.unwrap_or_default();
                let why = format!(
                    "the driver of `{chain}` does not take these programs at an MTU of {} bytes: {said}",
                    row.mtu
                );
                return Err(StepError::Hook { why, hint: MTU_HINT.to_owned() });
            }
            Err(Refused::Other(error)) => return Err(call_error(chain, mode, &error)),
        }
    }
    Err(refused)
}

const MTU_HINT: &str = "reduce the MTU, or attach only programs with multi-buffer support \
    (`SEC(\"xdp.frags\")`), or use `--mode generic`";

/// Why the kernel did not change a program.
enum Refused {
    /// Somebody else changed the interface, or took it away.
    Race(StepError),
    /// Not in this mode.
    Unfit(ChangeError),
    /// Not with packets of this size; another mode would take them, and copy each of them.
    Mtu(ChangeError),
    /// Not at all.
    Other(ChangeError),
}

/// How often an answer that means a race is asked for again while the interface looks as before: it may have changed and changed
/// back. Only an answer that stays is the kernel's last word (a device above or below with a program gives `EEXIST` too).
///
/// 3 were too few against a rival that did nothing else (`against_a_rival_every_swap_happens_or_is_a_race`).
const SAME: u32 = 32;

fn set(
    namespace: &Namespace,
    chain: &NamedChain,
    before: &LinkRow,
    change: impl Fn() -> Result<(), ChangeError>,
) -> Result<(), Refused> {
    let mut seen_the_same = 0;
    loop {
        let Err(error) = change() else { return Ok(()) };
        if speaks_of_mtu(&error) {
            return Err(Refused::Mtu(error));
        }
        if is(&error, Errno::OPNOTSUPP) || is(&error, Errno::INVAL) {
            return Err(Refused::Unfit(error));
        }
        let now = namespace.route.link(before.index);
        let now = now.map_err(|error| Refused::Race(failed(|| format!("look at `{chain}` again"))(error)))?;
        let Some(now) = now else {
            return Err(Refused::Race(StepError::NoInterface(chain.name.clone())));
        };
        let taken = is(&error, Errno::EXIST) || is(&error, Errno::BUSY);
        if taken && now.xdp != before.xdp {
            return Err(Refused::Race(StepError::Raced(chain.name.clone())));
        }
        seen_the_same += 1;
        if !taken || seen_the_same > SAME {
            return Err(Refused::Other(error));
        }
    }
}

fn call_error(chain: &NamedChain, mode: Driven, error: &ChangeError) -> StepError {
    StepError::Call { doing: format!("change what `{chain}` runs in {} mode", word(mode)), errno: words(error) }
}

fn words(ChangeError { error, message }: &ChangeError) -> String {
    match message {
        Some(message) => format!("{error}: {message}"),
        None => error.to_string(),
    }
}

/// Drivers tell it by words alone: veth's errno is `ERANGE`, most others' `EINVAL` (`veth_xdp_set` of drivers/net/veth.c,
/// `virtnet_xdp_set` of drivers/net/virtio_net.c).
fn speaks_of_mtu(error: &ChangeError) -> bool {
    error.message.as_ref().is_some_and(|message| message.contains("MTU"))
}

#[derive(Debug, Eq, PartialEq)]
enum Clash {
    Raced,
    Mode(Driven),
}

/// The modes to try in turn. What runs already decides: the kernel answers `EEXIST` to another mode as it does to another program
/// (`dev_xdp_install` of net/core/dev.c), so that is settled before it is asked.
fn modes(present: &XdpAttachment, expected: Option<KernelId>, asked: XdpMode) -> Result<Vec<Driven>, Clash> {
    let asked = match asked {
        XdpMode::Auto => None,
        XdpMode::Native => Some(Driven::Native),
        XdpMode::Generic => Some(Driven::Generic),
    };
    match (*present, expected) {
        (XdpAttachment::None, None) => {
            Ok(asked.map_or_else(|| vec![Driven::Native, Driven::Generic], |mode| vec![mode]))
        }
        (XdpAttachment::One { mode, program }, Some(expected)) if KernelId(program.0) == expected => {
            match asked.is_none_or(|asked| asked == mode) {
                true => Ok(vec![mode]),
                false => Err(Clash::Mode(mode)),
            }
        }
        (XdpAttachment::None | XdpAttachment::One { .. } | XdpAttachment::Several { .. }, _) => Err(Clash::Raced),
    }
}

fn is(error: &ChangeError, errno: Errno) -> bool {
    error.errno() == errno.raw_os_error()
}

fn word(mode: Driven) -> &'static str {
    match mode {
        Driven::Native => "native",
        Driven::Generic => "generic",
        Driven::Hardware => "offloaded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::chain::generation::SeenRecord;

    const GENERIC: XdpAttachment = XdpAttachment::One { mode: Driven::Generic, program: ProgId(7) };
    const SEVERAL: XdpAttachment = XdpAttachment::Several { native: Some(ProgId(7)), generic: None, hardware: None };

    #[test]
    fn what_is_there_decides_the_mode() {
        let seven = Some(KernelId(7));
        assert_eq!(modes(&GENERIC, seven, XdpMode::Auto), Ok(vec![Driven::Generic]));
        assert_eq!(modes(&GENERIC, seven, XdpMode::Generic), Ok(vec![Driven::Generic]));
        assert_eq!(modes(&GENERIC, seven, XdpMode::Native), Err(Clash::Mode(Driven::Generic)));
    }

    #[test]
    fn an_empty_interface_is_tried_in_native_mode_first() {
        let none = XdpAttachment::None;
        assert_eq!(modes(&none, None, XdpMode::Auto), Ok(vec![Driven::Native, Driven::Generic]));
        assert_eq!(modes(&none, None, XdpMode::Native), Ok(vec![Driven::Native]));
        assert_eq!(modes(&none, None, XdpMode::Generic), Ok(vec![Driven::Generic]));
    }

    #[test]
    fn anything_but_what_is_expected_is_a_race() {
        for (present, expected) in [
            (XdpAttachment::None, Some(KernelId(7))),
            (GENERIC, None),
            (GENERIC, Some(KernelId(8))),
            (SEVERAL, Some(KernelId(7))),
        ] {
            assert_eq!(modes(&present, expected, XdpMode::Auto), Err(Clash::Raced), "{present:?} {expected:?}");
        }
    }

    #[test]
    fn the_kernels_words_tell_that_packets_are_too_long() {
        let said = |message: Option<&str>| {
            let error = Errno::INVAL.into();
            speaks_of_mtu(&ChangeError { error, message: message.map(str::to_owned) })
        };
        assert!(said(Some("Peer MTU is too large to set XDP")), "veth");
        assert!(said(Some("MTU too large to enable XDP without frags")), "virtio_net");
        assert!(!said(Some("Active program does not match expected")));
        assert!(!said(None));
    }

    #[test]
    fn a_generation_counts_only_on_its_own_interface() {
        let at = |index| Interface {
            id: InterfaceId { netns_cookie: 1, index },
            row: LinkRow { index, name: "veth0".into(), up: true, mtu: 1500, xdp: GENERIC },
        };
        let interface = InterfaceId { netns_cookie: 1, index: 3 };
        let chain = ChainId { interface, point: Point::Xdp };
        let record = SeenRecord { chain, members: vec![], names: vec![] };
        let uid = GenerationUid::from_bytes([1; 16]);
        let generations = BTreeMap::from([(
            uid,
            SeenGeneration {
                id: KernelId(7),
                record: Some(record),
                is_dispatcher: false,
                linked: None,
                is_moved: false,
                has_link: false,
            },
        )]);
        assert_eq!(
            runs(&at(3), &generations),
            Attached::Ours(LiveGeneration { program: KernelId(7), generation: uid })
        );
        assert_eq!(runs(&at(4), &generations), Attached::Other(ProgId(7)));
        let unread = BTreeMap::from([(
            uid,
            SeenGeneration {
                id: KernelId(7),
                record: None,
                is_dispatcher: false,
                linked: None,
                is_moved: false,
                has_link: false,
            },
        )]);
        assert_eq!(runs(&at(4), &unread), Attached::Ours(LiveGeneration { program: KernelId(7), generation: uid }));
    }
}
