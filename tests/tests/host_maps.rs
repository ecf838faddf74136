//! What maps hold, through the built daemon: elements by their types, values of all CPUs, records of ring and perf buffers, what each type
//! of map allows, and who may.
//!
//! Long because the words of each refusal stand whole beside what was asked.
#![expect(clippy::unwrap_used, reason = "a case fails by panicking, its helpers too")]

use std::fs;

use bpfd_client::proto::v1 as pb;
use bpfd_sys::bpf::{Map, Update, obj_get};
use bpfd_tests::{Host, broken, eventually, example};
use insta::assert_snapshot;
use serde_json::{Value, json};

/// The key of the one flow that the object makes.
const FLOW: &str = r#"{"source":10,"port":443,"inner":true}"#;

/// The object with maps of many types, on `uplink`; one packet came.
fn elements(host: &Host) {
    host.bpfctl(&format!("load --path {} --name e xdp -i uplink", broken("elements"))).ok();
    host.ping(1);
}

/// A map of that object, by its pin.
fn pinned(host: &Host, name: &str) -> Map {
    let app = host.ask(async |daemon| daemon.app(pb::GetAppRequest { app: "e".to_owned() }).await);
    let pin = app.maps.iter().find(|map| map.name == name).and_then(|map| map.pin_path.clone()).unwrap();
    Map::from_fd(obj_get(&host.path(&pin)).unwrap()).unwrap()
}

/// What standard output has.
#[track_caller]
fn said(host: &Host, line: &str) -> String {
    let output = host.bpfctl(line);
    assert_eq!(output.code, 0, "{output}");
    output.stdout
}

