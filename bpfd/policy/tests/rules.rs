//! The text of `[[rule]]`: what it reads as, and each slip with its place and what was meant.

use std::fmt::Write;
use std::path::Path;

use bpfd_policy::Policy;
use bpfd_policy::builtin;
use bpfd_policy::read::{PolicyError, PolicyText};
use bpfd_policy::reference::in_full as chain;
use bpfd_policy::rule::{Band, Direction, Effect, Files, Images, MapsOf, RuleVerb};

fn read(texts: &[(&str, &str)]) -> Result<Policy, PolicyError> {
    let files: Vec<PolicyText<'_>> = texts.iter().map(|(file, text)| PolicyText { file, text }).collect();
    Policy::read(&files, |path: &Path| Ok(path.as_os_str().as_encoded_bytes().to_vec().into()))
}

const HEAD: &str = "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\n";

/// A rule that holds, with one line more.
fn rule(line: &str) -> String {
    format!(
        "{HEAD}[[rule]]\nid = \"cni\"\neffect = \"allow\"\nwho = [{{ user = \"cni\" }}]\nverbs = [\"load\", \"attach\"]\n\
         programs = {{ types = [\"xdp\"] }}\ninterfaces = {{ names = [\"veth*\"] }}\nsource = {{ images = \"any\" }}\n{line}\n"
    )
}

/// A rule that denies, with one line more.
fn deny(line: &str) -> String {
    format!("{HEAD}[[rule]]\nid = \"no\"\neffect = \"deny\"\nverbs = [\"attach\"]\n{line}\n")
}

#[test]
fn a_rule_reads_as_written() {
    let text = format!(
        r#"{HEAD}
[[rule]]
id = "cni"
effect = "allow"
who = [{{ user = "cni", unit = "cni*.service" }}, {{ group = "bpf-admin" }}]
verbs = ["pull", "load", "attach", "update", "detach", "unload", "list", "map-read", "map-write", "other-owner"]
programs = {{ types = ["xdp", "kprobe"], reach = "packet" }}
interfaces = {{ names = ["veth*"], netns = ["host"], directions = ["ingress"] }}
priority = {{ min = 100 }}
must_proceed_on = ["pass"]
hooks = {{ kinds = ["xdp", "kprobe"], targets = ["do_*"] }}
source = {{ images = ["reg.acme/bpf/**"], signed_by = ["ci"], files = ["sha256:{}"] }}
map_from = ["own", "shared", "team=edge"]
quota = {{ apps = 8, map_bytes = "64MiB", requests_per_minute = 600 }}
"#,
        "0".repeat(64)
    );
    let policy = read(&[("policy.toml", &text)]).unwrap();
    let [root, rule] = &*policy.rules else { panic!("{:?}", policy.rules) };
    assert_eq!(*root, builtin::root());
    assert_eq!((rule.id.as_str(), rule.effect, rule.verbs.len()), ("cni", Effect::Allow, RuleVerb::ALL.len()));
    let [first, second] = rule.who.as_deref().unwrap() else { panic!("two") };
    assert_eq!(first.user.as_ref().unwrap().name, "cni");
    assert!(first.unit.as_ref().unwrap().matches("cni-agent.service") && first.group.is_none());
    assert_eq!(second.group.as_ref().unwrap().name, "bpf-admin");
    assert_eq!(rule.priority, Some(Band { min: 100, max: 1000 }));
    let interfaces = rule.interfaces.as_ref().unwrap();
    assert_eq!(interfaces.directions.as_ref().unwrap().iter().collect::<Vec<_>>(), [&Direction::Ingress]);
    let source = rule.source.as_ref().unwrap();
    assert!(matches!(source.images.as_ref().unwrap(), Images::Of(scopes) if scopes.len() == 1));
    assert!(matches!(source.files.as_ref().unwrap(), Files::Of(files) if files.len() == 1));
    let app = MapsOf::App("shared".parse().unwrap());
    let label = MapsOf::Label("team".to_owned(), "edge".to_owned());
    assert_eq!(rule.map_from.as_deref(), Some([MapsOf::Own, app, label].as_slice()));
    let quota = rule.quota.unwrap();
    assert_eq!((quota.apps, quota.links, quota.map_bytes), (Some(8), None, Some(64 << 20)));
    let again = read(&[("policy.toml", &format!("{HEAD}{rule}"))]).unwrap();
    assert_eq!(again.rules, policy.rules, "{rule}");
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
}

#[test]
fn a_file_with_a_rule_takes_the_place_of_the_groups_rules_and_never_of_roots() {
    let ids = |policy: &Policy| policy.rules.iter().map(|rule| rule.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&read(&[("p", HEAD)]).unwrap()), ids(&Policy::default()));
    assert_eq!(ids(&read(&[("p", &rule(""))]).unwrap()), ["builtin-root", "cni"]);
}

