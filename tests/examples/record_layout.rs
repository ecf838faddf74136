//! Records a host for `host_state_layouts`: what the daemon beside this program's directory writes, as `tests/layouts/NAME`.
//! `tests/layouts/README.md` says how it is called.
//!
//! Must be run with the daemon whose layout is recorded, and never be part of a test.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a tool of the tests' author: what it cannot do ends it"
)]

#[path = "../tests/host_state_layouts/kernel.rs"]
#[expect(dead_code, reason = "the test makes what is recorded here")]
mod kernel;
#[path = "../tests/host_state_layouts/shown.rs"]
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpfd_sys::bpf::{self, ProgId, ProgInfo, ProgLoad, ProgramType};
use bpfd_sys::netlink::{Route, XdpMode};
use bpfd_tests::{Host, example};
use bytecode_image::build::{self, Recipe};
use bytecode_image::media;
use bytecode_image::resolve::Platform;
use bytecode_image::testing::registry::{Options, TestRegistry};
use kernel::{Interface, Number, Place, Step, located, numbered, unhex, within};
use serde_json::Value;
use shown::shown;

/// What the daemon's programs are written down in.
const NOTES: &str = "/run/notes";
/// Numbers below this one may be in a row of the database without being a program's.
const DISTINCT: u32 = 10_000;

/// What our name for a peer's dispatcher begins with, `peer`.
const PEER: &str = "70656572";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, preload, out, special @ ..] = words.as_slice() else {
        panic!("usage: record_layout fused|libxdp NOTES.SO DIRECTORY [peer-before|peer-after|FAIL-POINT]")
    };
    let out = Path::new(out);
    let special = special.first().map(String::as_str);
    let mut host = Host::without_daemon();
    let _registry = prepare(&host, mode);
    let preload = fs::canonicalize(preload).unwrap();
    let environment = [("LD_PRELOAD", preload.to_str().unwrap()), ("BPF_NOTES", NOTES)];
    let peer = |host: &Host| {
        let mut loader = host.command("xdp-loader");
        loader.args(["load", "-P", "30", "uplink", &example("xdp-counter")]).envs(environment);
        let said = loader.env("LIBXDP_BPFFS", "/run/case/sys/fs/bpf").output().unwrap();
        assert!(said.status.success(), "{said:?}");
    };
    host.start_with(&environment);
    fill(&host);
    if special == Some("peer-before") {
        peer(&host);
    }
    host.bpfctl_as_member("load -q --image registry/open/app:1 --name team xdp -i uplink --priority 300").ok();
    host.ping(7);
    match special {
        None | Some("peer-before") => host.stop(),
        Some("peer-after") => {
            peer(&host);
            host.check_settled();
            host.stop();
        }
        Some(point) => {
            host.stop();
            host.start_with(&[&environment[..], &[("FAILPOINTS", &format!("{point}=return"))]].concat());
            let said = host.bpfctl("attach idle xdp -i uplink --priority 1");
            assert_ne!(said.code, 0, "{said}");
            host.wait();
        }
    }
    record(&mut host, out);
}

/// A registry with an image that nobody signed, a policy that allows it to the group's members, and the mode of chains.
fn prepare(host: &Host, mode: &str) -> TestRegistry {
    let burn = |_| {
        let program = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
        let fd = bpf::prog_load(&ProgLoad::new(ProgramType::SOCKET_FILTER, c"GPL", &program)).unwrap();
        bpf::prog_info(fd.as_fd()).unwrap().id.0
    };
    assert!((0..).map(burn).any(|id| id > DISTINCT));
    let registry = host.within(|| TestRegistry::start(Options::default())).unwrap();
    let object = fs::read(example("xdp-counter")).unwrap();
    let architecture = Platform::host(None).architecture.parse().unwrap();
    let metadata = Default::default();
    let recipe = Recipe {
        object: &object,
        path: "bytecode.bpf.o",
        architecture: &architecture,
        metadata: &metadata,
        epoch: None,
    };
    let image = build::build(&recipe).unwrap();
    registry.put_blob(&image.config);
    registry.put_blob(&image.layer);
    registry.put_manifest("open/app", "1", media::MANIFEST, &image.manifest);
    host.make_group();
    host.shell("mkdir -p /run/case/etc/bpfd");
    let etc = |file: &str, text: String| fs::write(host.path(&format!("/run/case/etc/bpfd/{file}")), text).unwrap();
    etc("bpfd.toml", format!("[chain]\nmode = \"{mode}\"\n"));
    etc("policy.toml", "version = 1\n[[image]]\nscope = \"registry/open/**\"\nunsigned = \"allow\"\n".to_owned());
    let address = registry.address();
    etc("registries.toml", format!("[[registry]]\nname = \"registry\"\nendpoint = \"{address}\"\nhttp = true\n"));
    registry
}

