//! The policy in force, and its files: `policy.toml`, `policy.d/*.toml` and the keys that they name.
//!
//! The one place that holds the `Policy`. It is swapped whole: a bad reload leaves the last good one in force. That is kept on the disk as
//! well (`good`), so that a bad file at a start takes nothing away. Without any file the built-in policy holds. Must never decide, nor
//! look into a file's text: `bpfd-policy` does.
//!
//! Long because its cases stand beside it.

mod good;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::request::Apply;
use bpfd_policy::Policy;
use bpfd_policy::accounts::{Accounts, Names};
use bpfd_policy::digest::Digest;
use bpfd_policy::name::{Name, NotAName};
use bpfd_policy::read::{PolicyError, PolicyFault, PolicyText, trusting};
use bpfd_policy::scope::{Scope, ScopeError};
use bytecode_image::key::{KeyError, VerifyingKey};
use bytecode_image::keyless::PolicyFiles;
use tokio::sync::watch;

use crate::causes::error_chain;
use crate::etc::{self, EtcError};
use crate::layout::Layout;

/// See the module.
#[derive(Debug)]
pub struct Trust {
    etc: PathBuf,
    good: PathBuf,
    accounts: LookUp,
    now: watch::Sender<Arc<Policy>>,
    files: Mutex<Files>,
    /// One change of the files at a time.
    changing: Mutex<()>,
}

/// What says which users and groups names are.
pub struct LookUp(Box<dyn Fn(&Names) -> Accounts + Send + Sync>);

impl<F: Fn(&Names) -> Accounts + Send + Sync + 'static> From<F> for LookUp {
    fn from(look_up: F) -> Self {
        Self(Box::new(look_up))
    }
}

impl std::fmt::Debug for LookUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookUp")
    }
}

/// How the files of the policy are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Files {
    /// They are the policy in force.
    #[default]
    Good,
    /// The policy in force is an older one, since they are bad, and why.
    Bad {
        /// With file, line and column.
        why: String,
        /// They were bad when the daemon started: it goes by what was kept on the disk, and adds nothing.
        at_start: bool,
    },
}

/// A signer that is trusted now, or would be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Added {
    /// The file in `policy.d`.
    pub path: PathBuf,
    /// sha256 of the key's DER form.
    pub key: Digest,
}

/// Why the policy is not read, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file that cannot be read or written, or that others could have written.
    #[error(transparent)]
    File(#[from] EtcError),
    /// A file that is not a policy: with file, line and column.
    #[error(transparent)]
    Policy(Box<PolicyError>),
    /// Not a signer's name.
    #[error(transparent)]
    Name(#[from] NotAName),
    /// Not a public key.
    #[error("the key is no public key to trust")]
    Key(#[from] KeyError),
    /// Not a scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A signer of that name exists, and is not the same.
    #[error("there is a signer `{name}` already, with another key or scope, in `{}`", .path.display())]
    NameTaken {
        /// The name.
        name: Name,
        /// Where it is.
        path: PathBuf,
    },
}

impl From<PolicyError> for TrustError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(Box::new(error))
    }
}

/// A policy file as it was read.
struct Text {
    path: PathBuf,
    text: String,
}

