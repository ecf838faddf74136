//! The commands that hints name. It must never run one.

use bpfd_core::hook::{ChainName, XdpMode};
use bpfd_core::kernel::ForeignProgram;
use bpfd_core::names::{Nameless, Netns};

/// The command that shows the interfaces a chain could be of.
pub(super) fn show_interfaces(chain: &ChainName) -> String {
    match &chain.netns {
        Netns::Host | Netns::Nameless(_) => "ip link".to_owned(),
        Netns::Named(name) => format!("ip -n {name} link"),
    }
}

pub(super) fn show_chain(chain: &ChainName) -> String {
    match &chain.netns {
        Netns::Host => format!("bpfctl chain show {}", chain.interface),
        Netns::Nameless(_) => "bpfctl chain show".to_owned(),
        Netns::Named(name) => format!("bpfctl chain show {} --netns {name}", chain.interface),
    }
}

/// What gives the namespace of a chain a name, so that bpfd can go there.
pub(super) fn give_name(chain: &ChainName) -> String {
    let which = match &chain.netns {
        Netns::Nameless(Nameless(Some(number))) => {
            format!("`lsns -t net -o NETNSID,PID` shows a process of network namespace {number}")
        }
        Netns::Nameless(Nameless(None)) | Netns::Host | Netns::Named(_) => {
            "`lsns -t net` shows network namespaces with a process of each".to_owned()
        }
    };
    format!("give it a name: {which}, `ip netns attach NAME PID` names its namespace; then ask again")
}

/// The command that takes a program of somebody else away. One that a bpf_link holds goes with the link alone, and `xdp off` takes
/// away what is driven in native mode alone (`dev_xdp_mode` of net/core/dev.c).
pub(super) fn way_out(chain: &ChainName, holder: &ForeignProgram, driven: Option<XdpMode>) -> String {
    if let Some(link) = holder.link {
        return format!("bpftool link detach id {link}");
    }
    let netns = match &chain.netns {
        Netns::Host | Netns::Nameless(_) => String::new(),
        Netns::Named(name) => format!("-n {name} "),
    };
    let mode = match driven {
        Some(XdpMode::Generic) => "xdpgeneric",
        Some(XdpMode::Native | XdpMode::Auto) => "xdp",
        None => "xdpoffload",
    };
    format!("ip {netns}link set {} {mode} off", chain.interface)
}
