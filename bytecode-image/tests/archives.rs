//! A corpus of damaged and hostile layers, made here: each is refused, with an error that names the cause.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod layers;

use std::fmt::Write as _;

use bytecode_image::{media, unpack::object};
use layers::{gzip, zstd};
use tar::{EntryType, Header};

const ELF: &[u8] = b"\x7fELF and the rest of an object";
const GZIP: &str = media::LAYER_TAR_GZIP;
const TAR: &str = media::LAYER_TAR;
const ZSTD: &str = media::LAYER_TAR_ZSTD;

/// One entry, with a header that may say anything.
fn entry(path: &[u8], kind: u8, bytes: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().unwrap().name.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
    header.set_entry_type(EntryType::new(kind));
    header.set_size(bytes.len().try_into().unwrap());
    header.set_mode(0o644);
    change(&mut header);
    header.set_cksum();
    let mut text = [header.as_bytes().as_slice(), bytes].concat();
    text.resize(text.len().next_multiple_of(512), 0);
    text
}

fn file(path: &str, bytes: &[u8]) -> Vec<u8> {
    entry(path.as_bytes(), b'0', bytes, |_| ())
}

fn special(kind: u8) -> Vec<u8> {
    entry(b"x", kind, b"", |header| header.set_link_name("/etc/passwd").unwrap())
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn good() -> Vec<u8> {
    tar(&[file("x.o", ELF)])
}

fn changed(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    bytes[at] = to;
    bytes
}

fn without_end(mut bytes: Vec<u8>, cut: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - cut);
    bytes
}

/// Beside a good object, so that nothing but the entry is at fault.
fn beside(more: Vec<u8>) -> Vec<u8> {
    tar(&[file("x.o", ELF), more])
}

fn corpus() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let many = |count: usize| (0..count).map(|at| file(&format!("f{at}"), b"text")).collect::<Vec<_>>();
    let pax = |text: &[u8]| entry(b"pax", b'x', text, |_| ());
    vec![
        ("nothing at all", TAR, vec![]),
        ("an empty tar", TAR, vec![0; 1024]),
        ("no object", TAR, tar(&[file("README", b"text")])),
        ("an object in an archive of ar", TAR, b"!<arch>\n".repeat(100)),
        ("two objects", TAR, tar(&[file("a.o", ELF), file("b.o", ELF)])),
        ("the same object twice", TAR, tar(&[file("a.o", ELF), file("a.o", ELF)])),
        ("an object that a directory hides", TAR, tar(&[file("d/a.o", ELF), file("d/e/b.o", ELF)])),
        ("a symbolic link", TAR, beside(special(b'2'))),
        ("a hard link", TAR, beside(special(b'1'))),
        ("a character device", TAR, beside(special(b'3'))),
        ("a block device", TAR, beside(special(b'4'))),
        ("a fifo", TAR, beside(special(b'6'))),
        ("a contiguous file", TAR, beside(special(b'7'))),
        ("a sparse file of GNU", TAR, beside(entry(b"x", b'S', b"", |_| ()))),
        ("an entry of an unknown type", TAR, beside(entry(b"x", b'Z', b"", |_| ()))),
        ("a path with `..`", TAR, tar(&[file("../x.o", ELF)])),
        ("a path with `..` within", TAR, tar(&[file("a/../../x.o", ELF)])),
        ("an absolute path", TAR, tar(&[file("/x.o", ELF)])),
        ("an empty path", TAR, tar(&[file("", ELF)])),
        ("a path that moves a cursor", TAR, tar(&[file("\u{1b}[2Jx.o", ELF)])),
        ("a path that is no text", TAR, tar(&[entry(b"\xff\xfe.o", b'0', ELF, |_| ())])),
        ("a long name of GNU that leaves the layer", TAR, {
            let long = entry(b"././@LongLink", b'L', b"../../etc/x.o\0", |_| ());
            tar(&[long, file("x.o", ELF)])
        }),
        ("a path in a PAX header that leaves the layer", TAR, tar(&[pax(b"18 path=../../x.o\n"), file("x.o", ELF)])),
        ("a size in a PAX header that is not the file's", TAR, tar(&[pax(b"17 size=99999999\n"), file("x.o", ELF)])),
        ("sixty-five files", TAR, tar(&many(65))),
        ("a wrong checksum", TAR, changed(good(), 148, b'7')),
        ("a size that is no number", TAR, changed(good(), 124, b'z')),
        ("a size of 8 GiB", TAR, tar(&[entry(b"x.o", b'0', ELF, |header| header.set_size(8 << 30))])),
        ("a file that is shorter than it says", TAR, {
            without_end(tar(&[entry(b"x.o", b'0', ELF, |header| header.set_size(4096))]), 1024)
        }),
        ("a tar that ends in a header", TAR, good()[..300].to_vec()),
        ("files behind the end", TAR, [good(), good()].concat()),
        ("bytes behind the end", TAR, [good(), b"more".to_vec()].concat()),
        ("gzip that is a plain tar", GZIP, good()),
        ("a plain tar that is gzip", TAR, gzip(&good())),
        ("gzip without its end", GZIP, without_end(gzip(&good()), 4)),
        ("gzip with a wrong checksum", GZIP, {
            let bytes = gzip(&good());
            let at = bytes.len() - 6;
            let other = bytes[at] ^ 1;
            changed(bytes, at, other)
        }),
        ("gzip of another method", GZIP, changed(gzip(&good()), 2, 7)),
        ("gzip with junk behind it", GZIP, [gzip(&good()), b"junk".to_vec()].concat()),
        ("gzip with a second object behind it", GZIP, [gzip(&good()), gzip(&good())].concat()),
        ("empty gzip members without end", GZIP, gzip(b"").repeat(2000)),
        ("40 MiB of zeros in gzip", GZIP, gzip(&vec![0; 40 << 20])),
        ("zstd that is gzip", ZSTD, gzip(&good())),
        ("zstd without its end", ZSTD, without_end(zstd(&good()), 3)),
        ("zstd with junk behind it", ZSTD, [zstd(&good()), b"junk".to_vec()].concat()),
        ("a skippable frame of zstd that is longer than the layer", ZSTD, {
            [b"\x50\x2a\x4d\x18\xff\xff\xff\x7f".to_vec(), zstd(&good())].concat()
        }),
        ("skippable frames without end", ZSTD, b"\x50\x2a\x4d\x18\0\0\0\0".repeat(2000)),
        ("40 MiB of zeros in zstd", ZSTD, zstd(&vec![0; 40 << 20])),
        ("a type that is no layer", "application/vnd.wasm.content.layer.v1+wasm", good()),
        (
            "a type of a layer that is not distributed",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            good(),
        ),
    ]
}

#[test]
fn every_damaged_or_hostile_layer_is_refused_for_its_own_reason() {
    let (mut report, mut accepted) = (String::new(), vec![]);
    let corpus = corpus();
    assert!(corpus.len() >= 30);
    for (what, media_type, layer) in corpus {
        match object(media_type, &layer) {
            Ok(_) => accepted.push(what),
            Err(error) => {
                let mut text = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    write!(text, ": {error}").unwrap();
                    cause = error.source();
                }
                writeln!(report, "{what}: {}", text.escape_debug()).unwrap();
            }
        }
    }
    assert!(accepted.is_empty(), "{accepted:?}");
    insta::assert_snapshot!(report);
    // Nothing but what was done to it is at fault.
    for (media_type, layer) in [(TAR, good()), (GZIP, gzip(&good())), (ZSTD, zstd(&good()))] {
        assert_eq!(object(media_type, &layer).unwrap().object, ELF);
    }
}
