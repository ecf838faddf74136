//! The `bpfd.v1` API in Rust: generated messages and services, the codec between them and the types of `bpfd-core`, the table of
//! error reasons, and errors on the wire. It decides nothing, does no I/O and, without the feature `grpc`, knows nothing of gRPC.

pub mod codec;
pub mod reason;
#[cfg(feature = "grpc")]
pub mod status;

/// Messages, and with the feature `grpc` clients and servers, of the package `bpfd.v1`.
#[path = "generated/bpfd.v1.rs"]
#[expect(rustdoc::broken_intra_doc_links, reason = "the .proto's comments name tables of a TOML file, in brackets")]
#[cfg_attr(
    feature = "grpc",
    expect(
        unused_qualifications,
        clippy::allow_attributes,
        clippy::as_conversions,
        clippy::allow_attributes_without_reason,
        reason = "tonic's generator writes full paths and its own `allow` lists"
    )
)]
pub mod v1;

/// The compiled `.proto` files with their imports, for server reflection and for JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/bpfd.v1.bin");

/// `ErrorInfo.domain` of every error of bpfd.
pub const ERROR_DOMAIN: &str = "bpfd";

/// The largest message in bytes, both ways: an object travels in several.
pub const MESSAGE_LIMIT: usize = 1024 * 1024;

/// Bytes of an object that one `UploadObjectRequest` carries: large enough to be cheap, well below [`MESSAGE_LIMIT`].
pub const UPLOAD_CHUNK: usize = 256 * 1024;

/// Where the daemon listens unless `--socket` or `BPFD_SOCKET` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bpfd/bpfd.sock";
/// The file name of the socket whose place a caller names.
pub const SOCKET_NAME: &str = "bpfd.sock";
/// The file name of the socket beside it for the group that may look; the daemon makes it where there is such a group.
pub const VIEW_SOCKET_NAME: &str = "bpfd-ro.sock";
