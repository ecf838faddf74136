//! Building: the same in, the same out; what is built is read back by this crate's own reader; and the object's image has
//! golden digests, which hold the compressor too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{error::Error, fmt::Write};

use bytecode_image::{
    build::{Architecture, BuildError, BuiltImage, Compression, DEFAULT_PATH, Entry, Recipe, build, build_as, index},
    config::ImageConfig,
    describe::{DescribeError, describe},
    digest::Digest,
    document::{Document, Manifest},
    label::{self, Endian, Generation, Label, Scalar},
    limits, media,
    metadata::{Metadata, MetadataError},
    reference::Reference,
    resolve::{Platform, Selected, choose},
    summary::{self, summary},
    unpack,
};
use ebpf::inspect::{self, inspect};
use serde_json::Value;

const OBJECT: &[u8] = include_bytes!("objects/counter.o");
/// The same source, compiled with `-target bpfeb`.
const BIG_ENDIAN: &[u8] = include_bytes!("objects/counter.eb.o");

const METADATA: &str = r#"
name = "xdp-counter"
version = "1.4.0"
license = "GPL-2.0-only OR BSD-2-Clause"
[programs.xdp_stats]
priority = 50
mode = "native"
doc = "per-CPU counters"
[programs.tc_count]
proceed_on = ["pipe", "dispatcher_return"]
[programs.let_through]
type = "xdp"
[globals.sample_rate]
min = 1
max = 65535
doc = "1 in N"
[requires]
kernel = ">=5.8"
"#;

fn amd64() -> Architecture {
    "amd64".parse().unwrap()
}

fn recipe<'a>(architecture: &'a Architecture, metadata: &'a Metadata) -> Recipe<'a> {
    Recipe { object: OBJECT, path: DEFAULT_PATH, architecture, metadata, epoch: None }
}

fn built(metadata: &Metadata) -> BuiltImage {
    build(&recipe(&amd64(), metadata)).unwrap()
}

fn full() -> Metadata {
    Metadata::parse(METADATA).unwrap()
}

#[test]
fn the_same_input_has_the_golden_digests() {
    let image = built(&full());
    assert_eq!(image, built(&full()));
    insta::assert_snapshot!(format!(
        "object {}\nlayer {} ({} bytes)\nconfig {}\nmanifest {}\n\n{}\n",
        Digest::of(OBJECT),
        image.layer_descriptor().digest,
        image.layer.len(),
        image.config_descriptor().digest,
        image.descriptor().digest,
        String::from_utf8(image.manifest).unwrap(),
    ));
}

#[test]
fn the_labels_say_what_the_object_and_the_metadata_say() {
    let config = ImageConfig::parse(&built(&full()).config).unwrap();
    let mut report = String::new();
    for (key, text) in &config.labels {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => writeln!(report, "{key} =\n{}", serde_json::to_string_pretty(&value).unwrap()).unwrap(),
            Err(_) => writeln!(report, "{key} = {text}").unwrap(),
        }
    }
    insta::assert_snapshot!(report);
}

#[test]
fn what_is_built_is_read_back_and_agrees_with_its_object() {
    for metadata in [Metadata::default(), full()] {
        let image = built(&metadata);
        let unpacked = unpack::object(media::LAYER_TAR_GZIP, &image.layer).unwrap();
        assert_eq!((unpacked.path.as_str(), unpacked.object.as_slice()), (DEFAULT_PATH, OBJECT));
        let document = Document::new(media::MANIFEST, image.manifest.clone());
        let reference: Reference = "reg.acme/bpf/xdp:v1".parse().unwrap();
        let selected = Selected::alone(&reference, document).unwrap();
        assert_eq!(selected.layer().unwrap(), &image.layer_descriptor());
        assert_eq!(selected.config(), &image.config_descriptor());
        let labels = ImageConfig::parse(&image.config).unwrap().labels;
        let labelled = label::read(&labels).unwrap().unwrap();
        assert_eq!(labelled.generation, Generation::Bytecode);
        labelled.check_against(Digest::of(OBJECT), &inspect(OBJECT).unwrap()).unwrap();
        // bpfman reads these two and nothing else.
        let older = labels.into_iter().filter(|(key, _)| key.starts_with("io.ebpf.")).collect();
        let labelled = label::read(&older).unwrap().unwrap();
        assert_eq!(labelled.generation, Generation::Ebpf);
        labelled.check_against(Digest::of(OBJECT), &inspect(OBJECT).unwrap()).unwrap();
    }
}

