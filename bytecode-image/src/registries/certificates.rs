//! The certificate authorities that `registries.toml` names, read into memory.
//!
//! Must never decide who may have written such a file: whoever calls knows that.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::Registries;
use crate::limits::AUTHORITIES;

/// A certificate file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the certificate authorities in `{path}`")]
pub struct CertificateError {
    path: String,
    source: io::Error,
}

impl Registries {
    /// Reads every certificate file into memory, so that a process without file access can connect. `read` decides which files may be
    /// read: a daemon asks who could have written them, see [`plain_file`] for a command.
    ///
    /// # Errors
    /// [`CertificateError`] for the first file that cannot be read, or with which they have more than [`AUTHORITIES`] bytes.
    pub fn read_certificates(&mut self, read: impl Fn(&Path) -> io::Result<String>) -> Result<(), CertificateError> {
        let mut left = AUTHORITIES;
        let endpoints = self.entries.iter_mut().flat_map(|entry| entry.mirrors.iter_mut().chain([&mut entry.endpoint]));
        for ca in endpoints.filter_map(|endpoint| endpoint.ca.as_mut()) {
            let at = |source| CertificateError { path: ca.path.display().to_string(), source };
            let text = read(&ca.path).map_err(at)?;
            left = left.checked_sub(u64::try_from(text.len()).unwrap_or(u64::MAX)).ok_or_else(|| {
                at(io::Error::other(format!("the files of `ca` have more than {AUTHORITIES} bytes together")))
            })?;
            ca.pem = Some(text);
        }
        Ok(())
    }
}

/// The text of a file of certificate authorities, for a command that runs as whoever named it.
///
/// # Errors
/// What the file system says; [`AUTHORITIES`] bytes at most.
pub fn plain_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than the limit: the caller sees that it is too long.
    File::open(path)?.take(AUTHORITIES + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reference::Reference;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn certificates_are_read_before_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let text = format!("[[registry]]\nname = 'a'\nca = '{}'", path.display());
        let mut registries = Registries::parse(&text, "x").unwrap();
        assert_eq!(
            registries.read_certificates(plain_file).unwrap_err().to_string(),
            format!("cannot read the certificate authorities in `{}`", path.display())
        );
        fs::write(&path, "PEM").unwrap();
        registries.read_certificates(plain_file).unwrap();
        let endpoints = registries.endpoints(&reference("a/b"));
        assert_eq!(endpoints[0].ca.as_ref().unwrap().pem.as_deref(), Some("PEM"));
        let json = serde_json::to_string(&registries).unwrap();
        assert_eq!(serde_json::from_str::<Registries>(&json).unwrap(), registries);
    }

    #[test]
    fn certificates_are_read_up_to_a_limit_for_all_files_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let entry = |name: &str| format!("[[registry]]\nname = '{name}'\nca = '{}'\n", path.display());
        let mut registries = Registries::parse(&(entry("a") + &entry("b")), "x").unwrap();
        let half = usize::try_from(AUTHORITIES / 2).unwrap();
        fs::write(&path, "x".repeat(half)).unwrap();
        registries.read_certificates(plain_file).unwrap();
        fs::write(&path, "x".repeat(half + 1)).unwrap();
        let refused = registries.read_certificates(plain_file).unwrap_err();
        assert_eq!(refused.source.to_string(), "the files of `ca` have more than 524288 bytes together");
    }
}
