//! The choice in an index: the first variant for a platform, and what is missing if there is none. Pure. Must never fall back to another
//! architecture.

use ebpf::inspect::ByteOrder;

use super::{Platform, ResolveError};
use crate::{
    build::byte_order,
    document::{Index, IndexEntry},
    media::ANNOTATION_KERNEL,
};

/// The entry for a platform: of those for Linux and the architecture the first whose kernel requirement holds.
///
/// # Errors
/// [`ResolveError::NoPlatform`].
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a IndexEntry, ResolveError> {
    let fits = |entry: &&IndexEntry| {
        let right = entry.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == wanted.architecture);
        right && entry.annotations.get(ANNOTATION_KERNEL).is_none_or(|needs| kernel_fits(needs, wanted.kernel))
    };
    index.manifests.iter().find(fits).ok_or_else(|| ResolveError::NoPlatform {
        wanted: wanted.clone(),
        missing: missing(index, wanted),
        there: index.manifests.iter().filter_map(describe).take(16).collect(),
    })
}

/// What no entry of an index has that [`choose`] found nothing in.
fn missing(index: &Index, wanted: &Platform) -> Missing {
    let platforms = || index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).filter(|p| p.os == "linux");
    let other_order = |architecture: &str| {
        let (there, here) = (byte_order(architecture), byte_order(&wanted.architecture));
        there.is_some() && here.is_some() && there != here
    };
    if platforms().next().is_none() {
        Missing::Variant
    } else if platforms().any(|platform| platform.architecture == wanted.architecture) {
        Missing::Kernel
    } else if platforms().all(|platform| other_order(&platform.architecture)) {
        Missing::ByteOrder
    } else {
        Missing::Architecture
    }
}

/// One entry as a text for an error; `None` for build tools' attestations (`os` is `unknown`).
fn describe(entry: &IndexEntry) -> Option<String> {
    let Some(platform) = &entry.platform else { return Some("an image without a platform".to_owned()) };
    let kernel =
        entry.annotations.get(ANNOTATION_KERNEL).map(|needs| format!(" for kernel {needs}")).unwrap_or_default();
    let order = if byte_order(&platform.architecture) == Some(ByteOrder::Big) { " (big-endian)" } else { "" };
    (platform.os != "unknown").then(|| {
        let text = format!("{}/{}{order}{kernel}", platform.os, platform.architecture);
        text.chars().filter(|c| !c.is_control()).take(80).collect()
    })
}

/// A requirement that cannot be read is not met: the entry was written for somebody else.
fn kernel_fits(needs: &str, kernel: Option<(u32, u32)>) -> bool {
    let least = needs.strip_prefix(">=").and_then(|version| {
        let mut parts = version.trim().split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), None | Some(Ok(_)), None) => Some((major, minor)),
            (Some(Ok(major)), None, None, None) => Some((major, 0)),
            _ => None,
        }
    });
    least.is_some_and(|least| kernel.is_some_and(|kernel| kernel >= least))
}

/// What the variants of an image lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// There is none.
    #[error("it has no variants")]
    Variant,
    /// Some are for the architecture.
    #[error("those for the architecture need a newer kernel")]
    Kernel,
    /// Some are for an architecture of the same byte order.
    #[error("none is for the architecture")]
    Architecture,
    /// Their objects could not be read here, whatever the architecture.
    #[error("all are of the other byte order")]
    ByteOrder,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        digest::{Descriptor, Digest},
        document::IndexPlatform,
        media,
    };

    fn entry(name: &str, os: &str, architecture: &str, kernel: Option<&str>) -> IndexEntry {
        IndexEntry {
            descriptor: Descriptor::of(media::MANIFEST, name.as_bytes()),
            platform: Some(IndexPlatform { os: os.into(), architecture: architecture.into(), variant: None }),
            artifact_type: None,
            annotations: kernel.map(|k| BTreeMap::from([(ANNOTATION_KERNEL.into(), k.into())])).unwrap_or_default(),
        }
    }

    fn check(kernel: Option<(u32, u32)>, architecture: &str, entries: Vec<IndexEntry>, expected: Result<&str, &str>) {
        let index = Index { manifests: entries };
        let got = choose(&index, &Platform { architecture: architecture.into(), kernel });
        let got = got.map(|entry| entry.descriptor.digest).map_err(|error| error.to_string());
        assert_eq!(got, expected.map(|name| Digest::of(name.as_bytes())).map_err(str::to_owned));
    }

    #[test]
    fn the_first_entry_that_fits_wins() {
        let entries = || {
            vec![
                entry("attestation", "unknown", "amd64", None),
                entry("new", "linux", "amd64", Some(">=6.4")),
                entry("middle", "linux", "amd64", Some(">=5.15.3")),
                entry("any", "linux", "amd64", None),
                entry("other", "linux", "s390x", None),
            ]
        };
        check(Some((6, 4)), "amd64", entries(), Ok("new"));
        check(Some((6, 12)), "amd64", entries(), Ok("new"));
        check(Some((6, 3)), "amd64", entries(), Ok("middle"));
        check(Some((5, 14)), "amd64", entries(), Ok("any"));
        check(None, "amd64", entries(), Ok("any"));
        check(None, "s390x", entries(), Ok("other"));
    }

    #[test]
    fn a_requirement_that_cannot_be_read_is_not_met() {
        for needs in ["6.1", ">=", ">=six", "<7", ">=6.1.2.3", ">=-1.0"] {
            check(
                Some((99, 0)),
                "amd64",
                vec![entry("odd", "linux", "amd64", Some(needs)), entry("any", "linux", "amd64", None)],
                Ok("any"),
            );
        }
    }

    #[test]
    fn nothing_that_fits_lists_what_there_is() {
        let mut bare = entry("bare", "", "", None);
        bare.platform = None;
        let entries = vec![
            entry("a", "linux", "arm64", None),
            entry("b", "linux", "amd64", Some(">=7.0")),
            entry("c", "unknown", "unknown", None),
            bare,
        ];
        let error = "the image has no variant for `linux/amd64` with kernel 6.1: those for the architecture need a newer kernel; it has: linux/arm64, linux/amd64 for kernel >=7.0, an image without a platform";
        check(Some((6, 1)), "amd64", entries, Err(error));
        let nothing = "the image has no variant for `linux/amd64`: it has no variants; it has: nothing";
        check(None, "amd64", vec![], Err(nothing));
        let big = || vec![entry("a", "linux", "s390x", None), entry("b", "linux", "ppc64", Some(">=5.8"))];
        let error = "the image has no variant for `linux/amd64` with kernel 6.1: all are of the other byte order; it has: linux/s390x (big-endian), linux/ppc64 (big-endian) for kernel >=5.8";
        check(Some((6, 1)), "amd64", big(), Err(error));
        let more = big().into_iter().chain([entry("c", "linux", "arm64", None)]).collect();
        let error = "the image has no variant for `linux/amd64` with kernel 6.1: none is for the architecture; it has: linux/s390x (big-endian), linux/ppc64 (big-endian) for kernel >=5.8, linux/arm64";
        check(Some((6, 1)), "amd64", more, Err(error));
    }
}
