//! `bpfctl policy`: the rules about who may do what, checked and tested as files, and asked about, shown and enforced as they hold.

mod files;

use std::path::PathBuf;

use bpfd_core::hook::ProceedOn;
use bpfd_core::names::{IfName, Netns, Priority};
use bpfd_policy::builtin;
use bpfd_policy::expect::Expectations;
use bpfd_proto::v1 as pb;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::files::{Checked, ETC};
use crate::args::{self, DryRun, netns_field, word};
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure, Local, note, warn};
use crate::later::Later;
use crate::output::{Block, View, message};

/// Check, test, show and enforce who may do what
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl policy check
  bpfctl policy can-i attach xdp -i eth0 --priority 50 --image registry/team/app:1 --as cni")]
pub(crate) struct Policy {
    #[command(subcommand)]
    verb: Later<PolicyVerb>,
}

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// Read the policy's files as bpfd would, without a daemon
    #[command(after_help = "\
Examples:
  bpfctl policy check
  bpfctl policy check --dir ./etc-bpfd")]
    Check {
        #[command(flatten)]
        dir: Dir,
    },
    /// Hold the policy's files against a table of expectations, without a daemon
    #[command(after_help = "\
A table has any number of expectations:
  [[expect]]
  who = { user = \"cni\", groups = [\"bpfd\"], unit = \"cni.service\" }
  ask = { verb = \"attach\", type = \"xdp\", interface = \"eth0\", priority = 50, image = \"registry/team/app:1\" }
  result = \"deny\"

Examples:
  bpfctl policy test expectations.toml
  bpfctl policy test expectations.toml --dir ./etc-bpfd")]
    Test {
        /// The table, TOML
        file: PathBuf,
        #[command(flatten)]
        dir: Dir,
    },
    /// Show the rules in force; root only
    #[command(after_help = "\
Examples:
  bpfctl policy show
  bpfctl policy show -q")]
    Show,
    /// Ask whether something is allowed, and why not
    #[command(
        name = "can-i",
        after_help = "\
What is left out may turn out to be anything that a rule allows.

Examples:
  bpfctl policy can-i attach xdp -i eth0 --priority 50 --image registry/team/app:1
  bpfctl policy can-i load kprobe --file any --as tracer"
    )]
    CanI(CanI),
    /// Unload and detach what the policy refuses now; root only
    #[command(after_help = "\
Examples:
  bpfctl policy enforce --dry-run
  bpfctl policy enforce")]
    Enforce {
        #[command(flatten)]
        dry: DryRun,
    },
    /// Have bpfd read the policy's files again; root only
    #[command(after_help = "\
bpfd reads them by itself when they change.

Examples:
  bpfctl policy reload
  bpfctl policy reload -o json")]
    Reload,
}

#[derive(Debug, Args)]
struct Dir {
    /// Read policy.toml and policy.d here, and look here for files below /etc/bpfd; owners and modes are not looked at
    /// [default: /etc/bpfd]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CanI {
    /// pull, load, attach, update, detach, unload, list, map-read or map-write
    #[arg(value_parser = word)]
    verb: String,
    /// The kind of program, such as xdp
    #[arg(value_name = "TYPE", value_parser = word)]
    program_type: Option<String>,
    /// The target of a hook that belongs to no interface, such as sched/sched_switch
    #[arg(value_parser = word, conflicts_with = "interface")]
    target: Option<String>,
    /// The interface of the hook
    #[arg(short, long, value_name = "IF", alias = "iface")]
    interface: Option<IfName>,
    /// Its network namespace [default: the daemon's own]
    #[arg(long, value_name = "NAME", requires = "interface")]
    netns: Option<Netns>,
    /// Packets that the interface sends, not those that it receives
    #[arg(long, requires = "interface")]
    egress: bool,
    /// The place in the chain
    #[arg(short, long, value_name = "N", value_parser = args::priority, allow_negative_numbers = true)]
    priority: Option<Priority>,
    /// After which verdicts the next program runs
    #[arg(long, value_name = "ACTIONS", value_parser = args::proceed_on)]
    proceed_on: Option<ProceedOn>,
    /// The image that the bytes come from
    #[arg(long, value_name = "REFERENCE", conflicts_with = "file", value_parser = word)]
    image: Option<String>,
    /// The file that the bytes come from, as sha256:HASH, or any
    #[arg(long, value_name = "HASH", value_parser = word)]
    file: Option<String>,
    /// About what somebody else owns
    #[arg(long)]
    others: bool,
    /// As another user; root only
    #[arg(long = "as", value_name = "USER", value_parser = word)]
    user: Option<String>,
    /// As a process of this systemd unit; root only
    #[arg(long, value_name = "UNIT", value_parser = word)]
    unit: Option<String>,
}

