//! The kernel's own types, indexed by name once, and excerpts of them: for an object's CO-RE relocations whoever matches types is given
//! those that the object names and what these contain, not the 150,000 of a kernel. So the cost grows with the object alone.
//!
//! The kernel's bytes are trusted; the names are anybody's. It must never match types itself.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::btf::{Btf, BtfError, HEADER_SIZE, MAGIC, TYPE_SIZE, kind};
use crate::btf_ext::BtfExt;
use crate::bytes::{count, index, put, u32_at};
use crate::elf::Elf;

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const PROTO: u32 = 13;
/// What is no type of a value: functions, variables, sections, tags on declarations.
const NO_VALUES: [u32; 4] = [FUNC, 14, 15, 17];

/// `BPF_CORE_TYPE_ID_TARGET` of `enum bpf_core_relo_kind`: the instruction gets the number of a type of the kernel.
const TYPE_ID_TARGET: u32 = 7;
/// `struct bpf_core_relo`.
const CORE_RECORD: usize = 16;

/// The running kernel's types, from `/sys/kernel/btf/vmlinux`. Reading takes some 15 ms: do it once.
#[derive(Debug, Clone)]
pub struct KernelBtf {
    bytes: Vec<u8>,
    offsets: Vec<usize>,
    /// The hash of each name without its flavour, and its type.
    names: Vec<(u64, u32)>,
}

impl KernelBtf {
    /// Reads the kernel's own BTF.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let btf = Btf::open(bytes)?;
        let named = btf.ids().map(|id| (btf.name(id), id)).filter(|(name, _)| !name.is_empty());
        let mut names: Vec<(u64, u32)> = named.map(|(name, id)| (hash(flavourless(name)), id)).collect();
        names.sort_unstable();
        Ok(Self { offsets: btf.into_offsets(), names, bytes: bytes.to_vec() })
    }

    /// The id of a kernel function's type, which fentry and lsm programs are attached to.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        self.id(name, FUNC)
    }

    /// The id of a typedef, such as `btf_trace_sched_switch` of a typed raw tracepoint.
    pub fn typedef_id(&self, name: &str) -> Option<u32> {
        self.id(name, TYPEDEF)
    }

    fn id(&self, name: &str, wanted: u32) -> Option<u32> {
        let btf = self.open()?;
        self.called(flavourless(name)).find(|id| btf.name(*id) == name && kind_of(&btf, *id) == Some(wanted))
    }

    fn open(&self) -> Option<Btf<'_>> {
        Btf::reopen(&self.bytes, &self.offsets).ok()
    }

    /// The types of this name, whatever their flavour; and, once in 2^64, others.
    fn called(&self, name: &str) -> impl Iterator<Item = u32> + '_ {
        let wanted = hash(name);
        let from = self.names.partition_point(|(hash, _)| *hash < wanted);
        self.names.iter().skip(from).take_while(move |(hash, _)| *hash == wanted).map(|(_, id)| *id)
    }

    /// The types of these names, with all that is in them. What is only pointed at keeps its kind and size, and loses its name and
    /// members: no relocation looks behind a pointer.
    pub(crate) fn excerpt(&self, names: &BTreeSet<&str>) -> Excerpt {
        let Some(btf) = self.open() else { return Excerpt::default() };
        let mut reach = Reach::default();
        for id in names.iter().flat_map(|name| self.called(name)) {
            if kind_of(&btf, id).is_some_and(|kind| !NO_VALUES.contains(&kind)) {
                reach.whole(id);
            }
        }
        reach.follow(&btf);
        reach.written(&btf)
    }
}

/// What is to be written.
#[derive(Default)]
struct Reach {
    /// With all that is in it.
    whole: BTreeSet<u32>,
    /// As something that is pointed at.
    pointed: BTreeSet<u32>,
    work: Vec<(u32, bool)>,
}

impl Reach {
    fn whole(&mut self, id: u32) {
        if id != 0 && self.whole.insert(id) {
            self.work.push((id, true));
        }
    }

    fn pointed(&mut self, id: u32) {
        if id != 0 && self.pointed.insert(id) {
            self.work.push((id, false));
        }
    }

    fn follow(&mut self, btf: &Btf<'_>) {
        while let Some((id, whole)) = self.work.pop() {
            let Some((kind, record)) = record(btf, id) else { continue };
            for to in references(kind, record.len()).filter_map(|at| u32_at(record, at)) {
                match kind {
                    PTR | PROTO => self.pointed(to),
                    STRUCT | UNION if !whole => {}
                    _ if whole => self.whole(to),
                    _ => self.pointed(to),
                }
            }
        }
    }

