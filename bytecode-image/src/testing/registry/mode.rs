//! How a repository lies.

use std::str::FromStr;

/// What a repository does with requests; uploads are always taken honestly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mode {
    /// All as it should be.
    #[default]
    Honest,
    /// A byte of each image manifest is changed; the digest header names the true one.
    TamperedManifest,
    /// The same for indexes.
    TamperedIndex,
    /// The same for configurations.
    TamperedConfig,
    /// The same for layers (all other blobs).
    TamperedLayer,
    /// No `Docker-Content-Digest`.
    NoDigestHeader,
    /// Manifests come as `text/html`.
    WrongContentType,
    /// A manifest of 1 GiB, chunked.
    HugeManifest,
    /// A manifest that says it has 1 GiB.
    HugeManifestAnnounced,
    /// Blobs without end.
    EndlessBlob,
    /// Blobs are one byte too long.
    LongBlob,
    /// Blobs are one byte too short.
    ShortBlob,
    /// Blobs break off in their middle; ranges bring the rest.
    CutOff,
    /// Blobs break off in their middle, and ranges in the middle of what is left.
    AlwaysCutOff,
    /// Blobs break off in their middle, once each; ranges are ignored.
    CutOffNoRanges,
    /// Headers of a blob come, its body never.
    Stall,
    /// Each answer comes after half a second.
    Slow,
    /// A manifest differs each time it is asked for.
    Changing,
    /// Blobs are redirected to a URL.
    RedirectBlobs(String),
    /// Manifests are redirected to a URL.
    RedirectManifests(String),
    /// Each manifest request is redirected to itself.
    RedirectForever,
    /// Everything needs a token from this URL.
    Realm(String),
    /// Everything is answered with 401 and these challenges.
    Challenges(Vec<String>),
    /// Everything is answered with a status.
    Status(u16),
    /// The first requests are answered with a status and `Retry-After: 0`, the rest as it should be.
    Fails(u16, u32),
    /// The same with another `Retry-After`.
    FailsUntil(u16, u32, String),
    /// The first requests that write are answered with a status and `Retry-After: 0`.
    FailsWrites(u16, u32),
    /// No answer says how long it is.
    Chunked,
    /// Everything is answered with 500 and a body without end.
    EndlessError,
    /// Tags that end in `.sig` are answered with a status.
    SignaturesStatus(u16),
}

/// Not the name of a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    /// Names as on the command line: `tampered-layer`, `redirect-blobs=URL`, `status=500`, `fails=503*2`.
    fn from_str(text: &str) -> Result<Self, ModeError> {
        let wrong = || ModeError(text.to_owned());
        let number = |text: &str| text.parse().map_err(|_not| wrong());
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        Ok(match (name, value) {
            ("honest", None) => Self::Honest,
            ("tampered-manifest", None) => Self::TamperedManifest,
            ("tampered-index", None) => Self::TamperedIndex,
            ("tampered-config", None) => Self::TamperedConfig,
            ("tampered-layer", None) => Self::TamperedLayer,
            ("no-digest-header", None) => Self::NoDigestHeader,
            ("wrong-content-type", None) => Self::WrongContentType,
            ("huge-manifest", None) => Self::HugeManifest,
            ("huge-manifest-announced", None) => Self::HugeManifestAnnounced,
            ("endless-blob", None) => Self::EndlessBlob,
            ("long-blob", None) => Self::LongBlob,
            ("short-blob", None) => Self::ShortBlob,
            ("cut-off", None) => Self::CutOff,
            ("always-cut-off", None) => Self::AlwaysCutOff,
            ("cut-off-no-ranges", None) => Self::CutOffNoRanges,
            ("stall", None) => Self::Stall,
            ("slow", None) => Self::Slow,
            ("changing", None) => Self::Changing,
            ("redirect-blobs", Some(url)) => Self::RedirectBlobs(url.to_owned()),
            ("redirect-manifests", Some(url)) => Self::RedirectManifests(url.to_owned()),
            ("redirect-forever", None) => Self::RedirectForever,
            ("realm", Some(url)) => Self::Realm(url.to_owned()),
            ("challenge", Some(challenge)) => Self::Challenges(vec![challenge.to_owned()]),
            ("status", Some(status)) => Self::Status(number(status)?),
            ("fails", Some(value)) => {
                let (status, times) = value.split_once('*').ok_or_else(wrong)?;
                Self::Fails(number(status)?, times.parse().map_err(|_not| wrong())?)
            }
            ("chunked", None) => Self::Chunked,
            ("endless-error", None) => Self::EndlessError,
            ("signatures-status", Some(status)) => Self::SignaturesStatus(number(status)?),
            _ => return Err(wrong()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_named_on_the_command_line() {
        assert_eq!("tampered-layer".parse(), Ok(Mode::TamperedLayer));
        assert_eq!("redirect-blobs=http://a/?b=c".parse(), Ok(Mode::RedirectBlobs("http://a/?b=c".into())));
        assert_eq!("fails=503*2".parse(), Ok(Mode::Fails(503, 2)));
        for wrong in ["", "status", "status=x", "honest=1", "fails=503"] {
            assert_eq!(wrong.parse::<Mode>(), Err(ModeError(wrong.into())));
        }
    }
}
