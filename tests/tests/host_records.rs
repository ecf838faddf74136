//! What is asked for is also beside the pins: the records of apps and links, and the stamp of the database, read with a reader of this
//! file's own and compared with what `bpfctl` shows, after each verb, after a death, and on a host of an earlier layout.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the lints exempt test functions, not what they share"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use bpfd_client::proto::v1 as pb;
use bpfd_sys::bpf::{self, Map};
use bpfd_tests::{Host, example};
use rusqlite::Connection;
use serde_json::{Value, json};

const PINS: &str = "/run/case/sys/fs/bpf/bpfd/v1";

/// Things by uid, each as the same few words from a record and from `bpfctl`.
type Things = BTreeMap<String, Value>;

fn value(pin: &Path) -> Vec<u8> {
    Map::from_fd(bpf::obj_get(pin).unwrap()).unwrap().lookup(&[0; 4]).unwrap().unwrap()
}

/// The row of a record: a header of 16 bytes, and JSON.
fn row(pin: &Path, what: &str) -> Value {
    let bytes = value(pin);
    assert_eq!(bytes[..12], *b"bpfdrec\0\x04\0\x10\0", "{}", pin.display());
    assert_eq!(bytes[12..16], u32::try_from(bytes.len() - 16).unwrap().to_le_bytes());
    let mut row: Value = serde_json::from_slice(&bytes[16..]).unwrap();
    row[what].take()
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What the records say.
fn recorded(host: &Host) -> (Things, Things) {
    let pins = host.path(PINS);
    let is_uid = |name: &String| name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let apps = names(&pins).into_iter().filter(is_uid).map(|uid| {
        let row = row(&pins.join(&uid).join("record"), "app");
        assert_eq!(row["uid"].as_str().unwrap().replace('-', ""), uid);
        (uid, app_of_record(&row))
    });
    let links = names(&pins.join("record")).into_iter().map(|uid| {
        let row = row(&pins.join("record").join(&uid), "link");
        assert_eq!(row["uid"].as_str().unwrap().replace('-', ""), uid);
        (uid, link_of_record(&row))
    });
    (apps.collect(), links.collect())
}

/// What `bpfctl` shows of the same.
fn shown(host: &Host) -> (Things, Things) {
    let by_uid = |line: &str, of: fn(&Value) -> Value| {
        host.items(line).iter().map(|item| (item["uid"].as_str().unwrap().to_owned(), of(item))).collect()
    };
    (by_uid("list apps", app_shown), by_uid("list links", link_shown))
}

fn app_of_record(row: &Value) -> Value {
    let programs = row["programs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|program| json!([program["handle"], program["function"], program["section"], program["kind"]]));
    let globals = row["globals"].as_object().unwrap().iter().map(|(name, set)| json!([name, set["text"]]));
    json!({
        "name": row["name"],
        "handle": row["handle"],
        "owner": row["owner"],
        "object": row["object"],
        "source": row["source"],
        "reach": row["reach"],
        "programs": programs.collect::<Vec<_>>(),
        "globals": globals.collect::<Vec<_>>(),
        "labels": row["user_labels"],
        "lifetime": row["lifetime"],
        "generation": row["generation"],
    })
}

fn app_shown(app: &Value) -> Value {
    let programs = app["programs"].as_array().unwrap().iter().map(|program| {
        json!([program["handle"], program["function"], program["section"], word(&program["type"], "PROGRAM_TYPE_")])
    });
    let globals = app["globals"].as_array().unwrap().iter().map(|set| json!([set["name"], set["value"]]));
    json!({
        "name": app["name"],
        "handle": app["handle"],
        "owner": app["owner"],
        "object": app["source"]["objectSha256"],
        "source": if app["source"]["upload"].is_null() { json!("image") } else { json!("upload") },
        "reach": word(&app["reach"], "REACH_"),
        "programs": programs.collect::<Vec<_>>(),
        "globals": globals.collect::<Vec<_>>(),
        "labels": app["userLabels"],
        "lifetime": if app["persist"] == true { "until-unloaded" } else { "until-reboot" },
        "generation": app["generation"].as_str().unwrap().parse::<u64>().unwrap(),
    })
}

fn link_of_record(row: &Value) -> Value {
    let chain = &row["placement"]["chain"];
    let hook = match chain["key"]["netns"].as_str() {
        Some("host") => format!("xdp {}", text(&chain["key"]["interface"])),
        Some(netns) => format!("xdp {netns}:{}", text(&chain["key"]["interface"])),
        None => format!("tracepoint {}", text(&row["placement"]["tracepoint"])),
    };
    let actions = ["ABORTED", "DROP", "PASS", "TX", "REDIRECT"].iter().enumerate();
    let set = chain["proceed_on"].as_u64();
    let set = set.map(|set| actions.filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, name)| *name).collect::<Vec<_>>());
    json!({
        "handle": row["handle"],
        "app": text(&row["app"]).replace('-', ""),
        "function": row["function"],
        "hook": hook,
        "priorities": [chain["priority"], chain["effective"]],
        "proceed_on": set,
        "mode": chain["mode"],
        "owner": row["owner"]["uid"],
        "lifetime": row["lifetime"],
        "generation": row["generation"],
    })
}

