//! The port through which secrets enter a session: opaque resources, per peer.

use std::{fmt, sync::Arc};

use imbl::OrdMap;
use spiffe::{NodeId, Peer};
use tokio::sync::{mpsc, watch};

use crate::{Resource, Version};

/// What is known of one secret name for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretOffer {
    /// Here it is.
    Held(Arc<Resource>),
    /// It may have it, and it does not exist yet: stay silent, never say "removed".
    Pending,
    /// It does not exist, or this peer may not have it: the two look the same.
    Absent,
}

/// Every name that a stream asked for, with what is known. A name not in it yet was not looked at: as pending.
pub type SecretView = OrdMap<Arc<str>, SecretOffer>;

/// One stream's door to the secrets of its peer. Dropping it ends the interest; where the source drops its ends, because
/// too much waits for it, the stream ends and the node comes again.
#[derive(Debug)]
pub struct SecretFeed {
    /// Names wanted (true) or no longer wanted (false). Bounded; the source drains it at once.
    pub interest: mpsc::Sender<(Arc<str>, bool)>,
    /// What is known, by name.
    pub view: watch::Receiver<SecretView>,
}

/// Supplies secrets. `sds` implements it.
pub trait SecretSource: Send + Sync + fmt::Debug {
    /// Opens the door for a stream of `peer`, which must be a node; `stream` tells its streams apart.
    fn open(&self, peer: &Arc<Peer>, stream: u64) -> SecretFeed;

    /// The node acknowledged this version of this secret (or refused it, with its words). Never blocks.
    fn settled(&self, node: &NodeId, name: &Arc<str>, version: &Version, refusal: Option<&str>);
}
