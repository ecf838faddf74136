//! `spec/bytecode.schema.json` against the reader of `bytecode.toml`: each accepts what the other accepts. Held against the files of the
//! documentation, one with every key, and this one with one thing wrong.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;

use bytecode_image::{metadata::Metadata, name::Name};
use ebpf::kind::ProgramKind;
use serde_json::{Value, json};

/// Every key that there is, and each form of its value.
const EVERYTHING: &str = r#"
name = "xdp-counter"
version = "1.4.0"
license = "GPL-2.0-only"
[programs.xdp_stats]
type = "xdp"
priority = 50
proceed_on = ["pass", "dispatcher_return"]
direction = "ingress"
mode = "native"
target = "do_unlinkat"
doc = "per-CPU counters"
[programs.other]
[globals.sample_rate]
min = 1
max = "0x10000000000000000"
doc = "1 in N"
[globals.enabled]
min = false
[requires]
kernel = ">=5.8"
helpers = ["bpf_map_lookup_elem"]
kfuncs = ["bpf_rdonly_cast"]
features = ["xdp"]
arch = ["amd64"]
"#;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../spec/bytecode.schema.json")).unwrap()
}

/// As much of JSON Schema (draft 2020-12) as the schema uses. A keyword or a pattern that is not known here fails the test.
fn valid(schema: &Value, root: &Value, value: &Value) -> bool {
    let is = |part: &Value, value: &Value| valid(part, root, value);
    let properties = || schema.get("properties").and_then(Value::as_object);
    schema.as_object().unwrap().iter().all(|(keyword, part)| match keyword.as_str() {
        "$schema" | "$id" | "$defs" | "title" | "description" => true,
        "$ref" => is(root.pointer(part.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(), value),
        "enum" => part.as_array().unwrap().contains(value),
        "type" => match part.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            other => panic!("type `{other}`"),
        },
        "pattern" => value.as_str().is_none_or(|text| matches(part.as_str().unwrap(), text)),
        "minimum" => value.as_i64().is_none_or(|value| value >= part.as_i64().unwrap()),
        "maximum" => value.as_i64().is_none_or(|value| value <= part.as_i64().unwrap()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is(part, item))),
        "properties" => value.as_object().is_none_or(|fields| {
            part.as_object().unwrap().iter().all(|(key, part)| fields.get(key).is_none_or(|field| is(part, field)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|fields| {
            let mut others =
                fields.iter().filter(|(key, _)| properties().is_none_or(|known| !known.contains_key(*key)));
            others.all(|(_, field)| if part.is_object() { is(part, field) } else { part.as_bool().unwrap() })
        }),
        "anyOf" => part.as_array().unwrap().iter().any(|part| is(part, value)),
        other => panic!("keyword `{other}`"),
    })
}

/// What the schema's patterns mean.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern {
        "^[a-z0-9][a-z0-9._-]{0,62}$" => text.parse::<Name>().is_ok(),
        r"^>=[0-9]{1,4}\.[0-9]{1,4}$" => {
            let number = |part: &str| (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
            text.strip_prefix(">=")
                .and_then(|version| version.split_once('.'))
                .is_some_and(|(major, minor)| number(major) && number(minor))
        }
        other => panic!("pattern `{other}`"),
    }
}

fn parsed(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

/// True if both accept it, false if both refuse it.
fn accepted(what: &str, value: &Value) -> bool {
    let schema = schema();
    let text = toml::to_string(&toml::Table::try_from(value).unwrap()).unwrap();
    let (read, valid) = (Metadata::parse(&text), valid(&schema, &schema, value));
    assert_eq!(read.is_ok(), valid, "{what}: {read:?}");
    valid
}

#[test]
fn the_schema_and_the_reader_accept_the_files_of_the_documentation() {
    let page = include_str!("../../spec/bytecode-image.md");
    let (_, rest) = page.split_once("from `bytecode.toml`").unwrap();
    let (_, rest) = rest.split_once("```toml\n").unwrap();
    let (of_page, _) = rest.split_once("```").unwrap();
    let example = include_str!("../../examples/xdp-counter/bytecode.toml");
    for text in [EVERYTHING, of_page, example, ""] {
        assert!(accepted(text, &parsed(text)), "{text}");
    }
}

/// The place of every part of a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, part)| places(part, &format!("{at}/{key}"), found)),
        Value::Array(items) => {
            (0..).zip(items).for_each(|(key, part): (usize, _)| places(part, &format!("{at}/{key}"), found));
        }
        _ => {}
    }
}

#[test]
fn the_schema_and_the_reader_refuse_the_same_mistakes() {
    let everything = parsed(EVERYTHING);
    let mut found = vec![];
    places(&everything, "", &mut found);
    let (mut refused, mut read) = (0, 0);
    for at in found {
        let put_here = |value: Value| {
            let mut mutant = everything.clone();
            *mutant.pointer_mut(&at).unwrap() = value;
            mutant
        };
        let here = everything.pointer(&at).unwrap();
        let mut mutants = vec![];
        if let Value::Object(fields) = here {
            let mut more = fields.clone();
            more.insert("xyz".into(), json!(1));
            mutants.push(put_here(more.into()));
        }
        if !at.is_empty() {
            let others = [
                json!(true),
                json!(-1),
                json!(0),
                json!(1000),
                json!(1001),
                json!(1.5),
                json!(""),
                json!("tc"),
                json!("Tc"),
                json!("pass"),
                json!(">=6.4"),
                json!(">=06.0400"),
                json!(">=6.04001"),
                json!(">=+6.4"),
                json!("6.4"),
                json!([]),
                json!(["pass", "pass"]),
                json!(["tc"]),
                json!([1]),
                json!({}),
                json!({ "doc": "x" }),
                json!({ "xyz": {} }),
            ];
            mutants.extend(others.into_iter().map(put_here));
        }
        for mutant in mutants {
            let accepted = accepted(&format!("{at} as {}", mutant.pointer(&at).unwrap()), &mutant);
            (refused, read) = (refused + usize::from(!accepted), read + usize::from(accepted));
        }
    }
    // Neither of them refuses everything or nothing.
    assert!(refused > 300 && read > 100, "{refused} refused, {read} read");
}

#[test]
fn the_schema_has_the_keys_and_words_that_are_read() {
    let schema = schema();
    let everything = parsed(EVERYTHING);
    let keys = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let of_schema = |at: &str| keys(schema.pointer(at).unwrap());
    assert_eq!(of_schema("/properties"), keys(&everything));
    assert_eq!(of_schema("/$defs/program/properties"), keys(&everything["programs"]["xdp_stats"]));
    assert_eq!(of_schema("/$defs/global/properties"), keys(&everything["globals"]["sample_rate"]));
    assert_eq!(of_schema("/$defs/requires/properties"), keys(&everything["requires"]));
    let kinds: Vec<String> = ProgramKind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(schema["$defs"]["program"]["properties"]["type"]["enum"], json!(kinds));
    // The words of verdicts are those that an error lists.
    let error = Metadata::parse("[programs.x]\nproceed_on = [\"x\"]\n").unwrap_err().to_string();
    let (_, expected) = error.split_once("expected").unwrap();
    let words: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    assert_eq!(schema["$defs"]["program"]["properties"]["proceed_on"]["items"]["enum"], json!(words));
}
