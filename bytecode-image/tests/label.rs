//! Labels against `spec/vectors`, and against the object that they speak about.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{collections::BTreeMap, fs, path::Path};

use bytecode_image::{
    describe::describe,
    digest::Digest,
    label::{Generation, Label, LabelError, Labelled, MAX_LABEL, read},
    media,
    metadata::Metadata,
};
use ebpf::{inspect::inspect, run_config::XdpAction};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

const OBJECT: &[u8] = include_bytes!("objects/counter.o");

#[derive(Deserialize)]
struct Vectors {
    parsed: Vec<Parsed>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Parsed {
    why: String,
    labels: BTreeMap<String, String>,
    generation: Option<String>,
    canonical: Option<String>,
}

#[derive(Deserialize)]
struct Refused {
    why: String,
    labels: BTreeMap<String, String>,
    error: String,
}

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors/labels.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn labels_are_read_as_the_vectors_say() {
    let Vectors { parsed, refused } = vectors();
    assert!(parsed.len() >= 9 && refused.len() >= 20);
    for Parsed { why, labels, generation, canonical } in parsed {
        let found = read(&labels).unwrap();
        let found_generation = found.as_ref().map(|found| serde_json::to_value(found.generation).unwrap());
        assert_eq!(found_generation, generation.map(Value::from), "{why}");
        let json = found.map(|found| found.label.to_json().unwrap());
        assert_eq!(json, canonical, "{why}");
        if let Some(json) = json {
            assert_eq!(Label::parse(&json).unwrap().to_json().unwrap(), json, "{why}: written and read again");
        }
    }
    for Refused { why, labels, error } in refused {
        // The cause behind it is the JSON reader's own text.
        assert_eq!(read(&labels).unwrap_err().to_string(), error, "{why}");
    }
}

#[test]
fn bounds_hold_at_the_last_byte_and_the_last_entry() {
    let padded = |length: usize| format!("{{\"schema\":1}}{}", " ".repeat(length - 12));
    assert!(Label::parse(&padded(MAX_LABEL)).is_ok());
    assert!(
        matches!(Label::parse(&padded(MAX_LABEL + 1)), Err(LabelError::TooLong { length, .. }) if length == MAX_LABEL + 1)
    );
    let with = |what: &str, count: usize| {
        let list: Vec<Value> = (0..count).map(|number| json!({ "name": format!("n{number}") })).collect();
        Label::parse(&json!({ "schema": 1, what: list }).to_string())
    };
    for (what, limit) in [("programs", 128), ("maps", 256), ("globals", 1024)] {
        assert!(with(what, limit).is_ok(), "{what}");
        let error = with(what, limit + 1).unwrap_err();
        assert!(matches!(error, LabelError::TooMany { found, .. } if found == limit + 1), "{what}: {error}");
    }
    assert!(Label::parse(&format!("{{\"schema\":1,\"x\":{}1{}}}", "[".repeat(5000), "]".repeat(5000))).is_err());
}

#[test]
fn proceed_on_becomes_a_set_of_verdicts() {
    let text = r#"{"schema":1,"programs":[
        {"name":"x","type":"xdp","attach":{"proceedOn":["pass","dispatcher_return","tx"]}},
        {"name":"t","type":"tc","attach":{"proceedOn":["unspec","pipe","dispatcher_return"]}},
        {"name":"n","type":"xdp","attach":{"proceedOn":[]}},
        {"name":"s","type":"xdp","attach":{"priority":1}}]}"#;
    let label = Label::parse(text).unwrap();
    let attach = |name: &str| {
        label.programs.iter().find(|program| program.name.as_str() == name).unwrap().attach.clone().unwrap()
    };
    assert_eq!(attach("x").xdp_proceed_on(), Some([XdpAction::Pass, XdpAction::Tx].into()));
    assert_eq!(attach("t").tc_proceed_on(), Some([-1, 3].into()));
    assert_eq!(attach("n").xdp_proceed_on(), Some([].into()), "nothing lets the chain go on");
    assert_eq!(attach("s").xdp_proceed_on(), None, "the label does not say");
}

/// The label of the object, changed at one place.
fn changed(pointer: &str, value: Value) -> Labelled {
    let label = describe(&inspect(OBJECT).unwrap(), Digest::of(OBJECT), "counter.o", &Metadata::default()).unwrap();
    let mut json: Value = serde_json::from_str(&label.to_json().unwrap()).unwrap();
    match pointer.strip_suffix("/-") {
        Some(list) => json.pointer_mut(list).unwrap().as_array_mut().unwrap().push(value),
        None => *json.pointer_mut(pointer).unwrap() = value,
    }
    Labelled { generation: Generation::Bytecode, label: Label::parse(&json.to_string()).unwrap() }
}

fn checked(labelled: &Labelled) -> Result<(), String> {
    labelled.check_against(Digest::of(OBJECT), &inspect(OBJECT).unwrap()).map_err(|mismatch| mismatch.to_string())
}

