//! `tc -i IF --direction ingress`: traffic control on an interface.

use bpfd_core::names::{IfName, Netns};
use bpfd_proto::v1 as pb;
use clap::{Args, ValueEnum};

use super::HookArgs;
use crate::args::{Place, netns_field};

/// Traffic control on an interface.
#[derive(Debug, Args)]
pub(super) struct Tc {
    /// The interface
    #[arg(short, long, value_name = "IF", alias = "iface")]
    interface: IfName,
    /// Which packets: what the interface receives, or what it sends
    #[arg(short, long)]
    direction: Direction,
    /// The network namespace, as in `ip netns list` [default: the daemon's own]
    #[arg(long, value_name = "NAME")]
    netns: Option<Netns>,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    Ingress,
    Egress,
}

impl HookArgs for Tc {
    const WORD: &'static str = "tc";
    const ABOUT: &'static str = "Attach to tc on an interface";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path filter.o tc -i eth0 --direction ingress --priority 50
  bpfctl load --image registry/foo:tag tc -i eth1 --netns blue -d egress";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach filter tc -i eth0 --direction egress
  bpfctl attach filter/allow tc -i eth1 --netns blue -d ingress --priority 20";

    fn attachment(self) -> pb::Attachment {
        let Self { interface, direction, netns, place } = self;
        let direction = match direction {
            Direction::Ingress => pb::TcDirection::Ingress,
            Direction::Egress => pb::TcDirection::Egress,
        };
        let (netns, interface) = (netns.and_then(netns_field), interface.into());
        let hook = pb::TcHook { netns, interface, direction: direction.into() };
        let (priority, proceed_on) = place.fields();
        let hook = Some(pb::Hook { hook: Some(pb::hook::Hook::Tc(hook)) });
        pb::Attachment { hook, priority, proceed_on, ..Default::default() }
    }
}