    fn written(&self, btf: &Btf<'_>) -> Excerpt {
        let ids: Vec<u32> = self.whole.union(&self.pointed).copied().collect();
        let mut excerpt = Excerpt { bytes: vec![], ids };
        let (mut types, mut strings) = (Vec::new(), vec![0]);
        for id in &excerpt.ids {
            let Some((kind, record)) = record(btf, *id) else { continue };
            if matches!(kind, STRUCT | UNION) && !self.whole.contains(id) {
                // A name nobody asks for, no members, and its size.
                types.extend([0, kind << 24, u32_at(record, 8).unwrap_or_default()].map(u32::to_le_bytes).concat());
                continue;
            }
            let mut copy = record.to_vec();
            for at in references(kind, record.len()) {
                let to = u32_at(record, at).and_then(|to| excerpt.number(to)).unwrap_or_default();
                put(&mut copy, at, &to.to_le_bytes()).unwrap_or_default();
            }
            for at in texts(kind, record.len()) {
                let text = u32_at(record, at).map(|offset| btf.string(offset)).unwrap_or_default();
                let offset = if text.is_empty() { 0 } else { count(strings.len()) };
                if !text.is_empty() {
                    strings.extend(text.bytes().chain([0]));
                }
                put(&mut copy, at, &offset.to_le_bytes()).unwrap_or_default();
            }
            types.extend(copy);
        }
        let [types_size, strings_size] = [&types, &strings].map(|part| count(part.len()));
        excerpt.bytes.extend(MAGIC.to_le_bytes());
        excerpt.bytes.extend([1, 0]);
        excerpt
            .bytes
            .extend([count(HEADER_SIZE), 0, types_size, types_size, strings_size].map(u32::to_le_bytes).concat());
        excerpt.bytes.extend(types);
        excerpt.bytes.extend(strings);
        excerpt
    }
}

/// Some of the kernel's types, numbered anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// BTF.
    pub(crate) bytes: Vec<u8>,
    /// What the kernel's number of each is, sorted.
    ids: Vec<u32>,
}

impl Excerpt {
    /// The kernel's number of a type of the excerpt.
    pub(crate) fn kernel_id(&self, number: u32) -> Option<u32> {
        self.ids.get(index(number).checked_sub(1)?).copied()
    }

    fn number(&self, id: u32) -> Option<u32> {
        self.ids.binary_search(&id).ok().map(|place| count(place + 1))
    }
}

/// What the CO-RE relocations of an object ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    /// Names of types, without flavours.
    pub(crate) names: BTreeSet<&'a str>,
    /// Instructions that get the number of a type of the kernel: a section's index, and the offset in it.
    pub(crate) numbers: Vec<(usize, usize)>,
}

impl<'a> Asked<'a> {
    /// Reads them.
    pub(crate) fn read(elf: &Elf<'a>) -> Result<Self, BtfError> {
        let content = |name| elf.content(name).map(|section| section.data).filter(|data| !data.is_empty());
        let (Some(types), Some(records)) = (content(".BTF"), content(".BTF.ext")) else { return Ok(Self::default()) };
        let btf = Btf::open(types)?;
        let mut asked = Self::default();
        for table in BtfExt::open(records, &btf)?.core {
            let section = elf.content(table.section).map(|section| section.index);
            for record in table.iter(CORE_RECORD) {
                asked.names.extend(u32_at(record, 4).map(|id| flavourless(btf.name(id))));
                if u32_at(record, 12) == Some(TYPE_ID_TARGET) {
                    asked.numbers.extend(section.zip(u32_at(record, 0).map(index)));
                }
            }
        }
        asked.names.remove("");
        Ok(asked)
    }
}

/// `task_struct___older` is one of `task_struct`, as libbpf and aya have it (`bpf_core_essential_name_len`).
fn flavourless(name: &str) -> &str {
    name.split_once("___").map_or(name, |(name, _)| name)
}

/// The same in every process. Only the kernel's own names are kept by it.
fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

fn kind_of(btf: &Btf<'_>, id: u32) -> Option<u32> {
    record(btf, id).map(|(kind, _)| kind)
}