fn fill(host: &Host) {
    let (counter, pass, trace) = (example("xdp-counter"), example("xdp-pass"), example("tracepoint-count"));
    for line in [
        format!(
            "load --path {counter} --name edge --set step=100 xdp -i uplink --priority 20 --proceed-on pass,drop,tx"
        ),
        "attach edge xdp -i uplink --priority 200".to_owned(),
        format!("load --path {counter} --name inner --set step=10 xdp -i uplink"),
        "attach inner xdp -i far --netns far --priority 0".to_owned(),
        format!("load --path {pass} --name later xdp -i later0 --when-present --priority 7"),
        format!("load --path {pass} --name idle"),
        format!("load --path {trace} --name trace tracepoint sched/sched_switch"),
        "update inner/count@uplink:xdp --priority 60".to_owned(),
    ] {
        host.bpfctl(&line).ok();
    }
}

/// Writes down a host whose daemon has ended, and what the same daemon shows of it when it starts again.
fn record(host: &mut Host, out: &Path) {
    fs::create_dir_all(out).unwrap();
    let case = host.path("/run/case");
    let bpffs = case.join("sys/fs/bpf");
    let notes: Vec<Value> =
        fs::read_to_string(host.path(NOTES)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let interfaces = [("uplink", None), ("far", Some("far"))]
        .map(|(name, netns)| Interface { name: name.to_owned(), netns: netns.map(str::to_owned) });

    // What is pinned, or runs, by the names that the notes have.
    let mut pins = BTreeMap::new();
    for path in files(&bpffs) {
        let fd = bpf::obj_get(&path).unwrap();
        let (kind, id) = numbered(fd.as_fd());
        pins.insert(path.strip_prefix(&bpffs).unwrap().to_str().unwrap().to_owned(), format!("{}{id}", &kind[..1]));
    }
    let runs = interfaces.clone().map(|interface| {
        let row = within(host, &interface, || Route::open().unwrap().link_named(&interface.name).unwrap().unwrap());
        let (mode, program) = row.xdp.program().unwrap();
        Step::Attach { program: format!("p{}", program.0), interface, generic: mode == XdpMode::Generic }
    });
    let mut steps: Vec<Value> = needed(host, &notes, pins.values().cloned().collect());
    let places = interfaces.clone().map(|interface| (located(host, &interface), interface));
    for step in &mut steps {
        locate(step, &places);
        number(step);
    }

    // The database, with what differs from boot to boot as a name.
    let database = "/run/case/var/lib/bpfd/state.db";
    let dump = host.command("sqlite3").arg(database).args([".dump", "pragma user_version"]).output().unwrap();
    assert!(dump.status.success(), "{dump:?}");
    let dump = String::from_utf8(dump.stdout).unwrap();
    let (dump, version) = dump.trim_end().rsplit_once('\n').unwrap();
    let mut rows = format!("{dump}\nPRAGMA user_version={version};\n").replace(&kernel::boot(), "{boot}");
    let programs: BTreeSet<u32> = pins.values().filter_map(|object| object.strip_prefix('p')?.parse().ok()).collect();
    let programs: Vec<ProgInfo> = programs.into_iter().map(|id| info(ProgId(id))).collect();

    host.start();
    let gone: BTreeSet<&String> = pins.keys().filter(|path| !bpffs.join(path).exists()).collect();
    let text = shown(host);

    // Names that do not depend on this kernel, in order.
    let mut names = BTreeMap::new();
    for step in &steps {
        if let Some(id) = step["id"].as_str() {
            let number = names.keys().filter(|name: &&String| name[..1] == id[..1]).count() + 1;
            names.insert(id.to_owned(), format!("{}{number}", &id[..1]));
        }
    }
    for program in programs {
        let ProgInfo { id: ProgId(id), load_time_ns, .. } = program;
        let name = &names[&format!("p{id}")];
        rows = rows.replace(&load_time_ns.to_string(), &format!("{{loaded:{name}}}"));
        rows = rows.replace(&kernel::tag(&program), &format!("{{tag:{name}}}"));
        rows = rows.replace(&format!("\"program\":{id}"), &format!("\"program\":{{{name}}}"));
        rows = rows.replace(&format!(",{id});"), &format!(",{{{name}}});"));
    }
    let pin = |(path, object): (&String, &String)| {
        let swept = gone.contains(path);
        Step::Pin { object: object.clone(), path: unnumbered(path, &runs, &names), swept }
    };
    let last: Vec<Step> = pins.iter().map(pin).chain(runs.clone()).collect();
    for step in &mut steps {
        numbered_maps(step, &names);
    }
    let mut lines = String::new();
    for mut step in steps.into_iter().chain(last.iter().map(|step| serde_json::to_value(step).unwrap())) {
        rename(&mut step, &names);
        lines += &serde_json::to_string(&serde_json::from_value::<Step>(step).unwrap()).unwrap();
        lines += "\n";
    }
    fs::write(out.join("kernel.jsonl"), lines).unwrap();
    fs::write(out.join("state.sql"), rows).unwrap();
    fs::write(out.join("shown.txt"), text).unwrap();
    for dir in ["etc/bpfd", "var/lib/bpfd/objects", "var/lib/bpfd/images"] {
        let to = out.join("root").join(dir);
        fs::create_dir_all(&to).unwrap();
        let copied = Command::new("cp").arg("-RT").args([&case.join(dir), &to]).status().unwrap();
        assert!(copied.success());
    }
    println!("{}", out.display());
    host.stop();
    host.shell("ip link set uplink xdp off; ip -n far link set far xdp off; cd /run/case/sys/fs/bpf; rm -rf bpfd xdp");
}

fn info(program: ProgId) -> ProgInfo {
    bpf::prog_info(bpf::prog_by_id(program).unwrap().as_fd()).unwrap()
}

/// The notes of these objects and of all that they are made of, in order.
fn needed(host: &Host, notes: &[Value], mut wanted: BTreeSet<String>) -> Vec<Value> {
    let of = |note: &Value| note["id"].as_str().or(note["map"].as_str()).unwrap().to_owned();
    let mut steps = Vec::new();
    for note in notes.iter().rev().filter(|note| note["what"] != "value" && note["what"] != "freeze") {
        if wanted.contains(&of(note)) {
            wanted.extend(references(note));
        }
    }
    steps.extend(notes.iter().filter(|note| wanted.contains(&of(note))).cloned());
    for step in &mut steps {
        if let Some(event) = step.pointer("/to/tracepoint").and_then(Value::as_u64) {
            step["to"]["tracepoint"] = event_named(host, event).into();
        }
    }
    steps
}

/// Names of objects in a note; an object is made before what refers to it.
fn references(note: &Value) -> Vec<String> {
    let named = ["/program", "/types/id", "/target/program", "/to/function/program"];
    let named = named.iter().filter_map(|place| Some(note.pointer(place)?.as_str()?.to_owned()));
    let maps = note["insns"].as_str().map(|insns| maps_in(&unhex(insns))).unwrap_or_default();
    named.chain(maps.into_iter().map(|(_, map)| format!("m{map}"))).collect()
}

/// Where a program's instructions name maps, and which.
fn maps_in(insns: &[u8]) -> Vec<(usize, u32)> {
    let mut maps = Vec::new();
    let mut wide = false;
    for (index, insn) in insns.chunks_exact(8).enumerate() {
        if !wide && insn[0] == 0x18 && [1, 2].contains(&(insn[1] >> 4)) {
            maps.push((index * 8 + 4, u32::from_le_bytes(insn[4..].try_into().unwrap())));
        }
        wide = !wide && insn[0] == 0x18;
    }
    maps
}

/// The numbers of maps in instructions as those of their new names; instructions apart from each other, for readers.
fn numbered_maps(step: &mut Value, names: &BTreeMap<String, String>) {
    let Some(insns) = step["insns"].as_str() else { return };
    let mut insns = unhex(insns);
    for (at, map) in maps_in(&insns) {
        let number: u32 = names[&format!("m{map}")][1..].parse().unwrap();
        insns[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    let word = |insn: &[u8]| insn.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    step["insns"] = insns.chunks(8).map(word).collect::<Vec<_>>().join(" ").into();
}

/// The kernel's numbers of objects as their new names.
fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = names.get(text) {
                text.clone_from(name);
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| rename(field, names)),
        _ => {}
    }
}

/// Takes an interface's place out of a value that names one.
fn locate(step: &mut Value, interfaces: &[((u64, u32), Interface)]) {
    let Some(value) = step["value"].as_str().filter(|_| step["what"] == "value") else { return };
    let mut value = unhex(value);
    for ((cookie, index), interface) in interfaces {
        let place = [&cookie.to_le_bytes()[..], &index.to_le_bytes()].concat();
        if let Some(at) = value.windows(place.len()).position(|found| found == place) {
            value[at..at + place.len()].fill(0);
            step["place"] = serde_json::to_value(Place { at, interface: interface.clone() }).unwrap();
            step["value"] = value.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
            return;
        }
    }
}

/// Takes the number of a peer's dispatcher out of the record of it: bpfd names it by that (`GenerationUid::of_peer`).
fn number(step: &mut Value) {
    const AT: usize = 16;
    const DIGITS: usize = 2 * AT + 24;
    let Some(value) = step["value"].as_str().filter(|value| value.get(2 * AT..2 * AT + 8) == Some(PEER)) else {
        return;
    };
    let program = u32::from_str_radix(&value[DIGITS..DIGITS + 8], 16).unwrap();
    let without = format!("{}00000000{}", &value[..DIGITS], &value[DIGITS + 8..]);
    step["number"] = serde_json::to_value(Number { at: AT + 12, program: format!("p{program}") }).unwrap();
    step["value"] = without.into();
}

/// A pin's path without the kernel's numbers: `xdp/dispatch-IFINDEX-PROGRAM`. One that nothing runs is for the first interface.
fn unnumbered(path: &str, runs: &[Step], names: &BTreeMap<String, String>) -> String {
    if let Some((dir, uid, file)) = path.strip_prefix("bpfd/v1/top/").and_then(|rest| {
        let (uid, file) = rest.split_once('/')?;
        uid.starts_with(PEER).then_some(("bpfd/v1/top", uid, file))
    }) {
        let (name, number) = uid.split_at(24);
        let program = u32::from_str_radix(number, 16).unwrap();
        return format!("{dir}/{name}{{hex:{}}}/{file}", names[&format!("p{program}")]);
    }
    let Some(rest) = path.strip_prefix("xdp/dispatch-") else { return path.to_owned() };
    let (numbers, file) = rest.split_once('/').unwrap();
    let (_, number) = numbers.split_once('-').unwrap();
    let attached = |step: &Step| match step {
        Step::Attach { program, interface, .. } => (*program == format!("p{number}")).then(|| interface.clone()),
        _ => None,
    };
    let interface = match runs.iter().find_map(attached) {
        Some(Interface { name, netns: Some(netns) }) => format!("{netns}:{name}"),
        Some(Interface { name, netns: None }) => name,
        None => "uplink".to_owned(),
    };
    format!("xdp/dispatch-{{ifindex:{interface}}}-{{{}}}/{file}", names[&format!("p{number}")])
}

/// `category/event` of a tracepoint's number.
fn event_named(host: &Host, number: u64) -> String {
    kernel::mount_tracefs(host);
    let events = host.path("/sys/kernel/tracing/events");
    let ids = files(&events).into_iter().filter(|path| path.ends_with("id"));
    let named = |id: &PathBuf| fs::read_to_string(id).unwrap().trim() == number.to_string();
    let event = ids.into_iter().find(named).unwrap();
    event.parent().unwrap().strip_prefix(&events).unwrap().to_str().unwrap().to_owned()
}

/// The files below a directory, but for the kernel's own on a bpffs.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let own = |path: &PathBuf| path.extension().is_none_or(|word| word != "debug");
    paths.into_iter().filter(own).flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
