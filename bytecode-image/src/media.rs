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
/// One attestation of cosign's legacy form: a DSSE envelope (cosign `specs/ATTESTATION_SPEC.md`).
pub const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// A sigstore bundle of version 0.3: the layer, and the manifest's `artifactType` (cosign `specs/BUNDLE_SPEC.md`).
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What the types of sigstore bundles of every version begin with.
pub const BUNDLE_FAMILY: &str = "application/vnd.dev.sigstore.bundle";
/// `artifactType` of a signature of the Notary project (notaryproject `specs/signature-specification.md`).
pub const NOTATION: &str = "application/vnd.cncf.notary.signature";
/// The config of an artifact that has none (image-spec 1.1 manifest.md, "Guidance for an Empty Descriptor").
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of [`EMPTY`].
pub const EMPTY_BYTES: &[u8] = b"{}";
/// What is signed inside a bundle, when it is a statement (in-toto attestation `spec/v1/envelope.md`).
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
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
/// Annotation of an entry of a layout's index: its name (image-spec 1.1 annotations.md).
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same, whole: containerd and Docker since 25 write the tag alone into the other one.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation of a signature layer: base64 of the signature over the layer's bytes.
pub const ANNOTATION_SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Annotation of a signature layer that was made without a key of the signer's own: the certificate, as PEM.
pub const ANNOTATION_CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// Annotation of the same: the log's entry, and its promise to include it.
pub const ANNOTATION_LOG: &str = "dev.sigstore.cosign/bundle";
/// Annotation of the same: a timestamp by RFC 3161.
pub const ANNOTATION_TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";