impl Trust {
    /// Reads the policy of a host.
    ///
    /// # Errors
    /// [`TrustError`]: the daemon must not start with half a policy.
    pub fn open(layout: &Layout, accounts: impl Into<LookUp>) -> Result<Self, TrustError> {
        let at = |error| EtcError { path: layout.etc.clone(), fault: io::Error::into(error) };
        // Keys are named by absolute paths in policy files.
        let etc = std::path::absolute(&layout.etc).map_err(at)?;
        let (good, accounts) = (layout.good_policy(), accounts.into());
        let kept = good::read(&good).unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), "cannot use the kept policy");
            None
        });
        let (now, files) = match read_files(&etc) {
            Ok(policy) => {
                let older = kept.as_ref().map(Policy::accounts).unwrap_or_default();
                let policy = resolved(policy, &accounts, &older);
                good::keep(&good, kept.as_ref(), &policy);
                (policy, Files::Good)
            }
            Err(error) => {
                let Some(kept) = kept else { return Err(error) };
                let why = error_chain(&error);
                tracing::error!(why, "the policy files are bad: the last good policy stays, and nothing is added");
                let older = kept.accounts();
                (resolved(kept, &accounts, &older), Files::Bad { why, at_start: true })
            }
        };
        let now = watch::Sender::new(Arc::new(now));
        Ok(Self { etc, good, accounts, now, files: Mutex::new(files), changing: Mutex::new(()) })
    }

    /// How the files were when they were read last.
    pub fn files(&self) -> Files {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the files say something else than when they were read last.
    pub fn differs(&self) -> bool {
        let now = self.policy();
        match (read_files(&self.etc), self.files()) {
            (Ok(policy), Files::Good) => policy.with_accounts(&now.accounts()) != *now,
            (Ok(_), Files::Bad { .. }) | (Err(_), Files::Good) => true,
            (Err(error), Files::Bad { why, .. }) => error_chain(&error) != why,
        }
    }

    /// The directories whose files the policy is read from.
    pub fn directories(&self) -> [PathBuf; 4] {
        [self.etc.clone(), self.etc.join("policy.d"), self.etc.join("keys"), self.etc.join("trust")]
    }

    /// Looks up again who the names are that have no number, and says whether anything was found out. Blocks on name services.
    pub fn look_up_again(&self) -> bool {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.policy();
        let older = before.accounts();
        let now = Policy::clone(&before).with_accounts(&(self.accounts.0)(&before.nameless()).or(&older));
        let changed = now != *before;
        if changed {
            self.put(now);
        }
        changed
    }

    /// Only while `changing` is held.
    fn put(&self, policy: Policy) -> Arc<Policy> {
        let policy = Arc::new(policy);
        good::keep(&self.good, Some(&self.policy()), &policy);
        self.now.send_replace(policy.clone());
        policy
    }

    /// What holds now.
    pub fn policy(&self) -> Arc<Policy> {
        self.now.borrow().clone()
    }

    /// What holds, for somebody who asks again and again.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Policy>> {
        self.now.subscribe()
    }

    /// Reads the files again, all of them.
    ///
    /// # Errors
    /// [`TrustError`]: then what held before still holds.
    pub fn reload(&self) -> Result<Arc<Policy>, TrustError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_again()
    }

    /// Only while `changing` is held.
    fn read_again(&self) -> Result<Arc<Policy>, TrustError> {
        let read = read_files(&self.etc);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let at_start = matches!(*files, Files::Bad { at_start: true, .. });
        *files = match &read {
            Ok(_) => Files::Good,
            Err(error) => Files::Bad { why: error_chain(error), at_start },
        };
        drop(files);
        let older = self.policy().accounts();
        Ok(self.put(resolved(read?, &self.accounts, &older)))
    }

    /// Trusts a key for a scope: writes it to `keys/` and a signer to `policy.d/`, after the whole policy was judged with it.
    /// Blocks on the disk. The same again changes nothing and is no error.
    ///
    /// # Errors
    /// [`TrustError`]: then nothing was changed, but for a key file that no policy names if the disk failed.
    pub fn add(&self, name: &str, pem: &str, scope: &str, apply: Apply) -> Result<Added, TrustError> {
        let (name, key, scope): (Name, _, Scope) = (name.parse()?, VerifyingKey::from_pem(pem)?, scope.parse()?);
        let key_path = self.etc.join("keys").join(format!("{name}.pub"));
        let path = self.etc.join("policy.d").join(format!("{name}.toml"));
        let added = Added { path: path.clone(), key: key.fingerprint() };
        let text = trusting(&name, &key_path, &scope);

        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = texts(&self.etc)?;
        let key_there = etc::read(&key_path)?;
        let same_key = key_there.as_deref().map(VerifyingKey::from_pem).transpose()?.is_none_or(|there| there == key);
        let taken = |path: &Path| TrustError::NameTaken { name: name.clone(), path: path.to_path_buf() };
        if !same_key {
            return Err(taken(&key_path));
        }
        if let Some(there) = all.iter().find(|there| there.path == path) {
            let same = there.text == text && key_there.is_some();
            return if same { Ok(added) } else { Err(taken(&path)) };
        }
        let pem = key.to_pem();
        // Before the others, so that what contradicts it is reported where a person can look.
        all.insert(0, Text { path: path.clone(), text: text.clone() });
        let with_it = read(&self.etc, &all, |path| if path == key_path { Ok(pem.clone()) } else { file_text(path) });
        with_it.map_err(|error| match error.fault {
            PolicyFault::SignerTwice(twice) if twice == name => taken(Path::new(&error.file)),
            fault => PolicyError { fault, ..error }.into(),
        })?;
        if apply == Apply::Write {
            etc::replace(&key_path, &pem)?;
            etc::replace(&path, &text)?;
            self.read_again()?;
        }
        Ok(added)
    }
}

