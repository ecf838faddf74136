//! `bpfctl chain`: the programs of one shared hook in the order in which they run, those of others included.

use std::collections::BTreeSet;

use bpfd_core::names::{IfName, Netns};
use bpfd_proto::v1::{self as pb, chain_member};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::state::tell_recovered;
use super::views::{self, NONE, or_dash, or_none};
use crate::args::{DryRun, netns_field};
use crate::client::Session;
use crate::error::{Exit, Failure, warn};
use crate::later::Later;
use crate::listing::Listing;
use crate::output::{Block, View, messages};

/// Show the programs of an interface, in the order in which they run
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl chain show eth0
  bpfctl chain show eth0 --netns blue -o json")]
pub(crate) struct Chain {
    #[command(subcommand)]
    verb: Later<ChainVerb>,
}

#[derive(Debug, Subcommand)]
enum ChainVerb {
    /// Show the chain of an interface, or all chains
    #[command(after_help = "\
Examples:
  bpfctl chain show
  bpfctl chain show eth0
  bpfctl chain show eth0 --hook tc-ingress
  bpfctl chain show eth0 --netns blue -o json")]
    Show {
        /// The interface [default: all chains]
        interface: Option<IfName>,
        /// Its network namespace [default: the daemon's own]
        #[arg(long, value_name = "NAME", requires = "interface")]
        netns: Option<Netns>,
        /// Which of its hooks [default: xdp]
        #[arg(long, value_enum, requires = "interface")]
        hook: Option<ChainHook>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Build the libxdp dispatcher of an interface again, with another version
    #[command(
        long_about = "Build the libxdp dispatcher of an interface again, with another version of its configuration\n\n\
Which users of libxdp can change a chain depends on that version: `bpfctl chain show` says whom it shuts out. No packet \
passes a program by meanwhile. It is refused while programs of others are in the chain. New dispatchers have the version of \
`[chain] dispatcher_version` in bpfd.toml.",
        after_help = "\
Examples:
  bpfctl chain rebuild eth0 --dispatcher-version 3
  bpfctl chain rebuild eth0 --dispatcher-version 2 --dry-run"
    )]
    Rebuild {
        /// The interface
        interface: IfName,
        /// Its network namespace [default: the daemon's own]
        #[arg(long, value_name = "NAME")]
        netns: Option<Netns>,
        /// 2 for libxdp 1.3 to 1.5, 3 for libxdp 1.6 and later
        #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u32).range(2..=3))]
        dispatcher_version: u32,
        #[command(flatten)]
        dry: DryRun,
    },
    /// Show all chains
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  bpfctl chain list
  bpfctl chain list --filter hook=tc-ingress --sort interface
  bpfctl chain list -o json | jq -r '.items[].interface'"
    )]
    List {
        #[command(flatten)]
        listing: Listing,
    },
}

/// The shared hooks of an interface.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ChainHook {
    #[default]
    Xdp,
    TcIngress,
    TcEgress,
}

impl From<ChainHook> for pb::ChainHook {
    fn from(hook: ChainHook) -> Self {
        match hook {
            ChainHook::Xdp => Self::Xdp,
            ChainHook::TcIngress => Self::TcIngress,
            ChainHook::TcEgress => Self::TcEgress,
        }
    }
}

impl Chain {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let selection = match &self.verb.0 {
            ChainVerb::Show { listing, .. } | ChainVerb::List { listing } => Some(listing.of::<pb::Chain>()?),
            ChainVerb::Rebuild { .. } => None,
        };
        let mut client = session.client().await?;
        let mut chains = match self.verb.0 {
            ChainVerb::Show { interface: Some(interface), netns, hook, listing: _ } => {
                let request = pb::GetChainRequest {
                    netns: netns.and_then(netns_field),
                    interface: interface.into(),
                    hook: pb::ChainHook::from(hook.unwrap_or_default()).into(),
                };
                vec![client.chain(request).await?]
            }
            ChainVerb::Rebuild { interface, netns, dispatcher_version, dry } => {
                let (netns, interface) = (netns.and_then(netns_field), String::from(interface));
                let request = pb::RebuildChainRequest {
                    netns: netns.clone(),
                    interface: interface.clone(),
                    dispatcher_version,
                    validate_only: dry.dry_run,
                };
                let answer = client.rebuild_chain(request).await?;
                let hook = pb::ChainHook::Xdp.into();
                let chain = client.chain(pb::GetChainRequest { netns, interface, hook }).await?;
                views::show(session, &dry, Chains(vec![chain]), answer.plan)?;
                return Ok(Exit::Ok);
            }
            ChainVerb::Show { interface: None, .. } | ChainVerb::List { .. } => {
                client.chains(pb::ListChainsRequest::default()).await?
            }
        };
        if let Some(selection) = selection {
            chains = selection.apply(chains)?;
        }
        for finding in chains.iter().flat_map(|chain| &chain.findings) {
            warn(finding, "");
        }
        tell_recovered(&mut client).await?;
        session.printer.show(&Chains(chains))?;
        Ok(Exit::Ok)
    }
}

struct Chains(Vec<pb::Chain>);

impl View for Chains {
    fn kind(&self) -> &'static str {
        "Chain"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.0)
    }

    fn names(&self) -> Vec<String> {
        // A link by the name that `detach` and `update` take.
        let name = |member: &pb::ChainMember| match &member.program {
            Some(chain_member::Program::Link(link)) => link.name.clone(),
            Some(chain_member::Program::Foreign(_)) | None => member_name(member),
        };
        self.0.iter().flat_map(|chain| &chain.members).map(name).collect()
    }

    fn text(&self) -> Vec<Block> {
        let blocks = |chain| [Block::Facts(facts(chain, Width::Terminal)), members(chain, Width::Terminal)];
        self.0.iter().flat_map(blocks).collect()
    }

    fn wide(&self) -> Vec<Block> {
        self.0.iter().flat_map(|chain| [Block::Facts(facts(chain, Width::All)), members(chain, Width::All)]).collect()
    }

    fn nothing(&self) -> &'static str {
        "no chains"
    }
}

