//! What is decided: the built-in rules, how rules combine, what a refusal says; and the decision held against a model of it over random
//! policies and questions.
//!
//! Long because the words of each refusal stand whole beside what was asked.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod model;

use std::collections::BTreeSet;
use std::path::Path;

use bpfd_policy::Policy;
use bpfd_policy::accounts::Accounts;
use bpfd_policy::caller::{Asked, Credentials, HookFacts, MapOwner, Owner, Principal, Reach, SourceFacts, Unit, Verb};
use bpfd_policy::decide::Stage;
use bpfd_policy::digest::Digest;
use bpfd_policy::read::PolicyText;
use bpfd_policy::rule::{AccountId, Direction};

const CNI: u32 = 1001;
const ADMIN: u32 = 1002;
const OPS: u32 = 900;
const BPFD: u32 = 815;
const VIEW: u32 = 816;

/// The rules of a text, with the names that these cases know.
fn policy(rules: &str) -> Policy {
    let text = format!("version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\n{rules}");
    let file = PolicyText { file: "policy.toml", text: &text };
    let policy = Policy::read(&[file], |_: &Path| Ok(b"key".to_vec().into())).unwrap();
    let users = [("cni", CNI), ("admin", ADMIN)].map(|(name, id)| (name.to_owned(), AccountId::Is(id)));
    let groups = [("bpfd", BPFD), ("bpfd-view", VIEW), ("ops", OPS)];
    let groups = groups.map(|(name, id)| (name.to_owned(), AccountId::Is(id)));
    policy.with_accounts(&Accounts { users: users.into(), groups: groups.into() })
}

fn principal(uid: u32, groups: &[u32]) -> Principal {
    let credentials = Credentials { groups: Some(groups.iter().copied().collect()), unit: Unit::None };
    Principal { uid, user: Some(format!("u{uid}")), credentials, pid: 1 }
}

fn image(reference: &str, signers: &[&str]) -> SourceFacts {
    let signers = Some(signers.iter().map(|name| (*name).to_owned()).collect());
    SourceFacts::Image { reference: Some(reference.parse().unwrap()), signers }
}

fn xdp(interface: &str, priority: u32) -> HookFacts {
    HookFacts::Shared {
        interface: interface.to_owned(),
        netns: "host".to_owned(),
        direction: Direction::Ingress,
        priority: Some(priority),
        proceed_on: Some(["pass".to_owned()].into()),
    }
}

/// An attachment of a signed image.
fn attach(interface: &str, priority: u32) -> Asked {
    Asked {
        kind: Some("xdp".to_owned()),
        hook: Some(xdp(interface, priority)),
        source: Some(image("reg.acme/bpf/x:1", &["ci"])),
        ..Asked::verb(Verb::Attach)
    }
}

fn load(source: SourceFacts) -> Asked {
    Asked { kind: Some("xdp".to_owned()), ..Asked::load(source) }
}

fn owned(uid: u32, asked: Asked) -> Asked {
    Asked { owner: Some(Owner { uid, user: None }), thing: Some("app `a`".to_owned()), ..asked }
}

fn may(policy: &Policy, who: &Principal, asked: &Asked) -> bool {
    policy.decide(who, asked, Stage::Last).is_ok()
}

fn why(policy: &Policy, who: &Principal, asked: &Asked) -> String {
    policy.decide(who, asked, Stage::Last).unwrap_err().why
}

const RULE: &str = r#"
[[rule]]
id = "cni"
effect = "allow"
who = [{ user = "cni" }]
verbs = ["pull", "load", "attach", "update", "detach", "unload", "list"]
programs = { types = ["xdp"] }
interfaces = { names = ["veth*"], netns = ["host"] }
priority = { min = 100, max = 499 }
must_proceed_on = ["pass"]
source = { images = ["reg.acme/bpf/**"], signed_by = ["ci"] }
"#;

