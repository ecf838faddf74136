//! Images of the daemon's store in a file, and from one. The daemon makes the archive and judges what is in it; here bytes are copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bpfd_proto::{UPLOAD_CHUNK, v1 as pb};
use bytecode_image::reference::Reference;
use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::stored::Images;
use crate::args::word;
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure, Local};

/// Pieces that wait for the daemon.
const PIECES: usize = 4;

/// Write images of the daemon's store into an archive, with their signatures
#[derive(Debug, Args)]
#[command(after_help = "\
The archive is an OCI image layout in a tar file: `bpfctl image import` reads it on another host, and `skopeo copy oci-archive:FILE:IMAGE …` \
anywhere.

Examples:
  bpfctl image export registry/bpf/counter:1.2.0 --to counter.oci.tar
  bpfctl image export $(bpfctl image ls -q) --to all.oci.tar")]
pub(super) struct Export {
    /// References or digests
    #[arg(value_parser = word, required = true, num_args = 1..=64)]
    image: Vec<String>,
    /// The file to write, whole or not at all
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { image: images, to } = self;
        let mut client = session.client().await?;
        let failed = |error: io::Error| {
            Local::new(Exit::Other, format!("cannot write `{}`", to.display())).cause(error.to_string())
        };
        let new = new_beside(&to);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new).map_err(failed)?;
        let sent = client.export_images(pb::ExportImagesRequest { images }, |chunk| file.write_all(&chunk)).await;
        let written = match sent {
            Ok(written) => written
                .and_then(|()| file.sync_all())
                .and_then(|()| fs::rename(&new, &to))
                .map_err(|error| Failure::from(failed(error))),
            Err(error) => Err(error.into()),
        };
        written.inspect_err(|_failed| fs::remove_file(&new).unwrap_or_default())?;
        Ok(Exit::Ok)
    }
}

/// Take the images of an archive into the daemon's store
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is what `bpfctl image export`, `skopeo copy … oci-archive:FILE`, `docker save` or `podman save` wrote. Each image is judged as one that \
is pulled; if one is refused, none is taken in. What `docker save` and `podman save` write has no signatures.

Examples:
  bpfctl image import counter.oci.tar
  bpfctl image import counter.tar --tag registry/bpf/counter:1.2.0")]
pub(super) struct Import {
    /// The archive
    file: PathBuf,
    /// The name of its one image, in place of those that the archive gives it
    #[arg(long, value_name = "REFERENCE")]
    tag: Option<Reference>,
}

impl Import {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { file: path, tag } = self;
        let failed = |error: &io::Error| {
            let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Other };
            Local::new(exit, format!("cannot read `{}`", path.display())).cause(error.to_string())
        };
        let file = File::open(&path).map_err(|error| failed(&error))?;
        let mut client = session.client().await?;
        let (chunks, archive) = mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking(move || read(file, &chunks));
        let start =
            pb::ImportStart { request_id: request_id(), name: tag.map(|name| name.to_string()).unwrap_or_default() };
        let imported = client.import_images(start, ReceiverStream::new(archive)).await;
        // What could not be read is why the daemon had no whole archive.
        if let Ok(Err(error)) = reading.await {
            return Err(failed(&error).into());
        }
        session.printer.show(&Images(imported?.images))?;
        Ok(Exit::Ok)
    }
}

/// Pieces of a file, until its end or until nobody wants more.
fn read(mut file: File, chunks: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::new();
        let limit = u64::try_from(UPLOAD_CHUNK).map_err(io::Error::other)?;
        io::Read::by_ref(&mut file).take(limit).read_to_end(&mut chunk)?;
        if chunk.is_empty() || chunks.blocking_send(chunk).is_err() {
            return Ok(());
        }
    }
}

fn new_beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    name.into()
}
