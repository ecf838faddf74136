//! `bpfctl list`: what is loaded and where it runs.

use bpfd_core::labels::LabelSelector;
use bpfd_core::names::{IfName, Netns};
use bpfd_proto::v1 as pb;
use clap::{Args, ValueEnum};

use super::state::tell_recovered;
use super::views::{Apps, Links};
use crate::args::{label_field, netns_field};
use crate::client::Session;
use crate::error::{Exit, Failure};
use crate::listing::Listing;

/// List loaded programs and where they are attached
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  bpfctl list
  bpfctl list -i eth0
  bpfctl list --label team=edge --label canary
  bpfctl list links --filter state=drifted
  bpfctl list links --sort -priority
  bpfctl list links -o json"
)]
pub(crate) struct List {
    /// What to list; it matters for -o json, yaml and name, for --sort and --filter
    #[arg(value_enum, default_value_t)]
    what: What,
    /// Only what is on this interface
    #[arg(short, long, value_name = "IF", alias = "iface")]
    interface: Option<IfName>,
    /// The interface's network namespace [default: the daemon's own]
    #[arg(long, value_name = "NAME", requires = "interface")]
    netns: Option<Netns>,
    /// Only apps with this label, or with a label of this key (repeatable: with all of them)
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<LabelSelector>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum What {
    /// Apps with their programs
    #[default]
    Apps,
    /// Links alone
    Links,
}

impl List {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { what, interface, netns, label, listing } = self;
        let interface = interface.map(String::from);
        let netns = netns.and_then(netns_field);
        let selection = match what {
            What::Apps => {
                listing.of::<pb::App>().map_err(|bad| bad.or_in::<pb::Link>(&listing, "bpfctl list links"))?
            }
            What::Links => listing.of::<pb::Link>()?,
        };
        let mut client = session.client().await?;
        let user_labels: Vec<pb::LabelSelector> = label.iter().map(label_field).collect();
        let of_apps = pb::ListAppsRequest {
            interface: interface.clone(),
            netns: netns.clone(),
            user_labels: user_labels.clone(),
            ..Default::default()
        };
        let of_links = pb::ListLinksRequest { interface, netns, user_labels, ..Default::default() };
        match what {
            What::Apps => {
                let apps = selection.apply(client.apps(of_apps).await?)?;
                let links = client.links(of_links).await?;
                session.printer.show(&Apps { apps, links })?;
            }
            What::Links => session.printer.show(&Links(selection.apply(client.links(of_links).await?)?))?,
        }
        tell_recovered(&mut client).await?;
        Ok(Exit::Ok)
    }
}
