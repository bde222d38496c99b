//! Where views are published, and how much work delivery did.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Views;

/// How much was delivered, in plain counts: with [`crate::Counters`] of the catalog, which counts what was encoded
/// and hashed, a test can say "one change among 10,000 resources and 1,000 streams encodes one resource and sends
/// nothing to who did not ask for it".
#[derive(Debug, Default)]
pub struct Traffic {
    publications: AtomicU64,
    streams_opened: AtomicU64,
    streams_open: AtomicU64,
    requests: AtomicU64,
    responses: AtomicU64,
    resources_sent: AtomicU64,
    acks: AtomicU64,
    nacks: AtomicU64,
    refusals: AtomicU64,
    stale_nonces: AtomicU64,
    unknown_types: AtomicU64,
    late_versions: AtomicU64,
}

/// [`Traffic`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Views that were published and differed from the ones before.
    pub publications: u64,
    /// Streams that were opened.
    pub streams_opened: u64,
    /// Streams that are open.
    pub streams_open: u64,
    /// Requests that were read.
    pub requests: u64,
    /// Responses that were given to a stream to write.
    pub responses: u64,
    /// Resources in those responses.
    pub resources_sent: u64,
    /// Responses that were acknowledged.
    pub acks: u64,
    /// Responses that were refused by the node.
    pub nacks: u64,
    /// Streams that we refused or ended.
    pub refusals: u64,
    /// Replies to a response that was no longer the newest.
    pub stale_nonces: u64,
    /// Requests for a type that is not served.
    pub unknown_types: u64,
    /// Requests with known versions where none are read.
    pub late_versions: u64,
}

macro_rules! counted {
    ($($field:ident),*) => {
        impl Traffic {
            /// All counts at this moment.
            #[must_use]
            pub fn read(&self) -> Tally {
                Tally { $($field: self.$field.load(Ordering::Relaxed)),* }
            }

            $(pub(crate) fn $field(&self) -> &AtomicU64 {
                &self.$field
            })*
        }
    };
}

counted!(
    publications,
    streams_opened,
    streams_open,
    requests,
    responses,
    resources_sent,
    acks,
    nacks,
    refusals,
    stale_nonces,
    unknown_types,
    late_versions
);

/// A count that only has to be right, not ordered against anything.
pub(crate) trait Count {
    fn add(&self, count: usize);
}

impl Count for AtomicU64 {
    fn add(&self, count: usize) {
        self.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Publishes views. One owner; everybody else holds a receiver.
#[derive(Debug)]
pub struct Hub {
    views: watch::Sender<Arc<Views>>,
    traffic: Arc<Traffic>,
}

impl Hub {
    /// A hub that has published nothing: streams are refused with UNAVAILABLE until it has (xds.md 12).
    #[must_use]
    pub fn new(traffic: Arc<Traffic>) -> Self {
        Self { views: watch::Sender::new(Arc::default()), traffic }
    }

    /// What was published last, and a notice of what follows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Views>> {
        self.views.subscribe()
    }

    /// The counts of delivery.
    #[must_use]
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Publishes `views`, unless a later revision was published already. What is told never goes back in time.
    /// Returns whether it did.
    pub fn publish(&self, views: Views) -> bool {
        let published = self.views.send_if_modified(|current| {
            let newer = views.revision > current.revision;
            if newer {
                *current = Arc::new(views);
            }
            newer
        });
        self.traffic.publications().add(usize::from(published));
        published
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_never_goes_back() {
        let hub = Hub::new(Arc::default());
        let views = |revision| Views { revision, ..Views::default() };
        for (revision, expected) in [(2, true), (1, false), (2, false), (3, true)] {
            assert_eq!(hub.publish(views(revision)), expected, "{revision}");
        }
        assert_eq!(hub.subscribe().borrow().revision, 3);
        assert_eq!(hub.traffic().read().publications, 2);
    }
}