impl Policy {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.verb.0 {
            PolicyVerb::Check { dir } => check(session, dir.dir),
            PolicyVerb::Test { file, dir } => test(session, &file, dir.dir),
            PolicyVerb::Show => {
                let policy = session.client().await?.policy(pb::GetPolicyRequest {}).await?;
                if !policy.fault.is_empty() {
                    warn(&format!("the files are bad: {}", policy.fault), "the rules shown are those that hold");
                }
                session.printer.show(&Shown(policy))?;
                Ok(Exit::Ok)
            }
            PolicyVerb::CanI(ask) => can_i(session, ask).await,
            PolicyVerb::Enforce { dry } => {
                let request = pb::EnforcePolicyRequest { validate_only: dry.dry_run };
                let answer = session.client().await?.enforce_policy(request).await?;
                session.printer.show(&Enforced { answer, dry: dry.dry_run })?;
                Ok(Exit::Ok)
            }
            PolicyVerb::Reload => {
                let request = pb::ReloadPolicyRequest { request_id: request_id() };
                let answer = session.client().await?.reload_policy(request).await?;
                session.printer.show(&Reloaded(answer))?;
                Ok(Exit::Ok)
            }
        }
    }
}

fn check(session: &Session, dir: Option<PathBuf>) -> Result<Exit, Failure> {
    let Checked { policy, warnings } = files::read(dir.as_deref())?;
    warnings.iter().for_each(|(warning, hint)| warn(warning, hint));
    if !session.printer.is_quiet() {
        let rules = policy.rules.iter().filter(|rule| !builtin::is_built_in(rule)).count();
        let (signers, images) = (policy.signers.len(), policy.images.len());
        let (files, orders) = (policy.files.len(), policy.orders.len());
        note(&format!("{files} files are good: {signers} signers, {images} images, {rules} rules, {orders} orders"));
    }
    Ok(Exit::Ok)
}

fn test(session: &Session, file: &std::path::Path, dir: Option<PathBuf>) -> Result<Exit, Failure> {
    let Checked { policy, warnings: _ } = files::read(dir.as_deref())?;
    let expectations = Expectations::read(&file.display().to_string(), &crate::files::document(file)?);
    let expectations = expectations
        .map_err(|bad| Local::new(Exit::Usage, "cannot use the table of expectations").cause(bad.to_string()))?;
    let findings = expectations.of(&policy);
    let wrong: Vec<_> = findings.iter().filter_map(|one| Some((one.what.as_str(), one.wrong.as_deref()?))).collect();
    for (what, why) in &wrong {
        warn(&format!("{what}: {why}"), "change the policy, or the expectation");
    }
    if !session.printer.is_quiet() {
        note(&format!("{} of {} expectations hold", findings.len() - wrong.len(), findings.len()));
    }
    Ok(if wrong.is_empty() { Exit::Ok } else { Exit::Drift })
}

async fn can_i(session: &Session, ask: CanI) -> Result<Exit, Failure> {
    let CanI {
        verb,
        program_type,
        target,
        interface,
        netns,
        egress,
        priority,
        proceed_on,
        image,
        file,
        others,
        user,
        unit,
    } = ask;
    let request = pb::CanIRequest {
        verb,
        program_type,
        interface: interface.map(String::from),
        netns: netns.and_then(netns_field),
        egress,
        priority: priority.map(u32::from),
        has_proceed_on: proceed_on.is_some(),
        proceed_on: proceed_on.map(|set| set.names().into_iter().map(str::to_owned).collect()).unwrap_or_default(),
        target,
        image,
        file,
        others,
        as_user: user,
        as_unit: unit,
    };
    let answer = session.client().await?.can_i(request).await?;
    let exit = if answer.allowed { Exit::Ok } else { Exit::Denied };
    session.printer.show(&Answered(answer))?;
    Ok(exit)
}

