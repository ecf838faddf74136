//! What systemd is told of the daemon (sd_notify(3)). Without systemd nothing is told. It must never decide anything.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::service::Service;

/// Tells systemd that the engine still takes its turns: one that hangs is no daemon.
pub async fn feed_watchdog(service: Arc<Service>, within: Duration) {
    while service.takes_turns().await {
        tell_systemd(&[NotifyState::Watchdog]);
        tokio::time::sleep(within / 3).await;
    }
}

/// Tells it so.
pub fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
