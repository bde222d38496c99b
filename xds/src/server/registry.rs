//! Which streams each node has open: the newest win (R9).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use spiffe::NodeId;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
pub(super) struct Registry {
    streams: Arc<Mutex<Streams>>,
}

type Streams = BTreeMap<NodeId, VecDeque<(u64, CancellationToken)>>;

/// A stream's place, left when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    streams: Arc<Mutex<Streams>>,
    node: NodeId,
    stream: u64,
    /// Cancelled when newer streams of the node take the place.
    pub(super) superseded: CancellationToken,
}

impl Registry {
    pub(super) fn enter(&self, node: &NodeId, stream: u64, limit: usize) -> Seat {
        let superseded = CancellationToken::new();
        let mut streams = lock(&self.streams);
        let of_node = streams.entry(node.clone()).or_default();
        of_node.push_back((stream, superseded.clone()));
        while of_node.len() > limit.max(1) {
            if let Some((_, oldest)) = of_node.pop_front() {
                oldest.cancel();
            }
        }
        Seat { streams: self.streams.clone(), node: node.clone(), stream, superseded }
    }

    /// Ends every stream of `node`; answers how many there were.
    pub(super) fn end(&self, node: &NodeId) -> usize {
        let streams = lock(&self.streams);
        let of_node = streams.get(node).into_iter().flatten();
        of_node.map(|(_, superseded)| superseded.cancel()).count()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.streams).values().map(VecDeque::len).sum()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams);
        if let Some(of_node) = streams.get_mut(&self.node) {
            of_node.retain(|(stream, _)| *stream != self.stream);
            if of_node.is_empty() {
                streams.remove(&self.node);
            }
        }
    }
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}