struct Shown(pb::GetPolicyResponse);

impl View for Shown {
    fn kind(&self) -> &'static str {
        "GetPolicyResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        self.0.rules.iter().map(|rule| rule.id.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let pb::GetPolicyResponse { files, fault: _, rules, unknown_names, signers, images, orders, packet_types } =
            &self.0;
        let listed = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        let mut facts = vec![
            ("files", if files.is_empty() { "none: the built-in policy holds".to_owned() } else { listed(files) }),
            ("signers", listed(signers)),
            ("images", listed(images)),
        ];
        if !packet_types.is_empty() {
            facts.push(("unvetted", format!("{} alone, with reach `packet`", listed(packet_types))));
        }
        if !unknown_names.is_empty() {
            facts.push(("nobody is called", listed(unknown_names)));
        }
        let mut lines: Vec<String> = Vec::new();
        for rule in rules {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.extend(rule.built_in.then(|| "# built in".to_owned()));
            lines.extend(rule.text.lines().map(str::to_owned));
        }
        for order in orders {
            lines.push(String::new());
            lines.extend(order.text.lines().map(str::to_owned));
        }
        vec![Block::Facts(facts), Block::Lines(lines)]
    }

    fn nothing(&self) -> &'static str {
        "no rules"
    }
}

struct Answered(pb::CanIResponse);

impl View for Answered {
    fn kind(&self) -> &'static str {
        "CanIResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        vec![if self.0.allowed { "yes" } else { "no" }.to_owned()]
    }

    fn text(&self) -> Vec<Block> {
        let pb::CanIResponse { allowed, rule, reach, why, hint } = &self.0;
        let lines = match (*allowed, reach.as_str()) {
            (true, "") => vec![format!("yes: rule `{rule}` allows it")],
            (true, reach) => vec![format!("yes: rule `{rule}` allows it, with reach `{reach}`")],
            (false, _) => vec![format!("no: {why}"), format!("hint: {hint}")],
        };
        vec![Block::Lines(lines)]
    }

    fn nothing(&self) -> &'static str {
        "no answer"
    }
}

struct Enforced {
    answer: pb::EnforcePolicyResponse,
    dry: bool,
}

impl View for Enforced {
    fn kind(&self) -> &'static str {
        "EnforcePolicyResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.answer)?])
    }

    fn names(&self) -> Vec<String> {
        self.answer.apps.iter().chain(&self.answer.links).cloned().collect()
    }

    fn text(&self) -> Vec<Block> {
        let pb::EnforcePolicyResponse { refused, apps, links, plan } = &self.answer;
        if refused.is_empty() {
            return vec![];
        }
        let rows = refused.iter().map(|one| vec![one.thing.clone(), one.why.clone()]);
        let did = |word: &str, names: &[String]| names.iter().map(|name| format!("{word} {name}")).collect::<Vec<_>>();
        let (detach, unload) = if self.dry { ("would detach", "would unload") } else { ("detached", "unloaded") };
        let lines = [did(detach, links), did(unload, apps), plan.clone()].concat();
        vec![Block::Table(&["REFUSED", "WHY"], rows.collect()), Block::Lines(lines)]
    }

    fn nothing(&self) -> &'static str {
        "the policy refuses nothing that is here"
    }
}

struct Reloaded(pb::ReloadPolicyResponse);

impl View for Reloaded {
    fn kind(&self) -> &'static str {
        "ReloadPolicyResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!({
            "files": self.0.files,
            "signers": self.0.signers,
            "images": self.0.images,
            "rules": self.0.rules,
            "orders": self.0.orders,
        })])
    }

    fn names(&self) -> Vec<String> {
        self.0.files.clone()
    }

    fn text(&self) -> Vec<Block> {
        let pb::ReloadPolicyResponse { files, signers, images, rules, orders } = &self.0;
        let from = if files.is_empty() { format!("no files in {ETC}") } else { files.join(", ") };
        let counts = format!("{signers} signers, {images} images, {rules} rules, {orders} orders");
        vec![Block::Lines(vec![format!("{counts} from {from}")])]
    }

    fn nothing(&self) -> &'static str {
        "nothing read"
    }
}