fn read_files(etc: &Path) -> Result<Policy, TrustError> {
    Ok(read(etc, &texts(etc)?, file_text)?)
}

/// The policy with the numbers of its names. A number that was known stays if no name service answers.
fn resolved(policy: Policy, accounts: &LookUp, older: &Accounts) -> Policy {
    let known = (accounts.0)(&policy.names()).or(older);
    policy.with_accounts(&known)
}

/// Every policy file, `policy.toml` first.
fn texts(etc: &Path) -> Result<Vec<Text>, TrustError> {
    let files = std::iter::once(etc.join("policy.toml")).chain(etc::toml_files(&etc.join("policy.d"))?);
    let read = files.map(|path| Ok(etc::read(&path)?.map(|text| Text { path, text })));
    read.filter_map(Result::transpose).collect()
}

fn read(etc: &Path, texts: &[Text], file: impl FnMut(&Path) -> io::Result<String>) -> Result<Policy, PolicyError> {
    let shown: Vec<String> = texts.iter().map(|text| text.path.display().to_string()).collect();
    let files = shown.iter().zip(texts).map(|(file, Text { text, path: _ })| PolicyText { file, text });
    Policy::read(&files.collect::<Vec<_>>(), PolicyFiles { trust: etc.join("trust"), read: file })
}