#[test]
fn a_label_that_contradicts_its_object_is_refused_and_says_what_about() {
    let zeros = "0".repeat(64);
    let differs = |subject: &str, label: &str, object: &str| {
        format!("label contradicts the object: {subject}: label says `{label}`, object has {object}")
    };
    // In canonical order: let_through, on_switch, tc_count, xdp_spare, xdp_stats.
    for (pointer, value, message) in [
        (
            "/object/sha256",
            json!(zeros),
            differs("sha256 of the object", &format!("sha256:{zeros}"), &format!("`{}`", Digest::of(OBJECT))),
        ),
        ("/object/endian", json!("big"), differs("byte order", "big", "`little`")),
        ("/object/btf", json!(false), differs("type information (BTF)", "false", "`true`")),
        ("/object/coreRelocations", json!(true), differs("CO-RE relocations", "true", "`false`")),
        ("/object/kernelLicense", json!("GPL"), differs("kernel licence", "GPL", "`Dual BSD/GPL`")),
        ("/programs/4/section", json!("xdp/x"), differs("section of program `xdp_stats`", "xdp/x", "`xdp`")),
        ("/programs/3/type", json!("tc"), differs("type of program `xdp_spare`", "tc", "section `?xdp.frags`")),
        ("/programs/2/type", json!("xdp"), differs("type of program `tc_count`", "xdp", "section `tcx/ingress`")),
        ("/programs/4/frags", json!(true), differs("fragments of program `xdp_stats`", "true", "`false`")),
        ("/programs/3/optional", json!(false), differs("optional of program `xdp_spare`", "false", "`true`")),
        (
            "/programs/4/name",
            json!("xdp_other"),
            "label contradicts the object: it lists program `xdp_other`, which the object does not have; it has: \
             xdp_stats, xdp_spare, tc_count, on_switch, let_through"
                .to_owned(),
        ),
        ("/maps/0/type", json!("hash"), differs("type of map `xdp_stats_map`", "hash", "`percpu_array`")),
        ("/maps/0/keySize", json!(8), differs("key size of map `xdp_stats_map`", "8", "`4`")),
        ("/maps/0/valueSize", json!(4), differs("value size of map `xdp_stats_map`", "4", "`8`")),
        ("/maps/0/maxEntries", json!(9), differs("entries of map `xdp_stats_map`", "9", "`8`")),
        ("/maps/0/keyBtf", json!("__u8"), differs("key type of map `xdp_stats_map`", "__u8", "`__u32`")),
        (
            "/maps/-",
            json!({ "name": "other" }),
            "label contradicts the object: it lists map `other`, which the object does not have; it has: xdp_stats_map"
                .to_owned(),
        ),
        (
            "/maps",
            json!([]),
            "label contradicts the object: it does not list map `xdp_stats_map`, which the object has".to_owned(),
        ),
        (
            "/programs",
            json!([]),
            "label contradicts the object: it does not list program `xdp_stats`, which the object has".to_owned(),
        ),
        ("/globals/0/type", json!("int"), differs("type of global `device`", "int", "`char[16]`")),
        ("/globals/0/size", json!(4), differs("size of global `device`", "4", "`16`")),
        ("/globals/0/section", json!(".data"), differs("section of global `device`", ".data", "`.rodata`")),
        (
            "/globals/-",
            json!({ "name": "none" }),
            "label contradicts the object: it lists global `none`, which the object does not have; it has: enabled, \
             sample_rate, shift, huge, device"
                .to_owned(),
        ),
    ] {
        assert_eq!(checked(&changed(pointer, value)), Err(message), "{pointer}");
    }
}

#[test]
fn advice_contradicts_nothing() {
    for (pointer, value) in [
        ("/programs/0", json!({ "name": "let_through", "type": "tc" })),
        (
            "/programs/4",
            json!({ "name": "xdp_stats", "attach": { "priority": 999, "proceedOn": ["drop"] }, "doc": "x" }),
        ),
        ("/object", json!({ "path": "elsewhere.o" })),
        ("/globals/0", json!({ "name": "device", "default": "eth9", "min": "a", "max": "b" })),
        ("/maps/0", json!({ "name": "xdp_stats_map", "pinning": "by_name" })),
    ] {
        assert_eq!(checked(&changed(pointer, value)), Ok(()), "{pointer}");
    }
}

