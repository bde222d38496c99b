//! Which connections each node has open: at most a few, and the newest wins (R9).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use spiffe::NodeId;
use tokio_util::sync::CancellationToken;

/// Two live Envoys (a hot restart) and an agent, with room for one that is just being replaced.
const CONNECTIONS_PER_NODE: usize = 4;

/// The open connections by node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: Mutex<BTreeMap<NodeId, Vec<(u64, CancellationToken)>>>,
    next: std::sync::atomic::AtomicU64,
}

impl Registry {
    /// Enters a connection of `node`; `end` is cancelled if it must make room. The oldest goes first.
    pub(crate) fn enter(&self, node: &NodeId, end: CancellationToken) -> u64 {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = open.entry(node.clone()).or_default();
        connections.push((number, end));
        if connections.len() > CONNECTIONS_PER_NODE {
            let (_, oldest) = connections.remove(0);
            oldest.cancel();
        }
        number
    }

    /// The connection is gone.
    pub(crate) fn leave(&self, node: &NodeId, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = open.get_mut(node) {
            connections.retain(|(other, _)| *other != number);
            if connections.is_empty() {
                open.remove(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_connections_of_a_node_win() {
        let registry = Registry::default();
        let node = NodeId::parse("web").unwrap();
        let ends: Vec<_> = (0..6).map(|_| CancellationToken::new()).collect();
        let numbers: Vec<_> = ends.iter().map(|end| registry.enter(&node, end.clone())).collect();
        let ended: Vec<_> = ends.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(ended, [true, true, false, false, false, false]);
        for number in numbers {
            registry.leave(&node, number);
        }
        assert!(registry.open.lock().unwrap().is_empty());
    }
}
