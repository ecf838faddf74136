//! Pushing: blobs that are not there yet, then the manifest that names them.
//!
//! Always to the registry itself, never to a mirror. Must never push a manifest's bytes changed, or believe that they
//! arrived whole if the registry says otherwise.

use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderValue, LOCATION},
};

use super::{
    Remote, TransportError, announced_digest,
    blob::blob_name,
    exchange::{Access, Ask},
};
use crate::{
    digest::{Descriptor, Digest},
    document::Document,
};

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was sent.
    Uploaded,
    /// The repository had it.
    AlreadyThere,
}

/// Under which name a manifest is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<'a> {
    /// A tag.
    Tag(&'a str),
    /// Its digest alone: part of an index, or attached to something.
    Digest,
}

impl Remote<'_> {
    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn has_blob(&self, digest: Digest) -> Result<bool, TransportError> {
        let at = self.own()?;
        let ask = Ask::new(Method::HEAD, self.url(at, &format!("blobs/{digest}"))?, &blob_name(digest));
        match self.ask(at, Access::Push, &ask).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob in one piece, unless it is there.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn put_blob(&self, bytes: &[u8]) -> Result<Put, TransportError> {
        let digest = Digest::of(bytes);
        if self.has_blob(digest).await? {
            return Ok(Put::AlreadyThere);
        }
        let at = self.own()?;
        let what = blob_name(digest);
        // "Pushing blobs", POST then PUT: the form that every registry has.
        let begin = Ask::new(Method::POST, self.url(at, "blobs/uploads/")?, &what);
        let response = self.ask(at, Access::Push, &begin).await?;
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let url: Option<Url> = location.and_then(|location| begin.url.join(location).ok());
        let mut url = url.ok_or_else(|| TransportError::Location(at.authority.clone()))?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut finish = Ask::new(Method::PUT, url, &what);
        finish.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        finish.body = Some(bytes);
        self.ask(at, Access::Push, &finish).await?;
        Ok(Put::Uploaded)
    }

    /// Puts a manifest or an index.
    ///
    /// # Errors
    /// [`TransportError`].
    pub async fn put_manifest(&self, place: Place<'_>, document: &Document) -> Result<(), TransportError> {
        let at = self.own()?;
        let Descriptor { media_type, digest, size: _ } = document.descriptor();
        let name = match place {
            Place::Tag(tag) => tag.to_owned(),
            Place::Digest => digest.to_string(),
        };
        let what = format!("place for the manifest `{name}` in `{}`", self.reference.repository());
        let mut ask = Ask::new(Method::PUT, self.url(at, &format!("manifests/{name}"))?, &what);
        let media_type = HeaderValue::from_str(media_type).map_err(|_not| TransportError::Url(media_type.clone()))?;
        ask.headers.insert(CONTENT_TYPE, media_type);
        ask.body = Some(document.bytes());
        let response = self.ask(at, Access::Push, &ask).await?;
        match announced_digest(&response).filter(|stored| stored != digest) {
            Some(stored) => Err(TransportError::Stored { host: at.authority.clone(), sent: *digest, stored }),
            None => Ok(()),
        }
    }
}