#[test]
fn the_built_in_rules_are_these() {
    let (root, member) = (principal(0, &[]), principal(1000, &[BPFD]));
    let (viewer, other) = (principal(1001, &[VIEW]), principal(1002, &[10]));
    let signed = || image("reg.acme/bpf/x", &["ci"]);
    let upload = SourceFacts::Upload { object: Some(Digest::of(b"")) };
    let update = |priority| Asked { verb: Verb::Update, ..attach("eth0", priority) };
    let verb = Asked::verb;
    let policy = policy("");
    // What is asked, then whether root, a member, a viewer and anybody else may.
    for (asked, expected) in [
        (verb(Verb::List), [true, true, true, false]),
        (Asked { source: Some(signed()), ..verb(Verb::Pull) }, [true, true, false, false]),
        (load(signed()), [true, true, false, false]),
        (load(upload), [true, false, false, false]),
        (attach("eth0", 99), [true, false, false, false]),
        (attach("eth0", 100), [true, true, false, false]),
        (owned(0, attach("eth0", 100)), [true, false, false, false]),
        (owned(1000, attach("eth0", 100)), [true, true, false, false]),
        (owned(1000, update(99)), [true, false, false, false]),
        (owned(1000, update(1000)), [true, true, false, false]),
        (owned(0, update(1000)), [true, false, false, false]),
        (owned(0, verb(Verb::Detach)), [true, false, false, false]),
        (owned(1000, verb(Verb::Detach)), [true, true, false, false]),
        (verb(Verb::Detach), [true, true, false, false]),
        (verb(Verb::Unload), [true, true, false, false]),
        (owned(1001, verb(Verb::Unload)), [true, false, false, false]),
        (owned(1000, verb(Verb::MapRead)), [true, false, false, false]),
        (owned(1000, verb(Verb::MapWrite)), [true, false, false, false]),
        (verb(Verb::Trust), [true, false, false, false]),
        (verb(Verb::Recover), [true, false, false, false]),
    ] {
        let found = [&root, &member, &viewer, &other].map(|who| may(&policy, who, &asked));
        assert_eq!(found, expected, "{asked:?}");
    }
}

#[test]
fn refusals_by_built_in_rules_say_what_to_do() {
    let (policy, member, stranger) = (policy(""), principal(1000, &[BPFD]), principal(1002, &[]));
    let upload = load(SourceFacts::Upload { object: None });
    assert_eq!(why(&policy, &member, &upload), "members of group `bpfd` load images, not files");
    let low = "priority 99 is below 100: lower priorities are reserved for root";
    assert_eq!(why(&policy, &member, &attach("eth0", 99)), low);
    assert_eq!(why(&policy, &member, &owned(0, Asked::verb(Verb::Unload))), "app `a` belongs to uid 0");
    assert_eq!(why(&policy, &stranger, &attach("eth0", 99)), "not root and not in group `bpfd`");
    assert_eq!(why(&policy, &member, &Asked::verb(Verb::Trust)), "only root changes who is trusted");
}

/// What a refusal says, and then what each rule has to do with it, as the log has it.
fn refusal(policy: &Policy, who: &Principal, asked: &Asked) -> String {
    let denied = policy.decide(who, asked, Stage::Last).unwrap_err();
    let rules: Vec<String> = denied.rules.iter().map(|rule| format!("\n    {rule}")).collect();
    format!("{} | {}{}", denied.why, denied.hint, rules.concat())
}

