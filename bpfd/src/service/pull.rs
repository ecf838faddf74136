//! Pull: an image comes into the store, if the policy lets it through.

use bpfd_core::ask::PullAsk;
use bpfd_core::policy::Principal;
use bpfd_core::report::Warning;
use bpfd_core::request::PullPolicy;
use bytecode_image::reference::Reference;

use super::{Refused, Service, StoredImage};
use crate::images::ImageError;
use crate::progress::Report;
use crate::waiter::Waiter;

impl Service {
    /// The image as the store has it, and things to know.
    pub async fn pull(
        &self,
        principal: Principal,
        reference: &Reference,
        pull: PullPolicy,
        report: Report,
        waiter: &Waiter,
    ) -> Result<(StoredImage, Vec<Warning>), Refused<ImageError>> {
        let ask = self.permit(principal, PullAsk(reference.to_string())).await?;
        let owner = ask.principal().owner();
        let (images, waits) = (self.images.clone(), waiter.clone());
        let work = async move { images.pull(&ask, pull, &report, &waits).await };
        let (stored, warnings) = self.recorded(owner, vec![format!("pull `{reference}`")], work).await?;
        self.keep_image_quota().await;
        Ok((self.used(stored), warnings))
    }
}