#[test]
fn every_object_of_the_reader_s_tests_that_can_be_read_can_be_built_and_read_back() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/tests/objects");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let object = std::fs::read(&path).unwrap();
        let Ok(read) = inspect(&object) else { continue };
        let image = build(&Recipe { object: &object, ..recipe(&amd64(), &Metadata::default()) }).unwrap();
        let labels = ImageConfig::parse(&image.config).unwrap().labels;
        let labelled = label::read(&labels).unwrap().unwrap();
        labelled.check_against(Digest::of(&object), &read).unwrap();
        count += 1;
    }
    assert!(count >= 8, "{count} objects");
}

#[test]
fn the_date_and_the_architecture_are_all_that_changes_with_them() {
    let metadata = full();
    let plain = built(&metadata);
    assert!(!String::from_utf8_lossy(&plain.config).contains("created"));
    let dated = build(&Recipe { epoch: Some(1_700_000_000), ..recipe(&amd64(), &metadata) }).unwrap();
    assert_eq!(dated.layer, plain.layer);
    let config: Value = serde_json::from_slice(&dated.config).unwrap();
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    let arm64 = "arm64".parse().unwrap();
    let other = build(&recipe(&arm64, &metadata)).unwrap();
    assert_eq!(other.layer, plain.layer);
    assert_ne!(other.config, plain.config);
}

#[test]
fn an_index_gives_each_platform_and_kernel_its_image() {
    let (amd64, arm64) = (amd64(), "arm64".parse().unwrap());
    let (new, old) = (built(&full()), built(&Metadata::default()));
    let arm = build(&recipe(&arm64, &full())).unwrap();
    let entry = |architecture, kernel, image| Entry { architecture, kernel, image };
    let bytes =
        index(&[entry(&amd64, Some(">=6.4"), &new), entry(&amd64, None, &old), entry(&arm64, None, &arm)]).unwrap();
    let Manifest::Index(read) = Document::new(media::INDEX, bytes).parse().unwrap() else { panic!("index") };
    for (architecture, kernel, image) in [("amd64", (6, 12), &new), ("amd64", (6, 1), &old), ("arm64", (5, 15), &arm)] {
        let wanted = Platform { architecture: architecture.to_owned(), kernel: Some(kernel) };
        assert_eq!(choose(&read, &wanted).unwrap().descriptor.digest, image.descriptor().digest, "{wanted}");
    }
    assert!(matches!(index(&[]), Err(BuildError::EmptyIndex)));
    let twice = index(&[entry(&amd64, None, &old), entry(&amd64, None, &new)]).unwrap_err();
    assert_eq!(twice.to_string(), "two images for `linux/amd64`: give each its own kernel requirement");
    assert!(matches!(index(&[entry(&amd64, Some("6.4"), &new)]), Err(BuildError::Kernel(text)) if text == "6.4"));
}

#[test]
fn what_cannot_be_built_says_why() {
    let metadata = Metadata::default();
    let amd64 = amd64();
    let of = |object: &[u8], path: &str| build(&Recipe { object, path, ..recipe(&amd64, &metadata) }).unwrap_err();
    let large = vec![0; usize::try_from(limits::OBJECT).unwrap() + 1];
    assert!(matches!(of(&large, "x.o"), BuildError::TooLarge(_)));
    assert!(matches!(of(b"not ELF", "x.o"), BuildError::Inspect(_)));
    for path in ["", ".", "..", "a/b", "a b", "a\u{1b}", &"x".repeat(101)] {
        assert!(matches!(of(OBJECT, path), BuildError::Path(_)), "{path:?}");
    }
    assert_eq!(
        "x86_64".parse::<Architecture>().unwrap_err().to_string(),
        "`x86_64` is not an architecture; it is one of 386, amd64, arm, arm64, loong64, mips, mips64, mips64le, mipsle, ppc64, ppc64le, riscv64, s390x"
    );
    assert_eq!(
        of(BIG_ENDIAN, "x.o").to_string(),
        "the object is big-endian, and `amd64` is not: compile it with `-target bpfel`"
    );
    let s390x = "s390x".parse().unwrap();
    assert_eq!(
        build(&recipe(&s390x, &metadata)).unwrap_err().to_string(),
        "the object is little-endian, and `s390x` is not: compile it with `-target bpfeb`"
    );
}

/// What the label of an object says, with the object itself and the byte order left out.
fn described(object: &[u8]) -> Label {
    let label = describe(&inspect::describe(object).unwrap(), Digest::of(object), "x.o", &full()).unwrap();
    Label { object: None, ..label }
}

