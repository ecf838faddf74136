//! `bpfctl image build`: an image from ELF objects, the same bytes for the same input.

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use bytecode_image::build::{self, Architecture, BuiltImage, Compression, DEFAULT_PATH, Entry, Recipe};
use bytecode_image::config::ImageConfig;
use bytecode_image::digest::Descriptor;
use bytecode_image::media;
use bytecode_image::metadata::Metadata;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use bytecode_image::store::{Fetched, Ingest, Landed, Store};
use bytecode_image::summary::{self, Remark};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::workshop::{Workshop, failed};
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain, warn};
use crate::files;
use crate::output::{Block, View};

/// Build an image from ELF objects, into a store of your own
#[derive(Debug, Args)]
#[command(after_help = "\
The same objects, metadata and SOURCE_DATE_EPOCH give the same digest on every machine. Several objects make an index: one \
program for several architectures or kernels.

Examples:
  bpfctl image build counter.o --tag registry/bpf/counter:1.2.0 --metadata bytecode.toml
  bpfctl image build amd64=x86/counter.o arm64=arm/counter.o --tag registry/bpf/counter:1.2.0
  bpfctl image build amd64:6.4=new.o amd64=old.o --tag registry/bpf/counter:1.2.0
  bpfctl image build amd64=little.o s390x=big.o --tag registry/bpf/counter:1.2.0
  bpfctl image build counter.o --tag registry/bpf/counter:1.2.0 --compression zstd")]
pub(super) struct Build {
    /// An ELF object; for several, the architecture as Go names it and the oldest kernel
    #[arg(value_name = "[ARCH[:KERNEL]=]FILE", required = true, num_args = 1..=16)]
    object: Vec<Input>,
    /// The name to give it, with the registry's host
    #[arg(short, long, value_name = "REFERENCE")]
    tag: Reference,
    /// What the objects do not say themselves: name, version, priorities, …
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// How the layer is compressed
    #[arg(long, value_enum, default_value_t = Layer::Gzip)]
    compression: Layer,
    #[command(flatten)]
    workshop: Workshop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layer {
    /// What every tool reads
    Gzip,
    /// Gzip without compression: the same digest from every compressor
    Stored,
    /// Zstandard, which needs a newer reader
    Zstd,
}

impl Layer {
    fn compression(self) -> Compression {
        match self {
            Self::Gzip => Compression::Gzip,
            Self::Stored => Compression::Stored,
            Self::Zstd => Compression::Zstd,
        }
    }
}

/// One object and what it is for.
#[derive(Debug, Clone)]
struct Input {
    platform: Option<(Architecture, Option<String>)>,
    file: PathBuf,
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((platform, file)) = text.split_once('=') else {
            return Ok(Self { platform: None, file: text.into() });
        };
        let (architecture, kernel) = match platform.split_once(':') {
            Some((architecture, kernel)) => (architecture, Some(format!(">={kernel}"))),
            None => (platform, None),
        };
        let architecture = architecture.parse::<Architecture>().map_err(|error| error.to_string())?;
        Ok(Self { platform: Some((architecture, kernel)), file: file.into() })
    }
}

/// One input, built.
struct Part {
    architecture: Architecture,
    kernel: Option<String>,
    image: BuiltImage,
    remarks: Vec<Remark>,
}

impl Build {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { object, tag, metadata, compression, workshop } = self;
        let compression = compression.compression();
        if tag.tag().is_none() {
            return Err(Local::new(Exit::Usage, format!("cannot name an image `{tag}`"))
                .cause("a digest is computed from the content and cannot be given")
                .hint(format!("give a tag, as in `{}:1.0.0`", tag.name()))
                .into());
        }
        let metadata = read_metadata(metadata)?;
        let epoch = epoch()?;
        let parts = object.into_iter().map(|input| part(input, &metadata, epoch, compression));
        let parts = parts.collect::<Result<Vec<Part>, Failure>>()?;
        let store = workshop.open()?;
        let descriptor = keep(&store, &tag, &parts)?;
        // Objects of one source have the same faults: each is said once.
        let remarks: BTreeSet<String> = parts.iter().flat_map(|part| &part.remarks).map(ToString::to_string).collect();
        for remark in remarks {
            warn(&remark, "");
        }
        session.printer.show(&Built { reference: tag, descriptor })?;
        Ok(Exit::Ok)
    }
}

