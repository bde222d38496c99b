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

/// That the TCP sessions of an identity were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// Grows with every eviction of anybody; it stays when the block is lifted.
    pub generation: u64,
    /// When.
    pub at: Timestamp,
}

/// The blocked identities at one moment, nodes and workloads alike. Published as `watch<Arc<BlockList>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockList {
    entries: BTreeMap<SpiffeId, Block>,
    evictions: BTreeMap<SpiffeId, Eviction>,
}

impl BlockList {
    /// Collects blocks.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (SpiffeId, Block)>) -> Self {
        Self { entries: entries.into_iter().collect(), evictions: BTreeMap::new() }
    }

    /// The same, with those whose TCP sessions were ended at any time, the last time of each.
    #[must_use]
    pub fn with_evictions(self, evictions: impl IntoIterator<Item = (SpiffeId, Eviction)>) -> Self {
        Self { evictions: evictions.into_iter().collect(), ..self }
    }

    /// The same, with a block more, or with another one in the place of the one that there was.
    #[must_use]
    pub fn with(mut self, id: SpiffeId, block: Block) -> Self {
        self.entries.insert(id, block);
        self
    }

    /// The same without the block of `id`. That its sessions were ended stays.
    #[must_use]
    pub fn without(mut self, id: &SpiffeId) -> Self {
        self.entries.remove(id);
        self
    }

    /// The same, with the last end of the sessions of `id`.
    #[must_use]
    pub fn with_eviction(mut self, id: SpiffeId, eviction: Eviction) -> Self {
        self.evictions.insert(id, eviction);
        self
    }

    /// The generation of the last eviction of each identity that ever was evicted.
    #[must_use]
    pub fn evicted(&self) -> BTreeMap<SpiffeId, u64> {
        self.evictions.iter().map(|(id, eviction)| (id.clone(), eviction.generation)).collect()
    }

    /// Whether the TCP sessions of `id` were ended since it was blocked.
    #[must_use]
    pub fn is_evicted(&self, id: &SpiffeId) -> bool {
        let since = self.entries.get(id).map(|block| block.since);
        since.is_some_and(|since| self.evictions.get(id).is_some_and(|eviction| eviction.at >= since))
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
