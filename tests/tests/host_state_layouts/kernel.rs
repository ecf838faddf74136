//! The kernel's half of a recorded host: every line of `kernel.jsonl` makes one thing, in order, with system calls alone. Nothing
//! here knows what bpfd's records or programs mean, so what an old daemon left behind does not change when bpfd does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bpfd_sys::bpf::{
    self, AttachType, BtfTypeId, Map, MapBtf, MapCreate, MapType, ObjectKind, ProgBtf, ProgInfo, ProgLoad, ProgramType,
    Records, Target, Update,
};
use bpfd_sys::netlink::{Expected, Route, XdpMode};
use bpfd_sys::netns::Netns;
use bpfd_sys::perf;
use bpfd_tests::Host;
use serde::{Deserialize, Serialize};

/// Where a case has tracefs.
const TRACEFS: &str = "/sys/kernel/tracing";

/// Makes one thing. Objects have names of their own: `p1` is a program, `m1` a map, `l1` a link, `t1` types.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    Types {
        id: String,
        bytes: String,
    },
    Map {
        id: String,
        name: String,
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        types: Option<MapTypes>,
    },
    Value {
        map: String,
        key: String,
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<Number>,
    },
    Freeze {
        map: String,
    },
    Program {
        id: String,
        name: String,
        kind: u32,
        attach_type: u32,
        flags: u32,
        license: String,
        /// The number of a map's name stands where its descriptor goes.
        insns: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        types: Option<ProgramTypes>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Function>,
    },
    Link {
        id: String,
        program: String,
        to: To,
    },
    Pin {
        object: String,
        /// Below the bpffs; `{ifindex:uplink}`, `{ifindex:NETNS:NAME}`, `{p1}` and `{hex:p1}` are numbers of the kernel that it is made on.
        path: String,
        /// The daemon that made it removes it when it starts again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        swept: bool,
    },
    Attach {
        program: String,
        interface: Interface,
        generic: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapTypes {
    pub(crate) id: String,
    key: u32,
    value: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramTypes {
    pub(crate) id: String,
    func_info_size: u32,
    func_info: String,
    line_info_size: u32,
    line_info: String,
}

/// A function of a program, by its number in the program's types.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    pub(crate) program: String,
    function: u32,
}

/// What a link attaches to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum To {
    /// `category/event`.
    Tracepoint(String),
    Function(Function),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// A name below /run/netns; absent for the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<String>,
}

/// Where a value names an interface: the cookie of its network namespace in 8 bytes, then its index in 4.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub(crate) at: usize,
    pub(crate) interface: Interface,
}

/// Where a value has a program's number, in 4 bytes, the highest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Number {
    pub(crate) at: usize,
    pub(crate) program: String,
}

/// Kernel objects by kind and number.
pub(crate) type Objects = BTreeSet<(&'static str, u32)>;

/// What was made, held by descriptors.
pub(crate) struct Made<'a> {
    host: &'a Host,
    bpffs: &'a Path,
    objects: BTreeMap<String, OwnedFd>,
}

/// Mounts tracefs in a case that has none.
pub(crate) fn mount_tracefs(host: &Host) {
    host.shell(&format!("mountpoint -q {TRACEFS} || mount -t tracefs tracefs {TRACEFS}"));
}

/// Makes everything. The bpffs is mounted; the interfaces are there.
pub(crate) fn make<'a>(host: &'a Host, bpffs: &'a Path, steps: &[Step]) -> Made<'a> {
    let mut made = Made { host, bpffs, objects: BTreeMap::new() };
    steps.iter().for_each(|step| made.step(step));
    made
}

