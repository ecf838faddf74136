//! Blobs, streamed: hashed and counted while they are handed on, resumed where they broke off.
//!
//! Must never hand on a byte beyond the descriptor's size, nor call a blob complete before its digest was compared. What
//! was handed on before an error is the caller's to throw away.

use std::io::Write;

use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, HeaderValue, RANGE},
};

use super::{
    Remote, TransportError,
    body::length,
    exchange::{Access, Ask},
};
use crate::{
    digest::{Descriptor, Digest, Hasher},
    limits,
    registries::Endpoint,
};

impl Remote<'_> {
    /// Streams a blob of at most `limit` bytes into `sink`; `progress` hears how many bytes there are so far.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn blob(
        &self,
        wanted: &Descriptor,
        limit: u64,
        sink: &mut (dyn Write + Send),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), TransportError> {
        let what = blob_name(wanted.digest);
        if wanted.size > limit {
            return Err(TransportError::TooLarge { what, limit });
        }
        // The deadline bounds it all: a blob is not asked for anew at another endpoint after it has begun.
        let at = match self.serving() {
            Some(at) => at,
            None => self.own()?.clone(),
        };
        // Never closed. It is given back when the blob is here, or was given up.
        let _place = self.places.acquire().await;
        let mut hasher = Hasher::new();
        let mut resumed = 0;
        loop {
            match self.stream(&at, wanted, &mut hasher, sink, progress).await {
                // Broken after the last byte: there is nothing left to ask for.
                Err(TransportError::BrokenOff { .. }) if hasher.length() == wanted.size => break,
                Err(TransportError::BrokenOff { .. }) if resumed + 1 < limits::ATTEMPTS => resumed += 1,
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        sink.flush().map_err(TransportError::Sink)?;
        let got = hasher.finish();
        if got == wanted.digest {
            Ok(())
        } else {
            Err(TransportError::WrongDigest { what, wanted: wanted.digest, got })
        }
    }

    /// A blob that fits in memory.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn bytes(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, TransportError> {
        let mut bytes = Vec::new();
        self.blob(wanted, limit, &mut bytes, &|_| ()).await?;
        Ok(bytes)
    }

    /// One GET, from where the hasher is.
    async fn stream(
        &self,
        at: &Endpoint,
        wanted: &Descriptor,
        hasher: &mut Hasher,
        sink: &mut (dyn Write + Send),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), TransportError> {
        let what = blob_name(wanted.digest);
        let from = hasher.length();
        let mut ask = Ask::new(Method::GET, self.url(at, &format!("blobs/{}", wanted.digest))?, &what);
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            ask.headers.extend(range.into_iter().map(|range| (RANGE, range)));
        }
        let mut response = self.ask(at, Access::Pull, &ask).await?;
        let wrong_length = |got| TransportError::WrongLength { what: what.clone(), wanted: wanted.size, got };
        // A registry that cannot resume sends it all again; the digest covers what we keep of either.
        let mut skip = if starts_at(&response) == from { 0 } else { from };
        let before = from - skip;
        if let Some(announced) = response.content_length().filter(|length| before + length != wanted.size) {
            return Err(wrong_length(before.saturating_add(announced)));
        }
        loop {
            let piece = match self.in_time(&at.authority, response.chunk()).await? {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(source) => {
                    return Err(TransportError::BrokenOff { what, got: hasher.length(), source: source.without_url() });
                }
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= u64::try_from(skipped).unwrap_or(0);
            let fresh = piece.get(skipped..).unwrap_or_default();
            let now = hasher.length().saturating_add(length(fresh));
            if now > wanted.size {
                return Err(wrong_length(now));
            }
            hasher.update(fresh);
            sink.write_all(fresh).map_err(TransportError::Sink)?;
            progress(now);
        }
        if hasher.length() == wanted.size { Ok(()) } else { Err(wrong_length(hasher.length())) }
    }
}

/// For errors.
pub(super) fn blob_name(digest: Digest) -> String {
    format!("blob `{digest}`")
}

/// The offset of a response's first byte: 0 unless it is a part (RFC 9110 §14.4, `bytes FIRST-LAST/SIZE`).
fn starts_at(response: &Response) -> u64 {
    let part =
        (response.status() == StatusCode::PARTIAL_CONTENT).then(|| response.headers().get(CONTENT_RANGE)).flatten();
    let first = part.and_then(|range| range.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first.unwrap_or(0)
}
