//! Identities that an operator has blocked: no stream, no renewal, no enrolment.

use std::collections::BTreeMap;

use certs::Timestamp;
use serde::{Deserialize, Serialize};

use crate::SpiffeId;

/// The blocked identities at one moment, nodes and workloads alike. Published as `watch<Arc<BlockList>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockList {
    entries: BTreeMap<SpiffeId, (Timestamp, String)>,
}

impl BlockList {
    /// Collects (identity, since, reason).
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (SpiffeId, Timestamp, String)>) -> Self {
        Self { entries: entries.into_iter().map(|(id, since, reason)| (id, (since, reason))).collect() }
    }

    /// Whether `id` is blocked.
    #[must_use]
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.entries.contains_key(id)
    }

    /// Whether nobody is blocked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every (identity, since, reason).
    pub fn iter(&self) -> impl Iterator<Item = (&SpiffeId, Timestamp, &str)> {
        self.entries.iter().map(|(id, (since, reason))| (id, *since, reason.as_str()))
    }
}
