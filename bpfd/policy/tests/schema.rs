//! `spec/policy.schema.json` against the reader: what is read is valid, and what is not valid is not read. Held against every policy of the
//! documentation, a file with every key, and each of these with one thing wrong.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;
use std::path::Path;

use bpfd_policy::key::PublicKey;
use bpfd_policy::read::{KeyFault, Named, PolicyText};
use bpfd_policy::rule::RuleVerb;
use bpfd_policy::signer::{RootName, TrustedRoot};
use bpfd_policy::{Policy, order, words};
use serde_json::{Map, Value, json};

/// Any key and any root.
struct Anything;

impl Named for Anything {
    fn key(&mut self, path: &Path) -> Result<PublicKey, KeyFault> {
        Ok(path.as_os_str().as_encoded_bytes().to_vec().into())
    }

    fn root(&mut self, _: &RootName) -> Result<TrustedRoot, KeyFault> {
        Ok("{}".to_owned().into())
    }
}

/// Every key that there is, and each form of its value.
const EVERYTHING: &str = r#"
version = 1
[[signer]]
name = "ci"
key = "/keys/ci.pub"
[[signer]]
name = "people"
keyless = { issuer = "https://token.example", identity = "*@acme.example", root = "github" }
[[signer]]
name = "logged"
key = "/keys/logged.pub"
log = "require"
root = "public-good"
[[image]]
scope = "r.example/logged"
require = [{ signed_by = ["logged", "people"], identity = "exact" }, { attested_by = ["people"], predicate = "https://slsa.dev/provenance/v1", threshold = 1 }]
forbid_downgrade = true
max_signature_age = "365d"
[[image]]
scope = "r.example/bpf/**"
require = [{ signed_by = ["ci", "people"], threshold = 2, identity = "any" }, { digest = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"] }]
require_digest = true
[[image]]
scope = "r.example/open"
unsigned = "allow"
[[rule]]
id = "team"
effect = "allow"
who = [{ user = "a", unit = "a*.service" }, { group = "b" }]
verbs = ["pull", "load", "attach", "update", "detach", "unload", "list", "map-read", "map-write", "other-owner"]
programs = { types = ["xdp", "tc", "kprobe"], reach = "kernel" }
interfaces = { names = ["eth*"], netns = ["host"], directions = ["ingress", "egress"] }
priority = { min = 100, max = 499 }
must_proceed_on = ["pass", "next"]
hooks = { kinds = ["kprobe"], targets = ["do_*"] }
source = { images = ["r.example/bpf/**"], signed_by = ["ci"], files = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"] }
map_from = ["own", "app", "team=edge"]
quota = { apps = 1, links = 2, map_bytes = "64MiB", requests_per_minute = 600, concurrent = 8 }
[[rule]]
id = "files"
effect = "allow"
who = [{ user = "a" }]
verbs = ["load"]
programs = {}
interfaces = {}
source = { images = "any", files = "any" }
quota = { map_bytes = 4096 }
[[rule]]
id = "no"
effect = "deny"
verbs = ["attach"]
interfaces = { names = ["mgmt0"] }
[[order]]
id = "edge"
chain = { kinds = ["xdp", "tc"], interfaces = ["eth*"], netns = ["host"], directions = ["ingress"] }
first = ["signer:ci", "team=edge", "ids"]
last = ["count"]
before = [{ app = "ddos", than = "lb" }]
strict = true
"#;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../spec/policy.schema.json")).unwrap()
}

