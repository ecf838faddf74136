//! An image's config blob (image-spec 1.1 config.md): its labels, and the architecture that its builder wrote.
//!
//! Owns reading it; everything else in a config is of no use here and passed over. Must never believe the architecture: many
//! builders write their own machine's.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::limits;

/// What is read of a config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `config.Labels`.
    pub labels: BTreeMap<String, String>,
    /// `architecture`, as Go names it. Advice.
    pub architecture: Option<String>,
}

/// A config that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Longer than any config.
    #[error("image config has {0} bytes; at most {limit} are read", limit = limits::CONFIG)]
    TooLong(usize),
    /// Not the JSON of a config.
    #[error("image config cannot be read")]
    Json(#[source] serde_json::Error),
}

impl ImageConfig {
    /// Reads the bytes of a config; they have been checked against their digest.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Outer {
            architecture: Option<String>,
            config: Option<Inner>,
        }
        #[derive(Deserialize)]
        struct Inner {
            #[serde(rename = "Labels")]
            labels: Option<BTreeMap<String, String>>,
        }
        if u64::try_from(bytes.len()).map_or(true, |length| length > limits::CONFIG) {
            return Err(ConfigError::TooLong(bytes.len()));
        }
        let Outer { architecture, config } = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        Ok(Self { labels: config.and_then(|config| config.labels).unwrap_or_default(), architecture })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_any_builders_config() {
        let of = |text: &str| ImageConfig::parse(text.as_bytes()).unwrap();
        let docker =
            of(r#"{"architecture":"arm64","config":{"Env":["PATH=/"],"Labels":{"a":"b"}},"history":[],"rootfs":{}}"#);
        assert_eq!(docker.labels["a"], "b");
        assert_eq!(docker.architecture.as_deref(), Some("arm64"));
        for without in ["{}", r#"{"config":null}"#, r#"{"config":{"Labels":null}}"#] {
            assert_eq!(of(without), ImageConfig::default());
        }
    }

    #[test]
    fn other_configs_are_refused() {
        for text in ["", "[]x", r#"{"config":{"Labels":{"a":1}}}"#, r#"{"config":{"Labels":["a"]}}"#] {
            assert!(matches!(ImageConfig::parse(text.as_bytes()), Err(ConfigError::Json(_))), "{text}");
        }
        let long = vec![b' '; (1 << 20) + 1];
        assert!(matches!(ImageConfig::parse(&long), Err(ConfigError::TooLong(1_048_577))));
    }
}
