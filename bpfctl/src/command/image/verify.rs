//! `bpfctl image verify`: judges the signatures of an image, by a key or a policy of the caller's in its registry, or by the
//! daemon's policy in the daemon's store. The same decision in both places: `bytecode_image::verify`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bpfd_policy::Policy;
use bpfd_policy::image::{Identity, ImageRule, Requirement, Trust};
use bpfd_policy::key::PublicKey;
use bpfd_policy::read::PolicyText;
use bpfd_policy::signer::Signer;
use bpfd_proto::{codec, v1 as pb};
use bytecode_image::fetch::{SignaturesFound, fetch_signatures, select};
use bytecode_image::key::VerifyingKey;
use bytecode_image::keyless::PolicyFiles;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use bytecode_image::scope::Scope;
use bytecode_image::verify::{Verified, decide, evidence, now};
use clap::Args;

use super::registry::{self, Registry, fetch_failed};
use super::stored::Verdict;
use crate::args::word;
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain};
use crate::files;

/// Where the daemon's trusted roots are.
const TRUST: &str = "/etc/bpfd/trust";

/// Judge the signatures of an image, by the daemon's policy or by your own key or policy
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("judge").args(["key", "policy"]),
    mut_arg("registries", |arg| arg.requires("judge")),
    mut_arg("authfile", |arg| arg.requires("judge")),
    after_help = "\
Without --key and --policy the daemon judges an image of its store. With one of them the image is judged where it is, in its \
registry: no daemon and no privilege is needed. Exits with 6 if the image is not trusted.

Examples:
  bpfctl image verify registry/bpf/counter:1.2.0
  bpfctl image verify registry/bpf/counter:1.2.0 --key ci.key.pub
  bpfctl image verify registry/bpf/counter:1.2.0 --policy policy.toml
  bpfctl image verify registry/bpf/counter:1.2.0 --explain"
)]
pub(super) struct Verify {
    /// The image; in the daemon's store a digest will do
    #[arg(value_parser = word)]
    image: String,
    /// Whoever holds the private half of this key must have signed it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// It must pass this policy
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Tell how each section of the policy fared, and each of its requirements
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    registry: Registry,
}

impl Verify {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { image, key, policy, explain, registry } = self;
        let verdict = match (key, policy) {
            (None, None) => session.client().await?.verify(pb::VerifyImageRequest { image, explain }).await?,
            (Some(key), _) => {
                let reference = parse(&image)?;
                here(session, &registry, &reference, &signed_by(&key, &reference)?, explain).await?
            }
            (None, Some(policy)) => here(session, &registry, &parse(&image)?, &read_policy(&policy)?, explain).await?,
        };
        let exit = if verdict.trusted { Exit::Ok } else { Exit::Signature };
        session.printer.show(&Verdict(verdict))?;
        Ok(exit)
    }
}

fn parse(image: &str) -> Result<Reference, Failure> {
    image.parse().map_err(|error: bytecode_image::reference::ReferenceError| {
        Local::new(Exit::Usage, format!("cannot verify `{image}`")).cause(error.to_string()).into()
    })
}

/// The policy that one key is.
fn signed_by(path: &Path, reference: &Reference) -> Result<Policy, Failure> {
    let key = VerifyingKey::from_pem(&files::key(path)?).map_err(|error| {
        Local::new(Exit::Usage, format!("cannot use the key `{}`", path.display())).cause(error_chain(&error))
    })?;
    let signers = BTreeMap::from([("key".to_owned(), Signer::Key(PublicKey::from(&key)))]);
    let signed = Requirement::Signed { signers, threshold: 1, identity: Identity::Repository };
    let scope = Scope::of_repository(reference);
    let trust = Trust::All(vec![signed]);
    let rule = ImageRule { scope, trust, require_digest: false, forbid_downgrade: false, max_signature_age: None };
    Ok(Policy { images: vec![rule], ..Policy::default() })
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let text = files::document(path)?;
    let file = path.display().to_string();
    let named = PolicyFiles { trust: TRUST.into(), read: |path: &Path| std::fs::read_to_string(path) };
    Policy::read(&[PolicyText { file: &file, text: &text }], named).map_err(|error| {
        Local::new(Exit::Usage, format!("cannot use the policy `{file}`")).cause(error_chain(&error)).into()
    })
}

/// Judges an image in its registry.
async fn here(
    session: &Session,
    registry: &Registry,
    reference: &Reference,
    policy: &Policy,
    explain: bool,
) -> Result<pb::VerifyImageResponse, Failure> {
    let message = format!("cannot verify `{reference}`");
    let remote = registry.remote(session, reference)?;
    let top = registry::top(&remote).await?;
    let failed = |error| fetch_failed(&message, &error);
    let selected = select(&remote, top, &Platform::host(None)).await.map_err(failed)?;
    let SignaturesFound { sets, unreadable } = fetch_signatures(&remote, &selected, &()).await.map_err(failed)?;
    if let Some(error) = unreadable {
        return Err(failed(error));
    }
    let candidates: Vec<_> = sets.iter().flat_map(|set| set.candidates()).collect();
    let digest = selected.digest().to_string();
    let ages = now();
    let sections = match explain {
        true => policy.explain(&evidence(policy, selected.subject(), &candidates), ages),
        false => vec![],
    };
    // What an image came after is known to the daemon alone: no row is about a downgrade.
    let sections = sections.into_iter().map(codec::v1::section).collect();
    Ok(match decide(policy, selected.subject(), &candidates, ages) {
        Ok(verified) => pb::VerifyImageResponse { sections, ..trusted(&verified, digest) },
        Err(refusal) => pb::VerifyImageResponse {
            trusted: false,
            findings: vec![error_chain(&refusal.reason), format!("hint: {}", refusal.hint())],
            digest,
            sections,
            ..Default::default()
        },
    })
}

fn trusted(verified: &Verified, digest: String) -> pb::VerifyImageResponse {
    pb::VerifyImageResponse {
        trusted: true,
        scope: verified.scope().to_string(),
        signers: verified.signers().iter().cloned().collect(),
        findings: verified.judged().iter().map(ToString::to_string).collect(),
        digest,
        sections: vec![],
    }
}