/// The file of a key or a root, under the same rules as the policy that names it.
fn file_text(path: &Path) -> io::Result<String> {
    let text = etc::read(path).map_err(|EtcError { path: at, fault }| match at == path {
        true => io::Error::other(fault),
        // A directory above it.
        false => io::Error::other(format!("`{}`: {fault}", at.display())),
    })?;
    text.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use bytecode_image::key::{Scheme, SigningKey};

    use super::*;

    fn host() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(dir.path()));
        (dir, layout)
    }

    fn pem() -> String {
        SigningKey::generate(Scheme::Ed25519).unwrap().public().to_pem()
    }

    fn told(error: &TrustError, layout: &Layout) -> String {
        error_chain(error).replace(&layout.etc.display().to_string(), "ETC")
    }

    fn nobody(_: &Names) -> Accounts {
        Accounts::default()
    }

    const OPEN: &str = "version = 1\n[[image]]\nscope = \"r.example\"\nunsigned = \"allow\"\n";

    #[test]
    fn without_files_nothing_passes() {
        let (_dir, layout) = host();
        let now = Trust::open(&layout, nobody).unwrap().policy();
        assert_eq!(*now, Policy::default());
    }

    #[test]
    fn a_bad_file_stops_the_start_with_its_place() {
        let check = |text: &str, expected: &str| {
            let (_dir, layout) = host();
            etc::replace(&layout.etc.join("policy.d/a.toml"), text).unwrap();
            assert_eq!(told(&Trust::open(&layout, nobody).unwrap_err(), &layout), expected);
        };
        check(
            "version = 1\n[[image]]\nscope = \"r.example\"\nunsignd = \"allow\"\n",
            "policy is refused at ETC/policy.d/a.toml:4:1: unknown field `unsignd`, expected one of `scope`, \
             `unsigned`, `require`, `require_digest`, `forbid_downgrade`, `max_signature_age`",
        );
        check(
            "version = 1\n\n[[rule]]\nid = \"x\"\neffect = \"allow\"\nverbs = [\"lst\"]\n",
            "policy is refused at ETC/policy.d/a.toml:6:10: no verb `lst`; known are `pull`, `load`, `attach`, `update`, \
             `detach`, `unload`, `list`, `map-read`, `map-write`, `other-owner`",
        );
        check(
            "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/nowhere/ci.pub\"\n",
            "policy is refused at ETC/policy.d/a.toml:4:7: cannot read the key `/nowhere/ci.pub`: entity not found",
        );
    }

    #[test]
    fn a_root_among_the_hosts_files_takes_the_place_of_the_built_in_one() {
        let (_dir, layout) = host();
        let signer = "keyless = { issuer = \"https://token.example\", identity = \"ci@acme.example\" }";
        etc::replace(&layout.etc.join("policy.toml"), &format!("version = 1\n[[signer]]\nname = \"ci\"\n{signer}\n"))
            .unwrap();
        let trust = Trust::open(&layout, nobody).unwrap();
        let built_in = trust.policy();
        let file = layout.etc.join("trust/public-good.json");
        etc::replace(&file, "{}").unwrap();
        let refused = told(&trust.reload().unwrap_err(), &layout);
        assert!(refused.starts_with("policy is refused at ETC/policy.toml:4:58: `public-good` is not a trusted root"));
        assert_eq!(*trust.policy(), *built_in);
        let (_, github) = bytecode_image::keyless::built_in(&bpfd_policy::signer::RootName::GitHub).unwrap();
        etc::replace(&file, github).unwrap();
        assert_ne!(trust.reload().unwrap().signers, built_in.signers);
    }

    #[test]
    fn a_bad_reload_leaves_the_last_good_policy() {
        let (_dir, layout) = host();
        let file = layout.etc.join("policy.toml");
        etc::replace(&file, OPEN).unwrap();
        let trust = Trust::open(&layout, nobody).unwrap();
        etc::replace(&file, "version = 2\n").unwrap();
        assert!(trust.reload().is_err());
        assert_eq!(trust.policy().images.len(), 1);
        etc::replace(&file, "version = 1\n").unwrap();
        assert_eq!(trust.reload().unwrap().images.len(), 0);
        assert_eq!(trust.policy().images.len(), 0);
    }

    #[test]
    fn a_bad_file_at_a_start_leaves_what_was_kept_and_says_so() {
        let (_dir, layout) = host();
        let file = layout.etc.join("policy.toml");
        etc::replace(&file, OPEN).unwrap();
        drop(Trust::open(&layout, nobody).unwrap());
        etc::replace(&file, "version = 2\n").unwrap();
        let trust = Trust::open(&layout, nobody).unwrap();
        assert_eq!(trust.policy().images.len(), 1);
        let Files::Bad { why, at_start: true } = trust.files() else { panic!("{:?}", trust.files()) };
        assert!(why.contains("policy.toml:1:11: version 2"), "{why}");
        trust.reload().unwrap_err();
        assert!(matches!(trust.files(), Files::Bad { at_start: true, .. }));
        etc::replace(&file, "version = 1\n").unwrap();
        trust.reload().unwrap();
        assert_eq!((trust.files(), trust.policy().images.len()), (Files::Good, 0));
    }

    #[test]
    fn a_kept_policy_that_others_could_have_written_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, layout) = host();
        let file = layout.etc.join("policy.toml");
        etc::replace(&file, OPEN).unwrap();
        drop(Trust::open(&layout, nobody).unwrap());
        etc::replace(&file, "version = 2\n").unwrap();
        std::fs::set_permissions(layout.good_policy(), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(Trust::open(&layout, nobody), Err(TrustError::Policy(_))));
    }

    #[test]
    fn a_number_stays_while_no_name_service_answers_and_is_found_later() {
        use bpfd_policy::rule::AccountId::{Absent, Is, Unknown};
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        let (_dir, layout) = host();
        let rule = "version = 1\n[[rule]]\nid = \"ops\"\neffect = \"allow\"\nverbs = [\"list\"]\n\
                    who = [{ group = \"ops\" }]\n";
        etc::replace(&layout.etc.join("policy.toml"), rule).unwrap();
        // 0: nobody answers; 1: no such group; more: its number.
        let says = Arc::new(AtomicU32::new(0));
        let service = says.clone();
        let look_up = move |names: &Names| {
            let id = match service.load(Relaxed) {
                0 => Unknown,
                1 => Absent,
                id => Is(id),
            };
            Accounts { groups: names.groups.iter().map(|name| (name.clone(), id)).collect(), ..Accounts::default() }
        };
        let trust = Trust::open(&layout, look_up.clone()).unwrap();
        let known = |trust: &Trust| trust.policy().accounts().groups["ops"];
        assert_eq!((known(&trust), trust.look_up_again()), (Unknown, false));
        says.store(815, Relaxed);
        assert!(trust.look_up_again());
        assert_eq!((known(&trust), trust.look_up_again()), (Is(815), false));
        says.store(0, Relaxed);
        trust.reload().unwrap();
        assert_eq!(known(&trust), Is(815));
        // After a restart too.
        let again = Trust::open(&layout, look_up).unwrap();
        assert_eq!(known(&again), Is(815));
        says.store(1, Relaxed);
        again.reload().unwrap();
        assert_eq!(known(&again), Absent);
    }

    #[test]
    fn an_added_key_holds_at_once_and_after_a_restart() {
        let (_dir, layout) = host();
        let trust = Trust::open(&layout, nobody).unwrap();
        let added = trust.add("ci", &pem(), "r.example/bpf/**", Apply::Write).unwrap();
        assert_eq!(added.path, layout.etc.join("policy.d/ci.toml"));
        assert_eq!((trust.policy().signers.len(), trust.policy().images.len()), (1, 1));
        let again = Trust::open(&layout, nobody).unwrap().policy();
        assert_eq!((&again, &again.files), (&trust.policy(), &vec![added.path.display().to_string()]));
    }

    #[test]
    fn validating_changes_nothing() {
        let (dir, layout) = host();
        let trust = Trust::open(&layout, nobody).unwrap();
        trust.add("ci", &pem(), "r.example", Apply::ValidateOnly).unwrap();
        let etc = dir.path().join("etc");
        assert!(!etc.exists(), "{etc:?}");
        assert!(trust.policy().signers.is_empty());
    }

    #[test]
    fn a_name_is_taken_by_another_key_or_scope_only() {
        let (_dir, layout) = host();
        let trust = Trust::open(&layout, nobody).unwrap();
        let key = pem();
        let add = |key: &str, scope| trust.add("ci", key, scope, Apply::Write);
        let first = add(&key, "r.example").unwrap();
        assert_eq!(add(&key, "r.example").unwrap(), first);
        assert!(matches!(add(&pem(), "r.example"), Err(TrustError::NameTaken { .. })));
        assert!(matches!(add(&key, "s.example"), Err(TrustError::NameTaken { .. })));
        assert_eq!(trust.policy().images.len(), 1);
    }

    #[test]
    fn a_signer_of_another_file_keeps_its_name() {
        let (_dir, layout) = host();
        let key = layout.etc.join("keys/mine.pub");
        etc::replace(&key, &pem()).unwrap();
        let text = format!("version = 1\n[[signer]]\nname = \"ci\"\nkey = \"{}\"\n", key.display());
        etc::replace(&layout.etc.join("policy.toml"), &text).unwrap();
        let trust = Trust::open(&layout, nobody).unwrap();
        let error = trust.add("ci", &pem(), "r.example", Apply::Write).unwrap_err();
        let expected = "there is a signer `ci` already, with another key or scope, in `ETC/policy.toml`";
        assert_eq!(told(&error, &layout), expected);
    }

    #[test]
    fn what_would_not_parse_is_not_written() {
        let (_dir, layout) = host();
        etc::replace(&layout.etc.join("policy.toml"), OPEN).unwrap();
        let trust = Trust::open(&layout, nobody).unwrap();
        let error = trust.add("ci", &pem(), "r.example", Apply::Write).unwrap_err();
        let expected = "policy is refused at ETC/policy.toml:3:9: there is an `[[image]]` for the scope `r.example` \
                        already: write all requirements into one";
        assert_eq!(told(&error, &layout), expected);
        assert!(!layout.etc.join("keys").exists() && !layout.etc.join("policy.d").exists());
        assert!(matches!(trust.add("Ci", &pem(), "x.example", Apply::Write), Err(TrustError::Name(_))));
        assert!(matches!(trust.add("ci", "no key", "x.example", Apply::Write), Err(TrustError::Key(_))));
        assert!(matches!(trust.add("ci", &pem(), "*", Apply::Write), Err(TrustError::Scope(_))));
    }

    #[test]
    fn a_private_key_is_never_taken_for_a_public_one() {
        let (_dir, layout) = host();
        let trust = Trust::open(&layout, nobody).unwrap();
        let private = SigningKey::generate(Scheme::P256).unwrap().to_pem().unwrap();
        let error = trust.add("ci", private.reveal(), "r.example", Apply::Write).unwrap_err();
        assert!(matches!(error, TrustError::Key(KeyError::PrivateKey)), "{error:?}");
    }
}