#[test]
fn a_refusal_by_built_in_rules_says_which_way_is_open() {
    let policy = policy("");
    let (member, viewer, stranger) = (principal(1000, &[BPFD]), principal(1001, &[VIEW]), principal(1002, &[]));
    let upload = || Some(SourceFacts::Upload { object: None });
    let named = |thing: Option<&str>, uid, asked| Asked { thing: thing.map(str::to_owned), ..owned(uid, asked) };
    let lender = MapOwner { owner: Owner { uid: 0, user: None }, app: "lender".to_owned(), labels: [].into() };
    insta::assert_snapshot!(
        [
            refusal(&policy, &member, &Asked { source: upload(), ..attach("eth0", 100) }),
            refusal(&policy, &member, &Asked { source: upload(), ..Asked::verb(Verb::Pull) }),
            refusal(&policy, &member, &attach("eth0", 1001)),
            refusal(&policy, &member, &attach("eth0", 99)),
            refusal(&policy, &member, &owned(0, attach("eth0", 100))),
            refusal(&policy, &member, &named(None, 0, Asked::verb(Verb::Detach))),
            refusal(&policy, &member, &Asked { maps_of: vec![lender], ..load(image("reg.acme/bpf/x", &["ci"])) }),
            refusal(&policy, &viewer, &owned(0, Asked::verb(Verb::Detach))),
            refusal(&policy, &member, &Asked::verb(Verb::MapRead)),
            refusal(&policy, &viewer, &Asked::verb(Verb::Unload)),
            refusal(&policy, &stranger, &Asked::verb(Verb::MapWrite)),
            refusal(&policy, &stranger, &Asked::verb(Verb::Recover)),
        ]
        .join("\n"),
        @r#"
    files: it is for images | ask as root
        allow `builtin-root` is about others
        allow `builtin-bpfd` does not match: files: it is for images
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    files: it is for images | ask as root
        allow `builtin-root` is about others
        allow `builtin-bpfd` does not match: files: it is for images
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    priority 1001: it is for 100 to 1000 | ask as root
        allow `builtin-root` is about others
        allow `builtin-bpfd` does not match: priority 1001: it is for 100 to 1000
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    priority 99 is below 100: lower priorities are reserved for root | ask for a priority from 100 to 1000
        allow `builtin-root` is about others
        allow `builtin-bpfd` does not match: priority 99: it is for 100 to 1000
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    app `a` belongs to uid 0 | load the image under a name of your own
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about other verbs
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    it belongs to uid 0 | ask its owner, or root
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about other verbs
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    app `lender` belongs to uid 0 | load an app of your own that makes the map
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about other verbs
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    not root and not in group `bpfd` | ask as root, or have root add you to the group: `usermod -aG bpfd USER`
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about others
        allow `builtin-bpfd-own` is about others
        allow `builtin-bpfd-view` is about other verbs
    no rule about you allows `map-read` | ask as root, or have root write a [[rule]] with the verb `map-read`
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about other verbs
        allow `builtin-bpfd-own` is about other verbs
        allow `builtin-bpfd-view` is about others
    not root and not in group `bpfd` | ask as root, or have root add you to the group: `usermod -aG bpfd USER`
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about others
        allow `builtin-bpfd-own` is about others
        allow `builtin-bpfd-view` is about other verbs
    not root and not in group `bpfd` | ask as root, or have root add you to the group: `usermod -aG bpfd USER`
        allow `builtin-root` is about others
        allow `builtin-bpfd` is about others
        allow `builtin-bpfd-own` is about others
        allow `builtin-bpfd-view` is about others
    only root decides about a state that was lost | ask as root
    "#
    );
}

#[test]
fn a_refusal_by_files_tells_the_caller_of_its_own_rules_and_the_log_of_all() {
    let deny = |id: &str, who: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\neffect = \"deny\"\nwho = [{{ user = \"{who}\" }}]\nverbs = [\"attach\"]\npriority = {{ min = 200, max = 300 }}\n"
        )
    };
    let ldap = "[[rule]]\nid = \"ldap\"\neffect = \"allow\"\nwho = [{ group = \"ldap\" }]\nverbs = [\"map-read\"]\n";
    let policy = policy(&[RULE, &deny("no", "cni"), &deny("not-admin", "admin"), ldap].concat());
    let cni = principal(CNI, &[]);
    insta::assert_snapshot!(
        [
            refusal(&policy, &cni, &attach("veth1", 200)),
            refusal(&policy, &cni, &attach("veth1", 99)),
            refusal(&policy, &cni, &Asked::verb(Verb::MapRead)),
            refusal(&policy, &cni, &owned(0, Asked::verb(Verb::Unload))),
            refusal(&policy, &principal(ADMIN, &[]), &attach("veth1", 1)),
            refusal(&policy, &principal(7, &[]), &Asked::verb(Verb::List)),
        ]
        .join("\n"),
        @r#"
    rule `no` denies it | ask an administrator
        allow `builtin-root` is about others
        allow `cni` matches
        deny `no` matches
        deny `not-admin` is about others
        allow `ldap` is about other verbs
    rule `cni` allows it, except priority 99: it is for 100 to 499 | ask for what the rule allows, or ask an administrator
        allow `builtin-root` is about others
        allow `cni` does not match: priority 99: it is for 100 to 499
        deny `no` does not match: priority 99: it is for 200 to 300
        deny `not-admin` is about others
        allow `ldap` is about other verbs
    a rule may allow it, but who the caller is, or what is asked for, is not known | ask again; `bpfctl doctor` tells root of names that no name service knows
        allow `builtin-root` is about others
        allow `cni` is about other verbs
        deny `no` is about other verbs
        deny `not-admin` is about others
        allow `ldap` matches if the caller is who it names
    app `a` belongs to uid 0 | ask its owner, or root
        allow `builtin-root` is about others
        allow `cni` is about other verbs
        deny `no` is about other verbs
        deny `not-admin` is about others
        allow `ldap` is about other verbs
    no rule about you allows `attach` | `bpfctl whoami` shows which rules are about you; ask an administrator
        allow `builtin-root` is about others
        allow `cni` is about others
        deny `no` is about others
        deny `not-admin` does not match: priority 1: it is for 200 to 300
        allow `ldap` is about other verbs
    no rule about you allows `list` | `bpfctl whoami` shows which rules are about you; ask an administrator
        allow `builtin-root` is about others
        allow `cni` is about others
        deny `no` is about others
        deny `not-admin` is about others
        allow `ldap` is about other verbs
    "#
    );
}

