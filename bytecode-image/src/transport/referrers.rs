//! What is attached to a manifest: the referrers API, and the tag that stands in for it on older registries
//! (distribution-spec 1.1, "Listing Referrers" and "Unavailable Referrers API").
//!
//! Must never take an error for an empty list: only a 404 to both is one.

use reqwest::{Method, Url, header::LINK};

use super::{
    Remote, TransportError,
    body::length,
    exchange::{Access, Ask, same_origin},
};
use crate::{
    digest::Digest,
    document::{Document, DocumentError, IndexEntry, Manifest},
    limits, media,
    registries::Endpoint,
};

impl Remote<'_> {
    /// The manifests that name `subject`. No more pages are read than [`limits::REFERRER_PAGES`]; more is an error.
    ///
    /// # Errors
    /// [`TransportError`]; never "not found".
    pub async fn referrers(&self, subject: Digest) -> Result<Vec<IndexEntry>, TransportError> {
        let listed = self.anywhere(async |at| self.listed(at, subject).await).await;
        match listed {
            Err(error) if error.is_not_found() => {}
            done => return done,
        }
        match self.tagged(&subject.to_string().replace(':', "-")).await {
            Ok(document) => entries(&document),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn listed(&self, at: &Endpoint, subject: Digest) -> Result<Vec<IndexEntry>, TransportError> {
        let mut url = self.url(at, &format!("referrers/{subject}"))?;
        let mut found = Vec::new();
        let mut left = limits::REFERRERS;
        let what = format!("list of referrers of `{subject}`");
        for _page in 0..limits::REFERRER_PAGES {
            let ask = Ask::new(Method::GET, url.clone(), &what);
            let response = self.ask(at, Access::Pull, &ask).await?;
            let next = response.headers().get(LINK).and_then(|link| next_page(&url, link.to_str().ok()?));
            let bytes = self.whole(&at.authority, &what, left, response).await?;
            left -= length(&bytes);
            found.extend(entries(&Document::new(media::INDEX, bytes))?);
            match next {
                Some(next) if same_origin(at, &next) => url = next,
                Some(_) => return Err(TransportError::Location(at.authority.clone())),
                None => return Ok(found),
            }
        }
        Err(TransportError::TooLarge { what, limit: limits::REFERRERS })
    }
}

fn entries(document: &Document) -> Result<Vec<IndexEntry>, TransportError> {
    match document.parse()? {
        Manifest::Index(index) => Ok(index.manifests),
        Manifest::Image(_) => {
            let (inside, announced) = (document.media_type().to_owned(), media::INDEX.to_owned());
            Err(DocumentError::MediaTypeDiffers { inside, announced }.into())
        }
    }
}

/// `<URL>; rel="next"` (RFC 8288); other relations are of no use here.
fn next_page(from: &Url, link: &str) -> Option<Url> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters.contains("rel=\"next\"").then(|| from.join(target).ok()).flatten()
}
