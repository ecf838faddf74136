//! `forbid_downgrade`: whether an image is older than the last one of its name that was let through, by the version in its label, which
//! its digest, and so its signature, is over. Must never know where the last one is kept.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Characters of a label that a message shows.
const SHOWN_CHARACTERS: usize = 64;

/// What is remembered of an image that was let through.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Release {
    /// `version` of its label.
    pub version: Option<String>,
    /// The manifest that is loaded: of an index, the one for this machine.
    pub manifest: Digest,
}

/// Why an image is a downgrade.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Downgrade {
    /// Nobody can say whether it is newer.
    #[error("its label has no `version`")]
    NoVersion,
    /// The same.
    #[error("`{0}`, the `version` in its label, is not of the form MAJOR.MINOR.PATCH (semver.org)")]
    NotSemver(String),
    /// It is.
    #[error("its version {asked} is older than {last}, the last one of this name here")]
    Older {
        /// Of the image.
        asked: Version,
        /// Of the last one.
        last: Version,
    },
    /// One version is two things.
    #[error("version {version} of this name was another image here: {last}")]
    OtherImage {
        /// Of both.
        version: Version,
        /// The manifest of the last one.
        last: Digest,
    },
}

impl Release {
    fn semver(&self) -> Result<Version, Downgrade> {
        let text = self.version.as_deref().ok_or(Downgrade::NoVersion)?;
        let shown = || text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect();
        Version::parse(text).map_err(|_not| Downgrade::NotSemver(shown()))
    }

    /// Whether this may come after the last one of its repository and name. A last one without a version says nothing.
    ///
    /// # Errors
    /// [`Downgrade`].
    pub fn may_follow(&self, last: Option<&Self>) -> Result<(), Downgrade> {
        let asked = self.semver()?;
        let Some(last) = last else { return Ok(()) };
        let Ok(version) = last.semver() else { return Ok(()) };
        match asked.cmp_precedence(&version) {
            std::cmp::Ordering::Greater => Ok(()),
            std::cmp::Ordering::Less => Err(Downgrade::Older { asked, last: version }),
            std::cmp::Ordering::Equal if self.manifest == last.manifest => Ok(()),
            std::cmp::Ordering::Equal => Err(Downgrade::OtherImage { version, last: last.manifest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, bytes: &[u8]) -> Release {
        Release { version: Some(version.to_owned()).filter(|version| !version.is_empty()), manifest: Digest::of(bytes) }
    }

    #[test]
    fn only_what_is_newer_or_the_same_image_may_follow() {
        let check = |last: Option<(&str, &str)>, asked: (&str, &str)| {
            let last = last.map(|(version, bytes)| release(version, bytes.as_bytes()));
            let asked = release(asked.0, asked.1.as_bytes());
            asked.may_follow(last.as_ref()).map_err(|why| why.to_string())
        };
        assert_eq!(check(None, ("1.0.0", "a")), Ok(()));
        assert_eq!(check(Some(("1.0.0", "a")), ("1.0.1", "b")), Ok(()));
        assert_eq!(check(Some(("1.0.0-rc.1", "a")), ("1.0.0", "b")), Ok(()));
        assert_eq!(check(Some(("1.9.0", "a")), ("1.10.0", "b")), Ok(()));
        assert_eq!(check(Some(("1.0.0", "a")), ("1.0.0", "a")), Ok(()));
        assert_eq!(check(Some(("", "a")), ("1.0.0", "b")), Ok(()));
        let other = format!("version 1.0.0 of this name was another image here: {}", Digest::of(b"a"));
        assert_eq!(check(Some(("1.0.0", "a")), ("1.0.0", "b")), Err(other.clone()));
        // What is built differently is no newer version.
        assert_eq!(check(Some(("1.0.0", "a")), ("1.0.0+2", "b")), Err(other));
        assert_eq!(
            check(Some(("1.4.0", "a")), ("1.3.9", "b")).unwrap_err(),
            "its version 1.3.9 is older than 1.4.0, the last one of this name here"
        );
        assert_eq!(
            check(Some(("1.0.0", "a")), ("1.0.0-rc.1", "b")).unwrap_err(),
            "its version 1.0.0-rc.1 is older than 1.0.0, the last one of this name here"
        );
        for last in [None, Some(("1.0.0", "a"))] {
            assert_eq!(check(last, ("", "b")).unwrap_err(), "its label has no `version`");
            assert_eq!(
                check(last, ("v1.2\u{7}", "b")).unwrap_err(),
                "`v1.2`, the `version` in its label, is not of the form MAJOR.MINOR.PATCH (semver.org)"
            );
        }
    }
}