#[test]
fn built_in_rules_are_shown_as_files_would_have_them() {
    let text = builtin::groups().map(|rule| rule.to_string().replace("builtin-", "")).concat();
    insta::assert_snapshot!(text, @r#"
    [[rule]]
    id = "bpfd"
    effect = "allow"
    who = [{ group = "bpfd" }]
    verbs = ["pull", "load", "attach", "update"]
    priority = { min = 100, max = 1000 }
    source = { images = "any" }
    [[rule]]
    id = "bpfd-own"
    effect = "allow"
    who = [{ group = "bpfd" }]
    verbs = ["detach", "unload", "list"]
    [[rule]]
    id = "bpfd-view"
    effect = "allow"
    who = [{ group = "bpfd-view" }]
    verbs = ["list"]
    "#);
}

#[test]
fn two_rules_of_one_name_are_refused_whatever_file_they_are_in() {
    let error = read(&[("policy.toml", &rule("")), ("policy.d/a.toml", &rule("").replace(HEAD, "version = 1\n"))]);
    let expected = "policy is refused at policy.d/a.toml:3:6: there is a rule `cni` already, in policy.toml";
    assert_eq!(chain(&error.unwrap_err()), expected);
}

#[test]
fn each_bad_rule_is_refused_with_file_line_and_column() {
    let without = |key: &str| {
        let text = rule("");
        let kept = text.lines().filter(|line| !line.starts_with(key));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    let with = |from: &str, to: &str| rule("").replace(from, to);
    let cases = [
        "version = 1\nrule = [1]\n".to_owned(),
        without("id"),
        without("effect"),
        without("who"),
        without("verbs"),
        without("programs"),
        without("interfaces"),
        without("source"),
        rule("prio = 5"),
        with("id = \"cni\"", "id = \"Cni\""),
        with("id = \"cni\"", "id = \"builtin-cni\""),
        with("effect = \"allow\"", "effect = \"permit\""),
        with("who = [{ user = \"cni\" }]", "who = []"),
        with("who = [{ user = \"cni\" }]", "who = [{}]"),
        with("who = [{ user = \"cni\" }]", "who = [{ unit = \"cni.service\" }]"),
        with("who = [{ user = \"cni\" }]", "who = [{ user = \"1000\" }]"),
        with("who = [{ user = \"cni\" }]", "who = [{ usr = \"cni\" }]"),
        with("who = [{ user = \"cni\" }]", "who = [{ user = \"cni\", unit = \"cni?.service\" }]"),
        with("[\"load\", \"attach\"]", "[]"),
        with("[\"load\", \"attach\"]", "[\"load\", \"atach\"]"),
        with("[\"load\", \"attach\"]", "[\"other-owner\"]"),
        with("[\"load\", \"attach\"]", "[\"trust\"]"),
        with("types = [\"xdp\"]", "types = [\"xpd\"]"),
        with("types = [\"xdp\"]", "reach = \"world\""),
        with("names = [\"veth*\"]", "names = [\"veth[0-9]\"]"),
        with("names = [\"veth*\"]", "directions = [\"in\"]"),
        with("images = \"any\"", "images = \"all\""),
        with("images = \"any\"", "images = [\"reg/*\"]"),
        with("images = \"any\"", "images = [\"any\", \"reg\"]"),
        with("images = \"any\"", "signed_by = [\"nobody\"]"),
        with("images = \"any\"", "signed_by = []"),
        with("images = \"any\"", "files = [\"/usr/lib/x.o\"]"),
        rule("priority = { min = 500, max = 100 }"),
        rule("priority = { max = 1001 }"),
        rule("priority = 5"),
        rule("must_proceed_on = [\"pas\"]"),
        rule("hooks = { kinds = [\"tracepiont\"] }"),
        rule("hooks = { targets = [\"\"] }"),
        rule("map_from = [\"Own\"]"),
        rule("quota = { map_bytes = \"512MB\" }"),
        rule("quota = { concurrent = 0 }"),
        rule("quota = { programs = 3 }"),
        deny("quota = { apps = 1 }"),
        deny("must_proceed_on = [\"pass\"]"),
        deny("programs = { reach = \"kernel\" }"),
        deny("map_from = [\"own\"]"),
        deny("effect = \"deny\""),
        with("verbs = [\"load\", \"attach\"]", "verbs = [\"list\"]\nmust_proceed_on = [\"pass\"]"),
    ];
    let mut report = String::new();
    for text in cases {
        let shown = text.strip_prefix(HEAD).unwrap_or(&text).trim_end();
        match read(&[("policy.toml", &text)]) {
            Err(error) => writeln!(report, "{shown}\n  -> {}\n", chain(&error)).unwrap(),
            Ok(policy) => panic!("{shown}\n{:?}", policy.rules),
        }
    }
    insta::assert_snapshot!(report);
}
