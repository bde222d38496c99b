//! Lets proxies end what was opened under a stolen key, as soon as nobody is served the stolen root any more.

use std::sync::Arc;

use api::calls::configs::Handle;
use ca::Drain;
use sds::SdsStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Follows the authorities with the drain generation of configurations.
///
/// The order is what counts: a proxy that took its new listener, and with it the new name of the validation context,
/// while that still held the stolen root, would admit the thief to a connection that no later step ends.
pub(super) struct Drainage {
    pub(super) drain: watch::Receiver<Drain>,
    pub(super) sds: watch::Receiver<Arc<SdsStatus>>,
    pub(super) configs: Handle,
}

impl Drainage {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            // Whoever publishes ends first: then the process does.
            _ = self.follow() => {}
        }
    }

    async fn follow(&mut self) -> Option<()> {
        loop {
            let wanted = *self.drain.borrow_and_update();
            self.sds.wait_for(|status| status.bundle() >= wanted.bundle).await.ok()?;
            self.configs.drain(wanted.generation).await.ok()?;
            self.drain.changed().await.ok()?;
        }
    }
}