/// As much of JSON Schema (draft 2020-12) as the schema uses; without `pattern`. A keyword that is not known here fails the test.
fn valid(schema: &Value, root: &Value, value: &Value) -> bool {
    let Some(keywords) = schema.as_object() else { return schema.as_bool().unwrap() };
    let is = |part: &Value, value: &Value| valid(part, root, value);
    let at_most = |most: &Value, count: usize| u64::try_from(count).unwrap() <= most.as_u64().unwrap();
    let number = |limit: &Value| limit.as_i64().unwrap();
    let (array, object) = (value.as_array(), value.as_object());
    let properties = || keywords.get("properties").and_then(Value::as_object);
    keywords.iter().all(|(keyword, part)| match keyword.as_str() {
        "$schema" | "$id" | "$defs" | "title" | "description" | "pattern" | "then" | "else" => true,
        "$ref" => is(root.pointer(part.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(), value),
        "const" => value == part,
        "enum" => part.as_array().unwrap().contains(value),
        "type" => match part.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            other => panic!("type `{other}`"),
        },
        "minimum" => value.as_i64().is_none_or(|value| value >= number(part)),
        "maximum" => value.as_i64().is_none_or(|value| value <= number(part)),
        "minLength" => value.as_str().is_none_or(|text| !at_most(&json!(number(part) - 1), text.len())),
        "maxLength" => value.as_str().is_none_or(|text| at_most(part, text.len())),
        "minItems" => array.is_none_or(|items| number(part) <= i64::try_from(items.len()).unwrap()),
        "maxItems" => array.is_none_or(|items| at_most(part, items.len())),
        "uniqueItems" => array.is_none_or(|items| {
            (1..).zip(items).all(|(next, item)| !items.iter().skip(next).any(|other| other == item))
        }),
        "items" => array.is_none_or(|items| items.iter().all(|item| is(part, item))),
        "contains" => array.is_none_or(|items| items.iter().any(|item| is(part, item))),
        "required" => object
            .is_none_or(|fields| part.as_array().unwrap().iter().all(|key| fields.contains_key(key.as_str().unwrap()))),
        "properties" => object.is_none_or(|fields| {
            part.as_object().unwrap().iter().all(|(key, part)| fields.get(key).is_none_or(|field| is(part, field)))
        }),
        "additionalProperties" => {
            assert_eq!(*part, json!(false));
            object
                .is_none_or(|fields| fields.keys().all(|key| properties().is_some_and(|known| known.contains_key(key))))
        }
        "allOf" => part.as_array().unwrap().iter().all(|part| is(part, value)),
        "anyOf" => part.as_array().unwrap().iter().any(|part| is(part, value)),
        "oneOf" => part.as_array().unwrap().iter().filter(|part| is(part, value)).count() == 1,
        "if" => {
            let branch = if is(part, value) { "then" } else { "else" };
            keywords.get(branch).is_none_or(|part| is(part, value))
        }
        other => panic!("keyword `{other}`"),
    })
}

fn reads(value: &Value) -> bool {
    let text = toml::to_string(&toml::Table::try_from(value).unwrap()).unwrap();
    Policy::read(&[PolicyText { file: "p", text: &text }], Anything).is_ok()
}

fn parsed(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

/// Pages of the documentation.
const PAGES: [(&str, &str); 4] = [
    ("kubernetes-node", include_str!("../../../docs/policy/kubernetes-node.md")),
    ("shared-nic", include_str!("../../../docs/policy/shared-nic.md")),
    ("single-server", include_str!("../../../docs/policy/single-server.md")),
    ("tracing-team", include_str!("../../../docs/policy/tracing-team.md")),
];

/// The policies of the documentation, by page, and the one with everything.
fn policies() -> Vec<(String, Value)> {
    let page = |(name, text): (&str, &str)| {
        let (_, rest) = text.split_once("```toml policy\n").unwrap();
        (name.to_owned(), parsed(rest.split_once("```").unwrap().0))
    };
    let mut all: Vec<(String, Value)> = PAGES.into_iter().map(page).collect();
    assert!(all.len() >= 4);
    all.push(("everything".to_owned(), parsed(EVERYTHING)));
    all
}

/// The same value with one thing wrong.
#[derive(Debug)]
struct Mutant {
    what: String,
    /// Whether both must refuse it, whatever the rest of the policy says.
    certain: bool,
    value: Value,
}

/// The place of every part of a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, part)| places(part, &format!("{at}/{key}"), found)),
        Value::Array(items) => {
            (0..).zip(items).for_each(|(key, part): (usize, _)| places(part, &format!("{at}/{key}"), found))
        }
        _ => {}
    }
}

fn mutants(value: &Value) -> Vec<Mutant> {
    let mut found = vec![];
    places(value, "", &mut found);
    let mut all = vec![];
    for at in &found {
        let mut change = |what: &str, certain: bool, change: &dyn Fn(&mut Value)| {
            let mut mutant = value.clone();
            change(mutant.pointer_mut(at).unwrap());
            all.push(Mutant { what: format!("{what} at {at}"), certain, value: mutant });
        };
        match value.pointer(at).unwrap() {
            Value::Object(fields) => {
                change("an unknown key", true, &|part| {
                    drop(part.as_object_mut().unwrap().insert("xyz".into(), json!(1)))
                });
                for key in fields.keys() {
                    change(&format!("no `{key}`"), false, &|part| drop(part.as_object_mut().unwrap().remove(key)));
                }
            }
            Value::Array(_) => {
                change("an empty list", false, &|part| *part = json!([]));
                change("a list with a list", true, &|part| part.as_array_mut().unwrap().push(json!([[]])));
            }
            Value::String(_) => {
                change("an empty text", false, &|part| *part = json!(""));
                change("another word", false, &|part| *part = json!("kprobe"));
            }
            Value::Number(_) => {
                change("a negative number", true, &|part| *part = json!(-1));
                change("zero", false, &|part| *part = json!(0));
                change("a huge number", false, &|part| *part = json!(1_u64 << 40));
                change("a fraction", true, &|part| *part = json!(1.5));
            }
            Value::Bool(_) | Value::Null => {}
        }
        if !at.is_empty() {
            // No key has any of these that has another type now.
            let other = if value.pointer(at).unwrap().is_boolean() { json!("yes") } else { json!(true) };
            change("another type", true, &|part| *part = other.clone());
            change("a table", !value.pointer(at).unwrap().is_object(), &|part| *part = Value::Object(Map::new()));
        }
    }
    all
}

