//! How much this crate takes from outside: one table, so that the specification, the code and the tests agree.
//!
//! Every bound is checked while bytes arrive, never after. Must never grow a bound that a caller can set.

use std::time::Duration;

pub use bpfd_policy::limits::{CONFIG_FILE, SIGNATURE, SIGNATURES};

/// Bytes of a manifest or an index: what registries themselves accept (distribution-spec 1.1, "Pushing Manifests": 4 MiB).
pub const MANIFEST: u64 = 4 << 20;
/// Entries of an index, and layers of a manifest: an image for every machine that Go knows, with its attestation, has less. Whatever is
/// followed is a tree of two levels with this many branches each.
pub const ENTRIES: usize = 64;
/// Parts of one image on their way into the store: an index, and as many images of manifest, configuration and layer as it has entries. An
/// image with all its signatures has 40.
pub const PARTS: usize = 1 + 3 * ENTRIES;
/// Bytes of an image configuration: labels are at most 64 KiB, the rest is a few hundred bytes; room for other builders.
pub const CONFIG: u64 = 1 << 20;
/// Bytes of the compressed layer: no more than an object may have, so that a stored (uncompressed) layer still fits.
pub const LAYER: u64 = 16 << 20;
/// Bytes of one ELF object: the largest BPF objects in the wild are 5 MiB, with debug information.
pub const OBJECT: u64 = 16 << 20;
/// Decoded bytes per compressed byte, above [`EXPANSION_FLOOR`]: zeros reach 1000:1 in gzip, object files 10:1.
pub const EXPANSION: u64 = 200;
/// Decoded bytes that are allowed at any ratio: a small object full of zeros is not an attack.
pub const EXPANSION_FLOOR: u64 = 1 << 20;
/// Compressed streams of a layer one behind the other, skippable ones counted: bgzip begins one every 64 KiB, 512 for the most that a layer
/// decodes to; seekable formats one or two a file.
pub const STREAMS: usize = 1024;
/// Entries of a layer's tar: one ELF, BTF files for some kernels, a licence.
pub const TAR_ENTRIES: usize = 64;
/// Bytes of an archive of images, and of all that is taken from one: what the daemon's store holds before it makes room.
pub const ARCHIVE: u64 = 512 << 20;
/// Members of an archive: [`ARCHIVE_IMAGES`] images of four parts, each with signatures in ten manifests of three, and their directories.
pub const ARCHIVE_MEMBERS: usize = 4096;
/// Images of an archive, and names of all of them together: as many as one request may name.
pub const ARCHIVE_IMAGES: usize = 64;
/// Bytes of all manifests and indexes of an archive together: a thousand of the largest that builders write (16 KiB).
pub const ARCHIVE_DOCUMENTS: u64 = 16 << 20;
/// Bytes of an extended header of a tar: a path and a link's target (4 KiB each, PATH_MAX), and what tools note of times and owners.
pub const TAR_HEADER: u64 = 64 << 10;
/// Bytes of a token server's answer: tokens are a few KiB.
pub const TOKEN: u64 = 64 << 10;
/// Bytes read of an error's body, to quote its code and message.
pub const ERROR_BODY: u64 = 16 << 10;
/// Bytes of all pages of a referrers list together.
pub const REFERRERS: u64 = 1 << 20;
/// Pages of a referrers list.
pub const REFERRER_PAGES: usize = 8;
/// Bytes of all `WWW-Authenticate` headers of an answer together: Negotiate and signed scopes take a few KiB.
pub const CHALLENGE_BYTES: usize = 16 << 10;
/// Challenges in them: registries offer one or two, proxies before them two or three more.
pub const CHALLENGES: usize = 16;
/// Redirects followed for one request: registries use one or two.
pub const REDIRECTS: usize = 5;
/// Blobs, and manifests of signatures, that one pull asks for at the same time: registries limit what one client may do at once, and more
/// is no faster.
pub const TOGETHER: usize = 3;
/// The most that `registries.toml` can make of it.
pub const TOGETHER_AT_MOST: usize = 16;
/// Times one request is tried, and times one blob is resumed.
pub const ATTEMPTS: u32 = 4;
/// The first pause between two tries, at most; it doubles.
pub const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause a registry's `Retry-After` can ask for: beyond it the deadline would pass while we wait.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);
/// The whole of a pull or a push: somebody waits for it, and a registry that drips bytes holds a worker.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Until a TCP and TLS connection stands.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces of a body.
pub const IDLE: Duration = Duration::from_secs(15);
/// Bytes of all files of certificate authorities that `registries.toml` names together: a private one has a few KiB, a distribution's
/// whole bundle 200 KiB, and they go to the worker that fetches in one message of 1 MiB.
pub const AUTHORITIES: u64 = 512 << 10;
