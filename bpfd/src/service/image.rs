//! Images of the store: list, inspect, verify, remove.

use bpfd_core::ask::{Look, PruneImagesAsk, RemoveImagesAsk};
use bpfd_core::names::printable;
use bpfd_core::policy::Principal;
use bpfd_core::request::Apply;

use super::{Listed, Page, Refused, Service};
use crate::images::{self, Explain, ImageError, Inspected, Needed, Removed, Stored, Verdict};

/// Images of one page at most: each is judged, and its signatures verified.
const PAGE: usize = 100;

/// An image of the store, and who uses it.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// The image.
    pub stored: Stored,
    /// Names of the apps that came from it.
    pub apps: Vec<String>,
}

impl Service {
    /// Images by name.
    pub async fn images(&self, principal: Principal, page: Page) -> Result<Listed<StoredImage>, Refused<ImageError>> {
        let (Look(page), principal) = self.permit(principal, Look(page)).await?.into_parts();
        let page = Page { size: page.size.min(PAGE), ..page };
        let stored = self.images.list(principal.uid, &page.after, page.size + 1).await.map_err(Refused::Failed)?;
        let stored = stored.into_iter().map(|stored| (stored.reference.to_string(), self.used(stored)));
        Ok(page.of(self.snapshot(), stored))
    }

    /// What is in an image, by reference or digest, and the apps that came from it.
    pub async fn inspect_image(
        &self,
        principal: Principal,
        image: &str,
    ) -> Result<(Inspected, Vec<String>), Refused<ImageError>> {
        let uid = principal.uid;
        self.permit(principal, Look(())).await?;
        let inspected = self.images.inspect(uid, image).await.map_err(Refused::Failed)?;
        let StoredImage { stored: _, apps } = self.used(inspected.image.clone());
        Ok((inspected, apps))
    }

    /// What the policy says of an image, by reference or digest.
    /// Sections that do not speak about it are told to root alone: they name what others use.
    pub async fn verify_image(
        &self,
        principal: Principal,
        image: &str,
        explain: bool,
    ) -> Result<Verdict, Refused<ImageError>> {
        let uid = principal.uid;
        self.permit(principal, Look(())).await?;
        let explain = match (explain, uid) {
            (false, _) => Explain::Verdict,
            (true, 0) => Explain::All,
            (true, _) => Explain::Matching,
        };
        self.images.verify(uid, image, explain).await.map_err(Refused::Failed)
    }

    /// Takes images away, by reference or digest: all or none.
    pub async fn remove_images(
        &self,
        principal: Principal,
        images: Vec<String>,
        apply: Apply,
    ) -> Result<Removed, Refused<ImageError>> {
        let ask = self.permit(principal, RemoveImagesAsk(images)).await?;
        let (RemoveImagesAsk(images), principal) = ask.into_parts();
        let names = images.iter().map(|image| printable(image)).collect::<Vec<_>>().join("`, `");
        let (store, before, owner) = (self.images.clone(), self.snapshot(), principal.owner());
        let remove = async move { store.remove(&principal, &images, &before.state, apply).await };
        match apply {
            Apply::ValidateOnly => remove.await.map_err(Refused::Failed),
            Apply::Write => {
                let change = format!("remove `{names}` from the image store");
                self.recorded(owner, vec![change], remove).await
            }
        }
    }

    /// Takes away what no app came from and no file of programs.d names, as far as the caller may.
    pub async fn prune_images(&self, principal: Principal, apply: Apply) -> Result<Removed, Refused<ImageError>> {
        let (PruneImagesAsk(()), principal) = self.permit(principal, PruneImagesAsk(())).await?.into_parts();
        let (store, needed, owner) = (self.images.clone(), self.needed_images(), principal.owner());
        let prune = async move { store.prune(&principal, needed, apply).await };
        match apply {
            Apply::ValidateOnly => prune.await.map_err(Refused::Failed),
            Apply::Write => {
                self.recorded(owner, vec!["remove unused images from the image store".to_owned()], prune).await
            }
        }
    }

    /// Makes room in the store if it has become too large: what was used longest ago goes first. Never what is needed.
    pub(super) async fn keep_image_quota(&self) {
        match self.images.keep_quota(self.needed_images()).await {
            Ok(gone) if gone.references.is_empty() => {}
            Ok(Removed { references, freed }) => {
                let names: Vec<String> = references.iter().map(ToString::to_string).collect();
                tracing::info!(
                    images = names.join(", "),
                    freed,
                    "the image store was too large: images that nothing needs are gone"
                );
            }
            Err(error) => tracing::warn!(%error, "cannot make room in the image store"),
        }
    }

    /// What apps came from, and what files of programs.d name.
    fn needed_images(&self) -> Needed {
        let status = self.programs.status();
        let named = status.programs.iter().filter_map(|program| program.source.strip_prefix("image ")?.parse().ok());
        // What a file that cannot be read names is not known: then all of it may be needed.
        Needed { state: self.snapshot().state.clone(), files: named.collect(), all: !status.bad.is_empty() }
    }

    pub(super) fn used(&self, stored: Stored) -> StoredImage {
        let apps = images::users(&self.snapshot().state, &stored.reference, stored.digest);
        StoredImage { stored, apps }
    }
}