/// `bytecode.toml`, if one is given.
pub(super) fn read_metadata(path: Option<PathBuf>) -> Result<Metadata, Failure> {
    let Some(path) = path else { return Ok(Metadata::default()) };
    Metadata::parse(&files::document(&path)?).map_err(|error| {
        Local::new(Exit::Usage, format!("cannot use `{}`", path.display())).cause(error_chain(&error)).into()
    })
}

fn part(input: Input, metadata: &Metadata, epoch: Option<u32>, compression: Compression) -> Result<Part, Failure> {
    let Input { platform, file } = input;
    let object = files::object(&file)?;
    let refuse =
        |cause: String| Local::new(Exit::Other, format!("cannot build an image of `{}`", file.display())).cause(cause);
    let (architecture, kernel) = match platform {
        Some(platform) => platform,
        None => {
            let host = Platform::host(None).architecture;
            (host.parse::<Architecture>().map_err(|error| refuse(error.to_string()))?, None)
        }
    };
    let recipe = Recipe { object: &object, path: DEFAULT_PATH, architecture: &architecture, metadata, epoch };
    let image = build::build_as(&recipe, compression).map_err(|error| refuse(error_chain(&error)))?;
    let config = ImageConfig::parse(&image.config).map_err(|error| refuse(error_chain(&error)))?;
    let remarks = summary::read(&object, &config.labels).map_err(|error| refuse(error_chain(&error)))?.remarks;
    Ok(Part { architecture, kernel, image, remarks })
}

/// `SOURCE_DATE_EPOCH` of reproducible-builds.org: without it the image has no date at all.
fn epoch() -> Result<Option<u32>, Failure> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => match text.parse() {
            Ok(epoch) => Ok(Some(epoch)),
            Err(error) => Err(Local::new(Exit::Usage, "SOURCE_DATE_EPOCH is not a number of seconds")
                .cause(format!("{error}"))
                .into()),
        },
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error @ env::VarError::NotUnicode(_)) => {
            Err(Local::new(Exit::Usage, "SOURCE_DATE_EPOCH is not a number of seconds").cause(error.to_string()).into())
        }
    }
}

/// Puts everything into the store, and the name last.
fn keep<'a>(store: &Store, tag: &Reference, parts: &'a [Part]) -> Result<Descriptor, Failure> {
    let ingest = store.ingest().map_err(|error| failed("cannot write into the image store", &error))?;
    let mut landed = Vec::new();
    for Part { image, .. } in parts {
        landed.push(put(&ingest, &image.config_descriptor(), &image.config)?);
        landed.push(put(&ingest, &image.layer_descriptor(), &image.layer)?);
        landed.push(put(&ingest, &image.descriptor(), &image.manifest)?);
    }
    let image = match parts {
        [Part { image, kernel: None, .. }] => image.descriptor(),
        _ => {
            let entry = |part: &'a Part| Entry {
                architecture: &part.architecture,
                kernel: part.kernel.as_deref(),
                image: &part.image,
            };
            let entries: Vec<Entry<'_>> = parts.iter().map(entry).collect();
            let index = build::index(&entries).map_err(|error| {
                Local::new(Exit::Usage, "cannot make one image of these objects").cause(error_chain(&error))
            })?;
            let descriptor = Descriptor::of(media::INDEX, &index);
            landed.push(put(&ingest, &descriptor, &index)?);
            descriptor
        }
    };
    let fetched = Fetched { reference: tag.clone(), image: image.clone(), landed, signatures: vec![] };
    store.commit(&fetched).map_err(|error| failed("cannot write into the image store", &error))?;
    Ok(image)
}

fn put(ingest: &Ingest, descriptor: &Descriptor, bytes: &[u8]) -> Result<Landed, Failure> {
    ingest
        .put(descriptor, bytes)
        .map_err(|error| Local::new(Exit::Other, "cannot write into the image store").cause(error.to_string()).into())
}

struct Built {
    reference: Reference,
    descriptor: Descriptor,
}

impl View for Built {
    fn kind(&self) -> &'static str {
        "BuiltImage"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let Descriptor { media_type, digest, size: _ } = &self.descriptor;
        Ok(vec![json!({
            "reference": self.reference.to_string(),
            "digest": digest.to_string(),
            "mediaType": media_type,
        })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.descriptor.digest.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(vec![format!("built {} {}", self.reference, self.descriptor.digest)])]
    }

    fn nothing(&self) -> &'static str {
        "nothing built"
    }
}
