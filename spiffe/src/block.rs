//! Identities that an operator has blocked: no stream, no renewal, no enrolment; and no request, where it is enforced.

use std::collections::{BTreeMap, BTreeSet};

use certs::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Class, SpiffeId};

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Since when.
    pub since: Timestamp,
    /// Why, in the operator's words.
    pub reason: String,
    /// Whether proxies refuse the identity at once, on open connections too. Otherwise it only gets nothing new,
    /// and what it has ends with its certificates.
    pub is_enforced: bool,
}

/// The blocked identities at one moment, nodes and workloads alike. Published as `watch<Arc<BlockList>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockList {
    entries: BTreeMap<SpiffeId, Block>,
}

impl BlockList {
    /// Collects blocks.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (SpiffeId, Block)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// Whether `id` is blocked.
    #[must_use]
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.entries.contains_key(id)
    }

    /// The block of `id`.
    #[must_use]
    pub fn get(&self, id: &SpiffeId) -> Option<&Block> {
        self.entries.get(id)
    }

    /// Whether nobody is blocked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every block.
    pub fn iter(&self) -> impl Iterator<Item = (&SpiffeId, &Block)> {
        self.entries.iter()
    }

    /// The workloads that proxies must refuse. Nodes, operators and servers show their certificates to us only.
    #[must_use]
    pub fn enforced(&self) -> BTreeSet<SpiffeId> {
        let refused =
            |(id, block): &(&SpiffeId, &Block)| block.is_enforced && id.class() == Ok(Class::Workload);
        self.entries.iter().filter(refused).map(|(id, _)| id.clone()).collect()
    }
}
