//! `[[signer]]`: its text, and the key or the root that it names. Must never read a file itself.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{PolicyError, PolicyFault, PolicyText};
use crate::key::PublicKey;
use crate::name::Name;
use crate::signer::{Identities, Keyless, RootName, Signer, TrustedRoot};

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
        let Self { name, key, keyless } = self;
        let parsed = name.get_ref().parse::<Name>();
        let parsed = parsed.map_err(|not| file.fault(name.span().start, PolicyFault::SignerName(not)))?;
        let signer = match (key, keyless) {
            (Some(key), None) => Signer::Key(read_key(file, key, named)?),
            (None, Some(keyless)) => Signer::Keyless(read_keyless(file, keyless.get_ref(), named)?),
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
    let place = root.as_ref().map_or(identity.span().start, |root| root.span().start);
    let name = match root.as_ref().map(|root| (root, RootName::from(root.get_ref().clone()))) {
        None => RootName::PublicGood,
        Some((root, RootName::File(_))) => RootName::File(absolute(file, root)?),
        Some((_, name)) => name,
    };
    let read = named.root(&name).map_err(|fault| {
        let path = root.as_ref().map_or_else(|| "public-good".into(), |root| root.get_ref().clone());
        let fault = match fault {
            KeyFault::File(source) => PolicyFault::RootFile { path, source },
            KeyFault::NotAKey(source) => PolicyFault::Root { path, source },
        };
        file.fault(place, fault)
    })?;
    Ok(Keyless { issuer: issuer.clone(), identity: identities, root: read })
}

fn absolute(file: &PolicyText<'_>, path: &Spanned<PathBuf>) -> Result<PathBuf, PolicyError> {
    match path.get_ref().is_absolute() {
        true => Ok(path.get_ref().clone()),
        false => Err(file.fault(path.span().start, PolicyFault::RelativeKey(path.get_ref().clone()))),
    }
}
