//! Media types, label and annotation names of the format: one place, so that builder, transport, store and verifier agree.

/// OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker schema 2 manifest, accepted on reading.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker schema 2 manifest list, accepted on reading.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker image config, accepted on reading.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Layer: tar.
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Layer: tar, gzip. What the builder writes.
pub const LAYER_TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Layer: tar, zstd.
pub const LAYER_TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's layer: tar.
pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer: tar, zstd.
pub const DOCKER_LAYER_TAR_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker's layer: tar, gzip.
pub const DOCKER_LAYER_TAR_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// One signature of cosign's legacy form (cosign `specs/SIGNATURE_SPEC.md`).
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// `artifactType` of manifests and indexes that the builder writes; a hint, never required.
pub const ARTIFACT_TYPE: &str = "application/vnd.bpfd.bytecode.v1";

/// The label this project writes, and reads first.
pub const LABEL: &str = "io.bpfd.bytecode.v1";
/// bpfman's program label: JSON map of name to type.
pub const LABEL_PROGRAMS: &str = "io.ebpf.programs";
/// bpfman's map label: JSON map of name to type.
pub const LABEL_MAPS: &str = "io.ebpf.maps";
/// SPDX licence expression (image-spec 1.1 annotations.md).
pub const LABEL_LICENSES: &str = "org.opencontainers.image.licenses";
/// The image's version (image-spec 1.1 annotations.md).
pub const LABEL_VERSION: &str = "org.opencontainers.image.version";
/// Annotation of an index entry: the kernel it needs, such as `>=6.4`.
pub const ANNOTATION_KERNEL: &str = "io.bpfd.requires.kernel";
/// Annotation of a signature layer: base64 of the signature over the layer's bytes.
pub const ANNOTATION_SIGNATURE: &str = "dev.cosignproject.cosign/signature";