/// How much is said of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Terminal,
    All,
}

fn facts(chain: &pb::Chain, width: Width) -> Vec<(&'static str, String)> {
    let place = match &chain.netns {
        Some(netns) => format!("{netns}:{}", chain.interface),
        None => chain.interface.clone(),
    };
    let mode = views::lower(chain.mode().as_str_name(), "CHAIN_MODE_");
    // The sentence begins with its gist; `-o wide`, `-o json` and `bpfctl doctor` have all of it.
    let gist = match width {
        Width::Terminal => chain.mode_cause.split(": ").next().unwrap_or_default(),
        Width::All => chain.mode_cause.as_str(),
    };
    let mode = if gist.is_empty() { mode } else { format!("{mode} ({gist})") };
    let hook = views::lower(chain.hook().as_str_name(), "CHAIN_HOOK_").replace('_', "-");
    let mut facts = vec![("chain", format!("{place}:{hook}"))];
    let links = chain.members.iter().filter_map(|member| match &member.program {
        Some(chain_member::Program::Link(link)) => link.hook.as_ref().map(views::hook),
        Some(chain_member::Program::Foreign(_)) | None => None,
    });
    let asked: BTreeSet<String> = links.collect();
    if asked.iter().any(|asked| *asked != format!("{place}:{hook}")) {
        facts.push(("asked for as", asked.into_iter().collect::<Vec<_>>().join(", ")));
    }
    facts.push(("mode", mode));
    if chain.hook() == pb::ChainHook::Xdp {
        facts.push(("xdp mode", views::lower(chain.xdp_mode().as_str_name(), "XDP_MODE_")));
        facts.push(("kernel id", or_none(chain.kernel_program_id)));
    }
    if let Some(version) = chain.dispatcher_version {
        facts.push(("version", format!("{version} ({})", chain.shut_out)));
    }
    if let (Some(used), Some(slots)) = (chain.slots_used, chain.slots) {
        facts.push(("slots", format!("{used} of {slots}")));
    }
    facts
}

/// The columns of a table of members, of which `place` tells them apart in the kernel.
const fn columns(place: &'static str) -> [&'static str; 8] {
    ["POS", place, "PRIO", "PROGRAM", "PROCEED-ON", "KERNEL-ID", "OWNER", "STATE"]
}

/// The same where an order of the policy moved a member.
const fn ordered_columns(place: &'static str) -> [&'static str; 10] {
    ["POS", place, "PRIO", "ASKED", "ORDER", "PROGRAM", "PROCEED-ON", "KERNEL-ID", "OWNER", "STATE"]
}

/// All that is known of a member.
const fn wide_columns(place: &'static str) -> [&'static str; 12] {
    ["POS", place, "PRIO", "ASKED", "ORDER", "PROGRAM", "PROCEED-ON", "KERNEL-ID", "TAG", "OWNER", "STATE", "CAUSE"]
}

fn members(chain: &pb::Chain, width: Width) -> Block {
    let order = |member: &pb::ChainMember| match &member.program {
        Some(chain_member::Program::Link(link)) => link.order.clone(),
        Some(chain_member::Program::Foreign(_)) | None => String::new(),
    };
    let is_wide = width == Width::All;
    let is_ordered = is_wide || chain.members.iter().any(|member| !order(member).is_empty());
    let rows = chain.members.iter().map(|member| {
        let (owner, state, cause) = match &member.program {
            Some(chain_member::Program::Link(link)) => {
                (format!("uid {}", link.owner_uid), views::link_state(link.state()), or_dash(&link.cause))
            }
            Some(chain_member::Program::Foreign(foreign)) => {
                (or_dash(&foreign.holder), "FOREIGN".to_owned(), NONE.to_owned())
            }
            None => (NONE.to_owned(), NONE.to_owned(), NONE.to_owned()),
        };
        let priorities = match is_ordered {
            true => {
                let (effective, asked) = (member.effective_priority, member.priority);
                vec![effective.to_string(), asked.to_string(), or_dash(&order(member))]
            }
            false => vec![member.priority.to_string()],
        };
        let position = or_none(Some(member.position).filter(|position| *position > 0));
        let place = vec![position, or_none(member.slot.or(member.preference))];
        let program =
            vec![member_name(member), views::proceed_on(member.proceed_on.as_ref()), or_none(member.kernel_program_id)];
        let tag = is_wide.then(|| or_dash(&member.tag)).into_iter().collect();
        let cause = is_wide.then_some(cause).into_iter().collect();
        [place, priorities, program, tag, vec![owner, state], cause].concat()
    });
    let columns: &[&str] = match (chain.mode() == pb::ChainMode::Clsact, is_ordered) {
        (true, _) if is_wide => &const { wide_columns("PREF") },
        (false, _) if is_wide => &const { wide_columns("SLOT") },
        (true, false) => &const { columns("PREF") },
        (false, false) => &const { columns("SLOT") },
        (true, true) => &const { ordered_columns("PREF") },
        (false, true) => &const { ordered_columns("SLOT") },
    };
    Block::Table(columns, rows.collect())
}

fn member_name(member: &pb::ChainMember) -> String {
    match &member.program {
        Some(chain_member::Program::Link(link)) => format!("{}/{}", link.app, link.function),
        Some(chain_member::Program::Foreign(foreign)) => or_dash(&foreign.name),
        None => NONE.to_owned(),
    }
}