#[test]
fn every_condition_of_a_rule_must_hold_and_the_refusal_names_those_that_do_not() {
    let (policy, cni) = (policy(RULE), principal(CNI, &[]));
    let good = attach("veth1", 100);
    assert!(may(&policy, &cni, &good));
    let but = |change: &dyn Fn(&mut Asked)| {
        let mut asked = good.clone();
        change(&mut asked);
        why(&policy, &cni, &asked)
    };
    let hook = |hook: HookFacts| but(&move |asked| asked.hook = Some(hook.clone()));
    let HookFacts::Shared { interface, netns, direction, priority, proceed_on } = xdp("veth1", 100) else { panic!() };
    let shared = |netns: &str, proceed_on: &BTreeSet<String>| HookFacts::Shared {
        interface: interface.clone(),
        netns: netns.to_owned(),
        direction,
        priority,
        proceed_on: Some(proceed_on.clone()),
    };
    insta::assert_snapshot!(
        [
            but(&|asked| asked.kind = Some("tc".to_owned())),
            hook(xdp("eth0", 100)),
            hook(shared("blue", &proceed_on.unwrap())),
            hook(xdp("veth1", 99)),
            hook(xdp("veth1", 500)),
            hook(shared(&netns, &["drop".to_owned()].into())),
            but(&|asked| asked.source = Some(image("reg.acme/other/x", &["ci"]))),
            but(&|asked| asked.source = Some(image("reg.acme/bpf/x", &["release"]))),
            but(&|asked| asked.source = Some(SourceFacts::Upload { object: None })),
            hook(xdp("eth0", 7)),
        ]
        .join("\n"),
        @"
    rule `cni` allows it, except program type tc: it is for xdp
    rule `cni` allows it, except interface eth0: it is for veth*
    rule `cni` allows it, except network namespace blue: it is for host
    rule `cni` allows it, except priority 99: it is for 100 to 499
    rule `cni` allows it, except priority 500: it is for 100 to 499
    rule `cni` allows it, except proceed-on: the chain must go on after `pass`
    rule `cni` allows it, except image reg.acme/other/x:latest: it is for reg.acme/bpf/**
    rule `cni` allows it, except the signature: the image must be signed by ci
    rule `cni` allows it, except files: it is for images
    rule `cni` allows it, except priority 7: it is for 100 to 499; and except interface eth0: it is for veth*
    "
    );
}

#[test]
fn a_refusal_tells_of_no_rule_about_others() {
    let secret = RULE.replace("\"cni\"", "\"secret\"").replace("user = \"secret\"", "user = \"admin\"");
    let policy = policy(&format!("{RULE}{secret}"));
    let denied = policy.decide(&principal(CNI, &[]), &attach("eth0", 100), Stage::Last).unwrap_err();
    assert!(!format!("{denied} {}", denied.hint).contains("secret"), "{denied}");
    let told = "allow `secret` is about others";
    assert!(denied.rules.iter().any(|rule| rule == told), "{:?}", denied.rules);
    let stranger = policy.decide(&principal(7, &[]), &attach("eth0", 100), Stage::Last).unwrap_err();
    assert_eq!(stranger.why, "no rule is about u7");
}

#[test]
fn rules_never_combine_halves() {
    // One has the interface, the other the priority.
    let other =
        RULE.replace("id = \"cni\"", "id = \"low\"").replace("veth*", "eth*").replace("100, max = 499", "0, max = 99");
    let (policy, cni) = (policy(&format!("{RULE}{other}")), principal(CNI, &[]));
    assert!(may(&policy, &cni, &attach("veth1", 100)) && may(&policy, &cni, &attach("eth1", 7)));
    assert!(!may(&policy, &cni, &attach("eth1", 100)) && !may(&policy, &cni, &attach("veth1", 7)));
}

#[test]
fn deny_wins_and_is_about_what_all_its_conditions_speak_of() {
    let deny = "[[rule]]\nid = \"mgmt\"\neffect = \"deny\"\nverbs = [\"attach\", \"detach\"]\ninterfaces = { names = [\"mgmt0\"] }\n";
    let policy = policy(deny);
    let root = principal(0, &[]);
    assert_eq!(why(&policy, &root, &attach("mgmt0", 5)), "rule `mgmt` denies it");
    let detach = Asked { hook: Some(xdp("mgmt0", 5)), ..Asked::verb(Verb::Detach) };
    assert!(!may(&policy, &root, &detach) && may(&policy, &root, &attach("eth0", 5)));
    // A hook of no interface is none of its business.
    let target = Some("do_unlinkat".to_owned());
    let kprobe = Asked { kind: Some("kprobe".to_owned()), hook: Some(HookFacts::Own { target }), ..attach("eth0", 5) };
    assert!(may(&policy, &root, &kprobe));
    // What no rule may give, none may take either: an administrator can mend what was written.
    let all = "[[rule]]\nid = \"all\"\neffect = \"deny\"\nverbs = [\"load\", \"attach\", \"list\"]\n";
    assert!(may(&self::policy(all), &root, &Asked::verb(Verb::Trust)));
    assert!(!may(&self::policy(all), &root, &Asked::verb(Verb::List)));
}

#[test]
fn acting_on_what_others_own_takes_a_verb_of_its_own_in_the_same_rule() {
    let rule = |id: &str, effect: &str, verbs: &str| {
        format!("[[rule]]\nid = \"{id}\"\neffect = \"{effect}\"\nwho = [{{ group = \"ops\" }}]\nverbs = [{verbs}]\n")
    };
    let ops = principal(5, &[OPS]);
    let (own, others) = (owned(5, Asked::verb(Verb::Detach)), owned(6, Asked::verb(Verb::Detach)));
    let check = |rules: &str, expected: [bool; 2]| {
        let policy = policy(rules);
        assert_eq!([may(&policy, &ops, &own), may(&policy, &ops, &others)], expected, "{rules}");
    };
    check(&rule("a", "allow", "\"detach\""), [true, false]);
    check(&rule("a", "allow", "\"detach\", \"other-owner\""), [true, true]);
    // Halves of two rules are no whole one.
    check(
        &[rule("a", "allow", "\"detach\""), rule("b", "allow", "\"unload\", \"other-owner\"")].concat(),
        [true, false],
    );
    let all = rule("a", "allow", "\"detach\", \"other-owner\"");
    check(&[all.clone(), rule("b", "deny", "\"detach\"")].concat(), [false, false]);
    check(&[all.clone(), rule("b", "deny", "\"other-owner\"")].concat(), [true, false]);
    check(&[all, rule("b", "deny", "\"unload\", \"other-owner\"")].concat(), [true, false]);
}

#[test]
fn what_is_not_known_yet_passes_the_first_decision_and_no_later_one() {
    let (policy, cni) = (policy(RULE), principal(CNI, &[]));
    let unknown = Asked {
        kind: None,
        hook: None,
        source: Some(SourceFacts::named("reg.acme/bpf/x")),
        ..Asked::verb(Verb::Attach)
    };
    assert!(policy.decide(&cni, &unknown, Stage::First).is_ok());
    assert!(policy.decide(&cni, &unknown, Stage::Last).is_err());
    // What is known to be wrong passes neither.
    let wrong = Asked { source: Some(SourceFacts::named("reg.acme/other/x")), ..unknown };
    assert!(policy.decide(&cni, &wrong, Stage::First).is_err());
}

#[test]
fn a_unit_counts_beside_its_user_and_only_if_it_is_known() {
    let rule = RULE.replace("{ user = \"cni\" }", "{ user = \"cni\", unit = \"cni.service\" }");
    let policy = policy(&rule);
    let in_unit = |uid, unit| {
        let credentials = Credentials { groups: Some(BTreeSet::new()), unit };
        may(&policy, &Principal { uid, user: None, credentials, pid: 1 }, &attach("veth1", 100))
    };
    let is = |name: &str| Unit::Is(name.to_owned());
    assert!(in_unit(CNI, is("cni.service")));
    assert!(!in_unit(CNI, is("user@1001.service")) && !in_unit(CNI, Unit::None) && !in_unit(CNI, Unit::Unknown));
    assert!(!in_unit(ADMIN, is("cni.service")));
}

#[test]
fn while_no_name_service_answers_nobody_is_allowed_by_a_name_and_anybody_but_root_may_be_denied() {
    let rule = |effect: &str| {
        let text = format!(
            "[[rule]]\nid = \"r\"\neffect = \"{effect}\"\nwho = [{{ group = \"ldap\" }}]\nverbs = [\"list\"]\n"
        );
        let all = "[[rule]]\nid = \"all\"\neffect = \"allow\"\nwho = [{ user = \"cni\" }]\nverbs = [\"list\"]\n";
        if effect == "deny" { policy(&format!("{text}{all}")) } else { policy(&text) }
    };
    let list = Asked::verb(Verb::List);
    let known = |policy: Policy, id| {
        let groups = [("ldap".to_owned(), id)].into();
        let users = [("cni".to_owned(), AccountId::Is(CNI))].into();
        policy.with_accounts(&Accounts { users, groups })
    };
    let (member, cni) = (principal(5, &[77]), principal(CNI, &[]));
    for (id, allowed, denied) in
        [(AccountId::Unknown, false, true), (AccountId::Absent, false, false), (AccountId::Is(77), true, false)]
    {
        assert_eq!(may(&known(rule("allow"), id), &member, &list), allowed, "{id:?}");
        assert_eq!(!may(&known(rule("deny"), id), &cni, &list), denied, "{id:?}");
        assert!(may(&known(rule("deny"), id), &principal(0, &[]), &list));
        // What runs is not taken for denied on a suspicion.
        assert!(known(rule("deny"), id).decide(&cni, &list, Stage::First).is_ok());
    }
    let unanswered = known(rule("allow"), AccountId::Unknown);
    assert!(unanswered.decide(&member, &list, Stage::First).is_ok());
    let may = "a rule may allow it, but who the caller is, or what is asked for, is not known";
    assert_eq!(why(&unanswered, &member, &list), may);
}

#[test]
fn a_name_that_gets_another_number_denies_the_new_one_and_no_longer_the_old() {
    const LATER: u32 = 1003;
    let text = "[[rule]]\nid = \"no\"\neffect = \"deny\"\nwho = [{ user = \"cni\" }]\nverbs = [\"list\"]\n\
                [[rule]]\nid = \"all\"\neffect = \"allow\"\nwho = [{ group = \"ops\" }]\nverbs = [\"list\"]\n";
    let before = policy(text);
    let accounts = Accounts {
        users: [("cni".to_owned(), AccountId::Is(LATER))].into(),
        groups: [("ops".to_owned(), AccountId::Is(OPS))].into(),
    };
    let after = before.clone().with_accounts(&accounts);
    // As the daemon keeps a policy, and reads it back.
    let kept: Policy = serde_json::from_value(serde_json::to_value(&after).unwrap()).unwrap();
    for (policy, denied, allowed) in [(before, CNI, LATER), (after, LATER, CNI), (kept, LATER, CNI)] {
        assert!(!may(&policy, &principal(denied, &[OPS]), &Asked::verb(Verb::List)));
        assert!(may(&policy, &principal(allowed, &[OPS]), &Asked::verb(Verb::List)));
    }
}

#[test]
fn bytes_that_nobody_vetted_reach_packets_alone_unless_a_rule_says_more() {
    let object = Digest::of(b"object");
    let upload = load(SourceFacts::Upload { object: Some(object) });
    let (signed, unsigned) = (load(image("reg.acme/bpf/x", &["ci"])), load(image("reg.acme/bpf/x", &[])));
    let reach = |rules: &str, who: &Principal, asked: &Asked| {
        policy(rules).decide(who, asked, Stage::Last).map(|allowed| allowed.reach).ok()
    };
    let (root, member, cni) = (principal(0, &[]), principal(1000, &[BPFD]), principal(CNI, &[]));
    assert_eq!(reach("", &root, &upload), Some(Reach::Kernel));
    assert_eq!(reach("", &member, &signed), Some(Reach::Kernel));
    assert_eq!(reach("", &member, &unsigned), Some(Reach::Packet));
    let rule = |source: &str, programs: &str| {
        format!(
            "[[rule]]\nid = \"r{}\"\neffect = \"allow\"\nwho = [{{ user = \"cni\" }}]\nverbs = [\"load\"]\n\
             programs = {{ {programs} }}\ninterfaces = {{}}\nsource = {{ {source} }}\n",
            source.len() + programs.len()
        )
    };
    let named = format!("files = [\"{object}\"]");
    assert_eq!(reach(&rule("files = \"any\"", ""), &cni, &upload), Some(Reach::Packet));
    assert_eq!(reach(&rule(&named, ""), &cni, &upload), Some(Reach::Kernel));
    assert_eq!(reach(&rule("files = \"any\"", "reach = \"kernel\""), &cni, &upload), Some(Reach::Kernel));
    assert_eq!(reach(&rule("images = \"any\"", "reach = \"packet\""), &cni, &signed), Some(Reach::Packet));
    let both = [rule("files = \"any\"", ""), rule(&named, "")].concat();
    assert_eq!(reach(&both, &cni, &upload), Some(Reach::Kernel));
    // What was verified with more than it may have now is not loaded.
    let member_now = policy("");
    assert!(member_now.confirm_reach(&member, Reach::Kernel, &signed).is_ok());
    assert!(member_now.confirm_reach(&member, Reach::Packet, &unsigned).is_ok());
    assert!(member_now.confirm_reach(&member, Reach::Kernel, &unsigned).is_err());
}

#[test]
fn the_smallest_quota_of_the_rules_about_a_caller_holds() {
    let rule = |id: &str, who: &str, quota: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\neffect = \"allow\"\nwho = [{{ {who} }}]\nverbs = [\"list\"]\nquota = {{ {quota} }}\n"
        )
    };
    let policy = policy(
        &[
            rule("a", "user = \"cni\"", "apps = 8, map_bytes = \"1GiB\", concurrent = 4"),
            rule("b", "group = \"ops\"", "apps = 3, map_bytes = \"1MiB\", requests_per_minute = 60"),
            rule("c", "user = \"admin\"", "apps = 1, links = 0"),
        ]
        .concat(),
    );
    let quota = |who: &Principal| policy.quota(who).map(|quota| (quota.apps, quota.links, quota.map_bytes));
    assert_eq!(quota(&principal(CNI, &[])), Some((8, 512, 512 << 20)));
    assert_eq!(quota(&principal(CNI, &[OPS])), Some((3, 512, 1 << 20)));
    assert_eq!(quota(&principal(ADMIN, &[])), Some((1, 0, 512 << 20)));
    assert_eq!(quota(&principal(0, &[])), None);
    assert_eq!(quota(&principal(0, &[OPS])), Some((3, u64::MAX, 1 << 20)));
    let rate = policy.rate(&principal(CNI, &[OPS]));
    assert_eq!((rate.requests_per_minute, rate.concurrent), (Some(60), Some(4)));
}

#[test]
fn the_decision_is_the_models() {
    // `cargo xtask prove mutants` asks for fewer: it runs this for each of its changes.
    let cases = option_env!("BPFD_MODEL_CASES").map_or(1_000_000, |cases| cases.parse::<u64>().unwrap());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let compared = |first: usize| {
        let mut allowed = 0;
        for seed in (0..cases).skip(first).step_by(threads) {
            let case = model::Case::of(seed);
            for stage in [Stage::First, Stage::Last] {
                let decided = case.policy.decide(&case.principal, &case.asked, stage).is_ok();
                assert_eq!(decided, model::allows(&case, stage), "{seed} {stage:?}\n{case:#?}");
                allowed += u64::from(decided);
            }
        }
        allowed
    };
    let allowed: u64 = std::thread::scope(|scope| {
        let halves: Vec<_> = (0..threads).map(|first| scope.spawn(move || compared(first))).collect();
        halves.into_iter().map(|half| half.join().unwrap()).sum()
    });
    // Cases that are all refused would prove little.
    assert!((cases / 10..cases * 19 / 10).contains(&allowed), "{allowed} of {cases} are allowed");
}