#[test]
fn an_object_of_the_other_byte_order_is_described_as_its_twin_is() {
    let (little, big) = (described(OBJECT), described(BIG_ENDIAN));
    assert!(!big.globals.is_empty() && big.globals.iter().any(|global| global.default == Some(Scalar::Integer(100))));
    assert_eq!(little, big);

    let s390x: Architecture = "s390x".parse().unwrap();
    let image = build(&Recipe { object: BIG_ENDIAN, ..recipe(&s390x, &full()) }).unwrap();
    let config = ImageConfig::parse(&image.config).unwrap();
    let label = label::read(&config.labels).unwrap().unwrap().label;
    assert_eq!(label.object.unwrap().endian, Some(Endian::Big));
    // The label is compared with the object, its byte order too.
    summary::read(BIG_ENDIAN, &config.labels).unwrap();
    let Err(error) = summary::read(OBJECT, &config.labels) else { panic!("another object's labels") };
    assert!(error.source().unwrap().to_string().contains("sha256 of the object"), "{error:?}");
}

#[test]
fn an_index_with_both_byte_orders_gives_each_host_its_own() {
    let (amd64, s390x) = (amd64(), "s390x".parse().unwrap());
    let big = build(&Recipe { object: BIG_ENDIAN, ..recipe(&s390x, &full()) }).unwrap();
    let (new, old) = (built(&full()), built(&Metadata::default()));
    let entry = |architecture, kernel, image| Entry { architecture, kernel, image };
    let chosen = |entries: &[Entry<'_>], architecture: &str| {
        let Manifest::Index(read) = Document::new(media::INDEX, index(entries).unwrap()).parse().unwrap() else {
            panic!("index")
        };
        let wanted = Platform { architecture: architecture.to_owned(), kernel: Some((5, 15)) };
        choose(&read, &wanted).map(|entry| entry.descriptor.digest).map_err(|error| error.to_string())
    };
    let all = [entry(&s390x, None, &big), entry(&amd64, Some(">=6.4"), &new), entry(&amd64, Some(">=5.8"), &old)];
    assert_eq!(chosen(&all, "s390x"), Ok(big.descriptor().digest));
    assert_eq!(chosen(&all, "amd64"), Ok(old.descriptor().digest));
    assert_eq!(
        chosen(&all[..2], "amd64").unwrap_err(),
        "the image has no variant for `linux/amd64` with kernel 5.15: those for the architecture need a newer kernel; \
         it has: linux/s390x (big-endian), linux/amd64 for kernel >=6.4"
    );
    assert_eq!(
        chosen(&all[..1], "amd64").unwrap_err(),
        "the image has no variant for `linux/amd64` with kernel 5.15: all are of the other byte order; \
         it has: linux/s390x (big-endian)"
    );
}

#[test]
fn a_damaged_object_of_the_other_byte_order_is_refused_without_a_panic() {
    let good = BIG_ENDIAN;
    for length in 0..good.len() {
        assert!(inspect::describe(&good[..length]).is_err(), "{length}");
    }
    // Every byte of the file's header, of the table of sections and of the types, each with the values that break bounds.
    let mut read = 0;
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = good.to_vec();
            damaged[at] = value;
            read += usize::from(inspect::describe(&damaged).is_ok());
        }
    }
    assert!(read > 1000, "{read}");
}

#[test]
fn metadata_that_contradicts_the_object_is_refused() {
    let object = inspect(OBJECT).unwrap();
    let of = |text: &str| {
        let metadata = Metadata::parse(text).unwrap();
        describe(&object, Digest::of(OBJECT), "x.o", &metadata).unwrap_err()
    };
    for (text, message) in [
        ("[programs.nobody]\n", "metadata names program `nobody`, which the object does not have"),
        ("[globals.nothing]\n", "metadata names global `nothing`, which the object does not have"),
        (
            "[programs.xdp_stats]\ntype = \"tc\"\n",
            "metadata gives program `xdp_stats` the type `tc`; its section `xdp` says otherwise",
        ),
    ] {
        assert_eq!(of(text).to_string(), message);
    }
    assert!(matches!(of("[programs.xdp_stats]\nproceed_on = [\"pipe\"]\n"), DescribeError::Label(_)));
    assert!(matches!(of("version = \"1\\u001b[2J\"\n"), DescribeError::Label(_)));
}