impl Made<'_> {
    fn step(&mut self, step: &Step) {
        let new = match step {
            Step::Types { id, bytes } => (id, bpf::btf_load(&unhex(bytes)).unwrap_or_else(|error| panic!("{error:?}"))),
            Step::Map { id, name, kind, key_size, value_size, max_entries, flags, types } => {
                let plain = MapCreate::new(MapType(*kind), *key_size, *value_size, *max_entries);
                let btf = types.as_ref().map(|MapTypes { id, key, value }| MapBtf {
                    fd: self.fd(id),
                    key: BtfTypeId(*key),
                    value: BtfTypeId(*value),
                });
                (id, Map::create(&MapCreate { name, flags: *flags, btf, ..plain }).unwrap().into_fd())
            }
            Step::Value { map, key, value, place, number } => {
                let mut value = unhex(value);
                if let Some(Place { at, interface }) = place {
                    let (cookie, index) = located(self.host, interface);
                    value[*at..at + 8].copy_from_slice(&cookie.to_le_bytes());
                    value[at + 8..at + 12].copy_from_slice(&index.to_le_bytes());
                }
                if let Some(Number { at, program }) = number {
                    let (_, number) = numbered(self.fd(program));
                    value[*at..at + 4].copy_from_slice(&number.to_be_bytes());
                }
                return self.map(map).update(&unhex(key), &value, Update::Any).unwrap();
            }
            Step::Freeze { map } => return self.map(map).freeze().unwrap(),
            Step::Program { id, name, kind, attach_type, flags, license, insns, types, target } => {
                let insns = self.with_descriptors(unhex(insns));
                let license = CString::new(license.as_str()).unwrap();
                let records = types.as_ref().map(|types| (unhex(&types.func_info), unhex(&types.line_info)));
                let btf = types.as_ref().zip(records.as_ref()).map(|(types, (functions, lines))| ProgBtf {
                    fd: self.fd(&types.id),
                    func_info: Records { bytes: functions, record_size: types.func_info_size },
                    line_info: Records { bytes: lines, record_size: types.line_info_size },
                });
                let target = target.as_ref().map(|Function { program, function }| Target::Program {
                    fd: self.fd(program),
                    function: BtfTypeId(*function),
                });
                let plain = ProgLoad::new(ProgramType(*kind), &license, &insns);
                let expected_attach_type = AttachType(*attach_type);
                let load = ProgLoad { name, expected_attach_type, flags: *flags, btf, target, ..plain };
                (id, bpf::prog_load(&load).unwrap_or_else(|error| panic!("{id} {name}: {error:?}")))
            }
            Step::Link { id, program, to: To::Tracepoint(event) } => {
                let (category, event) = event.split_once('/').unwrap();
                let number = perf::tracepoint_id(&self.host.path(TRACEFS), category, event).unwrap();
                let event = perf::open_tracepoint(number).unwrap();
                (id, perf::attach(event.as_fd(), self.fd(program)).unwrap())
            }
            Step::Link { id, program, to: To::Function(Function { program: target, function }) } => {
                let target = self.fd(target);
                (id, bpf::link_create_ext(self.fd(program), target, BtfTypeId(*function)).unwrap())
            }
            Step::Pin { object, path, swept: _ } => {
                let path = self.bpffs.join(self.named(path));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                return bpf::obj_pin(self.fd(object), &path).unwrap();
            }
            Step::Attach { program, interface, generic } => {
                let mode = if *generic { XdpMode::Generic } else { XdpMode::Native };
                let (_, index) = located(self.host, interface);
                let program = Some(self.fd(program));
                let attach = || Route::open().unwrap().set_xdp(index, program, Expected::Nothing, mode);
                return within(self.host, interface, attach).unwrap();
            }
        };
        let (id, fd) = new;
        self.objects.insert(id.clone(), fd);
    }

    /// What was pinned, by kind and number: what stays, and what the daemon that made it would have swept.
    pub(crate) fn pinned(&self, steps: &[Step]) -> (Objects, Objects) {
        let (mut kept, mut swept) = (Objects::new(), Objects::new());
        for step in steps {
            if let Step::Pin { object, swept: is_swept, .. } = step {
                if *is_swept { &mut swept } else { &mut kept }.insert(numbered(self.fd(object)));
            }
        }
        swept.retain(|object| !kept.contains(object));
        (kept, swept)
    }

    fn fd(&self, id: &str) -> BorrowedFd<'_> {
        self.objects[id].as_fd()
    }

    fn map(&self, id: &str) -> Map {
        Map::from_fd(self.objects[id].try_clone().unwrap()).unwrap()
    }

    /// `lddw` with a map in it (`BPF_PSEUDO_MAP_FD`, `BPF_PSEUDO_MAP_VALUE` of include/uapi/linux/bpf.h).
    fn with_descriptors(&self, mut insns: Vec<u8>) -> Vec<u8> {
        let mut wide = false;
        for insn in insns.chunks_exact_mut(8) {
            if !wide && insn[0] == 0x18 && [1, 2].contains(&(insn[1] >> 4)) {
                let map = u32::from_le_bytes(insn[4..].try_into().unwrap());
                insn[4..].copy_from_slice(&self.fd(&format!("m{map}")).as_raw_fd().to_le_bytes());
            }
            wide = !wide && insn[0] == 0x18;
        }
        insns
    }

    /// A text with the numbers that this kernel gave: `{p1}` and `{hex:p1}` a program's, `{loaded:p1}` its time of loading, `{tag:p1}` the hash that
    /// this kernel has of it, `{ifindex:uplink}` an interface's, `{boot}` the boot's.
    pub(crate) fn named(&self, text: &str) -> String {
        let mut out = text.replace("{boot}", boot().trim());
        for (id, fd) in self.objects.iter().filter(|(id, _)| id.starts_with('p')) {
            let info = bpf::prog_info(fd.as_fd()).unwrap();
            out = out.replace(&format!("{{{id}}}"), &info.id.0.to_string());
            out = out.replace(&format!("{{hex:{id}}}"), &format!("{:08x}", info.id.0));
            out = out.replace(&format!("{{loaded:{id}}}"), &info.load_time_ns.to_string());
            out = out.replace(&format!("{{tag:{id}}}"), &tag(&info));
        }
        if let Some((_, rest)) = text.split_once("{ifindex:") {
            let word = rest.split('}').next().unwrap();
            let (netns, name) = word.split_once(':').map_or((None, word), |(netns, name)| (Some(netns), name));
            let interface = Interface { name: name.to_owned(), netns: netns.map(str::to_owned) };
            out = out.replace(&format!("{{ifindex:{word}}}"), &located(self.host, &interface).1.to_string());
        }
        out
    }
}

