//! `[[signer]]`: its text, and the key or the root that it names. Must never read a file itself.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{PolicyError, PolicyFault, PolicyText};
use crate::key::PublicKey;
use crate::name::Name;
use crate::signer::{Identities, Keyless, Logged, RootName, Signer, TrustedRoot};

/// Why the file that a `[[signer]]` names gives no key and no root.
#[derive(Debug)]
pub enum KeyFault {
    /// It cannot be read.
    File(io::Error),
    /// What is in it is no public key, or no trusted root.
    NotAKey(Box<dyn Error + Send + Sync>),
}

/// Gives what policy files name. A closure gives keys alone.
pub trait Named {
    /// The key in a file.
    ///
    /// # Errors
    /// [`KeyFault`].
    fn key(&mut self, path: &Path) -> Result<PublicKey, KeyFault>;

    /// A trusted root.
    ///
    /// # Errors
    /// [`KeyFault`].
    fn root(&mut self, name: &RootName) -> Result<TrustedRoot, KeyFault>;

    /// A trusted root whose transparency logs count; it must have one.
    ///
    /// # Errors
    /// [`KeyFault`].
    fn log(&mut self, name: &RootName) -> Result<TrustedRoot, KeyFault> {
        self.root(name)
    }
}

impl<F: FnMut(&Path) -> Result<PublicKey, KeyFault>> Named for F {
    fn key(&mut self, path: &Path) -> Result<PublicKey, KeyFault> {
        self(path)
    }

    fn root(&mut self, _name: &RootName) -> Result<TrustedRoot, KeyFault> {
        Err(KeyFault::File(io::ErrorKind::NotFound.into()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignerText {
    name: Spanned<String>,
    key: Option<Spanned<PathBuf>>,
    keyless: Option<Spanned<KeylessText>>,
    log: Option<Spanned<LogText>>,
    root: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum LogText {
    Ignore,
    Require,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeylessText {
    issuer: String,
    identity: Spanned<String>,
    root: Option<Spanned<PathBuf>>,
}

impl SignerText {
    /// Its name, as written.
    pub(super) fn name(&self) -> &Spanned<String> {
        &self.name
    }

    pub(super) fn read(&self, file: &PolicyText<'_>, named: &mut impl Named) -> Result<(Name, Signer), PolicyError> {
        let Self { name, key, keyless, log, root } = self;
        let parsed = name.get_ref().parse::<Name>();
        let parsed = parsed.map_err(|not| file.fault(name.span().start, PolicyFault::SignerName(not)))?;
        let signer = match (key, keyless) {
            (Some(key), None) => {
                let public = read_key(file, key, named)?;
                match (log.as_ref().map(|log| *log.get_ref()), root) {
                    (Some(LogText::Require), root) => {
                        let place = key.span().start;
                        Signer::Logged(Logged {
                            key: public,
                            root: read_root(file, root.as_ref(), place, |name| named.log(name))?,
                        })
                    }
                    (None | Some(LogText::Ignore), None) => Signer::Key(public),
                    (None | Some(LogText::Ignore), Some(root)) => {
                        return Err(file.fault(root.span().start, PolicyFault::RootWithoutLog));
                    }
                }
            }
            (None, Some(keyless)) => {
                if let Some(place) = log.as_ref().map(Spanned::span) {
                    return Err(file.fault(place.start, PolicyFault::LogOfKeyless));
                }
                if let Some(root) = root {
                    let fault =
                        PolicyFault::Belongs { key: "root", to: "`keyless`, and to `key` with `log = \"require\"`" };
                    return Err(file.fault(root.span().start, fault));
                }
                Signer::Keyless(read_keyless(file, keyless.get_ref(), named)?)
            }
            (None, None) | (Some(_), Some(_)) => return Err(file.fault(name.span().start, PolicyFault::SignerKind)),
        };
        Ok((parsed, signer))
    }
}

fn read_key(file: &PolicyText<'_>, key: &Spanned<PathBuf>, named: &mut impl Named) -> Result<PublicKey, PolicyError> {
    let path = absolute(file, key)?;
    named.key(&path).map_err(|fault| {
        let fault = match fault {
            KeyFault::File(source) => PolicyFault::KeyFile { path, source },
            KeyFault::NotAKey(source) => PolicyFault::Key { path, source },
        };
        file.fault(key.span().start, fault)
    })
}

fn read_keyless(file: &PolicyText<'_>, text: &KeylessText, named: &mut impl Named) -> Result<Keyless, PolicyError> {
    let KeylessText { issuer, identity, root } = text;
    let identities = Identities::try_from(identity.get_ref().clone());
    let identities = identities.map_err(|fault| file.fault(identity.span().start, PolicyFault::Identities(fault)))?;
    let root = read_root(file, root.as_ref(), identity.span().start, |name| named.root(name))?;
    Ok(Keyless { issuer: issuer.clone(), identity: identities, root })
}

/// The trusted root that is written somewhere, or that counts if none is; `place` is what it is for.
fn read_root(
    file: &PolicyText<'_>,
    root: Option<&Spanned<PathBuf>>,
    place: usize,
    read: impl FnOnce(&RootName) -> Result<TrustedRoot, KeyFault>,
) -> Result<TrustedRoot, PolicyError> {
    let place = root.map_or(place, |root| root.span().start);
    let name = match root.map(|root| (root, RootName::from(root.get_ref().clone()))) {
        None => RootName::PublicGood,
        Some((root, RootName::File(_))) => RootName::File(absolute(file, root)?),
        Some((_, name)) => name,
    };
    read(&name).map_err(|fault| {
        let path = root.map_or_else(|| "public-good".into(), |root| root.get_ref().clone());
        let fault = match fault {
            KeyFault::File(source) => PolicyFault::RootFile { path, source },
            KeyFault::NotAKey(source) => PolicyFault::Root { path, source },
        };
        file.fault(place, fault)
    })
}

fn absolute(file: &PolicyText<'_>, path: &Spanned<PathBuf>) -> Result<PathBuf, PolicyError> {
    match path.get_ref().is_absolute() {
        true => Ok(path.get_ref().clone()),
        false => Err(file.fault(path.span().start, PolicyFault::RelativeKey(path.get_ref().clone()))),
    }
}
