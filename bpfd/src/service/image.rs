//! Images of the store: list, inspect, verify, tag, import, export, remove.

use bpfd_core::ask::{ExportImagesAsk, ImportImagesAsk, Look, PruneImagesAsk, RemoveImagesAsk, TagImageAsk};
use bpfd_core::names::printable;
use bpfd_core::policy::{Authorized, Principal};
use bpfd_core::request::Apply;
use bytecode_image::reference::Reference;

use super::{Listed, Page, Refused, Service};
use crate::images::{self, ArchiveUpload, Explain, Exported, ImageError, Inspected, Needed, Removed, Stored, Verdict};

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

    /// Gives an image, by reference or digest, one more name.
    pub async fn tag_image(
        &self,
        principal: Principal,
        image: String,
        name: Reference,
    ) -> Result<StoredImage, Refused<ImageError>> {
        let ask = self.permit(principal, TagImageAsk { image, name: name.to_string() }).await?;
        let (TagImageAsk { image, name: _ }, principal) = ask.into_parts();
        let change = format!("let `{name}` lead to image `{}` of the store", printable(&image));
        let (store, owner) = (self.images.clone(), principal.owner());
        let tag = async move { store.tag(&principal, image, name).await };
        Ok(self.used(self.recorded(owner, vec![change], tag).await?))
    }

    /// Room for an archive that a caller may import.
    pub async fn receive_archive(
        &self,
        principal: Principal,
        name: Option<&Reference>,
    ) -> Result<(Authorized<ImportImagesAsk>, ArchiveUpload), Refused<ImageError>> {
        let ask = self.permit(principal, ImportImagesAsk(name.map(ToString::to_string))).await?;
        let upload = self.images.upload(ask.principal().uid).await.map_err(Refused::Failed)?;
        Ok((ask, upload))
    }

    /// Takes in every image of an archive, or none.
    pub async fn import_images(
        &self,
        ask: Authorized<ImportImagesAsk>,
        upload: ArchiveUpload,
        name: Option<Reference>,
    ) -> Result<Vec<StoredImage>, Refused<ImageError>> {
        let (ImportImagesAsk(_), principal) = ask.into_parts();
        let change = match &name {
            Some(name) => format!("import `{name}` from an archive"),
            None => "import images from an archive".to_owned(),
        };
        let (store, owner) = (self.images.clone(), principal.owner());
        let import = async move { store.import(&principal, upload, name).await };
        let stored = self.recorded(owner, vec![change], import).await?;
        self.keep_image_quota().await;
        Ok(stored.into_iter().map(|stored| self.used(stored)).collect())
    }

    /// An archive of images, by reference or digest.
    pub async fn export_images(
        &self,
        principal: Principal,
        images: Vec<String>,
    ) -> Result<Exported, Refused<ImageError>> {
        let (ExportImagesAsk(images), principal) = self.permit(principal, ExportImagesAsk(images)).await?.into_parts();
        self.images.export(&principal, images).await.map_err(Refused::Failed)
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

    /// Makes room in the store if images came and it has become too large: what was used longest ago goes first. Never what is needed.
    pub(super) async fn keep_image_quota(&self) {
        if !self.images.has_grown() {
            return;
        }
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
        let named = status.programs.iter().filter_map(|program| program.source.image().cloned());
        // What a file that cannot be read names is not known: then all of it may be needed.
        Needed { state: self.snapshot().state.clone(), files: named.collect(), all: !status.bad.is_empty() }
    }

    pub(super) fn used(&self, stored: Stored) -> StoredImage {
        let apps = images::users(&self.snapshot().state, &stored.reference, stored.digest);
        StoredImage { stored, apps }
    }
}