#[test]
fn older_labels_are_compared_in_what_they_say() {
    let of = |programs: Value, maps: Value| {
        let labels = BTreeMap::from([
            (media::LABEL_PROGRAMS.to_owned(), programs.to_string()),
            (media::LABEL_MAPS.to_owned(), maps.to_string()),
        ]);
        checked(&read(&labels).unwrap().unwrap()).is_ok()
    };
    for spelling in ["per_cpu_array", "percpu_array", "PerCpuArray", "6"] {
        assert!(of(json!({ "xdp_stats": "xdp" }), json!({ "xdp_stats_map": spelling })), "{spelling}");
    }
    for spelling in ["tc", "tcx", "classifier"] {
        assert!(of(json!({ "tc_count": spelling }), json!({})), "{spelling}");
    }
    assert!(of(json!({}), json!({ ".rodata": "array" })), "data sections are maps to bpfman");
    assert!(!of(json!({}), json!({ ".rodata": "hash" })));
    assert!(!of(json!({}), json!({ "xdp_stats_map": "array" })));
    assert!(!of(json!({ "xdp_stats": "tracepoint" }), json!({})));
    assert!(!of(json!({ "hidden": "xdp" }), json!({})));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,60}|[\\[\\]{}\":,a-z0-9 .-]{0,60}") {
        let labels = [media::LABEL, media::LABEL_PROGRAMS, "io.ebpf.bpf_function_name", "io.ebpf.program_type"];
        for label in labels {
            let _ = read(&BTreeMap::from([(label.to_owned(), text.clone())]));
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was(
        name in "[a-z0-9][a-z0-9._-]{0,20}", version in "[ -~äß€]{0,20}", priority in 0_u32..=1000,
        functions in proptest::collection::btree_set("[a-z_][a-z0-9_]{0,8}", 0..6),
    ) {
        let programs: Vec<Value> = functions.iter().map(|function| {
            json!({ "name": function, "attach": { "priority": priority, "proceedOn": ["pass"] } })
        }).collect();
        let text = json!({ "schema": 1, "name": name, "version": version, "programs": programs }).to_string();
        let label = Label::parse(&text).unwrap();
        let written = label.to_json().unwrap();
        prop_assert_eq!(Label::parse(&written).unwrap(), label);
        prop_assert!(!written.contains(": ") || version.contains(": "));
    }
}

/// As much of JSON Schema (draft 2020-12) as `bytecode-label.schema.json` uses; without `pattern`, which the vectors test.
fn valid(schema: &Value, value: &Value) -> bool {
    let one_of = |key: &str, check: &dyn Fn(&Value) -> bool| match schema.get(key) {
        Some(Value::Array(options)) => options.iter().any(check),
        Some(option) => check(option),
        None => true,
    };
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => unreachable!("type {other}"),
    };
    let within = |key: &str, fits: &dyn Fn(u64, u64) -> bool| match (schema.get(key), value.as_u64()) {
        (Some(limit), Some(number)) => fits(number, limit.as_u64().unwrap()),
        _ => true,
    };
    let fields = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    let known = |(key, field): (&String, &Value)| schema["properties"].get(key).is_none_or(|part| valid(part, field));
    one_of("type", &is)
        && one_of("enum", &|option| option == value)
        && one_of("const", &|option| option == value)
        && within("minimum", &|number, limit| number >= limit)
        && within("maximum", &|number, limit| number <= limit)
        && (!value.is_object() || fields("required").all(|key| value.get(key.as_str().unwrap()).is_some()))
        && value.as_object().is_none_or(|object| object.iter().all(known))
        && value.as_array().is_none_or(|items| {
            schema.get("maxItems").is_none_or(|most| items.len() <= usize::try_from(most.as_u64().unwrap()).unwrap())
                && schema.get("items").is_none_or(|part| items.iter().all(|item| valid(part, item)))
        })
}

/// Every field of the label is in the schema.
fn covered(schema: &Value, value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields.iter().all(|(key, field)| schema["properties"].get(key).is_some_and(|part| covered(part, field)))
        }
        Value::Array(items) => items.iter().all(|item| covered(&schema["items"], item)),
        _ => schema.is_object(),
    }
}

#[test]
fn the_schema_agrees_with_the_reader() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/bytecode-label.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let Vectors { parsed, refused } = vectors();
    for Parsed { why, labels, canonical, .. } in parsed {
        if let Some(text) = labels.get(media::LABEL) {
            assert!(valid(&schema, &serde_json::from_str(text).unwrap()), "{why}");
            assert!(covered(&schema, &serde_json::from_str(&canonical.unwrap()).unwrap()), "{why}");
        }
    }
    let own = describe(&inspect(OBJECT).unwrap(), Digest::of(OBJECT), "x.o", &Metadata::default()).unwrap();
    let own: Value = serde_json::from_str(&own.to_json().unwrap()).unwrap();
    assert!(valid(&schema, &own) && covered(&schema, &own));
    let by_schema =
        ["no schema", "a newer schema", "a fraction", "an unknown verdict", "a priority that nobody can ask for"];
    for why in by_schema {
        let text = &refused.iter().find(|refused| refused.why == why).unwrap().labels[media::LABEL];
        assert!(!valid(&schema, &serde_json::from_str(text).unwrap()), "{why}");
    }
}