/// An object's kind and number.
pub(crate) fn numbered(fd: BorrowedFd<'_>) -> (&'static str, u32) {
    match bpf::object_kind(fd).unwrap() {
        ObjectKind::Program => ("program", bpf::prog_info(fd).unwrap().id.0),
        ObjectKind::Map => ("map", bpf::map_info(fd).unwrap().id.0),
        ObjectKind::Link => ("link", bpf::link_info(fd).unwrap().id.0),
        ObjectKind::Btf => panic!("types have no pin"),
    }
}

/// A program's tag as the database has it.
pub(crate) fn tag(program: &ProgInfo) -> String {
    serde_json::to_string(&program.tag).unwrap()
}

/// This boot's id, as bpfd writes it.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// Does something in the network namespace of an interface.
pub(crate) fn within<T>(host: &Host, interface: &Interface, work: impl FnOnce() -> T) -> T {
    match &interface.netns {
        None => host.within(work),
        Some(name) => Netns::open(&host.path(&format!("/run/netns/{name}"))).unwrap().within(work).unwrap(),
    }
}

/// The cookie of an interface's network namespace, and its index in it.
pub(crate) fn located(host: &Host, interface: &Interface) -> (u64, u32) {
    within(host, interface, || {
        let row = Route::open().unwrap().link_named(&interface.name).unwrap().unwrap();
        (Netns::current().unwrap().cookie().unwrap().unwrap(), row.index)
    })
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
