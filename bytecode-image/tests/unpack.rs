//! Layers, good and hostile: each hostile one has an error of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod layers;

use bytecode_image::{
    limits, media,
    unpack::{UnpackError, Unpacked, object},
};
use layers::{gzip, zstd};
use tar::{EntryType, Header};

const ELF: &[u8] = b"\x7fELF and the rest of an object";

enum Entry<'a> {
    File(&'a str, &'a [u8]),
    Directory(&'a str),
    Special(&'a str, EntryType),
}

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let (path, kind, bytes): (_, _, &[u8]) = match entry {
            Entry::File(path, bytes) => (path, EntryType::Regular, bytes),
            Entry::Directory(path) => (path, EntryType::Directory, &[]),
            Entry::Special(path, kind) => (path, *kind, &[]),
        };
        let mut header = Header::new_ustar();
        // Written by hand: `set_path` refuses the paths that a hostile builder writes.
        header.as_ustar_mut().unwrap().name.iter_mut().zip(path.bytes()).for_each(|(to, from)| *to = from);
        header.set_entry_type(kind);
        header.set_size(bytes.len().try_into().unwrap());
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn refuse(tar: &[u8]) -> UnpackError {
    object(media::LAYER_TAR_GZIP, &gzip(tar)).unwrap_err()
}

#[test]
fn the_one_elf_is_found_in_every_kind_of_layer() {
    let tar = tar_of(&[
        Entry::Directory("./"),
        Entry::File("./x.o", ELF),
        Entry::Directory("btf"),
        Entry::File("btf/6.1.btf", b"BTF"),
    ]);
    let expected = Unpacked { path: "./x.o".to_owned(), object: ELF.to_vec() };
    let cut = tar.len() / 2;
    let two_members = [gzip(&tar[..cut]), gzip(&tar[cut..])].concat();
    let skippable: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let two_frames = [skippable, &zstd(&tar[..cut]), skippable, &zstd(&tar[cut..])].concat();
    for (media_type, layer) in [
        (media::LAYER_TAR, tar.clone()),
        (media::DOCKER_LAYER_TAR, tar.clone()),
        (media::LAYER_TAR_GZIP, gzip(&tar)),
        (media::DOCKER_LAYER_TAR_GZIP, two_members),
        (media::LAYER_TAR_ZSTD, zstd(&tar)),
        (media::DOCKER_LAYER_TAR_ZSTD, two_frames),
    ] {
        assert_eq!(object(media_type, &layer).unwrap(), expected, "{media_type}");
    }
}

#[test]
fn two_elf_files_are_refused() {
    let error = refuse(&tar_of(&[Entry::File("a.o", ELF), Entry::File("b.o", ELF)]));
    assert_eq!(error.to_string(), "layer has two ELF files, `a.o` and `b.o`: an image carries one object");
}

#[test]
fn no_elf_file_is_refused() {
    assert!(matches!(refuse(&tar_of(&[Entry::File("a.o", b"\x7fEL"), Entry::File("b", b"")])), UnpackError::NoElf));
    assert!(matches!(refuse(&[]), UnpackError::NoElf));
}

#[test]
fn links_and_devices_are_refused_even_beside_a_good_object() {
    for (kind, link) in [
        (EntryType::Symlink, true),
        (EntryType::Link, true),
        (EntryType::Char, false),
        (EntryType::Block, false),
        (EntryType::Fifo, false),
        (EntryType::GNUSparse, false),
        (EntryType::Continuous, false),
    ] {
        match refuse(&tar_of(&[Entry::File("a.o", ELF), Entry::Special("x", kind)])) {
            UnpackError::Link(path) => assert!(link && path == "x", "{kind:?}"),
            UnpackError::EntryType { path, .. } => assert!(!link && path == "x", "{kind:?}"),
            // The tar reader itself refuses a sparse file without a map.
            UnpackError::Tar(_) => assert_eq!(kind, EntryType::GNUSparse),
            other => panic!("{kind:?}: {other}"),
        }
    }
}

#[test]
fn paths_that_leave_the_layer_are_refused() {
    for path in ["../x.o", "/x.o", "a/../../x.o", "a\x1b[2J.o"] {
        let error = refuse(&tar_of(&[Entry::File(path, ELF)]));
        assert!(matches!(&error, UnpackError::Path(written) if *written == format!("{path:?}")), "{path:?}: {error}");
    }
}

#[test]
fn the_sixty_fifth_entry_is_refused() {
    let names: Vec<String> = (1..=64).map(|number| format!("f{number}")).collect();
    let mut entries: Vec<Entry<'_>> = names.iter().map(|name| Entry::File(name, b"x")).collect();
    entries[0] = Entry::File("x.o", ELF);
    assert!(object(media::LAYER_TAR, &tar_of(&entries)).is_ok());
    entries.push(Entry::File("one more", b"x"));
    assert!(matches!(refuse(&tar_of(&entries)), UnpackError::Entries));
}

#[test]
fn two_hundred_mebibytes_of_zeros_are_a_bomb() {
    let zeros = vec![0; 200 << 20];
    let in_a_file = tar_of(&[Entry::File("x.o", ELF), Entry::File("zeros", &zeros)]);
    let behind_the_end = [tar_of(&[Entry::File("x.o", ELF)]), zeros].concat();
    for tar in [in_a_file, behind_the_end] {
        let layer = gzip(&tar);
        let encoded = u64::try_from(layer.len()).unwrap();
        let error = object(media::LAYER_TAR_GZIP, &layer).unwrap_err();
        assert!(
            matches!(error, UnpackError::Bomb { encoded: e, allowed } if e == encoded && allowed <= 200 * encoded && allowed <= 32 << 20),
            "{error}"
        );
    }
}

#[test]
fn the_ratio_binds_only_above_one_mebibyte() {
    let object_of = |zeros: usize| [ELF, &vec![0; zeros]].concat();
    let just_below = tar_of(&[Entry::File("x.o", &object_of((1 << 20) - 4096))]);
    assert!(object(media::LAYER_TAR_GZIP, &gzip(&just_below)).is_ok());
    let above = tar_of(&[Entry::File("x.o", &object_of(3 << 20))]);
    assert!(matches!(refuse(&above), UnpackError::Bomb { .. }));
    assert!(object(media::LAYER_TAR, &above).is_ok(), "the same bytes, not compressed");
}

#[test]
fn an_object_over_the_limit_is_refused_before_it_is_read() {
    let size = limits::OBJECT + 1;
    let mut header = Header::new_ustar();
    header.set_path("x.o").unwrap();
    header.set_size(size);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    let tar = [header.as_bytes().as_slice(), ELF].concat();
    let error = object(media::LAYER_TAR, &tar).unwrap_err();
    assert!(matches!(error, UnpackError::ObjectTooLarge { size: s, .. } if s == size), "{error}");
}

#[test]
fn a_truncated_layer_is_refused_at_every_length() {
    let tar = tar_of(&[Entry::File("x.o", ELF)]);
    let whole = gzip(&tar);
    for length in 1..whole.len() {
        let error = object(media::LAYER_TAR_GZIP, &whole[..length]).unwrap_err();
        assert!(matches!(error, UnpackError::Truncated), "gzip cut to {length}: {error}");
    }
    let whole = zstd(&tar);
    for length in 1..whole.len() {
        let error = object(media::LAYER_TAR_ZSTD, &whole[..length]).unwrap_err();
        assert!(matches!(error, UnpackError::Truncated | UnpackError::Corrupt(_)), "zstd cut to {length}: {error}");
    }
    let error = object(media::LAYER_TAR, &tar[..512 + 10]).unwrap_err();
    assert!(matches!(error, UnpackError::TarTruncated(ref path) if path == "x.o"), "{error}");
}

#[test]
fn a_flipped_bit_in_gzip_and_a_wrong_media_type_are_refused() {
    let tar = tar_of(&[Entry::File("x.o", ELF)]);
    let mut layer = gzip(&tar);
    let crc = layer.len() - 8;
    layer[crc] ^= 1;
    assert!(matches!(object(media::LAYER_TAR_GZIP, &layer), Err(UnpackError::Corrupt(_))));
    assert!(matches!(object(media::LAYER_TAR_GZIP, &tar), Err(UnpackError::Corrupt(_))));
    assert!(matches!(object(media::LAYER_TAR_ZSTD, &tar), Err(UnpackError::Corrupt(_))));
    assert!(matches!(object(media::LAYER_TAR, &gzip(&tar)), Err(UnpackError::Tar(_))));
    assert!(matches!(object(media::CONFIG, &tar), Err(UnpackError::MediaType(name)) if name == media::CONFIG));
}

#[test]
fn files_behind_the_end_of_the_tar_are_refused() {
    let tar = [tar_of(&[Entry::File("x.o", ELF)]), tar_of(&[Entry::File("y.o", ELF)])].concat();
    assert!(matches!(refuse(&tar), UnpackError::Trailing));
}

#[test]
fn streams_without_end_are_refused() {
    let tar = tar_of(&[Entry::File("a.o", ELF)]);
    let skippable: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    for (media_type, whole, empty) in [
        (media::LAYER_TAR_GZIP, gzip(&tar), gzip(b"")),
        (media::LAYER_TAR_ZSTD, zstd(&tar), zstd(b"")),
        (media::LAYER_TAR_ZSTD, zstd(&tar), skippable.to_vec()),
    ] {
        let with = |more: usize| object(media_type, &[whole.clone(), empty.repeat(more)].concat());
        assert!(with(limits::STREAMS - 1).is_ok(), "{media_type}");
        assert!(matches!(with(limits::STREAMS), Err(UnpackError::Streams)), "{media_type}");
    }
}

#[test]
fn a_zstd_window_of_more_than_eight_mebibytes_is_refused() {
    // Magic, frame header descriptor 0, window descriptor: 1 << (10 + 14) bytes; then one last raw block without content.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3, 1, 0, 0];
    assert!(matches!(object(media::LAYER_TAR_ZSTD, &frame), Err(UnpackError::Corrupt(_))));
    let smaller = [0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3, 1, 0, 0];
    assert!(matches!(object(media::LAYER_TAR_ZSTD, &smaller), Err(UnpackError::NoElf)));
}

#[test]
fn seeded_mutations_of_a_layer_never_panic() {
    let tar = tar_of(&[Entry::Directory("d"), Entry::File("d/x.o", ELF), Entry::File("LICENSE", b"text")]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let mut refused = 0;
    for (media_type, whole) in
        [(media::LAYER_TAR, tar.clone()), (media::LAYER_TAR_GZIP, gzip(&tar)), (media::LAYER_TAR_ZSTD, zstd(&tar))]
    {
        for _ in 0..3000 {
            let mut layer = whole.clone();
            for _ in 0..=next(3) {
                let at = next(layer.len());
                layer[at] = u8::try_from(next(256)).unwrap();
            }
            layer.truncate(layer.len() - next(2) * next(layer.len()));
            refused += usize::from(object(media_type, &layer).is_err());
        }
    }
    assert!(refused > 3000, "mutations are noticed: {refused}");
}
