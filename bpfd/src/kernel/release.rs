//! What the running kernel is: its release, and the options it was built with, which are read when an object first asks for them.
//!
//! It must never take what the host does not tell for a "no".

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_sys::seal::Sealed;
use ebpf::kconfig::KernelConfig;
use ebpf::relocate::KernelFacts;
use flate2::read::GzDecoder;

/// Bytes of a kernel's configuration: distributions' have a third of a MiB.
pub(crate) const OPTIONS_LIMIT: usize = 4 << 20;
/// The architectures whose kernels have always had wrappers of system calls since Linux 5.15, the oldest that bpfd runs on
/// (`ARCH_HAS_SYSCALL_WRAPPER`).
const SYSCALL_WRAPPER: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "s390x"));

/// The running kernel's release.
#[derive(Debug, Default)]
pub(crate) struct Release {
    /// What such a kernel takes.
    pub(crate) facts: KernelFacts,
    /// `LINUX_KERNEL_VERSION`.
    version: u32,
    /// As `uname -r` has it.
    name: String,
}

impl Release {
    /// Of this host.
    pub(crate) fn running() -> Self {
        let uname = rustix::system::uname();
        let name = uname.release().to_string_lossy().into_owned();
        let signature = std::fs::read_to_string("/proc/version_signature").unwrap_or_default();
        let facts = match numbers(&name) {
            Some([major, minor, _]) => KernelFacts::for_release(major, minor),
            None => KernelFacts::default(),
        };
        let page_size = u32::try_from(rustix::param::page_size()).unwrap_or(facts.page_size);
        let version = version(&name, &uname.version().to_string_lossy(), &signature);
        Self { facts: KernelFacts { page_size, ..facts }, version, name }
    }

    /// What objects may ask of it, with its options.
    pub(super) fn config<'a>(&self, options: Option<&'a str>) -> KernelConfig<'a> {
        let KernelFacts { attach_cookie, .. } = self.facts;
        let (bpf_cookie, syscall_wrapper) = (attach_cookie, SYSCALL_WRAPPER);
        KernelConfig { version: self.version, bpf_cookie, syscall_wrapper, options, functions: None }
    }
}

/// `KERNEL_VERSION(…)` of a kernel, by libbpf's rules (`get_kernel_version`): Debian and Ubuntu name a release after the first of its
/// series, and state the real one elsewhere.
fn version(release: &str, version: &str, ubuntu: &str) -> u32 {
    let debian = version.split_once("Debian ").and_then(|(_, rest)| numbers(rest));
    let ubuntu = ubuntu.split_whitespace().nth(2).and_then(numbers);
    let [major, minor, patch] = ubuntu.or(debian).or_else(|| numbers(release)).unwrap_or_default();
    major << 16 | minor.min(255) << 8 | patch.min(255)
}

/// Three numbers with dots between them; the last may be missing.
fn numbers(text: &str) -> Option<[u32; 3]> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let mut parts = text.get(..end)?.split('.').map(|part| part.parse::<u16>().ok().map(u32::from));
    Some([parts.next()??, parts.next()??, parts.next().flatten().unwrap_or_default()])
}

/// The options that the running kernel was built with.
#[derive(Debug, Default)]
pub(super) struct KernelOptions {
    /// Once looked for: what there is.
    text: Mutex<Option<Option<Arc<str>>>>,
    sealed: Mutex<Option<Arc<Sealed>>>,
}

impl KernelOptions {
    /// Lines of `CONFIG_NAME=value`; `None` if the host has none.
    pub(super) fn text(&self, release: &Release) -> io::Result<Option<Arc<str>>> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = text.as_ref() {
            return Ok(found.clone());
        }
        let found: Option<Arc<str>> = read(release)?.map(Into::into);
        *text = Some(found.clone());
        Ok(found)
    }

    /// The same as bytes for a worker.
    pub(super) fn sealed(&self, release: &Release) -> io::Result<Option<Arc<Sealed>>> {
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        if sealed.is_none() {
            let text = self.text(release)?;
            *sealed = text.map(|text| Sealed::from_bytes(text.as_bytes())).transpose()?.map(Arc::new);
        }
        Ok(sealed.clone())
    }
}

/// The kernel's own copy first: a file in /boot may be of another build with the same name.
fn read(release: &Release) -> io::Result<Option<String>> {
    let boot = PathBuf::from(format!("/boot/config-{}", release.name));
    for path in [PathBuf::from("/proc/config.gz"), boot] {
        let packed = match File::open(&path).and_then(limited) {
            Ok(packed) => packed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        return unpacked(&packed).map(Some);
    }
    Ok(None)
}

/// A configuration's text, packed or not.
fn unpacked(bytes: &[u8]) -> io::Result<String> {
    let text = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => limited(GzDecoder::new(bytes))?,
        false => bytes.to_vec(),
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// All that is to be read. More than the limit is no configuration: what is cut off would count as not set.
fn limited(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(u64::try_from(OPTIONS_LIMIT).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() > OPTIONS_LIMIT {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {OPTIONS_LIMIT} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_says_which_release_of_a_series_its_kernel_is() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.90-1 (2024-05-03)";
        let ubuntu = "Ubuntu 5.15.0-91.101-generic 5.15.131";
        for (release, build, signature, expected) in [
            ("6.18.44-vm", "#1 SMP", "", 0x06_12_2c),
            ("6.1.0-21-amd64", debian, "", 0x06_01_5a),
            ("5.15.0-91-generic", "#101-Ubuntu SMP", ubuntu, 0x05_0f_83),
            ("6.12", "", "", 0x06_0c_00),
            ("5.10.300", "", "", 0x05_0a_ff),
            ("nonsense", "", "", 0),
        ] {
            assert_eq!(version(release, build, signature), expected, "{release}");
        }
    }

    #[test]
    fn a_configuration_is_read_packed_or_plain() {
        // `gzip` of the text.
        let packed: &[u8] = &[
            31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 115, 246, 247, 115, 243, 116, 143, 119, 180, 173, 4, 0, 71, 46, 99, 239,
            10, 0, 0, 0,
        ];
        for bytes in [packed, b"CONFIG_A=y"] {
            assert_eq!(unpacked(bytes).unwrap(), "CONFIG_A=y");
        }
        assert!(limited(io::repeat(b'#')).is_err());
        let cut = packed.get(..packed.len() - 4).unwrap();
        assert!(unpacked(cut).is_err());
    }
}