#[test]
fn what_is_read_is_valid_and_what_is_wrong_is_neither() {
    let schema = schema();
    let (mut refused, mut read) = (0, 0);
    for (name, policy) in policies() {
        assert!(reads(&policy) && valid(&schema, &schema, &policy), "{name}");
        for Mutant { what, certain, value } in mutants(&policy) {
            let (reads, valid) = (reads(&value), valid(&schema, &schema, &value));
            assert!(valid || !reads, "{name}: {what} is read, and is not valid");
            assert!(!certain || !(reads || valid), "{name}: {what} is read ({reads}) or valid ({valid})");
            refused += usize::from(!valid);
            read += usize::from(reads);
        }
    }
    // Neither of them refuses everything or nothing.
    assert!(refused > 500 && read > 20, "{refused} refused, {read} read");
}

#[test]
fn what_is_missing_is_refused_by_both() {
    let schema = schema();
    let everything = parsed(EVERYTHING);
    for (at, key) in [
        ("", "version"),
        ("/signer/0", "name"),
        ("/signer/0", "key"),
        ("/signer/1/keyless", "issuer"),
        ("/signer/1/keyless", "identity"),
        ("/image/0", "scope"),
        ("/image/0", "require"),
        ("/image/2", "unsigned"),
        ("/image/0/require/0", "signed_by"),
        ("/image/0/require/1", "predicate"),
        ("/rule/0", "id"),
        ("/rule/0", "effect"),
        ("/rule/0", "who"),
        ("/rule/0", "verbs"),
        ("/rule/0", "programs"),
        ("/rule/0", "interfaces"),
        ("/rule/0", "source"),
        ("/rule/0/who/1", "group"),
        ("/rule/0/who/0", "user"),
        ("/order/0", "id"),
        ("/order/0", "chain"),
        ("/order/0/chain", "interfaces"),
        ("/order/0/before/0", "app"),
        ("/order/0/before/0", "than"),
    ] {
        let mut without = everything.clone();
        without.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(key).unwrap();
        assert!(!reads(&without) && !valid(&schema, &schema, &without), "{at} without `{key}`");
    }
}

/// A kind that one of them lacks would be refused by an editor and read by bpfd, or the other way round. That the words are those of the
/// registries of kinds and hooks is a test of `bpfd-core`.
#[test]
fn the_schema_has_the_words_that_are_read() {
    let schema = schema();
    let listed = |at: &str| {
        let list = schema.pointer(&format!("{at}/items/enum")).unwrap_or_else(|| panic!("{at} has no words"));
        list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>()
    };
    let of_rule = |key: &str| listed(&format!("/$defs/rule/properties/{key}"));
    assert_eq!(of_rule("programs/properties/types"), words::KINDS);
    assert_eq!(of_rule("hooks/properties/kinds"), words::KINDS);
    assert_eq!(listed("/$defs/order/properties/chain/properties/kinds"), order::KINDS);
    let verbs: Vec<&str> = RuleVerb::ALL.iter().map(|verb| verb.as_str()).collect();
    assert_eq!(of_rule("verbs"), verbs);
    let verdicts = words::XDP_VERDICTS.iter().chain(words::TC_VERDICTS);
    assert_eq!(BTreeSet::from_iter(of_rule("must_proceed_on")), verdicts.copied().collect());
}

/// Every key that the schema knows stands in the policy with everything, so that none of them is made up.
#[test]
fn the_schema_has_no_key_that_is_not_read() {
    fn keys(schema: &Value, root: &Value, value: &Value, at: &str) {
        if let Some(part) = schema.get("$ref").and_then(Value::as_str) {
            return keys(root.pointer(part.strip_prefix('#').unwrap()).unwrap(), root, value, at);
        }
        for known in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
            if known
                .get("properties")
                .is_some_and(|known| known.as_object().unwrap().keys().all(|key| value.get(key).is_some()))
            {
                keys(known, root, value, at);
            }
        }
        for (key, part) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let parts: Vec<Value> = match value {
                Value::Array(items) => items.iter().filter_map(|item| item.get(key).cloned()).collect(),
                value => value.get(key).cloned().into_iter().collect(),
            };
            assert!(!parts.is_empty(), "{at}/{key} is in the schema alone");
            parts.iter().take(1).for_each(|value| keys(part, root, value, &format!("{at}/{key}")));
        }
        if let Some(items) = schema.get("items") {
            keys(items, root, value, at);
        }
    }
    let schema = schema();
    keys(&schema, &schema, &parsed(EVERYTHING), "");
}