#[test]
fn a_metadata_file_with_an_unknown_key_is_refused_with_its_place() {
    let of = |text: &str| Metadata::parse(text).unwrap_err().to_string();
    assert!(of("name = \"x\"\nversoin = \"1\"\n").starts_with("line 2, column 1: unknown field `versoin`"));
    assert!(of("[programs.x]\nproceed_on = [\"passs\"]\n").starts_with("line 2, column 15: unknown variant `passs`"));
    assert!(of("name = \"Up\"\n").starts_with("line 1, column 8: `Up` is not a name"));
    assert_eq!(
        of("[programs.x]\ntype = \"lsm\"\n"),
        "line 2, column 8: no program kind `lsm`; it is one of `xdp`, `tc`, `tracepoint`, `raw_tracepoint`, `kprobe`, `kretprobe`, `fentry`, `fexit`"
    );
    assert_eq!(of("[programs.x]\npriority = 1001\n"), "line 2, column 12: priority 1001 is not one from 0 to 1000");
    assert_eq!(
        of("[requires]\nkernel = \"6.4\"\n"),
        "line 2, column 10: `6.4` is not a kernel requirement: write `>=6.4`"
    );
    assert!(matches!(Metadata::parse(&"#".repeat(70_000)), Err(MetadataError::TooLong(70_000))));
}

#[test]
fn a_label_too_long_with_its_globals_is_written_without_them() {
    let object = inspect(OBJECT).unwrap();
    let mut many = object.clone();
    let pattern = object.globals[0].clone();
    many.globals = (0..600)
        .map(|number| {
            let mut global = pattern.clone();
            global.name = format!("{}_{number}", "a_rather_long_name_of_a_global_variable".repeat(2));
            global
        })
        .collect();
    let label = describe(&many, Digest::of(OBJECT), "x.o", &full_without_globals()).unwrap();
    assert!(label.globals.is_empty() && label.programs.len() == 5);
}

fn full_without_globals() -> Metadata {
    let mut metadata = full();
    metadata.globals.clear();
    metadata
}

#[test]
fn values_of_globals_are_read_with_their_sign_and_width() {
    let label = describe(&inspect(OBJECT).unwrap(), Digest::of(OBJECT), "x.o", &Metadata::default()).unwrap();
    let of = |name: &str| label.globals.iter().find(|global| global.name == name).unwrap().default.clone();
    assert_eq!(of("sample_rate"), Some(Scalar::Integer(100)));
    assert_eq!(of("shift"), Some(Scalar::Integer(-3)));
    assert_eq!(of("huge"), Some(Scalar::Text("18446744073709551615".to_owned())));
    assert_eq!(of("enabled"), Some(Scalar::Bool(true)));
    assert_eq!(of("device"), None);
}

#[test]
fn a_summary_shows_the_object_and_remarks_on_what_is_missing() {
    let object = inspect(OBJECT).unwrap();
    let labels =
        |metadata: &Metadata| label::read(&ImageConfig::parse(&built(metadata).config).unwrap().labels).unwrap();
    let shown = summary(Digest::of(OBJECT), OBJECT.len(), &object, labels(&full()).as_ref());
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap());
    let remarks = |labelled: Option<&label::Labelled>| {
        let remarks = summary(Digest::of(OBJECT), OBJECT.len(), &object, labelled).remarks;
        remarks.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        remarks(None),
        [
            "the image has no labels: priority and proceed-on will be the defaults, and nothing tells its version",
            "the section of program `let_through` names no type: give it at each load, or in the label",
        ]
    );
    assert_eq!(
        remarks(labels(&Metadata::default()).as_ref()),
        [
            "the label has no name: an app is then named after the file or the repository",
            "the label has no version: a downgrade cannot be told from an update",
            "the label has no licence",
            "the section of program `let_through` names no type: give it at each load, or in the label",
        ]
    );
}

#[test]
fn every_compression_is_read_back_and_has_its_own_golden_layer() {
    let (amd64, metadata) = (amd64(), full());
    let recipe = recipe(&amd64, &metadata);
    let mut configs = std::collections::BTreeSet::new();
    for compression in [Compression::Gzip, Compression::Stored, Compression::Zstd] {
        let image = build_as(&recipe, compression).unwrap();
        assert_eq!(image, build_as(&recipe, compression).unwrap());
        let layer = image.layer_descriptor();
        let wanted = match compression {
            Compression::Gzip | Compression::Stored => media::LAYER_TAR_GZIP,
            Compression::Zstd => media::LAYER_TAR_ZSTD,
        };
        assert_eq!(layer.media_type, wanted);
        let Ok(Manifest::Image(manifest)) = Document::new(media::MANIFEST, image.manifest.clone()).parse() else {
            panic!("no image")
        };
        assert_eq!(manifest.layers[0].descriptor, layer);
        assert_eq!(unpack::object(&layer.media_type, &image.layer).unwrap().object, OBJECT);
        configs.insert(image.config);
    }
    assert_eq!(configs.len(), 1, "what is in the layer does not depend on how it is compressed");
    // Stored blocks hold the tar as it is, whatever compressor wrote them.
    let stored = build_as(&recipe, Compression::Stored).unwrap().layer;
    assert!(stored.windows(4).any(|window| window == b"\x7fELF"));
}
