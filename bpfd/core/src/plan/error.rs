//! Why changes cannot be planned. This file must never decide that.

use crate::chain::room::Kept;
use crate::hook::{ChainName, Point, XdpMode};
use crate::ident::LinkUid;
use crate::kernel::{ForeignProgram, Unseen};
use crate::names::{NetnsName, Priority};
use crate::state::ChangeError;

/// Why a change cannot be planned. Nothing was done.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// It does not fit the state.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The interface is absent.
    #[error("no interface `{}` in network namespace `{}`", .0.interface, .0.netns)]
    NoInterface(ChainName),
    /// The interface's network namespace is absent.
    #[error("no network namespace `{0}`")]
    NoNetns(NetnsName),
    /// The hook belongs to somebody else.
    #[error("`{}` runs XDP program {} (`{}`), which is not bpfd's", chain.interface, holder.program, holder.name)]
    Foreign {
        /// The hook.
        chain: ChainName,
        /// What is there.
        holder: ForeignProgram,
        /// How it is driven; `None` by the device itself.
        driven: Option<XdpMode>,
    },
    /// The chain runs something that nobody knows since the state was lost.
    #[error("`{chain}` runs `{function}` for link {link}, which has no row and no readable record")]
    Unexplained {
        /// The hook.
        chain: ChainName,
        /// The program.
        function: String,
        /// The link.
        link: LinkUid,
    },
    /// The interface is in a namespace that no name leads to.
    #[error(
        "`{}` is in network namespace `{}`, which has no name: bpfd can look there, but change nothing, and `{}` still runs",
        chain.interface, chain.netns, runs.join("`, `")
    )]
    Nameless {
        /// The hook.
        chain: ChainName,
        /// The programs of ours that it runs.
        runs: Vec<String>,
    },
    /// Nobody can look at the chain.
    #[error("{}, and `{}` may still run there", unseen(called, why.as_ref()), runs.join("`, `"))]
    Unseen {
        /// What the hook was called.
        called: ChainName,
        /// The programs of ours that are meant to run there.
        runs: Vec<String>,
        /// Why not.
        why: Option<Unseen>,
    },
    /// A rebuild of a chain that has no dispatcher.
    #[error("`{0}` runs no dispatcher of libxdp's protocol")]
    NoDispatcher(ChainName),
    /// A rebuild of a dispatcher that peers use: some may be unable to change it from then on.
    #[error("`{chain}` runs programs of others beside bpfd's: `{}`", names.join("`, `"))]
    Peers {
        /// The hook.
        chain: ChainName,
        /// Functions of the others.
        names: Vec<String>,
    },
    /// Another mode than the one that the chain is driven in.
    #[error("`{chain}` is attached in {driven} mode; an interface cannot use {asked} mode at the same time")]
    Mode {
        /// The hook.
        chain: ChainName,
        /// As it is.
        driven: XdpMode,
        /// As asked for.
        asked: XdpMode,
    },
    /// More programs than the hook has room for, those of others counted.
    #[error("`{}` would have {programs} {}", chain.interface, room_of(chain.point, *room))]
    ChainFull {
        /// The hook.
        chain: ChainName,
        /// How many there would be.
        programs: usize,
        /// How many there can be.
        room: usize,
    },
    /// New links would take what is kept for others.
    #[error("`{}`: {kept}", chain.interface)]
    Kept {
        /// The hook.
        chain: ChainName,
        /// How much of what.
        kept: Kept,
    },
    /// A priority that contradicts a strict order.
    #[error(
        "order `{order}` has `{}` run before `{}`, and at priorities {} and {} it would not",
        earlier.0, later.0, earlier.1, later.1
    )]
    Order {
        /// The order's id.
        order: String,
        /// What runs earlier, and the priority that it has or asks for.
        earlier: (String, Priority),
        /// What runs later, and the same.
        later: (String, Priority),
    },
    /// Links of one chain ask for different modes.
    #[error("links of `{0}` ask for native and generic mode at once")]
    MixedModes(ChainName),
}

fn room_of(point: Point, room: usize) -> String {
    match point {
        Point::Xdp => format!("XDP programs, and a dispatcher has {room} slots"),
        Point::TcIngress | Point::TcEgress => format!("programs at {point}, and the kernel has room for {room}"),
    }
}

fn unseen(called: &ChainName, why: Option<&Unseen>) -> String {
    match why {
        Some(Unseen::Nameless) => format!("the network namespace of `{called}` has no name now"),
        Some(Unseen::Unreadable(name)) => {
            format!("`{called}` cannot be looked at: the file /run/netns/{name} leads to no network namespace")
        }
        None => format!("`{called}` cannot be looked at now"),
    }
}