/// The cause and the hint of a refusal that changes nothing.
#[track_caller]
fn why(host: &Host, code: i32, line: &str) -> String {
    let said = host.refuses(code, line);
    said.lines().skip_while(|line| line.starts_with("error")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn counters_of_all_cpus_are_added_or_listed() {
    let host = Host::new();
    host.counter("c", 50, 10);
    host.ping(5);
    assert_snapshot!(said(&host, "map ls c"), @"
    MAP        TYPE          KEY  VALUE  MAX  USE        KEY-TYPE  VALUE-TYPE
    c/.rodata  array         4    4      1    read-only  -         -
    c/packets  percpu_array  4    8      1    elements   __u32     __u64
    ");
    assert_snapshot!(said(&host, "map dump c/packets"), @"
    KEY  VALUE
    0    50
    ");
    assert_eq!(said(&host, "map get -q c/packets 0"), "50\n");
    let list = said(&host, "map get -q c/packets 0 --per-cpu list");
    let list: Vec<u64> = serde_json::from_str(&list).unwrap();
    assert_eq!(list.iter().sum::<u64>(), 50);
    assert_eq!(host.items("map dump c/.rodata"), [json!({"key": 0, "value": {"step": 10}})]);
    // Writing says on which CPUs.
    assert_snapshot!(why(&host, 2, "map set c/packets 0 7"), @"
    cause: map `packets` has a value for each CPU
    hint: `--per-cpu each` writes one value for all, `--per-cpu list` takes an array of all
    ");
    host.bpfctl("map set c/packets 0 7 --per-cpu each").ok();
    assert_eq!(said(&host, "map get -q c/packets 0"), format!("{}\n", 7 * list.len()));
    let one = (0..list.len()).map(|cpu| if cpu == 0 { "3" } else { "0" }).collect::<Vec<_>>().join(",");
    host.bpfctl(&format!("map update c/packets 0 [{one}] --per-cpu list")).ok();
    assert_eq!(said(&host, "map get -q c/packets 0"), "3\n");
    host.refuses(2, "map set c/packets 0 [] --per-cpu list");
    host.ping(1);
    assert_eq!(host.counted("c"), 13, "the program counts on from what was written");
}

#[test]
fn structs_are_json_both_ways() {
    let host = Host::new();
    elements(&host);
    let value = json!({
        "packets": 7, "balance": -2, "verdict": "ALLOW", "name": "eth0", "low": 5, "high": 17, "@28": "hex:04030201",
        "deep": [{"pair": [0, 0]}, {"pair": [0, 443]}], "pointer": "hex:0000000000000000",
    });
    let key: Value = serde_json::from_str(FLOW).unwrap();
    assert_eq!(host.items("map dump e/flows"), [json!({"key": key, "value": value})]);
    // What was printed is taken back, and is the same.
    let text = said(&host, &format!("map get -q e/flows {FLOW}"));
    host.bpfctl(&format!("map set e/flows {FLOW} {}", text.trim())).ok();
    assert_eq!(said(&host, &format!("map get -q e/flows {FLOW}")), text);
    let bytes = said(&host, &format!("map get -q --hex e/flows {FLOW}"));
    host.bpfctl(&format!("map set e/flows {FLOW} {}", bytes.trim().trim_matches('"'))).ok();
    assert_eq!(said(&host, &format!("map get -q e/flows {FLOW}")), text);
    // Members that are left out are zero.
    host.bpfctl(r#"map set e/flows {"source":1} {"packets":"0x10","name":"lo"} --if-absent"#).ok();
    let set = said(&host, r#"map get -q e/flows {"source":1}"#);
    assert_eq!(serde_json::from_str::<Value>(&set).unwrap()["packets"], 16);
    assert_snapshot!(why(&host, 8, r#"map set e/flows {"source":1} {} --if-absent"#), @"cause: the map has an element with this key");
    assert_snapshot!(why(&host, 3, r#"map update e/flows {"source":2} {}"#), @"cause: the map has no element with this key");
    host.bpfctl(r#"map delete e/flows {"source":1}"#).ok();
    assert_snapshot!(host.refuses(3, r#"map get e/flows {"source":1}"#), @"
    error: cannot read an element of `e/flows`
    cause: the map has no element with this key
    ");
    host.refuses(3, r#"map delete e/flows {"source":1}"#);
    for source in 2..5 {
        host.bpfctl(&format!(r#"map set e/flows {{"source":{source}}} {{}}"#)).ok();
    }
    assert_snapshot!(why(&host, 8, r#"map set e/flows {"source":9} {}"#), @"
    cause: the map has as many elements as it can hold
    hint: `bpfctl map delete` removes an element
    ");
    // Of values of all CPUs, what can be added is.
    let sum = host.items("map dump e/per_cpu")[0]["value"].clone();
    assert_eq!(sum["packets"], 1000);
}

#[test]
fn json_that_is_no_key_or_value_is_refused_with_its_place() {
    let host = Host::new();
    elements(&host);
    assert_snapshot!(why(&host, 2, r#"map get e/flows {"sauce":1}"#), @"
    cause: `struct flow key of flows` has no member `sauce`; it has `source`, `port`, `inner`
    hint: did you mean `source`?
    ");
    assert_snapshot!(why(&host, 2, &format!(r#"map set e/flows {FLOW} {{"verdict":"ALOW"}}"#)), @"
    cause: `ALOW` is not a value of `struct stats value of flows.verdict`
    hint: did you mean `ALLOW`?
    ");
    for (key, value, expected) in [
        ("1", "{}", "`1` is not an object, which `struct flow key of flows` takes"),
        (r#"{"port":65536}"#, "{}", "`65536` is out of range for `struct flow key of flows.port`: 0 to 65535"),
        (
            FLOW,
            "{",
            "the value of `struct stats value of flows` is not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (FLOW, r#"{"low":8}"#, "`8` is out of range for `struct stats value of flows.low`: 0 to 7"),
        (FLOW, r#"{"deep":[{},{},{}]}"#, "3 values do not fit `struct stats value of flows.deep`"),
        (
            FLOW,
            "hex:00",
            "`struct stats value of flows` has 48 bytes: write two hexadecimal digits for each of them after `hex:`",
        ),
        (FLOW, r#"{"pointer":1}"#, "`struct stats value of flows.pointer` is a pointer: give its bytes, `hex:…`"),
    ] {
        let said = why(&host, 2, &format!("map set e/flows {key} {value}"));
        assert_eq!(said.lines().next(), Some(format!("cause: {expected}").as_str()), "{key} {value}");
    }
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    host.refuses(2, &format!("map set e/flows {FLOW} {deep}"));
    // Without a type there are only bytes.
    assert_snapshot!(why(&host, 2, "map set e/plain 1 7"), @"cause: `value of plain` is of a type that the object does not describe: give its bytes, `hex:…`");
    host.bpfctl("map set e/plain 1 hex:0a0b0c").ok();
    assert_snapshot!(said(&host, "map dump e/plain"), @r#"
    KEY  VALUE
    0    "hex:000000"
    1    "hex:0a0b0c"
    2    "hex:000000"
    "#);
}

#[test]
fn a_prefix_is_found_by_the_longest_that_fits() {
    let host = Host::new();
    elements(&host);
    host.bpfctl(r#"map set e/blocked {"prefixlen":8,"addr":[10,0,0,0]} ALLOW"#).ok();
    assert_eq!(said(&host, r#"map get -q e/blocked {"prefixlen":32,"addr":[10,1,2,3]}"#), "\"ALLOW\"\n");
    host.refuses(3, r#"map get e/blocked {"prefixlen":32,"addr":[11,1,2,3]}"#);
    assert_snapshot!(why(&host, 2, r#"map set e/blocked {"prefixlen":40,"addr":[10,0,0,0]} ALLOW"#), @"cause: the kernel does not accept this key or value");
    assert_eq!(
        host.items("map dump e/blocked"),
        [json!({"key": {"prefixlen": 8, "addr": [10, 0, 0, 0]}, "value": "ALLOW"})]
    );
}

#[test]
fn each_type_of_map_allows_what_it_can() {
    let host = Host::new();
    elements(&host);
    // Variables are one object, and only read.
    let bss = host.items("map dump e/.bss");
    assert_eq!(bss[0]["value"]["last"]["packets"], 1);
    let data = host.items("map dump e/.data");
    assert_eq!(data[0]["value"]["ports"], json!([1, 443]));
    assert_snapshot!(host.refuses(2, "map set e/.rodata 0 {}"), @"
    error: cannot write to `e/.rodata`
    cause: map `e/.rodata` is of type array
    hint: its elements can only be read: `bpfctl map dump` does
    ");
    assert_snapshot!(why(&host, 2, "map set e/devices 0 hex:0100000000000000"), @"
    cause: map `e/devices` is of type devmap
    hint: its elements can only be read: `bpfctl map dump` does
    ");
    assert_snapshot!(why(&host, 2, "map dump e/line"), @"
    cause: map `e/line` is of type queue
    hint: bpfctl cannot read or write maps of this type
    ");
    assert_snapshot!(why(&host, 2, "map dump e/samples"), @"
    cause: map `e/samples` is of type perf_event_array
    hint: it has records: `bpfctl map events` reads them
    ");
    assert_snapshot!(why(&host, 2, "map events e/flows"), @"
    cause: map `e/flows` is of type hash
    hint: it has elements: `bpfctl map dump` reads them
    ");
    host.bpfctl("map set e/sealed 0 1").ok();
    pinned(&host, "sealed").freeze().unwrap();
    assert_snapshot!(why(&host, 4, "map set e/sealed 0 2"), @"cause: the map is frozen: the kernel lets user space only read it");
    assert_eq!(said(&host, "map get -q e/sealed 0"), "1\n");
    assert_snapshot!(why(&host, 2, "map delete e/plain 0"), @"
    cause: elements of a map of this type cannot be removed
    hint: set it to zero instead
    ");
    assert_snapshot!(why(&host, 3, "map set e/plain 3 hex:000000"), @"cause: the map has no element with this key");
    assert_snapshot!(why(&host, 3, "map dump e/flow"), @"
    cause: app `e` has no map `flow`
    hint: did you mean `flows`? `bpfctl map ls` shows maps
    ");
    assert_snapshot!(host.refuses(3, "map dump f/flows"), @"
    error: no app `f`
    hint: `bpfctl list` shows apps
    ");
    // What is no map of an app is not reached.
    for name in ["../state", "map_flows", "..", "a/b"] {
        assert_ne!(host.bpfctl(&format!("map dump e/{name}")).code, 0, "{name}");
    }
}

#[test]
fn a_map_of_many_elements_is_dumped_in_pages() {
    let host = Host::new();
    elements(&host);
    let many = pinned(&host, "many");
    for number in 0..20_000_u32 {
        many.update(&number.to_ne_bytes(), &(number + 1).to_ne_bytes(), Update::Any).unwrap();
    }
    drop(many);
    let items = host.items("map dump e/many");
    assert_eq!(items.len(), 20_000);
    let mut keys: Vec<u64> = items.iter().map(|item| item["key"].as_u64().unwrap()).collect();
    assert!(items.iter().all(|item| item["value"].as_u64() == item["key"].as_u64().map(|key| key + 1)));
    keys.sort_unstable();
    assert!(keys.into_iter().eq(0..20_000));
    let some = host.bpfctl("map dump e/many --limit 1500 -q");
    assert_eq!((some.code, some.stdout.lines().count()), (0, 1500));
    assert_eq!(host.bpfctl("map dump e/many --limit 3").stderr, "stopped after 3 elements\n");
    // On a slow machine some of them were printed before.
    let watched = host.bpfctl("map watch e/many");
    assert_eq!(watched.code, 2, "{}", watched.stderr);
    assert_snapshot!(watched.stderr, @"
    error: cannot watch `e/many`
    cause: the map has more than 4096 elements
    hint: name the elements to watch: `--key KEY`, at most 64 times
    ");
    assert_snapshot!(said(&host, "map watch e/many --key 7 --key 70000 --count 1"), @"present  7  8");
}

#[test]
fn a_watch_tells_what_changes() {
    let host = Host::new();
    elements(&host);
    let request = pb::WatchMapRequest {
        app: "e".to_owned(),
        map: "flows".to_owned(),
        interval_ms: Some(100),
        ..Default::default()
    };
    let mut seen: Vec<(i32, String)> = Vec::new();
    host.ask(async |daemon| {
        let look = |look: pb::WatchMapResponse| {
            for change in look.changes {
                seen.push((change.kind, change.element.unwrap().key));
            }
            // Each change is made when the one before was told.
            let next = match seen.len() {
                1 => r#"set e/flows {"source":1} {}"#,
                2 => r#"set e/flows {"source":1} {"packets":1}"#,
                3 => r#"delete e/flows {"source":1}"#,
                _ => return false,
            };
            host.bpfctl(&format!("map {next}")).ok();
            true
        };
        daemon.watch_map(request, look).await
    });
    let other = r#"{"source":1,"port":0,"inner":false}"#;
    let expected = [(1, FLOW), (1, other), (2, other), (3, other)].map(|(kind, key)| (kind, key.to_owned()));
    assert_eq!(seen, expected);
}

#[test]
fn records_of_a_ring_buffer_are_read_once_by_one_reader() {
    let host = Host::new();
    host.bpfctl(&format!("load --path {} --name r xdp -i uplink", example("xdp-events"))).ok();
    host.ping(2);
    // They wait in the buffer until somebody reads them.
    let line = said(&host, "map events r/events --count 1 -o json");
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((record["size"].as_u64(), &record["value"]["size"]), (Some(12), &json!("SMALL")), "{line}");
    assert!(record["value"]["length"].as_u64().unwrap() > 40, "{line}");
    let request = |form: pb::ValueForm| pb::ReadRecordsRequest {
        app: "r".to_owned(),
        map: "events".to_owned(),
        form: form.into(),
        ..Default::default()
    };
    let (mut records, mut begun) = (Vec::new(), false);
    host.ask(async |daemon| {
        let piece = |piece: pb::ReadRecordsResponse| {
            if !begun {
                begun = true;
                assert_snapshot!(host.bpfctl("map events r/events").refused(8), @"
                error: cannot read the records of `r/events`
                cause: root reads this buffer
                hint: each record is read once: end the other reader, or have it pass them on
                ");
                host.ping(3);
            }
            records.extend(piece.records);
            records.len() < 3
        };
        daemon.read_records(request(pb::ValueForm::Hex), piece).await
    });
    assert!(records.len() >= 3 && records.iter().all(|record| record.value.starts_with("\"hex:")), "{records:?}");
    // The reader has left, which its connection says when it is used again: another may read.
    host.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await);
    host.ping(1);
    let next = eventually(|| host.bpfctl("map events r/events --count 1"), |next| next.code == 0);
    assert_eq!(next.code, 0, "{next}");
    assert_snapshot!(why(&host, 2, "map events r/events --type nothing"), @"
    cause: the object has no type `nothing` with a size
    hint: clang describes the types that a program uses; name another one, or use `--hex`
    ");
}

#[test]
fn records_of_a_perf_buffer_have_the_type_that_is_named() {
    let host = Host::new();
    elements(&host);
    let request = pb::ReadRecordsRequest {
        app: "e".to_owned(),
        map: "samples".to_owned(),
        record_type: "struct record".to_owned(),
        ..Default::default()
    };
    let (mut records, mut begun) = (Vec::new(), false);
    host.ask(async |daemon| {
        let piece = |piece: pb::ReadRecordsResponse| {
            if !begun {
                begun = true;
                host.ping(3);
            }
            records.extend(piece.records);
            records.len() < 3
        };
        daemon.read_records(request, piece).await
    });
    let first: Value = serde_json::from_str(&records[0].value).unwrap();
    assert_eq!(first["text"], "abc", "{records:?}");
    assert!(first["number"].as_u64().unwrap() > 40, "{records:?}");
}

#[test]
fn who_may_read_and_write_is_the_policys_to_say() {
    let rules = |verbs: &str| {
        format!(
            "version = 1\n[[rule]]\nid = \"team\"\neffect = \"allow\"\nwho = [{{ user = \"member\" }}]\n\
             verbs = [\"load\", \"attach\", \"detach\", \"unload\", {verbs}]\n\
             programs = {{ types = [\"xdp\"], reach = \"kernel\" }}\ninterfaces = {{ names = [\"*\"] }}\nsource = {{ files = \"any\" }}\n"
        )
    };
    let mut host = Host::without_daemon();
    host.make_group();
    let etc = host.path("/run/case/etc/bpfd");
    fs::create_dir_all(&etc).unwrap();
    let write = |text: &str| fs::write(etc.join("policy.toml"), text).unwrap();
    write("version = 1\n");
    host.start();
    host.counter("c", 50, 10);
    let refused = |line: &str| host.unchanged(|| host.bpfctl_as_member(line)).refused(4);
    // Without a rule, root alone.
    assert_snapshot!(refused("map dump c/packets"), @"
    error: member may not map-read
    cause: no rule about you allows `map-read`
    hint: ask as root, or have root write a [[rule]] with the verb `map-read`
    ");
    host.bpfctl_as_viewer("map ls").refused(4);
    write(&rules("\"map-read\""));
    host.bpfctl("policy reload").ok();
    let load = format!("load --path {} --name own xdp -i uplink --priority 100", example("xdp-events"));
    host.bpfctl_as_member(&load).ok();
    host.ping(1);
    assert_eq!(host.bpfctl_as_member("map get -q own/lost 0").ok(), "0\n");
    assert_eq!(host.bpfctl_as_member("map ls -q").ok(), "own/events\nown/lost\n");
    assert_snapshot!(refused("map dump c/packets"), @"
    error: member may not map-read
    cause: app `c` belongs to root
    hint: ask its owner, or root
    ");
    // Reading records takes them away, which is both.
    for line in ["map set own/lost 0 0 --per-cpu each", "map delete own/lost 0", "map events own/events --count 1"] {
        assert!(refused(line).starts_with("error: member may not map-write"), "{line}");
    }
    write(&rules("\"map-read\", \"map-write\", \"other-owner\""));
    host.bpfctl("policy reload").ok();
    host.bpfctl_as_member("map set own/lost 0 9 --per-cpu each").ok();
    host.bpfctl_as_member("map events own/events --count 1").ok();
    host.bpfctl_as_member("map set c/packets 0 0 --per-cpu each").ok();
    assert_eq!(host.counted("c"), 0);
    // Each change is on record with its key and without its value.
    let log = said(&host, "audit tail --lines 40 --dir /run/case/var/log/bpfd -o json");
    assert!(log.contains("set the element hex:00000000 of map `own/lost`"), "{log}");
    assert!(log.contains("read the records of map `own/events`"), "{log}");
    // A stream ends when its caller may no longer.
    let request =
        pb::WatchMapRequest { app: "c".into(), map: "packets".into(), interval_ms: Some(100), ..Default::default() };
    let mut looks = 0;
    let ended = host.try_ask(async |daemon| {
        let look = |_| {
            looks += 1;
            if looks == 1 {
                host.bpfctl("unload c").ok();
            }
            true
        };
        daemon.watch_map(request, look).await
    });
    assert_eq!(ended.unwrap_err().reason(), Some(pb::ErrorReason::NotFoundApp));
}
