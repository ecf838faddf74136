//! Upload: the bytes of one object, for a load that names them by their hash.

use bpfd_core::ask::UploadAsk;
use bpfd_core::policy::{Denied, Principal};
use bpfd_core::state::ObjectDigest;

use super::Service;
use crate::objects::{Incoming, IncomingError};

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadRefused {
    /// The policy.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Too large, or the disk.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// Its thread ended without an answer: it panicked, and said so on stderr.
    #[error("the upload ended unexpectedly")]
    Lost,
}

impl Service {
    /// An object to be written in pieces.
    pub async fn upload(&self, principal: Principal) -> Result<Incoming, UploadRefused> {
        self.permit(principal, UploadAsk).await?;
        Ok(self.objects.incoming().map_err(IncomingError::Write)?)
    }

    /// All its pieces are here. Gives its hash and its size. Objects that nothing has used for long make room.
    pub async fn uploaded(&self, incoming: Incoming) -> Result<(ObjectDigest, u64), UploadRefused> {
        let (objects, snapshot) = (self.objects.clone(), self.snapshot());
        let finished = tokio::task::spawn_blocking(move || {
            let finished = incoming.finish();
            match objects.sweep(&snapshot.objects()) {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "removed unused objects"),
                Err(error) => tracing::warn!(%error, "cannot sweep the object store"),
            }
            finished
        });
        let finished = finished.await;
        Ok(finished.map_err(|_panicked| UploadRefused::Lost)?.map_err(IncomingError::Write)?)
    }
}
