//! Objects with as many programs and maps as are read, and with one more. They are made here: no compiler writes 129 programs by
//! itself, and what counts is their number.

#![expect(clippy::unwrap_used, reason = "test helpers stop the test, as a test function may")]

use std::error::Error;

use ebpf::btf_build::{BtfBuilder, Linkage};
use ebpf::functions::MAX_PROGRAMS;
use ebpf::inspect::inspect;
use ebpf::maps::MAX_MAPS;

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const ALLOC: u64 = 2;
const EXECINSTR: u64 = 4;
/// A global object and a global function, as `st_info` says it.
const OBJECT: u8 = 0x11;
const FUNCTION: u8 = 0x12;

/// `r0 = XDP_PASS; exit`.
const PASS: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// `struct bpf_map_def` of an array: type, key, value, entries, flags.
const ARRAY: [u8; 20] = [2, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// A section: kind, flags, where its name is, index of the one it goes with, bytes of an entry, bytes.
#[derive(Default)]
struct Section {
    kind: u32,
    flags: u64,
    name: u32,
    link: u32,
    entry: u64,
    bytes: Vec<u8>,
}

/// An ELF object under construction (elf(5)).
struct Elf {
    sections: Vec<Section>,
    symbols: Vec<u8>,
    strings: Vec<u8>,
}

impl Elf {
    fn new() -> Self {
        Self { sections: vec![Section::default()], symbols: vec![0; 24], strings: vec![0] }
    }

    fn string(&mut self, text: &str) -> u32 {
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn section(&mut self, name: &str, flags: u64, bytes: Vec<u8>) {
        let name = self.string(name);
        self.sections.push(Section { kind: PROGBITS, flags, name, bytes, ..Section::default() });
    }

    /// A section of this many times `each`, with a symbol for each.
    fn repeated(mut self, name: &str, flags: u64, each: &[u8], info: u8, symbol: &str, count: usize) -> Self {
        let section = u16::try_from(self.sections.len()).unwrap();
        for number in 0..count {
            let label = self.string(&format!("{symbol}_{number}"));
            self.symbols.extend(label.to_le_bytes());
            self.symbols.extend([info, 0]);
            self.symbols.extend(section.to_le_bytes());
            self.symbols.extend(u64::try_from(number * each.len()).unwrap().to_le_bytes());
            self.symbols.extend(u64::try_from(each.len()).unwrap().to_le_bytes());
        }
        self.section(name, flags, each.repeat(count));
        self
    }

    fn programs(self, count: usize) -> Self {
        self.repeated("xdp", ALLOC | EXECINSTR, &PASS, FUNCTION, "program", count)
    }

    fn legacy_maps(self, count: usize) -> Self {
        self.repeated("maps", ALLOC, &ARRAY, OBJECT, "legacy", count)
    }

    fn btf_maps(mut self, count: usize) -> Self {
        let mut btf = BtfBuilder::new();
        let int = btf.unsigned("int", 4);
        let array = btf.array(int, int, 2);
        let kind = btf.pointer(array);
        let map = btf.structure("map", 8, &[("type", kind, 0)]);
        let maps: Vec<_> = (0..count)
            .map(|number| {
                let offset = u32::try_from(number * 8).unwrap();
                (btf.variable(&format!("map_{number}"), map, Linkage::Global), offset, 8)
            })
            .collect();
        let size = u32::try_from(count * 8).unwrap();
        btf.section(".maps", size, &maps);
        self.section(".BTF", 0, btf.finish());
        self.repeated(".maps", ALLOC, &[0; 8], OBJECT, "map", count)
    }

    fn finish(mut self) -> Vec<u8> {
        let strings = u32::try_from(self.sections.len() + 1).unwrap();
        let (symtab, strtab) = (self.string(".symtab"), self.string(".strtab"));
        let symbols = Section { kind: SYMTAB, name: symtab, link: strings, entry: 24, ..Section::default() };
        self.sections.push(Section { bytes: self.symbols, ..symbols });
        self.sections.push(Section { kind: STRTAB, name: strtab, bytes: self.strings, ..Section::default() });

        let mut body = Vec::new();
        let mut headers = Vec::new();
        for Section { kind, flags, name, link, entry, bytes } in &self.sections {
            let words = |value: usize| u64::try_from(value).unwrap().to_le_bytes();
            headers.extend(name.to_le_bytes());
            headers.extend(kind.to_le_bytes());
            headers.extend(flags.to_le_bytes());
            headers.extend(words(0));
            headers.extend(words(64 + body.len()));
            headers.extend(words(bytes.len()));
            headers.extend(link.to_le_bytes());
            // Of the symbol table: its first symbol that is not local.
            headers.extend(1_u32.to_le_bytes());
            headers.extend(words(8));
            headers.extend(entry.to_le_bytes());
            body.extend(bytes);
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        elf.extend([1, 0, 247, 0, 1, 0, 0, 0]);
        elf.extend([0; 16]);
        elf.extend(u64::try_from(64 + body.len()).unwrap().to_le_bytes());
        elf.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0]);
        elf.extend(u16::try_from(self.sections.len()).unwrap().to_le_bytes());
        elf.extend(u16::try_from(strings).unwrap().to_le_bytes());
        elf.extend(body);
        elf.extend(headers);
        elf
    }
}

/// How many programs and maps are read.
fn read(elf: Elf) -> (usize, usize) {
    let object = inspect(&elf.finish()).unwrap();
    (object.programs.len(), object.maps.len())
}

fn refused(elf: Elf) -> String {
    let error = inspect(&elf.finish()).unwrap_err();
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn an_object_has_at_most_128_programs() {
    assert_eq!(read(Elf::new().programs(MAX_PROGRAMS)), (128, 0));
    assert_eq!(refused(Elf::new().programs(MAX_PROGRAMS + 1)), "129 programs are more than the limit of 128");
}

#[test]
fn an_object_has_at_most_256_maps_however_they_are_defined() {
    let refusal = "257 maps are more than the limit of 256";
    assert_eq!(read(Elf::new().btf_maps(MAX_MAPS)), (0, 256));
    assert_eq!(refused(Elf::new().btf_maps(MAX_MAPS + 1)), refusal);
    assert_eq!(read(Elf::new().legacy_maps(MAX_MAPS)), (0, 256));
    assert_eq!(refused(Elf::new().legacy_maps(MAX_MAPS + 1)), refusal);
    // Both together too.
    assert_eq!(read(Elf::new().btf_maps(200).legacy_maps(56)), (0, 256));
    assert_eq!(refused(Elf::new().btf_maps(200).legacy_maps(57)), refusal);
}

#[test]
fn an_object_may_have_as_much_of_both() {
    assert_eq!(read(Elf::new().programs(MAX_PROGRAMS).btf_maps(MAX_MAPS)), (128, 256));
}