/// The kind of a type, and all bytes of it.
fn record<'a>(btf: &Btf<'a>, id: u32) -> Option<(u32, &'a [u8])> {
    let from = btf.offset_of(id)?;
    let to = btf.offset_of(id.checked_add(1)?).unwrap_or(btf.types.len());
    let record = btf.types.get(from..to)?;
    Some((kind(u32_at(record, 4)?), record))
}

/// Where a type of this kind and length names other types (`Documentation/bpf/btf.rst`).
fn references(kind: u32, length: usize) -> impl Iterator<Item = usize> {
    let word = matches!(kind, PTR | TYPEDEF..=PROTO | 14 | 17 | 18).then_some(8);
    let (first, step) = match kind {
        3 => (TYPE_SIZE, 4),
        STRUCT | UNION => (TYPE_SIZE + 4, 12),
        PROTO => (TYPE_SIZE + 4, 8),
        15 => (TYPE_SIZE, 12),
        _ => (length, 1),
    };
    // An array names its element and its index, and then says how many there are.
    let end = if kind == 3 { TYPE_SIZE + 8 } else { length };
    word.into_iter().chain((first..end).step_by(step))
}

/// Where it has texts.
fn texts(kind: u32, length: usize) -> impl Iterator<Item = usize> {
    let step = match kind {
        STRUCT | UNION | 19 => Some(12),
        6 | PROTO => Some(8),
        _ => None,
    };
    let items = step.map(|step| (TYPE_SIZE..length).step_by(step));
    std::iter::once(0).chain(items.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf_build::BtfBuilder;

    /// A kernel whose `task` has an `int` and points at a `file` of its own, and so many types that nobody asks for.
    fn kernel(others: u32) -> KernelBtf {
        let mut btf = BtfBuilder::new();
        let int = btf.signed("int", 4);
        let inode = btf.structure("inode", 64, &[("number", int, 0)]);
        let file = btf.structure("file", 128, &[("inode", inode, 0)]);
        let to_file = btf.pointer(file);
        for number in 0..others {
            btf.structure(&format!("other{number}"), 4, &[("first", int, 0)]);
        }
        btf.structure("task___now", 16, &[("pid", int, 0), ("file", to_file, 8)]);
        btf.structure("mm", 4, &[("count", int, 0)]);
        KernelBtf::parse(&btf.finish()).unwrap()
    }

    fn excerpt(kernel: &KernelBtf, names: &[&str]) -> Excerpt {
        kernel.excerpt(&names.iter().copied().collect())
    }

    #[test]
    fn as_many_types_are_looked_at_in_a_large_kernel_as_in_a_small_one() {
        let [small, large] = [10, 100_000].map(|others| excerpt(&kernel(others), &["task", "mm", "absent"]));
        assert_eq!(small.bytes, large.bytes);
        let ids: Vec<Option<u32>> = (0..=7).map(|number| large.kernel_id(number)).collect();
        assert_eq!(ids, [None, Some(1), Some(3), Some(4), Some(100_005), Some(100_006), None, None]);
    }

    #[test]
    fn an_excerpt_has_what_is_named_and_of_what_is_pointed_at_the_size() {
        let kernel = kernel(3);
        let bytes = excerpt(&kernel, &["task"]).bytes;
        let btf = Btf::open(&bytes).unwrap();
        let names: Vec<&str> = btf.ids().map(|id| btf.name(id)).collect();
        assert_eq!(names, ["int", "", "", "task___now"]);
        assert_eq!(btf.c_name(4), "struct task___now");
        let sizes: Vec<Option<u32>> = btf.ids().map(|id| btf.size(id)).collect();
        assert_eq!(sizes, [Some(4), Some(128), Some(8), Some(16)]);
        // Asked for itself, it is whole, however it is reached.
        let bytes = excerpt(&kernel, &["task", "file"]).bytes;
        let btf = Btf::open(&bytes).unwrap();
        assert_eq!(btf.ids().map(|id| btf.name(id)).collect::<Vec<_>>(), ["int", "inode", "file", "", "task___now"]);
    }

    #[test]
    fn functions_are_found_by_their_whole_names() {
        let mut btf = BtfBuilder::new();
        let int = btf.signed("int", 4);
        let signature = btf.signature(int, &[("of", int)]);
        let found = btf.function("work___later", signature, crate::btf_build::Linkage::Static);
        btf.structure("work", 4, &[]);
        let kernel = KernelBtf::parse(&btf.finish()).unwrap();
        assert_eq!(kernel.function_id("work___later"), Some(found.number()));
        assert_eq!((kernel.function_id("work"), kernel.typedef_id("work___later")), (None, None));
    }
}
