//! The commands that hints name. It must never run one.

use bpfd_core::hook::{ChainName, XdpMode};
use bpfd_core::kernel::ForeignProgram;
use bpfd_core::names::Netns;

/// The command that shows the interfaces a chain could be of.
pub(super) fn show_interfaces(chain: &ChainName) -> String {
    match &chain.netns {
        Netns::Host => "ip link".to_owned(),
        Netns::Named(name) => format!("ip -n {name} link"),
    }
}

pub(super) fn show_chain(chain: &ChainName) -> String {
    match &chain.netns {
        Netns::Host => format!("bpfctl chain show {}", chain.interface),
        Netns::Named(name) => format!("bpfctl chain show {} --netns {name}", chain.interface),
    }
}

/// The command that takes a program of somebody else away. One that a bpf_link holds goes with the link alone, and `xdp off` takes
/// away what is driven in native mode alone (`dev_xdp_mode` of net/core/dev.c).
pub(super) fn way_out(chain: &ChainName, holder: &ForeignProgram, driven: Option<XdpMode>) -> String {
    if let Some(link) = holder.link {
        return format!("bpftool link detach id {link}");
    }
    let netns = match &chain.netns {
        Netns::Host => String::new(),
        Netns::Named(name) => format!("-n {name} "),
    };
    let mode = match driven {
        Some(XdpMode::Generic) => "xdpgeneric",
        Some(XdpMode::Native | XdpMode::Auto) => "xdp",
        None => "xdpoffload",
    };
    format!("ip {netns}link set {} {mode} off", chain.interface)
}
