//! The policies of `docs/policy` are read as they stand there, and are what each page expects of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;

use bpfd_policy::Policy;
use bpfd_policy::expect::{Expectations, Finding};
use bpfd_policy::key::PublicKey;
use bpfd_policy::read::{KeyFault, Named, PolicyText};
use bpfd_policy::signer::{RootName, TrustedRoot};

/// Any key and any root: whose they are is no matter here.
struct Anything;

impl Named for Anything {
    fn key(&mut self, path: &Path) -> Result<PublicKey, KeyFault> {
        Ok(path.as_os_str().as_encoded_bytes().to_vec().into())
    }

    fn root(&mut self, _: &RootName) -> Result<TrustedRoot, KeyFault> {
        Ok("{}".to_owned().into())
    }
}

/// The block of a page that begins with this word after its language.
fn block<'a>(page: &'a str, word: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("```toml {word}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

macro_rules! pages {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../../docs/policy/", $name)))),*]
    };
}

#[test]
fn each_worked_example_does_what_its_page_says() {
    for (name, page) in pages!["kubernetes-node.md", "shared-nic.md", "single-server.md", "tracing-team.md"] {
        let policy = Policy::read(&[PolicyText { file: name, text: block(page, "policy") }], Anything)
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", error.fault));
        let expected = Expectations::read(name, block(page, "expect")).unwrap();
        let findings = expected.of(&policy);
        let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.wrong.is_some()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        // The control: without the rules of the page, some expectation does not hold.
        let built_in = Policy { rules: Policy::default().rules, ..policy };
        assert!(expected.of(&built_in).iter().any(|finding| finding.wrong.is_some()), "{name} proves nothing");
    }
}
