//! `[[expect_order]]`: in which order the links of a chain would run. Must never know what runs on a host.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Policy;
use crate::caller::PRIORITY_MAX;
use crate::order::{ChainFacts, KINDS, LinkFacts, Order, place};
use crate::rule::Direction;

/// One expectation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as `[[expect_order]]` begins one")]
pub(super) struct OrderExpectation {
    pub(super) name: Option<String>,
    chain: Chain,
    links: Vec<Link>,
    runs: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { kind = \"xdp\", interface = \"eth0\" }")]
struct Chain {
    kind: String,
    interface: String,
    netns: Option<String>,
    direction: Option<Direction>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { app = \"ids\", priority = 50 }")]
struct Link {
    app: String,
    priority: u32,
    #[serde(default)]
    signed_by: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    function: Option<String>,
}

impl OrderExpectation {
    /// What is wrong with it, whatever the policy is.
    pub(super) fn fault(&self) -> Option<String> {
        let Self { name: _, chain: Chain { kind, direction, .. }, links, runs } = self;
        if !KINDS.contains(&kind.as_str()) {
            return Some(format!("no kind of hook with a chain `{kind}`; known are `{}`", KINDS.join("`, `")));
        }
        if (kind.as_str(), direction) == ("xdp", &Some(Direction::Egress)) {
            return Some("XDP has no egress".to_owned());
        }
        if let Some(link) = links.iter().find(|link| link.priority > PRIORITY_MAX) {
            return Some(format!("priority {} is out of range: 0 to {PRIORITY_MAX}", link.priority));
        }
        let mut apps: Vec<&str> = links.iter().map(|link| link.app.as_str()).collect();
        let mut runs: Vec<&str> = runs.iter().map(String::as_str).collect();
        apps.sort_unstable();
        runs.sort_unstable();
        (apps != runs).then(|| "`runs` has each app of `links`, and no others".to_owned())
    }

    /// How it differs from what a policy does.
    pub(super) fn wrong(&self, policy: &Policy) -> Option<String> {
        let Self { name: _, chain, links, runs } = self;
        let Chain { kind, interface, netns, direction } = chain;
        let netns = netns.clone().unwrap_or_else(|| "host".to_owned());
        let chain = ChainFacts {
            kind: KINDS.iter().find(|known| *known == kind).copied().unwrap_or_default(),
            direction: direction.unwrap_or(Direction::Ingress),
            names: vec![(interface.clone(), netns)],
        };
        let orders: Vec<&Order> = policy.orders.iter().filter(|order| order.chain.are(&chain)).collect();
        let facts = |(number, link): (u64, &Link)| {
            let Link { app, priority, signed_by, labels, function } = link;
            LinkFacts {
                app: app.clone(),
                labels: labels.clone(),
                signers: signed_by.clone(),
                function: function.clone().unwrap_or_else(|| app.clone()),
                asked: *priority,
                number,
            }
        };
        let links: Vec<LinkFacts> = (1..).zip(links).map(facts).collect();
        let placed = place(&orders, &links);
        let mut order: Vec<_> = links.iter().zip(placed.links).map(|(link, at)| (at.effective, link)).collect();
        order.sort_by_key(|(effective, link)| (*effective, &link.function, link.number));
        let found: Vec<&str> = order.iter().map(|(_, link)| link.app.as_str()).collect();
        let told: Vec<String> = order.iter().map(|(effective, link)| format!("{} {effective}", link.app)).collect();
        (found != *runs).then(|| format!("expected {}, and they run as {}", runs.join(", "), told.join(", ")))
    }
}
