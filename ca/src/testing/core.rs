//! The pipeline alone, for benchmarks: what one certificate costs.

use spiffe::{IssueError, IssuedSvid, SvidRequest};

use crate::{Manager, issuer::Pipeline};

/// Issues on the caller's own thread, with the authorities as they were when it was made. Threads may share it.
pub struct Core(Pipeline);

impl Core {
    /// Of a manager that is not going to run.
    #[must_use]
    pub fn of(manager: Manager) -> Self {
        Self(manager.into_pipeline())
    }

    /// Issues what `request` says: authorized, linted, journalled, signed, checked, journalled.
    ///
    /// # Errors
    /// As [`spiffe::SvidIssuer::issue`].
    pub async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        self.0.issue(request).await
    }
}
