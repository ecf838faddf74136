//! BPF objects of Debian's packages, files of their own or inside programs: each is loaded by libbpf (bpftool) and by bpfd, on the same
//! kernel. What libbpf loads, and is of kinds that bpfd manages, bpfd loads too: the same programs, of the same types, and as many maps.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the lints exempt test functions, not what they share")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpfd_tests::Host;
use serde_json::Value;

/// What came of a load: the type of each program, and how many maps.
type Loaded = (BTreeMap<String, String>, usize);

/// The kernel's types of programs, by bpfd's.
const TYPES: [(&str, &str); 10] = [
    ("PROGRAM_TYPE_XDP", "xdp"),
    ("PROGRAM_TYPE_TC", "sched_cls"),
    ("PROGRAM_TYPE_TRACEPOINT", "tracepoint"),
    ("PROGRAM_TYPE_RAW_TRACEPOINT", "raw_tracepoint"),
    ("PROGRAM_TYPE_KPROBE", "kprobe"),
    ("PROGRAM_TYPE_KRETPROBE", "kprobe"),
    ("PROGRAM_TYPE_UPROBE", "kprobe"),
    ("PROGRAM_TYPE_URETPROBE", "kprobe"),
    ("PROGRAM_TYPE_FENTRY", "tracing"),
    ("PROGRAM_TYPE_FEXIT", "tracing"),
];

#[test]
fn what_libbpf_loads_is_loaded_with_the_same_programs_and_maps() {
    let Some(packages) = std::env::var_os("BPFD_OBJECTS") else {
        println!("skipped: `cargo xtask test --only objects` fetches the packages that it reads");
        return;
    };
    let host = Host::new();
    let (mut same, mut refused_by_both, mut unmanaged, mut wrong) = (0, 0, BTreeMap::new(), Vec::new());
    for (name, object) in objects(Path::new(&packages)) {
        std::fs::write(host.path("/run/subject.o"), object).unwrap();
        let by_libbpf = by_libbpf(&host.path("/run/subject.o"));
        match (by_libbpf, by_bpfd(&host)) {
            (Some(one), Ok(other)) if one == other => same += 1,
            (Some(_), Err(Refused::Unmanaged(section))) => *unmanaged.entry(section).or_insert(0) += 1,
            (None, Err(_)) => refused_by_both += 1,
            // It is no fault to load more than libbpf does.
            (None, Ok(_)) => same += 1,
            (Some(one), other) => wrong.push(format!("{name}: libbpf {one:?}, bpfd {other:?}")),
        }
    }
    say(&format!("{same} objects are loaded, {refused_by_both} are refused by libbpf and bpfd"));
    for (section, objects) in &unmanaged {
        say(&format!("{objects} objects have a program of a kind that is not managed: `{section}`"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(same >= 20 && refused_by_both >= 20, "too few objects were found");
}

/// Shown of a test that passes too: libtest keeps what macros print.
fn say(line: &str) {
    let mut shown = std::io::stderr();
    writeln!(shown, "{line}").unwrap();
}

/// Why bpfd did not load an object.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// For the kind of a program: the first word of its section.
    Unmanaged(String),
    /// For anything else, in its words.
    Otherwise(String),
}

fn by_bpfd(host: &Host) -> Result<Loaded, Refused> {
    let said = host.bpfctl("load --path /run/subject.o --name subject");
    if said.code != 0 {
        let section =
            said.stderr.split_once("is in section `").filter(|(_, rest)| rest.contains("bpfd loads programs of"));
        let word = section.and_then(|(_, rest)| rest.split(['`', '/']).next()).map(str::to_owned);
        return Err(word.map_or(Refused::Otherwise(said.stderr), Refused::Unmanaged));
    }
    let shown = host.items("get app subject");
    let [app] = shown.as_slice() else { panic!("{shown:?}") };
    let array = |key: &str| app[key].as_array().cloned().unwrap_or_default();
    let word = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let kind = |program: &Value| {
        let ours = word(program, "type");
        TYPES.iter().find(|(name, _)| *name == ours).map_or(ours.clone(), |(_, kernels)| (*kernels).to_owned())
    };
    let programs = array("programs").iter().map(|program| (word(program, "function"), kind(program))).collect();
    let loaded = (programs, array("maps").len());
    host.bpfctl("unload subject").ok();
    Ok(loaded)
}

/// In a mount namespace of its own: what is pinned goes with it.
fn by_libbpf(object: &Path) -> Option<Loaded> {
    const SCRIPT: &str = r#"
        mount -t bpf bpf /sys/fs/bpf && mkdir /sys/fs/bpf/maps || exit 9
        bpftool prog loadall "$1" /sys/fs/bpf/programs pinmaps /sys/fs/bpf/maps >&2 || exit 1
        for pin in /sys/fs/bpf/programs/*; do
            echo "${pin##*/} $(bpftool -j prog show pinned "$pin" | sed 's/.*"type":"\([a-z_]*\)".*/\1/')"
        done
        ls /sys/fs/bpf/maps | wc -l"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]).arg(object);
    let out = command.output().unwrap();
    assert_ne!(out.status.code(), Some(9), "{}", String::from_utf8_lossy(&out.stderr));
    if !out.status.success() {
        return None;
    }
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let maps = lines.pop().unwrap().trim().parse().unwrap();
    let programs = lines.iter().filter_map(|line| line.split_once(' '));
    Some((programs.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect(), maps))
}

/// Every BPF object below a directory, by the name of its file, and by its place in it if it is not the file; each once.
fn objects(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for file in files(dir) {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for (at, object) in carved(&bytes) {
            if seen.insert(object.to_vec()) {
                let name = if at == 0 { name.clone() } else { format!("{name} at {at:#x}") };
                found.push((name, object.to_vec()));
            }
        }
    }
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.retain(|path| !path.is_symlink());
    entries.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// ELF files of the BPF machine, little-endian and relocatable: those that begin at any byte.
fn carved(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    const HEADER: &[u8] = b"\x7fELF\x02\x01\x01";
    let starts = bytes.windows(HEADER.len()).enumerate().filter(|(_, window)| *window == HEADER).map(|(at, _)| at);
    starts.filter_map(|at| Some((at, whole(bytes.get(at..)?)?))).collect()
}

/// The object that begins here: the table of its sections is its end.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().unwrap()));
    let table = u64::from_le_bytes(bytes.get(40..48)?.try_into().unwrap());
    let end = usize::try_from(table).ok()?.checked_add(usize::from(short(58)?) * usize::from(short(60)?))?;
    (short(16)? == 1 && short(18)? == 247).then(|| bytes.get(..end))?
}
