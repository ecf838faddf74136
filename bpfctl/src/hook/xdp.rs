//! `xdp -i IF`: XDP on an interface.

use bpfd_core::hook::XdpMode;
use bpfd_core::names::{IfName, Netns};
use bpfd_proto::v1 as pb;
use clap::Args;

use super::HookArgs;
use crate::args::{Place, netns_field};

/// XDP on an interface.
#[derive(Debug, Args)]
pub(super) struct Xdp {
    /// The interface
    #[arg(short, long, value_name = "IF", alias = "iface")]
    interface: IfName,
    /// The network namespace, as in `ip netns list` [default: the daemon's own]
    #[arg(long, value_name = "NAME")]
    netns: Option<Netns>,
    #[command(flatten)]
    place: Place,
    /// auto, native or generic; auto takes what the interface runs, else native, else generic
    #[arg(long, default_value_t)]
    mode: XdpMode,
}

impl HookArgs for Xdp {
    const WORD: &'static str = "xdp";
    const ABOUT: &'static str = "Attach to XDP on an interface";
    const LOAD_EXAMPLES: &'static str = "\
\x20 bpfctl load --path pass.o --section-name pass xdp -i eth0 --priority 50
  bpfctl load --image registry/foo:tag xdp -i eth1 --netns blue --mode generic";
    const ATTACH_EXAMPLES: &'static str = "\
\x20 bpfctl attach counter xdp -i eth0
  bpfctl attach counter/pass xdp -i eth1 --netns blue --priority 20 --proceed-on pass,drop";

    fn attachment(self) -> pb::Attachment {
        let Self { interface, netns, place, mode } = self;
        let hook = pb::XdpHook { netns: netns.and_then(netns_field), interface: interface.into() };
        let (priority, proceed_on) = place.fields();
        let mode = match mode {
            XdpMode::Auto => pb::XdpMode::Auto,
            XdpMode::Native => pb::XdpMode::Native,
            XdpMode::Generic => pb::XdpMode::Generic,
        };
        pb::Attachment {
            hook: Some(pb::Hook { hook: Some(pb::hook::Hook::Xdp(hook)) }),
            priority,
            proceed_on,
            xdp_mode: mode.into(),
            ..Default::default()
        }
    }
}
