//! Bodies that fit in memory, read up to a limit and not a byte further.
//!
//! Must never believe `Content-Length` for more than an early refusal: a chunked body has none.

use reqwest::Response;

use super::{Remote, TransportError};
use crate::{limits, registries::Authority};

impl Remote<'_> {
    /// The whole body, if it is within the limit.
    pub(super) async fn whole(
        &self,
        host: &Authority,
        what: &str,
        limit: u64,
        mut response: Response,
    ) -> Result<Vec<u8>, TransportError> {
        let too_large = || TransportError::TooLarge { what: what.to_owned(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        loop {
            match self.in_time(host, response.chunk()).await? {
                Ok(Some(piece)) => {
                    bytes.extend_from_slice(&piece);
                    if length(&bytes) > limit {
                        return Err(too_large());
                    }
                }
                Ok(None) => return Ok(bytes),
                Err(source) => {
                    let (what, got, source) = (what.to_owned(), length(&bytes), source.without_url());
                    return Err(TransportError::BrokenOff { what, got, source });
                }
            }
        }
    }
}

/// The first bytes of an error's body. It is only quoted, so one that breaks off is as good as none.
pub(super) async fn start(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while length(&bytes) < limits::ERROR_BODY {
        match response.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) | Err(_) => break,
        }
    }
    bytes
}

pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