fn link_shown(link: &Value) -> Value {
    let (xdp, tracepoint) = (&link["hook"]["xdp"], &link["hook"]["tracepoint"]);
    let hook = match (tracepoint.is_null(), xdp["netns"].as_str()) {
        (false, _) => format!("tracepoint {}/{}", text(&tracepoint["category"]), text(&tracepoint["event"])),
        (true, None) => format!("xdp {}", text(&xdp["interface"])),
        (true, Some(netns)) => format!("xdp {netns}:{}", text(&xdp["interface"])),
    };
    let set = link["proceedOn"]["xdp"].as_array();
    let set = set.map(|set| set.iter().map(|action| text(action).replace("XDP_ACTION_", "")).collect::<Vec<_>>());
    json!({
        "handle": link["handle"],
        "app": link["appUid"],
        "function": link["function"],
        "hook": hook,
        "priorities": [link["priority"], link["effectivePriority"]],
        "proceed_on": set,
        "mode": if xdp.is_null() { Value::Null } else { word(&link["xdpMode"], "XDP_MODE_") },
        "owner": link["ownerUid"],
        "lifetime": if link["persist"] == true { "until-detached" } else { "until-reboot" },
        "generation": link["generation"].as_str().unwrap().parse::<u64>().unwrap(),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

/// A value of an enum of the API, in the word that rows have.
fn word(value: &Value, prefix: &str) -> Value {
    text(value).strip_prefix(prefix).unwrap().to_ascii_lowercase().into()
}

/// The uuid and the number of the state map.
fn stamp(host: &Host) -> (Vec<u8>, u64) {
    let bytes = value(&host.path(PINS).join("state"));
    assert_eq!(bytes[..16], *b"bpfdsta\0\x01\0\x28\0\0\0\0\0");
    (bytes[16..32].to_vec(), u64::from_le_bytes(bytes[32..].try_into().unwrap()))
}

#[track_caller]
fn agrees(host: &Host, apps: usize, links: usize) {
    let shown = shown(host);
    assert_eq!((shown.0.len(), shown.1.len()), (apps, links));
    assert_eq!(recorded(host), shown, "{}", host.log());
}

/// A host with an app on an interface, one that waits, and one on a tracepoint.
fn three() -> Host {
    let host = Host::new();
    let (counter, tracer) = (example("xdp-counter"), example("tracepoint-count"));
    for line in [
        format!("load --path {counter} --name a --set step=7 --label team=edge xdp -i uplink --priority 50"),
        format!("load --path {counter} --name b"),
        "attach b xdp -i later --netns blue --priority 30 --when-present".to_owned(),
        format!("load --path {tracer} --name t tracepoint sched/sched_switch"),
    ] {
        host.bpfctl(&line).ok();
    }
    host
}

#[test]
fn the_records_say_what_is_shown_after_each_verb_and_death() {
    let mut host = Host::new();
    agrees(&host, 0, 0);
    let (database, first) = stamp(&host);
    drop(host);
    host = three();
    agrees(&host, 3, 3);
    let (uuid, mut number) = stamp(&host);
    assert_ne!(uuid, database, "each database has its own");
    assert!(number >= first + 4, "{number}");
    for (line, apps, links) in [
        ("attach b xdp -i uplink --priority 20 --proceed-on drop,pass", 3, 4),
        ("update b/count@uplink:xdp --priority 60", 3, 4),
        ("update a/count@uplink:xdp --proceed-on tx", 3, 4),
        ("detach b/count@blue:later:xdp", 3, 3),
        ("detach t/on_switch@tracepoint:sched/sched_switch", 3, 2),
        ("unload a", 2, 1),
    ] {
        let before = recorded(&host);
        host.bpfctl(line).ok();
        assert_ne!(recorded(&host), before, "{line}");
        agrees(&host, apps, links);
        number += 1;
        assert_eq!(stamp(&host), (uuid.clone(), number), "{line}");
        host.kill();
        host.start();
        agrees(&host, apps, links);
        // What a start has nothing to do about is not committed again.
        assert_eq!(stamp(&host), (uuid.clone(), number), "{line}");
    }
}

#[test]
fn a_row_that_was_committed_is_recorded_by_the_next_start() {
    let mut host = three();
    let (uuid, number) = stamp(&host);
    host.kill();
    host.start_with(&[("FAILPOINTS", "journal-commit-after=return")]);
    let before = recorded(&host);
    assert_eq!(host.bpfctl("update a/count@uplink:xdp --priority 5").code, 7);
    host.wait();
    assert_eq!((recorded(&host), stamp(&host)), (before, (uuid.clone(), number)), "it died before both");
    host.start();
    agrees(&host, 3, 3);
    assert_eq!(stamp(&host), (uuid, number + 1));
    assert_eq!(doubts(&host), Vec::<String>::new());
}

/// What `doctor` says of the database and the pins.
fn doubts(host: &Host) -> Vec<String> {
    let checks = host.ask(async |daemon| daemon.doctor(pb::DoctorRequest {}).await).checks;
    checks.into_iter().filter(|check| check.id == "state").map(|check| check.detail).collect()
}

/// Works on the database of a daemon that does not run. SQLite follows `/proc/PID/root` to where it seems to lead, so that the
/// database is opened in another place.
fn with_database(host: &Host, work: impl FnOnce(&Connection)) {
    let lib: PathBuf = host.path("/run/case/var/lib/bpfd");
    let elsewhere = tempfile::tempdir().unwrap();
    for file in ["state.db", "state.db-wal"] {
        if lib.join(file).exists() {
            fs::copy(lib.join(file), elsewhere.path().join(file)).unwrap();
        }
    }
    let database = Connection::open(elsewhere.path().join("state.db")).unwrap();
    work(&database);
    // All of it is in the one file then.
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    database.close().unwrap();
    fs::copy(elsewhere.path().join("state.db"), lib.join("state.db")).unwrap();
    if lib.join("state.db-wal").exists() {
        fs::remove_file(lib.join("state.db-wal")).unwrap();
    }
}

#[test]
fn a_database_that_is_not_the_one_of_the_pins_is_told() {
    let mut host = three();
    host.stop();
    with_database(&host, |_| {});
    let path = host.path("/run/case/var/lib/bpfd/state.db");
    let kept = fs::read(&path).unwrap();
    host.start();
    assert_eq!(doubts(&host), Vec::<String>::new());
    host.bpfctl("update a/count@uplink:xdp --priority 5").ok();
    host.bpfctl("update a/count@uplink:xdp --priority 6").ok();
    host.stop();
    with_database(&host, |_| {});
    fs::write(&path, kept).unwrap();
    let before = recorded(&host);
    host.start();
    let older =
        "RECOVERED: the database is older than the pins were: it lacks the last 2 changes; what runs stays as it is";
    assert_eq!(doubts(&host), [older]);
    assert!(host.log().contains("it lacks the last 2 changes"), "{}", host.log());
    agrees(&host, 3, 3);
    assert_eq!(recorded(&host), before);
    host.bpfctl("state adopt").ok();
    assert_eq!(doubts(&host), Vec::<String>::new());

    // The same rows in a database of another identity: nothing is to be decided, and it is that of the pins from then on.
    host.stop();
    with_database(&host, |database| {
        assert_eq!(database.execute("UPDATE identity SET uuid = randomblob(16)", []).unwrap(), 1);
    });
    let (pins, _) = stamp(&host);
    host.start();
    assert_eq!(doubts(&host), Vec::<String>::new());
    assert!(host.log().contains("the pins belonged to another database; nothing differs"), "{}", host.log());
    assert_ne!(stamp(&host).0, pins);
    agrees(&host, 3, 3);
}

#[test]
fn a_host_of_layout_3_gets_its_records_at_the_first_start() {
    let mut host = three();
    // That layout knew nothing that ends with a reboot.
    for app in ["a", "b", "t"] {
        host.bpfctl(&format!("persist {app}")).ok();
    }
    let before = shown(&host);
    host.stop();
    with_database(&host, |database| {
        let sql = "DROP TABLE identity; PRAGMA user_version = 3;
            UPDATE apps SET body = json_remove(body, '$.lifetime');
            UPDATE links SET body = json_remove(body, '$.placement.chain.effective');";
        database.execute_batch(sql).unwrap();
    });
    host.shell(&format!("cd {PINS}; rm -r record state */record"));
    host.start();
    assert_eq!(shown(&host), before);
    agrees(&host, 3, 3);
    assert_eq!(doubts(&host), Vec::<String>::new());
    host.check();
    let written = recorded_maps(&host);
    host.stop();
    host.start();
    assert_eq!(recorded_maps(&host), written, "a second start writes none");
    host.bpfctl("update a/count@uplink:xdp --priority 5").ok();
    agrees(&host, 3, 3);
}

/// The numbers of the maps of all records.
fn recorded_maps(host: &Host) -> BTreeMap<PathBuf, u32> {
    let pins = host.path(PINS);
    let (apps, links) = recorded(host);
    let apps = apps.into_keys().map(|uid| Path::new(&uid).join("record"));
    let all = apps.chain(links.into_keys().map(|uid| Path::new("record").join(uid)));
    let number = |pin: PathBuf| {
        let id = bpf::map_info(bpf::obj_get(&pins.join(&pin)).unwrap().as_fd()).unwrap().id.0;
        (pin, id)
    };
    all.map(number).collect()
}
