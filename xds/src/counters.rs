//! What delivery has cost, in work and not in time: the proof that a change costs the change.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one catalog.
#[derive(Debug, Default)]
pub struct Counters {
    encoded: AtomicU64,
    hashed: AtomicU64,
}

impl Counters {
    /// How many resources were translated and encoded.
    #[must_use]
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    /// How many resources were hashed.
    #[must_use]
    pub fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }

    pub(crate) fn count_encoded(&self) {
        self.encoded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_hashed(&self) {
        self.hashed.fetch_add(1, Ordering::Relaxed);
    }
}
