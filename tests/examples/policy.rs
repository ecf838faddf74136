//! `cargo xtask bench policy`: what a decision costs with few rules and with many, and beside the smallest call of the API. Prints one
//! figure a line, as JSON.
//!
//! Times are compared only with times of the same run, taken in turn. Must never fail on a time: xtask judges.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a tool: what it cannot do ends it")]

mod measured;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use bpfd_client::proto::v1 as pb;
use bpfd_policy::Policy;
use bpfd_policy::accounts::Accounts;
use bpfd_policy::caller::{Asked, Credentials, HookFacts, Principal, SourceFacts, Unit, Verb};
use bpfd_policy::decide::Stage;
use bpfd_policy::read::PolicyText;
use bpfd_policy::rule::{AccountId, Direction};
use bpfd_tests::Host;
use measured::figure;

const FEW: u32 = 10;
const MANY: u32 = 1000;
/// Rules that are decided on in one measurement, whatever their number in a policy: long enough for a clock.
const DECIDED: u32 = 100_000;
const CNI: u32 = 1001;
const OTHER: u32 = 1002;

fn main() {
    let rounds = if std::env::args().any(|word| word == "--quick") { 5 } else { 25 };
    let (few, many, others) = (policy(FEW, FEW), policy(MANY, MANY), policy(MANY, FEW));
    let host = Host::new();
    let (mut few_ns, mut many_ns, mut others_ns, mut call_ns) = (f64::MAX, f64::MAX, f64::MAX, f64::MAX);
    for _ in 0..rounds {
        few_ns = few_ns.min(decision(&few, FEW));
        many_ns = many_ns.min(decision(&many, MANY));
        others_ns = others_ns.min(decision(&others, MANY));
        call_ns = call_ns.min(call(&host));
    }
    let (few_rule, many_rule) = (few_ns / f64::from(FEW), many_ns / f64::from(MANY));
    figure("per_rule_at_1000_to_10", many_rule / few_rule, "ratio", Some("<=2"));
    figure("decision_at_10_of_get_info", few_ns / call_ns * 100.0, "%", Some("<=5"));
    figure("decision_at_1000_of_get_info", others_ns / call_ns * 100.0, "%", Some("<=5"));
    figure("decision_at_1000_all_of_one_caller_of_get_info", many_ns / call_ns * 100.0, "%", None);
    figure("per_rule", many_rule, "ns", None);
    figure("get_info", call_ns / 1e3, "us", None);
}

/// Rules of which only the last allows: nothing lets the scan end early. So many are about one caller, the others about others.
fn policy(rules: u32, of_caller: u32) -> Policy {
    let mut text = "version = 1\n".to_owned();
    for number in 0..rules {
        let user = if rules - number <= of_caller { "cni" } else { "other" };
        let from = if number + 1 == rules { 0 } else { 1 + number % 400 };
        write!(
            text,
            "[[rule]]\nid = \"r{number}\"\neffect = \"allow\"\nwho = [{{ user = \"{user}\" }}]\nverbs = [\"load\", \"attach\"]\n\
             programs = {{ types = [\"xdp\", \"tc\"] }}\ninterfaces = {{ names = [\"veth*\", \"eth*\"], netns = [\"host\"] }}\n\
             priority = {{ min = {}, max = {} }}\nmust_proceed_on = [\"pass\"]\nsource = {{ images = [\"reg.acme/bpf/**\"] }}\n",
            from + 50,
            from + 99,
        )
        .unwrap();
    }
    let file = PolicyText { file: "policy.toml", text: &text };
    let policy = Policy::read(&[file], |path: &Path| panic!("no key is named, and not {}", path.display())).unwrap();
    let users = [("cni", CNI), ("other", OTHER)].map(|(name, uid)| (name.to_owned(), AccountId::Is(uid)));
    policy.with_accounts(&Accounts { users: users.into(), ..Accounts::default() })
}

/// Nanoseconds a decision.
fn decision(policy: &Policy, rules: u32) -> f64 {
    let credentials = Credentials { groups: Some([CNI].into()), unit: Unit::None };
    let principal = Principal { uid: CNI, user: Some("cni".to_owned()), credentials, pid: 1 };
    let asked = Asked {
        kind: Some("xdp".to_owned()),
        hook: Some(HookFacts::Shared {
            interface: "veth12".to_owned(),
            netns: "host".to_owned(),
            direction: Direction::Ingress,
            priority: Some(50),
            proceed_on: Some(["pass".to_owned()].into()),
        }),
        source: Some(SourceFacts::Image {
            reference: Some("reg.acme/bpf/x:1".parse().unwrap()),
            signers: Some([].into()),
        }),
        ..Asked::verb(Verb::Attach)
    };
    assert!(policy.decide(&principal, &asked, Stage::Last).is_ok(), "the last rule allows it");
    let times = DECIDED / rules;
    let began = Instant::now();
    for _ in 0..times {
        assert!(black_box(policy).decide(black_box(&principal), black_box(&asked), Stage::Last).is_ok());
    }
    nanoseconds(began) / f64::from(times)
}

/// Nanoseconds a call of `GetInfo`, over an open connection.
fn call(host: &Host) -> f64 {
    const CALLS: u32 = 200;
    host.ask(async |client| {
        client.info(pb::GetInfoRequest {}).await?;
        let began = Instant::now();
        for _ in 0..CALLS {
            client.info(pb::GetInfoRequest {}).await?;
        }
        Ok(nanoseconds(began) / f64::from(CALLS))
    })
}

fn nanoseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}
